//! Attribute paths, the identity of a job within an evaluation.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An attribute path as Nix sees it: a list of names, never a split string.
///
/// `Display` joins the names with dots and quotes those that are not plain identifiers, as
/// `nix eval` and `nix-eval-jobs` print them; [`FromStr`] reads that form back. In JSON it is a list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AttrPath(Vec<String>);

/// A text that is not an attribute path.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{text}` is not an attribute path: {reason}")]
pub struct ParseAttrPathError {
    text: String,
    reason: &'static str,
}

impl AttrPath {
    /// A path of these names, outermost first. An empty list names the root itself.
    #[must_use]
    pub fn new(names: Vec<String>) -> Self {
        Self(names)
    }

    /// The names, outermost first.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// This path with one more name at its end.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        let mut names = self.0.clone();
        names.push(name.to_owned());
        Self(names)
    }
}

fn is_plain(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphanumeric() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '\'' | '+'))
}

impl fmt::Display for AttrPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, name) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(".")?;
            }
            if is_plain(name) {
                f.write_str(name)?;
            } else {
                f.write_str("\"")?;
                for c in name.chars() {
                    if matches!(c, '"' | '\\') {
                        f.write_str("\\")?;
                    }
                    write!(f, "{c}")?;
                }
                f.write_str("\"")?;
            }
        }
        Ok(())
    }
}

impl FromStr for AttrPath {
    type Err = ParseAttrPathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = |reason| ParseAttrPathError {
            text: text.to_owned(),
            reason,
        };
        let mut names = Vec::new();
        let mut chars = text.chars().peekable();
        while chars.peek().is_some() {
            let mut name = String::new();
            if chars.next_if_eq(&'"').is_some() {
                loop {
                    match chars.next().ok_or_else(|| fail("a quote is not closed"))? {
                        '"' => break,
                        '\\' => name.push(chars.next().ok_or_else(|| fail("it ends in a backslash"))?),
                        c => name.push(c),
                    }
                }
            } else {
                while let Some(c) = chars.next_if(|c| *c != '.') {
                    name.push(c);
                }
                if name.is_empty() {
                    return Err(fail("it has an empty name"));
                }
            }
            names.push(name);
            match chars.next() {
                None => break,
                Some('.') if chars.peek().is_some() => {}
                Some('.') => return Err(fail("it ends in a dot")),
                Some(_) => return Err(fail("a dot is missing after a quoted name")),
            }
        }
        Ok(Self(names))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_list_are_two_forms_of_one_path() {
        for (text, names) in [
            ("", &[][..]),
            ("checks.x86_64-linux.a", &["checks", "x86_64-linux", "a"]),
            ("a.\"b.c\".d", &["a", "b.c", "d"]),
            ("\"say \\\"hi\\\"\"", &["say \"hi\""]),
            ("\"\"", &[""]),
        ] {
            let path: AttrPath = text.parse().unwrap();
            assert_eq!(path.names(), names);
            assert_eq!(path.to_string(), text);
        }
    }

    #[test]
    fn a_malformed_text_is_refused_with_its_reason() {
        for (text, reason) in [
            ("a..b", "empty name"),
            ("a.", "ends in a dot"),
            ("\"a", "not closed"),
            ("\"a\"b", "dot is missing"),
        ] {
            let error = text.parse::<AttrPath>().unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}

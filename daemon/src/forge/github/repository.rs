//! Repositories as addresses write them.

use std::fmt;

use crate::forge::{Scope, SendError};

/// `owner/name`, of characters that need no encoding in an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Repository<'a> {
    owner: &'a str,
    name: &'a str,
}

impl<'a> Repository<'a> {
    /// Reads `owner/name`. Nothing else may come into an address: `..` in a name would ask for another one.
    pub(super) fn parse(forge: &str, text: &'a str) -> Result<Self, SendError> {
        let is_name = |name: &str| {
            !name.is_empty()
                && name.len() <= 100
                && name != "."
                && name != ".."
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        match text.split_once('/') {
            Some((owner, name)) if is_name(owner) && is_name(name) => Ok(Self { owner, name }),
            _ => Err(SendError::Refused {
                scope: Scope::Repository,
                why: format!(
                    "`{}` is no repository of `{forge}`; set the project's `repository` to `owner/name`",
                    super::output::line(text, 100)
                ),
            }),
        }
    }

    /// The address of something of it; `rest` is encoded already and begins with a slash.
    pub(super) fn path(&self, rest: impl fmt::Display) -> String {
        format!("/repos/{}/{}{rest}", self.owner, self.name)
    }
}

impl fmt::Display for Repository<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_owner_and_a_name_are_a_repository() {
        assert_eq!(
            Repository::parse("github", "NixOS/nix.dev").unwrap().path("/pulls/1"),
            "/repos/NixOS/nix.dev/pulls/1"
        );
        for text in [
            "", "a", "a/", "/a", "a/b/c", "a/..", "../b", "a/b?c", "a/b#c", "a/b c", "a/%2e", "a/é", "a/b\n",
        ] {
            let error = Repository::parse("github", text).unwrap_err();
            assert!(
                matches!(
                    error,
                    SendError::Refused {
                        scope: Scope::Repository,
                        ..
                    }
                ),
                "{text:?}: {error}"
            );
            assert!(!error.to_string().contains('\n'), "one line");
        }
    }
}

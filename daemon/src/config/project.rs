//! `[[project]]`: which projects are told where, and under which names.

use nixci_protocol::nixci::attr_path::AttrPath;

/// Some projects, and where they are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    /// The projects this is about: a name, or a pattern in which `*` stands for any text.
    pub name: String,
    /// The forge that has them, by its name; none: they are only told to plain webhooks.
    pub forge: Option<String>,
    /// The repository there, where it is called otherwise than the project.
    pub repository: Option<String>,
    /// The forge's number of the repository, which a name that was given away does not have.
    pub repository_id: Option<u64>,
    /// Plain webhooks that are told too, by their names.
    pub notify: Vec<String>,
    /// What is shown besides the summary.
    pub detail: Detail,
    /// How many jobs are shown at most, other than with [`Detail::All`].
    pub details: u32,
    /// Whether the verdict is a comment on the pull request too (Forgejo and Gitea).
    pub comment: bool,
    /// What statuses are called.
    pub contexts: ContextNames,
}

/// What is shown besides the summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Every job where there are few; else what failed by itself and is not blocked.
    Adaptive,
    /// Jobs that failed by themselves.
    Failures,
    /// Every job.
    All,
    /// Nothing.
    Summary,
}

/// What statuses are called. Texts in braces stand for: `{attr}` the attribute path, `{set}` its first name, `{kind}`
/// that in the singular (`check` of `checks`), `{system}` its second, `{name}` what is after it, `{project}` the project,
/// `{forge}` the kind of the forge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextNames {
    /// The summary's.
    pub summary: String,
    /// That of evaluation errors.
    pub evaluation: String,
    /// A job's.
    pub job: String,
}

impl Default for ContextNames {
    fn default() -> Self {
        Self {
            summary: "nixci".to_owned(),
            evaluation: "nixci/evaluation".to_owned(),
            job: "nixci/{attr}".to_owned(),
        }
    }
}

/// What stands between braces, in the words of [`ContextNames`].
pub(super) const PLACES: [&str; 7] = ["attr", "set", "kind", "system", "name", "project", "forge"];

/// The longest name of a status: more than that no forge takes or shows.
pub(crate) const CONTEXT_CHARS: usize = 200;

impl Project {
    /// Whether it is about this project.
    #[must_use]
    pub fn fits(&self, project: &str) -> bool {
        fits(&self.name, project)
    }

    /// The repository of a project on its forge.
    #[must_use]
    pub fn repository_of<'a>(&'a self, project: &'a str) -> &'a str {
        self.repository.as_deref().unwrap_or(project)
    }
}

/// Where a project is: a repository of a forge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Home<'a> {
    /// The forge, by its name.
    pub forge: &'a str,
    /// The repository there.
    pub repository: &'a str,
    /// The forge's number of it, where the configuration says it.
    pub repository_id: Option<u64>,
}

impl<'a> Home<'a> {
    /// Where the first of these that is about a project puts it; none where it is at no forge.
    #[must_use]
    pub fn of(projects: &'a [Project], project: &'a str) -> Option<Self> {
        let found = projects.iter().find(|entry| entry.fits(project))?;
        Some(Self {
            forge: found.forge.as_deref()?,
            repository: found.repository_of(project),
            repository_id: found.repository_id,
        })
    }

    /// Whether a forge means this repository. Names are compared as forges do, without regard to case; a number that is not
    /// told is no other one.
    #[must_use]
    pub fn is(&self, forge: &str, name: &str, id: Option<u64>) -> bool {
        let is_other = |wanted| id.is_some_and(|id| id != wanted);
        self.forge == forge && self.repository.eq_ignore_ascii_case(name) && !self.repository_id.is_some_and(is_other)
    }
}

/// Whether a text is what a pattern says, in which `*` stands for any text, also none.
pub(crate) fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        if let Some(part) = last.replace(part) {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
    }
    match last {
        None => rest.is_empty(),
        Some(last) => rest.ends_with(last),
    }
}

impl ContextNames {
    /// The name of a job's status, at most [`CONTEXT_CHARS`] characters: a longer one ends in a digest of the whole.
    #[must_use]
    pub fn of_job(&self, attr: &AttrPath, project: &str, forge: &str) -> String {
        shortened(fill(&self.job, Some(attr), project, forge))
    }

    /// The name of the summary.
    #[must_use]
    pub fn of_summary(&self, project: &str, forge: &str) -> String {
        shortened(fill(&self.summary, None, project, forge))
    }

    /// The name of the status of evaluation errors.
    #[must_use]
    pub fn of_evaluation(&self, project: &str, forge: &str) -> String {
        shortened(fill(&self.evaluation, None, project, forge))
    }
}

fn fill(template: &str, attr: Option<&AttrPath>, project: &str, forge: &str) -> String {
    let mut filled = String::with_capacity(template.len() + 32);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        filled.push_str(before);
        let Some((place, after)) = after.split_once('}') else {
            rest = after;
            break;
        };
        rest = after;
        let names = attr.map(AttrPath::names).unwrap_or_default();
        let first = names.first().map(String::as_str).unwrap_or_default();
        match place {
            "attr" => {
                if let Some(attr) = attr {
                    filled.push_str(&attr.to_string());
                }
            }
            "set" => filled.push_str(first),
            "kind" => filled.push_str(first.strip_suffix('s').unwrap_or(first)),
            "system" => filled.push_str(names.get(1).map(String::as_str).unwrap_or_default()),
            "name" => {
                let behind = names.get(2..).filter(|names| !names.is_empty());
                filled.push_str(&behind.map_or_else(
                    || names.last().cloned().unwrap_or_default(),
                    |names| AttrPath::new(names.to_vec()).to_string(),
                ));
            }
            "project" => filled.push_str(project),
            "forge" => filled.push_str(forge),
            _ => {}
        }
    }
    filled.push_str(rest);
    // A name is one line of plain characters.
    filled
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect::<String>()
        .trim()
        .to_owned()
}

fn shortened(name: String) -> String {
    use sha2::{Digest as _, Sha256};

    if name.chars().count() <= CONTEXT_CHARS {
        return name;
    }
    let digest = data_encoding::HEXLOWER.encode(&Sha256::digest(name.as_bytes())[..5]);
    let kept: String = name.chars().take(CONTEXT_CHARS - digest.len() - 1).collect();
    format!("{kept}…{digest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_names() {
        for (pattern, name, expected) in [
            ("a/b", "a/b", true),
            ("a/b", "a/bc", false),
            ("a/*", "a/b", true),
            ("a/*", "b/b", false),
            ("*", "a/b", true),
            ("*", "", true),
            ("*/x", "a/b/x", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a*a", "a", false),
            ("", "a", false),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn names_are_what_the_template_says_and_of_bounded_length() {
        let attr: AttrPath = "checks.x86_64-linux.foo.\"a.b\"".parse().unwrap();
        let names = |job: &str| ContextNames {
            job: job.to_owned(),
            ..ContextNames::default()
        };
        for (template, expected) in [
            ("nixci/{attr}", "nixci/checks.x86_64-linux.foo.\"a.b\""),
            ("{kind} {name} [{system}]", "check foo.\"a.b\" [x86_64-linux]"),
            (
                "buildbot/nix-build {forge}:{project}#{attr}",
                "buildbot/nix-build github:o/n#checks.x86_64-linux.foo.\"a.b\"",
            ),
        ] {
            assert_eq!(names(template).of_job(&attr, "o/n", "github"), expected);
        }
        let short = AttrPath::new(vec!["hello".to_owned()]);
        assert_eq!(names("{name}").of_job(&short, "o/n", "github"), "hello");
        let lines = AttrPath::new(vec!["a\nb".to_owned()]);
        assert!(!names("{name}").of_job(&lines, "o/n", "github").contains('\n'));
        let long = |last: char| AttrPath::new(vec![format!("{}{last}", "x".repeat(300))]);
        let (a, b) = (
            names("{attr}").of_job(&long('a'), "o/n", "github"),
            names("{attr}").of_job(&long('b'), "o/n", "github"),
        );
        assert_eq!(a.chars().count(), CONTEXT_CHARS);
        assert_ne!(a, b, "names that differ stay different");
    }
}

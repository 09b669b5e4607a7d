//! The command that builds a job again on the reader's machine.

use nixci_protocol::nixci::attr_path::AttrPath;
use nixci_protocol::nixci::control::Submission;

use crate::config::{self, ForgeKind};

/// Where the sources of a submission can be had.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin<'a> {
    pub(crate) forge: &'a config::Forge,
    pub(crate) repository: &'a str,
    pub(crate) commit: &'a str,
}

/// A command for one job: of a flake at the very commit where its forge is known, else in the checkout; for what is no
/// flake, with the same source. None where the job's name is no attribute of its source, as with `--apply` and job files.
pub(crate) fn command(submission: &Submission, attr: &AttrPath, origin: Option<Origin<'_>>) -> Option<String> {
    let source = submission.source.as_str();
    let words: Vec<&str> = source.split(' ').collect();
    match words.as_slice() {
        ["--file", file] | ["--file", file, "-A", _] => Some(format!("nix-build {} -A {}", quote(file), attr_of(attr))),
        [flake] if !flake.starts_with('-') && !flake.contains("/nix/store/") => {
            let reference = flake.split_once('#').map_or(*flake, |(reference, _)| reference);
            let reference = match (origin, local_dir(reference)) {
                (Some(origin), Some(dir)) => at_commit(origin, dir),
                (_, _) => reference.to_owned(),
            };
            Some(format!("nix build {}", quote(&format!("{reference}#{attr}"))))
        }
        _ => None,
    }
}

fn attr_of(attr: &AttrPath) -> String {
    quote(&attr.to_string())
}

/// The folder of a flake in the checkout, from its top where it can be told; none for a flake elsewhere.
fn local_dir(reference: &str) -> Option<&str> {
    let path = reference.split_once('?').map_or(reference, |(path, _)| path);
    match path {
        "" | "." | "./" => Some(""),
        path => path.strip_prefix("./").map(|dir| dir.trim_end_matches('/')),
    }
}

/// A flake reference to a commit on a forge.
fn at_commit(origin: Origin<'_>, dir: &str) -> String {
    let Origin {
        forge,
        repository,
        commit,
    } = origin;
    let (reference, sign) = match forge.kind {
        ForgeKind::GitHub if forge.url == "https://github.com" => (format!("github:{repository}/{commit}"), '?'),
        ForgeKind::GitHub | ForgeKind::Forgejo | ForgeKind::Gitea | ForgeKind::GitLab | ForgeKind::Webhook => {
            (format!("git+{}/{repository}?rev={commit}", forge.url), '&')
        }
    };
    if dir.is_empty() {
        reference
    } else {
        format!("{reference}{sign}dir={dir}")
    }
}

/// A word for a POSIX shell.
pub(crate) fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=+@,%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Form;

    fn forge(kind: ForgeKind, url: &str) -> config::Forge {
        config::Forge::of(kind, url, Form::Statuses)
    }

    fn told(source: &str, attr: &str, forge: Option<&config::Forge>) -> Option<String> {
        let submission = Submission {
            key: "k".to_owned(),
            project: "o/n".to_owned(),
            commit: None,
            git_ref: None,
            base: None,
            pull_request: None,
            source: source.to_owned(),
            labels: std::collections::BTreeMap::new(),
        };
        let origin = forge.map(|forge| Origin {
            forge,
            repository: "o/n",
            commit: "abc",
        });
        command(&submission, &attr.parse().unwrap(), origin)
    }

    #[test]
    fn a_command_builds_the_job_at_its_commit() {
        let github = forge(ForgeKind::GitHub, "https://github.com");
        let own = forge(ForgeKind::Forgejo, "https://git.example.org");
        for (source, attr, forge, expected) in [
            (".#checks", "checks.x.a", None, Some("nix build '.#checks.x.a'")),
            (
                ".#checks",
                "checks.x.a",
                Some(&github),
                Some("nix build 'github:o/n/abc#checks.x.a'"),
            ),
            (
                "./sub#checks",
                "checks.x",
                Some(&github),
                Some("nix build 'github:o/n/abc?dir=sub#checks.x'"),
            ),
            (
                ".",
                "checks.\"a.b\"",
                Some(&own),
                Some("nix build 'git+https://git.example.org/o/n?rev=abc#checks.\"a.b\"'"),
            ),
            (
                "./sub",
                "a",
                Some(&own),
                Some("nix build 'git+https://git.example.org/o/n?rev=abc&dir=sub#a'"),
            ),
            ("github:a/b#x", "x.y", Some(&own), Some("nix build 'github:a/b#x.y'")),
            (
                "--file ci.nix -A tests",
                "tests.a",
                Some(&github),
                Some("nix-build ci.nix -A tests.a"),
            ),
            ("--file it's.nix", "a", None, Some(r"nix-build 'it'\''s.nix' -A a")),
            ("--jobs-file x", "a", Some(&github), None),
            (".#checks --apply f", "a", Some(&github), None),
            ("/nix/store/x.drv", "x", None, None),
        ] {
            assert_eq!(told(source, attr, forge).as_deref(), expected, "{source}");
        }
    }
}

//! What stock stores say, where we have to say it in their place. Pure.
//!
//! Until 2.29 a failed derivation is told as "builder for 'x' failed …", since then as "Cannot build 'x'." and a reason;
//! other stores of the same version differ in nothing else. Which words a store uses is seen from its own.

use std::fmt::Write as _;

use nixci_protocol::types::{BuildResult, BuildStatus, StoreDir, StorePath};

/// How a store words its failures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Until 2.29.
    #[default]
    Old,
    /// Since then.
    New,
}

const MAGENTA: &str = "\u{1b}[35;1m";
const RED: &str = "\u{1b}[31;1m";
const PLAIN: &str = "\u{1b}[0m";

impl Manner {
    /// From how the store told a failure.
    pub(super) fn of(message: &str) -> Self {
        if message.trim_start_matches(PLAIN).starts_with("Cannot build ") {
            Self::New
        } else {
            Self::Old
        }
    }

    /// The result of a derivation of which so many inputs failed.
    pub(super) fn dependency_failed(
        self,
        dir: &StoreDir,
        drv: &StorePath,
        outputs: &[StorePath],
        failed: u32,
    ) -> BuildResult {
        let drv = dir.display(drv);
        let message = match self {
            Self::Old => format!(
                "{PLAIN}{MAGENTA}{failed}{PLAIN} dependencies of derivation '{MAGENTA}{drv}{PLAIN}' failed to build"
            ),
            Self::New => {
                let inputs = if failed == 1 { "dependency" } else { "dependencies" };
                let mut text =
                    format!("Cannot build '{MAGENTA}{drv}{PLAIN}'.\nReason: {RED}{failed} {inputs} failed{PLAIN}.");
                if !outputs.is_empty() {
                    text.push_str("\nOutput paths:");
                }
                for output in outputs {
                    // Writing to a string cannot fail.
                    let _ = write!(text, "\n  {MAGENTA}{}{PLAIN}", dir.display(output));
                }
                text
            }
        };
        BuildResult::new(BuildStatus::DependencyFailed, message)
    }

    /// The result of what was not finished when the request ended; newer stores have none.
    pub(crate) fn unfinished(self) -> Option<BuildResult> {
        match self {
            Self::Old => Some(BuildResult::new(BuildStatus::MiscFailure, "")),
            Self::New => None,
        }
    }
}

/// An error as a line of the log, as stock stores log one that is not an answer.
pub(crate) fn error_line(message: &str) -> String {
    let message = message.strip_prefix(PLAIN).unwrap_or(message);
    format!("{RED}error:{PLAIN} {}", message.replace('\n', "\n       "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_dependency_is_told_as_the_store_would() {
        let dir = StoreDir::default();
        let path = |name: &str| StorePath::new([0; 20], name).unwrap();
        let told = |manner: Manner, failed| {
            let result = manner.dependency_failed(&dir, &path("top.drv"), &[path("top")], failed);
            assert_eq!(result.status, BuildStatus::DependencyFailed);
            nixci_protocol::nixci::verdict::strip_ansi(&result.error_msg).into_owned()
        };
        let zeros = "0".repeat(32);
        assert_eq!(
            told(Manner::of("\u{1b}[0mbuilder for 'x' failed"), 1),
            format!("1 dependencies of derivation '/nix/store/{zeros}-top.drv' failed to build")
        );
        assert_eq!(
            told(Manner::of("Cannot build 'x'.\nReason: …"), 2),
            format!(
                "Cannot build '/nix/store/{zeros}-top.drv'.\nReason: 2 dependencies failed.\nOutput paths:\n  \
                 /nix/store/{zeros}-top"
            )
        );
    }

    #[test]
    fn an_error_in_the_log_is_indented() {
        assert_eq!(error_line("\u{1b}[0ma;\nb"), "\u{1b}[31;1merror:\u{1b}[0m a;\n       b");
    }
}

//! From what a store says to a class and a short message. Pure.

use nixci_protocol::nixci::outcome::{FailureClass, Success};
use nixci_protocol::nixci::verdict::strip_ansi;
use nixci_protocol::types::BuildStatus;

/// The longest message kept of an attempt, in bytes.
const MESSAGE_BYTES: usize = 4_096;

/// What a build result means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The outputs exist.
    Success(Success),
    /// They do not.
    Failure(FailureClass),
    /// Another derivation failed, which the store tried to build on its own.
    Dependency,
}

/// Puts a status and the message that came with it into a class.
pub(super) fn classify(status: BuildStatus, message: &str) -> Meaning {
    match status {
        BuildStatus::Built => Meaning::Success(Success::Built),
        BuildStatus::Substituted => Meaning::Success(Success::Substituted),
        BuildStatus::AlreadyValid | BuildStatus::ResolvesToAlreadyValid => Meaning::Success(Success::AlreadyValid),
        BuildStatus::PermanentFailure
        | BuildStatus::TransientFailure
        | BuildStatus::MiscFailure
        | BuildStatus::CachedFailure
        | BuildStatus::NotDeterministic
        | BuildStatus::InputRejected
        | BuildStatus::OutputRejected => Meaning::Failure(from_words(message)),
        BuildStatus::TimedOut => Meaning::Failure(FailureClass::Timeout),
        BuildStatus::LogLimitExceeded => Meaning::Failure(FailureClass::LogLimit),
        BuildStatus::DependencyFailed => Meaning::Dependency,
        BuildStatus::NoSubstituters => Meaning::Failure(FailureClass::Store),
    }
}

/// What stores say in words only; their statuses lump these together with failures of the builder.
/// The lines of the log that some versions append are not looked at: anyone can print anything there.
pub(super) fn from_words(message: &str) -> FailureClass {
    let message = without_log(message);
    let has = |words: &str| message.contains(words);
    if has("hash mismatch") {
        FailureClass::HashMismatch
    } else if has("is required to build") || has("required system or feature not available") || has("Required system:")
    {
        FailureClass::Unsupported
    } else if has("lack of free disk space")
        || has("No space left on device")
        || has("due to signal 9")
        || has("due to signal 15")
    {
        FailureClass::Store
    } else {
        FailureClass::Build
    }
}

/// The message without escapes, the log lines some versions append, and advice for people at the store.
pub(super) fn clean(message: &str) -> String {
    let plain = strip_ansi(message);
    let plain = without_log(&plain);
    let mut lines: Vec<&str> = plain.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    // Newer stores put the reason on a line of its own, below one that only repeats the derivation.
    if let Some(reason) = lines.iter().find_map(|line| line.strip_prefix("Reason: "))
        && lines[0].starts_with("Cannot build")
    {
        let reason = reason.to_owned();
        return cut(&reason);
    }
    lines.retain(|line| !line.starts_with("Output paths:"));
    let text = lines.join("\n");
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    cut(text.trim_end_matches([';', ':', ' ', '\n']))
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(MESSAGE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

fn without_log(message: &str) -> &str {
    let mut at = 0;
    for line in message.split_inclusive('\n') {
        let text = strip_ansi(line);
        let text = text.trim_start().to_ascii_lowercase();
        let counts_lines = text.starts_with("last ") && text.contains("log lines:");
        if counts_lines || text.starts_with("for full logs, run") {
            return &message[..at];
        }
        at += line.len();
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_all_versions_become_one_line() {
        for (message, expected) in [
            (
                "builder for '\u{1b}[35;1m/nix/store/x.drv\u{1b}[0m' failed with exit code 1;\n       last 2 log lines:\n       > a\n       > b\n       For full logs, run 'nix log'",
                "builder for '/nix/store/x.drv' failed with exit code 1",
            ),
            (
                "Cannot build '\u{1b}[35;1m/nix/store/x.drv\u{1b}[0m'.\nReason: \u{1b}[31;1mbuilder failed with exit code 3\u{1b}[0m.\nOutput paths:\n  /nix/store/y\nLast 1 log lines:\n> x",
                "builder failed with exit code 3.",
            ),
            (
                "hash mismatch in fixed-output derivation '/nix/store/x.drv':\n         specified: sha256-A\n            got:    sha256-B",
                "hash mismatch in fixed-output derivation '/nix/store/x.drv':\nspecified: sha256-A\ngot:    sha256-B",
            ),
        ] {
            assert_eq!(clean(message), expected);
        }
    }

    #[test]
    fn statuses_and_words_become_classes() {
        use BuildStatus as S;
        use FailureClass as F;
        for (status, message, class) in [
            (S::PermanentFailure, "builder failed with exit code 1", F::Build),
            (
                S::MiscFailure,
                "a 'x-linux' with features {} is required to build 'y'",
                F::Unsupported,
            ),
            (
                S::InputRejected,
                "Cannot build 'x'.\nReason: required system or feature not available",
                F::Unsupported,
            ),
            (
                S::OutputRejected,
                "hash mismatch in fixed-output derivation",
                F::HashMismatch,
            ),
            (
                S::OutputRejected,
                "output '/nix/store/x' is not allowed to refer to",
                F::Build,
            ),
            (
                S::TransientFailure,
                "failed\nnote: build failure may have been caused by lack of free disk space",
                F::Store,
            ),
            (
                S::PermanentFailure,
                "failed with exit code 1;\nlast 1 log lines:\n> No space left on device",
                F::Build,
            ),
            (S::TimedOut, "", F::Timeout),
            (S::LogLimitExceeded, "", F::LogLimit),
            (S::NoSubstituters, "", F::Store),
        ] {
            assert_eq!(
                classify(status, message),
                Meaning::Failure(class),
                "{status:?} {message}"
            );
        }
        assert_eq!(classify(S::DependencyFailed, ""), Meaning::Dependency);
        assert_eq!(
            classify(S::ResolvesToAlreadyValid, ""),
            Meaning::Success(Success::AlreadyValid)
        );
    }
}

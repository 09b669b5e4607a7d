//! Exit codes, and the errors that carry them.
//!
//! Every way a command can end has one number; scripts may rely on them, and `nixci --help` lists them.

use std::io;
use std::process::ExitCode;

/// How a command ended, as the shell sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Everything that was asked for is so.
    Fine = 0,
    /// Something failed: a build, an evaluation, or the command itself.
    Failed = 1,
    /// The command line or an input file is wrong; nothing was done.
    Usage = 2,
    /// Not finished: builds still run.
    Unfinished = 3,
    /// The daemon or a store cannot be reached.
    Unreachable = 4,
    /// The other side refused.
    NotAllowed = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command could not do what was asked: one line that says what, where and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Problem {
    exit: Exit,
    message: String,
}

impl Problem {
    /// A problem that ends the command with `exit`.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
        }
    }

    /// Something that was asked for went wrong.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// The caller's words or files are wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Nobody answers.
    pub(crate) fn unreachable(message: impl Into<String>) -> Self {
        Self::new(Exit::Unreachable, message)
    }

    /// The code it ends the command with.
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// Whether it is worth a word: a reader that closed our output early (`| head`) is not.
    pub(crate) fn is_silent(&self) -> bool {
        self.message.is_empty()
    }
}

/// Writing our own output is the only bare I/O in a command.
impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::new(Exit::Fine, "")
        } else {
            Self::failed(format!("failed to write the output: {error}"))
        }
    }
}

/// The causes of an error in one line, outermost first, without saying the same twice.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

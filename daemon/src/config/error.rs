//! What can be wrong with a configuration.

use std::fmt;
use std::path::{Path, PathBuf};

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("failed to read the configuration {path}: {source}; name another file with --config, or none to run with the defaults", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file was read and holds mistakes.
    #[error("{}", list(Some(.path), .problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// All of them, in the order of the file. Never empty.
        problems: Vec<Problem>,
    },
    /// The environment gives no place for the defaults.
    #[error("{}", list(None, .problems))]
    Defaults {
        /// What is missing.
        problems: Vec<Problem>,
    },
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The line it is in, from 1, where it is in one.
    pub line: Option<usize>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

fn list(path: Option<&Path>, problems: &[Problem]) -> String {
    let line = |problem: &Problem| match (path, problem.line) {
        (Some(path), Some(line)) => format!("{}:{line}: {}", path.display(), problem.message),
        (Some(path), None) => format!("{}: {}", path.display(), problem.message),
        (None, _) => problem.message.clone(),
    };
    problems.iter().map(line).collect::<Vec<_>>().join("\n")
}

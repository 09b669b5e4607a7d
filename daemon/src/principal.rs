//! Who is asking.

use std::fmt;

/// A peer whose identity is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    name: String,
    trusted: bool,
}

impl Principal {
    /// A process on the same host, by its user.
    #[must_use]
    pub fn local(uid: u32, trusted: bool) -> Self {
        Self {
            name: format!("uid:{uid}"),
            trusted,
        }
    }

    /// The process the daemon runs in.
    #[must_use]
    pub fn embedded() -> Self {
        Self {
            name: "embedded".to_owned(),
            trusted: true,
        }
    }

    /// Somebody at the loopback HTTP door, who can change nothing that needs trust.
    #[must_use]
    pub fn http() -> Self {
        Self {
            name: "http".to_owned(),
            trusted: false,
        }
    }

    /// Its name in records: `uid:0`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it may add what carries no proof of its content.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        self.trusted
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

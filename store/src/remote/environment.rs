//! The variables that decide how Nix finds its stores, as a value.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// What `NIX_REMOTE`, `NIX_STORE_DIR` and their like say.
///
/// A value and not the process's environment itself, so that one process (a test, the embedded daemon) can work with
/// several.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Environment {
    variables: BTreeMap<OsString, OsString>,
}

impl Environment {
    /// The environment of this process.
    #[must_use]
    pub fn of_process() -> Self {
        Self {
            variables: std::env::vars_os().collect(),
        }
    }

    /// The environment of this process without anything that begins with `NIX_`, and with these on top.
    #[must_use]
    pub fn with<K: Into<OsString>, V: Into<OsString>>(variables: impl IntoIterator<Item = (K, V)>) -> Self {
        let mut own: BTreeMap<OsString, OsString> = std::env::vars_os()
            .filter(|(name, _)| !name.as_encoded_bytes().starts_with(b"NIX_"))
            .collect();
        own.extend(variables.into_iter().map(|(name, value)| (name.into(), value.into())));
        Self { variables: own }
    }

    /// The same with one variable set.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// The same without one variable.
    #[must_use]
    pub fn unset(mut self, name: &str) -> Self {
        self.variables.remove(OsStr::new(name));
        self
    }

    /// A variable; one that is empty counts as absent, as in Nix.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.variables
            .get(OsStr::new(name))
            .map(OsString::as_os_str)
            .filter(|value| !value.is_empty())
    }

    /// A variable as text; `None` when it is absent, empty or not UTF-8.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(OsStr::to_str)
    }

    /// Where the machine's daemon listens.
    #[must_use]
    pub fn daemon_socket(&self) -> PathBuf {
        if let Some(socket) = self.get("NIX_DAEMON_SOCKET_PATH") {
            return socket.into();
        }
        let state = self
            .get("NIX_STATE_DIR")
            .map_or_else(|| PathBuf::from("/nix/var/nix"), PathBuf::from);
        state.join("daemon-socket/socket")
    }

    /// Gives a program this environment and no other.
    pub(super) fn apply(&self, command: &mut tokio::process::Command) {
        command.env_clear().envs(&self.variables);
    }
}

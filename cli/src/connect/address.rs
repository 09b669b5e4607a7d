//! Which daemon.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::context::Env;
use crate::exit::Problem;

/// Where a system daemon listens.
const SYSTEM_SOCKET: &str = "/run/nixci/socket";

/// The address of a daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// A socket on this machine.
    Unix(PathBuf),
    /// Any other store URI: `ssh-ng://host`.
    Store(String),
}

impl Address {
    /// The one named by `to`, or where a daemon of this user, else of the machine, listens.
    pub(crate) fn find(to: Option<&str>, env: Env<'_>) -> Result<Self, Problem> {
        let Some(to) = to else {
            let own = env("XDG_RUNTIME_DIR").map(|dir| Path::new(&dir).join("nixci/socket"));
            return Ok(Self::Unix(
                own.filter(|path| path.exists()).unwrap_or_else(|| SYSTEM_SOCKET.into()),
            ));
        };
        let address = to.parse()?;
        match &address {
            Self::Store(uri) if !uri.starts_with("ssh-ng://") => Err(Problem::usage(format!(
                "`{uri}` is no address of a daemon: use `unix://PATH`, the path of a socket, or `ssh-ng://HOST`"
            ))),
            Self::Unix(_) | Self::Store(_) => Ok(address),
        }
    }
}

impl std::str::FromStr for Address {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let path = text
            .strip_prefix("unix://")
            .or_else(|| text.starts_with(['/', '.']).then_some(text));
        match path {
            // With parameters (`?root=`) it is a matter of the store layer.
            Some(path) if !path.contains('?') => {
                if path.is_empty() {
                    return Err(Problem::usage(format!(
                        "`{text}` names no socket: a path belongs after `unix://`"
                    )));
                }
                Ok(Self::Unix(path.into()))
            }
            _ => Ok(Self::Store(text.to_owned())),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Store(uri) => f.write_str(uri),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(to: Option<&str>, runtime: Option<&Path>) -> Result<String, String> {
        let runtime = runtime.map(|path| path.to_str().unwrap().to_owned());
        let env = move |name: &str| (name == "XDG_RUNTIME_DIR").then(|| runtime.clone()).flatten();
        Address::find(to, &env)
            .map(|address| address.to_string())
            .map_err(|problem| problem.to_string())
    }

    #[test]
    fn a_user_s_own_daemon_comes_before_the_machine_s() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(find(None, None).unwrap(), "unix:///run/nixci/socket");
        assert_eq!(find(None, Some(dir.path())).unwrap(), "unix:///run/nixci/socket");
        std::fs::create_dir(dir.path().join("nixci")).unwrap();
        std::fs::write(dir.path().join("nixci/socket"), "").unwrap();
        assert_eq!(
            find(None, Some(dir.path())).unwrap(),
            format!("unix://{}/nixci/socket", dir.path().display())
        );
    }

    #[test]
    fn an_address_is_a_path_or_a_uri() {
        assert_eq!(find(Some("/run/x"), None).unwrap(), "unix:///run/x");
        assert_eq!(find(Some("./x"), None).unwrap(), "unix://./x");
        assert_eq!(find(Some("unix:///run/x"), None).unwrap(), "unix:///run/x");
        assert_eq!(find(Some("ssh-ng://h?a=b"), None).unwrap(), "ssh-ng://h?a=b");
        assert!(find(Some("unix://"), None).unwrap_err().contains("names no socket"));
        assert!(
            find(Some("https://ci.example.org"), None)
                .unwrap_err()
                .contains("ssh-ng://HOST")
        );
    }
}

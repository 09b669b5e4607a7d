//! Which daemon.

use std::fmt;
use std::path::{Path, PathBuf};

use super::http::Site;
use crate::args::Global;
use crate::context::Env;
use crate::exit::Problem;

/// Where a system daemon listens.
const SYSTEM_SOCKET: &str = "/run/nixci/socket";

/// The address of a daemon.
#[derive(Debug, Clone)]
pub(crate) enum Address {
    /// A socket on this machine.
    Unix(PathBuf),
    /// Behind HTTP: `https://host`.
    Http(Box<Site>),
    /// Any other store URI: `ssh-ng://host`.
    Store(String),
}

impl Address {
    /// The one that is named, or where a daemon of this user, else of the machine, listens.
    pub(crate) fn find(global: &Global, env: Env<'_>) -> Result<Self, Problem> {
        let address = Self::find_store(global, env)?;
        match &address {
            Self::Store(uri) if !uri.starts_with("ssh-ng://") => Err(Problem::usage(format!(
                "`{uri}` is no address of a daemon: use `unix://PATH`, the path of a socket, `https://HOST`, or \
                 `ssh-ng://HOST`"
            ))),
            Self::Unix(_) | Self::Http(_) | Self::Store(_) => Ok(address),
        }
    }

    /// As [`find`](Self::find), where any store that speaks the worker protocol will do.
    pub(crate) fn find_store(global: &Global, env: Env<'_>) -> Result<Self, Problem> {
        let Some(text) = global.to.as_deref() else {
            let own = env("XDG_RUNTIME_DIR").map(|dir| Path::new(&dir).join("nixci/socket"));
            return Ok(Self::Unix(
                own.filter(|path| path.exists()).unwrap_or_else(|| SYSTEM_SOCKET.into()),
            ));
        };
        if text.starts_with("https://") || text.starts_with("http://") {
            return Ok(Self::Http(Box::new(Site::new(text, global, env)?)));
        }
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
            Self::Http(site) => f.write_str(site.name()),
            Self::Store(uri) => f.write_str(uri),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn global(to: Option<&str>) -> Global {
        Global {
            to: to.map(str::to_owned),
            ..Global::default()
        }
    }

    fn find(to: Option<&str>, runtime: Option<&Path>) -> Result<String, String> {
        let runtime = runtime.map(|path| path.to_str().unwrap().to_owned());
        let env = move |name: &str| (name == "XDG_RUNTIME_DIR").then(|| runtime.clone()).flatten();
        Address::find(&global(to), &env)
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
        assert!(find(Some("s3://bucket"), None).unwrap_err().contains("ssh-ng://HOST"));
        assert!(Address::find_store(&global(Some("daemon")), &|_| None).is_ok());
    }

    #[test]
    fn addresses_behind_http_have_no_trailing_slash_and_one_spelling() {
        assert_eq!(
            find(Some("https://CI.example.org/"), None).unwrap(),
            "https://ci.example.org"
        );
        assert_eq!(find(Some("https://h:443/ci/"), None).unwrap(), "https://h/ci");
        assert_eq!(find(Some("https://h:8443"), None).unwrap(), "https://h:8443");
    }

    #[test]
    fn a_token_never_travels_in_the_clear_but_to_this_machine_or_where_that_is_asked_for() {
        for to in [
            "http://localhost:1",
            "http://127.0.0.1",
            "http://[::1]:80/",
            "http://x.localhost",
        ] {
            find(Some(to), None).unwrap();
        }
        for to in [
            "http://ci.example.org",
            "http://127.0.0.1.example.org",
            "http://10.0.0.1",
        ] {
            let error = find(Some(to), None).unwrap_err();
            assert!(
                error.contains("in the clear") && error.contains("--insecure-http"),
                "{error}"
            );
            let global = Global {
                insecure_http: true,
                ..global(Some(to))
            };
            Address::find(&global, &|_| None).unwrap();
        }
    }

    #[test]
    fn what_is_in_an_address_that_is_refused_is_not_repeated_where_it_may_be_secret() {
        for to in ["https://user:s3cret@h", "https://s3cret@h", "https://user:s3cret@"] {
            let error = find(Some(to), None).unwrap_err();
            assert!(!error.contains("s3cret"), "{error}");
        }
        assert!(find(Some("https://h?x"), None).unwrap_err().contains("leave out"));
    }
}

//! Where a store is, as text.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::parameters::{self, Parameters};

/// How to reach a store.
///
/// Its text form is that of stock Nix, so a URI can be copied from one to the other:
///
/// | text | store |
/// |---|---|
/// | `auto` | what Nix would use on this machine: `NIX_REMOTE`, the daemon's socket, or a private daemon |
/// | `daemon` | the machine's daemon, by its socket |
/// | `unix:///path/to/socket?root=…` | a daemon by its socket |
/// | `ssh-ng://user@host:port?ssh-key=…` | a daemon on another machine, by the system's ssh |
/// | `ssh-ng://localhost?remote-program=…` | a program run directly, without ssh |
/// | `local?root=…` | a store on this machine without a daemon of its own: a private one is started |
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StoreUri {
    /// What Nix would use here.
    Auto,
    /// The socket of a daemon.
    Unix {
        /// The socket; `None` is the machine's own daemon.
        socket: Option<PathBuf>,
        /// Where its files are on this machine.
        layout: Layout,
        /// At most so many connections at once.
        max_connections: Option<usize>,
    },
    /// A daemon at the other end of ssh, or of a pipe.
    Ssh(SshUri),
    /// A store opened by a private `nix-daemon --stdio`.
    Local {
        /// Where its files are on this machine.
        layout: Layout,
        /// At most so many connections at once.
        max_connections: Option<usize>,
    },
}

/// Where the files of a store are on this machine, where that is not said by its store directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Layout {
    /// `root`: the folder that is `/` to the store.
    pub root: Option<PathBuf>,
    /// `store`: the store directory, as it is written in paths.
    pub store: Option<PathBuf>,
    /// `real`: the folder where the objects really are.
    pub real: Option<PathBuf>,
    /// `state`: the folder with the database.
    pub state: Option<PathBuf>,
    /// `log`: the folder with the build logs.
    pub log: Option<PathBuf>,
}

impl Layout {
    /// The folder where the objects are, for a store directory. Below a root that is `nix/store`, whatever the store
    /// directory is called.
    #[must_use]
    pub fn physical(&self, store_dir: &str) -> PathBuf {
        match (&self.real, &self.root) {
            (Some(real), _) => real.clone(),
            (None, Some(root)) => root.join("nix/store"),
            (None, None) => PathBuf::from(store_dir),
        }
    }

    fn read(parameters: &mut Parameters) -> Self {
        Self {
            root: parameters.path("root"),
            store: parameters.path("store"),
            real: parameters.path("real"),
            state: parameters.path("state"),
            log: parameters.path("log"),
        }
    }

    fn write(&self, list: &mut parameters::Writer) {
        list.path("root", self.root.as_deref());
        list.path("store", self.store.as_deref());
        list.path("real", self.real.as_deref());
        list.path("state", self.state.as_deref());
        list.path("log", self.log.as_deref());
    }
}

/// A daemon reached by ssh.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct SshUri {
    /// `user@host`, or only the host. Exactly `localhost`, without a port, means: no ssh, run the program here.
    pub host: String,
    /// The port, where it is not ssh's own default.
    pub port: Option<u16>,
    /// `remote-program`: what to run there, with its first arguments; `nix-daemon` when empty.
    pub remote_program: Vec<String>,
    /// `ssh-key`: the file of the private key.
    pub ssh_key: Option<PathBuf>,
    /// `base64-ssh-public-host-key`: the only host key to accept.
    pub host_key: Option<String>,
    /// `compress`: whether ssh compresses.
    pub compress: bool,
    /// `remote-store`: the store URI for the program there.
    pub remote_store: Option<String>,
    /// `max-connections`: at most so many at once.
    pub max_connections: Option<usize>,
}

impl SshUri {
    /// Whether the program is run on this machine, without ssh.
    #[must_use]
    pub fn is_pipe(&self) -> bool {
        self.host == "localhost" && self.port.is_none()
    }
}

const LAYOUT: [&str; 6] = ["root", "store", "real", "state", "log", "max-connections"];
const SSH: [&str; 6] = [
    "remote-program",
    "ssh-key",
    "base64-ssh-public-host-key",
    "compress",
    "remote-store",
    "max-connections",
];

/// Why a text is not the URI of a store that nixci can use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a store that nixci can use: {fault}")]
pub struct StoreUriError {
    /// The whole text.
    pub text: String,
    /// What is wrong with it.
    pub fault: UriFault,
}

/// What is wrong with a store URI.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UriFault {
    /// None of the forms.
    #[error("expected auto, daemon, unix://SOCKET, ssh-ng://[USER@]HOST, local or local?root=DIR")]
    Form,
    /// A parameter this form does not have.
    #[error("unknown parameter `{name}`; known here: {}", known.join(", "))]
    UnknownParameter {
        /// The parameter.
        name: String,
        /// Those that are known.
        known: &'static [&'static str],
    },
    /// A parameter with a value it cannot have.
    #[error("parameter `{name}` is {value:?}, expected {expected}")]
    Value {
        /// The parameter.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// A socket or a root that is not absolute.
    #[error("the path {0:?} is not absolute")]
    Relative(String),
    /// No host, or one that ssh would take for an option.
    #[error("{0:?} is not a host")]
    Host(String),
    /// A `%` that is not followed by two hexadecimal digits, or bytes that are not UTF-8.
    #[error("a % must be followed by two hexadecimal digits and make UTF-8")]
    Escape,
}

impl FromStr for StoreUri {
    type Err = StoreUriError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map_err(|fault| StoreUriError {
            text: text.to_owned(),
            fault,
        })
    }
}

fn parse(text: &str) -> Result<StoreUri, UriFault> {
    let (body, query) = text.split_once('?').unwrap_or((text, ""));
    if let Some(authority) = body.strip_prefix("ssh-ng://") {
        let mut parameters = Parameters::parse(query, &SSH)?;
        return parse_ssh(authority, &mut parameters).map(StoreUri::Ssh);
    }
    if body == "auto" {
        Parameters::parse(query, &[])?;
        return Ok(StoreUri::Auto);
    }
    let mut parameters = Parameters::parse(query, &LAYOUT)?;
    let mut layout = Layout::read(&mut parameters);
    let max_connections = parameters.count("max-connections")?;
    if let Some(root) = layout.root.as_deref().filter(|root| !root.is_absolute()) {
        return Err(UriFault::Relative(root.display().to_string()));
    }
    if body == "daemon" {
        return Ok(StoreUri::Unix {
            socket: None,
            layout,
            max_connections,
        });
    }
    if let Some(socket) = body.strip_prefix("unix://") {
        let socket = PathBuf::from(parameters::unescape(socket)?);
        if !socket.is_absolute() && !socket.as_os_str().is_empty() {
            return Err(UriFault::Relative(socket.display().to_string()));
        }
        let socket = Some(socket).filter(|socket| !socket.as_os_str().is_empty());
        return Ok(StoreUri::Unix {
            socket,
            layout,
            max_connections,
        });
    }
    let root = match body.strip_prefix("local") {
        Some("" | "://") => {
            return Ok(StoreUri::Local {
                layout,
                max_connections,
            });
        }
        Some(rest) => rest.strip_prefix("://").ok_or(UriFault::Form)?,
        None if body.starts_with('/') => body,
        None => return Err(UriFault::Form),
    };
    let root = parameters::unescape(root)?;
    if !Path::new(&root).is_absolute() {
        return Err(UriFault::Relative(root));
    }
    layout.root = Some(root.into());
    Ok(StoreUri::Local {
        layout,
        max_connections,
    })
}

fn parse_ssh(authority: &str, parameters: &mut Parameters) -> Result<SshUri, UriFault> {
    let authority = parameters::unescape(authority.trim_end_matches('/'))?;
    let fault = || UriFault::Host(authority.clone());
    // In [::1]:22 the last colon is before the port only if it is outside of the brackets.
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port.parse().map_err(|_| fault())?)),
        Some(_) | None => (authority.as_str(), None),
    };
    if host.is_empty() || host.starts_with('-') || host.ends_with('@') || host.contains(['/', ' ']) {
        return Err(fault());
    }
    Ok(SshUri {
        host: host.to_owned(),
        port,
        remote_program: (parameters.take("remote-program").unwrap_or_default().split_whitespace())
            .map(str::to_owned)
            .collect(),
        ssh_key: parameters.path("ssh-key"),
        host_key: parameters.take("base64-ssh-public-host-key"),
        compress: parameters.flag("compress")?,
        remote_store: parameters.take("remote-store"),
        max_connections: parameters.count("max-connections")?,
    })
}

impl fmt::Display for StoreUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = parameters::Writer::default();
        match self {
            Self::Auto => f.write_str("auto")?,
            Self::Unix {
                socket,
                layout,
                max_connections,
            } => {
                match socket {
                    None => f.write_str("daemon")?,
                    Some(socket) => write!(f, "unix://{}", parameters::escape(&socket.to_string_lossy()))?,
                }
                layout.write(&mut list);
                list.count("max-connections", *max_connections);
            }
            Self::Local {
                layout,
                max_connections,
            } => {
                f.write_str("local")?;
                layout.write(&mut list);
                list.count("max-connections", *max_connections);
            }
            Self::Ssh(ssh) => {
                write!(f, "ssh-ng://{}", ssh.host)?;
                if let Some(port) = ssh.port {
                    write!(f, ":{port}")?;
                }
                list.text(
                    "remote-program",
                    Some(ssh.remote_program.join(" "))
                        .filter(|it| !it.is_empty())
                        .as_deref(),
                );
                list.path("ssh-key", ssh.ssh_key.as_deref());
                list.text("base64-ssh-public-host-key", ssh.host_key.as_deref());
                list.text("compress", ssh.compress.then_some("true"));
                list.text("remote-store", ssh.remote_store.as_deref());
                list.count("max-connections", ssh.max_connections);
            }
        }
        f.write_str(&list.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_written_the_same() {
        for text in [
            "auto",
            "daemon",
            "daemon?max-connections=4",
            "unix:///run/nixci/socket",
            "unix:///tmp/d/socket?root=/tmp/d/root&max-connections=8",
            "unix:///tmp/a%20b/socket?root=/tmp/a%20b",
            "ssh-ng://host",
            "ssh-ng://me@host.example:2222?remote-program=nix-daemon%20--force-untrusted&ssh-key=/k&remote-store=local%3Froot%3D/x",
            "ssh-ng://[::1]:22?compress=true",
            "ssh-ng://localhost?remote-program=/opt/nix-daemon",
            "local",
            "local?root=/tmp/x&store=/nix/store&real=/y&state=/s&log=/l",
        ] {
            let uri: StoreUri = text.parse().unwrap();
            assert_eq!(uri.to_string(), text);
            assert_eq!(uri.to_string().parse(), Ok(uri));
        }
    }

    #[test]
    fn other_spellings_mean_the_same() {
        for (text, tidy) in [
            ("unix://", "daemon"),
            ("/srv/store", "local?root=/srv/store"),
            ("local:///srv/store", "local?root=/srv/store"),
            ("local://", "local"),
            ("ssh-ng://host/", "ssh-ng://host"),
            ("local?root=%2Fsrv", "local?root=/srv"),
        ] {
            assert_eq!(text.parse::<StoreUri>().unwrap().to_string(), tidy);
        }
    }

    #[test]
    fn objects_are_where_stock_nix_puts_them() {
        for (text, folder) in [
            ("local", "/srv/store"),
            ("local?root=/x", "/x/nix/store"),
            ("local?root=/x&store=/srv/store", "/x/nix/store"),
            ("local?root=/x&real=/y", "/y"),
        ] {
            let Ok(StoreUri::Local { layout, .. }) = text.parse() else {
                panic!("{text}")
            };
            assert_eq!(layout.physical("/srv/store"), Path::new(folder), "{text}");
        }
    }

    #[test]
    fn only_localhost_alone_is_a_pipe() {
        for (text, is_pipe) in [("localhost", true), ("me@localhost", false), ("localhost:22", false)] {
            let Ok(StoreUri::Ssh(ssh)) = format!("ssh-ng://{text}").parse() else {
                panic!("{text}")
            };
            assert_eq!(ssh.is_pipe(), is_pipe, "{text}");
        }
    }

    #[test]
    fn errors_say_what_is_known() {
        for (text, message) in [
            ("https://cache.example.org", "expected auto, daemon, unix://SOCKET"),
            ("ssh://host", "expected auto"),
            ("localx", "expected auto"),
            ("unix://relative", "not absolute"),
            ("local?root=relative", "not absolute"),
            (
                "local?rot=/x",
                "unknown parameter `rot`; known here: root, store, real, state, log, max-connections",
            ),
            ("auto?root=/x", "unknown parameter `root`"),
            ("ssh-ng://h?root=/x", "known here: remote-program, ssh-key"),
            ("daemon?max-connections=0", "expected a number from 1 up"),
            ("ssh-ng://h?compress=maybe", "expected true or false"),
            ("ssh-ng://-oProxyCommand=x", "not a host"),
            ("ssh-ng://", "not a host"),
            ("ssh-ng://h:port", "not a host"),
            ("local?root=%2", "hexadecimal"),
        ] {
            let error = text.parse::<StoreUri>().unwrap_err().to_string();
            assert!(
                error.contains(message) && error.contains(&format!("{text:?}")),
                "{error}"
            );
        }
    }
}

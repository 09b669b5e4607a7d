//! Sockets that the service manager holds and passes on, so that nobody is refused while the daemon is not there.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use tracing::warn;

use super::socket::BoundSocket;
use crate::StartError;
use crate::config::Listen;

/// `FileDescriptorName=` of the Unix socket's unit.
const SOCKET: &str = "socket";
/// `FileDescriptorName=` of the HTTP door's unit.
const HTTP: &str = "http";

/// Why a socket that is passed is not used. One line each, that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// What the environment says cannot be read.
    #[error("failed to take the sockets the service manager passes (LISTEN_FDS, LISTEN_FDNAMES): {0}")]
    Environment(#[source] io::Error),
    /// A socket nobody here knows.
    #[error(
        "the service manager passes a socket named `{0}`; known are `{SOCKET}` and `{HTTP}`: say which it is with FileDescriptorName= in its unit"
    )]
    Unknown(String),
    /// More than one.
    #[error(
        "the service manager passes more than one socket named `{SOCKET}`; there is one: leave one ListenStream= in its unit"
    )]
    Twice,
    /// A socket of another kind.
    #[error("the socket that the service manager passes as `{name}` cannot be used: {source}")]
    Kind {
        /// Its name.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The socket is elsewhere than the configuration says, and commands would not find it.
    #[error(
        "the service manager passes the socket {passed}, but `socket` in [listen] is {configured}; make `socket` and ListenStream= the same",
        passed = .passed.as_deref().map_or_else(|| "without a path".to_owned(), |path| path.display().to_string()),
        configured = .configured.display()
    )]
    Elsewhere {
        /// Where it is.
        passed: Option<PathBuf>,
        /// Where it is said to be.
        configured: PathBuf,
    },
    /// HTTP is off, but there is a socket for it.
    #[error(
        "the service manager passes a socket for HTTP, but `http` in [listen] is \"off\"; name its address there, or disable the socket's unit"
    )]
    HttpIsOff,
}

/// The sockets that were passed. None by default.
#[derive(Debug, Default)]
pub struct Inherited {
    socket: Option<UnixListener>,
    http: Vec<TcpListener>,
}

impl Inherited {
    /// Takes what the service manager passes to this process, once; a second call finds nothing. Changes the environment:
    /// to be called before there are other threads.
    pub fn take() -> Result<Self, StartError> {
        let told = sd_notify::listen_fds_with_names().map_err(InheritError::Environment)?;
        let names: Vec<String> = told.map(|(_, name)| name).collect();
        let mut inherited = Self::default();
        if names.is_empty() {
            return Ok(inherited);
        }
        // The same numbers from the same variables, and it may own them.
        let mut passed = ListenFd::from_env();
        for (nth, name) in names.into_iter().enumerate() {
            match name.as_str() {
                SOCKET if inherited.socket.is_some() => return Err(InheritError::Twice.into()),
                SOCKET => inherited.socket = Some(ready(SOCKET, passed.take_unix_listener(nth))?),
                HTTP => inherited.http.push(ready(HTTP, passed.take_tcp_listener(nth))?),
                _ => return Err(InheritError::Unknown(name.escape_debug().to_string()).into()),
            }
        }
        if let Some(socket) = &inherited.socket {
            socket.set_nonblocking(true).map_err(of(SOCKET))?;
        }
        for listener in &inherited.http {
            listener.set_nonblocking(true).map_err(of(HTTP))?;
        }
        Ok(inherited)
    }

    /// The Unix socket, where it was passed and is what the configuration says.
    pub(crate) fn socket(&mut self, listen: &Listen) -> Result<Option<BoundSocket>, StartError> {
        let Some(listener) = self.socket.take() else {
            return Ok(None);
        };
        let address = listener.local_addr().map_err(of(SOCKET))?;
        let passed = address.as_pathname();
        if !passed.is_some_and(|passed| is_same(passed, &listen.socket)) {
            return Err(InheritError::Elsewhere {
                passed: passed.map(Path::to_owned),
                configured: listen.socket.clone(),
            }
            .into());
        }
        warn_of_mode(listen);
        Ok(Some(BoundSocket::inherited(listener).map_err(of(SOCKET))?))
    }

    /// The listeners for HTTP, in their order; none where none was passed.
    pub(crate) fn http(&mut self, listen: &Listen) -> Result<Vec<tokio::net::TcpListener>, StartError> {
        let passed = std::mem::take(&mut self.http);
        if passed.is_empty() {
            return Ok(Vec::new());
        }
        let Some(configured) = listen.http else {
            return Err(InheritError::HttpIsOff.into());
        };
        let mut listeners = Vec::with_capacity(passed.len());
        let mut addresses = Vec::with_capacity(passed.len());
        for listener in passed {
            addresses.push(listener.local_addr().map_err(of(HTTP))?);
            listeners.push(tokio::net::TcpListener::from_std(listener).map_err(of(HTTP))?);
        }
        if configured.port() != 0 && !addresses.contains(&configured) {
            let addresses: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
            warn!(
                "listening on {}, which the service manager passes, and not on {configured}, which `http` in [listen] says; make them the same",
                addresses.join(", ")
            );
        }
        Ok(listeners)
    }
}

fn ready<S: AsFd>(name: &'static str, taken: io::Result<Option<S>>) -> Result<S, InheritError> {
    let socket = taken.and_then(|socket| socket.ok_or_else(|| io::Error::other("it was taken before")));
    let socket = socket.map_err(of(name))?;
    if listens(&socket).map_err(of(name))? {
        return Ok(socket);
    }
    Err(of(name)(io::Error::other(
        "it does not listen; leave Accept=yes out of its unit",
    )))
}

#[cfg(not(target_vendor = "apple"))]
fn listens<S: AsFd>(socket: &S) -> io::Result<bool> {
    Ok(rustix::net::sockopt::socket_acceptconn(socket)?)
}

/// These systems do not tell, and have no systemd that would pass a socket.
#[cfg(target_vendor = "apple")]
#[expect(clippy::unnecessary_wraps, reason = "that of other systems can fail")]
fn listens<S: AsFd>(_socket: &S) -> io::Result<bool> {
    Ok(true)
}

fn of(name: &'static str) -> impl Fn(io::Error) -> InheritError {
    move |source| InheritError::Kind { name, source }
}

/// Whether two paths name one socket; folders on the way may be links.
fn is_same(passed: &Path, configured: &Path) -> bool {
    let whole = |path: &Path| path.canonicalize().ok();
    passed == configured || whole(passed).is_some_and(|passed| Some(passed) == whole(configured))
}

/// The socket's mode is its unit's affair; who set another one in the configuration may rely on it.
fn warn_of_mode(listen: &Listen) {
    let Ok(meta) = std::fs::metadata(&listen.socket) else {
        return;
    };
    let mode = meta.permissions().mode() & 0o777;
    if mode != listen.mode {
        warn!(
            "the socket that the service manager passes has the mode {mode:04o}, and `mode` in [listen] is {:04o}, which does not count for it; set SocketMode= in its unit",
            listen.mode
        );
    }
}

//! One connection to a daemon, and what is asked over it.

mod address;
mod patience;

use std::io;
use std::path::Path;

use nixci_protocol::client::{Connection, Error, Hello};
use nixci_protocol::nixci::control::Request;
use nixci_protocol::nixci::{FEATURE_CLOSURE, FEATURE_CONTROL};
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::exit::{Exit, Problem, chain};

pub(crate) use address::Address;
pub(crate) use patience::Patience;

/// A daemon that understands our control messages.
pub(crate) struct Daemon {
    connection: Connection,
    address: Address,
}

impl Daemon {
    /// Connects and shakes hands.
    ///
    /// Fails with exit code 4 where nobody answers, and 5 where the socket may not be used.
    pub(crate) async fn connect(address: &Address) -> Result<Self, Problem> {
        let connection = open(address).await?;
        let daemon = Self {
            connection,
            address: address.clone(),
        };
        if daemon.has(FEATURE_CONTROL) {
            Ok(daemon)
        } else {
            Err(Problem::unreachable(format!(
                "`{address}` is a Nix daemon but not nixci: give `nixci-daemon`'s address with --to or NIXCI_TO"
            )))
        }
    }

    /// Whether the peer has a feature.
    pub(crate) fn has(&self, feature: &str) -> bool {
        self.connection.negotiated().features.iter().any(|one| one == feature)
    }

    /// Where it is.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// The connection, for what is not a control message.
    pub(crate) fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Asks one question.
    pub(crate) async fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, Problem> {
        let json = encode(request)?;
        let reply = self
            .connection
            .control_one(&json)
            .await
            .map_err(|error| refused(&self.address, &error))?;
        decode(&reply)
    }

    /// Asks for a stream; `each` sees its pieces as they come.
    pub(crate) async fn follow(&mut self, request: &Request) -> Result<Lines<'_>, Problem> {
        let json = encode(request)?;
        let address = self.address.clone();
        match self.connection.control_stream(&json).await {
            Ok(stream) => Ok(Lines { stream, address }),
            Err(error) => Err(refused(&address, &error)),
        }
    }
}

/// A stream of answers. Dropping it early ends the connection's use: ask nothing more over it.
pub(crate) struct Lines<'a> {
    stream: nixci_protocol::client::ControlStream<'a>,
    address: Address,
}

impl Lines<'_> {
    /// The next answer; none after the last one. Cancel safe.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Problem> {
        match self.stream.next_line().await {
            Ok(Some(line)) => decode(&line).map(Some),
            Ok(None) => Ok(None),
            Err(error) => Err(refused(&self.address, &error)),
        }
    }
}

fn hello() -> Hello {
    Hello {
        features: vec![FEATURE_CONTROL.to_owned(), FEATURE_CLOSURE.to_owned()],
        ..Hello::default()
    }
}

async fn open(address: &Address) -> Result<Connection, Problem> {
    match address {
        Address::Unix(path) => {
            let stream = UnixStream::connect(path)
                .await
                .map_err(|error| no_socket(path, &error))?;
            let (read, write) = stream.into_split();
            Connection::open(read, write, hello())
                .await
                .map_err(|error| no_handshake(address, &error))
        }
        Address::Store(uri) => Err(Problem::unreachable(format!(
            "`{uri}` cannot be reached yet: use a socket"
        ))),
    }
}

/// Why nobody answers at a socket, and how to start somebody who does.
fn no_socket(path: &Path, error: &io::Error) -> Problem {
    let at = path.display();
    let start = "start one with `nixci-daemon` in another shell or `systemctl start nixci`, or let `nixci submit \
                 --embedded` run one by itself";
    match error.kind() {
        io::ErrorKind::NotFound => Problem::unreachable(format!("no daemon at `unix://{at}`: {start}")),
        io::ErrorKind::ConnectionRefused => {
            Problem::unreachable(format!("the daemon at `unix://{at}` is not running any more: {start}"))
        }
        io::ErrorKind::PermissionDenied => Problem::new(
            Exit::NotAllowed,
            format!("you may not use the daemon at `unix://{at}`: ask to be added to the group of the socket"),
        ),
        _ => Problem::unreachable(format!("cannot reach the daemon at `unix://{at}`: {error}")),
    }
}

fn no_handshake(address: &Address, error: &Error) -> Problem {
    Problem::unreachable(format!("no handshake with `{address}`: {}", chain(error)))
}

/// An error of a call as the user sees it: what the daemon said, or that it went away.
pub(crate) fn refused(address: &Address, error: &Error) -> Problem {
    match error {
        Error::Remote(remote) => Problem::failed(remote.message.trim_start_matches("error: ").to_owned()),
        other => Problem::unreachable(format!("lost the connection to `{address}`: {}", chain(other))),
    }
}

fn encode(request: &Request) -> Result<String, Problem> {
    serde_json::to_string(request).map_err(|error| Problem::failed(format!("failed to write a request: {error}")))
}

fn decode<T: DeserializeOwned>(json: &str) -> Result<T, Problem> {
    serde_json::from_str(json).map_err(|error| {
        Problem::failed(format!(
            "the daemon answered something unexpected, is it of another version? ({error})"
        ))
    })
}

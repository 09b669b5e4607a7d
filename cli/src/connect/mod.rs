//! One connection to a daemon, and what is asked over it.

mod address;
pub(crate) mod http;
mod patience;

use std::io;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use nixci_protocol::client::{Connection, Error, Hello};
use nixci_protocol::nixci::control::Request;
use nixci_protocol::nixci::{FEATURE_CLOSURE, FEATURE_CONTROL, RootsDigest};
use nixci_protocol::types::{StoreDir, StorePath};
use nixci_store::remote::{Link, Remote, RemoteOptions, StoreUri};
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::exit::{Exit, Problem, chain};

pub(crate) use address::Address;
pub(crate) use patience::Patience;

/// How long a daemon may take to answer until the user is told that it is waited for. A socket that the service manager holds
/// takes connections while the daemon starts, or fails to.
const SOON: Duration = Duration::from_secs(3);

/// A connection, and what keeps it alive.
enum Wire {
    /// Over a socket, or switched from HTTP.
    Own(Box<Connection>),
    /// Over whatever the store layer opened: ssh, a private daemon.
    Link(Box<Link>),
}

/// A connection to any daemon that speaks the worker protocol.
pub(crate) struct Peer {
    wire: Wire,
    address: Address,
    about: About,
}

/// What a connection is going to be about.
#[derive(Debug, Clone, Default)]
pub(crate) struct About {
    /// Paths that are sent are in this directory; a daemon for another one refuses them.
    pub(crate) store_dir: StoreDir,
    /// The paths that are to be valid in the end, where they are known before: a daemon that has all of them says so in
    /// the handshake.
    pub(crate) roots: Option<RootsDigest>,
}

impl About {
    /// The closures of these paths.
    pub(crate) fn roots<'a>(store_dir: &StoreDir, roots: impl IntoIterator<Item = &'a StorePath>) -> Self {
        Self {
            store_dir: store_dir.clone(),
            roots: Some(RootsDigest::of(store_dir, roots)),
        }
    }

    fn features(&self) -> Vec<String> {
        let ours = [FEATURE_CONTROL, FEATURE_CLOSURE].map(str::to_owned);
        ours.into_iter()
            .chain(self.roots.as_ref().map(RootsDigest::feature))
            .collect()
    }
}

impl Peer {
    /// Connects and shakes hands, however long that takes; after some seconds it says so on standard error.
    ///
    /// Fails with exit code 4 where nobody answers, and 5 where the socket may not be used or the token is refused.
    pub(crate) async fn connect(address: &Address, about: About) -> Result<Self, Problem> {
        let wire = {
            let mut opening = pin!(open(address, &about));
            if let Ok(opened) = tokio::time::timeout(SOON, &mut opening).await {
                opened?
            } else {
                let look = match address {
                    Address::Unix(_) => ": `systemctl status nixci-daemon` says whether it starts",
                    Address::Http(_) | Address::Store(_) => "",
                };
                anstream::eprintln!("`{address}` does not answer yet; waiting for it{look}");
                opening.await?
            }
        };
        Ok(Self {
            wire,
            address: address.clone(),
            about,
        })
    }

    /// An error of a call over this connection as the user sees it.
    pub(crate) fn refused(&self, error: &Error) -> Problem {
        refused(&self.address, error)
    }

    /// The connection.
    pub(crate) fn connection(&mut self) -> &mut Connection {
        match &mut self.wire {
            Wire::Own(connection) => connection,
            Wire::Link(link) => link,
        }
    }
}

/// A daemon that understands our control messages.
pub(crate) struct Daemon {
    peer: Peer,
}

impl Daemon {
    /// For control messages alone, in which paths are texts. Else like [`connect_for`](Self::connect_for).
    pub(crate) async fn connect(address: &Address) -> Result<Self, Problem> {
        Self::connect_for(address, About::default()).await
    }

    /// Like [`Peer::connect`]; a daemon that is not nixci counts as one that cannot be reached.
    pub(crate) async fn connect_for(address: &Address, about: About) -> Result<Self, Problem> {
        let mut peer = Peer::connect(address, about).await?;
        if peer.connection().negotiated().has(FEATURE_CONTROL) {
            Ok(Self { peer })
        } else {
            Err(Problem::unreachable(format!(
                "`{address}` is a Nix daemon but not nixci: give `nixci-daemon`'s address with --to or NIXCI_TO"
            )))
        }
    }

    /// Where it is.
    pub(crate) fn address(&self) -> &Address {
        &self.peer.address
    }

    /// Connects again, as it was.
    pub(crate) async fn again(&self) -> Result<Self, Problem> {
        Self::connect_for(&self.peer.address, self.peer.about.clone()).await
    }

    /// The same connection, for what is not a control message.
    pub(crate) fn peer(&mut self) -> &mut Peer {
        &mut self.peer
    }

    /// Asks one question.
    pub(crate) async fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, Problem> {
        let json = encode(request)?;
        let reply = self
            .peer
            .connection()
            .control_one(&json)
            .await
            .map_err(|error| refused(&self.peer.address, &error))?;
        decode(&reply)
    }

    /// Asks for a stream; `each` sees its pieces as they come.
    pub(crate) async fn follow(&mut self, request: &Request) -> Result<Lines<'_>, Problem> {
        let json = encode(request)?;
        let address = self.peer.address.clone();
        match self.peer.connection().control_stream(&json).await {
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

async fn open(address: &Address, about: &About) -> Result<Wire, Problem> {
    match address {
        Address::Unix(path) => {
            let stream = UnixStream::connect(path)
                .await
                .map_err(|error| no_socket(path, &error))?;
            let (read, write) = stream.into_split();
            let hello = Hello {
                features: about.features(),
                store_dir: about.store_dir.clone(),
                ..Hello::default()
            };
            let opened = Connection::open(read, write, hello).await;
            opened
                .map(|connection| Wire::Own(Box::new(connection)))
                .map_err(|error| no_handshake(address, &error))
        }
        Address::Http(site) => Ok(Wire::Own(Box::new(site.open(about).await?))),
        Address::Store(uri) => {
            let parsed: StoreUri = uri.parse().map_err(|error| Problem::usage(chain(&error)))?;
            let options = RemoteOptions {
                features: about.features(),
                store_dir: about.store_dir.clone(),
                ..RemoteOptions::default()
            };
            let link = Remote::new(uri, parsed, options).connect().await;
            link.map(|link| Wire::Link(Box::new(link)))
                .map_err(|error| Problem::unreachable(chain(&error)))
        }
    }
}

/// Why nobody answers at a socket, and how to start somebody who does.
fn no_socket(path: &Path, error: &io::Error) -> Problem {
    let at = path.display();
    let start = "start one with `nixci-daemon` in another shell or `systemctl start nixci-daemon`, or let `nixci submit \
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
fn refused(address: &Address, error: &Error) -> Problem {
    match error {
        Error::Remote(remote) => {
            let exit = if remote.is_refusal {
                Exit::NotAllowed
            } else {
                Exit::Failed
            };
            Problem::new(exit, remote.message.trim_start_matches("error: "))
        }
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

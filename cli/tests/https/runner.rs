//! A runner: the program with what a CI gives it, a daemon that knows one token, and a link to it.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails by panicking")]

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use nixci_protocol::client::{Connection, Hello};
use nixci_protocol::nixci::FEATURE_CONTROL;
use nixci_protocol::nixci::control::{Info, Request};
use sha2::{Digest as _, Sha256};
use tokio::net::UnixStream;

use crate::link::Link;
use crate::world::{Ran, World};

/// The token that may submit.
pub(crate) const TOKEN: &str = "s3cr3t-token-that-may-submit-everything";
/// One that is known and may nothing.
pub(crate) const IDLE: &str = "s3cr3t-token-that-may-do-nothing";

pub(crate) struct Runner {
    pub(crate) world: World,
    pub(crate) link: Link,
}

impl Runner {
    /// Behind a link with this round trip.
    pub(crate) fn new(round_trip: Duration) -> Self {
        Self::with(round_trip, "")
    }

    /// With these sections besides in the daemon's configuration.
    pub(crate) fn with(round_trip: Duration, sections: &str) -> Self {
        let token = |name: &str, text: &str, rights: &str| {
            let hash = format!("{:x}", Sha256::digest(text));
            format!("[[token]]\nname = \"{name}\"\nsha256 = \"{hash}\"\nrights = [{rights}]\n")
        };
        let tokens = token("runner", TOKEN, "\"read\", \"submit\"") + &token("idle", IDLE, "");
        let world = World::with_settings("", &(tokens + sections));
        let http = http_of(&world);
        let link = Link::start(world.dir(), http, round_trip);
        Self { world, link }
    }

    /// The program, without any token.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = self.world.command(args);
        command
            .env("NIXCI_TO", self.link.url())
            .env("NIX_SSL_CERT_FILE", self.link.certificate())
            .env("HOME", self.world.dir());
        command
    }

    /// Runs the program with the token.
    pub(crate) fn nixci(&self, args: &[&str]) -> Ran {
        run(self.command(args).env("NIXCI_TOKEN", TOKEN))
    }
}

/// Runs a program to its end.
pub(crate) fn run(command: &mut Command) -> Ran {
    command.output().unwrap().into()
}

/// Where the daemon answers HTTP, which it tells over its socket.
pub(crate) fn http_of(world: &World) -> SocketAddr {
    let socket = world.socket();
    let info: Info = world.wait(async {
        let (read, write) = UnixStream::connect(socket).await.unwrap().into_split();
        let hello = Hello {
            features: vec![FEATURE_CONTROL.to_owned()],
            ..Hello::default()
        };
        let mut connection = Connection::open(read, write, hello).await.unwrap();
        let json = serde_json::to_string(&Request::Info).unwrap();
        serde_json::from_str(&connection.control_one(&json).await.unwrap()).unwrap()
    });
    info.pages.unwrap().strip_prefix("http://").unwrap().parse().unwrap()
}

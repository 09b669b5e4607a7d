//! What went over a connection, and the figures that follow from it.

use nixci_protocol::nixci::OP_ADD_CLOSURE;
use nixci_protocol::op::{AddMultipleToStore, AddToStoreNar, Operation};
use serde_json::{Value, json};

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the client.
    Up,
    /// From the daemon.
    Down,
}

/// Bytes that went one way with none the other way in between.
#[derive(Debug)]
struct Run {
    way: Way,
    bytes: u64,
    /// The first of them: a request begins with its number.
    head: [u8; 8],
}

/// One connection, as the proxy saw it.
#[derive(Debug, Default)]
pub(crate) struct Wire(Vec<Run>);

/// Runs of the shortest handshake: a greeting each way, then what is wished for, then the version and "I serve".
const HANDSHAKE: usize = 4;

impl Wire {
    /// Notes bytes on their way.
    pub(crate) fn saw(&mut self, way: Way, bytes: &[u8]) {
        if self.0.last().is_none_or(|run| run.way != way) {
            let (bytes, head) = (0, [0; 8]);
            self.0.push(Run { way, bytes, head });
        }
        if let Some(run) = self.0.last_mut() {
            let known = run.head.len().min(run.bytes as usize);
            let room = &mut run.head[known..];
            let taken = room.len().min(bytes.len());
            room[..taken].copy_from_slice(&bytes[..taken]);
            run.bytes += bytes.len() as u64;
        }
    }

    /// How many runs shake hands, and how many come before the first request that adds something.
    fn phases(&self) -> (usize, usize) {
        let requests = || {
            let up = (self.0.iter().enumerate().skip(HANDSHAKE)).filter(|(_, run)| run.way == Way::Up);
            // No request has the number 0, with which stock clients begin a third turn of the handshake.
            let numbered = up.map(|(at, run)| (at, u64::from_le_bytes(run.head)));
            numbered.filter(|(_, number)| *number != 0)
        };
        let adding = [OP_ADD_CLOSURE, AddMultipleToStore::OP, AddToStoreNar::OP].map(u64::from);
        let first = requests().next();
        let upload = requests().find(|(_, number)| adding.contains(number));
        let at = |found: Option<(usize, u64)>| found.map_or(self.0.len(), |(at, _)| at);
        (at(first), at(upload))
    }
}

/// The figures of one run of a client, over all its connections.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    pub(crate) wall_s: f64,
    pub(crate) bytes_up: u64,
    pub(crate) bytes_down: u64,
    /// Questions and their answers: turns of the wire from the client to the daemon.
    pub(crate) turns: u64,
    /// Those of them that only shake hands.
    pub(crate) handshake_turns: u64,
    /// What went before the first request that adds something, both ways, and in how many turns besides the handshake.
    pub(crate) negotiation_bytes: u64,
    pub(crate) negotiation_turns: u64,
    /// What went from there on, both ways.
    pub(crate) upload_bytes: u64,
}

impl Figures {
    pub(crate) fn new(wires: &[Wire], wall_s: f64) -> Self {
        let mut figures = Self {
            wall_s,
            ..Self::default()
        };
        for wire in wires {
            let (handshake, upload) = wire.phases();
            for (at, run) in wire.0.iter().enumerate() {
                match run.way {
                    Way::Up => {
                        figures.bytes_up += run.bytes;
                        figures.turns += 1;
                        figures.handshake_turns += u64::from(at < handshake);
                        figures.negotiation_turns += u64::from((handshake..upload).contains(&at));
                    }
                    Way::Down => figures.bytes_down += run.bytes,
                }
                if at < upload {
                    figures.negotiation_bytes += run.bytes;
                } else {
                    figures.upload_bytes += run.bytes;
                }
            }
        }
        figures
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes_up + self.bytes_down
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "wall_s": self.wall_s,
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
            "turns": self.turns,
            "handshake_turns": self.handshake_turns,
            "negotiation_bytes": self.negotiation_bytes,
            "negotiation_turns": self.negotiation_turns,
            "upload_bytes": self.upload_bytes,
        })
    }

    /// The figures of the round that took the median time.
    pub(crate) fn median(mut rounds: Vec<Self>) -> Self {
        rounds.sort_by(|a, b| a.wall_s.total_cmp(&b.wall_s));
        let middle = rounds.len() / 2;
        rounds.into_iter().nth(middle).unwrap_or_default()
    }
}

/// A case, with nixci's figures over stock's: less is better everywhere.
pub(crate) fn case(name: &str, stock: &Figures, ours: &Figures) -> Value {
    let over = |ours: u64, stock: u64| (stock > 0).then(|| ours as f64 / stock as f64);
    json!({
        "name": name,
        "stock": stock.json(),
        "nixci": ours.json(),
        "ratio": over(ours.bytes(), stock.bytes()),
        "wall_ratio": ours.wall_s / stock.wall_s,
        "negotiation_ratio": over(ours.negotiation_bytes, stock.negotiation_bytes),
        "upload_ratio": over(ours.upload_bytes, stock.upload_bytes),
    })
}

//! What another store lacks of a closure: a machine without I/O, and what drives it.

#[cfg(test)]
mod faults;
mod machine;
mod memory;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use nixci_protocol::client::{self, Connection};
use nixci_protocol::nixci::{Bitmap, FEATURE_CLOSURE, QueryValidBatch};
use nixci_protocol::op::QueryValidPaths;
use nixci_protocol::types::StorePath;

pub use machine::{Negotiation, Step};
pub use memory::{Digests, Memory};

use crate::upload::{ObjectSource, SourceError};

/// Digests in one question to our own daemon: 10 MB, well below the 64 MiB it takes.
const BATCH: usize = 500_000;
/// Paths in one question to a stock daemon, which answers when it has read all of them.
const CHUNK: usize = 2_000;

/// What knows which paths are valid in the other store.
pub trait Oracle: Send {
    /// Which of these are valid, by position.
    fn valid(&mut self, paths: &[StorePath]) -> impl Future<Output = Result<Bitmap, client::Error>> + Send;
}

/// Asks with 20 bytes a path, in one turn, where the peer is a daemon of ours; with `QueryValidPaths`, several requests in
/// one turn, where it is a stock one.
impl Oracle for Connection {
    async fn valid(&mut self, paths: &[StorePath]) -> Result<Bitmap, client::Error> {
        if self.negotiated().has(FEATURE_CLOSURE) {
            let requests: Vec<_> = paths.chunks(BATCH).map(QueryValidBatch::of).collect();
            let replies = self.call_all(&requests, &mut ()).await?;
            return Ok((paths.chunks(BATCH).zip(&replies))
                .flat_map(|(chunk, bits)| (0..chunk.len()).map(|position| bits.get(position)))
                .collect());
        }
        let requests: Vec<_> = paths
            .chunks(CHUNK)
            .map(|chunk| QueryValidPaths {
                paths: chunk.iter().cloned().collect(),
                substitute: false,
            })
            .collect();
        let replies: Vec<BTreeSet<StorePath>> = self.call_all(&requests, &mut ()).await?;
        Ok((paths.chunks(CHUNK).zip(&replies))
            .flat_map(|(chunk, valid)| chunk.iter().map(|path| valid.contains(path)))
            .collect())
    }
}

/// What came of a negotiation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// What the other store lacks, references first.
    pub missing: Vec<StorePath>,
    /// How many turns it took to find out.
    pub rounds: u32,
    /// How many paths were asked about.
    pub asked: usize,
}

/// Why a negotiation came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum NegotiateError {
    /// The references of a path cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The other store did not answer.
    #[error(transparent)]
    Store(#[from] client::Error),
}

/// Finds out what the other store lacks of the closure of `roots`. Changes nothing on either side.
pub async fn negotiate<O: Oracle, S: ObjectSource>(
    oracle: &mut O,
    source: &S,
    roots: impl IntoIterator<Item = StorePath> + Send,
) -> Result<Plan, NegotiateError> {
    negotiate_remembering(oracle, source, roots, &Memory::default()).await
}

/// As [`negotiate`], where the other store was asked before: takes what is remembered of it as a hint, forgets all of
/// that when it proves wrong, and remembers what is valid now.
pub async fn negotiate_remembering<O: Oracle, S: ObjectSource>(
    oracle: &mut O,
    source: &S,
    roots: impl IntoIterator<Item = StorePath> + Send,
    memory: &Memory,
) -> Result<Plan, NegotiateError> {
    let machine = Negotiation::remembering(roots, memory.known());
    run(machine, oracle, source, memory).await
}

/// As [`negotiate`], where the other store has said already that it lacks every one of `roots`.
pub async fn negotiate_below<O: Oracle, S: ObjectSource>(
    oracle: &mut O,
    source: &S,
    roots: impl IntoIterator<Item = StorePath> + Send,
) -> Result<Plan, NegotiateError> {
    let mut machine = Negotiation::new(roots);
    if let Step::Ask(_) = machine.next() {
        machine.answer(|_| false);
    }
    run(machine, oracle, source, &Memory::default()).await
}

async fn run<O: Oracle, S: ObjectSource>(
    mut machine: Negotiation,
    oracle: &mut O,
    source: &S,
    memory: &Memory,
) -> Result<Plan, NegotiateError> {
    let mut asked = 0;
    loop {
        match machine.next() {
            Step::Read(paths) => {
                let references = source.references(&paths).await?;
                for (path, references) in paths.iter().zip(references) {
                    machine.know(path, references);
                }
            }
            Step::Ask(paths) => {
                asked += paths.len();
                let valid = oracle.valid(&paths).await?;
                machine.answer(|position| valid.get(position));
                if machine.contradicts_memory() {
                    memory.clear();
                }
            }
            Step::Done(missing) => {
                memory.learn(machine.valid());
                return Ok(Plan {
                    missing,
                    rounds: machine.rounds(),
                    asked,
                });
            }
        }
    }
}

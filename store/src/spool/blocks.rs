//! Reading small NARs out of their blocks.

use std::collections::VecDeque;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use nixci_protocol::types::StorePath;
use rusqlite::Connection;

use super::error::{Error, Result};
use super::objects::{self, Place};

/// Unpacked blocks that are kept, because objects are read in the order in which they came.
const BLOCKS_KEPT: usize = 16;

/// The blocks that were unpacked last. A number stands for the same content for as long as the spool is open, so that
/// what is kept is never wrong.
#[derive(Debug, Clone)]
pub(super) struct Blocks {
    /// Held for memory work only.
    kept: Arc<Mutex<VecDeque<(i64, Bytes)>>>,
    /// The highest number that a block ever had.
    last: Arc<AtomicI64>,
}

/// The NAR of an object.
pub(super) enum Found {
    /// All of it.
    Block(Bytes),
    /// Where it is.
    File { name: String, size: u64 },
}

impl Blocks {
    pub(super) fn new(last: i64) -> Self {
        Self {
            kept: Arc::default(),
            last: Arc::new(AtomicI64::new(last)),
        }
    }

    /// Where the numbers of new blocks come from.
    pub(super) fn last_number(&self) -> Arc<AtomicI64> {
        self.last.clone()
    }

    /// The NAR of an object; none for what is not here.
    pub(super) fn find(&self, conn: &Connection, path: &StorePath) -> Result<Option<Found>> {
        match objects::place(conn, path)? {
            None => Ok(None),
            Some(Place::File { name, size }) => Ok(Some(Found::File { name, size })),
            Some(Place::Block { block, at, size }) => {
                let content = self.block(conn, block)?;
                match at.checked_add(size).filter(|end| *end <= content.len()) {
                    Some(end) => Ok(Some(Found::Block(content.slice(at..end)))),
                    None => Err(Error::Damaged {
                        path: path.clone(),
                        what: format!("block {block} is too short"),
                    }),
                }
            }
        }
    }

    fn block(&self, conn: &Connection, id: i64) -> Result<Bytes> {
        let known = {
            let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.iter()
                .find(|(of, _)| *of == id)
                .map(|(_, content)| content.clone())
        };
        if let Some(content) = known {
            return Ok(content);
        }
        let content = objects::block(conn, id)?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.truncate(BLOCKS_KEPT - 1);
        kept.push_front((id, content.clone()));
        Ok(content)
    }
}

//! Objects on their way into the database.

use super::error::{Error, Result};
use super::large::{Folder, LargeFile};
use super::objects::{New, NewPlace, Packed};
use super::verify::Content;
use super::{BLOCK, Verified};

/// Level 1 packs derivations to a sixth at several hundred megabytes a second; higher levels gain little on blocks.
const LEVEL: i32 = 1;

/// What one call of [`super::Spool::add`] adds.
pub(super) struct Batch {
    pub(super) new: Vec<New>,
    pub(super) blocks: Vec<Packed>,
    /// Removed again unless a row names them.
    pub(super) files: Vec<LargeFile>,
}

impl Batch {
    /// Packs small NARs into blocks and gives files their names. Blocks.
    pub(super) fn new(folder: &Folder, objects: Vec<Verified>) -> Result<Self> {
        let mut batch = Self {
            new: Vec::with_capacity(objects.len()),
            blocks: Vec::new(),
            files: Vec::new(),
        };
        let mut filling = Vec::new();
        for object in objects {
            let (info, content) = object.into_parts();
            let place = match content {
                Content::Small(nar) => {
                    if !filling.is_empty() && filling.len() + nar.len() > BLOCK {
                        batch.pack(&mut filling)?;
                    }
                    let at = filling.len();
                    filling.extend_from_slice(&nar);
                    NewPlace::Block {
                        block: batch.blocks.len(),
                        at,
                    }
                }
                Content::Large(file) => {
                    let place = NewPlace::File(file.name());
                    batch.files.push(file);
                    place
                }
            };
            batch.new.push(New { info, place });
        }
        if !filling.is_empty() {
            batch.pack(&mut filling)?;
        }
        folder.name(&mut batch.files.iter_mut().collect::<Vec<_>>())?;
        Ok(batch)
    }

    fn pack(&mut self, filling: &mut Vec<u8>) -> Result<()> {
        self.blocks.push(pack(filling)?);
        filling.clear();
        Ok(())
    }
}

/// Compresses NARs that are one after the other.
pub(super) fn pack(nars: &[u8]) -> Result<Packed> {
    let content = zstd::bulk::compress(nars, LEVEL).map_err(|source| Error::Receive {
        what: "a block".to_owned(),
        source,
    })?;
    Ok(Packed {
        size: nars.len(),
        content,
    })
}

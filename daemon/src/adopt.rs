//! Derivations that are in the spool and not in the graph: read from the spool.
//!
//! Normally an upload puts them into both. A power cut can take the last of the graph with it, and
//! large ones are read only once they are in the spool.

use std::collections::HashSet;

use nixci_protocol::types::{DrvPath, StorePath};
use nixci_store::derivation::{Derivation, DerivationError};
use nixci_store::index::{self, derivations};
use nixci_store::spool;
use tokio::io::AsyncReadExt;

use crate::core::Core;

/// The largest derivation that is read.
const DERIVATION_BYTES: u64 = 64 << 20;
/// Bytes in front of the content in the NAR of a plain file, its size included.
const NAR_HEAD: usize = 96;

/// Why a derivation could not be taken over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdoptError {
    /// The spool failed.
    #[error("failed to read the spool")]
    Spool(#[from] spool::Error),
    /// The index failed.
    #[error("failed to use the index")]
    Index(#[from] index::Error),
    /// It cannot be read.
    #[error(transparent)]
    Derivation(#[from] DerivationError),
    /// It could not be read whole.
    #[error("failed to read {path} from the spool")]
    Read {
        /// The derivation.
        path: StorePath,
        /// Why.
        source: std::io::Error,
    },
    /// It is something else.
    #[error("{path} is not a derivation: it is no plain file of at most {DERIVATION_BYTES} bytes")]
    NotAFile {
        /// What it is not.
        path: StorePath,
    },
}

/// Adds these derivations, and those below them that the graph lacks, as far as they are in the spool.
pub(crate) async fn adopt(core: &Core, paths: Vec<StorePath>) -> Result<(), AdoptError> {
    let mut seen: HashSet<StorePath> = HashSet::new();
    let mut next = paths;
    while !next.is_empty() {
        next.retain(|path| core.spool.contains(path) && seen.insert(path.clone()));
        let asked = next.clone();
        let lacking = core
            .index
            .read(move |conn| {
                let ids = derivations::ids(conn, &asked)?;
                let mut lacking = Vec::new();
                for (path, id) in asked.into_iter().zip(ids) {
                    let known = match id {
                        Some(id) => derivations::requirements(conn, &[id])?
                            .first()
                            .is_some_and(Option::is_some),
                        None => false,
                    };
                    if !known {
                        lacking.push(path);
                    }
                }
                Ok(lacking)
            })
            .await?;
        let mut found = Vec::with_capacity(lacking.len());
        for path in lacking {
            if let Ok(drv) = DrvPath::try_from(path.clone()) {
                let content = content(core, &path).await?;
                found.push(Derivation::parse(&drv, &core.config.store_dir, &content)?);
            }
        }
        next = found
            .iter()
            .flat_map(|derivation| derivation.input_drvs.clone())
            .collect();
        if !found.is_empty() {
            core.index
                .write(move |tx| derivations::add(tx, &found).map(drop))
                .await?;
        }
    }
    Ok(())
}

async fn content(core: &Core, path: &StorePath) -> Result<Vec<u8>, AdoptError> {
    if let Some(content) = core.spool.file(path).await? {
        return Ok(content.to_vec());
    }
    let not_a_file = || AdoptError::NotAFile { path: path.clone() };
    let Some(nar) = core.spool.nar(path).await? else {
        return Err(not_a_file());
    };
    let mut bytes = Vec::new();
    nar.take(DERIVATION_BYTES)
        .read_to_end(&mut bytes)
        .await
        .map_err(|source| AdoptError::Read {
            path: path.clone(),
            source,
        })?;
    let is_file = bytes.get(NAR_HEAD - 24..NAR_HEAD - 8) == Some(b"\x08\0\0\0\0\0\0\0contents");
    let size = bytes.get(NAR_HEAD - 8..NAR_HEAD).and_then(|size| size.try_into().ok());
    let size = size.map(u64::from_le_bytes).and_then(|size| usize::try_from(size).ok());
    match size {
        Some(size) if is_file && bytes.len() >= NAR_HEAD.saturating_add(size) => {
            Ok(bytes[NAR_HEAD..NAR_HEAD + size].to_vec())
        }
        Some(_) | None => Err(not_a_file()),
    }
}

//! Derivations that are not in the graph: read from the spool, or from the store that has them.
//!
//! Normally an upload puts them into both. A power cut can take the last of the graph with it, and
//! large ones are read only once they are in the spool. What clients put straight into a store is read from there when
//! it is to be built.

use std::collections::{BTreeSet, HashSet};

use nixci_protocol::client;
use nixci_protocol::types::{DrvPath, Hash, StorePath, make_text_path};
use nixci_store::derivation::{Derivation, DerivationError};
use nixci_store::index::{self, derivations};
use nixci_store::spool;
use tokio::io::AsyncReadExt;

use crate::core::Core;

/// The largest derivation that is read.
const DERIVATION_BYTES: u64 = 64 << 20;
/// Bytes in front of the content in the NAR of a plain file, its size included.
const NAR_HEAD: usize = 96;
/// Derivations that are read from a store at once.
const AT_ONCE: usize = 256;

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
    /// The store failed.
    #[error("failed to read derivations from the store")]
    Store(#[from] client::Error),
    /// What a store gave is not what the path promises.
    #[error("the store has other bytes at {path} than its name says; have it verified")]
    Altered {
        /// The derivation.
        path: StorePath,
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
        let lacking = lacking(core, next.clone()).await?;
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

/// Those of the paths that the graph does not know more of than that they exist.
async fn lacking(core: &Core, asked: Vec<StorePath>) -> Result<Vec<StorePath>, index::Error> {
    core.index
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
        .await
}

/// Adds those of these derivations that the graph lacks; the store must have them, but where the spool has them too
/// they come from there. What is below them is not looked at. The bytes are checked against the paths.
pub(crate) async fn adopt_from(
    connection: &mut client::Connection,
    core: &Core,
    paths: Vec<StorePath>,
) -> Result<(), AdoptError> {
    let unknown = lacking(core, paths).await?;
    if unknown.is_empty() {
        return Ok(());
    }
    adopt(core, unknown.clone()).await?;
    let unknown = lacking(core, unknown).await?;
    for chunk in unknown.chunks(AT_ONCE) {
        let nars = connection.nars(chunk, DERIVATION_BYTES).await?;
        let mut found = Vec::with_capacity(chunk.len());
        for (path, nar) in chunk.iter().zip(nars) {
            let (Ok(drv), Some(content)) = (DrvPath::try_from(path.clone()), plain_file(&nar)) else {
                return Err(AdoptError::NotAFile { path: path.clone() });
            };
            let dir = &core.config.store_dir;
            let derivation = Derivation::parse(&drv, dir, content)?;
            let references: BTreeSet<StorePath> = derivation.references().cloned().collect();
            let real = make_text_path(dir, path.name(), &Hash::sha256_of(content), &references);
            if real.ok().as_ref() != Some(path) {
                return Err(AdoptError::Altered { path: path.clone() });
            }
            found.push(derivation);
        }
        core.index
            .write(move |tx| derivations::add(tx, &found).map(drop))
            .await?;
    }
    Ok(())
}

/// The content of a plain file from its NAR.
fn plain_file(nar: &[u8]) -> Option<&[u8]> {
    let is_file = nar.get(NAR_HEAD - 24..NAR_HEAD - 8) == Some(b"\x08\0\0\0\0\0\0\0contents");
    let size = nar.get(NAR_HEAD - 8..NAR_HEAD)?.try_into().ok()?;
    let size = usize::try_from(u64::from_le_bytes(size)).ok()?;
    nar.get(NAR_HEAD..NAR_HEAD.checked_add(size)?).filter(|_| is_file)
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
    plain_file(&bytes).map(<[u8]>::to_vec).ok_or_else(not_a_file)
}

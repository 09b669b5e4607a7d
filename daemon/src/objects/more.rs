//! Questions that are asked seldom: of the spool and of every store that counts.

use std::collections::BTreeSet;

use nixci_protocol::client;
use nixci_protocol::op::{self, Call, RealisationKey, Realisations};
use nixci_protocol::types::{DrvOutput, Realisation, StorePath, nix32};
use nixci_protocol::wire::FEATURE_REALISATION_PATHS;
use nixci_store::index::derivations;
use nixci_store::logs::Follow;

use super::behind::Behind;
use super::{Failures, ObjectError, Objects};
use crate::config::Writes;
use crate::logs;

/// Derivations that are named as makers of one path.
const MAKERS: u32 = 100;
/// What a store names that was told to know no realisations.
const CA_FEATURE: &str = "ca-derivations";
/// The first Nix that knows realisations by the path of the derivation only, and loses step when asked by hash.
const BY_PATH_ONLY: (u32, u32) = (2, 35);

impl Objects {
    /// The valid path with this hash part; none only where every store says so.
    pub(crate) async fn by_hash_part(&self, digest: &[u8; 20]) -> Result<Option<StorePath>, ObjectError> {
        if self.writes == Writes::Spool
            && let Some(path) = self.spool.by_digest(digest).await?
        {
            return Ok(Some(path));
        }
        let question = op::QueryPathFromHashPart {
            hash_part: nix32::encode(digest),
        };
        let mut failures = Failures::default();
        for (nth, store) in self.stores.iter().enumerate() {
            match store.ask(&question).await {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(error) => failures.add(self, nth, error)?,
            }
        }
        failures.nobody()
    }

    /// The valid paths that refer to this one.
    pub(crate) async fn referrers(&self, path: &StorePath) -> Result<BTreeSet<StorePath>, ObjectError> {
        let mut all = self.of_all(&op::QueryReferrers { path: path.clone() }).await?;
        if self.spooled(path) {
            all.extend(self.spool.referrers(path).await?);
        }
        Ok(all)
    }

    /// The valid derivations that have this path as an output.
    pub(crate) async fn derivers(&self, path: &StorePath) -> Result<BTreeSet<StorePath>, ObjectError> {
        let mut all = self.of_all(&op::QueryValidDerivers { path: path.clone() }).await?;
        if self.writes == Writes::Spool {
            let path = path.clone();
            let makers = self.index.read(move |conn| {
                let makers = derivations::makers(conn, &path, MAKERS)?;
                derivations::paths(conn, &makers)
            });
            all.extend(makers.await?.into_iter().filter(|path| self.spooled(path)));
        }
        Ok(all)
    }

    /// Every valid path.
    pub(crate) async fn all(&self) -> Result<BTreeSet<StorePath>, ObjectError> {
        let mut all = self.of_all(&op::QueryAllValidPaths {}).await?;
        if self.writes == Writes::Spool {
            all.extend(self.spool.all().await?);
        }
        Ok(all)
    }

    /// The path a store says an output of a content-addressed derivation was realised at.
    ///
    /// Stores from 2.35 on know realisations by the derivation's path only, which cannot be told from a hash: they
    /// are not asked.
    pub(crate) async fn realisation(&self, id: &DrvOutput) -> Result<Option<Realisation>, ObjectError> {
        let question = op::QueryRealisation {
            key: RealisationKey::Hashed(id.clone()),
        };
        let mut failures = Failures::default();
        for (nth, store) in self.stores.iter().enumerate() {
            match realisation(store, &question).await {
                Ok(None) => {}
                Ok(Some(mut found)) => {
                    store.signer.sign_realisations(&store.name, [&mut found]).await;
                    return Ok(Some(found));
                }
                Err(error) => failures.add(self, nth, error)?,
            }
        }
        failures.nobody()
    }

    /// The log of the last build of a derivation, or of one that makes this output, up to now.
    pub(crate) async fn log(&self, path: &StorePath) -> Result<Option<Follow>, ObjectError> {
        let path = path.clone();
        let attempt = self.index.read(move |conn| logs::of_object(conn, &path)).await?;
        Ok(attempt.map(|attempt| self.logs.read(attempt.id)))
    }

    /// What all stores say, together.
    async fn of_all<R>(&self, question: &R) -> Result<BTreeSet<StorePath>, ObjectError>
    where
        R: Call<Reply = BTreeSet<StorePath>>,
    {
        let mut all = BTreeSet::new();
        let mut failures = Failures::default();
        for (nth, store) in self.stores.iter().enumerate() {
            match store.ask(question).await {
                Ok(mut some) => all.append(&mut some),
                Err(error) => failures.add(self, nth, error)?,
            }
        }
        Ok(all)
    }
}

async fn realisation(store: &Behind, question: &op::QueryRealisation) -> Result<Option<Realisation>, ObjectError> {
    let mut connection = store.remote.acquire().await?;
    if knows_paths_only(connection.daemon_version()) || connection.negotiated().has(FEATURE_REALISATION_PATHS) {
        return Ok(None);
    }
    match connection.call(question, &mut ()).await {
        Ok(Realisations::Hashed(found)) => Ok(found.into_iter().next()),
        Ok(Realisations::Named(_)) => Ok(None),
        // Where the feature is off there are none. Daemons then say so, or hang up; one that is gone answers nothing else.
        Err(client::Error::Remote(error)) if error.to_string().contains(CA_FEATURE) => Ok(None),
        Err(client::Error::Closed) => {
            let hash_part = nix32::encode(&[0; 20]);
            store.ask(&op::QueryPathFromHashPart { hash_part }).await?;
            Ok(None)
        }
        Err(error) => Err(store.failed(error)),
    }
}

/// Whether a daemon of this version must not be asked for realisations by hash.
pub(crate) fn knows_paths_only(version: Option<&str>) -> bool {
    let mut numbers = version.unwrap_or_default().split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().and_then(|number| number.parse::<u32>().ok());
    match (next(), next()) {
        (Some(major), Some(minor)) => (major, minor) >= BY_PATH_ONLY,
        (Some(_) | None, None | Some(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_know_realisations_by_path_are_told_from_others() {
        for old in [
            None,
            Some(""),
            Some("2.8.0"),
            Some("2.34.8"),
            Some("unknown"),
            Some("2.9pre"),
        ] {
            assert!(!knows_paths_only(old), "{old:?}");
        }
        for new in ["2.35.0", "2.36.0pre20260101_abc", "3.0", "10.1"] {
            assert!(knows_paths_only(Some(new)), "{new}");
        }
    }
}

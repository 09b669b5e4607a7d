//! Signatures by nixci's own keys.
//!
//! **What is signed.** Paths that a build on the very store that is asked has made, as the index knows; never what
//! merely was there. **Over what.** The hash and size that nixci found when it read the NAR from that store itself
//! ([`reading`]), once: the index remembers them, so that a key that is added later signs without reading. A store that
//! says something else than it sends gets no signature, and an error in the log that names both.
//!
//! Signatures are made when somebody asks about a path, and kept nowhere.

mod reading;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{StreamExt as _, stream};
use nixci_protocol::types::{
    BuiltOutputs, NarHash, PathInfo, Realisation, RealisationSignatures, SecretKey, Signature, StoreDir, StorePath,
    fingerprint,
};
use nixci_store::index::Index;
use nixci_store::index::contents::{self, Provenance};
use nixci_store::remote::Remote;
use tokio::sync::{OnceCell, Semaphore};
use tracing::{error, warn};

use crate::error::told;
use reading::Found;

/// NARs that are read at once to be signed for.
const READS_AT_ONCE: usize = 4;
/// Lies that are remembered, so that they are not read again each time somebody asks. All are forgotten when there
/// are more.
const LIES_KEPT: usize = 4_096;

/// Who signs. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Signer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    keys: Vec<SecretKey>,
    store_dir: StoreDir,
    index: Index,
    reads: Semaphore,
    /// Held for memory work only.
    flights: Mutex<HashMap<Said, Arc<OnceCell<bool>>>>,
    /// Held for memory work only.
    lies: Mutex<HashSet<Said>>,
}

/// What a store says of a path: its name, the path, and the hash and size of the NAR.
type Said = (Arc<str>, StorePath, NarHash, u64);

impl Signer {
    /// Without keys it leaves everything as it is, and reads nothing.
    pub(crate) fn new(keys: Vec<SecretKey>, store_dir: StoreDir, index: Index) -> Self {
        Self(Arc::new(Inner {
            keys,
            store_dir,
            index,
            reads: Semaphore::new(READS_AT_ONCE),
            flights: Mutex::default(),
            lies: Mutex::default(),
        }))
    }

    /// Adds our signatures to what a store says of paths, as far as it built them. Reads those that were never read.
    pub(crate) async fn sign(&self, store: &Remote, infos: &mut [PathInfo]) {
        let unread = self.sign_what_was_read(store.name(), infos).await;
        let name: Arc<str> = store.name().into();
        let reads = unread.into_iter().map(|nth| {
            let PathInfo { path, info } = &infos[nth];
            let said = (name.clone(), path.clone(), info.nar_hash, info.nar_size);
            async move { (nth, self.is_true(store, said).await) }
        });
        let reads: Vec<_> = reads.collect();
        let mut reads = stream::iter(reads).buffer_unordered(READS_AT_ONCE);
        let mut sound = Vec::new();
        while let Some((nth, is_true)) = reads.next().await {
            if is_true {
                sound.push(nth);
            }
        }
        drop(reads);
        for nth in sound {
            self.put(&mut infos[nth]);
        }
    }

    /// As [`Self::sign`], without reading anything: returns the places of those that would have to be read.
    pub(crate) async fn sign_what_was_read(&self, store: &str, infos: &mut [PathInfo]) -> Vec<usize> {
        if self.0.keys.is_empty() || infos.is_empty() {
            return Vec::new();
        }
        let (name, asked) = (store.to_owned(), infos.iter());
        let asked: Vec<_> = asked.map(|info| (info.path.clone(), info.info.nar_hash)).collect();
        let known = self
            .0
            .index
            .read(move |conn| contents::provenance(conn, &name, &asked))
            .await;
        let known = match known {
            Ok(known) => known,
            Err(error) => {
                warn!(
                    "paths are told without our signature: failed to use the index: {}",
                    told(&error)
                );
                return Vec::new();
            }
        };
        let mut unread = Vec::new();
        for (nth, (info, known)) in infos.iter_mut().zip(known).enumerate() {
            match known {
                Provenance::Foreign => {}
                Provenance::Built { read: None } => unread.push(nth),
                Provenance::Built { read: Some(size) } if size == info.info.nar_size => self.put(info),
                Provenance::Built { read: Some(size) } => {
                    let (path, said) = (self.0.store_dir.display(&info.path), info.info.nar_size);
                    error!(store, %path, "store `{store}` says that {path} has {said} bytes, and sent {size}: it is not signed");
                }
            }
        }
        unread
    }

    /// Adds our signatures to realisations that a store tells, where a build there made them.
    pub(crate) async fn sign_realisations<'r>(
        &self,
        store: &str,
        realisations: impl IntoIterator<Item = &'r mut Realisation>,
    ) {
        if self.0.keys.is_empty() {
            return;
        }
        let mut realisations: Vec<&mut Realisation> = realisations.into_iter().collect();
        if realisations.is_empty() {
            return;
        }
        let asked = realisations.iter().map(|told| (told.id.clone(), told.out_path.clone()));
        let (store, asked) = (store.to_owned(), asked.collect::<Vec<_>>());
        let built = self.0.index.read(move |conn| {
            let built = asked
                .iter()
                .map(|(id, path)| contents::is_realised(conn, &store, id, path));
            built.collect::<Result<Vec<bool>, _>>()
        });
        let built = built.await.unwrap_or_else(|error| {
            warn!(
                "realisations are told without our signature: failed to use the index: {}",
                told(&error)
            );
            Vec::new()
        });
        for (realisation, built) in realisations.iter_mut().zip(built) {
            if built {
                self.put_realisation(realisation);
            }
        }
    }

    /// Adds our signatures to what a store says it has just built, where that is recorded.
    pub(crate) fn sign_made(&self, made: &mut BuiltOutputs) {
        if !self.0.keys.is_empty() {
            hashed(made).for_each(|realisation| self.put_realisation(realisation));
        }
    }

    fn put_realisation(&self, realisation: &mut Realisation) {
        let covered = realisation.fingerprint();
        let signatures = realisation
            .signatures
            .get_or_insert_with(|| RealisationSignatures::Text(BTreeSet::new()));
        match signatures {
            RealisationSignatures::Text(all) | RealisationSignatures::Objects(all) => all.extend(self.made(&covered)),
        }
    }

    fn put(&self, info: &mut PathInfo) {
        let covered = fingerprint(&self.0.store_dir, info);
        info.info.signatures.extend(self.made(&covered));
    }

    fn made(&self, covered: &str) -> impl Iterator<Item = Signature> {
        self.0.keys.iter().map(|key| key.sign(covered.as_bytes()))
    }

    /// Whether a store sends what it says. Many who ask about the same wait for one reading.
    async fn is_true(&self, store: &Remote, said: Said) -> bool {
        if self.lies().contains(&said) {
            return false;
        }
        let flight = Flight::board(self, said.clone());
        let reading = flight.cell.get_or_try_init(|| self.read(store, &said));
        match reading.await {
            Ok(is_true) => *is_true,
            Err(reason) => {
                let path = self.0.store_dir.display(&said.1);
                let store = store.name();
                warn!(store, %path, "{path} is told without our signature: {reason}");
                false
            }
        }
    }

    async fn read(&self, store: &Remote, said: &Said) -> Result<bool, String> {
        // Never closed.
        let _turn = self.0.reads.acquire().await.map_err(|error| error.to_string())?;
        let (name, path, hash, size) = said;
        let found = reading::read(store, path, *size).await.map_err(|error| told(&error))?;
        if found == Found::Nar(*hash) {
            let (path, hash, size) = (path.clone(), *hash, *size);
            let recorded = self
                .0
                .index
                .write(move |tx| contents::record_read(tx, &path, hash, size))
                .await;
            recorded.map_err(|error| format!("failed to record what was read of it: {}", told(&error)))?;
            return Ok(true);
        }
        let path = self.0.store_dir.display(path);
        match found {
            Found::Nar(found) => error!(
                store = &**name, %path,
                "store `{name}` says that the NAR of {path} has hash {hash}, and sends one with {found}: it is not signed; \
                 look at it with `nix store verify` there"
            ),
            Found::Size(found) => error!(
                store = &**name, %path,
                "store `{name}` says that the NAR of {path} has {size} bytes, and it ends or goes on at {found}: it is not \
                 signed; look at it with `nix store verify` there"
            ),
        }
        let mut lies = self.lies();
        if lies.len() >= LIES_KEPT {
            lies.clear();
        }
        lies.insert(said.clone());
        Ok(false)
    }

    fn lies(&self) -> std::sync::MutexGuard<'_, HashSet<Said>> {
        self.0.lies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flights(&self) -> std::sync::MutexGuard<'_, HashMap<Said, Arc<OnceCell<bool>>>> {
        self.0.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The realisations among outputs that carry signatures: those that name their derivation by its hash.
pub(crate) fn hashed(outputs: &mut BuiltOutputs) -> impl Iterator<Item = &mut Realisation> {
    let outputs = match outputs {
        BuiltOutputs::Hashed(outputs) => Some(outputs.values_mut()),
        BuiltOutputs::Named(_) => None,
    };
    outputs.into_iter().flatten()
}

/// A place among those who wait for one reading. The last to leave takes it away.
struct Flight<'s> {
    signer: &'s Signer,
    said: Said,
    cell: Arc<OnceCell<bool>>,
}

impl<'s> Flight<'s> {
    fn board(signer: &'s Signer, said: Said) -> Self {
        let cell = signer.flights().entry(said.clone()).or_default().clone();
        Self { signer, said, cell }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let mut flights = self.signer.flights();
        // That of the map, and this one.
        if Arc::strong_count(&self.cell) <= 2 {
            flights.remove(&self.said);
        }
    }
}

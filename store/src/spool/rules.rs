//! What an object must satisfy to be taken.

use std::sync::Arc;

use nixci_protocol::types::{PathInfo, PublicKey, Signature, StoreDir, StorePath, fingerprint};

use super::verify::VerifyError;

/// Signatures kept of one object: many times what anybody has keys for.
pub const MAX_SIGNATURES: usize = 64;
/// Key names that an error repeats.
const NAMES_TOLD: usize = 3;

/// What holds for every object of a spool. Clones share it.
#[derive(Debug, Clone)]
pub struct Rules {
    pub(super) store_dir: StoreDir,
    pub(super) trusted: Arc<[PublicKey]>,
}

impl Rules {
    /// Objects of this store directory. Nobody's signatures count before keys are [trusted](Self::trusting).
    #[must_use]
    pub fn new(store_dir: StoreDir) -> Self {
        Self {
            store_dir,
            trusted: Arc::new([]),
        }
    }

    /// What a signature by one of these keys covers may come from anybody.
    #[must_use]
    pub fn trusting(self, keys: Vec<PublicKey>) -> Self {
        Self {
            trusted: keys.into(),
            ..self
        }
    }

    /// Whether a trusted key has signed for what is said of an object.
    pub(super) fn is_signed(&self, info: &PathInfo) -> bool {
        info.is_signed_by(&self.store_dir, &self.trusted)
    }

    /// Whether a trusted key made this signature of what is said of an object.
    pub(super) fn made(&self, signature: &Signature, info: &PathInfo) -> bool {
        let covered = fingerprint(&self.store_dir, info);
        self.trusted
            .iter()
            .any(|key| key.verifies(covered.as_bytes(), signature))
    }

    /// Why an object cannot be taken from somebody who is not trusted, begun as stock Nix says it.
    pub(super) fn unsigned(&self, info: &PathInfo) -> VerifyError {
        let trusted = |signature: &&Signature| self.trusted.iter().any(|key| key.name() == signature.name());
        let names = |signatures: &mut dyn Iterator<Item = &Signature>| {
            let names: Vec<String> = signatures
                .take(NAMES_TOLD)
                .map(|signature| format!("`{}`", signature.name().escape_debug().take(64).collect::<String>()))
                .collect();
            names.join(", ")
        };
        let signatures = &info.info.signatures;
        let found = if signatures.is_empty() {
            "it has no signature".to_owned()
        } else if signatures.iter().any(|signature| trusted(&signature)) {
            let names = names(&mut signatures.iter().filter(trusted));
            format!("that by {names} is not one over its hash, size and references")
        } else {
            format!("{} is not trusted here", names(&mut signatures.iter()))
        };
        VerifyError::Unsigned {
            path: self.full(&info.path),
            found,
        }
    }

    pub(super) fn full(&self, path: &StorePath) -> String {
        self.store_dir.display(path).to_string()
    }
}

//! Signatures that are added to objects which are here already.

use std::collections::BTreeSet;

use nixci_protocol::types::{Signature, StorePath};

use super::error::{Error, Result};
use super::rules::MAX_SIGNATURES;
use super::verify::{Authority, VerifyError};
use super::{Spool, objects};
use crate::index::Durability;

impl Spool {
    /// Adds signatures to those an object has, and says whether it is here. They are on disk when it returns.
    ///
    /// A trusted principal's are taken as they are, others' only where a trusted key made them: the room for them is
    /// bounded, and must not be filled by anybody.
    pub async fn sign(&self, path: &StorePath, signatures: BTreeSet<Signature>, authority: Authority) -> Result<bool> {
        let Some(mut info) = self.info(path).await? else {
            return Ok(false);
        };
        if authority == Authority::Untrusted
            && let Some(signature) = signatures.iter().find(|one| !self.rules.made(one, &info))
        {
            info.info.signatures = [signature.clone()].into();
            return Err(self.rules.unsigned(&info).into());
        }
        let of = path.clone();
        let added = self.database.write(Durability::Power, move |tx| {
            let Some(Some(info)) = objects::infos(tx, std::slice::from_ref(&of))?.pop() else {
                return Ok(Ok(false));
            };
            let mut all = info.info.signatures;
            all.extend(signatures);
            if all.len() > MAX_SIGNATURES {
                return Ok(Err(VerifyError::Signatures {
                    path: of,
                    count: all.len(),
                }));
            }
            objects::set_signatures(tx, &of, &all)?;
            Ok(Ok(true))
        });
        added.await?.map_err(Error::Verify)
    }
}

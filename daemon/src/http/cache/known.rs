//! What is behind a hash part: asked of the stores, and the narinfo that was made of their answer kept with it.

use std::sync::Arc;

use bytes::Bytes;
use nixci_protocol::binary_cache::{self, Packed};
use nixci_protocol::types::PathInfo;

use super::{Cache, answer};
use crate::objects::ObjectError;

/// A path that was found, and its narinfo.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) info: Arc<PathInfo>,
    /// The compressed file, where there was one when the narinfo was made.
    packed: Option<Packed>,
    pub(super) narinfo: Bytes,
    pub(super) etag: String,
}

impl Known {
    /// About what it takes in memory.
    pub(super) fn weight(&self) -> usize {
        // The info is shared with those who answered; its references and names are about as long as their text.
        2 * self.narinfo.len() + 200
    }
}

impl Cache {
    /// What the stores know of the path with this hash part; none when nobody has it. They are asked each time: what they
    /// keep in mind of their answers, and for how long it holds, is their matter. Only the text made of it is kept here.
    pub(super) async fn known(&self, digest: &[u8; 20]) -> Result<Option<Arc<Known>>, ObjectError> {
        let kept = self.known.get(digest);
        let mut info = match &kept {
            Some(kept) => self.core.objects.info(&kept.info.path).await?,
            None => None,
        };
        if info.is_none()
            && let Some(path) = self.core.objects.by_hash_part(digest).await?
        {
            info = self.core.objects.info(&path).await?;
        }
        let Some(info) = info else {
            self.known.invalidate(digest);
            return Ok(None);
        };
        let packed = self.nars.packed(&info.info.nar_hash);
        if let Some(kept) = kept
            && kept.packed == packed
            && (Arc::ptr_eq(&kept.info, &info) || kept.info == info)
        {
            return Ok(Some(kept));
        }
        let narinfo = binary_cache::narinfo(&self.core.config.store_dir, &info, packed);
        let known = Arc::new(Known {
            info,
            packed,
            etag: answer::etag(&narinfo),
            narinfo: narinfo.into(),
        });
        self.known.insert(*digest, known.clone());
        Ok(Some(known))
    }
}

//! `nixci-daemon backup` and `restore`: the state folder as it is at one moment, elsewhere.
//!
//! **What is in it.** The index, the spool with its large objects, and the logs that the copied index knows of. Left out
//! are uploads in progress, compressed NARs (made again when asked for), locks, the port of the pages, and everything
//! outside the state folder: the configuration, keys and tokens files. Hashes of tokens and all logs are in it, so
//! nobody but its owner may read it.
//!
//! **Order.** First no collection may begin ([`turn`]), then the index is fixed, then the spool, each as one read
//! transaction: what is uploaded is in the spool before the index refers to it, so that whatever the copied index refers
//! to is in the copied spool. Then files are copied, which only grow. A daemon that runs goes on: its writers wait for
//! none of this.
//!
//! **A backup is a folder** with files that deduplicate well, to be sent elsewhere by what people have for that. Its
//! [`manifest`] says what is in it, and is the last to be written; the folder has another name until all of it is on
//! disk. So there is a whole backup or none, whatever is killed or full.
//!
//! **A restore** goes into an empty state folder, in a folder of its own there ([`restore::UNFINISHED`]) which keeps a daemon
//! from starting until all is in place. The daemon that starts then goes on as after `kill -9`: attempts that were running
//! are planned again, and what stores have finished meanwhile is found valid.
//!
//! **What an older state means.** What came after the backup is not known any more. Clients that come with the same key
//! submit anew. Numbers given since are not given to others ([`snapshot::take_up`](nixci_store::index::snapshot::take_up)):
//! addresses and buttons at forges name nothing rather than something else. Of statuses: what was confirmed before the
//! backup is not sent again. What was waiting to be sent may have been sent since, so it counts as in doubt, and the forge
//! is asked and what it has is adopted. A status that was first written after the backup is written once more when its
//! commit is submitted again, as a newer one of the same context; one that shows `running` of an evaluation that is
//! lost stays so until then. Deliveries of webhooks that were waiting are handled again, which they may be. Pull requests
//! are known as they were, and corrected by what is told next. **Tokens that were revoked since count again**, and OIDC
//! tokens that were used since could be used once more until they expire: whoever restores has to revoke anew, and is
//! told so. Leases are of connections, of which there are none.

mod copy;
mod error;
mod manifest;
mod place;
mod restore;
mod take;
mod turn;

pub use error::BackupError;
pub use manifest::{Manifest, Schemas};
pub use restore::{Restored, check, restore};
pub use take::{Backup, backup};

pub(crate) use restore::is_unfinished;
pub(crate) use turn::for_collection;

/// The database of the index in a state folder and in a backup.
const INDEX: &str = "index.db";
/// The folder of the spool there.
const SPOOL: &str = "spool";
/// The folder of logs there.
const LOGS: &str = "logs";

/// What has to be kept apart from a backup, for people.
pub const NOT_INCLUDED: &str =
    "the configuration, keys, certificates and token files are not part of it: keep /etc/nixci apart";

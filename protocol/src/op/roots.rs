//! What must not be collected.

use bytes::Bytes;

use super::{Ack, operations};
use crate::types::StorePath;
use crate::wire::wire_struct;

operations! {
    /// Protects a path, valid or not, until the connection closes.
    AddTempRoot = 11;
    reply Ack;
    {
        /// The path.
        path: StorePath,
    }

    /// Registers a symbolic link on the server's file system as a root.
    AddIndirectRoot = 12;
    reply Ack;
    {
        /// Absolute path of the link.
        link: Bytes,
    }

    /// Nothing, since 2.5.
    SyncWithGc = 13;
    reply Ack;
    {}

    /// All roots.
    FindRoots = 14;
    reply Vec<Root>;
    {}

    /// Makes a symbolic link on the server's file system and registers it; trusted clients only.
    AddPermRoot = 47;
    since PERM_ROOT;
    reply Bytes;
    {
        /// The path to protect.
        path: StorePath,
        /// Absolute path of the link.
        link: Bytes,
    }
}

/// A root and what it protects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// A path on the server's file system, or `{censored}`, `{temp:PID}` and the like.
    pub link: Bytes,
    /// The path it protects.
    pub target: StorePath,
}

wire_struct!(Root { link, target });

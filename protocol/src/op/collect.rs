//! Keeping a store small and whole.

use std::collections::BTreeSet;

use bytes::BytesMut;

use super::{Ack, Call, Operation, operations};
use crate::types::StorePath;
use crate::wire::{FEATURE_GC_REFERRERS, Negotiated, Source, Wire, read, wire_struct, wire_tag};

operations! {
    /// Replaces equal files by hard links.
    OptimiseStore = 34;
    reply Ack;
    {}

    /// Looks for damage; the reply is whether there was some that stays.
    VerifyStore = 35;
    reply bool;
    {
        /// Hash every path.
        check_contents: bool,
        /// Try to mend; trusted clients only.
        repair: bool,
    }
}

/// What a garbage collection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GcAction {
    /// Lists what is reachable.
    ReturnLive,
    /// Lists what is not.
    ReturnDead,
    /// Deletes what is not.
    DeleteDead,
    /// Deletes the paths of the scope, if they are dead.
    DeleteSpecific,
}

wire_tag!(GcAction, "garbage collection action", {
    0 ReturnLive, 1 ReturnDead, 2 DeleteDead, 3 DeleteSpecific,
});

/// What a garbage collection looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GcScope {
    /// Everything.
    Whole,
    /// These paths.
    Paths {
        /// The paths.
        paths: BTreeSet<StorePath>,
        /// And what refers to them; lost on peers without `delete-dead-specific-referrers`.
        delete_referrers: bool,
    },
}

/// Collects garbage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectGarbage {
    /// What to do.
    pub action: GcAction,
    /// About what. Peers without `delete-dead-specific-referrers` heed paths only with
    /// [`GcAction::DeleteSpecific`].
    pub scope: GcScope,
    /// Delete what is alive; daemons always refuse.
    pub ignore_liveness: bool,
    /// Stop after so many bytes.
    pub max_freed: u64,
}

impl Operation for CollectGarbage {
    const OP: u32 = 20;
    const NAME: &'static str = "CollectGarbage";
}

impl Call for CollectGarbage {
    type Reply = Collected;
}

impl Wire for CollectGarbage {
    async fn read<S: Source>(from: &mut S) -> Result<Self, S::Error> {
        let action = read(from).await?;
        let scope = if from.on().has(FEATURE_GC_REFERRERS) {
            if bool::read(from).await? {
                GcScope::Whole
            } else {
                GcScope::Paths {
                    paths: read(from).await?,
                    delete_referrers: read(from).await?,
                }
            }
        } else {
            let paths = read(from).await?;
            match action {
                GcAction::DeleteSpecific => GcScope::Paths {
                    paths,
                    delete_referrers: false,
                },
                GcAction::ReturnLive | GcAction::ReturnDead | GcAction::DeleteDead => GcScope::Whole,
            }
        };
        let ignore_liveness = read(from).await?;
        let max_freed = read(from).await?;
        for _ in 0..3 {
            let _obsolete = u64::read(from).await?;
        }
        Ok(Self {
            action,
            scope,
            ignore_liveness,
            max_freed,
        })
    }

    fn encode(&self, on: &Negotiated, out: &mut BytesMut) {
        self.action.encode(on, out);
        if on.has(FEATURE_GC_REFERRERS) {
            match &self.scope {
                GcScope::Whole => true.encode(on, out),
                GcScope::Paths {
                    paths,
                    delete_referrers,
                } => {
                    false.encode(on, out);
                    paths.encode(on, out);
                    delete_referrers.encode(on, out);
                }
            }
        } else {
            match &self.scope {
                GcScope::Whole => BTreeSet::<StorePath>::new().encode(on, out),
                GcScope::Paths { paths, .. } => paths.encode(on, out),
            }
        }
        self.ignore_liveness.encode(on, out);
        self.max_freed.encode(on, out);
        for _ in 0..3 {
            0_u64.encode(on, out);
        }
    }
}

/// What a garbage collection found or deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Full paths, stray names in the store directory among them.
    pub paths: BTreeSet<String>,
    /// Bytes.
    pub bytes_freed: u64,
    /// Always 0.
    pub obsolete: u64,
}

wire_struct!(Collected {
    paths,
    bytes_freed,
    obsolete
});

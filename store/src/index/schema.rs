//! The schema of the index: an append-only list of migrations, of which none is ever edited.

use std::sync::LazyLock;

use rusqlite_migration::{M, Migrations};

const STEPS: &[M<'static>] = &[
    M::up(include_str!("migrations/0001-first.sql")),
    M::up(include_str!("migrations/0002-signing.sql")),
    M::up(include_str!("migrations/0003-realised-as.sql")),
    M::up(include_str!("migrations/0004-forges.sql")),
    M::up(include_str!("migrations/0005-heads.sql")),
];

/// All migrations, oldest first.
pub(super) static MIGRATIONS: LazyLock<Migrations<'static>> = LazyLock::new(|| Migrations::from_slice(STEPS));

/// The newest schema this build knows.
pub(super) const KNOWN: i64 = STEPS.len() as i64;

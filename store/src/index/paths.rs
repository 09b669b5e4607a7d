//! What stores have told of paths: tables `path` and `path_in_store`.

use nixci_protocol::nixci::control::Millis;
use nixci_protocol::types::{NarHash, PathInfo, StorePath, UnkeyedPathInfo};
use rusqlite::{Connection, Row, Transaction, params};

use super::attempts::store_id;
use super::error::Result;
use super::names::{base_name, from_column, json, nonsense, store_path, to_column};

/// Records the infos of paths that a store says are valid there. A path is recorded once; what was told last stands,
/// because outputs that were built again may differ in their hash.
pub fn record(tx: &Transaction<'_>, store: &str, infos: &[PathInfo], now: Millis) -> Result<()> {
    let store = store_id(tx, store)?;
    let mut insert = tx.prepare_cached(
        "INSERT INTO path (digest, name, deriver, nar_hash, nar_size, refs, signatures, ca, registered)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
         ON CONFLICT (digest) DO UPDATE SET deriver = coalesce(excluded.deriver, deriver),
            nar_hash = excluded.nar_hash, nar_size = excluded.nar_size, refs = excluded.refs,
            signatures = excluded.signatures, ca = excluded.ca, registered = excluded.registered
         RETURNING id",
    )?;
    let mut place = tx.prepare_cached(
        "INSERT INTO path_in_store (path, store, seen) VALUES (?1, ?2, ?3)
         ON CONFLICT (path, store) DO UPDATE SET seen = excluded.seen",
    )?;
    for PathInfo { path, info } in infos {
        let id: i64 = insert.query_row(
            params![
                path.digest(),
                path.name(),
                info.deriver.as_ref().map(StorePath::base_name),
                info.nar_hash.0,
                to_column("the size of a NAR", info.nar_size)?,
                info.references
                    .iter()
                    .map(StorePath::base_name)
                    .collect::<Vec<_>>()
                    .join(" "),
                json(&info.signatures.iter().map(ToString::to_string).collect::<Vec<_>>())?,
                info.ca.map(|ca| ca.to_string()),
                to_column("a registration time", info.registration_time)?,
            ],
            |row| row.get(0),
        )?;
        place.execute(params![id, store, now])?;
    }
    Ok(())
}

/// The infos of paths, in the order given; none where no store has told of one. `ultimate` is never set: it is the
/// privilege of the store that built a path.
pub fn infos(conn: &Connection, paths: &[StorePath]) -> Result<Vec<Option<PathInfo>>> {
    let mut find = conn.prepare_cached(INFO)?;
    paths
        .iter()
        .map(|path| {
            let mut rows = find.query(params![path.digest(), path.name()])?;
            rows.next()?.map(read).transpose()
        })
        .collect()
}

/// The stores where a path was valid, the one seen last first.
pub fn stores(conn: &Connection, path: &StorePath) -> Result<Vec<String>> {
    let mut find = conn.prepare_cached(
        "SELECT s.name FROM path p JOIN path_in_store ps ON ps.path = p.id JOIN store s ON s.id = ps.store
         WHERE p.digest = ?1 AND p.name = ?2 ORDER BY ps.seen DESC, s.name",
    )?;
    let rows = find.query_map(params![path.digest(), path.name()], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Takes back that paths are valid in a store, as when it answers that they are not.
pub fn gone(tx: &Transaction<'_>, store: &str, paths: &[StorePath]) -> Result<()> {
    let store = store_id(tx, store)?;
    let mut delete = tx.prepare_cached(
        "DELETE FROM path_in_store WHERE store = ?1 AND path = (SELECT id FROM path WHERE digest = ?2 AND name = ?3)",
    )?;
    for path in paths {
        delete.execute(params![store, path.digest(), path.name()])?;
    }
    Ok(())
}

pub(super) const INFO: &str = "SELECT digest, name, deriver, nar_hash, nar_size, refs, signatures, ca, registered
     FROM path WHERE digest = ?1 AND name = ?2";

fn read(row: &Row<'_>) -> Result<PathInfo> {
    let name: String = row.get(1)?;
    let path = store_path("path", row.get(0)?, &name)?;
    let bad = |what: &str| nonsense(format!("the {what} of path {name}"));
    let references: String = row.get(5)?;
    let signatures: String = row.get(6)?;
    let signatures: Vec<String> = serde_json::from_str(&signatures).map_err(|_| bad("signatures"))?;
    let deriver: Option<String> = row.get(2)?;
    let ca: Option<String> = row.get(7)?;
    let info = UnkeyedPathInfo {
        deriver: deriver.map(|text| base_name("path", &text)).transpose()?,
        nar_hash: NarHash(row.get(3)?),
        nar_size: from_column("the size of a NAR", row.get(4)?)?,
        references: references
            .split_ascii_whitespace()
            .map(|text| base_name("path", text))
            .collect::<Result<_>>()?,
        signatures: signatures
            .iter()
            .map(|text| text.parse().map_err(|_| bad("signatures")))
            .collect::<Result<_>>()?,
        ca: ca
            .map(|text| text.parse().map_err(|_| bad("content address")))
            .transpose()?,
        registration_time: from_column("a registration time", row.get(8)?)?,
        ultimate: false,
    };
    Ok(PathInfo { path, info })
}

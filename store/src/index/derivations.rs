//! Derivations and the graph they form: tables `derivation`, `output` and `edge`.
//!
//! A derivation that another one names as an input has a row, and so a number, before it was added
//! itself; adding it completes the row. What was added never changes.

use std::collections::{HashMap, HashSet};

use nixci_protocol::types::StorePath;
use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, Transaction, params};

use super::DrvId;
use super::error::{Error, Result};
use super::names::{from_column, json, nonsense, store_path};
use crate::derivation::Derivation;

/// What is known of one derivation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DerivationRow {
    /// Its number.
    pub id: DrvId,
    /// The path of its `.drv`.
    pub path: StorePath,
    /// What it needs; none while it was only mentioned as an input.
    pub requirements: Option<Requirements>,
}

/// What a store must offer to build a derivation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirements {
    /// The system: `x86_64-linux`, `builtin`.
    pub system: String,
    /// The required system features, sorted.
    pub features: Vec<String>,
    /// Whether its output is fixed by a hash.
    pub fixed: bool,
}

/// One output of a derivation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputRow {
    /// `out`, `dev`.
    pub name: String,
    /// Its path, where it is known before the build.
    pub path: Option<StorePath>,
}

/// Adds derivations with their outputs and inputs, in any order, and returns their numbers in the order given.
///
/// One that is there already stays as it is. Fails with [`Error::DigestInUse`] where a path differs from a known
/// one by its name only.
pub fn add(tx: &Transaction<'_>, derivations: &[Derivation]) -> Result<Vec<DrvId>> {
    let mut adding = Adding::new(tx)?;
    derivations.iter().map(|derivation| adding.add(derivation)).collect()
}

/// Gives numbers to derivations, also to those that were not added yet, in the order given.
pub fn mention(tx: &Transaction<'_>, paths: &[StorePath]) -> Result<Vec<DrvId>> {
    let mut adding = Adding::new(tx)?;
    paths.iter().map(|path| Ok(adding.mention(path)?.0)).collect()
}

/// Gives a number to a derivation that somebody sent without the derivations it needs. Its outputs are noted; it counts
/// as mentioned only, so that adding it later still completes it.
pub fn sent(tx: &Transaction<'_>, path: &StorePath, outputs: &[OutputRow]) -> Result<DrvId> {
    let (id, added) = Adding::new(tx)?.mention(path)?;
    if !added {
        let mut insert = tx.prepare_cached(
            "INSERT INTO output (drv, name, digest, path_name) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
        )?;
        for OutputRow { name, path } in outputs {
            let path = path.as_ref();
            insert.execute(params![
                id.0,
                name,
                path.map(StorePath::digest),
                path.map(StorePath::name)
            ])?;
        }
    }
    Ok(id)
}

/// The numbers of derivations by path, in the order given; none where a path was never mentioned.
pub fn ids(conn: &Connection, paths: &[StorePath]) -> Result<Vec<Option<DrvId>>> {
    let mut find = conn.prepare_cached(FIND)?;
    paths
        .iter()
        .map(|path| {
            let row = find.query_row([path.digest()], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)));
            let known = row.optional()?.filter(|(_, name)| name == path.name());
            Ok(known.map(|(id, _)| DrvId(id)))
        })
        .collect()
}

/// The paths of derivations, in the order given. Fails with [`Error::Missing`] for a number nobody has.
pub fn paths(conn: &Connection, ids: &[DrvId]) -> Result<Vec<StorePath>> {
    let mut find = conn.prepare_cached("SELECT digest, name FROM derivation WHERE id = ?1")?;
    ids.iter()
        .map(|id| {
            let row = find.query_row([id.0], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)));
            let (digest, name) = found(*id, row)?;
            path_of(digest, &name)
        })
        .collect()
}

/// What is known of one derivation; none for a number nobody has.
pub fn get(conn: &Connection, id: DrvId) -> Result<Option<DerivationRow>> {
    let mut find = conn.prepare_cached("SELECT system, features, fixed, digest, name FROM derivation WHERE id = ?1")?;
    let row = find.query_row([id.0], |row| {
        Ok((Needs::read(row)?, row.get(3)?, row.get::<_, String>(4)?))
    });
    row.optional()?
        .map(|(needs, digest, name)| {
            Ok(DerivationRow {
                id,
                path: path_of(digest, &name)?,
                requirements: needs.parse(id)?,
            })
        })
        .transpose()
}

/// What derivations need, in the order given; none for those that were only mentioned as inputs so far.
pub fn requirements(conn: &Connection, ids: &[DrvId]) -> Result<Vec<Option<Requirements>>> {
    let mut find = conn.prepare_cached("SELECT system, features, fixed FROM derivation WHERE id = ?1")?;
    ids.iter()
        .map(|id| found(*id, find.query_row([id.0], Needs::read))?.parse(*id))
        .collect()
}

/// The outputs of a derivation, by name; empty while it was only mentioned.
pub fn outputs(conn: &Connection, id: DrvId) -> Result<Vec<OutputRow>> {
    let mut find = conn.prepare_cached("SELECT name, digest, path_name FROM output WHERE drv = ?1 ORDER BY name")?;
    let mut rows = find.query([id.0])?;
    let mut outputs = Vec::new();
    while let Some(row) = rows.next()? {
        let path = match (row.get::<_, Option<[u8; 20]>>(1)?, row.get::<_, Option<String>>(2)?) {
            (Some(digest), Some(name)) => Some(store_path("output", digest, &name)?),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                return Err(nonsense(format!("an output of derivation {} has half a path", id.0)));
            }
        };
        outputs.push(OutputRow {
            name: row.get(0)?,
            path,
        });
    }
    Ok(outputs)
}

/// The derivations that promise this path as an output, lowest number first. More than one where several
/// fixed-output derivations fetch the same content; at most `limit`.
pub fn makers(conn: &Connection, path: &StorePath, limit: u32) -> Result<Vec<DrvId>> {
    let mut find = conn.prepare_cached(MAKERS)?;
    let rows = find.query_map(params![path.digest(), path.name(), limit], |row| row.get(0).map(DrvId))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The derivations that this one needs directly, lowest number first.
pub fn inputs(conn: &Connection, id: DrvId) -> Result<Vec<DrvId>> {
    let mut find = conn.prepare_cached(INPUTS)?;
    let rows = find.query_map([id.0], |row| row.get(0).map(DrvId))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The derivations that need this one directly, newest first, at most `limit`.
pub fn dependents(conn: &Connection, id: DrvId, limit: u32) -> Result<Vec<DrvId>> {
    let mut find = conn.prepare_cached(DEPENDENTS)?;
    let rows = find.query_map(params![id.0, limit], |row| row.get(0).map(DrvId))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// How many derivations need this one directly.
pub fn dependents_count(conn: &Connection, id: DrvId) -> Result<u64> {
    let mut count = conn.prepare_cached(DEPENDENTS_COUNT)?;
    from_column("a count", count.query_row([id.0], |row| row.get(0))?)
}

/// The edges between the derivations given: each needs its second directly.
pub fn edges_among(conn: &Connection, ids: &[DrvId]) -> Result<Vec<(DrvId, DrvId)>> {
    let among: HashSet<i64, foldhash::fast::FixedState> = ids.iter().map(|id| id.0).collect();
    let mut find = conn.prepare_cached(INPUTS)?;
    let mut edges = Vec::new();
    for id in ids {
        let mut rows = find.query([id.0])?;
        while let Some(row) = rows.next()? {
            let input = row.get(0)?;
            if among.contains(&input) {
                edges.push((*id, DrvId(input)));
            }
        }
    }
    Ok(edges)
}

/// The derivations given and everything they need, directly or not, each once; inputs come after what needs them first.
pub fn closure(conn: &Connection, roots: &[DrvId]) -> Result<Vec<DrvId>> {
    let mut seen: HashSet<i64, foldhash::fast::FixedState> = HashSet::default();
    let mut closure: Vec<DrvId> = roots.iter().copied().filter(|id| seen.insert(id.0)).collect();
    let mut find = conn.prepare_cached(INPUTS)?;
    let mut at = 0;
    while let Some(id) = closure.get(at).copied() {
        let mut rows = find.query([id.0])?;
        while let Some(row) = rows.next()? {
            let input = row.get(0)?;
            if seen.insert(input) {
                closure.push(DrvId(input));
            }
        }
        at += 1;
    }
    Ok(closure)
}

/// The paths of the derivations given and of everything they need, directly or not, each once.
pub fn closure_paths(conn: &Connection, roots: &[DrvId]) -> Result<Vec<StorePath>> {
    paths(conn, &closure(conn, roots)?)
}

pub(super) const FIND: &str = "SELECT id, name, system IS NOT NULL FROM derivation WHERE digest = ?1";
pub(super) const DEPENDENTS: &str = "SELECT drv FROM edge WHERE input = ?1 ORDER BY drv DESC LIMIT ?2";
pub(super) const DEPENDENTS_COUNT: &str = "SELECT count(*) FROM edge WHERE input = ?1";
pub(super) const MAKERS: &str = "SELECT drv FROM output WHERE digest = ?1 AND path_name = ?2 ORDER BY drv LIMIT ?3";
pub(super) const INPUTS: &str = "SELECT input FROM edge WHERE drv = ?1";

/// The statements of one call of [`add`], and what it knows already.
struct Adding<'c> {
    find: CachedStatement<'c>,
    mention: CachedStatement<'c>,
    complete: CachedStatement<'c>,
    output: CachedStatement<'c>,
    edge: CachedStatement<'c>,
    seen: HashMap<[u8; 20], (DrvId, bool), foldhash::fast::RandomState>,
}

impl<'c> Adding<'c> {
    fn new(tx: &'c Transaction<'_>) -> Result<Self> {
        Ok(Self {
            find: tx.prepare_cached(FIND)?,
            mention: tx.prepare_cached("INSERT INTO derivation (digest, name) VALUES (?1, ?2)")?,
            complete: tx
                .prepare_cached("UPDATE derivation SET system = ?2, features = ?3, fixed = ?4 WHERE id = ?1")?,
            // What somebody sent as a derivation is replaced by what the derivation says itself.
            output: tx.prepare_cached(
                "INSERT INTO output (drv, name, digest, path_name) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (drv, name) DO UPDATE SET digest = excluded.digest, path_name = excluded.path_name",
            )?,
            edge: tx.prepare_cached("INSERT INTO edge (drv, input) VALUES (?1, ?2)")?,
            seen: HashMap::default(),
        })
    }

    fn add(&mut self, derivation: &Derivation) -> Result<DrvId> {
        let (id, added) = self.mention(&derivation.path)?;
        if added {
            return Ok(id);
        }
        let mut features = derivation.required_features.clone();
        features.sort_unstable();
        features.dedup();
        let fixed = derivation.outputs.iter().any(|output| output.is_fixed);
        self.complete
            .execute(params![id.0, derivation.system, json(&features)?, fixed])?;
        for output in &derivation.outputs {
            let path = output.path.as_ref();
            self.output.execute(params![
                id.0,
                output.name,
                path.map(StorePath::digest),
                path.map(StorePath::name)
            ])?;
        }
        let mut inputs = Vec::with_capacity(derivation.input_drvs.len());
        for input in &derivation.input_drvs {
            inputs.push(self.mention(input)?.0);
        }
        inputs.sort_unstable();
        inputs.dedup();
        for input in inputs {
            self.edge.execute([id.0, input.0])?;
        }
        self.seen.insert(*derivation.path.digest(), (id, true));
        Ok(id)
    }

    /// The number of a path, and whether its derivation was added.
    fn mention(&mut self, path: &StorePath) -> Result<(DrvId, bool)> {
        if let Some(known) = self.seen.get(path.digest()) {
            return Ok(*known);
        }
        let row = self.find.query_row([path.digest()], |row| {
            Ok((row.get(0)?, row.get::<_, String>(1)?, row.get(2)?))
        });
        let known = match row.optional()? {
            Some((id, name, added)) if name == path.name() => (DrvId(id), added),
            Some((_, name, _)) => {
                return Err(Error::DigestInUse {
                    given: path.to_string(),
                    known: path_of(*path.digest(), &name)?.to_string(),
                });
            }
            None => (DrvId(self.mention.insert(params![path.digest(), path.name()])?), false),
        };
        self.seen.insert(*path.digest(), known);
        Ok(known)
    }
}

/// The columns of [`Requirements`] as they are stored.
struct Needs {
    system: Option<String>,
    features: Option<String>,
    fixed: Option<bool>,
}

impl Needs {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            system: row.get(0)?,
            features: row.get(1)?,
            fixed: row.get(2)?,
        })
    }

    fn parse(self, id: DrvId) -> Result<Option<Requirements>> {
        match (self.system, self.features, self.fixed) {
            (None, None, None) => Ok(None),
            (Some(system), Some(features), Some(fixed)) => Ok(Some(Requirements {
                system,
                features: serde_json::from_str(&features)
                    .map_err(|error| nonsense(format!("the features of derivation {}: {error}", id.0)))?,
                fixed,
            })),
            _ => Err(nonsense(format!("derivation {} is half there", id.0))),
        }
    }
}

fn path_of(digest: [u8; 20], name: &str) -> Result<StorePath> {
    store_path("derivation", digest, name)
}

pub(super) fn found<T>(id: DrvId, row: rusqlite::Result<T>) -> Result<T> {
    row.optional()?.ok_or(Error::Missing {
        what: "derivation",
        id: id.0,
    })
}

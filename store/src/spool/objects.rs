//! The rows of the spool: tables `object` and `block`.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use nixci_protocol::types::{NarHash, PathInfo, Signature, StorePath, UnkeyedPathInfo};
use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, Transaction, params};

use crate::index::{Error, Result};

type Numbers<V> = HashMap<i64, V, foldhash::fast::FixedState>;

/// An object to add, and where its NAR is.
#[derive(Debug)]
pub(super) struct New {
    pub(super) info: PathInfo,
    pub(super) place: NewPlace,
}

/// Where the NAR of a new object is.
#[derive(Debug)]
pub(super) enum NewPlace {
    /// In one of the blocks that are added with it.
    Block {
        /// Its place among them.
        block: usize,
        /// Where it begins there.
        at: usize,
    },
    /// In a file.
    File(String),
}

/// Small NARs, compressed together.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) size: usize,
    pub(super) content: Vec<u8>,
}

/// Where the NAR of an object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Block { block: i64, at: usize, size: usize },
    File { name: String, size: u64 },
}

/// A reference that cannot be resolved.
#[derive(Debug)]
pub(super) struct Dangling {
    pub(super) path: StorePath,
    pub(super) reference: StorePath,
}

/// Adds objects, and says of each whether it was new. All or none: a dangling reference is found before anything is
/// written. Objects that are there already stay as they are.
pub(super) fn add(
    tx: &Transaction<'_>,
    blocks: &[Packed],
    objects: &[New],
    now: u64,
    last_block: &AtomicI64,
) -> Result<std::result::Result<Vec<bool>, Dangling>> {
    let mut finder = Finder {
        find: tx.prepare_cached("SELECT id, name FROM object WHERE digest = ?1")?,
        known: HashMap::default(),
    };
    let mut next: i64 = tx.query_row("SELECT coalesce(max(id), 0) + 1 FROM object", [], |row| row.get(0))?;
    let mut ids = Vec::with_capacity(objects.len());
    for object in objects {
        let path = &object.info.path;
        ids.push(if finder.id(path)?.is_some() {
            None
        } else {
            finder.known.insert(*path.digest(), next);
            next += 1;
            Some(next - 1)
        });
    }
    let mut refs = Vec::with_capacity(objects.len());
    for (object, id) in objects.iter().zip(&ids) {
        let mut packed = Vec::new();
        if id.is_some() {
            for reference in &object.info.info.references {
                match finder.id(reference)? {
                    Some(id) => push_number(&mut packed, id as u64),
                    None => {
                        return Ok(Err(Dangling {
                            path: object.info.path.clone(),
                            reference: reference.clone(),
                        }));
                    }
                }
            }
        }
        refs.push(packed);
    }
    let blocks = NewBlocks::new(tx, blocks, last_block)?;
    insert(tx, blocks, objects, &ids, &refs, now)?;
    Ok(Ok(ids.into_iter().map(|id| id.is_some()).collect()))
}

/// Blocks that are inserted once an object in them is.
struct NewBlocks<'b> {
    packed: &'b [Packed],
    ids: Vec<Option<i64>>,
    insert: CachedStatement<'b>,
    last: &'b AtomicI64,
}

impl<'b> NewBlocks<'b> {
    fn new(tx: &'b Transaction<'_>, packed: &'b [Packed], last: &'b AtomicI64) -> Result<Self> {
        Ok(Self {
            packed,
            ids: vec![None; packed.len()],
            insert: tx.prepare_cached(ADD_BLOCK)?,
            last,
        })
    }

    /// The number of the one at this place among them.
    fn id(&mut self, at: usize) -> Result<i64> {
        if let Some(id) = self.ids[at] {
            return Ok(id);
        }
        let id = add_block(&mut self.insert, &self.packed[at], self.last)?;
        Ok(*self.ids[at].insert(id))
    }
}

pub(super) const ADD_BLOCK: &str = "INSERT INTO block (id, size, content) VALUES (?1, ?2, ?3)";

/// Adds a block and returns its number, which none has had since the spool was opened: blocks are known by their
/// numbers after they are gone.
pub(super) fn add_block(insert: &mut CachedStatement<'_>, packed: &Packed, last: &AtomicI64) -> Result<i64> {
    let id = last.fetch_add(1, Ordering::Relaxed) + 1;
    insert.execute(params![id, packed.size as i64, packed.content])?;
    Ok(id)
}

fn insert(
    tx: &Transaction<'_>,
    mut blocks: NewBlocks<'_>,
    objects: &[New],
    ids: &[Option<i64>],
    refs: &[Vec<u8>],
    now: u64,
) -> Result<()> {
    let mut add_object = tx.prepare_cached(
        "INSERT INTO object (id, digest, name, nar_hash, nar_size, deriver, signatures, ca, registered, refs, block, at, file, added)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
    )?;
    for ((object, id), refs) in objects.iter().zip(ids).zip(refs) {
        let Some(id) = id else { continue };
        let (block, at, file) = match &object.place {
            NewPlace::Block { block, at } => (Some(blocks.id(*block)?), Some(*at as i64), None),
            NewPlace::File(name) => (None, None, Some(name)),
        };
        let PathInfo { path, info } = &object.info;
        let signatures = signatures_column(path, &info.signatures)?;
        let registered = if info.registration_time == 0 {
            now
        } else {
            info.registration_time
        };
        add_object.execute(params![
            id,
            path.digest(),
            path.name(),
            info.nar_hash.0,
            column("the size of a NAR", info.nar_size)?,
            info.deriver.as_ref().map(StorePath::base_name),
            signatures,
            info.ca.map(|ca| ca.to_string()),
            column("a registration time", registered)?,
            refs,
            block,
            at,
            file,
            column("the time", now)?
        ])?;
    }
    Ok(())
}

/// Replaces the signatures of an object.
pub(super) fn set_signatures(tx: &Transaction<'_>, path: &StorePath, signatures: &BTreeSet<Signature>) -> Result<()> {
    tx.prepare_cached("UPDATE object SET signatures = ?3 WHERE digest = ?1 AND name = ?2")?
        .execute(params![
            path.digest(),
            path.name(),
            signatures_column(path, signatures)?
        ])?;
    Ok(())
}

fn signatures_column(path: &StorePath, signatures: &BTreeSet<Signature>) -> Result<String> {
    let signatures: Vec<String> = signatures.iter().map(ToString::to_string).collect();
    serde_json::to_string(&signatures).map_err(|error| nonsense(path, &error.to_string()))
}

/// Numbers of objects by path, remembered within one call.
struct Finder<'c> {
    find: CachedStatement<'c>,
    known: HashMap<[u8; 20], i64, foldhash::fast::RandomState>,
}

impl Finder<'_> {
    fn id(&mut self, path: &StorePath) -> Result<Option<i64>> {
        if let Some(id) = self.known.get(path.digest()) {
            return Ok(Some(*id));
        }
        let row = self
            .find
            .query_row([path.digest()], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)));
        match row.optional()? {
            None => Ok(None),
            Some((id, name)) if name == path.name() => {
                self.known.insert(*path.digest(), id);
                Ok(Some(id))
            }
            Some((_, name)) => Err(Error::DigestInUse {
                given: path.to_string(),
                known: format!("{}-{name}", path.hash_part()),
            }),
        }
    }
}

/// What is in memory of a spool.
pub(super) struct Loaded {
    pub(super) digests: Vec<[u8; 20]>,
    /// The files that rows name.
    pub(super) files: Vec<String>,
    pub(super) last_block: i64,
}

/// What a spool that is opened knows.
pub(super) fn load(conn: &Connection) -> Result<Loaded> {
    let digests = conn
        .prepare("SELECT digest FROM object")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let files = conn
        .prepare("SELECT file FROM object WHERE file IS NOT NULL")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let last_block = conn.query_row("SELECT coalesce(max(id), 0) FROM block", [], |row| row.get(0))?;
    Ok(Loaded {
        digests,
        files,
        last_block,
    })
}

/// Those of these digests that objects have.
pub(super) fn here(conn: &Connection, mut digests: Vec<[u8; 20]>) -> Result<Vec<[u8; 20]>> {
    let mut find = conn.prepare_cached("SELECT 1 FROM object WHERE digest = ?1")?;
    let mut failed = Ok(());
    digests.retain(|digest| match find.exists([digest]) {
        Ok(is_here) => is_here,
        Err(error) => {
            failed = Err(error);
            false
        }
    });
    failed?;
    Ok(digests)
}

/// What is known of objects, in the order given; none for what is not here.
pub(super) fn infos(conn: &Connection, paths: &[StorePath]) -> Result<Vec<Option<PathInfo>>> {
    let mut find = conn.prepare_cached(
        "SELECT refs, deriver, nar_hash, nar_size, signatures, ca, registered FROM object WHERE digest = ?1 AND name = ?2",
    )?;
    let mut names = Names::new(conn)?;
    paths
        .iter()
        .map(|path| {
            let mut rows = find.query(params![path.digest(), path.name()])?;
            rows.next()?.map(|row| info(row, path, &mut names)).transpose()
        })
        .collect()
}

/// The references of objects, in the order given; none for what is not here.
pub(super) fn references(conn: &Connection, paths: &[StorePath]) -> Result<Vec<Option<Vec<StorePath>>>> {
    let mut find = conn.prepare_cached("SELECT refs FROM object WHERE digest = ?1 AND name = ?2")?;
    let mut names = Names::new(conn)?;
    paths
        .iter()
        .map(|path| {
            let mut rows = find.query(params![path.digest(), path.name()])?;
            rows.next()?.map(|row| names.of(row, path)).transpose()
        })
        .collect()
}

/// The object with this digest.
pub(super) fn by_digest(conn: &Connection, digest: &[u8; 20]) -> Result<Option<StorePath>> {
    let mut find = conn.prepare_cached("SELECT digest, name FROM object WHERE digest = ?1")?;
    let mut rows = find.query([digest])?;
    rows.next()?.map(path_of).transpose()
}

/// All objects.
pub(super) fn all(conn: &Connection) -> Result<Vec<StorePath>> {
    let mut find = conn.prepare_cached("SELECT digest, name FROM object")?;
    let mut rows = find.query([])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        all.push(path_of(row)?);
    }
    Ok(all)
}

/// The objects that refer to this one. References are kept in one direction only, so that all are looked through.
pub(super) fn referrers(conn: &Connection, of: &StorePath) -> Result<Vec<StorePath>> {
    let mut find = conn.prepare_cached("SELECT id FROM object WHERE digest = ?1 AND name = ?2")?;
    let id: Option<i64> = find
        .query_row(params![of.digest(), of.name()], |row| row.get(0))
        .optional()?;
    let Some(id) = id else {
        return Ok(Vec::new());
    };
    let mut find = conn.prepare_cached("SELECT digest, name, refs FROM object")?;
    let mut rows = find.query([])?;
    let mut referrers = Vec::new();
    while let Some(row) = rows.next()? {
        let mut packed = row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?;
        while let Some(reference) = take_number(&mut packed) {
            if reference as i64 == id {
                referrers.push(path_of(row)?);
                break;
            }
        }
    }
    Ok(referrers)
}

/// A path whose digest and name are the first columns of a row.
fn path_of(row: &Row<'_>) -> Result<StorePath> {
    let name: String = row.get(1)?;
    StorePath::new(row.get(0)?, &name).map_err(|error| Error::Nonsense {
        what: format!("the name of an object of the spool: {error}"),
    })
}

/// Where the NAR of an object is.
pub(super) fn place(conn: &Connection, path: &StorePath) -> Result<Option<Place>> {
    let mut find =
        conn.prepare_cached("SELECT block, at, file, nar_size FROM object WHERE digest = ?1 AND name = ?2")?;
    let mut rows = find.query(params![path.digest(), path.name()])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let size: i64 = row.get(3)?;
    Ok(Some(match (row.get(0)?, row.get::<_, Option<i64>>(1)?, row.get(2)?) {
        (Some(block), Some(at), None) => Place::Block {
            block,
            at: at as usize,
            size: size as usize,
        },
        (None, None, Some(name)) => Place::File {
            name,
            size: size as u64,
        },
        _ => return Err(nonsense(path, "its content is in two places or none")),
    }))
}

/// The NARs in a block.
pub(super) fn block(conn: &Connection, id: i64) -> Result<Bytes> {
    let mut find = conn.prepare_cached("SELECT size, content FROM block WHERE id = ?1")?;
    let unpacked = find.query_row([id], |row| {
        let size: i64 = row.get(0)?;
        Ok(zstd::bulk::decompress(row.get_ref(1)?.as_blob()?, size as usize))
    })?;
    let content = unpacked.map_err(|error| Error::Nonsense {
        what: format!("block {id} of the spool: {error}"),
    })?;
    Ok(content.into())
}

/// The NARs of objects that are in blocks, in the order given; each block is unpacked once.
pub(super) fn small(conn: &Connection, paths: &[StorePath]) -> Result<Vec<Option<Bytes>>> {
    let mut places = Vec::new();
    for (nth, path) in paths.iter().enumerate() {
        if let Some(Place::Block { block, at, size }) = place(conn, path)? {
            places.push((block, at, size, nth));
        }
    }
    places.sort_unstable();
    let mut nars = vec![None; paths.len()];
    let mut unpacked: Option<(i64, Bytes)> = None;
    for (id, at, size, nth) in places {
        let content = match &unpacked {
            Some((of, content)) if *of == id => content,
            Some(_) | None => &unpacked.insert((id, block(conn, id)?)).1,
        };
        let end = at.checked_add(size).filter(|end| *end <= content.len());
        let end = end.ok_or_else(|| nonsense(&paths[nth], "its block is too short"))?;
        nars[nth] = Some(Bytes::copy_from_slice(&content[at..end]));
    }
    Ok(nars)
}

fn info(row: &Row<'_>, path: &StorePath, names: &mut Names<'_>) -> Result<PathInfo> {
    let deriver: Option<String> = row.get(1)?;
    let signatures: String = row.get(4)?;
    let signatures: Vec<String> = serde_json::from_str(&signatures).map_err(|_| nonsense(path, "its signatures"))?;
    let ca: Option<String> = row.get(5)?;
    let info = UnkeyedPathInfo {
        references: names.of(row, path)?.into_iter().collect(),
        deriver: deriver
            .map(|text| StorePath::from_base_name(&text).map_err(|_| nonsense(path, "its deriver")))
            .transpose()?,
        nar_hash: NarHash(row.get(2)?),
        nar_size: row.get::<_, i64>(3)? as u64,
        registration_time: row.get::<_, i64>(6)? as u64,
        ultimate: false,
        signatures: signatures
            .iter()
            .map(|text| text.parse().map_err(|_| nonsense(path, "a signature")))
            .collect::<Result<_>>()?,
        ca: ca
            .map(|text| text.parse().map_err(|_| nonsense(path, "its content address")))
            .transpose()?,
    };
    Ok(PathInfo {
        path: path.clone(),
        info,
    })
}

/// Paths of objects by number, remembered within one call.
struct Names<'c> {
    find: CachedStatement<'c>,
    known: Numbers<StorePath>,
}

impl<'c> Names<'c> {
    fn new(conn: &'c Connection) -> Result<Self> {
        Ok(Self {
            find: conn.prepare_cached("SELECT digest, name FROM object WHERE id = ?1")?,
            known: Numbers::default(),
        })
    }

    /// The references in the first column of a row, which are those of `path`.
    fn of(&mut self, row: &Row<'_>, path: &StorePath) -> Result<Vec<StorePath>> {
        let mut packed = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
        let mut paths = Vec::new();
        while !packed.is_empty() {
            let id = take_number(&mut packed).ok_or_else(|| nonsense(path, "its references"))? as i64;
            if let Some(known) = self.known.get(&id) {
                paths.push(known.clone());
                continue;
            }
            let row = self
                .find
                .query_row([id], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)));
            let (digest, name) = row
                .optional()?
                .ok_or_else(|| nonsense(path, "a reference has no object"))?;
            let reference = StorePath::new(digest, &name).map_err(|_| nonsense(path, "the name of a reference"))?;
            self.known.insert(id, reference.clone());
            paths.push(reference);
        }
        Ok(paths)
    }
}

fn push_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(super) fn take_number(packed: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..63).step_by(7) {
        let (byte, rest) = packed.split_first()?;
        *packed = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn column(what: &'static str, value: u64) -> Result<i64> {
    i64::try_from(value).map_err(|_| Error::TooLarge { what, value })
}

pub(super) fn nonsense(path: &StorePath, what: &str) -> Error {
    Error::Nonsense {
        what: format!("object {path} of the spool: {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_any_size_are_read_back() {
        let numbers = [0, 1, 127, 128, 300, 1 << 40, i64::MAX as u64];
        let mut packed = Vec::new();
        for number in numbers {
            push_number(&mut packed, number);
        }
        let mut rest = packed.as_slice();
        for number in numbers {
            assert_eq!(take_number(&mut rest), Some(number));
        }
        assert!(rest.is_empty());
        assert_eq!(take_number(&mut &[0x80][..]), None);
    }
}

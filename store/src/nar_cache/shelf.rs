//! Which files there are, and which one goes first.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use data_encoding::HEXLOWER;
use nixci_protocol::binary_cache::Packed;
use nixci_protocol::types::{Hash, NarHash, nix32};
use tokio::sync::Semaphore;

/// The layout of files: others than this one are not read.
const LAYOUT: &str = "v1";

/// A file, and when it was found to hold what its name says.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) nar_hash: NarHash,
    pub(super) packed: Packed,
    /// The time of the file's last change when its content was last checked; none before.
    pub(super) checked: Option<SystemTime>,
    /// One permit: who checks. Nobody else reads the file for that meanwhile.
    pub(super) checking: Arc<Semaphore>,
}

impl Item {
    pub(super) fn new(nar_hash: NarHash, packed: Packed, checked: Option<SystemTime>) -> Self {
        Self {
            nar_hash,
            packed,
            checked,
            checking: Arc::new(Semaphore::new(1)),
        }
    }
}

/// Bytes were counted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room;

#[derive(Debug)]
struct Placed {
    item: Item,
    place: u64,
}

/// The files by NAR, and by when they were last used.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    items: HashMap<NarHash, Placed>,
    /// Least recently used first.
    order: BTreeMap<u64, NarHash>,
    uses: u64,
    /// Bytes of files, those that are being written included.
    bytes: u64,
}

impl Shelf {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn peek(&self, nar_hash: &NarHash) -> Option<&Item> {
        self.items.get(nar_hash).map(|placed| &placed.item)
    }

    /// Finds a file and makes it the most recently used one.
    pub(super) fn take(&mut self, nar_hash: &NarHash) -> Option<Item> {
        let placed = self.items.get_mut(nar_hash)?;
        self.order.remove(&placed.place);
        self.uses += 1;
        placed.place = self.uses;
        self.order.insert(placed.place, *nar_hash);
        Some(placed.item.clone())
    }

    pub(super) fn checked(&mut self, nar_hash: &NarHash, at: SystemTime) {
        if let Some(placed) = self.items.get_mut(nar_hash) {
            placed.item.checked = Some(at);
        }
    }

    /// Adds a file; its bytes were counted before.
    pub(super) fn add(&mut self, item: Item) {
        self.remove(&item.nar_hash);
        self.uses += 1;
        let place = self.uses;
        self.order.insert(place, item.nar_hash);
        self.items.insert(item.nar_hash, Placed { item, place });
    }

    /// Adds a file that was there before.
    pub(super) fn restore(&mut self, item: Item) {
        self.bytes += item.packed.file_size;
        self.add(item);
    }

    /// Forgets a file.
    pub(super) fn remove(&mut self, nar_hash: &NarHash) -> Option<Item> {
        let placed = self.items.remove(nar_hash)?;
        self.order.remove(&placed.place);
        self.give_back(placed.item.packed.file_size);
        Some(placed.item)
    }

    /// Makes files go until so many bytes more fit, and counts them. None when that many never fit beside what is
    /// being written; the files that went are gone in either case.
    pub(super) fn make_room(&mut self, bytes: u64, capacity: u64) -> (Vec<Item>, Option<Room>) {
        let mut going = Vec::new();
        while self.bytes.saturating_add(bytes) > capacity {
            let Some((_, oldest)) = self.order.first_key_value() else {
                return (going, None);
            };
            let oldest = *oldest;
            going.extend(self.remove(&oldest));
        }
        self.bytes += bytes;
        (going, Some(Room))
    }

    /// Bytes that were counted and are gone.
    pub(super) fn give_back(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// The name of a file: all there is to know of it, so that there is no index to lose.
pub(super) fn name(nar_hash: &NarHash, packed: &Packed, level: i32) -> String {
    format!(
        "{}-{}-{}.{LAYOUT}.{level}.zst",
        nix32::encode(&nar_hash.0),
        packed.file_hash.base32(),
        packed.file_size
    )
}

/// What a name of this level says.
pub(super) fn parse_name(name: &str, level: i32) -> Option<(NarHash, Packed)> {
    let stem = name.strip_suffix(&format!(".{LAYOUT}.{level}.zst"))?;
    let mut parts = stem.split('-');
    let (nar_hash, file_hash, size) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let nar_hash = NarHash(nix32::decode(nar_hash.as_bytes()).ok()?);
    let packed = Packed {
        file_hash: Hash::from_sha256(nix32::decode(file_hash.as_bytes()).ok()?),
        file_size: size.parse().ok()?,
    };
    // Only one spelling counts, as the file is found by it again.
    (self::name(&nar_hash, &packed, level) == name).then_some((nar_hash, packed))
}

/// Whether a file of this name was made by a cache, of whichever layout and level.
pub(super) fn is_ours(name: &str) -> bool {
    name.strip_suffix(".zst")
        .is_some_and(|stem| stem.len() > 2 * 52 && stem.contains('-'))
}

/// A name of a file that is being written.
pub(super) fn partial_name(nar_hash: &NarHash, nth: u64) -> String {
    format!("{PARTIAL}{}-{nth}", HEXLOWER.encode(&nar_hash.0[..8]))
}

/// How the names of files begin that are being written.
pub(super) const PARTIAL: &str = "partial-";

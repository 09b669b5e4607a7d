//! Who may be connected, and how many at once: users at the socket, addresses at the HTTP door.
//!
//! Nobody waits for a place: who gets none is told why and goes. Root and the daemon's own user always get in and are
//! not counted. A connection that has not shaken hands yet gives way to a new one when places run out, the user with
//! the most connections first, so that somebody who opens many and says nothing only takes from himself.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// How often it is logged that connections are refused.
const TOLD_EVERY: Duration = Duration::from_mins(1);

/// How many connections there may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places {
    /// Of all users together: `connections`.
    pub(crate) total: usize,
    /// Of one user: `connections_per_user`.
    pub(crate) per_user: usize,
}

impl<K> Clone for Admission<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// Why there is no place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Full<K> {
    Total { open: usize },
    User { uid: K, open: usize },
}

impl<K: fmt::Display> fmt::Display for Full<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Total { open } => write!(
                f,
                "the daemon has {open} connections open, which is all it takes (`connections` in [limits]); try again later"
            ),
            Self::User { uid, open } => write!(
                f,
                "user {uid} has {open} connections open, which is all one user may have (`connections_per_user` in [limits]); close some and try again"
            ),
        }
    }
}

/// Gives out places. Clones share them.
#[derive(Debug)]
pub(crate) struct Admission<K>(Arc<Inner<K>>);

struct Inner<K> {
    /// How many there are now.
    places: Box<dyn Fn() -> Places + Send + Sync>,
    // Held for a few look-ups, never across an await.
    book: Mutex<Book<K>>,
}

#[derive(Debug)]
struct Book<K> {
    /// Counted connections.
    open: usize,
    users: HashMap<K, User>,
    /// Those that have not shaken hands; the oldest has the lowest number.
    greeting: BTreeMap<u64, (K, CancellationToken)>,
    next: u64,
    told: Option<Instant>,
}

#[derive(Debug, Default)]
struct User {
    open: usize,
    greeting: BTreeSet<u64>,
}

/// A place, freed when dropped.
#[derive(Debug)]
pub(crate) struct Place<K: Copy + Eq + Hash> {
    admission: Admission<K>,
    /// None where the connection is not counted.
    of: Option<(u64, K)>,
    lost: CancellationToken,
}

impl<K: fmt::Debug> fmt::Debug for Inner<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("book", &self.book)
            .finish_non_exhaustive()
    }
}

impl<K: Copy + Eq + Hash> Admission<K> {
    /// Asks `places` how many there are whenever somebody comes. Who is in stays in when there are fewer than before.
    pub(crate) fn new(places: impl Fn() -> Places + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner {
            places: Box::new(places),
            book: Mutex::new(Book {
                open: 0,
                users: HashMap::new(),
                greeting: BTreeMap::new(),
                next: 0,
                told: None,
            }),
        }))
    }

    /// A place for somebody who is not counted.
    pub(crate) fn always(&self) -> Place<K> {
        Place {
            admission: self.clone(),
            of: None,
            lost: CancellationToken::new(),
        }
    }

    /// A place for a user, perhaps at the cost of a connection that has not shaken hands.
    pub(crate) fn admit(&self, uid: K) -> Result<Place<K>, Full<K>> {
        let places = (self.0.places)();
        let mut book = self.book();
        let of_user = book.users.get(&uid).map_or(0, |user| user.open);
        if of_user >= places.per_user {
            let oldest = book.users.get(&uid).and_then(|user| user.greeting.first().copied());
            match oldest {
                Some(number) => book.take_back(number),
                None => return Err(Full::User { uid, open: of_user }),
            }
        } else if book.open >= places.total {
            match book.most_idle() {
                Some(number) => book.take_back(number),
                None => return Err(Full::Total { open: book.open }),
            }
        }
        let number = book.next;
        book.next += 1;
        book.open += 1;
        let lost = CancellationToken::new();
        book.greeting.insert(number, (uid, lost.clone()));
        let user = book.users.entry(uid).or_default();
        user.open += 1;
        user.greeting.insert(number);
        drop(book);
        Ok(Place {
            admission: self.clone(),
            of: Some((number, uid)),
            lost,
        })
    }

    /// Whether it is time to log again that connections are refused.
    pub(crate) fn may_tell(&self, now: Instant) -> bool {
        let mut book = self.book();
        let due = book.told.is_none_or(|told| now.duration_since(told) >= TOLD_EVERY);
        if due {
            book.told = Some(now);
        }
        due
    }

    fn book(&self) -> MutexGuard<'_, Book<K>> {
        // Nothing panics while it is held.
        self.0.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Copy + Eq + Hash> Book<K> {
    /// The oldest connection without a handshake, of the user with the most connections.
    fn most_idle(&self) -> Option<u64> {
        self.users
            .values()
            .filter_map(|user| Some((user.open, *user.greeting.first()?)))
            .max_by_key(|(open, number)| (*open, std::cmp::Reverse(*number)))
            .map(|(_, number)| number)
    }

    /// Takes the place of a connection that has not shaken hands, and has it closed.
    fn take_back(&mut self, number: u64) {
        if let Some((uid, lost)) = self.greeting.remove(&number) {
            lost.cancel();
            self.leave(number, uid);
        }
    }

    fn leave(&mut self, number: u64, uid: K) {
        self.open = self.open.saturating_sub(1);
        if let Some(user) = self.users.get_mut(&uid) {
            user.open = user.open.saturating_sub(1);
            user.greeting.remove(&number);
            if user.open == 0 {
                self.users.remove(&uid);
            }
        }
    }
}

impl<K: Copy + Eq + Hash> Place<K> {
    /// Ready when the place was given to somebody else.
    pub(crate) async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// The connection has shaken hands, and keeps its place; false when it has lost it already.
    pub(crate) fn keep(&self) -> bool {
        let Some((number, uid)) = self.of else { return true };
        let mut book = self.admission.book();
        if book.greeting.remove(&number).is_none() {
            return false;
        }
        if let Some(user) = book.users.get_mut(&uid) {
            user.greeting.remove(&number);
        }
        true
    }
}

impl<K: Copy + Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        // A place that was taken back is not this connection's any more.
        if let Some((number, uid)) = self.of
            && !self.lost.is_cancelled()
        {
            let mut book = self.admission.book();
            // Between the look and the lock it may have been taken back.
            if !self.lost.is_cancelled() {
                book.greeting.remove(&number);
                book.leave(number, uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(total: usize, per_user: usize) -> Admission<u32> {
        Admission::new(move || Places { total, per_user })
    }

    fn kept(admission: &Admission<u32>, uid: u32) -> Place<u32> {
        let place = admission.admit(uid).unwrap();
        assert!(place.keep());
        place
    }

    #[test]
    fn places_are_counted_by_user_and_freed() {
        let admission = admission(3, 2);
        let first = kept(&admission, 1);
        let _second = kept(&admission, 1);
        assert_eq!(admission.admit(1).unwrap_err(), Full::User { uid: 1, open: 2 });
        let _other = kept(&admission, 2);
        assert_eq!(admission.admit(2).unwrap_err(), Full::Total { open: 3 });
        let _own = admission.always();
        drop(first);
        let _again = kept(&admission, 1);
        assert!(admission.admit(1).is_err());
    }

    #[test]
    fn who_has_not_shaken_hands_gives_way_to_his_own_user() {
        let admission = admission(10, 2);
        let silent = admission.admit(1).unwrap();
        let other = admission.admit(2).unwrap();
        let _kept = kept(&admission, 1);
        let new = admission.admit(1).unwrap();
        assert!(silent.lost.is_cancelled() && !silent.keep());
        assert!(!other.lost.is_cancelled() && other.keep());
        drop(silent);
        // Freed once only.
        assert!(new.keep());
        assert!(admission.admit(1).is_err());
    }

    #[test]
    fn the_user_with_the_most_connections_gives_way_first() {
        let admission = admission(4, 4);
        let of_few = admission.admit(1).unwrap();
        let of_many: Vec<Place<u32>> = (0..3).map(|_| admission.admit(2).unwrap()).collect();
        let _new = kept(&admission, 3);
        assert!(of_many[0].lost.is_cancelled());
        assert!(!of_many[1].lost.is_cancelled() && !of_few.lost.is_cancelled());
    }

    #[test]
    fn refusals_are_logged_now_and_then() {
        let admission = admission(1, 1);
        let now = Instant::now();
        assert!(admission.may_tell(now));
        assert!(!admission.may_tell(now + TOLD_EVERY / 2));
        assert!(admission.may_tell(now + TOLD_EVERY));
    }
}

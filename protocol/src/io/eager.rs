//! When it pays to look for the next message instead of sleeping until it comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long somebody who was just answered is waited for without sleeping. Waking a peer that sleeps in `read` takes
/// 5 µs on most machines and 25 µs on virtual ones; it then needs a few for its next question.
pub(super) const WAIT: Duration = Duration::from_micros(60);
/// After so many messages in a row the task yields once, so that what else is due on its thread gets its turn.
const IN_A_ROW: u32 = 32;
/// Messages in a row before it is waited for: of several that talk at once each talks a few times in a row by chance.
const UNDISTURBED: u32 = 8;
/// Waits in vain double the messages until the next try, so many times at most.
const DOUBLINGS: u32 = 10;

/// The connections of one kind, such as those of a listener: only one that has nobody beside it waits awake, so that a
/// thread is never kept from others that have something to do.
#[derive(Debug, Default, Clone)]
pub struct Company(Arc<AtomicU64>);

/// What one connection has learnt about its peer: whether it asks again as soon as it was answered.
///
/// Going to sleep and being woken costs much more than answering out of memory does. A peer that asks one question after
/// the other is therefore waited for awake, for [`WAIT`] at most; one that did not come in time is tried again more
/// and more seldom.
#[derive(Debug)]
pub(super) struct Patience {
    company: Company,
    /// How many messages the company had taken when this connection took its last one.
    last: u64,
    /// So many messages came in a row while nobody else talked.
    undisturbed: u32,
    in_vain: u32,
    skip: u32,
    in_a_row: u32,
    /// There is one core: the peer cannot run while it is looked for.
    one_core: bool,
}

/// What to do before sleeping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Advice {
    /// Sleep.
    Sleep,
    /// Look for a message for [`WAIT`].
    Look,
    /// Let others have their turn, and ask again.
    Yield,
}

impl Patience {
    pub(super) fn new(company: Company) -> Self {
        let one_core = std::thread::available_parallelism().is_ok_and(|cores| cores.get() == 1);
        Self {
            last: 0,
            undisturbed: 0,
            in_vain: 0,
            skip: 0,
            in_a_row: 0,
            one_core,
            company,
        }
    }

    /// A message came.
    pub(super) fn came(&mut self) {
        let before = self.company.0.fetch_add(1, Ordering::Relaxed);
        self.undisturbed = if before == self.last {
            self.undisturbed.saturating_add(1)
        } else {
            0
        };
        self.last = before + 1;
    }

    /// Whether somebody else has talked since this connection's last message.
    pub(super) fn is_disturbed(&self) -> bool {
        self.company.0.load(Ordering::Relaxed) != self.last
    }

    /// What to do now that nothing is there and the peer has the word.
    pub(super) fn advice(&mut self) -> Advice {
        if self.one_core || self.undisturbed < UNDISTURBED || self.is_disturbed() {
            return Advice::Sleep;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return Advice::Sleep;
        }
        if self.in_a_row == IN_A_ROW {
            self.in_a_row = 0;
            return Advice::Yield;
        }
        Advice::Look
    }

    /// The message was there in time.
    pub(super) fn paid(&mut self) {
        self.in_vain = 0;
        self.in_a_row += 1;
    }

    /// It was not.
    pub(super) fn in_vain(&mut self) {
        self.in_vain = (self.in_vain + 1).min(DOUBLINGS);
        self.skip = (1 << self.in_vain) - 1;
        self.in_a_row = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patience(company: &Company) -> Patience {
        let mut patience = Patience::new(company.clone());
        patience.one_core = false;
        patience
    }

    #[test]
    fn who_asks_again_at_once_is_waited_for_and_others_get_their_turn() {
        let mut one = patience(&Company::default());
        (0..UNDISTURBED).for_each(|_| one.came());
        let mut looks = 0;
        for _ in 0..10 * IN_A_ROW {
            one.came();
            match one.advice() {
                Advice::Look => {
                    looks += 1;
                    one.paid();
                }
                Advice::Yield => assert_eq!(one.advice(), Advice::Look),
                Advice::Sleep => panic!("it came in time each time"),
            }
        }
        assert!(looks >= 9 * IN_A_ROW, "{looks}");
    }

    #[test]
    fn who_takes_its_time_is_waited_for_ever_more_seldom() {
        let mut one = patience(&Company::default());
        (0..UNDISTURBED).for_each(|_| one.came());
        let mut looks = 0;
        for _ in 0..10_000 {
            one.came();
            if one.advice() == Advice::Look {
                looks += 1;
                one.in_vain();
            }
        }
        assert!((10..30).contains(&looks), "{looks}");
        while one.advice() == Advice::Sleep {}
        one.paid();
        one.came();
        assert_eq!(one.advice(), Advice::Look, "once it paid it is tried again at once");
    }

    #[test]
    fn nobody_looks_while_others_talk() {
        let company = Company::default();
        let (mut one, mut other) = (patience(&company), patience(&company));
        one.came();
        other.came();
        for _ in 0..10 {
            one.came();
            assert_eq!((one.advice(), other.advice()), (Advice::Sleep, Advice::Sleep));
            other.came();
            assert_eq!((one.advice(), other.advice()), (Advice::Sleep, Advice::Sleep));
        }
        (0..UNDISTURBED).for_each(|_| other.came());
        assert_eq!((one.advice(), other.advice()), (Advice::Sleep, Advice::Look));
        assert!(!other.is_disturbed());
        one.came();
        assert!(other.is_disturbed());
        (0..=UNDISTURBED).for_each(|_| other.came());
        assert_eq!(other.advice(), Advice::Look);
        other.one_core = true;
        assert_eq!(other.advice(), Advice::Sleep);
    }
}

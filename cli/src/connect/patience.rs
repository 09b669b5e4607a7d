//! How long, and how often, a daemon that went away is tried again.

use std::time::{Duration, Instant};

use crate::exit::{Exit, Problem};

/// A daemon that restarts is back within this time.
const LIMIT: Duration = Duration::from_mins(1);
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// The tries after one loss.
pub(crate) struct Patience {
    since: Instant,
    pause: Duration,
    last: Problem,
}

impl Patience {
    /// The connection was lost just now, because of `problem`.
    pub(crate) fn new(problem: Problem) -> Self {
        Self {
            since: Instant::now(),
            pause: FIRST,
            last: problem,
        }
    }

    /// How long to wait before the next try, and why it is needed; fails with the last problem when the
    /// limit is reached.
    pub(crate) fn next(&mut self) -> Result<(Duration, String), Problem> {
        if self.since.elapsed() >= LIMIT {
            return Err(Problem::new(
                self.last.exit(),
                format!("{} (tried again for {} s)", self.last, LIMIT.as_secs()),
            ));
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST);
        // Said once; how to start a daemon is no news to somebody whose daemon was there a moment ago.
        let reason = if pause == FIRST {
            self.last.to_string()
        } else {
            "the daemon is not back yet".to_owned()
        };
        Ok((pause, reason))
    }

    /// A try failed. What is not a matter of reaching the daemon ends the tries.
    pub(crate) fn failed(&mut self, problem: Problem) -> Result<(), Problem> {
        if problem.exit() == Exit::Unreachable {
            self.last = problem;
            Ok(())
        } else {
            Err(problem)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_refusals_end_them() {
        let mut patience = Patience::new(Problem::unreachable("gone"));
        assert_eq!(patience.next().unwrap(), (FIRST, "gone".to_owned()));
        patience.failed(Problem::unreachable("still gone")).unwrap();
        let pauses: Vec<u128> = (0..7).map(|_| patience.next().unwrap().0.as_millis()).collect();
        assert_eq!(pauses, [200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(patience.next().unwrap().1, "the daemon is not back yet");
        assert!(patience.failed(Problem::failed("no")).is_err());
    }
}

//! Gathers what the evaluators find into batches worth a round trip.

use std::time::Duration;

use nixci_protocol::nixci::control::{Evaluated, NewJob};
use tokio::time::{Instant, timeout_at};

use crate::evaluate::Event;

/// How long a found job waits for company.
const MOMENT: Duration = Duration::from_millis(100);

/// How long an evaluation has, at its beginning, to come to its end before what it found is sent: a set that is known
/// to its end costs fewer turns, and an unchanged one only its digest.
const HEAD_START: Duration = Duration::from_secs(2);

/// Jobs in a batch at most.
const MANY: usize = 10_000;

/// What came within a moment.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// Jobs, with a derivation or an error.
    pub(super) jobs: Vec<NewJob>,
    /// Why the evaluation is incomplete.
    pub(super) fatal: Vec<String>,
    /// Whether nothing more comes.
    pub(super) ended: bool,
}

/// Waits for the first event, and then a moment for more.
pub(super) async fn gather(next: &mut impl AsyncFnMut() -> Option<Event>) -> Gathered {
    let first = next().await;
    until(Instant::now() + MOMENT, first, next).await
}

/// What comes at the beginning, before anything is worth a connection: all of it where the evaluation is short.
pub(super) async fn head_start(next: &mut impl AsyncFnMut() -> Option<Event>) -> Gathered {
    let deadline = Instant::now() + HEAD_START;
    match timeout_at(deadline, next()).await {
        Ok(first) => until(deadline, first, next).await,
        Err(_) => Gathered::default(),
    }
}

/// What comes before `deadline`, after this first event.
async fn until(deadline: Instant, first: Option<Event>, next: &mut impl AsyncFnMut() -> Option<Event>) -> Gathered {
    let mut gathered = Gathered::default();
    let mut event = first;
    loop {
        match event {
            Some(Event::Attr { attr, drv_path, .. }) => gathered.jobs.push(NewJob {
                attr,
                result: Evaluated::Drv(drv_path),
            }),
            Some(Event::AttrError { attr, message }) => gathered.jobs.push(NewJob {
                attr,
                result: Evaluated::Error(message),
            }),
            Some(Event::Fatal { message, .. }) => gathered.fatal.push(message),
            Some(Event::Progress { .. }) => {}
            Some(Event::Done) => {
                gathered.ended = true;
                return gathered;
            }
            None => {
                gathered.ended = true;
                if gathered.fatal.is_empty() {
                    gathered
                        .fatal
                        .push("the evaluation was cut off before its end".to_owned());
                }
                return gathered;
            }
        }
        if gathered.jobs.len() >= MANY {
            return gathered;
        }
        event = match timeout_at(deadline, next()).await {
            Ok(event) => event,
            Err(_) => return gathered,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::FatalKind;

    fn attr(name: &str) -> Event {
        Event::Attr {
            attr: name.parse().unwrap(),
            drv_path: format!("/nix/store/00000000000000000000000000000000-{name}.drv"),
            name: name.into(),
            system: "x".into(),
        }
    }

    fn broken(name: &str) -> Event {
        Event::AttrError {
            attr: name.parse().unwrap(),
            message: "no".into(),
        }
    }

    /// Gathers from a script of pauses and events, in the clock's own time.
    async fn batches(script: Vec<(u64, Option<Event>)>) -> Vec<(Vec<String>, Vec<String>, bool)> {
        let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
        let feeder = tokio::spawn(async move {
            for (pause, event) in script {
                tokio::time::sleep(Duration::from_millis(pause)).await;
                if let Some(event) = event {
                    sender.send(event).await.unwrap();
                }
            }
        });
        let mut next = async || receiver.recv().await;
        let mut all = Vec::new();
        loop {
            let gathered = gather(&mut next).await;
            let attrs = gathered.jobs.iter().map(|job| job.attr.to_string()).collect();
            let ended = gathered.ended;
            all.push((attrs, gathered.fatal, ended));
            if ended {
                break;
            }
        }
        feeder.await.unwrap();
        all
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_within_a_moment_goes_together_and_errors_keep_their_place() {
        let found = batches(vec![
            (500, Some(attr("a"))),
            (10, Some(broken("b"))),
            (10, Some(attr("c"))),
            (200, Some(attr("d"))),
            (10, Some(Event::Done)),
        ])
        .await;
        assert_eq!(
            found,
            [(names(&["a", "b", "c"]), vec![], false), (names(&["d"]), vec![], true)]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_evaluation_is_gathered_to_its_end_and_a_long_one_not_waited_for() {
        for (pause, attrs, ended) in [(1_500, &["a", "b"][..], true), (2_500, &["a"], false)] {
            let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
            let feeder = tokio::spawn(async move {
                sender.send(attr("a")).await.unwrap();
                tokio::time::sleep(Duration::from_millis(pause)).await;
                sender.send(attr("b")).await.unwrap();
                sender.send(Event::Done).await.unwrap();
            });
            let mut next = async || receiver.recv().await;
            let gathered = head_start(&mut next).await;
            let found: Vec<String> = gathered.jobs.iter().map(|job| job.attr.to_string()).collect();
            assert_eq!((found, gathered.ended), (names(attrs), ended));
            if !ended {
                assert_eq!(gather(&mut next).await.jobs.len(), 1, "nothing is lost between");
            }
            feeder.await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_evaluation_that_is_cut_off_is_not_taken_for_whole() {
        let found = batches(vec![(0, Some(attr("a")))]).await;
        let [(attrs, fatal, true)] = &found[..] else {
            panic!("{found:?}")
        };
        assert_eq!(*attrs, names(&["a"]));
        assert!(fatal[0].contains("cut off"), "{fatal:?}");

        let kind = FatalKind::WholeEvaluation;
        let killed = batches(vec![
            (
                0,
                Some(Event::Fatal {
                    kind,
                    message: "syntax".into(),
                }),
            ),
            (0, Some(Event::Done)),
        ])
        .await;
        assert_eq!(killed, [(vec![], names(&["syntax"]), true)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_cut_into_batches() {
        let mut script: Vec<_> = (0..=MANY).map(|n| (0, Some(attr(&format!("n{n}"))))).collect();
        script.push((0, Some(Event::Done)));
        let sizes: Vec<usize> = batches(script).await.iter().map(|(attrs, ..)| attrs.len()).collect();
        assert_eq!(sizes, [MANY, 1]);
    }
}

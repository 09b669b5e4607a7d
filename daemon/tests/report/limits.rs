//! Hundreds and thousands of jobs against a forge that takes 80 writes a minute and 500 an hour, with shorter minutes.

use std::time::{Duration, Instant};

use nixci_daemon::config::Form;
use nixci_protocol::nixci::report::StatusState::{Failure, Running, Success};

use crate::fake::{Fake, Rules};
use crate::world::{REPOSITORY, SUMMARY, World, all_sent, forge, generous, rows, scaled, wanted, word};

/// Jobs that run and end in steps, and a summary; every seventh fails. Returns when the last ended.
async fn evaluate(world: &World, jobs: usize, step: Duration) -> Instant {
    let want = |context: &str, version, state| wanted("github", REPOSITORY, context, version, state);
    let name = |job: usize| format!("job{job}");
    world.want(vec![want(SUMMARY, 1, Running)]).await;
    let all: Vec<usize> = (0..jobs).collect();
    let mut pace = tokio::time::interval(step);
    let chunks = all.chunks(jobs.div_ceil(20));
    for (nth, some) in (1..).zip(chunks) {
        world
            .want(some.iter().map(|job| want(&name(*job), 1, Running)).collect())
            .await;
        pace.tick().await;
        let end = |job: &usize| want(&name(*job), 2, if job % 7 == 6 { Failure } else { Success });
        let mut ended: Vec<_> = some.iter().map(end).collect();
        ended.push(want(SUMMARY, 1 + nth, Running));
        world.want(ended).await;
    }
    world.want(vec![want(SUMMARY, 100, Failure)]).await;
    Instant::now()
}

async fn check(world: &World, fake: &Fake, jobs: usize, ended: Instant) {
    world.until("all is sent", all_sent).await;
    let seen = fake.seen();
    let shown = seen.shown();
    assert_eq!(shown.len(), jobs + 1);
    assert_eq!(seen.gone_back(), Vec::<&(String, String)>::new());
    for ((_, context), (version, state)) in &shown {
        let expected = match context.strip_prefix("job") {
            None => (100, Failure),
            Some(job) if job.parse::<usize>().unwrap() % 7 == 6 => (2, Failure),
            Some(_) => (2, Success),
        };
        assert_eq!(
            (*version, state.as_str()),
            (expected.0, word(expected.1, Form::Checks)),
            "{context}"
        );
    }
    assert!(
        seen.writes.len() * 10 <= jobs * 12,
        "{} writes of {jobs} jobs",
        seen.writes.len()
    );
    assert_eq!(seen.limited, 0, "our pace keeps within its limits");
    assert_eq!(seen.left_open(), 0);
    let (_, at) = seen
        .told_at
        .iter()
        .find(|((_, context), _)| context == SUMMARY)
        .unwrap();
    let late = at.saturating_duration_since(ended);
    assert!(
        late < Duration::from_secs(10),
        "the summary comes {late:?} after the last job"
    );
}

fn github(minute: Duration) -> Rules {
    Rules {
        windows: vec![(80, minute), (500, minute * 60)],
        per_context: Some(1_000),
        slow: Duration::from_millis(4),
        ..Rules::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_jobs_are_shown_within_the_limits() {
    let minute = Duration::from_millis(600);
    let fake = Fake::start(github(minute), 1).await;
    let world = World::new(|dir| vec![forge(dir, "github", &fake.url, Form::Checks, scaled(minute))]);
    let ended = evaluate(&world, 300, Duration::from_millis(200)).await;
    check(&world, &fake, 300, ended).await;
    world.outbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_jobs_are_shown_within_the_limits() {
    let minute = Duration::from_millis(25);
    let fake = Fake::start(github(minute), 2).await;
    let world = World::new(|dir| vec![forge(dir, "github", &fake.url, Form::Checks, scaled(minute))]);
    let ended = evaluate(&world, 5_000, Duration::from_millis(200)).await;
    check(&world, &fake, 5_000, ended).await;
    world.outbox.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_summary_ends_last_where_nothing_limits() {
    let fake = Fake::start(Rules::default(), 3).await;
    let world = World::new(|dir| vec![forge(dir, "github", &fake.url, Form::Checks, generous())]);
    let ended = evaluate(&world, 300, Duration::from_millis(50)).await;
    check(&world, &fake, 300, ended).await;
    let seen = fake.seen();
    let (last, _) = seen.told_at.iter().max_by_key(|(_, at)| **at).unwrap();
    assert_eq!(last.1, SUMMARY);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forge_that_says_wait_is_left_alone_so_long() {
    let mut rules = github(Duration::from_millis(600));
    rules.windows = vec![(10, Duration::from_secs(2))];
    let fake = Fake::start(rules, 4).await;
    // Our pace does not know of the limit: what the forge says holds.
    let world = World::new(|dir| vec![forge(dir, "github", &fake.url, Form::Statuses, generous())]);
    let want = |job| wanted("github", REPOSITORY, &format!("job{job}"), 2, Success);
    world.want((0..25).map(want).collect()).await;
    world.until("all is sent", all_sent).await;
    assert!(rows(&world.index).await.iter().all(|row| row.error.is_none()));
    let seen = fake.seen();
    // Each time no more than those that were under way at once.
    assert!((1..=24).contains(&seen.limited), "{} refusals", seen.limited);
    assert_eq!(seen.shown().len(), 25);
}

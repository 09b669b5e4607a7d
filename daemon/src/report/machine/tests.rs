//! Whole evaluations against a forge that counts by its own clock.

use nixci_protocol::nixci::report::StatusState::{Failure, Queued, Running, Success};

use super::world::{Faults, HOUR, MINUTE, SUMMARY, World, generous, github};

const GITHUB: [(usize, i64); 2] = [(80, MINUTE), (500, HOUR)];
const SLOW: Faults = Faults {
    lost: 0.0,
    unknown: 0.0,
    failed: 0.0,
    slow: 300,
    late: 0,
};

/// Jobs that wait, run and end one after another, and a summary that tells how far it is. Every seventh fails.
fn evaluate(world: &mut World, jobs: usize, each: i64) -> i64 {
    let start = world.now;
    world.want_at(start, 1, SUMMARY, Running);
    for job in 0..jobs {
        let (name, at) = (format!("job{job}"), start + job as i64 * each);
        world.want_at(start, 1, &name, Queued);
        world.want_at(at + each / 2, 1, &name, Running);
        let end = if job % 7 == 6 { Failure } else { Success };
        world.want_at(at + each, 1, &name, end);
        world.want_at(at + each, 1, SUMMARY, Running);
    }
    let end = start + jobs as i64 * each;
    world.want_at(end, 1, SUMMARY, Failure);
    end
}

#[test]
fn three_hundred_jobs_take_few_writes_and_no_refusal() {
    let mut world = World::new(&github(), &GITHUB, SLOW, 1);
    let end = evaluate(&mut world, 300, 200);
    world.run();
    world.assert_all_shown();
    assert_eq!(world.forge.limited, 0);
    assert!(world.writes() * 10 <= 300 * 12, "{} writes", world.writes());
    let summary = world.shown(SUMMARY);
    let first = world.forge.arrivals.iter().min().unwrap();
    assert!(summary[0].0 <= first + 300, "the summary comes first: {summary:?}");
    assert!(
        summary.last().unwrap().0 <= end + 10_000,
        "and ends in time: {summary:?}"
    );
}

#[test]
fn five_thousand_jobs_take_as_long_as_the_forge_wants_and_the_summary_does_not() {
    let mut world = World::new(&github(), &GITHUB, SLOW, 2);
    let end = evaluate(&mut world, 5_000, 40);
    world.run();
    world.assert_all_shown();
    assert_eq!(world.forge.limited, 0);
    assert!(world.writes() * 10 <= 5_000 * 12, "{} writes", world.writes());
    assert!(world.shown(SUMMARY).last().unwrap().0 <= end + 10_000);
    // At 480 an hour, so it is all of what may be written that was used.
    assert!(world.now - end < 11 * HOUR, "{} hours", (world.now - end) / HOUR);
}

#[test]
fn the_summary_is_there_at_once_and_last_where_the_forge_does_not_limit() {
    let mut world = World::new(&generous(), &[], SLOW, 3);
    let end = evaluate(&mut world, 300, 200);
    world.run();
    world.assert_all_shown();
    let summary = *world.shown(SUMMARY).last().unwrap();
    assert!(summary.0 <= end + 5_000, "{} late", summary.0 - end);
    let last = world.forge.shown.values().flatten().map(|(at, ..)| *at).max();
    assert_eq!(last, Some(summary.0), "nothing comes after it");
    assert!(world.writes() * 10 <= 300 * 12, "{} writes", world.writes());
}

#[test]
fn a_green_summary_waits_for_red_jobs_and_not_for_green_ones() {
    let mut world = World::new(&github(), &GITHUB, SLOW, 4);
    let start = world.now;
    for job in 0..200 {
        // Failures that were there before: the summary is green all the same.
        let state = if job < 100 { Success } else { Failure };
        world.want_at(start, 1, &format!("job{job}"), state);
    }
    world.want_at(start, 1, SUMMARY, Success);
    world.run();
    world.assert_all_shown();
    let summary = world.shown(SUMMARY);
    assert_eq!(summary.len(), 1, "what is known already takes one write");
    let (at, _) = summary[0];
    let shown = world.forge.shown.values().flatten();
    let red: Vec<i64> = shown
        .filter(|(.., state)| *state == Failure)
        .map(|(at, ..)| *at)
        .collect();
    assert_eq!(red.len(), 100);
    assert!(red.iter().all(|red| *red <= at), "all red ones are there before");
    assert!(at < start + 2 * MINUTE, "it does not wait for the green ones");
    assert!(world.now > start + 2 * MINUTE, "which take longer");
}

#[test]
fn a_forge_that_is_down_for_a_day_loses_nothing() {
    let mut world = World::new(&github(), &GITHUB, SLOW, 5);
    world.forge.is_down = true;
    let start = world.now;
    evaluate(&mut world, 40, 1_000);
    world.run_until(start + 24 * HOUR);
    assert_eq!(world.writes(), 0);
    let tries: u64 = world.rows().iter().map(|row| row.writes).sum();
    assert!(tries < 400, "it is tried now and then: {tries} times");
    assert!(!world.is_open());
    assert!(world.machine.trouble().is_some());
    world.forge.is_down = false;
    let back = world.now;
    world.run();
    world.assert_all_shown();
    assert!(world.now < back + 7 * MINUTE, "{} s", (world.now - back) / 1_000);
    assert!(world.machine.trouble().is_none());
    assert_eq!(world.writes(), 41, "of each only the newest");
}

#[test]
fn a_repository_that_is_refused_is_left_alone_until_something_changes() {
    let mut world = World::new(&github(), &GITHUB, SLOW, 6);
    world.forge.refuses = vec!["o/r".to_owned()];
    evaluate(&mut world, 40, 1_000);
    world.run_until(world.now + HOUR);
    let refused = world.forge.refused;
    assert!((1..=8).contains(&refused), "no more than were under way: {refused}");
    world.ring();
    world.crash();
    world.run_until(world.now + HOUR);
    assert_eq!(world.forge.refused, refused, "a restart is no change");
    world.forge.refuses.clear();
    world.allow();
    world.run();
    world.assert_all_shown();
}

#[test]
fn what_is_lost_is_looked_for_before_it_is_sent_again() {
    let lossy = Faults { lost: 1.0, ..SLOW };
    let mut world = World::new(&generous(), &[], lossy, 7);
    world.want_at(world.now, 1, "job", Success);
    world.run();
    world.assert_all_shown();
    assert_eq!(
        world.writes(),
        1,
        "every answer was lost, and nothing was written twice"
    );
}

#[test]
fn of_one_context_no_more_is_written_than_the_forge_takes() {
    let mut pace = generous();
    pace.per_context = Some(40);
    let mut world = World::new(&pace, &[], SLOW, 8);
    for nth in 0..200 {
        let state = if nth % 2 == 0 { Success } else { Failure };
        world.want_at(world.now + nth * 10_000, 1, "job", state);
    }
    world.run();
    assert_eq!(world.writes(), 30);
    let row = &world.rows()[0];
    assert!(row.refused.is_some() && row.error.as_ref().unwrap().contains("push another commit"));
}

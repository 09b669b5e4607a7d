use std::collections::HashMap;
use std::sync::Arc;

use nixci_protocol::log::{ActivityType, Field, LogMessage, ResultType};
use nixci_protocol::nixci::verdict::strip_ansi;
use nixci_protocol::types::{BuildResult, BuildStatus, StoreDir, StorePath, Verbosity};
use nixci_store::index::DrvId;

use super::*;
use crate::scheduler::LiveState;

fn start(id: u64, kind: ActivityType) -> LogMessage {
    LogMessage::StartActivity {
        id,
        level: Verbosity::Info,
        kind,
        text: format!("activity {id}").into(),
        fields: Vec::new(),
        parent: 0,
    }
}

fn line(id: u64, text: &str) -> LogMessage {
    LogMessage::Result {
        id,
        kind: ResultType::BUILD_LOG_LINE,
        fields: vec![Field::Text(text.to_owned().into())],
    }
}

fn drain(mailbox: &Mailbox) -> Vec<Post> {
    std::iter::from_fn(|| mailbox.try_next()).collect()
}

fn said(posts: &[Post]) -> Vec<LogMessage> {
    let said = posts.iter().filter_map(|post| match post {
        Post::Said { message, .. } => Some(message.clone()),
        _ => None,
    });
    said.collect()
}

#[test]
fn a_client_that_does_not_read_loses_lines_and_is_told_how_many_but_no_build() {
    let mailbox = Arc::new(Mailbox::default());
    let stream = Stream::to(1, mailbox.clone());
    stream.push(&start(1, ActivityType::BUILD));
    for n in 0..10_000 {
        stream.push(&line(1, &n.to_string()));
    }
    // What is no build is left out whole while there is no room.
    stream.push(&start(2, ActivityType::SUBSTITUTE));
    stream.push(&line(2, "hidden"));
    stream.push(&LogMessage::StopActivity { id: 2 });
    stream.push(&LogMessage::StopActivity { id: 1 });
    stream.push(&start(3, ActivityType::BUILD));
    stream.push(&LogMessage::StopActivity { id: 3 });
    stream.over();
    let posts = drain(&mailbox);
    let messages = said(&posts);
    let lines = messages
        .iter()
        .filter(|message| matches!(message, LogMessage::Result { .. }))
        .count();
    assert!((1_000..10_000).contains(&lines), "{lines}");
    let activities: Vec<_> = messages
        .iter()
        .filter_map(|message| match message {
            LogMessage::StartActivity { id, .. } => Some(("start", *id)),
            LogMessage::StopActivity { id } => Some(("stop", *id)),
            LogMessage::Result { .. } | LogMessage::Next { .. } => None,
        })
        .collect();
    assert_eq!(activities, [("start", 1), ("stop", 1), ("start", 3), ("stop", 3)]);
    let left_out = posts.iter().find_map(|post| match post {
        Post::LeftOut(count) => Some(*count),
        _ => None,
    });
    assert_eq!(
        left_out,
        Some((10_000 - lines) as u64 + 1),
        "the fetching counts as one"
    );
    // There is room again.
    let stream = Stream::to(2, mailbox.clone());
    stream.push(&start(1, ActivityType::BUILD));
    stream.push(&line(1, "heard"));
    assert_eq!(said(&drain(&mailbox)).len(), 2);
}

#[test]
fn who_joins_hears_the_beginning_the_phase_and_the_last_lines() {
    let stream = Stream::to(1, Arc::new(Mailbox::default()));
    stream.push(&start(1, ActivityType::BUILD));
    stream.push(&start(2, ActivityType::BUILD));
    stream.push(&LogMessage::StopActivity { id: 2 });
    for n in 0..5_000 {
        stream.push(&line(1, &n.to_string()));
    }
    let phase = LogMessage::Result {
        id: 1,
        kind: ResultType::SET_PHASE,
        fields: vec![Field::Text("checkPhase".into())],
    };
    stream.push(&phase);
    let late = Arc::new(Mailbox::default());
    stream.join(late.clone());
    stream.push(&line(1, "live"));
    let heard = said(&drain(&late));
    assert_eq!(heard[0], start(1, ActivityType::BUILD));
    assert_eq!(heard[1], phase);
    assert_eq!(heard[2], line(1, "nixci: earlier lines of this build are in its log"));
    assert_eq!(heard[heard.len() - 2], line(1, "4999"));
    assert_eq!(heard[heard.len() - 1], line(1, "live"));
    assert!(heard.len() < 1_100, "{}", heard.len());
}

#[test]
fn numbers_of_two_sources_do_not_collide_and_everything_ends() {
    let requests = Requests::default();
    let (mut shown, begin) = Activities::begin(&requests);
    assert_eq!(begin.len(), 3);
    let mut numbers = Vec::new();
    for source in [1, 2] {
        let message = shown.said(&requests, source, start(7, ActivityType::BUILD)).unwrap();
        let LogMessage::StartActivity { id, .. } = message else {
            panic!("{message:?}")
        };
        assert_eq!(shown.said(&requests, source, line(7, "x")), Some(line(id, "x")));
        numbers.push(id);
    }
    assert_ne!(numbers[0], numbers[1]);
    assert_eq!(shown.running(), 2);
    assert_eq!(shown.said(&requests, 1, line(8, "of nothing")), None);
    assert_eq!(shown.over(1), [LogMessage::StopActivity { id: numbers[0] }]);
    assert_eq!(shown.running(), 1);
    let end = shown.end();
    assert_eq!(end.len(), 4);
    assert_eq!(end[0], LogMessage::StopActivity { id: numbers[1] });
}

#[test]
fn totals_are_summed_over_attempts_and_told_when_they_change() {
    let requests = Requests::default();
    let (mut shown, _) = Activities::begin(&requests);
    assert_eq!(shown.totals([0, 2, 0, 0]).len(), 4);
    assert_eq!(shown.totals([0, 2, 0, 0]), []);
    let totals = |done| stream::Totals {
        paths: [done, 3, 1, 0],
        expected_paths: 3,
        expected_bytes: 100,
    };
    shown.fetching(1, totals(1));
    shown.fetching(2, totals(2));
    let news = shown.totals([0, 2, 0, 0]);
    let fields = |message: &LogMessage| match message {
        LogMessage::Result { fields, .. } => fields.iter().filter_map(Field::int).collect::<Vec<_>>(),
        _ => Vec::new(),
    };
    assert_eq!(
        news.iter().map(fields).collect::<Vec<_>>(),
        [vec![3, 6, 2, 0], vec![101, 200], vec![100, 6]]
    );
    shown.over(1);
    assert_eq!(
        fields(&shown.totals([0, 2, 0, 0])[0]),
        [3, 4, 1, 0],
        "what is over counts what it did"
    );
}

fn path(drv: i64) -> StorePath {
    StorePath::new([drv as u8; 20], &format!("d{drv}.drv")).unwrap()
}

fn outline(builds: &[(i64, &[i64])], passed: &[i64]) -> Outline {
    Outline {
        store: StoreId(0),
        builds: builds
            .iter()
            .map(|(drv, inputs)| Planned {
                drv: DrvId(*drv),
                path: path(*drv),
                inputs: inputs.iter().copied().map(DrvId).collect(),
            })
            .collect(),
        passed: passed.iter().copied().map(DrvId).collect(),
    }
}

fn waits_for(roots: &[i64], keep_going: bool) -> Builds {
    Builds::new(StoreDir::default(), roots.iter().copied().map(DrvId), keep_going)
}

fn failure() -> BuildResult {
    BuildResult::new(BuildStatus::PermanentFailure, "builder for 'x' failed")
}

fn success() -> BuildResult {
    BuildResult::new(BuildStatus::Built, "")
}

fn end(builds: &mut Builds, drv: i64, result: BuildResult) -> Vec<String> {
    let lines = builds.ended(DrvId(drv), result, &HashMap::new()).lines;
    lines.iter().map(|line| strip_ansi(line).into_owned()).collect()
}

fn status(builds: &Builds, drv: i64) -> Option<BuildStatus> {
    builds.result(DrvId(drv)).map(|result| result.status)
}

#[test]
fn the_first_failure_ends_a_request_and_each_level_is_told() {
    let mut builds = waits_for(&[3], false);
    assert!(!builds.is_over(), "nothing is planned yet");
    builds.planned(outline(&[(3, &[2, 4]), (2, &[1]), (1, &[]), (4, &[])], &[]));
    let told = end(&mut builds, 1, failure());
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[0], "error: builder for 'x' failed");
    assert!(
        told[1].contains("1 dependencies of derivation") && told[1].contains("d2.drv"),
        "{told:?}"
    );
    assert!(builds.is_over(), "4 is not waited for");
    assert_eq!(status(&builds, 3), Some(BuildStatus::DependencyFailed));
    assert_eq!(builds.totals(1), [0, 1, 1, 1]);
}

#[test]
fn who_keeps_going_waits_for_all_and_counts_failed_inputs() {
    let mut builds = waits_for(&[3, 5], true);
    builds.planned(outline(&[(3, &[1, 2, 4]), (2, &[]), (1, &[]), (4, &[]), (5, &[])], &[]));
    end(&mut builds, 1, failure());
    end(&mut builds, 2, failure());
    assert_eq!(status(&builds, 3), None);
    end(&mut builds, 4, success());
    assert_eq!(status(&builds, 3), Some(BuildStatus::DependencyFailed));
    assert!(builds.result(DrvId(3)).unwrap().error_msg.contains('2'));
    assert!(!builds.is_over());
    end(&mut builds, 5, success());
    assert!(builds.is_over());
    assert_eq!(builds.totals(0), [2, 2, 0, 2]);
}

#[test]
fn what_ends_without_an_attempt_is_asked_of_the_store_or_failed_in_words() {
    let mut builds = waits_for(&[1, 2, 3, 9], true);
    builds.planned(outline(&[(1, &[]), (2, &[])], &[3]));
    assert!(builds.passed().contains_key(&DrvId(3)));
    let none = HashMap::new();
    let valid = LiveState::Succeeded(nixci_protocol::nixci::outcome::Success::AlreadyValid);
    builds.is_final(DrvId(1), &valid, &none);
    assert!(builds.passed().contains_key(&DrvId(1)) && builds.result(DrvId(1)).is_none());
    builds.is_final(DrvId(2), &LiveState::Cancelled, &none);
    assert!(builds.result(DrvId(2)).unwrap().error_msg.ends_with("was cancelled"));
    let unsupported = LiveState::Failed(nixci_protocol::nixci::outcome::FailureClass::Unsupported);
    builds.is_final(DrvId(9), &unsupported, &none);
    assert!(!builds.result(DrvId(9)).unwrap().status.is_success());
    assert!(builds.is_over());
    // Late news changes nothing.
    end(&mut builds, 2, success());
    assert_eq!(builds.totals(0), [1, 1, 0, 2]);
}

#[test]
fn a_chain_of_a_hundred_thousand_fails_without_recursion() {
    const LENGTH: i64 = 100_000;
    let mut builds = waits_for(&[LENGTH], false);
    let chain = (1..=LENGTH).map(|drv| Planned {
        drv: DrvId(drv),
        path: path(1),
        inputs: vec![DrvId(drv - 1)],
    });
    builds.planned(Outline {
        store: StoreId(0),
        builds: chain.collect(),
        passed: Vec::new(),
    });
    end(&mut builds, 1, failure());
    assert_eq!(status(&builds, LENGTH), Some(BuildStatus::DependencyFailed));
}

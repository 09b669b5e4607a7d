use std::collections::BTreeMap;

use nixci_protocol::nixci::control::{
    AttemptId, Counts, EvaluationId, EvaluationState, EvaluationSummary, JobStatus, LogEvent,
};
use nixci_protocol::nixci::outcome::{FailureClass, Outcome, Success};
use nixci_protocol::nixci::verdict::{Bucket, Conclusion, RootCause, Row, Side, Verdict as V};
use rstest::rstest;

use super::*;

const HEAD: &str = "1111111111111111111111111111111111111111";
const BASE: &str = "2222222222222222222222222222222222222222";
const NOW: i64 = 1_800_000_000_000;

fn drv(name: &str) -> String {
    format!("/nix/store/00000000000000000000000000000000-{name}.drv")
}

fn bare(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

fn summary(evaluation: i64, state: EvaluationState, counts: Counts) -> EvaluationSummary {
    EvaluationSummary {
        evaluation: EvaluationId(evaluation),
        project: "o/n".into(),
        commit: Some(HEAD.into()),
        git_ref: Some("main".into()),
        base: None,
        pull_request: None,
        source: ".#checks".into(),
        state,
        error: None,
        created: NOW - 130_000,
        ended: None,
        counts,
        page: None,
    }
}

fn done_with_trouble() -> EvaluationSummary {
    let mut one = summary(
        12,
        EvaluationState::Done,
        Counts {
            jobs: 128,
            succeeded: 118,
            failed: 1,
            blocked: 8,
            evaluation_errors: 1,
            ..Counts::default()
        },
    );
    one.ended = Some(NOW - 60_000);
    one
}

#[test]
fn a_list_has_a_line_per_evaluation() {
    let mut unnamed = summary(
        13,
        EvaluationState::Building,
        Counts {
            jobs: 6858,
            succeeded: 1000,
            building: 4,
            queued: 5854,
            ..Counts::default()
        },
    );
    unnamed.commit = None;
    unnamed.git_ref = None;
    insta::assert_snapshot!(bare(&list(&[unnamed, done_with_trouble()], NOW)));
    insta::assert_snapshot!(bare(&list(&[], NOW)), @"no evaluations yet: `nixci submit` makes one");
}

#[test]
fn a_headline_says_where_it_stands() {
    insta::assert_snapshot!(bare(&headline(&done_with_trouble(), NOW)));
    let mut broken = summary(14, EvaluationState::Done, Counts::default());
    broken.error = Some("error: flake.nix:3: syntax error\nsecond line".into());
    insta::assert_snapshot!(bare(&headline(&broken, NOW)));
}

fn job(attr: &str, outcome: Outcome, duration_ms: Option<i64>) -> JobStatus {
    JobStatus {
        attr: attr.parse().unwrap(),
        drv_path: Some(drv(attr)),
        outcome,
        duration_ms,
        attempt: duration_ms.map(|_| AttemptId(7)),
    }
}

#[test]
fn jobs_tell_what_is_behind_their_outcome() {
    let list = [
        job("a", Outcome::Succeeded { how: Success::Built }, Some(1234)),
        job(
            "b",
            Outcome::Failed {
                class: FailureClass::Timeout,
            },
            Some(3_725_000),
        ),
        job(
            "c",
            Outcome::Blocked {
                by: vec![drv("libfoo-1.2"), drv("x")],
            },
            None,
        ),
        job(
            "d",
            Outcome::Queued {
                reason: "waits for 3 builds".into(),
            },
            None,
        ),
        job(
            "e",
            Outcome::EvaluationError {
                message: "error:\n\n  missing attribute".into(),
            },
            None,
        ),
        job("f", Outcome::Building, None),
        job("g", Outcome::Forwarding, None),
        job("h", Outcome::Cancelled, None),
    ];
    insta::assert_snapshot!(bare(&jobs(&list)));
}

fn side(evaluation: i64, commit: &str) -> Side {
    Side {
        evaluation: EvaluationId(evaluation),
        project: "o/n".into(),
        commit: Some(commit.into()),
        jobs: 128,
    }
}

fn a_verdict() -> V {
    let row = |attr: &str, bucket, head| Row {
        attr: attr.parse().unwrap(),
        bucket,
        head,
        base: Some(Outcome::Succeeded { how: Success::Built }),
        drv_path: Some(drv(attr)),
    };
    let blocked = Outcome::Blocked {
        by: vec![drv("libfoo-1.2")],
    };
    let mut rows = vec![row(
        "checks.libfoo",
        Bucket::NewlyFailing,
        Some(Outcome::Failed {
            class: FailureClass::Build,
        }),
    )];
    rows.extend((0..12).map(|n| row(&format!("checks.uses-{n}"), Bucket::NewlyFailing, Some(blocked.clone()))));
    rows.push(row(
        "checks.far",
        Bucket::NotAnswered,
        Some(Outcome::Failed {
            class: FailureClass::Unsupported,
        }),
    ));
    rows.push(row("checks.old", Bucket::Removed, None));
    V {
        head: side(12, HEAD),
        base: Some(side(9, BASE)),
        conclusion: Conclusion::Failure,
        sentence: "Breaks 13 of 128: libfoo-1.2 (build failed), blocks 12 more; 1 not answered.".into(),
        counts: BTreeMap::from([
            (Bucket::NewlyFailing, 13),
            (Bucket::NotAnswered, 1),
            (Bucket::Unchanged, 114),
            (Bucket::Removed, 1),
        ]),
        rows,
        root_causes: vec![RootCause {
            drv_path: drv("libfoo-1.2"),
            name: "libfoo-1.2".into(),
            class: FailureClass::Build,
            message: "builder for 'libfoo-1.2.drv' failed with exit code 1".into(),
            log_tail: (0..12).map(|n| format!("\x1b[31mline {n}\x1b[0m")).collect(),
            attempt: Some(AttemptId(31)),
            blocks: 12,
            attr: Some("checks.libfoo".parse().unwrap()),
            on_base: false,
        }],
        error: None,
    }
}

#[test]
fn a_verdict_names_the_root_cause_with_its_last_lines() {
    insta::assert_snapshot!(bare(&verdict(&a_verdict(), Detail::Short)));
    let full = bare(&verdict(&a_verdict(), Detail::Full));
    assert!(
        full.contains("line 0") && full.contains("checks.uses-11") && !full.contains("and 3 more"),
        "{full}"
    );
}

#[test]
fn a_verdict_without_trouble_is_short() {
    let fine = V {
        base: None,
        conclusion: Conclusion::Success,
        sentence: "All 128 ok.".into(),
        counts: BTreeMap::from([(Bucket::Ok, 128)]),
        rows: Vec::new(),
        root_causes: Vec::new(),
        ..a_verdict()
    };
    insta::assert_snapshot!(bare(&verdict(&fine, Detail::Short)));
}

#[test]
fn a_log_is_framed_for_people_only() {
    let events = [
        LogEvent::Attempt {
            attempt: AttemptId(31),
            drv_path: drv("libfoo-1.2"),
            store: "auto".into(),
            started: 0,
        },
        LogEvent::Phase {
            name: "buildPhase".into(),
        },
        LogEvent::Line {
            text: "\x1b[2Jcc \x1b[31mred\x1b[0m".into(),
        },
        LogEvent::End {
            outcome: Outcome::Failed {
                class: FailureClass::Build,
            },
        },
    ];
    let print = |frame| {
        let (mut printer, mut out) = (LogPrinter::new(frame), Vec::new());
        for event in &events {
            printer.print(event, &mut out).unwrap();
        }
        bare(&String::from_utf8(out).unwrap())
    };
    insta::assert_snapshot!(print(true));
    insta::assert_snapshot!(print(false), @"cc red");
}

#[rstest]
#[case(0, "0.0s")]
#[case(-5, "0.0s")]
#[case(1_250, "1.2s")]
#[case(59_999, "59s")]
#[case(62_000, "1m 02s")]
#[case(7_800_000, "2h 10m")]
#[case(90_000_000, "1d 01h")]
fn a_duration_has_two_units_at_most(#[case] millis: i64, #[case] text: &str) {
    assert_eq!(duration(millis), text);
}

#[rstest]
#[case(0, "0", "0 B")]
#[case(999, "999", "999 B")]
#[case(1_000, "1,000", "1000 B")]
#[case(1_234_567, "1,234,567", "1.2 MiB")]
fn numbers_are_grouped_and_sizes_have_units(#[case] number: u64, #[case] digits: &str, #[case] bytes: &str) {
    assert_eq!(grouped(number), digits);
    assert_eq!(size(number), bytes);
}

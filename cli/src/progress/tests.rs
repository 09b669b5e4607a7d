use nixci_protocol::nixci::control::{AttemptId, Counts, EvaluationState, JobStatus, RunningBuild};
use nixci_protocol::nixci::outcome::{FailureClass, Outcome, Success};

use super::plain::Plain;
use super::*;

fn summary(counts: Counts) -> EvaluationSummary {
    EvaluationSummary {
        evaluation: EvaluationId(12),
        project: "o/n".into(),
        commit: Some("1111111111111111111111111111111111111111".into()),
        git_ref: Some("main".into()),
        base: None,
        pull_request: None,
        source: ".#checks".into(),
        state: EvaluationState::Building,
        error: None,
        created: 0,
        ended: None,
        counts,
        page: Some("http://localhost:1/e/12".into()),
    }
}

fn job(attr: &str, outcome: Outcome) -> control::Event {
    control::Event::Job(JobStatus {
        attr: attr.parse().unwrap(),
        drv_path: Some(format!("/nix/store/00000000000000000000000000000000-{attr}.drv")),
        outcome,
        duration_ms: Some(1500),
        attempt: Some(AttemptId(3)),
    })
}

fn lines(fold: Fold, events: &[Event<'_>]) -> String {
    let mut plain = Plain::new(fold, false);
    let mut out = Vec::new();
    for event in events {
        plain.show(event, &mut out).unwrap();
    }
    plain.close(&mut out).unwrap();
    anstream::adapter::strip_str(&String::from_utf8(out).unwrap()).to_string()
}

fn a_submission(check: impl Fn(&[Event<'_>])) {
    let attr: AttrPath = "checks.b".parse().unwrap();
    let totals = Totals {
        evaluated: 2,
        errors: 1,
        all_evaluated: true,
        negotiated: 2,
        missing: 40,
        uploaded: 40,
        uploaded_bytes: 70_000,
        submitted: 0,
    };
    let begun = summary(Counts {
        jobs: 3,
        evaluation_errors: 1,
        queued: 2,
        ..Counts::default()
    });
    let failed = job(
        "a",
        Outcome::Failed {
            class: FailureClass::Build,
        },
    );
    let fine = job("c", Outcome::Succeeded { how: Success::Built });
    let moving = control::Event::Progress {
        summary: begun.clone(),
        running: Vec::new(),
        builds_left: 7,
    };
    check(&[
        Event::Begun {
            evaluation: EvaluationId(12),
            page: begun.page.as_deref(),
            resumed: false,
        },
        Event::AttributeError {
            attr: &attr,
            message: "error: no\n  at \x1b[31m/x.nix\x1b[0m:3",
        },
        Event::Sending(totals),
        Event::Sending(Totals { submitted: 2, ..totals }),
        Event::Retrying {
            after_ms: 400,
            reason: "the daemon went away",
        },
        Event::Sent { summary: &begun },
        Event::Watched(&moving),
        Event::Watched(&fine),
        Event::Watched(&failed),
    ]);
}

#[test]
fn a_log_gets_few_lines() {
    a_submission(|events| insta::assert_snapshot!(lines(Fold::None, events)));
}

#[test]
fn actions_fold_what_is_long() {
    a_submission(|events| insta::assert_snapshot!(lines(Fold::Actions, events)));
}

#[test]
fn a_fold_that_was_opened_is_closed() {
    a_submission(|events| {
        let text = lines(Fold::GitLab, events);
        assert_eq!(text.matches("section_start").count(), 2);
        assert_eq!(text.matches("section_end").count(), 2);
    });
}

#[test]
fn json_events_are_objects_with_one_tag() {
    a_submission(|events| {
        let tags: Vec<String> = events
            .iter()
            .map(|event| {
                serde_json::to_value(event).unwrap()["event"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            })
            .collect();
        insta::assert_snapshot!(tags.join(" "), @"begun attribute-error sending sending retrying sent progress job job");
    });
}

#[test]
fn a_running_build_is_one_line() {
    let build = RunningBuild {
        drv_path: "/nix/store/00000000000000000000000000000000-libfoo-1.2.drv".into(),
        store: "auto".into(),
        started: 1_000,
        phase: Some("buildPhase".into()),
        last_line: Some("\x1b]0;t\x07cc\t-c foo.c".into()),
        attempt: AttemptId(1),
    };
    let text = live::row_text(&build, 12, 63_500);
    insta::assert_snapshot!(anstream::adapter::strip_str(&text), @"▸ libfoo-1.2     1m 02s  auto  buildPhase  cc -c foo.c");
}

#[test]
fn the_bar_counts_what_is_final() {
    let summary = summary(Counts {
        jobs: 6858,
        succeeded: 1200,
        failed: 2,
        blocked: 37,
        evaluation_errors: 1,
        building: 4,
        queued: 5614,
        cancelled: 0,
    });
    let text = live::bar_text(&summary, 20_001);
    insta::assert_snapshot!(
        anstream::adapter::strip_str(&text),
        @"1,240/6,858 jobs · 3 failed · 37 blocked · 4 building · 20,001 builds left"
    );
}

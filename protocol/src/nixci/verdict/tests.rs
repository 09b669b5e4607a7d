use proptest::prelude::*;

use super::*;
use crate::nixci::attr_path::AttrPath;
use crate::nixci::control::{AttemptId, EvaluationId, EvaluationState};
use crate::nixci::outcome::{FailureClass, Outcome, Success};

const BAD_ROOT: &str = "/nix/store/00000000000000000000000000000000-libbad-1.0.drv";
const LOST_ROOT: &str = "/nix/store/11111111111111111111111111111111-liblost-1.0.drv";

fn attr(text: &str) -> AttrPath {
    text.parse().unwrap()
}

fn drv(name: &str) -> String {
    format!("/nix/store/{:0>32}-{name}.drv", name.len())
}

fn job(name: &str, drv_path: &str, outcome: Outcome) -> JobInput {
    JobInput {
        attr: attr(name),
        drv_path: Some(drv_path.to_owned()),
        outcome,
    }
}

fn side(state: EvaluationState, jobs: Vec<JobInput>) -> SideInput {
    SideInput {
        evaluation: EvaluationId(1),
        project: "owner/project".into(),
        commit: None,
        state,
        error: None,
        jobs,
    }
}

fn done(jobs: Vec<JobInput>) -> SideInput {
    side(EvaluationState::Done, jobs)
}

fn cause(drv_path: &str, class: FailureClass) -> Cause {
    Cause {
        drv_path: drv_path.into(),
        class,
        message: format!("builder for '{drv_path}' failed with exit code 2"),
        log_tail: vec!["checking for cc… no".into(), "\u{1b}[31merror:\u{1b}[0m no `cc`".into()],
        attempt: Some(AttemptId(7)),
    }
}

fn causes() -> Vec<Cause> {
    vec![
        cause(BAD_ROOT, FailureClass::Build),
        cause(LOST_ROOT, FailureClass::Store),
    ]
}

fn ok() -> Outcome {
    Outcome::Succeeded { how: Success::Built }
}

fn failed(class: FailureClass) -> Outcome {
    Outcome::Failed { class }
}

fn blocked(by: &[&str]) -> Outcome {
    Outcome::Blocked {
        by: by.iter().map(|drv| (*drv).to_owned()).collect(),
    }
}

/// Every outcome there is, with the letter of what it means: (f)ine, (b)ad, (n)o answer, (p)ending.
fn every_outcome() -> Vec<(char, &'static str, Outcome)> {
    let mut all = vec![
        (
            'p',
            "queued",
            Outcome::Queued {
                reason: "waits for 3 builds".into(),
            },
        ),
        ('p', "forwarding", Outcome::Forwarding),
        ('p', "building", Outcome::Building),
        ('f', "built", ok()),
        (
            'f',
            "substituted",
            Outcome::Succeeded {
                how: Success::Substituted,
            },
        ),
        (
            'f',
            "already-valid",
            Outcome::Succeeded {
                how: Success::AlreadyValid,
            },
        ),
        ('b', "blocked-by-bad", blocked(&[BAD_ROOT])),
        ('b', "blocked-by-both", blocked(&[BAD_ROOT, LOST_ROOT])),
        ('n', "blocked-by-lost", blocked(&[LOST_ROOT])),
        ('n', "cancelled", Outcome::Cancelled),
        (
            'b',
            "evaluation-error",
            Outcome::EvaluationError {
                message: "error: undefined variable 'x'".into(),
            },
        ),
    ];
    for class in FailureClass::ALL {
        let letter = if class.is_remembered() { 'b' } else { 'n' };
        all.push((letter, class.words(), failed(class)));
    }
    all
}

fn bucket_of(head: Option<&JobInput>, base: Option<&SideInput>) -> Option<Bucket> {
    let verdict = verdict(&done(head.into_iter().cloned().collect()), base, &causes());
    assert!(
        verdict.counts.len() <= 1,
        "one job is in one bucket: {:?}",
        verdict.counts
    );
    verdict.counts.into_keys().next()
}

#[test]
fn every_pair_of_outcomes_has_its_bucket() {
    use Bucket::{
        AddedFailing, AddedOk, Failing, Fixed, NewlyFailing, NotAnswered, Ok, Running, StillFailing, StillOk,
    };
    // Roots of their own, so that no row is still failing by what another row says.
    let expected = |head: char, base: char| match (head, base) {
        ('p', _) => Running,
        ('n', _) => NotAnswered,
        ('f', 'f') => StillOk,
        ('f', 'b') => Fixed,
        ('f', '-') => AddedOk,
        ('f', _) => Ok,
        ('b', 'f') => NewlyFailing,
        ('b', 'b') => StillFailing,
        ('b', '-') => AddedFailing,
        ('b', _) => Failing,
        other => panic!("no such pair {other:?}"),
    };
    for (head_letter, head_name, head) in every_outcome() {
        let head = job("a", &drv("head"), head);
        for (base_letter, base_name, base) in every_outcome() {
            let base = done(vec![job("a", &drv("base-of-a"), base)]);
            assert_eq!(
                bucket_of(Some(&head), Some(&base)),
                Some(expected(head_letter, base_letter)),
                "{head_name} on head, {base_name} on base"
            );
        }
        assert_eq!(
            bucket_of(Some(&head), Some(&done(vec![]))),
            Some(expected(head_letter, '-')),
            "{head_name}, added"
        );
        let alone = match head_letter {
            'f' => Ok,
            'b' => Failing,
            'n' => NotAnswered,
            _ => Running,
        };
        assert_eq!(bucket_of(Some(&head), None), Some(alone), "{head_name}, alone");
        let base = done(vec![head]);
        assert_eq!(
            bucket_of(None, Some(&base)),
            Some(Bucket::Removed),
            "{head_name}, removed"
        );
    }
}

#[test]
fn the_same_derivation_on_both_sides_is_unchanged_when_it_is_fine() {
    let same = job("a", &drv("same"), ok());
    assert_eq!(
        bucket_of(Some(&same), Some(&done(vec![same.clone()]))),
        Some(Bucket::Unchanged)
    );
    let base = done(vec![job("a", &drv("same"), Outcome::Building)]);
    assert_eq!(bucket_of(Some(&same), Some(&base)), Some(Bucket::Unchanged));
    let bad = job("a", &drv("same"), failed(FailureClass::Build));
    assert_eq!(
        bucket_of(Some(&bad), Some(&done(vec![bad.clone()]))),
        Some(Bucket::StillFailing)
    );
}

#[test]
fn two_attributes_that_fail_to_evaluate_are_not_the_same_derivation() {
    let error = JobInput {
        attr: attr("a"),
        drv_path: None,
        outcome: Outcome::EvaluationError {
            message: "error: no".into(),
        },
    };
    let mut fine = error.clone();
    fine.outcome = ok();
    assert_eq!(bucket_of(Some(&fine), Some(&done(vec![error]))), Some(Bucket::Fixed));
}

#[test]
fn a_root_cause_that_failed_on_base_makes_its_rows_still_failing() {
    let base = done(vec![
        job("a", &drv("a-base"), ok()),
        job("lib", BAD_ROOT, failed(FailureClass::Build)),
    ]);
    let head = done(vec![
        job("a", &drv("a-head"), blocked(&[BAD_ROOT])),
        job("b", &drv("b-head"), blocked(&[BAD_ROOT])),
        job("c", &drv("c-head"), blocked(&[BAD_ROOT, LOST_ROOT])),
        job("d", &drv("d-head"), blocked(&[BAD_ROOT, &drv("other")])),
        job("e", BAD_ROOT, failed(FailureClass::Build)),
    ]);
    let verdict = verdict(&head, Some(&base), &causes());
    let buckets: Vec<_> = verdict
        .rows
        .iter()
        .map(|row| (row.attr.to_string(), row.bucket))
        .collect();
    assert_eq!(
        buckets,
        [
            ("d".to_owned(), Bucket::AddedFailing),
            ("a".to_owned(), Bucket::StillFailing),
            ("b".to_owned(), Bucket::StillFailing),
            ("c".to_owned(), Bucket::StillFailing),
            ("e".to_owned(), Bucket::StillFailing),
            ("lib".to_owned(), Bucket::Removed),
        ]
    );
    assert!(
        verdict
            .root_causes
            .iter()
            .find(|cause| cause.drv_path == BAD_ROOT)
            .unwrap()
            .on_base
    );
}

#[test]
fn a_failure_of_the_store_on_base_does_not_excuse_head() {
    let base = done(vec![
        job("x", BAD_ROOT, failed(FailureClass::Store)),
        job("a", &drv("a"), ok()),
    ]);
    let head = done(vec![job("a", &drv("a-head"), blocked(&[BAD_ROOT]))]);
    let verdict = verdict(&head, Some(&base), &[]);
    assert_eq!(verdict.count(Bucket::NewlyFailing), 1);
}

#[test]
fn jobs_are_removed_only_when_all_of_head_is_known() {
    let base = done(vec![job("gone", &drv("gone"), ok())]);
    for (state, removed) in [
        (EvaluationState::Receiving, 0),
        (EvaluationState::Abandoned, 0),
        (EvaluationState::Building, 1),
        (EvaluationState::Done, 1),
        (EvaluationState::Cancelled, 1),
    ] {
        assert_eq!(
            verdict(&side(state, vec![]), Some(&base), &[]).count(Bucket::Removed),
            removed,
            "{state:?}"
        );
    }
    let mut head = done(vec![]);
    head.error = Some("error: cannot find flake.nix".into());
    assert_eq!(verdict(&head, Some(&base), &[]).count(Bucket::Removed), 0);
}

#[test]
fn the_order_of_jobs_does_not_matter() {
    let names = ["d", "a", "c", "b", "e"];
    let head = done(names.iter().map(|name| job(name, &drv("head"), ok())).collect());
    let base = done(
        ["f", "b", "a", "0"]
            .iter()
            .map(|name| job(name, &drv("on-base"), ok()))
            .collect(),
    );
    let (verdict, buckets) = classify(&head, Some(&base), &[]);
    let expected = [
        Bucket::AddedOk,
        Bucket::StillOk,
        Bucket::AddedOk,
        Bucket::StillOk,
        Bucket::AddedOk,
    ];
    assert_eq!(buckets, expected);
    let removed: Vec<String> = verdict.rows.iter().map(|row| row.attr.to_string()).collect();
    assert_eq!(removed, ["0", "f"]);
}

#[test]
fn nothing_is_added_against_a_base_that_is_not_whole() {
    let head = [
        job("a", &drv("a"), ok()),
        job("b", &drv("bb"), failed(FailureClass::Build)),
    ];
    let mut broken = done(vec![]);
    broken.error = Some("error: out of memory".into());
    for base in [
        side(EvaluationState::Receiving, vec![]),
        side(EvaluationState::Abandoned, vec![]),
        broken,
    ] {
        let verdict = verdict(&done(head.to_vec()), Some(&base), &[]);
        assert_eq!((verdict.count(Bucket::Ok), verdict.count(Bucket::Failing)), (1, 1));
    }
}

#[test]
fn a_failed_derivation_without_a_cause_is_still_a_root_cause() {
    let head = done(vec![
        job("a", &drv("a"), blocked(&[BAD_ROOT])),
        job("t", LOST_ROOT, failed(FailureClass::Timeout)),
    ]);
    let verdict = verdict(&head, None, &[]);
    let roots: Vec<_> = verdict
        .root_causes
        .iter()
        .map(|cause| (cause.name.as_str(), cause.class))
        .collect();
    assert_eq!(
        roots,
        [
            ("libbad-1.0", FailureClass::Build),
            ("liblost-1.0", FailureClass::Timeout)
        ]
    );
}

/// A verdict of each kind, with the sentence that every surface prints.
fn scenarios() -> Vec<(&'static str, Verdict)> {
    let many = |prefix: &str, count: usize, outcome: Outcome| -> Vec<JobInput> {
        (0..count)
            .map(|n| {
                job(
                    &format!("{prefix}{n:03}"),
                    &format!("/nix/store/{n:0>32}-{prefix}.drv"),
                    outcome.clone(),
                )
            })
            .collect()
    };
    let base_of = |head: &SideInput, outcome: &Outcome| {
        let mut base = head.clone();
        for job in &mut base.jobs {
            job.drv_path = Some(drv("on-base"));
            job.outcome = outcome.clone();
        }
        base
    };
    let mut all = Vec::new();

    let fine = done(many("fine", 128, ok()));
    all.push(("all fine, alone", verdict(&fine, None, &[])));
    let mut mixed = fine.clone();
    mixed.jobs.extend(many("still", 3, failed(FailureClass::Build)));
    let mut base = base_of(&mixed, &ok());
    base.jobs
        .iter_mut()
        .rev()
        .take(3)
        .for_each(|job| job.outcome = failed(FailureClass::HashMismatch));
    all.push(("fine, three still failing", verdict(&mixed, Some(&base), &[])));
    base.jobs[0].outcome = failed(FailureClass::Build);
    base.jobs.push(job("gone", &drv("gone"), ok()));
    all.push(("fine, one fixed, one removed", verdict(&mixed, Some(&base), &[])));

    let mut breaks = fine.clone();
    breaks.jobs.push(job("libbad", BAD_ROOT, failed(FailureClass::Build)));
    breaks.jobs.extend(many("user", 37, blocked(&[BAD_ROOT])));
    breaks.jobs.extend(many("slow", 8, failed(FailureClass::Timeout)));
    breaks.jobs.extend(many("lost", 4, blocked(&[LOST_ROOT])));
    all.push(("breaks, alone", verdict(&breaks, None, &causes())));
    all.push((
        "breaks, against a base",
        verdict(&breaks, Some(&base_of(&breaks, &ok())), &causes()),
    ));
    let unknown = base_of(&breaks, &Outcome::Cancelled);
    all.push(("fails, unknown on base", verdict(&breaks, Some(&unknown), &causes())));

    let mut errors = done(many("fine", 2, ok()));
    errors.jobs.push(JobInput {
        attr: AttrPath::new(vec!["odd.name`".into(), "<b>".into()]),
        drv_path: None,
        outcome: Outcome::EvaluationError {
            message: "error: attribute '<b>' missing\n at x".into(),
        },
    });
    all.push(("an evaluation error", verdict(&errors, None, &[])));
    all.push((
        "many causes",
        verdict(
            &done(
                (0..6)
                    .map(|n| job(&n.to_string(), &drv(&"x".repeat(n + 1)), failed(FailureClass::Build)))
                    .collect(),
            ),
            None,
            &[],
        ),
    ));

    let mut running = fine.clone();
    running
        .jobs
        .iter_mut()
        .skip(90)
        .for_each(|job| job.outcome = Outcome::Building);
    running.state = EvaluationState::Building;
    all.push((
        "running, against a base",
        verdict(&running, Some(&base_of(&running, &ok())), &[]),
    ));
    running.jobs[0].outcome = failed(FailureClass::Build);
    running.state = EvaluationState::Receiving;
    all.push(("receiving, one failed", verdict(&running, None, &[])));

    all.push((
        "not answered",
        verdict(&done(many("lost", 4, failed(FailureClass::Store))), None, &[]),
    ));
    let mut cancelled = done(many("a", 2, ok()));
    cancelled.jobs.extend(many("z", 3, Outcome::Cancelled));
    cancelled.state = EvaluationState::Cancelled;
    all.push(("cancelled", verdict(&cancelled, None, &[])));
    all.push((
        "abandoned",
        verdict(&side(EvaluationState::Abandoned, many("a", 2, ok())), None, &[]),
    ));
    all.push(("no jobs", verdict(&done(vec![]), None, &[])));
    let mut broken = done(vec![]);
    broken.error =
        Some("\u{1b}[31merror:\u{1b}[0m cannot find flake 'flake:nope' in the flake registries\n  more".into());
    all.push(("whole evaluation failed", verdict(&broken, None, &[])));
    broken.jobs = many("a", 2, ok());
    all.push(("whole evaluation failed late", verdict(&broken, Some(&fine), &[])));
    all
}

#[test]
fn sentences() {
    let lines: Vec<String> = scenarios()
        .iter()
        .map(|(name, verdict)| format!("{name}: [{}] {}", verdict.conclusion.words(), verdict.sentence))
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn markdown_of_a_broken_evaluation() {
    let scenarios = scenarios();
    let (_, verdict) = scenarios
        .iter()
        .find(|(name, _)| *name == "breaks, against a base")
        .unwrap();
    let mut short = verdict.clone();
    short
        .rows
        .retain(|row| !matches!(row.head, Some(Outcome::Blocked { .. })) || row.attr.to_string().ends_with("00"));
    insta::assert_snapshot!(to_markdown(&short, 60_000));
}

#[test]
fn markdown_quotes_hostile_names_and_lines() {
    let scenarios = scenarios();
    let (_, verdict) = scenarios
        .iter()
        .find(|(name, _)| *name == "an evaluation error")
        .unwrap();
    insta::assert_snapshot!(to_markdown(verdict, 60_000));
}

#[test]
fn markdown_leaves_out_the_least_important_and_says_so() {
    let scenarios = scenarios();
    let (_, verdict) = scenarios
        .iter()
        .find(|(name, _)| *name == "breaks, against a base")
        .unwrap();
    let text = to_markdown(verdict, 1_200);
    assert!(text.len() <= 1_200, "{}", text.len());
    assert!(text.contains("Breaks 38 of 178"), "{text}");
    assert!(text.contains("libbad-1.0"), "{text}");
    assert!(text.contains("left out"), "{text}");
}

#[test]
fn names_and_escapes() {
    assert_eq!(derivation_name(BAD_ROOT), "libbad-1.0");
    assert_eq!(derivation_name("odd"), "odd");
    assert_eq!(derivation_name(""), "");
    assert_eq!(strip_ansi("\u{1b}[1;31mred\u{1b}[0m\ttab"), "red\ttab");
    assert_eq!(
        strip_ansi("\u{1b}]8;;http://x\u{7}link\u{1b}]8;;\u{1b}\\!\u{1b}"),
        "link!"
    );
    assert_eq!(strip_ansi("a\rb\u{8}c\u{9b}31m"), "abc31m");
}

fn any_outcome() -> impl Strategy<Value = Outcome> {
    let all: Vec<Outcome> = every_outcome()
        .into_iter()
        .map(|(_, _, outcome)| outcome)
        .chain([blocked(&[])])
        .collect();
    proptest::sample::select(all)
}

fn any_side() -> impl Strategy<Value = SideInput> {
    let states = [
        EvaluationState::Receiving,
        EvaluationState::Building,
        EvaluationState::Done,
        EvaluationState::Cancelled,
        EvaluationState::Abandoned,
    ];
    let job = ("[a-e]{1,2}", proptest::option::of(0..6_usize), any_outcome());
    (
        proptest::sample::select(states.to_vec()),
        proptest::option::of(".{0,40}"),
        proptest::collection::vec(job, 0..40),
    )
        .prop_map(|(state, error, jobs)| {
            let mut seen = std::collections::HashSet::new();
            let jobs = jobs
                .into_iter()
                .filter(|(name, _, _)| seen.insert(name.clone()))
                .map(|(name, at, outcome)| JobInput {
                    attr: attr(&name),
                    drv_path: at.map(|at| {
                        if at == 0 {
                            BAD_ROOT.to_owned()
                        } else {
                            drv(&"d".repeat(at))
                        }
                    }),
                    outcome,
                })
                .collect();
            SideInput {
                error,
                ..side(state, jobs)
            }
        })
}

proptest! {
    #[test]
    fn counts_sum_up_and_there_is_always_a_sentence(
        head in any_side(),
        base in proptest::option::of(any_side()),
        limit in 0..5_000_usize,
    ) {
        let verdict = verdict(&head, base.as_ref(), &causes());
        let on_head: u64 = verdict.counts.iter().filter(|(bucket, _)| **bucket != Bucket::Removed).map(|(_, n)| n).sum();
        prop_assert_eq!(on_head, head.jobs.len() as u64);
        prop_assert!(verdict.counts.values().all(|count| *count > 0));
        prop_assert!(verdict.sentence.len() > 5);
        prop_assert!(!verdict.sentence.contains('\n'));
        for (bucket, count) in &verdict.counts {
            let listed = verdict.rows.iter().filter(|row| row.bucket == *bucket).count() as u64;
            prop_assert!(listed == *count || (listed == 0 && bucket.is_fine()));
        }
        let counts_against = verdict.counts.keys().any(|bucket| bucket.counts_against_head());
        match verdict.conclusion {
            Conclusion::Success => prop_assert!(!counts_against && verdict.count(Bucket::NotAnswered) == 0),
            Conclusion::Incomplete => prop_assert!(!counts_against),
            Conclusion::Failure => prop_assert!(counts_against || head.error.is_some()),
            Conclusion::Running => prop_assert!(verdict.count(Bucket::Running) > 0 || head.state == EvaluationState::Receiving),
        }
        prop_assert!(to_markdown(&verdict, limit).len() <= limit);
        let json = serde_json::to_string(&verdict).unwrap();
        prop_assert_eq!(serde_json::from_str::<Verdict>(&json).unwrap(), verdict);
    }
}

//! What attempts come to.

use std::collections::HashMap;

use nixci_protocol::nixci::outcome::{FailureClass, Success};
use rstest::rstest;

use super::super::attempts::{self, AttemptEnd, AttemptResult};
use super::super::outcomes::{self, Standing};
use super::super::{DrvId, Error, derivations};
use super::{BUILT, CANCELLED, FAILED, STORE, TIMEOUT, add_graph, attempt, derivation, index};

#[rstest]
#[case(&[], "open")]
#[case(&[CANCELLED], "cancelled")]
#[case(&[BUILT], "succeeded")]
#[case(&[FAILED], "failed build")]
#[case(&[FAILED, BUILT], "succeeded")]
#[case(&[BUILT, FAILED], "failed build")]
#[case(&[BUILT, TIMEOUT], "failed timeout")]
#[case(&[BUILT, STORE, STORE, CANCELLED], "succeeded")]
#[case(&[FAILED, STORE], "failed store")]
#[case(&[BUILT, FAILED, STORE], "failed store")]
#[case(&[STORE, CANCELLED], "failed store")]
#[case(&[FAILED, CANCELLED], "failed build")]
#[tokio::test]
async fn the_newest_attempt_that_says_something_decides(#[case] results: &[AttemptResult], #[case] expected: &str) {
    let (index, _dir) = index();
    let results = results.to_vec();
    let standing = index
        .write(move |tx| {
            let drv = add_graph(tx, &["a:"])?["a"];
            for result in results {
                attempt(tx, drv, result)?;
            }
            // Running ones say nothing.
            attempts::begin(tx, drv, "auto", 3)?;
            Ok(outcomes::of(tx, &[drv])?[0])
        })
        .await
        .unwrap();
    let words = match standing {
        Standing::Open => "open".to_owned(),
        Standing::Cancelled { .. } => "cancelled".to_owned(),
        Standing::Succeeded { .. } => "succeeded".to_owned(),
        Standing::Failed { class, .. } => format!("failed {}", serde_json::to_value(class).unwrap().as_str().unwrap()),
    };
    assert_eq!(words, expected);
}

#[tokio::test]
async fn failures_are_remembered_until_they_expire_or_are_forgotten() {
    let (index, _dir) = index();
    index
        .write(|tx| {
            let ids = add_graph(tx, &["a:", "b:", "c:", "d:"])?;
            let (a, b, c, d) = (ids["a"], ids["b"], ids["c"], ids["d"]);
            let failing = attempts::begin(tx, a, "auto", 10)?;
            let end = AttemptEnd {
                result: FAILED,
                message: "builder failed".to_owned(),
                log_lines: 3,
                expires: Some(100),
            };
            assert!(attempts::finish(tx, failing, &end, 20)?);
            assert!(!attempts::finish(tx, failing, &end, 30)?, "an attempt ends once");
            assert_eq!(attempts::get(tx, failing)?.unwrap().ended, Some(20));
            for (drv, result) in [(b, FAILED), (c, TIMEOUT), (d, FAILED), (d, BUILT)] {
                attempt(tx, drv, result)?;
            }
            let remembered = |now| -> Result<Vec<DrvId>, Error> {
                let mut drvs: Vec<_> = attempts::remembered_failures(tx, &[a, b, c, d], now)?
                    .into_keys()
                    .collect();
                drvs.sort_unstable();
                Ok(drvs)
            };
            assert_eq!(remembered(99)?, [a, b]);
            assert_eq!(remembered(100)?, [b]);
            // It stays what the derivation has come to.
            assert!(matches!(
                outcomes::of(tx, &[a])?[0],
                Standing::Failed {
                    class: FailureClass::Build,
                    ..
                }
            ));
            assert_eq!(attempts::forget(tx, &[a, b, d])?, 3);
            assert!(remembered(99)?.is_empty());
            assert_eq!(outcomes::of(tx, &[a])?, [Standing::Open]);
            assert!(attempts::of(tx, a)?[0].forgotten, "it stays in the history");
            assert!(matches!(outcomes::of(tx, &[d])?[0], Standing::Succeeded { .. }));
            let unknown = attempts::finish(tx, nixci_protocol::nixci::control::AttemptId(99), &end, 1).unwrap_err();
            assert_eq!(unknown.to_string(), "there is no attempt 99");
            Ok(())
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn what_ran_when_the_daemon_stopped_is_a_store_failure() {
    let (index, _dir) = index();
    index
        .write(|tx| {
            let ids = add_graph(tx, &["a:", "b:"])?;
            let done = attempt(tx, ids["a"], BUILT)?;
            let running = attempts::begin(tx, ids["a"], "auto", 10)?;
            assert_eq!(attempts::running(tx)?[0].id, running);
            assert_eq!(attempts::requeue_running(tx, 50)?, 1);
            assert_eq!(attempts::requeue_running(tx, 50)?, 0);
            let row = attempts::get(tx, running)?.unwrap();
            assert_eq!((row.result, row.message.as_str()), (Some(STORE), "the daemon stopped"));
            assert_eq!(
                attempts::last(tx, &[ids["a"], ids["b"]])?,
                HashMap::from([(ids["a"], row)])
            );
            let stands = Standing::Succeeded {
                how: Success::Built,
                attempt: done,
            };
            assert_eq!(outcomes::of(tx, &[ids["a"]])?, [stands]);
            Ok(())
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn what_a_store_has_is_recorded_once() {
    let (index, _dir) = index();
    index
        .write(|tx| {
            let ids = add_graph(tx, &["a:", "b:"])?;
            let drvs = [ids["a"], ids["b"]];
            attempt(tx, ids["a"], FAILED)?;
            assert_eq!(attempts::record_valid(tx, &drvs, "auto", Success::Substituted, 5)?, 2);
            assert_eq!(attempts::record_valid(tx, &drvs, "other", Success::AlreadyValid, 6)?, 0);
            let row = attempts::last(tx, &drvs)?.remove(&ids["a"]).unwrap();
            assert_eq!((row.started, row.ended, row.store.as_str()), (5, Some(5), "auto"));
            assert_eq!(row.result, Some(AttemptResult::Succeeded(Success::Substituted)));
            Ok(())
        })
        .await
        .unwrap();
}

/// `states` names the derivations that have an attempt, as `+` or `-` and the name; `expected` what blocks each.
async fn check_blocked(graph: &'static [&'static str], states: &'static str, expected: &'static [(&str, &str)]) {
    let (index, _dir) = index();
    index
        .write(move |tx| {
            let ids = add_graph(tx, graph)?;
            let names: HashMap<_, _> = ids.iter().map(|(name, id)| (*id, name.as_str())).collect();
            for state in states.split_whitespace() {
                let (result, name) = state.split_at(1);
                attempt(tx, ids[name], if result == "+" { BUILT } else { FAILED })?;
            }
            let all: Vec<_> = ids.values().copied().collect();
            let mut blocked: Vec<(&str, String)> = outcomes::blocked_by(tx, &all)?
                .into_iter()
                .map(|(drv, by)| {
                    let mut by: Vec<_> = by.iter().map(|cause| names[cause]).collect();
                    by.sort_unstable();
                    (names[&drv], by.join(" "))
                })
                .collect();
            blocked.sort_unstable();
            let blocked: Vec<_> = blocked.iter().map(|(name, by)| (*name, by.as_str())).collect();
            assert_eq!(blocked, expected);
            Ok(())
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn root_causes_are_named_and_never_what_stands_between() {
    let graph = &["a:", "b: a", "c: b", "d: c x", "x:", "e: d", "free: x"];
    check_blocked(graph, "", &[]).await;
    check_blocked(graph, "-a", &[("b", "a"), ("c", "a"), ("d", "a"), ("e", "a")]).await;
    check_blocked(
        graph,
        "-a -x",
        &[("b", "a"), ("c", "a"), ("d", "a x"), ("e", "a x"), ("free", "x")],
    )
    .await;
    // Past what has succeeded nothing is needed any more.
    check_blocked(graph, "-a +b -x", &[("d", "x"), ("e", "x"), ("free", "x")]).await;
    // A failed one in between is the cause itself.
    check_blocked(graph, "-a -c", &[("b", "a"), ("d", "c"), ("e", "c")]).await;
    check_blocked(graph, "-a +d", &[("b", "a"), ("c", "a")]).await;
}

#[tokio::test]
async fn a_graph_of_any_depth_is_walked_without_recursion() {
    let (index, _dir) = index();
    index
        .write(|tx| {
            let names: Vec<String> = (0..20_000).map(|at| format!("n{at}")).collect();
            let mut drvs = vec![derivation("n0", &[])];
            for pair in names.windows(2) {
                drvs.push(derivation(&pair[1], &[&pair[0]]));
            }
            let ids = derivations::add(tx, &drvs)?;
            attempt(tx, ids[0], FAILED)?;
            let blocked = outcomes::blocked_by(tx, &ids[19_999..])?;
            assert_eq!(blocked, HashMap::from([(ids[19_999], vec![ids[0]])]));
            assert_eq!(derivations::closure(tx, &ids[19_999..])?.len(), 20_000);
            Ok(())
        })
        .await
        .unwrap();
}

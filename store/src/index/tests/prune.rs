//! Which evaluations are forgotten, and what goes with them.

use nixci_protocol::nixci::control::{EvaluationId, EvaluationState};

use super::super::prune::{self, Keep};
use super::super::{evaluations, jobs};
use super::*;

const KEEP: Keep = Keep {
    ended_since: 1_000,
    newest: 2,
};

fn submission(key: &str, project: &str, commit: Option<&str>, base: Option<&str>) -> Submission {
    Submission {
        key: key.to_owned(),
        project: project.to_owned(),
        commit: commit.map(str::to_owned),
        git_ref: None,
        base: base.map(str::to_owned),
        pull_request: None,
        source: "test".to_owned(),
        labels: BTreeMap::new(),
    }
}

/// An evaluation of one job, that ended at this time if it did.
async fn evaluation(index: &Index, of: Submission, drv: &str, ended: Option<i64>) -> EvaluationId {
    let drv = path(drv);
    index
        .write(move |tx| {
            let (id, _) = evaluations::begin(tx, &of, "uid:0", 1)?;
            let drvs = derivations::mention(tx, std::slice::from_ref(&drv))?;
            let job = JobRow {
                attr: "job".parse().unwrap(),
                drv: Some((drvs[0], drv)),
                error: None,
            };
            jobs::add(tx, id, &[job])?;
            if let Some(ended) = ended {
                evaluations::set_state(tx, id, EvaluationState::Done, ended)?;
            }
            Ok(id)
        })
        .await
        .unwrap()
}

#[tokio::test]
async fn old_evaluations_go_but_for_the_newest_the_open_and_the_bases() {
    let (index, _dir) = index();
    let base = "b".repeat(40);
    let mut ids = Vec::new();
    for (nth, (project, commit, base, ended)) in [
        ("one", None, None, Some(10)),
        ("one", Some(base.as_str()), None, Some(11)),
        ("one", None, None, None),
        ("one", None, None, Some(2_000)),
        ("two", Some(base.as_str()), None, Some(12)),
        ("one", None, Some(base.as_str()), Some(13)),
        ("one", None, None, Some(14)),
        ("two", None, None, Some(15)),
        ("two", None, None, Some(16)),
    ]
    .into_iter()
    .enumerate()
    {
        let of = submission(&nth.to_string(), project, commit, base);
        ids.push(evaluation(&index, of, &format!("d{nth}.drv"), ended).await);
    }
    let expired = index.read(|conn| prune::expired(conn, KEEP)).await.unwrap();
    assert_eq!(expired, [ids[0], ids[4]]);
    let digests = |from: &[usize]| from.iter().map(|nth| *path(&format!("d{nth}.drv")).digest()).collect();
    let kept = [1, 2, 3, 5, 6, 7, 8];
    let without = expired.clone();
    let roots = index.read(move |conn| prune::roots(conn, &without)).await.unwrap();
    assert_eq!(roots, digests(&kept));

    // One is opened again before its turn comes.
    let reopened = expired[0];
    index
        .write(move |tx| evaluations::set_state(tx, reopened, EvaluationState::Building, 1))
        .await
        .unwrap();
    let mut gone = Vec::new();
    for id in expired {
        gone.push(index.write(move |tx| prune::forget(tx, id, KEEP)).await.unwrap());
    }
    assert_eq!(gone, [false, true]);
    let roots = index.read(|conn| prune::roots(conn, &[])).await.unwrap();
    assert_eq!(roots, digests(&[0, 1, 2, 3, 5, 6, 7, 8]));
    let (one, gone) = (ids[0], ids[4]);
    index
        .read(move |conn| {
            assert_eq!(jobs::count(conn, one)?, 1);
            assert_eq!((jobs::count(conn, gone)?, evaluations::get(conn, gone)?), (0, None));
            Ok(())
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn attempts_go_with_the_last_evaluation_that_needs_their_derivation() {
    let (index, _dir) = index();
    evaluation(&index, submission("a", "one", None, None), "kept.drv", Some(1)).await;
    let attempt = |drv: &str, result: Option<AttemptResult>, ended: i64, expires: Option<i64>| {
        let (index, drv) = (index.clone(), path(drv));
        async move {
            let attempt = index.write(move |tx| {
                let drv: DrvId = derivations::mention(tx, &[drv])?[0];
                let id = attempts::begin(tx, drv, "store", 1)?;
                if let Some(result) = result {
                    let end = AttemptEnd {
                        result,
                        message: String::new(),
                        log_lines: 3,
                        expires,
                    };
                    attempts::finish(tx, id, &end, ended)?;
                }
                Ok(id)
            });
            attempt.await.unwrap()
        }
    };
    let built = Some(AttemptResult::Succeeded(Success::Built));
    let failed = Some(AttemptResult::Failed(FailureClass::Build));
    attempt("kept.drv", built, 10, None).await;
    let gone = attempt("gone.drv", built, 11, None).await;
    attempt("gone.drv", built, 1_001, None).await;
    attempt("gone.drv", None, 0, None).await;
    let over = attempt("broken.drv", failed, 12, Some(4_000)).await;
    attempt("broken.drv", failed, 12, Some(6_000)).await;
    let unneeded = index
        .read(|conn| prune::unneeded_attempts(conn, KEEP.ended_since, 5_000))
        .await
        .unwrap();
    assert_eq!(unneeded, [gone, over]);
    let again = unneeded.clone();
    let left: Vec<Option<u64>> = index
        .write(move |tx| {
            prune::forget_attempts(tx, &again)?;
            let left = (1..=6).map(|id| Ok(attempts::get(tx, AttemptId(id))?.map(|row| row.log_lines)));
            left.collect()
        })
        .await
        .unwrap();
    // That it was built is what its outputs are signed for.
    assert_eq!(left, [Some(3), Some(0), Some(3), Some(0), None, Some(3)]);
    let again = index
        .read(|conn| prune::unneeded_attempts(conn, KEEP.ended_since, 5_000))
        .await
        .unwrap();
    assert_eq!(again, []);
}

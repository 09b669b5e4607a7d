//! Evaluations and their jobs.

use nixci_protocol::nixci::control::{EvaluationId, EvaluationState, Selector};

use super::super::{Error, evaluations, jobs};
use super::{add_graph, index, job, submission};

const A: &str = "aaaaaaaa11111111111111111111111111111111";
const B: &str = "aaaaaaaa22222222222222222222222222222222";

#[tokio::test]
async fn a_key_finds_its_evaluation_again_and_no_other() {
    let (index, _dir) = index();
    index
        .write(|tx| {
            let first = evaluations::begin(tx, &submission("k", "p", Some(A)), "uid:0", 5)?;
            assert_eq!(first, (EvaluationId(1), false));
            assert_eq!(
                evaluations::begin(tx, &submission("k", "p", Some(A)), "uid:0", 6)?,
                (EvaluationId(1), true)
            );
            let other = evaluations::begin(tx, &submission("k", "q", Some(A)), "uid:0", 6).unwrap_err();
            assert!(matches!(other, Error::KeyInUse { .. }), "{other}");
            let row = evaluations::by_key(tx, "k")?.unwrap();
            assert_eq!(row.submission, submission("k", "p", Some(A)));
            assert_eq!(
                (row.created, row.ended, row.state),
                (5, None, EvaluationState::Receiving)
            );
            Ok(())
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn the_end_is_when_it_became_final_first_and_a_restart_clears_it() {
    let (index, _dir) = index();
    index
        .write(|tx| {
            let (id, _) = evaluations::begin(tx, &submission("k", "p", None), "uid:0", 5)?;
            let step = |state, now| {
                evaluations::set_state(tx, id, state, now)?;
                Ok::<_, Error>((evaluations::get(tx, id)?.unwrap().ended, evaluations::open(tx)?.len()))
            };
            assert_eq!(step(EvaluationState::Building, 6)?, (None, 1));
            assert_eq!(step(EvaluationState::Done, 7)?, (Some(7), 0));
            assert_eq!(step(EvaluationState::Done, 8)?, (Some(7), 0));
            assert_eq!(step(EvaluationState::Building, 9)?, (None, 1));
            assert_eq!(step(EvaluationState::Abandoned, 10)?, (Some(10), 0));
            Ok(())
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn selectors_find_the_newest_and_ambiguous_prefixes_name_their_candidates() {
    let (index, _dir) = index();
    index
        .write(|tx| {
            for (key, project, commit) in [("1", "p", A), ("2", "p", A), ("3", "q", B), ("4", "q", "main")] {
                evaluations::begin(tx, &submission(key, project, Some(commit)), "uid:0", 1)?;
            }
            let find = |project: Option<&str>, commit: &str| {
                let project = project.map(str::to_owned);
                let commit = commit.to_owned();
                let found = evaluations::find(tx, &Selector::Commit { project, commit });
                found
                    .map(|row| row.map(|row| row.submission.key))
                    .map_err(|error| error.to_string())
            };
            assert_eq!(find(None, A).unwrap().unwrap(), "2");
            assert_eq!(find(Some("p"), "aaaaaaaa").unwrap().unwrap(), "2");
            assert_eq!(find(None, "AAAAAAAA2").unwrap().unwrap(), "3");
            assert_eq!(
                find(None, "main").unwrap().unwrap(),
                "4",
                "whatever it is, if it is exactly that"
            );
            assert_eq!(find(None, "bbbbbbbb").unwrap(), None);
            assert_eq!(find(Some("r"), A).unwrap(), None);
            assert_eq!(
                find(None, "aaaaaaaa").unwrap_err(),
                format!("`aaaaaaaa` may be any of the commits {A}, {B}: give more digits")
            );
            assert!(find(None, "aaaaaa").unwrap_err().contains("at least 7"));
            assert!(find(None, "maintenance").unwrap_err().contains("is not a commit"));

            let latest = |project: Option<&str>| {
                let project = project.map(str::to_owned);
                evaluations::find(tx, &Selector::Latest { project }).map(|row| row.map(|row| row.id.0))
            };
            assert_eq!(
                (latest(None)?, latest(Some("p"))?, latest(Some("r"))?),
                (Some(4), Some(2), None)
            );
            assert_eq!(
                evaluations::find(tx, &Selector::Evaluation(EvaluationId(3)))?
                    .unwrap()
                    .submission
                    .key,
                "3"
            );
            let listed: Vec<_> = evaluations::list(tx, Some("q"), 10)?
                .into_iter()
                .map(|row| row.id.0)
                .collect();
            assert_eq!(listed, [4, 3]);
            assert_eq!(evaluations::projects(tx)?, ["p", "q"]);
            Ok(())
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn jobs_are_kept_as_they_came_first_and_told_in_order() {
    let (index, _dir) = index();
    index
        .write(|tx| {
            let ids = add_graph(tx, &["a:", "b: a"])?;
            let (id, _) = evaluations::begin(tx, &submission("k", "p", Some(A)), "uid:0", 5)?;
            let (a, b) = (Some(ids["a"]), Some(ids["b"]));
            assert_eq!(jobs::add(tx, id, &[job("x.b", b), job("x.broken", None)])?, 2);
            assert_eq!(
                jobs::add(tx, id, &[job("x.b", a), job("x.a", a), job("x.\"a.a\".a", a)])?,
                4
            );
            let rows = jobs::of(tx, id)?;
            let names: Vec<_> = rows.iter().map(|row| row.attr.to_string()).collect();
            assert_eq!(names, ["x.a", "x.\"a.a\".a", "x.b", "x.broken"]);
            assert_eq!(rows[2], job("x.b", b), "the first one stays");
            assert_eq!(jobs::one(tx, id, &rows[3].attr)?.as_ref(), Some(&rows[3]));
            let uses = jobs::where_used(tx, ids["a"], 10)?;
            assert_eq!(uses.len(), 2);
            assert_eq!((uses[0].evaluation, uses[0].commit.as_deref()), (id, Some(A)));
            let refused = jobs::add(tx, EvaluationId(99), &[job("x.a", a)]);
            assert!(matches!(refused, Err(Error::Sqlite(_))), "{refused:?}");
            Ok(())
        })
        .await
        .unwrap();
}

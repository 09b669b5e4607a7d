//! What is to be sent, in which order, and what is known after each end of a request.

use nixci_protocol::nixci::control::{EvaluationId, EvaluationState};
use nixci_protocol::nixci::report::{StatusContent, StatusRole, StatusState};

use super::super::prune::{self, Keep};
use super::super::statuses::{
    self, Failure, Held, RefusedRepository, Stand, StatusId, StatusKey, Unsent, Want, Wanted,
};
use super::super::{Error, evaluations};
use super::*;

fn wanted(evaluation: i64, repository: &str, context: &str, state: StatusState) -> Wanted {
    let role = match context {
        "nixci" => StatusRole::Summary,
        "nixci/evaluation" => StatusRole::Evaluation,
        _ => StatusRole::Job,
    };
    Wanted {
        key: StatusKey {
            forge: "github".to_owned(),
            repository: repository.to_owned(),
            commit: "c".repeat(40),
            context: context.to_owned(),
        },
        evaluation: EvaluationId(evaluation),
        role,
        attr: (role == StatusRole::Job).then(|| context.parse().unwrap()),
        content: StatusContent {
            state,
            description: state.word().to_owned(),
            summary: String::new(),
            text: String::new(),
            url: None,
            annotations: Vec::new(),
            started: None,
            ended: None,
        },
    }
}

fn want(tx: &Transaction<'_>, context: &str, state: StatusState) -> Result<StatusId> {
    match statuses::want(tx, &wanted(1, "o/r", context, state), 10)? {
        Want::Changed(id) | Want::Same(id) => Ok(id),
        Want::Superseded => panic!("nothing newer was wanted"),
    }
}

fn one(tx: &Transaction<'_>) -> Result<Option<Unsent>> {
    Ok(statuses::unsent(tx, "github", "o/r", 100)?.0.pop())
}

/// Makes a change and checks it, in one transaction.
async fn change(check: impl FnOnce(&Transaction<'_>) -> Result<()> + Send + 'static) {
    let (index, _dir) = index();
    index.write(check).await.unwrap();
}

#[tokio::test]
async fn a_request_is_recorded_before_it_goes_out_and_when_it_ends() {
    change(|tx| {
        let id = want(tx, "a", StatusState::Failure)?;
        let fresh = one(tx)?.unwrap();
        assert!(fresh.is_first && !fresh.is_in_doubt, "{fresh:?}");
        let begun = statuses::begin(tx, id, 20)?.unwrap().row;
        assert_eq!(
            (begun.seq, begun.tried_seq, begun.writes, begun.was_red),
            (1, Some(1), 1, true)
        );
        let under_way = one(tx)?.unwrap();
        assert!(under_way.is_in_doubt && under_way.tried == Some(20), "{under_way:?}");

        // What is wanted meanwhile is not taken for sent.
        want(tx, "a", StatusState::Success)?;
        assert!(statuses::confirm(tx, id, 1, StatusState::Failure, Some("77"), 30)?);
        let newer = one(tx)?.unwrap();
        assert!(!newer.is_in_doubt && !newer.is_first && newer.seq == 2, "{newer:?}");

        let begun = statuses::begin(tx, id, 40)?.unwrap().row;
        assert_eq!(
            (begun.remote_id.as_deref(), begun.sent_state),
            (Some("77"), Some(StatusState::Failure))
        );
        assert!(begun.was_red, "what was red once is known to have been");
        assert!(!statuses::confirm(tx, id, 2, StatusState::Success, None, 50)?);
        assert_eq!(one(tx)?, None);
        assert_eq!(statuses::begin(tx, id, 60)?, None, "there is nothing more to send");
        // A late answer to the first request takes nothing back.
        statuses::confirm(tx, id, 1, StatusState::Failure, None, 70)?;
        let row = statuses::get(tx, id)?.unwrap();
        assert_eq!((row.sent_seq, row.sent_state), (Some(2), Some(StatusState::Success)));
        assert_eq!(row.remote_id.as_deref(), Some("77"));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_lost_answer_leaves_a_doubt_until_the_forge_was_looked_at() {
    change(|tx| {
        let id = want(tx, "a", StatusState::Success)?;
        let failure = |is_in_doubt| Failure {
            error: "cut off".to_owned(),
            failures: 1,
            retry_at: Some(99),
            is_in_doubt,
        };
        statuses::begin(tx, id, 20)?;
        assert!(!statuses::fail(tx, id, 1, &failure(true))?);
        let lost = one(tx)?.unwrap();
        assert_eq!((lost.is_in_doubt, lost.retry_at, lost.failures), (true, Some(99), 1));
        statuses::found(tx, id, Some("5"), Some(StatusState::Running))?;
        let row = statuses::get(tx, id)?.unwrap();
        assert_eq!(
            (row.remote_id.as_deref(), row.sent_state),
            (Some("5"), Some(StatusState::Running))
        );
        assert!(!one(tx)?.unwrap().is_in_doubt);

        statuses::begin(tx, id, 30)?;
        want(tx, "a", StatusState::Failure)?;
        assert!(
            statuses::fail(tx, id, 1, &failure(false))?,
            "a newer content is told of"
        );
        let failed = one(tx)?.unwrap();
        assert_eq!((failed.is_in_doubt, failed.retry_at, failed.failures), (false, None, 0));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn red_jobs_come_before_others_and_final_summaries_are_held_by_them() {
    change(|tx| {
        want(tx, "nixci", StatusState::Success)?;
        let good = want(tx, "good", StatusState::Success)?;
        let red = want(tx, "red", StatusState::Failure)?;
        want(tx, "going", StatusState::Running)?;
        let order = |tx: &Transaction<'_>| -> Result<Vec<(StatusState, Held)>> {
            let (rows, is_all) = statuses::unsent(tx, "github", "o/r", 100)?;
            assert!(is_all);
            Ok(rows.iter().map(|row| (row.state, row.held)).collect())
        };
        let rows = order(tx)?;
        let states: Vec<StatusState> = rows.iter().map(|(state, _)| *state).collect();
        assert_eq!(
            states,
            [
                StatusState::Success,
                StatusState::Failure,
                StatusState::Success,
                StatusState::Running
            ]
        );
        assert_eq!(rows[0].1, Held::RedJobs);
        statuses::refuse(tx, red, 1, "no", 20)?;
        assert_eq!(order(tx)?[0].1, Held::Jobs, "what is refused holds nothing up");
        statuses::confirm(tx, good, 1, StatusState::Success, None, 20)?;
        assert_eq!(order(tx)?[0].1, Held::Free);
        let (some, is_all) = statuses::unsent(tx, "github", "o/r", 1)?;
        assert!(!is_all && some.len() == 2, "{some:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn progress_is_shown_of_few_jobs_only() {
    change(|tx| {
        for nth in 0..32 {
            want(tx, &format!("job{nth}"), StatusState::Running)?;
        }
        assert_eq!(statuses::unsent(tx, "github", "o/r", 100)?.0.len(), 32);
        assert_eq!(statuses::counts(tx)?, [], "progress does not count as behind");
        want(tx, "job32", StatusState::Success)?;
        assert_eq!(statuses::unsent(tx, "github", "o/r", 100)?.0.len(), 1);
        assert_eq!(statuses::counts(tx)?[0].unsent, 1);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn repositories_are_found_by_owner_without_the_refused() {
    change(|tx| {
        for repository in ["a/x", "a/y", "a-b/z", "a0/z", "b/x"] {
            statuses::want(tx, &wanted(1, repository, "nixci", StatusState::Success), 10)?;
        }
        let found = |tx: &Transaction<'_>, owner| statuses::unsent_repositories(tx, "github", owner);
        assert_eq!(found(tx, Some("a"))?, ["a/x", "a/y"]);
        assert_eq!(found(tx, None)?, ["a-b/z", "a/x", "a/y", "a0/z", "b/x"]);
        let refused = RefusedRepository {
            forge: "github".to_owned(),
            repository: "a/x".to_owned(),
            reason: "not found".to_owned(),
            since: 5,
            settings: "one".to_owned(),
        };
        statuses::refuse_repository(tx, &refused)?;
        assert_eq!(found(tx, Some("a"))?, ["a/y"]);
        assert_eq!(statuses::refused(tx)?, std::slice::from_ref(&refused));
        assert_eq!(statuses::allow_repositories(tx, "github", "one")?, 0);
        assert_eq!(
            statuses::allow_repositories(tx, "github", "two")?,
            1,
            "other settings are a change"
        );
        statuses::refuse_repository(tx, &refused)?;
        assert!(statuses::allow_repository(tx, "github", "a/x")?);
        assert!(!statuses::allow_repository(tx, "github", "a/x")?);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_was_refused_is_sent_again_when_it_changes_or_somebody_asks() {
    change(|tx| {
        let id = want(tx, "a", StatusState::Failure)?;
        assert!(!statuses::refuse(tx, id, 1, "too long", 20)?);
        assert_eq!(one(tx)?, None);
        assert_eq!(statuses::counts(tx)?[0].refused, 1);
        want(tx, "a", StatusState::Failure)?;
        assert_eq!(one(tx)?, None, "the same content is no change");
        want(tx, "a", StatusState::Success)?;
        assert!(one(tx)?.is_some());
        // A refusal of what is no longer wanted refuses nothing.
        assert!(statuses::refuse(tx, id, 1, "too long", 30)?);
        assert!(one(tx)?.is_some());
        statuses::refuse(tx, id, 2, "too long", 30)?;
        let places = statuses::send_again(tx, EvaluationId(1), 40)?;
        assert_eq!(places, [("github".to_owned(), "o/r".to_owned())]);
        let again = one(tx)?.unwrap();
        assert_eq!((again.seq, again.state), (3, StatusState::Success));

        statuses::begin(tx, id, 50)?;
        statuses::confirm(tx, id, 3, StatusState::Success, Some("9"), 60)?;
        statuses::renew(tx, id, 70, None)?;
        let renewed = statuses::begin(tx, id, 80)?.unwrap().row;
        assert_eq!((renewed.remote_id, renewed.sent_state), (None, None));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn statuses_go_with_their_evaluation_and_tries_are_known_after_a_restart() {
    change(|tx| {
        let (evaluation, _) = evaluations::begin(tx, &submission("key", "o/r", Some("c0ffee1")), "uid:0", 1)?;
        assert_eq!(evaluation, EvaluationId(1));
        let id = want(tx, "a", StatusState::Failure)?;
        let begun = statuses::begin(tx, id, 20)?.unwrap();
        assert_eq!(begun.evaluation.unwrap().submission.pull_request, Some(7));
        assert_eq!(statuses::tried_since(tx, "github", Some("o"), 19)?, [20]);
        assert_eq!(statuses::tried_since(tx, "github", None, 20)?, [0_i64; 0]);
        assert_eq!(statuses::tried_since(tx, "github", Some("p"), 0)?, [0_i64; 0]);
        evaluations::set_state(tx, evaluation, EvaluationState::Done, 30)?;
        let keep = Keep {
            ended_since: 1_000,
            newest: 0,
        };
        assert!(prune::forget(tx, evaluation, keep)?);
        assert_eq!(statuses::get(tx, id)?, None);
        Ok::<(), Error>(())
    })
    .await;
}

#[tokio::test]
async fn what_stands_at_a_commit_is_the_same_with_its_words_and_without() {
    change(|tx| {
        // About what a failed job says.
        let words = "error: builder failed\n".repeat(200);
        for (nth, state) in (0..300).zip([StatusState::Failure, StatusState::Success].into_iter().cycle()) {
            let mut wanted = wanted(nth, "o/r", &format!("a{nth}"), state);
            wanted.content.text.clone_from(&words);
            statuses::want(tx, &wanted, 10 + nth)?;
        }
        statuses::want(tx, &wanted(7, "o/r", "nixci", StatusState::Running), 400)?;
        statuses::want(tx, &wanted(7, "o/other", "nixci", StatusState::Running), 400)?;
        tx.execute("UPDATE status SET was_red = 1 WHERE context = 'a3'", [])?;
        let commit = "c".repeat(40);
        let full = statuses::of_commit(tx, "github", "o/r", &commit)?;
        let stands = statuses::standing(tx, "github", "o/r", &commit)?;
        assert_eq!(stands.len(), 301);
        for (row, stand) in full.into_iter().zip(stands) {
            let expected = Stand {
                context: row.wanted.key.context,
                evaluation: row.wanted.evaluation,
                role: row.wanted.role,
                attr: row.wanted.attr,
                state: row.wanted.content.state,
                changed: row.changed,
                was_red: row.was_red,
            };
            assert_eq!(stand, expected);
        }
        Ok(())
    })
    .await;
}

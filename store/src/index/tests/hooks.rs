//! Deliveries, pull requests and pushes.

use super::super::deliveries::{self, NewDelivery, Outcome, Taken};
use super::super::pull_requests::{self, PullRequestRow};
use super::super::pushes::{self, PushRow};
use super::index;

fn delivery(number: &str, body: u8) -> NewDelivery {
    NewDelivery {
        forge: "github".to_owned(),
        number: number.to_owned(),
        digest: [body; 32],
        event: "pull_request".to_owned(),
        content: Ok("{}".to_owned()),
        is_unique: true,
    }
}

#[tokio::test]
async fn a_delivery_is_taken_once_by_number_and_by_body() {
    let (index, _dir) = index();
    index
        .write(|tx| {
            let Taken::Queued(first) = deliveries::take(tx, &delivery("1", 1), 10)? else {
                panic!("it is new");
            };
            assert_eq!(deliveries::take(tx, &delivery("1", 1), 11)?, Taken::Known);
            assert_eq!(
                deliveries::take(tx, &delivery("1", 2), 11)?,
                Taken::Known,
                "the number was there"
            );
            assert_eq!(
                deliveries::take(tx, &delivery("2", 1), 11)?,
                Taken::Known,
                "the body was there"
            );
            let elsewhere = NewDelivery {
                forge: "other".to_owned(),
                ..delivery("1", 1)
            };
            assert!(matches!(deliveries::take(tx, &elsewhere, 12)?, Taken::Queued(_)));
            let push = NewDelivery {
                is_unique: false,
                ..delivery("3", 1)
            };
            assert!(
                matches!(deliveries::take(tx, &push, 13)?, Taken::Queued(_)),
                "pushes repeat"
            );
            let ping = NewDelivery {
                content: Err("a ping".to_owned()),
                ..delivery("4", 4)
            };
            assert_eq!(deliveries::take(tx, &ping, 14)?, Taken::Ignored);
            assert_eq!(deliveries::take(tx, &ping, 14)?, Taken::Known);

            let due = deliveries::due(tx, 20, 10)?;
            assert_eq!(due.iter().map(|row| row.received).collect::<Vec<_>>(), [10, 12, 13]);
            assert_eq!(due[0].id, first);
            let waiting = deliveries::waiting(tx)?;
            assert_eq!((waiting.length, waiting.oldest), (3, Some(10)));
            deliveries::done(tx, first, Outcome::Handled, "fine", 21)?;
            assert_eq!(
                deliveries::take(tx, &delivery("1", 1), 22)?,
                Taken::Known,
                "also when it is done"
            );
            assert_eq!(deliveries::take(tx, &delivery("2", 1), 22)?, Taken::Known);
            Ok(())
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn what_failed_waits_is_given_up_and_is_taken_when_it_comes_again() {
    let (index, _dir) = index();
    index
        .write(|tx| {
            let Taken::Queued(first) = deliveries::take(tx, &delivery("1", 1), 10)? else {
                panic!("it is new");
            };
            deliveries::take(tx, &delivery("2", 2), 11)?;
            deliveries::trying(tx, first)?;
            deliveries::again(tx, first, "the disk is full", 50)?;
            let due = deliveries::due(tx, 49, 10)?;
            assert_eq!(
                (due.len(), due[0].number.as_str()),
                (1, "2"),
                "others do not wait for it"
            );
            assert_eq!(deliveries::next_retry(tx)?, Some(50));
            let due = deliveries::due(tx, 50, 1)?;
            assert_eq!((due[0].id, due[0].tries), (first, 1));
            deliveries::done(tx, first, Outcome::Failed, "the disk is full", 60)?;
            assert_eq!(deliveries::take(tx, &delivery("1", 1), 61)?, Taken::Queued(first));
            assert_eq!(deliveries::due(tx, 61, 1)?[0].tries, 0);
            Ok(())
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn what_is_done_is_forgotten_in_time_and_what_waits_is_not() {
    let (index, _dir) = index();
    index
        .write(|tx| {
            for (body, at) in [(1, 10), (2, 11), (3, 12)] {
                let Taken::Queued(id) = deliveries::take(tx, &delivery(&body.to_string(), body), at)? else {
                    panic!("it is new");
                };
                if body != 2 {
                    deliveries::done(tx, id, Outcome::Ignored, "nothing to do", at)?;
                }
            }
            assert_eq!(deliveries::prune(tx, 12, 10)?, 1);
            assert_eq!(deliveries::prune(tx, 13, 10)?, 1);
            assert_eq!(deliveries::waiting(tx)?.length, 1);
            assert!(matches!(deliveries::take(tx, &delivery("1", 1), 20)?, Taken::Queued(_)));
            Ok(())
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn pull_requests_are_found_by_number_and_by_head() {
    let (index, _dir) = index();
    let row = |number, head: &str, is_open| PullRequestRow {
        forge: "github".to_owned(),
        repository: "a/b".to_owned(),
        repository_id: Some(9),
        number,
        head: head.to_owned(),
        head_ref: Some("branch".to_owned()),
        base: None,
        base_ref: Some("main".to_owned()),
        is_open,
        is_fork: true,
        changed: 5,
    };
    index
        .write(move |tx| {
            for row in [
                row(1, "x", true),
                row(2, "x", false),
                row(1, "y", true),
                row(3, "y", false),
            ] {
                pull_requests::put(tx, &row)?;
            }
            assert_eq!(pull_requests::get(tx, "github", "a/b", 1)?, Some(row(1, "y", true)));
            assert_eq!(pull_requests::get(tx, "github", "a/c", 1)?, None);
            let numbers: Vec<u64> = pull_requests::by_head(tx, "github", "a/b", "y")?
                .iter()
                .map(|row| row.number)
                .collect();
            assert_eq!(numbers, [1, 3], "open ones first");
            assert_eq!(pull_requests::prune(tx, 6, 10)?, 2);
            assert_eq!(pull_requests::get(tx, "github", "a/b", 1)?, Some(row(1, "y", true)));
            Ok(())
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn heads_that_were_left_are_known_until_the_branch_comes_back_to_them() {
    let (index, _dir) = index();
    let row = |number, head: &str, changed| PullRequestRow {
        forge: "github".to_owned(),
        repository: "a/b".to_owned(),
        repository_id: None,
        number,
        head: head.to_owned(),
        head_ref: None,
        base: None,
        base_ref: None,
        is_open: true,
        is_fork: false,
        changed,
    };
    index
        .write(move |tx| {
            for (head, changed) in [("x", 1), ("y", 2), ("z", 3)] {
                pull_requests::put(tx, &row(1, head, changed))?;
            }
            pull_requests::put(tx, &row(2, "y", 3))?;
            let were = |tx: &_, number, now| -> super::super::Result<Vec<&str>> {
                let mut were = Vec::new();
                for head in ["w", "x", "y", "z"] {
                    if pull_requests::was_head(tx, &row(number, now, 3), head)? {
                        were.push(head);
                    }
                }
                Ok(were)
            };
            assert_eq!(were(tx, 1, "z")?, ["x", "y"]);
            assert_eq!(were(tx, 2, "y")?, [""; 0]);
            // Told of later, or back on it.
            pull_requests::left(tx, &row(1, "z", 3), "w")?;
            pull_requests::left(tx, &row(1, "z", 3), "z")?;
            pull_requests::put(tx, &row(1, "x", 4))?;
            assert_eq!(were(tx, 1, "x")?, ["w", "y", "z"]);
            assert_eq!(pull_requests::of_number(tx, "github", 1)?, [row(1, "x", 4)]);
            assert_eq!(pull_requests::of_number(tx, "gitea", 1)?, []);
            assert_eq!(pull_requests::prune(tx, 4, 10)?, 2);
            assert_eq!(were(tx, 1, "x")?, ["z"]);
            Ok(())
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn pushes_are_found_by_ref() {
    let (index, _dir) = index();
    let row = |new: &str, received| PushRow {
        forge: "gitea".to_owned(),
        repository: "a/b".to_owned(),
        git_ref: "refs/heads/main".to_owned(),
        old_commit: None,
        new_commit: Some(new.to_owned()),
        received,
    };
    index
        .write(move |tx| {
            pushes::add(tx, &row("x", 1))?;
            pushes::add(tx, &row("y", 2))?;
            let of = |tx: &_| pushes::of(tx, "gitea", "a/b", "refs/heads/main", 5);
            assert_eq!(of(tx)?, [row("y", 2), row("x", 1)]);
            assert_eq!(pushes::prune(tx, 2, 10)?, 1);
            assert_eq!(of(tx)?, [row("y", 2)]);
            Ok(())
        })
        .await
        .unwrap();
}

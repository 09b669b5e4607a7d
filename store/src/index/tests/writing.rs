//! One writer, many readers.

use std::sync::mpsc;

use nixci_protocol::nixci::control::EvaluationId;
use rusqlite::{Connection, Transaction};

use super::super::{Error, Index, Result, evaluations};
use super::{index, submission};

fn keys(conn: &Connection) -> Result<Vec<String>> {
    let rows = evaluations::list(conn, None, 1000)?;
    Ok(rows.into_iter().rev().map(|row| row.submission.key).collect())
}

/// Keeps the writer in one change until the sender is used, so that what is asked meanwhile becomes one group.
async fn hold(index: &Index) -> (mpsc::SyncSender<()>, tokio::task::JoinHandle<Result<()>>) {
    let (release, released) = mpsc::sync_channel::<()>(1);
    let (entered, inside) = tokio::sync::oneshot::channel();
    let index = index.clone();
    let held = tokio::spawn(async move {
        index
            .write(move |_| {
                entered.send(()).unwrap();
                released.recv().unwrap();
                Ok(())
            })
            .await
    });
    inside.await.unwrap();
    (release, held)
}

#[tokio::test]
async fn a_change_that_fails_takes_nothing_with_it() {
    let (index, _dir) = index();
    let (release, held) = hold(&index).await;
    let ask = |key: &'static str, then: fn(&Transaction<'_>) -> Result<()>| {
        Box::pin(index.write(move |tx| {
            evaluations::begin(tx, &submission(key, "p", None), "uid:0", 1)?;
            then(tx)
        }))
    };
    let mut asked = [
        ask("a", |_| Ok(())),
        ask("b", |tx| evaluations::set_error(tx, EvaluationId(99), None)),
        ask("panics", |_| panic!("a change")),
        ask("c", |_| Ok(())),
    ];
    for change in &mut asked {
        // Now it is queued.
        assert!(futures_util::poll!(change).is_pending());
    }
    release.send(()).unwrap();
    held.await.unwrap().unwrap();
    let [a, b, panicked, c] = asked;
    let (a, b, panicked, c) = (a.await, b.await, panicked.await, c.await);
    assert!(a.is_ok() && c.is_ok());
    assert_eq!(b.unwrap_err().to_string(), "there is no evaluation 99");
    assert_eq!(panicked.unwrap_err().to_string(), "a change panicked and was undone");
    assert_eq!(index.read(keys).await.unwrap(), ["a", "c"]);
}

#[tokio::test]
async fn readers_see_what_is_committed_and_cannot_write() {
    let (index, dir) = index();
    let change = |key: &'static str| {
        move |tx: &Transaction<'_>| evaluations::begin(tx, &submission(key, "p", None), "uid:0", 1).map(drop)
    };
    index.write(change("a")).await.unwrap();
    index.write_durable(change("b")).await.unwrap();
    assert_eq!(index.read(keys).await.unwrap(), ["a", "b"]);
    let refused = index.read(|conn| Ok(conn.execute("DELETE FROM evaluation", [])?)).await;
    assert!(matches!(refused, Err(Error::Sqlite(_))), "{refused:?}");
    let panicked = index.read(|_| -> Result<()> { panic!("a question") }).await;
    assert!(matches!(panicked, Err(Error::Panicked { what: "question" })));

    // Many at once, more than there are connections.
    let asked = (0..50).map(|_| index.read(keys));
    for answer in futures_util::future::join_all(asked).await {
        assert_eq!(answer.unwrap().len(), 2);
    }
    index.close().await;
    assert!(matches!(index.write(change("c")).await, Err(Error::Closed)));
    assert!(matches!(index.read(keys).await, Err(Error::Closed)));

    let again = Index::open(&dir.path().join("index.db")).unwrap();
    assert_eq!(again.read(keys).await.unwrap(), ["a", "b"]);
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_undo_its_change() {
    let (index, _dir) = index();
    let (release, held) = hold(&index).await;
    let mut asked =
        Box::pin(index.write(|tx| evaluations::begin(tx, &submission("a", "p", None), "uid:0", 1).map(drop)));
    assert!(futures_util::poll!(&mut asked).is_pending());
    drop(asked);
    release.send(()).unwrap();
    held.await.unwrap().unwrap();
    index.write(|_| Ok(())).await.unwrap();
    assert_eq!(index.read(keys).await.unwrap(), ["a"]);
}

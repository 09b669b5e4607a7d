//! Tokens and what remembers that one was used.

use super::*;
use crate::index::tokens::NewToken;
use crate::index::{identities, tokens};

fn token(name: &str, hash: u8) -> NewToken {
    NewToken {
        name: name.to_owned(),
        hash: [hash; 32],
        rights: vec!["read".to_owned(), "submit".to_owned()],
        projects: Some(vec!["o/*".to_owned()]),
        expires: Some(2_000),
    }
}

#[tokio::test]
async fn tokens_are_kept_found_and_revoked() {
    let (index, _dir) = index();
    let add = |token: NewToken| index.write(move |tx| tokens::add(tx, &token, 1_000));
    assert!(add(token("b", 1)).await.unwrap());
    assert!(!add(token("b", 2)).await.unwrap(), "a name is given once");
    assert!(!add(token("c", 1)).await.unwrap(), "so is a hash");
    let everything = NewToken {
        projects: None,
        expires: None,
        ..token("a", 3)
    };
    assert!(add(everything).await.unwrap());
    let all = index.read(tokens::list).await.unwrap();
    let names: Vec<_> = all.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!((&all[0].projects, all[0].expires, all[0].used), (&None, None, None));
    let find = |hash: u8| index.read(move |conn| tokens::by_hash(conn, &[hash; 32]));
    let found = find(1).await.unwrap().unwrap();
    assert_eq!(found, all[1]);
    assert_eq!(found.projects.as_deref(), Some(&["o/*".to_owned()][..]));
    let id = found.id;
    index.write(move |tx| tokens::used(tx, id, 1_500)).await.unwrap();
    assert_eq!(find(1).await.unwrap().unwrap().used, Some(1_500));
    assert!(index.write(|tx| tokens::revoke(tx, "b")).await.unwrap());
    assert!(!index.write(|tx| tokens::revoke(tx, "b")).await.unwrap());
    assert_eq!(find(1).await.unwrap(), None);
}

#[tokio::test]
async fn a_token_of_an_issuer_is_new_once_until_it_expires() {
    let (index, _dir) = index();
    let used = |issuer: &'static str, number: &'static str, now: i64| {
        index.write(move |tx| identities::use_up(tx, issuer, number, now + 100, now))
    };
    assert!(used("i", "1", 0).await.unwrap());
    assert!(!used("i", "1", 100).await.unwrap());
    assert!(used("j", "1", 100).await.unwrap());
    assert!(used("i", "1", 101).await.unwrap(), "what has expired is forgotten");
}

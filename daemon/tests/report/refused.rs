//! Forges that are down, and that refuse.

use nixci_daemon::config::Form;
use nixci_protocol::nixci::report::ReportTroubleKind;
use nixci_protocol::nixci::report::StatusState::{Failure, Success};
use nixci_store::index::Index;
use tokio::net::TcpListener;

use crate::fake::{Fake, Rules};
use crate::world::{REPOSITORY, World, all_sent, forge, generous, rows, wanted};

fn jobs(forge: &str, repository: &str, version: u64) -> Vec<nixci_store::index::statuses::Wanted> {
    let want = |job| wanted(forge, repository, &format!("{forge}{job}"), version, Success);
    (0..30).map(want).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forge_that_is_down_delays_nobody_and_loses_nothing() {
    let up = Fake::start(Rules::default(), 21).await;
    // Nobody listens there.
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let down = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    let world = World::new(|dir| {
        vec![
            forge(dir, "up", &up.url, Form::Statuses, generous()),
            forge(dir, "down", &down, Form::Statuses, generous()),
        ]
    });
    world.want(jobs("down", REPOSITORY, 1)).await;
    world
        .until("the one that is down was tried", |rows| {
            rows.iter().any(|row| row.failures > 0)
        })
        .await;
    world.want(jobs("up", REPOSITORY, 1)).await;
    let of = |forge: &'static str| move |row: &&nixci_store::index::statuses::StatusRow| row.wanted.key.forge == forge;
    world
        .until("the other has everything", |rows| {
            rows.iter()
                .filter(of("up"))
                .filter(|row| row.sent_seq == Some(row.seq))
                .count()
                == 30
        })
        .await;
    let rows = rows(&world.index).await;
    assert!(
        rows.iter()
            .filter(of("down"))
            .all(|row| row.sent_seq.is_none() && row.refused.is_none())
    );
    let tries: u64 = rows.iter().filter(of("down")).map(|row| row.writes).sum();
    assert!(tries < 60, "it is not hammered: {tries} tries");
    world.until("it is known to be down", |_| true).await;
    let health = world.outbox.health().await.unwrap();
    let trouble = health.iter().find(|trouble| trouble.forge == "down").unwrap();
    assert_eq!(trouble.kind, ReportTroubleKind::Down);
    assert!(trouble.reason.contains("does not answer"), "{}", trouble.reason);
    assert!(!health.iter().any(|trouble| trouble.forge == "up"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_is_not_there_is_tried_again_only_after_a_change() {
    let rules = Rules {
        unknown: vec!["owner/gone".to_owned()],
        ..Rules::default()
    };
    let fake = Fake::start(rules, 22).await;
    let world = World::new(|dir| vec![forge(dir, "github", &fake.url, Form::Statuses, generous())]);
    world.want(jobs("github", "owner/gone", 1)).await;
    world
        .until("it is refused", |rows| rows.iter().any(|row| row.error.is_some()))
        .await;
    let refused_once = async |index: &Index| {
        let refused = index.read(nixci_store::index::statuses::refused).await.unwrap();
        assert_eq!(refused.len(), 1);
        refused[0].reason.clone()
    };
    let reason = refused_once(&world.index).await;
    assert!(reason.contains("owner/gone"), "{reason}");
    let health = world.outbox.health().await.unwrap();
    assert_eq!(health[0].kind, ReportTroubleKind::RefusedRepository);

    // Neither new content nor a new start is a change of the repository, and another one goes on.
    let before = fake.seen().refused;
    assert!((1..=8).contains(&before), "no more than were under way: {before}");
    world.want(jobs("github", "owner/gone", 2)).await;
    world.outbox.start().await.unwrap();
    let mut other = jobs("github", REPOSITORY, 1);
    for wanted in &mut other {
        wanted.key.commit = "d".repeat(40);
    }
    world.want(other).await;
    let of = |repository: &'static str| {
        move |row: &&nixci_store::index::statuses::StatusRow| row.wanted.key.repository == repository
    };
    world
        .until("the other has everything", |rows| {
            rows.iter()
                .filter(of(REPOSITORY))
                .filter(|row| row.sent_seq == Some(row.seq))
                .count()
                == 30
        })
        .await;
    assert_eq!(fake.seen().refused, before);

    fake.seen().rules.unknown.clear();
    world.outbox.allow_repository("github", "owner/gone").await.unwrap();
    world.until("all is sent", all_sent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_the_forge_has_too_many_of_stops_alone_and_goes_on_when_asked_for() {
    let rules = Rules {
        per_context: Some(3),
        ..Rules::default()
    };
    let fake = Fake::start(rules, 23).await;
    let world = World::new(|dir| vec![forge(dir, "github", &fake.url, Form::Statuses, generous())]);
    let want = |context: &str, version| {
        let state = if version % 2 == 0 { Success } else { Failure };
        vec![wanted("github", REPOSITORY, context, version, state)]
    };
    for version in 1..=3 {
        world.want(want("many", version)).await;
        world.until("it is sent", all_sent).await;
    }
    world.want(want("many", 4)).await;
    world
        .until("it is refused", |rows| rows.iter().any(|row| row.refused.is_some()))
        .await;
    world.want(want("other", 1)).await;
    world
        .until("the other is sent", |rows| {
            rows.iter().any(|row| row.sent_seq == Some(1) && row.refused.is_none())
        })
        .await;
    assert_eq!(fake.seen().too_many, 1, "it is not tried again");
    let health = world.outbox.health().await.unwrap();
    assert_eq!(health[0].kind, ReportTroubleKind::RefusedStatus);
    assert_eq!(health[0].context.as_deref(), Some("many"));

    fake.seen().rules.per_context = None;
    let evaluation = rows(&world.index).await[0].wanted.evaluation;
    assert_eq!(world.outbox.send_again(evaluation).await.unwrap(), 1);
    world.until("all is sent", all_sent).await;
    assert_eq!(world.outbox.health().await.unwrap(), []);
}

//! Answers that do not come, and servers that fail before and after they did what they were asked.

use std::time::Duration;

use nixci_daemon::config::Form;
use nixci_protocol::nixci::report::StatusState::{Failure, Running, Success};
use nixci_store::testing::Service;
use rstest::rstest;

use crate::fake::{Fake, Rules};
use crate::world::{self, REPOSITORY, SUMMARY, World, all_sent, forge, generous, wanted, word, write_key};

const ROUNDS: u64 = 100;
const CONTEXTS: usize = 12;

fn lossy() -> Rules {
    Rules {
        lost: 0.2,
        fails_before: 0.05,
        fails_after: 0.05,
        slow: Duration::from_millis(60),
        ..Rules::default()
    }
}

fn name(nth: usize) -> String {
    if nth == 0 {
        SUMMARY.to_owned()
    } else {
        format!("job{nth}")
    }
}

#[rstest]
#[case(Form::Checks)]
#[case(Form::Statuses)]
#[tokio::test(flavor = "multi_thread")]
async fn no_context_is_wrong_or_missing_where_answers_are_lost(#[case] form: Form) {
    let fake = Fake::start(lossy(), 11).await;
    let world = World::new(|dir| vec![forge(dir, "github", &fake.url, form, generous())]);
    let mut changes = tokio::time::interval(Duration::from_millis(150));
    for version in 1..=12 {
        // Each its own mixture: some are red before they are green, some run again.
        let want = |nth: usize| {
            let state = match (version + nth as u64) % 3 {
                0 => Running,
                1 => Failure,
                _ => Success,
            };
            wanted("github", REPOSITORY, &name(nth), version, state)
        };
        changes.tick().await;
        world.want((0..40).map(want).collect()).await;
    }
    world
        .want(
            (0..40)
                .map(|nth| wanted("github", REPOSITORY, &name(nth), 13, Success))
                .collect(),
        )
        .await;
    world.until("all is sent", all_sent).await;
    let seen = fake.seen();
    assert_eq!(seen.gone_back(), Vec::<&(String, String)>::new());
    let shown = seen.shown();
    assert_eq!(shown.len(), 40);
    for (place, told) in shown {
        assert_eq!(told, (13, word(Success, form).to_owned()), "{place:?}");
    }
    assert_eq!(seen.left_open(), 0);
}

/// A hundred times the daemon is killed after some requests, and started again; meanwhile what is wanted changes.
#[tokio::test(flavor = "multi_thread")]
async fn no_context_is_wrong_or_missing_after_a_hundred_kills() {
    let fake = Fake::start(lossy(), 12).await;
    let keys = tempfile::tempdir().unwrap();
    let key = keys.path().join("key");
    write_key(&key);
    let config = format!(
        "[[store]]\nname = \"nowhere\"\nuri = \"unix:///nowhere\"\n\
         [[forge]]\nkind = \"github\"\nurl = \"{url}\"\napi = \"{url}\"\napp_id = 7\nprivate_key_file = {key:?}\n\
         per_minute = 1000000\nper_hour = 1000000\n",
        url = fake.url
    );
    let service = Service::with_config(env!("CARGO_BIN_EXE_nixci-daemon").as_ref(), &config);
    service.kill9();
    let file = service.scratch().join("state/index.db");
    for round in 1..=ROUNDS {
        let index = nixci_store::index::Index::open(&file).unwrap();
        let want = |nth: usize| {
            let state = match (round + nth as u64) % 3 {
                0 => Running,
                1 => Failure,
                _ => Success,
            };
            wanted("github", REPOSITORY, &name(nth), round, state)
        };
        let changed = (0..CONTEXTS).filter(|nth| round < 3 || !(round as usize + nth).is_multiple_of(4));
        world::want(&index, changed.map(want).collect()).await;
        index.close().await;
        drop(index);
        let before = fake.requests();
        service.start_again();
        // Where all is said before so many requests, there is nothing to be killed in.
        let more = usize::try_from(round * 7_919 % 17).unwrap();
        fake.until(before + more, Duration::from_secs(3)).await;
        service.kill9();
    }
    let index = nixci_store::index::Index::open(&file).unwrap();
    let last = (0..CONTEXTS).map(|nth| wanted("github", REPOSITORY, &name(nth), ROUNDS + 1, Success));
    world::want(&index, last.collect()).await;
    service.start_again();
    world::until(&index, "all is sent", all_sent).await;
    let seen = fake.seen();
    assert_eq!(seen.gone_back(), Vec::<&(String, String)>::new());
    let shown = seen.shown();
    assert_eq!(shown.len(), CONTEXTS);
    for (place, told) in shown {
        assert_eq!(told, (ROUNDS + 1, "success".to_owned()), "{place:?}\n{}", service.log());
    }
    assert_eq!(seen.left_open(), 0, "no run is left open beside a newer one");
}

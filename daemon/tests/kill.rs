//! `kill -9` of the daemon and of its store's daemon, at random moments, round after round.

mod common;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Watched, body_for, try_connect, try_submit, try_watch};
use nixci_protocol::client;
use nixci_protocol::nixci::outcome::{FailureClass, Outcome};
use nixci_store::testing::{NixVersion, Service, TestDaemon, TestDrv};

const ROUNDS: u32 = 50;
/// How long one round may take before something is taken to hang.
const PATIENCE: Duration = Duration::from_mins(1);
const JOBS: [(&str, &[&str]); 6] = [
    ("base", &[]),
    ("left", &["base"]),
    ("right", &["base"]),
    ("top", &["left", "right"]),
    ("bad", &["base"]),
    ("above", &["bad", "left"]),
];

/// A builder that holds a lock for its life and says so all the time, so that a lock left behind by a
/// killed one is told from one that is held: then it was built twice at once.
const LOCKED: &str = r#"
lock=/gates/locks/$salt-$name
if ! mkdir $lock 2>/dev/null; then
  before=none; [ -e $lock/beat ] && read before < $lock/beat || true
  sleep 0.3
  after=none; [ -e $lock/beat ] && read after < $lock/beat || true
  if [ "$before" != "$after" ]; then echo $salt-$name >> /gates/locks/twice; exit 1; fi
  mkdir -p $lock
fi
i=0; while [ $i -lt 1500 ]; do i=$((i+1)); echo $$-$i > $lock/beat; done
rm -r $lock
"#;

fn derivations() -> Vec<TestDrv> {
    JOBS.iter()
        .map(|(name, needs)| {
            let drv = match *name {
                "bad" => TestDrv::failing(name),
                _ => TestDrv::good(name),
            };
            drv.needs(needs).script(LOCKED)
        })
        .collect()
}

/// Numbers that differ from run to run; a round prints its own, so that a failure can be looked at.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// What a client does that does not give up: it begins again with the same key until it has the verdict.
async fn persist(socket: &Path, body: &[u8], key: &str, drvs: &BTreeMap<String, String>) -> Watched {
    let begun = Instant::now();
    loop {
        let result: Result<Option<Watched>, client::Error> = async {
            let mut connection = try_connect(socket).await?;
            let evaluation = try_submit(&mut connection, body, key, drvs).await?;
            try_watch(&mut connection, evaluation).await
        }
        .await;
        match result {
            Ok(Some(watched)) => return watched,
            // The daemon is gone, perhaps in the middle of a message.
            Ok(None)
            | Err(
                client::Error::Closed | client::Error::Io(_) | client::Error::Handshake(_) | client::Error::Wire(_),
            ) => {}
            Err(error) => panic!("{key}: the daemon refused: {error}"),
        }
        assert!(begun.elapsed() < PATIENCE, "{key}: no verdict after {PATIENCE:?}");
        // The daemon is down: give it the time to come back.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_every_job_ends_right_whatever_is_killed() {
    // A store waits for the lock of a build that is being killed; unless told, it looks again every five seconds.
    let store = TestDaemon::builder(NixVersion::V2_34)
        .config("build-poll-interval = 1")
        .start();
    let evaluator = TestDaemon::start(NixVersion::V2_34);
    let locks = store.scratch().join("gates/locks");
    std::fs::create_dir_all(&locks).unwrap();
    let service = Service::start(
        Path::new(env!("CARGO_BIN_EXE_nixci-daemon")),
        &[("default", &store.uri(), 3)],
    );
    let seed = RandomState::new().build_hasher().finish();
    let mut dice = Dice(seed);
    for round in 0..ROUNDS {
        let key = format!("round{round}");
        let drvs = evaluator.instantiate(&key, &derivations());
        let body = body_for(&evaluator, drvs.values()).await;
        let socket = service.socket();
        let client = persist(&socket, &body, &key, &drvs);
        let killer = async {
            let kills = 1 + dice.below(2);
            for _ in 0..kills {
                // Random moments are the point of this test.
                tokio::time::sleep(Duration::from_millis(dice.below(500))).await;
                if dice.below(3) == 0 {
                    store.kill9();
                    tokio::time::sleep(Duration::from_millis(dice.below(200))).await;
                    store.start_again();
                } else {
                    service.kill9();
                    service.start_again();
                }
            }
        };
        let (watched, ()) = tokio::join!(client, killer);
        let context = || format!("{key}, seed {seed}\n{watched:#?}\n{}", service.log());
        for (job, _) in JOBS {
            let outcome = watched.outcomes.get(job);
            let right = match (job, outcome) {
                ("bad", Some(Outcome::Failed { class })) => *class == FailureClass::Build,
                ("above", Some(Outcome::Blocked { by })) => *by == [drvs["bad"].clone()],
                ("bad" | "above", _) => false,
                (_, Some(Outcome::Succeeded { .. })) => true,
                (_, _) => false,
            };
            assert!(right, "{job}: {outcome:?}, in {}", context());
        }
        let twice = std::fs::read_to_string(locks.join("twice")).unwrap_or_default();
        assert_eq!(twice, "", "built twice at once, in {}", context());
    }
}

//! Backups while a thousand submissions a minute arrive and what nobody needs is collected.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nixci_protocol::nixci::AddClosure;
use nixci_protocol::nixci::control::{Changed, Collected, Evaluated, NewJob, Request, Selector, Submitted, Target};
use nixci_protocol::types::{PathInfo, StoreDir, StorePath};
use nixci_store::testing::{NixVersion, Service, TestDaemon, TestDrv};

use crate::common::{ask, closure, connect, connect_stock, packed, submission, try_ask};
use crate::world::{backed_up, check, daemon, good, look_through, restore};

const CLIENTS: usize = 4;
const BACKUPS: usize = 6;
const SUBMISSIONS: usize = 800;
/// One of so many is built at once, and one of so many is cancelled, so that there is something to collect.
const BUILT: usize = 20;
const CANCELLED: usize = 3;
const PATIENCE: Duration = Duration::from_mins(3);

/// One derivation, and what has to be sent for it.
struct Round {
    key: String,
    is_built: bool,
    is_cancelled: bool,
    drv: String,
    body: Vec<u8>,
}

/// Derivations that wait for one at a gate, each with a source of its own that is large; some that do not wait.
async fn rounds(evaluator: &TestDaemon) -> Vec<Round> {
    let source = evaluator.scratch().join("source");
    std::fs::create_dir(&source).unwrap();
    let mut all = vec![TestDrv::good("base").gate("never")];
    for nth in 0..SUBMISSIONS {
        let drv = TestDrv::good(&format!("round{nth}"));
        all.push(if nth.is_multiple_of(BUILT) {
            drv.script("echo one; echo two")
        } else if nth.is_multiple_of(CANCELLED) {
            let file = source.join(format!("large{nth}"));
            std::fs::write(&file, crate::common::items::noise(nth as u64, 300_000)).unwrap();
            drv.needs(&["base"]).attribute("src", &file.display().to_string())
        } else {
            drv.needs(&["base"])
        });
    }
    let drvs: BTreeMap<String, String> = evaluator.instantiate("busy", &all);
    let dir = StoreDir::default();
    let mut store = connect_stock(evaluator).await;
    let mut rounds = Vec::new();
    for (name, drv) in drvs.iter().filter(|(name, _)| *name != "base") {
        let infos: Vec<PathInfo> = closure(&mut store, &[dir.parse(drv).unwrap()] as &[StorePath]).await;
        let nth: usize = name["round".len()..].parse().unwrap();
        let is_built = nth.is_multiple_of(BUILT);
        rounds.push(Round {
            key: name.clone(),
            is_built,
            is_cancelled: !is_built && nth.is_multiple_of(CANCELLED),
            drv: drv.clone(),
            body: packed(&mut store, &infos).await,
        });
    }
    rounds
}

/// Sends a round over a connection of its own, as a runner does.
async fn send(socket: &Path, round: &Round) -> Submitted {
    let mut client = connect(socket).await;
    client
        .call_framed(&AddClosure {}, &round.body[..], &mut ())
        .await
        .unwrap();
    let job = NewJob {
        attr: "job".parse().unwrap(),
        result: Evaluated::Drv(round.drv.clone()),
    };
    let mut submission = submission(&round.key);
    if round.is_built {
        // The newest of each project is kept, with its log.
        submission.project = format!("built/{}", round.key);
    }
    let request = Request::Submit {
        submission,
        jobs: vec![job],
        error: None,
    };
    ask(&mut client, &request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_during_a_thousand_a_minute_are_whole() {
    let store = TestDaemon::start(NixVersion::V2_34);
    let evaluator = TestDaemon::start(NixVersion::V2_34);
    let _gate = store.gate("never");
    let rounds = Arc::new(rounds(&evaluator).await);
    let config = format!(
        "[[store]]\nname = \"here\"\nuri = {:?}\nslots = 3\n[retention]\nuploads = \"0s\"\nevaluations = \"0s\"\nnewest = 1\ncollect = \"off\"\n",
        store.uri()
    );
    let service = Service::with_config(Path::new(env!("CARGO_BIN_EXE_nixci-daemon")), &config);
    let (socket, next) = (service.socket(), Arc::new(AtomicUsize::new(0)));
    let kept: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let over = Arc::new(AtomicBool::new(false));

    let began = Instant::now();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let (rounds, next, kept, over, socket) =
            (rounds.clone(), next.clone(), kept.clone(), over.clone(), socket.clone());
        clients.push(tokio::spawn(async move {
            let mut slowest = Duration::ZERO;
            while !over.load(Ordering::SeqCst) {
                let nth = next.fetch_add(1, Ordering::SeqCst);
                let Some(round) = rounds.get(nth) else { break };
                let since = Instant::now();
                let submitted = send(&socket, round).await;
                slowest = slowest.max(since.elapsed());
                if round.is_cancelled {
                    let mut client = connect(&socket).await;
                    let what = Target::Evaluation(Selector::Evaluation(submitted.summary.evaluation));
                    let _: Changed = ask(&mut client, &Request::Cancel { what }).await;
                } else {
                    kept.lock().unwrap().insert(round.key.clone());
                }
            }
            slowest
        }));
    }
    let collecting = tokio::spawn({
        let (over, socket) = (over.clone(), socket.clone());
        async move {
            let mut client = connect(&socket).await;
            let (mut gone, mut refused) = (0, 0);
            while !over.load(Ordering::SeqCst) {
                match try_ask::<Collected>(&mut client, &Request::CollectGarbage { dry_run: false }).await {
                    Ok(collected) => gone += collected.objects,
                    Err(error) => {
                        assert!(error.to_string().contains("a backup is being taken"), "{error}");
                        refused += 1;
                    }
                }
                tokio::task::yield_now().await;
            }
            (gone, refused)
        }
    });

    let mut taken = Vec::new();
    for nth in 0..BACKUPS {
        // Each has something that the one before had not.
        let wanted = kept.lock().unwrap().len() + 20;
        while kept.lock().unwrap().len() < wanted && next.load(Ordering::SeqCst) < SUBMISSIONS {
            assert!(began.elapsed() < PATIENCE, "submissions do not arrive");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let before = kept.lock().unwrap().clone();
        let to = service.scratch().join(format!("backup{nth}"));
        let (at, config) = (next.load(Ordering::SeqCst), service.config());
        let since = Instant::now();
        let target = to.clone();
        let output = tokio::task::spawn_blocking(move || {
            daemon(&config).args(["backup", "--json"]).arg(target).output().unwrap()
        });
        let about: serde_json::Value = serde_json::from_slice(&good(&output.await.unwrap())).unwrap();
        eprintln!(
            "backup {nth}: {:?}, {} submissions meanwhile, {} files",
            since.elapsed(),
            next.load(Ordering::SeqCst) - at,
            about["files"]
        );
        taken.push((to, before, about));
    }
    let arrived = next.load(Ordering::SeqCst).min(SUBMISSIONS);
    let per_minute = arrived as f64 * 60.0 / began.elapsed().as_secs_f64();
    over.store(true, Ordering::SeqCst);
    let mut slowest = Duration::ZERO;
    for client in clients {
        slowest = slowest.max(client.await.unwrap());
    }
    let (collected, refused) = collecting.await.unwrap();
    eprintln!(
        "{per_minute:.0} submissions a minute, the slowest took {slowest:?}; {collected} objects collected, {refused} times refused"
    );
    assert!(per_minute >= 1_000.0, "{per_minute} submissions a minute");
    assert!(collected > 0, "nothing was collected meanwhile");

    for (nth, (backup, before, about)) in taken.iter().enumerate() {
        assert_eq!(about["missing_derivations"], 0, "{about}");
        good(&check(backup));
        let state = service.scratch().join(format!("restored{nth}"));
        good(&restore(backup, &state));
        let found = look_through(&state).await;
        eprintln!(
            "restored {nth}: {} evaluations, {} open, {} objects, {} logs",
            found.keys.len(),
            found.open,
            found.objects,
            found.logs
        );
        let lacking: Vec<_> = before.difference(&found.keys).collect();
        assert!(lacking.is_empty(), "backup {nth} lacks {lacking:?}");
    }
    service.stop();
    let last = service.scratch().join("last");
    backed_up(&service, &last);
    let state = service.scratch().join("restored-last");
    good(&restore(&last, &state));
    let found = look_through(&state).await;
    assert!(kept.lock().unwrap().is_subset(&found.keys));
    assert!(found.logs > 0, "there are logs to look at");
}

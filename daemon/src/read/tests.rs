//! A small world on real files: an index, logs and a scheduler, filled through the functions that the
//! daemon fills them with.

use std::collections::BTreeMap;
use std::sync::Arc;

use nixci_protocol::nixci::attr_path::AttrPath;
use nixci_protocol::nixci::control::{AttemptId, EvaluationId, EvaluationState, Millis, Selector, Submission};
use nixci_protocol::nixci::outcome::{FailureClass, Outcome, Success};
use nixci_protocol::nixci::verdict::{Bucket, Conclusion};
use nixci_protocol::types::{StoreDir, StorePath};
use nixci_store::derivation::{Derivation, Output};
use nixci_store::index::attempts::{AttemptEnd, AttemptResult};
use nixci_store::index::jobs::JobRow;
use nixci_store::index::{DrvId, Index, attempts, derivations, evaluations, jobs};
use nixci_store::logs::Logs;
use nixci_store::spool::Spool;
use tokio::sync::mpsc;

use super::{ReadError, Reader, Sources, StoreName, Told};
use crate::scheduler::{Action, End, Planned, PlannedBuild, Priority, Root, Scheduler, StoreId, StoreSpec};

pub(crate) const BASE: &str = "0123456789abcdef0123456789abcdef01234567";
pub(crate) const HEAD: &str = "89abcdef0123456789abcdef0123456789abcdef";
/// An attribute and a line that must never become markup.
pub(crate) const HOSTILE: &str = "<script>alert('x')</script>\"&";

pub(crate) struct World {
    pub(crate) reader: Reader,
    pub(crate) index: Index,
    pub(crate) logs: Logs,
    pub(crate) scheduler: Scheduler,
    pub(crate) now: Millis,
    _actions: mpsc::Receiver<Action>,
    _dir: tempfile::TempDir,
}

pub(crate) fn path(name: &str) -> StorePath {
    let mut digest = [7_u8; 20];
    for (at, byte) in name.bytes().enumerate() {
        digest[at % 20] = digest[at % 20].wrapping_mul(31).wrapping_add(byte);
    }
    StorePath::new(digest, name).unwrap()
}

pub(crate) fn drv(name: &str) -> StorePath {
    path(&format!("{name}.drv"))
}

pub(crate) fn full(path: &StorePath) -> String {
    StoreDir::default().display(path).to_string()
}

pub(crate) fn attr(text: &str) -> AttrPath {
    AttrPath::new(text.split('.').map(str::to_owned).collect())
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(&dir.path().join("index.db")).unwrap();
        let logs = Logs::open(&dir.path().join("logs")).unwrap();
        let spec = StoreSpec {
            name: "builder".into(),
            slots: 2,
            systems: Vec::new(),
            features: Vec::new(),
        };
        let (scheduler, actions) = Scheduler::spawn(vec![spec]);
        let reader = Reader::new(Sources {
            index: index.clone(),
            logs: logs.clone(),
            spool: Spool::open(&dir.path().join("spool"), StoreDir::default()).unwrap(),
            scheduler: scheduler.clone(),
            store_dir: StoreDir::default(),
            pages: "http://ci.example".into(),
            stores: vec![StoreName {
                name: "builder".into(),
                uri: "ssh-ng://builder.example".into(),
                told: Told::default(),
            }],
            outbox: None,
        });
        let now = crate::http::now_for_tests();
        Self {
            reader,
            index,
            logs,
            scheduler,
            now,
            _actions: actions,
            _dir: dir,
        }
    }

    /// Adds derivations: a name, and the names of its inputs.
    pub(crate) async fn add(&self, graph: &[(&str, &[&str])]) {
        let derivations: Vec<Derivation> = graph
            .iter()
            .map(|(name, inputs)| Derivation {
                path: drv(name),
                name: (*name).to_owned(),
                system: "x86_64-linux".into(),
                builder: "/bin/sh".into(),
                required_features: Vec::new(),
                outputs: vec![Output {
                    name: "out".into(),
                    path: Some(path(name)),
                    is_fixed: false,
                }],
                input_drvs: inputs.iter().map(|input| drv(input)).collect(),
                input_srcs: Vec::new(),
            })
            .collect();
        self.index
            .write(move |tx| derivations::add(tx, &derivations))
            .await
            .unwrap();
    }

    pub(crate) async fn id(&self, name: &str) -> DrvId {
        let path = drv(name);
        self.index
            .read(move |conn| derivations::ids(conn, &[path]))
            .await
            .unwrap()[0]
            .unwrap()
    }

    /// Begins an attempt so long before now.
    pub(crate) async fn begin(&self, name: &str, ago: Millis) -> AttemptId {
        let (id, at) = (self.id(name).await, self.now - ago);
        self.index
            .write(move |tx| attempts::begin(tx, id, "builder", at))
            .await
            .unwrap()
    }

    /// An attempt that has ended, with what it printed.
    pub(crate) async fn attempt(&self, name: &str, result: AttemptResult, message: &str, lines: &[&str]) -> AttemptId {
        let id = self.begin(name, 134_000).await;
        let mut log = self.logs.start(id);
        for line in lines {
            match line.strip_prefix("@phase ") {
                Some(phase) => log.phase(phase).await,
                None => log.line(line.as_bytes()).await,
            }
        }
        let lines = log.finish().await.lines;
        let end = AttemptEnd {
            result,
            message: message.to_owned(),
            log_lines: lines,
            expires: None,
        };
        let at = self.now - 60_000;
        assert!(
            self.index
                .write(move |tx| attempts::finish(tx, id, &end, at))
                .await
                .unwrap()
        );
        id
    }

    pub(crate) async fn built(&self, names: &[&str]) {
        for name in names {
            self.attempt(name, AttemptResult::Succeeded(Success::Built), "", &["ok"])
                .await;
        }
    }

    /// An evaluation with these jobs: an attribute, and a derivation or an error.
    pub(crate) async fn evaluation(
        &self,
        project: &str,
        commit: Option<&str>,
        base: Option<&str>,
        found: &[(AttrPath, Result<&str, &str>)],
        state: EvaluationState,
    ) -> EvaluationId {
        let mut rows = Vec::new();
        for (attr, result) in found {
            let drv = match result {
                Ok(name) => Some((self.id(name).await, drv(name))),
                Err(_) => None,
            };
            rows.push(JobRow {
                attr: attr.clone(),
                drv,
                error: result.err().map(str::to_owned),
            });
        }
        let submission = Submission {
            key: format!("{project} {commit:?} {}", rows.len()),
            project: project.to_owned(),
            commit: commit.map(str::to_owned),
            git_ref: Some("main".into()),
            base: base.map(str::to_owned),
            pull_request: base.map(|_| 42),
            source: ".#checks".into(),
            labels: BTreeMap::new(),
        };
        let now = self.now;
        self.index
            .write(move |tx| {
                let (id, _) = evaluations::begin(tx, &submission, "uid:0", now - 200_000)?;
                jobs::add(tx, id, &rows)?;
                evaluations::set_state(tx, id, state, now - 50_000)?;
                Ok(id)
            })
            .await
            .unwrap()
    }

    /// Tells the scheduler of an evaluation's roots and of what must be built for them; what fits runs.
    pub(crate) async fn schedule(&self, evaluation: EvaluationId, roots: &[&str], builds: &[(&str, &[&str])]) {
        let mut root_ids = Vec::new();
        for root in roots {
            root_ids.push(self.id(root).await);
        }
        let roots = root_ids.iter().map(|drv| Root {
            drv: *drv,
            system: "x86_64-linux".into(),
            features: Arc::from(Vec::<String>::new()),
        });
        self.scheduler
            .submitted(evaluation, 1, Priority::Head, roots.collect())
            .await
            .unwrap();
        let mut planned = Vec::new();
        for (name, inputs) in builds {
            let mut ids = Vec::new();
            for input in *inputs {
                ids.push(self.id(input).await);
            }
            planned.push(PlannedBuild {
                drv: self.id(name).await,
                inputs: ids,
                known_failure: None,
            });
        }
        let plan = Planned {
            builds: planned,
            valid: Vec::new(),
        };
        self.scheduler
            .planned(evaluation.into(), StoreId(0), root_ids, plan)
            .await
            .unwrap();
        self.scheduler.closed(evaluation).await.unwrap();
    }

    /// Two evaluations of one project: base is fine, head breaks a library, has an error, and more.
    pub(crate) async fn rockets(&self) -> (EvaluationId, EvaluationId) {
        self.add(&[
            ("guidance-1.0", &[]),
            ("libpropulsion-2.3", &[]),
            ("libpropulsion-2.4", &[]),
            ("engine-1", &["libpropulsion-2.3"]),
            ("engine-2", &["libpropulsion-2.4"]),
            ("rocket-1", &["engine-1", "guidance-1.0"]),
            ("rocket-2", &["engine-2", "guidance-1.0"]),
            ("telemetry-src", &[]),
            ("telemetry-1", &["telemetry-src"]),
            ("manual-1", &[]),
            ("manual-2", &[]),
            ("simulator-1", &[]),
            ("simulator-2", &[]),
            ("old-1", &[]),
        ])
        .await;
        self.built(&[
            "guidance-1.0",
            "libpropulsion-2.3",
            "engine-1",
            "rocket-1",
            "simulator-1",
            "old-1",
            "manual-2",
        ])
        .await;
        let failed = |class| AttemptResult::Failed(class);
        self.attempt(
            "manual-1",
            failed(FailureClass::Build),
            "builder failed",
            &["no such file"],
        )
        .await;
        let mut lines = vec!["@phase unpackPhase".to_owned(), "unpacking source archive".to_owned()];
        lines.push("@phase configurePhase".to_owned());
        lines.extend((0..12).map(|n| format!("checking for feature {n}... \u{1b}[32myes\u{1b}[0m")));
        lines.push("@phase buildPhase".to_owned());
        lines.extend((0..30).map(|n| format!("[{n:2}/34] cc -O2 -c nozzle_{n}.c -o nozzle_{n}.o")));
        lines.push(format!(
            "\u{1b}[1mnozzle.c:41:9: \u{1b}[31merror:\u{1b}[0m expected ';' before {HOSTILE}"
        ));
        lines.push("   41 |         thrust = mass * acceleration".to_owned());
        lines.push("make: *** [Makefile:12: nozzle.o] Error 1".to_owned());
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let message = "builder for '/nix/store/…-libpropulsion-2.4.drv' failed with exit code 2";
        self.attempt("libpropulsion-2.4", failed(FailureClass::Build), message, &lines)
            .await;
        let message = "hash mismatch in fixed-output derivation:\n  specified: sha256-AAAA\n  got: sha256-BBBB";
        self.attempt("telemetry-src", failed(FailureClass::HashMismatch), message, &[])
            .await;
        let message = "the connection to ssh-ng://builder.example was lost";
        self.attempt("simulator-2", failed(FailureClass::Store), message, &["half of it"])
            .await;

        let base = [
            (attr("checks.rocket"), Ok("rocket-1")),
            (attr("checks.engine"), Ok("engine-1")),
            (attr("checks.guidance"), Ok("guidance-1.0")),
            (attr("checks.manual"), Ok("manual-1")),
            (attr("checks.simulator"), Ok("simulator-1")),
            (attr("checks.old"), Ok("old-1")),
        ];
        let head = [
            (attr("checks.rocket"), Ok("rocket-2")),
            (attr("checks.engine"), Ok("engine-2")),
            (attr("checks.propulsion"), Ok("libpropulsion-2.4")),
            (attr("checks.guidance"), Ok("guidance-1.0")),
            (attr("checks.telemetry"), Ok("telemetry-1")),
            (attr("checks.manual"), Ok("manual-2")),
            (attr("checks.simulator"), Ok("simulator-2")),
            (
                AttrPath::new(vec!["checks".into(), HOSTILE.into()]),
                Err("error: attribute '<b>payload</b>' missing\n       at /flake.nix:12:3"),
            ),
        ];
        let base = self
            .evaluation("acme/rockets", Some(BASE), None, &base, EvaluationState::Done)
            .await;
        let head = self
            .evaluation("acme/rockets", Some(HEAD), Some(BASE), &head, EvaluationState::Done)
            .await;
        (base, head)
    }

    /// An evaluation with one job done, one running, one that waits for it and one without a slot's worth of luck.
    pub(crate) async fn running(&self) -> (EvaluationId, AttemptId) {
        self.add(&[
            ("done-1", &[]),
            ("slow-1", &[]),
            ("above-1", &["slow-1"]),
            ("quick-1", &[]),
            ("late-1", &[]),
        ])
        .await;
        self.built(&["done-1"]).await;
        let found = [
            (attr("done"), Ok("done-1")),
            (attr("slow"), Ok("slow-1")),
            (attr("above"), Ok("above-1")),
            (attr("quick"), Ok("quick-1")),
            (attr("late"), Ok("late-1")),
        ];
        let id = self
            .evaluation("acme/station", Some(HEAD), None, &found, EvaluationState::Building)
            .await;
        let builds: &[(&str, &[&str])] = &[
            ("slow-1", &[]),
            ("above-1", &["slow-1"]),
            ("quick-1", &[]),
            ("late-1", &[]),
        ];
        self.schedule(id, &["slow-1", "above-1", "quick-1", "late-1"], builds)
            .await;
        let attempt = self.begin("slow-1", 30_000).await;
        self.scheduler
            .started(self.id("slow-1").await, StoreId(0), attempt, self.now - 30_000)
            .await
            .unwrap();
        (id, attempt)
    }
}

fn which(id: EvaluationId) -> Selector {
    Selector::Evaluation(id)
}

#[tokio::test]
async fn the_verdict_names_the_root_cause_with_its_last_lines() {
    let world = World::new();
    let (base, head) = world.rockets().await;
    let verdict = world.reader.verdict(&which(head), None).await.unwrap();
    assert_eq!(
        verdict.base.as_ref().unwrap().evaluation,
        base,
        "the submission named its base"
    );
    assert_eq!(verdict.conclusion, Conclusion::Failure);
    let buckets: Vec<String> = verdict
        .rows
        .iter()
        .map(|row| format!("{}: {}", row.attr, row.bucket.words()))
        .collect();
    insta::assert_snapshot!(format!("{}\n{}", verdict.sentence, buckets.join("\n")));
    let root = &verdict.root_causes[0];
    assert_eq!((root.name.as_str(), root.blocks), ("libpropulsion-2.4", 2));
    assert_eq!(root.log_tail.len(), 20);
    assert_eq!(root.log_tail[19], "make: *** [Makefile:12: nozzle.o] Error 1");
    assert_eq!(root.attr, Some(attr("checks.propulsion")));
    assert_eq!(verdict.count(Bucket::Unchanged), 1);
}

#[tokio::test]
async fn a_base_that_is_asked_for_wins_over_the_one_of_the_submission() {
    let world = World::new();
    let (base, head) = world.rockets().await;
    let verdict = world.reader.verdict(&which(base), Some(&which(head))).await.unwrap();
    assert_eq!(verdict.base.unwrap().evaluation, head);
}

#[tokio::test]
async fn counts_and_jobs_agree() {
    let world = World::new();
    let (_, head) = world.rockets().await;
    let summary = world.reader.status(&which(head)).await.unwrap();
    let counts = summary.counts;
    assert_eq!(
        (
            counts.jobs,
            counts.succeeded,
            counts.failed,
            counts.blocked,
            counts.evaluation_errors
        ),
        (8, 2, 2, 3, 1)
    );
    assert_eq!(
        summary.page.as_deref(),
        Some(format!("http://ci.example/e/{}", head.0).as_str())
    );
    let jobs = world.reader.jobs(&which(head)).await.unwrap();
    assert_eq!(jobs.len(), 8);
    let engine = jobs.iter().find(|job| job.attr == attr("checks.engine")).unwrap();
    assert_eq!(
        engine.outcome,
        Outcome::Blocked {
            by: vec![full(&drv("libpropulsion-2.4"))]
        }
    );
    let propulsion = jobs.iter().find(|job| job.attr == attr("checks.propulsion")).unwrap();
    assert_eq!(propulsion.duration_ms, Some(74_000));
    let listed = world.reader.evaluations(Some("acme/rockets"), 10).await.unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[0], summary);
}

#[tokio::test]
async fn what_the_scheduler_does_now_comes_before_what_is_remembered() {
    let world = World::new();
    let (id, attempt) = world.running().await;
    let jobs = world.reader.jobs(&which(id)).await.unwrap();
    let states: Vec<String> = jobs
        .iter()
        .map(|job| format!("{}: {:?}", job.attr, job.outcome))
        .collect();
    insta::assert_snapshot!(states.join("\n"));
    let mut log = world.logs.start(attempt);
    log.phase("buildPhase").await;
    log.line(b"\x1b[1mcompiling\x1b[0m").await;
    let (running, left) = world.reader.running(&which(id)).await.unwrap();
    assert_eq!(left, 4);
    assert_eq!(running[0].last_line.as_deref(), Some("compiling"));
    assert_eq!(running[0].phase.as_deref(), Some("buildPhase"));

    // It fails: first for the scheduler, then in the index; both say blocked, by the same root.
    let slow = world.id("slow-1").await;
    world
        .scheduler
        .ended(slow, StoreId(0), End::Failed(FailureClass::Build))
        .await
        .unwrap();
    let root = full(&drv("slow-1"));
    let above = async || {
        let jobs = world.reader.jobs(&which(id)).await.unwrap();
        jobs.into_iter().find(|job| job.attr == attr("above")).unwrap().outcome
    };
    assert_eq!(above().await, Outcome::Blocked { by: vec![root.clone()] });
    let end = AttemptEnd {
        result: AttemptResult::Failed(FailureClass::Build),
        message: "no".into(),
        log_lines: 1,
        expires: None,
    };
    let at = world.now;
    world
        .index
        .write(move |tx| attempts::finish(tx, attempt, &end, at))
        .await
        .unwrap();
    assert_eq!(above().await, Outcome::Blocked { by: vec![root] });
}

#[tokio::test]
async fn what_was_never_tried_depends_on_whether_its_evaluation_is_over() {
    let world = World::new();
    world.add(&[("a", &[])]).await;
    for (state, outcome) in [
        (
            EvaluationState::Building,
            Outcome::Queued {
                reason: "about to be queued".into(),
            },
        ),
        (EvaluationState::Cancelled, Outcome::Cancelled),
        (EvaluationState::Done, Outcome::Cancelled),
    ] {
        let id = world
            .evaluation(&format!("p/{state:?}"), None, None, &[(attr("a"), Ok("a"))], state)
            .await;
        assert_eq!(world.reader.jobs(&which(id)).await.unwrap()[0].outcome, outcome);
    }
}

#[tokio::test]
async fn a_build_tells_all_that_is_known_of_it() {
    let world = World::new();
    let (_, head) = world.rockets().await;
    let detail = world.reader.build(&full(&drv("rocket-2"))).await.unwrap();
    assert_eq!(
        detail.outcome,
        Outcome::Blocked {
            by: vec![full(&drv("libpropulsion-2.4"))]
        }
    );
    let inputs: Vec<_> = detail.inputs.iter().map(|input| input.drv_path.as_str()).collect();
    assert_eq!(
        inputs,
        [full(&drv("engine-2")), full(&drv("guidance-1.0"))],
        "what is not fine comes first"
    );
    assert_eq!(detail.used_by[0].evaluation, head);
    let detail = world.reader.build(&full(&drv("libpropulsion-2.4"))).await.unwrap();
    assert_eq!(
        (detail.dependents, detail.attempts.len(), detail.system.as_str()),
        (1, 1, "x86_64-linux")
    );
}

#[tokio::test]
async fn what_is_not_here_and_what_is_not_clear_are_told_apart() {
    let world = World::new();
    let missing = world.reader.build(&full(&drv("nothing"))).await;
    assert!(matches!(missing, Err(ReadError::NotFound(_))), "{missing:?}");
    for unclear in ["/tmp/x.drv", "/nix/store/x", &full(&path("no-derivation"))] {
        let result = world.reader.build(unclear).await;
        assert!(matches!(result, Err(ReadError::Unclear(_))), "{unclear}: {result:?}");
    }
    let missing = world.reader.status(&Selector::Evaluation(EvaluationId(99))).await;
    assert_eq!(missing.unwrap_err().to_string(), "there is no evaluation 99 here");
    let unclear = Selector::Commit {
        project: None,
        commit: "xyz".into(),
    };
    assert!(matches!(
        world.reader.status(&unclear).await,
        Err(ReadError::Unclear(_))
    ));
}

#[tokio::test]
async fn a_part_of_a_log_knows_where_it_is() {
    let world = World::new();
    world.add(&[("long-1", &[])]).await;
    let mut lines = vec!["@phase buildPhase".to_owned()];
    lines.extend((1..=1_000).map(|n| {
        if n == 500 {
            "an Error: here".to_owned()
        } else {
            format!("line {n}")
        }
    }));
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let id = world
        .attempt("long-1", AttemptResult::Succeeded(Success::Built), "", &lines)
        .await;
    let end = world.reader.log_part(id, None).await.unwrap();
    assert_eq!(
        (end.lines, end.range(), end.first_error),
        (1_000, Some((601, 1_000)), Some(500))
    );
    assert_eq!(end.phase.as_deref(), Some("buildPhase"));
    let middle = world.reader.log_part(id, Some(201)).await.unwrap();
    assert_eq!(middle.range(), Some((201, 600)));
    let start = world.reader.log_part(id, Some(1)).await.unwrap();
    assert_eq!(
        (start.range(), start.phase),
        (Some((1, 399)), None),
        "the phase takes a place"
    );
    let beyond = world.reader.log_part(id, Some(5_000)).await.unwrap();
    assert_eq!(beyond.range(), None);
}

//! Builds of stock clients: what they print, who shares them, what becomes of them when clients go away.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use crate::client::{remote_program, succeeds};
use crate::common::{config, connect, connect_stock, log, submit, watch};
use nixci_daemon::config::Writes;
use nixci_daemon::{Config, Running, start};
use nixci_protocol::client::{self, Connection, Hello};
use nixci_protocol::log::{ActivityType, Field, LogMessage, ResultType};
use nixci_protocol::nixci::control::LogOf;
use nixci_protocol::nixci::outcome::{FailureClass, Outcome, Success};
use nixci_protocol::op;
use nixci_protocol::types::{BuildMode, BuildStatus, DerivedPath, DrvPath, KeyedBuildResult, StoreDir};
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv};
use rstest::rstest;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

/// A daemon of ours that shares the disk with the store behind it.
struct Room {
    store: TestDaemon,
    daemon: Running,
    _home: TempDir,
}

impl Room {
    async fn new(version: NixVersion, slots: u32) -> Self {
        Self::with(TestDaemon::builder(version), slots, |_| ()).await
    }

    async fn with(
        store: nixci_store::testing::TestDaemonBuilder,
        slots: u32,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let store = store.max_jobs(slots).start();
        let home = tempfile::tempdir().unwrap();
        let mut config = config(home.path(), &store, slots);
        config.listen.writes = Writes::Through;
        change(&mut config);
        let daemon = start(config).await.unwrap();
        Self {
            store,
            daemon,
            _home: home,
        }
    }

    fn uri(&self) -> String {
        format!(
            "unix://{}?root={}",
            self.daemon.socket.display(),
            self.store.root().display()
        )
    }

    /// A stock program whose store is ours.
    fn command(&self, program: &str) -> Command {
        let mut command = self.store.command(program);
        // Its settings are the store's own, which a client reads from the system's file and does not send along.
        let store_settings = self.store.scratch().join("conf");
        std::fs::create_dir_all(&store_settings).unwrap();
        std::fs::write(store_settings.join("nix.conf"), self.store.config()).unwrap();
        command
            .env("NIX_REMOTE", self.uri())
            .env("NIX_CONF_DIR", store_settings)
            .env_remove("NIX_CONFIG");
        command
    }

    async fn run(&self, program: &str, arguments: &[&str]) -> Output {
        output(self.command(program), arguments).await
    }

    /// A client that knows no feature of ours.
    async fn stock(&self) -> Connection {
        stock(&self.daemon.socket).await
    }

    async fn how_it_ended(&self, drv: &str) -> (Vec<String>, Option<Outcome>) {
        let mut client = connect(&self.daemon.socket).await;
        log(&mut client, LogOf::Derivation(drv.to_owned()), true).await
    }
}

async fn stock(socket: &Path) -> Connection {
    let (read, write) = UnixStream::connect(socket).await.unwrap().into_split();
    Connection::open(read, write, Hello::default()).await.unwrap()
}

async fn output(mut command: Command, arguments: &[&str]) -> Output {
    command.args(arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

fn all_of(drv: &str) -> DerivedPath {
    let path = StoreDir::default().parse(drv).unwrap();
    DerivedPath::all_outputs(&DrvPath::try_from(path).unwrap())
}

fn request<'d>(drvs: impl IntoIterator<Item = &'d String>) -> op::BuildPathsWithResults {
    op::BuildPathsWithResults {
        paths: drvs.into_iter().map(|drv| all_of(drv)).collect(),
        mode: BuildMode::Normal,
    }
}

/// A client that asks for builds, and all it hears.
struct Client {
    task: tokio::task::JoinHandle<Result<Vec<KeyedBuildResult>, client::Error>>,
    heard: mpsc::Receiver<LogMessage>,
}

impl Client {
    async fn ask(room: &Room, drvs: &[&String]) -> Self {
        Self::ask_with_room(room, drvs, 10_000).await
    }

    /// Stops reading when so many messages wait.
    async fn ask_with_room(room: &Room, drvs: &[&String], messages: usize) -> Self {
        let mut connection = room.stock().await;
        let request = request(drvs.iter().copied());
        let (mut sink, heard) = mpsc::channel(messages);
        let task = tokio::spawn(async move { connection.call(&request, &mut sink).await });
        Self { task, heard }
    }

    /// Waits until it has heard this line of a build.
    async fn hears(&mut self, line: &str) {
        let hearing = async {
            while let Some(message) = self.heard.recv().await {
                if log_line(&message).as_deref() == Some(line) {
                    return;
                }
            }
            panic!("the request ended without {line:?}");
        };
        tokio::time::timeout(Duration::from_mins(2), hearing)
            .await
            .unwrap_or_else(|_| panic!("nobody said {line:?}"));
    }

    /// Hangs up in the middle.
    async fn leave(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }

    async fn results(self) -> (Vec<KeyedBuildResult>, Vec<LogMessage>) {
        let mut heard = self.heard;
        let mut all = Vec::new();
        while let Some(message) = heard.recv().await {
            all.push(message);
        }
        (self.task.await.unwrap().unwrap(), all)
    }
}

fn log_line(message: &LogMessage) -> Option<String> {
    match message {
        LogMessage::Result { kind, fields, .. } if *kind == ResultType::BUILD_LOG_LINE => {
            let text = fields.first().and_then(Field::text)?;
            Some(String::from_utf8_lossy(text).into_owned())
        }
        LogMessage::Result { .. }
        | LogMessage::Next { .. }
        | LogMessage::StartActivity { .. }
        | LogMessage::StopActivity { .. } => None,
    }
}

fn lines_of(messages: &[LogMessage]) -> Vec<String> {
    messages.iter().filter_map(log_line).collect()
}

/// What a client printed, whatever the order.
fn printed(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[rstest]
#[case::oldest(NixVersion::V2_8)]
#[case::middle(NixVersion::V2_26)]
#[case::newest(NixVersion::V2_34)]
#[tokio::test(flavor = "multi_thread")]
async fn failures_are_told_as_the_daemon_tells_them(#[case] version: NixVersion) {
    let expression = nixci_store::testing::expression(
        "failures",
        &[
            TestDrv::good("good").script("echo one; echo two"),
            TestDrv::failing("bad"),
            TestDrv::failing("worse").script("echo a line"),
            TestDrv::good("mid").needs(&["bad"]),
            TestDrv::good("top").needs(&["mid", "good"]),
            TestDrv::good("two").needs(&["bad", "worse"]),
        ],
    );
    let room = Room::new(version, 1).await;
    let direct = TestDaemon::builder(version).max_jobs(1).start();
    let file = direct.scratch().join("e.nix");
    std::fs::write(&file, expression).unwrap();
    let file = file.display().to_string();
    for arguments in [
        vec!["build", "--no-link", "-f", &file, "good"],
        vec!["build", "--no-link", "-f", &file, "bad"],
        vec!["build", "--no-link", "-f", &file, "top"],
        vec!["build", "--no-link", "--keep-going", "-f", &file, "two"],
        vec!["build", "--no-link", "--keep-going", "-f", &file, "bad", "top", "worse"],
    ] {
        let (ours, theirs) = (
            room.run("nix", &arguments).await,
            output(direct.command("nix"), &arguments).await,
        );
        assert_eq!(printed(&ours), printed(&theirs), "nix {arguments:?}");
        assert_eq!(ours.status.code(), theirs.status.code(), "nix {arguments:?}");
    }
    for arguments in [
        vec!["--no-out-link", &file, "-A", "top"],
        vec!["--no-out-link", "--keep-going", &file, "-A", "two"],
        vec![
            "--no-out-link",
            "--keep-going",
            &file,
            "-A",
            "bad",
            "-A",
            "top",
            "-A",
            "worse",
        ],
    ] {
        let (ours, theirs) = (
            room.run("nix-build", &arguments).await,
            output(direct.command("nix-build"), &arguments).await,
        );
        assert_eq!(printed(&ours), printed(&theirs), "nix-build {arguments:?}");
        assert_eq!(ours.status.code(), theirs.status.code(), "nix-build {arguments:?}");
    }
    room.daemon.stop().await;
}

#[rstest]
#[case::oldest(NixVersion::V2_8)]
#[case::middle(NixVersion::V2_26)]
#[case::newest(NixVersion::V2_34)]
#[tokio::test(flavor = "multi_thread")]
async fn every_stock_command_builds_and_is_recorded(#[case] version: NixVersion) {
    let room = Room::new(version, 2).await;
    let drvs: Vec<TestDrv> = ["a", "b", "c"]
        .iter()
        .flat_map(|name| {
            let base = format!("{name}-base");
            [TestDrv::good(&base), TestDrv::good(name).needs(&[&base])]
        })
        .collect();
    let file = room.store.scratch().join("e.nix");
    // Names with dashes are no attributes that need quoting.
    std::fs::write(&file, nixci_store::testing::expression("commands", &drvs)).unwrap();
    let file = file.display().to_string();
    let link = room.store.scratch().join("link").display().to_string();
    let succeed = |output: Output| {
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    succeed(room.run("nix", &["build", "--out-link", &link, "-f", &file, "a"]).await);
    let b = succeed(room.run("nix-build", &["--no-out-link", &file, "-A", "b"]).await);
    assert!(room.store.physical(&b).exists());
    let drv = succeed(room.run("nix-instantiate", &[&file, "-A", "c"]).await);
    let c = succeed(room.run("nix-store", &["-r", &drv]).await);
    assert!(room.store.physical(&c).exists());
    let (lines, end) = room.how_it_ended(&drv).await;
    assert_eq!(lines, ["building c"]);
    assert_eq!(end, Some(Outcome::Succeeded { how: Success::Built }));
    let again = succeed(room.run("nix-store", &["-r", &drv]).await);
    assert_eq!(again, c);
    let told = succeed(room.run("nix", &["log", &drv]).await);
    assert_eq!(told, "building c");
    room.daemon.stop().await;
}

#[rstest]
#[case::oldest(NixVersion::V2_8)]
#[case::middle(NixVersion::V2_26)]
#[case::newest(NixVersion::V2_34)]
#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_our_disk_builds_from_the_spool(#[case] version: NixVersion) {
    let (store, evaluator) = (TestDaemon::start(version), TestDaemon::start(version));
    let home = tempfile::tempdir().unwrap();
    let daemon = start(config(home.path(), &store, 2)).await.unwrap();
    let pipe = remote_program(home.path(), &daemon.socket);
    let drvs = evaluator.instantiate("spool", &[TestDrv::good("base"), TestDrv::good("app").needs(&["base"])]);
    succeeds(&evaluator, &["copy", "--derivation", "--to", &pipe, &drvs["app"]]).await;
    let built = output(evaluator.command("nix-store"), &["--store", &pipe, "-r", &drvs["app"]]).await;
    assert!(built.status.success(), "{built:?}");
    let mut client = connect(&daemon.socket).await;
    for drv in ["base", "app"] {
        let (lines, _) = log(&mut client, LogOf::Derivation(drvs[drv].clone()), false).await;
        assert_eq!(lines, [format!("building {drv}")]);
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_share_an_attempt_and_both_hear_all_of_it() {
    let room = Room::new(NixVersion::V2_34, 2).await;
    let gate = room.store.gate("shared");
    let drvs = room.store.instantiate(
        "shared",
        &[TestDrv::good("slow")
            .script("echo early")
            .gate("shared")
            .script("echo late")],
    );
    let slow = &drvs["slow"];
    let mut first = Client::ask(&room, &[slow]).await;
    first.hears("early").await;
    gate.started().await;
    let mut second = Client::ask(&room, &[slow]).await;
    second.hears("building slow").await;
    second.hears("early").await;
    gate.open();
    for client in [first, second] {
        let (results, heard) = client.results().await;
        assert_eq!(results[0].result.status, BuildStatus::Built);
        assert_eq!(results[0].result.built_outputs.paths().count(), 1);
        assert_eq!(lines_of(&heard), ["late"]);
        assert!(
            matches!(heard.last(), Some(LogMessage::StopActivity { .. })),
            "{heard:?}"
        );
    }
    let (lines, end) = room.how_it_ended(slow).await;
    assert_eq!(lines, ["building slow", "early", "late"]);
    assert_eq!(end, Some(Outcome::Succeeded { how: Success::Built }));
    room.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_stops_only_what_nobody_else_wants() {
    let room = Room::new(NixVersion::V2_34, 2).await;
    let gate = room.store.gate("leaving");
    let drvs = room
        .store
        .instantiate("leaving", &[TestDrv::good("slow").gate("leaving").script("echo done")]);
    let slow = &drvs["slow"];
    let mut first = Client::ask(&room, &[slow]).await;
    first.hears("building slow").await;
    gate.started().await;
    let mut second = Client::ask(&room, &[slow]).await;
    second.hears("building slow").await;
    first.leave().await;
    second.leave().await;
    let (_, end) = room.how_it_ended(slow).await;
    assert_eq!(end, Some(Outcome::Cancelled));
    // The builder is gone with them: the next one begins anew.
    let mut third = Client::ask(&room, &[slow]).await;
    gate.started().await;
    third.hears("building slow").await;
    let mut fourth = Client::ask(&room, &[slow]).await;
    fourth.hears("building slow").await;
    third.leave().await;
    gate.open();
    let (results, heard) = fourth.results().await;
    assert_eq!(results[0].result.status, BuildStatus::Built);
    assert_eq!(lines_of(&heard), ["done"]);
    room.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_and_a_client_share_a_build() {
    let room = Room::new(NixVersion::V2_34, 2).await;
    let gate = room.store.gate("both");
    let drvs = room.store.instantiate(
        "both",
        &[
            TestDrv::good("base").gate("both"),
            TestDrv::good("app").needs(&["base"]),
        ],
    );
    let mut ours = connect(&room.daemon.socket).await;
    let jobs: BTreeMap<String, String> = [("app".to_owned(), drvs["app"].clone())].into();
    let evaluation = submit(&mut ours, &room.store, "both", &jobs).await;
    gate.started().await;
    let mut client = Client::ask(&room, &[&drvs["app"], &drvs["base"]]).await;
    client.hears("building base").await;
    gate.open();
    let (results, heard) = client.results().await;
    assert!(
        results.iter().all(|keyed| keyed.result.status == BuildStatus::Built),
        "{results:?}"
    );
    assert_eq!(lines_of(&heard), ["building app"]);
    let watched = watch(&mut ours, evaluation).await;
    assert_eq!(watched.outcomes["app"], Outcome::Succeeded { how: Success::Built });
    room.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_ends_a_request_unless_it_keeps_going_and_is_tried_again() {
    let room = Room::new(NixVersion::V2_34, 1).await;
    let drvs = room.store.instantiate(
        "going",
        &[
            TestDrv::failing("bad"),
            TestDrv::good("above").needs(&["bad"]),
            TestDrv::good("fine"),
        ],
    );
    let wanted = request([&drvs["bad"], &drvs["above"], &drvs["fine"]]);
    let mut client = room.stock().await;
    let stop = client.call(&wanted, &mut ()).await.unwrap();
    assert!(!stop[0].result.status.is_success());
    let going = op::SetOptions {
        keep_going: true,
        ..op::SetOptions::default()
    };
    client.call(&going, &mut ()).await.unwrap();
    let mut heard = Vec::new();
    let results = client.call(&wanted, &mut heard).await.unwrap();
    let statuses: Vec<BuildStatus> = results.iter().map(|keyed| keyed.result.status).collect();
    assert_eq!(
        statuses[..2],
        [BuildStatus::PermanentFailure, BuildStatus::DependencyFailed]
    );
    assert!(statuses[2].is_success());
    assert!(
        lines_of(&heard).contains(&"error: bad does not compile".to_owned()),
        "built again"
    );
    let (_, end) = room.how_it_ended(&drvs["bad"]).await;
    assert_eq!(
        end,
        Some(Outcome::Failed {
            class: FailureClass::Build
        })
    );
    room.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_roots_are_built_in_one_request_with_totals() {
    let room = Room::new(NixVersion::V2_34, 4).await;
    let mut all = vec![TestDrv::good("base")];
    all.extend((0..300).map(|n| TestDrv::good(&format!("r{n}")).needs(&["base"])));
    // Straight into the store behind: nixci has never seen any of them.
    let drvs = room.store.instantiate("many", &all);
    let roots: Vec<&String> = drvs
        .iter()
        .filter(|(name, _)| *name != "base")
        .map(|(_, drv)| drv)
        .collect();
    let mut heard = Vec::new();
    let results = room
        .stock()
        .await
        .call(&request(roots.iter().copied()), &mut heard)
        .await
        .unwrap();
    assert_eq!(results.len(), 300);
    assert!(results.iter().all(|keyed| keyed.result.status == BuildStatus::Built));
    let mut begun = BTreeSet::new();
    let (mut open, mut totals) = (BTreeSet::new(), None);
    let mut builds_id = None;
    for message in &heard {
        match message {
            LogMessage::StartActivity { id, kind, fields, .. } => {
                assert!(open.insert(*id), "a number is used twice");
                if *kind == ActivityType::BUILD {
                    begun.insert(fields[0].text().unwrap().to_vec());
                }
                if *kind == ActivityType::BUILDS {
                    builds_id = Some(*id);
                }
            }
            LogMessage::StopActivity { id } => assert!(open.remove(id), "it ends once"),
            LogMessage::Result { id, kind, fields } => {
                assert!(open.contains(id), "said of something that is going on");
                if Some(*id) == builds_id && *kind == ResultType::PROGRESS {
                    totals = Some(fields.iter().filter_map(Field::int).collect::<Vec<_>>());
                }
            }
            LogMessage::Next { .. } => {}
        }
    }
    assert!(open.is_empty(), "{open:?} never ended");
    assert_eq!(begun.len(), 301);
    assert_eq!(totals.unwrap(), [301, 301, 0, 0]);
    assert_eq!(lines_of(&heard).len(), 301);
    // Nothing to do: the store answers at once.
    let again = room.stock().await.call(&request(roots), &mut ()).await.unwrap();
    assert!(
        again
            .iter()
            .all(|keyed| keyed.result.status == BuildStatus::AlreadyValid)
    );
    room.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_holds_up_nobody() {
    const LINES: usize = 60_000;
    let room = Room::new(NixVersion::V2_34, 1).await;
    let chatter =
        format!("i=0; while [ $i -lt {LINES} ]; do echo \"line $i of many that nobody reads\"; i=$((i+1)); done");
    let gate = room.store.gate("chatty");
    let drvs = room
        .store
        .instantiate("chatty", &[TestDrv::good("chatty").gate("chatty").script(&chatter)]);
    let chatty = &drvs["chatty"];
    let mut idle = Client::ask_with_room(&room, &[chatty], 1).await;
    idle.hears("building chatty").await;
    gate.started().await;
    let mut quick = room.stock().await;
    let wanted = request([chatty]);
    let quick = tokio::spawn(async move {
        let mut heard = Vec::new();
        let results = quick.call(&wanted, &mut heard).await.unwrap();
        (results, heard)
    });
    gate.open();
    let (results, heard) = quick.await.unwrap();
    assert_eq!(results[0].result.status, BuildStatus::Built);
    assert!(!lines_of(&heard).is_empty());
    let (lines, _) = room.how_it_ended(chatty).await;
    assert_eq!(lines.len(), LINES + 1, "the log has all");
    let (results, heard) = idle.results().await;
    assert_eq!(results[0].result.status, BuildStatus::Built);
    assert!(lines_of(&heard).len() < LINES);
    let told = heard.iter().any(|message| match message {
        LogMessage::Next { text } => String::from_utf8_lossy(text).contains("were left out"),
        LogMessage::StartActivity { .. } | LogMessage::StopActivity { .. } | LogMessage::Result { .. } => false,
    });
    assert!(told, "what it missed is said");
    room.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_two_stores_a_request_goes_where_there_is_room_and_its_outputs_are_read_from_there() {
    let (store, other, evaluator) = (
        TestDaemon::start(NixVersion::V2_34),
        TestDaemon::start(NixVersion::V2_26),
        TestDaemon::start(NixVersion::V2_34),
    );
    let home = tempfile::tempdir().unwrap();
    let mut config = config(home.path(), &store, 1);
    let mut second = config.stores[0].clone();
    second.name = "second".to_owned();
    second.uri = other.uri();
    second.slots = 3;
    config.stores.push(second);
    let daemon = start(config).await.unwrap();
    let pipe = remote_program(home.path(), &daemon.socket);
    let drvs = evaluator.instantiate("two", &[TestDrv::good("base"), TestDrv::good("app").needs(&["base"])]);
    succeeds(&evaluator, &["copy", "--derivation", "--to", &pipe, &drvs["app"]]).await;
    let mut client = stock(&daemon.socket).await;
    let results = client.call(&request([&drvs["app"]]), &mut ()).await.unwrap();
    assert_eq!(results[0].result.status, BuildStatus::Built);
    let out = results[0].result.built_outputs.paths().next().unwrap().1.clone();
    let out = StoreDir::default().display(&out).to_string();
    assert!(other.physical(&out).exists() && !store.physical(&out).exists());
    // There is nothing left to do on any store.
    let results = client.call(&request([&drvs["app"]]), &mut ()).await.unwrap();
    assert_eq!(results[0].result.status, BuildStatus::AlreadyValid);
    succeeds(&evaluator, &["copy", "--no-check-sigs", "--from", &pipe, &out]).await;
    assert!(evaluator.physical(&out).exists());
    drop(client);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_was_asked_for_is_answered_and_paths_are_made_valid_beside_builds() {
    let room = Room::new(NixVersion::V2_34, 1).await;
    let split = TestDrv::good("split")
        .script("echo dev > $dev")
        .attribute("outputs", "[ \"out\" \"dev\" ]");
    let drvs = room
        .store
        .instantiate("some", &[split, TestDrv::good("there"), TestDrv::good("new")]);
    let mut client = room.stock().await;
    let made = client.call(&request([&drvs["there"]]), &mut ()).await.unwrap();
    let there = made[0].result.built_outputs.paths().next().unwrap().1.clone();
    let dir = StoreDir::default();
    let dev = DerivedPath::parse(&dir, &format!("{}!dev", drvs["split"])).unwrap();
    let nobody = dir.parse("/nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-nobody").unwrap();
    let going = op::SetOptions {
        keep_going: true,
        ..op::SetOptions::default()
    };
    client.call(&going, &mut ()).await.unwrap();
    let request = op::BuildPathsWithResults {
        paths: vec![
            DerivedPath::Opaque(there),
            dev,
            all_of(&drvs["new"]),
            all_of(&drvs["there"]),
            DerivedPath::Opaque(nobody),
        ],
        mode: BuildMode::Normal,
    };
    let results = client.call(&request, &mut ()).await.unwrap();
    let told: Vec<(BuildStatus, usize)> = results
        .iter()
        .map(|keyed| (keyed.result.status, keyed.result.built_outputs.paths().count()))
        .collect();
    assert_eq!(
        told,
        [
            (BuildStatus::AlreadyValid, 0),
            (BuildStatus::Built, 1),
            (BuildStatus::Built, 1),
            (BuildStatus::AlreadyValid, 1),
            (BuildStatus::NoSubstituters, 0),
        ]
    );
    room.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_dies_and_comes_back_builds_for_the_same_request() {
    let room = Room::new(NixVersion::V2_34, 1).await;
    let gate = room.store.gate("dying");
    let drvs = room.store.instantiate("dying", &[TestDrv::good("slow").gate("dying")]);
    let mut client = Client::ask(&room, &[&drvs["slow"]]).await;
    client.hears("building slow").await;
    gate.started().await;
    room.store.kill9();
    room.store.start_again();
    gate.started().await;
    gate.open();
    let (results, heard) = client.results().await;
    assert_eq!(results[0].result.status, BuildStatus::Built, "{results:?}");
    let told = heard.iter().any(|message| match message {
        LogMessage::Next { text } => String::from_utf8_lossy(text).contains("it is tried again"),
        LogMessage::StartActivity { .. } | LogMessage::StopActivity { .. } | LogMessage::Result { .. } => false,
    });
    assert!(told, "{heard:?}");
    room.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_client_leaves_nothing_running() {
    let room = Room::new(NixVersion::V2_34, 1).await;
    let gate = room.store.gate("killed");
    let drvs = room
        .store
        .instantiate("killed", &[TestDrv::good("slow").gate("killed")]);
    let mut command = room.command("nix-store");
    let mut child = command.args(["-r", &drvs["slow"]]).spawn().unwrap();
    gate.started().await;
    child.kill().unwrap();
    child.wait().unwrap();
    let (_, end) = room.how_it_ended(&drvs["slow"]).await;
    assert_eq!(end, Some(Outcome::Cancelled));
    gate.open();
    let built = room.run("nix-store", &["-r", &drvs["slow"]]).await;
    assert!(built.status.success(), "{built:?}");
    room.daemon.stop().await;
}

#[rstest]
#[case::middle(NixVersion::V2_26)]
#[case::newest(NixVersion::V2_34)]
#[tokio::test(flavor = "multi_thread")]
async fn floating_outputs_come_out_as_the_store_says(#[case] version: NixVersion) {
    let store = TestDaemon::builder(version).config("extra-experimental-features = ca-derivations");
    let room = Room::with(store, 2, |_| ()).await;
    let all = [
        TestDrv::good("low").floating(),
        TestDrv::good("mid").needs(&["low"]).floating(),
        TestDrv::good("top").needs(&["mid"]),
    ];
    let file = room.store.scratch().join("e.nix");
    std::fs::write(&file, nixci_store::testing::expression("floating", &all)).unwrap();
    let file = file.display().to_string();
    let built = room
        .run(
            "nix",
            &["build", "--no-link", "--print-out-paths", "-f", &file, "top", "mid"],
        )
        .await;
    assert!(built.status.success(), "{built:?}");
    let outs = String::from_utf8(built.stdout).unwrap();
    assert_eq!(outs.lines().count(), 2, "{outs}");
    assert!(outs.lines().all(|out| room.store.physical(out).exists()), "{outs}");
    let drv = room.run("nix-instantiate", &[&file, "-A", "mid"]).await;
    let drv = String::from_utf8(drv.stdout).unwrap().trim().to_owned();
    let (lines, end) = room.how_it_ended(&drv).await;
    assert_eq!(lines, ["building mid"], "said by what it was resolved to");
    assert_eq!(end, Some(Outcome::Succeeded { how: Success::Built }));
    room.daemon.stop().await;
}

#[rstest]
#[case::oldest(NixVersion::V2_8)]
#[case::middle(NixVersion::V2_26)]
#[case::newest(NixVersion::V2_34)]
#[tokio::test(flavor = "multi_thread")]
async fn a_client_sends_its_builds_here(#[case] version: NixVersion) {
    let (store, evaluator) = (TestDaemon::start(version), TestDaemon::start(version));
    let home = tempfile::tempdir().unwrap();
    let daemon = start(config(home.path(), &store, 2)).await.unwrap();
    let pipe = remote_program(home.path(), &daemon.socket);
    let drvs = evaluator.instantiate(
        "builder",
        &[TestDrv::good("base"), TestDrv::good("app").needs(&["base"])],
    );
    let builders = format!("{pipe} x86_64-linux - 2 1");
    let built = output(
        evaluator.local_command("nix-store"),
        &["-r", &drvs["app"], "--max-jobs", "0", "--builders", &builders],
    )
    .await;
    assert!(built.status.success(), "{built:?}");
    let out = String::from_utf8(built.stdout).unwrap();
    assert!(evaluator.physical(out.trim()).exists());
    let mut client = connect(&daemon.socket).await;
    for drv in ["base", "app"] {
        let (lines, end) = log(&mut client, LogOf::Derivation(drvs[drv].clone()), false).await;
        assert_eq!(lines, [format!("building {drv}")]);
        assert_eq!(end, Some(Outcome::Succeeded { how: Success::Built }));
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_proves_itself_is_built_for_the_untrusted() {
    let room = Room::with(TestDaemon::builder(NixVersion::V2_34), 1, |config| {
        config.listen.trusted_users.clear();
    })
    .await;
    let drvs = room.store.instantiate("untrusted", &[TestDrv::good("app")]);
    let derivation = nixci_protocol::types::BasicDerivation {
        outputs: BTreeMap::from([(
            "out".parse().unwrap(),
            nixci_protocol::types::DerivationOutput {
                path: Some(
                    StoreDir::default()
                        .parse(&drvs["app"].replace("app.drv", "app"))
                        .unwrap(),
                ),
                hash_algo: String::new(),
                hash: String::new(),
            },
        )]),
        input_srcs: BTreeSet::new(),
        platform: "x86_64-linux".into(),
        builder: "/bin/sh".into(),
        args: vec!["-c".into(), "echo evil > $out".into()],
        env: BTreeMap::new(),
    };
    let path = StoreDir::default().parse(&drvs["app"]).unwrap();
    let mut request = op::BuildDerivation {
        drv: DrvPath::try_from(path).unwrap(),
        derivation,
        mode: BuildMode::Normal,
    };
    let mut client = room.stock().await;
    let refused = client.call(&request, &mut ()).await.unwrap_err();
    assert!(refused.is_remote());
    assert_eq!(
        refused.to_string(),
        "you are not privileged to build input-addressed derivations"
    );
    let output = request.derivation.outputs.values_mut().next().unwrap();
    // Of the text `hello` and a newline.
    output.hash_algo = "sha256".to_owned();
    output.hash = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03".to_owned();
    let fixed = nixci_protocol::types::ContentAddress {
        method: nixci_protocol::types::ContentAddressMethod::Flat,
        hash: nixci_protocol::types::Hash::sha256_of(b"hello\n"),
    };
    output.path = Some(nixci_protocol::types::make_fixed_path(&StoreDir::default(), "app", &fixed).unwrap());
    request.derivation.args[1] = "echo hello > $out".into();
    let out = StoreDir::default().display(output.path.as_ref().unwrap()).to_string();
    request.derivation.env.insert("out".into(), out.clone().into());
    let result = client.call(&request, &mut ()).await.unwrap();
    assert_eq!(result.status, BuildStatus::Built, "{result:?}");
    assert!(room.store.physical(&out).exists());
    // It said nothing about the derivation it claimed to be.
    let mut store = connect_stock(&room.store).await;
    let missing = op::QueryMissing {
        paths: vec![all_of(&drvs["app"])],
    };
    assert_eq!(store.call(&missing, &mut ()).await.unwrap().will_build.len(), 1);
    room.daemon.stop().await;
}

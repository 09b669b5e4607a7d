//! An index, an outbox and what is wanted.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nixci_daemon::config::{Config, Forge, ForgeAuth, ForgeKind, Form, Pace, SecretFile, Window};
use nixci_daemon::report::Outbox;
use nixci_protocol::nixci::control::{EvaluationId, Millis};
use nixci_protocol::nixci::report::{StatusContent, StatusRole, StatusState};
use nixci_store::index::Index;
use nixci_store::index::statuses::{self, StatusKey, StatusRow, Want, Wanted};
use nixci_store::testing::peers::node_modules;
use tempfile::TempDir;

pub(crate) const REPOSITORY: &str = "owner/name";
pub(crate) const SUMMARY: &str = "nixci";
const PATIENCE: Duration = Duration::from_mins(4);

pub(crate) struct World {
    pub(crate) index: Index,
    pub(crate) outbox: Outbox,
    _dir: TempDir,
}

/// A private key for an App, made anew by the Node that tests of forges run on.
pub(crate) fn write_key(path: &Path) {
    const MAKE: &str = "process.stdout.write(require('crypto').generateKeyPairSync('rsa', { modulusLength: 2048 })
        .privateKey.export({ type: 'pkcs1', format: 'pem' }))";
    let made = Command::new(node_modules().join(".bin/node"))
        .args(["-e", MAKE])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    write_secret(path, &made.stdout);
}

pub(crate) fn write_secret(path: &Path, secret: &[u8]) {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = std::fs::File::options();
    let mut file = file
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .unwrap();
    std::io::Write::write_all(&mut file, secret).unwrap();
}

pub(crate) fn forge(dir: &Path, name: &str, url: &str, form: Form, pace: Pace) -> Forge {
    let file = |name: &str| SecretFile {
        path: dir.join(name),
        line: None,
    };
    let auth = match form {
        Form::Checks => {
            write_key(&dir.join("key"));
            ForgeAuth::App {
                id: 7,
                key: file("key"),
            }
        }
        Form::Statuses => {
            write_secret(&dir.join("token"), b"ghp_fake\n");
            ForgeAuth::Token(file("token"))
        }
    };
    Forge {
        name: name.to_owned(),
        kind: ForgeKind::GitHub,
        url: url.to_owned(),
        api: url.to_owned(),
        auth: Some(auth),
        webhook_secret: None,
        form,
        pace,
    }
}

/// GitHub's pace where a minute is this long.
pub(crate) fn scaled(minute: Duration) -> Pace {
    let usual = Pace::of(ForgeKind::GitHub);
    let windows = usual.windows.iter().zip([minute, minute * 60]);
    Pace {
        windows: windows
            .map(|(window, time)| Window {
                writes: window.writes,
                time,
            })
            .collect(),
        ..usual
    }
}

/// As much as can be sent.
pub(crate) fn generous() -> Pace {
    Pace {
        windows: Pace::windows(1_000_000, 10_000_000),
        ..Pace::of(ForgeKind::GitHub)
    }
}

pub(crate) fn wanted(forge: &str, repository: &str, context: &str, version: u64, state: StatusState) -> Wanted {
    let is_summary = context == SUMMARY;
    Wanted {
        key: StatusKey {
            forge: forge.to_owned(),
            repository: repository.to_owned(),
            commit: "c0ffee".repeat(7)[..40].to_owned(),
            context: context.to_owned(),
        },
        evaluation: EvaluationId(1),
        role: if is_summary {
            StatusRole::Summary
        } else {
            StatusRole::Job
        },
        attr: (!is_summary).then(|| context.parse().unwrap()),
        content: StatusContent {
            state,
            description: format!("v{version} {}", state.word()),
            summary: String::new(),
            text: String::new(),
            url: None,
            annotations: Vec::new(),
            started: None,
            ended: None,
        },
    }
}

/// The word GitHub has for it.
pub(crate) fn word(state: StatusState, form: Form) -> &'static str {
    match (form, state) {
        (Form::Checks, StatusState::Queued) => "queued",
        (Form::Checks, StatusState::Running) => "in_progress",
        (Form::Statuses, StatusState::Queued | StatusState::Running) => "pending",
        (_, StatusState::Success) => "success",
        (_, StatusState::Failure) => "failure",
        (_, other) => panic!("no test wants {other:?}"),
    }
}

pub(crate) async fn want(index: &Index, all: Vec<Wanted>) -> Vec<Want> {
    let now = Millis::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    let wanted = index.write(move |tx| all.iter().map(|wanted| statuses::want(tx, wanted, now)).collect());
    wanted.await.unwrap()
}

pub(crate) async fn rows(index: &Index) -> Vec<StatusRow> {
    let rows = index.read(|conn| statuses::of_evaluation(conn, EvaluationId(1)));
    rows.await.unwrap()
}

impl World {
    pub(crate) fn new(forges: impl FnOnce(&Path) -> Vec<Forge>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(&dir.path().join("index.db")).unwrap();
        let mut config = Config::in_folder(dir.path(), "auto", 1);
        config.forges = forges(dir.path());
        let outbox = Outbox::alone(index.clone(), config).unwrap();
        Self {
            index,
            outbox,
            _dir: dir,
        }
    }

    pub(crate) async fn want(&self, all: Vec<Wanted>) {
        let places: Vec<(String, String)> = all
            .iter()
            .map(|wanted| (wanted.key.forge.clone(), wanted.key.repository.clone()))
            .collect();
        want(&self.index, all).await;
        for (forge, repository) in places {
            self.outbox.ring(&forge, &repository);
        }
    }

    /// Waits until rows are as they should be.
    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&[StatusRow]) -> bool) {
        until(&self.index, what, is_so).await;
    }
}

/// Every final status is confirmed.
pub(crate) fn all_sent(rows: &[StatusRow]) -> bool {
    rows.iter()
        .all(|row| !row.wanted.content.state.is_final() || row.sent_seq == Some(row.seq))
}

pub(crate) async fn until(index: &Index, what: &str, is_so: impl Fn(&[StatusRow]) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    let mut look = tokio::time::interval(Duration::from_millis(50));
    loop {
        look.tick().await;
        let began = Instant::now();
        let rows = rows(index).await;
        // Thousands of rows take long to read: whoever is tested needs the processor more.
        look.reset_after((began.elapsed() * 10).max(Duration::from_millis(50)));
        if is_so(&rows) {
            return;
        }
        if Instant::now() > deadline {
            let left: Vec<&StatusRow> = rows
                .iter()
                .filter(|row| row.sent_seq != Some(row.seq))
                .take(5)
                .collect();
            panic!("waited four minutes until {what}; not sent: {left:#?}");
        }
    }
}

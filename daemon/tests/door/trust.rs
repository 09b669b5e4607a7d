//! Who asks, and what they may: keys behind a forced command, users without trust, what they set, tokens.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nixci_daemon::config::{HashFrom, HttpRead, Projects, Right, Token, Users};
use nixci_daemon::{Config, Running, TokenHash, start};
use nixci_protocol::client::{Connection, Error, Hello, LogFn};
use nixci_protocol::log::LogMessage;
use nixci_protocol::op::{self, GcAction, GcScope};
use nixci_protocol::types::{StoreDir, StorePath, Trust};
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv};
use rstest::rstest;
use tokio::net::UnixStream;

use crate::client::{executable, succeeds};
use crate::common::config;

const DAEMON: &str = env!("CARGO_BIN_EXE_nixci-daemon");

/// A program for `remote-program` that is what a forced command of `authorized_keys` would be.
fn forced_command(home: &Path, daemon: &Running, arguments: &str) -> String {
    let program = home.join(format!("forced{}", arguments.replace(' ', "")));
    executable(
        &program,
        &format!(
            "#!/bin/sh\nexec {DAEMON} stdio --socket {} {arguments} \"$@\"\n",
            daemon.socket.display()
        ),
    );
    format!("ssh-ng://localhost?remote-program={}", program.display())
}

pub(crate) async fn run(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A connection through a bridge that speaks for somebody, as a program that runs with other rights would make it.
async fn bridge(prefix: &[&str], daemon: &Path, socket: &Path, arguments: &[&str]) -> Result<Connection, Error> {
    let mut words: Vec<&std::ffi::OsStr> = prefix.iter().map(std::ffi::OsStr::new).collect();
    words.push(daemon.as_os_str());
    let mut command = tokio::process::Command::new(words[0]);
    command
        .args(&words[1..])
        .args(["stdio", "--socket"])
        .arg(socket)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(false);
    let mut child = command.spawn().unwrap();
    let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    // The bridge ends with its input.
    tokio::spawn(async move { child.wait().await });
    Connection::open(stdout, stdin, Hello::default()).await
}

async fn as_alice(daemon: &Running) -> Connection {
    bridge(&[], Path::new(DAEMON), &daemon.socket, &["--principal", "alice"])
        .await
        .unwrap()
}

fn any_path() -> StorePath {
    StorePath::from_base_name("00000000000000000000000000000000-nothing").unwrap()
}

#[rstest]
#[case::oldest(NixVersion::V2_8)]
#[case::middle(NixVersion::V2_26)]
#[case::newest(NixVersion::V2_34)]
#[tokio::test(flavor = "multi_thread")]
async fn the_holder_of_a_key_has_what_the_forced_command_says(#[case] version: NixVersion) {
    let store = TestDaemon::start(version);
    let evaluator = TestDaemon::start(version);
    let home = tempfile::tempdir().unwrap();
    let daemon = start(config(home.path(), &store, 1)).await.unwrap();
    let alice = forced_command(home.path(), &daemon, "--principal alice");
    let admin = forced_command(home.path(), &daemon, "--principal admin --trusted");

    match version {
        NixVersion::V2_8 => {
            succeeds(&evaluator, &["store", "ping", "--store", &alice]).await;
        }
        NixVersion::V2_26 | NixVersion::V2_34 => {
            for (uri, trusted) in [(&alice, "0"), (&admin, "1")] {
                let info = succeeds(&evaluator, &["store", "info", "--json", "--store", uri]).await;
                let info: serde_json::Value = serde_json::from_str(&info).unwrap();
                assert_eq!(
                    info["trusted"].to_string().replace("false", "0").replace("true", "1"),
                    trusted,
                    "{info}"
                );
            }
        }
    }

    let drvs = evaluator.instantiate("keys", &[TestDrv::good("unsigned")]);
    let out = evaluator.run("nix-store", &["--realise", &drvs["unsigned"]]);
    let out = out.trim();
    let copy = |uri: &str| {
        let mut command = evaluator.command("nix");
        command.args(["copy", "--no-check-sigs", "--to", uri, out]);
        run(command)
    };
    let refused = copy(&alice).await;
    assert!(!refused.status.success());
    let text = said(&refused);
    assert!(text.contains("no proof") || text.contains("signature"), "{text}");
    let unknown = {
        let mut command = evaluator.command("nix");
        command.args(["path-info", "--store", &alice, out]);
        run(command).await
    };
    assert!(!unknown.status.success(), "what was refused is not there");
    let taken = copy(&admin).await;
    assert!(taken.status.success(), "{}", said(&taken));

    let mut collect = evaluator.command("nix");
    collect.args(["store", "gc", "--store", &alice]);
    let collected = run(collect).await;
    assert!(!collected.status.success());
    let text = said(&collected);
    assert!(
        text.contains("you are not privileged to collect garbage") && text.contains("`trusted_users`"),
        "{text}"
    );
    daemon.stop().await;
}

pub(crate) fn add_file(store: &TestDaemon, name: &str) -> String {
    let file = store.scratch().join(name);
    std::fs::write(&file, format!("content of {name}")).unwrap();
    let added = store.run("nix-store", &["--add", &file.display().to_string()]);
    added.trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_warning_is_not_repeated_on_a_connection() {
    let store = TestDaemon::start(NixVersion::V2_34);
    let home = tempfile::tempdir().unwrap();
    let daemon = start(config(home.path(), &store, 1)).await.unwrap();
    let mut alice = as_alice(&daemon).await;
    let mut lines = Vec::new();
    for name in ["sandbox", "sandbox", "post-build-hook"] {
        let options = op::SetOptions {
            overrides: [(name.to_owned(), "x".to_owned())].into(),
            ..op::SetOptions::default()
        };
        let mut log = LogFn(|message: LogMessage| lines.push(message));
        alice.call(&options, &mut log).await.unwrap();
    }
    assert_eq!(lines.len(), 2, "once for each setting: {lines:?}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_refused_the_next_request_works() {
    let store = TestDaemon::start(NixVersion::V2_34);
    let home = tempfile::tempdir().unwrap();
    let daemon = start(config(home.path(), &store, 1)).await.unwrap();
    let path: StorePath = StoreDir::default().parse(&add_file(&store, "still-there")).unwrap();
    let mut alice = as_alice(&daemon).await;
    assert_eq!(alice.trust(), Trust::NotTrusted);

    macro_rules! refused {
        ($words:expr, $call:expr) => {{
            let error = $call.await.unwrap_err();
            let text = error.to_string();
            assert!(error.is_remote() && text.contains($words), "{text}");
            assert!(
                alice
                    .call(&op::IsValidPath { path: path.clone() }, &mut ())
                    .await
                    .unwrap()
            );
        }};
    }
    for (action, words) in [
        (GcAction::ReturnLive, "not privileged to list what is alive"),
        (GcAction::ReturnDead, "not privileged to list what is dead"),
        (GcAction::DeleteDead, "not privileged to collect garbage"),
        (GcAction::DeleteSpecific, "not privileged to delete paths"),
    ] {
        let paths = [any_path()].into();
        let scope = match action {
            GcAction::DeleteSpecific => GcScope::Paths {
                paths,
                delete_referrers: false,
            },
            GcAction::ReturnLive | GcAction::ReturnDead | GcAction::DeleteDead => GcScope::Whole,
        };
        let mut request = op::CollectGarbage {
            action,
            scope,
            ignore_liveness: false,
            max_freed: u64::MAX,
        };
        refused!(words, alice.call(&request, &mut ()));
        request.ignore_liveness = true;
        refused!("not allowed to ignore liveness", alice.call(&request, &mut ()));
    }
    refused!(
        "not privileged to see the roots",
        alice.call(&op::FindRoots {}, &mut ())
    );
    refused!("not privileged to optimise", alice.call(&op::OptimiseStore {}, &mut ()));
    for check_contents in [false, true] {
        let verify = |repair| op::VerifyStore { check_contents, repair };
        refused!("not privileged to verify", alice.call(&verify(false), &mut ()));
        refused!(
            "you are not privileged to repair paths",
            alice.call(&verify(true), &mut ())
        );
    }
    let link = bytes::Bytes::from_static(b"/tmp/nixci-test-link");
    let root = op::AddPermRoot {
        path: path.clone(),
        link: link.clone(),
    };
    refused!(
        "you are not privileged to create perm roots",
        alice.call(&root, &mut ())
    );
    refused!(
        "not privileged to register roots",
        alice.call(&op::AddIndirectRoot { link }, &mut ())
    );
    let log = op::AddBuildLog {
        drv: op::BaseName(any_path()),
    };
    // Longer than what is buffered anywhere on the way: the rest is skipped.
    let body = vec![b'x'; 3 << 20];
    refused!(
        "you are not privileged to add logs",
        alice.call_framed(&log, &body[..], &mut ())
    );
    let signed = op::AddSignatures {
        path: path.clone(),
        signatures: std::collections::BTreeSet::default(),
    };
    refused!("not privileged to add signatures", alice.call(&signed, &mut ()));
    daemon.stop().await;
}

/// A folder others may look into, with the daemon's program in it, and a daemon whose socket is open to all.
async fn open_to_all(home: &Path, store: &TestDaemon, change: impl FnOnce(&mut Config)) -> (Running, PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(home, std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = home.join("nixci-daemon");
    std::fs::copy(DAEMON, &program).unwrap();
    let mut config = config(home, store, 1);
    config.listen.mode = 0o666;
    change(&mut config);
    (start(config).await.unwrap(), program)
}

const NOBODY: [&str; 7] = [
    "setpriv",
    "--reuid",
    "65534",
    "--regid",
    "65534",
    "--clear-groups",
    "--",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_user_cannot_forge_a_principal() {
    let store = TestDaemon::start(NixVersion::V2_34);
    let home = tempfile::tempdir().unwrap();
    let (daemon, program) = open_to_all(home.path(), &store, |_| {}).await;
    for arguments in [&["--principal", "alice"][..], &["--principal", "root", "--trusted"]] {
        let forged = bridge(&NOBODY, &program, &daemon.socket, arguments).await;
        let error = forged.map(drop).expect_err("it is refused").to_string();
        assert!(error.contains("user 65534 may not speak for others"), "{error}");
    }
    // Without that the same user is let in, for what he is.
    let nobody = bridge(&NOBODY, &program, &daemon.socket, &[]).await.unwrap();
    assert_eq!(nobody.trust(), Trust::NotTrusted);
    // And root is trusted as itself, and speaks for others as it likes.
    for (arguments, trust) in [
        (&[][..], Trust::Trusted),
        (&["--principal", "alice"], Trust::NotTrusted),
        (&["--principal", "alice", "--trusted"], Trust::Trusted),
    ] {
        let connection = bridge(&[], &program, &daemon.socket, arguments).await.unwrap();
        assert_eq!(connection.trust(), trust, "{arguments:?}");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn holders_of_keys_are_counted_though_the_daemons_own_user_is_not() {
    let store = TestDaemon::start(NixVersion::V2_34);
    let home = tempfile::tempdir().unwrap();
    let mut config = config(home.path(), &store, 1);
    config.limits.connections_per_user = 2;
    let daemon = start(config).await.unwrap();
    let two = [as_alice(&daemon).await, as_alice(&daemon).await];
    let third = bridge(&[], Path::new(DAEMON), &daemon.socket, &["--principal", "bob"]).await;
    let error = third.err().unwrap().to_string();
    assert!(error.contains("`connections_per_user`"), "{error}");
    let trusted = bridge(
        &[],
        Path::new(DAEMON),
        &daemon.socket,
        &["--principal", "bob", "--trusted"],
    )
    .await;
    assert_eq!(trusted.unwrap().trust(), Trust::Trusted);
    drop(two);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_allowed_and_trusted_by_name_and_group() {
    let store = TestDaemon::start(NixVersion::V2_34);
    let group = nix_group_of(65534);
    for (trusted, allowed, expected) in [
        (vec![], vec!["*"], Ok(Trust::NotTrusted)),
        (vec!["nobody"], vec![], Ok(Trust::Trusted)),
        (vec![group.as_str()], vec![], Ok(Trust::Trusted)),
        (vec!["root"], vec!["nobody"], Ok(Trust::NotTrusted)),
        (vec!["root"], vec!["root", "@no-such-group"], Err("`allowed_users`")),
    ] {
        let home = tempfile::tempdir().unwrap();
        let read = |list: &[&str]| -> Vec<Users> { list.iter().map(|text| text.parse().unwrap()).collect() };
        let (daemon, program) = open_to_all(home.path(), &store, |config| {
            config.listen.trusted_users = read(&trusted);
            config.listen.allowed_users = read(&allowed);
        })
        .await;
        let nobody = bridge(&NOBODY, &program, &daemon.socket, &[]).await;
        match (nobody, expected) {
            (Ok(nobody), Ok(trust)) => assert_eq!(nobody.trust(), trust, "{trusted:?} {allowed:?}"),
            (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{error}"),
            (Ok(_), Err(_)) => panic!("{trusted:?} {allowed:?} let everybody in"),
            (Err(error), Ok(_)) => panic!("{trusted:?} {allowed:?}: {error}"),
        }
        daemon.stop().await;
    }
}

/// The group of a number, as `@name`.
fn nix_group_of(gid: u32) -> String {
    let groups = std::fs::read_to_string("/etc/group").unwrap();
    let line = groups
        .lines()
        .find(|line| line.split(':').nth(2) == Some(&gid.to_string()))
        .unwrap();
    format!("@{}", line.split(':').next().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_says_on_stderr_what_is_wrong() {
    let home = tempfile::tempdir().unwrap();
    let nowhere = home.path().join("no-socket").display().to_string();
    for (arguments, words) in [
        (
            vec!["stdio", "--socket", &nowhere, "--principal", "alice"],
            "no nixci-daemon listens on",
        ),
        (
            vec!["stdio", "--socket", &nowhere, "--stdio", "--store", "daemon"],
            "no nixci-daemon listens on",
        ),
        (
            vec!["stdio", "--socket", &nowhere, "--stdio", "--store", "/other"],
            "leave `remote-store` out",
        ),
        (vec!["--stdio", "--store", "local?root=/x"], "leave `remote-store` out"),
        (vec!["stdio", "--principal", "uid:0"], "cannot be a principal"),
        (vec!["stdio", "--trusted"], "--principal"),
    ] {
        let mut command = Command::new(DAEMON);
        command
            .args(&arguments)
            .env("SSH_ORIGINAL_COMMAND", "nix-daemon --stdio")
            .stdin(Stdio::null());
        let output = run(command).await;
        assert!(!output.status.success() && output.stdout.is_empty(), "{arguments:?}");
        assert!(said(&output).contains(words), "{arguments:?}: {}", said(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_can_be_for_holders_of_tokens_only() {
    let store = TestDaemon::start(NixVersion::V2_34);
    let home = tempfile::tempdir().unwrap();
    let made = {
        let mut command = Command::new(DAEMON);
        command.args(["hash-token", "--new"]);
        String::from_utf8(run(command).await.stdout).unwrap()
    };
    let field = |name: &str| {
        let line = made.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().to_owned()
    };
    let (token, hash) = (field("token:"), field("sha256:"));
    let hashed = {
        use std::io::Write;
        let mut child = Command::new(DAEMON)
            .arg("hash-token")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        writeln!(child.stdin.take().unwrap(), "{token}").unwrap();
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
    };
    assert_eq!(hashed.trim(), hash);

    let mut config = config(home.path(), &store, 1);
    config.listen.http_read = HttpRead::Token;
    config.tokens = vec![Token {
        name: "cache".to_owned(),
        hash: HashFrom::Here(hash.parse::<TokenHash>().unwrap()),
        rights: vec![Right::Read],
        projects: Projects::All,
        expires: None,
    }];
    let daemon = start(config).await.unwrap();
    let base = format!("http://{}", daemon.http_addr.unwrap());
    nixci_daemon::tls::install_provider();
    let client = reqwest::Client::new();
    for path in ["/", "/api/v1/stores", "/nix-cache-info", "/metrics", "/no-such-page"] {
        let url = format!("{base}{path}");
        let refused = client.get(&url).send().await.unwrap();
        assert_eq!(refused.status(), 401, "{path}");
        let asked: Vec<_> = refused.headers().get_all("www-authenticate").iter().collect();
        assert_eq!(asked, ["Basic realm=\"nixci\"", "Bearer realm=\"nixci\""]);
        let wrong = client.get(&url).bearer_auth(format!("{token}x")).send().await.unwrap();
        assert_eq!(wrong.status(), 401, "{path}");
        for holder in [
            client.get(&url).bearer_auth(&token),
            client.get(&url).basic_auth("any", Some(&token)),
        ] {
            let status = holder.send().await.unwrap().status();
            assert!(status != 401 && status != 403, "{path}: {status}");
        }
    }
    let health = client.get(format!("{base}/healthz")).send().await.unwrap();
    assert_eq!(health.status(), 200);
    daemon.stop().await;
}

#[rstest]
#[case::oldest(NixVersion::V2_8)]
#[case::middle(NixVersion::V2_26)]
#[case::newest(NixVersion::V2_34)]
#[tokio::test(flavor = "multi_thread")]
async fn nix_brings_the_token_of_its_netrc_file(#[case] version: NixVersion) {
    let store = TestDaemon::start(version);
    let home = tempfile::tempdir().unwrap();
    let token = nixci_daemon::new_token().unwrap();
    let mut config = config(home.path(), &store, 1);
    config.listen.http_read = HttpRead::Token;
    config.tokens = vec![Token {
        name: "laptops".to_owned(),
        hash: HashFrom::Here(TokenHash::of(&token).unwrap()),
        rights: vec![Right::Read],
        projects: Projects::All,
        expires: None,
    }];
    let daemon = start(config).await.unwrap();
    let path = add_file(&store, "behind-a-token");
    let netrc = home.path().join("netrc");
    let ask = |password: &str| {
        std::fs::write(&netrc, format!("machine 127.0.0.1 login any password {password}\n")).unwrap();
        let mut command = store.command("nix");
        let uri = format!("http://{}", daemon.http_addr.unwrap());
        command.args([
            "--option",
            "netrc-file",
            &netrc.display().to_string(),
            "path-info",
            "--store",
            &uri,
            &path,
        ]);
        run(command)
    };
    let wrong = ask("nixci_wrong").await;
    assert!(!wrong.status.success());
    let words = match version {
        // It takes whoever turns it away for no cache at all.
        NixVersion::V2_8 => "does not appear to be a binary cache",
        NixVersion::V2_26 | NixVersion::V2_34 => "401",
    };
    assert!(said(&wrong).contains(words), "{}", said(&wrong));
    let right = ask(&token).await;
    assert!(right.status.success(), "{}", said(&right));
    assert_eq!(String::from_utf8_lossy(&right.stdout).trim(), path);
    daemon.stop().await;
}

/// The line of the README, as a server would run it: by the user's shell, whatever the client asked for.
#[tokio::test(flavor = "multi_thread")]
async fn the_forced_command_of_the_readme_works() {
    let readme = include_str!("../../../README.md");
    let line = readme
        .lines()
        .find(|line| line.starts_with("command=\"nixci-daemon stdio"))
        .unwrap();
    let (command, options) = line.strip_prefix("command=\"").unwrap().split_once('"').unwrap();
    assert!(options.starts_with(",restrict ssh-ed25519 "), "{line}");
    let store = TestDaemon::start(NixVersion::V2_34);
    let home = tempfile::tempdir().unwrap();
    let daemon = start(config(home.path(), &store, 1)).await.unwrap();
    let script = home.path().join("session");
    let folder = Path::new(DAEMON).parent().unwrap().display();
    executable(
        &script,
        &format!(
            "#!/bin/sh\nexport PATH={folder}:$PATH NIXCI_SOCKET={} SSH_ORIGINAL_COMMAND='nix-daemon --stdio --principal root'\nexec \"$SHELL\" -c '{command}'\n",
            daemon.socket.display()
        ),
    );
    let uri = format!("ssh-ng://localhost?remote-program={}", script.display());
    let mut info = store.command("nix");
    info.env("SHELL", "/bin/sh").args(["store", "info", "--store", &uri]);
    let output = run(info).await;
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), said(&output));
    assert!(output.status.success() && told.contains("Trusted: 0"), "{told}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_begins_otherwise_is_no_preamble() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let store = TestDaemon::start(NixVersion::V2_34);
    let home = tempfile::tempdir().unwrap();
    let daemon = start(config(home.path(), &store, 1)).await.unwrap();
    for bytes in [
        &b"nixci-1\n\xff\xff\xff\xff\xff\xff\xff\xff"[..],
        b"nixci-1\n\x02\0\0\0\0\0\0\0{}",
        b"nixci-1\n",
        b"nixci-2\n\x02\0\0\0\0\0\0\0{}",
    ] {
        let mut stream = UnixStream::connect(&daemon.socket).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // It may be reset while it writes; what counts is that it ends, without a handshake.
        drop(stream.read_to_end(&mut answer).await);
        assert!(answer.is_empty(), "{bytes:?}: {answer:?}");
    }
    assert_eq!(as_alice(&daemon).await.trust(), Trust::NotTrusted);
    daemon.stop().await;
}

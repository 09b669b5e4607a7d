//! Settings that clients send along: what is refused, what does not reach builds, and how they hear of it.

use std::process::Command;

use crate::client::all_outputs;
use crate::common::config;
use crate::trust::{add_file, run, said};
use nixci_daemon::config::Writes;
use nixci_daemon::{Running, start};
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv};
use rstest::rstest;

/// A stock client whose store is nixci, in front of the store whose disk it shares.
fn client(store: &TestDaemon, daemon: &Running) -> Command {
    let mut command = store.command_at("nix", &store.uri_at(&daemon.socket));
    // As on a machine whose settings are all in the system's file, which are not sent along.
    command
        .env_remove("NIX_CONFIG")
        .args(["--extra-experimental-features", "nix-command"]);
    command
}

#[rstest]
#[case::oldest(NixVersion::V2_8)]
#[case::middle(NixVersion::V2_26)]
#[case::newest(NixVersion::V2_34)]
#[tokio::test(flavor = "multi_thread")]
async fn settings_are_refused_with_one_warning_and_default_clients_meet_none(#[case] version: NixVersion) {
    let store = TestDaemon::start(version);
    let home = tempfile::tempdir().unwrap();
    let mut config = config(home.path(), &store, 1);
    config.listen.trusted_users = Vec::new();
    let daemon = start(config).await.unwrap();
    let path = add_file(&store, "settings");
    let told = |settings: &[&str]| {
        let mut command = client(&store, &daemon);
        command.args(settings).args(["path-info", &path]);
        run(command)
    };
    let plain = told(&[]).await;
    assert!(plain.status.success(), "{}", said(&plain));
    assert!(!said(&plain).contains("restricted"), "{}", said(&plain));
    let harmless = told(&["--option", "timeout", "100", "--builders", ""]).await;
    assert!(
        harmless.status.success() && !said(&harmless).contains("restricted"),
        "{}",
        said(&harmless)
    );

    let one = told(&["--option", "post-build-hook", "/bin/evil"]).await;
    let text = said(&one);
    assert!(one.status.success(), "{text}");
    assert!(
        text.contains(
            "ignoring the client-specified setting 'post-build-hook', because it is a restricted setting and you are \
             not a trusted user"
        ),
        "{text}"
    );
    let two = told(&[
        "--option",
        "post-build-hook",
        "/bin/evil",
        "--option",
        "sandbox",
        "false",
    ])
    .await;
    let text = said(&two);
    assert!(
        text.contains("'post-build-hook' and 'sandbox', because they are restricted settings"),
        "{text}"
    );
    assert_eq!(text.matches("client-specified").count(), 1, "{text}");
    daemon.stop().await;
}

#[rstest]
#[case::oldest(NixVersion::V2_8)]
#[case::middle(NixVersion::V2_26)]
#[case::newest(NixVersion::V2_34)]
#[tokio::test(flavor = "multi_thread")]
async fn settings_that_do_not_reach_builds_are_named_where_they_would_change_them(#[case] version: NixVersion) {
    let store = TestDaemon::start(version);
    let home = tempfile::tempdir().unwrap();
    let mut config = config(home.path(), &store, 1);
    config.listen.writes = Writes::Through;
    let daemon = start(config).await.unwrap();
    let names = ["one", "two", "three"].map(TestDrv::good);
    let drvs = store.instantiate("settings", &names);
    let build = |drv: &str, settings: &[&str]| {
        let mut command = client(&store, &daemon);
        let all = all_outputs(version, &drvs[drv]);
        command.args(settings).args(["build", "--no-link", &all]);
        run(command)
    };
    let changing = [
        "--option",
        "post-build-hook",
        "/bin/hook",
        "--option",
        "sandbox",
        "false",
    ];
    let output = build("one", &changing).await;
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("settings 'post-build-hook' and 'sandbox', because builds are shared between all who want them"),
        "{text}"
    );
    assert_eq!(text.matches("client-specified").count(), 1, "{text}");

    // Nothing is said of what changes no build, nor where there is none.
    let usual = ["--option", "sandbox", "true", "--option", "warn-dirty", "false"];
    for (drv, settings) in [("two", &[][..]), ("three", &usual), ("one", &changing)] {
        let output = build(drv, settings).await;
        let text = said(&output);
        assert!(output.status.success() && !text.contains("client-specified"), "{text}");
    }
    daemon.stop().await;
}

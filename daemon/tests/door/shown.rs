//! What users and programs such as nix-output-monitor see of a store and of a build.

use std::collections::BTreeSet;
use std::process::Command;

use crate::world::{World, all_outputs, output, ran};
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv};
use rstest::rstest;

#[rstest]
fn the_store_is_shown_with_address_version_and_trust(
    #[values(NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion,
) {
    let world = World::new(version);
    let (_sshd, ssh) = world.sshd();
    for uri in [world.socket(), world.pipe(), ssh] {
        let output = output(world.client.command("nix").args(["store", "ping", "--store", &uri]));
        assert!(output.status.success());
        // Old versions print to standard error.
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        let scheme = uri.split_once("://").unwrap().0;
        assert!(said.contains(&format!("Store URL: {scheme}://")), "{said}");
        if version != NixVersion::V2_8 {
            assert!(said.contains("Version: 2.") && said.contains("Trusted: 1"), "{said}");
        }
    }
    if version != NixVersion::V2_8 {
        let told = world.run("nix", &["store", "info", "--json", "--store", &world.pipe()]);
        let told: serde_json::Value = serde_json::from_str(&told).unwrap();
        assert!(told["version"].is_string() && told["url"].is_string(), "{told}");
    }
}

fn list() -> Vec<TestDrv> {
    vec![
        TestDrv::good("base").script("echo a line of base; echo another >&2"),
        TestDrv::good("left").needs(&["base"]),
        TestDrv::good("right")
            .needs(&["base"])
            .script("echo '@nix { \"action\": \"setPhase\", \"phase\": \"buildPhase\" }' >&2"),
        TestDrv::good("app").needs(&["left", "right"]),
        TestDrv::failing("bad").needs(&["base"]),
    ]
}

/// What a build tells a program that follows it.
#[derive(Debug, PartialEq, Eq)]
struct Followed {
    /// The types of activities, and which derivation or path each is about.
    activities: BTreeSet<(u64, String)>,
    /// The types of results, but for progress, which comes as often as it likes.
    results: BTreeSet<u64>,
    /// What builders printed.
    log: BTreeSet<String>,
}

const PROGRESS: u64 = 105;
const EXPECTED: u64 = 106;
const BUILD_LOG_LINE: u64 = 101;
const BUILD: u64 = 105;

fn followed(command: &mut Command) -> Followed {
    let output = output(command.args(["--log-format", "internal-json", "--verbose"]));
    let text = String::from_utf8(output.stderr).unwrap();
    let mut followed = Followed {
        activities: BTreeSet::new(),
        results: BTreeSet::new(),
        log: BTreeSet::new(),
    };
    let (mut open, mut closed) = (BTreeSet::new(), BTreeSet::new());
    for line in text.lines() {
        let Some(json) = line.strip_prefix("@nix ") else {
            continue;
        };
        let message: serde_json::Value = serde_json::from_str(json).unwrap();
        let (kind, id) = (message["type"].as_u64(), message["id"].as_u64());
        match message["action"].as_str().unwrap() {
            "start" => {
                let kind = kind.unwrap();
                let about = match kind {
                    BUILD => message["fields"][0].as_str().unwrap().to_owned(),
                    _ => String::new(),
                };
                followed.activities.insert((kind, about));
                assert!(open.insert(id), "{text}");
            }
            "stop" => assert!(open.contains(&id) && closed.insert(id), "{text}"),
            "result" => {
                assert!(open.contains(&id) && !closed.contains(&id), "{text}");
                let kind = kind.unwrap();
                if kind == BUILD_LOG_LINE {
                    followed.log.insert(message["fields"][0].as_str().unwrap().to_owned());
                }
                if kind != PROGRESS && kind != EXPECTED {
                    followed.results.insert(kind);
                }
            }
            _ => {}
        }
    }
    assert_eq!(open, closed, "every activity ends");
    followed
}

#[rstest]
fn a_program_that_follows_a_build_sees_what_it_sees_of_a_stock_daemon(
    #[values(NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion,
    #[values("app", "bad")] what: &str,
) {
    let direct = TestDaemon::start(version);
    let drvs = direct.instantiate("shown", &list());
    let mut command = direct.command("nix");
    command.args(["build", "--no-link", &all_outputs(version, &drvs[what])]);
    let expected = followed(&mut command);
    assert!(expected.log.contains("a line of base"), "{expected:?}");

    let world = World::of(
        TestDaemon::start(version),
        TestDaemon::start(version),
        "writes = \"through\"",
    );
    let drvs = world.store.instantiate("shown", &list());
    let mut command = world.store.command_at("nix", &world.shared());
    command.args(["build", "--no-link", &all_outputs(version, &drvs[what])]);
    assert_eq!(followed(&mut command), expected);
    // And nothing at all of what is there already.
    if what == "app" {
        let mut again = world.store.command_at("nix", &world.shared());
        again.args(["build", "--no-link", &all_outputs(version, &drvs[what])]);
        ran(&mut again, &world.nixci);
    }
}

//! A store directory other than `/nix/store`, from end to end.

use crate::world::{World, failed, ran, remembered};
use nixci_protocol::nixci::outcome::Outcome;
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv};
use rstest::rstest;

const DIR: &str = "/opt/elsewhere/store";

fn world(version: NixVersion) -> World {
    let daemon = || TestDaemon::builder(version).store_dir(DIR).start();
    World::of(daemon(), daemon(), &format!("store_dir = \"{DIR}\""))
}

#[rstest]
fn another_store_directory_works_from_end_to_end(
    #[values(NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion,
) {
    let world = world(version);
    let (_sshd, ssh) = world.sshd();
    let list = [
        TestDrv::good("base").attribute("src", "builtins.toFile \"source\" \"the source of base\""),
        TestDrv::good("app").needs(&["base"]).script("echo $needs > $out"),
    ];
    let drvs = world.client.instantiate("elsewhere", &list);
    let app = &drvs["app"];
    assert!(app.starts_with(DIR), "{app}");
    let pipe = world.pipe();
    world.run("nix", &["copy", "--derivation", "--to", &world.socket(), app]);
    let out = ran(
        world.client.command_at("nix-store", &pipe).args(["--realise", app]),
        &world.nixci,
    );
    let out = out.trim();
    assert!(out.starts_with(DIR) && world.store.physical(out).exists(), "{out}");
    let (_, end) = remembered(&world.nixci, app);
    assert!(matches!(end, Some(Outcome::Succeeded { .. })), "{end:?}");

    world.run("nix", &["copy", "--no-check-sigs", "--from", &ssh, out]);
    assert!(world.client.physical(out).exists());
    let closure = world.run("nix-store", &["-q", "--requisites", out]);
    assert_eq!(closure.lines().count(), 2, "{closure}");
    for arguments in [["-q", "--requisites"], ["-q", "--references"]] {
        let far = ran(
            world.client.command_at("nix-store", &pipe).args(arguments).arg(out),
            &world.nixci,
        );
        let near = ran(world.client.command("nix-store").args(arguments).arg(out), &world.nixci);
        assert_eq!(far, near);
    }
    // What was built elsewhere goes in, too.
    let more = world.client.instantiate("more", &list);
    let built = world.build_at_client(&more["app"]);
    world.run("nix", &["copy", "--no-check-sigs", "--to", &pipe, &built]);
    let known = world.run("nix", &["path-info", "--store", &pipe, &built]);
    assert_eq!(known.trim(), built);
}

#[rstest]
fn a_client_with_another_store_directory_is_told_both(
    #[values(NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion,
) {
    let mut world = world(version);
    world.client = TestDaemon::start(version);
    let drvs = world.client.instantiate("other", &[TestDrv::good("app")]);
    for uri in [world.socket(), world.pipe()] {
        let said = failed(
            world
                .client
                .command("nix")
                .args(["copy", "--derivation", "--to", &uri, &drvs["app"]]),
        );
        assert!(said.contains(DIR) && said.contains(&drvs["app"]), "{said}");
    }
}

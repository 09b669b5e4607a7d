//! A store directory other than `/nix/store`: as `NIX_STORE_DIR` names it, or the URI of a store.

use nixci_store::testing::{NixVersion, TestDaemon, TestDrv};

use crate::world::World;

const DIR: &str = "/opt/elsewhere/store";

fn list() -> [TestDrv; 3] {
    [
        TestDrv::good("base").attribute("src", "builtins.toFile \"source\" \"the source of base\""),
        TestDrv::good("app").needs(&["base"]),
        TestDrv::failing("bad"),
    ]
}

#[test]
fn jobs_of_another_store_directory_are_submitted_built_and_copied() {
    for nix in [
        TestDaemon::builder(NixVersion::NEWEST).store_dir(DIR),
        TestDaemon::builder(NixVersion::NEWEST).own_store_dir(),
    ] {
        let world = World::with_store_dir(nix.start());
        let (jobs, drvs) = world.jobs("elsewhere", &list());
        assert!(drvs["app"].starts_with(world.nix.store_dir()), "{drvs:?}");
        let submitted = world
            .nixci_with(&["submit", "--project", "a/b", "--wait", "--jobs-file", "-"], &jobs)
            .ends(1);
        assert!(
            submitted.out.contains("bad") || submitted.err.contains("bad"),
            "{submitted:?}"
        );
        world.nixci(&["log", &drvs["bad"]]).ends(0).says("bad does not compile");
        let out = world.nix.run("nix-store", &["-q", "--outputs", &drvs["app"]]);
        assert!(world.nix.physical(out.trim()).exists());

        // An output and what it refers to, whose infos are asked of the local store.
        let copied = world.nixci(&["copy", out.trim()]).ends(0);
        assert!(copied.out.contains("copied 2 paths"), "{copied:?}");
        world.nixci(&["copy", out.trim()]).ends(0).says("nothing to copy");
        world
            .nixci(&["copy", "--derivation", out.trim()])
            .ends(0)
            .says("nothing to copy");
    }
}

#[test]
fn a_daemon_with_another_store_directory_says_both() {
    let world = World::with_store_dir(TestDaemon::builder(NixVersion::NEWEST).store_dir(DIR).start());
    let other = TestDaemon::start(NixVersion::NEWEST);
    let drvs = other.instantiate("other", &list());
    for arguments in [
        vec!["copy", "--from", &other.uri(), &drvs["app"]],
        vec!["submit", "--project", "a/b", "--from", &other.uri(), &drvs["app"]],
    ] {
        let mut command = world.command(&arguments);
        let ran: crate::world::Ran = command.env_remove("NIX_STORE_DIR").output().unwrap().into();
        let ran = ran.ends(1).warns(DIR);
        assert!(ran.err.contains("/nix/store/"), "{ran:?}");
    }
}

#[test]
fn the_uri_of_a_store_may_name_its_directory() {
    let nix = TestDaemon::builder(NixVersion::NEWEST).store_dir(DIR).start();
    let world = World::with_store_dir(nix);
    let (_, drvs) = world.jobs("elsewhere", &list());
    let from = format!("{}&store={DIR}", world.nix.uri());
    let mut command = world.command(&["copy", "--from", &from, &drvs["app"]]);
    let ran: crate::world::Ran = command.env_remove("NIX_STORE_DIR").output().unwrap().into();
    ran.ends(0).says("copied 3 paths");
}

//! `substituters = ssh-ng://…`: what stores behind nixci built is fetched in place of being built.

use crate::world::{World, all_outputs, failed, output, ran};
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv};
use rstest::rstest;

fn list() -> [TestDrv; 3] {
    [
        TestDrv::good("lib"),
        TestDrv::good("app").needs(&["lib"]).script("echo $needs > $out"),
        TestDrv::good("tool").needs(&["app"]).script("echo $needs > $out"),
    ]
}

/// nixci in front of a store where everything is built, and a client that cannot build.
fn world(version: NixVersion) -> (World, String) {
    let store = TestDaemon::start(version);
    let drvs = store.instantiate("substitute", &list());
    let tool = store.run("nix-store", &["--realise", &drvs["tool"]]).trim().to_owned();
    let client = TestDaemon::builder(version).max_jobs(0).start();
    (World::of(store, client, ""), tool)
}

#[rstest]
fn closures_are_fetched_from_the_store_behind(
    #[values(NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion,
) {
    let (world, tool) = world(version);
    let drvs = world.client.instantiate("substitute", &list());
    let (_sshd, ssh) = world.sshd();
    failed(world.client.command("nix-store").args(["--realise", &tool]));

    // One output by its path, by a real ssh.
    let ssh = format!("{ssh}&trusted=1");
    let app = world
        .store
        .run("nix-store", &["-q", "--outputs", &drvs_at_store(&world, "app")]);
    let app = app.trim();
    world.run("nix-store", &["--realise", app, "--option", "substituters", &ssh]);
    assert!(world.client.physical(app).exists());

    // And what was partly there already, by its derivation.
    let pipe = format!("{}&trusted=1", world.pipe());
    world.run(
        "nix",
        &[
            "build",
            "--no-link",
            "--option",
            "substituters",
            &pipe,
            &all_outputs(version, &drvs["tool"]),
        ],
    );
    assert!(world.client.physical(&tool).exists());
    let closure = world.client.run("nix-store", &["-q", "--requisites", &tool]);
    assert_eq!(closure.lines().count(), 3, "{closure}");
    world.run("nix-store", &["--verify", "--check-contents"]);
}

fn drvs_at_store(world: &World, name: &str) -> String {
    world.store.instantiate("substitute", &list())[name].clone()
}

#[rstest]
fn a_client_that_insists_on_signatures_takes_nothing_unsigned(
    #[values(NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion,
) {
    let (world, tool) = world(version);
    let pipe = world.pipe();
    let said = failed(
        world
            .client
            .command("nix-store")
            .args(["--realise", &tool, "--option", "substituters", &pipe]),
    );
    assert!(!world.client.physical(&tool).exists(), "{said}");
}

#[rstest]
fn settings_of_the_client_daemon_name_the_substituter(
    #[values(NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion,
) {
    let (world, tool) = world(version);
    let client = TestDaemon::builder(version)
        .max_jobs(0)
        .config(&format!("substituters = {}\nrequire-sigs = false", world.pipe()))
        .start();
    // Two at once, one of them asks for less.
    let app = world.store.run("nix-store", &["-q", "--references", &tool]);
    std::thread::scope(|scope| {
        for path in [app.trim(), &tool, &tool] {
            let (client, world) = (&client, &world);
            scope.spawn(move || ran(client.command("nix-store").args(["--realise", path]), &world.nixci));
        }
    });
    assert!(client.physical(&tool).exists());
    // What nobody has is a miss and no error of the substituter.
    let none = tool.replace("-tool", "-none");
    let said = output(client.command("nix-store").args(["--realise", &none]));
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(!said.contains("disabling"), "{said}");
}

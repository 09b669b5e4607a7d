//! Derivations whose outputs are named by their content, and what they were realised as.

use crate::world::{World, failed, ran};
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv};
use rstest::rstest;

const SETTINGS: &str = "experimental-features = nix-command flakes ca-derivations";

fn daemon(version: NixVersion, settings: &str) -> TestDaemon {
    TestDaemon::builder(version)
        .config(&format!("{SETTINGS}\n{settings}"))
        .start()
}

fn list() -> [TestDrv; 3] {
    [
        TestDrv::good("base").floating(),
        TestDrv::good("app")
            .needs(&["base"])
            .script("echo $needs > $out")
            .floating(),
        // Not itself content-addressed, so what it is called follows from what it needs.
        TestDrv::good("plain").needs(&["app"]).script("echo $needs > $out"),
    ]
}

/// The path that a realisation names, and that of what it needs.
fn realised(world: &World, store: &str, drv: &str) -> String {
    let told = world.run(
        "nix",
        &["realisation", "info", "--json", "--store", store, &format!("{drv}^out")],
    );
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let path = told[0]["outPath"].as_str().unwrap_or_else(|| panic!("{told}"));
    path.rsplit('/').next().unwrap().to_owned()
}

#[rstest]
fn they_are_built_and_copied_out_by_what_they_are(
    #[values(NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion,
    #[values(false, true)] ssh: bool,
) {
    let world = World::of(daemon(version, ""), daemon(version, "max-jobs = 0"), "");
    let (_sshd, by_ssh) = world.sshd();
    let uri = if ssh { by_ssh } else { world.pipe() };
    let drvs = world.client.instantiate("floating", &list());
    let plain = format!("{}^*", drvs["plain"]);
    let here = world.client.uri();
    let built = world.run(
        "nix",
        &[
            "build",
            "--no-link",
            "--print-out-paths",
            "--store",
            &uri,
            "--eval-store",
            &here,
            &plain,
        ],
    );
    assert!(world.store.physical(built.trim()).exists(), "{built}");
    let base = realised(&world, &uri, &drvs["base"]);
    let app = realised(&world, &uri, &drvs["app"]);
    assert!(app.ends_with("-app") && base.ends_with("-base"), "{app} {base}");

    // With the realisations, so that nothing is built again where nothing can be built.
    world.run(
        "nix",
        &[
            "copy",
            "--no-check-sigs",
            "--from",
            &uri,
            &plain,
            &format!("{}^*", drvs["app"]),
        ],
    );
    assert_eq!(realised(&world, &here, &drvs["app"]), app);
    world.run(
        "nix",
        &[
            "build",
            "--no-link",
            "--option",
            "substitute",
            "false",
            &format!("{}^*", drvs["app"]),
        ],
    );
}

#[rstest]
fn they_are_substituted_from_the_store_behind(#[values(NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion) {
    let world = World::of(daemon(version, ""), daemon(version, "max-jobs = 0"), "");
    let there = world.store.instantiate("floating", &list());
    let plain = world.store.run("nix-store", &["--realise", &there["plain"]]);
    let drvs = world.client.instantiate("floating", &list());
    assert_eq!(there, drvs);
    let pipe = format!("{}&trusted=1", world.pipe());
    let fetched = world.run(
        "nix",
        &[
            "build",
            "--no-link",
            "--print-out-paths",
            "--option",
            "substituters",
            &pipe,
            "--option",
            "require-sigs",
            "false",
            &format!("{}^*", drvs["plain"]),
        ],
    );
    assert_eq!(fetched, plain);
}

#[rstest]
fn what_was_realised_elsewhere_is_taken_from_those_who_are_trusted(
    #[values(NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion,
    #[values("writes = \"spool\"", "writes = \"through\"")] keys: &str,
) {
    let world = World::of(daemon(version, ""), daemon(version, ""), keys);
    let drvs = world.client.instantiate("floating", &list());
    let app = format!("{}^*", drvs["app"]);
    world.run("nix", &["build", "--no-link", &app]);
    let here = realised(&world, &world.client.uri(), &drvs["app"]);
    let uri = world.pipe();
    world.run("nix", &["copy", "--no-check-sigs", "--to", &uri, &app]);
    // Asking for it takes the derivation.
    world.run("nix", &["copy", "--derivation", "--to", &uri, &drvs["app"]]);
    assert_eq!(realised(&world, &uri, &drvs["app"]), here);

    let strict = World::of(
        daemon(version, ""),
        daemon(version, ""),
        &format!("{keys}\ntrusted_users = []"),
    );
    let said = failed(
        world
            .client
            .command("nix")
            .args(["copy", "--no-check-sigs", "--to", &strict.socket(), &app]),
    );
    assert!(said.contains("trust"), "{said}");
    // The objects themselves prove what they are.
    let path = format!("/nix/store/{here}");
    world.run("nix", &["copy", "--no-check-sigs", "--to", &strict.socket(), &path]);
}

#[rstest]
fn builders_make_them_for_clients_that_are_trusted_and_for_others(
    #[values(NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion,
    #[values("", "trusted_users = []")] keys: &str,
) {
    let store = daemon(version, "");
    let nixci = crate::world::front(&store, keys);
    let remote = crate::world::program(&nixci, "");
    let settings = format!(
        "max-jobs = 0\nrequire-sigs = false\nbuilders = ssh-ng://localhost?remote-program={} x86_64-linux - 4 1 ca-derivations",
        remote.display()
    );
    let client = daemon(version, &settings);
    let drvs = client.instantiate("floating", &list());
    let built = ran(client.command("nix-store").args(["--realise", &drvs["plain"]]), &nixci);
    assert!(client.physical(built.trim()).exists(), "{built}");
}

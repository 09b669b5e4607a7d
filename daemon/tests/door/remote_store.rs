//! nixci as the store of a client: beside its files, and far from them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::world::{World, all_outputs, failed, ran, remembered};
use nixci_protocol::nixci::outcome::Outcome;
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv, expression};
use rstest::rstest;

fn two() -> [TestDrv; 2] {
    [
        TestDrv::good("base").attribute("src", "builtins.toFile \"source\" \"the source of base\""),
        TestDrv::good("app").needs(&["base"]).script("echo the log of app"),
    ]
}

fn expression_file(world: &World) -> String {
    let file = world.client.scratch().join("two.nix");
    fs::write(&file, expression("remote", &two())).unwrap();
    file.display().to_string()
}

#[rstest]
fn a_far_store_builds_what_is_evaluated_here(
    #[values(NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion,
) {
    let world = World::new(version);
    let file = expression_file(&world);
    let (_sshd, ssh) = world.sshd();
    let here = world.client.uri();
    for store in [world.pipe(), ssh] {
        let said = world.run(
            "nix",
            &[
                "build",
                "--no-link",
                "--print-out-paths",
                "--store",
                &store,
                "--eval-store",
                &here,
                "--file",
                &file,
                "app",
            ]
            .into_iter()
            // Not known to 2.8.
            .filter(|word| version != NixVersion::V2_8 || *word != "--print-out-paths")
            .collect::<Vec<_>>(),
        );
        if version != NixVersion::V2_8 {
            assert!(world.store.physical(said.trim()).exists(), "{said}");
        }
    }
    let drvs = world.client.instantiate("remote", &two());
    let (_, end) = remembered(&world.nixci, &drvs["app"]);
    assert!(matches!(end, Some(Outcome::Succeeded { .. })), "{end:?}");
}

#[rstest]
fn one_store_evaluates_and_builds_when_it_is_far(
    #[values(NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion,
) {
    // Without --eval-store even derivations are written to the far store while they are evaluated.
    let world = World::new(version);
    let file = expression_file(&world);
    let pipe = world.pipe();
    world.run("nix", &["build", "--no-link", "--store", &pipe, "--file", &file, "app"]);
    // The old commands take the store from the environment.
    let drv = ran(
        world
            .client
            .command_at("nix-instantiate", &pipe)
            .args([&file, "-A", "app"]),
        &world.nixci,
    );
    let out = ran(
        world
            .client
            .command_at("nix-store", &pipe)
            .args(["--realise", drv.trim()]),
        &world.nixci,
    );
    assert!(world.store.physical(out.trim()).exists());
}

/// The settings with `store = …` of `nix.conf`, for a client that names none.
fn configured(world: &World, program: &str) -> Command {
    let mut command = world.store.command_at(program, "");
    command.env_remove("NIX_REMOTE");
    command.env(
        "NIX_CONFIG",
        format!("{}\nstore = {}\n", world.store.config(), world.shared()),
    );
    command
}

#[rstest]
fn a_client_beside_the_store_builds_as_with_its_daemon(
    #[values(NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion,
    #[values(false, true)] own_store_dir: bool,
) {
    let world = beside(version, own_store_dir);
    let file = expression_file(&world);
    let shared = world.shared();
    let link = world.client.scratch().join("result");
    let by_environment = |program: &str| {
        let mut command = world.store.command_at(program, &shared);
        command.current_dir(world.client.scratch());
        command
    };
    let out = ran(
        by_environment("nix-build").args([&file, "-A", "app", "-o", link.to_str().unwrap()]),
        &world.nixci,
    );
    assert!(world.store.physical(out.trim()).exists());
    assert_eq!(fs::read_link(&link).unwrap().to_str().unwrap(), out.trim());
    // The link is a root: it is found, and keeps what it points to.
    let roots = ran(
        by_environment("nix-store").args(["-q", "--roots", out.trim()]),
        &world.nixci,
    );
    assert!(roots.contains("result"), "{roots}");
    ran(by_environment("nix-store").arg("--gc"), &world.nixci);
    assert!(world.store.physical(out.trim()).exists(), "a collection spares it");

    let drv = ran(
        by_environment("nix-instantiate").args([&file, "-A", "app"]),
        &world.nixci,
    );
    let again = ran(
        by_environment("nix-store").args(["--realise", drv.trim()]),
        &world.nixci,
    );
    assert_eq!(again, out);
    let mut build = configured(&world, "nix");
    build.args(["build", "--no-link", "--file", &file, "app"]);
    ran(&mut build, &world.nixci);
    let mut info = configured(&world, "nix");
    info.args(["path-info", &all_outputs(version, drv.trim())]);
    assert_eq!(ran(&mut info, &world.nixci), out);
    let (lines, end) = remembered(&world.nixci, drv.trim());
    assert!(lines.iter().any(|line| line == "the log of app"), "{lines:?}");
    assert!(matches!(end, Some(Outcome::Succeeded { .. })), "{end:?}");

    // A build that fails says why, and leaves the connection in order for the next command.
    fs::write(&file, expression("remote", &[TestDrv::failing("bad")])).unwrap();
    let said = failed(by_environment("nix-build").args([&file, "--no-out-link"]));
    assert!(said.contains("bad does not compile"), "{said}");
}

/// nixci in front of the local daemon, whose files the client sees.
fn beside(version: NixVersion, own_store_dir: bool) -> World {
    // What a shell of the host needs in a sandbox: `nix develop` runs the builder's bash, and scripts use mkdir.
    let host = "/bin/bash=/usr/bin/bash /lib=/usr/lib /lib64=/usr/lib64 /usr/lib /usr/lib64";
    let settings = format!("extra-sandbox-paths = {host} /bin/busybox=/usr/bin/busybox");
    let store = TestDaemon::builder(version).config(&settings);
    let mut keys = "writes = \"through\"".to_owned();
    let store = if own_store_dir {
        let store = store.own_store_dir().start();
        keys = format!("store_dir = \"{}\"\n{keys}", store.store_dir());
        store
    } else {
        store.start()
    };
    World::of(store, TestDaemon::start(version), &keys)
}

/// A flake without inputs: a program, and an environment for developing.
fn flake(dir: &Path) -> PathBuf {
    let flake = dir.join("flake");
    fs::create_dir(&flake).unwrap();
    fs::write(
        flake.join("flake.nix"),
        r#"{
  outputs = { self }: rec {
    packages.x86_64-linux.default = derivation {
      name = "greet"; system = "x86_64-linux"; builder = "/bin/sh";
      args = [ "-ec" ''
        /bin/busybox mkdir -p $out/bin
        printf '#!/bin/sh\necho greetings from %s\n' $name > $out/bin/greet
        /bin/busybox chmod +x $out/bin/greet
      '' ];
      src = ./flake.nix;
    };
    defaultPackage = { inherit (packages) x86_64-linux; };
    devShells.x86_64-linux.default = derivation {
      name = "shell"; system = "x86_64-linux"; builder = "/bin/bash"; GREETING = "hello from the shell";
      args = [ "-c" "exit 1" ]; outputs = [ "out" ];
    };
    apps.x86_64-linux.default = {
      type = "app"; program = "${packages.x86_64-linux.default}/bin/greet";
    };
  };
}
"#,
    )
    .unwrap();
    flake
}

#[rstest]
fn flakes_are_run_and_developed_through_the_socket(
    #[values(NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion,
) {
    // Programs are run from where their paths say they are, so the store is at its real place.
    let world = beside(version, true);
    let flake = flake(world.client.scratch());
    let flake = format!("path:{}", flake.display());
    let nix = |arguments: &[&str]| {
        let mut command = configured(&world, "nix");
        ran(command.args(arguments), &world.nixci)
    };
    assert_eq!(nix(&["run", &flake]).trim(), "greetings from greet");
    let package = format!("{flake}#packages.x86_64-linux.default");
    assert_eq!(
        nix(&["shell", &package, "--command", "greet"]).trim(),
        "greetings from greet"
    );
    let developed = nix(&["develop", &flake, "--command", "bash", "-c", "echo $GREETING"]);
    assert!(developed.contains("hello from the shell"), "{developed}");
    nix(&["build", "--no-link", &package]);
    let shown = nix(&["flake", "metadata", &flake]);
    assert!(shown.contains("path:"), "{shown}");
}

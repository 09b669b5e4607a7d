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

/// A key pair made by stock Nix: the file of the secret one, and the public one.
fn key(daemon: &TestDaemon, name: &str) -> (std::path::PathBuf, String) {
    let secret = daemon.run("nix", &["key", "generate-secret", "--key-name", name]);
    let file = daemon.scratch().join(name);
    std::fs::write(&file, &secret).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let mut convert = daemon.command("nix");
    convert
        .args(["key", "convert-secret-to-public"])
        .stdin(std::fs::File::open(&file).unwrap());
    let public = convert.output().unwrap();
    (file, String::from_utf8(public.stdout).unwrap().trim().to_owned())
}

#[rstest]
fn signatures_of_nixci_are_asked_for_and_found_over_ssh(
    #[values(NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion,
) {
    let store = TestDaemon::start(version);
    let (secret, public) = key(&store, "nixci-test-1");
    let (_, other) = key(&store, "somebody-else-1");
    let keys = format!("[keys]\nsecret_key_files = [\"{}\"]", secret.display());
    let world = World::of(store, TestDaemon::builder(version).max_jobs(0).start(), &keys);
    let drvs = world.client.instantiate("signed", &list());
    // Built through nixci, which is why it signs.
    let pipe = world.pipe();
    world.run("nix", &["copy", "--derivation", "--to", &pipe, &drvs["tool"]]);
    let tool = ran(
        world
            .client
            .command_at("nix-store", &pipe)
            .args(["--realise", &drvs["tool"]]),
        &world.nixci,
    );
    let tool = tool.trim();
    let (_sshd, ssh) = world.sshd();
    let fetch = |key: &str| {
        let mut command = world.client.command("nix-store");
        let settings = [
            ("require-sigs", "true"),
            ("substituters", &ssh),
            ("trusted-public-keys", key),
        ];
        for (name, value) in settings {
            command.args(["--option", name, value]);
        }
        command.args(["--realise", tool]);
        command
    };
    failed(&mut fetch(&other));
    assert!(!world.client.physical(tool).exists(), "a wrong key is refused");
    ran(&mut fetch(&public), &world.nixci);
    assert!(world.client.physical(tool).exists());
    let closure = world.run("nix-store", &["-q", "--requisites", tool]);
    assert_eq!(closure.lines().count(), 3, "{closure}");
}

//! Inputs are data: what nixci is given, byte for byte, and what is refused.

#![expect(clippy::unwrap_used, reason = "helpers of tests report by panicking")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use crate::runner::{Done, Job};
use crate::world::World;

/// Writes what it is given into files, instead of nixci.
const RECORDER: &str = "#!/bin/sh\nprintf '%s\\0' \"$@\" > given\nenv > environment\n";

fn recorder(world: &World) -> PathBuf {
    let path = world.write("bin dir/it's nixci", RECORDER);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn given(world: &World) -> Vec<String> {
    let text = std::fs::read_to_string(world.dir().join("given")).unwrap();
    text.split_terminator('\0').map(str::to_owned).collect()
}

fn job(world: &World) -> Job<'_> {
    Job::new(world).with_nixci(&recorder(world))
}

#[test]
fn every_input_arrives_as_it_was_written() {
    let world = World::new("");
    let nasty = "a b's \"c\" $(touch pwned) `touch pwned` ${HOME} *\n;touch pwned";
    let done = job(&world)
        .input("flake", nasty)
        .input("flake_attr", nasty)
        .input("flake_apply", nasty)
        .input("project", nasty)
        .input("token", nasty)
        .input("audience", nasty)
        .input("evaluation_workers", "3")
        .input("wait", "true")
        .input(
            "nix_args",
            "--option x 'a  b' \"it's\"\n --arg $(touch pwned) * \\' `touch pwned`\n\n-n",
        )
        .input("args", "--label 'why=not me' --from local?root=/x")
        .run();
    done.ran.ends(0);
    let nix_args = [
        "--option", "x", "a  b", "it's", "--arg", "$(touch", "pwned)", "*", "'", "`touch", "pwned`", "-n",
    ];
    let mut expected = vec![
        "submit".to_owned(),
        "--wait".to_owned(),
        format!("--project={nasty}"),
        "--workers=3".to_owned(),
        format!("--apply={nasty}"),
    ];
    expected.extend(nix_args.map(|word| format!("--nix-arg={word}")));
    expected.extend(["--label", "why=not me", "--from", "local?root=/x", "--"].map(str::to_owned));
    expected.push(format!("{nasty}#{nasty}"));
    assert_eq!(given(&world), expected);
    let environment = std::fs::read_to_string(world.dir().join("environment")).unwrap();
    assert!(environment.contains(&format!("NIXCI_TOKEN={nasty}\n")), "{environment}");
    assert!(
        environment.contains(&format!("NIXCI_AUDIENCE={nasty}\n")),
        "{environment}"
    );
    assert!(!world.dir().join("pwned").exists());
    assert!(!done.log.contains("touch"), "nothing is echoed: {}", done.log);
}

#[test]
fn what_is_not_given_is_not_set() {
    let world = World::new("");
    job(&world).input("flake", "").input("flake_attr", "").run().ran.ends(0);
    assert_eq!(given(&world), ["submit", "--", ".#checks"]);
    let environment = std::fs::read_to_string(world.dir().join("environment")).unwrap();
    assert!(
        !environment.contains("NIXCI_TOKEN") && !environment.contains("NIXCI_AUDIENCE"),
        "{environment}"
    );
    // A reference with an attribute is whole, and so is one that looks like an option.
    job(&world).input("flake", "-x#packages").run().ran.ends(0);
    assert_eq!(given(&world), ["submit", "--", "-x#packages"]);
}

#[test]
fn the_two_steps_for_forks_use_a_file() {
    let world = World::new("");
    let first = job(&world).input("to", "").input("artifact", "a file's name").run();
    first.ran.ends(0);
    assert_eq!(
        given(&world),
        ["submit", "--artifact=a file's name", "--", "path:./flake#checks"]
    );
    // What is sent is not evaluated: nothing that is about evaluation is given.
    let second = job(&world)
        .input("from_artifact", "x")
        .input("flake_apply", "x: x")
        .input("nix_args", "--impure")
        .run();
    second.ran.ends(0);
    assert_eq!(given(&world), ["submit", "--from-artifact=x"]);
}

#[test]
fn inputs_that_cannot_be_end_before_anything_is_done() {
    let world = World::new("");
    let refused = |done: Done, said: &str| {
        done.ran.ends(2);
        assert!(done.log.starts_with("::error title=nixci::"), "{}", done.log);
        assert_eq!(done.log.lines().count(), 1, "{}", done.log);
        assert!(done.log.contains(said), "{}", done.log);
        assert!(!world.dir().join("given").exists());
    };
    refused(job(&world).input("to", "").run(), "'to' is missing");
    refused(
        job(&world).input("wait", "yes\n::stop-commands::x").run(),
        "not 'yes%0A::stop-commands::x'",
    );
    refused(
        job(&world).input("evaluation_workers", "1; touch pwned").run(),
        "is a number",
    );
    refused(job(&world).input("nix_args", "it's").run(), "a quote has no end");
    refused(
        job(&world).input("artifact", "a").input("from_artifact", "b").run(),
        "give one of them",
    );
    refused(job(&world).input("nixci", "--help").run(), "is no flake reference");
    // Neither is it on PATH, nor does the action here have a flake.
    let mut bare = job(&world).input("nixci", "");
    bare.env("GITHUB_ACTION_PATH", &world.dir().join("action").display().to_string());
    let script = std::fs::read_to_string(crate::yaml::in_repository("cli/action/submit.sh")).unwrap();
    world.write("action/cli/action/submit.sh", &script);
    refused(bare.run(), "give a flake reference or a path");
}

#[test]
fn nixci_may_come_from_a_flake() {
    let world = World::in_place();
    let tool = r#"{ outputs = { self }: { packages.x86_64-linux.default = derivation {
        name = "tool"; system = "x86_64-linux"; builder = "/bin/sh"; script = ./tool;
        PATH = "/bin"; args = [ "-c" "mkdir -p $out/bin && cat $script > $out/bin/nixci && chmod +x $out/bin/nixci" ];
    }; }; }"#;
    world.write("tool/flake.nix", tool);
    world.write("tool/tool", RECORDER);
    let done = Job::new(&world)
        .with_nixci(&recorder(&world))
        .input("nixci", &format!("path:{}", world.dir().join("tool").display()))
        .run();
    done.ran.ends(0);
    assert_eq!(given(&world), ["submit", "--", "path:./flake#checks"]);
}

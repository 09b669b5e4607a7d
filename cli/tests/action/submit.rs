//! The action against a real daemon.

use crate::runner::Job;
use crate::world::World;

#[test]
fn a_job_submits_and_tells_later_steps_where() {
    let world = World::new("");
    let done = Job::new(&world).run();
    done.ran.ends(0).says("#1");
    assert_eq!(done.outputs["evaluation"], "1");
    let page = &done.outputs["page"];
    assert!(page.starts_with("http://127.0.0.1:"), "{page}");
    assert_eq!(done.summary, format!("nixci [evaluation #1](<{page}>): 2 jobs\n\n"));
    world.nixci(&["watch", "1"]).ends(0);
    // Project and commit are those of the job.
    let status = world.nixci(&["status", "--json"]).ends(0).json();
    assert_eq!(status[0]["project"], "owner/name");
    assert_eq!(status[0]["commit"], "1".repeat(40));
    assert_eq!(status[0]["source"], "path:./flake#checks");
}

#[test]
fn a_job_that_waits_ends_as_the_verdict_says() {
    let world = World::new("");
    let done = Job::new(&world)
        .input("wait", "true")
        .input("flake_attr", "packages")
        .run();
    done.ran.ends(1).says("c is broken");
    assert_eq!(done.outputs["evaluation"], "1");
    assert!(done.summary.starts_with("nixci [evaluation #1]("), "{}", done.summary);
    assert!(done.summary.contains("c is broken"), "{}", done.summary);
    let done = Job::new(&world)
        .input("wait", "true")
        .input("project", "other/one")
        .run();
    done.ran.ends(0);
    world
        .nixci(&["status", "--project", "other/one"])
        .ends(0)
        .says("other/one");
}

#[test]
fn a_function_with_an_apostrophe_makes_the_labels() {
    let world = World::new("");
    let apply = "checks: map (name: {\n  attr = [ \"x86_64-linux\" name ];\n  label = \"it's \" + name + \" $(touch pwned)\";\n}) \
                 (builtins.attrNames checks.x86_64-linux)";
    Job::new(&world)
        .input("flake_apply", apply)
        .input(
            "nix_args",
            "--option\n  warn-dirty 'false'\n--option extra-experimental-features \"nix-command flakes\"\n",
        )
        .input("evaluation_workers", "0")
        .run()
        .ran
        .ends(0);
    let jobs = world.nixci(&["jobs", "--json"]).ends(0).out;
    assert!(
        jobs.contains("it's a $(touch pwned)") && jobs.contains("it's b"),
        "{jobs}"
    );
    assert!(!world.dir().join("pwned").exists());
}

#[test]
fn what_is_to_be_prepared_is_run_before_and_sees_no_token() {
    let world = World::new("");
    let script = "sed -i 's/a = job \"a\"/prepared = job \"a\"/' flake/flake.nix\nenv > seen\n# it's \"quoted\"\n";
    Job::new(&world)
        .input("pre_evaluation_script", script)
        .input("token", "s3cr3t")
        .run()
        .ran
        .ends(0);
    world.nixci(&["jobs"]).ends(0).says("prepared");
    let seen = std::fs::read_to_string(world.dir().join("seen")).unwrap();
    assert!(!seen.contains("s3cr3t"), "{seen}");

    let done = Job::new(&world)
        .input("pre_evaluation_script", "echo no; false; echo never")
        .run();
    assert!(!done.log.contains("never"), "{}", done.log);
    done.ran.ends(1);
    assert_eq!(done.outputs["evaluation"], "");
}

#[test]
fn an_expression_cannot_read_the_token() {
    let world = World::new("");
    let done = Job::new(&world)
        .input("token", "s3cr3t")
        .input(
            "flake_apply",
            "checks: [ { attr = [ \"x86_64-linux\" \"a\" ]; label = \"found \" + builtins.getEnv \"NIXCI_TOKEN\" + \".\"; } ]",
        )
        .input("args", "--impure")
        .run();
    assert!(!done.log.contains("s3cr3t"), "{}", done.log);
    done.ran.ends(0);
    world.nixci(&["jobs", "--json"]).ends(0).says("found .");
}

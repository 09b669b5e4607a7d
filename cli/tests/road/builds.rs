//! Submissions that are built.

use nixci_store::testing::TestDrv;

use crate::world::World;

/// Two good jobs, a broken library, two jobs above it.
fn broken_library() -> Vec<TestDrv> {
    vec![
        TestDrv::good("fine"),
        TestDrv::good("also-fine").needs(&["fine"]),
        TestDrv::failing("library"),
        TestDrv::good("above").needs(&["library"]),
        TestDrv::good("far-above").needs(&["above", "fine"]),
    ]
}

#[test]
fn a_list_of_jobs_is_built_and_the_verdict_names_the_root_cause() {
    let world = World::new();
    let (list, paths) = world.jobs("list", &broken_library());
    let ran = world
        .nixci_with(&["submit", "--jobs-file", "-", "--wait", "--project", "o/n"], &list)
        .ends(1)
        .says("library")
        .says("build failed")
        .says("error: library does not compile")
        .says("blocks 2 jobs");
    assert!(!ran.out.contains("\x1b["), "no colours were wanted: {}", ran.out);

    world.nixci(&["status"]).ends(0).says("o/n").says("failed");
    world.nixci(&["status", "latest"]).ends(1).says("library");
    world.nixci(&["jobs"]).ends(0).says("blocked by library").says("built");
    let failed = world.nixci(&["jobs", "--failed", "--json"]).ends(0).json();
    assert_eq!(failed.as_array().unwrap().len(), 3, "{failed}");

    for what in ["library", "far-above", &paths["library"]] {
        let log = world.nixci(&["log", what]).ends(0).says("building library");
        assert!(log.out.contains("error: library does not compile"), "{}", log.out);
    }
    world.nixci(&["log", "fine"]).ends(0).says("building fine");
    world.nixci(&["watch"]).ends(1).says("library");
}

#[test]
fn a_second_submission_has_nothing_to_do_and_one_without_wait_returns_at_once() {
    let world = World::new();
    let gate = world.nix.gate("slow");
    let (list, _) = world.jobs("again", &[TestDrv::good("slow").gate("slow"), TestDrv::good("quick")]);
    // The gate is closed: the program returns all the same.
    let first = world
        .nixci_with(&["submit", "--jobs-file", "-"], &list)
        .ends(0)
        .says("#1")
        .says("http://");
    assert!(first.out.contains("2 jobs"), "{}", first.out);
    world.wait(gate.started());
    world.nixci(&["status", "1"]).ends(3);
    gate.open();
    world.nixci(&["watch", "1"]).ends(0);
    world
        .nixci_with(&["submit", "--jobs-file", "-", "--wait"], &list)
        .ends(0)
        .says("2");
    world.nixci(&["status", "2"]).ends(0);
}

#[test]
fn a_commit_is_compared_with_another() {
    let world = World::new();
    let commit = |digit: &str| digit.repeat(40);
    let (base, head) = (commit("a"), commit("b"));
    let good = [
        TestDrv::good("library"),
        TestDrv::good("above").needs(&["library"]),
        TestDrv::good("other"),
    ];
    let bad = [
        TestDrv::failing("library"),
        TestDrv::good("above").needs(&["library"]),
        TestDrv::good("other"),
    ];
    let (list, _) = world.jobs("diff", &good);
    let submit = |commit: &str, list: &str, more: &[&str]| {
        let mut args = vec![
            "submit",
            "--jobs-file",
            "-",
            "--wait",
            "--project",
            "o/n",
            "--commit",
            commit,
        ];
        args.extend(more);
        world.nixci_with(&args, list)
    };
    submit(&base, &list, &[]).ends(0);
    let (list, _) = world.jobs("diff", &bad);
    submit(&head, &list, &["--base", &base]).ends(1).says("newly failing");

    world
        .nixci(&["diff", "aaaaaaa", "bbbbbbb"])
        .ends(1)
        .says("newly failing")
        .says("library");
    world.nixci(&["diff", "2", "1"]).ends(0).says("fixed");
    world
        .nixci(&["diff", "1", "--format", "markdown"])
        .ends(1)
        .says("### ")
        .says("newly failing");
    let verdict = world.nixci(&["diff", "1", "2", "--json"]).ends(1).json();
    assert_eq!(verdict["conclusion"], "failure", "{verdict}");
    assert_eq!(verdict["counts"]["newly-failing"], 2, "{verdict}");
    assert_eq!(verdict["rootCauses"].as_array().unwrap().len(), 1, "{verdict}");
}

#[test]
fn a_failure_is_remembered_until_it_is_restarted_and_a_build_ends_when_it_is_cancelled() {
    let world = World::new();
    let (list, _) = world.jobs("restart", &broken_library());
    world
        .nixci_with(&["submit", "--jobs-file", "-", "--wait"], &list)
        .ends(1);
    world.nixci(&["restart", "1"]).ends(0).says("restarted");
    world.nixci(&["watch", "1"]).ends(1);

    let gate = world.nix.gate("endless");
    let (list, paths) = world.jobs("cancel", &[TestDrv::good("endless").gate("endless")]);
    world.nixci_with(&["submit", "--jobs-file", "-"], &list).ends(0);
    world.wait(gate.started());
    world.nixci(&["log", "endless"]).ends(0).says("building endless");
    world
        .nixci(&["cancel", &paths["endless"]])
        .ends(0)
        .says("cancelled 1 build");
    world.nixci(&["watch", "2"]).ends(1).says("cancelled");
    world.nixci(&["cancel", "2"]).ends(0).says("nothing to be cancelled");
}

#[test]
fn one_bad_attribute_never_hides_its_neighbours() {
    let world = World::new();
    let text = nixci_store::testing::expression("file", &[TestDrv::good("a"), TestDrv::good("b")]);
    std::fs::write(
        world.dir().join("ci.nix"),
        format!("let good = {text}; in good // {{ broken = throw \"this one is broken\"; }}"),
    )
    .unwrap();
    let ran = world
        .nixci(&["submit", "--file", "ci.nix", "--wait"])
        .ends(1)
        .says("broken");
    assert!(ran.err.contains("this one is broken"), "{}", ran.err);
    let jobs = world.nixci(&["jobs", "--json"]).ends(0).json();
    let outcomes: Vec<_> = jobs
        .as_array()
        .unwrap()
        .iter()
        .map(|job| job["outcome"]["state"].as_str().unwrap())
        .collect();
    assert_eq!(outcomes, ["succeeded", "succeeded", "evaluation-error"], "{jobs}");

    std::fs::write(world.dir().join("ci.nix"), "{ a = ").unwrap();
    world
        .nixci(&["submit", "--file", "ci.nix"])
        .ends(1)
        .warns("error: the evaluation is incomplete");
}

#[test]
fn a_derivation_that_is_nowhere_fails_alone() {
    let world = World::new();
    let (list, _) = world.jobs("lost", &[TestDrv::good("here")]);
    let list = format!("{list}gone\t/nix/store/00000000000000000000000000000000-gone.drv\n");
    world
        .nixci_with(&["submit", "--jobs-file", "-", "--wait"], &list)
        .ends(1)
        .says("neither in the local store nor at the daemon");
    let jobs = world.nixci(&["jobs", "--json"]).ends(0).json();
    assert_eq!(jobs[1]["outcome"]["state"], "succeeded", "{jobs}");
}

#[test]
fn events_are_json_lines_with_the_verdict_last() {
    let world = World::new();
    let (list, _) = world.jobs("json", &[TestDrv::good("a")]);
    let ran = world
        .nixci_with(&["submit", "--jobs-file", "-", "--wait", "--json"], &list)
        .ends(0);
    let events: Vec<serde_json::Value> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let at = |name: &str| events.iter().position(|event| event["event"] == name).unwrap();
    assert!(at("begun") < at("sent"), "{}", ran.out);
    let done = events.last().unwrap();
    assert_eq!(done["event"], "done");
    assert_eq!(done["verdict"]["conclusion"], "success");
}

#[test]
fn paths_are_copied_once() {
    let world = World::new();
    let (_, paths) = world.jobs("copy", &[TestDrv::good("a"), TestDrv::good("b").needs(&["a"])]);
    let socket = world.socket();
    let to = socket.to_str().unwrap();
    let list = format!("{}\n{}\n", paths["a"], paths["b"]);
    world
        .nixci_with(&["copy", "--to", to, "--stdin"], &list)
        .ends(0)
        .says("copied 2 paths");
    world
        .nixci_with(&["copy", "--to", to, "--stdin"], &list)
        .ends(0)
        .says("nothing to copy");
    let other = World::quiet();
    world
        .nixci_with(&["copy", "--to", &other.nix.uri(), "--stdin"], &list)
        .ends(0)
        .says("copied 2 paths");
    let info = other.nix.run("nix", &["path-info", &paths["b"]]);
    assert!(info.contains(&paths["b"]), "{info}");
    world
        .nixci(&["copy", "--to", to, "/nix/store/00000000000000000000000000000000-gone"])
        .ends(1)
        .warns("neither in the local store nor at");
}

//! Daemons that come, go, and live inside the program.

use std::io::{BufRead, BufReader, Read};

use nixci_store::testing::TestDrv;

use crate::world::{Ran, World};

#[test]
fn a_watch_survives_a_daemon_that_is_killed_and_comes_back() {
    let world = World::new();
    let gate = world.nix.gate("slow");
    let (list, _) = world.jobs("survive", &[TestDrv::good("slow").gate("slow")]);
    world.nixci_with(&["submit", "--jobs-file", "-"], &list).ends(0);
    world.wait(gate.started());
    let mut watch = world.spawn(&["watch", "1"]);
    // Its first line says that it is connected.
    let mut said = BufReader::new(watch.stderr.take().unwrap());
    let mut err = String::new();
    said.read_line(&mut err).unwrap();
    world.service().kill9();
    world.service().start_again();
    // The build was cut off and begins again, so it comes to its gate again.
    world.wait(gate.started());
    gate.open();
    said.read_to_string(&mut err).unwrap();
    let mut ran: Ran = watch.wait_with_output().unwrap().into();
    ran.err = err;
    ran.ends(0).warns("trying again in");
}

#[test]
fn a_daemon_inside_the_program_builds_one_submission() {
    let world = World::quiet();
    let (list, _) = world.jobs("embedded", &[TestDrv::good("a"), TestDrv::failing("b")]);
    let from = world.nix.uri();
    let args = ["submit", "--embedded", "--jobs-file", "-", "--from", &from];
    world.nixci_with(&args, &list).ends(1).says("error: b does not compile");
    // Its state is the user's: what failed is known to the next one.
    world.nixci_with(&args, &list).ends(1).says("error: b does not compile");

    let gate = world.nix.gate("slow");
    let (list, _) = world.jobs("embedded-2", &[TestDrv::good("slow").gate("slow")]);
    let path = world.dir().join("jobs");
    std::fs::write(&path, &list).unwrap();
    let first = world.spawn(&["submit", "--embedded", "--jobs-file", "jobs", "--from", &from]);
    world.wait(gate.started());
    world.nixci_with(&args, &list).ends(1).warns("without --embedded");
    gate.open();
    let ran: Ran = first.wait_with_output().unwrap().into();
    ran.ends(0);
}

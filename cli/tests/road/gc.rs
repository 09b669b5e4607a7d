//! `nixci gc`.

use nixci_store::testing::TestDrv;

use crate::world::World;

#[test]
fn what_is_collected_is_said_and_a_dry_run_changes_nothing() {
    let retention = "[retention]\nuploads = \"0s\"\nevaluations = \"0s\"\nnewest = 0\ncollect = \"off\"\n";
    let world = World::with_settings("", retention);
    let (list, _) = world.jobs("gc", &[TestDrv::good("lib"), TestDrv::good("app").needs(&["lib"])]);
    world
        .nixci_with(&["submit", "--jobs-file", "-", "--wait"], &list)
        .ends(0);
    let dry = world.nixci(&["gc", "--dry-run", "--json"]).ends(0).json();
    assert!(dry["objects"].as_u64().unwrap() >= 2, "{dry}");
    assert_eq!(
        (&dry["evaluations"], &dry["objects"]),
        (&1.into(), &dry["objectsBefore"])
    );
    world
        .nixci(&["gc", "--dry-run"])
        .ends(0)
        .says("would forget 1 evaluation");
    world.nixci(&["status", "1"]).ends(0);
    world
        .nixci(&["gc"])
        .ends(0)
        .says(&format!(
            "deleted {} objects of {}",
            dry["objects"], dry["objectsBefore"]
        ))
        .says("forgot 1 evaluation and");
    world.nixci(&["status", "1"]).ends(1);
    let again = world.nixci(&["gc", "--json"]).ends(0).json();
    assert_eq!((&again["objects"], &again["objectsBefore"]), (&0.into(), &0.into()));
    assert!(
        world.service().log().contains("objects of the spool"),
        "{}",
        world.service().log()
    );
    // The same once more is sent and recorded anew.
    world
        .nixci_with(&["submit", "--jobs-file", "-", "--wait"], &list)
        .ends(0);
}

#[test]
fn who_is_not_trusted_is_refused() {
    let world = World::with_settings("trusted_users = []\n", "");
    world.nixci(&["gc"]).ends(5).warns("`trusted_users` only");
}

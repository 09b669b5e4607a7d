//! Repairs and checks that an administrator asks for: through the door they do and say what the store itself does.

use crate::client::all_outputs;
use crate::upkeep::Pair;
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv};
use rstest::rstest;

/// A store with the outputs of a derivation that is always the same, and of one that never is.
async fn pair(version: NixVersion) -> (Pair, [Built; 2]) {
    let pair = Pair::new(version).await;
    let random = TestDrv::good("random").script("read id < /proc/sys/kernel/random/uuid; needs=$id");
    let drvs = pair.store.instantiate("repair", &[TestDrv::good("steady"), random]);
    let built = ["steady", "random"].map(|name| Built::new(&pair.store, &drvs[name]));
    (pair, built)
}

/// A derivation and its output, a file.
struct Built {
    drv: String,
    out: String,
    content: String,
}

impl Built {
    fn new(store: &TestDaemon, drv: &str) -> Self {
        let out = store.run("nix-store", &["--realise", drv]).trim().to_owned();
        Self {
            drv: drv.to_owned(),
            content: std::fs::read_to_string(store.physical(&out)).unwrap(),
            out,
        }
    }

    fn damage(&self, store: &TestDaemon) -> Vec<String> {
        let file = store.physical(&self.out);
        std::fs::remove_file(&file).unwrap();
        std::fs::write(file, "something else").unwrap();
        Vec::new()
    }

    fn is_whole(&self, store: &TestDaemon) -> bool {
        std::fs::read_to_string(store.physical(&self.out)).unwrap() == self.content
    }
}

fn unharmed(_: &TestDaemon) -> Vec<String> {
    Vec::new()
}

#[rstest]
#[case::oldest(NixVersion::V2_8)]
#[case::middle(NixVersion::V2_26)]
#[case::newest(NixVersion::V2_34)]
#[tokio::test(flavor = "multi_thread")]
async fn builds_are_checked_against_what_is_there(#[case] version: NixVersion) {
    let (pair, [steady, random]) = pair(version).await;
    for (built, differs) in [(&steady, false), (&random, true)] {
        let all = all_outputs(version, &built.drv);
        for (program, arguments) in [
            ("nix", &["build", "--no-link", "--rebuild", &all][..]),
            ("nix-store", &["--realise", "--check", &built.drv]),
        ] {
            let told = pair.same(unharmed, program, arguments).await;
            assert_eq!(told.code != Some(0), differs, "{told:?}");
            let said = told.stderr.concat().contains("may not be deterministic");
            assert_eq!(said, differs, "{told:?}");
            assert!(built.is_whole(&pair.store), "what is there stays");
        }
    }
    pair.stop().await;
}

#[rstest]
#[case::oldest(NixVersion::V2_8)]
#[case::middle(NixVersion::V2_26)]
#[case::newest(NixVersion::V2_34)]
#[tokio::test(flavor = "multi_thread")]
async fn what_was_damaged_is_built_again(#[case] version: NixVersion) {
    let (pair, [steady, _]) = pair(version).await;
    let all = all_outputs(version, &steady.drv);
    // Before each of the two it is damaged anew, or they would not tell the same.
    let damaged = |store: &TestDaemon| {
        steady.damage(store);
        assert!(!steady.is_whole(store));
        Vec::new()
    };
    for (program, arguments) in [
        ("nix-store", &["--realise", "--repair", &steady.drv][..]),
        ("nix", &["build", "--no-link", "--repair", &all]),
    ] {
        // It has no such option.
        if (program, version) == ("nix", NixVersion::V2_8) {
            continue;
        }
        let told = pair.same(damaged, program, arguments).await;
        assert_eq!(told.code, Some(0), "{told:?}");
        assert!(steady.is_whole(&pair.store), "{program} {arguments:?}: {told:?}");
    }
    // No stock client asks a daemon for this one.
    let told = pair.same(damaged, "nix-store", &["--repair-path", &steady.out]).await;
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(
        told.stderr.concat().contains("'repairPath' is not supported"),
        "{told:?}"
    );
    assert!(!steady.is_whole(&pair.store));
    pair.stop().await;
}

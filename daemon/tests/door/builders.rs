//! `builders = ssh-ng://…`: a stock daemon that has nixci build what its clients ask for.

use crate::world::{failed, front, output, program, ran, remembered, sshd};
use nixci_protocol::nixci::outcome::Outcome;
use nixci_store::testing::{NixVersion, Service, TestDaemon, TestDrv};
use rstest::rstest;

/// A client daemon that builds nothing itself, nixci, and the store behind it.
struct Forwarding {
    client: TestDaemon,
    nixci: Service,
    store: TestDaemon,
}

impl Forwarding {
    /// `keys` go to nixci's `[listen]`, `what` follows the URI in the builders line, `settings` go to the client's
    /// `nix.conf`.
    fn new(version: NixVersion, keys: &str, what: &str, settings: &str) -> Self {
        let store = TestDaemon::builder(version)
            .config("system-features = big-parallel special")
            .start();
        let nixci = front(&store, keys);
        let remote = program(&nixci, "");
        let client = TestDaemon::builder(version)
            .max_jobs(0)
            .config(&format!(
                "builders = ssh-ng://localhost?remote-program={} {what}\n{settings}",
                remote.display()
            ))
            .start();
        Self { client, nixci, store }
    }

    fn realise(&self, drv: &str) -> String {
        ran(self.client.command("nix-store").args(["--realise", drv]), &self.nixci)
            .trim()
            .to_owned()
    }
}

#[rstest]
#[case::oldest_trusted(NixVersion::V2_8, "")]
#[case::middle_trusted(NixVersion::V2_26, "")]
#[case::newest_trusted(NixVersion::V2_34, "")]
// Older ones know only BuildDerivation, which needs trust.
#[case::middle_untrusted(NixVersion::V2_26, "trusted_users = []")]
#[case::newest_untrusted(NixVersion::V2_34, "trusted_users = []")]
fn builds_are_forwarded_and_outputs_come_back(#[case] version: NixVersion, #[case] keys: &str) {
    // An untrusted user of nixci uploads derivations, whose outputs are then fetched: no need to be trusted.
    let far = Forwarding::new(
        version,
        keys,
        "x86_64-linux - 4 1 big-parallel,special",
        "require-sigs = false",
    );
    let drvs = far.client.instantiate(
        "builders",
        &[
            TestDrv::good("base").attribute("src", "builtins.toFile \"source\" \"the source\""),
            TestDrv::good("left").needs(&["base"]),
            TestDrv::good("right").needs(&["base"]),
            TestDrv::good("app")
                .needs(&["left", "right"])
                .script("cat /dev/null || true; echo the log of app"),
            TestDrv::good("special").attribute("requiredSystemFeatures", "[ \"special\" ]"),
            TestDrv::good("alien").attribute("requiredSystemFeatures", "[ \"unheard-of\" ]"),
            TestDrv::good("elsewhere").system("riscv64-linux"),
            TestDrv::failing("bad").script("echo the log of bad"),
            TestDrv::good("blocked").needs(&["bad"]),
        ],
    );
    let out = far.realise(&drvs["app"]);
    assert!(far.client.physical(&out).exists(), "it came back");
    assert!(far.store.physical(&out).exists(), "it was built behind nixci");
    let closure = far.client.run("nix-store", &["-q", "--requisites", &out]);
    for path in closure.lines() {
        assert!(far.client.physical(path).exists(), "{path}");
    }
    let valid = far
        .client
        .run("nix-store", &["--check-validity", "--print-invalid", &out]);
    assert_eq!(valid, "");
    assert_eq!(
        far.client.run("nix-store", &["-q", "--deriver", &out]).trim(),
        drvs["app"]
    );
    let log = far.client.run("nix-store", &["--read-log", &drvs["app"]]);
    assert!(log.contains("the log of app"), "{log}");

    let special = far.realise(&drvs["special"]);
    assert!(far.client.physical(&special).exists());

    for drv in ["bad", "blocked"] {
        let said = failed(far.client.command("nix-store").args(["--realise", &drvs[drv]]));
        assert!(said.contains("bad does not compile"), "{said}");
        assert!(said.contains("-bad.drv"), "{said}");
    }
    let log = far.client.run("nix-store", &["--read-log", &drvs["bad"]]);
    assert!(log.contains("the log of bad"), "{log}");
    // What no builder offers stays with the client's daemon, which says so.
    for drv in ["alien", "elsewhere"] {
        let said = failed(far.client.command("nix-store").args(["--realise", &drvs[drv]]));
        assert!(said.contains("builder") || said.contains("required"), "{said}");
    }
    // Trusted or not, the memory of nixci has what passed.
    let (lines, end) = remembered(&far.nixci, &drvs["bad"]);
    assert!(lines.iter().any(|line| line == "the log of bad"), "{lines:?}");
    assert!(matches!(end, Some(Outcome::Failed { .. })), "{end:?}");
    let (_, end) = remembered(&far.nixci, &drvs["app"]);
    assert!(matches!(end, Some(Outcome::Succeeded { .. })), "{end:?}");
}

#[rstest]
fn builds_are_forwarded_by_a_real_ssh(
    #[values(NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion,
) {
    let far = Forwarding::new(version, "", "x86_64-linux", "require-sigs = false");
    let (_sshd, uri) = sshd(&far.nixci, &far.client);
    let drvs = far
        .client
        .instantiate("ssh", &[TestDrv::good("base"), TestDrv::good("app").needs(&["base"])]);
    let built = ran(
        far.client.command("nix-store").args([
            "--realise",
            &drvs["app"],
            "--max-jobs",
            "0",
            "--option",
            "builders",
            &format!("{uri} x86_64-linux - 2"),
        ]),
        &far.nixci,
    );
    assert!(far.client.physical(built.trim()).exists());
    assert!(far.store.physical(built.trim()).exists());
}

#[rstest]
fn several_clients_forward_the_same_at_once(
    #[values(NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion,
) {
    let far = Forwarding::new(version, "", "x86_64-linux - 8", "require-sigs = false");
    let names: Vec<String> = (0..6).map(|n| format!("leaf{n}")).collect();
    let mut list: Vec<TestDrv> = names.iter().map(|name| TestDrv::good(name)).collect();
    let needs: Vec<&str> = names.iter().map(String::as_str).collect();
    list.extend(["one", "two"].map(|name| TestDrv::good(name).needs(&needs)));
    let drvs = far.client.instantiate("several", &list);
    std::thread::scope(|scope| {
        for name in ["one", "two", "one", "two"] {
            let (far, drv) = (&far, &drvs[name]);
            scope.spawn(move || far.realise(drv));
        }
    });
    for name in ["one", "two"] {
        let out = far.client.run("nix-store", &["-q", "--outputs", &drvs[name]]);
        assert!(far.client.physical(out.trim()).exists());
    }
}

#[rstest]
fn builders_use_the_substitutes_of_the_store_behind(
    #[values(NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion,
) {
    let cache = tempfile::tempdir().unwrap();
    let cache_uri = format!("file://{}", cache.path().display());
    let maker = TestDaemon::start(version);
    let list = [TestDrv::good("input"), TestDrv::good("app").needs(&["input"])];
    let made = maker.instantiate("substitutes", &list);
    let input = maker.run("nix-store", &["--realise", &made["input"]]).trim().to_owned();
    ran_at(&maker, &["copy", "--to", &cache_uri, &input]);

    let store = TestDaemon::builder(version)
        .config(&format!("substituters = {cache_uri}?trusted=1"))
        .start();
    let nixci = front(&store, "");
    let remote = program(&nixci, "");
    let client = TestDaemon::builder(version)
        .max_jobs(0)
        .config(&format!(
            "builders = ssh-ng://localhost?remote-program={} x86_64-linux\nbuilders-use-substitutes = true\n\
             require-sigs = false\nsubstituters = {cache_uri}?trusted=1",
            remote.display()
        ))
        .start();
    let drvs = client.instantiate("substitutes", &list);
    let out = ran(client.command("nix-store").args(["--realise", &drvs["app"]]), &nixci);
    assert!(client.physical(out.trim()).exists());
    assert!(store.physical(&input).exists());
}

fn ran_at(daemon: &TestDaemon, arguments: &[&str]) {
    let output = output(daemon.command("nix").args(arguments));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

//! Signatures over what floating outputs were realised as, by the names that clients ask for.

use crate::client::{all_outputs, remote_program, succeeds};
use crate::common::{config, connect};
use crate::sign::{key, key_file, signing};
use nixci_daemon::{Running, start};
use nixci_protocol::op;
use nixci_protocol::types::{
    BuildMode, BuildResult, BuildStatus, BuiltOutputs, DerivedPath, DrvOutput, OutputsSpec, PublicKey, Realisation,
    RealisationSignatures, SecretKey, SingleDerivedPath, StoreDir,
};
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv};
use rstest::rstest;

const FEATURES: &str = "experimental-features = nix-command flakes ca-derivations impure-derivations";

/// A store, nixci in front of it with a key, and a client with a store of its own.
struct Room {
    home: tempfile::TempDir,
    store: TestDaemon,
    client: TestDaemon,
    daemon: Running,
    key: SecretKey,
}

impl Room {
    async fn new(version: NixVersion) -> Self {
        let start_stock = || TestDaemon::builder(version).config(FEATURES).start();
        let (store, client) = (start_stock(), start_stock());
        let home = tempfile::tempdir().unwrap();
        let key = key("nixci.test-1", 1);
        let file = key_file(home.path(), &key.expose());
        let daemon = start(signing(config(home.path(), &store, 2), &[&file])).await.unwrap();
        Self {
            home,
            store,
            client,
            daemon,
            key,
        }
    }

    /// How the client names nixci, without and with sharing a disk with the store.
    fn uris(&self) -> [String; 2] {
        let socket = &self.daemon.socket;
        [remote_program(self.home.path(), socket), self.store.uri_at(socket)]
    }

    /// Has nixci build all outputs of a derivation of the client.
    async fn build(&self, drv: &str) {
        let [remote, _] = self.uris();
        let (here, all) = (self.client.uri(), all_outputs(self.client.version(), drv));
        let arguments = ["build", "--no-link", "--store", &remote, "--eval-store", &here, &all];
        succeeds(&self.client, &arguments).await;
    }

    /// What stock Nix is told that an output was realised as.
    async fn told(&self, uri: &str, drv: &str) -> Realisation {
        let output = format!("{drv}^out");
        let arguments = ["realisation", "info", "--json", "--store", uri, &output];
        let told: serde_json::Value = serde_json::from_str(&succeeds(&self.client, &arguments).await).unwrap();
        Realisation::from_json(told[0].to_string().as_bytes()).unwrap()
    }

    async fn told_over_http(&self, id: &DrvOutput) -> Realisation {
        let address = self.daemon.http_addr.unwrap();
        let url = format!("http://{address}/realisations/{id}.doi");
        nixci_daemon::tls::install_provider();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = client.get(url).send().await.unwrap().error_for_status().unwrap();
        Realisation::from_json(&answer.bytes().await.unwrap()).unwrap()
    }

    /// What is told of a derivation to whoever asks for it to be built, by a client that need not have it.
    async fn result(&self, drv: &str) -> BuildResult {
        let paths = vec![DerivedPath::Built {
            drv: SingleDerivedPath::Opaque(StoreDir::default().parse(drv).unwrap()),
            outputs: OutputsSpec::All,
        }];
        let mode = BuildMode::Normal;
        let question = op::BuildPathsWithResults { paths, mode };
        let mut door = connect(&self.daemon.socket).await;
        door.call(&question, &mut ()).await.unwrap().remove(0).result
    }

    /// Every way of asking what an output of a derivation was realised as tells the same, signed or not.
    async fn told_alike(&self, drv: &str, signed: bool) -> Realisation {
        let [remote, socket] = self.uris();
        let told = self.told(&remote, drv).await;
        let known = realisations(self.result(drv).await);
        assert_eq!(known.len(), 1, "{drv}: {known:?}");
        assert_eq!(self.told_over_http(&told.id).await, told);
        for other in [&self.told(&socket, drv).await, &known[0], &told] {
            assert_eq!((&other.id, &other.out_path), (&told.id, &told.out_path));
            assert_eq!(is_signed(other, &self.key.public()), signed, "{drv}: {other:?}");
        }
        told
    }
}

fn realisations(result: BuildResult) -> Vec<Realisation> {
    assert!(result.status.is_success(), "{result:?}");
    match result.built_outputs {
        BuiltOutputs::Hashed(outputs) => outputs.into_values().collect(),
        BuiltOutputs::Named(_) => panic!("named by hash: {result:?}"),
    }
}

fn is_signed(told: &Realisation, by: &PublicKey) -> bool {
    let covered = told.fingerprint();
    match &told.signatures {
        None => false,
        Some(RealisationSignatures::Text(all) | RealisationSignatures::Objects(all)) => {
            all.iter().any(|signature| by.verifies(covered.as_bytes(), signature))
        }
    }
}

fn graph(low: TestDrv) -> [TestDrv; 3] {
    [
        low.floating(),
        TestDrv::good("high").needs(&["low"]).floating(),
        // Not itself content-addressed, so what it is called follows from what it needs.
        TestDrv::good("plain").needs(&["high"]),
    ]
}

#[rstest]
#[case::middle(NixVersion::V2_26)]
#[case::newest(NixVersion::V2_34)]
#[tokio::test(flavor = "multi_thread")]
async fn realisations_are_signed_by_the_names_that_clients_ask_for(#[case] version: NixVersion) {
    let room = Room::new(version).await;
    let drvs = room.client.instantiate("realised", &graph(TestDrv::good("low")));
    room.build(&drvs["plain"]).await;
    for drv in drvs.values() {
        room.told_alike(drv, true).await;
    }

    // Another derivation comes to the same: what needs it is resolved to what was built already. Newer stores do not
    // say to what, so that it is not known to be ours.
    let says_what = version == NixVersion::V2_26;
    let other = TestDrv::good("low").attribute("comment", "\"changed\"");
    let changed = room.client.instantiate("realised", &graph(other));
    room.build(&changed["plain"]).await;
    for (name, drv) in &changed {
        let told = room.told_alike(drv, says_what || name == "low").await;
        let before = room.told(&room.uris()[0], &drvs[name]).await;
        assert_eq!(told.out_path, before.out_path);
        assert_ne!(told.id, before.id);
    }
    room.daemon.stop().await;
}

#[rstest]
#[case::middle(NixVersion::V2_26)]
#[case::newest(NixVersion::V2_34)]
#[tokio::test(flavor = "multi_thread")]
async fn who_asks_first_is_told_signed_and_what_merely_was_there_is_not(#[case] version: NixVersion) {
    let room = Room::new(version).await;
    let drvs = room.store.instantiate("first", &graph(TestDrv::good("low")));
    let there = all_outputs(version, &drvs["low"]);
    succeeds(&room.store, &["build", "--no-link", &there]).await;

    // What it was resolved to is told first, as by the store itself.
    let first = room.result(&drvs["high"]).await;
    assert_eq!(first.status, BuildStatus::Built);
    for told in realisations(first) {
        assert!(is_signed(&told, &room.key.public()), "{told:?}");
        // And by that name it can be asked about for ever.
        assert_eq!(room.told_over_http(&told.id).await, told);
    }
    for told in realisations(room.result(&drvs["low"]).await) {
        assert!(!is_signed(&told, &room.key.public()), "{told:?}");
        assert!(!is_signed(&room.told_over_http(&told.id).await, &room.key.public()));
    }
    room.daemon.stop().await;
}

#[rstest]
#[case::middle(NixVersion::V2_26)]
#[case::newest(NixVersion::V2_34)]
#[tokio::test(flavor = "multi_thread")]
async fn impure_derivations_are_built_once(#[case] version: NixVersion) {
    let room = Room::new(version).await;
    let impure = TestDrv::good("impure")
        .attribute("__impure", "true")
        .script("read id < /proc/sys/kernel/random/uuid; needs=\"$needs $id\"");
    let graph = [TestDrv::good("low").floating(), impure.needs(&["low"])];
    let drvs = room.store.instantiate("impure", &graph);
    let made = realisations(room.result(&drvs["impure"]).await);
    assert_eq!(made.len(), 1);
    let dir = room
        .store
        .physical(&StoreDir::default().display(&made[0].out_path).to_string());
    let outputs = std::fs::read_dir(dir.parent().unwrap()).unwrap();
    let outputs = outputs.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let outputs: Vec<String> = outputs.filter(|name| name.ends_with("-impure")).collect();
    assert_eq!(outputs, [made[0].out_path.to_string()]);
    room.daemon.stop().await;
}

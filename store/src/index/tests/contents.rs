//! Which paths may be signed, and what was read of them.

use nixci_protocol::nixci::outcome::Success;
use nixci_protocol::types::{BuiltOutputs, DrvOutput, Hash, NarHash, OutputName, Realisation};

use super::super::contents::{self, Provenance};
use super::*;

const HASH: NarHash = NarHash([1; 32]);
const OTHER: NarHash = NarHash([2; 32]);

#[tokio::test]
async fn only_what_a_store_built_itself_is_its_own() {
    let (index, _dir) = index();
    index
        .write(|tx| {
            let drvs = add_graph(tx, &["built:", "there:", "fetched:", "failed:"])?;
            attempt(tx, drvs["built"], BUILT)?;
            attempt(tx, drvs["there"], AttemptResult::Succeeded(Success::AlreadyValid))?;
            attempt(tx, drvs["fetched"], AttemptResult::Succeeded(Success::Substituted))?;
            attempt(tx, drvs["failed"], FAILED)?;
            let asked = ["built", "there", "fetched", "failed", "unknown"].map(|name| (path(name), HASH));
            let built = Provenance::Built { read: None };
            let foreign = Provenance::Foreign;
            assert_eq!(
                contents::provenance(tx, "auto", &asked)?,
                [built, foreign, foreign, foreign, foreign]
            );
            assert_eq!(contents::provenance(tx, "other", &asked[..1])?, [foreign]);

            contents::record_read(tx, &path("built"), HASH, 120)?;
            contents::record_read(tx, &path("there"), HASH, 120)?;
            let asked = [("built", HASH), ("built", OTHER), ("there", HASH)].map(|(name, hash)| (path(name), hash));
            assert_eq!(
                contents::provenance(tx, "auto", &asked)?,
                [Provenance::Built { read: Some(120) }, built, foreign]
            );
            Ok(())
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn outputs_whose_paths_follow_from_their_content_are_known_once_they_were_built() {
    let (index, _dir) = index();
    index
        .write(|tx| {
            let mut floating = derivation("floating", &[]);
            floating.outputs[0].path = None;
            let ids = derivations::add(tx, &[floating, derivation("plain", &[])])?;
            let out: OutputName = "out".parse().unwrap();
            let id = DrvOutput {
                drv_hash: Hash::sha256_of(b"modulo"),
                output: out.clone(),
            };
            let told = |name: &str, id: &DrvOutput| {
                let realisation = Realisation {
                    id: id.clone(),
                    out_path: path(name),
                    signatures: None,
                    dependencies: None,
                };
                BuiltOutputs::Hashed([(id.clone(), realisation)].into())
            };
            assert!(contents::record_realised(tx, ids[0], "auto", &told("made", &id))?);
            assert!(contents::is_realised(tx, "auto", &id, &path("made"))?);
            assert!(!contents::is_realised(tx, "auto", &id, &path("else"))?);
            assert!(!contents::is_realised(tx, "other", &id, &path("made"))?);
            let built = Provenance::Built { read: None };
            assert_eq!(contents::provenance(tx, "auto", &[(path("made"), HASH)])?, [built]);

            let mut resolved = derivation("resolved", &["floating"]);
            resolved.outputs[0].path = None;
            let resolved = derivations::add(tx, &[resolved, derivation("needy", &["floating"])])?;
            assert!(contents::is_resolved_first(tx, resolved[0])?);
            for drv in [ids[0], ids[1], resolved[1]] {
                assert!(!contents::is_resolved_first(tx, drv)?);
            }

            // A store names it by what it resolved the derivation to, and by the derivation.
            let second = DrvOutput {
                drv_hash: Hash::sha256_of(b"resolved"),
                output: out.clone(),
            };
            assert!(!contents::is_realised(tx, "auto", &second, &path("made"))?);
            contents::record_realised(tx, ids[0], "auto", &told("made", &second))?;
            for id in [&id, &second] {
                assert!(contents::is_realised(tx, "auto", id, &path("made"))?);
            }

            // Without hashes the one that is known stays; a dummy hash is none.
            let named = [(out.clone(), path("again"))].into_iter().collect();
            contents::record_realised(tx, ids[0], "auto", &named)?;
            assert!(contents::is_realised(tx, "auto", &id, &path("again"))?);
            let dummy = DrvOutput::with_dummy_hash(out);
            contents::record_realised(tx, ids[0], "auto", &told("dummy", &dummy))?;
            assert!(!contents::is_realised(tx, "auto", &dummy, &path("dummy"))?);

            // Of outputs whose paths were known before, attempts tell.
            assert!(!contents::record_realised(tx, ids[1], "auto", &told("elsewhere", &id))?);
            let foreign = Provenance::Foreign;
            assert_eq!(
                contents::provenance(tx, "auto", &[(path("elsewhere"), HASH)])?,
                [foreign]
            );
            Ok(())
        })
        .await
        .unwrap();
}

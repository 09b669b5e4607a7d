//! Derivations and their edges.

use nixci_protocol::types::StorePath;

use super::super::derivations::{self, Requirements};
use super::super::{DrvId, Error};
use super::{add_graph, derivation, index, path};

#[tokio::test]
async fn an_input_has_a_number_before_it_was_added_and_is_completed_later() {
    let (index, _dir) = index();
    index
        .write(|tx| {
            let top = derivations::add(tx, &[derivation("top", &["lib", "lib", "cc"])])?[0];
            let lib = derivations::ids(tx, &[path("lib.drv")])?[0].unwrap();
            assert_eq!(derivations::requirements(tx, &[lib])?, [None]);
            assert_eq!(derivations::get(tx, lib)?.unwrap().requirements, None);
            assert!(derivations::outputs(tx, lib)?.is_empty());

            let mut added = derivation("lib", &["cc"]);
            added.required_features = vec!["kvm".into(), "big parallel".into(), "kvm".into()];
            added.outputs[0].is_fixed = true;
            added.outputs[0].path = None;
            assert_eq!(derivations::add(tx, &[added.clone(), added])?, [lib, lib]);
            let requirements = Requirements {
                system: "x86_64-linux".into(),
                features: vec!["big parallel".into(), "kvm".into()],
                fixed: true,
            };
            assert_eq!(derivations::get(tx, lib)?.unwrap().requirements, Some(requirements));
            assert_eq!(derivations::outputs(tx, lib)?[0].path, None);

            // What was added stays as it is.
            assert_eq!(derivations::add(tx, &[derivation("top", &[])])?, [top]);
            let cc = derivations::ids(tx, &[path("cc.drv")])?[0].unwrap();
            assert_eq!(derivations::inputs(tx, top)?, [lib, cc]);
            assert_eq!(derivations::dependents(tx, cc, 10)?, [lib, top]);
            assert_eq!(derivations::dependents_count(tx, cc)?, 2);
            assert_eq!(derivations::makers(tx, &path("top"), 10)?, [top]);
            Ok(())
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn numbers_and_paths_are_told_in_the_order_asked() {
    let (index, _dir) = index();
    index
        .write(|tx| {
            let ids = add_graph(tx, &["d: b c", "c: a", "b: a", "a:", "other: a"])?;
            let of = |names: &str| -> Vec<DrvId> { names.split(' ').map(|name| ids[name]).collect() };
            let paths = derivations::paths(tx, &of("c a"))?;
            assert_eq!(paths, [path("c.drv"), path("a.drv")]);
            assert_eq!(
                derivations::ids(tx, &[paths[1].clone(), path("unknown.drv"), paths[0].clone()])?,
                [Some(ids["a"]), None, Some(ids["c"])]
            );
            let mut edges = derivations::edges_among(tx, &of("d c a"))?;
            edges.sort_unstable();
            assert_eq!(edges, [(ids["d"], ids["c"]), (ids["c"], ids["a"])]);
            let mut closure = derivations::closure(tx, &of("d d"))?;
            assert_eq!(closure[0], ids["d"]);
            closure.sort_unstable();
            let mut expected = of("a b c d");
            expected.sort_unstable();
            assert_eq!(closure, expected);
            assert_eq!(
                derivations::closure_paths(tx, &of("b"))?,
                [path("b.drv"), path("a.drv")]
            );
            let missing = derivations::paths(tx, &[DrvId(99)]).unwrap_err();
            assert_eq!(missing.to_string(), "there is no derivation 99");
            Ok(())
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn one_digest_has_one_name() {
    let (index, _dir) = index();
    index
        .write(|tx| {
            add_graph(tx, &["a:"])?;
            let liar = StorePath::new(*path("a.drv").digest(), "b.drv").unwrap();
            assert_eq!(derivations::ids(tx, std::slice::from_ref(&liar))?, [None]);
            let refused = derivations::mention(tx, &[liar]).unwrap_err();
            assert!(matches!(refused, Error::DigestInUse { .. }), "{refused}");
            Ok(())
        })
        .await
        .unwrap();
}

//! One of everything.

use std::collections::{BTreeMap, BTreeSet};

use bytes::BytesMut;

use crate::nixci::{AddClosure, Control, FEATURE_CLOSURE, FEATURE_CONTROL, QueryValidBatch};
use crate::op::{
    AddBuildLog, AddIndirectRoot, AddMultipleToStore, AddPermRoot, AddSignatures, AddTempRoot, AddTextToStore,
    AddToStore, AddToStoreNar, BaseName, BuildDerivation, BuildPaths, BuildPathsWithResults, CollectGarbage,
    EnsurePath, FindRoots, GcAction, GcScope, IsValidPath, NarFromPath, OptimiseStore, QueryAllValidPaths,
    QueryDerivationOutputMap, QueryDerivationOutputNames, QueryDerivationOutputs, QueryDeriver, QueryMissing,
    QueryPathFromHashPart, QueryPathInfo, QueryRealisation, QueryReferrers, QuerySubstitutablePathInfo,
    QuerySubstitutablePathInfos, QuerySubstitutablePaths, QueryValidDerivers, QueryValidPaths, RealisationKey,
    RegisterDrvOutput, Request, SetOptions, SubstitutablePaths, SyncWithGc, VerifyStore,
};
use crate::types::{
    AddMethod, BasicDerivation, BuildMode, ContentAddress, ContentAddressMethod, DerivationOutput, DerivedPath,
    DrvOutput, DrvOutputKey, DrvPath, Hash, HashAlgo, NarHash, OutputName, PathInfo, Realisation, Signature, StoreDir,
    StorePath, UnkeyedPathInfo, UnkeyedRealisation,
};
use crate::version::Version;
use crate::wire::primitive::{put_number, put_string};
use crate::wire::{FEATURE_REALISATION_PATHS, Negotiated, Wire};

/// A connection of version 1.`minor`, with our features or none.
#[must_use]
pub fn negotiated(minor: u8, ours: bool) -> Negotiated {
    let mut on = Negotiated::plain(Version { major: 1, minor }, StoreDir::default());
    if ours {
        on.features = [FEATURE_CLOSURE, FEATURE_CONTROL].map(str::to_owned).into();
    }
    on
}

/// The NAR of a directory with a file, a program, a link and a folder.
#[must_use]
pub fn nar() -> Vec<u8> {
    let words: &[&[u8]] = &[
        b"nix-archive-1",
        b"(",
        b"type",
        b"directory", //
        b"entry",
        b"(",
        b"name",
        b"a",
        b"node",
        b"(",
        b"type",
        b"regular",
        b"contents",
        b"hello\n",
        b")",
        b")", //
        b"entry",
        b"(",
        b"name",
        b"bin",
        b"node",
        b"(",
        b"type",
        b"directory", //
        b"entry",
        b"(",
        b"name",
        b"run",
        b"node",
        b"(",
        b"type",
        b"regular",
        b"executable",
        b"",
        b"contents",
        b"#!/bin/sh\n",
        b")",
        b")",
        b")",
        b")", //
        b"entry",
        b"(",
        b"name",
        b"empty",
        b"node",
        b"(",
        b"type",
        b"directory",
        b")",
        b")", //
        b"entry",
        b"(",
        b"name",
        b"link",
        b"node",
        b"(",
        b"type",
        b"symlink",
        b"target",
        b"../a",
        b")",
        b")",
        b")",
    ];
    let mut out = BytesMut::new();
    for word in words {
        put_string(word, &mut out);
    }
    out.to_vec()
}

/// A stream of two paths: counted as in `AddMultipleToStore`, or tagged as in `AddClosure`.
#[must_use]
pub fn stream_of_paths(counted: bool) -> Vec<u8> {
    let on = negotiated(16, false);
    let mut out = BytesMut::new();
    if counted {
        put_number(2, &mut out);
    }
    for name in ["one", "two"] {
        if !counted {
            put_number(1, &mut out);
        }
        info(name).encode(&on, &mut out);
        out.extend_from_slice(&nar());
    }
    if !counted {
        put_number(0, &mut out);
    }
    out.to_vec()
}

fn path(name: &str) -> StorePath {
    StorePath::new([0x5a; 20], name).expect("a name")
}

fn drv() -> DrvPath {
    path("app.drv").try_into().expect("the name of a derivation")
}

fn output() -> OutputName {
    "out".parse().expect("an output name")
}

fn signature() -> Signature {
    Signature::new("ci.example.org-1", [7; 64]).expect("a key name")
}

pub(super) fn info(name: &str) -> PathInfo {
    let nar = nar();
    PathInfo {
        path: path(name),
        info: UnkeyedPathInfo {
            deriver: Some(path("app.drv")),
            nar_hash: NarHash::of(&nar),
            references: BTreeSet::from([path("lib")]),
            registration_time: 1_700_000_000,
            nar_size: nar.len() as u64,
            ultimate: true,
            signatures: BTreeSet::from([signature()]),
            ca: Some(ContentAddress {
                method: ContentAddressMethod::Nar,
                hash: Hash::sha256_of(&nar),
            }),
        },
    }
}

fn basic() -> BasicDerivation {
    let fixed = DerivationOutput {
        path: Some(path("app")),
        hash_algo: String::new(),
        hash: String::new(),
    };
    BasicDerivation {
        outputs: BTreeMap::from([(output(), fixed)]),
        input_srcs: BTreeSet::from([path("lib")]),
        platform: "x86_64-linux".into(),
        builder: "/bin/sh".into(),
        args: vec!["-c".into(), "echo > $out".into()],
        env: BTreeMap::from([("out".into(), "/nix/store".into()), ("name".into(), "app".into())]),
    }
}

/// One request of each kind, in the form of a connection.
#[must_use]
pub fn requests(on: &Negotiated) -> Vec<Request> {
    let some = || BTreeSet::from([path("lib"), path("app")]);
    let derived = || {
        vec![
            DerivedPath::all_outputs(&drv()),
            DerivedPath::Opaque(path("lib")),
            DerivedPath::parse(
                &on.store_dir,
                &format!("{}!out!dev,doc", on.store_dir.display(drv().path())),
            )
            .expect("a derived path"),
        ]
    };
    let mode = BuildMode::Normal;
    let hashed = DrvOutput {
        drv_hash: Hash::from_sha256([3; 32]),
        output: output(),
    };
    let named = DrvOutputKey {
        drv: drv().into_path(),
        output: output(),
    };
    let (register, key) = if on.has(FEATURE_REALISATION_PATHS) {
        let value = UnkeyedRealisation {
            out_path: path("app"),
            signatures: BTreeSet::from([signature()]),
        };
        (
            RegisterDrvOutput::Named(named.clone(), value),
            RealisationKey::Named(named),
        )
    } else {
        let realisation = Realisation {
            id: hashed.clone(),
            out_path: path("app"),
            signatures: None,
            dependencies: Some(BTreeMap::from([(hashed.clone(), path("lib"))])),
        };
        (RegisterDrvOutput::Hashed(realisation), RealisationKey::Hashed(hashed))
    };
    vec![
        IsValidPath { path: path("lib") }.into(),
        QueryReferrers { path: path("lib") }.into(),
        AddToStore {
            name: "source".to_owned(),
            method: AddMethod {
                method: ContentAddressMethod::Nar,
                algo: HashAlgo::Sha256,
            },
            references: if on.version >= Version::NEW_ADD_TO_STORE {
                some()
            } else {
                BTreeSet::new()
            },
            repair: false,
        }
        .into(),
        AddTextToStore {
            name: "text".to_owned(),
            text: "hello\n".into(),
            references: some(),
        }
        .into(),
        BuildPaths { paths: derived(), mode }.into(),
        EnsurePath { path: path("lib") }.into(),
        AddTempRoot { path: path("lib") }.into(),
        AddIndirectRoot {
            link: "/tmp/result".into(),
        }
        .into(),
        SyncWithGc {}.into(),
        FindRoots {}.into(),
        QueryDeriver { path: path("lib") }.into(),
        SetOptions {
            overrides: BTreeMap::from([("timeout".to_owned(), "7".to_owned())]),
            ..SetOptions::default()
        }
        .into(),
        CollectGarbage {
            action: GcAction::DeleteSpecific,
            scope: GcScope::Paths {
                paths: some(),
                delete_referrers: false,
            },
            ignore_liveness: false,
            max_freed: u64::MAX,
        }
        .into(),
        QuerySubstitutablePathInfo { path: path("lib") }.into(),
        QueryDerivationOutputs { drv: drv() }.into(),
        QueryAllValidPaths {}.into(),
        QueryPathInfo { path: path("lib") }.into(),
        QueryDerivationOutputNames { drv: drv() }.into(),
        QueryPathFromHashPart {
            hash_part: "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q".to_owned(),
        }
        .into(),
        QuerySubstitutablePathInfos {
            paths: SubstitutablePaths(BTreeMap::from([(path("lib"), None)])),
        }
        .into(),
        QueryValidPaths {
            paths: some(),
            substitute: false,
        }
        .into(),
        QuerySubstitutablePaths { paths: some() }.into(),
        QueryValidDerivers { path: path("lib") }.into(),
        OptimiseStore {}.into(),
        VerifyStore {
            check_contents: true,
            repair: false,
        }
        .into(),
        BuildDerivation {
            drv: drv(),
            derivation: basic(),
            mode,
        }
        .into(),
        AddSignatures {
            path: path("lib"),
            signatures: BTreeSet::from([signature()]),
        }
        .into(),
        NarFromPath { path: path("lib") }.into(),
        AddToStoreNar {
            info: info("lib"),
            repair: false,
            dont_check_sigs: true,
        }
        .into(),
        QueryMissing { paths: derived() }.into(),
        QueryDerivationOutputMap { drv: drv() }.into(),
        register.into(),
        QueryRealisation { key }.into(),
        AddMultipleToStore {
            repair: false,
            dont_check_sigs: true,
        }
        .into(),
        AddBuildLog {
            drv: BaseName(drv().into_path()),
        }
        .into(),
        BuildPathsWithResults { paths: derived(), mode }.into(),
        AddPermRoot {
            path: path("lib"),
            link: "/tmp/result".into(),
        }
        .into(),
        QueryValidBatch::of([&path("lib"), &path("app")]).into(),
        AddClosure {}.into(),
        Control {
            json: r#"{"op":"info"}"#.to_owned(),
        }
        .into(),
    ]
}

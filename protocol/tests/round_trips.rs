//! Every wire type is written and read again in every version, and cut at every byte.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use bytes::Bytes;
use nixci_protocol::log::{ActivityType, Field, Incoming, LogMessage, RemoteError, ResultType};
use nixci_protocol::nixci::{AddClosure, Bitmap, Control, QueryValidBatch};
use nixci_protocol::op::{
    Ack, AddBuildLog, AddMultipleToStore, AddSignatures, AddTextToStore, AddToStore, AddToStoreNar, BaseName,
    BuildDerivation, BuildPaths, CollectGarbage, Collected, GcAction, GcScope, Missing, Operation, QueryRealisation,
    QuerySubstitutablePathInfos, QueryValidPaths, RealisationKey, Realisations, RegisterDrvOutput, Request, Root,
    SetOptions, SubstitutablePaths,
};
use nixci_protocol::types::{
    AddMethod, BasicDerivation, BuildMode, BuildResult, BuildStatus, BuiltOutputs, ContentAddress,
    ContentAddressMethod, DerivationOutput, DerivedPath, DrvOutput, DrvOutputKey, DrvPath, Hash, HashAlgo,
    KeyedBuildResult, NarHash, OutputName, OutputsSpec, PathInfo, Realisation, RealisationSignatures, Signature,
    SingleDerivedPath, StoreDir, StorePath, SubstitutablePathInfo, Trust, UnkeyedPathInfo, UnkeyedRealisation,
    Verbosity,
};
use nixci_protocol::version::Version;
use nixci_protocol::wire::{
    FEATURE_GC_REFERRERS, FEATURE_REALISATION_PATHS, Negotiated, Wire, WireError, decode, decode_all, encode,
};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;

fn on(minor: u8, features: &[&str]) -> Negotiated {
    let mut on = Negotiated::plain(Version { major: 1, minor }, StoreDir::default());
    on.features = features.iter().map(|feature| (*feature).to_owned()).collect();
    on
}

/// Written and read again it is the same, and every beginning of it is incomplete.
fn round_trip<T: Wire + PartialEq + Debug>(on: &Negotiated, value: &T) {
    let bytes = encode(on, value);
    assert_eq!(&decode_all::<T>(on, &bytes).unwrap(), value, "{:?}", on.version);
    for length in 0..bytes.len() {
        let error = decode::<T>(on, &bytes[..length]).unwrap_err();
        assert!(
            matches!(error, WireError::Incomplete),
            "cut at {length} of {}: {error}",
            bytes.len()
        );
    }
    // Damage may be noticed or not, but never panics.
    for at in 0..bytes.len() {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 0x55;
        let _ = decode::<T>(on, &damaged);
    }
}

fn newest<T: Wire + PartialEq + Debug>(value: &T) {
    round_trip(&on(38, &[]), value);
}

fn name() -> impl Strategy<Value = String> {
    "[0-9a-zA-Z+_?=][0-9a-zA-Z+._?=-]{0,20}"
}

fn store_path() -> impl Strategy<Value = StorePath> {
    (any::<[u8; 20]>(), name()).prop_map(|(digest, name)| StorePath::new(digest, &name).unwrap())
}

fn drv_path() -> impl Strategy<Value = DrvPath> {
    (any::<[u8; 20]>(), name()).prop_map(|(digest, name)| {
        StorePath::new(digest, &format!("{name}.drv"))
            .unwrap()
            .try_into()
            .unwrap()
    })
}

fn output_name() -> impl Strategy<Value = OutputName> {
    name().prop_map(|name| name.parse().unwrap())
}

fn text() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..30).prop_map(Bytes::from)
}

fn signature() -> impl Strategy<Value = Signature> {
    ("[a-z.-]{1,9}", any::<[u8; 32]>()).prop_map(|(name, half)| {
        let mut bytes = [7; 64];
        bytes[..32].copy_from_slice(&half);
        Signature::new(&name, bytes).unwrap()
    })
}

fn hash() -> impl Strategy<Value = Hash> {
    (algo(), vec(any::<u8>(), 64))
        .prop_map(|(algo, bytes)| Hash::from_bytes(algo, &bytes[..algo.digest_len()]).unwrap())
}

fn algo() -> impl Strategy<Value = HashAlgo> {
    prop::sample::select(vec![HashAlgo::Md5, HashAlgo::Sha1, HashAlgo::Sha256, HashAlgo::Sha512])
}

fn method() -> impl Strategy<Value = ContentAddressMethod> {
    use ContentAddressMethod::{Flat, Git, Nar, Text};
    prop::sample::select(vec![Text, Flat, Nar, Git])
}

fn ca() -> impl Strategy<Value = ContentAddress> {
    (method(), hash()).prop_map(|(method, hash)| ContentAddress { method, hash })
}

fn paths() -> impl Strategy<Value = BTreeSet<StorePath>> {
    btree_set(store_path(), 0..4)
}

fn path_info() -> impl Strategy<Value = PathInfo> {
    let rest = (
        any::<u64>(),
        any::<u64>(),
        any::<bool>(),
        btree_set(signature(), 0..3),
        prop::option::of(ca()),
    );
    let first = (store_path(), prop::option::of(store_path()), any::<[u8; 32]>(), paths());
    (first, rest).prop_map(
        |((path, deriver, nar_hash, references), (time, size, ultimate, signatures, ca))| PathInfo {
            path,
            info: UnkeyedPathInfo {
                deriver,
                nar_hash: NarHash(nar_hash),
                references,
                registration_time: time,
                nar_size: size,
                ultimate,
                signatures,
                ca,
            },
        },
    )
}

fn substitutable() -> impl Strategy<Value = SubstitutablePathInfo> {
    (prop::option::of(store_path()), paths(), any::<u64>(), any::<u64>()).prop_map(
        |(deriver, references, download_size, nar_size)| SubstitutablePathInfo {
            deriver,
            references,
            download_size,
            nar_size,
        },
    )
}

fn derived_path() -> impl Strategy<Value = DerivedPath> {
    let outputs = prop_oneof![
        Just(OutputsSpec::All),
        btree_set(output_name(), 1..4).prop_map(OutputsSpec::Names),
    ];
    let drv = (drv_path(), vec(output_name(), 0..3)).prop_map(|(drv, outputs)| {
        outputs
            .into_iter()
            .fold(SingleDerivedPath::Opaque(drv.into_path()), |drv, output| {
                SingleDerivedPath::Built {
                    drv: Box::new(drv),
                    output,
                }
            })
    });
    prop_oneof![
        store_path().prop_map(DerivedPath::Opaque),
        (drv, outputs).prop_map(|(drv, outputs)| DerivedPath::Built { drv, outputs }),
    ]
}

fn drv_output() -> impl Strategy<Value = DrvOutput> {
    (any::<[u8; 32]>(), output_name()).prop_map(|(hash, output)| DrvOutput {
        drv_hash: Hash::from_sha256(hash),
        output,
    })
}

fn realisation() -> impl Strategy<Value = Realisation> {
    // Without a signature nothing tells one spelling from the other.
    let signatures = prop_oneof![
        Just(None),
        btree_set(signature(), 0..3).prop_map(|set| Some(RealisationSignatures::Text(set))),
        btree_set(signature(), 1..3).prop_map(|set| Some(RealisationSignatures::Objects(set))),
    ];
    let dependencies = prop::option::of(btree_map(drv_output(), store_path(), 0..3));
    (drv_output(), store_path(), signatures, dependencies).prop_map(|(id, out_path, signatures, dependencies)| {
        Realisation {
            id,
            out_path,
            signatures,
            dependencies,
        }
    })
}

fn unkeyed_realisation() -> impl Strategy<Value = UnkeyedRealisation> {
    (store_path(), btree_set(signature(), 0..3))
        .prop_map(|(out_path, signatures)| UnkeyedRealisation { out_path, signatures })
}

fn key() -> impl Strategy<Value = DrvOutputKey> {
    (store_path(), output_name()).prop_map(|(drv, output)| DrvOutputKey { drv, output })
}

fn build_result() -> impl Strategy<Value = BuildResult> {
    use BuildStatus::{AlreadyValid, Built, DependencyFailed, NoSubstituters, PermanentFailure, TimedOut};
    let status = prop::sample::select(vec![
        Built,
        AlreadyValid,
        PermanentFailure,
        TimedOut,
        DependencyFailed,
        NoSubstituters,
    ]);
    let cpu = || prop::option::of(any::<u64>());
    let hashed = vec(realisation(), 0..3);
    (
        status,
        ".{0,20}",
        any::<[u64; 3]>(),
        any::<bool>(),
        cpu(),
        cpu(),
        hashed,
    )
        .prop_map(
            |(status, error_msg, times, flag, cpu_user, cpu_system, hashed)| BuildResult {
                status,
                error_msg,
                times_built: times[0],
                is_non_deterministic: flag,
                start_time: times[1],
                stop_time: times[2],
                cpu_user,
                cpu_system,
                built_outputs: BuiltOutputs::Hashed(hashed.into_iter().map(|it| (it.id.clone(), it)).collect()),
            },
        )
}

fn fields() -> impl Strategy<Value = Vec<Field>> {
    vec(
        prop_oneof![any::<u64>().prop_map(Field::Int), text().prop_map(Field::Text)],
        0..4,
    )
}

fn derivation() -> impl Strategy<Value = BasicDerivation> {
    let output = (prop::option::of(store_path()), "(r:)?sha256|", "[0-9a-f]{0,9}")
        .prop_map(|(path, hash_algo, hash)| DerivationOutput { path, hash_algo, hash });
    let env = btree_map(text(), text(), 0..4);
    (
        btree_map(output_name(), output, 0..3),
        paths(),
        text(),
        text(),
        vec(text(), 0..3),
        env,
    )
        .prop_map(|(outputs, input_srcs, platform, builder, args, env)| BasicDerivation {
            outputs,
            input_srcs,
            platform,
            builder,
            args,
            env,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn primitives_and_paths(
        number: u64, flag: bool, bytes in text(), string in ".{0,20}", path in store_path(), drv in drv_path(),
        list in vec(".{0,9}", 0..4), map in btree_map(output_name(), prop::option::of(store_path()), 0..4),
    ) {
        newest(&number);
        newest(&flag);
        newest(&bytes);
        newest(&string);
        newest(&Some(path.clone()));
        newest(&BaseName(path.clone()));
        newest(&path);
        newest(&drv);
        newest(&list);
        newest(&map);
    }

    #[test]
    fn infos(info in path_info(), ca in ca(), substitutable in substitutable(), hash: [u8; 32]) {
        newest(&info);
        newest(&Some(info.info.clone()));
        newest(&None::<UnkeyedPathInfo>);
        newest(&ca);
        newest(&Some(ca));
        newest(&NarHash(hash));
        newest(&Some(substitutable.clone()));
        newest(&vec![(info.path.clone(), substitutable)]);
        let mut old = info;
        old.info.ultimate = false;
        old.info.signatures.clear();
        old.info.ca = None;
        round_trip(&on(15, &[]), &old);
    }

    #[test]
    fn derived_paths(path in derived_path()) {
        newest(&path);
        // Before 1.30 there is no word for the file of a derivation.
        let unsayable = matches!(&path, DerivedPath::Opaque(path) if path.is_derivation());
        if !unsayable {
            round_trip(&on(29, &[]), &path);
        }
    }

    #[test]
    fn realisations(it in realisation(), value in unkeyed_realisation(), key in key()) {
        newest(&it);
        newest(&it.id);
        newest(&RegisterDrvOutput::Hashed(it.clone()));
        newest(&QueryRealisation { key: RealisationKey::Hashed(it.id.clone()) });
        newest(&Realisations::Hashed(vec![it]));
        let named = on(38, &[FEATURE_REALISATION_PATHS]);
        round_trip(&named, &RegisterDrvOutput::Named(key.clone(), value.clone()));
        round_trip(&named, &QueryRealisation { key: RealisationKey::Named(key) });
        round_trip(&named, &Realisations::Named(Some(value)));
        round_trip(&named, &Realisations::Named(None));
    }

    #[test]
    fn results(result in build_result(), path in derived_path()) {
        newest(&KeyedBuildResult { path, result: result.clone() });
        let named: BTreeMap<_, _> = result.built_outputs.paths().map(|(name, path)| {
            (name.clone(), UnkeyedRealisation::unsigned(path.clone()))
        }).collect();
        let named = BuildResult { built_outputs: BuiltOutputs::Named(named), ..result.clone() };
        round_trip(&on(38, &[FEATURE_REALISATION_PATHS]), &named);
        // To a peer of the other form names and paths arrive all the same.
        let crossed: BuildResult = decode_all(&on(38, &[]), &encode(&on(38, &[]), &named)).unwrap();
        prop_assert!(crossed.built_outputs.paths().eq(named.built_outputs.paths()));
        let without_cpu = BuildResult { cpu_user: None, cpu_system: None, ..result };
        round_trip(&on(36, &[]), &without_cpu);
        let plain = BuildResult::new(without_cpu.status, without_cpu.error_msg);
        let plain = BuildResult { built_outputs: BuiltOutputs::Named(BTreeMap::new()), ..plain };
        round_trip(&on(27, &[]), &plain);
    }

    #[test]
    fn log_messages(id: u64, kind: u64, text in text(), fields in fields(), parent: u64, message in ".{0,20}", flag: bool) {
        let start = LogMessage::StartActivity {
            id, level: Verbosity::Talkative, kind: ActivityType(kind), text: text.clone(), fields: fields.clone(), parent,
        };
        newest(&Incoming::Log(start));
        newest(&Incoming::Log(LogMessage::StopActivity { id }));
        newest(&Incoming::Log(LogMessage::Result { id, kind: ResultType(kind), fields }));
        newest(&Incoming::Log(LogMessage::Next { text: text.clone() }));
        newest(&Incoming::Read(id));
        newest(&Incoming::Write(text));
        newest(&Incoming::Last);
        let error = RemoteError { level: Verbosity::Error, message, traces: vec!["while".to_owned(), String::new()], is_refusal: flag };
        newest(&Incoming::Error(error));
    }

    #[test]
    fn requests(
        paths in paths(), drv in drv_path(), derivation in derivation(), wanted in vec(derived_path(), 0..3),
        signatures in btree_set(signature(), 0..3), info in path_info(), flag: bool, method in method(), algo in algo(),
        overrides in btree_map("[a-z-]{1,9}", ".{0,9}", 0..3), content in text(), digests in vec(any::<[u8; 20]>(), 0..9),
    ) {
        let path = info.path.clone();
        request(&QueryValidPaths { paths: paths.clone(), substitute: flag });
        request(&BuildPaths { paths: wanted, mode: BuildMode::Check });
        request(&BuildDerivation { drv, derivation, mode: BuildMode::Normal });
        request(&AddSignatures { path: path.clone(), signatures });
        request(&AddTextToStore { name: "x".to_owned(), text: content, references: paths.clone() });
        let method = AddMethod { method, algo };
        request(&AddToStore { name: "x".to_owned(), method, references: paths.clone(), repair: flag });
        let ca = info.info.ca;
        request(&AddToStoreNar { info, repair: flag, dont_check_sigs: !flag });
        request(&AddMultipleToStore { repair: flag, dont_check_sigs: !flag });
        request(&AddBuildLog { drv: BaseName(path.clone()) });
        request(&SetOptions { overrides, ..SetOptions::default() });
        let paths_with_ca = SubstitutablePaths(BTreeMap::from([(path.clone(), ca)]));
        request(&QuerySubstitutablePathInfos { paths: paths_with_ca });
        let old = SubstitutablePaths(BTreeMap::from([(path.clone(), None)]));
        round_trip(&on(21, &[]), &old);
        for scope in [GcScope::Whole, GcScope::Paths { paths, delete_referrers: flag }] {
            let collect = CollectGarbage {
                action: GcAction::DeleteSpecific, scope, ignore_liveness: flag, max_freed: u64::MAX,
            };
            round_trip(&on(38, &[FEATURE_GC_REFERRERS]), &collect);
        }
        newest(&QueryValidBatch { digests });
        newest(&AddClosure {});
        newest(&Control { json: "{\"op\":\"info\"}".to_owned() });
    }

    #[test]
    fn replies(paths in paths(), stray in btree_set("[ -~]{0,20}", 0..4), number: u64, link in text(), bits: Vec<u8>) {
        newest(&Missing {
            will_build: paths.clone(), will_substitute: BTreeSet::new(), unknown: paths.clone(),
            download_size: number, nar_size: 1,
        });
        newest(&Collected { paths: stray, bytes_freed: number, obsolete: 0 });
        newest(&paths.into_iter().map(|target| Root { link: link.clone(), target }).collect::<Vec<_>>());
        newest(&Bitmap(bits));
        newest(&Ack::Done);
        for trust in [Trust::Unknown, Trust::Trusted, Trust::NotTrusted] {
            newest(&trust);
        }
    }

    #[test]
    fn nonsense_never_panics(bytes in vec(any::<u8>(), 0..200), minor in 18_u8..=38) {
        let on = on(minor, &[]);
        let _ = decode::<Incoming>(&on, &bytes);
        let _ = decode::<AddToStoreNar>(&on, &bytes);
        let _ = decode::<KeyedBuildResult>(&on, &bytes);
        let _ = decode::<BuildDerivation>(&on, &bytes);
        let _ = decode::<Realisation>(&on, &bytes);
    }
}

/// As [`newest`], and in the enum of all requests under its own number.
fn request<R: Operation + PartialEq + Debug + Clone + Into<Request>>(value: &R) {
    newest(value);
    let all: Request = value.clone().into();
    assert_eq!((all.op(), all.name()), (R::OP, R::NAME));
    assert_eq!(Request::name_of(u64::from(R::OP)), Some(R::NAME));
}

/// The bytes of our own three operations, which peers of other versions of nixci rely on.
#[test]
fn our_operations_have_these_bytes() {
    let on = on(38, &[]);
    let query = QueryValidBatch {
        digests: vec![[1; 20], [2; 20]],
    };
    let mut bytes = vec![40, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend_from_slice(&[1; 20]);
    bytes.extend_from_slice(&[2; 20]);
    assert_eq!(encode(&on, &query)[..], bytes[..]);
    assert_eq!(decode_all::<QueryValidBatch>(&on, &bytes).unwrap(), query);
    let error = decode::<QueryValidBatch>(&on, b"\x03\0\0\0\0\0\0\0abc\0\0\0\0\0").unwrap_err();
    assert_eq!(error.to_string(), "3 bytes of digests are not a multiple of 20");

    let bitmap: Bitmap = [true, false, true, false, false, false, false, false, false, true]
        .into_iter()
        .collect();
    assert_eq!(encode(&on, &bitmap)[..], *b"\x02\0\0\0\0\0\0\0\x05\x02\0\0\0\0\0\0");

    assert!(encode(&on, &AddClosure {}).is_empty());
    let control = Control { json: "{}".to_owned() };
    assert_eq!(encode(&on, &control)[..], *b"\x02\0\0\0\0\0\0\0{}\0\0\0\0\0\0");
    let numbers = [QueryValidBatch::OP, AddClosure::OP, Control::OP];
    assert_eq!(numbers, [0x6e63_6901, 0x6e63_6902, 0x6e63_6903]);
}

/// worker-protocol appendix B.
#[test]
fn requests_have_the_sizes_nix_sends() {
    let on = on(38, &[]);
    assert_eq!(encode(&on, &SetOptions::default()).len() + 8, 112);
    assert_eq!(
        encode(
            &on,
            &AddMultipleToStore {
                repair: false,
                dont_check_sigs: false
            }
        )
        .len()
            + 8,
        24
    );
}

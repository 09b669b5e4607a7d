use std::collections::BTreeSet;
use std::fs;

use nixci_protocol::io::{PathStreamWriter, StreamKind};

use nixci_protocol::types::{
    ContentAddress, ContentAddressMethod, Hash, NarHash, PathInfo, StoreDir, StorePath, UnkeyedPathInfo,
    make_content_addressed_path,
};
use nixci_store::remote::Environment;
use rstest::rstest;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::*;
use crate::exit::Exit;
use crate::transfer::LocalStore;

const HEAD: &str = "1111111111111111111111111111111111111111";

/// Small enough for bombs to be told at once.
const LIMITS: Limits = Limits {
    file: 1 << 20,
    head: 100_000,
    jobs: 100,
    attr: 300,
    text: 200,
    error: 1_000,
    labels: 4,
    paths: 50,
    nar: 1 << 20,
    unpacked: 2 << 20,
    ratio: 100,
};

#[derive(Clone)]
struct Object {
    info: PathInfo,
    nar: Vec<u8>,
}

fn nar_of(content: &[u8]) -> Vec<u8> {
    let mut nar = Vec::new();
    for word in [
        &b"nix-archive-1"[..],
        b"(",
        b"type",
        b"regular",
        b"contents",
        content,
        b")",
    ] {
        nar.extend((word.len() as u64).to_le_bytes());
        nar.extend(word);
        nar.resize(nar.len().next_multiple_of(8), 0);
    }
    nar
}

/// The content of such a NAR.
fn content(nar: &[u8]) -> &[u8] {
    // Behind the length of the content there are 16 bytes in an empty one.
    let (length, rest) = nar[nar_of(b"").len() - 24..].split_at(8);
    &rest[..u64::from_le_bytes(length.try_into().unwrap()) as usize]
}

/// A text whose path follows from its content.
fn text(name: &str, content: &[u8], references: &[&Object]) -> Object {
    let nar = nar_of(content);
    let ca = ContentAddress {
        method: ContentAddressMethod::Text,
        hash: Hash::sha256_of(content),
    };
    let references: BTreeSet<StorePath> = references.iter().map(|object| object.info.path.clone()).collect();
    let path = make_content_addressed_path(&StoreDir::default(), name, &ca, &references, false).unwrap();
    let info = UnkeyedPathInfo {
        deriver: None,
        nar_hash: NarHash::of(&nar),
        references,
        registration_time: 0,
        nar_size: nar.len() as u64,
        ultimate: false,
        signatures: BTreeSet::new(),
        ca: Some(ca),
    };
    Object {
        info: PathInfo { path, info },
        nar,
    }
}

fn derivation(name: &str) -> Object {
    let out = format!("/nix/store/7lmww5ks62qvwklysqlsfbn6p4yl2ijr-{name}");
    let content = format!(r#"Derive([("out","{out}","","")],[],[],"x86_64-linux","/bin/sh",[],[("name","{name}")])"#);
    text(&format!("{name}.drv"), content.as_bytes(), &[])
}

/// The stream, before it is compressed. What does not fit its own info is cut off where the writer notices.
async fn stream(objects: &[Object]) -> Vec<u8> {
    let dir = StoreDir::default();
    let mut writer = PathStreamWriter::new(StreamKind::Tagged, objects.len() as u64, dir, Vec::new());
    for Object { info, nar } in objects {
        writer.add(info, &nar[..]).await.unwrap();
    }
    writer.finish().await.unwrap()
}

fn head(paths: u64, jobs: &[(&str, &str)]) -> Value {
    let jobs: Vec<Value> = (jobs.iter())
        .map(|(attr, drv)| json!({"attr": [attr], "result": {"drv": drv}}))
        .collect();
    json!({
        "storeDir": "/nix/store",
        "paths": paths,
        "about": {
            "project": "o/n", "commit": HEAD, "gitRef": null, "base": null, "pullRequest": 5,
            "source": ".#checks", "labels": {},
        },
        "jobs": jobs,
        "error": null,
    })
}

/// A file with the right digest, as anybody can make it.
fn sealed(head: &Value, closure: &[u8]) -> Vec<u8> {
    let head = head.to_string();
    let length = (head.len() as u64).to_le_bytes();
    let mut bytes = [MAGIC, VERSION, &length, head.as_bytes(), closure].concat();
    bytes.extend(Sha256::digest(&bytes));
    bytes
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// The bytes with the first `from` in them replaced.
fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|piece| piece == from).unwrap();
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

/// The stream of an object that says that its NAR has another size.
fn sized(stream: &[u8], object: &Object, nar_size: u64) -> Vec<u8> {
    // After the time of registration, which is 0.
    let [from, to] =
        [object.info.info.nar_size, nar_size].map(|size| [0_u64.to_le_bytes(), size.to_le_bytes()].concat());
    replaced(stream, &from, &to)
}

async fn read_bytes(bytes: &[u8]) -> Result<Unpacked, String> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, bytes).unwrap();
    read(&file, LIMITS).await.map_err(|problem| {
        let said = problem.to_string();
        assert_eq!(problem.exit(), Exit::Usage, "{said}");
        assert!(!said.contains('\n') && said.len() < 700, "{said}");
        said
    })
}

/// One derivation and its file.
async fn good() -> (Object, Vec<u8>) {
    let drv = derivation("a");
    let full = StoreDir::default().display(&drv.info.path).to_string();
    let closure = zstd(&stream(std::slice::from_ref(&drv)).await);
    let bytes = sealed(&head(1, &[("a", &full)]), &closure);
    (drv, bytes)
}

#[tokio::test]
async fn what_is_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("nix/store");
    fs::create_dir_all(&store).unwrap();
    let (needed, b) = (derivation("needed"), derivation("b"));
    for object in [&needed, &b] {
        fs::write(store.join(object.info.path.base_name()), content(&object.nar)).unwrap();
    }
    let from = format!("local?root={}", dir.path().display());
    let local = LocalStore::open_in(Some(&from), Environment::of_process()).unwrap();
    let full = local.store_dir().display(&b.info.path).to_string();
    let said: Head = serde_json::from_value(head(0, &[("b", &full)])).unwrap();
    let file = dir.path().join("file");
    let (paths, bytes) = write(&file, said.clone(), &local, vec![b.info.path.clone()])
        .await
        .unwrap();
    assert_eq!((paths, bytes), (1, fs::metadata(&file).unwrap().len()));
    // Through a link, as CIs unpack what they kept.
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let unpacked = read(&link, Limits::DEFAULT).await.unwrap();
    assert_eq!(unpacked.head, Head { paths: 1, ..said });
    assert!(unpacked.spool.contains(&b.info.path));
    assert!(!unpacked.spool.contains(&needed.info.path));
    // Nothing but the file and the link is left behind.
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
}

#[tokio::test]
async fn a_file_that_is_cut_anywhere_is_told_so() {
    let (_, bytes) = good().await;
    read_bytes(&bytes).await.unwrap();
    for length in 0..bytes.len() {
        let said = read_bytes(&bytes[..length]).await.unwrap_err();
        if length >= MAGIC.len() {
            assert!(
                said.contains("cut off") || said.contains("another version"),
                "{length}: {said}"
            );
        }
    }
    let said = read_bytes(&[&bytes[..], b"x"].concat()).await.unwrap_err();
    assert!(said.contains("digest"), "{said}");
}

#[tokio::test]
async fn a_file_that_was_changed_anywhere_is_told_so() {
    let (_, bytes) = good().await;
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        read_bytes(&changed).await.unwrap_err();
    }
}

#[tokio::test]
async fn a_closure_that_was_changed_and_sealed_again_gives_what_its_names_say_or_nothing() {
    let (drv, bytes) = good().await;
    let full = StoreDir::default().display(&drv.info.path).to_string();
    let head = head(1, &[("a", &full)]);
    let start = MAGIC.len() + VERSION.len() + 8 + head.to_string().len();
    let closure = &bytes[start..bytes.len() - 32];
    let (mut tried, mut refused) = (0, 0);
    // Each that is not refused at once costs a spool.
    for at in (0..closure.len()).step_by(7) {
        tried += 1;
        let mut changed = closure.to_vec();
        changed[at] ^= 0x11;
        match read_bytes(&sealed(&head, &changed)).await {
            Ok(unpacked) => {
                let content = unpacked.spool.small(&drv.info.path).await.unwrap();
                assert_eq!(content.unwrap(), drv.nar);
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused * 10 > tried * 9, "{refused} of {tried}");
}

#[rstest]
#[case::huge_name(|head: &mut Value| head["jobs"][0]["attr"] = json!(["x".repeat(301)]), "the name of a job has 302 bytes")]
#[case::deep_name(|head: &mut Value| head["jobs"][0]["attr"] = json!(vec![""; 400]), "the name of a job has 400 bytes")]
#[case::many_jobs(|head: &mut Value| head["jobs"] = json!(vec![head["jobs"][0].clone(); 101]), "it has 101 jobs, and at most 100")]
#[case::long_error(
    |head: &mut Value| head["jobs"][0]["result"] = json!({"error": "x".repeat(1_001)}),
    "an error in it has 1001 bytes"
)]
#[case::long_failure(|head: &mut Value| head["error"] = json!("x".repeat(1_001)), "an error in it has 1001 bytes")]
#[case::long_text(|head: &mut Value| head["about"]["project"] = json!("x".repeat(201)), "a text in its head has 201 bytes")]
#[case::labels(
    |head: &mut Value| head["about"]["labels"] = json!({"1": "", "2": "", "3": "", "4": "", "5": ""}),
    "it has 5 labels"
)]
#[case::commit(|head: &mut Value| head["about"]["commit"] = json!("--upload-pack"), "is none")]
#[case::out_of_the_store(
    |head: &mut Value| head["jobs"][0]["result"] = json!({"drv": "/etc/passwd.drv"}),
    "the derivation of `a` is no store path"
)]
#[case::out_of_bounds(
    |head: &mut Value| head["jobs"][0]["result"] = json!({"drv": "/nix/store/../../etc/x.drv"}),
    "the derivation of `a` is no store path"
)]
#[case::other_store(|head: &mut Value| head["storeDir"] = json!("/gnu/store"), "is no store path")]
#[case::no_store(|head: &mut Value| head["storeDir"] = json!("../x"), "is not a store directory")]
#[case::no_derivation(
    |head: &mut Value| head["jobs"][0]["result"] = json!({"drv": "/nix/store/00000000000000000000000000000000-a"}),
    "is no derivation"
)]
#[case::missing(
    |head: &mut Value| head["jobs"][0]["result"] = json!({"drv": "/nix/store/00000000000000000000000000000000-a.drv"}),
    "the derivations of a are not in it"
)]
#[case::too_few(|head: &mut Value| head["paths"] = json!(2), "it has 1 paths, and its head says 2")]
#[case::too_many(|head: &mut Value| head["paths"] = json!(0), "max_paths (0)")]
#[case::promises(|head: &mut Value| head["paths"] = json!(u64::MAX), "it has 18446744073709551615 paths")]
#[case::key(|head: &mut Value| head["about"]["key"] = json!("x"), "its head makes no sense: unknown field")]
#[case::nested(
    |head: &mut Value| {
        let mut deep = json!([]);
        for _ in 0..120 { deep = json!([deep]); }
        head["error"] = deep;
    },
    "its head makes no sense"
)]
#[tokio::test]
async fn a_head_that_lies_or_says_too_much_is_refused(#[case] change: fn(&mut Value), #[case] said: &str) {
    let drv = derivation("a");
    let full = StoreDir::default().display(&drv.info.path).to_string();
    let mut head = head(1, &[("a", &full)]);
    change(&mut head);
    let closure = zstd(&stream(&[drv]).await);
    let told = read_bytes(&sealed(&head, &closure)).await.unwrap_err();
    assert!(told.contains(said), "{told}");
}

#[tokio::test]
async fn the_lengths_and_the_version_are_looked_at_before_anything_is_read() {
    let (_, bytes) = good().await;
    let before = MAGIC.len() + VERSION.len();
    for (length, said) in [(u64::MAX, "and at most 100000 are taken"), (90_000, "cut off")] {
        let mut changed = bytes.clone();
        changed[before..before + 8].copy_from_slice(&length.to_le_bytes());
        let told = read_bytes(&changed).await.unwrap_err();
        assert!(told.contains(said), "{told}");
    }
    let mut newer = bytes.clone();
    newer[MAGIC.len()] = b'2';
    assert!(read_bytes(&newer).await.unwrap_err().contains("another version"));
    assert!(
        read_bytes(b"PK\x03\x04 a zip")
            .await
            .unwrap_err()
            .contains("--artifact")
    );
    let told = read_bytes(&vec![b'n'; (1 << 20) + 1]).await.unwrap_err();
    assert!(told.contains("at most 1048576 are taken"), "{told}");

    let dir = tempfile::tempdir().unwrap();
    for (path, said) in [
        (dir.path().to_owned(), "no plain file"),
        (dir.path().join("missing"), "No such file"),
    ] {
        let problem = read(&path, LIMITS).await.unwrap_err();
        assert_eq!(problem.exit(), Exit::Usage);
        assert!(problem.to_string().contains(said), "{problem}");
    }
}

#[tokio::test]
async fn bombs_and_forgeries_in_the_closure_end_early() {
    let a = derivation("a");
    let full = StoreDir::default().display(&a.info.path).to_string();
    let one = stream(std::slice::from_ref(&a)).await;
    let mut wide = zstd::Encoder::new(Vec::new(), 1).unwrap();
    wide.set_parameter(zstd::zstd_safe::CParameter::WindowLog(27)).unwrap();
    wide.include_contentsize(false).unwrap();
    std::io::Write::write_all(&mut wide, &one).unwrap();

    let mut output = a.clone();
    output.info.info.ca = None;
    let mut other_content = a.clone();
    other_content.nar = derivation("b").nar;
    let needs = text("needs.drv", b"x", &[&derivation("nowhere")]);
    let zeros = text("zeros", &vec![0; 200_000], &[]);
    let many: Vec<Object> = (0..3)
        .map(|n| text(&format!("zeros-{n}"), &vec![0; 900_000], &[]))
        .collect();
    let huge = text("huge", &vec![0; 2 << 20], &[]);

    let cases: Vec<(&str, u64, Vec<u8>, &str)> = vec![
        (
            "a size near 2^64",
            1,
            zstd(&sized(&one, &a, u64::MAX)),
            "18446744073709551615 bytes, and at most 1048576",
        ),
        (
            "a large object",
            1,
            zstd(&stream(&[huge]).await),
            "and at most 1048576 are taken",
        ),
        (
            "many that are large together",
            3,
            zstd(&stream(&many).await),
            "bytes when it is unpacked",
        ),
        (
            "zeros behind the end",
            1,
            zstd(&[&one[..], &vec![0; 32 << 20]].concat()),
            "bytes follow the end",
        ),
        (
            "a second frame",
            1,
            [zstd(&one), zstd(&one)].concat(),
            "bytes follow the end",
        ),
        (
            "a window that is too wide",
            1,
            wide.finish().unwrap(),
            "window of at most 16 MiB",
        ),
        ("no zstd", 1, one.clone(), "not zstd"),
        ("nothing", 1, Vec::new(), "ends after 0 paths"),
        ("no end", 1, zstd(&one[..one.len() - 8]), "ends after 1 paths"),
        ("half a frame", 1, zstd(&one)[..100].to_vec(), "ends in the middle"),
        (
            "an output",
            1,
            zstd(&stream(&[output]).await),
            "neither a derivation nor a source",
        ),
        ("other content", 1, zstd(&stream(&[other_content]).await), "a.drv"),
        (
            "a reference to nowhere",
            2,
            zstd(&stream(&[a.clone(), needs]).await),
            "nowhere.drv, which is not here",
        ),
        (
            "more than it says",
            1,
            zstd(&stream(&[zeros, a.clone()]).await),
            "max_paths (1)",
        ),
        (
            "a path out of bounds",
            1,
            zstd(&replaced(&one, b"/nix/store/", b"/../../../e")),
            "store",
        ),
    ];
    for (what, paths, closure, said) in cases {
        let told = read_bytes(&sealed(&head(paths, &[("a", &full)]), &closure))
            .await
            .unwrap_err();
        assert!(told.contains(said), "{what}: {told}");
    }
}

#[tokio::test]
async fn a_closure_that_grows_beyond_measure_is_refused_while_it_is_unpacked() {
    let zeros: Vec<Object> = (0..2)
        .map(|n| text(&format!("zeros-{n}"), &vec![0; 900_000], &[]))
        .collect();
    let bytes = zstd(&stream(&zeros).await);
    assert!(bytes.len() < 2_000);
    let head = head(2, &[]);
    // Within all other limits.
    let told = read_bytes(&sealed(&head, &bytes)).await.unwrap_err();
    assert!(
        told.contains("many more than it has in the file") && told.contains("ratio=N"),
        "{told}"
    );
    let most: u64 = told
        .split("more than ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(most < 900_000, "{told}");
    let (dir, file) = (tempfile::tempdir().unwrap(), "file");
    fs::write(dir.path().join(file), sealed(&head, &bytes)).unwrap();
    let allowed = Limits {
        ratio: 100_000,
        ..LIMITS
    };
    let unpacked = read(&dir.path().join(file), allowed).await.unwrap();
    assert!(unpacked.spool.contains(&zeros[1].info.path));
}

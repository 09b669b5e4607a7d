//! What is done to any bytes, and what must hold of it.

use std::fmt::Debug;
use std::io::Cursor;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt as _, sink};

use super::samples::{info, nar, negotiated, requests, stream_of_paths};
use crate::handshake::{ClientHandshake, HandshakeError, Offer, ServerHandshake};
use crate::io::{NarScanner, PathStreamReader, StreamKind, put_frame};
use crate::log::{ActivityType, Field, Incoming, LogMessage, RemoteError, ResultType};
use crate::nixci::control::{self, BuildDetail, EvaluationSummary, Event, JobStatus, LogEvent, StoreStatus};
use crate::nixci::{Bitmap, FEATURE_CLOSURE, FEATURE_CONTROL, RootsDigest};
use crate::op::{Ack, Collected, Missing, Realisations, Reply, Request, Root};
use crate::server::{Exchange, Handler, HandlerError, ServerHello, serve};
use crate::types::{
    BuildResult, BuildStatus, KeyedBuildResult, OutputName, PathInfo, StoreDir, StorePath, SubstitutablePathInfo,
    Trust, UnkeyedPathInfo, Verbosity,
};
use crate::wire::primitive::{put_number, put_string};
use crate::wire::{FEATURE_REALISATION_PATHS, Limits, Negotiated, Wire, WireError, decode, decode_all, encode};

/// What any bytes can be given to.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, and that of its corpus.
    pub name: &'static str,
    /// Takes the bytes; panics where something is wrong.
    pub run: fn(&[u8]),
}

/// Those of this crate.
#[must_use]
pub fn targets() -> Vec<Target> {
    let target = |name, run| Target { name, run };
    vec![
        target("handshake_server", handshake_server),
        target("handshake_client", handshake_client),
        target("request", request),
        target("reply", reply),
        target("session", session),
        target("nar", nar_scanner),
        target("log_channel", log_channel),
        target("path_stream", path_stream),
        target("control", control),
    ]
}

/// Few and small; anything above them is hostile.
fn limits() -> Limits {
    Limits {
        max_string: 4_096,
        max_text: 65_536,
        max_items: 1_000,
        max_message: 1 << 20,
        max_frame: 65_536,
        max_features: 100,
        max_control: 65_536,
        max_paths: 100,
    }
}

/// A connection as the first byte says: a version from 1.18 to 1.38, without features, with ours, or with Nix's.
fn connection(first: u8) -> Negotiated {
    let mut on = negotiated(18 + first % 21, first / 21 % 2 == 1);
    if first / 42 % 2 == 1 {
        on.features.insert(FEATURE_REALISATION_PATHS.to_owned());
    }
    on.limits = limits();
    on
}

/// The byte that [`connection`] makes 1.`minor` of.
fn first_byte(minor: u8, ours: bool) -> u8 {
    minor - 18 + if ours { 21 } else { 0 }
}

fn offer() -> Offer {
    Offer {
        features: vec![FEATURE_CLOSURE.to_owned(), FEATURE_CONTROL.to_owned()],
        limits: limits(),
        ..Offer::default()
    }
}

/// Feeds bytes in pieces of one size, as a connection does: what is not consumed is there again.
fn feed<T, E>(data: &[u8], step: usize, mut receive: impl FnMut(&[u8]) -> Result<(usize, Option<T>), E>) -> Option<T> {
    let (mut start, mut end) = (0, 0);
    while end < data.len() {
        end = (end + step).min(data.len());
        match receive(&data[start..end]) {
            Ok((_, Some(done))) => return Some(done),
            Ok((consumed, None)) => {
                assert!(consumed <= end - start, "more is consumed than there is");
                start += consumed;
            }
            Err(_) => return None,
        }
    }
    None
}

fn handshake_server(data: &[u8]) {
    let run = |step| {
        let mut out = BytesMut::new();
        let mut machine = ServerHandshake::new(offer(), "2.34.8".to_owned(), Trust::NotTrusted);
        let agreed = feed(data, step, |input| {
            let mut progress = machine.receive(input, &mut out)?;
            if let Some(asked) = machine.asks() {
                machine.answer(asked.as_bytes()[0] % 2 == 1, &mut out);
                let before = progress.consumed;
                progress = machine.receive(&input[before..], &mut out)?;
                progress.consumed += before;
            }
            Ok::<_, HandshakeError>((progress.consumed, progress.done))
        });
        (agreed, out)
    };
    let whole = run(data.len().max(1));
    assert_eq!(run(1), whole, "it matters how the bytes are cut");
    assert!(whole.1.len() < 1_024, "much is answered to little");
}

fn handshake_client(data: &[u8]) {
    let run = |step| {
        let mut out = BytesMut::new();
        let mut machine = ClientHandshake::start(offer(), &mut out);
        let agreed = feed(data, step, |input| {
            machine
                .receive(input, &mut out)
                .map(|progress| (progress.consumed, progress.done))
        });
        (agreed, out)
    };
    assert_eq!(run(1), run(data.len().max(1)), "it matters how the bytes are cut");
}

/// What was understood is written in one way, and that is understood as the same.
fn stable<T: Wire + PartialEq + Debug>(on: &Negotiated, data: &[u8]) {
    let Ok((value, _)) = decode::<T>(on, data) else { return };
    let written = encode(on, &value);
    // What is written may be a little longer than what was read: a short word may stand for a long one.
    let Ok(again) = decode_all::<T>(on, &written) else {
        panic!("what was written of {value:?} is not understood");
    };
    assert_eq!(again, value);
    assert_eq!(encode(on, &again), written);
}

#[derive(Debug, PartialEq)]
struct AnyRequest(Request);

impl Wire for AnyRequest {
    async fn read<S: crate::wire::Source>(from: &mut S) -> Result<Self, S::Error> {
        let number = u64::read(from).await?;
        Ok(Self(Request::read(number, from).await?))
    }

    fn encode(&self, on: &Negotiated, out: &mut BytesMut) {
        self.0.encode(on, out);
    }
}

/// The request at the front of some bytes, and how many bytes it has; none while it is incomplete.
pub fn read_request(on: &Negotiated, data: &[u8]) -> Result<Option<(Request, usize)>, WireError> {
    match decode::<AnyRequest>(on, data) {
        Ok((request, rest)) => Ok(Some((request.0, data.len() - rest.len()))),
        Err(WireError::Incomplete) => Ok(None),
        Err(error) => Err(error),
    }
}

fn request(data: &[u8]) {
    if let [first, data @ ..] = data {
        stable::<AnyRequest>(&connection(*first), data);
    }
}

fn reply(data: &[u8]) {
    let [which, first, data @ ..] = data else { return };
    let on = &connection(*first);
    match which % 16 {
        0 => stable::<bool>(on, data),
        1 => stable::<Option<StorePath>>(on, data),
        2 => stable::<std::collections::BTreeSet<StorePath>>(on, data),
        3 => stable::<std::collections::BTreeSet<OutputName>>(on, data),
        4 => stable::<Option<UnkeyedPathInfo>>(on, data),
        5 => stable::<PathInfo>(on, data),
        6 => stable::<Option<SubstitutablePathInfo>>(on, data),
        7 => stable::<Vec<(StorePath, SubstitutablePathInfo)>>(on, data),
        8 => stable::<Vec<Root>>(on, data),
        9 => stable::<Collected>(on, data),
        10 => stable::<Missing>(on, data),
        11 => stable::<BuildResult>(on, data),
        12 => stable::<Vec<KeyedBuildResult>>(on, data),
        13 => stable::<std::collections::BTreeMap<OutputName, Option<StorePath>>>(on, data),
        14 => stable::<Realisations>(on, data),
        _ => {
            stable::<Bitmap>(on, data);
            stable::<Ack>(on, data);
            stable::<Bytes>(on, data);
        }
    }
}

/// Takes every body to its end, and answers every second request.
struct Swallow(bool);

impl Handler for Swallow {
    async fn handle(&mut self, request: Request, exchange: &mut Exchange<'_>) -> Result<Reply, HandlerError> {
        exchange.log_later(&LogMessage::line(request.name()));
        let mut body = Vec::new();
        exchange.body().read_to_end(&mut body).await?;
        self.0 = !self.0;
        if self.0 {
            return Ok(Reply::Done);
        }
        Err(HandlerError::new(format!("took {} bytes", body.len())))
    }
}

/// A whole connection after the handshake: requests, frames, NARs, in any order.
fn session(data: &[u8]) {
    let [first, data @ ..] = data else { return };
    let on = connection(*first);
    let mut said = BytesMut::new();
    put_number(0x6e69_7863, &mut said);
    put_number(on.version.to_word(), &mut said);
    if on.version >= crate::version::Version::FEATURES {
        put_number(on.features.len() as u64, &mut said);
        for feature in &on.features {
            put_string(feature.as_bytes(), &mut said);
        }
    }
    put_number(0, &mut said);
    put_number(0, &mut said);
    said.extend_from_slice(data);
    let hello = ServerHello {
        version_text: "2.34.8".to_owned(),
        trust: Trust::NotTrusted,
        features: vec![FEATURE_CLOSURE.to_owned(), FEATURE_CONTROL.to_owned()],
        store_dir: StoreDir::default(),
        limits: limits(),
    };
    // Nothing here ever waits: a connection that does would hang.
    let served = at_once(serve(Cursor::new(said.to_vec()), sink(), hello, Swallow(false)));
    assert!(served.is_some(), "the connection hangs");
}

fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

fn nar_scanner(data: &[u8]) {
    let mut whole = NarScanner::new();
    let taken = whole.push(data);
    let mut bytewise = NarScanner::new();
    let mut one_by_one = Ok(0);
    for byte in data {
        match bytewise.push(std::slice::from_ref(byte)) {
            Ok(taken) => one_by_one = one_by_one.map(|sum| sum + taken),
            Err(error) => {
                one_by_one = Err(error);
                break;
            }
        }
    }
    // Where a mistake is said to be may differ by how much was there when it was seen; whether there is one may not.
    assert_eq!(taken.is_ok(), one_by_one.is_ok(), "it matters how the bytes are cut");
    if let (Ok(taken), Ok(sum)) = (taken, one_by_one) {
        assert_eq!(taken, sum);
        assert_eq!(
            (whole.is_done(), whole.offset()),
            (bytewise.is_done(), bytewise.offset())
        );
    }
}

fn log_channel(data: &[u8]) {
    let [first, rest @ ..] = data else { return };
    let on = connection(*first);
    let mut rest = rest;
    while let Ok((message, after)) = decode::<Incoming>(&on, rest) {
        assert!(after.len() < rest.len(), "a message of no bytes");
        if on.version >= crate::version::Version::STRUCTURED_ERRORS {
            let written = encode(&on, &message);
            assert_eq!(decode_all::<Incoming>(&on, &written).ok().as_ref(), Some(&message));
        }
        rest = after;
    }
}

fn path_stream(data: &[u8]) {
    let [kind, data @ ..] = data else { return };
    let kind = if kind % 2 == 0 {
        StreamKind::Counted
    } else {
        StreamKind::Tagged
    };
    let read = async {
        let mut stream = PathStreamReader::new(kind, StoreDir::default(), limits(), data);
        let mut paths = 0;
        while let Ok(Some(info)) = stream.next().await {
            paths += 1;
            // Every second one is skipped by its size.
            let mut nar = Vec::new();
            if paths % 2 == 1 && stream.nar().read_to_end(&mut nar).await.is_ok() {
                assert_eq!(nar.len() as u64, info.info.nar_size);
            }
        }
        paths
    };
    let paths = at_once(read).unwrap_or_else(|| panic!("the stream hangs"));
    assert!(paths <= limits().max_paths);
}

/// JSON that was understood is written in one way, and that is understood as the same.
fn stable_json<T: DeserializeOwned + Serialize + PartialEq + Debug>(data: &[u8]) {
    let Ok(value) = serde_json::from_slice::<T>(data) else {
        return;
    };
    let written = serde_json::to_string(&value).expect("what was read can be written");
    match serde_json::from_str::<T>(&written) {
        Ok(again) => assert_eq!(again, value),
        Err(error) => panic!("{written} is not understood: {error}"),
    }
}

fn control(data: &[u8]) {
    stable_json::<control::Request>(data);
    stable_json::<Event>(data);
    stable_json::<LogEvent>(data);
    stable_json::<EvaluationSummary>(data);
    stable_json::<Vec<JobStatus>>(data);
    stable_json::<BuildDetail>(data);
    stable_json::<StoreStatus>(data);
}

/// Good inputs of a target, small, with names; none for a target of another crate.
#[must_use]
pub fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    match target {
        "handshake_server" => handshakes(true),
        "handshake_client" => handshakes(false),
        "request" => [(38, true), (38, false), (21, false)]
            .into_iter()
            .flat_map(|(minor, ours)| {
                let on = negotiated(minor, ours);
                requests(&on).into_iter().map(move |request| {
                    let name = format!("{}-{minor}{}", request.name(), if ours { "-ours" } else { "" });
                    (name, request_bytes(&on, first_byte(minor, ours), &request))
                })
            })
            .collect(),
        "reply" => replies(),
        "session" => sessions(),
        "nar" => vec![("tree".to_owned(), nar())],
        "log_channel" => logs(),
        "path_stream" => [true, false]
            .map(|counted| {
                let mut bytes = vec![u8::from(!counted)];
                bytes.extend(stream_of_paths(counted));
                (if counted { "counted" } else { "tagged" }.to_owned(), bytes)
            })
            .into(),
        "control" => controls(),
        _ => Vec::new(),
    }
}

fn request_bytes(on: &Negotiated, first: u8, request: &Request) -> Vec<u8> {
    let mut out = BytesMut::from(&[first][..]);
    request.encode(on, &mut out);
    out.to_vec()
}

fn handshakes(of_client: bool) -> Vec<(String, Vec<u8>)> {
    let asked = RootsDigest::of_members(&StoreDir::default(), &mut vec![[1; 20]]).feature();
    let plain = ["x-other", FEATURE_CLOSURE, FEATURE_CONTROL];
    let asking = [FEATURE_CLOSURE, FEATURE_CONTROL, &asked];
    [
        (18_u64, "", plain),
        (21, "", plain),
        (34, "", plain),
        (37, "", plain),
        (38, "", plain),
        (38, "-roots", asking),
    ]
    .map(|(minor, what, features)| {
        let mut out = BytesMut::new();
        put_number(if of_client { 0x6e69_7863 } else { 0x6478_696f }, &mut out);
        put_number(0x100 | minor, &mut out);
        if minor == 38 {
            put_number(3, &mut out);
            for feature in features {
                put_string(feature.as_bytes(), &mut out);
            }
        }
        if of_client {
            put_number(0, &mut out);
            put_number(0, &mut out);
        } else {
            put_string(b"2.34.8", &mut out);
            put_number(1, &mut out);
        }
        (format!("1.{minor}{what}"), out.to_vec())
    })
    .into()
}

fn replies() -> Vec<(String, Vec<u8>)> {
    let on = negotiated(38, false);
    let path = || info("app").path;
    let built = || BuildResult::new(BuildStatus::MiscFailure, "it failed");
    let all: [(u8, &str, BytesMut); 8] = [
        (0, "bool", encode(&on, &true)),
        (1, "maybe-path", encode(&on, &Some(path()))),
        (2, "paths", encode(&on, &std::collections::BTreeSet::from([path()]))),
        (4, "path-info", encode(&on, &Some(info("app").info))),
        (5, "added", encode(&on, &info("app"))),
        (
            10,
            "missing",
            encode(
                &on,
                &Missing {
                    unknown: [path()].into(),
                    ..Missing::default()
                },
            ),
        ),
        (11, "built", encode(&on, &built())),
        (15, "bitmap", encode(&on, &Bitmap(vec![5]))),
    ];
    all.into_iter()
        .map(|(which, name, bytes)| {
            let mut seed = vec![which, first_byte(38, false)];
            seed.extend_from_slice(&bytes);
            (name.to_owned(), seed)
        })
        .collect()
}

/// Requests with their bodies, one after the other.
fn sessions() -> Vec<(String, Vec<u8>)> {
    let ours = negotiated(38, true);
    let old = |minor| negotiated(minor, false);
    let framed = |body: &[u8]| {
        let mut out = BytesMut::new();
        for piece in body.chunks(300) {
            put_frame(piece, &mut out);
        }
        put_frame(&[], &mut out);
        out
    };
    let one = |on: &Negotiated, name: &str| {
        let found = requests(on).into_iter().find(|request| request.name() == name);
        let mut out = BytesMut::new();
        if let Some(request) = found {
            request.encode(on, &mut out);
        }
        out
    };
    let mut pulled = BytesMut::new();
    put_string(&nar(), &mut pulled);
    let parts: [(&str, u8, bool, Vec<BytesMut>); 6] = [
        (
            "framed",
            38,
            true,
            vec![
                one(&ours, "AddMultipleToStore"),
                framed(&stream_of_paths(true)),
                one(&ours, "IsValidPath"),
            ],
        ),
        (
            "closure",
            38,
            true,
            vec![one(&ours, "AddClosure"), framed(&stream_of_paths(false))],
        ),
        (
            "add",
            37,
            false,
            vec![one(&old(37), "AddToStore"), framed(&nar()), one(&old(37), "SetOptions")],
        ),
        (
            "pulled",
            21,
            false,
            vec![one(&old(21), "AddToStoreNar"), pulled, one(&old(21), "IsValidPath")],
        ),
        (
            "bare",
            20,
            false,
            vec![
                one(&old(20), "AddToStoreNar"),
                BytesMut::from(&nar()[..]),
                one(&old(20), "IsValidPath"),
            ],
        ),
        (
            "file",
            24,
            false,
            vec![one(&old(24), "AddToStore"), BytesMut::from(&nar()[..])],
        ),
    ];
    parts
        .into_iter()
        .map(|(name, minor, ours, parts)| {
            let mut seed = vec![first_byte(minor, ours)];
            seed.extend(parts.iter().flat_map(|part| part.to_vec()));
            (name.to_owned(), seed)
        })
        .collect()
}

fn logs() -> Vec<(String, Vec<u8>)> {
    let messages = [
        Incoming::Log(LogMessage::line("building")),
        Incoming::Log(LogMessage::StartActivity {
            id: 1,
            level: Verbosity::Info,
            kind: ActivityType::BUILD,
            text: "building app".into(),
            fields: vec![Field::Text("/nix/store/x.drv".into()), Field::Int(1)],
            parent: 0,
        }),
        Incoming::Log(LogMessage::Result {
            id: 1,
            kind: ResultType::BUILD_LOG_LINE,
            fields: vec![Field::Text("hello".into())],
        }),
        Incoming::Log(LogMessage::StopActivity { id: 1 }),
        Incoming::Read(8),
        Incoming::Write("data".into()),
        Incoming::Error(RemoteError {
            traces: vec!["while building".to_owned()],
            ..RemoteError::new("it failed")
        }),
        Incoming::Last,
    ];
    [38, 21]
        .map(|minor| {
            let on = negotiated(minor, false);
            let mut out = BytesMut::from(&[first_byte(minor, false)][..]);
            for message in &messages {
                message.encode(&on, &mut out);
            }
            (format!("1.{minor}"), out.to_vec())
        })
        .into()
}

fn controls() -> Vec<(String, Vec<u8>)> {
    [
        ("info", r#"{"op":"info"}"#),
        (
            "begin",
            r#"{"op":"submit-begin","key":"k","project":"a/b","commit":null,"gitRef":null,"base":null,"pullRequest":null,"source":"x","labels":{"a":"b"}}"#,
        ),
        (
            "jobs",
            r#"{"op":"submit-jobs","evaluation":1,"jobs":[{"attr":["a","b c"],"result":{"drv":"/nix/store/x.drv"}}]}"#,
        ),
        ("status", r#"{"op":"status","which":{"evaluation":1}}"#),
        ("log", r#"{"op":"log","of":{"derivation":"/nix/store/x.drv"},"follow":true}"#),
        ("event", r#"{"type":"progress"}"#),
    ]
    .map(|(name, json)| (name.to_owned(), json.as_bytes().to_vec()))
    .into()
}

#[cfg(test)]
mod tests {
    use super::super::Damage;
    use super::*;

    #[test]
    fn seeds_are_good_and_every_operation_is_among_them() {
        for minor in 18..=38 {
            let on = negotiated(minor, minor == 38);
            for sample in requests(&on) {
                let mut out = BytesMut::new();
                sample.encode(&on, &mut out);
                match decode_all::<AnyRequest>(&on, &out) {
                    Ok(read) => assert_eq!(read.0, sample),
                    Err(error) => assert!(minor < 38, "{}: {error}", sample.name()),
                }
            }
        }
        let mut numbers: Vec<u32> = requests(&negotiated(38, true)).iter().map(Request::op).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let known = (0..=1_000).chain(0x6e63_6900..0x6e63_69ff);
        let known: Vec<u32> = known.filter(|op| Request::name_of(u64::from(*op)).is_some()).collect();
        assert_eq!(numbers, known);
        let mut scanner = NarScanner::new();
        assert_eq!(scanner.push(&nar()), Ok(nar().len()));
        assert!(scanner.is_done());
    }

    #[test]
    fn damaged_seeds_break_no_promise() {
        for target in targets() {
            let mut damage = Damage::new(target.name.len() as u64);
            let seeds = seeds(target.name);
            assert!(!seeds.is_empty(), "{}", target.name);
            for round in 0..2_000 {
                let (_, seed) = &seeds[round % seeds.len()];
                (target.run)(&damage.of(seed));
            }
        }
    }
}

//! Our client and our server in one process, and hand-written bytes against either.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use nixci_protocol::client::{Connection, Error, Hello};
use nixci_protocol::io::{PathStreamReader, PathStreamWriter, StreamKind, put_frame};
use nixci_protocol::log::{ActivityType, Field, LogMessage, RemoteError, ResultType};
use nixci_protocol::nixci::{AddClosure, Bitmap, FEATURE_CLOSURE, FEATURE_CONTROL, QueryValidBatch};
use nixci_protocol::op::{
    Ack, AddMultipleToStore, AddTempRoot, BuildPathsWithResults, IsValidPath, Nar, QueryMissing, QueryPathInfo,
    QueryValidPaths, Reply, Request, SetOptions,
};
use nixci_protocol::server::{Exchange, Handler, HandlerError, ServeError, ServerHello, serve};
use nixci_protocol::types::{
    BuildMode, BuildResult, BuildStatus, DerivedPath, KeyedBuildResult, NarHash, PathInfo, StoreDir, StorePath, Trust,
    UnkeyedPathInfo, Verbosity,
};
use nixci_protocol::version::Version;
use nixci_protocol::wire::{Limits, Negotiated, Wire};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

type Added = Arc<Mutex<Vec<(PathInfo, Vec<u8>)>>>;

/// A server that knows a few things, remembers what it was given, and can be told to misbehave.
#[derive(Default)]
struct Store {
    added: Added,
    /// Dropped with a handler that is cancelled.
    canary: Option<oneshot::Sender<()>>,
    started: Option<oneshot::Sender<()>>,
}

const HELLO_NAR: &[u8] =
    b"\x0d\0\0\0\0\0\0\0nix-archive-1\0\0\0\x01\0\0\0\0\0\0\0(\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0type\0\0\0\0\
\x07\0\0\0\0\0\0\0regular\0\x08\0\0\0\0\0\0\0contents\x06\0\0\0\0\0\0\0hello\n\0\0\x01\0\0\0\0\0\0\0)\0\0\0\0\0\0\0";

fn path(name: &str) -> StorePath {
    StorePath::from_base_name(&format!("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-{name}")).unwrap()
}

fn info(name: &str) -> PathInfo {
    PathInfo {
        path: path(name),
        info: UnkeyedPathInfo {
            deriver: None,
            nar_hash: NarHash::of(HELLO_NAR),
            references: BTreeSet::new(),
            registration_time: 7,
            nar_size: HELLO_NAR.len() as u64,
            ultimate: false,
            signatures: BTreeSet::new(),
            ca: None,
        },
    }
}

impl Store {
    async fn take_paths(&self, kind: StreamKind, exchange: &mut Exchange<'_>) -> Result<u64, HandlerError> {
        let on = exchange.negotiated().clone();
        let mut stream = PathStreamReader::new(kind, on.store_dir, on.limits, exchange.body());
        let mut count = 0;
        while let Some(info) = stream.next().await? {
            if info.path.name() == "refused" {
                return Err(HandlerError::new("path refused is refused"));
            }
            let mut nar = Vec::new();
            stream.nar().read_to_end(&mut nar).await?;
            self.added.lock().unwrap().push((info, nar));
            count += 1;
        }
        Ok(count)
    }
}

impl Handler for Store {
    async fn handle(&mut self, request: Request, exchange: &mut Exchange<'_>) -> Result<Reply, HandlerError> {
        match request {
            Request::IsValidPath(it) => Ok((it.path.name() == "valid").into()),
            Request::QueryPathInfo(it) if it.path.name() == "fail" => Err(HandlerError::new("no such luck")),
            Request::QueryPathInfo(it) => Ok(Reply::PathInfo((it.path.name() == "valid").then(|| info("valid").info))),
            Request::QueryValidPaths(it) => Ok(it.paths.into()),
            Request::SetOptions(_) | Request::AddTempRoot(_) => Ok(Reply::Done),
            Request::QueryValidBatch(it) => Ok(it
                .digests
                .iter()
                .map(|digest| digest[0] == 1)
                .collect::<Bitmap>()
                .into()),
            Request::AddMultipleToStore(_) => {
                self.take_paths(StreamKind::Counted, exchange).await?;
                Ok(Reply::Done)
            }
            Request::AddClosure(_) => Ok(self.take_paths(StreamKind::Tagged, exchange).await?.into()),
            Request::NarFromPath(it) if it.path.name() == "valid" => Ok(Reply::Nar(Nar {
                size: HELLO_NAR.len() as u64,
                reader: Box::new(HELLO_NAR),
            })),
            Request::NarFromPath(it) => Err(HandlerError::new(format!("path '{}' is not valid", it.path))),
            Request::BuildPathsWithResults(it) => {
                exchange
                    .log(LogMessage::StartActivity {
                        id: 1,
                        level: Verbosity::Info,
                        kind: ActivityType::BUILD,
                        text: "building".into(),
                        fields: vec![Field::Text("drv".into()), Field::Int(1)],
                        parent: 0,
                    })
                    .await;
                exchange
                    .log(LogMessage::Result {
                        id: 1,
                        kind: ResultType::BUILD_LOG_LINE,
                        fields: vec![Field::Text((&b"\xff line"[..]).into())],
                    })
                    .await;
                exchange.log_later(&LogMessage::StopActivity { id: 1 });
                let result = |path| KeyedBuildResult {
                    path,
                    result: BuildResult {
                        built_outputs: [("out".parse().unwrap(), path_of_out())].into_iter().collect(),
                        ..BuildResult::new(BuildStatus::Built, "")
                    },
                };
                Ok(it.paths.into_iter().map(result).collect::<Vec<_>>().into())
            }
            Request::QueryMissing(_) => {
                let _canary = self.canary.take();
                if let Some(started) = self.started.take() {
                    started.send(()).unwrap();
                }
                std::future::pending().await
            }
            Request::EnsurePath(_) => Ok(Reply::Json("wrong kind".to_owned())),
            Request::Control(it) if it.json == "one" => Ok(Reply::Json("[1]".to_owned())),
            Request::Control(it) => {
                let (lines, receiver) = mpsc::channel(2);
                let count: usize = it.json.parse().unwrap();
                tokio::spawn(async move {
                    for line in 0..count {
                        if lines.send(format!("{{\"line\":{line}}}")).await.is_err() {
                            break;
                        }
                    }
                });
                Ok(Reply::JsonLines(receiver))
            }
            other => Err(HandlerError::new(format!("{} is not supported", other.name()))),
        }
    }
}

fn path_of_out() -> StorePath {
    path("out")
}

type Serving = JoinHandle<Result<(), ServeError>>;

fn start(store: Store) -> (ReadHalf<DuplexStream>, WriteHalf<DuplexStream>, Serving) {
    let (client, server) = duplex(4096);
    let (server_read, server_write) = split(server);
    let hello = ServerHello {
        version_text: "2.34.8".to_owned(),
        trust: Trust::Trusted,
        features: vec![FEATURE_CLOSURE.to_owned(), FEATURE_CONTROL.to_owned()],
        store_dir: StoreDir::default(),
        limits: Limits::default(),
    };
    let serving = tokio::spawn(serve(server_read, server_write, hello, store));
    let (read, write) = split(client);
    (read, write, serving)
}

fn hello() -> Hello {
    Hello {
        features: vec![
            FEATURE_CLOSURE.to_owned(),
            FEATURE_CONTROL.to_owned(),
            "x-other".to_owned(),
        ],
        ..Hello::default()
    }
}

async fn connect(store: Store) -> (Connection, Serving) {
    let (read, write, serving) = start(store);
    (Connection::open(read, write, hello()).await.unwrap(), serving)
}

/// A second request after each: lost step shows late.
async fn still_in_step(connection: &mut Connection) {
    let valid = connection
        .call(&IsValidPath { path: path("valid") }, &mut ())
        .await
        .unwrap();
    assert!(valid);
    assert!(connection.is_reusable());
}

#[tokio::test]
async fn operations_pass_between_our_two_ends() {
    let (mut connection, serving) = connect(Store::default()).await;
    assert_eq!(connection.daemon_version(), Some("2.34.8"));
    assert_eq!(connection.trust(), Trust::Trusted);
    let on = connection.negotiated();
    assert_eq!(on.version, Version::MAX);
    assert!(on.has(FEATURE_CLOSURE) && on.has(FEATURE_CONTROL) && !on.has("x-other"));

    connection.call(&SetOptions::default(), &mut ()).await.unwrap();
    assert_eq!(
        connection
            .call(&AddTempRoot { path: path("x") }, &mut ())
            .await
            .unwrap(),
        Ack::Done
    );
    let known = connection
        .call(&QueryPathInfo { path: path("valid") }, &mut ())
        .await
        .unwrap();
    assert_eq!(known, Some(info("valid").info));
    assert_eq!(
        connection
            .call(&QueryPathInfo { path: path("other") }, &mut ())
            .await
            .unwrap(),
        None
    );
    let paths = BTreeSet::from([path("b"), path("a")]);
    let request = QueryValidPaths {
        paths: paths.clone(),
        substitute: false,
    };
    assert_eq!(connection.call(&request, &mut ()).await.unwrap(), paths);

    let mut digest = [[0; 20]; 11];
    digest[9][0] = 1;
    let bitmap = connection
        .call(
            &QueryValidBatch {
                digests: digest.to_vec(),
            },
            &mut (),
        )
        .await
        .unwrap();
    assert_eq!(bitmap, Bitmap(vec![0, 2]));
    assert!(bitmap.get(9) && !bitmap.get(8) && !bitmap.get(100));
    still_in_step(&mut connection).await;
    connection.close().await.unwrap();
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_build_sends_its_log_before_its_results() {
    let (mut connection, _serving) = connect(Store::default()).await;
    let drv = path("x.drv").try_into().unwrap();
    let request = BuildPathsWithResults {
        paths: vec![DerivedPath::all_outputs(&drv)],
        mode: BuildMode::Normal,
    };
    let mut log = Vec::new();
    let results = connection.call(&request, &mut log).await.unwrap();
    assert_eq!(log.len(), 3, "{log:?}");
    assert!(matches!(&log[1], LogMessage::Result { fields, .. } if fields[0].text() == Some(b"\xff line")));
    assert_eq!(results[0].path, request.paths[0]);
    let outputs: BTreeMap<_, _> = results[0].result.built_outputs.paths().collect();
    assert_eq!(outputs.into_values().collect::<Vec<_>>(), [&path("out")]);
    still_in_step(&mut connection).await;
}

#[tokio::test]
async fn many_requests_go_out_before_the_first_reply() {
    let (mut connection, _serving) = connect(Store::default()).await;
    let names = ["valid", "other"].into_iter().cycle().take(5000);
    let requests: Vec<_> = names.map(|name| IsValidPath { path: path(name) }).collect();
    let replies = connection.call_all(&requests, &mut ()).await.unwrap();
    assert_eq!(replies.iter().filter(|valid| **valid).count(), 2500);
    still_in_step(&mut connection).await;

    // One that fails does not stop the others.
    let requests: Vec<_> = ["valid", "fail", "valid"]
        .map(|name| QueryPathInfo { path: path(name) })
        .into();
    let error = connection.call_all(&requests, &mut ()).await.unwrap_err();
    assert_eq!(error.to_string(), "no such luck");
    still_in_step(&mut connection).await;
}

#[tokio::test]
async fn paths_are_streamed_in_both_forms() {
    let store = Store::default();
    let added = store.added.clone();
    let (mut connection, _serving) = connect(store).await;
    let request = AddMultipleToStore {
        repair: false,
        dont_check_sigs: true,
    };
    for (kind, names) in [
        (StreamKind::Counted, &["a", "b", "c"][..]),
        (StreamKind::Tagged, &["d"]),
        (StreamKind::Counted, &[]),
    ] {
        let mut stream = PathStreamWriter::new(kind, names.len() as u64, StoreDir::default(), Vec::new());
        for name in names {
            stream.add(&info(name), HELLO_NAR).await.unwrap();
        }
        let body = stream.finish().await.unwrap();
        match kind {
            StreamKind::Counted => connection.call_framed(&request, &body[..], &mut ()).await.unwrap(),
            StreamKind::Tagged => {
                let count = connection
                    .call_framed(&AddClosure {}, &body[..], &mut ())
                    .await
                    .unwrap();
                assert_eq!(count, names.len() as u64);
            }
        }
        still_in_step(&mut connection).await;
    }
    let added = added.lock().unwrap();
    let names: Vec<_> = added.iter().map(|(info, _)| info.path.name()).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
    assert!(added.iter().all(|(_, nar)| nar == HELLO_NAR));
}

#[tokio::test]
async fn a_nar_of_another_size_is_never_sent_as_one() {
    let mut stream = PathStreamWriter::new(StreamKind::Counted, 1, StoreDir::default(), Vec::new());
    let error = stream.add(&info("a"), &HELLO_NAR[1..]).await.unwrap_err();
    assert!(
        error.to_string().ends_with("-a has 119 bytes, its info says 120"),
        "{error}"
    );
}

/// An endless body: only an early refusal ends it.
struct Endless(Vec<u8>);

impl tokio::io::AsyncRead for Endless {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        out: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        let front = self.0.len().min(out.remaining());
        out.put_slice(&self.0[..front]);
        self.0.drain(..front);
        out.put_slice(&vec![0; out.remaining()]);
        std::task::Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_refusal_stops_an_upload_and_the_connection_goes_on() {
    let (mut connection, _serving) = connect(Store::default()).await;
    let mut stream = PathStreamWriter::new(StreamKind::Tagged, 0, StoreDir::default(), Vec::new());
    stream.add(&info("refused"), HELLO_NAR).await.unwrap();
    let body = Endless(stream.finish().await.unwrap());
    let error = connection.call_framed(&AddClosure {}, body, &mut ()).await.unwrap_err();
    assert_eq!(error.to_string(), "path refused is refused");
    assert!(error.is_remote());
    still_in_step(&mut connection).await;
}

#[tokio::test]
async fn a_body_that_cannot_be_read_breaks_the_connection() {
    let (mut connection, serving) = connect(Store::default()).await;
    let zeros = vec![0; 200_000];
    let body = zeros.as_slice().chain(failing());
    let error = connection.call_framed(&AddClosure {}, body, &mut ()).await.unwrap_err();
    assert!(matches!(error, Error::Body(_)), "{error:?}");
    assert!(!connection.is_reusable());
    drop(connection);
    let error = serving.await.unwrap().unwrap_err();
    assert_eq!(
        error.to_string(),
        "AddClosure: the client hung up in the middle of what it sent"
    );
}

/// A reader that fails at once.
fn failing() -> impl tokio::io::AsyncRead + Send + Unpin {
    struct Fails;
    impl tokio::io::AsyncRead for Fails {
        fn poll_read(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            _: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Ready(Err(std::io::Error::other("disk on fire")))
        }
    }
    Fails
}

#[tokio::test]
async fn nars_and_control_replies_are_streamed() {
    let (mut connection, _serving) = connect(Store::default()).await;
    let mut nar = Vec::new();
    connection
        .nar_from_path(&path("valid"), 120, &mut nar, &mut ())
        .await
        .unwrap();
    assert_eq!(nar, HELLO_NAR);
    let error = connection
        .nar_from_path(&path("gone"), 120, &mut nar, &mut ())
        .await
        .unwrap_err();
    assert!(error.to_string().ends_with("-gone' is not valid"), "{error}");
    still_in_step(&mut connection).await;

    assert_eq!(connection.control_one("one").await.unwrap(), "[1]");
    let mut stream = connection.control_stream("1000").await.unwrap();
    let mut lines = 0;
    while let Some(line) = stream.next_line().await.unwrap() {
        assert_eq!(line, format!("{{\"line\":{lines}}}"));
        lines += 1;
    }
    assert_eq!(lines, 1000);
    still_in_step(&mut connection).await;

    let mut stream = connection.control_stream("1000").await.unwrap();
    stream.next_line().await.unwrap();
    drop(stream);
    assert!(!connection.is_reusable());
    let error = connection.control_one("one").await.unwrap_err();
    assert!(matches!(error, Error::NotReusable), "{error}");
}

#[tokio::test]
async fn a_nar_of_the_wrong_size_is_refused_by_the_client() {
    for size in [119, 121] {
        let (mut connection, _serving) = connect(Store::default()).await;
        let error = connection
            .nar_from_path(&path("valid"), size, &mut Vec::new(), &mut ())
            .await
            .unwrap_err();
        assert!(matches!(error, Error::NarSize { .. }), "{error}");
        assert!(!connection.is_reusable());
    }
}

#[tokio::test]
async fn a_reply_of_another_kind_is_an_error_and_not_lost_step() {
    let (mut connection, _serving) = connect(Store::default()).await;
    let request = nixci_protocol::op::EnsurePath { path: path("x") };
    let error = connection.call(&request, &mut ()).await.unwrap_err();
    assert!(error.to_string().contains("EnsurePath"), "{error}");
    still_in_step(&mut connection).await;
}

#[tokio::test]
async fn a_hang_up_cancels_the_handler() {
    let (canary, cancelled) = oneshot::channel();
    let (started, starts) = oneshot::channel();
    let store = Store {
        canary: Some(canary),
        started: Some(started),
        ..Store::default()
    };
    let (mut connection, serving) = connect(store).await;
    {
        let request = QueryMissing { paths: Vec::new() };
        let mut log = ();
        let call = connection.call(&request, &mut log);
        tokio::select! {
            result = call => panic!("{result:?}"),
            started = starts => started.unwrap(),
        }
    }
    // The call was cut off: the connection says so, and going away tells the server.
    assert!(!connection.is_reusable());
    drop(connection);
    assert!(cancelled.await.is_err());
    let error = serving.await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the client hung up during QueryMissing");
}

/// Sends raw bytes after a handshake of 1.37 (no features), and returns what the server says until it hangs up.
async fn raw(bytes: &[u8]) -> (Vec<u8>, Result<(), ServeError>) {
    let (mut read, mut write, serving) = start(Store::default());
    let mut said = b"cxin\0\0\0\0".to_vec();
    said.extend_from_slice(&0x125_u64.to_le_bytes());
    said.extend_from_slice(&[0; 16]);
    said.extend_from_slice(bytes);
    let writing = tokio::spawn(async move {
        // The server may hang up before it has read all of it.
        let _ = write.write_all(&said).await;
        let _ = write.shutdown().await;
        write
    });
    let mut heard = Vec::new();
    read.read_to_end(&mut heard).await.unwrap();
    let outcome = serving.await.unwrap();
    drop(writing.await.unwrap());
    (heard[48..].to_vec(), outcome)
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The error message in the bytes of one error, and nothing behind it.
fn one_error(heard: &[u8]) -> String {
    let mut on = Negotiated::plain(Version { major: 1, minor: 37 }, StoreDir::default());
    on.limits = Limits::default();
    assert_eq!(heard[..8], 0x6378_7470_u64.to_le_bytes());
    nixci_protocol::wire::decode_all::<RemoteError>(&on, &heard[8..])
        .unwrap()
        .message
}

#[tokio::test]
async fn malformed_requests_get_one_error_that_names_them() {
    let path = b"/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-foo";
    let mut padded = words(&[1, 47]);
    padded.extend_from_slice(path);
    padded.push(1);
    let mut foreign = words(&[1, 10]);
    foreign.extend_from_slice(b"/not/store\0\0\0\0\0\0");
    let mut frame = words(&[44, 0, 1]);
    frame.extend_from_slice(&words(&[1 << 40]));
    let mut too_many = words(&[44, 0, 1, 8]);
    too_many.extend_from_slice(&words(&[2_000_000]));
    too_many.extend_from_slice(&words(&[0]));
    for (bytes, expected) in [
        (words(&[999]), "operation 999: invalid operation 999"),
        (words(&[1 << 32]), "operation 4294967296: invalid operation 4294967296"),
        (words(&[0x6e63_6901]), "QueryValidBatch: invalid operation 1852008705"),
        (
            words(&[1, 9_000_000]),
            "IsValidPath: string of 9000000 bytes exceeds max-string (65536)",
        ),
        (
            padded,
            "IsValidPath: string of 47 bytes is padded with 0x01, not with zeros",
        ),
        (
            foreign,
            "IsValidPath: path \"/not/store\" is not in the store directory /nix/store",
        ),
        (words(&[35, 0, 2]), "VerifyStore: 2 is not a valid bool"),
        (words(&[9, 0, 7]), "BuildPaths: 7 is not a valid build mode"),
        (
            words(&[31, 5_000_000]),
            "QueryValidPaths: list of 5000000 items exceeds max-items (1000000)",
        ),
    ] {
        let (heard, outcome) = raw(&bytes).await;
        assert_eq!(one_error(&heard), expected);
        assert_eq!(outcome.unwrap_err().to_string(), expected);
    }
    let (heard, outcome) = raw(&frame).await;
    let message = "malformed stream of paths";
    assert!(
        one_error(&heard).contains("frame of 1099511627776 bytes exceeds max-frame (16777216)"),
        "{message}"
    );
    assert!(outcome.is_err());
    // A stream that is wrong inside of good frames is the handler's error, and the connection stays.
    let (heard, outcome) = raw(&too_many).await;
    let expected = "malformed stream of paths: list of 2000000 items exceeds max-items (1000000)";
    assert_eq!(one_error(&heard), expected);
    outcome.unwrap();
}

#[tokio::test]
async fn a_client_that_hangs_up_in_the_middle_ends_its_own_connection() {
    let mut request = words(&[1, 47]);
    request.extend_from_slice(b"/nix/store/");
    for (bytes, expected) in [
        (&b""[..], None),
        (&request[..3], Some("the client hung up during the next operation")),
        (&request, Some("the client hung up during IsValidPath")),
        (
            &words(&[44, 0, 1, 8]),
            Some("AddMultipleToStore: the client hung up in the middle of what it sent"),
        ),
    ] {
        let (mut read, mut write, serving) = start(Store::default());
        let mut said = b"cxin\0\0\0\0".to_vec();
        said.extend_from_slice(&0x125_u64.to_le_bytes());
        said.extend_from_slice(&[0; 16]);
        said.extend_from_slice(bytes);
        write.write_all(&said).await.unwrap();
        write.shutdown().await.unwrap();
        read.read_to_end(&mut Vec::new()).await.unwrap();
        let found = serving.await.unwrap().err().map(|error| error.to_string());
        assert_eq!(found.as_deref(), expected);
    }
}

/// Plays a server: answers a handshake of 1.37 with `said` behind it.
async fn against(said: Vec<u8>) -> Result<Connection, Error> {
    let (client, server) = duplex(1 << 16);
    let (read, write) = split(client);
    let (mut server_read, mut server_write) = split(server);
    tokio::spawn(async move {
        let mut bytes = b"oixd\0\0\0\0".to_vec();
        bytes.extend_from_slice(&0x125_u64.to_le_bytes());
        bytes.extend_from_slice(b"\x06\0\0\0\0\0\0\x002.34.8\0\0\x01\0\0\0\0\0\0\0");
        bytes.extend_from_slice(&said);
        server_write.write_all(&bytes).await.unwrap();
        let mut heard = Vec::new();
        let _ = server_read.read_to_end(&mut heard).await;
    });
    Connection::open(read, write, Hello::default()).await
}

const LAST: u64 = 0x616c_7473;

#[tokio::test]
async fn a_server_that_refuses_or_talks_nonsense_is_named() {
    let mut refusal = BytesMut::new();
    let on = Negotiated::plain(Version { major: 1, minor: 37 }, StoreDir::default());
    refusal.extend_from_slice(&0x6378_7470_u64.to_le_bytes());
    RemoteError::new("cannot open store").encode(&on, &mut refusal);
    let error = against(refusal.to_vec()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the server refused the connection: cannot open store"
    );

    let error = against(words(&[0x1234])).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the server sent something malformed: unexpected message 0x1234 on the log channel"
    );
}

#[tokio::test]
async fn bytes_nobody_asked_for_make_a_connection_unusable() {
    let mut connection = against(words(&[LAST, LAST])).await.unwrap();
    let error = connection
        .call(&IsValidPath { path: path("x") }, &mut ())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::NotReusable), "{error}");
}

#[tokio::test]
async fn an_operation_the_peer_does_not_know_is_not_sent() {
    let mut connection = against(words(&[LAST])).await.unwrap();
    let error = connection.call(&QueryValidBatch::default(), &mut ()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "QueryValidBatch needs the feature nixci-closure-1, which the peer does not have"
    );
    assert!(connection.is_reusable());
}

#[tokio::test]
async fn old_clients_send_nars_in_their_own_ways() {
    // 1.21, as Nix 2.3: AddToStoreNar is pulled. 1.22 the same; 1.20 sends it bare.
    let add = |minor: u64| {
        let mut bytes = b"cxin\0\0\0\0".to_vec();
        bytes.extend_from_slice(&(0x100 | minor).to_le_bytes());
        bytes.extend_from_slice(&[0; 16]);
        let mut out = BytesMut::new();
        let on = Negotiated::plain(
            Version {
                major: 1,
                minor: minor as u8,
            },
            StoreDir::default(),
        );
        39_u64.encode(&on, &mut out);
        info("old").encode(&on, &mut out);
        false.encode(&on, &mut out);
        true.encode(&on, &mut out);
        bytes.extend_from_slice(&out);
        bytes
    };
    for minor in [20, 21] {
        let (mut read, mut write, serving) = start_old();
        let mut bytes = add(minor);
        if minor == 20 {
            bytes.extend_from_slice(HELLO_NAR);
        }
        write.write_all(&bytes).await.unwrap();
        let mut heard = vec![0; 24];
        read.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard[16..], LAST.to_le_bytes());
        if minor == 21 {
            for piece in [&HELLO_NAR[..13], &HELLO_NAR[13..]] {
                let mut wanted = [0; 16];
                read.read_exact(&mut wanted).await.unwrap();
                assert_eq!(wanted[..8], 0x6461_7461_u64.to_le_bytes());
                let mut chunk = words(&[piece.len() as u64]);
                chunk.extend_from_slice(piece);
                chunk.resize(chunk.len().next_multiple_of(8), 0);
                write.write_all(&chunk).await.unwrap();
            }
        }
        let mut last = [0; 8];
        read.read_exact(&mut last).await.unwrap();
        assert_eq!(last, LAST.to_le_bytes());
        // Still in step: an AddToStore of one file in the old form.
        let mut bytes = words(&[7, 1]);
        bytes.extend_from_slice(b"x\0\0\0\0\0\0\0");
        bytes.extend_from_slice(&words(&[1, 0, 6]));
        bytes.extend_from_slice(b"sha256\0\0");
        bytes.extend_from_slice(HELLO_NAR);
        write.write_all(&bytes).await.unwrap();
        let mut reply = vec![0; 64];
        read.read_exact(&mut reply).await.unwrap();
        assert_eq!(reply[..8], LAST.to_le_bytes());
        assert_eq!(&reply[16..61], b"/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-x");
        drop((read, write));
        serving.await.unwrap().unwrap();
    }
}

/// Takes a NAR or a file's content and checks that it is the one.
struct Old;

impl Handler for Old {
    async fn handle(&mut self, request: Request, exchange: &mut Exchange<'_>) -> Result<Reply, HandlerError> {
        let mut body = Vec::new();
        exchange.body().read_to_end(&mut body).await?;
        match request {
            Request::AddToStoreNar(_) => {
                assert_eq!(body, HELLO_NAR);
                Ok(Reply::Done)
            }
            Request::AddToStore(_) => {
                assert_eq!(body, b"hello\n");
                Ok(info("x").into())
            }
            other => panic!("{other:?}"),
        }
    }
}

fn start_old() -> (ReadHalf<DuplexStream>, WriteHalf<DuplexStream>, Serving) {
    let (client, server) = duplex(4096);
    let (server_read, server_write) = split(server);
    let hello = ServerHello {
        version_text: "2.34.8".to_owned(),
        trust: Trust::Trusted,
        features: Vec::new(),
        store_dir: StoreDir::default(),
        limits: Limits::default(),
    };
    let serving = tokio::spawn(serve(server_read, server_write, hello, Old));
    let (read, write) = split(client);
    (read, write, serving)
}

#[tokio::test]
async fn frames_may_be_cut_anywhere() {
    let store = Store::default();
    let added = store.added.clone();
    let (mut read, mut write, serving) = start(store);
    let mut stream = PathStreamWriter::new(StreamKind::Counted, 2, StoreDir::default(), Vec::new());
    stream.add(&info("a"), HELLO_NAR).await.unwrap();
    stream.add(&info("b"), HELLO_NAR).await.unwrap();
    let body = stream.finish().await.unwrap();
    let mut said = BytesMut::from(&b"cxin\0\0\0\0"[..]);
    said.extend_from_slice(&words(&[0x125, 0, 0, 44, 0, 1]));
    for piece in body.chunks(7) {
        put_frame(piece, &mut said);
    }
    put_frame(&[], &mut said);
    let reading = tokio::spawn(async move {
        let mut heard = vec![0; 56];
        read.read_exact(&mut heard).await.map(|_| heard)
    });
    for piece in said.chunks(11) {
        write.write_all(piece).await.unwrap();
    }
    let heard = reading.await.unwrap().unwrap();
    assert_eq!(heard[48..], LAST.to_le_bytes());
    assert_eq!(added.lock().unwrap().len(), 2);
    drop(write);
    let _ = serving.await.unwrap();
}

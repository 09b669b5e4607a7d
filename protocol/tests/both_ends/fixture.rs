//! A server to talk to.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use nixci_protocol::client::{Connection, Hello};
use nixci_protocol::io::{PathStreamReader, StreamKind};
use nixci_protocol::log::{ActivityType, Field, LogMessage, ResultType};
use nixci_protocol::nixci::{Bitmap, FEATURE_CLOSURE, FEATURE_CONTROL};
use nixci_protocol::op::{IsValidPath, Nar, Reply, Request};
use nixci_protocol::server::{Exchange, Handler, HandlerError, ServeError, ServerHello, serve};
use nixci_protocol::types::{
    BuildResult, BuildStatus, KeyedBuildResult, NarHash, PathInfo, StoreDir, StorePath, Trust, UnkeyedPathInfo,
    Verbosity,
};
use nixci_protocol::wire::Limits;
use tokio::io::{AsyncReadExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

pub(crate) type Added = Arc<Mutex<Vec<(PathInfo, Vec<u8>)>>>;

/// A server that knows a few things, remembers what it was given, and can be told to misbehave.
#[derive(Default)]
pub(crate) struct Store {
    pub(crate) added: Added,
    /// Dropped with a handler that is cancelled.
    pub(crate) canary: Option<oneshot::Sender<()>>,
    pub(crate) started: Option<oneshot::Sender<()>>,
}

pub(crate) const HELLO_NAR: &[u8] =
    b"\x0d\0\0\0\0\0\0\0nix-archive-1\0\0\0\x01\0\0\0\0\0\0\0(\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0type\0\0\0\0\
\x07\0\0\0\0\0\0\0regular\0\x08\0\0\0\0\0\0\0contents\x06\0\0\0\0\0\0\0hello\n\0\0\x01\0\0\0\0\0\0\0)\0\0\0\0\0\0\0";

pub(crate) fn path(name: &str) -> StorePath {
    StorePath::from_base_name(&format!("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-{name}")).unwrap()
}

pub(crate) fn info(name: &str) -> PathInfo {
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
            Request::NarFromPath(it) if it.path.name() == "valid" => {
                Ok(Reply::Nar(Nar::new(HELLO_NAR.len() as u64, HELLO_NAR)))
            }
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

pub(crate) fn path_of_out() -> StorePath {
    path("out")
}

pub(crate) type Serving = JoinHandle<Result<(), ServeError>>;

pub(crate) fn start(store: Store) -> (ReadHalf<DuplexStream>, WriteHalf<DuplexStream>, Serving) {
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

pub(crate) fn hello() -> Hello {
    Hello {
        features: vec![
            FEATURE_CLOSURE.to_owned(),
            FEATURE_CONTROL.to_owned(),
            "x-other".to_owned(),
        ],
        ..Hello::default()
    }
}

pub(crate) async fn connect(store: Store) -> (Connection, Serving) {
    let (read, write, serving) = start(store);
    (Connection::open(read, write, hello()).await.unwrap(), serving)
}

/// A second request after each: lost step shows late.
pub(crate) async fn still_in_step(connection: &mut Connection) {
    let valid = connection
        .call(&IsValidPath { path: path("valid") }, &mut ())
        .await
        .unwrap();
    assert!(valid);
    assert!(connection.is_reusable());
}

pub(crate) fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub(crate) const LAST: u64 = 0x616c_7473;

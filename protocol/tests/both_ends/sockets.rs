//! Both ends over real sockets, and NARs that pass through a server in between.

use std::collections::BTreeSet;

use nixci_protocol::client::{Connection, Error, Hello, NarStream};
use nixci_protocol::io::{Company, SocketReader, SocketWriter, socket};
use nixci_protocol::op::{IsValidPath, Nar, QueryValidPaths, Reply, Request};
use nixci_protocol::server::{Exchange, Handler, HandlerError, ServeError, ServerHello, serve};
use nixci_protocol::types::{StoreDir, StorePath, Trust};
use nixci_protocol::wire::Limits;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use crate::fixture::{Store, path};

type Halves = (SocketReader, SocketWriter);

fn pair() -> (Halves, Halves) {
    let (one, other) = UnixStream::pair().unwrap();
    (socket(one, &Company::default()), socket(other, &Company::default()))
}

fn hello() -> ServerHello {
    ServerHello {
        version_text: "test".to_owned(),
        trust: Trust::Trusted,
        features: Vec::new(),
        store_dir: StoreDir::default(),
        limits: Limits::default(),
    }
}

async fn connected(handler: impl Handler + 'static) -> (Connection, JoinHandle<Result<(), ServeError>>) {
    let (client, (read, write)) = pair();
    let serving = tokio::spawn(serve(read, write, hello(), handler));
    let client = Connection::open(client.0, client.1, Hello::default()).await.unwrap();
    (client, serving)
}

/// Small questions in a row, as they leave the poller, and between them large ones, as they need it.
async fn talk() {
    let (mut client, serving) = connected(Store::default()).await;
    let many: BTreeSet<StorePath> = (0..20_000).map(|nth| path(&format!("p{nth}"))).collect();
    for round in 0..5 {
        for nth in 0..300 {
            let name = if nth % 2 == 0 { "valid" } else { "other" };
            let valid = client.call(&IsValidPath { path: path(name) }, &mut ()).await.unwrap();
            assert_eq!(valid, nth % 2 == 0, "{round} {nth}");
        }
        let question = QueryValidPaths {
            paths: many.clone(),
            substitute: false,
        };
        assert_eq!(client.call(&question, &mut ()).await.unwrap(), many);
        let ahead: Vec<_> = (0..5_000).map(|_| IsValidPath { path: path("valid") }).collect();
        let answers = client.call_all(&ahead, &mut ()).await.unwrap();
        assert!(answers.into_iter().all(|valid| valid));
    }
    client.close().await.unwrap();
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn questions_of_all_sizes_on_one_thread() {
    talk().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_of_all_sizes_on_several_threads() {
    tokio::join!(talk(), talk(), talk());
}

#[tokio::test]
async fn a_watch_tells_silence_from_talk_and_from_the_end() {
    let ((read, _write), (other_read, other)) = pair();
    let watch = read.watch();
    assert!(watch.is_quiet());
    let mut other = other;
    tokio::io::AsyncWriteExt::write_all(&mut other, b"x").await.unwrap();
    assert!(!watch.is_quiet());
    let mut read = read;
    assert_eq!(read.read_u8().await.unwrap(), b'x');
    assert!(watch.is_quiet());
    drop((other, other_read));
    assert!(!watch.is_quiet());
    assert_eq!(read.read(&mut [0; 8]).await.unwrap(), 0);
}

#[tokio::test]
async fn dropping_the_writing_half_is_the_end_for_the_other_side() {
    let ((_read, write), (mut other, _)) = pair();
    drop(write);
    assert_eq!(other.read(&mut [0; 8]).await.unwrap(), 0);
}

fn word(text: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text);
    out.resize(out.len().next_multiple_of(8), 0);
}

/// A folder of files of such sizes.
fn nar(sizes: &[usize]) -> Vec<u8> {
    let mut out = Vec::new();
    let words = |texts: &[&str], out: &mut Vec<u8>| texts.iter().for_each(|text| word(text.as_bytes(), out));
    words(&["nix-archive-1", "(", "type", "directory"], &mut out);
    for (nth, size) in sizes.iter().enumerate() {
        let name = format!("{nth:04}");
        words(
            &["entry", "(", "name", &name, "node", "(", "type", "regular", "contents"],
            &mut out,
        );
        let content: Vec<u8> = (0..*size).map(|byte| (byte / 7 + nth) as u8).collect();
        word(&content, &mut out);
        words(&[")", ")"], &mut out);
    }
    words(&[")"], &mut out);
    out
}

/// A store that says a NAR has `size` bytes, and sends what it likes.
struct Back {
    nar: Vec<u8>,
    size: usize,
}

impl Handler for Back {
    async fn handle(&mut self, request: Request, _: &mut Exchange<'_>) -> Result<Reply, HandlerError> {
        match request {
            Request::NarFromPath(_) => {
                let nar = std::io::Cursor::new(self.nar.clone());
                Ok(Reply::Nar(Nar::new(self.size as u64, nar)))
            }
            _ => Err(HandlerError::new("not here")),
        }
    }
}

/// Passes on what a store behind it sends.
struct Between {
    back: Option<Connection>,
    size: usize,
}

impl Handler for Between {
    async fn handle(&mut self, request: Request, _: &mut Exchange<'_>) -> Result<Reply, HandlerError> {
        let (Request::NarFromPath(asked), Some(back)) = (request, self.back.take()) else {
            return Err(HandlerError::new("not here"));
        };
        let size = self.size as u64;
        let stream = NarStream::open(back, &asked.path, size, &mut ()).await;
        let reader = Box::new(stream.map_err(|error| HandlerError::new(error.to_string()))?);
        Ok(Reply::Nar(Nar { size, reader }))
    }
}

/// What a client gets of a NAR of which the store says it has `said` bytes, through a server that expects `expected`.
async fn passed(nar: &[u8], said: usize, expected: usize) -> Result<Vec<u8>, Error> {
    let back = Back {
        nar: nar.to_vec(),
        size: said,
    };
    let (back, back_serving) = connected(back).await;
    let between = Between {
        back: Some(back),
        size: expected,
    };
    let (client, serving) = connected(between).await;
    let mut got = Vec::new();
    let mut stream = NarStream::open(client, &path("valid"), expected as u64, &mut ()).await?;
    let read = stream.read_to_end(&mut got).await;
    drop(stream);
    drop((serving.await, back_serving.await));
    read.map(|_| got).map_err(Error::Io)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nars_pass_through_whole_whatever_their_files() {
    const EDGE: usize = 128 * 1024;
    for sizes in [
        &[][..],
        &[0],
        &[EDGE - 1],
        &[EDGE, EDGE + 1, 65_536 + EDGE, 3],
        &[10 << 20, 5, 3 << 20, 0, EDGE * 2],
    ] {
        let nar = nar(sizes);
        let got = passed(&nar, nar.len(), nar.len()).await.unwrap();
        assert!(got == nar, "{sizes:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nar_that_breaks_off_or_has_another_size_never_arrives_whole() {
    let nar = nar(&[4 << 20, 100]);
    let whole = nar.len();
    for (sent, said, expected) in [
        // It breaks off within what passes unseen, and behind it.
        (1 << 20, whole, whole),
        (whole - 64, whole, whole),
        // The file alone has more bytes than the NAR was to have; the NAR has fewer, and more, than it was to have.
        (whole, whole, 1 << 20),
        (whole, whole, whole + 8),
        (whole, whole, whole - 8),
    ] {
        let got = passed(&nar[..sent], said, expected).await;
        assert!(got.is_err(), "{sent} {said} {expected}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_in_the_middle_ends_the_passing() {
    let nar = nar(&[64 << 20]);
    let size = nar.len();
    let (back, back_serving) = connected(Back { nar, size }).await;
    let between = Between { back: Some(back), size };
    let (client, serving) = connected(between).await;
    let mut stream = NarStream::open(client, &path("valid"), size as u64, &mut ())
        .await
        .unwrap();
    stream.read_exact(&mut vec![0; 1 << 20]).await.unwrap();
    drop(stream);
    assert!(serving.await.unwrap().is_err());
    assert!(back_serving.await.unwrap().is_err());
}

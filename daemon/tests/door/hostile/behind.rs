//! Stores behind the daemon that are broken.
//!
//! No real store does this, so there is a strict stand-in: it reads every request whole and answers as it is told.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use nixci_protocol::handshake::{Offer, ServerHandshake};
use nixci_protocol::log::{Incoming, LogMessage, RemoteError};
use nixci_protocol::op::Request;
use nixci_protocol::testing::{negotiated, read_request};
use nixci_protocol::types::Trust;
use nixci_protocol::wire::{Wire as _, encode};
use nixci_store::testing::Service;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use super::MOST_MIB;
use super::raw::{Raw, Said, string, words};

const PATH: &str = "/nix/store/7lmww5ks62qvwklysqlsfbn6p4yl2ijr-u";
const LAST: u64 = 0x616c_7473;

/// What the stand-in does with a question.
#[derive(Debug, Clone)]
enum Does {
    /// Says this and goes on.
    Says(Vec<u8>),
    /// Says this and hangs up.
    SaysAndHangsUp(Vec<u8>),
    /// Talks for ever.
    Talks,
    /// Nothing.
    Nothing,
}

fn error(text: &str) -> Vec<u8> {
    encode(&negotiated(38, false), &Incoming::Error(RemoteError::new(text))).to_vec()
}

async fn stand_in(mut stream: UnixStream, does: Does) -> std::io::Result<()> {
    let mut machine = ServerHandshake::new(Offer::default(), "2.34.8".to_owned(), Trust::Trusted);
    let (mut heard, mut out) = (BytesMut::new(), BytesMut::new());
    let on = loop {
        if stream.read_buf(&mut heard).await? == 0 {
            return Ok(());
        }
        let progress = machine
            .receive(&heard, &mut out)
            .expect("nixci shakes hands as it should");
        drop(heard.split_to(progress.consumed));
        if progress.done.is_some() {
            Incoming::Last.encode(&negotiated(38, false), &mut out);
        }
        stream.write_all(&out.split()).await?;
        if let Some(on) = progress.done {
            break on;
        }
    };
    loop {
        while let Some((request, taken)) = read_request(&on, &heard).expect("nixci asks as it should") {
            drop(heard.split_to(taken));
            let does = match request {
                Request::SetOptions(_) => Does::Says(words(&[LAST])),
                Request::AddTempRoot(_) => Does::Says(words(&[LAST, 1])),
                _ => does.clone(),
            };
            match does {
                Does::Says(bytes) => stream.write_all(&bytes).await?,
                Does::SaysAndHangsUp(bytes) => {
                    stream.write_all(&bytes).await?;
                    return Ok(());
                }
                Does::Talks => {
                    let line = LogMessage::line("x".repeat(1_000));
                    let mut lines = BytesMut::new();
                    (0..100).for_each(|_| line.encode(&on, &mut lines));
                    loop {
                        stream.write_all(&lines).await?;
                    }
                }
                Does::Nothing => {}
            }
        }
        if stream.read_buf(&mut heard).await? == 0 {
            return Ok(());
        }
    }
}

/// A daemon whose only store is the stand-in.
struct Broken {
    service: Service,
    _folder: tempfile::TempDir,
}

impl Broken {
    fn new(does: Does) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("store");
        let listener = UnixListener::bind(&socket).unwrap();
        let does = Arc::new(does);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let does = Does::clone(&does);
                // It is the daemon that may not be disturbed when this fails.
                tokio::spawn(async move { drop(stand_in(stream, does).await) });
            }
        });
        let sections = format!(
            "[[store]]\nname = \"broken\"\nuri = \"unix://{}\"\nslots = 1\n",
            socket.display()
        );
        let service = Service::with_config(Path::new(env!("CARGO_BIN_EXE_nixci-daemon")), &sections);
        Self {
            service,
            _folder: folder,
        }
    }

    fn goes_on(&self) {
        let log = self.service.log();
        assert!(!log.contains("panic"), "{log}");
        let peak = self.service.peak_mib();
        assert!(peak > 0 && peak <= MOST_MIB, "the daemon had {peak} MiB");
    }
}

/// Questions that only the store can answer.
fn questions() -> Vec<(&'static str, Vec<u8>)> {
    let path = string(PATH);
    vec![
        ("QueryPathInfo", [words(&[26]), path.clone()].concat()),
        ("IsValidPath", [words(&[1]), path.clone()].concat()),
        ("QueryReferrers", [words(&[6]), path.clone()].concat()),
        ("QueryMissing", [words(&[40, 1]), path.clone()].concat()),
        ("NarFromPath", [words(&[38]), path.clone()].concat()),
        ("EnsurePath", [words(&[10]), path].concat()),
    ]
}

/// Asks each question in a connection of its own, and returns what is said; after it the connection is as it should be.
async fn all_fail(broken: &Broken) -> Vec<String> {
    let mut said = Vec::new();
    for (name, question) in questions() {
        let mut raw = Raw::ours(&broken.service.socket()).await;
        raw.send(&question).await;
        match raw.said().await {
            Said::Error(error) => {
                assert!(!error.contains('\n'), "{name}: {error}");
                said.push(error);
            }
            other => panic!("{name}: {other:?}"),
        }
        // What the daemon knows by itself it still answers, on this connection if it is open and on others.
        raw.send(&[words(&[0x6e63_6903]), string(r#"{"op":"info"}"#)].concat())
            .await;
        match raw.said().await {
            Said::Done => assert_eq!(raw.take(8).await.len(), 8),
            Said::Closed => {}
            other @ Said::Error(_) => panic!("{name}: {other:?}"),
        }
    }
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_and_broken_replies_are_errors_that_name_the_store() {
    for (does, expected) in [
        (Does::SaysAndHangsUp(Vec::new()), ""),
        (Does::SaysAndHangsUp(words(&[LAST])[..5].to_vec()), ""),
        (Does::SaysAndHangsUp(words(&[LAST])), ""),
        (Does::Says(words(&[0x1234])), ""),
        (Does::Says(words(&[LAST, u64::MAX, u64::MAX, u64::MAX, u64::MAX])), ""),
        (Does::Says(error("it is broken")), "it is broken"),
        // As stock daemons do where they give up: the error twice, and the end.
        (
            Does::SaysAndHangsUp([error("it gave up"), error("it gave up")].concat()),
            "it gave up",
        ),
    ] {
        let broken = Broken::new(does.clone());
        for said in all_fail(&broken).await {
            assert!(said.contains(expected), "{does:?}: {said}");
        }
        broken.goes_on();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_never_stops_talking_or_says_nothing_holds_only_who_asked() {
    for does in [Does::Talks, Does::Nothing] {
        let broken = Broken::new(does.clone());
        let socket = broken.service.socket();
        let mut waiting = Vec::new();
        for (_, question) in questions() {
            let mut raw = Raw::ours(&socket).await;
            raw.send(&question).await;
            waiting.push(raw);
        }
        // Some listen to what the store says, some do not; none has an answer.
        for raw in &mut waiting[..3] {
            let answer = tokio::time::timeout(Duration::from_millis(200), raw.said()).await;
            assert!(!matches!(answer, Ok(Said::Done)), "{does:?}");
        }
        let mut other = Raw::ours(&socket).await;
        for _ in 0..50 {
            other
                .send(&[words(&[0x6e63_6903]), string(r#"{"op":"info"}"#)].concat())
                .await;
            assert_eq!(other.said().await, Said::Done);
            other.take(8).await;
            let length = u64::from_le_bytes(other.take(8).await.try_into().unwrap());
            other.take((length as usize).next_multiple_of(8)).await;
        }
        drop(waiting);
        broken.goes_on();
    }
}

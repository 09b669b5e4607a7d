//! What passes between the two, and what ends it.

use std::collections::{BTreeMap, BTreeSet};

use nixci_protocol::client::Error;
use nixci_protocol::io::{PathStreamWriter, StreamKind};
use nixci_protocol::log::LogMessage;
use nixci_protocol::nixci::{AddClosure, Bitmap, FEATURE_CLOSURE, FEATURE_CONTROL, QueryValidBatch};
use nixci_protocol::op::{
    Ack, AddMultipleToStore, AddTempRoot, BuildPathsWithResults, IsValidPath, QueryMissing, QueryPathInfo,
    QueryValidPaths, SetOptions,
};
use nixci_protocol::types::{BuildMode, DerivedPath, StoreDir, Trust};
use nixci_protocol::version::Version;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use crate::fixture::*;

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

/// Answers to requests that were sent ahead go out together, but none waits for what the client sends only after it,
/// nor for another request.
#[tokio::test]
async fn answers_do_not_wait_for_what_follows_them() {
    let mut ask = words(&[1, 49]);
    ask.extend_from_slice(b"/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-valid\0\0\0\0\0\0\0");
    // Half of a request, and one that is never answered.
    for behind in [&ask[..20], &words(&[40, 0])] {
        let (mut read, mut write, _serving) = start(Store::default());
        let mut said = b"cxin\0\0\0\0".to_vec();
        said.extend_from_slice(&words(&[0x125, 0, 0]));
        for part in [&ask, &ask, behind] {
            said.extend_from_slice(part);
        }
        write.write_all(&said).await.unwrap();
        let mut heard = [0; 48 + 32];
        read.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard[48..], words(&[LAST, 1, LAST, 1]));
    }
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

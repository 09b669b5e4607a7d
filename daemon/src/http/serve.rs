//! Connections: HTTP/1.1 and 2 on one port, each bounded in what it may take and for how long.

use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Certificate;
use crate::listen::{Admission, Place, Places};

/// How long the head of a request may take, from the end of the one before it.
const HEAD_TIME: Duration = Duration::from_mins(1);
/// How long a client may take to agree on TLS.
const TLS_TIME: Duration = Duration::from_secs(10);
/// How long a client may take to accept any byte of an answer.
const STALL_TIME: Duration = Duration::from_mins(1);
/// How often an HTTP/2 client is asked whether it is there while something is open.
const PING_EVERY: Duration = Duration::from_secs(30);
/// How long a peer may be silent before it is asked whether it is there; shorter than most routers remember it.
const ALIVE_AFTER: Duration = Duration::from_mins(1);
/// How long after that it is asked again,
const ALIVE_EVERY: Duration = Duration::from_secs(20);
/// and how often.
const ALIVE_TRIES: u32 = 6;
/// Bytes of a request's head, and of what waits to be sent before more is read from a body.
const BUFFER: usize = 64 * 1024;
/// Bytes of an HTTP/2 request's head once it is unpacked.
const HEAD_BYTES: u32 = 16 * 1024;
/// Requests that may be open on one HTTP/2 connection.
const REQUESTS: u32 = 128;
/// The longest pause after `accept` failed, for instance because file descriptors ran out.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// What somebody hears for whom there is no place.
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// Places for so many connections. Many may be behind one address, as behind a proxy: addresses have no limit of their own.
pub(crate) fn places(connections: usize) -> Places {
    Places {
        total: connections,
        per_user: usize::MAX,
    }
}

/// Serves until `stop`; at most as many at once as there are places. Where they run out, one that has not asked anything yet gives way to
/// the next, first of all one of the address that has the most; if all have asked, the new one is told to come back.
/// Returns when connections that were open at the stop have ended what they were answering.
///
/// With a `certificate` all of it is inside TLS.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    admission: Admission<IpAddr>,
    certificate: Option<Certificate>,
    stop: CancellationToken,
) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(BUFFER);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .max_concurrent_streams(REQUESTS)
        .max_header_list_size(HEAD_BYTES);
    let builder = Arc::new(builder);
    let open = tokio_util::task::TaskTracker::new();
    let mut pause = FIRST_PAUSE;
    loop {
        let Some(accepted) = stop.run_until_cancelled(listener.accept()).await else {
            break;
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "failed to accept an HTTP connection: {error}");
                if stop.run_until_cancelled(sleep(pause)).await.is_none() {
                    break;
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
                continue;
            }
        };
        pause = FIRST_PAUSE;
        let Ok(place) = admission.admit(peer.ip()) else {
            // As much as the socket takes at once; whoever says this must not wait for anybody.
            if certificate.is_none() {
                drop(stream.try_write(FULL));
            }
            continue;
        };
        let place = Arc::new(place);
        // Answers are written whole: waiting for more would only delay them.
        drop(stream.set_nodelay(true));
        if let Err(error) = keep_alive(&stream) {
            debug!("an HTTP connection has no keep-alive: {error}");
        }
        let acceptor = certificate.as_ref().map(Certificate::acceptor);
        let (builder, router, stop) = (builder.clone(), router.clone(), stop.clone());
        open.spawn(async move {
            match acceptor {
                None => converse(stream, place, &builder, router, stop).await,
                Some(acceptor) => {
                    let greeting = tokio::time::timeout(TLS_TIME, acceptor.accept(stream));
                    let greeted = tokio::select! {
                        greeted = greeting => greeted,
                        () = place.lost() => return,
                        () = stop.cancelled() => return,
                    };
                    match greeted {
                        Ok(Ok(stream)) => converse(stream, place, &builder, router, stop).await,
                        Ok(Err(error)) => debug!("a TLS connection ended before it began: {error}"),
                        Err(_) => debug!("a client did not agree on TLS within {} s", TLS_TIME.as_secs()),
                    }
                }
            }
        });
    }
    open.close();
    open.wait().await;
}

/// Answers the requests of one connection until it ends or the daemon stops.
async fn converse<S>(
    stream: S,
    place: Arc<Place<IpAddr>>,
    builder: &Builder<TokioExecutor>,
    router: Router,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = TowerToHyperService::new(router);
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(Patient::new(stream, place.clone())), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = &mut serving => ended,
        () = place.lost() => return,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        debug!("an HTTP connection ended: {error}");
    }
    drop(place);
}

/// Lets the system ask a silent peer whether it is there. Who speaks the worker protocol may be silent for hours, and a
/// machine that is gone says nothing.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    set_socket_keepalive(stream, true)?;
    set_tcp_keepidle(stream, ALIVE_AFTER)?;
    set_tcp_keepintvl(stream, ALIVE_EVERY)?;
    set_tcp_keepcnt(stream, ALIVE_TRIES)?;
    Ok(())
}

/// A connection that ends when its peer takes no byte for [`STALL_TIME`]: an answer must not be held open for nobody.
struct Patient<S> {
    stream: S,
    /// Runs while a write waits; kept for the next time.
    stalled: Option<Pin<Box<Sleep>>>,
    waits: bool,
    /// To be kept with the first word that is answered.
    place: Option<Arc<Place<IpAddr>>>,
}

impl<S> Patient<S> {
    fn new(stream: S, place: Arc<Place<IpAddr>>) -> Self {
        Self {
            stream,
            place: Some(place),
            stalled: None,
            waits: false,
        }
    }

    fn judge<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Some(place) = self.place.take() {
            // If it was lost meanwhile, the connection is about to end.
            place.keep();
        }
        if written.is_ready() {
            self.waits = false;
            return written;
        }
        let until = Instant::now() + STALL_TIME;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if !self.waits {
            stalled.as_mut().reset(until);
            self.waits = true;
        }
        std::task::ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client takes nothing any more",
        )))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judge(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.judge(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(connecting, listener.accept());
        (client.unwrap(), accepted.unwrap().0)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up() {
        let (client, server) = pair().await;
        let places = Admission::new(|| places(1));
        let place = places.admit(IpAddr::from([127, 0, 0, 1])).unwrap();
        let mut server = Patient::new(server, Arc::new(place));
        let stalled = loop {
            match server.write(&[0; 16 * 1024]).await {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(stalled.kind(), io::ErrorKind::TimedOut);
        drop(client);
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_head_is_not_waited_for_and_places_come_free() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let router = Router::new().route("/", get(async || "here"));
        let serving = tokio::spawn(serve(
            listener,
            router,
            Admission::new(|| places(2)),
            None,
            stop.clone(),
        ));
        let mut slow = Vec::new();
        for _ in 0..2 {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(b"GET / HTTP/1.1\r\nHos").await.unwrap();
            slow.push(client);
        }
        // Its turn comes, as those before it have asked nothing yet.
        let mut client = TcpStream::connect(address).await.unwrap();
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("here"),
            "{answer}"
        );
        for mut client in slow {
            let mut rest = Vec::new();
            // Closed with or without a word.
            drop(client.read_to_end(&mut rest).await);
        }
        stop.cancel();
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn heads_are_bounded() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let router = Router::new().route("/", get(async || "here"));
        let serving = tokio::spawn(serve(
            listener,
            router,
            Admission::new(|| places(2)),
            None,
            stop.clone(),
        ));
        let mut client = TcpStream::connect(address).await.unwrap();
        let head = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(4 * BUFFER));
        // It may be closed before all of it was sent.
        drop(client.write_all(head.as_bytes()).await);
        let mut answer = Vec::new();
        drop(client.read_to_end(&mut answer).await);
        let answer = String::from_utf8_lossy(&answer);
        assert!(!answer.contains(" 200 "), "{answer}");
        stop.cancel();
        serving.await.unwrap();
    }
}

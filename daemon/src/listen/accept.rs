//! The accept loop of the Unix socket.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use nixci_protocol::io::{Company, SocketReader, SocketWriter, socket};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::admission::{Admission, Full, Place, Places};
use super::files;
use super::park::Parked;
use super::{BoundSocket, preamble};
use crate::door::{Door, Guest};
use crate::principal::{Lowered, Peer, Principal};
use crate::shutdown::Shutdown;

/// The longest pause after `accept` failed, for instance because file descriptors ran out.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long a connection may take to keep what arrived and to say why it ends, once the daemon stops.
pub(crate) const GRACE: Duration = Duration::from_secs(5);
/// The first one; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// Clients that are told at the same time why there is no place for them; the others find the connection closed.
const REFUSALS: usize = 64;
/// How long such a client may take to listen.
const REFUSAL_TIME: Duration = Duration::from_secs(5);

/// Accepts until the stop begins. Nobody waits in the kernel's queue for somebody else to go: where there is no place,
/// the client is told so and goes.
///
/// Each connection is a task of its own: a panic in one ends that one.
pub(crate) async fn accept(socket: BoundSocket, door: Arc<Door>, stop: Shutdown) {
    let live = door.live().clone();
    let reception = Arc::new(Reception {
        admission: Admission::new(move || {
            let settings = live.now();
            Places {
                total: files::connections_that_fit(settings.config.limits.connections),
                per_user: settings.config.limits.connections_per_user,
            }
        }),
        company: Company::default(),
        refusals: Semaphore::new(REFUSALS),
        own: rustix::process::geteuid().as_raw(),
        door,
    });
    let mut pause = FIRST_PAUSE;
    loop {
        let Some(accepted) = stop.accepting.run_until_cancelled(socket.listener.accept()).await else {
            return;
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "failed to accept a connection: {error}");
                if stop
                    .accepting
                    .run_until_cancelled(tokio::time::sleep(pause))
                    .await
                    .is_none()
                {
                    return;
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
                continue;
            }
        };
        pause = FIRST_PAUSE;
        let peer: Peer = match stream.peer_cred() {
            Ok(peer) => peer.into(),
            Err(error) => {
                warn!(%error, "failed to ask who is connecting: {error}");
                continue;
            }
        };
        let place = reception.place(peer.uid);
        let reception = reception.clone();
        let token = stop.connections.clone();
        stop.serving.spawn(async move {
            // Large states live on the heap only while somebody is served, and a task that waits is small.
            let receiving = std::panic::AssertUnwindSafe(async {
                tokio::select! {
                    () = reception.receive(stream, peer, place, token.clone()) => {}
                    () = async {
                        token.cancelled().await;
                        tokio::time::sleep(GRACE).await;
                    } => {}
                }
            });
            if receiving.catch_unwind().await.is_err() {
                error!("a connection ended in a panic; the others go on");
            }
        });
    }
}

/// Who has shaken hands, and the place of a key's holder.
type Welcomed = (Guest, Principal, Option<Place<u32>>);

/// What every connection meets first.
struct Reception {
    door: Arc<Door>,
    admission: Admission<u32>,
    company: Company,
    refusals: Semaphore,
    /// The daemon's own user.
    own: u32,
}

impl Reception {
    fn place(&self, uid: u32) -> Result<Place<u32>, Full<u32>> {
        if uid == 0 || uid == self.own {
            return Ok(self.admission.always());
        }
        self.admission.admit(uid)
    }

    async fn receive(
        &self,
        stream: UnixStream,
        peer: Peer,
        place: Result<Place<u32>, Full<u32>>,
        stop: CancellationToken,
    ) {
        let (read, write) = socket(stream, &self.company);
        let read = Parked::new(read, stop);
        // Until more is known a client has no more than its user's number.
        let user = Principal::local(peer.uid, false);
        match place {
            Ok(place) => {
                let welcome = self.welcome(read, write, peer);
                let Some((greeted, who, counted)) = self.greet(welcome, &user, &place).await else {
                    return;
                };
                self.door.serve(greeted, who, None).await;
                drop((place, counted));
            }
            Err(full) => {
                let text = full.to_string();
                if self.admission.may_tell(Instant::now()) {
                    warn!(principal = user.name(), "refused a connection: {text}");
                }
                let Ok(_turn) = self.refusals.try_acquire() else { return };
                let refusing = self.door.refuse(read, write, &user, text);
                // Whoever does not even listen is let go.
                drop(tokio::time::timeout(REFUSAL_TIME, refusing).await);
            }
        }
    }

    /// Finds out who a client is, and shakes hands; none when it is not served.
    async fn welcome(&self, mut read: Parked<SocketReader>, write: SocketWriter, peer: Peer) -> Option<Welcomed> {
        let user = Principal::local(peer.uid, false);
        let mut opening = match preamble::read(&mut read).await {
            Ok(opening) => opening,
            Err(error) => {
                debug!(principal = user.name(), "a connection ended before it began: {error}");
                return None;
            }
        };
        let who = match opening.lowered.take() {
            Some(Err(message)) => Err(message),
            Some(Ok(lowered)) => self.admit(peer, Some(&lowered)).await,
            None => self.admit(peer, None).await,
        };
        let read = opening.then(read);
        match who.and_then(|who| Ok((self.counted(&who, peer)?, who))) {
            Ok((counted, who)) => {
                let greeted = self.door.greet(read, write, &who).await?;
                let keeps = counted.as_ref().is_none_or(Place::keep);
                keeps.then_some((greeted, who, counted))
            }
            Err(message) => {
                warn!(principal = user.name(), "refused a connection: {message}");
                self.door.refuse(read, write, &user, message).await;
                None
            }
        }
    }

    /// A place for who holds a key: behind the daemon's own user, who is not counted, may be anybody.
    fn counted(&self, who: &Principal, peer: Peer) -> Result<Option<Place<u32>>, String> {
        if who.is_local() || who.is_trusted() {
            return Ok(None);
        }
        self.admission
            .admit(peer.uid)
            .map(Some)
            .map_err(|full| full.to_string())
    }

    async fn admit(&self, peer: Peer, lowered: Option<&Lowered>) -> Result<Principal, String> {
        let admitted = self.door.settings().rules.admit(peer, lowered).await;
        admitted.map_err(|error| error.to_string())
    }

    /// Waits for the handshake, as long as the place is this client's and it does not dawdle.
    async fn greet(
        &self,
        greeting: impl Future<Output = Option<Welcomed>>,
        who: &Principal,
        place: &Place<u32>,
    ) -> Option<Welcomed> {
        let handshake_time = self.door.settings().config.limits.handshake_time;
        let greeted = tokio::select! {
            greeted = tokio::time::timeout(handshake_time, greeting) => greeted,
            () = place.lost() => {
                debug!(principal = who.name(), "a connection without a handshake gave way to another");
                return None;
            }
        };
        if let Ok(greeted) = greeted {
            return greeted.filter(|_| place.keep());
        }
        debug!(
            principal = who.name(),
            "a client did not shake hands within {} s (`handshake_time` in [limits])",
            handshake_time.as_secs()
        );
        None
    }
}

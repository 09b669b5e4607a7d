//! A proxy between two Unix sockets that counts, and that can be as slow as a link.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::Outcome;
use crate::wire::{Way, Wire};

/// What lies between client and daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    /// Nothing: bytes are passed on as they come.
    Loopback,
    /// Each direction carries [`RATE`] bytes a second and takes half of this.
    RoundTrip(Duration),
}

impl Link {
    pub(crate) const ALL: [Self; 3] = [
        Self::Loopback,
        Self::RoundTrip(Duration::from_millis(20)),
        Self::RoundTrip(Duration::from_millis(100)),
    ];

    /// The name of a case over this link.
    pub(crate) fn name(self, case: &str) -> String {
        match self {
            Self::Loopback => case.to_owned(),
            Self::RoundTrip(time) => format!("{case}@{}ms", time.as_millis()),
        }
    }
}

/// 100 Mbit/s.
const RATE: u32 = 100_000_000 / 8;
/// Bytes passed on at once where nothing is modelled.
const CHUNK: usize = 256 * 1024;
/// Bytes put on a link at once: little over a millisecond of it.
const PIECE: usize = 16 * 1024;
/// What may be in a direction beside what a full link holds for one round trip, as in the buffers of a kernel.
const SLACK: usize = 256 * 1024;

/// A listening socket in front of another. What comes is counted when it enters, before it is delayed.
#[derive(Debug)]
pub(crate) struct Proxy {
    home: TempDir,
    ending: Arc<AtomicBool>,
    listening: JoinHandle<io::Result<Vec<Arc<Mutex<Wire>>>>>,
}

impl Proxy {
    pub(crate) fn start(target: &Path, link: Link) -> Outcome<Self> {
        let home = tempfile::Builder::new().prefix("nixci-proxy-").tempdir()?;
        let listener = UnixListener::bind(home.path().join("socket"))?;
        let ending = Arc::new(AtomicBool::new(false));
        let (target, told) = (target.to_owned(), ending.clone());
        let listening = thread::spawn(move || listen(&listener, &target, link, &told));
        Ok(Self {
            home,
            ending,
            listening,
        })
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.home.path().join("socket")
    }

    /// Waits until all connections are closed at both ends, and tells what went over them.
    pub(crate) fn finish(self) -> Outcome<Vec<Wire>> {
        self.ending.store(true, Ordering::Release);
        // Wakes who listens.
        drop(UnixStream::connect(self.socket())?);
        let wires = self.listening.join().map_err(|_| "the proxy panicked")??;
        Ok(wires
            .into_iter()
            .map(|wire| std::mem::take(&mut *locked(&wire)))
            .collect())
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn listen(
    listener: &UnixListener,
    target: &Path,
    through: Link,
    ending: &AtomicBool,
) -> io::Result<Vec<Arc<Mutex<Wire>>>> {
    let lines = [Arc::new(Line::new(through)), Arc::new(Line::new(through))];
    let (mut wires, mut threads) = (Vec::new(), Vec::new());
    loop {
        let (client, _) = listener.accept()?;
        if ending.load(Ordering::Acquire) {
            break;
        }
        let daemon = UnixStream::connect(target)?;
        let wire = Arc::new(Mutex::new(Wire::default()));
        for (way, line) in [Way::Up, Way::Down].into_iter().zip(&lines) {
            let (from, to) = match way {
                Way::Up => (client.try_clone()?, daemon.try_clone()?),
                Way::Down => (daemon.try_clone()?, client.try_clone()?),
            };
            let (line, wire) = (line.clone(), wire.clone());
            threads.push(thread::spawn(move || {
                // That one end has gone is its own business: the other sees the end too.
                let _ = line.carry(&from, &to, |bytes| locked(&wire).saw(way, bytes));
                let _ = from.shutdown(Shutdown::Read);
                let _ = to.shutdown(Shutdown::Write);
            }));
        }
        wires.push(wire);
    }
    for thread in threads {
        thread
            .join()
            .map_err(|_| io::Error::other("a thread of the proxy panicked"))?;
    }
    Ok(wires)
}

/// One direction of a link, which all connections share.
#[derive(Debug)]
struct Line {
    link: Link,
    /// Until when it is busy with what was put on it.
    busy: Mutex<Instant>,
}

impl Line {
    fn new(link: Link) -> Self {
        Self {
            link,
            busy: Mutex::new(Instant::now()),
        }
    }

    /// Passes bytes on until their end.
    fn carry(&self, from: &UnixStream, to: &UnixStream, saw: impl Fn(&[u8])) -> io::Result<()> {
        match self.link {
            Link::Loopback => pass(from, CHUNK, |bytes| {
                saw(bytes);
                (&mut &*to).write_all(bytes)
            }),
            Link::RoundTrip(time) => {
                let room = (f64::from(RATE) * time.as_secs_f64()) as usize + SLACK;
                let transit = Transit::new(room);
                thread::scope(|scope| {
                    let delivering = scope.spawn(|| transit.deliver(to));
                    let taken = pass(from, PIECE, |bytes| {
                        saw(bytes);
                        transit.put(bytes, || self.arrival(bytes.len(), time))
                    });
                    transit.end();
                    let delivered = delivering.join();
                    taken.and(delivered.unwrap_or_else(|_| Err(io::Error::other("delivering panicked"))))
                })
            }
        }
    }

    /// When so many bytes that are put on the line now are at the other end.
    fn arrival(&self, bytes: usize, round_trip: Duration) -> Instant {
        let mut busy = locked(&self.busy);
        let sending = Duration::from_secs_f64(bytes as f64 / f64::from(RATE));
        *busy = (*busy).max(Instant::now()) + sending;
        *busy + round_trip / 2
    }
}

fn pass(mut from: &UnixStream, at_once: usize, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = vec![0; at_once];
    loop {
        let taken = from.read(&mut buffer)?;
        if taken == 0 {
            return Ok(());
        }
        each(&buffer[..taken])?;
    }
}

/// Bytes on their way, each piece with the time at which it is at the other end.
#[derive(Debug)]
struct Transit {
    room: usize,
    state: Mutex<InTransit>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct InTransit {
    pieces: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    /// Nothing comes any more, or nobody takes anything any more.
    ended: bool,
}

impl Transit {
    fn new(room: usize) -> Self {
        Self {
            room,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Blocks while there is no room.
    fn put(&self, bytes: &[u8], arrival: impl FnOnce() -> Instant) -> io::Result<()> {
        let full = |state: &mut InTransit| state.bytes >= self.room && !state.ended;
        let mut state = (self.changed.wait_while(locked(&self.state), full)).unwrap_or_else(PoisonError::into_inner);
        if state.ended {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        state.bytes += bytes.len();
        state.pieces.push_back((arrival(), bytes.to_owned()));
        self.changed.notify_all();
        Ok(())
    }

    fn end(&self) {
        locked(&self.state).ended = true;
        self.changed.notify_all();
    }

    /// Writes each piece at its time, until the end.
    fn deliver(&self, mut to: &UnixStream) -> io::Result<()> {
        loop {
            let empty = |state: &mut InTransit| state.pieces.is_empty() && !state.ended;
            let next = {
                let waited = self.changed.wait_while(locked(&self.state), empty);
                waited.unwrap_or_else(PoisonError::into_inner).pieces.pop_front()
            };
            let Some((at, piece)) = next else { return Ok(()) };
            thread::sleep(at.saturating_duration_since(Instant::now()));
            let written = to.write_all(&piece);
            locked(&self.state).bytes -= piece.len();
            self.changed.notify_all();
            if let Err(error) = written {
                self.end();
                return Err(error);
            }
        }
    }
}

//! Counts what goes through a socket.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails by panicking")]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

/// What went through since it was last asked.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Traffic {
    /// Bytes from clients.
    pub(crate) up: u64,
    /// Bytes to clients.
    pub(crate) down: u64,
    /// How often the direction changed, the first word included.
    pub(crate) turns: u32,
    /// Connections that have ended.
    pub(crate) ended: u32,
    last: Option<Way>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// A socket in front of another one. Meant for one client at a time.
pub(crate) struct Counter {
    socket: PathBuf,
    traffic: Arc<Mutex<Traffic>>,
}

impl Counter {
    /// Listens at `socket`, and passes on what comes to the other one.
    pub(crate) fn start(socket: &Path, to: &Path) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let traffic: Arc<Mutex<Traffic>> = Arc::default();
        let (counted, to) = (traffic.clone(), to.to_owned());
        thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                let Ok(server) = UnixStream::connect(&to) else { return };
                let (client_too, server_too) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let up = {
                    let counted = counted.clone();
                    thread::spawn(move || pass(client, server, Way::Up, &counted))
                };
                pass(server_too, client_too, Way::Down, &counted);
                up.join().unwrap();
                counted.lock().unwrap().ended += 1;
            }
        });
        Self {
            socket: socket.to_owned(),
            traffic,
        }
    }

    pub(crate) fn socket(&self) -> &str {
        self.socket.to_str().unwrap()
    }

    /// What one client said and heard, once its connection has ended.
    pub(crate) fn take(&self) -> Traffic {
        nixci_store::testing::poll_until("a connection to end", || {
            let mut traffic = self.traffic.lock().unwrap();
            (traffic.ended > 0).then(|| std::mem::take(&mut *traffic))
        })
    }
}

fn pass(mut from: UnixStream, mut to: UnixStream, way: Way, counted: &Mutex<Traffic>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        {
            let mut traffic = counted.lock().unwrap();
            match way {
                Way::Up => traffic.up += read as u64,
                Way::Down => traffic.down += read as u64,
            }
            if traffic.last.replace(way) != Some(way) {
                traffic.turns += 1;
            }
        }
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

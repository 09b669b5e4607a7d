//! The binary cache over HTTP. Stock Nix has no server to stand beside it.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Barrier;
use std::time::Instant;

use nixci_protocol::types::StoreDir;
use nixci_store::testing::{TestDaemon, poll_until};
use serde_json::{Value, json};

use crate::nars::{add, noise};
use crate::world::{self, STOCK, World};
use crate::{Outcome, ROUNDS, median};

const CLIENTS: usize = 16;
/// Paths whose narinfos are asked for, again and again.
const PATHS: usize = 4_000;
/// Questions of one client.
const ASKED: usize = 2_000;
const NAR: usize = 64 << 20;
/// NARs that one client fetches.
const FETCHED: usize = 2;

/// A client that keeps its connection.
struct Http {
    stream: TcpStream,
    address: String,
    buffer: Vec<u8>,
}

/// What of an answer counts here.
struct Answer {
    length: Option<u64>,
    /// What of the body came with the head.
    body: Vec<u8>,
}

impl Http {
    fn open(address: &str) -> Outcome<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            address: address.to_owned(),
            buffer: vec![0; 1 << 20],
        })
    }

    fn request(address: &str, path: &str) -> Vec<u8> {
        format!("GET /{path} HTTP/1.1\r\nHost: {address}\r\n\r\n").into_bytes()
    }

    /// Asks, and reads the head of the answer.
    fn begin(&mut self, request: &[u8]) -> Outcome<Answer> {
        self.stream.write_all(request)?;
        let mut filled = 0;
        let end = loop {
            let taken = self.stream.read(&mut self.buffer[filled..])?;
            if taken == 0 {
                return Err("the server hung up".into());
            }
            filled += taken;
            if let Some(at) = self.buffer[..filled].windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
        };
        let head = std::str::from_utf8(&self.buffer[..end])?.to_ascii_lowercase();
        if !head.starts_with("http/1.1 200 ") {
            return Err(head.into());
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        Ok(Answer {
            length: length.map(str::parse).transpose()?,
            body: self.buffer[end..filled].to_vec(),
        })
    }

    /// Asks, and reads so many bytes of an answer that tells its length.
    fn length_of(&mut self, request: &[u8]) -> Outcome<u64> {
        let answer = self.begin(request)?;
        let length = answer.length.ok_or("an answer does not tell its length")?;
        let mut left = length - answer.body.len() as u64;
        while left > 0 {
            let room = self.buffer.len().min(usize::try_from(left)?);
            let taken = self.stream.read(&mut self.buffer[..room])?;
            if taken == 0 {
                return Err("the server hung up in the middle of an answer".into());
            }
            left -= taken as u64;
        }
        Ok(length)
    }

    /// A short answer as text.
    fn text(&mut self, path: &str) -> Outcome<String> {
        let request = Self::request(&self.address, path);
        let mut answer = self.begin(&request)?;
        let length = usize::try_from(answer.length.ok_or("an answer does not tell its length")?)?;
        let before = answer.body.len();
        answer.body.resize(length, 0);
        self.stream.read_exact(&mut answer.body[before..])?;
        Ok(String::from_utf8(answer.body)?)
    }
}

/// Has all clients do the same at once, and returns the seconds until the last was done, and what each returned.
fn all<T: Send>(address: &str, act: impl Fn(&mut Http, usize) -> Outcome<T> + Sync) -> Outcome<(f64, Vec<T>)> {
    let start = Barrier::new(CLIENTS + 1);
    let done = std::thread::scope(|scope| -> Result<(f64, Vec<T>), String> {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|nth| {
                let (start, act) = (&start, &act);
                scope.spawn(move || {
                    let client = Http::open(address);
                    start.wait();
                    client
                        .and_then(|mut client| act(&mut client, nth))
                        .map_err(|error| error.to_string())
                })
            })
            .collect();
        start.wait();
        let began = Instant::now();
        let mut results = Vec::new();
        for client in clients {
            results.push(client.join().map_err(|_| "a client panicked".to_owned())??);
        }
        Ok((began.elapsed().as_secs_f64(), results))
    })?;
    Ok(done)
}

/// Narinfos of paths that were asked for before.
pub(crate) fn narinfos(world: &World) -> Outcome<Value> {
    let address = world.ours.http().to_string();
    let every = world.recorded / PATHS;
    let requests: Vec<Vec<u8>> = world
        .paths
        .iter()
        .take(world.recorded)
        .step_by(every)
        .map(|path| Http::request(&address, &format!("{}.narinfo", path.hash_part())))
        .collect();
    let mut first = Http::open(&address)?;
    for request in &requests {
        first.length_of(request)?;
    }
    let (mut rates, mut tails) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (seconds, times) = all(&address, |client, nth| {
            let mut times = Vec::with_capacity(ASKED);
            let from = nth * requests.len() / CLIENTS;
            for request in requests.iter().cycle().skip(from).take(ASKED) {
                let began = Instant::now();
                client.length_of(request)?;
                times.push(began.elapsed().as_secs_f64());
            }
            Ok(times)
        })?;
        let mut times = times.concat();
        times.sort_by(f64::total_cmp);
        rates.push(times.len() as f64 / seconds);
        tails.push(times[times.len() * 99 / 100] * 1000.0);
    }
    Ok(json!({
        "name": "http-narinfo",
        "clients": CLIENTS,
        "stock": null,
        "nixci": { "ops_per_s": median(rates), "p99_ms": median(tails) },
        "ratio": null,
    }))
}

/// One NAR that does not compress, out of the cache on disk.
pub(crate) fn nar() -> Outcome<Value> {
    let stock = TestDaemon::start(STOCK);
    let ours = world::in_front_of(&stock);
    let address = ours.http().to_string();
    let file = stock.scratch().join("content");
    fs::write(&file, noise(NAR))?;
    let path = StoreDir::default().parse(&add(&stock, &file)?)?;
    let mut first = Http::open(&address)?;
    let narinfo = first.text(&format!("{}.narinfo", path.hash_part()))?;
    let url = narinfo.lines().find_map(|line| line.strip_prefix("URL: "));
    let request = Http::request(&address, url.ok_or("a narinfo names its NAR")?);
    // The first time it is packed as it is sent, the second time it is written to the cache too.
    poll_until("a NAR to be in the cache", || {
        let mut client = Http::open(&address).ok()?;
        let length = client.begin(&request).ok()?.length;
        if length.is_none() {
            // To the end, so that it is kept.
            drop(std::io::copy(&mut client.stream.take(NAR as u64), &mut std::io::sink()));
        }
        length
    });
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        let (seconds, bytes) = all(&address, |client, _| {
            let mut bytes = 0;
            for _ in 0..FETCHED {
                bytes += client.length_of(&request)?;
            }
            Ok(bytes)
        })?;
        rates.push(bytes.iter().sum::<u64>() as f64 / f64::from(1 << 30) / seconds);
    }
    Ok(json!({
        "name": "http-nar",
        "clients": CLIENTS,
        "stock": null,
        "nixci": { "gib_per_s": median(rates) },
        "ratio": null,
    }))
}

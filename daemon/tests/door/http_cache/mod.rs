//! The binary cache over HTTP, as stock Nix, curl and others meet it.

mod answers;
mod clients;
mod disk;
mod full;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Output;

use nixci_daemon::{Config, Running, start};
use nixci_store::testing::{NixVersion, TestDaemon};
use reqwest::{Method, RequestBuilder, Response, StatusCode};

use crate::common::config;

/// A store, the daemon in front of it, and a client that follows nothing and decodes nothing.
struct Cached {
    store: TestDaemon,
    home: tempfile::TempDir,
    daemon: Running,
    url: String,
    http: reqwest::Client,
}

impl Cached {
    async fn start(version: NixVersion) -> Self {
        Self::with(version, |_| {}).await
    }

    async fn with(version: NixVersion, change: impl FnOnce(&mut Config)) -> Self {
        let store = TestDaemon::start(version);
        let home = tempfile::tempdir().unwrap();
        let mut config = config(home.path(), &store, 2);
        change(&mut config);
        let daemon = start(config).await.unwrap();
        let url = format!("http://{}", daemon.http_addr.unwrap());
        nixci_daemon::tls::install_provider();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self {
            store,
            home,
            daemon,
            url,
            http,
        }
    }

    /// The same daemon after a stop and a start.
    async fn again(self, change: impl FnOnce(&mut Config)) -> Self {
        let Self {
            store,
            home,
            daemon,
            http,
            ..
        } = self;
        daemon.stop().await;
        let mut config = config(home.path(), &store, 2);
        change(&mut config);
        let daemon = start(config).await.unwrap();
        let url = format!("http://{}", daemon.http_addr.unwrap());
        Self {
            store,
            home,
            daemon,
            url,
            http,
        }
    }

    fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}/{path}", self.url))
    }

    async fn get(&self, path: &str) -> Response {
        self.ask(Method::GET, path).send().await.unwrap()
    }

    async fn text(&self, path: &str) -> String {
        let response = self.get(path).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        response.text().await.unwrap()
    }

    async fn bytes(&self, path: &str) -> Vec<u8> {
        let response = self.get(path).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        response.bytes().await.unwrap().into()
    }

    /// Adds a folder with files of these sizes to the store behind; the content of even ones compresses.
    fn add(&self, name: &str, sizes: &[usize]) -> String {
        let dir = self.store.scratch().join(name);
        std::fs::create_dir_all(dir.join("sub")).unwrap();
        for (nth, size) in sizes.iter().enumerate() {
            let mut content = noise((nth + name.len()) as u64, nth % 2 == 0);
            content.resize_with(content.len().min(*size), Default::default);
            let mut file = std::fs::File::create(dir.join("sub").join(format!("file-{nth}"))).unwrap();
            for at in (0..*size).step_by(BLOCK) {
                // Each block differs, so that none is like another one in any window.
                let block = content.len().min(size - at);
                content.rotate_left(block.min(97));
                file.write_all(&content[..block]).unwrap();
            }
        }
        std::os::unix::fs::symlink("sub/file-0", dir.join("link")).unwrap();
        let printed = self.store.run("nix-store", &["--add", dir.to_str().unwrap()]);
        printed.trim().to_owned()
    }

    /// The fields of a narinfo.
    async fn narinfo(&self, path: &str) -> Narinfo {
        let text = self.text(&format!("{}.narinfo", hash_part(path))).await;
        Narinfo(text)
    }

    /// Files in the cache on disk.
    fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.home.path().join("state/nars")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// NARs that were sent, by where they came from.
    async fn sent(&self, from: &str) -> u64 {
        let metrics = self.text("metrics").await;
        let line = format!("nixci_cache_nars_total{{from=\"{from}\"}} ");
        let count = metrics.lines().find_map(|text| text.strip_prefix(&line));
        count.map_or(0, |count| count.parse().unwrap())
    }

    async fn stop(self) {
        self.daemon.stop().await;
    }
}

const BLOCK: usize = 1 << 20;

/// A block of bytes that compress, or that don't.
fn noise(seed: u64, compresses: bool) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if compresses {
            state & 0x0303_0303_0303_0303
        } else {
            state
        }
    };
    (0..BLOCK / 8).flat_map(|_| next().to_le_bytes()).collect()
}

struct Narinfo(String);

impl Narinfo {
    fn get(&self, key: &str) -> Option<&str> {
        let begin = format!("{key}: ");
        self.0.lines().find_map(|line| line.strip_prefix(&begin))
    }

    fn of(&self, key: &str) -> &str {
        self.get(key).unwrap_or_else(|| panic!("no {key} in {}", self.0))
    }
}

fn hash_part(path: &str) -> &str {
    &path.rsplit('/').next().unwrap()[..32]
}

fn header<'r>(response: &'r Response, name: &reqwest::header::HeaderName) -> &'r str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

/// What the store behind says of a path.
fn info_of(store: &TestDaemon, path: &str) -> (String, String) {
    let query = |what: &str| store.run("nix-store", &["-q", what, path]).trim().to_owned();
    (query("--hash"), query("--size"))
}

fn dump(store: &TestDaemon, path: &str) -> Vec<u8> {
    let output = store.output("nix-store", &["--dump", store.physical(path).to_str().unwrap()]);
    assert!(output.status.success());
    output.stdout
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

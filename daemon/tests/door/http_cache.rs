//! The binary cache over HTTP, as stock Nix, curl and others meet it.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Output;

use nixci_daemon::{Config, Running, start};
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv};
use reqwest::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE, RANGE,
    RETRY_AFTER,
};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use rstest::rstest;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::client::succeeds;
use crate::common::{config, connect, submit, watch};

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

#[rstest]
#[case::oldest(NixVersion::V2_8)]
#[case::middle(NixVersion::V2_26)]
#[case::newest(NixVersion::V2_34)]
#[tokio::test(flavor = "multi_thread")]
async fn stock_clients_substitute_and_look_into_paths(#[case] version: NixVersion) {
    let cached = Cached::start(version).await;
    let drvs = cached.store.instantiate(
        "http-cache",
        &[
            TestDrv::good("base"),
            TestDrv::good("app").needs(&["base"]),
            TestDrv::good("other"),
        ],
    );
    let out = |drv: &str| cached.store.run("nix-store", &["-r", drv]).trim().to_owned();
    let (app, base) = (out(&drvs["app"]), out(&drvs["base"]));
    let mib = if version == NixVersion::V2_34 { 125 } else { 12 };
    let big = cached.add("big", &[mib << 20, mib << 20, 5, 0]);

    let client = TestDaemon::builder(version)
        .config(&format!("substituters = {}?trusted=1", cached.url))
        .start();
    let url = cached.url.as_str();
    let closure = succeeds(&client, &["path-info", "--store", url, "--recursive", &app]).await;
    assert!(closure.contains(&app) && closure.contains(&base), "{closure}");

    // As a substituter: the daemon of the client fetches what it lacks.
    client.run("nix-store", &["-r", &app, &big]);
    assert!(client.physical(&base).exists(), "the closure came too");
    for path in [&app, &base, &big] {
        assert_eq!(info_of(&client, path), info_of(&cached.store, path));
    }
    assert_eq!(dump(&client, &app), dump(&cached.store, &app));
    client.run("nix-store", &["--verify", "--check-contents"]);

    // What nobody has is built, or reported as missing.
    let other = cached.store.run("nix-store", &["-q", "--outputs", &drvs["other"]]);
    let missing = client.output("nix-store", &["-r", other.trim()]);
    assert!(!missing.status.success());

    // As a store to copy from, a second time, by another client.
    let second = TestDaemon::start(version);
    succeeds(&second, &["copy", "--no-check-sigs", "--from", url, &app, &big]).await;
    assert_eq!(info_of(&second, &big), info_of(&cached.store, &big));
    assert!(cached.sent("fill").await + cached.sent("disk").await > 0);

    // Without trust nothing arrives that is not signed; what its content proves does.
    let strict = TestDaemon::builder(version)
        .config(&format!("substituters = {url}"))
        .start();
    let refused = strict.output("nix-store", &["-r", &app]);
    assert!(!refused.status.success(), "unsigned, and yet it came");
    assert!(!strict.physical(&app).exists());
    let small = cached.add("small", &[10]);
    strict.run("nix-store", &["-r", &small]);

    let ls = |store: String| {
        let arguments = ["store", "ls", "--json", "--recursive", "--store", &store, &big].map(str::to_owned);
        let client = &second;
        async move {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let text = succeeds(client, &arguments).await;
            without_offsets(serde_json::from_str(&text).unwrap())
        }
    };
    let listed = ls(url.to_owned()).await;
    assert_eq!(listed, ls(cached.store.local_uri()).await);
    let ours: Value = serde_json::from_str(&cached.text(&format!("{}.ls", hash_part(&big))).await).unwrap();
    assert_eq!(ours["version"], 1);
    assert_eq!(without_offsets(ours["root"].clone()), listed);

    let file = format!("{big}/sub/file-2");
    let content = succeeds(&second, &["store", "cat", "--store", url, &file]).await;
    assert_eq!(content.as_bytes(), std::fs::read(cached.store.physical(&file)).unwrap());
    cached.stop().await;
}

/// A listing as stores give it, which have no NAR.
fn without_offsets(mut node: Value) -> Value {
    let node_object = node.as_object_mut().unwrap();
    node_object.remove("narOffset");
    if node_object.get("executable") == Some(&Value::Bool(false)) {
        node_object.remove("executable");
    }
    if let Some(Value::Object(entries)) = node_object.get_mut("entries") {
        for (_, entry) in entries.iter_mut() {
            *entry = without_offsets(entry.take());
        }
    }
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_says_what_it_is_and_how_long_it_holds() {
    let cached = Cached::with(NixVersion::V2_34, |config| config.cache.priority = 33).await;
    let path = cached.add("tree", &[3 << 20, 2 << 20, 1]);
    assert_eq!(
        cached.text("nix-cache-info").await,
        "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 33\n"
    );
    let narinfo = cached.narinfo(&path).await;
    let (nar_hash, nar_size) = info_of(&cached.store, &path);
    assert_eq!(narinfo.of("StorePath"), path);
    assert_eq!((narinfo.of("NarHash"), narinfo.of("NarSize")), (&*nar_hash, &*nar_size));
    assert_eq!((narinfo.of("Compression"), narinfo.of("References")), ("zstd", ""));
    assert!(narinfo.get("CA").is_some());
    let packed = narinfo.of("URL").to_owned();
    let hash = hash_part(&path);
    assert!(packed.starts_with(&format!("nar/{hash}-")) && packed.ends_with(".nar.zst"));
    let plain = packed.strip_suffix(".zst").unwrap().to_owned();
    // Before anything is on disk, and after.
    for round in 0..3 {
        for (address, kind, holds) in [
            ("nix-cache-info", "text/x-nix-cache-info", "max-age=86400"),
            (&*format!("{hash}.narinfo"), "text/x-nix-narinfo", "max-age=86400"),
            (&format!("{hash}.ls"), "application/json", "max-age=86400"),
            (&packed, "application/x-nix-nar", "max-age=31536000, immutable"),
            (&plain, "application/x-nix-nar", "max-age=31536000, immutable"),
        ] {
            let head = cached.ask(Method::HEAD, address).send().await.unwrap();
            let got = cached
                .ask(Method::GET, address)
                .header("accept-encoding", "gzip, zstd, br")
                .send()
                .await
                .unwrap();
            for response in [&head, &got] {
                assert_eq!(response.status(), StatusCode::OK, "{address}");
                assert_eq!(header(response, &CONTENT_TYPE), kind, "{address}");
                assert_eq!(header(response, &CACHE_CONTROL), holds, "{address}");
                assert!(response.headers().get("content-encoding").is_none(), "{address}");
            }
            let etag = header(&got, &ETAG).to_owned();
            assert!(etag.len() > 10 && header(&head, &ETAG) == etag, "{address}: {etag}");
            let told = header(&got, &CONTENT_LENGTH).to_owned();
            let length = got.bytes().await.unwrap().len().to_string();
            // What is packed as it is sent is as long as it gets.
            if address != packed || round == 2 {
                assert_eq!(told, length, "{address} in round {round}");
                assert_eq!(header(&head, &CONTENT_LENGTH), length, "{address} in round {round}");
            }
            let same = cached
                .ask(Method::GET, address)
                .header(IF_NONE_MATCH, &etag)
                .send()
                .await
                .unwrap();
            assert_eq!(same.status(), StatusCode::NOT_MODIFIED, "{address}");
            assert_eq!((header(&same, &ETAG), header(&same, &CACHE_CONTROL)), (&*etag, holds));
            assert!(same.bytes().await.unwrap().is_empty());
            let other = cached
                .ask(Method::GET, address)
                .header(IF_NONE_MATCH, "\"x\"")
                .send()
                .await
                .unwrap();
            assert_eq!(other.status(), StatusCode::OK);
            drop(other.bytes().await.unwrap());
        }
    }
    let nar = dump(&cached.store, &path);
    assert_eq!(cached.bytes(&plain).await, nar);
    let file = cached.bytes(&packed).await;
    assert_eq!(zstd::decode_all(&file[..]).unwrap(), nar);
    let narinfo = cached.narinfo(&path).await;
    assert_eq!(narinfo.of("FileSize"), file.len().to_string());
    let hashed = nixci_protocol::types::Hash::from_sha256(Sha256::digest(&file).into());
    assert_eq!(narinfo.of("FileHash"), hashed.to_string());

    let listing: Value = serde_json::from_str(&cached.text(&format!("{hash}.ls")).await).unwrap();
    let entries = &listing["root"]["entries"];
    assert_eq!(entries["link"]["target"], "sub/file-0");
    for nth in 0..3 {
        let entry = &entries["sub"]["entries"][format!("file-{nth}")];
        let number = |key: &str| entry[key].as_u64().unwrap() as usize;
        let content = std::fs::read(cached.store.physical(&format!("{path}/sub/file-{nth}"))).unwrap();
        assert_eq!(nar[number("narOffset")..][..number("size")], content);
    }
    cached.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_are_the_same_bytes_wherever_they_come_from() {
    let cached = Cached::start(NixVersion::V2_34).await;
    let large = cached.add("large", &[4 << 20, 3 << 20]);
    let small = cached.add("small", &[4_000, 3]);
    for path in [&large, &small] {
        let packed = cached.narinfo(path).await.of("URL").to_owned();
        let plain = packed.strip_suffix(".zst").unwrap().to_owned();
        let whole_plain = dump(&cached.store, path);
        // A range is the first thing that is asked: the answer has to tell the length, so that the file is made first.
        let first = cached
            .ask(Method::GET, &packed)
            .header(RANGE, "bytes=10-19")
            .send()
            .await
            .unwrap();
        assert_eq!(first.status(), StatusCode::PARTIAL_CONTENT);
        let etag = header(&first, &ETAG).to_owned();
        let first = first.bytes().await.unwrap();
        assert_eq!(cached.files().len(), 1, "a small one has no need of it");
        let whole_packed = cached.bytes(&packed).await;
        assert_eq!(first, whole_packed[10..20]);
        assert_eq!(zstd::decode_all(&whole_packed[..]).unwrap(), whole_plain);

        for (address, whole) in [(&packed, &whole_packed), (&plain, &whole_plain)] {
            let length = whole.len();
            for (range, expected) in [
                ("bytes=0-".to_owned(), 0..length),
                (format!("bytes={}-", length / 2), length / 2..length),
                ("bytes=5-5".to_owned(), 5..6),
                ("bytes=-7".to_owned(), length - 7..length),
                (format!("bytes=100-{}", length * 2), 100..length),
            ] {
                let response = cached
                    .ask(Method::GET, address)
                    .header(RANGE, &range)
                    .send()
                    .await
                    .unwrap();
                assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT, "{address} {range}");
                let told = format!("bytes {}-{}/{length}", expected.start, expected.end - 1);
                assert_eq!(header(&response, &CONTENT_RANGE), told);
                assert_eq!(header(&response, &CONTENT_LENGTH), expected.len().to_string());
                assert_eq!(header(&response, &ACCEPT_RANGES), "bytes");
                assert_eq!(response.bytes().await.unwrap(), whole[expected], "{address} {range}");
            }
            for range in [format!("bytes={length}-"), "bytes=-0".to_owned()] {
                let response = cached
                    .ask(Method::GET, address)
                    .header(RANGE, &range)
                    .send()
                    .await
                    .unwrap();
                assert_eq!(
                    response.status(),
                    StatusCode::RANGE_NOT_SATISFIABLE,
                    "{address} {range}"
                );
                assert_eq!(header(&response, &CONTENT_RANGE), format!("bytes */{length}"));
            }
            for (range, only) in [
                ("bytes=0-1,4-5", None),
                ("bytes=9-1", None),
                ("bytes=1-2", Some("\"other\"")),
            ] {
                let mut request = cached.ask(Method::GET, address).header(RANGE, range);
                if let Some(only) = only {
                    request = request.header(IF_RANGE, only);
                }
                let response = request.send().await.unwrap();
                assert_eq!(response.status(), StatusCode::OK, "{address} {range}");
                assert_eq!(response.bytes().await.unwrap(), whole[..]);
            }
        }
        let same = cached
            .ask(Method::GET, &packed)
            .header(RANGE, "bytes=1-2")
            .header(IF_RANGE, etag);
        assert_eq!(same.send().await.unwrap().status(), StatusCode::PARTIAL_CONTENT);
        let head = cached
            .ask(Method::HEAD, &packed)
            .header(RANGE, "bytes=1-2")
            .send()
            .await
            .unwrap();
        assert_eq!(
            (head.status(), header(&head, &CONTENT_LENGTH)),
            (StatusCode::OK, &*whole_packed.len().to_string())
        );
    }
    cached.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_broke_off_goes_on_with_curl_and_over_http_2() {
    let cached = Cached::start(NixVersion::V2_34).await;
    let path = cached.add("resumed", &[10 << 20, 9 << 20]);
    let packed = cached.narinfo(&path).await.of("URL").to_owned();
    // The first time it is packed as it is sent: the beginning of that must fit what the file has.
    let whole = cached.bytes(&packed).await;
    assert!(cached.files().is_empty());
    let file = cached.home.path().join("download");
    for option in ["--http1.1", "--http2-prior-knowledge"] {
        std::fs::write(&file, &whole[..whole.len() / 3]).unwrap();
        let mut curl = tokio::process::Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", option, "-C", "-"])
            .args(["--write-out", "%{http_version} %{http_code}", "-o"])
            .arg(&file)
            .arg(format!("{}/{packed}", cached.url));
        let output = curl.output().await.unwrap();
        assert!(output.status.success(), "{option}: {}", said(&output));
        let version = if option == "--http1.1" { "1.1" } else { "2" };
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{version} 206"));
        assert_eq!(std::fs::read(&file).unwrap(), whole, "{option}");
    }
    // Many at once over one connection.
    let http2 = reqwest::Client::builder()
        .no_proxy()
        .http2_prior_knowledge()
        .build()
        .unwrap();
    let hash = hash_part(&path);
    let mut asking = tokio::task::JoinSet::new();
    for nth in 0..60 {
        let address = match nth % 3 {
            0 => format!("{}/{hash}.narinfo", cached.url),
            1 => format!("{}/{hash}.ls", cached.url),
            _ => format!("{}/{packed}", cached.url),
        };
        let request = http2.get(address);
        asking.spawn(async move {
            let response = request.send().await.unwrap();
            assert_eq!(
                (response.status(), response.version()),
                (StatusCode::OK, reqwest::Version::HTTP_2)
            );
            response.bytes().await.unwrap().len()
        });
    }
    let lengths = asking.join_all().await;
    assert_eq!(lengths.iter().filter(|length| **length == whole.len()).count(), 20);
    cached.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_and_what_means_nothing_is_told_for_a_short_time_only() {
    let cached = Cached::start(NixVersion::V2_26).await;
    let path = cached.add("one", &[10]);
    let hash = hash_part(&path);
    let nobody = "0".repeat(32);
    let address = cached.narinfo(&path).await.of("URL").to_owned();
    let nar_hash = address.split_once('-').unwrap().1;
    let no_nar = format!("nar/{hash}-{}.nar.zst", "1".repeat(52));
    let drv = format!("{nobody}-x.drv");
    for missing in [
        format!("{nobody}.narinfo"),
        format!("{nobody}.ls"),
        format!("nar/{nobody}-{nar_hash}"),
        no_nar,
        format!("log/{drv}"),
        format!("log/{nobody}-x"),
        format!("realisations/sha256:{}!out.doi", "0".repeat(64)),
        format!("build-trace-v2/{drv}/out.doi"),
    ] {
        for method in [Method::GET, Method::HEAD] {
            let response = cached.ask(method, &missing).send().await.unwrap();
            let (status, holds) = (response.status(), header(&response, &CACHE_CONTROL).to_owned());
            let text = response.text().await.unwrap();
            assert_eq!(status, StatusCode::NOT_FOUND, "{missing}: {text}");
            assert_eq!(holds, "max-age=60", "{missing}");
            assert!(text.lines().count() < 2, "{text}");
        }
    }
    let long = "0".repeat(5_000);
    for bad in [
        ".narinfo".to_owned(),
        "x.narinfo".to_owned(),
        format!("{hash}x.narinfo"),
        format!("{}.ls", hash.to_uppercase()),
        format!("{hash}%00.narinfo"),
        format!("{hash}%2f..%2f.narinfo"),
        format!("{long}.narinfo"),
        format!("nar/{hash}.nar.zst"),
        format!("nar/{hash}-{nar_hash}.xz"),
        "nar/..%2f..%2fetc%2fpasswd".to_owned(),
        "nar/%ff.nar".to_owned(),
        format!("nar/{long}-{long}.nar.zst"),
        "log/x".to_owned(),
        "log/..%2fx.drv".to_owned(),
        format!("log/{nobody}-%00.drv"),
        "realisations/x.doi".to_owned(),
        format!("realisations/sha256:{}!out", "0".repeat(64)),
        format!("realisations/sha256:{}!..doi", "0".repeat(63)),
        format!("build-trace-v2/x/{long}.doi"),
        format!("build-trace-v2/{drv}/a%2fb.doi"),
        format!("build-trace-v2/{drv}/out"),
    ] {
        let response = cached.get(&bad).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{bad}");
        assert!(response.text().await.unwrap().lines().count() < 2, "{bad}");
    }
    for (method, path) in [
        (Method::PUT, "nix-cache-info"),
        (Method::POST, &*address),
        (Method::DELETE, "x.narinfo"),
    ] {
        let response = cached.ask(method, path).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
    }
    // It was not remembered as missing: what comes later is found.
    let later = cached.add("later", &[11]);
    assert_eq!(cached.narinfo(&later).await.of("StorePath"), later);
    // And what is no address of the cache is still a page.
    let page = cached.get("no-such-page").await;
    assert_eq!(page.status(), StatusCode::NOT_FOUND);
    cached.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_dies_in_the_middle_of_a_nar_breaks_the_answer_off() {
    let cached = Cached::start(NixVersion::V2_34).await;
    let path = cached.add("dies", &[0, 250 << 20]);
    let small = cached.add("small", &[0, 2 << 20]);
    let packed = cached.narinfo(&path).await.of("URL").to_owned();
    let plain = packed.strip_suffix(".zst").unwrap().to_owned();
    let small_packed = cached.narinfo(&small).await.of("URL").to_owned();
    let kept = cached.bytes(&small_packed).await;
    assert_eq!(cached.bytes(&small_packed).await, kept);
    assert_eq!(cached.files().len(), 1);

    // On the fly; while it is filled; as it is.
    for (address, how) in [(&packed, "store"), (&packed, "fill"), (&plain, "store")] {
        let before = cached.sent(how).await;
        let mut response = cached.get(address).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert!(!response.chunk().await.unwrap().unwrap().is_empty());
        assert_eq!(cached.sent(how).await, before + 1);
        cached.store.kill9();
        let broken = loop {
            match response.chunk().await {
                Ok(Some(_)) => {}
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        assert!(broken, "{address} ended well");
        cached.store.start_again();
        assert_eq!(cached.files().len(), 1, "nothing of it was kept");
    }

    // While it is gone nobody is told that something is not there.
    cached.store.kill9();
    for unknown in [format!("{}.narinfo", "0".repeat(32)), plain.clone()] {
        for method in [Method::GET, Method::HEAD] {
            let response = cached.ask(method, &unknown).send().await.unwrap();
            if unknown != plain {
                assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{unknown}");
                assert_eq!(header(&response, &CACHE_CONTROL), "no-store");
                assert!(header(&response, &RETRY_AFTER).parse::<u32>().unwrap() > 0);
            }
            assert_ne!(response.status(), StatusCode::NOT_FOUND, "{unknown}");
        }
    }
    assert_eq!(
        cached.bytes(&small_packed).await,
        kept,
        "what is on disk is there all the same"
    );
    cached.store.start_again();
    let response = cached.get(&format!("{}.narinfo", "0".repeat(32))).await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert_eq!(cached.bytes(&packed).await.len(), cached.bytes(&packed).await.len());
    cached.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_twice_is_kept_and_no_more_than_fits() {
    let small = |config: &mut Config| config.cache.size = Some(8 << 20);
    let cached = Cached::with(NixVersion::V2_34, small).await;
    let mut addresses = Vec::new();
    for name in ["a", "bb", "ccc"] {
        let path = cached.add(name, &[1, 3 << 20]);
        addresses.push(cached.narinfo(&path).await.of("URL").to_owned());
    }
    let first = cached.bytes(&addresses[0]).await;
    assert_eq!((cached.files().len(), cached.sent("store").await), (0, 1));
    // Two at once, and one that goes away.
    let leaving = cached.get(&addresses[0]).await;
    let (second, third) = tokio::join!(cached.bytes(&addresses[0]), cached.bytes(&addresses[0]));
    drop(leaving);
    assert!(second == first && third == first);
    assert_eq!(cached.files().len(), 1, "one file, however many asked");
    let from_disk = cached.sent("disk").await;
    assert_eq!(cached.bytes(&addresses[0]).await, first);
    assert_eq!(
        (cached.sent("disk").await, cached.sent("store").await),
        (from_disk + 1, 1)
    );

    let mut whole = vec![first];
    for address in &addresses[1..] {
        let once = cached.bytes(address).await;
        assert_eq!(cached.bytes(address).await, once);
        whole.push(once);
    }
    assert_eq!(cached.files().len(), 2, "the least recently used one went");
    let held: u64 = cached.files().iter().map(|file| file.metadata().unwrap().len()).sum();
    assert!(held <= 8 << 20);

    // Larger than may be kept: that shows only while it is written, and the answer goes on without it.
    let path = cached.add("too-large", &[1, 6 << 20]);
    let large = cached.narinfo(&path).await.of("URL").to_owned();
    let once = cached.bytes(&large).await;
    for _ in 0..2 {
        assert!(cached.bytes(&large).await == once);
    }
    let part = cached
        .ask(Method::GET, &large)
        .header(RANGE, "bytes=5-")
        .send()
        .await
        .unwrap();
    assert_eq!(
        part.status(),
        StatusCode::OK,
        "its length is never known: the whole of it"
    );
    assert!(part.bytes().await.unwrap() == once);
    assert_eq!(
        cached.files().len(),
        1,
        "it took one place, and not again once that was known"
    );

    // A restart keeps them; a damaged one is found out before a byte of it is sent.
    let cached = cached.again(small).await;
    let from_disk = cached.sent("disk").await;
    assert!(cached.bytes(&addresses[2]).await == whole[2]);
    assert_eq!(cached.sent("disk").await, from_disk + 1);
    for file in cached.files() {
        let mut bytes = std::fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        std::fs::write(&file, bytes).unwrap();
    }
    let cached = cached.again(small).await;
    for (address, whole) in addresses.iter().zip(&whole) {
        assert!(cached.bytes(address).await == *whole);
    }
    assert_eq!(cached.sent("disk").await, from_disk + 1);

    // A disk that takes nothing is nobody's problem.
    std::fs::remove_dir_all(cached.home.path().join("state/nars")).unwrap();
    for (address, whole) in addresses.iter().zip(&whole) {
        for _ in 0..2 {
            assert!(cached.bytes(address).await == *whole);
        }
    }
    let off = cached.again(|config| config.cache.size = Some(0)).await;
    for _ in 0..3 {
        assert!(off.bytes(&addresses[0]).await == whole[0]);
    }
    assert!(off.files().is_empty());
    let none = off.again(|config| config.cache.serve = false).await;
    assert_eq!(none.get("nix-cache-info").await.status(), StatusCode::NOT_FOUND);
    assert_eq!(none.get(&addresses[0]).await.status(), StatusCode::NOT_FOUND);
    none.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_of_builds_are_fetched_by_every_client() {
    let cached = Cached::start(NixVersion::V2_34).await;
    let drvs = cached
        .store
        .instantiate("http-log", &[TestDrv::good("talks").script("echo this was said")]);
    let mut connection = connect(&cached.daemon.socket).await;
    let evaluation = submit(&mut connection, &cached.store, "http-log", &drvs).await;
    watch(&mut connection, evaluation).await;
    drop(connection);
    let drv = &drvs["talks"];
    let out = cached.store.run("nix-store", &["-q", "--outputs", drv]);
    for version in [NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34] {
        let client = TestDaemon::start(version);
        for of in [drv.as_str(), out.trim()] {
            let log = succeeds(&client, &["log", "--store", &cached.url, of]).await;
            assert!(
                log.contains("building talks") && log.contains("this was said"),
                "{version} {of}: {log}"
            );
        }
    }
    let name = drv.rsplit('/').next().unwrap();
    for name in [
        name,
        name.strip_suffix(".drv").unwrap(),
        out.trim().rsplit('/').next().unwrap(),
    ] {
        let response = cached.get(&format!("log/{name}")).await;
        assert_eq!(header(&response, &CONTENT_TYPE), "text/plain; charset=utf-8");
        assert_eq!(header(&response, &CACHE_CONTROL), "max-age=60");
        assert!(response.text().await.unwrap().contains("this was said"), "{name}");
    }
    cached.stop().await;
}

#[rstest]
#[case::oldest(NixVersion::V2_8)]
#[case::middle(NixVersion::V2_26)]
#[case::newest(NixVersion::V2_34)]
#[tokio::test(flavor = "multi_thread")]
async fn outputs_of_content_addressed_derivations_are_substituted(#[case] version: NixVersion) {
    let features = "extra-experimental-features = ca-derivations";
    let store = TestDaemon::builder(version).config(features).start();
    let home = tempfile::tempdir().unwrap();
    let daemon = start(config(home.path(), &store, 1)).await.unwrap();
    let url = format!("http://{}", daemon.http_addr.unwrap());
    let drvs = [TestDrv::good("floats")
        .attribute("__contentAddressed", "true")
        .attribute("outputHashMode", "\"recursive\"")
        .attribute("outputHashAlgo", "\"sha256\"")];
    let drv = store.instantiate("http-ca", &drvs)["floats"].clone();
    let out = store.run("nix-store", &["-r", &drv]);
    let client = TestDaemon::builder(version)
        .max_jobs(0)
        .config(&format!("{features}\nsubstituters = {url}?trusted=1"))
        .start();
    assert_eq!(client.instantiate("http-ca", &drvs)["floats"], drv);
    assert_eq!(client.run("nix-store", &["-r", &drv]), out);
    assert!(client.physical(out.trim()).exists());
    daemon.stop().await;
}

//! What answers say of themselves, parts of them, and what is no address.

use nixci_store::testing::NixVersion;
use reqwest::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE, RANGE,
};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{Cached, dump, hash_part, header, info_of, said};

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
    nixci_daemon::tls::install_provider();
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

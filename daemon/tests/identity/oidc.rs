//! Jobs that bring a token of an issuer that others wrote.

use std::net::SocketAddr;

use nixci_daemon::config::{Oidc, Reuse};
use nixci_daemon::{Running, start};
use nixci_protocol::client;
use nixci_protocol::nixci::control::{Begun, EvaluationSummary, Info, ProjectSummary, Request, Submission};
use nixci_protocol::nixci::issuer::IssuerStatus;
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv};
use serde_json::json;

use crate::common;
use crate::issuer::{AUDIENCE, COMMIT, Issuer, altered, confused, now, unsigned, with};
use crate::upgrade::{bearer, connect, turned};

struct World {
    store: TestDaemon,
    _home: tempfile::TempDir,
    issuer: Issuer,
    daemon: Running,
    http: SocketAddr,
}

async fn world(change: impl FnOnce(&mut Oidc)) -> World {
    let store = TestDaemon::start(NixVersion::V2_34);
    let home = tempfile::tempdir().unwrap();
    let issuer = Issuer::start(home.path());
    let mut config = common::config(home.path(), &store, 1);
    let mut oidc = issuer.config();
    change(&mut oidc);
    config.oidc = vec![oidc];
    let daemon = start(config).await.unwrap();
    let http = daemon.http_addr.unwrap();
    World {
        store,
        _home: home,
        issuer,
        daemon,
        http,
    }
}

fn submission(key: &str) -> Submission {
    Submission {
        project: "o/r".to_owned(),
        commit: Some(COMMIT.to_owned()),
        ..common::submission(key)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_submits_for_its_project_and_commit_and_nothing_else() {
    let World {
        store,
        issuer,
        daemon,
        http,
        ..
    } = world(|_| {}).await;
    let mut job = connect(http, &issuer.make(json!({})).await).await.unwrap();
    let info: Info = common::ask(&mut job, &Request::Info).await;
    assert!(info.principal.ends_with(":o/r#77") && !info.trusted, "{info:?}");
    // Of all that a forged submission could say.
    for (wrong, words) in [
        (
            Submission {
                project: "o/other".to_owned(),
                ..submission("a")
            },
            "is of project `o/r`",
        ),
        (
            Submission {
                commit: Some("f".repeat(40)),
                ..submission("b")
            },
            COMMIT,
        ),
        (
            Submission {
                commit: None,
                ..submission("c")
            },
            "--commit",
        ),
        (
            Submission {
                git_ref: Some("release".to_owned()),
                ..submission("d")
            },
            "`release`",
        ),
        (
            Submission {
                pull_request: Some(7),
                ..submission("e")
            },
            "names no `forge`",
        ),
    ] {
        let refused = common::try_ask::<Begun>(&mut job, &Request::SubmitBegin(wrong))
            .await
            .unwrap_err();
        assert!(refused.to_string().contains(words), "{refused}");
    }
    let drvs = store.instantiate("oidc", &[TestDrv::good("a")]);
    let body = common::body_for(&store, drvs.values()).await;
    job.call_framed(&nixci_protocol::nixci::AddClosure {}, &body[..], &mut ())
        .await
        .unwrap();
    let begun: Begun = common::ask(&mut job, &Request::SubmitBegin(submission("k"))).await;
    let end = Request::SubmitEnd {
        evaluation: begun.evaluation,
        error: None,
    };

    // The job of another repository sees and changes nothing of it.
    let mut other = connect(
        http,
        &issuer.make(json!({ "repository": "o/other", "run_id": "78" })).await,
    )
    .await
    .unwrap();
    let none = common::try_ask::<EvaluationSummary>(&mut other, &end)
        .await
        .unwrap_err();
    assert!(none.to_string().contains("there is no evaluation"), "{none}");
    let projects: Vec<ProjectSummary> = common::ask(&mut other, &Request::Projects).await;
    assert!(projects.is_empty());
    // Another run of the same repository may see it, and not add to it.
    let mut later = connect(http, &issuer.make(json!({ "run_id": "79" })).await)
        .await
        .unwrap();
    let none = common::try_ask::<EvaluationSummary>(&mut later, &end)
        .await
        .unwrap_err();
    assert!(none.to_string().contains("there is no evaluation"), "{none}");
    let projects: Vec<ProjectSummary> = common::ask(&mut later, &Request::Projects).await;
    assert_eq!(projects.len(), 1);
    // The same run goes on after a lost connection, with a token of its own.
    drop(job);
    let mut again = connect(http, &issuer.make(json!({})).await).await.unwrap();
    let resumed: Begun = common::ask(&mut again, &Request::SubmitBegin(submission("k"))).await;
    assert!(resumed.resumed && resumed.evaluation == begun.evaluation);
    let _: EvaluationSummary = common::ask(&mut again, &end).await;
    for refused in [
        Request::Stores,
        Request::Issuers,
        Request::CollectGarbage { dry_run: true },
    ] {
        let error = common::try_ask::<serde_json::Value>(&mut again, &refused)
            .await
            .unwrap_err();
        assert!(matches!(error, client::Error::Remote(_)), "{error}");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whether_the_keys_of_an_issuer_can_be_had_is_told() {
    let told = async |world: &World| -> IssuerStatus {
        let mut local = common::connect(&world.daemon.socket).await;
        let mut all: Vec<IssuerStatus> = common::ask(&mut local, &Request::Issuers).await;
        assert_eq!(all.len(), 1);
        all.remove(0)
    };
    let before = now() as i64 * 1_000;
    let up = world(|_| {}).await;
    let well = told(&up).await;
    assert_eq!((well.audience.as_str(), well.kind.as_str()), (AUDIENCE, "github"));
    assert!(
        well.keys.is_some_and(|count| count > 0) && well.error.is_none(),
        "{well:?}"
    );
    let fetched = well.fetched.unwrap();
    assert!(fetched >= before && fetched <= (now() as i64 + 1) * 1_000, "{well:?}");
    assert_eq!(well.good_until, Some(fetched + 24 * 3_600_000));
    up.daemon.stop().await;

    let port = nixci_store::testing::peers::free_port();
    let down = world(|oidc| oidc.issuer = format!("http://127.0.0.1:{port}")).await;
    let ill = told(&down).await;
    assert_eq!((ill.keys, ill.fetched), (None, None));
    assert!(ill.error.is_some(), "{ill:?}");
    down.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_do_not_count_are_refused_and_nothing_is_kept() {
    let World {
        issuer, daemon, http, ..
    } = world(|_| {}).await;
    let url = issuer.url();
    let times = |iat: i64, exp: i64| {
        let at = |offset: i64| now().cast_signed() + offset;
        json!({ "iat": at(iat), "nbf": at(iat), "exp": at(exp) })
    };
    let good = issuer.make(json!({})).await;
    let pem = issuer.get("/pem").await;
    let unknown_key = {
        let header = data_encoding::BASE64URL_NOPAD.encode(br#"{"alg":"RS256","kid":"nobody's"}"#);
        let (_, rest) = good.split_once('.').unwrap();
        format!("{header}.{rest}")
    };
    let cases = [
        ("expired", issuer.make(times(-1_000, -61)).await, 401, "has expired"),
        ("not yet valid", issuer.make(times(120, 300)).await, 401, "not good yet"),
        ("too old", issuer.make(times(-4_000, 100)).await, 401, "`max_age`"),
        ("lives too long", issuer.make(times(0, 8_000)).await, 401, "`max_age`"),
        (
            "another audience",
            issuer.make(json!({ "aud": ["https://else.example.org"] })).await,
            401,
            AUDIENCE,
        ),
        ("no audience", issuer.make(json!({ "aud": 7 })).await, 401, AUDIENCE),
        (
            "another issuer",
            issuer
                .make(json!({ "iss": "https://token.actions.githubusercontent.com" }))
                .await,
            401,
            "has the issuer of this token",
        ),
        (
            "an issuer that begins alike",
            issuer.make(json!({ "iss": format!("{url}/") })).await,
            401,
            "has the issuer of this token",
        ),
        ("alg none", unsigned(&url, "none"), 401, "signed in a way"),
        ("alg None", unsigned(&url, "nOnE"), 401, "signed in a way"),
        (
            "the public key as secret",
            confused(&url, pem.as_bytes()),
            401,
            "signed in a way",
        ),
        ("no signature", unsigned(&url, "RS256"), 401, "not signed by the key"),
        ("an unknown key", unknown_key, 401, "has no key of the name"),
        (
            "claims that were changed",
            altered(&good, |claims| claims["repository"] = json!("o/other")),
            401,
            "not signed by the key",
        ),
        (
            "garbage",
            "eyJhbGciOiJSUzI1NiJ9.e30.AA".to_owned(),
            401,
            "cannot be read",
        ),
        ("no claims at all", "eyJ.eyJ.eyJ".to_owned(), 401, "cannot be read"),
        (
            "too long",
            format!("ey{}.a.b", "x".repeat(16 * 1024)),
            401,
            "more than 16384 bytes",
        ),
        (
            "another repository",
            issuer.make(json!({ "repository": "evil/r" })).await,
            403,
            "repository `evil/r`",
        ),
        (
            "no commit",
            issuer.make(json!({ "sha": null })).await,
            403,
            "claim `sha`",
        ),
        (
            "a commit that is none",
            issuer.make(json!({ "sha": "main" })).await,
            403,
            "claim `sha`",
        ),
    ];
    for (what, token, status, words) in cases {
        let said = turned(http, &bearer(&token)).await;
        assert_eq!(said.status, status, "{what}: {said:?}");
        assert!(said.text.contains(words), "{what}: {said:?}");
        assert!(!said.text.contains(&token), "{what}: {said:?}");
        assert_eq!(said.text.trim_end().lines().count(), 1, "{what}: {said:?}");
    }
    // None of them used it up.
    connect(http, &good).await.unwrap();
    let replayed = turned(http, &bearer(&good)).await;
    assert!(
        replayed.status == 401 && replayed.text.contains("used before"),
        "{replayed:?}"
    );
    let projects = daemon.ci.projects().await.unwrap();
    assert!(projects.is_empty(), "nothing was stored");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_good_once_stays_used_after_a_restart() {
    let store = TestDaemon::start(NixVersion::V2_34);
    let home = tempfile::tempdir().unwrap();
    let issuer = Issuer::start(home.path());
    let config = || {
        let mut config = common::config(home.path(), &store, 1);
        config.oidc = vec![issuer.config()];
        config
    };
    let token = issuer.make(json!({})).await;
    let without_number = issuer.make(json!({ "jti": null })).await;
    let daemon = start(config()).await.unwrap();
    for token in [&token, &without_number] {
        drop(connect(daemon.http_addr.unwrap(), token).await.unwrap());
    }
    daemon.stop().await;
    let daemon = start(config()).await.unwrap();
    for token in [&token, &without_number] {
        let said = turned(daemon.http_addr.unwrap(), &bearer(token)).await;
        assert!(said.text.contains("used before"), "{said:?}");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_whole_job_is_good_for_all_its_commands() {
    let World {
        issuer, daemon, http, ..
    } = world(|oidc| oidc.reuse = Reuse::Job).await;
    let token = issuer.make(json!({})).await;
    for _ in 0..3 {
        drop(connect(http, &token).await.unwrap());
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_new_are_found_and_unknown_ones_are_not_asked_for_again_and_again() {
    let World {
        issuer, daemon, http, ..
    } = world(|_| {}).await;
    drop(connect(http, &issuer.make(json!({})).await).await.unwrap());
    let asked = || async { issuer.get("/asked").await.parse::<u32>().unwrap() };
    let before = asked().await;
    assert!((1..=2).contains(&before), "keys are kept: {before}");
    for (key, algorithm) in [("second", "ES256"), ("third", "PS256"), ("fourth", "EdDSA")] {
        issuer
            .post("/rotate", &json!({ "key": key, "algorithm": algorithm }))
            .await;
    }
    // The daemon asks again for a key it does not know, but not more often than every ten seconds.
    let found = tokio::task::block_in_place(|| {
        nixci_store::testing::poll_until("the new key to be known", || {
            tokio::runtime::Handle::current().block_on(async {
                let body = json!({ "claims": with(json!({})), "key": "second" });
                connect(http, &issuer.post("/make", &body).await).await.ok()
            })
        })
    });
    drop(found);
    let after = asked().await;
    assert!(after <= before + 2, "{before} {after}");
    for key in ["third", "fourth"] {
        let body = json!({ "claims": with(json!({})), "key": key });
        drop(connect(http, &issuer.post("/make", &body).await).await.unwrap());
    }
    assert_eq!(asked().await, after);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_says_it_is_another_has_no_keys() {
    let store = TestDaemon::start(NixVersion::V2_34);
    let home = tempfile::tempdir().unwrap();
    let issuer = Issuer::start(home.path());
    let token = issuer.make(json!({})).await;
    issuer
        .post("/move", &json!({ "issuer": "https://elsewhere.example.org" }))
        .await;
    let mut config = common::config(home.path(), &store, 1);
    config.oidc = vec![issuer.config()];
    let daemon = start(config).await.unwrap();
    let said = turned(daemon.http_addr.unwrap(), &bearer(&token)).await;
    assert_eq!(said.status, 503, "{said:?}");
    assert!(said.text.contains("is of another issuer"), "{said:?}");
    daemon.stop().await;
}

//! Rules against claims, and times; signatures are tested against a real issuer in `tests/identity`.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::policy::{Admitted, admit};
use super::verify::Claims;
use crate::config::{Config, Right};
use crate::principal::Cause;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn claims(value: Value) -> Claims {
    match value {
        Value::Object(claims) => claims,
        other => panic!("{other} is no object"),
    }
}

fn github(more: Value) -> Claims {
    let mut all = claims(json!({
        "repository": "o/r",
        "repository_id": "10",
        "repository_owner_id": "20",
        "ref": "refs/heads/main",
        "ref_protected": "true",
        "sha": COMMIT,
        "event_name": "push",
        "run_id": "30",
    }));
    all.extend(claims(more));
    all
}

fn config(text: &str) -> Config {
    Config::parse(text, Path::new("nixci.toml")).unwrap()
}

const HEAD: &str = "[[oidc]]\nissuer = \"https://token.actions.githubusercontent.com\"\n";

fn decide(text: &str, claims: &Claims) -> Result<Admitted, String> {
    let config = config(text);
    admit(&config.oidc[0], &config.projects, claims)
}

fn rule(lines: &str, more: Value) -> Result<Admitted, String> {
    decide(&format!("{HEAD}[[oidc.allow]]\n{lines}"), &github(more))
}

#[test]
fn the_first_rule_that_fits_counts_and_none_lets_nobody_in() {
    for (lines, more, fits) in [
        ("repositories = [\"o/*\"]", json!({}), true),
        ("repositories = [\"o/x\"]", json!({}), false),
        ("repository_ids = [10]", json!({ "repository": "renamed/r" }), true),
        ("repository_ids = [\"11\"]", json!({}), false),
        (
            "owner_ids = [20]\nevents = [\"push\", \"merge_group\"]",
            json!({}),
            true,
        ),
        ("owner_ids = [20]\nevents = [\"merge_group\"]", json!({}), false),
        ("owner_ids = [20]\nrefs = [\"refs/heads/*\"]", json!({}), true),
        ("owner_ids = [20]\nrefs = [\"refs/tags/*\"]", json!({}), false),
        (
            "owner_ids = [20]\nenvironments = [\"production\"]",
            json!({ "environment": "production" }),
            true,
        ),
        ("owner_ids = [20]\nenvironments = [\"*\"]", json!({}), false),
        ("owner_ids = [20]\nref_protected = true", json!({}), true),
        (
            "owner_ids = [20]\nref_protected = true",
            json!({ "ref_protected": "false" }),
            false,
        ),
        (
            "owner_ids = [20]\nref_protected = false",
            json!({ "ref_protected": null }),
            false,
        ),
        (
            "repositories = [\"x/*\"]\n[[oidc.allow]]\nrepositories = [\"o/r\"]",
            json!({}),
            true,
        ),
    ] {
        let decided = rule(lines, more);
        assert_eq!(decided.is_ok(), fits, "{lines}: {decided:?}");
    }
    let why = rule("repositories = [\"o/*\"]\nrefs = [\"refs/tags/*\"]", json!({})).unwrap_err();
    for part in [
        "`o/r` (`10`)",
        "event `push`",
        "`refs/heads/main` (protected)",
        "environment none",
        "another ref",
    ] {
        assert!(why.contains(part), "{why}");
    }
    let markup = rule("repositories = [\"o/*\"]", json!({ "repository": "o/r\nx" })).unwrap_err();
    assert!(markup.contains("`repository`") && !markup.contains('\n'), "{markup}");
}

#[test]
fn jobs_of_pull_requests_only_submit() {
    let rights = "repositories = [\"o/*\"]\nrights = [\"submit\", \"read\", \"restart\"]";
    let all = [Right::Submit, Right::Read, Right::Restart];
    for (event, git_ref, cause, restricted) in [
        ("push", "refs/heads/main", Cause::Own, false),
        ("pull_request", "refs/pull/7/merge", Cause::PullRequest(Some(7)), true),
        ("pull_request", "refs/pull/x/merge", Cause::PullRequest(None), true),
        ("pull_request_target", "refs/heads/main", Cause::Another, true),
        ("workflow_run", "refs/heads/main", Cause::Another, false),
        (
            "merge_group",
            "refs/heads/gh-readonly-queue/main/pr-7",
            Cause::Own,
            false,
        ),
    ] {
        let Admitted { job, name } = rule(rights, json!({ "event_name": event, "ref": git_ref })).unwrap();
        assert_eq!(job.cause, cause, "{event}");
        let expected = if restricted { &all[..1] } else { &all[..] };
        assert_eq!(job.rights, expected, "{event}");
        assert_eq!(name, "oidc:token.actions.githubusercontent.com:o/r#30");
    }
    let default = rule("repositories = [\"o/*\"]", json!({})).unwrap();
    assert_eq!(default.job.rights, [Right::Submit]);
}

#[test]
fn gitlab_names_its_claims_otherwise() {
    let text =
        "[[oidc]]\nissuer = \"https://gitlab.com\"\n[[oidc.allow]]\nrepositories = [\"group/*\"]\nref_protected = true";
    let job = |source: &str| {
        claims(json!({
            "project_path": "group/sub/name",
            "project_id": "5",
            "namespace_id": "6",
            "sha": COMMIT.to_uppercase(),
            "ref": "topic",
            "ref_path": "refs/heads/topic",
            "ref_protected": "true",
            "pipeline_source": source,
            "pipeline_id": 99,
        }))
    };
    let push = decide(text, &job("push")).unwrap();
    assert_eq!(push.name, "oidc:gitlab.com:group/sub/name#99");
    assert_eq!((push.job.cause, push.job.commit.as_str()), (Cause::Own, COMMIT));
    let merge = decide(text, &job("merge_request_event")).unwrap();
    assert_eq!(merge.job.cause, Cause::PullRequest(None));
    assert_eq!(merge.job.git_ref.as_deref(), Some("refs/heads/topic"));
}

#[test]
fn a_repository_has_the_project_that_the_configuration_says() {
    let forges = "[[forge]]\nkind = \"github\"\n[[forge]]\nkind = \"forgejo\"\nurl = \"https://forgejo.example.org\"\n";
    let of = |projects: &str, more: Value| {
        let rules = "[[oidc.allow]]\nrepositories = [\"o/*\"]\n";
        decide(
            &format!("{forges}{projects}{HEAD}forge = \"github\"\n{rules}"),
            &github(more),
        )
        .map(|admitted| admitted.job.project)
    };
    let project = |lines: &str| format!("[[project]]\n{lines}\n");
    assert_eq!(of("", json!({})), Ok("o/r".to_owned()));
    let named = project("name = \"shown\"\nforge = \"github\"\nrepository = \"o/r\"\nrepository_id = 10");
    assert_eq!(of(&named, json!({})), Ok("shown".to_owned()));
    let taken = of(&named, json!({ "repository_id": "11" })).unwrap_err();
    assert!(taken.contains("`repository_id`"), "{taken}");
    let pattern = project("name = \"o/*\"\nforge = \"github\"");
    assert_eq!(of(&pattern, json!({})), Ok("o/r".to_owned()));
    let elsewhere = project("name = \"o/r\"\nforge = \"forgejo\"");
    let other = of(&elsewhere, json!({})).unwrap_err();
    assert!(other.contains("`forgejo`"), "{other}");
}

#[test]
fn what_issuers_are_configured_is_checked() {
    let parse = |text: &str| match Config::parse(text, Path::new("ci.toml")) {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    };
    for (text, words) in [
        (
            "[[oidc]]\nissuer = \"http://gitlab.example.org\"\n[[oidc.allow]]\nrepositories = [\"a/*\"]",
            "ci.toml:2: `issuer` is `http://gitlab.example.org`",
        ),
        (
            "[[oidc]]\nissuer = \"https://gitlab.com\"",
            "ci.toml:2: [[oidc]] of `https://gitlab.com` lets nobody in",
        ),
        (
            "[[oidc]]\nissuer = \"https://gitlab.com\"\n[[oidc.allow]]\nevents = [\"push\"]",
            "ci.toml:3: this rule of [[oidc.allow]] lets in everybody",
        ),
        (
            "[[oidc]]\nissuer = \"https://gitlab.com\"\n[[oidc.allow]]\nrepositories = [\"*/x\"]",
            "lets in everybody",
        ),
        (
            "[[oidc]]\nissuer = \"https://a.example\"\n[[oidc.allow]]\nrepository = [\"*/x\"]",
            "ci.toml:4: unknown key `repository` in [[oidc.allow]]; did you mean `repositories`?",
        ),
        (
            "[[oidc]]\nissuer = \"https://a.example\"\nkinds = \"github\"",
            "ci.toml:3: unknown key `kinds` in [[oidc]]; did you mean `kind`?",
        ),
        (
            "[[oidc]]\nissuer = \"https://a.example\"\n[[oidc.allow]]\nrights = [\"admin\"]",
            "ci.toml:4: a job cannot have the right \"admin\"",
        ),
        (
            "[[oidc]]\nissuer = \"https://a.example\"\nforge = \"x\"\n[[oidc.allow]]\nevents = [\"push\"]",
            "ci.toml:3: there is no [[forge]] named `x`",
        ),
        ("[listen]\ntls_key_file = \"/k\"", "ci.toml:2: TLS needs both"),
    ] {
        let said = parse(text);
        assert!(said.contains(words), "{text}: {said}");
    }
    let gitlab = config(
        "[[forge]]\nkind = \"gitlab\"\n[[oidc]]\nissuer = \"https://gitlab.com\"\n[[oidc.allow]]\nrepository_ids = [5, \"6\"]\n",
    );
    let oidc = &gitlab.oidc[0];
    assert_eq!(oidc.forge.as_deref(), Some("gitlab"));
    assert_eq!(
        (oidc.reuse, oidc.max_age),
        (crate::config::Reuse::Job, Duration::from_hours(24))
    );
    assert_eq!(
        oidc.allow[0].repository_ids.as_deref(),
        Some(&["5".to_owned(), "6".to_owned()][..])
    );
}

#[tokio::test(start_paused = true)]
async fn a_job_is_let_go_when_no_rule_lets_it_in_any_more_and_after_a_day() {
    let dir = tempfile::tempdir().unwrap();
    let index = nixci_store::index::Index::open(&dir.path().join("index.db")).unwrap();
    let issuers = |lines: &str| {
        let config = config(&format!("{HEAD}[[oidc.allow]]\n{lines}"));
        super::Issuers::new(&config, None, index.clone(), None).unwrap()
    };
    let vouched = super::Vouched {
        issuer: "https://token.actions.githubusercontent.com".to_owned(),
        claims: std::sync::Arc::new(github(json!({}))),
        since: tokio::time::Instant::now(),
    };
    let same = issuers("repositories = [\"o/*\"]");
    let who = same.vouched(&vouched).unwrap();
    // As after the configuration was read again.
    let refused = issuers("repositories = [\"p/*\"]").vouched(&vouched).unwrap_err();
    assert!(refused.to_string().contains("lets this job in"), "{refused}");
    let more = issuers("repositories = [\"o/*\"]\nrights = [\"read\", \"submit\"]");
    assert_ne!(more.vouched(&vouched).unwrap(), who);
    let none = super::Issuers::new(&config(""), None, index.clone(), None).unwrap();
    assert!(none.vouched(&vouched).unwrap_err().to_string().contains("no [[oidc]]"));
    tokio::time::advance(super::CONNECTION_TIME + Duration::from_secs(1)).await;
    let refused = same.vouched(&vouched).unwrap_err().to_string();
    assert!(refused.contains("24 h"), "{refused}");
}

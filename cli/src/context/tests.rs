use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use rstest::rstest;

use super::*;

const HEAD: &str = "1111111111111111111111111111111111111111";
const BASE: &str = "2222222222222222222222222222222222222222";
const MERGE: &str = "3333333333333333333333333333333333333333";
const ZERO: &str = "0000000000000000000000000000000000000000";

fn env(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
    let map: HashMap<String, String> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    move |name: &str| map.get(name).filter(|value| !value.is_empty()).cloned()
}

fn context(project: &str, commit: &str, git_ref: &str, base: Option<&str>, pull_request: Option<u64>) -> Context {
    Context {
        project: Some(project.to_owned()),
        commit: Some(commit.to_owned()),
        git_ref: Some(git_ref.to_owned()),
        base: base.map(str::to_owned),
        pull_request,
        labels: BTreeMap::new(),
    }
}

#[test]
fn a_push_on_github_is_compared_with_what_was_there_before() {
    let env = env(&[
        ("GITHUB_ACTIONS", "true"),
        ("GITHUB_REPOSITORY", "o/n"),
        ("GITHUB_SHA", HEAD),
        ("GITHUB_REF", "refs/heads/feature/x"),
        ("GITHUB_EVENT_PATH", "/event"),
        ("GITHUB_SERVER_URL", "https://github.com"),
        ("GITHUB_RUN_ID", "7"),
    ]);
    let found = github::context(&env, &|_| Some(format!(r#"{{"before":"{BASE}","after":"{HEAD}"}}"#)));
    let mut expected = context("o/n", HEAD, "feature/x", Some(BASE), None);
    expected
        .labels
        .insert("run".into(), "https://github.com/o/n/actions/runs/7".into());
    assert_eq!(found, expected);
    let new_branch = github::context(&env, &|_| Some(format!(r#"{{"before":"{ZERO}"}}"#)));
    assert_eq!(new_branch.base, None);
}

#[test]
fn a_pull_request_on_github_is_about_its_head_not_the_merge_that_was_checked_out() {
    let env = env(&[
        ("GITHUB_ACTIONS", "true"),
        ("GITHUB_REPOSITORY", "o/n"),
        ("GITHUB_SHA", MERGE),
        ("GITHUB_REF", "refs/pull/5/merge"),
        ("GITHUB_EVENT_PATH", "/event"),
    ]);
    let event = format!(
        r#"{{"pull_request":{{"number":5,"head":{{"ref":"topic","sha":"{HEAD}"}},"base":{{"ref":"main","sha":"{BASE}"}}}}}}"#
    );
    let found = github::context(&env, &|_| Some(event.clone()));
    let mut expected = context("o/n", HEAD, "topic", Some(BASE), Some(5));
    expected.labels.insert("merge".into(), MERGE.into());
    assert_eq!(found, expected);
}

#[test]
fn only_what_somebody_runs_again_says_so() {
    let again = |env: &[(&str, &str)], event: &str| {
        let found = github::context(&self::env(env), &|_| Some(event.to_owned()));
        found.labels.get(AGAIN).cloned()
    };
    let attempt = |nth| {
        [
            ("GITHUB_REPOSITORY", "o/n"),
            ("GITHUB_EVENT_PATH", "/event"),
            ("GITHUB_RUN_ATTEMPT", nth),
        ]
    };
    let other = |nth| format!(r#"{{"workflow_run":{{"id":7,"head_sha":"{HEAD}","run_attempt":{nth}}}}}"#);
    assert_eq!(again(&attempt("1"), "{}"), None);
    assert_eq!(again(&attempt("3"), "{}").as_deref(), Some("attempt 3"));
    assert_eq!(again(&attempt("1"), &other(1)), None);
    assert_eq!(again(&attempt("1"), &other(2)).as_deref(), Some("attempt 2"));
    let by_hand = |value| {
        gitlab::context(&env(&[("CI_JOB_MANUAL", value)]))
            .labels
            .contains_key(AGAIN)
    };
    assert!(by_hand("true") && !by_hand("") && !by_hand("false"));
    let asked = About {
        again: true,
        ..About::default()
    };
    assert!(Context::default().overridden(&asked).labels.contains_key(AGAIN));
}

#[test]
fn a_merge_queue_names_its_own_base() {
    let env = env(&[
        ("GITHUB_REPOSITORY", "o/n"),
        ("GITHUB_SHA", HEAD),
        ("GITHUB_EVENT_PATH", "/event"),
    ]);
    let event = format!(
        r#"{{"merge_group":{{"head_sha":"{HEAD}","head_ref":"refs/heads/gh-readonly-queue/main/pr-5","base_sha":"{BASE}"}}}}"#
    );
    let found = github::context(&env, &|_| Some(event.clone()));
    assert_eq!(
        found,
        context("o/n", HEAD, "gh-readonly-queue/main/pr-5", Some(BASE), None)
    );
}

#[test]
fn a_workflow_that_follows_another_is_about_what_that_ran_on() {
    let env = env(&[
        ("GITHUB_ACTIONS", "true"),
        ("GITHUB_REPOSITORY", "o/n"),
        // The tip of the default branch, which has nothing to do with it.
        ("GITHUB_SHA", BASE),
        ("GITHUB_REF", "refs/heads/main"),
        ("GITHUB_EVENT_PATH", "/event"),
    ]);
    for (repository, pulls, branch, number) in [
        ("fork/n", "", "fork:topic", None),
        ("o/n", r#"{"number":5,"url":"x"}"#, "topic", Some(5)),
    ] {
        let event = format!(
            r#"{{"workflow_run":{{"id":30433642,"head_sha":"{HEAD}","head_branch":"topic","pull_requests":[{pulls}],
                "head_repository":{{"full_name":"{repository}"}}}}}}"#
        );
        let found = github::context(&env, &|_| Some(event.clone()));
        let mut expected = context("o/n", HEAD, branch, None, number);
        expected.labels.insert("run-id".into(), "30433642".into());
        assert_eq!(found, expected);
    }
}

#[test]
fn an_unreadable_event_costs_only_what_it_would_have_said() {
    let env = env(&[
        ("GITHUB_REPOSITORY", "o/n"),
        ("GITHUB_SHA", HEAD),
        ("GITHUB_REF", "refs/tags/v1"),
        ("GITHUB_EVENT_PATH", "/event"),
    ]);
    for event in [None, Some("not json".to_owned())] {
        let found = github::context(&env, &|_| event.clone());
        assert_eq!(found, context("o/n", HEAD, "v1", None, None));
    }
}

#[test]
fn forgejo_is_read_with_its_own_names_too() {
    let env = env(&[
        ("FORGEJO_ACTIONS", "true"),
        ("FORGEJO_REPOSITORY", "o/n"),
        ("FORGEJO_SHA", HEAD),
        ("FORGEJO_REF", "refs/heads/main"),
    ]);
    assert_eq!(Ci::detect(&env), Some(Ci::Actions));
    assert_eq!(
        github::context(&env, &|_| None),
        context("o/n", HEAD, "main", None, None)
    );
}

#[test]
fn gitlab_tells_branches_from_merge_requests() {
    let branch = env(&[
        ("GITLAB_CI", "true"),
        ("CI_PROJECT_PATH", "group/sub/n"),
        ("CI_COMMIT_SHA", HEAD),
        ("CI_COMMIT_REF_NAME", "main"),
        ("CI_COMMIT_BEFORE_SHA", ZERO),
    ]);
    assert_eq!(Ci::detect(&branch), Some(Ci::GitLab));
    assert_eq!(
        gitlab::context(&branch),
        context("group/sub/n", HEAD, "main", None, None)
    );

    let merged = env(&[
        ("GITLAB_CI", "true"),
        ("CI_PROJECT_PATH", "g/n"),
        ("CI_COMMIT_SHA", MERGE),
        ("CI_COMMIT_REF_NAME", "refs/merge-requests/9/merge"),
        ("CI_MERGE_REQUEST_IID", "9"),
        ("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", "topic"),
        ("CI_MERGE_REQUEST_SOURCE_BRANCH_SHA", HEAD),
        ("CI_MERGE_REQUEST_TARGET_BRANCH_SHA", ""),
        ("CI_MERGE_REQUEST_DIFF_BASE_SHA", BASE),
    ]);
    let mut expected = context("g/n", HEAD, "topic", Some(BASE), Some(9));
    expected.labels.insert("merge".into(), MERGE.into());
    assert_eq!(gitlab::context(&merged), expected);
}

#[rstest]
#[case("https://github.com/o/n.git", Some("o/n"))]
#[case("https://user@gitlab.com/g/s/n/", Some("g/s/n"))]
#[case("git@github.com:o/n.git", Some("o/n"))]
#[case("ssh://git@host:2222/o/n.git", Some("o/n"))]
#[case("host:o/n", Some("o/n"))]
#[case("/srv/git/n.git", Some("n"))]
#[case("../elsewhere/n", Some("n"))]
#[case("file:///srv/git/n", Some("n"))]
#[case("https://host", None)]
fn a_remote_s_address_names_the_project(#[case] url: &str, #[case] project: Option<&str>) {
    assert_eq!(project_of_url(url).as_deref(), project);
}

fn run_git(dir: &Path, args: &[&str]) -> String {
    let identity = [
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@t",
        "-c",
        "init.defaultBranch=main",
    ];
    let output = Command::new("git")
        .arg("-C")
        .arg(dir)
        .args(identity)
        .args(args)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "git {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_checkout_has_a_commit_only_while_it_is_clean() {
    let dir = tempfile::tempdir().unwrap();
    let repo = dir.path().join("tool");
    std::fs::create_dir(&repo).unwrap();
    let no_env = |_: &str| None;

    let bare_folder = Context::detect(&no_env, &repo);
    assert_eq!(bare_folder.project.as_deref(), Some("tool"));
    assert_eq!(bare_folder.commit, None);

    run_git(&repo, &["init", "-q"]);
    std::fs::write(repo.join("a"), "1").unwrap();
    run_git(&repo, &["add", "a"]);
    run_git(&repo, &["commit", "-qm", "one"]);
    let first = run_git(&repo, &["rev-parse", "HEAD"]);
    assert_eq!(
        Context::detect(&no_env, &repo),
        context("tool", &first, "main", None, None)
    );

    run_git(&repo, &["remote", "add", "origin", "git@example.org:o/tool.git"]);
    run_git(&repo, &["update-ref", "refs/remotes/origin/main", "HEAD"]);
    run_git(
        &repo,
        &["symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/main"],
    );
    run_git(&repo, &["checkout", "-qb", "topic"]);
    run_git(&repo, &["commit", "-qm", "two", "--allow-empty"]);
    let second = run_git(&repo, &["rev-parse", "HEAD"]);
    assert_eq!(
        Context::detect(&no_env, &repo),
        context("o/tool", &second, "topic", Some(&first), None)
    );

    std::fs::write(repo.join("a"), "2").unwrap();
    let dirty = Context::detect(&no_env, &repo);
    assert_eq!(dirty.commit, None);
    assert_eq!(dirty.base.as_deref(), Some(&*first));
    assert_eq!(dirty.labels["dirty"], second);
}

#[test]
fn the_user_s_words_win_and_take_what_belonged_to_another_commit_with_them() {
    let found = context("o/n", HEAD, "main", Some(BASE), Some(3));
    let about = About {
        commit: Some(MERGE.into()),
        project: Some("p/q".into()),
        labels: vec![("k".into(), "v".into())],
        ..About::default()
    };
    let merged = found.clone().overridden(&about);
    let mut expected = context("p/q", MERGE, "main", None, None);
    expected.labels.insert("k".into(), "v".into());
    assert_eq!(merged, expected);
    assert_eq!(found.clone().overridden(&About::default()), found);
}

//! GitHub's events, as <https://docs.github.com/webhooks/webhook-events-and-payloads> describes them. Only fields that are
//! used are looked at. Forgejo and Gitea have made theirs after these.

use serde::Deserialize;

use super::ask::{
    Access, Ask, CheckRun, CheckSuite, Malformed, Push, Reading, commit, commit_or_none, json, name, time,
};
use super::ask::{PullRequest, Repository};
use crate::forge::github::Button;

#[derive(Deserialize)]
struct Repo {
    id: u64,
    full_name: String,
}

#[derive(Deserialize)]
struct PullRequestEvent {
    action: String,
    before: Option<String>,
    pull_request: Pull,
    repository: Repo,
}

#[derive(Deserialize)]
struct Pull {
    number: u64,
    state: String,
    updated_at: Option<String>,
    head: Side,
    base: Side,
}

#[derive(Deserialize)]
struct Side {
    sha: String,
    #[serde(rename = "ref")]
    git_ref: String,
    /// None where it was removed.
    repo: Option<RepoId>,
    /// Forgejo and Gitea tell it besides.
    repo_id: Option<u64>,
}

#[derive(Deserialize)]
struct RepoId {
    id: u64,
}

#[derive(Deserialize)]
struct PushEvent {
    #[serde(rename = "ref")]
    git_ref: String,
    before: Option<String>,
    after: Option<String>,
    repository: Repo,
}

#[derive(Deserialize)]
struct CheckRunEvent {
    action: String,
    check_run: Run,
    requested_action: Option<RequestedAction>,
    repository: Repo,
}

#[derive(Deserialize)]
struct Run {
    id: u64,
    head_sha: String,
    external_id: Option<String>,
    app: Option<App>,
}

#[derive(Deserialize)]
struct RequestedAction {
    identifier: String,
}

#[derive(Deserialize)]
struct CheckSuiteEvent {
    action: String,
    check_suite: Suite,
    repository: Repo,
}

#[derive(Deserialize)]
struct Suite {
    head_sha: String,
    app: Option<App>,
}

#[derive(Deserialize)]
struct App {
    id: u64,
}

#[derive(Deserialize)]
struct InstallationEvent {
    action: String,
    installation: Installation,
}

#[derive(Deserialize)]
struct Installation {
    app_id: u64,
    account: Option<Account>,
}

#[derive(Deserialize)]
struct Account {
    login: String,
}

/// What an event asks for. `app` is the number of our App; without one check runs are none of ours.
pub(super) fn read(event: &str, body: &[u8], app: Option<u64>) -> Result<Reading, Malformed> {
    match event {
        "pull_request" => pull_request(body),
        "push" => push(body),
        "check_run" => check_run(body, app),
        "check_suite" => check_suite(body, app),
        "installation" | "installation_repositories" => installation(body, app),
        "ping" => Ok(nothing("it is a ping: webhooks arrive")),
        _ => Ok(nothing("nothing is done for such events")),
    }
}

fn nothing(why: &str) -> Reading {
    Reading::Nothing(why.to_owned())
}

/// `pull_request`, also of Forgejo and Gitea: whatever the action is, it tells the state and the head.
pub(super) fn pull_request(body: &[u8]) -> Result<Reading, Malformed> {
    let told: PullRequestEvent = json(body)?;
    let pull = told.pull_request;
    let id = |side: &Side| side.repo_id.or_else(|| side.repo.as_ref().map(|repo| repo.id));
    Ok(Reading::Ask(Ask::PullRequest(PullRequest {
        is_fork: id(&pull.head).is_none_or(|head| Some(head) != id(&pull.base)),
        repository: repository(told.repository)?,
        number: pull.number,
        head: commit("pull_request.head.sha", &pull.head.sha)?,
        head_ref: Some(name("pull_request.head.ref", pull.head.git_ref)?),
        base: commit_or_none("pull_request.base.sha", Some(pull.base.sha))?,
        base_ref: Some(name("pull_request.base.ref", pull.base.git_ref)?),
        is_open: pull.state == "open",
        changed: pull.updated_at.as_deref().and_then(time),
        before: match told.action.as_str() {
            "synchronize" | "synchronized" => commit_or_none("before", told.before)?,
            _ => None,
        },
        is_new: told.action == "opened",
    })))
}

/// `push`, also of Forgejo and Gitea.
pub(super) fn push(body: &[u8]) -> Result<Reading, Malformed> {
    let told: PushEvent = json(body)?;
    Ok(Reading::Ask(Ask::Push(Push {
        repository: repository(told.repository)?,
        git_ref: name("ref", told.git_ref)?,
        old: commit_or_none("before", told.before)?,
        new: commit_or_none("after", told.after)?,
    })))
}

fn check_run(body: &[u8], ours: Option<u64>) -> Result<Reading, Malformed> {
    let told: CheckRunEvent = json(body)?;
    let button = told
        .requested_action
        .and_then(|action| Button::from_identifier(&action.identifier));
    let asks: fn(CheckRun) -> Ask = match (told.action.as_str(), button) {
        ("rerequested", _) | ("requested_action", Some(Button::Rerun)) => Ask::Rerun,
        ("requested_action", Some(Button::Cancel)) => Ask::Cancel,
        ("requested_action", None) => return Ok(nothing("we have no such button")),
        _ => return Ok(nothing("nothing is done when check runs are made or completed")),
    };
    let run = told.check_run;
    if !is_ours(run.app.as_ref(), ours) {
        return Ok(nothing("the check run is of another App than `app_id`"));
    }
    Ok(Reading::Ask(asks(CheckRun {
        repository: repository(told.repository)?,
        commit: commit("check_run.head_sha", &run.head_sha)?,
        external_id: run.external_id.unwrap_or_default(),
        remote_id: run.id.to_string(),
    })))
}

fn check_suite(body: &[u8], ours: Option<u64>) -> Result<Reading, Malformed> {
    let told: CheckSuiteEvent = json(body)?;
    if told.action != "rerequested" {
        return Ok(nothing("nothing is done when check suites are made or completed"));
    }
    if !is_ours(told.check_suite.app.as_ref(), ours) {
        return Ok(nothing("the check suite is of another App than `app_id`"));
    }
    Ok(Reading::Ask(Ask::RerunAll(CheckSuite {
        repository: repository(told.repository)?,
        commit: commit("check_suite.head_sha", &told.check_suite.head_sha)?,
    })))
}

/// The App was installed somewhere, or was given something. What was taken from it shows when it is used.
fn installation(body: &[u8], ours: Option<u64>) -> Result<Reading, Malformed> {
    let told: InstallationEvent = json(body)?;
    if Some(told.installation.app_id) != ours {
        return Ok(nothing("the installation is of another App than `app_id`"));
    }
    match (told.action.as_str(), told.installation.account) {
        ("created" | "unsuspend" | "new_permissions_accepted" | "added", Some(account)) => {
            Ok(Reading::Ask(Ask::Access(Access {
                owner: name("installation.account.login", account.login)?,
            })))
        }
        _ => Ok(nothing("nothing was given to the App")),
    }
}

fn is_ours(app: Option<&App>, ours: Option<u64>) -> bool {
    ours.is_some() && app.map(|app| app.id) == ours
}

fn repository(repo: Repo) -> Result<Repository, Malformed> {
    Ok(Repository {
        name: name("repository.full_name", repo.full_name)?,
        id: repo.id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Option<u64> = Some(7);

    fn run(action: &str, identifier: Option<&str>, app: u64) -> Reading {
        let body = serde_json::json!({
            "action": action,
            "requested_action": identifier.map(|identifier| serde_json::json!({"identifier": identifier})),
            "check_run": {"id": 5, "head_sha": "a".repeat(40), "external_id": "nixci-1", "app": {"id": app}},
            "repository": {"id": 3, "full_name": "o/n"},
        });
        read("check_run", body.to_string().as_bytes(), OURS).unwrap()
    }

    #[test]
    fn only_buttons_of_our_app_do_anything() {
        assert!(matches!(run("rerequested", None, 7), Reading::Ask(Ask::Rerun(_))));
        assert!(matches!(
            run("requested_action", Some(Button::Rerun.identifier()), 7),
            Reading::Ask(Ask::Rerun(_))
        ));
        assert!(matches!(
            run("requested_action", Some(Button::Cancel.identifier()), 7),
            Reading::Ask(Ask::Cancel(_))
        ));
        for (action, identifier, app) in [
            ("rerequested", None, 8),
            ("requested_action", Some("fix"), 7),
            ("requested_action", None, 7),
            ("created", None, 7),
            ("completed", None, 7),
        ] {
            assert!(matches!(run(action, identifier, app), Reading::Nothing(_)), "{action}");
        }
    }

    #[test]
    fn without_an_app_no_check_run_is_ours() {
        let body = serde_json::json!({
            "action": "rerequested",
            "check_run": {"id": 5, "head_sha": "a".repeat(40), "app": null},
            "repository": {"id": 3, "full_name": "o/n"},
        });
        let reading = read("check_run", body.to_string().as_bytes(), None).unwrap();
        assert!(matches!(reading, Reading::Nothing(_)));
    }

    #[test]
    fn a_head_in_a_repository_that_is_gone_is_in_a_fork() {
        let side = |repo: serde_json::Value| serde_json::json!({"sha": "b".repeat(40), "ref": "x", "repo": repo});
        for (head, is_fork) in [
            (serde_json::json!({"id": 3}), false),
            (serde_json::json!({"id": 4}), true),
            (serde_json::Value::Null, true),
        ] {
            let body = serde_json::json!({
                "action": "opened",
                "pull_request": {
                    "number": 1, "state": "open", "updated_at": "2017-09-15T16:52:00Z",
                    "head": side(head.clone()), "base": side(serde_json::json!({"id": 3})),
                },
                "repository": {"id": 3, "full_name": "o/n"},
            });
            let Reading::Ask(Ask::PullRequest(told)) = read("pull_request", body.to_string().as_bytes(), OURS).unwrap()
            else {
                panic!("it is one");
            };
            assert_eq!(
                (told.is_fork, told.is_open, told.is_new),
                (is_fork, true, true),
                "{head}"
            );
        }
    }
}

//! A Forgejo as its own description says, and as a real Gitea 1.15.11 was seen to be where that says nothing: a repeated
//! status is a new row, an unknown commit is answered with 500, and the state of a row is called `status`. Every request
//! and every answer is held against the description.

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::contract::Contract;
use crate::server::{Answer, Asked, Does, Server};
use crate::statuses::{COMMIT, REPOSITORY, TOKEN};

const TIME: &str = "2026-11-21T20:00:00Z";

#[derive(Debug)]
pub(crate) struct Forgejo {
    /// Every status that was ever added, oldest first.
    pub(crate) rows: Vec<Value>,
    /// Number, author and body.
    pub(crate) comments: Vec<(u64, String, String)>,
    pub(crate) scopes: Vec<&'static str>,
    /// Whether nobody may comment.
    pub(crate) is_locked: bool,
    /// Whether our user may write.
    pub(crate) may_push: bool,
    pub(crate) version: &'static str,
    next_comment: u64,
}

impl Forgejo {
    pub(crate) async fn start() -> Server<Self> {
        Server::start(Self {
            rows: Vec::new(),
            comments: Vec::new(),
            scopes: vec!["write:repository", "write:issue", "read:user"],
            is_locked: false,
            may_push: true,
            version: "17.0.0+gitea-1.22.0",
            next_comment: 100,
        })
        .await
    }

    /// What the newest status of a context says: state and description.
    pub(crate) fn newest(&self, context: &str) -> (&str, &str) {
        let row = self.rows.iter().rev().find(|row| row["context"] == context).unwrap();
        (row["status"].as_str().unwrap(), row["description"].as_str().unwrap())
    }

    /// Somebody comments.
    pub(crate) fn comment(&mut self, author: &str, body: &str) -> u64 {
        self.next_comment += 1;
        self.comments
            .push((self.next_comment, author.to_owned(), body.to_owned()));
        self.next_comment
    }

    fn lacks(&self, scope: &str) -> Option<Answer> {
        let text = format!("token does not have at least one of required scope(s): [{scope}]");
        let is_there = self.scopes.contains(&scope) || self.scopes.contains(&scope.replace("read:", "write:").as_str());
        (!is_there).then(|| error(403, &text))
    }

    fn do_it(&mut self, asked: &Asked) -> Answer {
        let path: Vec<&str> = asked.path.trim_start_matches("/api/v1/").split('/').collect();
        if path == ["version"] {
            return Answer::of(200, json!({ "version": self.version }));
        }
        if asked.header("authorization") != format!("token {TOKEN}") {
            return error(401, "invalid username, password or token");
        }
        let is_read = asked.method == "GET";
        match (asked.method.as_str(), path.as_slice()) {
            ("GET", ["user"]) => self
                .lacks("read:user")
                .unwrap_or_else(|| Answer::of(200, user("ci-bot"))),
            // A renamed repository, as its API answers whatever is asked about it.
            (_, ["repos", "owner", "old", rest @ ..]) => {
                let location = format!("/api/v1/repos/{REPOSITORY}/{}", rest.join("/"));
                Answer::of(307, Value::Null).with("location", location)
            }
            (_, ["repos", owner, name, ..]) if format!("{owner}/{name}") != REPOSITORY => {
                error(404, "The target couldn't be found.")
            }
            (_, ["repos", _, _, "issues", rest @ ..]) => {
                let scope = if is_read { "read:issue" } else { "write:issue" };
                self.lacks(scope).unwrap_or_else(|| self.issues(asked, rest))
            }
            (_, ["repos", _, _, rest @ ..]) => {
                let scope = if is_read { "read:repository" } else { "write:repository" };
                self.lacks(scope).unwrap_or_else(|| self.repository(asked, rest))
            }
            _ => error(404, "not found"),
        }
    }

    fn repository(&mut self, asked: &Asked, path: &[&str]) -> Answer {
        match (asked.method.as_str(), path) {
            ("GET", []) => {
                let may = json!({ "admin": false, "push": self.may_push, "pull": true });
                Answer::of(
                    200,
                    json!({ "full_name": REPOSITORY, "archived": false, "permissions": may }),
                )
            }
            ("GET", ["git", "commits", sha]) if *sha == COMMIT => Answer::of(200, json!({ "sha": COMMIT })),
            ("POST", ["statuses", _]) if !self.may_push => {
                error(403, "user should have a permission to write to a repo")
            }
            ("POST", ["statuses", sha]) if *sha == COMMIT => {
                let body = asked.json();
                let text = |key: &str| body[key].as_str().unwrap_or_default().trim().to_owned();
                let row = json!({
                    "id": self.rows.len() + 1,
                    "status": text("state"),
                    "context": text("context"),
                    "description": text("description"),
                    "target_url": text("target_url"),
                    "url": format!("http://localhost/api/v1/repos/{REPOSITORY}/statuses/{COMMIT}"),
                    "creator": user("ci-bot"),
                    "created_at": TIME,
                    "updated_at": TIME,
                });
                self.rows.push(row.clone());
                Answer::of(201, row)
            }
            ("POST", ["statuses", _]) => error(500, "GetCommit: object does not exist"),
            ("GET", ["commits", sha, "statuses"]) if *sha == COMMIT => {
                assert_eq!(asked.parameter("sort"), Some("highestindex"));
                let number = |name| asked.parameter(name).unwrap().parse::<usize>().unwrap();
                let (page, limit) = (number("page"), number("limit"));
                assert!((1..=50).contains(&limit), "a real one gives 50 at most");
                let rows = self.rows.iter().rev().skip((page - 1) * limit).take(limit);
                Answer::of(200, rows.cloned().collect())
            }
            ("GET", ["pulls", "7"]) => {
                let branch = |name: &str, repository: u32| json!({ "ref": name, "sha": COMMIT, "label": name, "repo_id": repository });
                let (head, base) = (branch("topic", 9), branch("main", 1));
                Answer::of(200, json!({ "number": 7, "state": "open", "head": head, "base": base }))
            }
            _ => error(404, "The target couldn't be found."),
        }
    }

    fn issues(&mut self, asked: &Asked, path: &[&str]) -> Answer {
        let shown = |(id, author, body): &(u64, String, String)| json!({ "id": id, "body": body, "user": user(author), "created_at": TIME, "updated_at": TIME });
        match (asked.method.as_str(), path) {
            ("GET", ["7", "comments"]) => Answer::of(200, self.comments.iter().map(shown).collect()),
            ("POST" | "PATCH", _) if self.is_locked => error(423, "the issue is locked"),
            ("POST", ["7", "comments"]) => {
                self.comment("ci-bot", asked.json()["body"].as_str().unwrap());
                Answer::of(201, shown(self.comments.last().unwrap()))
            }
            (method, ["comments", id]) => {
                let found = self.comments.iter_mut().find(|(known, ..)| known.to_string() == *id);
                match (method, found) {
                    ("GET", Some(comment)) => Answer::of(200, shown(comment)),
                    ("PATCH", Some((_, author, _))) if author != "ci-bot" => error(403, "not yours"),
                    ("PATCH", Some(comment)) => {
                        asked.json()["body"].as_str().unwrap().clone_into(&mut comment.2);
                        Answer::of(200, shown(comment))
                    }
                    _ => error(404, "The target couldn't be found."),
                }
            }
            _ => error(404, "The target couldn't be found."),
        }
    }
}

impl Does for Forgejo {
    fn answer(&mut self, asked: &Asked) -> Answer {
        let path = asked.path.strip_prefix("/api/v1").expect("below the API");
        let known = Contract::forgejo();
        if let Err(error) = known.check_request(&asked.method, path, &asked.query, &asked.body) {
            panic!("{} {}?{}: {error}", asked.method, asked.path, asked.query);
        }
        let answer = self.do_it(asked);
        if let Err(error) = known.check_answer(&asked.method, path, answer.status, &answer.body) {
            panic!("the answer to {} {}: {error}", asked.method, asked.path);
        }
        answer
    }
}

fn user(login: &str) -> Value {
    json!({ "id": 1, "login": login, "is_admin": false })
}

fn error(status: u16, message: &str) -> Answer {
    assert!(StatusCode::from_u16(status).is_ok());
    Answer::of(
        status,
        json!({ "message": message, "url": "http://localhost/api/swagger" }),
    )
}

//! A GitLab as its documents and sources say (`Ci::CreateCommitStatusService`): external jobs of pipelines, with states
//! that only go forward.

use serde_json::{Value, json};

use crate::server::{Answer, Asked, Does, Server};
use crate::statuses::{COMMIT, REPOSITORY, TOKEN};

#[derive(Debug)]
pub(crate) struct GitLab {
    /// Number and ref, oldest first.
    pub(crate) pipelines: Vec<(u64, String)>,
    pub(crate) jobs: Vec<Job>,
    /// Jobs that a pipeline may have.
    pub(crate) limit: usize,
    pub(crate) access: u64,
    pub(crate) scopes: Vec<&'static str>,
    /// Whether the commit is on a branch.
    pub(crate) has_branch: bool,
    /// Names of the pipeline's own jobs, which nobody else may use.
    pub(crate) own_names: Vec<&'static str>,
}

#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) id: usize,
    pub(crate) pipeline: u64,
    pub(crate) name: String,
    pub(crate) state: &'static str,
    pub(crate) description: Option<String>,
    pub(crate) target_url: Option<String>,
    /// Hidden by a newer one of the same name.
    pub(crate) is_retried: bool,
}

impl GitLab {
    pub(crate) async fn start() -> Server<Self> {
        Server::start(Self {
            pipelines: Vec::new(),
            jobs: Vec::new(),
            limit: 500,
            access: 30,
            scopes: vec!["api"],
            has_branch: true,
            own_names: Vec::new(),
        })
        .await
    }

    /// The jobs that are shown: name, state and description.
    pub(crate) fn shown(&self) -> Vec<(&str, &str, &str)> {
        let shown = self.jobs.iter().filter(|job| !job.is_retried);
        shown
            .map(|job| {
                (
                    job.name.as_str(),
                    job.state,
                    job.description.as_deref().unwrap_or_default(),
                )
            })
            .collect()
    }

    fn do_it(&mut self, asked: &Asked) -> Answer {
        if asked.header("private-token") != TOKEN {
            return error(401, "401 Unauthorized");
        }
        let path: Vec<&str> = asked.path.trim_start_matches("/api/v4/").split('/').collect();
        let is_read = asked.method == "GET";
        match (asked.method.as_str(), path.as_slice()) {
            ("GET", ["user"]) => Answer::of(200, json!({ "id": 4, "username": "ci-bot" })),
            ("GET", ["personal_access_tokens", "self"]) => {
                let until = "2027-01-31";
                Answer::of(
                    200,
                    json!({ "name": "ci", "active": true, "scopes": self.scopes, "expires_at": until }),
                )
            }
            _ if !self.may(is_read) => {
                let why = "The request requires higher privileges than provided by the access token.";
                Answer::of(
                    403,
                    json!({ "error": "insufficient_scope", "error_description": why, "scope": "api" }),
                )
            }
            ("GET", ["projects", "owner%2Fold", ..]) => {
                Answer::of(302, Value::Null).with("location", "/api/v4/projects/1")
            }
            (_, ["projects", "owner%2Fold", ..]) => error(405, "Non GET methods are not allowed for moved projects"),
            (_, ["projects", project, ..]) if *project != REPOSITORY.replace('/', "%2F") => {
                error(404, "404 Project Not Found")
            }
            ("GET", ["projects", _]) => {
                let may = json!({ "project_access": null, "group_access": { "access_level": self.access } });
                Answer::of(
                    200,
                    json!({ "id": 1, "path_with_namespace": REPOSITORY, "permissions": may }),
                )
            }
            ("POST", ["projects", _, "statuses", sha]) => self.set(asked, sha),
            ("GET", ["projects", _, "repository", "commits", sha, "statuses"]) if *sha == COMMIT => {
                let name = asked.parameter("name").unwrap();
                let found = self
                    .jobs
                    .iter()
                    .filter(|job| !job.is_retried && encoded(&job.name) == name);
                Answer::of(200, found.map(|job| self.entity(job)).collect())
            }
            ("GET", ["projects", _, "merge_requests", "7"]) => Answer::of(
                200,
                json!({
                    "iid": 7, "sha": COMMIT, "state": "opened", "source_branch": "topic", "target_branch": "main",
                    "source_project_id": 9, "target_project_id": 1,
                    "diff_refs": { "base_sha": "b".repeat(40), "head_sha": COMMIT, "start_sha": "a".repeat(40) },
                }),
            ),
            _ => error(404, "404 Commit Not Found"),
        }
    }

    fn set(&mut self, asked: &Asked, sha: &str) -> Answer {
        let body = asked.json();
        let known = ["state", "name", "description", "target_url", "ref", "pipeline_id"];
        let unknown = body
            .as_object()
            .unwrap()
            .keys()
            .find(|key| !known.contains(&key.as_str()));
        assert_eq!(unknown, None, "a key that is not documented");
        if self.access < 30 {
            return error(403, "403 Forbidden");
        }
        if sha != COMMIT {
            return error(404, "404 Commit Not Found");
        }
        let pipeline = match self.pipeline(&body) {
            Ok(pipeline) => pipeline,
            Err(refused) => return refused,
        };
        self.job(&body, pipeline)
    }

    /// The pipeline for a status: the one that is named, else the newest, else a new one.
    fn pipeline(&mut self, body: &Value) -> Result<u64, Answer> {
        let git_ref = body["ref"].as_str();
        if let Some(id) = body["pipeline_id"].as_u64() {
            let fits = |(known, of): &&(u64, String)| *known == id && git_ref.is_none_or(|name| name == *of);
            return match self.pipelines.iter().find(fits) {
                None => Err(error(404, "404 Pipeline for pipeline_id, sha and ref Not Found")),
                Some((id, _)) if self.is_full(*id) && self.open_job(*id, body).is_none() => {
                    Err(error(422, "The number of jobs has exceeded the limit"))
                }
                Some((id, _)) => Ok(*id),
            };
        }
        let branch = self.has_branch.then_some("main");
        let Some(name) = git_ref.or(branch) else {
            return Err(error(404, "404 References for commit Not Found"));
        };
        let newest = self
            .pipelines
            .iter()
            .rev()
            .find(|(_, of)| *of == name)
            .map(|(id, _)| *id);
        Ok(newest.filter(|id| !self.is_full(*id)).unwrap_or_else(|| {
            let id = 1000 + self.pipelines.len() as u64;
            self.pipelines.push((id, name.to_owned()));
            id
        }))
    }

    fn job(&mut self, body: &Value, pipeline: u64) -> Answer {
        let text = |key: &str| body[key].as_str().map(str::to_owned);
        let name = text("name").unwrap();
        for key in ["name", "description", "target_url"] {
            if text(key).is_some_and(|text| text.chars().count() > 255) {
                return invalid(key, "is too long (maximum is 255 characters)");
            }
        }
        if self.own_names.contains(&name.as_str()) {
            return invalid("name", "has already been taken");
        }
        let open = self.open_job(pipeline, body);
        let from = open.map_or("created", |at| self.jobs[at].state);
        let to = match (text("state").unwrap().as_str(), from) {
            ("pending", "created") => "pending",
            ("pending", _) => return transition("enqueue", from),
            ("running", "created" | "pending") => "running",
            ("running", _) => return transition("run", from),
            ("success", "created" | "pending" | "running") => "success",
            ("failed", "created" | "pending" | "running") => "failed",
            ("canceled", "created" | "pending" | "running") => "canceled",
            (other, _) => return error(400, &format!("state does not have a valid value: {other}")),
        };
        let at = open.unwrap_or_else(|| {
            for job in self
                .jobs
                .iter_mut()
                .filter(|job| job.pipeline == pipeline && job.name == name)
            {
                job.is_retried = true;
            }
            self.jobs.push(Job {
                id: self.jobs.len() + 1,
                pipeline,
                name,
                state: to,
                description: None,
                target_url: None,
                is_retried: false,
            });
            self.jobs.len() - 1
        });
        let job = &mut self.jobs[at];
        job.state = to;
        job.description = text("description").or(job.description.take());
        job.target_url = text("target_url").or(job.target_url.take());
        Answer::of(201, self.entity(&self.jobs[at]))
    }

    /// Whether the scopes of the token let it.
    fn may(&self, is_read: bool) -> bool {
        self.scopes.contains(&"api") || (is_read && self.scopes.contains(&"read_api"))
    }

    fn is_full(&self, pipeline: u64) -> bool {
        self.jobs.iter().filter(|job| job.pipeline == pipeline).count() >= self.limit
    }

    fn open_job(&self, pipeline: u64, body: &Value) -> Option<usize> {
        self.jobs.iter().position(|job| {
            job.pipeline == pipeline && body["name"] == job.name.as_str() && matches!(job.state, "pending" | "running")
        })
    }

    fn entity(&self, job: &Job) -> Value {
        let (_, git_ref) = self.pipelines.iter().find(|(id, _)| *id == job.pipeline).unwrap();
        json!({
            "id": job.id, "sha": COMMIT, "ref": git_ref, "status": job.state, "name": job.name,
            "target_url": job.target_url, "description": job.description, "pipeline_id": job.pipeline,
            "author": { "username": "ci-bot" },
        })
    }
}

impl Does for GitLab {
    fn answer(&mut self, asked: &Asked) -> Answer {
        assert!(asked.path.starts_with("/api/v4/"), "below the API");
        self.do_it(asked)
    }
}

/// As a parameter carries it.
fn encoded(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    let one = |byte: u8| {
        if plain(&byte) {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    };
    text.bytes().map(one).collect()
}

fn error(status: u16, message: &str) -> Answer {
    Answer::of(status, json!({ "message": message }))
}

fn invalid(key: &str, why: &str) -> Answer {
    Answer::of(400, json!({ "message": { key: [why] } }))
}

fn transition(event: &str, from: &str) -> Answer {
    let reason = format!("Reason(s): Status cannot transition via \"{event}\"");
    error(
        400,
        &format!("Cannot transition status via :{event} from :{from} ({reason})"),
    )
}

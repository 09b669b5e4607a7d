//! A strict GitHub of our own, for what no emulator does: it counts by its own clock, refuses what is too much, loses
//! answers, is slow and fails, by chance from a seed. It knows check runs and commit statuses.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch, post};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// What it takes, and what goes wrong.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    /// Writes in any time so long.
    pub(crate) windows: Vec<(usize, Duration)>,
    /// Writes of one context of a commit.
    pub(crate) per_context: Option<usize>,
    /// The part of writes that are done and whose answer does not come.
    pub(crate) lost: f64,
    /// The part of requests that are answered 5xx and not done.
    pub(crate) fails_before: f64,
    /// The part of requests that are done and answered 5xx.
    pub(crate) fails_after: f64,
    /// How long a request takes at most.
    pub(crate) slow: Duration,
    /// Repositories that are not there.
    pub(crate) unknown: Vec<String>,
}

/// What it was told, and when.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) rules: Rules,
    runs: Vec<Value>,
    statuses: Vec<(String, Value)>,
    /// When it took or refused a write.
    pub(crate) writes: Vec<Instant>,
    window: VecDeque<Instant>,
    /// How often it said that it is too much.
    pub(crate) limited: usize,
    /// Requests about repositories that are not there.
    pub(crate) refused: usize,
    /// Writes of a context that were too many.
    pub(crate) too_many: usize,
    /// What each context said, in order: its version and state.
    pub(crate) told: BTreeMap<(String, String), Vec<(u64, String)>>,
    /// When each context was told something last.
    pub(crate) told_at: BTreeMap<(String, String), Instant>,
    dice: u64,
}

type Shared = Arc<Mutex<Seen>>;

#[derive(Clone)]
struct Site {
    seen: Shared,
    requests: watch::Sender<usize>,
}

/// It listens until it is dropped.
pub(crate) struct Fake {
    pub(crate) url: String,
    seen: Shared,
    requests: watch::Receiver<usize>,
    _task: AbortOnDropHandle<()>,
}

impl Fake {
    pub(crate) async fn start(rules: Rules, chance: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen: Shared = Arc::new(Mutex::new(Seen {
            rules,
            dice: chance.wrapping_mul(2).wrapping_add(1),
            ..Seen::default()
        }));
        let (requests, count) = watch::channel(0);
        let site = Site {
            seen: seen.clone(),
            requests,
        };
        let router = Router::new()
            .route("/repos/{owner}/{name}/installation", get(installation))
            .route("/app/installations/{id}/access_tokens", post(token))
            .route("/repos/{owner}/{name}/check-runs", post(create_run))
            .route("/repos/{owner}/{name}/check-runs/{id}", patch(change_run))
            .route("/repos/{owner}/{name}/commits/{sha}/check-runs", get(list_runs))
            .route("/repos/{owner}/{name}/statuses/{sha}", post(add_status))
            .route("/repos/{owner}/{name}/commits/{sha}/statuses", get(list_statuses))
            .with_state(site);
        let task = tokio::spawn(async move {
            axum::serve(listener, router).await.unwrap();
        });
        Self {
            url,
            seen,
            requests: count,
            _task: AbortOnDropHandle::new(task),
        }
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    /// Requests so far, questions too.
    pub(crate) fn requests(&self) -> usize {
        *self.requests.borrow()
    }

    /// Waits until there were so many requests; false after this long.
    pub(crate) async fn until(&self, count: usize, patience: Duration) -> bool {
        let mut requests = self.requests.clone();
        let waited = requests.wait_for(|seen| *seen >= count);
        tokio::time::timeout(patience, waited)
            .await
            .is_ok_and(|seen| seen.is_ok())
    }
}

impl Seen {
    /// From 0 up to 1.
    fn dice(&mut self) -> f64 {
        self.dice = self
            .dice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33) as f64 / (1_u64 << 31) as f64
    }

    /// What stands at each context now: its version and state.
    pub(crate) fn shown(&self) -> BTreeMap<(String, String), (u64, String)> {
        let last = |told: &Vec<(u64, String)>| told.last().cloned().unwrap();
        self.told.iter().map(|(key, told)| (key.clone(), last(told))).collect()
    }

    /// Contexts that were told something old after something new.
    pub(crate) fn gone_back(&self) -> Vec<&(String, String)> {
        let back = |told: &Vec<(u64, String)>| told.windows(2).any(|two| two[0].0 > two[1].0);
        let wrong = self.told.iter().filter(|(_, told)| back(told));
        wrong.map(|(key, _)| key).collect()
    }

    /// Check runs of one name at one commit that are not completed although a newer one of that name is there.
    pub(crate) fn left_open(&self) -> usize {
        let open = self.runs.iter().filter(|run| run["status"] != "completed");
        open.filter(|run| {
            let newer = |other: &&Value| {
                other["name"] == run["name"]
                    && other["head_sha"] == run["head_sha"]
                    && other["id"].as_u64() > run["id"].as_u64()
            };
            self.runs.iter().any(|other| newer(&other))
        })
        .count()
    }

    fn tell(&mut self, sha: &str, context: &str, title: &str, state: String) {
        let version = title.split_whitespace().next().and_then(|word| word.strip_prefix('v'));
        let version = version.and_then(|version| version.parse().ok()).expect("a version");
        let key = (sha.to_owned(), context.to_owned());
        self.told.entry(key.clone()).or_default().push((version, state));
        self.told_at.insert(key, Instant::now());
    }

    /// Whether a write is too much now; how long to wait.
    fn limit(&mut self, now: Instant) -> Option<Duration> {
        let longest = self.rules.windows.iter().map(|(_, time)| *time).max()?;
        while self.window.front().is_some_and(|at| now - *at >= longest) {
            self.window.pop_front();
        }
        let over = self.rules.windows.iter().filter_map(|(most, time)| {
            let mut within = self.window.iter().filter(|at| now - **at < *time);
            let first = *within.next()?;
            (within.count() + 1 >= *most).then(|| time.saturating_sub(now - first))
        });
        over.max()
    }

    fn count_of(&self, sha: &str, context: &str) -> usize {
        let key = (sha.to_owned(), context.to_owned());
        self.told.get(&key).map_or(0, Vec::len)
    }
}

fn answer(status: u16, body: &Value) -> Response {
    (StatusCode::from_u16(status).unwrap(), axum::Json(body.clone())).into_response()
}

/// The connection ends in the middle of the answer.
fn lost() -> Response {
    let cut = futures_util::stream::once(async { Err::<Vec<u8>, _>(std::io::Error::other("cut off")) });
    Response::new(Body::from_stream(cut))
}

/// A write, with everything that may go wrong. It is done also where the client goes away meanwhile.
async fn write(
    site: Site,
    repository: String,
    sha: Option<String>,
    context: Option<String>,
    act: impl FnOnce(&mut Seen) -> Response + Send + 'static,
) -> Response {
    let doing = tokio::spawn(async move {
        let slow = {
            let mut seen = site.seen.lock().unwrap();
            let part = seen.dice();
            seen.rules.slow.mul_f64(part)
        };
        if !slow.is_zero() {
            // The time that a slow server takes.
            tokio::time::sleep(slow).await;
        }
        let answer = {
            let mut seen = site.seen.lock().unwrap();
            done(&mut seen, &repository, sha.zip(context), act)
        };
        site.requests.send_modify(|count| *count += 1);
        answer
    });
    doing.await.unwrap()
}

fn done(
    seen: &mut Seen,
    repository: &str,
    place: Option<(String, String)>,
    act: impl FnOnce(&mut Seen) -> Response,
) -> Response {
    if seen.rules.unknown.iter().any(|unknown| unknown == repository) {
        seen.refused += 1;
        return answer(404, &json!({"message": "Not Found"}));
    }
    let now = Instant::now();
    if let Some(wait) = seen.limit(now) {
        seen.limited += 1;
        let body = json!({"message": "You have exceeded a secondary rate limit"});
        let seconds = wait.as_secs() + 1;
        return ([("retry-after", seconds.to_string())], answer(403, &body)).into_response();
    }
    let dice = seen.dice();
    let rules = seen.rules.clone();
    if dice < rules.fails_before {
        return answer(503, &json!({"message": "Service unavailable"}));
    }
    seen.window.push_back(now);
    seen.writes.push(now);
    if let (Some(most), Some((sha, context))) = (rules.per_context, place)
        && seen.count_of(&sha, &context) >= most
    {
        seen.too_many += 1;
        let body =
            json!({"message": "Validation Failed: this SHA and context has reached the maximum number of statuses"});
        return answer(422, &body);
    }
    let answered = act(seen);
    if dice < rules.fails_before + rules.fails_after {
        return answer(502, &json!({"message": "Bad gateway"}));
    }
    if dice < rules.fails_before + rules.fails_after + rules.lost {
        return lost();
    }
    answered
}

/// A question; those fail too.
fn question(site: &Site, repository: &str, act: impl FnOnce(&Seen) -> Value) -> Response {
    let mut seen = site.seen.lock().unwrap();
    let answered = if seen.rules.unknown.iter().any(|unknown| unknown == repository) {
        seen.refused += 1;
        answer(404, &json!({"message": "Not Found"}))
    } else {
        let dice = seen.dice();
        if dice < seen.rules.fails_before {
            answer(500, &json!({"message": "Server error"}))
        } else if dice < seen.rules.fails_before + seen.rules.lost {
            lost()
        } else {
            answer(200, &act(&seen))
        }
    };
    drop(seen);
    site.requests.send_modify(|count| *count += 1);
    answered
}

async fn installation() -> Response {
    answer(200, &json!({"id": 1}))
}

async fn token() -> Response {
    answer(201, &json!({"token": "ghs_fake", "expires_at": "2999-01-01T00:00:00Z"}))
}

fn text<'a>(body: &'a Value, key: &str) -> &'a str {
    body[key]
        .as_str()
        .unwrap_or_else(|| panic!("`{key}` is missing in {body}"))
}

fn state_of(body: &Value) -> String {
    let conclusion = body["conclusion"].as_str();
    assert_eq!(text(body, "status") == "completed", conclusion.is_some(), "{body}");
    conclusion.unwrap_or_else(|| text(body, "status")).to_owned()
}

async fn create_run(
    State(site): State<Site>,
    Path((owner, name)): Path<(String, String)>,
    axum::Json(mut body): axum::Json<Value>,
) -> Response {
    let (sha, context) = (text(&body, "head_sha").to_owned(), text(&body, "name").to_owned());
    let place = (Some(sha.clone()), Some(context.clone()));
    write(site, format!("{owner}/{name}"), place.0, place.1, move |seen| {
        let id = seen.runs.len() + 1;
        body["id"] = json!(id);
        seen.tell(&sha, &context, text(&body["output"], "title"), state_of(&body));
        seen.runs.push(body.clone());
        answer(201, &body)
    })
    .await
}

async fn change_run(
    State(site): State<Site>,
    Path((owner, name, id)): Path<(String, String, usize)>,
    axum::Json(body): axum::Json<Value>,
) -> Response {
    write(site, format!("{owner}/{name}"), None, None, move |seen| {
        let Some(run) = seen.runs.get_mut(id - 1) else {
            return answer(404, &json!({"message": "Not Found"}));
        };
        for (key, value) in body.as_object().unwrap() {
            run[key] = value.clone();
        }
        if body["status"] != "completed" {
            run["conclusion"] = Value::Null;
        }
        let run = run.clone();
        let (sha, context) = (text(&run, "head_sha"), text(&run, "name"));
        seen.tell(sha, context, text(&run["output"], "title"), state_of(&run));
        answer(200, &run)
    })
    .await
}

async fn list_runs(
    State(site): State<Site>,
    Path((owner, name, sha)): Path<(String, String, String)>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    question(&site, &format!("{owner}/{name}"), |seen| {
        let of_name = |run: &&Value| run["head_sha"] == *sha && run["name"] == query["check_name"];
        let mut found: Vec<Value> = seen.runs.iter().filter(of_name).cloned().collect();
        found.reverse();
        for run in &mut found {
            if run["conclusion"].is_null() {
                run["conclusion"] = Value::Null;
            }
        }
        json!({"total_count": found.len(), "check_runs": found})
    })
}

async fn add_status(
    State(site): State<Site>,
    Path((owner, name, sha)): Path<(String, String, String)>,
    axum::Json(body): axum::Json<Value>,
) -> Response {
    let context = text(&body, "context").to_owned();
    let place = (Some(sha.clone()), Some(context.clone()));
    write(site, format!("{owner}/{name}"), place.0, place.1, move |seen| {
        seen.tell(
            &sha,
            &context,
            text(&body, "description"),
            text(&body, "state").to_owned(),
        );
        seen.statuses.push((sha, body.clone()));
        answer(201, &body)
    })
    .await
}

async fn list_statuses(
    State(site): State<Site>,
    Path((owner, name, sha)): Path<(String, String, String)>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    question(&site, &format!("{owner}/{name}"), |seen| {
        let page: usize = query["page"].parse().unwrap();
        let of_commit = seen.statuses.iter().rev().filter(|(of, _)| *of == sha);
        let found: Vec<&Value> = of_commit
            .skip((page - 1) * 100)
            .take(100)
            .map(|(_, body)| body)
            .collect();
        json!(found)
    })
}

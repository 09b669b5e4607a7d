//! An HTTP server on loopback for what no server of others' making does: it does what it is asked and loses the answer.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Request, Response};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// What was asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// As it came, with what is encoded in it.
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// What is answered.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Value,
}

/// What goes wrong with one request.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// It is done, and the answer is cut off.
    Cut,
    /// It is done, and a gateway says that it does not know.
    Gateway,
    /// It is not done, and this is answered.
    Instead(Answer),
}

/// What a server does.
pub(crate) trait Does: Send + 'static {
    fn answer(&mut self, asked: &Asked) -> Answer;
}

#[derive(Debug)]
struct Shared<D> {
    does: D,
    asked: Vec<Asked>,
    /// For the next request with this method whose path holds this.
    faults: VecDeque<(&'static str, String, Fault)>,
}

/// A server on loopback; it ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Server<D> {
    url: String,
    shared: Arc<Mutex<Shared<D>>>,
    serving: JoinHandle<()>,
}

impl Answer {
    pub(crate) fn of(status: u16, body: Value) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body,
        }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// `METHOD PATH`.
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The value of a parameter, as it came.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        let pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        pairs
            .into_iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    }
}

impl<D: Does> Server<D> {
    pub(crate) async fn start(does: D) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Mutex::new(Shared {
            does,
            asked: Vec::new(),
            faults: VecDeque::new(),
        }));
        let router = axum::Router::new()
            .fallback(handle::<D>)
            .with_state(Arc::clone(&shared));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, shared, serving }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The next request with this method whose path holds `part` goes wrong.
    pub(crate) fn fault(&self, method: &'static str, part: &str, fault: Fault) {
        self.lock().faults.push_back((method, part.to_owned(), fault));
    }

    /// Everything that was asked until now.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.lock().asked.clone()
    }

    /// How often something was asked that begins so: `POST /api`.
    pub(crate) fn count(&self, start: &str) -> usize {
        self.lock()
            .asked
            .iter()
            .filter(|asked| asked.line().starts_with(start))
            .count()
    }

    /// Looks at what it does, or changes it.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut D) -> T) -> T {
        look(&mut self.lock().does)
    }

    fn lock(&self) -> MutexGuard<'_, Shared<D>> {
        self.shared.lock().unwrap()
    }
}

impl<D> Drop for Server<D> {
    fn drop(&mut self) {
        self.serving.abort();
        // It panicked over what it was asked, and the client took that for a lost answer.
        assert!(
            std::thread::panicking() || !self.shared.is_poisoned(),
            "the server refused what it was asked"
        );
    }
}

async fn handle<D: Does>(State(shared): State<Arc<Mutex<Shared<D>>>>, request: Request<Body>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let asked = Asked {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        body: axum::body::to_bytes(body, 1 << 20).await.unwrap(),
    };
    let mut shared = shared.lock().unwrap();
    shared.asked.push(asked.clone());
    let at = shared
        .faults
        .iter()
        .position(|(method, part, _)| *method == asked.method && asked.path.contains(part));
    let fault = at.and_then(|at| shared.faults.remove(at)).map(|(.., fault)| fault);
    match fault {
        None => whole(&shared.does.answer(&asked)),
        Some(Fault::Instead(answer)) => whole(&answer),
        Some(Fault::Gateway) => {
            shared.does.answer(&asked);
            whole(&Answer::of(502, Value::Null))
        }
        Some(Fault::Cut) => {
            let answer = shared.does.answer(&asked);
            let half: Result<Bytes, io::Error> = Ok(Bytes::from_static(b"{"));
            let cut = Err(io::Error::other("cut off"));
            let body = Body::from_stream(tokio_stream::iter([half, cut]));
            Response::builder().status(answer.status).body(body).unwrap()
        }
    }
}

fn whole(answer: &Answer) -> Response<Body> {
    let mut response = Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        response = response.header(*name, value);
    }
    let body = if answer.body.is_null() {
        Body::empty()
    } else {
        Body::from(answer.body.to_string())
    };
    response.header("content-type", "application/json").body(body).unwrap()
}

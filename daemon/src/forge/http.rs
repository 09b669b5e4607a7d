//! What all forges share: one HTTP client with limits, and what an answer means for who sent something.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::header::{DATE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;

use super::{OpenError, Quota, Scope, SendError};
use crate::tls;

/// How long a connection to a forge may take.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// How long a whole answer may take.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// Bytes of an answer that are read.
const ANSWER_BYTES: usize = 4 << 20;
/// Characters of a forge's own words in an error.
const SAID_CHARS: usize = 200;

/// Asks one forge.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    client: reqwest::Client,
    /// The forge's name, for errors.
    forge: String,
    api: String,
}

/// A whole answer. `Debug` leaves the body out: some hold a token.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Vec<u8>,
}

impl Http {
    /// For the forge `name`, whose API is at `api`.
    pub(crate) fn new(name: &str, api: &str) -> Result<Self, OpenError> {
        tls::install_provider();
        let client = reqwest::Client::builder()
            .user_agent(concat!("nixci/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIME)
            .timeout(ANSWER_TIME)
            // A redirect could carry a token elsewhere; a renamed repository is told instead.
            .redirect(reqwest::redirect::Policy::none())
            .build();
        Ok(Self {
            client: client.map_err(|error| OpenError::Other {
                forge: name.to_owned(),
                why: format!("failed to start an HTTP client: {error}"),
            })?,
            forge: name.to_owned(),
            api: api.to_owned(),
        })
    }

    /// The forge's name.
    pub(crate) fn forge(&self) -> &str {
        &self.forge
    }

    /// A request below the API; `path` begins with a slash and is encoded already.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.api))
    }

    /// Sends a request and reads the whole answer, whatever its status.
    ///
    /// Fails with [`SendError::Failed`] where no request got out, and with [`SendError::Lost`] where the answer did not
    /// come or was cut off.
    pub(crate) async fn ask(&self, request: RequestBuilder) -> Result<Answer, SendError> {
        let mut response: Response = request.send().await.map_err(|error| {
            let why = format!("`{}` does not answer: {}", self.forge, chain(&error));
            if error.is_connect() || error.is_builder() {
                SendError::Failed { why }
            } else {
                SendError::Lost { why }
            }
        })?;
        let (status, headers) = (response.status(), response.headers().clone());
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() <= ANSWER_BYTES => body.extend_from_slice(&chunk),
                Ok(Some(_)) => {
                    let why = format!("`{}` answered more than {ANSWER_BYTES} bytes", self.forge);
                    return Err(SendError::Lost { why });
                }
                Ok(None) => break,
                Err(error) => {
                    let why = format!("the answer of `{}` was cut off: {}", self.forge, chain(&error));
                    return Err(SendError::Lost { why });
                }
            }
        }
        Ok(Answer { status, headers, body })
    }
}

/// An error without the address it is about, which may hold more than its reader should see.
fn chain(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl Answer {
    /// The time by the clock of who answered, in seconds since the Unix epoch.
    pub(crate) fn date(&self) -> Option<i64> {
        date(self.headers.get(DATE)?)
    }

    /// The answer's JSON. Only the fields that are used should be asked for: forges add and change others.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }

    /// What it says of how much more it takes.
    pub(crate) fn quota(&self) -> Quota {
        let number = |names: [&str; 2]| {
            let value = names.into_iter().find_map(|name| self.headers.get(name))?;
            value.to_str().ok()?.trim().parse::<u64>().ok()
        };
        let reset = number(["x-ratelimit-reset", "ratelimit-reset"]);
        Quota {
            remaining: number(["x-ratelimit-remaining", "ratelimit-remaining"]),
            reset_in: reset.map(|reset| self.until(reset)),
        }
    }

    /// How long it says to wait: `Retry-After`, else the time until the limit is reset where nothing is left of it.
    pub(crate) fn wait(&self) -> Option<Duration> {
        let after = self.headers.get(RETRY_AFTER).and_then(|value| {
            let seconds = value.to_str().ok()?.trim().parse().map(Duration::from_secs);
            seconds.ok().or_else(|| {
                let until = u64::try_from(date(value)?).ok()?;
                Some(self.until(until))
            })
        });
        let quota = self.quota();
        after.or_else(|| quota.reset_in.filter(|_| quota.remaining == Some(0)))
    }

    /// From a time in seconds since the Unix epoch, or a number of seconds where it is too small to be one. Now is by the
    /// clock of who answered, where it told: ours may be off.
    fn until(&self, number: u64) -> Duration {
        const LONG_AGO: u64 = 1_000_000_000;
        if number < LONG_AGO {
            return Duration::from_secs(number);
        }
        let theirs = self.date().and_then(|date| u64::try_from(date).ok());
        let now = theirs.map_or_else(
            || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            Duration::from_secs,
        );
        Duration::from_secs(number).saturating_sub(now)
    }

    /// What the forge said in words, in one short line: `message` or `error` of its JSON, and the first of its `errors`.
    pub(crate) fn said(&self) -> String {
        #[derive(serde::Deserialize)]
        struct Said {
            message: Option<serde_json::Value>,
            error: Option<serde_json::Value>,
            errors: Option<serde_json::Value>,
        }
        let text = match self.json::<Said>() {
            Ok(said) => {
                let first = said.errors.as_ref().and_then(|errors| errors.get(0)).map(in_words);
                let whole = said.message.or(said.error).as_ref().map(in_words);
                whole.into_iter().chain(first).collect::<Vec<_>>().join(": ")
            }
            Err(_) => String::new(),
        };
        let line: String = text
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(SAID_CHARS)
            .collect();
        if line.trim().is_empty() {
            self.status.to_string()
        } else {
            format!("{} ({})", line.trim(), self.status.as_u16())
        }
    }

    /// What an answer that is no success means where the forge has no words of its own for it. `what` was tried.
    pub(crate) fn refused(&self, forge: &str, what: &str) -> SendError {
        let why = format!("`{forge}` did not take {what}: {}", self.said());
        let is_limit = self.wait().is_some() || self.status == StatusCode::TOO_MANY_REQUESTS;
        match self.status.as_u16() {
            403 | 429 | 503 if is_limit => SendError::Limited { wait: self.wait(), why },
            401 => SendError::Refused {
                scope: Scope::Forge,
                why,
            },
            301 | 302 | 307 | 308 | 403 | 404 | 410 | 451 => SendError::Refused {
                scope: Scope::Repository,
                why,
            },
            408 | 425 => SendError::Failed { why },
            400..=499 => SendError::Refused {
                scope: Scope::Status,
                why,
            },
            // A gateway may have lost the answer of something that was done.
            _ => SendError::Lost { why },
        }
    }
}

/// What a forge says in JSON, in words: a text, or the `message` of an object.
fn in_words(said: &serde_json::Value) -> String {
    let text = said.as_str().or_else(|| said.get("message")?.as_str());
    text.map_or_else(|| said.to_string(), str::to_owned)
}

/// A date as HTTP writes it, in seconds since the Unix epoch.
fn date(value: &HeaderValue) -> Option<i64> {
    let date = jiff::fmt::rfc2822::parse(value.to_str().ok()?.trim()).ok()?;
    Some(date.timestamp().as_second())
}

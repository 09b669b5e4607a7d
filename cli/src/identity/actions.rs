//! Tokens that GitHub Actions and Forgejo Actions issue to a job.
//!
//! A job that may have one finds `ACTIONS_ID_TOKEN_REQUEST_URL` and `ACTIONS_ID_TOKEN_REQUEST_TOKEN` in its environment; a
//! GET of that URL with `&audience=…` and the second as bearer token answers `{"value": "JWT"}`. Forgejo does the same.
//! <https://docs.github.com/actions/reference/security/oidc>,
//! <https://forgejo.org/docs/next/user/actions/security-openid-connect>

use std::fmt;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION};
use reqwest::{StatusCode, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

use super::checked;
use crate::connect::http::{bearer, builder, said};
use crate::context::Env;
use crate::exit::{Exit, Problem, chain};

/// How long one answer may take.
const ANSWER_TIME: Duration = Duration::from_secs(15);
/// How often it is asked where it does not answer, or is overloaded.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);
/// Bytes of an answer at most.
const ANSWER_BYTES: usize = 64 * 1024;

/// What makes tokens for this job.
#[derive(Clone)]
pub(super) struct Issuer {
    url: Url,
    request_token: SecretString,
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Issuer")
    }
}

#[derive(Deserialize)]
struct Answer {
    value: String,
}

impl Issuer {
    /// The one that the environment names; none where this job may have no token.
    pub(super) fn find(env: Env<'_>) -> Option<Self> {
        Some(Self {
            url: env("ACTIONS_ID_TOKEN_REQUEST_URL")?.parse().ok()?,
            request_token: env("ACTIONS_ID_TOKEN_REQUEST_TOKEN")?.into(),
        })
    }

    /// A new token for this audience. The runner is told to hide it.
    ///
    /// Fails with exit code 5 where the CI refuses, and 4 where it does not answer.
    pub(super) async fn token(&self, audience: &str) -> Result<SecretString, Problem> {
        let mut url = self.url.clone();
        url.query_pairs_mut().append_pair("audience", audience);
        let client = builder()?.timeout(ANSWER_TIME).build().map_err(|error| {
            Problem::failed(format!(
                "failed to start an HTTP client: {}",
                chain(&error.without_url())
            ))
        })?;
        let mut tries = 1;
        let token = loop {
            let problem = match self.ask(&client, url.clone()).await {
                Ok(token) => break token,
                Err(problem) => problem,
            };
            if problem.exit() != Exit::Unreachable || tries == TRIES {
                return Err(problem);
            }
            tokio::time::sleep(PAUSE * tries).await;
            tries += 1;
        };
        // A workflow command, to the stream that people read; the runner takes it out of the log.
        eprintln!("::add-mask::{}", token.expose_secret());
        Ok(token)
    }

    async fn ask(&self, client: &reqwest::Client, url: Url) -> Result<SecretString, Problem> {
        let request = client
            .get(url)
            .header(AUTHORIZATION, bearer(&self.request_token)?)
            .header(ACCEPT, "application/json");
        let mut response = request.send().await.map_err(|error| {
            Problem::unreachable(format!(
                "the CI does not answer when asked for this job's token: {}",
                chain(&error.without_url())
            ))
        })?;
        let status = response.status();
        let body = SecretString::from(said(&mut response, ANSWER_BYTES).await);
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return Err(Problem::unreachable(format!(
                "the CI answered {status} when asked for this job's token"
            )));
        }
        // What is in the body is a secret, or could hold one.
        let answer = serde_json::from_str(body.expose_secret()).ok();
        match (status.is_success(), answer) {
            (true, Some(Answer { value })) => checked(&value.into(), "the CI's answer"),
            (true, None) => Err(Problem::failed(
                "the CI answered something else than a token for this job",
            )),
            (false, _) => Err(Problem::new(
                Exit::NotAllowed,
                format!("the CI refused a token to this job ({status}): may it still have one? They end with the job"),
            )),
        }
    }
}

/// What a job of Actions without a token is to do.
pub(super) fn advice(env: Env<'_>) -> String {
    let forgejo = env("FORGEJO_ACTIONS").is_some() || env("GITEA_ACTIONS").is_some();
    let grant = if forgejo {
        "add `enable-openid-connect: true` to the job (Forgejo 15 or later), or set NIXCI_TOKEN from a secret"
    } else {
        "add `permissions: {id-token: write, contents: read}` to the job"
    };
    format!(
        "{grant}. Pull requests from forks get none: there, write a file with `nixci submit --artifact FILE`, and send it \
         with `--from-artifact FILE` from a `workflow_run` workflow"
    )
}

//! Questions to GitHub in our name.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, RequestBuilder, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::app::{App, our_time};
use super::refusal::{Tried, nothing_done};
use super::repository::Repository;
use super::tokens::{NoToken, Token, Tokens};
use crate::config::{self, ForgeAuth};
use crate::forge::http::Answer;
use crate::forge::{Http, OpenError, Scope, SendError};

/// The version of the REST interface that is asked for; older Enterprise Servers ignore it.
const VERSION: &str = "2022-11-28";
const KIND: &str = "application/vnd.github+json";

/// One GitHub, and who we are there. `Debug` prints no secret.
#[derive(Debug)]
pub(super) struct Api {
    http: Http,
    auth: Auth,
}

#[derive(Debug)]
enum Auth {
    App { app: Box<App>, tokens: Box<Tokens> },
    Token(SecretString),
    Nobody,
}

impl Api {
    /// Reads the secrets. Blocks.
    pub(super) fn open(forge: &config::Forge) -> Result<Self, OpenError> {
        let auth = match &forge.auth {
            Some(ForgeAuth::App { id, key }) => Auth::App {
                app: Box::new(App::open(&forge.name, *id, key)?),
                tokens: Box::new(Tokens::new()),
            },
            Some(ForgeAuth::Token(file)) => Auth::Token(file.read().map_err(|source| OpenError::Secret {
                forge: forge.name.clone(),
                what: "token",
                path: file.path.clone(),
                source,
            })?),
            None => Auth::Nobody,
        };
        Ok(Self {
            http: Http::new(&forge.name, &forge.api)?,
            auth,
        })
    }

    /// The forge's name.
    pub(super) fn forge(&self) -> &str {
        self.http.forge()
    }

    /// The number of the App that we are.
    pub(super) fn app_id(&self) -> Option<u64> {
        match &self.auth {
            Auth::App { app, .. } => Some(app.id),
            Auth::Token(_) | Auth::Nobody => None,
        }
    }

    /// Asks for something of a repository; the answer may have any status but 401 and those of a redirect. `path` is below it.
    ///
    /// A token that is refused is made anew once.
    pub(super) async fn ask<B: Serialize + Sync>(
        &self,
        repository: &Repository<'_>,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<Answer, SendError> {
        let answer = self
            .ask_once_known(repository, method, &repository.path(path), body)
            .await?;
        if answer.status.is_redirection() {
            return Err(self.moved(repository, &answer).await);
        }
        Ok(answer)
    }

    async fn ask_once_known<B: Serialize + Sync>(
        &self,
        repository: &Repository<'_>,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<Answer, SendError> {
        let request = |token: &SecretString| {
            let request = self.request(method.clone(), path).bearer_auth(token.expose_secret());
            match body {
                Some(body) => request.json(body),
                None => request,
            }
        };
        match &self.auth {
            Auth::App { app, tokens } => {
                let (installation, token) = self.token(app, tokens, repository).await?;
                let answer = self.http.ask(request(&token.text)).await?;
                if answer.status != StatusCode::UNAUTHORIZED {
                    return Ok(answer);
                }
                tokens.forget_token(installation, &token).await;
                let (_, token) = self.token(app, tokens, repository).await?;
                let answer = self.http.ask(request(&token.text)).await?;
                if answer.status != StatusCode::UNAUTHORIZED {
                    return Ok(answer);
                }
                // It knows the App, which made this token a moment ago; not all of its machines know the token yet.
                Err(SendError::Failed {
                    why: format!(
                        "`{}` does not take a new token of the App yet: {}",
                        self.forge(),
                        answer.said()
                    ),
                })
            }
            Auth::Token(token) => self.user_knows(self.http.ask(request(token)).await?),
            Auth::Nobody => Err(self.nobody()),
        }
    }

    /// Asks for something that changes nothing, so that a lost answer leaves nothing open.
    pub(super) async fn get(&self, repository: &Repository<'_>, path: &str) -> Result<Answer, SendError> {
        self.ask(repository, Method::GET, path, None::<&()>)
            .await
            .map_err(nothing_done)
    }

    /// Asks as the user of the token.
    pub(super) async fn ask_as_user(&self, path: &str) -> Result<Answer, SendError> {
        match &self.auth {
            Auth::Token(token) => {
                let request = self.request(Method::GET, path).bearer_auth(token.expose_secret());
                self.user_knows(self.http.ask(request).await.map_err(nothing_done)?)
            }
            Auth::App { .. } | Auth::Nobody => Err(self.nobody()),
        }
    }

    /// Asks as the App itself; the answer may have any status other than 401. Nothing that is asked so changes anything.
    ///
    /// Where the App's token is refused and our clock differs from GitHub's, a new one is signed by its clock.
    pub(super) async fn ask_as_app(&self, method: Method, path: &str) -> Result<Answer, SendError> {
        match &self.auth {
            Auth::App { app, .. } => self.as_app(app, method, path).await,
            Auth::Token(_) | Auth::Nobody => Err(self.nobody()),
        }
    }

    async fn as_app(&self, app: &App, method: Method, path: &str) -> Result<Answer, SendError> {
        let ask = async || {
            let request = self
                .request(method.clone(), path)
                .bearer_auth(app.token()?.expose_secret());
            self.http.ask(request).await.map_err(nothing_done)
        };
        let mut answer = ask().await?;
        if answer.status == StatusCode::UNAUTHORIZED && app.learn_time(&answer) {
            answer = ask().await?;
        }
        if answer.status == StatusCode::UNAUTHORIZED {
            return Err(SendError::Refused {
                scope: Scope::Forge,
                why: format!(
                    "`{}` does not know the App {} by this private key: {}; check `app_id` and `private_key_file`",
                    self.forge(),
                    app.id,
                    answer.said()
                ),
            });
        }
        Ok(answer)
    }

    /// The installation that a repository belongs to, and a token of it.
    async fn token(
        &self,
        app: &App,
        tokens: &Tokens,
        repository: &Repository<'_>,
    ) -> Result<(u64, Arc<Token>), SendError> {
        let name = repository.to_string();
        for is_last in [false, true] {
            let installation = tokens
                .installation(&name, self.ask_for_installation(app, repository))
                .await?;
            match tokens
                .token(installation, self.make_token(app, installation, repository))
                .await
            {
                Ok(token) => return Ok((installation, token)),
                Err(NoToken::Other(error)) => return Err(error),
                Err(NoToken::Gone) => {
                    tokens.forget_installation(&name).await;
                    if is_last {
                        break;
                    }
                }
            }
        }
        Err(self.not_installed(app, repository))
    }

    async fn ask_for_installation(&self, app: &App, repository: &Repository<'_>) -> Result<u64, SendError> {
        #[derive(Deserialize)]
        struct Installation {
            id: u64,
        }
        let answer = self.as_app(app, Method::GET, &repository.path("/installation")).await?;
        match answer.status {
            StatusCode::OK => Ok(self.read::<Installation>(&answer, "an installation")?.id),
            StatusCode::NOT_FOUND => Err(self.not_installed(app, repository)),
            _ => {
                let tried = Tried {
                    repository,
                    what: "a question for the installation",
                    needs: None,
                };
                Err(nothing_done(self.refused(&answer, &tried)))
            }
        }
    }

    async fn make_token(
        &self,
        app: &App,
        installation: u64,
        repository: &Repository<'_>,
    ) -> Result<Arc<Token>, NoToken> {
        #[derive(Deserialize)]
        struct Made {
            token: String,
            expires_at: String,
        }
        let path = format!("/app/installations/{installation}/access_tokens");
        let answer = self.as_app(app, Method::POST, &path).await.map_err(NoToken::Other)?;
        if answer.status == StatusCode::NOT_FOUND {
            return Err(NoToken::Gone);
        }
        if !answer.status.is_success() {
            let tried = Tried {
                repository,
                what: "a question for a token",
                needs: None,
            };
            return Err(NoToken::Other(nothing_done(self.refused(&answer, &tried))));
        }
        let made: Made = self.read(&answer, "a token").map_err(NoToken::Other)?;
        // Both times are by GitHub's clock, whatever ours says. A token without a time is used once.
        let now = answer.date().unwrap_or_else(our_time);
        let until = made
            .expires_at
            .parse::<jiff::Timestamp>()
            .map_or(now, jiff::Timestamp::as_second);
        let valid = u64::try_from(until - now).unwrap_or_default();
        Ok(Arc::new(Token::new(made.token.into(), Duration::from_secs(valid))))
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, path)
            .header("Accept", KIND)
            .header("X-GitHub-Api-Version", VERSION)
    }

    /// The part of an answer that is used.
    pub(super) fn read<T: DeserializeOwned>(&self, answer: &Answer, what: &str) -> Result<T, SendError> {
        // The error of the reader may quote what it read.
        answer.json().map_err(|_| SendError::Failed {
            why: format!(
                "what `{}` answered is not {what} ({})",
                self.forge(),
                answer.status.as_u16()
            ),
        })
    }

    fn user_knows(&self, answer: Answer) -> Result<Answer, SendError> {
        if answer.status != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        Err(SendError::Refused {
            scope: Scope::Forge,
            why: format!(
                "`{}` does not take the token: {}; make a new one and put it into the `token_file`",
                self.forge(),
                answer.said()
            ),
        })
    }

    fn nobody(&self) -> SendError {
        SendError::Refused {
            scope: Scope::Forge,
            why: format!(
                "`{}` cannot be told: give it an `app_id` and `private_key_file`, or a `token_file`",
                self.forge()
            ),
        }
    }

    /// The error of a repository that was renamed or moved, with its name now where that can be found out. GitHub would
    /// send us there; a configuration that says something else is mended instead, as its old name may be given to others.
    async fn moved(&self, repository: &Repository<'_>, answer: &Answer) -> SendError {
        #[derive(Deserialize)]
        struct Named {
            full_name: String,
        }
        let location = answer.headers.get("location").and_then(|value| value.to_str().ok());
        let number = location
            .and_then(|location| location.split_once("/repositories/"))
            .and_then(|(_, rest)| rest.split(['/', '?']).next()?.parse::<u64>().ok());
        let mut name = None;
        if let Some(number) = number {
            let path = format!("/repositories/{number}");
            let asked = self.ask_once_known(repository, Method::GET, &path, None::<&()>).await;
            name = asked.ok().and_then(|answer| answer.json::<Named>().ok());
        }
        let tried = Tried {
            repository,
            what: "a request",
            needs: None,
        };
        match name {
            Some(Named { full_name }) => SendError::Refused {
                scope: Scope::Repository,
                why: format!(
                    "`{repository}` is `{}` at `{}` now; set the project's `repository` to it",
                    super::output::line(&full_name, 200),
                    self.forge()
                ),
            },
            None => self.refused(answer, &tried),
        }
    }

    fn not_installed(&self, app: &App, repository: &Repository<'_>) -> SendError {
        SendError::Refused {
            scope: Scope::Repository,
            why: format!(
                "the App {} is not installed on `{repository}` of `{}`: install it there, or mend the project's \
                 `repository`",
                app.id,
                self.forge()
            ),
        }
    }
}

//! Who may ask over HTTP.
//!
//! With `http_read = "token"` everything but `/healthz` needs a token: as bearer, or as the password of
//! basic authentication, which is what `netrc-file` makes Nix send and what a browser asks for.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use data_encoding::BASE64;

use crate::config::HttpRead;
use crate::principal::{Credentials, Principal, Refused, TOKEN_BYTES};

/// The longest `Authorization` that is looked at: in base64 a token is a third longer.
const HEADER_BYTES: usize = TOKEN_BYTES * 4 / 3 + 256;

/// Stands in front of all handlers.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    credentials: Credentials,
}

impl Guard {
    pub(crate) fn new(credentials: Credentials) -> Self {
        Self { credentials }
    }

    /// Puts it in front. Handlers find the [`Principal`] among the extensions of a request.
    pub(crate) fn around(self, router: Router) -> Router {
        router.layer(middleware::from_fn_with_state(self, check))
    }

    async fn admit(&self, path: &str, headers: &HeaderMap) -> Result<Principal, Turned> {
        match self.credentials.reading() {
            HttpRead::Everyone => Ok(Principal::http()),
            HttpRead::Token if path == "/healthz" => Ok(Principal::http()),
            HttpRead::Token => {
                let token = given(headers).ok_or(Turned::NoToken)?;
                self.credentials.reader(&token).await.map_err(Turned::Refused)
            }
        }
    }
}

/// Why a request is turned away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Turned {
    /// There is no token in it that can be read.
    NoToken,
    /// The token does not help.
    Refused(Refused),
}

impl IntoResponse for Turned {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Self::NoToken => (
                StatusCode::UNAUTHORIZED,
                "this needs a token: as `Authorization: Bearer …`, or as password in Nix's `netrc-file`\n".to_owned(),
            ),
            Self::Refused(refused) => {
                let status = match refused {
                    Refused::Unknown | Refused::Expired | Refused::TooLong | Refused::Invalid(_) => {
                        StatusCode::UNAUTHORIZED
                    }
                    Refused::NotEnough(_) | Refused::SomeProjects | Refused::NotLetIn(_) => StatusCode::FORBIDDEN,
                    Refused::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
                };
                (status, format!("{refused}\n"))
            }
        };
        let mut response = (status, text).into_response();
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::UNAUTHORIZED {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"nixci\""));
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"nixci\""));
        }
        response
    }
}

async fn check(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    match guard.admit(request.uri().path(), request.headers()).await {
        Ok(who) => {
            request.extensions_mut().insert(who);
            next.run(request).await
        }
        Err(turned) => turned.into_response(),
    }
}

/// The token in a request, if there is one that can be read.
pub(super) fn given(headers: &HeaderMap) -> Option<Vec<u8>> {
    let text = headers.get(AUTHORIZATION)?.to_str().ok()?;
    if text.len() > HEADER_BYTES {
        return None;
    }
    let (scheme, value) = text.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(value.trim().as_bytes().to_vec());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = BASE64.decode(value.trim().as_bytes()).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    Some(pair[colon + 1..].to_vec())
}

#[cfg(test)]
mod tests {
    use nixci_store::index::Index;

    use super::*;
    use crate::config::{Config, HashFrom, Projects, Right, Token};
    use crate::principal::TokenHash;
    use crate::settings::{Live, Secrets, Settings};

    const TOKEN: &str = "a token that is long enough";

    fn guard(read: HttpRead, dir: &std::path::Path) -> Guard {
        let token = |name: &str, text: &str, rights| Token {
            name: name.to_owned(),
            hash: HashFrom::Here(TokenHash::of(text).unwrap()),
            rights,
            projects: Projects::All,
            expires: None,
        };
        let tokens = [
            token("cache", TOKEN, vec![Right::Read]),
            token("idle", "a token that may do nothing", vec![]),
            Token {
                projects: Projects::Fitting(vec!["o/*".to_owned()]),
                ..token("some", "a token that is for some projects", vec![Right::Read])
            },
        ];
        let index = Index::open(&dir.join("index.db")).unwrap();
        let mut config = Config::in_folder(dir, "auto", 1);
        config.tokens = tokens.into();
        config.listen.http_read = read;
        let secrets = Secrets::read(&config, None).unwrap();
        let settings = Settings::new(config, secrets, None, &index, None).unwrap();
        Guard::new(Credentials::new(Live::new(settings), index))
    }

    async fn asked(read: HttpRead, path: &str, authorization: Option<&str>) -> Result<String, Turned> {
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization {
            headers.insert(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        let dir = tempfile::tempdir().unwrap();
        let admitted = guard(read, dir.path()).admit(path, &headers).await;
        admitted.map(|who| who.name().to_owned())
    }

    #[tokio::test]
    async fn with_tokens_only_holders_read() {
        let basic = |pair: &str| format!("Basic {}", BASE64.encode(pair.as_bytes()));
        let holder = Ok("token:cache".to_owned());
        for (authorization, expected) in [
            (format!("Bearer {TOKEN}"), holder.clone()),
            (format!("bearer  {TOKEN} "), holder.clone()),
            (basic(&format!("anybody:{TOKEN}")), holder.clone()),
            (basic(&format!(":{TOKEN}")), holder),
            (basic(TOKEN), Err(Turned::NoToken)),
            (basic("anybody:wrong"), Err(Turned::Refused(Refused::Unknown))),
            ("Bearer wrong".to_owned(), Err(Turned::Refused(Refused::Unknown))),
            ("Bearer ".to_owned(), Err(Turned::Refused(Refused::Unknown))),
            ("Basic ???".to_owned(), Err(Turned::NoToken)),
            (format!("Digest {TOKEN}"), Err(Turned::NoToken)),
            (TOKEN.replace(' ', "-"), Err(Turned::NoToken)),
            (format!("Bearer {}", "x".repeat(HEADER_BYTES)), Err(Turned::NoToken)),
            (
                "Bearer a token that may do nothing".to_owned(),
                Err(Turned::Refused(Refused::NotEnough(Right::Read))),
            ),
            (
                "Bearer a token that is for some projects".to_owned(),
                Err(Turned::Refused(Refused::SomeProjects)),
            ),
        ] {
            assert_eq!(
                asked(HttpRead::Token, "/nix-cache-info", Some(&authorization)).await,
                expected,
                "{authorization}"
            );
        }
        assert_eq!(asked(HttpRead::Token, "/", None).await, Err(Turned::NoToken));
        assert_eq!(asked(HttpRead::Token, "/healthz", None).await, Ok("http".to_owned()));
        assert_eq!(asked(HttpRead::Token, "/healthz/x", None).await, Err(Turned::NoToken));
    }

    #[tokio::test]
    async fn without_the_setting_everybody_reads() {
        for authorization in [None, Some("Bearer wrong")] {
            assert_eq!(
                asked(HttpRead::Everyone, "/api/v1/stores", authorization).await,
                Ok("http".to_owned())
            );
        }
    }
}

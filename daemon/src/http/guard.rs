//! Who may ask over HTTP.
//!
//! With `http_read = "token"` everything but `/healthz` needs a token: as bearer, or as the password of
//! basic authentication, which is what `netrc-file` makes Nix send and what a browser asks for.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use data_encoding::BASE64;

use crate::config::{HttpRead, Right};
use crate::principal::{Principal, Refused, Tokens};

/// The longest `Authorization` that is looked at.
const HEADER_BYTES: usize = 4096;

/// Stands in front of all handlers.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    read: HttpRead,
    tokens: Arc<Tokens>,
}

impl Guard {
    pub(crate) fn new(read: HttpRead, tokens: Tokens) -> Self {
        Self {
            read,
            tokens: Arc::new(tokens),
        }
    }

    /// Puts it in front. Handlers find the [`Principal`] among the extensions of a request.
    pub(crate) fn around(self, router: Router) -> Router {
        router.layer(middleware::from_fn_with_state(self, check))
    }

    fn admit(&self, path: &str, headers: &HeaderMap) -> Result<Principal, Turned> {
        match self.read {
            HttpRead::Everyone => Ok(Principal::http()),
            HttpRead::Token if path == "/healthz" => Ok(Principal::http()),
            HttpRead::Token => {
                let token = given(headers).ok_or(Turned::NoToken)?;
                match self.tokens.may(&token, Right::Read) {
                    Ok(holder) => Ok(holder.clone()),
                    Err(Refused::Unknown) => Err(Turned::Unknown),
                    Err(Refused::NotEnough) => Err(Turned::NotEnough),
                }
            }
        }
    }
}

/// Why a request is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turned {
    NoToken,
    Unknown,
    NotEnough,
}

impl IntoResponse for Turned {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Self::NoToken => (
                StatusCode::UNAUTHORIZED,
                "this needs a token: as `Authorization: Bearer …`, or as password in Nix's `netrc-file`\n",
            ),
            Self::Unknown => (StatusCode::UNAUTHORIZED, "this token is not known here\n"),
            Self::NotEnough => (StatusCode::FORBIDDEN, "this token lacks the right `read`\n"),
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
    match guard.admit(request.uri().path(), request.headers()) {
        Ok(who) => {
            request.extensions_mut().insert(who);
            next.run(request).await
        }
        Err(turned) => turned.into_response(),
    }
}

/// The token in a request, if there is one that can be read.
fn given(headers: &HeaderMap) -> Option<Vec<u8>> {
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
    use super::*;
    use crate::config::{HashFrom, Token};
    use crate::principal::TokenHash;

    const TOKEN: &str = "a token that is long enough";

    fn guard(read: HttpRead) -> Guard {
        let token = |name: &str, text: &str, rights| Token {
            name: name.to_owned(),
            hash: HashFrom::Here(TokenHash::of(text).unwrap()),
            rights,
        };
        let tokens = [
            token("cache", TOKEN, vec![Right::Read]),
            token("idle", "a token that may do nothing", vec![]),
        ];
        Guard::new(read, Tokens::load(&tokens).unwrap())
    }

    fn asked(read: HttpRead, path: &str, authorization: Option<&str>) -> Result<String, Turned> {
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization {
            headers.insert(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        guard(read).admit(path, &headers).map(|who| who.name().to_owned())
    }

    #[test]
    fn with_tokens_only_holders_read() {
        let basic = |pair: &str| format!("Basic {}", BASE64.encode(pair.as_bytes()));
        let holder = Ok("token:cache".to_owned());
        for (authorization, expected) in [
            (format!("Bearer {TOKEN}"), holder.clone()),
            (format!("bearer  {TOKEN} "), holder.clone()),
            (basic(&format!("anybody:{TOKEN}")), holder.clone()),
            (basic(&format!(":{TOKEN}")), holder),
            (basic(TOKEN), Err(Turned::NoToken)),
            (basic("anybody:wrong"), Err(Turned::Unknown)),
            ("Bearer wrong".to_owned(), Err(Turned::Unknown)),
            ("Bearer ".to_owned(), Err(Turned::Unknown)),
            ("Basic ???".to_owned(), Err(Turned::NoToken)),
            (format!("Digest {TOKEN}"), Err(Turned::NoToken)),
            (TOKEN.replace(' ', "-"), Err(Turned::NoToken)),
            (format!("Bearer {}", "x".repeat(HEADER_BYTES)), Err(Turned::NoToken)),
            ("Bearer a token that may do nothing".to_owned(), Err(Turned::NotEnough)),
        ] {
            assert_eq!(
                asked(HttpRead::Token, "/nix-cache-info", Some(&authorization)),
                expected,
                "{authorization}"
            );
        }
        assert_eq!(asked(HttpRead::Token, "/", None), Err(Turned::NoToken));
        assert_eq!(asked(HttpRead::Token, "/healthz", None), Ok("http".to_owned()));
        assert_eq!(asked(HttpRead::Token, "/healthz/x", None), Err(Turned::NoToken));
    }

    #[test]
    fn without_the_setting_everybody_reads() {
        for authorization in [None, Some("Bearer wrong")] {
            assert_eq!(
                asked(HttpRead::Everyone, "/api/v1/stores", authorization),
                Ok("http".to_owned())
            );
        }
    }
}

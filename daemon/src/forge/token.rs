//! The token that we show to a forge, and asking with it.

use reqwest::Method;
use reqwest::header::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::http::Answer;
use super::{Http, OpenError, Scope, SendError};
use crate::config::{self, ForgeAuth, SecretFile};

/// Reads a secret of a forge. `what` the file is to hold. Blocks.
pub(super) fn read(forge: &config::Forge, what: &'static str, file: &SecretFile) -> Result<SecretString, OpenError> {
    file.read().map_err(|source| OpenError::Secret {
        forge: forge.name.clone(),
        what,
        path: file.path.clone(),
        source,
    })
}

/// The value of the header that carries a forge's token, after `prefix`; none where the forge has no token. No log shows
/// it: it is marked sensitive. Blocks.
fn header(forge: &config::Forge, prefix: &str) -> Result<Option<HeaderValue>, OpenError> {
    let file = match &forge.auth {
        None => return Ok(None),
        Some(ForgeAuth::Token(file)) => file,
        Some(ForgeAuth::App { .. }) => {
            return Err(OpenError::Other {
                forge: forge.name.clone(),
                why: "it is given an App, which only GitHub knows; give it a `token_file`".to_owned(),
            });
        }
    };
    let token = read(forge, "its token", file)?;
    // The error of the conversion is left out, not to depend on what it shows.
    let Ok(mut value) = HeaderValue::from_str(&format!("{prefix}{}", token.expose_secret())) else {
        let path = file.path.display();
        return Err(OpenError::Other {
            forge: forge.name.clone(),
            why: format!("its token in {path} has characters that no token has; write the token alone, on one line"),
        });
    };
    value.set_sensitive(true);
    Ok(Some(value))
}

/// What a forge that knows us by a token in one header is asked over.
#[derive(Debug)]
pub(super) struct Api {
    pub(super) http: Http,
    name: HeaderName,
    /// None: nothing but questions can be answered.
    pub(super) token: Option<HeaderValue>,
}

impl Api {
    /// For a forge whose token goes into the header `name`, after `prefix`. Blocks.
    pub(super) fn open(forge: &config::Forge, name: HeaderName, prefix: &str) -> Result<Self, OpenError> {
        Ok(Self {
            http: Http::new(&forge.name, &forge.api)?,
            name,
            token: header(forge, prefix)?,
        })
    }

    /// Sends a request below the API with our token and reads the whole answer.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Answer, SendError> {
        let mut request = self.http.request(method.clone(), path);
        match &self.token {
            Some(token) => request = request.header(self.name.clone(), token.clone()),
            None if method != Method::GET => return Err(self.no_token()),
            None => {}
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        self.http.ask(request).await
    }

    /// The JSON of a success. What cannot be read leaves open what was done.
    pub(super) fn read<T: DeserializeOwned>(&self, answer: &Answer) -> Result<T, SendError> {
        answer.json().map_err(|error| SendError::Lost {
            why: format!("`{}` answered what cannot be read: {error}", self.http.forge()),
        })
    }

    /// Nothing can be written there.
    pub(super) fn no_token(&self) -> SendError {
        SendError::Refused {
            scope: Scope::Forge,
            why: format!(
                "forge `{}` has no `token_file`, so nothing can be written there",
                self.http.forge()
            ),
        }
    }
}

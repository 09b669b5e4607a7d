//! The token that we show to a forge.

use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret as _, SecretString};

use super::OpenError;
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
pub(super) fn header(forge: &config::Forge, prefix: &str) -> Result<Option<HeaderValue>, OpenError> {
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

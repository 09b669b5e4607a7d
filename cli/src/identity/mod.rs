//! Who this command is at a daemon behind HTTP: where its token comes from.
//!
//! In this order: `--token-file` or `NIXCI_TOKEN_FILE`; `NIXCI_TOKEN`; what `nixci login` saved for the address
//! ([`credentials`]); a token that the CI issues to this job ([`actions`], or `NIXCI_ID_TOKEN` in GitLab CI). No token is
//! ever printed: not in errors, not in logs, not by `Debug`. The one line in which one appears is the workflow command
//! that makes the runner hide it.

mod actions;
mod credentials;

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretString};

use crate::context::{Ci, Env};
use crate::exit::{Exit, Problem};

use actions::Issuer;
pub(crate) use credentials::Credentials;

/// Bytes of a token at most. Tokens of issuers have two thousand or so.
const TOKEN_BYTES: usize = 16 * 1024;
/// The variable in which GitLab CI hands a job its token, by the name that our template gives it.
const ID_TOKEN: &str = "NIXCI_ID_TOKEN";

/// Where the token for one daemon comes from.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    source: Source,
    /// The address of the daemon, for which the token is meant.
    address: String,
    /// Whom a token that is made for this is to be shown to.
    audience: String,
}

#[derive(Clone)]
enum Source {
    /// A file, read for every connection: others may put a new token into it.
    File(PathBuf),
    /// It is known, from what this says.
    Known(&'static str, SecretString),
    /// The CI is asked for every connection, since each token is good for one.
    Actions(Issuer),
    /// There is none, and this is what to do.
    Nowhere(String),
    /// There may be one, which cannot be read for this reason.
    Unusable(String),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Known(from, _) => write!(f, "Known({from})"),
            Self::Actions(_) => f.write_str("Actions"),
            Self::Nowhere(_) => f.write_str("Nowhere"),
            Self::Unusable(_) => f.write_str("Unusable"),
        }
    }
}

impl Identity {
    /// For the daemon at `address`, which has no trailing slash. Reads the file of credentials, if there is one.
    ///
    /// Fails with exit code 2 where what is given is no token. That there is none, or that the file cannot be used, is told
    /// when one is needed.
    pub(crate) fn find(address: &str, token_file: Option<&Path>, env: Env<'_>) -> Result<Self, Problem> {
        let known =
            |from: &'static str, token: String| checked(&token.into(), from).map(|token| Source::Known(from, token));
        let source = if let Some(path) = token_file {
            Source::File(path.to_owned())
        } else if let Some(token) = env("NIXCI_TOKEN") {
            known("NIXCI_TOKEN", token)?
        } else if let Some(saved) = saved(address, env) {
            match saved {
                Ok(token) => Source::Known("`nixci login`", token),
                Err(problem) => Source::Unusable(problem.to_string()),
            }
        } else if let Some(issuer) = Issuer::find(env) {
            Source::Actions(issuer)
        } else if let Some(token) = env(ID_TOKEN) {
            known(ID_TOKEN, token)?
        } else {
            Source::Nowhere(advice(address, env))
        };
        Ok(Self {
            source,
            address: address.to_owned(),
            audience: env("NIXCI_AUDIENCE").unwrap_or_else(|| address.to_owned()),
        })
    }

    /// For the daemon at `address`, with the token that somebody just gave.
    ///
    /// Fails with exit code 2 where it is none.
    pub(crate) fn given(address: &str, token: &SecretString) -> Result<Self, Problem> {
        const FROM: &str = "standard input";
        Ok(Self {
            source: Source::Known(FROM, checked(token, FROM)?),
            address: address.to_owned(),
            audience: address.to_owned(),
        })
    }

    /// Where the token comes from; or why there is none, and what to do.
    pub(crate) fn origin(&self) -> Result<String, String> {
        match &self.source {
            Source::File(path) => Ok(format!("from the file `{}`", path.display())),
            Source::Known(from, _) => Ok(format!("from {from}")),
            Source::Actions(_) => Ok(format!("made by the runner for this job, for \"{}\"", self.audience)),
            Source::Nowhere(advice) => Err(format!("there is none for {}: {advice}", self.address)),
            Source::Unusable(why) => Err(why.clone()),
        }
    }

    /// A token for one connection: a new one where the CI makes them.
    ///
    /// Fails with exit code 5 where there is none, 4 where the CI does not answer, and 2 where a file cannot be used.
    pub(crate) async fn token(&self) -> Result<SecretString, Problem> {
        match &self.source {
            Source::File(path) => read(path),
            Source::Known(_, token) => Ok(token.clone()),
            Source::Actions(issuer) => issuer.token(&self.audience).await,
            Source::Nowhere(advice) => Err(Problem::new(
                Exit::NotAllowed,
                format!("there is no token for `{}`: {advice}", self.address),
            )),
            Source::Unusable(why) => Err(Problem::failed(why.clone())),
        }
    }

    /// Where the token comes from, for an error, and what to do when it is refused.
    pub(crate) fn words(&self) -> (String, String) {
        match &self.source {
            Source::File(path) => (
                format!("the token in `{}`", path.display()),
                "put a new one there, as the daemon's administrator makes them".to_owned(),
            ),
            Source::Known(ID_TOKEN, _) => (
                format!("the token in {ID_TOKEN}"),
                format!(
                    "is its `aud` \"{}\", and does the daemon's configuration let this project submit?",
                    self.audience
                ),
            ),
            Source::Known(from, _) => (
                format!("the token from {from}"),
                format!(
                    "get a new one from the daemon's administrator, and save it with `nixci login --to {}`",
                    self.address
                ),
            ),
            Source::Actions(_) => (
                format!("this job's token for \"{}\"", self.audience),
                "is that the address by which the daemon knows itself (else set NIXCI_AUDIENCE), and does its \
                 configuration let this repository submit?"
                    .to_owned(),
            ),
            Source::Nowhere(_) | Source::Unusable(_) => ("no token".to_owned(), "give one".to_owned()),
        }
    }
}

fn saved(address: &str, env: Env<'_>) -> Option<Result<SecretString, Problem>> {
    Credentials::find(env)?.read(address).transpose()
}

/// What to do where there is no token.
fn advice(address: &str, env: Env<'_>) -> String {
    match Ci::detect(env) {
        Some(Ci::Actions) => actions::advice(env),
        Some(Ci::GitLab) => format!(
            "add `id_tokens: {{{ID_TOKEN}: {{aud: \"{address}\"}}}}` to the job, or set NIXCI_TOKEN in the project's \
             CI/CD variables"
        ),
        None => format!(
            "run `nixci login --to {address}`, or set NIXCI_TOKEN, or name a file with --token-file (the daemon's \
             administrator makes tokens with `nixci-daemon token`)"
        ),
    }
}

/// The token in a file: its one line.
fn read(path: &Path) -> Result<SecretString, Problem> {
    let fail = |error: std::io::Error| {
        Problem::usage(format!(
            "failed to read the token file `{}`: {error}; give another with --token-file",
            path.display()
        ))
    };
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(fail)?;
    (file.take(TOKEN_BYTES as u64 + 2).read_to_end(&mut text)).map_err(fail)?;
    let name = format!("the token file `{}`", path.display());
    let text = String::from_utf8(text).map_err(|_| bad(&name))?;
    checked(&text.into(), &name)
}

/// The token in this text, without blanks around it.
fn checked(text: &SecretString, from: &str) -> Result<SecretString, Problem> {
    let token = text.expose_secret().trim();
    if token.is_empty() || token.len() > TOKEN_BYTES || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(bad(from));
    }
    Ok(SecretString::from(token))
}

fn bad(from: &str) -> Problem {
    Problem::usage(format!(
        "{from} holds no token: one word of printable ASCII is, of at most {TOKEN_BYTES} bytes"
    ))
}

#[cfg(test)]
mod tests;

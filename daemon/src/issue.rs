//! `nixci-daemon token`: makes, lists and revokes tokens, beside a running daemon or without one.
//!
//! It writes into the daemon's index, which SQLite lets two processes do, and which the daemon reads when a token is
//! used: what is made counts at once, and what is revoked lets nobody in any more. An open connection ends at its next request.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nixci_protocol::nixci::control::Millis;
use nixci_store::index::tokens::{self, NewToken, TokenRow};
use nixci_store::index::{self, Index};

use crate::config::{Config, Right, point_in_time};
use crate::core::now;
use crate::principal::{TokenError, TokenHash, is_name, new_token};

/// Why a token was not made, listed or revoked.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The name cannot be one.
    #[error("`{0}` cannot name a token; use letters, digits and `._+@-`, at most 64 of them")]
    BadName(String),
    /// Another token is called so.
    #[error("there is a token named `{0}`; revoke it first, or take another name")]
    NameInUse(String),
    /// There is none.
    #[error("there is no token named `{0}` that could be revoked; those of the configuration are removed there")]
    Unknown(String),
    /// What it may, or until when, cannot be read.
    #[error("{0}")]
    Invalid(String),
    /// There is no state folder.
    #[error("there is no state folder {path} of a daemon: {source}; name its configuration with --config", path = .path.display())]
    NoState {
        /// Where it would be.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Somebody else's daemon.
    #[error(
        "the state folder {path} belongs to user {owner}, and this is user {own}; run this as that user, as files of another would stop the daemon",
        path = .path.display()
    )]
    NotOwner {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who asks.
        own: u32,
    },
    /// No random bytes.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The index cannot be used.
    #[error("failed to use the index: {0}")]
    Index(#[from] index::Error),
}

/// A token that shall be made.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Its name.
    pub name: String,
    /// What it may, in the words of the configuration.
    pub rights: Vec<String>,
    /// For which projects, as names or patterns; empty: all.
    pub projects: Vec<String>,
    /// How long it is good, as `90d`, or until when, as `2027-01-01`; none: for ever.
    pub expires: Option<String>,
}

/// The tokens of one daemon.
#[derive(Debug)]
pub struct Issuer {
    index: Index,
}

impl Issuer {
    /// Opens the state of a daemon. Blocks. Must be called as the user the daemon runs as, and once it has run.
    pub fn open(config: &Config) -> Result<Self, IssueError> {
        let file = config.state_dir.join("index.db");
        check_owner(&file)?;
        Ok(Self {
            index: Index::open(&file)?,
        })
    }

    /// Makes a token, and returns it: it is kept nowhere.
    pub async fn create(&self, wish: Wish) -> Result<String, IssueError> {
        if !is_name(&wish.name) {
            return Err(IssueError::BadName(wish.name));
        }
        for right in &wish.rights {
            Right::read(right).map_err(IssueError::Invalid)?;
        }
        if wish.projects.iter().any(String::is_empty) {
            return Err(IssueError::Invalid("a project needs a name, or `*` for all".to_owned()));
        }
        let at = now();
        let expires = wish.expires.map(|text| end(&text, at)).transpose()?;
        let token = new_token()?;
        let new = NewToken {
            name: wish.name.clone(),
            hash: *TokenHash::of(&token)?.bytes(),
            rights: wish.rights,
            projects: (!wish.projects.is_empty()).then_some(wish.projects),
            expires,
        };
        let added = self.index.write_durable(move |tx| tokens::add(tx, &new, at)).await?;
        if added {
            Ok(token)
        } else {
            Err(IssueError::NameInUse(wish.name))
        }
    }

    /// All that were made and not revoked, by name.
    pub async fn list(&self) -> Result<Vec<TokenRow>, IssueError> {
        Ok(self.index.read(tokens::list).await?)
    }

    /// Lets a token do nothing more.
    pub async fn revoke(&self, name: &str) -> Result<(), IssueError> {
        let asked = name.to_owned();
        let gone = self.index.write_durable(move |tx| tokens::revoke(tx, &asked)).await?;
        if gone {
            Ok(())
        } else {
            Err(IssueError::Unknown(name.to_owned()))
        }
    }

    /// Closes the index.
    pub async fn close(self) {
        self.index.close().await;
    }
}

/// The index must be the caller's own: what SQLite puts beside it belongs to whoever opens it.
fn check_owner(file: &Path) -> Result<(), IssueError> {
    let about = std::fs::metadata(file).map_err(|source| IssueError::NoState {
        path: file.parent().unwrap_or(file).to_owned(),
        source,
    })?;
    let own = rustix::process::geteuid().as_raw();
    if about.uid() == own {
        return Ok(());
    }
    Err(IssueError::NotOwner {
        path: file.parent().unwrap_or(file).to_owned(),
        owner: about.uid(),
        own,
    })
}

/// When something ends that is good for `90d`, or until `2027-01-01`.
fn end(text: &str, now: Millis) -> Result<Millis, IssueError> {
    let at = match crate::config::duration(text) {
        Ok(time) => now.saturating_add(Millis::try_from(time.as_millis()).unwrap_or(Millis::MAX)),
        Err(_) => point_in_time(text)
            .map_err(|_| IssueError::Invalid(format!("`{text}` is no time; write it like 90d, 12h or 2027-01-01")))?,
    };
    if at <= now {
        return Err(IssueError::Invalid(format!("`{text}` is over already")));
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_ends_after_a_time_or_at_one() {
        assert_eq!(end("1d", 1_000).unwrap(), 86_401_000);
        assert_eq!(end("1970-01-02", 1_000).unwrap(), 86_400_000);
        assert!(
            end("1970-01-01", 1_000)
                .unwrap_err()
                .to_string()
                .contains("over already")
        );
        assert!(end("soon", 0).unwrap_err().to_string().contains("90d"));
    }

    #[tokio::test]
    async fn a_token_is_made_once_listed_and_revoked() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::in_folder(dir.path(), "auto", 1);
        let missing = Issuer::open(&config).unwrap_err().to_string();
        assert!(missing.contains("--config"), "{missing}");
        std::fs::create_dir_all(&config.state_dir).unwrap();
        Index::open(&config.state_dir.join("index.db")).unwrap().close().await;
        let issuer = Issuer::open(&config).unwrap();
        let wish = |name: &str| Wish {
            name: name.to_owned(),
            rights: vec!["submit".to_owned()],
            projects: vec!["o/*".to_owned()],
            expires: Some("90d".to_owned()),
        };
        let token = issuer.create(wish("runner")).await.unwrap();
        assert!(token.starts_with("nixci_"));
        let again = issuer.create(wish("runner")).await.unwrap_err().to_string();
        assert!(again.contains("`runner`"), "{again}");
        assert!(issuer.create(wish("a b")).await.is_err());
        let all = issuer.list().await.unwrap();
        assert_eq!(all.len(), 1);
        assert!(!format!("{all:?}").contains(&token));
        issuer.revoke("runner").await.unwrap();
        assert!(matches!(issuer.revoke("runner").await, Err(IssueError::Unknown(_))));
        issuer.close().await;
    }
}

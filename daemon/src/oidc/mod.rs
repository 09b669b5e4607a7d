//! Jobs that bring a token of their CI system in place of a secret.
//!
//! A token counts if a key of a configured issuer signed it ([`keys`], [`verify`]), if it is made for this daemon and
//! good now, if a rule of the configuration lets its job in ([`policy`]), and if it was not used before: that it was is
//! on disk before anybody is let in. Claims are read by their names; `sub`, whose form differs, is never looked at.
//!
//! An issuer that makes a token whenever a job asks has each taken once ([`Reuse::Never`]): a client that lost its
//! connection asks for another. GitLab gives a job one token for all its life, with which several commands connect; there a
//! stolen one is worth what the job is ([`Reuse::Job`]): its commit, its project, until it expires.

mod keys;
mod policy;
mod verify;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use nixci_protocol::nixci::issuer::IssuerStatus;
use nixci_store::index::{Index, identities};
use tokio::time::Instant;
use tracing::{error, info, warn};

use self::keys::{Found, Keys};
use self::policy::Admitted;
use self::verify::{Claims, Invalid, LEEWAY, Verified, Wanted};
use crate::config::{Config, Oidc, Project, Reuse};
use crate::core::now;
use crate::error::told;
use crate::principal::{Principal, Refused};

/// Keys of an issuer that are tried for a token that names none.
const TRIED: usize = 8;

/// How long a job may use one connection. Its token is good for minutes, enough to say who connects; an evaluation takes
/// longer, and no job of which we know may run for more than days.
const CONNECTION_TIME: Duration = Duration::from_hours(24);

/// What an issuer has vouched for, and when that was checked.
#[derive(Debug, Clone)]
pub(crate) struct Vouched {
    issuer: String,
    claims: Arc<Claims>,
    since: Instant,
}

/// Every issuer of the configuration. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Issuers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    issuers: Vec<Issuer>,
    projects: Vec<Project>,
    index: Index,
}

#[derive(Debug)]
struct Issuer {
    config: Oidc,
    audience: String,
    keys: Arc<Keys>,
}

impl Issuers {
    /// Those of a configuration; `pages` is the address by which tokens name this daemon where nothing else is said.
    /// Asks nobody yet: of issuers that were there `before` the same keys are known.
    pub(crate) fn new(
        config: &Config,
        pages: Option<&str>,
        index: Index,
        before: Option<&Self>,
    ) -> reqwest::Result<Self> {
        let client = Keys::client()?;
        let known = |issuer: &str| {
            let mut before = before.into_iter().flat_map(|before| &before.0.issuers);
            before
                .find(|known| known.config.issuer == issuer)
                .map(|known| known.keys.clone())
        };
        let issuers = config.oidc.iter().map(|oidc| Issuer {
            audience: oidc
                .audience
                .clone()
                .or_else(|| pages.map(str::to_owned))
                .unwrap_or_default(),
            keys: known(&oidc.issuer).unwrap_or_else(|| Arc::new(Keys::new(&oidc.issuer, client.clone()))),
            config: oidc.clone(),
        });
        Ok(Self(Arc::new(Inner {
            issuers: issuers.collect(),
            projects: config.projects.clone(),
            index,
        })))
    }

    /// Whether a token looks like one of an issuer's rather than one of ours: three parts with dots between.
    pub(crate) fn is_meant(token: &str) -> bool {
        token.starts_with("ey") && token.matches('.').count() == 2
    }

    /// Fetches the keys of all, so that the first job need not wait for them, and logs whose cannot be had.
    pub(crate) async fn look(&self) {
        let looks = self.0.issuers.iter().map(|issuer| issuer.keys.fetch(Instant::now()));
        futures_util::future::join_all(looks).await;
    }

    /// Every issuer, and whether its tokens can be checked now.
    pub(crate) async fn all(&self) -> Vec<IssuerStatus> {
        let looks = self.0.issuers.iter().map(|issuer| async {
            issuer.keys.fetch(Instant::now()).await;
            let known = issuer.keys.standing();
            IssuerStatus {
                issuer: issuer.config.issuer.clone(),
                kind: issuer.config.kind.word().to_owned(),
                audience: issuer.audience.clone(),
                forge: issuer.config.forge.clone(),
                keys: known.keys.map(|count| count as u64),
                fetched: known.fetched,
                good_until: known.good_until,
                error: known.why.map(|why| why.to_string()),
            }
        });
        futures_util::future::join_all(looks).await
    }

    /// The job whose token this is. It is used up by that, where it is good once.
    pub(crate) async fn holder(&self, token: &str) -> Result<(Principal, Vouched), Refused> {
        let seen = verify::look(token).map_err(|invalid| Refused::Invalid(invalid.to_string()))?;
        let issuer = self.issuer(&seen.issuer)?;
        let told_invalid = |invalid: Invalid| {
            warn!(issuer = %issuer.config.issuer, "a token of {} was refused: {invalid}", issuer.config.issuer);
            Refused::Invalid(invalid.to_string())
        };
        let keys = match issuer.keys.find(seen.key_id.as_deref()).await {
            Found::Keys(keys) => keys,
            Found::None => {
                return Err(Refused::Invalid(format!(
                    "{} has no key of the name in this token",
                    issuer.config.issuer
                )));
            }
            Found::Unreachable(why) => {
                return Err(Refused::Unavailable(format!(
                    "the keys of {} cannot be had: {why}; try again later",
                    issuer.config.issuer
                )));
            }
        };
        let wanted = Wanted {
            issuer: &issuer.config.issuer,
            audience: &issuer.audience,
            max_age: issuer.config.max_age,
            now: now() / 1_000,
        };
        let mut verified = Err(Invalid::Signature);
        for key in keys.iter().take(TRIED) {
            verified = verify::verify(token, seen.algorithm, key, wanted);
            match &verified {
                Err(Invalid::Signature | Invalid::Algorithm) => {}
                Ok(_) | Err(_) => break,
            }
        }
        let verified = verified.map_err(told_invalid)?;
        let admitted = policy::admit(&issuer.config, &self.0.projects, &verified.claims).map_err(|why| {
            warn!(issuer = %issuer.config.issuer, "{why}");
            Refused::NotLetIn(why)
        })?;
        self.use_up(issuer, &verified, &admitted).await?;
        info!(
            principal = admitted.name,
            project = admitted.job.project,
            commit = admitted.job.commit,
            "let in a job of {}",
            admitted.job.project
        );
        let vouched = Vouched {
            issuer: issuer.config.issuer.clone(),
            claims: Arc::new(verified.claims),
            since: Instant::now(),
        };
        Ok((Principal::job(admitted.name, admitted.job), vouched))
    }

    /// The job that was vouched for, if it would be let in now.
    pub(crate) fn vouched(&self, vouched: &Vouched) -> Result<Principal, Refused> {
        if vouched.since.elapsed() > CONNECTION_TIME {
            return Err(Refused::Invalid(format!(
                "a job may use one for {} h; connect again with a new token",
                CONNECTION_TIME.as_secs() / 3_600
            )));
        }
        let issuer = self.issuer(&vouched.issuer)?;
        let admitted = policy::admit(&issuer.config, &self.0.projects, &vouched.claims).map_err(Refused::NotLetIn)?;
        Ok(Principal::job(admitted.name, admitted.job))
    }

    fn issuer(&self, name: &str) -> Result<&Issuer, Refused> {
        let found = self.0.issuers.iter().find(|issuer| issuer.config.issuer == name);
        found.ok_or_else(|| {
            Refused::Invalid("no [[oidc]] of this daemon's configuration has the issuer of this token".to_owned())
        })
    }

    /// Remembers on disk that a token was used; fails where it was before, and is good once.
    async fn use_up(&self, issuer: &Issuer, verified: &Verified, admitted: &Admitted) -> Result<(), Refused> {
        let (name, number) = (issuer.config.issuer.clone(), verified.number.clone());
        let until = verified.expires.saturating_add(2 * LEEWAY).saturating_mul(1_000);
        let at = now();
        let written = self
            .0
            .index
            .write_durable(move |tx| identities::use_up(tx, &name, &number, until, at))
            .await;
        let is_new = written.map_err(|error| {
            error!("failed to remember a token that was used: {}", told(&error));
            Refused::Unavailable("the daemon cannot remember that this token was used; its log says why".to_owned())
        })?;
        match issuer.config.reuse {
            Reuse::Never if !is_new => {
                warn!(principal = admitted.name, "a token was used twice, and refused");
                Err(Refused::Invalid(
                    "this token was used before, and each is good once; ask for a new one".to_owned(),
                ))
            }
            Reuse::Never | Reuse::Job => Ok(()),
        }
    }
}

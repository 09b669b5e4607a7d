//! Who is let in: the rules of `[[oidc.allow]]` against verified claims. Pure.

use serde_json::Value;

use super::verify::Claims;
use crate::config::{Allow, Oidc, OidcKind, Project, Right, one_fits};
use crate::principal::{Cause, Job};

/// The longest text of a claim that is looked at; names of branches may be long.
const CLAIM_BYTES: usize = 1_024;
/// Rules that are named in an error.
const NAMED: usize = 5;

/// A job that is let in, and the name of its principal.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Admitted {
    pub(super) name: String,
    pub(super) job: Job,
}

/// What the claims say that rules look at.
#[derive(Debug)]
struct Facts {
    repository: String,
    repository_id: Option<String>,
    owner_id: Option<String>,
    commit: String,
    git_ref: Option<String>,
    head_ref: Option<String>,
    event: Option<String>,
    environment: Option<String>,
    ref_protected: Option<bool>,
    job: Option<String>,
}

/// Decides what a job may; an error says in one line what was compared.
pub(super) fn admit(oidc: &Oidc, projects: &[Project], claims: &Claims) -> Result<Admitted, String> {
    let facts = facts(oidc, claims)?;
    let mut unfit = Vec::new();
    let rule = oidc
        .allow
        .iter()
        .zip(1..)
        .find_map(|(rule, nth)| match facts.unfit(rule) {
            None => Some(rule),
            Some(why) => {
                unfit.push(format!("rule {nth} wants another {why}"));
                None
            }
        });
    let Some(rule) = rule else {
        unfit.truncate(NAMED);
        return Err(format!(
            "no rule of [[oidc]] for {} lets this job in: {}; {}",
            oidc.issuer,
            facts.describe(),
            unfit.join(", ")
        ));
    };
    let cause = cause(oidc.kind, &facts);
    let project = project(oidc, projects, &facts)?;
    let is_foreign_code = match cause {
        Cause::PullRequest(_) => true,
        // It runs code of the default branch, which often handles what a pull request has made.
        Cause::Another | Cause::Own => facts
            .event
            .as_deref()
            .is_some_and(|event| event.starts_with("pull_request")),
    };
    let mut rights = rule.rights.clone();
    if is_foreign_code {
        rights.retain(|right| *right == Right::Submit);
    }
    let issuer = oidc
        .issuer
        .split_once("://")
        .map_or(oidc.issuer.as_str(), |(_, rest)| rest);
    let run = facts.job.as_deref().unwrap_or(&facts.commit);
    Ok(Admitted {
        name: format!("oidc:{issuer}:{}#{run}", facts.repository),
        job: Job {
            forge: oidc.forge.clone(),
            repository: facts.repository,
            project,
            commit: facts.commit,
            git_ref: facts.git_ref,
            head_ref: facts.head_ref,
            cause,
            rights,
        },
    })
}

fn facts(oidc: &Oidc, claims: &Claims) -> Result<Facts, String> {
    let names = &oidc.claims;
    let text = |name: &str| -> Option<String> {
        let text = match claims.get(name)? {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(yes) => yes.to_string(),
            Value::Null | Value::Array(_) | Value::Object(_) => return None,
        };
        // They are told in errors and records.
        let is_fine = !text.is_empty() && text.len() <= CLAIM_BYTES && !text.chars().any(char::is_control);
        is_fine.then_some(text)
    };
    let lacks = |name: &str| {
        format!(
            "the tokens of {} need the claim `{name}`, and this one lacks it",
            oidc.issuer
        )
    };
    let repository = text(&names.repository).ok_or_else(|| lacks(&names.repository))?;
    let commit = text(&names.commit)
        .map(|commit| commit.to_ascii_lowercase())
        .filter(|commit| matches!(commit.len(), 40 | 64) && commit.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .ok_or_else(|| lacks(&names.commit))?;
    Ok(Facts {
        repository,
        commit,
        repository_id: text(&names.repository_id),
        owner_id: text(&names.owner_id),
        git_ref: text(&names.git_ref),
        head_ref: text(&names.head_ref),
        event: text(&names.event),
        environment: text(&names.environment),
        // GitHub and GitLab write it as text.
        ref_protected: text(&names.ref_protected).map(|text| text == "true"),
        job: text(&names.job),
    })
}

impl Facts {
    /// The first condition of a rule that does not hold.
    fn unfit(&self, rule: &Allow) -> Option<&'static str> {
        let fits = |patterns: &Option<Vec<String>>, value: Option<&str>| {
            patterns.as_ref().is_none_or(|patterns| one_fits(patterns, value))
        };
        if !fits(&rule.repositories, Some(&self.repository)) {
            Some("repository")
        } else if !fits(&rule.repository_ids, self.repository_id.as_deref()) {
            Some("repository number")
        } else if !fits(&rule.owner_ids, self.owner_id.as_deref()) {
            Some("owner")
        } else if !fits(&rule.events, self.event.as_deref()) {
            Some("event")
        } else if !fits(&rule.refs, self.git_ref.as_deref()) {
            Some("ref")
        } else if !fits(&rule.environments, self.environment.as_deref()) {
            Some("environment")
        } else if rule
            .ref_protected
            .is_some_and(|wanted| self.ref_protected != Some(wanted))
        {
            Some("protection of the ref")
        } else {
            None
        }
    }

    fn describe(&self) -> String {
        let or_none = |value: &Option<String>| {
            value
                .as_ref()
                .map_or_else(|| "none".to_owned(), |text| format!("`{text}`"))
        };
        let protected = match self.ref_protected {
            Some(true) => "protected",
            Some(false) => "not protected",
            None => "protected or not",
        };
        format!(
            "repository `{}` ({}), owner {}, event {}, ref {} ({protected}), environment {}",
            self.repository,
            or_none(&self.repository_id),
            or_none(&self.owner_id),
            or_none(&self.event),
            or_none(&self.git_ref),
            or_none(&self.environment),
        )
    }
}

fn cause(kind: OidcKind, facts: &Facts) -> Cause {
    let event = facts.event.as_deref().unwrap_or_default();
    match kind {
        OidcKind::GitHub | OidcKind::Forgejo | OidcKind::Generic => match event {
            "pull_request_target" | "workflow_run" => Cause::Another,
            event if event.starts_with("pull_request") => Cause::PullRequest(facts.git_ref.as_deref().and_then(number)),
            _ => Cause::Own,
        },
        OidcKind::GitLab => match event {
            "merge_request_event" | "external_pull_request_event" => Cause::PullRequest(None),
            _ => Cause::Own,
        },
    }
}

/// The number in `refs/pull/N/merge` or `refs/pull/N/head`.
fn number(git_ref: &str) -> Option<u64> {
    let (number, what) = git_ref.strip_prefix("refs/pull/")?.split_once('/')?;
    matches!(what, "merge" | "head").then(|| number.parse().ok()).flatten()
}

/// The project of a repository: the first that the configuration has for it, else one of its name.
fn project(oidc: &Oidc, projects: &[Project], facts: &Facts) -> Result<String, String> {
    let repository = &facts.repository;
    for project in projects {
        let is_named = match &project.repository {
            Some(named) => named == repository,
            None => project.fits(repository),
        };
        if !is_named {
            continue;
        }
        if project.forge.is_some() && oidc.forge.is_some() && project.forge != oidc.forge {
            // Another repository of the same name.
            continue;
        }
        if let Some(wanted) = project.repository_id
            && facts.repository_id.as_deref() != Some(wanted.to_string().as_str())
        {
            return Err(format!(
                "repository `{repository}` has another number than `repository_id` of [[project]] `{}`; its name was given to another repository",
                project.name
            ));
        }
        return Ok(match &project.repository {
            // A pattern names no project.
            Some(_) if !project.name.contains('*') => project.name.clone(),
            Some(_) | None => repository.clone(),
        });
    }
    // No project is about it; but one of another forge may have its name.
    match projects.iter().find(|project| project.fits(repository)) {
        Some(other) if other.forge.is_some() && other.forge != oidc.forge => Err(format!(
            "project `{repository}` is one of forge `{}`, and this job is of another; give [[oidc]] its `forge`, or the project a `repository`",
            other.forge.as_deref().unwrap_or_default()
        )),
        Some(_) | None => Ok(repository.clone()),
    }
}

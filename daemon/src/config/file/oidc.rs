//! `[[oidc]]`.

use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::Check;
use crate::config::oidc::ClaimsTable;
use crate::config::{Allow, Forge, ForgeKind, Oidc, OidcKind, Reuse, Right};

const GITHUB: &str = "https://token.actions.githubusercontent.com";
const GITLAB: &str = "https://gitlab.com";
/// Tokens that a job asks for when it needs them live for minutes.
const MAX_AGE: Duration = Duration::from_hours(1);
/// Tokens that a job gets at its start live as long as it may run.
const MAX_AGE_OF_JOBS: Duration = Duration::from_hours(24);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OidcTable {
    issuer: Spanned<String>,
    kind: Option<Spanned<String>>,
    audience: Option<Spanned<String>>,
    forge: Option<Spanned<String>>,
    reuse: Option<Spanned<String>>,
    max_age: Option<Spanned<String>>,
    claims: Option<ClaimsTable>,
    allow: Option<Vec<Spanned<AllowTable>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AllowTable {
    repositories: Option<Vec<String>>,
    repository_ids: Option<Vec<Id>>,
    owner_ids: Option<Vec<Id>>,
    events: Option<Vec<String>>,
    refs: Option<Vec<String>>,
    environments: Option<Vec<String>>,
    ref_protected: Option<bool>,
    rights: Option<Vec<Spanned<String>>>,
}

/// A number, also as text.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Id {
    Number(u64),
    Text(String),
}

pub(super) fn resolve(tables: Vec<OidcTable>, forges: &[Forge], check: &mut Check<'_>) -> Vec<Oidc> {
    let mut all: Vec<Oidc> = Vec::new();
    for table in tables {
        let at = table.issuer.span().start;
        let oidc = issuer(table, forges, check);
        if all.iter().any(|other| other.issuer == oidc.issuer) {
            let text = format!("there are two [[oidc]] of `{}`; put all rules into one", oidc.issuer);
            check.at(at, text);
        }
        all.push(oidc);
    }
    all
}

fn issuer(table: OidcTable, forges: &[Forge], check: &mut Check<'_>) -> Oidc {
    let (at, issuer) = (table.issuer.span().start, table.issuer.into_inner());
    if !is_safe(&issuer) {
        let text = format!(
            "`issuer` is `{issuer}`; write its address as its tokens do, like \"https://gitlab.example.org\"; http is taken on this host only"
        );
        check.at(at, text);
    }
    let by_address = match issuer.as_str() {
        GITHUB => OidcKind::GitHub,
        GITLAB => OidcKind::GitLab,
        _ => OidcKind::Generic,
    };
    let kind = check.value(table.kind, by_address, |text| match text.as_str() {
        "github" => Ok(OidcKind::GitHub),
        "gitlab" => Ok(OidcKind::GitLab),
        "forgejo" => Ok(OidcKind::Forgejo),
        "generic" => Ok(OidcKind::Generic),
        _ => Err(format!(
            "`kind` is `{text}`; it can be \"github\", \"gitlab\", \"forgejo\" or \"generic\""
        )),
    });
    let (reuse, max_age) = match kind {
        OidcKind::GitHub | OidcKind::Forgejo | OidcKind::Generic => (Reuse::Never, MAX_AGE),
        OidcKind::GitLab => (Reuse::Job, MAX_AGE_OF_JOBS),
    };
    let is_public = [GITHUB, GITLAB].contains(&issuer.as_str());
    let rules = table.allow.unwrap_or_default().into_iter();
    let allow: Vec<Allow> = rules.map(|rule| allow(rule, is_public, check)).collect();
    if allow.is_empty() {
        check.at(
            at,
            format!("[[oidc]] of `{issuer}` lets nobody in; add [[oidc.allow]] with `repositories`"),
        );
    }
    Oidc {
        audience: check.value(table.audience, None, |text| {
            if text.is_empty() {
                Err("`audience` is empty; it would fit nothing".to_owned())
            } else {
                Ok(Some(text.clone()))
            }
        }),
        forge: forge(table.forge, kind, at, forges, check),
        reuse: check.value(table.reuse, reuse, |text| match text.as_str() {
            "never" => Ok(Reuse::Never),
            "job" => Ok(Reuse::Job),
            _ => Err(format!("`reuse` is `{text}`; it can be \"never\" or \"job\"")),
        }),
        max_age: check.value(table.max_age, max_age, |text| {
            crate::config::duration(text).map_err(|error| format!("`max_age`: {error}"))
        }),
        claims: table.claims.unwrap_or_default().or(kind.claims()),
        issuer,
        kind,
        allow,
    }
}

/// Whether nobody on the way can put keys of their own in place of the issuer's.
pub(crate) fn is_safe(address: &str) -> bool {
    reqwest::Url::parse(address).is_ok_and(|url| {
        let here = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
        let is_plain =
            url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
        is_plain && url.has_host() && (url.scheme() == "https" || url.scheme() == "http" && here)
    })
}

fn forge(
    named: Option<Spanned<String>>,
    kind: OidcKind,
    at: usize,
    forges: &[Forge],
    check: &mut Check<'_>,
) -> Option<String> {
    if let Some(named) = named {
        let known = forges
            .iter()
            .any(|forge| forge.name == *named.get_ref() && forge.kind != ForgeKind::Webhook);
        if !known {
            let text = format!(
                "there is no [[forge]] named `{}` that has repositories",
                named.get_ref()
            );
            check.at(named.span().start, text);
        }
        return Some(named.into_inner());
    }
    let mut alike = forges.iter().filter(|forge| match (kind, forge.kind) {
        (OidcKind::GitHub, ForgeKind::GitHub)
        | (OidcKind::GitLab, ForgeKind::GitLab)
        | (OidcKind::Forgejo, ForgeKind::Forgejo | ForgeKind::Gitea) => true,
        (OidcKind::GitHub | OidcKind::GitLab | OidcKind::Forgejo | OidcKind::Generic, _) => false,
    });
    match (alike.next(), alike.next()) {
        (Some(only), None) => Some(only.name.clone()),
        (None, _) => None,
        (Some(_), Some(_)) => {
            check.at(
                at,
                "this [[oidc]] needs `forge`, as there are several of its kind".to_owned(),
            );
            None
        }
    }
}

fn allow(rule: Spanned<AllowTable>, is_public: bool, check: &mut Check<'_>) -> Allow {
    let (at, rule) = (rule.span().start, rule.into_inner());
    let ids = |given: Option<Vec<Id>>| -> Option<Vec<String>> {
        let text = |id| match id {
            Id::Number(number) => number.to_string(),
            Id::Text(text) => text,
        };
        given.map(|ids| ids.into_iter().map(text).collect())
    };
    let (repository_ids, owner_ids) = (ids(rule.repository_ids), ids(rule.owner_ids));
    let names_anybody = |patterns: &Option<Vec<String>>| {
        let wide = |pattern: &String| pattern.starts_with('*');
        patterns.as_ref().is_none_or(|patterns| patterns.iter().any(wide))
    };
    let is_open = [&rule.repositories, &repository_ids, &owner_ids]
        .into_iter()
        .all(names_anybody);
    if is_open && is_public {
        let text = "this rule of [[oidc.allow]] lets in everybody who has an account there; name `repositories` by their owner, `repository_ids` or `owner_ids`";
        check.at(at, text.to_owned());
    }
    let mut rights = Vec::new();
    for right in rule.rights.iter().flatten() {
        match Right::read(right.get_ref()) {
            Ok(Right::Admin) => check.at(
                right.span().start,
                "a job cannot have the right \"admin\"; make a token for who looks after the daemon".to_owned(),
            ),
            Ok(known) => rights.push(known),
            Err(message) => check.at(right.span().start, message),
        }
    }
    if rule.rights.is_none() {
        rights.push(Right::Submit);
    }
    Allow {
        repositories: rule.repositories,
        repository_ids,
        owner_ids,
        events: rule.events,
        refs: rule.refs,
        environments: rule.environments,
        ref_protected: rule.ref_protected,
        rights,
    }
}

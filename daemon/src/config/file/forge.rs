//! `[[forge]]`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::Check;
use crate::config::{Forge, ForgeAuth, ForgeKind, Form, Pace};
use crate::principal;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ForgeTable {
    name: Option<Spanned<String>>,
    kind: Spanned<String>,
    url: Option<Spanned<String>>,
    api: Option<Spanned<String>>,
    app_id: Option<Spanned<u64>>,
    private_key_file: Option<Spanned<PathBuf>>,
    token_file: Option<Spanned<PathBuf>>,
    webhook_secret_file: Option<Spanned<PathBuf>>,
    form: Option<Spanned<String>>,
    per_minute: Option<Spanned<u32>>,
    per_hour: Option<Spanned<u32>>,
}

pub(super) fn resolve(tables: Vec<ForgeTable>, check: &mut Check<'_>) -> Vec<Forge> {
    let mut names = BTreeSet::new();
    tables
        .into_iter()
        .filter_map(|table| forge(table, &mut names, check))
        .collect()
}

fn forge(table: ForgeTable, names: &mut BTreeSet<String>, check: &mut Check<'_>) -> Option<Forge> {
    let at = table.kind.span().start;
    let kind = match table.kind.get_ref().as_str() {
        "github" => ForgeKind::GitHub,
        "forgejo" => ForgeKind::Forgejo,
        "gitea" => ForgeKind::Gitea,
        "gitlab" => ForgeKind::GitLab,
        "webhook" => ForgeKind::Webhook,
        other => {
            let text =
                format!("`kind` is `{other}`; it can be \"github\", \"forgejo\", \"gitea\", \"gitlab\" or \"webhook\"");
            check.at(at, text);
            return None;
        }
    };
    let name_at = table.name.as_ref().map_or(at, |name| name.span().start);
    let name = table.name.map_or_else(|| kind.word().to_owned(), Spanned::into_inner);
    if !principal::is_name(&name) {
        check.at(
            name_at,
            format!("`{name}` cannot name a forge; use letters, digits and `._+@-`"),
        );
    } else if !names.insert(name.clone()) {
        check.at(
            name_at,
            format!("there are two forges named `{name}`; give each a `name` of its own"),
        );
    }
    let url_is_given = table.url.is_some();
    let url = check.value(table.url, default_url(kind).to_owned(), |text| web_address("url", text));
    if url.is_empty() && !url_is_given {
        check.at(at, format!("forge `{name}` needs a `url`"));
    }
    let api = check.value(table.api, default_api(kind, &url), |text| web_address("api", text));
    let auth = match (table.app_id, table.private_key_file, table.token_file) {
        (None, None, None) => None,
        (Some(id), Some(key), None) => Some(ForgeAuth::App {
            id: id.into_inner(),
            key: check.secret(key),
        }),
        (None, None, Some(token)) => Some(ForgeAuth::Token(check.secret(token))),
        (Some(_), None, None) | (None, Some(_), None) => {
            check.at(
                at,
                format!("forge `{name}` has one of `app_id` and `private_key_file`; an App needs both"),
            );
            None
        }
        _ => {
            check.at(
                at,
                format!("forge `{name}` has an App and a `token_file`; one is enough"),
            );
            None
        }
    };
    match (kind, &auth) {
        (ForgeKind::GitHub, _) | (_, None | Some(ForgeAuth::Token(_))) => {}
        (_, Some(ForgeAuth::App { .. })) => {
            check.at(
                at,
                format!("forge `{name}` has an App, which only GitHub knows; give a `token_file`"),
            );
        }
    }
    let of_auth = match &auth {
        Some(ForgeAuth::App { .. }) | None => Form::Checks,
        Some(ForgeAuth::Token(_)) => Form::Statuses,
    };
    let is_app = matches!(auth, Some(ForgeAuth::App { .. }));
    let form = check.value(table.form, of_auth, |text| match text.as_str() {
        "checks" if !is_app => Err("`form` is \"checks\", which GitHub takes from Apps only".to_owned()),
        "checks" => Ok(Form::Checks),
        "statuses" => Ok(Form::Statuses),
        _ => Err(format!("`form` is `{text}`; it can be \"checks\" or \"statuses\"")),
    });
    let usual = Pace::of(kind);
    let mut writes = |key: &str, given, nth: usize| {
        let usual = usual.windows.get(nth).map_or(1, |window| window.writes);
        check.value(given, usual, |writes: &u32| match *writes {
            0 => Err(format!("`{key}` is 0; leave the forge out to tell it nothing")),
            writes => Ok(writes),
        })
    };
    let per_minute = writes("per_minute", table.per_minute, 0);
    let per_hour = writes("per_hour", table.per_hour, 1);
    let pace = Pace {
        windows: Pace::windows(per_minute, per_hour),
        ..usual.clone()
    };
    Some(Forge {
        name,
        kind,
        url,
        api,
        auth,
        webhook_secret: table.webhook_secret_file.map(|file| check.secret(file)),
        form,
        pace,
    })
}

fn default_url(kind: ForgeKind) -> &'static str {
    match kind {
        ForgeKind::GitHub => "https://github.com",
        ForgeKind::GitLab => "https://gitlab.com",
        ForgeKind::Forgejo | ForgeKind::Gitea | ForgeKind::Webhook => "",
    }
}

/// Where the API is below the address people use.
fn default_api(kind: ForgeKind, url: &str) -> String {
    match kind {
        ForgeKind::GitHub if url == "https://github.com" => "https://api.github.com".to_owned(),
        ForgeKind::GitHub => format!("{url}/api/v3"),
        ForgeKind::Forgejo | ForgeKind::Gitea => format!("{url}/api/v1"),
        ForgeKind::GitLab => format!("{url}/api/v4"),
        ForgeKind::Webhook => url.to_owned(),
    }
}

/// An address without a trailing slash.
pub(super) fn web_address(key: &str, text: &str) -> Result<String, String> {
    let is_web = text.starts_with("https://") || text.starts_with("http://");
    let is_fine = reqwest::Url::parse(text).is_ok_and(|url| {
        url.has_host() && url.username().is_empty() && url.password().is_none() && url.fragment().is_none()
    });
    if is_web && is_fine {
        Ok(text.trim_end_matches('/').to_owned())
    } else {
        Err(format!(
            "`{key}` is `{text}`; write an address like \"https://example.org\", without a user or password"
        ))
    }
}

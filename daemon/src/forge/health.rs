//! Whether the forges know us, and what they do not take: what `nixci doctor` says of them.

use std::time::Duration;

use futures_util::future::join_all;
use nixci_protocol::nixci::report::{ForgeStatus, RefusedRepository};
use nixci_store::index::statuses;

use super::Client;
use crate::config::{self, ForgeKind, Project};
use crate::core::Core;
use crate::error::CiError;

/// How long a forge is given to answer when it is looked at.
const ANSWER: Duration = Duration::from_secs(10);

/// Repositories that are asked about; patterns stand for too many.
const REPOSITORIES: usize = 20;

/// What forges have not taken.
struct Rows {
    counts: Vec<statuses::Counts>,
    refused: Vec<statuses::RefusedRepository>,
}

/// Looks at every forge at once. Takes [`ANSWER`] at most, after two questions to the index.
pub(crate) async fn all(core: &Core) -> Result<Vec<ForgeStatus>, CiError> {
    let rows = core
        .index
        .read(|conn| {
            Ok(Rows {
                counts: statuses::counts(conn)?,
                refused: statuses::refused(conn)?,
            })
        })
        .await?;
    let settings = core.settings();
    let projects = &settings.config.projects;
    let looks = settings
        .forges
        .all()
        .map(|(forge, client)| look(forge, client, projects, &rows));
    Ok(join_all(looks).await)
}

async fn look(forge: &config::Forge, client: &Client, projects: &[Project], rows: &Rows) -> ForgeStatus {
    let counts = rows.counts.iter().find(|counts| counts.forge == forge.name);
    let mut status = ForgeStatus {
        name: forge.name.clone(),
        kind: forge.kind.word().to_owned(),
        url: forge.url.clone(),
        found: None,
        error: None,
        takes_webhooks: match forge.kind {
            ForgeKind::GitHub | ForgeKind::Forgejo | ForgeKind::Gitea | ForgeKind::GitLab => {
                Some(forge.webhook_secret.is_some())
            }
            ForgeKind::Webhook => None,
        },
        unsent: counts.map_or(0, |counts| counts.unsent),
        unsent_since: counts.and_then(|counts| counts.oldest),
        refused: counts.map_or(0, |counts| counts.refused),
        refused_repositories: rows
            .refused
            .iter()
            .filter(|refused| refused.forge == forge.name)
            .map(|refused| RefusedRepository {
                repository: refused.repository.clone(),
                reason: refused.reason.clone(),
                since: refused.since,
            })
            .collect(),
    };
    match tokio::time::timeout(ANSWER, ask(forge, client, projects)).await {
        Ok((found, error)) => (status.found, status.error) = (found, error),
        Err(_) => {
            status.error = Some(format!(
                "`{}` did not answer within {} s; look whether {} can be reached from the daemon",
                forge.name,
                ANSWER.as_secs(),
                forge.api
            ));
        }
    }
    status
}

/// Who we are there, and the first reason why something configured cannot be done.
async fn ask(forge: &config::Forge, client: &Client, projects: &[Project]) -> (Option<String>, Option<String>) {
    let found = match client.check().await {
        Ok(found) => found,
        Err(error) => return (None, Some(error.to_string())),
    };
    let named = projects
        .iter()
        .filter(|project| project.forge.as_ref() == Some(&forge.name))
        .map(|project| project.repository_of(&project.name))
        .filter(|repository| !repository.contains('*'))
        .take(REPOSITORIES);
    let asked = join_all(named.map(|repository| client.check_repository(repository))).await;
    let refused = asked.into_iter().find_map(Result::err);
    (Some(found), refused.map(|error| error.to_string()))
}

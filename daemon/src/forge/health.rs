//! Whether the forges know us, and what they do not take: what `nixci doctor` says of them.

use std::time::Duration;

use futures_util::future::join_all;
use nixci_protocol::nixci::report::{ForgeStatus, RefusedRepository};
use nixci_store::index::statuses;

use super::Client;
use crate::config::{self, ForgeKind};
use crate::core::Core;
use crate::error::CiError;

/// How long a forge is given to answer when it is looked at.
const ANSWER: Duration = Duration::from_secs(10);

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
    let looks = core.forges.all().map(|(forge, client)| look(forge, client, &rows));
    Ok(join_all(looks).await)
}

async fn look(forge: &config::Forge, client: &Client, rows: &Rows) -> ForgeStatus {
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
    match tokio::time::timeout(ANSWER, client.check()).await {
        Ok(Ok(found)) => status.found = Some(found),
        Ok(Err(error)) => status.error = Some(error.to_string()),
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

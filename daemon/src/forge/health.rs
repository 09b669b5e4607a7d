//! Whether the forges know us, and what they do not take: what `nixci doctor` says of them.

use std::time::Duration;

use futures_util::future::join_all;
use nixci_protocol::nixci::report::{ForgeStatus, RefusedRepository};
use rusqlite::Connection;

use super::Client;
use crate::config::{self, ForgeKind};
use crate::core::Core;
use crate::error::CiError;

/// How long a forge is given to answer when it is looked at.
const ANSWER: Duration = Duration::from_secs(10);

/// What forges have not taken.
#[derive(Debug, Default)]
struct Rows {
    /// Forge, statuses to be sent, when the oldest was written, statuses it has refused.
    counts: Vec<(String, u64, Option<i64>, u64)>,
    /// Forge, and a repository of it that takes nothing.
    refused: Vec<(String, RefusedRepository)>,
}

/// Looks at every forge at once. Takes [`ANSWER`] at most, and the time of two questions to the index.
pub(crate) async fn all(core: &Core) -> Result<Vec<ForgeStatus>, CiError> {
    let rows = core.index.read(|conn| Ok(rows(conn)?)).await?;
    let looks = core.forges.all().map(|(forge, client)| look(forge, client, &rows));
    Ok(join_all(looks).await)
}

fn rows(conn: &Connection) -> rusqlite::Result<Rows> {
    let mut counts = conn.prepare_cached(
        "SELECT forge, count(*) FILTER (WHERE refused IS NULL), min(wanted) FILTER (WHERE refused IS NULL),
                count(*) FILTER (WHERE refused IS NOT NULL)
         FROM status WHERE sent_seq IS NOT seq GROUP BY forge",
    )?;
    let counts = counts.query_map([], |row| {
        let (unsent, refused): (i64, i64) = (row.get(1)?, row.get(3)?);
        Ok((row.get(0)?, unsent.max(0) as u64, row.get(2)?, refused.max(0) as u64))
    })?;
    let counts = counts.collect::<rusqlite::Result<_>>()?;
    let mut refused = conn
        .prepare_cached("SELECT forge, repository, reason, since FROM refused_repository ORDER BY forge, repository")?;
    let refused = refused.query_map([], |row| {
        let repository = RefusedRepository {
            repository: row.get(1)?,
            reason: row.get(2)?,
            since: row.get(3)?,
        };
        Ok((row.get(0)?, repository))
    })?;
    Ok(Rows {
        counts,
        refused: refused.collect::<rusqlite::Result<_>>()?,
    })
}

async fn look(forge: &config::Forge, client: &Client, rows: &Rows) -> ForgeStatus {
    let (unsent, unsent_since, refused) = rows
        .counts
        .iter()
        .find(|(name, ..)| *name == forge.name)
        .map_or((0, None, 0), |(_, unsent, since, refused)| (*unsent, *since, *refused));
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
        unsent,
        unsent_since,
        refused,
        refused_repositories: rows
            .refused
            .iter()
            .filter(|(name, _)| *name == forge.name)
            .map(|(_, repository)| repository.clone())
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

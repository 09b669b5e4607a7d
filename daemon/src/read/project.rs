//! The projects.

use nixci_protocol::nixci::control::ProjectSummary;
use nixci_store::index::evaluations;

use super::{ReadError, Reader};
use crate::http::project_path;

impl Reader {
    /// All projects, by name, each with its newest evaluation.
    pub async fn projects(&self) -> Result<Vec<ProjectSummary>, ReadError> {
        let rows = self
            .index
            .read(|conn| {
                let mut rows = Vec::new();
                for project in evaluations::projects(conn)? {
                    let latest = evaluations::list(conn, Some(&project), 1)?.pop();
                    rows.push((project, latest));
                }
                Ok(rows)
            })
            .await?;
        let mut projects = Vec::with_capacity(rows.len());
        for (project, latest) in rows {
            let latest = match latest {
                Some(row) => Some(self.summary_of(row).await?),
                None => None,
            };
            projects.push(ProjectSummary {
                page: self.page(&project_path(&project)),
                project,
                latest,
            });
        }
        Ok(projects)
    }
}

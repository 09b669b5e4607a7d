//! Everything that is known of one derivation.

use nixci_protocol::nixci::control::{AttemptSummary, BuildDetail, BuildUse, InputStatus, OutputDetail};
use nixci_protocol::nixci::outcome::Outcome;
use nixci_protocol::types::StorePath;
use nixci_store::index::attempts::{self, AttemptResult, AttemptRow};
use nixci_store::index::{DrvId, derivations, jobs, paths};

use super::outcome::Idle;
use super::{ReadError, Reader};

/// Jobs that are named at most.
const USES: u32 = 100;
/// Attempts that are told at most.
const ATTEMPTS: usize = 100;

impl Reader {
    /// Everything that is known of the derivation of this full path.
    pub async fn build(&self, drv_path: &str) -> Result<BuildDetail, ReadError> {
        let path = self.parse(drv_path)?;
        let asked = path.clone();
        let unknown = || ReadError::NotFound(format!("derivation {drv_path}"));
        let id = self.index.read(move |conn| derivations::ids(conn, &[asked])).await?;
        let id = id.into_iter().next().flatten().ok_or_else(unknown)?;
        let facts = self
            .index
            .read(move |conn| {
                let outputs = derivations::outputs(conn, id)?;
                let known: Vec<StorePath> = outputs.iter().filter_map(|output| output.path.clone()).collect();
                let sizes = paths::infos(conn, &known)?.into_iter().flatten();
                let sizes: Vec<(StorePath, u64)> = sizes.map(|info| (info.path, info.info.nar_size)).collect();
                let inputs = derivations::inputs(conn, id)?;
                let input_paths = derivations::paths(conn, &inputs)?;
                Ok(Facts {
                    requirements: derivations::get(conn, id)?.and_then(|row| row.requirements),
                    outputs,
                    sizes,
                    inputs: inputs.into_iter().zip(input_paths).collect(),
                    attempts: attempts::of(conn, id)?,
                    uses: jobs::where_used(conn, id, USES)?,
                    dependents: derivations::dependents_count(conn, id)?,
                })
            })
            .await?;

        let mut asked: Vec<DrvId> = facts.inputs.iter().map(|(drv, _)| *drv).collect();
        asked.push(id);
        let mut known = self.outcomes(asked, Idle::Unasked).await?;
        let mut outcome_of = |drv| known.remove(&drv).map_or(Outcome::Cancelled, |known| known.outcome);
        let outcome = outcome_of(id);
        let mut inputs: Vec<InputStatus> = facts
            .inputs
            .into_iter()
            .map(|(drv, path)| InputStatus {
                drv_path: self.store_dir.display(&path).to_string(),
                outcome: outcome_of(drv),
            })
            .collect();
        inputs.sort_by(|a, b| (rank(&a.outcome), name(&a.drv_path)).cmp(&(rank(&b.outcome), name(&b.drv_path))));

        let (system, features) = facts
            .requirements
            .map_or_else(Default::default, |needs| (needs.system, needs.features));
        Ok(BuildDetail {
            drv_path: self.store_dir.display(&path).to_string(),
            name: path.name().strip_suffix(".drv").unwrap_or(path.name()).to_owned(),
            system,
            features,
            outcome,
            inputs,
            outputs: facts
                .outputs
                .into_iter()
                .map(|output| OutputDetail {
                    name: output.name,
                    nar_size: output.path.as_ref().and_then(|path| size_of(&facts.sizes, path)),
                    path: output.path.map(|path| self.store_dir.display(&path).to_string()),
                })
                .collect(),
            attempts: facts.attempts.into_iter().take(ATTEMPTS).map(attempt_summary).collect(),
            used_by: facts
                .uses
                .into_iter()
                .map(|used| BuildUse {
                    evaluation: used.evaluation,
                    project: used.project,
                    commit: used.commit,
                    attr: used.attr,
                })
                .collect(),
            dependents: facts.dependents,
        })
    }

    /// The path of a derivation as it was typed.
    pub(crate) fn parse(&self, drv_path: &str) -> Result<StorePath, ReadError> {
        let path = self
            .store_dir
            .parse(drv_path)
            .map_err(|error| ReadError::Unclear(format!("`{drv_path}` is not a store path: {error}")))?;
        if path.is_derivation() {
            Ok(path)
        } else {
            Err(ReadError::Unclear(format!("`{drv_path}` does not end in .drv")))
        }
    }
}

struct Facts {
    requirements: Option<derivations::Requirements>,
    outputs: Vec<derivations::OutputRow>,
    sizes: Vec<(StorePath, u64)>,
    inputs: Vec<(DrvId, StorePath)>,
    attempts: Vec<AttemptRow>,
    uses: Vec<jobs::Use>,
    dependents: u64,
}

fn size_of(sizes: &[(StorePath, u64)], path: &StorePath) -> Option<u64> {
    sizes.iter().find(|(known, _)| known == path).map(|(_, size)| *size)
}

/// What is not fine comes first.
fn rank(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Failed { .. } => 0,
        Outcome::Blocked { .. } => 1,
        Outcome::EvaluationError { .. } | Outcome::Cancelled => 2,
        Outcome::Building | Outcome::Forwarding => 3,
        Outcome::Queued { .. } => 4,
        Outcome::Succeeded { .. } => 5,
    }
}

fn name(drv_path: &str) -> &str {
    nixci_protocol::nixci::verdict::derivation_name(drv_path)
}

/// One attempt as the API tells it.
pub(crate) fn attempt_summary(row: AttemptRow) -> AttemptSummary {
    AttemptSummary {
        attempt: row.id,
        store: row.store,
        started: row.started,
        ended: row.ended,
        outcome: match row.result {
            None => Outcome::Building,
            Some(AttemptResult::Succeeded(how)) => Outcome::Succeeded { how },
            Some(AttemptResult::Failed(class)) => Outcome::Failed { class },
            Some(AttemptResult::Cancelled) => Outcome::Cancelled,
        },
        message: row.message,
    }
}

//! The index on real files.

use std::collections::BTreeMap;

use nixci_protocol::nixci::attr_path::AttrPath;
use nixci_protocol::nixci::control::{AttemptId, Submission};
use nixci_protocol::nixci::outcome::{FailureClass, Success};
use nixci_protocol::types::{Hash, StorePath};
use rusqlite::Transaction;
use tempfile::TempDir;

use super::attempts::{AttemptEnd, AttemptResult};
use super::jobs::JobRow;
use super::{DrvId, Index, Result, attempts, derivations};
use crate::derivation::{Derivation, Output};

mod contents;
mod evaluations;
mod graph;
mod hooks;
mod outcomes;
mod plans;
mod prune;
mod recorded;
mod schema;
mod snapshot;
mod statuses;
mod tokens;
mod writing;

fn index() -> (Index, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::open(&dir.path().join("index.db")).unwrap();
    (index, dir)
}

fn path(name: &str) -> StorePath {
    let mut digest = [0; 20];
    digest.copy_from_slice(&Hash::sha256_of(name.as_bytes()).as_bytes()[..20]);
    StorePath::new(digest, name).unwrap()
}

fn derivation(name: &str, inputs: &[&str]) -> Derivation {
    Derivation {
        path: path(&format!("{name}.drv")),
        name: name.to_owned(),
        system: "x86_64-linux".to_owned(),
        builder: "/bin/sh".to_owned(),
        required_features: Vec::new(),
        outputs: vec![Output {
            name: "out".to_owned(),
            path: Some(path(name)),
            is_fixed: false,
        }],
        input_drvs: inputs.iter().map(|input| path(&format!("{input}.drv"))).collect(),
        input_srcs: Vec::new(),
    }
}

/// Adds derivations written as `name: input input`, and returns their numbers by name.
fn add_graph(tx: &Transaction<'_>, lines: &[&str]) -> Result<BTreeMap<String, DrvId>> {
    let parsed: Vec<(&str, Vec<&str>)> = lines
        .iter()
        .map(|line| {
            let (name, inputs) = line.split_once(':').unwrap();
            (name, inputs.split_whitespace().collect())
        })
        .collect();
    let drvs: Vec<_> = parsed.iter().map(|(name, inputs)| derivation(name, inputs)).collect();
    let ids = derivations::add(tx, &drvs)?;
    Ok(parsed.iter().map(|(name, _)| (*name).to_owned()).zip(ids).collect())
}

fn submission(key: &str, project: &str, commit: Option<&str>) -> Submission {
    Submission {
        key: key.to_owned(),
        project: project.to_owned(),
        commit: commit.map(str::to_owned),
        git_ref: Some("main".to_owned()),
        base: None,
        pull_request: Some(7),
        source: ".#checks".to_owned(),
        labels: BTreeMap::from([("runner".to_owned(), "a \"b\"".to_owned())]),
    }
}

fn job(attr: &str, drv: Option<DrvId>) -> JobRow {
    JobRow {
        attr: attr.parse::<AttrPath>().unwrap(),
        drv: drv.map(|id| (id, path(&format!("{}.drv", attr.rsplit('.').next().unwrap())))),
        error: drv.is_none().then(|| "attribute missing".to_owned()),
    }
}

const BUILT: AttemptResult = AttemptResult::Succeeded(Success::Built);
const CANCELLED: AttemptResult = AttemptResult::Cancelled;
const FAILED: AttemptResult = AttemptResult::Failed(FailureClass::Build);
const STORE: AttemptResult = AttemptResult::Failed(FailureClass::Store);
const TIMEOUT: AttemptResult = AttemptResult::Failed(FailureClass::Timeout);

fn attempt(tx: &Transaction<'_>, drv: DrvId, result: AttemptResult) -> Result<AttemptId> {
    let id = attempts::begin(tx, drv, "auto", 1000)?;
    let end = AttemptEnd {
        result,
        message: String::new(),
        log_lines: 3,
        expires: None,
    };
    assert!(attempts::finish(tx, id, &end, 2000)?);
    Ok(id)
}

//! The recorded graph: 29,119 derivations with their edges, and the 6,858 jobs of head.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use nixci_protocol::nixci::attr_path::AttrPath;
use nixci_protocol::types::StorePath;
use rusqlite::Transaction;

use super::super::jobs::JobRow;
use super::super::{DrvId, Result, derivations, evaluations, jobs, outcomes};
use super::{BUILT, FAILED, attempt, derivation, index, path, submission};
use crate::derivation::Derivation;
use crate::testing::{data_dir, recorded::Recorded, recorded::Set};

/// The derivations of the graph with their node numbers.
fn graph() -> Vec<(usize, Derivation)> {
    let packed = std::fs::File::open(data_dir().join("corepkgs/graph.tsv.zst")).unwrap();
    let text = String::from_utf8(zstd::decode_all(packed).unwrap()).unwrap();
    let mut built = Vec::new();
    let mut derivations = Vec::new();
    for (node, line) in text.lines().enumerate() {
        let fields: Vec<&str> = line.split('\t').collect();
        built.push(fields[0] != "s");
        if built[node] {
            let mut drv = derivation(&format!("n{node}-out"), &[]);
            let inputs = fields[3]
                .split_whitespace()
                .map(|input| input.parse::<usize>().unwrap());
            drv.input_drvs = inputs.filter(|input| built[*input]).map(node_path).collect();
            drv.path = node_path(node);
            drv.outputs[0].is_fixed = fields[0] == "f";
            derivations.push((node, drv));
        }
    }
    derivations
}

fn node_path(node: usize) -> StorePath {
    path(&format!("n{node}.drv"))
}

/// Builds everything that `causes`, which fail, do not block. Inputs have lower numbers in this graph.
fn build_the_rest(tx: &Transaction<'_>, all: &[DrvId], causes: &[DrvId]) -> Result<()> {
    let mut unbuilt: HashSet<DrvId> = causes.iter().copied().collect();
    for id in all {
        if derivations::inputs(tx, *id)?
            .iter()
            .any(|input| unbuilt.contains(input))
        {
            unbuilt.insert(*id);
        } else if !unbuilt.contains(id) {
            attempt(tx, *id, BUILT)?;
        }
    }
    Ok(())
}

/// It also prints what it took; the figures count only from an optimised build.
#[tokio::test]
async fn a_large_evaluation_is_recorded_and_its_root_causes_are_found() {
    let (index, _dir) = index();
    let (nodes, drvs): (Vec<usize>, Vec<Derivation>) = graph().into_iter().unzip();
    let edges: usize = drvs.iter().map(|drv| drv.input_drvs.len()).sum();
    let clock = Instant::now();
    let ids = index.write(move |tx| derivations::add(tx, &drvs)).await.unwrap();
    eprintln!(
        "{} derivations with {edges} edges added: {:?}",
        ids.len(),
        clock.elapsed()
    );
    assert_eq!(ids.len(), 29_119);

    let by_node: HashMap<usize, DrvId> = nodes.into_iter().zip(ids.iter().copied()).collect();
    let rows: Vec<JobRow> = Recorded::jobs(Set::Head)
        .into_iter()
        .map(|(attr, node)| JobRow {
            attr: AttrPath::new(vec!["checks".into(), "x86_64-linux".into(), attr]),
            drv: Some((by_node[&node], node_path(node))),
            error: None,
        })
        .collect();
    let clock = Instant::now();
    let add = index.write_durable(move |tx| {
        let (id, _) = evaluations::begin(tx, &submission("k", "p", None), "uid:0", 1)?;
        Ok((id, jobs::add(tx, id, &rows)?))
    });
    let (evaluation, count) = add.await.unwrap();
    eprintln!("{count} jobs added: {:?}", clock.elapsed());
    assert_eq!(count, 6_858);

    let clock = Instant::now();
    let found = index.read(move |conn| jobs::of(conn, evaluation)).await.unwrap();
    eprintln!("jobs read: {:?}", clock.elapsed());
    let wanted: Vec<DrvId> = found.iter().filter_map(|job| Some(job.drv.as_ref()?.0)).collect();
    let all = ids.clone();
    let clock = Instant::now();
    let among = index
        .read(move |conn| derivations::edges_among(conn, &all))
        .await
        .unwrap();
    eprintln!("edges among all read: {:?}", clock.elapsed());
    assert_eq!(among.len(), edges);

    let ask = async |what: &str| {
        let wanted = wanted.clone();
        let clock = Instant::now();
        let blocked = index
            .read(move |conn| outcomes::blocked_by(conn, &wanted))
            .await
            .unwrap();
        eprintln!("blocked by, {what}: {:?}", clock.elapsed());
        blocked
    };
    assert!(ask("nothing tried").await.is_empty());

    // Three that many need, but not everything does.
    let mut needed: HashMap<DrvId, u32> = HashMap::new();
    for (_, input) in &among {
        *needed.entry(*input).or_default() += 1;
    }
    let mut causes: Vec<DrvId> = needed
        .iter()
        .filter(|(_, by)| (40..60).contains(*by))
        .map(|(id, _)| *id)
        .collect();
    causes.sort_unstable();
    causes.truncate(3);
    assert_eq!(causes.len(), 3);
    let failing = causes.clone();
    let fail = index.write(move |tx| {
        for id in failing {
            attempt(tx, id, FAILED)?;
        }
        Ok(())
    });
    fail.await.unwrap();
    let blocked = ask("three failed, nothing else tried").await;
    assert!(!blocked.is_empty() && blocked.len() < wanted.len());
    assert!(blocked.values().flatten().all(|cause| causes.contains(cause)));

    let clock = Instant::now();
    index.write(move |tx| build_the_rest(tx, &ids, &causes)).await.unwrap();
    eprintln!("attempts at the rest recorded: {:?}", clock.elapsed());
    assert_eq!(ask("three failed, the rest built").await, blocked);
    let clock = Instant::now();
    let of = wanted.clone();
    let standings = index.read(move |conn| outcomes::of(conn, &of)).await.unwrap();
    eprintln!("outcomes of all jobs: {:?}", clock.elapsed());
    let open = standings
        .iter()
        .filter(|standing| matches!(standing, outcomes::Standing::Open))
        .count();
    let failed = standings
        .iter()
        .filter(|standing| matches!(standing, outcomes::Standing::Failed { .. }))
        .count();
    let blocked_jobs = wanted.iter().filter(|drv| blocked.contains_key(*drv)).count();
    assert!(
        open == blocked_jobs && failed <= 3 * wanted.len(),
        "{open} open, {blocked_jobs} blocked"
    );
}

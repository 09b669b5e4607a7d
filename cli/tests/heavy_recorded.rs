//! The recorded graph through the whole road: really built, really broken, and judged.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as the tests do")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Output;

use nixci_store::testing::recorded::{Arguments, Recorded, Set};
use nixci_store::testing::{NixVersion, Service, TestDaemon};
use serde_json::Value;

/// Three libraries deep in the graph: a generator, a tool and a stub that hundreds of jobs need.
const BROKEN: [&str; 3] = ["gperf-3.3", "getopt-1.1.6", "libpthread-stubs-0.5"];
/// As many jobs above them are submitted, those with the smallest closures.
const JOBS: usize = 300;

/// The recorded graph as lists.
struct Graph {
    fixed: Vec<bool>,
    names: Vec<String>,
    inputs: Vec<Vec<usize>>,
}

impl Graph {
    fn read() -> Self {
        let bytes = fs::read(nixci_store::testing::data_dir().join("corepkgs/graph.tsv.zst")).unwrap();
        let text = String::from_utf8(zstd::decode_all(bytes.as_slice()).unwrap()).unwrap();
        let mut graph = Self {
            fixed: Vec::new(),
            names: Vec::new(),
            inputs: Vec::new(),
        };
        for line in text.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            let inputs = fields.get(3).copied().unwrap_or_default().split_whitespace();
            graph.fixed.push(fields[0] == "f");
            graph.names.push(fields[1].to_owned());
            graph.inputs.push(inputs.map(|n| n.parse().unwrap()).collect());
        }
        graph
    }

    fn number(&self, name: &str) -> usize {
        self.names.iter().position(|n| n == name).unwrap()
    }

    /// For each node the broken ones among it and what is below it, as a bit mask. Inputs come first in the list.
    /// What is below a fixed-output derivation does not count: its output was made on base and stays the same.
    fn causes(&self, broken: &[usize]) -> Vec<u8> {
        let mut causes = vec![0_u8; self.names.len()];
        for node in 0..self.names.len() {
            if !self.fixed[node] {
                causes[node] = self.inputs[node].iter().fold(0, |mask, input| mask | causes[*input]);
            }
            if let Some(bit) = broken.iter().position(|b| *b == node) {
                causes[node] |= 1 << bit;
            }
        }
        causes
    }

    fn closure_size(&self, root: usize) -> usize {
        let mut seen = BTreeSet::from([root]);
        let mut work = vec![root];
        while let Some(node) = work.pop() {
            work.extend(self.inputs[node].iter().filter(|input| seen.insert(**input)));
        }
        seen.len()
    }
}

fn write_jobs(path: &Path, recorded: &Recorded, jobs: &[(String, usize)]) {
    let lines: Vec<String> = jobs
        .iter()
        .map(|(attr, node)| format!("{attr}\t{}\n", recorded.path(*node)))
        .collect();
    fs::write(path, lines.concat()).unwrap();
}

fn submit(service: &Service, recorded: &Recorded, jobs: &Path, commit: &str) -> Output {
    let mut command = service.command("nixci");
    command.args([
        "submit",
        "--wait",
        "--project",
        "corepkgs",
        "--commit",
        commit,
        "--from",
        &recorded.uri(),
    ]);
    command.arg("--jobs-file").arg(jobs).output().unwrap()
}

fn json(service: &Service, arguments: &[&str]) -> Value {
    let output = service.command("nixci").args(arguments).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{arguments:?}: {error}\n{}", String::from_utf8_lossy(&output.stderr));
    })
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn three_broken_libraries_are_the_only_root_causes_of_three_hundred_jobs() {
    let graph = Graph::read();
    let broken: Vec<usize> = BROKEN.iter().map(|name| graph.number(name)).collect();
    let causes = graph.causes(&broken);
    let mut jobs = Recorded::jobs(Set::Head);
    jobs.retain(|(_, node)| causes[*node] != 0);
    jobs.sort_by_key(|(attr, node)| (graph.closure_size(*node), attr.clone()));
    jobs.truncate(JOBS);
    assert_eq!(jobs.len(), JOBS);
    // One more that needs none of the three.
    let curl = Recorded::jobs(Set::Head)
        .into_iter()
        .find(|(attr, _)| attr == "curl")
        .unwrap();
    assert_eq!(causes[curl.1], 0);
    jobs.push(curl);

    let unbroken = Recorded::new(&Arguments::default());
    let fail = BROKEN.iter().map(|name| (*name).to_owned()).collect();
    let failing = Recorded::new(&Arguments {
        fail,
        ..Arguments::default()
    });

    let store = TestDaemon::start(NixVersion::V2_34);
    let service = Service::start(Path::new(env!("CARGO_BIN_EXE_nixci")), &[("only", &store.uri(), 4)]);
    let list = service.scratch().join("jobs.tsv");

    write_jobs(&list, &unbroken, &jobs);
    let base = "b".repeat(40);
    let built = submit(&service, &unbroken, &list, &base);
    assert_eq!(built.status.code(), Some(0), "{}", text(&built));

    write_jobs(&list, &failing, &jobs);
    let head = "a".repeat(40);
    let judged = submit(&service, &failing, &list, &head);
    assert_eq!(judged.status.code(), Some(1), "{}", text(&judged));

    let verdict = json(&service, &["diff", &base, &head, "--json"]);
    let causes_named = verdict["rootCauses"].as_array().unwrap();
    let names: BTreeSet<&str> = causes_named
        .iter()
        .map(|cause| cause["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, BTreeSet::from(BROKEN), "{}", verdict["sentence"]);
    for (bit, name) in BROKEN.iter().enumerate() {
        let cause = causes_named.iter().find(|cause| cause["name"] == *name).unwrap();
        let log = cause["logTail"].to_string();
        assert!(log.contains(&format!("error: {name} does not compile")), "{log}");
        let above = jobs
            .iter()
            .filter(|(_, node)| causes[*node] & (1 << bit) != 0 && *node != broken[bit])
            .count();
        assert_eq!(cause["blocks"], above, "{name}");
        assert_eq!(cause["onBase"], false, "{name}");
    }
    // Every one of these jobs was fine on base and is above a broken library now; nothing else is said to fail.
    assert_eq!(
        verdict["counts"],
        serde_json::json!({ "newly-failing": JOBS, "unchanged": 1 })
    );
    assert_eq!(verdict["conclusion"], "failure");

    // The log of a blocked job is that of its root cause.
    let (attr, _) = jobs
        .iter()
        .find(|(_, node)| causes[*node] != 0 && !broken.contains(node))
        .unwrap();
    let log = service.command("nixci").args(["log", attr, &head]).output().unwrap();
    assert!(text(&log).contains("does not compile"), "{}", text(&log));
}

//! The hot queries are answered from indexes, whatever the size of the tables.

use rusqlite::Connection;

use super::super::{
    attempts, contents, deliveries, derivations, evaluations, jobs, outcomes, paths, pull_requests, pushes, schema,
    statuses,
};

const BIG: [&str; 17] = [
    "evaluation",
    "job",
    "derivation",
    "edge",
    "output",
    "attempt",
    "path",
    "content",
    "realised",
    "realised_as",
    "delivery",
    "pull_request",
    "former_head",
    "push",
    "e",
    "j",
    "status",
];

fn plan(conn: &Connection, sql: &str) -> Vec<String> {
    let mut explain = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    // Plans do not depend on the values, so parameters stay null.
    let mut rows = explain.raw_query();
    let mut steps = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        steps.push(row.get(3).unwrap());
    }
    steps
}

#[test]
fn no_hot_query_scans_a_big_table() {
    let mut conn = Connection::open_in_memory().unwrap();
    schema::MIGRATIONS.to_latest(&mut conn).unwrap();
    let evaluations = [
        evaluations::OF_PROJECT,
        evaluations::OPEN,
        evaluations::OPEN_OF_PULL_REQUEST,
        evaluations::OF_COMMIT,
        evaluations::OF_PROJECT_COMMIT,
        "WHERE e.id = ?1",
        "WHERE e.key = ?1",
    ]
    .map(evaluations::select);
    let others = [
        evaluations::WITH_PREFIX,
        jobs::OF,
        jobs::WHERE_USED,
        attempts::OF,
        attempts::LAST,
        attempts::LAST_WEIGHTY,
        attempts::RUNNING,
        outcomes::SAID,
        derivations::FIND,
        derivations::INPUTS,
        derivations::DEPENDENTS,
        derivations::DEPENDENTS_COUNT,
        derivations::MAKERS,
        paths::INFO,
        contents::BUILT,
        contents::REALISED,
        contents::READ,
        contents::RESOLVED_FIRST,
        contents::BY_HASH,
        deliveries::TWIN,
        deliveries::DUE,
        deliveries::NEXT_RETRY,
        deliveries::WAITING,
        deliveries::OLD,
        pull_requests::GET,
        pull_requests::BY_HEAD,
        pull_requests::OF_NUMBER,
        pull_requests::WAS_HEAD,
        pull_requests::OLD,
        pull_requests::OLD_HEADS,
        pushes::OF,
        pushes::OLD,
    ];
    let others = others.into_iter().chain(statuses::SENDING).chain([statuses::STANDING]);
    for sql in others.chain(evaluations.iter().map(String::as_str)) {
        let plan = plan(&conn, sql);
        for step in &plan {
            let words: Vec<&str> = step.split(' ').collect();
            // A partial index holds only the rows in question, so reading all of it is right.
            let partial = [
                "evaluation_open",
                "attempt_running",
                "delivery_open",
                "status_unsent",
                "status_refused",
            ];
            let partial = partial.iter().any(|index| step.contains(index));
            let scans = words[0] == "SCAN" && BIG.contains(&words[1]) && !partial;
            assert!(!scans, "{step}\nin the plan of\n{sql}\n{plan:#?}");
        }
        assert!(!plan.is_empty(), "no plan for {sql}");
    }
}

#[test]
fn a_scan_would_be_noticed() {
    let mut conn = Connection::open_in_memory().unwrap();
    schema::MIGRATIONS.to_latest(&mut conn).unwrap();
    assert_eq!(
        plan(&conn, "SELECT id FROM derivation WHERE system = ?1"),
        ["SCAN derivation"]
    );
}

#[test]
fn the_newest_come_in_order_without_a_sort() {
    let mut conn = Connection::open_in_memory().unwrap();
    schema::MIGRATIONS.to_latest(&mut conn).unwrap();
    let newest = evaluations::select(evaluations::OF_PROJECT);
    let others = [attempts::LAST, attempts::OF, outcomes::SAID, newest.as_str()];
    // All but the counts, which are grouped twice.
    let sending = &statuses::SENDING[..statuses::SENDING.len() - 1];
    for sql in others.iter().chain(sending) {
        let plan = plan(&conn, sql);
        assert!(
            !plan.iter().any(|step| step.contains("TEMP B-TREE")),
            "{sql}\n{plan:#?}"
        );
    }
}

//! The dashboard for Grafana: every metric and label in it is one that a real daemon tells.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

use nixci_store::testing::{NixVersion, Service, TestDaemon, TestDrv, poll_until};
use serde_json::Value;

use crate::page::{code_spans, pages, root};

const SECRET: &str = "a secret of the webhook";

fn curl(arguments: &[&str]) -> String {
    let output = Command::new("curl")
        .args(["--silent", "--max-time", "30"])
        .args(arguments)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The names of what `/metrics` tells, with their labels.
fn told(address: SocketAddr) -> BTreeMap<String, BTreeSet<String>> {
    let mut told: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in curl(&[&format!("http://{address}/metrics")]).lines() {
        if line.starts_with('#') || line.is_empty() {
            continue;
        }
        let (name, rest) = line.split_once(['{', ' ']).unwrap();
        let labels = rest
            .split(['{', ','])
            .filter_map(|part| part.split_once("=\""))
            .map(|(label, _)| label.to_owned());
        told.entry(name.to_owned()).or_default().extend(labels);
    }
    told
}

/// A signed delivery, by its number.
fn deliver(address: SocketAddr, number: &str, secret: &str, body: &str) -> String {
    let mut openssl = Command::new("openssl")
        .args(["dgst", "-sha256", "-hmac", secret])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    openssl.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
    let digest = String::from_utf8(openssl.wait_with_output().unwrap().stdout).unwrap();
    let digest = digest.split_whitespace().last().unwrap();
    curl(&[
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_code}",
        "--header",
        "Content-Type: application/json",
        "--header",
        "X-GitHub-Event: ping",
        "--header",
        &format!("X-GitHub-Delivery: {number}"),
        "--header",
        &format!("X-Hub-Signature-256: sha256={digest}"),
        "--data-binary",
        body,
        &format!("http://{address}/webhooks/github"),
    ])
}

/// A daemon on which everything has happened once that is counted, but for a webhook whose handling failed.
fn busy() -> (TestDaemon, Service) {
    let nix = TestDaemon::start(NixVersion::NEWEST);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let secrets = tempfile::tempdir().unwrap();
    let secret = |name: &str, text: &str| {
        let file = secrets.path().join(name);
        std::fs::write(&file, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&file, mode).unwrap();
        file.display().to_string()
    };
    let mut sections = format!("[[store]]\nname = \"near\"\nuri = \"{}\"\nslots = 4\n", nix.uri());
    let _ = write!(
        sections,
        "[[forge]]\nkind = \"github\"\nurl = \"http://{nobody}\"\ntoken_file = \"{}\"\nwebhook_secret_file = \"{}\"\n[[project]]\nname = \"*\"\n",
        secret("token", "a-token"),
        secret("webhook", SECRET)
    );
    let service = Service::with_config(Path::new(env!("CARGO_BIN_EXE_nixci")), &sections);
    let paths = nix.instantiate("dashboard", &[TestDrv::good("fine"), TestDrv::failing("broken")]);
    for path in paths.values() {
        let mut nixci = service.command("nixci");
        nixci
            .envs(nix.environment(&nix.uri()))
            .args(["submit", "--wait", "--project", "a/b", "--commit"]);
        nixci.arg("1".repeat(40)).arg(path).output().unwrap();
    }
    let address = service.http();
    for (number, secret) in [("1", SECRET), ("1", SECRET), ("2", "another")] {
        deliver(address, number, secret, "{\"zen\":\"\",\"hook_id\":1}");
    }
    assert!(service.command("nixci").arg("gc").output().unwrap().status.success());
    let output = nix.run("nix-store", &["--query", &paths["fine"]]);
    let hash = output.trim().rsplit('/').next().unwrap().split('-').next().unwrap();
    let about = curl(&[&format!("http://{address}/{hash}.narinfo")]);
    let url = about
        .lines()
        .find_map(|line| line.strip_prefix("URL: "))
        .unwrap_or_else(|| panic!("{about}"));
    curl(&["--output", "/dev/null", &format!("http://{address}/{url}")]);
    poll_until("a write to the forge and an end of the webhook", || {
        let told = told(address);
        (told.contains_key("nixci_status_writes_total") && told.contains_key("nixci_webhooks_done_total")).then_some(())
    });
    (nix, service)
}

fn dashboard() -> Value {
    let text = std::fs::read_to_string(root().join("docs/grafana.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The queries of all panels, with their legends.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    targets
        .map(|target| (text(&target["expr"]), text(&target["legendFormat"])))
        .collect()
}

/// The metrics in a text.
fn metrics(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    // The daemon's crate is named where levels of the log are.
    words
        .filter(|word| word.starts_with("nixci_") && *word != "nixci_daemon")
        .map(str::to_owned)
        .collect()
}

/// The labels that a query groups or selects by, and those of its legend.
fn labels(query: &str, legend: &str) -> BTreeSet<String> {
    let grouped = query
        .split("by (")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .flat_map(|(list, _)| list.split(", "));
    let selected = query
        .split('{')
        .skip(1)
        .filter_map(|rest| rest.split_once('}'))
        .flat_map(|(list, _)| list.split(','));
    let selected = selected.filter_map(|part| part.split_once('=')).map(|(label, _)| label);
    let shown = legend
        .split("{{")
        .skip(1)
        .filter_map(|rest| rest.split_once("}}"))
        .map(|(label, _)| label);
    // Prometheus adds it by itself.
    grouped
        .chain(selected)
        .chain(shown)
        .filter(|label| *label != "instance")
        .map(str::to_owned)
        .collect()
}

#[test]
fn what_the_dashboard_shows_is_told_by_a_daemon() {
    let (_nix, service) = busy();
    let told = told(service.http());
    let mut shown = BTreeSet::new();
    for (query, legend) in queries(&dashboard()) {
        for metric in metrics(&query) {
            let known = told
                .get(&metric)
                .unwrap_or_else(|| panic!("{query}: no daemon tells {metric}, but {:?}", told.keys()));
            for label in labels(&query, &legend) {
                assert!(
                    known.contains(&label),
                    "{query} ({legend}): {metric} has no label {label}, but {known:?}"
                );
            }
            shown.insert(metric);
        }
    }
    assert!(shown.len() > 20, "{shown:?}");
    // What is told is shown, and described.
    let operating = pages()
        .into_iter()
        .find(|page| page.name == "docs/operating.md")
        .unwrap();
    let described: BTreeSet<String> = operating
        .prose
        .iter()
        .flat_map(|(_, line)| code_spans(line))
        .flat_map(metrics)
        .collect();
    for metric in told.keys().filter(|name| name.starts_with("nixci_")) {
        assert!(shown.contains(metric), "the dashboard does not show {metric}");
        assert!(
            described.contains(metric),
            "docs/operating.md does not describe {metric}"
        );
    }
    let of_webhooks_that_failed = "nixci_webhooks_retried_total";
    for metric in described {
        assert!(
            told.contains_key(&metric) || metric == of_webhooks_that_failed,
            "docs/operating.md has {metric}, which no daemon tells"
        );
    }
}

#[test]
fn grafana_can_read_the_dashboard() {
    let dashboard = dashboard();
    assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 36 && dashboard["id"].is_null());
    assert!(dashboard["title"].is_string() && dashboard["uid"].as_str().is_some_and(|uid| uid.len() <= 40));
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: BTreeSet<&str> = variables
        .iter()
        .map(|variable| variable["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, BTreeSet::from(["datasource", "instance"]));
    let mut numbers = BTreeSet::new();
    let mut taken: BTreeSet<(u64, u64)> = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(
            numbers.insert(panel["id"].as_u64().unwrap()),
            "{title}: its number is another's"
        );
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        let (x, y, w, h) = (place("x"), place("y"), place("w"), place("h"));
        assert!(x + w <= 24 && w > 0 && h > 0, "{title} is wider than the page");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "{title} lies on another panel");
        }
        match panel["type"].as_str().unwrap() {
            "row" => assert_eq!(panel["collapsed"], Value::Bool(false), "{title}"),
            "timeseries" | "stat" => {
                assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
                let targets = panel["targets"].as_array().unwrap();
                let references: BTreeSet<&str> =
                    targets.iter().map(|target| target["refId"].as_str().unwrap()).collect();
                assert!(!targets.is_empty() && references.len() == targets.len(), "{title}");
            }
            other => panic!("{title}: a panel of the kind {other}"),
        }
    }
}

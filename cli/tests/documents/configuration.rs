//! Configurations that are shown are taken; every key is in the reference, and keys that are named are known.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

use nixci_store::testing::NixVersion;
use serde_json::Value;

use crate::page::{Block, code_spans, pages, root};

/// Words with an underline in the prose that are no keys of the configuration.
const OTHER_WORDS: [&str; 21] = [
    // Of forges and their workflows.
    "check_run",
    "check_suite",
    "pull_request",
    "pull_requests",
    "workflow_run",
    "id_tokens",
    "flake_attr",
    "flake_apply",
    "nix_args",
    "pre_evaluation_script",
    "evaluation_workers",
    "authorized_keys",
    "credentials_file",
    // Environment.
    "NIXCI_TO",
    "NIXCI_LOG",
    "NIXCI_TOKEN",
    "NIXCI_TOKEN_FILE",
    "NIXCI_AUDIENCE",
    "NIXCI_ID_TOKEN",
    "NIXCI_CONFIG",
    "SSH_ORIGINAL_COMMAND",
];

fn check_config(text: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nixci.toml");
    std::fs::write(&file, text).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_nixci")).with_file_name("nixci-daemon");
    let mut command = Command::new(program);
    command
        .arg("check-config")
        .arg(&file)
        .env("XDG_RUNTIME_DIR", folder.path())
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn blocks(kind: &str) -> Vec<(String, Block)> {
    let of_page = |page: crate::page::Page| {
        let name = page.name;
        page.blocks
            .into_iter()
            .map(move |block| (format!("{name}:{}", block.line), block))
    };
    let all = pages().into_iter().flat_map(of_page);
    all.filter(|(_, block)| block.kind == kind).collect()
}

#[test]
fn configurations_are_taken() {
    let blocks = blocks("toml");
    assert!(blocks.len() > 12, "only {} were found", blocks.len());
    for (place, block) in blocks {
        let output = check_config(&block.text());
        assert!(output.status.success(), "{place}: {}", said(&output));
    }
}

/// The keys that a section knows, as it says where one is unknown.
fn keys(section: &str) -> Vec<String> {
    let output = check_config(&format!("{section}\nzzzzzzzzzzzzzzzzzzzzzzz = 1\n"));
    let text = said(&output);
    let (_, known) = text
        .split_once("known are ")
        .unwrap_or_else(|| panic!("{section}: {text}"));
    let line = known.lines().next().unwrap();
    line.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

const SECTIONS: [&str; 13] = [
    "",
    "[listen]",
    "[[store]]",
    "[limits]",
    "[retention]",
    "[[token]]",
    "[cache]",
    "[keys]",
    "[[forge]]",
    "[[project]]",
    "[[oidc]]",
    "[[oidc]]\n[oidc.claims]",
    "[[oidc]]\n[[oidc.allow]]",
];

#[test]
fn the_reference_has_every_key() {
    let page = pages()
        .into_iter()
        .find(|page| page.name == "docs/configuration.md")
        .unwrap();
    let mut named: BTreeSet<String> = page
        .prose
        .iter()
        .flat_map(|(_, line)| code_spans(line))
        .map(str::to_owned)
        .collect();
    for line in page
        .blocks
        .iter()
        .filter(|block| block.kind == "toml")
        .flat_map(|block| &block.lines)
    {
        named.extend(line.split(" = ").next().map(str::to_owned));
    }
    let headings: String = page
        .prose
        .iter()
        .filter(|(_, line)| line.starts_with('#'))
        .map(|(_, line)| line.as_str())
        .collect();
    for section in SECTIONS {
        for key in keys(section) {
            let is_section = headings.contains(&format!("[{key}]"));
            assert!(
                named.contains(&key) || is_section,
                "docs/configuration.md does not have `{key}` of {section}"
            );
        }
    }
}

#[test]
fn keys_that_are_named_are_known() {
    let known: BTreeSet<String> = SECTIONS.iter().flat_map(|section| keys(section)).collect();
    for page in pages() {
        // The layout of the code has names of its own.
        if page.name == "docs/architecture.md" {
            continue;
        }
        for (number, line) in &page.prose {
            for span in code_spans(line) {
                let word = span.split([' ', '=']).next().unwrap();
                // Keys are in lower case, unlike variables of the environment.
                let is_key = word.contains('_')
                    && word
                        .chars()
                        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
                if !is_key || word.starts_with("nixci_") || OTHER_WORDS.contains(&word) {
                    continue;
                }
                assert!(
                    known.contains(word),
                    "{}:{number}: `{word}` is no key of the configuration",
                    page.name
                );
            }
        }
    }
}

fn nix(program: &str, arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(NixVersion::NEWEST.program(program));
    command
        .args(arguments)
        .env("NIX_STATE_DIR", folder.path())
        .env("NIX_STORE_DIR", folder.path().join("store"));
    command.env("HOME", folder.path()).output().unwrap()
}

#[test]
fn nix_is_nix() {
    for (place, block) in blocks("nix") {
        let output = nix("nix-instantiate", &["--parse", "--expr", &block.text()]);
        assert!(output.status.success(), "{place}: {}", said(&output));
    }
}

/// Options of the daemon become the file that the module would write, which the daemon takes. What has no daemon in it (hosts
/// that use one) is parsed only, as there is no nixpkgs here; the module's own tests evaluate the rest of the options.
#[test]
fn options_of_the_module_make_a_configuration() {
    let render = root().join("nixos-module/render.nix").canonicalize().unwrap();
    let mut seen = 0;
    for (place, block) in blocks("nix") {
        let text = block.text();
        if !text.contains("services.nixci") {
            continue;
        }
        let expression = format!(
            "let module = {text}; values = removeAttrs module.services.nixci [ \"client\" ]; in (import {} values).toml",
            render.display()
        );
        let output = nix(
            "nix-instantiate",
            &["--eval", "--strict", "--json", "--expr", &expression],
        );
        assert!(output.status.success(), "{place}: {}", said(&output));
        let value: Value = serde_json::from_slice(&output.stdout).unwrap();
        let taken = check_config(&toml::to_string(&value).unwrap());
        assert!(taken.status.success(), "{place}: {}\n{value:#}", said(&taken));
        seen += 1;
    }
    assert!(seen > 3, "only {seen} were found");
}

/// The paths of the options that are set, `services.nixci.stores.*.uri`.
fn set(value: &Value, path: &str, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(entries) => {
            for (name, value) in entries {
                set(value, &format!("{path}.{name}"), into);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for item in items {
                set(item, &format!("{path}.*"), into);
            }
        }
        Value::Array(_) | Value::Bool(_) | Value::Null | Value::Number(_) | Value::String(_) => {
            into.insert(path.to_owned());
        }
    }
}

#[test]
fn options_of_the_module_exist() {
    let list = std::fs::read_to_string(root().join("docs/nixos-options.md")).unwrap();
    let known: BTreeSet<&str> = list
        .lines()
        .filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'))
        .collect();
    let mut found = BTreeSet::new();
    for (place, block) in blocks("nix") {
        let text = block.text();
        if !text.contains("services.nixci") {
            continue;
        }
        let expression = format!("({text}).services.nixci");
        let output = nix(
            "nix-instantiate",
            &["--eval", "--strict", "--json", "--expr", &expression],
        );
        assert!(output.status.success(), "{place}: {}", said(&output));
        let value: Value = serde_json::from_slice(&output.stdout).unwrap();
        set(&value, "services.nixci", &mut found);
    }
    assert!(found.len() > 20, "{found:?}");
    for option in found {
        assert!(known.contains(option.as_str()), "there is no option `{option}`");
    }
}

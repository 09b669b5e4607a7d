//! Files for other programs, read by those programs.

use std::collections::BTreeSet;
use std::process::{Command, Output};

use nixci_store::testing::{NixVersion, cache_dir};

use crate::page::{Block, pages};

const READ_YAML: &str = "
import sys
from ruamel.yaml import YAML
YAML(typ='safe').load(sys.stdin)
";

fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn blocks(kind: &str) -> Vec<(String, Block)> {
    let pages = pages().into_iter();
    let all = pages.flat_map(|page| {
        let name = page.name;
        page.blocks
            .into_iter()
            .map(move |block| (format!("{name}:{}", block.line), block))
    });
    all.filter(|(_, block)| block.kind == kind).collect()
}

#[test]
fn workflows_are_workflows() {
    let bin = cache_dir().join("linters/bin");
    let mut seen = 0;
    for (place, block) in blocks("yaml") {
        let file = tempfile::Builder::new().suffix(".yml").tempfile().unwrap();
        std::fs::write(file.path(), block.text()).unwrap();
        let output = Command::new(bin.join("python3"))
            .args(["-c", READ_YAML])
            .stdin(std::fs::File::open(file.path()).unwrap())
            .output()
            .unwrap();
        assert!(output.status.success(), "{place}: {}", said(&output));
        if block.file().is_some_and(|name| name.contains(".github/workflows/")) {
            let output = Command::new(bin.join("check-jsonschema"))
                .args(["--builtin-schema", "vendor.github-workflows"])
                .arg(file.path())
                .output()
                .unwrap();
            assert!(output.status.success(), "{place}: {}", said(&output));
            seen += 1;
        }
    }
    assert!(seen > 0, "no workflow was found");
}

/// nginx itself reads it, with a certificate made for the purpose.
#[test]
fn the_proxy_is_one() {
    let blocks = blocks("nginx");
    assert!(!blocks.is_empty());
    for (place, block) in blocks {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().display();
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "1",
            ])
            .args(["-subj", "/CN=ci.example.org", "-keyout"])
            .arg(folder.path().join("ci.example.org.key"))
            .arg("-out")
            .arg(folder.path().join("ci.example.org.pem"))
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", said(&made));
        let server = block.text().replace("/etc/nixci", &at.to_string());
        let text = format!(
            "pid {at}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\nclient_body_temp_path {at}/a;\nproxy_temp_path {at}/b;\nfastcgi_temp_path {at}/c;\nuwsgi_temp_path {at}/d;\nscgi_temp_path {at}/e;\n{server}\n}}\n"
        );
        std::fs::write(folder.path().join("nginx.conf"), text).unwrap();
        let nginx = ["/usr/sbin/nginx", "/usr/bin/nginx"]
            .iter()
            .find(|path| std::fs::exists(path).unwrap_or(false))
            .unwrap();
        let output = Command::new(nginx)
            .arg("-t")
            .arg("-c")
            .arg(folder.path().join("nginx.conf"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{place}: {}", said(&output));
    }
}

/// Sections and settings of units as systemd would have them, and settings of Nix as Nix has them.
#[test]
fn settings_are_settings() {
    const OF_UNITS: [&str; 5] = [
        "Environment",
        "ListenStream",
        "LoadCredential",
        "SocketGroup",
        "SocketMode",
    ];
    let folder = tempfile::tempdir().unwrap();
    let shown = Command::new(NixVersion::NEWEST.program("nix"))
        .args([
            "--extra-experimental-features",
            "nix-command",
            "config",
            "show",
            "--json",
        ])
        .env("HOME", folder.path())
        .output()
        .unwrap();
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    let of_nix: BTreeSet<&str> = shown.as_object().unwrap().keys().map(String::as_str).collect();
    for (place, block) in blocks("ini") {
        let file = block
            .file()
            .unwrap_or_else(|| panic!("{place}: it does not say which file it is"));
        for line in block.lines.iter().skip(1) {
            let Some((name, _)) = line.split_once('=') else {
                assert!(["[Service]", "[Socket]"].contains(&line.as_str()), "{place}: {line}");
                continue;
            };
            let is_known = match file {
                "nix.conf" => of_nix.contains(name.trim()),
                _ => file.starts_with("/etc/systemd/system/nixci-daemon") && OF_UNITS.contains(&name),
            };
            assert!(is_known, "{place}: {file} has no `{name}`");
        }
    }
}

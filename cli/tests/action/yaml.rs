//! YAML as JSON, and the linters that `.ci/setup` installs.

#![expect(clippy::expect_used, reason = "a test harness reports by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;

use nixci_store::testing::cache_dir;
use serde_json::Value;

/// Every document of the file, in the YAML of 1.2.
const READ: &str = "
import json, sys
from ruamel.yaml import YAML
print(json.dumps(list(YAML(typ='safe').load_all(open(sys.argv[1])))))
";

/// A file of the repository.
pub(crate) fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// A program of the linters.
pub(crate) fn linter(name: &str) -> Command {
    let program = cache_dir().join("linters/bin").join(name);
    assert!(program.exists(), "{} is not there: run .ci/setup", program.display());
    Command::new(program)
}

/// The documents of a file of the repository.
pub(crate) fn documents(path: &str) -> Vec<Value> {
    let output = linter("python3")
        .args(["-c", READ])
        .arg(in_repository(path))
        .output()
        .expect("Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("it prints JSON")
}

/// The only document of a file of the repository.
pub(crate) fn document(path: &str) -> Value {
    let [only] = <[Value; 1]>::try_from(documents(path)).expect("the file has one document");
    only
}

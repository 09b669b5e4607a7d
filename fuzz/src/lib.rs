//! The targets by name. What they do is in the crates they try: `testing` of `protocol` and of `store`.

use std::collections::HashMap;
use std::sync::LazyLock;

use nixci_store::testing::fuzz::targets;

static TARGETS: LazyLock<HashMap<&'static str, fn(&[u8])>> =
    LazyLock::new(|| targets().into_iter().map(|target| (target.name, target.run)).collect());

/// Gives some bytes to a target.
pub fn run(name: &str, data: &[u8]) {
    TARGETS[name](data);
}

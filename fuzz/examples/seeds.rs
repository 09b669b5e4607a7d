//! Writes the good inputs of every target into its corpus: `cargo run --example seeds` in this folder.

use std::fs;
use std::path::Path;

use nixci_store::testing::fuzz::{seeds, targets};

fn main() -> std::io::Result<()> {
    for target in targets() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
        fs::create_dir_all(&folder)?;
        for (name, bytes) in seeds(target.name) {
            fs::write(folder.join(name), bytes)?;
        }
    }
    Ok(())
}

//! All derivations of the recorded graph can be read, and read fast.

use std::time::Instant;

use nixci_protocol::types::StoreDir;
use nixci_store::derivation::Derivation;
use nixci_store::testing::recorded;

#[test]
fn every_recorded_derivation_is_read() {
    let graph = recorded::whole();
    let dir = StoreDir::default();
    let files = graph
        .paths()
        .iter()
        .map(|path| (dir.parse(path).unwrap(), graph.root().join(&path[1..])))
        .filter(|(path, _)| path.is_derivation())
        .map(|(path, file)| (path.try_into().unwrap(), std::fs::read(file).unwrap()))
        .collect::<Vec<_>>();
    assert_eq!(files.len(), 29_119);
    let start = Instant::now();
    let mut edges = 0;
    let mut fixed = 0;
    for (path, content) in &files {
        let drv = Derivation::parse(path, &dir, content).unwrap();
        edges += drv.references().count();
        fixed += usize::from(drv.outputs[0].is_fixed);
    }
    println!("{} derivations in {:?}", files.len(), start.elapsed());
    assert_eq!(fixed, 19_025);
    assert_eq!(edges, 254_232);
}

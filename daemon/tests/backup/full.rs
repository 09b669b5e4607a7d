//! Disks that are really full: file systems of memory in mount namespaces of their own. Needs root.

use std::path::Path;
use std::process::{Command, Output};

use nixci_protocol::nixci::AddClosure;
use nixci_store::testing::Service;

use crate::common::connect;
use crate::common::items::{Item, item, noise, stream, zstd_of};
use crate::world::{backed_up, backup, config_for, good, refused};

const SIBLING: &str = env!("CARGO_BIN_EXE_nixci-daemon");

/// Runs the program with a file system of this size and so many inodes at a folder, and prints at the end what is left
/// there.
fn on_disk(options: &str, at: &Path, arguments: &[&str]) -> Output {
    std::fs::create_dir_all(at).unwrap();
    let script = format!(
        r#"mount -t tmpfs -o {options} none "$0" || exit 77; code=0; "$@" >&2 || code=$?; find "$0" -mindepth 1 -printf '%P\n'; exit $code"#
    );
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-ec", &script])
        .arg(at)
        .arg(SIBLING)
        .args(arguments)
        .output()
        .unwrap();
    assert_ne!(output.status.code(), Some(77), "mounting needs root");
    output
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_is_named_and_left_empty() {
    let service = Service::start(Path::new(SIBLING), &[("none", "unix:///nowhere", 1)]);
    let mut client = connect(&service.socket()).await;
    let items: Vec<Item> = (0..8).map(|nth| item(nth, &noise(nth, 1 << 20), &[])).collect();
    let packed = zstd_of(&stream(&items));
    client.call_framed(&AddClosure {}, &packed[..], &mut ()).await.unwrap();
    let (disk, config) = (service.scratch().join("disk"), service.config());
    let (config, to) = (config.to_str().unwrap(), disk.join("backup"));
    let arguments = ["backup", "--config", config, to.to_str().unwrap()];

    // Too small altogether: nothing is begun.
    let output = on_disk("size=2m", &disk, &arguments);
    let said = refused(&output);
    assert!(
        said.contains("bytes are needed") || said.contains("are needed; free some"),
        "{said}"
    );
    assert_eq!(output.stdout, b"", "nothing is left");
    // Full in the middle: of the eight large files some have no room for their names.
    let output = on_disk("size=64m,nr_inodes=12", &disk, &arguments);
    let said = refused(&output);
    assert!(
        said.contains("no space left for") && said.contains("spool/nars/") && said.contains("free some"),
        "{said}"
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "nothing is left");

    let from = service.scratch().join("backup");
    backed_up(&service, &from);
    let state = service.scratch().join("elsewhere");
    let config = config_for(&state);
    let arguments = ["restore", "--config", config.to_str().unwrap(), from.to_str().unwrap()];
    let output = on_disk("size=2m", &state, &arguments);
    assert!(refused(&output).contains("are needed; free some"), "{output:?}");
    assert_eq!(output.stdout, b"lock\n");
    let output = on_disk("size=64m,nr_inodes=12", &state, &arguments);
    assert!(refused(&output).contains("no space left for"), "{output:?}");
    assert_eq!(output.stdout, b"lock\n");
    let output = on_disk("size=64m", &state, &arguments);
    good(&output);
    assert!(String::from_utf8_lossy(&output.stdout).contains("spool/nars/7.nar.zst"));
    // The daemon has felt nothing.
    good(&backup(&service, &service.scratch().join("after")));
}

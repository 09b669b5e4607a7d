//! A disk that is really full: a test runs itself again in a mount namespace with a small file system.

use std::path::PathBuf;
use std::process::Command;

const FOLDER: &str = "NIXCI_TEST_SMALL_DISK";

/// The folder of a file system of 2 MiB inside, and none outside after the inside has succeeded. `test` is the whole name
/// of the calling test.
pub fn small_disk(test: &str) -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return Some(folder.into());
    }
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let mut inside = Command::new("unshare");
    if !rustix::process::getuid().is_root() {
        inside.args(["--user", "--map-root-user"]);
    }
    let script = r#"mount -t tmpfs -o size=2m none "$0" || exit 77; exec "$@""#;
    let output = inside
        .args(["--mount", "sh", "-c", script])
        .arg(folder.path())
        .arg(std::env::current_exe().expect("a test has a program"))
        .args(["--exact", "--nocapture", test])
        .env(FOLDER, folder.path())
        .output()
        .expect("this test needs unshare (util-linux)");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_ne!(
        output.status.code(),
        Some(77),
        "this test needs a small file system: run it as root, or allow user namespaces (sysctl \
         kernel.unprivileged_userns_clone=1): {said}"
    );
    let ran = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && ran.contains("1 passed"), "{ran}\n{said}");
    None
}

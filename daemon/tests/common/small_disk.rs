//! A daemon whose state is on a small disk of its own.

use std::path::{Path, PathBuf};
use std::process::Stdio;

/// A daemon whose state is on a tmpfs in a mount namespace of its own. Needs root.
pub(crate) struct SmallDisk {
    process: tokio::process::Child,
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// With so many MiB, and no store behind.
    pub(crate) async fn start(mib: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let this = folder.path();
        std::fs::create_dir(this.join("state")).unwrap();
        let config = this.join("ci.toml");
        let text = format!(
            "state_dir = {:?}\n[listen]\nsocket = {:?}\nhttp = \"off\"\n[[store]]\nname = \"none\"\nuri = \"unix:///nowhere\"\n",
            this.join("state").to_str().unwrap(),
            this.join("socket").to_str().unwrap()
        );
        std::fs::write(&config, text).unwrap();
        let script = format!(r#"mount -t tmpfs -o size={mib}m none "$0" && exec "$@""#);
        let mut process = tokio::process::Command::new("unshare")
            .args(["--mount", "sh", "-ec", &script])
            .arg(this.join("state"))
            .args([env!("CARGO_BIN_EXE_nixci-daemon"), "--config"])
            .arg(&config)
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut log = tokio::io::BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            let read = tokio::io::AsyncBufReadExt::read_line(&mut log, &mut line)
                .await
                .unwrap();
            assert_ne!(read, 0, "the daemon starts; mounting needs root");
        }
        tokio::spawn(async move { tokio::io::copy(&mut log, &mut tokio::io::sink()).await });
        Self { process, folder }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// The state folder as the daemon names it.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// A file of the state folder, from outside.
    pub(crate) fn inside(&self, file: &str) -> PathBuf {
        let pid = self.process.id().expect("it runs");
        let state = self.state();
        Path::new(&format!("/proc/{pid}/root"))
            .join(state.strip_prefix("/").unwrap())
            .join(file)
    }
}

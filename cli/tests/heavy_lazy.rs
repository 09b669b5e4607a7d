//! Which `.drv` files a copy opens, counted by the kernel, on the recorded graph.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as the tests do")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use nixci_store::testing::recorded::{self, Recorded, Set};
use nixci_store::testing::{NixVersion, Service, TestDaemon, cache_dir};
use rustix::fs::inotify;

const SENTINEL: &str = "sentinel";
/// Derivations that a small change may have opened although the daemon has them, of 27,641. It was 1,454.
const MOST_BELOW: usize = 1_600;

/// The recorded store under names of its own, so that nobody else opens them.
fn private_copy(graph: &Recorded, root: &Path) -> PathBuf {
    let nix = root.join("nix");
    fs::create_dir_all(&nix).unwrap();
    for (flags, part) in [("-al", "store"), ("-a", "var")] {
        let copied = Command::new("cp")
            .arg(flags)
            .arg(graph.root().join("nix").join(part))
            .arg(&nix)
            .status();
        assert!(copied.unwrap().success(), "{part} can be copied");
    }
    let store = nix.join("store");
    fs::write(store.join(SENTINEL), "").unwrap();
    store
}

/// The names of the files in a folder that are opened from now on, until the sentinel is.
fn opened(folder: &Path) -> JoinHandle<BTreeSet<String>> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&watch, folder, inotify::WatchFlags::OPEN).unwrap();
    std::thread::spawn(move || {
        let mut buffer = vec![const { MaybeUninit::uninit() }; 64 << 10];
        let mut events = inotify::Reader::new(watch, &mut buffer);
        let mut names = BTreeSet::new();
        loop {
            let event = events.next().unwrap();
            assert!(
                !event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW),
                "the kernel could not count them all"
            );
            let Some(name) = event.file_name() else { continue };
            let name = name.to_str().unwrap().to_owned();
            if name == SENTINEL {
                return names;
            }
            names.insert(name);
        }
    })
}

/// Copies the roots of a set: how many paths were new there, and which derivations were opened here.
fn copy(service: &Service, graph: &Recorded, set: Set, root: &Path) -> (u64, BTreeSet<String>) {
    let folder = root.join("nix/store");
    let list = service.scratch().join("roots");
    fs::write(&list, graph.roots(set).join("\n")).unwrap();
    let opened = opened(&folder);
    let mut command = service.command("nixci");
    command.args(["copy", "--stdin", "--json", "--from"]);
    command.arg(format!("local?root={}", root.display()));
    command.env("PATH", NixVersion::NEWEST.program("nix").parent().unwrap());
    let output = command
        .stdin(File::open(&list).unwrap())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    File::open(folder.join(SENTINEL)).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let done: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut names = opened.join().unwrap();
    names.retain(|name| Path::new(name).extension().is_some_and(|extension| extension == "drv"));
    (done["copied"].as_u64().unwrap(), names)
}

#[test]
fn heavy_only_derivations_above_the_frontier_are_opened() {
    let graph = recorded::whole();
    let dir = tempfile::Builder::new()
        .prefix("lazy-")
        .tempdir_in(cache_dir())
        .unwrap();
    private_copy(&graph, dir.path());
    let store = TestDaemon::start(NixVersion::NEWEST);
    let service = Service::start(Path::new(env!("CARGO_BIN_EXE_nixci")), &[("near", &store.uri(), 1)]);

    let (copied, base) = copy(&service, &graph, Set::Base, dir.path());
    assert_eq!(copied, 28_240);
    let (copied, again) = copy(&service, &graph, Set::Base, dir.path());
    assert_eq!((copied, again.len()), (0, 0), "of an unchanged set nothing is read");

    let (copied, head) = copy(&service, &graph, Set::Head, dir.path());
    assert_eq!(copied, 1_478);
    let new = head.difference(&base).count();
    // To ask about levels below the frontier takes the references of what may turn out to be there.
    let below = head.len() - new;
    println!(
        "base: {} opened; head: {new} that are new, {below} that are not",
        base.len()
    );
    assert!(new <= 1_478 && new > 1_400, "{new}");
    assert!(
        below <= MOST_BELOW,
        "{below} derivations were opened that the daemon has"
    );
}

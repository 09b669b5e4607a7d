//! Stopping processes with everything they started, and waiting for the outside world with a bound.

use std::collections::HashSet;
use std::fs;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long the harness waits for a process to appear, answer or end.
const PATIENCE: Duration = Duration::from_mins(1);
const STEP: Duration = Duration::from_millis(5);

/// Asks `ready` again and again until it answers, and panics with `what` after a minute.
///
/// For what cannot be waited for otherwise: a socket that another process makes, a process that ends.
pub fn poll_until<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited a minute for {what}");
        thread::sleep(STEP);
    }
}

/// Like [`poll_until`], for questions that wait themselves: asks again and again, and panics with `what` after `within`.
pub async fn until<T>(what: &str, within: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(value) = ask().await {
                return value;
            }
            tokio::time::sleep(STEP).await;
        }
    };
    let Ok(value) = tokio::time::timeout(within, asking).await else {
        panic!("waited {within:?} for {what}");
    };
    value
}

/// Sends SIGTERM and waits for the end; SIGKILL if that takes a minute.
pub fn terminate(child: &mut Child) {
    let pid = Pid::from_child(child);
    if matches!(child.try_wait(), Ok(Some(_))) {
        return;
    }
    let _ = kill_process(pid, Signal::TERM);
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        thread::sleep(STEP);
    }
    stop(child);
}

/// SIGKILL to a process and everything below it, as `kill -9` of a whole service would.
///
/// A Nix daemon gives each connection a session of its own, so a process group is not enough: the tree is walked,
/// each process is first stopped so that it cannot fork away, and then all are killed.
pub fn stop(child: &mut Child) {
    if matches!(child.try_wait(), Ok(Some(_))) {
        return;
    }
    let root = Pid::from_child(child);
    let mut tree = vec![root];
    let mut known = HashSet::from([root]);
    let _ = kill_process(root, Signal::STOP);
    loop {
        let mut grew = false;
        for (pid, parent) in processes() {
            if known.contains(&parent) && known.insert(pid) {
                let _ = kill_process(pid, Signal::STOP);
                tree.push(pid);
                grew = true;
            }
        }
        if !grew {
            break;
        }
    }
    for pid in tree {
        let _ = kill_process(pid, Signal::KILL);
    }
    let _ = child.wait();
}

/// Every process with its parent.
fn processes() -> Vec<(Pid, Pid)> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse::<i32>().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            // The second field, the name, may hold anything, but ends at the last parenthesis.
            let parent = stat
                .rsplit_once(')')?
                .1
                .split_whitespace()
                .nth(1)?
                .parse::<i32>()
                .ok()?;
            Some((Pid::from_raw(pid)?, Pid::from_raw(parent)?))
        })
        .collect()
}

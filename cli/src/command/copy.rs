//! `nixci copy`: the negotiated copy by itself, to nixci or to any other daemon.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use nixci_protocol::types::{StoreDir, StorePath};
use serde::Serialize;

use super::{print, print_json};
use crate::args::{Copy, Global};
use crate::connect::{About, Address, Peer};
use crate::context::process_env;
use crate::exit::{Exit, Problem};
use crate::progress::Copying;
use crate::render::{plural, size};
use crate::transfer;

/// Links followed from a path on the command line at most.
const MAX_LINKS: usize = 32;

/// What was copied, as `--json` prints it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Done {
    paths: u64,
    copied: u64,
    bytes: u64,
}

/// Runs the command.
pub(crate) async fn run(global: &Global, args: &Copy) -> Result<Exit, Problem> {
    let local = transfer::local_store(args.from.as_deref())?;
    let mut roots = Vec::new();
    for path in &args.paths {
        roots.push(store_path(path, local.store_dir())?);
    }
    if args.stdin {
        for line in std::io::stdin().lock().lines() {
            let line = line.map_err(|error| Problem::usage(format!("failed to read standard input: {error}")))?;
            if !line.trim().is_empty() {
                roots.push(store_path(Path::new(line.trim()), local.store_dir())?);
            }
        }
    }
    if args.derivation {
        roots = transfer::derivers(&local, &roots).await?;
    }
    roots.sort();
    roots.dedup();
    let address = Address::find_store(global, &process_env)?;
    let mut peer = Peer::connect(&address, About::roots(local.store_dir(), &roots)).await?;
    let mut bar = Copying::new(global.json);
    let moved = transfer::closure(&mut peer, &local, &roots, &mut |step| bar.show(step)).await?;
    drop(bar);
    if let Some(lost) = moved.lost.first() {
        return Err(Problem::failed(format!(
            "`{}` is neither in the local store nor at `{address}`",
            local.store_dir().display(lost)
        )));
    }
    let done = Done {
        paths: roots.len() as u64,
        copied: moved.step.sent,
        bytes: moved.step.sent_bytes,
    };
    if global.json {
        print_json(&done)?;
    } else if done.copied == 0 {
        print(&format!(
            "nothing to copy: `{address}` has {} and what they need\n",
            plural(done.paths, "path")
        ))?;
    } else {
        print(&format!(
            "copied {} ({}) to `{address}`\n",
            plural(done.copied, "path"),
            size(done.bytes)
        ))?;
    }
    Ok(Exit::Fine)
}

/// The store path that a path is in, following links into the store.
fn store_path(given: &Path, store_dir: &StoreDir) -> Result<StorePath, Problem> {
    let mut path = std::path::absolute(given)
        .map_err(|error| Problem::usage(format!("`{}` is no path: {error}", given.display())))?;
    for _ in 0..MAX_LINKS {
        if let Ok(inside) = path.strip_prefix(store_dir.as_str()) {
            let first = inside.components().next();
            let name = first
                .map(|name| name.as_os_str().to_string_lossy().into_owned())
                .unwrap_or_default();
            return StorePath::from_base_name(&name)
                .map_err(|error| Problem::usage(format!("`{}` is no store path: {error}", path.display())));
        }
        let Ok(target) = std::fs::read_link(&path) else { break };
        path = path.parent().unwrap_or(Path::new("/")).join(target);
        path = std::path::absolute(&path).unwrap_or_else(|_| PathBuf::from(&path));
    }
    Err(Problem::usage(format!(
        "`{}` is not in the store `{store_dir}`, nor a link into it",
        given.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "00000000000000000000000000000000-a";

    fn find(path: &Path) -> Result<String, String> {
        store_path(path, &StoreDir::default())
            .map(|path| path.base_name())
            .map_err(|problem| problem.to_string())
    }

    #[test]
    fn a_path_is_in_the_store_or_a_link_into_it() {
        let store = PathBuf::from("/nix/store");
        assert_eq!(find(&store.join(NAME)).unwrap(), NAME);
        assert_eq!(find(&store.join(NAME).join("bin/x")).unwrap(), NAME);

        let dir = tempfile::tempdir().unwrap();
        let (result, again, around) = (
            dir.path().join("result"),
            dir.path().join("again"),
            dir.path().join("around"),
        );
        std::os::unix::fs::symlink(store.join(NAME), &result).unwrap();
        std::os::unix::fs::symlink("result", &again).unwrap();
        std::os::unix::fs::symlink("around", &around).unwrap();
        assert_eq!(find(&again).unwrap(), NAME);
        for nowhere in [
            around.as_path(),
            Path::new("/etc"),
            Path::new("/nix/store"),
            Path::new("/nix/store/x"),
        ] {
            assert!(find(nowhere).is_err(), "{}", nowhere.display());
        }
    }
}

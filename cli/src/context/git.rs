//! What git says about a folder.

use std::path::Path;
use std::process::{Command, Stdio};

use super::Context;

/// The label of a submission from a tree with changes: the commit it started from.
pub(super) const DIRTY: &str = "dirty";

/// What git says about `dir`; without git, the folder's name is the project.
///
/// A tree with changes has no commit, since nobody could fetch what was built; the commit it started
/// from becomes the label `dirty` and, on the main branch, the base.
pub(super) fn context(dir: &Path) -> Context {
    let mut context = Context::default();
    let top = git(dir, &["rev-parse", "--show-toplevel"]);
    context.project = git(dir, &["config", "--get", "remote.origin.url"])
        .and_then(|url| project_of_url(&url))
        .or_else(|| folder_name(top.as_deref().map_or(dir, Path::new)));
    let Some(head) = git(dir, &["rev-parse", "--verify", "--quiet", "HEAD"]) else {
        return context;
    };
    context.git_ref = git(dir, &["symbolic-ref", "--quiet", "--short", "HEAD"]);
    let fork = git(dir, &["merge-base", "HEAD", "refs/remotes/origin/HEAD"]);
    let dirty = git(dir, &["status", "--porcelain", "--untracked-files=no"]).is_some();
    if dirty {
        context.labels.insert(DIRTY.to_owned(), head.clone());
        context.base = Some(fork.unwrap_or(head));
    } else {
        context.base = fork.filter(|fork| *fork != head);
        context.commit = Some(head);
    }
    context
}

/// The commit that git in the current folder knows by this name. Blocks: starts git.
pub(crate) fn resolve(name: &str) -> Option<String> {
    if name.starts_with('-') {
        return None;
    }
    let wanted = format!("{name}^{{commit}}");
    git(
        Path::new("."),
        &["rev-parse", "--verify", "--quiet", "--end-of-options", &wanted],
    )
}

/// `owner/name` (or `group/subgroup/name`) of a remote's address; the folder's name of a local one.
pub(crate) fn project_of_url(url: &str) -> Option<String> {
    let url = url.trim().trim_end_matches('/');
    let url = url.strip_suffix(".git").unwrap_or(url);
    let path = if let Some((scheme, rest)) = url.split_once("://") {
        if scheme == "file" {
            return folder_name(Path::new(rest));
        }
        rest.split_once('/')?.1
    } else if let Some((_, path)) = url.split_once(':').filter(|(host, _)| !host.contains('/')) {
        path // git@host:owner/name
    } else {
        return folder_name(Path::new(url));
    };
    let path = path.trim_matches('/');
    (!path.is_empty()).then(|| path.to_owned())
}

fn folder_name(dir: &Path) -> Option<String> {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    Some(dir.file_name()?.to_string_lossy().into_owned())
}

/// What a git command prints, without its last newline; none when it fails, prints nothing, or there
/// is no git.
fn git(dir: &Path, args: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(dir)
        .args(args)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

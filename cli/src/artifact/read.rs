//! Reading what somebody without rights wrote: everything is checked, and nothing is sent before all of it is.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::path::Path;

use nixci_protocol::io::{PathStreamError, PathStreamReader, StreamKind};
use nixci_protocol::nixci::control::{Evaluated, NewJob};
use nixci_protocol::types::{PathInfo, StoreDir, StorePath};
use nixci_protocol::wire;
use nixci_store::spool::{Authority, Spool, Verified};
use nixci_store::upload::inflate::{Bound, Bounds, Inflate};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::folder::Folder;
use super::limits::too_much;
use super::{DIGEST, Head, Limits, MAGIC, VERSION, is_standard};
use crate::exit::{Exit, Problem, chain};

/// Bytes hashed at a time.
const CHUNK: usize = 1 << 20;
/// Objects and bytes that are made durable together.
const BATCH_OBJECTS: usize = 4_096;
const BATCH_BYTES: u64 = 16 << 20;
/// Bytes of one path's info: a list of some ten thousand references.
const INFO_BYTES: u64 = 1 << 20;
/// Jobs named in an error about missing derivations.
const NAMED: usize = 3;

/// A file that holds what it says.
#[derive(Debug)]
pub(crate) struct Unpacked {
    pub(crate) head: Head,
    /// Its closure.
    pub(crate) spool: Spool,
    /// Where the spool is, for as long as that is used.
    _folder: Folder,
}

/// Reads a file to its end, and unpacks its closure into a temporary spool.
///
/// Fails with exit code 2 and one line where the file is not what it should be: all its content is checked first.
pub(crate) async fn read(file: &Path, limits: Limits) -> Result<Unpacked, Problem> {
    let no_room = |error: &dyn std::fmt::Display| Problem::failed(format!("cannot unpack the artifact: {error}"));
    let folder = Folder::create().map_err(|error| no_room(&error))?;
    let (path, kept) = (file.to_owned(), folder.path().join("standard-input"));
    let opened = tokio::task::spawn_blocking(move || {
        if is_standard(&path) {
            keep(io::stdin().lock(), &kept, limits)?;
            open(&kept, limits)
        } else {
            open(&path, limits)
        }
    });
    let opened = opened.await;
    let opened = opened.map_err(|_| Problem::failed("reading the artifact was stopped"))?;
    let (from, head, length) = opened.map_err(|why| wrong(file, &why))?;
    let store_dir = StoreDir::new(&head.store_dir).map_err(|error| wrong(file, &error.to_string()))?;
    check_head(&head, &store_dir, limits).map_err(|why| wrong(file, &why))?;

    let (at, dir) = (folder.path().to_owned(), store_dir.clone());
    let spool = tokio::task::spawn_blocking(move || Spool::open(&at, dir)).await;
    let spool = spool
        .map_err(|error| no_room(&error))?
        .map_err(|error| no_room(&chain(&error)))?;
    let closure = tokio::fs::File::from_std(from).take(length);
    unpack(closure, length, &head, &spool, limits)
        .await
        .map_err(|why| match why {
            Why::Wrong(why) => wrong(file, &why),
            Why::Here(why) => Problem::new(Exit::Failed, why),
        })?;
    has_jobs(&head, &spool, &store_dir).map_err(|why| wrong(file, &why))?;
    Ok(Unpacked {
        head,
        spool,
        _folder: folder,
    })
}

fn wrong(file: &Path, why: &str) -> Problem {
    let name = if is_standard(file) {
        "on standard input".to_owned()
    } else {
        format!("`{}`", file.display())
    };
    Problem::usage(format!("the artifact {name} cannot be sent: {why}"))
}

/// Keeps what cannot be read twice in a file.
fn keep(from: impl Read, to: &Path, limits: Limits) -> Result<(), String> {
    let failed = |error: io::Error| format!("failed to keep what comes in: {error}");
    let mut file = File::create_new(to).map_err(failed)?;
    let kept = io::copy(&mut from.take(limits.file.saturating_add(1)), &mut file).map_err(failed)?;
    if kept > limits.file {
        return Err(too_much(
            format!("it has more than {} bytes", limits.file),
            limits.file,
            "file",
        ));
    }
    Ok(())
}

/// Whose fault it is.
enum Why {
    /// The file's.
    Wrong(String),
    /// This machine's.
    Here(String),
}

/// Checks what does not need the closure: returns the file at the beginning of that, the head, and the closure's length.
fn open(path: &Path, limits: Limits) -> Result<(File, Head, u64), String> {
    let unread = |error: io::Error| format!("failed to read it: {error}");
    let mut file = File::open(path).map_err(unread)?;
    let about = file.metadata().map_err(unread)?;
    if !about.is_file() {
        return Err("it is no plain file; unpack what the CI keeps, and give the file in it".to_owned());
    }
    if about.len() > limits.file {
        return Err(too_much(format!("it has {} bytes", about.len()), limits.file, "file"));
    }
    let before = (MAGIC.len() + VERSION.len()) as u64 + 8;
    let mut start = vec![0; before.min(about.len()) as usize];
    file.read_exact(&mut start).map_err(unread)?;
    let known = start.len().min(MAGIC.len());
    if start.is_empty() || start[..known] != MAGIC[..known] {
        return Err("it was not written by `nixci submit --artifact`".to_owned());
    }
    let cut = || "it is cut off; was all of it kept and fetched?".to_owned();
    if about.len() < before + DIGEST {
        return Err(cut());
    }
    let (_, rest) = start.split_at(MAGIC.len());
    let (version, length) = rest.split_at(VERSION.len());
    if version != VERSION {
        return Err("it is of another version of this format; use the same nixci to write and to send it".to_owned());
    }
    let head_length = length
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte));
    if head_length > limits.head {
        return Err(too_much(
            format!("its head has {head_length} bytes"),
            limits.head,
            "head",
        ));
    }
    let Some(closure) = (about.len() - before - DIGEST).checked_sub(head_length) else {
        return Err(cut());
    };
    if !has_digest(&mut file, about.len() - DIGEST).map_err(unread)? {
        return Err("it is cut off or was changed: its digest is another; was all of it kept and fetched?".to_owned());
    }
    file.seek(SeekFrom::Start(before)).map_err(unread)?;
    let mut head = vec![0; head_length as usize];
    file.read_exact(&mut head).map_err(unread)?;
    let head = serde_json::from_slice(&head).map_err(|error| format!("its head makes no sense: {error}"))?;
    Ok((file, head, closure))
}

/// Whether the digest at the end is that of the first `length` bytes.
fn has_digest(file: &mut File, length: u64) -> io::Result<bool> {
    file.seek(SeekFrom::Start(0))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut left = length;
    while left > 0 {
        let piece = &mut buffer[..left.min(CHUNK as u64) as usize];
        file.read_exact(piece)?;
        hasher.update(&*piece);
        left -= piece.len() as u64;
    }
    let mut digest = [0; DIGEST as usize];
    file.read_exact(&mut digest)?;
    Ok(hasher.finalize()[..] == digest)
}

fn check_head(head: &Head, store_dir: &StoreDir, limits: Limits) -> Result<(), String> {
    if head.paths > limits.paths {
        return Err(too_much(format!("it has {} paths", head.paths), limits.paths, "paths"));
    }
    if head.jobs.len() as u64 > limits.jobs {
        return Err(too_much(
            format!("it has {} jobs", head.jobs.len()),
            limits.jobs,
            "jobs",
        ));
    }
    let about = &head.about;
    let optional = [&about.commit, &about.git_ref, &about.base];
    let texts = ([&about.project, &about.source].into_iter())
        .chain(optional.into_iter().flatten())
        .chain(about.labels.iter().flat_map(|(key, value)| [key, value]));
    for text in texts {
        if text.len() as u64 > limits.text {
            let what = format!("a text in its head has {} bytes", text.len());
            return Err(too_much(what, limits.text, "text"));
        }
    }
    if about.labels.len() as u64 > limits.labels {
        return Err(too_much(
            format!("it has {} labels", about.labels.len()),
            limits.labels,
            "labels",
        ));
    }
    for commit in [&about.commit, &about.base].into_iter().flatten() {
        if !matches!(commit.len(), 40 | 64) || !commit.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("what it says its commit is, is none".to_owned());
        }
    }
    let errors = head.jobs.iter().filter_map(|job| match &job.result {
        Evaluated::Error(error) => Some(error),
        Evaluated::Drv(_) => None,
    });
    if let Some(error) = errors
        .chain(&head.error)
        .find(|error| error.len() as u64 > limits.error)
    {
        return Err(too_much(
            format!("an error in it has {} bytes", error.len()),
            limits.error,
            "error",
        ));
    }
    for job in &head.jobs {
        let bytes: usize = job.attr.names().iter().map(|name| name.len() + 1).sum();
        if bytes as u64 > limits.attr {
            return Err(too_much(
                format!("the name of a job has {bytes} bytes"),
                limits.attr,
                "attr",
            ));
        }
        derivation(job, store_dir)?;
    }
    Ok(())
}

/// The derivation of a job; none after an error.
fn derivation(job: &NewJob, store_dir: &StoreDir) -> Result<Option<StorePath>, String> {
    let Evaluated::Drv(text) = &job.result else {
        return Ok(None);
    };
    let path = (store_dir.parse(text))
        .map_err(|error| format!("the derivation of `{}` is no store path: {error}", job.attr))?;
    if path.is_derivation() {
        Ok(Some(path))
    } else {
        Err(format!(
            "`{}` is no derivation: the name of its path does not end in `.drv`",
            job.attr
        ))
    }
}

/// Refuses jobs whose derivations are not in the closure.
fn has_jobs(head: &Head, spool: &Spool, store_dir: &StoreDir) -> Result<(), String> {
    let mut lacking = Vec::new();
    for job in &head.jobs {
        if let Some(path) = derivation(job, store_dir)?
            && !spool.contains(&path)
        {
            lacking.push(job.attr.to_string());
        }
    }
    if lacking.is_empty() {
        return Ok(());
    }
    let more = lacking.len().saturating_sub(NAMED);
    lacking.truncate(NAMED);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    Err(format!("the derivations of {}{more} are not in it", lacking.join(", ")))
}

/// Unpacks a closure of `length` bytes, and stops where more comes out of it than may.
async fn unpack(
    closure: impl AsyncRead + Send + Unpin,
    length: u64,
    head: &Head,
    spool: &Spool,
    limits: Limits,
) -> Result<(), Why> {
    let (most, advice) = limits.unpacked_of(length);
    let bounds = Bounds {
        compressed: Bound {
            most: limits.file,
            advice: "",
        },
        unpacked: Bound { most, advice },
    };
    let inflate = Inflate::new(closure, bounds).map_err(|error| Why::Here(error.to_string()))?;
    let wire = wire::Limits {
        max_message: INFO_BYTES,
        max_paths: head.paths,
        ..wire::Limits::default()
    };
    let mut stream = PathStreamReader::new(StreamKind::Tagged, spool.store_dir().clone(), wire, inflate);
    let (mut batch, mut bytes, mut count) = (Vec::new(), 0, 0);
    while let Some(info) = stream.next().await.map_err(|error| broken(&error))? {
        let nar_size = info.info.nar_size;
        is_source(&info, limits)?;
        let received = spool.receive(info, &mut stream.nar(), Authority::Untrusted).await;
        batch.push(received.map_err(|error| spooled(&error))?);
        count += 1;
        bytes += nar_size;
        if batch.len() >= BATCH_OBJECTS || bytes >= BATCH_BYTES {
            add(spool, &mut batch).await?;
            bytes = 0;
        }
    }
    stream.end().await.map_err(|error| broken(&error))?;
    if count != head.paths {
        return Err(Why::Wrong(format!(
            "it has {count} paths, and its head says {}",
            head.paths
        )));
    }
    add(spool, &mut batch).await
}

async fn add(spool: &Spool, batch: &mut Vec<Verified>) -> Result<(), Why> {
    spool
        .add(std::mem::take(batch))
        .await
        .map_err(|error| spooled(&error))?;
    Ok(())
}

/// Derivations and sources prove by their names what is in them; nothing else is taken.
fn is_source(info: &PathInfo, limits: Limits) -> Result<(), Why> {
    let PathInfo { path, info } = info;
    if info.ca.is_none() {
        return Err(Why::Wrong(format!(
            "`{}` in it is neither a derivation nor a source: nothing proves what is in it",
            path.base_name()
        )));
    }
    if info.nar_size > limits.nar {
        let what = format!("`{}` in it has {} bytes", path.base_name(), info.nar_size);
        return Err(Why::Wrong(too_much(what, limits.nar, "nar")));
    }
    Ok(())
}

fn broken(error: &PathStreamError) -> Why {
    Why::Wrong(chain(error))
}

/// What the spool refused is the file's fault, unless there is no room for it.
fn spooled(error: &nixci_store::spool::Error) -> Why {
    use nixci_store::spool::Error;
    match error {
        Error::Full { .. } | Error::File { .. } | Error::Database(_) => {
            Why::Here(format!("cannot unpack the artifact: {}", chain(error)))
        }
        other => Why::Wrong(chain(other)),
    }
}

//! Writing: evaluated here, sent from elsewhere.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nixci_protocol::client;
use nixci_protocol::io::PathStreamError;
use nixci_protocol::nixci::Bitmap;
use nixci_protocol::op::QueryPathInfo;
use nixci_protocol::types::StorePath;
use nixci_store::negotiate::{NegotiateError, Oracle, negotiate};
use nixci_store::upload::{self, UploadError};
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::{Head, Limits, MAGIC, VERSION, is_standard};
use crate::exit::{Problem, chain};
use crate::transfer::LocalStore;

/// Nothing is there: a file needs all of a closure.
struct Nothing;

impl Oracle for Nothing {
    async fn valid(&mut self, paths: &[StorePath]) -> Result<Bitmap, client::Error> {
        Ok(paths.iter().map(|_| false).collect())
    }
}

/// Writes a submission: `head`, whose number of paths is filled in, and the closure of `roots`. The file is there whole or
/// not at all; what goes to standard output ends early instead, and is refused where it is read. Returns how many paths it
/// has, and how many bytes.
///
/// Fails with exit code 1 where the closure has an output in it, cannot be read, or is more than is read again.
pub(crate) async fn write(
    file: &Path,
    mut head: Head,
    local: &LocalStore,
    roots: Vec<StorePath>,
) -> Result<(u64, u64), Problem> {
    let plan = negotiate(&mut Nothing, local, roots)
        .await
        .map_err(|error| match error {
            NegotiateError::Source(error) => unread(&error),
            NegotiateError::Store(error) => unread(&error),
        })?;
    only_sources(local, &plan.missing).await?;
    head.paths = plan.missing.len() as u64;
    if head.paths > Limits::DEFAULT.paths {
        return Err(Problem::failed(format!(
            "the closure has {} paths, and a file takes {}: evaluate less at a time",
            head.paths,
            Limits::DEFAULT.paths
        )));
    }
    if is_standard(file) {
        let written = contents(tokio::io::stdout(), file, &head, local, &plan.missing).await?;
        return Ok((head.paths, written));
    }
    let part = Part::beside(file);
    let out = File::create(&part.0).await.map_err(|error| unwritten(file, &error))?;
    let written = contents(out, file, &head, local, &plan.missing).await?;
    std::fs::rename(&part.0, file).map_err(|error| unwritten(file, &error))?;
    Ok((head.paths, written))
}

/// A file that is not whole yet; dropping it removes what is left of it.
struct Part(PathBuf);

impl Part {
    fn beside(file: &Path) -> Self {
        let mut name = file.as_os_str().to_owned();
        name.push(format!(".{}.part", std::process::id()));
        Self(name.into())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // After the file was renamed there is nothing.
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn contents(
    out: impl AsyncWrite + Send + Unpin,
    file: &Path,
    head: &Head,
    local: &LocalStore,
    paths: &[StorePath],
) -> Result<u64, Problem> {
    let fail = |error: io::Error| unwritten(file, &error);
    let json =
        serde_json::to_vec(head).map_err(|error| Problem::failed(format!("failed to write the jobs: {error}")))?;
    let mut out = Hashing {
        inner: out,
        hasher: Sha256::new(),
        bytes: 0,
    };
    out.write_all(MAGIC).await.map_err(fail)?;
    out.write_all(VERSION).await.map_err(fail)?;
    out.write_all(&(json.len() as u64).to_le_bytes()).await.map_err(fail)?;
    out.write_all(&json).await.map_err(fail)?;
    let store_dir = local.store_dir().clone();
    let (out, _) = upload::write(out, store_dir, local, paths, |_| {})
        .await
        .map_err(|error| match error {
            UploadError::Object(PathStreamError::Io(error)) => unwritten(file, &error),
            UploadError::Object(error) => unread(&error),
            UploadError::Source(error) => unread(&error),
            UploadError::Store(error) => unread(&error),
        })?;
    let Hashing {
        mut inner,
        hasher,
        bytes,
    } = out;
    let digest = hasher.finalize();
    inner.write_all(&digest).await.map_err(fail)?;
    inner.flush().await.map_err(fail)?;
    Ok(bytes + digest.len() as u64)
}

/// Refuses what is no source: no job without rights can prove what an output holds.
async fn only_sources(local: &LocalStore, paths: &[StorePath]) -> Result<(), Problem> {
    let others: Vec<&StorePath> = paths.iter().filter(|path| !path.is_derivation()).collect();
    if others.is_empty() {
        return Ok(());
    }
    let requests: Vec<_> = (others.iter())
        .map(|path| QueryPathInfo { path: (*path).clone() })
        .collect();
    let mut connection = local.remote().acquire().await.map_err(|error| unread(&error))?;
    let replies = connection.call_all(&requests, &mut ()).await;
    let mut bytes = 0;
    for (path, info) in others.into_iter().zip(replies.map_err(|error| unread(&error))?) {
        let shown = local.store_dir().display(path);
        let info = info.ok_or_else(|| Problem::failed(format!("`{shown}` is not in the local store")))?;
        if info.ca.is_none() {
            return Err(Problem::failed(format!(
                "`{shown}` is the output of a build, and a file holds derivations and sources only: let what needs it name \
                 the derivation that makes it"
            )));
        }
        bytes += info.nar_size;
    }
    if bytes > Limits::DEFAULT.unpacked {
        return Err(Problem::failed(format!(
            "the sources have {bytes} bytes, and a file takes {}: evaluate less at a time",
            Limits::DEFAULT.unpacked
        )));
    }
    Ok(())
}

/// Counts and hashes what is written.
struct Hashing<W> {
    inner: W,
    hasher: Sha256,
    bytes: u64,
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Hashing<W> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let taken = ready!(Pin::new(&mut self.inner).poll_write(cx, bytes))?;
        self.hasher.update(&bytes[..taken]);
        self.bytes += taken as u64;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

fn unread(error: &(dyn std::error::Error + 'static)) -> Problem {
    Problem::failed(format!("failed to read what is to be written: {}", chain(error)))
}

fn unwritten(file: &Path, error: &io::Error) -> Problem {
    Problem::failed(format!("failed to write `{}`: {error}", file.display()))
}

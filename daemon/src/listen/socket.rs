//! The Unix socket: a stale file is replaced, a living daemon is not.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

use crate::StartError;

/// A socket that is listened on. Where this daemon bound it, dropping it removes the file, if it is still the one that was
/// bound; a file of the service manager's stays.
#[derive(Debug)]
pub(crate) struct BoundSocket {
    pub(crate) listener: UnixListener,
    _file: Option<SocketFile>,
}

impl BoundSocket {
    /// One that somebody else bound and keeps.
    pub(super) fn inherited(listener: std::os::unix::net::UnixListener) -> io::Result<Self> {
        Ok(Self {
            listener: UnixListener::from_std(listener)?,
            _file: None,
        })
    }
}

#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: Option<(u64, u64)>,
}

impl SocketFile {
    fn identity(path: &Path) -> Option<(u64, u64)> {
        std::fs::symlink_metadata(path)
            .ok()
            .map(|meta| (meta.dev(), meta.ino()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.inode.is_some() && Self::identity(&self.path) == self.inode {
            // It may be gone already; a file left behind is replaced at the next start.
            drop(std::fs::remove_file(&self.path));
        }
    }
}

/// Binds the socket, making its folder when missing.
///
/// Nobody else may use the state folder meanwhile: a file that nobody answers on is taken for a
/// remnant and replaced.
pub(crate) async fn bind(path: &Path, mode: u32) -> Result<BoundSocket, StartError> {
    let fail = |source: io::Error| StartError::Bind {
        address: path.display().to_string(),
        source,
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(fail)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(StartError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => match UnixStream::connect(path).await {
            Ok(_) => return Err(StartError::SocketInUse { path: path.to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(fail)?;
            }
            Err(error) => return Err(fail(error)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(fail(error)),
    }
    let listener = UnixListener::bind(path).map_err(fail)?;
    std::fs::set_permissions(path, Permissions::from_mode(mode)).map_err(fail)?;
    Ok(BoundSocket {
        listener,
        _file: Some(SocketFile {
            path: path.to_owned(),
            inode: SocketFile::identity(path),
        }),
    })
}

//! Files with a secret in them: a key, a token. They are read when the daemon starts, not when the configuration is
//! checked, which may be done where they are not.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

use secrecy::SecretString;

/// The largest file that is read. An RSA key of 8,192 bits takes about 6,400 bytes.
const BYTES: u64 = 16_384;
/// Everybody may read it.
const READABLE_BY_EVERYBODY: u32 = 0o004;

/// A file with one secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretFile {
    /// Its path; a relative one is that of a systemd credential.
    pub path: PathBuf,
    /// The line of the configuration that names it.
    pub line: Option<usize>,
}

/// Why a secret cannot be used. Tells where it is and what to do, never what is in it.
#[derive(Debug)]
pub struct SecretError {
    pub(super) kind: SecretProblem,
}

#[derive(Debug)]
pub(super) enum SecretProblem {
    /// It cannot be read.
    Unreadable(io::Error),
    /// Everybody can read it; its mode.
    Open(u32),
    /// Something else.
    Other(String),
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            SecretProblem::Unreadable(error) => write!(f, "failed to read it: {error}"),
            SecretProblem::Open(mode) => write!(
                f,
                "everybody can read it (mode {:04o}); run `chmod 600` on it, and make a new one if others had access",
                mode & 0o7777
            ),
            SecretProblem::Other(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for SecretError {}

impl From<SecretProblem> for SecretError {
    fn from(kind: SecretProblem) -> Self {
        Self { kind }
    }
}

/// Where systemd puts the credentials of this unit.
pub(super) fn credentials() -> Option<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from)
}

impl SecretFile {
    /// Reads it, without what is white around it. Blocks.
    ///
    /// Fails where it is missing, empty, no plain file, larger than a secret can be, or readable by everybody.
    pub fn read(&self) -> Result<SecretString, SecretError> {
        self.read_in(credentials().as_deref())
    }

    pub(super) fn read_in(&self, credentials: Option<&Path>) -> Result<SecretString, SecretError> {
        let path = self.found(credentials)?;
        // Opened without waiting for the other end of what turns out to be a pipe.
        let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, rustix::fs::Mode::empty())
            .map_err(|error| SecretProblem::Unreadable(error.into()))
            .map(File::from)?;
        let about = file.metadata().map_err(SecretProblem::Unreadable)?;
        if !about.is_file() {
            return Err(SecretProblem::Other("it is not a plain file".to_owned()).into());
        }
        let mode = about.permissions().mode();
        if mode & READABLE_BY_EVERYBODY != 0 {
            return Err(SecretProblem::Open(mode).into());
        }
        let mut text = String::new();
        file.take(BYTES + 1)
            .read_to_string(&mut text)
            .map_err(SecretProblem::Unreadable)?;
        if text.len() as u64 > BYTES {
            return Err(SecretProblem::Other(format!("it has more than {BYTES} bytes, and a secret has fewer")).into());
        }
        let text = text.trim();
        if text.is_empty() {
            return Err(SecretProblem::Other("it is empty".to_owned()).into());
        }
        Ok(SecretString::from(text))
    }

    fn found(&self, credentials: Option<&Path>) -> Result<PathBuf, SecretProblem> {
        if self.path.is_absolute() {
            return Ok(self.path.clone());
        }
        let is_name = self.path.components().all(|part| matches!(part, Component::Normal(_)));
        let text = match credentials {
            _ if !is_name => "it is neither an absolute path nor the name of a systemd credential",
            Some(dir) => return Ok(dir.join(&self.path)),
            None => {
                "it is a relative path, which names a systemd credential, and there is no $CREDENTIALS_DIRECTORY; add \
                 `LoadCredential=` to the unit, or name it by an absolute path"
            }
        };
        Err(SecretProblem::Other(text.to_owned()))
    }
}

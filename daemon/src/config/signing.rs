//! `[keys]`: whose signatures count, and with which keys nixci signs.

use std::path::{Path, PathBuf};

use nixci_protocol::types::{PublicKey, SecretKey};
use secrecy::ExposeSecret as _;

use super::error::{ConfigError, Problem};
use super::secret::{SecretFile, SecretProblem};

/// Whose signatures count, and with which keys nixci signs.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    /// Where the secret keys are. They are read at the start, not when the configuration is checked, which may be
    /// done where they are not.
    pub secret_key_files: Vec<SecretFile>,
    /// Keys whose signatures prove what others upload.
    pub trusted_public_keys: Vec<PublicKey>,
    /// The configuration that names them, for errors.
    pub(super) named_in: Option<PathBuf>,
}

impl Keys {
    /// Reads the secret keys. Every file that cannot be used is told, with the line that names it.
    pub(crate) fn read(&self) -> Result<Vec<SecretKey>, ConfigError> {
        self.read_with(super::secret::credentials().as_deref())
    }

    fn read_with(&self, credentials: Option<&Path>) -> Result<Vec<SecretKey>, ConfigError> {
        let mut keys: Vec<SecretKey> = Vec::new();
        let mut problems = Vec::new();
        for file in &self.secret_key_files {
            let read = read(file, credentials).and_then(|key| {
                if keys.iter().any(|other| other.name() == key.name()) {
                    let name = key.name().escape_debug().to_string();
                    return Err(format!("there is another key named `{name}`; names must differ"));
                }
                Ok(key)
            });
            match read {
                Ok(key) => keys.push(key),
                Err(message) => problems.push(Problem {
                    line: file.line,
                    message: format!("secret key file {}: {message}", file.path.display()),
                }),
            }
        }
        match (&self.named_in, problems.is_empty()) {
            (_, true) => Ok(keys),
            (Some(path), false) => Err(ConfigError::Invalid {
                path: path.clone(),
                problems,
            }),
            (None, false) => Err(ConfigError::Defaults { problems }),
        }
    }

    /// The keys whose signatures count: those that are trusted, and our own.
    pub(crate) fn trusted_with(&self, own: &[SecretKey]) -> Vec<PublicKey> {
        let own = own.iter().map(SecretKey::public);
        self.trusted_public_keys.iter().cloned().chain(own).collect()
    }
}

fn read(file: &SecretFile, credentials: Option<&Path>) -> Result<SecretKey, String> {
    let text = file.read_in(credentials).map_err(|error| match error.kind {
        SecretProblem::Unreadable(_) => format!("{error}; make one with `nix key generate-secret --key-name NAME`"),
        SecretProblem::Open(_) | SecretProblem::Other(_) => error.to_string(),
    })?;
    text.expose_secret()
        .parse()
        .map_err(|error: nixci_protocol::types::KeyError| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::Config;
    use super::*;

    fn key(folder: &Path, name: &str, text: &str, mode: u32) -> String {
        let path = folder.join(name);
        write(&path, text).unwrap();
        set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path.display().to_string()
    }

    fn config(files: &[&str]) -> Keys {
        let lines: Vec<String> = files.iter().map(|file| format!("  {file:?},\n")).collect();
        let text = format!(
            "state_dir = \"/s\"\n[keys]\nsecret_key_files = [\n{}]\n",
            lines.concat()
        );
        Config::parse(&text, Path::new("ci.toml")).unwrap().keys
    }

    #[test]
    fn keys_are_read_from_files_and_from_credentials() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (
            SecretKey::from_seed("a-1", &[1; 32]),
            SecretKey::from_seed("b-1", &[2; 32]),
        );
        let path = key(folder.path(), "first", &format!("{}\n", first.unwrap().expose()), 0o640);
        key(folder.path(), "second", &second.unwrap().expose(), 0o400);
        let keys = config(&[&path, "second"]);
        let read = keys.read_with(Some(folder.path())).unwrap();
        assert_eq!(read.iter().map(SecretKey::name).collect::<Vec<_>>(), ["a-1", "b-1"]);
        let trusted = keys.trusted_with(&read);
        assert_eq!(
            trusted,
            [read[0].public(), read[1].public()],
            "what we signed may come back"
        );
    }

    #[test]
    fn every_file_that_cannot_be_used_is_told_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let secret = SecretKey::from_seed("a-1", &[1; 32]).unwrap();
        let exposed = secret.expose();
        let files = [
            key(folder.path(), "good", &exposed, 0o600),
            key(folder.path(), "open", &exposed, 0o644),
            key(folder.path(), "public", &secret.public().to_string(), 0o600),
            key(folder.path(), "torn", &exposed[..40], 0o600),
            key(folder.path(), "same", &exposed, 0o600),
            key(folder.path(), "long", &"x".repeat(20_000), 0o600),
            folder.path().join("absent").display().to_string(),
            folder.path().display().to_string(),
            "credential".to_owned(),
            "../outside".to_owned(),
        ];
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let told = config(&files).read_with(None).unwrap_err().to_string();
        let lines: Vec<&str> = told.lines().collect();
        let expected = [
            "everybody can read it (mode 0644); run `chmod 600`",
            "it is the public key \"a-1\"; the secret key it belongs to is needed",
            "it is not a secret key: expected a name, a colon and 64 bytes in base 64",
            "there is another key named `a-1`",
            "it has more than 16384 bytes",
            "failed to read it: No such file",
            "it is not a plain file",
            "there is no $CREDENTIALS_DIRECTORY",
            "neither an absolute path nor the name of a systemd credential",
        ];
        assert_eq!(lines.len(), expected.len(), "{told}");
        for (nth, (line, expected)) in lines.iter().zip(expected).enumerate() {
            let start = format!("ci.toml:{}: secret key file {}: ", nth + 5, files[nth + 1]);
            assert!(line.starts_with(&start) && line.contains(expected), "{line}");
        }
        assert!(!told.contains(&exposed[4..30]), "{told}");
    }
}

//! Tokens that `nixci login` keeps: `$XDG_CONFIG_HOME/nixci/credentials.toml`, readable by its owner alone.
//!
//! ```toml
//! ["https://ci.example.org"]
//! token = "nixci_…"
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretString};
use toml::{Table, Value};

use crate::context::Env;
use crate::exit::Problem;

/// The largest file that is read: thousands of tokens.
const BYTES: u64 = 1 << 20;
/// Others than the owner may read or write it.
const OPEN: u32 = 0o077;
const OWNER_ONLY: u32 = 0o600;
const DIR_MODE: u32 = 0o700;
/// The key of an entry that holds the token.
const TOKEN: &str = "token";

/// The file of one user. Every method blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    path: PathBuf,
}

impl Credentials {
    /// The file of the user that `env` speaks of; none without a home.
    pub(crate) fn find(env: Env<'_>) -> Option<Self> {
        // By the XDG base directory specification a relative path counts as unset.
        let own = env("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute());
        let dir = own.or_else(|| env("HOME").map(|home| Path::new(&home).join(".config")))?;
        Some(Self {
            path: dir.join("nixci/credentials.toml"),
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The token for a daemon, `https://ci.example.org`; none where there is no file or no entry.
    ///
    /// Fails where the file is no such list, or others than its owner have access to it.
    pub(crate) fn read(&self, address: &str) -> Result<Option<SecretString>, Problem> {
        let Some(table) = self.load()? else { return Ok(None) };
        let Some(entry) = table.get(&key(address)) else {
            return Ok(None);
        };
        match entry.get(TOKEN).and_then(Value::as_str) {
            Some(token) if !token.is_empty() => Ok(Some(token.into())),
            _ => Err(self.wrong(&format!("the entry of `{}` has no `token`", key(address)))),
        }
    }

    /// Keeps a token for a daemon, in place of the one that was there. The file is replaced as a whole; cut off at any
    /// time, the old one or the new one is there.
    pub(crate) fn write(&self, address: &str, token: &SecretString) -> Result<(), Problem> {
        self.change(|table| {
            let mut entry = Table::new();
            entry.insert(TOKEN.to_owned(), Value::String(token.expose_secret().to_owned()));
            table.insert(key(address), Value::Table(entry));
            true
        })
        .map(|_| ())
    }

    /// Forgets the token for a daemon, and says whether there was one.
    pub(crate) fn remove(&self, address: &str) -> Result<bool, Problem> {
        if self.load()?.is_none() {
            return Ok(false);
        }
        self.change(|table| table.remove(&key(address)).is_some())
    }

    /// What is in it; none where it does not exist.
    fn load(&self) -> Result<Option<Table>, Problem> {
        let fail = |error: io::Error| self.wrong(&format!("failed to read it: {error}"));
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fail(error)),
        };
        let about = file.metadata().map_err(fail)?;
        let mode = about.permissions().mode() & 0o7777;
        if mode & OPEN != 0 {
            return Err(self.wrong(&format!(
                "others than its owner have access to it (mode {mode:04o}); run `chmod 600` on it, and make new tokens \
                 if somebody had a look"
            )));
        }
        let mut text = String::new();
        file.take(BYTES + 1).read_to_string(&mut text).map_err(fail)?;
        if text.len() as u64 > BYTES {
            return Err(self.wrong(&format!("it has more than {BYTES} bytes")));
        }
        // The words of the parser quote the line, and with it a token.
        text.parse().map(Some).map_err(|error: toml::de::Error| {
            let line = error
                .span()
                .map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            self.wrong(&format!("line {line} is no TOML"))
        })
    }

    /// Changes the entries, one process at a time; `change` says whether there is anything to be written.
    fn change(&self, change: impl FnOnce(&mut Table) -> bool) -> Result<bool, Problem> {
        let fail = |error: io::Error| self.wrong(&format!("failed to write it: {error}"));
        // A link stays one; what it leads to is replaced.
        let path = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        let dir = path.parent().unwrap_or(Path::new("/"));
        DirBuilder::new()
            .recursive(true)
            .mode(DIR_MODE)
            .create(dir)
            .map_err(fail)?;
        // Held until the end of this function.
        let lock = File::open(dir).map_err(fail)?;
        lock.lock().map_err(fail)?;
        let mut table = self.load()?.unwrap_or_default();
        if !change(&mut table) {
            return Ok(false);
        }
        let new = dir.join(format!(".credentials.{}.tmp", std::process::id()));
        let written = replace(&path, &new, table.to_string().as_bytes());
        if written.is_err() {
            // It may not be there; what is left of it holds tokens.
            let _ = fs::remove_file(&new);
        }
        written.map_err(fail)?;
        Ok(true)
    }

    fn wrong(&self, what: &str) -> Problem {
        Problem::failed(format!(
            "the tokens in `{}` cannot be used: {what}",
            self.path.display()
        ))
    }
}

fn replace(path: &Path, new: &Path, text: &[u8]) -> io::Result<()> {
    // What a process of the same number has left there.
    match fs::remove_file(new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(OWNER_ONLY)
        .open(new)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(new, path)
}

/// An address as it is kept: scheme and host in small letters, no slash at the end.
fn key(address: &str) -> String {
    let address = address.trim_end_matches('/');
    let host = address.find("://").map_or(0, |at| at + 3);
    let path = address[host..].find('/').map_or(address.len(), |at| host + at);
    format!("{}{}", address[..path].to_ascii_lowercase(), &address[path..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "https://ci.example.org";

    fn file(dir: &Path) -> Credentials {
        let dir = dir.to_str().unwrap().to_owned();
        Credentials::find(&move |name| (name == "XDG_CONFIG_HOME").then(|| dir.clone())).unwrap()
    }

    fn token(credentials: &Credentials, address: &str) -> Option<String> {
        let token = credentials.read(address).unwrap()?;
        Some(token.expose_secret().to_owned())
    }

    #[test]
    fn tokens_are_kept_by_address_and_forgotten_one_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = file(dir.path());
        assert_eq!(token(&file, HERE), None);
        assert!(!file.remove(HERE).unwrap());
        file.write(HERE, &"one".into()).unwrap();
        file.write("https://other.example.org/ci", &"a \"quoted\" \\ one".into())
            .unwrap();
        file.write("HTTPS://CI.example.ORG/", &"two".into()).unwrap();
        assert_eq!(token(&file, HERE).unwrap(), "two");
        assert_eq!(
            token(&file, "https://other.example.org/ci/").unwrap(),
            "a \"quoted\" \\ one"
        );
        assert_eq!(token(&file, "https://other.example.org/CI"), None);
        assert_eq!(fs::metadata(file.path()).unwrap().permissions().mode() & 0o7777, 0o600);
        assert!(file.remove(HERE).unwrap());
        assert!(!file.remove(HERE).unwrap());
        assert_eq!(token(&file, HERE), None);
        assert!(token(&file, "https://other.example.org/ci").is_some());
        assert_eq!(fs::read_dir(dir.path().join("nixci")).unwrap().count(), 1);
    }

    #[test]
    fn what_others_can_read_or_what_is_no_list_is_refused_without_its_words() {
        let dir = tempfile::tempdir().unwrap();
        let file = file(dir.path());
        file.write(HERE, &"s3cr3t".into()).unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o640)).unwrap();
        for problem in [
            file.read(HERE).unwrap_err(),
            file.write(HERE, &"other".into()).unwrap_err(),
        ] {
            let text = problem.to_string();
            assert!(text.contains("mode 0640") && text.contains("chmod 600"), "{text}");
        }
        for (text, said) in [
            ("\n[x]\ntoken = s3cr3t\n", "line 3 is no TOML"),
            ("\"https://ci.example.org\" = \"s3cr3t\"\n", "has no `token`"),
            ("[\"https://ci.example.org\"]\ntoken = 3\n", "has no `token`"),
        ] {
            fs::write(file.path(), text).unwrap();
            fs::set_permissions(file.path(), fs::Permissions::from_mode(0o600)).unwrap();
            let problem = file.read(HERE).unwrap_err().to_string();
            assert!(problem.contains(said), "{problem}");
            assert!(!problem.contains("s3cr3t"), "{problem}");
        }
    }

    #[test]
    fn a_link_to_the_file_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let file = file(dir.path());
        let real = dir.path().join("elsewhere.toml");
        fs::create_dir(dir.path().join("nixci")).unwrap();
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&real)
            .unwrap();
        std::os::unix::fs::symlink(&real, file.path()).unwrap();
        file.write(HERE, &"one".into()).unwrap();
        assert!(file.path().is_symlink());
        assert_eq!(token(&file, HERE).unwrap(), "one");
    }

    #[test]
    fn writers_at_once_lose_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = file(dir.path());
        let addresses: Vec<String> = (0..8).map(|n| format!("https://h{n}")).collect();
        std::thread::scope(|scope| {
            for address in &addresses {
                scope.spawn(|| file.write(address, &"x".into()).unwrap());
            }
        });
        assert!(addresses.iter().all(|address| token(&file, address).is_some()));
    }

    #[test]
    fn it_is_in_the_configuration_folder_of_the_user() {
        let found = |name: &'static str, value: &'static str| {
            Credentials::find(&move |asked| (asked == name).then(|| value.to_owned()))
                .map(|file| file.path().to_str().unwrap().to_owned())
        };
        assert_eq!(
            found("HOME", "/home/x").unwrap(),
            "/home/x/.config/nixci/credentials.toml"
        );
        assert_eq!(found("XDG_CONFIG_HOME", "relative"), None);
        assert_eq!(found("PATH", "x"), None);
    }
}

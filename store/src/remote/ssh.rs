//! The system's ssh, asked to run a daemon on another machine.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::process::Command;

use super::error::Fault;
use super::{Environment, SshUri};

/// How long the connection that the others share outlives the last of them.
const CONTROL_PERSIST: &str = "ControlPersist=30";

/// The files that the connections to one store share: ssh's control socket and the accepted host key.
#[derive(Debug, Default)]
pub(super) struct SshFiles(OnceLock<PathBuf>);

impl SshFiles {
    /// The folder, private to this user, made when first asked for.
    fn folder(&self) -> Result<&Path, Fault> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        if let Some(folder) = self.0.get() {
            return Ok(folder);
        }
        // Short, since the path of a socket may have about 100 bytes.
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("nixci-ssh-{}-{number}", std::process::id()));
        let made = DirBuilder::new().mode(0o700).create(&folder);
        if let Err(error) = made {
            // Left behind by a process with our number? Then it is ours or it is nobody's.
            let reclaimed = error.kind() == io::ErrorKind::AlreadyExists
                && fs::remove_dir_all(&folder).is_ok()
                && DirBuilder::new().mode(0o700).create(&folder).is_ok();
            if !reclaimed {
                return Err(Fault::Folder { folder, error });
            }
        }
        // Whoever came second removes its own folder.
        if self.0.set(folder.clone()).is_err() {
            let _ = fs::remove_dir(&folder);
        }
        self.0.get().map(PathBuf::as_path).ok_or(Fault::Folder {
            folder,
            error: io::ErrorKind::NotFound.into(),
        })
    }
}

impl Drop for SshFiles {
    fn drop(&mut self) {
        if let Some(folder) = self.0.get() {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// The command that runs the daemon of a store: by ssh, or directly for `localhost`.
pub(super) fn command(
    ssh: &SshUri,
    files: &SshFiles,
    shared: bool,
    timeout: Duration,
    environment: &Environment,
) -> Result<Command, Fault> {
    let mut words = ssh.remote_program.clone();
    if words.is_empty() {
        words.push("nix-daemon".to_owned());
    }
    words.push("--stdio".to_owned());
    if let Some(store) = &ssh.remote_store {
        words.extend(["--store".to_owned(), store.clone()]);
    }
    if ssh.is_pipe() {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        environment.apply(&mut command);
        return Ok(command);
    }

    let mut command = Command::new("ssh");
    environment.apply(&mut command);
    command.arg("-x");
    // ssh keeps the first value it meets, so what the user wants comes first.
    command.args(environment.text("NIX_SSHOPTS").unwrap_or_default().split_whitespace());
    // Nobody is there to answer a question, and nothing but the protocol may be printed.
    command.args(["-oBatchMode=yes", "-oPermitLocalCommand=no", "-oServerAliveInterval=30"]);
    command.arg(format!("-oConnectTimeout={}", timeout.as_secs().max(1)));
    if let Some(key) = &ssh.ssh_key {
        command.arg("-oIdentitiesOnly=yes").arg("-i").arg(key);
    }
    if let Some(key) = &ssh.host_key {
        command.arg(format!(
            "-oUserKnownHostsFile={}",
            known_host(ssh, files, key)?.display()
        ));
        command.arg("-oStrictHostKeyChecking=yes");
    }
    if ssh.compress {
        command.arg("-C");
    }
    if let Some(port) = ssh.port {
        command.arg(format!("-p{port}"));
    }
    if shared {
        // The first connection leaves a master in the background that lives on by itself, so that the end of any
        // connection, the first included, is not the end of the others. Without a master ssh connects by itself.
        command.args(["-oControlMaster=auto", &format!("-o{CONTROL_PERSIST}")]);
        command.arg(format!("-oControlPath={}", files.folder()?.join("%C").display()));
    } else {
        command.args(["-oControlMaster=no", "-oControlPath=none"]);
    }
    command.arg(ssh.host.replace(['[', ']'], "")).arg("--");
    command.args(words.iter().map(|word| quote(word)));
    Ok(command)
}

/// Writes the one host key that is accepted, given in base64 as in the configuration of stock Nix.
fn known_host(ssh: &SshUri, files: &SshFiles, key: &str) -> Result<PathBuf, Fault> {
    let fault = |folder: &Path, error| Fault::Folder {
        folder: folder.to_owned(),
        error,
    };
    let folder = files.folder()?;
    let decoded = data_encoding::BASE64
        .decode(key.as_bytes())
        .ok()
        .and_then(|key| String::from_utf8(key).ok());
    let key = decoded.ok_or_else(|| {
        fault(
            folder,
            io::Error::new(io::ErrorKind::InvalidData, "base64-ssh-public-host-key is not base64"),
        )
    })?;
    let host = ssh
        .host
        .rsplit_once('@')
        .map_or(ssh.host.as_str(), |(_, host)| host)
        .replace(['[', ']'], "");
    let host = match ssh.port {
        Some(port) if port != 22 => format!("[{host}]:{port}"),
        Some(_) | None => host,
    };
    let file = folder.join("known_hosts");
    fs::write(&file, format!("{host} {}\n", key.trim())).map_err(|error| fault(folder, error))?;
    Ok(file)
}

/// A word as the shell on the other machine reads it.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::StoreUri;

    fn words(uri: &str) -> Vec<String> {
        let StoreUri::Ssh(ssh) = uri.parse().unwrap() else {
            panic!("{uri}")
        };
        let environment = Environment::with([("NIX_SSHOPTS", "-oUser=x -v")]);
        let command = command(&ssh, &SshFiles::default(), false, Duration::from_secs(9), &environment).unwrap();
        let command = command.as_std();
        [command.get_program()]
            .into_iter()
            .chain(command.get_args())
            .map(|it| it.to_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn ssh_runs_the_daemon_of_the_other_machine() {
        let words = words(
            "ssh-ng://me@[::1]:2222?remote-program=nix-daemon%20--x&remote-store=local%3Froot%3D/it's&ssh-key=/k",
        );
        let line = words.join(" ");
        assert!(line.starts_with("ssh -x -oUser=x -v -oBatchMode=yes"), "{line}");
        assert!(line.contains(" -i /k -p2222 "), "{line}");
        assert!(
            line.ends_with(r" me@::1 -- nix-daemon --x --stdio --store 'local?root=/it'\''s'"),
            "{line}"
        );
    }

    #[test]
    fn localhost_alone_is_run_without_ssh() {
        assert_eq!(words("ssh-ng://localhost?remote-program=/opt/d"), ["/opt/d", "--stdio"]);
        assert_eq!(words("ssh-ng://localhost:22")[0], "ssh");
    }
}

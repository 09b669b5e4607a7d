//! A real sshd on loopback, with throw-away keys.

use std::fs::{self, File};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use data_encoding::BASE64;
use tempfile::TempDir;

use super::TestDaemon;
use super::process::{poll_until, stop};

/// An sshd with throw-away keys that runs one program whatever is asked of it. Stopped with all its sessions when dropped.
#[derive(Debug)]
pub struct Sshd {
    dir: TempDir,
    process: Child,
    port: u16,
}

impl Sshd {
    /// Sessions run `program` whatever they ask for, with these variables.
    pub fn start(program: &str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("nixci-sshd-")
            .tempdir()
            .expect("a temporary folder can be made");
        for key in ["host", "user"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"])
                .arg(dir.path().join(key))
                .status()
                .expect("openssh-client is installed");
            assert!(made.success());
        }
        // A forced command sees what was asked for in SSH_ORIGINAL_COMMAND.
        let public = fs::read_to_string(dir.path().join("user.pub")).expect("ssh-keygen wrote the key");
        fs::write(dir.path().join("keys"), format!("command=\"{program}\" {public}")).expect("the keys can be written");
        // Nobody may take the port between here and there; if somebody does, sshd says so and the test fails.
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a port of loopback can be taken")
            .port();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {dir}/host\nAuthorizedKeysFile {dir}/keys\nPidFile none\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nMaxSessions 20\n",
            dir = dir.path().display()
        );
        fs::write(dir.path().join("config"), config).expect("the configuration can be written");
        // sshd insists on its folder for privilege separation.
        let _ = fs::create_dir_all("/run/sshd");
        let log = fs::File::create(dir.path().join("log")).expect("the log can be made");
        let mut process = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(dir.path().join("config"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be opened twice"))
            .stderr(log)
            .spawn()
            .expect("openssh-server is installed");
        poll_until("sshd to accept connections", || {
            if let Ok(Some(status)) = process.try_wait() {
                panic!(
                    "sshd ended, {status}: {}",
                    fs::read_to_string(dir.path().join("log")).unwrap_or_default()
                );
            }
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Self { dir, process, port }
    }

    /// Lets nobody in any more.
    pub fn forget_keys(&self) {
        fs::write(self.dir.path().join("keys"), "").expect("the keys can be written");
    }

    /// Lets a client know it as `host`, for versions of Nix whose URIs have no port. Appends to the client's
    /// [`ssh_config`](TestDaemon::ssh_config).
    pub fn known_as(&self, host: &str, client: &TestDaemon) {
        let dir = self.dir.path().display();
        let known = fs::read_to_string(self.dir.path().join("host.pub")).expect("ssh-keygen wrote the key");
        fs::write(self.dir.path().join("known"), format!("{host} {known}")).expect("the host's key can be written");
        let text = format!(
            "Host {host}\n HostName 127.0.0.1\n HostKeyAlias {host}\n Port {}\n IdentityFile {dir}/user\n \
             UserKnownHostsFile {dir}/known\n",
            self.port
        );
        File::options()
            .append(true)
            .open(client.ssh_config())
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .expect("the client's ssh_config can be written");
    }

    /// How stock Nix and nixci name it; `parameters` are added to the URI and begin with `&`.
    pub fn uri(&self, parameters: &str) -> String {
        let host_key = fs::read_to_string(self.dir.path().join("host.pub")).expect("ssh-keygen wrote the key");
        format!(
            "ssh-ng://127.0.0.1:{}?ssh-key={}&base64-ssh-public-host-key={}{parameters}",
            self.port,
            self.dir.path().join("user").display(),
            BASE64
                .encode(host_key.trim().as_bytes())
                .replace('+', "%2B")
                .replace('=', "%3D")
        )
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        stop(&mut self.process);
    }
}

//! `nix-store --export | nix-store --import`: no question is asked, and everything is sent.

use std::io::{self, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nixci_store::testing::Sshd;

use crate::Outcome;
use crate::copies::Copying;
use crate::proxy::Link;
use crate::ssh;
use crate::wire::Figures;
use crate::world::{Side, World, fed, unix};

/// To the daemon: the importing program is at the client, and waits for an answer to each path.
pub(crate) fn to_daemon(world: &World, copying: Copying) -> Outcome<Figures> {
    let peer = world.peer(Side::Stock, copying.holds())?;
    peer.measure(Link::Loopback, |socket| {
        let mut import = world.client.command_at("nix-store", &unix(socket));
        transfer(world, copying, import.arg("--import")).map(drop)
    })
}

/// Over ssh: the importing program is at the daemon, and ssh carries the export alone.
pub(crate) fn over_ssh(world: &World, copying: Copying) -> Outcome<Figures> {
    let peer = world.peer(Side::Stock, copying.holds())?;
    let scripts = tempfile::tempdir()?;
    let session = ssh::of_nix(world, &peer.socket(), "nix-store --import");
    let sshd = Sshd::start(&ssh::script(scripts.path(), &session)?.display().to_string());
    // The client's settings keep those of the sshd before.
    let host = format!("{}-{}", copying.name(), std::process::id());
    sshd.known_as(&host, &world.client);
    let mut command = Command::new("ssh");
    command.arg("-TF").arg(world.client.ssh_config()).arg(&host);
    let began = Instant::now();
    let bytes = transfer(world, copying, &mut command)?;
    Ok(Figures {
        wall_s: began.elapsed().as_secs_f64(),
        bytes_up: bytes,
        upload_bytes: bytes,
        turns: 1,
        ..Figures::default()
    })
}

/// Exports the closure of the roots into a program, and returns the size of the export.
fn transfer(world: &World, copying: Copying, import: &mut Command) -> Outcome<u64> {
    let mut query = world.nix("nix-store");
    let closure = fed(query.args(["--query", "--requisites", "--stdin"]), copying.roots(world))?;
    let mut export = world.nix("nix-store");
    export.args(["--export", "--stdin"]);
    let mut export = export.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut import = import.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    // It reads all of its input before it exports anything.
    export.stdin.take().ok_or("a pipe was asked for")?.write_all(&closure)?;
    let (from, into) = (export.stdout.take(), import.stdin.take());
    let (mut from, mut into) = from.zip(into).ok_or("pipes were asked for")?;
    let bytes = pump(&mut from, &mut into)?;
    drop(into);
    ended(&mut export)?;
    ended(&mut import)?;
    Ok(bytes)
}

fn pump(from: &mut impl Read, into: &mut impl Write) -> io::Result<u64> {
    let mut buffer = vec![0; 256 * 1024];
    let mut bytes = 0;
    loop {
        let taken = from.read(&mut buffer)?;
        if taken == 0 {
            return Ok(bytes);
        }
        into.write_all(&buffer[..taken])?;
        bytes += taken as u64;
    }
}

fn ended(child: &mut Child) -> Outcome<()> {
    let status = child.wait()?;
    if status.success() {
        return Ok(());
    }
    Err(format!("exporting or importing failed: {status}").into())
}

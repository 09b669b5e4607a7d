//! Over ssh on loopback, to a real sshd. The proxy is between the session and the daemon: what it counts is what ssh
//! carries, before it is encrypted.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nixci_store::testing::Sshd;

use crate::Outcome;
use crate::copies::Copying;
use crate::proxy::{Link, Proxy};
use crate::wire::Figures;
use crate::world::{Side, World, expect, unix};

/// One side's figures; stock's session is `nix-daemon --stdio`, which passes everything on to the socket of the daemon,
/// and nixci's is `nixci-daemon stdio`, which does the same.
pub(crate) fn measure(world: &World, copying: Copying, side: Side) -> Outcome<Figures> {
    let peer = world.peer(side, copying.holds())?;
    let proxy = Proxy::start(&peer.socket(), Link::Loopback)?;
    let scripts = tempfile::tempdir()?;
    let session = match side {
        Side::Stock => of_nix(world, &proxy.socket(), "nix-daemon --stdio"),
        Side::Nixci => {
            let daemon = Path::new(env!("CARGO_BIN_EXE_nixci")).with_file_name("nixci-daemon");
            let socket = proxy.socket();
            format!("NIXCI_SOCKET={} exec {} stdio", socket.display(), daemon.display())
        }
    };
    let sshd = Sshd::start(&script(scripts.path(), &session)?.display().to_string());
    let uri = sshd.uri("");
    let began = Instant::now();
    expect(world.copy(side, &uri, copying.roots(world))?, copying.sends())?;
    let wall = began.elapsed().as_secs_f64();
    drop(sshd);
    Ok(Figures::new(&proxy.finish()?, wall))
}

/// Both sides' figures, stock's first.
pub(crate) fn both(world: &World, copying: Copying) -> Outcome<(Figures, Figures)> {
    Ok((
        measure(world, copying, Side::Stock)?,
        measure(world, copying, Side::Nixci)?,
    ))
}

/// A session that runs a program of Nix on the daemon at a socket.
pub(crate) fn of_nix(world: &World, socket: &Path, program: &str) -> String {
    let mut text = String::new();
    for (name, value) in world.client.environment(&unix(socket)) {
        // Writing to memory does not fail.
        let _ = writeln!(text, "export {name}='{value}'");
    }
    text + "exec " + program
}

/// A program of this text.
pub(crate) fn script(dir: &Path, text: &str) -> Outcome<PathBuf> {
    let file = dir.join("session");
    fs::write(&file, format!("#!/bin/sh\n{text}\n"))?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    Ok(file)
}

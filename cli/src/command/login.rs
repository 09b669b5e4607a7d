//! `nixci login` and `nixci logout`: a token for a daemon behind HTTPS, tried and kept.

use std::io::{self, IsTerminal as _, Read as _, Write as _};

use nixci_protocol::nixci::control::{Info, Request};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use secrecy::SecretString;
use serde::Serialize;
use tokio::sync::oneshot;

use super::{print, print_json};
use crate::args::Global;
use crate::connect::{Address, Daemon, http::Site};
use crate::context::process_env;
use crate::exit::{Exit, Problem};
use crate::identity::Credentials;

/// Bytes of standard input that are read: more than any token has.
const BYTES: u64 = 64 * 1024;

/// What `nixci login --json` prints.
#[derive(Serialize)]
struct LoggedIn<'a> {
    address: &'a str,
    principal: &'a str,
    file: &'a std::path::Path,
}

/// What `nixci logout --json` prints.
#[derive(Serialize)]
struct LoggedOut<'a> {
    address: &'a str,
    forgotten: bool,
}

/// Reads a token, has the daemon say whose it is, and keeps it. One that the daemon does not take is not kept, and the
/// one that was kept before stays.
pub(crate) async fn login(global: &Global) -> Result<Exit, Problem> {
    let site = site(global)?;
    let credentials = credentials()?;
    let token = ask(site.name()).await?;
    let address = site.name().to_owned();
    let mut daemon = Daemon::connect(&Address::Http(Box::new(site.with_token(&token)?))).await?;
    let info: Info = daemon.ask(&Request::Info).await?;
    credentials.write(&address, &trimmed(&token))?;
    if global.json {
        print_json(&LoggedIn {
            address: &address,
            principal: &info.principal,
            file: credentials.path(),
        })?;
    } else {
        print(&format!(
            "{address} takes you for {}; the token is kept in {}\n",
            info.principal,
            credentials.path().display()
        ))?;
    }
    for name in ["NIXCI_TOKEN_FILE", "NIXCI_TOKEN"] {
        if process_env(name).is_some() {
            anstream::eprintln!("{name} is set, and is used before what is kept");
        }
    }
    Ok(Exit::Fine)
}

/// Forgets a token. Nobody is asked; the token itself stays valid until the daemon's administrator takes it back.
pub(crate) fn logout(global: &Global) -> Result<Exit, Problem> {
    let site = site(global)?;
    let forgotten = credentials()?.remove(site.name())?;
    if global.json {
        print_json(&LoggedOut {
            address: site.name(),
            forgotten,
        })?;
    } else if forgotten {
        print(&format!(
            "forgot the token for {}; `nixci-daemon token` takes it back there\n",
            site.name()
        ))?;
    } else {
        print(&format!("no token is kept for {}\n", site.name()))?;
    }
    Ok(Exit::Fine)
}

/// The daemon that is named, whatever tokens are lying about for it.
fn site(global: &Global) -> Result<Site, Problem> {
    let named = Global {
        token_file: None,
        ..global.clone()
    };
    if named.to.is_none() {
        return Err(Problem::usage("say which daemon: `--to https://HOST`"));
    }
    match Address::find(&named, &|_| None)? {
        Address::Http(site) => Ok(*site),
        address @ (Address::Unix(_) | Address::Store(_)) => Err(Problem::usage(format!(
            "`{address}` takes no token: it knows who you are by the socket or by ssh; tokens are for `https://HOST`"
        ))),
    }
}

fn credentials() -> Result<Credentials, Problem> {
    Credentials::find(&process_env)
        .ok_or_else(|| Problem::usage("there is no place to keep a token: set HOME or XDG_CONFIG_HOME"))
}

/// The token on standard input; on a terminal its user is asked for it, and does not see it. Cancelling gives the terminal
/// back as it was.
async fn ask(address: &str) -> Result<SecretString, Problem> {
    let fail = |error: io::Error| Problem::usage(format!("failed to read the token from standard input: {error}"));
    let quiet = if io::stdin().is_terminal() {
        let mut out = io::stderr().lock();
        write!(out, "Token for {address} (it is not shown): ")?;
        out.flush()?;
        Some(Quiet::begin().map_err(fail)?)
    } else {
        None
    };
    let is_terminal = quiet.is_some();
    let (sender, text) = oneshot::channel();
    // A thread of its own, which nobody waits for: what reads a terminal cannot be cancelled.
    std::thread::spawn(move || {
        // The other side is gone after an interrupt.
        let _ = sender.send(read(is_terminal));
    });
    let text = text.await.map_err(|_| fail(io::ErrorKind::Interrupted.into()))?;
    if quiet.is_some() {
        drop(quiet);
        // The newline was not shown either.
        writeln!(io::stderr())?;
    }
    text.map_err(fail)
}

/// One line of a terminal, or all there is.
fn read(is_terminal: bool) -> io::Result<SecretString> {
    let mut text = String::new();
    if is_terminal {
        io::BufRead::read_line(&mut io::stdin().lock().take(BYTES), &mut text)?;
    } else {
        io::stdin().lock().take(BYTES).read_to_string(&mut text)?;
    }
    Ok(text.into())
}

/// The token without what is white around it.
fn trimmed(token: &SecretString) -> SecretString {
    secrecy::ExposeSecret::expose_secret(token).trim().into()
}

/// While it lives, the terminal does not show what is typed.
struct Quiet {
    before: Termios,
}

impl Quiet {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(rustix::stdio::stdin())?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Flush, &quiet)?;
        Ok(Self { before })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // The terminal may be gone.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Flush, &self.before);
    }
}

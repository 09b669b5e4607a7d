//! What the commands of `nixci-daemon` do.

pub(crate) mod backup;
pub(crate) mod serve;
pub(crate) mod stdio;
pub(crate) mod token;

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use nixci_daemon::Config;
use nixci_daemon::config::SYSTEM_FILE;

/// The configuration of the daemon a command is about: the file that is given, else the system's where it exists, else
/// what holds for the current user.
pub(crate) fn administered(given: Option<&Path>) -> anyhow::Result<Config> {
    let system = Path::new(SYSTEM_FILE);
    let file = match given {
        Some(given) => Some(given),
        None => system
            .try_exists()
            .with_context(|| format!("failed to look for {SYSTEM_FILE}; name a configuration with --config"))?
            .then_some(system),
    };
    Ok(match file {
        Some(file) => Config::load(file)?,
        None => Config::per_user()?,
    })
}

/// Checks a configuration and says what is wrong with it, line by line.
pub(crate) fn check(given: Option<&Path>) -> anyhow::Result<ExitCode> {
    let config = administered(given)?;
    let mut stdout = std::io::stdout().lock();
    writeln!(
        stdout,
        "ok: socket {}, state {}, {} store(s)",
        config.listen.socket.display(),
        config.state_dir.display(),
        config.stores.len()
    )?;
    Ok(ExitCode::SUCCESS)
}

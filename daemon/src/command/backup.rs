//! `backup` and `restore`.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use nixci_daemon::Config;
use nixci_daemon::backup::{self, Manifest};

/// Writes a backup of the state of a daemon, which may run meanwhile.
pub(crate) fn backup(config: &Config, dest: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let taken = backup::backup(config, dest, || {
        // Nothing can be done where even standard error is gone.
        drop(writeln!(
            std::io::stderr(),
            "waiting for a collection, or another backup, to end"
        ));
    })?;
    let about = &taken.manifest;
    let mut stdout = std::io::stdout().lock();
    if json {
        let mut value = serde_json::to_value(about)?;
        value["path"] = taken.path.to_string_lossy().into();
        value["seconds"] = taken.took.as_secs_f64().into();
        value["not_included"] = backup::NOT_INCLUDED.into();
        writeln!(stdout, "{}", serde_json::to_string_pretty(&value)?)?;
    } else {
        let (path, seconds) = (taken.path.display(), taken.took.as_secs_f64());
        writeln!(stdout, "wrote {} to {path} in {seconds:.1} s", contents(about))?;
        if about.missing_derivations > 0 {
            writeln!(
                stdout,
                "the spool lacks {} derivations of jobs: submit again what does not build",
                about.missing_derivations
            )?;
        }
        writeln!(stdout, "{}", backup::NOT_INCLUDED)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Restores a backup, or checks it where there is no configuration of a daemon.
pub(crate) fn restore(config: Option<&Config>, source: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let mut stdout = std::io::stdout().lock();
    let Some(config) = config else {
        let about = backup::check(source)?;
        if json {
            writeln!(stdout, "{}", serde_json::to_string_pretty(&about)?)?;
        } else {
            let (by, at) = (&about.nixci, &about.created);
            writeln!(stdout, "ok: {}, by nixci {by} at {at}", contents(&about))?;
        }
        return Ok(ExitCode::SUCCESS);
    };
    let restored = backup::restore(config, source)?;
    let about = &restored.manifest;
    if json {
        let mut value = serde_json::to_value(about)?;
        value["path"] = config.state_dir.to_string_lossy().into();
        value["seconds"] = restored.took.as_secs_f64().into();
        value["uid"] = restored.owner.0.into();
        value["gid"] = restored.owner.1.into();
        writeln!(stdout, "{}", serde_json::to_string_pretty(&value)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let (uid, gid) = restored.owner;
    writeln!(
        stdout,
        "restored {} to {} (user {uid}, group {gid}) in {:.1} s; it shows {}",
        contents(about),
        config.state_dir.display(),
        restored.took.as_secs_f64(),
        about.created
    )?;
    writeln!(
        stdout,
        "tokens that were revoked since count again: look at `nixci-daemon token list`; {}",
        backup::NOT_INCLUDED
    )?;
    Ok(ExitCode::SUCCESS)
}

/// What is in a backup, for people.
fn contents(about: &Manifest) -> String {
    format!(
        "{} evaluations ({} not ended), {} objects and {} logs, {:.1} MiB",
        about.evaluations,
        about.open_evaluations,
        about.objects,
        about.logs,
        about.bytes as f64 / f64::from(1 << 20)
    )
}

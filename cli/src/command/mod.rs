//! One file per command.

mod copy;
mod diff;
mod doctor;
mod gc;
mod generate;
mod jobs;
mod log;
mod login;
mod report;
mod restart;
mod status;
mod submit;
mod watch;

use std::io::{self, Write};

use nixci_protocol::nixci::verdict::{Conclusion, Verdict};
use serde::Serialize;

use crate::args::{Cli, Command, Global};
use crate::connect::{Address, Daemon};
use crate::context::process_env;
use crate::exit::{Exit, Problem};

/// Does what the command line says.
pub(crate) async fn run(cli: Cli) -> Result<Exit, Problem> {
    let global = &cli.global;
    match cli.command {
        Command::Submit(args) => submit::run(global, &args).await,
        Command::Status(args) => status::run(global, &args).await,
        Command::Watch(args) => watch::run(global, &args).await,
        Command::Log(args) => log::run(global, &args).await,
        Command::Jobs(args) => jobs::run(global, &args).await,
        Command::Diff(args) => diff::run(global, &args).await,
        Command::Restart(args) => restart::restart(global, &args).await,
        Command::Cancel(args) => restart::cancel(global, &args).await,
        Command::Copy(args) => copy::run(global, &args).await,
        Command::Report(args) => report::run(global, &args).await,
        Command::Gc(args) => gc::run(global, &args).await,
        Command::Login => login::login(global).await,
        Command::Logout => login::logout(global),
        Command::Doctor => doctor::run(global).await,
        Command::Completions { shell } => generate::completions(shell),
        Command::Man { dir } => generate::man(&dir),
    }
}

/// The daemon that the command line or the environment names.
async fn daemon(global: &Global) -> Result<Daemon, Problem> {
    Daemon::connect(&Address::find(global, &process_env)?).await
}

/// Prints a result, with styles where the reader takes them.
fn print(text: &str) -> Result<(), Problem> {
    anstream::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

/// Prints a result as one line of JSON.
fn print_json(value: &impl Serialize) -> Result<(), Problem> {
    let mut line = serde_json::to_vec(value).map_err(io::Error::other)?;
    line.push(b'\n');
    io::stdout().lock().write_all(&line)?;
    Ok(())
}

/// What a verdict says to the shell. What was not answered did not succeed.
fn exit_of(verdict: &Verdict) -> Exit {
    match verdict.conclusion {
        Conclusion::Success => Exit::Fine,
        Conclusion::Failure | Conclusion::Incomplete => Exit::Failed,
        Conclusion::Running => Exit::Unfinished,
    }
}

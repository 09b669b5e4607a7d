//! `nixci`: submits Nix builds to a nixci daemon and reads what became of them.
//!
//! The command line is in [`args`], one file per command in [`command`]. A command asks the daemon
//! through [`connect`], as who [`identity`] says, finds out where it runs in [`context`], shows what happens in [`progress`] and
//! prints results with [`render`]. How it ends is in [`exit`]. Nothing here decides anything about
//! builds: the daemon does, and the words come from `nixci-protocol`.

// An optimised build looks through the futures of a connection down to the last operation.
#![recursion_limit = "256"]

mod args;
mod artifact;
mod command;
mod connect;
mod context;
mod evaluate;
mod exit;
mod identity;
mod progress;
mod render;
mod select;
mod transfer;

use std::io;
use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use args::{Cli, Color};
use exit::{Exit, Problem};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.global.color {
        Color::Auto => {}
        Color::Always => anstream::ColorChoice::Always.write_global(),
        Color::Never => anstream::ColorChoice::Never.write_global(),
    }
    trace(cli.global.verbose);
    match run(cli) {
        Ok(exit) => exit.into(),
        Err(problem) => {
            if !problem.is_silent() {
                anstream::eprintln!("{} {problem}", render::paint(render::BAD.bold(), "error:"));
            }
            problem.exit().into()
        }
    }
}

fn run(cli: Cli) -> Result<Exit, Problem> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Problem::failed(format!("failed to start: {error}")))?
        .block_on(async {
            tokio::select! {
                // First: a command that knows what an interrupt means to it, such as `watch`, answers itself.
                biased;
                result = command::run(cli) => result,
                interrupted = interrupted() => Err(match interrupted {
                    Ok(()) => Problem::new(Exit::Unfinished, "interrupted; what was submitted before goes on at the daemon"),
                    Err(error) => Problem::failed(format!("failed to listen for signals: {error}")),
                }),
            }
        })
}

/// Waits for SIGINT or SIGTERM. The command is dropped then, and with it the evaluators it has started.
async fn interrupted() -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// What the libraries say goes to standard error: warnings; with `-v` what they do; with `-vv` all.
fn trace(verbose: u8) {
    let filter = match verbose {
        0 => "warn",
        1 => "warn,nixci=info,nixci_store=info,nixci_daemon=info",
        2 => "info,nixci=debug,nixci_store=debug,nixci_daemon=debug,nixci_protocol=debug",
        _ => "trace",
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_env("NIXCI_LOG").unwrap_or_else(|_| filter.into()))
        .with_ansi(anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never)
        .init();
}

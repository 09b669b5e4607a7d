//! The daemon itself: logs and signals around [`nixci_daemon::start`].

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::ValueEnum;
use nixci_daemon::{Config, Inherited};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Runs until it is told to stop.
pub(crate) fn serve(file: Option<&Path>, log_format: LogFormat) -> anyhow::Result<ExitCode> {
    let config = match file {
        Some(file) => Config::load(file)?,
        None => Config::per_user()?,
    };
    log_to_stderr(log_format);
    nixci_daemon::raise_file_limit();
    let inherited = Inherited::take()?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?
        .block_on(async {
            let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
            let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for SIGINT")?;
            // Before it is ready, so that nobody ends it by asking for a reload.
            let mut hangup = signal(SignalKind::hangup()).context("failed to listen for SIGHUP")?;
            let running = nixci_daemon::start_with(config, inherited).await?;
            let told = loop {
                let asked = async {
                    hangup.recv().await;
                    running.reload(file.map(Path::to_owned)).await
                };
                tokio::select! {
                    _ = terminate.recv() => break "SIGTERM",
                    _ = interrupt.recv() => break "SIGINT",
                    // What came of it is in the log.
                    _ = asked => {}
                }
            };
            tracing::info!(signal = told, "stopping on {told}");
            tokio::select! {
                () = running.stop() => Ok(ExitCode::SUCCESS),
                _ = terminate.recv() => Ok(ExitCode::FAILURE),
                _ = interrupt.recv() => Ok(ExitCode::FAILURE),
            }
        })
}

fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_env("NIXCI_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Colours are for a terminal, and for nobody who has set this (https://no-color.org).
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()))
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => logs.with_target(false).init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
}

//! `stdio`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use nixci_daemon::{Config, Lowered};

/// Connects standard input and output to the running daemon.
pub(crate) fn stdio(
    socket: Option<PathBuf>,
    config: Option<&Path>,
    lowered: Option<&Lowered>,
) -> anyhow::Result<ExitCode> {
    let candidates = match (socket, config) {
        (Some(socket), _) => vec![socket],
        (None, Some(config)) => vec![Config::load(config)?.listen.socket],
        (None, None) => nixci_daemon::default_sockets(),
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?
        .block_on(nixci_daemon::stdio(&candidates, lowered))?;
    // Standard input is read by a thread that cannot be interrupted; leave without waiting for it.
    std::process::exit(0)
}

/// Whom a key's holder is spoken for as.
pub(crate) fn lowered(name: &str, trusted: bool) -> anyhow::Result<Lowered> {
    Lowered::new(name, trusted)
        .with_context(|| format!("`{name}` cannot be a principal; use letters, digits and `._+@-`, at most 64 of them"))
}

/// There is one store here, whatever the client would like.
pub(crate) fn only_store(asked: Option<&str>) -> anyhow::Result<()> {
    match asked {
        None | Some("" | "auto" | "daemon") => Ok(()),
        Some(other) => {
            anyhow::bail!(
                "only the store of this daemon can be reached here, not `{other}`; leave `remote-store` out of the client's URI"
            )
        }
    }
}

//! `nixci completions` and `nixci man`: what packages install beside the program.

use std::path::Path;

use clap::CommandFactory;
use nixci_daemon::generate;

use crate::args::Cli;
use crate::exit::{Exit, Problem};

/// Prints the completion script of one shell.
pub(crate) fn completions(shell: clap_complete::Shell) -> Result<Exit, Problem> {
    generate::completions(Cli::command(), shell)?;
    Ok(Exit::Fine)
}

/// Writes `nixci.1` and a page for every command into `dir`.
pub(crate) fn man(dir: &Path) -> Result<Exit, Problem> {
    generate::man_pages(Cli::command(), dir)
        .map_err(|error| Problem::failed(format!("failed to write man pages into `{}`: {error}", dir.display())))?;
    Ok(Exit::Fine)
}

//! `nixci completions` and `nixci man`: what packages install beside the program.

use std::io::{self, Write};
use std::path::Path;

use clap::CommandFactory;

use crate::args::Cli;
use crate::exit::{Exit, Problem};

/// Prints the completion script of one shell.
pub(crate) fn completions(shell: clap_complete::Shell) -> Result<Exit, Problem> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "nixci", &mut script);
    io::stdout().lock().write_all(&script)?;
    Ok(Exit::Fine)
}

/// Writes `nixci.1` and a page for every command into `dir`.
pub(crate) fn man(dir: &Path) -> Result<Exit, Problem> {
    let fail =
        |error: io::Error| Problem::failed(format!("failed to write man pages into `{}`: {error}", dir.display()));
    std::fs::create_dir_all(dir).map_err(fail)?;
    clap_mangen::generate_to(Cli::command(), dir).map_err(fail)?;
    Ok(Exit::Fine)
}

//! One file per command.

mod generate;

use crate::args::{Cli, Command};
use crate::exit::{Exit, Problem};

/// Does what the command line says.
pub(crate) async fn run(cli: Cli) -> Result<Exit, Problem> {
    match cli.command {
        Command::Completions { shell } => generate::completions(shell),
        Command::Man { dir } => generate::man(&dir),
        Command::Submit(_)
        | Command::Status(_)
        | Command::Watch(_)
        | Command::Log(_)
        | Command::Jobs(_)
        | Command::Diff(_)
        | Command::Restart(_)
        | Command::Cancel(_)
        | Command::Copy(_)
        | Command::Doctor => Err(Problem::failed("this command cannot reach a daemon yet")),
    }
}

//! `nixci-daemon`: its arguments. What its commands do is in [`command`].

// An optimised build looks through the futures of a connection down to the last operation.
#![recursion_limit = "256"]

mod command;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};
use nixci_daemon::generate;

use command::backup::{backup, restore};
use command::serve::{LogFormat, serve};
use command::stdio::{lowered, only_store, stdio};
use command::token::{TokenCommand, hash_token, tokens};

/// A Nix-native CI daemon: takes derivations, builds them on Nix stores, remembers what became of them.
#[derive(Debug, Parser)]
#[command(name = "nixci-daemon", version = nixci_daemon::VERSION, args_conflicts_with_subcommands = true)]
struct Args {
    /// The configuration; without one the daemon runs with the defaults of the current user. `check-config`, `token`
    /// and other commands for a daemon take `/etc/nixci/nixci.toml` where it exists.
    #[arg(long, value_name = "FILE", env = "NIXCI_CONFIG", global = true)]
    config: Option<PathBuf>,
    /// How log lines look on standard error; `NIXCI_LOG` sets the level (`info`, `nixci_daemon=debug`).
    #[arg(long, value_enum, default_value = "text", global = true)]
    log_format: LogFormat,
    /// The same as the command `stdio`, so that stock clients can name this program as `remote-program`.
    #[arg(long, hide = true)]
    stdio: bool,
    /// Given by stock clients whose URI has `remote-store`.
    #[arg(long, hide = true, requires = "stdio")]
    store: Option<String>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Checks a configuration and says what is wrong with it, line by line.
    CheckConfig {
        /// The file; the one of `--config` by default, then `/etc/nixci/nixci.toml`.
        file: Option<PathBuf>,
    },
    /// Connects standard input and output to the running daemon, as `remote-program` of `ssh-ng://`.
    Stdio {
        /// The daemon's socket; by default that of the configuration, then the user's, then the system's.
        #[arg(long, env = "NIXCI_SOCKET")]
        socket: Option<PathBuf>,
        /// Speaks for the holder of an ssh key, by this name and without trust: for `command="…"` in
        /// `authorized_keys`. Works as root or as the daemon's own user.
        #[arg(long, value_name = "NAME")]
        principal: Option<String>,
        /// The holder of the key is trusted as far as the user that runs this is.
        #[arg(long, requires = "principal")]
        trusted: bool,
        /// Given by stock clients; this is what the command does anyway.
        #[arg(long = "stdio", hide = true)]
        _stdio: bool,
        /// Given by stock clients whose URI has `remote-store`.
        #[arg(long, hide = true)]
        store: Option<String>,
    },
    /// Makes, lists and revokes tokens, beside a running daemon. To be run as the daemon's user.
    Token {
        #[command(subcommand)]
        what: TokenCommand,
    },
    /// Writes a backup of the state of a daemon, which may run meanwhile, into a new folder. To be run as the daemon's
    /// user or root. Configuration, keys and token files are not part of it.
    Backup {
        /// The folder, which must not be there yet, or be empty.
        dest: PathBuf,
        /// Prints what was written as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Makes a backup the state of a daemon that has none and does not run. To be run as the daemon's user or root.
    Restore {
        /// The folder of the backup.
        source: PathBuf,
        /// Only reads all of it and says whether it is sound.
        #[arg(long)]
        check: bool,
        /// Prints what was in it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Prints the SHA-256 of a token, for `[[token]]` in the configuration.
    HashToken {
        /// Makes a token and prints it with its hash, in place of reading one from standard input.
        #[arg(long)]
        new: bool,
    },
    /// Prints a completion script for a shell.
    #[command(hide = true)]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Writes a man page for every command into a folder.
    #[command(hide = true)]
    Man {
        /// The folder; made when missing.
        dir: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            let mut stderr = std::io::stderr().lock();
            // Nothing can be done where even standard error is gone.
            drop(writeln!(stderr, "nixci-daemon: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Some(Command::CheckConfig { file }) => command::check(file.or(args.config).as_deref()),
        Some(Command::Stdio {
            socket,
            principal,
            trusted,
            store,
            _stdio,
        }) => {
            only_store(store.as_deref())?;
            let lowered = principal.map(|name| lowered(&name, trusted)).transpose()?;
            stdio(socket, args.config.as_deref(), lowered.as_ref())
        }
        Some(Command::Completions { shell }) => {
            generate::completions(Args::command(), shell)?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::Man { dir }) => {
            generate::man_pages(Args::command(), &dir)
                .with_context(|| format!("failed to write man pages into `{}`", dir.display()))?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::HashToken { new }) => hash_token(new),
        Some(Command::Backup { dest, json }) => backup(&command::administered(args.config.as_deref())?, &dest, json),
        Some(Command::Restore { source, check, json }) => {
            let config = if check {
                None
            } else {
                Some(command::administered(args.config.as_deref())?)
            };
            restore(config.as_ref(), &source, json)
        }
        Some(Command::Token { what }) => tokens(&command::administered(args.config.as_deref())?, what),
        None if args.stdio => {
            only_store(args.store.as_deref())?;
            stdio(None, args.config.as_deref(), None)
        }
        None => serve(args.config.as_deref(), args.log_format),
    }
}

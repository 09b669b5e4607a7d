//! `nixci-daemon`: arguments, logs and signals around [`nixci_daemon::start`].

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use nixci_daemon::backup::{self, Manifest};
use nixci_daemon::{Config, Issuer, Lowered, TokenHash, Wish};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// The longest token that is read.
const TOKEN_BYTES: u64 = 4096;

/// A Nix-native CI daemon: takes derivations, builds them on Nix stores, remembers what became of them.
#[derive(Debug, Parser)]
#[command(name = "nixci-daemon", version, args_conflicts_with_subcommands = true)]
struct Args {
    /// The configuration; without one the daemon runs with the defaults of the current user.
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Checks a configuration and says what is wrong with it, line by line.
    CheckConfig {
        /// The file; the one of `--config` by default.
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
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Makes a token and prints it, once.
    Create {
        /// Its name, in records and for `revoke`.
        #[arg(long)]
        name: String,
        /// What it may: `read`, `submit`, `restart` or `admin`; may be given several times.
        #[arg(long = "right", value_name = "RIGHT", required = true)]
        rights: Vec<String>,
        /// A project it is for, or a pattern such as `owner/*`; may be given several times. All without it.
        #[arg(long = "project", value_name = "PROJECT")]
        projects: Vec<String>,
        /// How long it is good, such as `90d`, or until when, such as `2027-01-01`.
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
    },
    /// Shows the tokens that were made: what they may, until when, and when they were used last.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Lets a token do nothing more. Connections that are open stay.
    Revoke {
        /// Its name.
        name: String,
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
        Some(Command::CheckConfig { file }) => {
            let config = load(file.or(args.config).as_deref())?;
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
        Some(Command::HashToken { new }) => hash_token(new),
        Some(Command::Backup { dest, json }) => take_backup(&load(args.config.as_deref())?, &dest, json),
        Some(Command::Restore { source, check, json }) => {
            let config = if check {
                None
            } else {
                Some(load(args.config.as_deref())?)
            };
            restore(config.as_ref(), &source, json)
        }
        Some(Command::Token { what }) => tokens(&load(args.config.as_deref())?, what),
        None if args.stdio => {
            only_store(args.store.as_deref())?;
            stdio(None, args.config.as_deref(), None)
        }
        None => serve(load(args.config.as_deref())?, args.log_format),
    }
}

fn load(path: Option<&Path>) -> anyhow::Result<Config> {
    Ok(match path {
        Some(path) => Config::load(path)?,
        None => Config::per_user()?,
    })
}

fn lowered(name: &str, trusted: bool) -> anyhow::Result<Lowered> {
    Lowered::new(name, trusted)
        .with_context(|| format!("`{name}` cannot be a principal; use letters, digits and `._+@-`, at most 64 of them"))
}

/// There is one store here, whatever the client would like.
fn only_store(asked: Option<&str>) -> anyhow::Result<()> {
    match asked {
        None | Some("" | "auto" | "daemon") => Ok(()),
        Some(other) => {
            anyhow::bail!(
                "only the store of this daemon can be reached here, not `{other}`; leave `remote-store` out of the client's URI"
            )
        }
    }
}

fn hash_token(new: bool) -> anyhow::Result<ExitCode> {
    let mut stdout = std::io::stdout().lock();
    if new {
        let token = nixci_daemon::new_token()?;
        let hash = TokenHash::of(&token)?;
        writeln!(stdout, "token:  {token}\nsha256: {hash}")?;
    } else {
        let mut token = String::new();
        std::io::stdin()
            .take(TOKEN_BYTES)
            .read_to_string(&mut token)
            .context("failed to read a token from standard input")?;
        writeln!(stdout, "{}", TokenHash::of(token.trim_end_matches(['\r', '\n']))?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn take_backup(config: &Config, dest: &Path, json: bool) -> anyhow::Result<ExitCode> {
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
fn restore(config: Option<&Config>, source: &Path, json: bool) -> anyhow::Result<ExitCode> {
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

fn tokens(config: &Config, what: TokenCommand) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?
        .block_on(async {
            let issuer = Issuer::open(config)?;
            let done = with_tokens(&issuer, what).await;
            issuer.close().await;
            done
        })
}

async fn with_tokens(issuer: &Issuer, what: TokenCommand) -> anyhow::Result<ExitCode> {
    let mut stdout = std::io::stdout().lock();
    match what {
        TokenCommand::Create {
            name,
            rights,
            projects,
            expires,
        } => {
            let token = issuer
                .create(Wish {
                    name,
                    rights,
                    projects,
                    expires,
                })
                .await?;
            writeln!(stdout, "{token}")?;
        }
        TokenCommand::List { json } => {
            let rows = issuer.list().await?;
            if json {
                let rows: Vec<_> = rows
                    .iter()
                    .map(|row| {
                        serde_json::json!({
                            "name": row.name,
                            "rights": row.rights,
                            "projects": row.projects,
                            "created": row.created,
                            "expires": row.expires,
                            "used": row.used,
                        })
                    })
                    .collect();
                writeln!(stdout, "{}", serde_json::to_string_pretty(&rows)?)?;
            } else {
                for row in &rows {
                    let projects = row
                        .projects
                        .as_ref()
                        .map_or_else(|| "all projects".to_owned(), |all| all.join(" "));
                    let rights = row.rights.join(",");
                    let (expires, used) = (day(row.expires, "never expires"), day(row.used, "never used"));
                    writeln!(stdout, "{}\t{rights}\t{projects}\t{expires}\t{used}", row.name)?;
                }
            }
        }
        TokenCommand::Revoke { name } => {
            issuer.revoke(&name).await?;
            writeln!(stdout, "revoked {name}")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A time in milliseconds since the Unix epoch, as people read it.
fn day(at: Option<i64>, none: &str) -> String {
    at.and_then(|at| jiff::Timestamp::from_millisecond(at).ok())
        .map_or_else(|| none.to_owned(), |at| at.strftime("%Y-%m-%d %H:%M UTC").to_string())
}

fn stdio(socket: Option<PathBuf>, config: Option<&Path>, lowered: Option<&Lowered>) -> anyhow::Result<ExitCode> {
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

fn serve(config: Config, log_format: LogFormat) -> anyhow::Result<ExitCode> {
    log_to_stderr(log_format);
    nixci_daemon::raise_file_limit();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?
        .block_on(async {
            let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
            let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for SIGINT")?;
            let running = nixci_daemon::start(config).await?;
            let told = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
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
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => logs.with_target(false).init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
}

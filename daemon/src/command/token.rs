//! `token` and `hash-token`.

use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use nixci_daemon::{Config, Issuer, TokenHash, Wish};

/// The longest token that is read.
const TOKEN_BYTES: u64 = 4096;

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
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
    /// Lets a token do nothing more. An open connection ends at its next request.
    Revoke {
        /// Its name.
        name: String,
    },
}

/// Makes, lists or revokes tokens, beside a running daemon.
pub(crate) fn tokens(config: &Config, what: TokenCommand) -> anyhow::Result<ExitCode> {
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

/// Prints the hash of a token.
pub(crate) fn hash_token(new: bool) -> anyhow::Result<ExitCode> {
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

//! The command line.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

use crate::artifact::Limit;
use crate::evaluate::Evaluator;

const EXIT_CODES: &str = "\
Exit codes:
  0  fine
  1  something failed: a build, an evaluation, the command itself
  2  usage: the command line or an input file is wrong
  3  not finished: builds still run
  4  the daemon or a store cannot be reached
  5  not allowed";

/// The version, with the commit it was built from where that is known: `0.1.0 (709f23d0a1b2 2026-11-21)`.
pub(crate) const VERSION: &str = env!("NIXCI_VERSION");

/// Submit Nix builds to a nixci daemon and read what became of them.
#[derive(Debug, Parser)]
#[command(name = "nixci", version = VERSION, propagate_version = true, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// The daemon: `unix://PATH`, a socket's path, `https://HOST`, or `ssh-ng://HOST`
    ///
    /// Without it: `$XDG_RUNTIME_DIR/nixci/socket` where that exists, else `/run/nixci/socket`. For `copy`, the
    /// store to copy to.
    #[arg(long, global = true, env = "NIXCI_TO", value_name = "URI")]
    pub(crate) to: Option<String>,

    /// A file with the token for a daemon behind `https://`
    ///
    /// Without it: `NIXCI_TOKEN`, what `nixci login` saved, or the token that the CI issues to this job: GitHub and
    /// Forgejo Actions are asked for one, GitLab CI gives it as `NIXCI_ID_TOKEN`. `NIXCI_AUDIENCE` says for whom it is,
    /// where the daemon knows itself by another address than this.
    #[arg(long, global = true, env = "NIXCI_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,

    /// Use `http://` also to another machine, where everybody on the way can read and use the token
    #[arg(long, global = true, env = "NIXCI_INSECURE_HTTP", value_parser = clap::builder::BoolishValueParser::new())]
    pub(crate) insecure_http: bool,

    /// Print JSON: one value, or one per line where there is a stream of events
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Say more; twice: what the libraries do
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,

    /// Colours: `NO_COLOR` and pipes are honoured by `auto`
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub(crate) color: Color,
}

/// When to print colours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Evaluate, send what the daemon lacks, and have it built
    #[command(after_help = SUBMIT_EXAMPLES)]
    Submit(Box<Submit>),
    /// Where evaluations stand
    Status(Status),
    /// Follow an evaluation to its end
    Watch(Watch),
    /// The log of a job, a derivation or an attempt
    Log(Log),
    /// The jobs of an evaluation and what became of them
    Jobs(Jobs),
    /// What one evaluation says against another
    #[command(after_help = "Example:\n  nixci diff main HEAD --format markdown")]
    Diff(Diff),
    /// Forget failures and try again
    Restart(Target),
    /// Stop what nobody else wants
    Cancel(Target),
    /// What forges were told of an evaluation, and whether they took it
    #[command(after_help = REPORT_EXITS)]
    Report(Report),
    /// Copy store paths and what they need to any daemon store, sending only what it lacks
    #[command(after_help = "Example:\n  nix-instantiate | nixci copy --to ssh-ng://builder --stdin")]
    Copy(Copy),
    /// Delete what nobody needs of what was uploaded to the daemon, and forget old evaluations
    #[command(after_help = "What is kept for how long is said in [retention] of the daemon's configuration.")]
    Gc(Gc),
    /// Try a token for a daemon behind https:// and keep it; it is read from standard input
    #[command(after_help = "Example:\n  nixci login --to https://ci.example.org < token")]
    Login,
    /// Forget the token for a daemon
    Logout,
    /// Check everything nixci needs here, and say what to do
    Doctor,
    /// Print a completion script for a shell
    #[command(hide = true)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write a man page for every command into a folder
    #[command(hide = true)]
    Man {
        /// The folder; made when missing
        dir: PathBuf,
    },
}

const REPORT_EXITS: &str = "Ends with 0 when forges have everything, 3 while something is to be sent, 1 when something was \
                            refused.";

const SUBMIT_EXAMPLES: &str = "\
Examples:
  nixci submit                          the checks of the flake here; returns at once
  nixci submit .#packages --wait        stay, and end with the verdict
  nixci submit --file ci.nix -A tests
  nixci submit --jobs-file jobs.tsv     lines of `attribute<TAB>/nix/store/….drv`
  nixci submit --embedded               without a daemon: run one for this submission
  nixci submit --artifact ci.nixci      in the job of a fork's pull request, which has no rights
  nixci submit --from-artifact ci.nixci in a `workflow_run` job, which has them";

/// `nixci submit`
#[derive(Debug, Args)]
pub(crate) struct Submit {
    /// A flake reference with an attribute (`.#checks` if nothing is given), or ready `.drv` paths
    #[arg(value_name = "FLAKEREF#ATTR|DRV", conflicts_with_all = ["file", "expr", "jobs_file"])]
    pub(crate) what: Vec<String>,

    /// Stay until everything is built; end with the verdict
    #[arg(long, short = 'w')]
    pub(crate) wait: bool,

    /// Run the daemon inside this process, for this submission (implies --wait; --to is not used)
    #[arg(long)]
    pub(crate) embedded: bool,

    /// The local store to read, as Nix finds it without this; `local?root=DIR` for a chroot store
    #[arg(long, value_name = "STORE")]
    pub(crate) from: Option<String>,

    #[command(flatten)]
    pub(crate) artifact: ArtifactArgs,

    #[command(flatten)]
    pub(crate) source: SourceArgs,

    #[command(flatten)]
    pub(crate) about: About,

    #[command(flatten)]
    pub(crate) evaluator: EvaluatorArgs,
}

/// By way of a file.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Where a job has no rights (pull requests from forks)")]
pub(crate) struct ArtifactArgs {
    /// Evaluate, and write everything into a file in place of sending it; needs no daemon and no token. `-` is standard
    /// output
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from_artifact", "wait", "embedded"])]
    pub(crate) artifact: Option<PathBuf>,

    /// Send such a file, after all of it was checked; `-` is standard input
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["what", "file", "expr", "jobs_file", "apply", "from", "embedded"]
    )]
    pub(crate) from_artifact: Option<PathBuf>,

    /// Take more, or less, of such a file, such as `unpacked=16G`; may be given many times
    #[arg(long = "artifact-limit", value_name = "NAME=N", requires = "from_artifact")]
    pub(crate) limits: Vec<Limit>,
}

/// Other things to evaluate than a flake.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "What to evaluate", group = ArgGroup::new("not_a_flake").args(["file", "expr"]))]
pub(crate) struct SourceArgs {
    /// Evaluate a Nix file
    #[arg(long, short = 'f', value_name = "FILE", conflicts_with_all = ["expr", "jobs_file"])]
    pub(crate) file: Option<PathBuf>,

    /// Evaluate a Nix expression
    #[arg(long, short = 'E', value_name = "EXPR", conflicts_with = "jobs_file")]
    pub(crate) expr: Option<String>,

    /// The attribute of the file or expression
    #[arg(long = "attr", short = 'A', value_name = "ATTR", requires = "not_a_flake")]
    pub(crate) attr: Option<String>,

    /// A function from the evaluated value to the set of jobs, to select and to label
    #[arg(long, value_name = "FUNCTION", conflicts_with = "jobs_file")]
    pub(crate) apply: Option<String>,

    /// Read lines of `attribute<TAB>derivation`; `-` is standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) jobs_file: Option<PathBuf>,
}

/// What the submission says of itself; found in the environment of a CI, else by asking git.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "What it is (found by itself in CI and git checkouts)")]
pub(crate) struct About {
    /// The project, as `owner/name`
    #[arg(long)]
    pub(crate) project: Option<String>,

    /// The commit, forty hexadecimal digits
    #[arg(long)]
    pub(crate) commit: Option<String>,

    /// The branch or tag
    #[arg(long = "ref", value_name = "REF")]
    pub(crate) git_ref: Option<String>,

    /// The commit to compare with
    #[arg(long, value_name = "COMMIT")]
    pub(crate) base: Option<String>,

    /// The number of the pull request
    #[arg(long, value_name = "NUMBER")]
    pub(crate) pull_request: Option<u64>,

    /// Have it built although its pull request is closed, or has another head by now
    #[arg(long)]
    pub(crate) again: bool,

    /// A label shown beside the evaluation; may be given many times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) labels: Vec<(String, String)>,
}

/// How to evaluate.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Evaluator")]
pub(crate) struct EvaluatorArgs {
    /// Which program evaluates
    #[arg(long, value_enum, default_value_t, value_name = "PROGRAM")]
    pub(crate) evaluator: Evaluator,

    /// Evaluator processes at once; from the machine's cores and memory without this
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) workers: Option<u32>,

    /// Memory an evaluator process may use, in MiB
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(64..))]
    pub(crate) max_memory: Option<u64>,

    /// Enter every attribute set, not only those with `recurseForDerivations`
    #[arg(long)]
    pub(crate) force_recurse: bool,

    /// Call a file or expression that is a function with this expression; may be given many times
    #[arg(long, num_args = 2, value_names = ["NAME", "EXPR"], allow_hyphen_values = true)]
    pub(crate) arg: Vec<String>,

    /// Call it with this text; may be given many times
    #[arg(long, num_args = 2, value_names = ["NAME", "TEXT"], allow_hyphen_values = true)]
    pub(crate) argstr: Vec<String>,

    /// An argument for the program that evaluates, such as `--override-input`; may be given many times
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) nix_arg: Vec<String>,

    /// Let the evaluation read the environment and the clock
    #[arg(long)]
    pub(crate) impure: bool,

    /// Only derivations of this system; may be given many times
    #[arg(long, value_name = "SYSTEM")]
    pub(crate) system: Vec<String>,
}

/// `nixci status`
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// An evaluation's number, a commit, or `latest`; without it, the newest evaluations are listed
    #[arg(value_name = "EVAL|COMMIT")]
    pub(crate) which: Option<String>,

    /// Only of this project
    #[arg(long)]
    pub(crate) project: Option<String>,

    /// How many to list
    #[arg(long, short = 'n', default_value_t = 20, value_name = "N")]
    pub(crate) limit: u32,
}

/// `nixci watch`
#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// An evaluation's number or a commit; the newest without it
    #[arg(value_name = "EVAL|COMMIT")]
    pub(crate) which: Option<String>,

    /// Only of this project
    #[arg(long)]
    pub(crate) project: Option<String>,
}

/// `nixci log`
#[derive(Debug, Args)]
pub(crate) struct Log {
    /// A job's attribute path, or a `.drv` path
    #[arg(
        value_name = "ATTR|DRV",
        required_unless_present = "attempt",
        conflicts_with = "attempt"
    )]
    pub(crate) what: Option<String>,

    /// The evaluation the job belongs to: its number or a commit; the newest without it
    #[arg(value_name = "EVAL|COMMIT", conflicts_with = "attempt")]
    pub(crate) which: Option<String>,

    /// The log of this attempt
    #[arg(long, value_name = "N")]
    pub(crate) attempt: Option<i64>,

    /// Go on until the build ends
    #[arg(long, short = 'f')]
    pub(crate) follow: bool,

    /// Only of this project
    #[arg(long)]
    pub(crate) project: Option<String>,
}

/// `nixci jobs`
#[derive(Debug, Args)]
pub(crate) struct Jobs {
    /// An evaluation's number or a commit; the newest without it
    #[arg(value_name = "EVAL|COMMIT")]
    pub(crate) which: Option<String>,

    /// Only jobs that failed, are blocked or did not evaluate
    #[arg(long)]
    pub(crate) failed: bool,

    /// Only of this project
    #[arg(long)]
    pub(crate) project: Option<String>,
}

/// `nixci report`
#[derive(Debug, Args)]
pub(crate) struct Report {
    /// An evaluation's number or a commit; the newest without it
    #[arg(value_name = "EVAL|COMMIT")]
    pub(crate) which: Option<String>,

    /// Send all of it again, also what a forge has refused
    #[arg(long)]
    pub(crate) again: bool,

    /// Only of this project
    #[arg(long)]
    pub(crate) project: Option<String>,
}

/// `nixci diff`
#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// What to compare with: an evaluation's number, a commit, or a name git knows
    #[arg(value_name = "BASE")]
    pub(crate) base: String,

    /// The evaluation in question
    #[arg(value_name = "HEAD", default_value = "latest")]
    pub(crate) head: String,

    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,

    /// Only of this project
    #[arg(long)]
    pub(crate) project: Option<String>,
}

/// How a verdict is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For a terminal.
    #[default]
    Table,
    /// For a comment or a summary.
    Markdown,
    /// For a program; the same as `--json`.
    Json,
}

/// `nixci restart` and `nixci cancel`
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// An evaluation's number, a commit, or a `.drv` path
    #[arg(value_name = "EVAL|COMMIT|DRV")]
    pub(crate) what: String,

    /// Only of this project
    #[arg(long)]
    pub(crate) project: Option<String>,
}

/// `nixci copy`
#[derive(Debug, Args)]
pub(crate) struct Copy {
    /// Store paths, or links to them
    #[arg(value_name = "PATH", required_unless_present = "stdin")]
    pub(crate) paths: Vec<PathBuf>,

    /// Read paths from standard input too, one per line
    #[arg(long)]
    pub(crate) stdin: bool,

    /// The local store to read, as Nix finds it without this
    #[arg(long, value_name = "STORE")]
    pub(crate) from: Option<String>,

    /// Copy the derivations that made the paths in place of the paths
    #[arg(long)]
    pub(crate) derivation: bool,
}

/// `nixci gc`
#[derive(Debug, Args)]
pub(crate) struct Gc {
    /// Only say what would be deleted
    #[arg(long)]
    pub(crate) dry_run: bool,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label is KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests;

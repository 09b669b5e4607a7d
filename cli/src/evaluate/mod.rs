//! Evaluation: from a flake, a file or an expression to a stream of derivations.
//!
//! [`run`] starts it and returns at once; what is found arrives as [`Event`]s. `nix-eval-jobs` does the
//! work where it is on `PATH`; otherwise the built-in evaluator walks the attributes with short-lived
//! `nix eval` processes, each of which handles many attributes and says which one it is at, so that a
//! broken attribute costs one restart and never its neighbours.
//!
//! Three failures are kept apart: an attribute that does not evaluate ([`Event::AttrError`]), a source
//! that does not evaluate at all ([`FatalKind::WholeEvaluation`]), and an evaluator that was killed,
//! mostly for want of memory ([`FatalKind::Killed`]).
//!
//! Every derivation is a root of the garbage collector before its event is sent, and stays one until the
//! [`Evaluation`] is dropped. Dropping it early kills what still runs.

mod batch;
mod builtin;
mod chunk;
mod eval_jobs;
mod lines;
mod message;
mod names;
mod process;
mod resources;
mod roots;
mod script;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use nixci_protocol::nixci::attr_path::{AttrPath, ParseAttrPathError};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use roots::Roots;

/// Events that may wait for the reader; a full channel holds the evaluators back.
const EVENTS: usize = 1024;

/// What is evaluated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// An attribute of a flake, evaluated purely unless [`Options::impure`] says otherwise.
    Flake {
        /// A flake reference as `nix` takes it, without `#`.
        reference: String,
        /// The attribute under the flake's outputs. Those that hold one set per system (`checks`,
        /// `packages`, …) are walked for all systems.
        attribute: AttrPath,
    },
    /// A file, evaluated impurely, as `nix-build` does. A function is called with what [`Options::nix_args`] has.
    File {
        /// The file, or a folder with a `default.nix`.
        path: PathBuf,
        /// The attribute under what it evaluates to; empty for all of it.
        attribute: AttrPath,
    },
    /// An expression, evaluated impurely. A function is called with what [`Options::nix_args`] has.
    Expr {
        /// The expression.
        text: String,
        /// The attribute under what it evaluates to; empty for all of it.
        attribute: AttrPath,
    },
}

impl Source {
    /// Reads `REFERENCE#ATTRIBUTE` as it is typed; without an attribute it is `checks`. A folder below
    /// this one that holds a flake may be named without `./`, where Nix itself looks in its registry.
    ///
    /// # Errors
    /// When the part behind `#` is not an attribute path.
    pub(crate) fn flake(text: &str) -> Result<Self, ParseAttrPathError> {
        Self::flake_from(text, Path::new(""))
    }

    fn flake_from(text: &str, here: &Path) -> Result<Self, ParseAttrPathError> {
        let (reference, attribute) = text.split_once('#').unwrap_or((text, ""));
        // A leading dot asks Nix not to look under `packages`; here nothing is looked for there anyway.
        let attribute = attribute.strip_prefix('.').unwrap_or(attribute);
        let is_folder = |reference: &str| {
            reference.contains('/')
                && !reference.contains(':')
                && !reference.starts_with(['.', '/', '~'])
                && here.join(reference).join("flake.nix").is_file()
        };
        Ok(Self::Flake {
            reference: match reference {
                "" => ".".to_owned(),
                folder if is_folder(folder) => format!("./{folder}"),
                reference => reference.to_owned(),
            },
            attribute: if attribute.is_empty() { "checks" } else { attribute }.parse()?,
        })
    }

    fn attribute(&self) -> &AttrPath {
        match self {
            Self::Flake { attribute, .. } | Self::File { attribute, .. } | Self::Expr { attribute, .. } => attribute,
        }
    }
}

/// Which program evaluates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Evaluator {
    /// `nix-eval-jobs` when it is on `PATH`, else the built-in one.
    #[default]
    Auto,
    /// `nix-eval-jobs`.
    NixEvalJobs,
    /// The built-in one, which needs only `nix`.
    BuiltIn,
}

/// How it is evaluated. The defaults suit a CI run on this machine.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    /// Which program evaluates.
    pub(crate) evaluator: Evaluator,
    /// A Nix function that is given the attribute set. It returns a list of `{ attr, label }`, where
    /// `attr` is a dotted text or a list of names and `label`, if any, becomes the name of the job; or
    /// the set that is walked in place of the first.
    pub(crate) apply: Option<String>,
    /// Enters every attribute set, not only those with `recurseForDerivations = true`.
    pub(crate) force_recurse: bool,
    /// Only derivations of these systems; all when empty. Where jobs are grouped by system, the others are
    /// not evaluated at all.
    pub(crate) systems: Vec<String>,
    /// Evaluates a flake impurely.
    pub(crate) impure: bool,
    /// Evaluators at once; by default as many as there are cores, and memory for.
    pub(crate) workers: Option<usize>,
    /// MiB that one evaluator may use; by default its share of the memory that is free.
    pub(crate) max_memory: Option<u64>,
    /// Arguments for the program that evaluates, such as `--override-input` or `--option`. `--arg NAME
    /// EXPR` and `--argstr NAME TEXT` are what a file or an expression that is a function is called with.
    pub(crate) nix_args: Vec<String>,
    /// The store that is evaluated into, as with Nix's `--store`; by default the one Nix finds itself.
    pub(crate) store: Option<String>,
    /// The folder that holds `nix`, `nix-instantiate` and `nix-eval-jobs`, the last if at all; by default
    /// they are looked for on `PATH`.
    pub(crate) nix_bin: Option<PathBuf>,
}

/// What comes out of an evaluation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// An attribute is a derivation; its `.drv` is valid and rooted.
    Attr {
        /// The job: the attribute path from the outputs of the flake or the value of the file, or the
        /// label that `apply` gave.
        attr: AttrPath,
        /// Full path of the `.drv`.
        drv_path: String,
        /// Name of the derivation.
        name: String,
        /// System of the derivation.
        system: String,
    },
    /// An attribute does not evaluate.
    AttrError {
        /// The job, as in [`Event::Attr`]. It may be a whole set whose members cannot be listed.
        attr: AttrPath,
        /// What Nix says, without ANSI escapes, of bounded length.
        message: String,
    },
    /// The evaluation is incomplete: there are, or may be, attributes that no event names.
    Fatal {
        /// Of what kind.
        kind: FatalKind,
        /// What happened and what to do, without ANSI escapes, of bounded length.
        message: String,
    },
    /// How far it is; sent whenever a process has ended.
    Progress {
        /// Attributes that are final.
        evaluated: u64,
        /// Attributes known so far; it grows while sets are entered.
        known: u64,
    },
    /// The last event of an evaluation that went as far as it could. A channel that closes without it
    /// belongs to an evaluation that was cut off.
    Done,
}

/// Why an evaluation is incomplete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FatalKind {
    /// The source does not evaluate, or Nix does not run.
    WholeEvaluation,
    /// The evaluator was killed: by us at the limit, or by the kernel.
    Killed {
        /// MiB it had in use when it was last looked at; zero when that is not known.
        memory: u64,
    },
}

/// A running evaluation. Dropping it kills its processes and gives its derivations up for collection, so
/// it must live until everything is submitted.
#[derive(Debug)]
pub(crate) struct Evaluation {
    events: mpsc::Receiver<Event>,
    driver: JoinHandle<()>,
    roots: Roots,
}

impl Evaluation {
    /// The next event; `None` after [`Event::Done`]. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}

impl Drop for Evaluation {
    fn drop(&mut self) {
        tracing::debug!(folder = %self.roots.folder().display(), "giving the roots of an evaluation up");
        self.driver.abort();
    }
}

/// Starts an evaluation. It must be called within a Tokio runtime.
///
/// # Errors
/// When no folder for the roots can be made; everything later is an event.
pub(crate) fn run(source: Source, options: Options) -> std::io::Result<Evaluation> {
    let roots = Roots::create()?;
    let (sender, events) = mpsc::channel(EVENTS);
    let folder = roots.folder().to_owned();
    let driver = tokio::spawn(async move {
        let external = match options.evaluator {
            Evaluator::Auto => eval_jobs::is_there(&options),
            Evaluator::NixEvalJobs => true,
            Evaluator::BuiltIn => false,
        };
        if external {
            eval_jobs::drive(&source, &options, &folder, &sender).await;
        } else {
            builtin::drive(source, options, &folder, &sender).await;
        }
    });
    Ok(Evaluation { events, driver, roots })
}

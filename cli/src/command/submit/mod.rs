//! `nixci submit`: evaluate, send what the daemon lacks, record the jobs.
//!
//! The three overlap. Attributes are gathered for a moment ([`gather`]), their closures negotiated and
//! uploaded and the jobs recorded ([`send`]) while the evaluators go on, so that the first build may
//! start before the last attribute is evaluated. One connection carries all of it. What is evaluated within the first
//! two seconds, and what needs no evaluation, is known to its end before anything is sent and goes in one message.

mod artifact;
mod embedded;
mod gather;
mod jobs_file;
mod outputs;
mod send;
mod source;

use std::io::Read;
use std::path::Path;

use nixci_protocol::nixci::control::{EvaluationSummary, NewJob, Submission};

use super::print;
use super::watch::{self, Host};
use crate::args::{Global, Submit};
use crate::connect::{About, Address, Daemon};
use crate::context::{Context, process_env};
use crate::evaluate;
use crate::exit::{Exit, Problem};
use crate::progress::Screen;
use crate::render;
use crate::transfer::{self, LocalStore};

use embedded::Embedded;
use gather::{Gathered, gather, head_start};
use send::Sender;
use source::{Jobs, Source};

/// Runs the command. Without `--wait` it ends fine when everything is recorded, attribute errors
/// included: they are outcomes, not trouble of the submission; a source that does not evaluate as a
/// whole ends it as failed.
pub(crate) async fn run(global: &Global, args: &Submit) -> Result<Exit, Problem> {
    if let Some(file) = &args.artifact.artifact {
        return artifact::write(global, args, file).await;
    }
    if let Some(file) = &args.artifact.from_artifact {
        return artifact::send(global, args, file).await;
    }
    let local = transfer::local_store(args.from.as_deref())?;
    let store_dir = local.store_dir().clone();
    let source = Source::read(args, &store_dir)?;
    let submission = describe(args, &source)?;
    let mut screen = Screen::choose(global, &process_env);
    let embedded = if args.embedded {
        Some(Embedded::start(args.from.as_deref(), &store_dir).await?)
    } else {
        None
    };
    let address = match &embedded {
        Some(embedded) => embedded.address(),
        None => Address::find(global, &process_env)?,
    };
    let wait = match (&embedded, args.wait) {
        (Some(_), _) => Some(Host::Embedded),
        (None, true) => Some(Host::Daemon),
        (None, false) => None,
    };
    let ended = submit(global, &address, source.jobs, submission, &local, wait, &mut screen).await;
    screen.clear()?;
    if let Some(embedded) = embedded {
        embedded.stop().await;
    }
    ended
}

/// What is said of the submission.
fn describe(args: &Submit, source: &Source) -> Result<Submission, Problem> {
    let mut found = match &source.dir {
        Some(dir) => Context::detect(&process_env, dir),
        None => Context::default(),
    };
    if source.project.is_some() {
        found.project.clone_from(&source.project);
    }
    submission(found.overridden(&args.about), source.words.clone())
}

/// A submission of its own, of this.
fn submission(context: Context, source: String) -> Result<Submission, Problem> {
    for commit in [&context.commit, &context.base].into_iter().flatten() {
        if commit.len() != 40 || !commit.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Problem::usage(format!(
                "`{commit}` is no commit: forty hexadecimal digits are"
            )));
        }
    }
    Ok(Submission {
        key: random_key()?,
        project: context.project.unwrap_or_else(|| "unnamed".to_owned()),
        commit: context.commit.map(|commit| commit.to_ascii_lowercase()),
        git_ref: context.git_ref,
        base: context.base.map(|commit| commit.to_ascii_lowercase()),
        pull_request: context.pull_request,
        source,
        labels: context.labels,
    })
}

/// A key that no other submission has.
fn random_key() -> Result<String, Problem> {
    let mut bytes = [0; 16];
    std::fs::File::open(Path::new("/dev/urandom"))
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| Problem::failed(format!("failed to read `/dev/urandom`: {error}")))?;
    Ok(format!("{:032x}", u128::from_le_bytes(bytes)))
}

async fn submit(
    global: &Global,
    address: &Address,
    jobs: Jobs,
    submission: Submission,
    local: &LocalStore,
    wait: Option<Host>,
    screen: &mut Screen,
) -> Result<Exit, Problem> {
    let sent = match jobs {
        Jobs::Ready(jobs) => whole(address, submission, local, jobs, None, screen).await?,
        Jobs::Evaluate(what) => {
            let (source, options) = *what;
            let mut evaluation = begin(source, options)?;
            let mut next = async || evaluation.next().await;
            let first = head_start(&mut next).await;
            if first.ended {
                let error = (!first.fatal.is_empty()).then(|| first.fatal.join("\n"));
                whole(address, submission, local, first.jobs, error, screen).await?
            } else {
                batches(address, submission, local, first, &mut next, screen).await?
            }
        }
    };
    finish(global, sent, wait, screen).await
}

/// What follows once everything is sent.
async fn finish(global: &Global, sent: Sent, wait: Option<Host>, screen: &mut Screen) -> Result<Exit, Problem> {
    let (daemon, summary, error) = sent;
    outputs::tell(&summary, &process_env);
    if let Some(host) = wait {
        return watch::follow(global, daemon, summary.evaluation, host, screen).await;
    }
    screen.clear()?;
    if !screen.is_json() {
        print(&format!("{}\n", said(&summary)))?;
    }
    tell(error.as_deref())
}

/// How a submission ends whose evaluation failed as a whole, or did not.
fn tell(error: Option<&str>) -> Result<Exit, Problem> {
    match error {
        Some(error) => Err(Problem::failed(format!(
            "the evaluation is incomplete: {}",
            render::first_line(error)
        ))),
        None => Ok(Exit::Fine),
    }
}

/// Starts an evaluation.
fn begin(source: evaluate::Source, options: evaluate::Options) -> Result<evaluate::Evaluation, Problem> {
    evaluate::run(source, options)
        .map_err(|error| Problem::failed(format!("failed to make a folder for garbage collector roots: {error}")))
}

/// What became of a submission: the daemon that has it, where it stands there, and why the evaluation as a whole failed,
/// if it did.
type Sent = (Daemon, EvaluationSummary, Option<String>);

/// Sends a set of jobs that is known to its end.
async fn whole(
    address: &Address,
    submission: Submission,
    local: &LocalStore,
    jobs: Vec<NewJob>,
    error: Option<String>,
    screen: &mut Screen,
) -> Result<Sent, Problem> {
    let store_dir = local.store_dir().clone();
    let about = About::roots(&store_dir, &send::roots(&store_dir, &jobs)?);
    let daemon = Daemon::connect_for(address, about).await?;
    let mut sender = Sender::new(daemon, submission, local, store_dir, screen);
    sender.found(&jobs)?;
    sender.totals.all_evaluated = true;
    let (daemon, summary) = sender.whole(jobs, error.clone()).await?;
    Ok((daemon, summary, error))
}

/// Sends what an evaluation finds while it goes on, after what was found first.
async fn batches(
    address: &Address,
    submission: Submission,
    local: &LocalStore,
    first: Gathered,
    next: &mut impl AsyncFnMut() -> Option<evaluate::Event>,
    screen: &mut Screen,
) -> Result<Sent, Problem> {
    let store_dir = local.store_dir().clone();
    // What is sent first is what happens to be evaluated first: no set that is worth to be recognised.
    let about = About {
        store_dir: store_dir.clone(),
        roots: None,
    };
    let daemon = Daemon::connect_for(address, about).await?;
    let mut sender = Sender::new(daemon, submission, local, store_dir, screen);
    // Long evaluations are seen while they last.
    sender.begin().await?;
    let mut fatal = Vec::new();
    let mut gathered = first;
    loop {
        sender.found(&gathered.jobs)?;
        sender.totals.all_evaluated = gathered.ended;
        sender.show_totals()?;
        fatal.extend(gathered.fatal);
        if !gathered.jobs.is_empty() {
            sender.send(gathered.jobs).await?;
        }
        if gathered.ended {
            break;
        }
        gathered = gather(next).await;
    }
    let error = (!fatal.is_empty()).then(|| fatal.join("\n"));
    let (daemon, summary) = sender.end(error.clone()).await?;
    Ok((daemon, summary, error))
}

/// What is left on the terminal when the client goes home.
fn said(summary: &EvaluationSummary) -> String {
    let number = render::paint(render::STRONG, format!("#{}", summary.evaluation.0));
    let counts = render::counts(&summary.counts);
    match &summary.page {
        Some(page) => format!("{number}  {counts}\n{page}"),
        None => format!(
            "{number}  {counts}\n{}",
            render::paint(render::DIM, format!("nixci watch {}", summary.evaluation.0))
        ),
    }
}

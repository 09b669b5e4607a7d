//! `--artifact` and `--from-artifact`: a submission by way of a file.

use std::io::IsTerminal as _;
use std::path::Path;

use nixci_protocol::nixci::control::{Evaluated, NewJob, Submission};
use serde::Serialize;

use super::super::print_json;
use super::gather::gather;
use super::send::{Sender, roots, without_lost};
use super::source::{Jobs, Source};
use super::{Host, Sent, begin, describe, finish, print, submission, tell};
use crate::args::{Global, Submit};
use crate::artifact::{self, Head, Limits, Unpacked};
use crate::connect::{About, Address, Daemon};
use crate::context::{AGAIN, Context, RUN_ID, process_env};
use crate::exit::{Exit, Problem};
use crate::progress::{Event, Screen};
use crate::render::{plural, size};
use crate::transfer::{self, Source as _};

/// What was written, as `--json` prints it.
#[derive(Serialize)]
struct Written<'a> {
    file: &'a Path,
    jobs: usize,
    paths: u64,
    bytes: u64,
}

/// Evaluates, and writes what was found into a file. Needs neither a daemon nor a token.
///
/// Ends as failed where the evaluation as a whole failed; the file is there then too and says so, so that it can be seen
/// where the file is sent.
pub(super) async fn write(global: &Global, args: &Submit, file: &Path) -> Result<Exit, Problem> {
    let is_piped = artifact::is_standard(file);
    if is_piped && (global.json || std::io::stdout().is_terminal()) {
        return Err(Problem::usage(
            "the artifact would go where people or `--json` read: pipe standard output, or name a file",
        ));
    }
    let local = transfer::local_store(args.from.as_deref())?;
    let store_dir = local.store_dir().clone();
    let source = Source::read(args, &store_dir)?;
    let about = describe(args, &source)?;
    let mut screen = Screen::choose(global, &process_env);
    // What is evaluated stays until it is written.
    let (jobs, error, _evaluation) = match source.jobs {
        Jobs::Ready(jobs) => (jobs, None, None),
        Jobs::Evaluate(what) => {
            let mut evaluation = begin(what.0, what.1)?;
            let (jobs, error) = all(&mut evaluation, &mut screen).await?;
            (jobs, error, Some(evaluation))
        }
    };
    screen.clear()?;
    let (here, nowhere) = local.split(roots(&store_dir, &jobs)?).await?;
    let lost = nowhere.iter().map(|path| store_dir.display(path).to_string()).collect();
    let head = Head {
        store_dir: store_dir.to_string(),
        paths: 0,
        about: about.into(),
        jobs: jobs.iter().map(|job| without_lost(job, &lost)).collect(),
        error: error.clone(),
    };
    let (paths, bytes) = artifact::write(file, head, &local, here).await?;
    let jobs = jobs.len();
    if is_piped {
        // Standard output is the file.
    } else if global.json {
        print_json(&Written {
            file,
            jobs,
            paths,
            bytes,
        })?;
    } else {
        print(&format!(
            "wrote {} with {} to `{}` ({})\n",
            plural(jobs as u64, "job"),
            plural(paths, "path"),
            file.display(),
            size(bytes)
        ))?;
    }
    tell(error.as_deref())
}

/// Everything an evaluation finds.
async fn all(
    evaluation: &mut crate::evaluate::Evaluation,
    screen: &mut Screen,
) -> Result<(Vec<NewJob>, Option<String>), Problem> {
    let mut next = async || evaluation.next().await;
    let (mut jobs, mut fatal) = (Vec::new(), Vec::new());
    loop {
        let gathered = gather(&mut next).await;
        for job in &gathered.jobs {
            if let Evaluated::Error(message) = &job.result {
                screen.show(&Event::AttributeError {
                    attr: &job.attr,
                    message,
                })?;
            }
        }
        jobs.extend(gathered.jobs);
        fatal.extend(gathered.fatal);
        if gathered.ended {
            return Ok((jobs, (!fatal.is_empty()).then(|| fatal.join("\n"))));
        }
    }
}

/// Sends a file that a job without rights wrote. Nothing is sent before all of it is checked.
pub(super) async fn send(global: &Global, args: &Submit, file: &Path) -> Result<Exit, Problem> {
    let address = Address::find(global, &process_env)?;
    let mut screen = Screen::choose(global, &process_env);
    let Unpacked { head, spool, .. } = &artifact::read(file, Limits::with(&args.artifact.limits)).await?;
    let submission = about(args, head)?;
    let roots = roots(spool.store_dir(), &head.jobs)?;
    let daemon = Daemon::connect_for(&address, About::roots(spool.store_dir(), &roots)).await?;
    let mut sender = Sender::new(daemon, submission, spool, spool.store_dir().clone(), &mut screen);
    sender.found(&head.jobs)?;
    sender.totals.all_evaluated = true;
    let (daemon, summary) = sender.whole(head.jobs.clone(), head.error.clone()).await?;
    spool.close().await;
    let sent: Sent = (daemon, summary, head.error.clone());
    finish(global, sent, args.wait.then_some(Host::Daemon), &mut screen).await
}

/// What the submission says of itself: first the user, then the event of the workflow that sends the file, then the file,
/// whose author had no rights.
fn about(args: &Submit, head: &Head) -> Result<Submission, Problem> {
    let hints = head.about.clone();
    let mut event = Context::of_ci(&process_env);
    let of_run = event.labels.contains_key(RUN_ID);
    if !of_run {
        // Not the event of the run that made the file: its commit is another.
        (event.commit, event.git_ref) = (None, None);
    }
    if let (None, Some(event), Some(hint)) = (&args.about.commit, &event.commit, &hints.commit)
        && !event.eq_ignore_ascii_case(hint)
    {
        return Err(Problem::usage(format!(
            "the artifact says that it is of commit {hint}, but the run of the workflow that made it is of {event}: name \
             the right one with --commit, if you are sure"
        )));
    }
    let mut labels = hints.labels;
    // Who may say so is the forge, or who sends it, not the file.
    labels.remove(RUN_ID);
    labels.remove(AGAIN);
    labels.extend(event.labels);
    let context = Context {
        project: event.project.or(Some(hints.project)),
        commit: event.commit.or(hints.commit),
        git_ref: event.git_ref.or(hints.git_ref),
        base: hints.base,
        pull_request: event.pull_request.or(hints.pull_request),
        labels,
    };
    submission(context.overridden(&args.about), hints.source)
}

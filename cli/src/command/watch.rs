//! `nixci watch`: follows an evaluation to its end, and what `submit --wait` does after sending.

use std::collections::HashSet;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use nixci_protocol::nixci::attr_path::AttrPath;
use nixci_protocol::nixci::control::{EvaluationId, EvaluationSummary, Event, Request, Selector};
use nixci_protocol::nixci::verdict::{Verdict, to_markdown};
use tokio::time::MissedTickBehavior;

use super::{exit_of, print};
use crate::args::{Global, Watch};
use crate::connect::{Address, Daemon, Patience};
use crate::context::process_env;
use crate::exit::{Exit, Problem};
use crate::progress::{self, Screen};
use crate::render::{self, Detail};
use crate::select;

/// How often running clocks are redrawn.
const CLOCK: Duration = Duration::from_millis(250);

/// Bytes of Markdown at most in a step summary; GitHub takes a megabyte.
const SUMMARY_BYTES: usize = 900_000;

/// Where the builds live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Host {
    /// In a daemon that goes on when this program ends.
    Daemon,
    /// In this program.
    Embedded,
}

/// Runs the command; it ends as the verdict says.
pub(crate) async fn run(global: &Global, args: &Watch) -> Result<Exit, Problem> {
    let which = select::evaluation(args.which.as_deref(), args.project.as_deref())?;
    let address = Address::find(global, &process_env)?;
    let mut daemon = Daemon::connect(&address).await?;
    // The newest may be another one after a lost connection: its number stays.
    let summary: EvaluationSummary = daemon.ask(&Request::Status { which }).await?;
    let mut screen = Screen::choose(global, &process_env);
    follow(global, daemon, summary.evaluation, Host::Daemon, &mut screen).await
}

/// Follows an evaluation to its end and prints the verdict. An interrupt leaves; the builds go on.
pub(super) async fn follow(
    global: &Global,
    daemon: Daemon,
    evaluation: EvaluationId,
    host: Host,
    screen: &mut Screen,
) -> Result<Exit, Problem> {
    let watched = tokio::select! {
        watched = to_the_end(daemon, evaluation, screen) => watched,
        _ = tokio::signal::ctrl_c() => {
            screen.clear()?;
            let said = match host {
                Host::Daemon => format!("left; the builds go on: `nixci watch {}` comes back to them", evaluation.0),
                Host::Embedded => "stopped; the builds begin again with the next daemon on this state".to_owned(),
            };
            anstream::eprintln!("{said}");
            return Ok(Exit::Unfinished);
        }
    };
    screen.clear()?;
    let (summary, verdict) = watched?;
    if let Some(file) = process_env("GITHUB_STEP_SUMMARY") {
        summarise(Path::new(&file), &verdict);
    }
    if !screen.is_json() {
        let detail = if global.verbose > 0 {
            Detail::Full
        } else {
            Detail::Short
        };
        print(&format!("\n{}", render::verdict(&verdict, detail)))?;
        if let (Host::Daemon, Some(page)) = (host, &summary.page) {
            print(&format!("  {}\n", render::paint(render::DIM, page)))?;
        }
    }
    Ok(exit_of(&verdict))
}

/// Appends the verdict to the summary of a workflow step. A summary that cannot be written changes nothing.
fn summarise(file: &Path, verdict: &Verdict) {
    let text = to_markdown(verdict, SUMMARY_BYTES);
    let opened = std::fs::OpenOptions::new().create(true).append(true).open(file);
    if let Err(error) = opened.and_then(|mut file| writeln!(file, "{text}")) {
        tracing::warn!("failed to write the step summary {}: {error}", file.display());
    }
}

/// The end of an evaluation; a daemon that restarts meanwhile is waited for.
async fn to_the_end(
    mut daemon: Daemon,
    evaluation: EvaluationId,
    screen: &mut Screen,
) -> Result<(EvaluationSummary, Verdict), Problem> {
    let mut seen = HashSet::new();
    loop {
        match once(&mut daemon, evaluation, screen, &mut seen).await {
            Err(problem) if problem.exit() == Exit::Unreachable => {
                let address = daemon.address().clone();
                let mut patience = Patience::new(problem);
                daemon = loop {
                    let (after, reason) = patience.next()?;
                    screen.show(&progress::Event::Retrying {
                        after_ms: after.as_millis() as u64,
                        reason: &reason,
                    })?;
                    tokio::time::sleep(after).await;
                    match Daemon::connect(&address).await {
                        Ok(daemon) => break daemon,
                        Err(problem) => patience.failed(problem)?,
                    }
                };
            }
            ended => return ended,
        }
    }
}

async fn once(
    daemon: &mut Daemon,
    evaluation: EvaluationId,
    screen: &mut Screen,
    seen: &mut HashSet<AttrPath>,
) -> Result<(EvaluationSummary, Verdict), Problem> {
    let which = Selector::Evaluation(evaluation);
    let mut events = daemon.follow(&Request::Watch { which }).await?;
    let mut clock = tokio::time::interval(CLOCK);
    clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        let event = tokio::select! {
            event = events.next::<Event>() => event?,
            _ = clock.tick() => {
                screen.tick();
                continue;
            }
        };
        match event {
            // After a lost connection the jobs that are final come again.
            Some(Event::Job(job)) if !seen.insert(job.attr.clone()) => {}
            Some(event) => {
                screen.show(&progress::Event::Watched(&event))?;
                if let Event::Done { summary, verdict } = event {
                    return Ok((summary, *verdict));
                }
            }
            None => {
                return Err(Problem::unreachable(
                    "the daemon stopped before the evaluation was done",
                ));
            }
        }
    }
}

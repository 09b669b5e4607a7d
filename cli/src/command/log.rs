//! `nixci log`: what a builder printed.

use std::io::{IsTerminal, Write};

use nixci_protocol::nixci::control::{AttemptId, LogEvent, LogOf, Request};

use super::{daemon, print_json};
use crate::args::{Global, Log};
use crate::exit::{Exit, Problem};
use crate::render::LogPrinter;
use crate::select;

/// Runs the command. It ends fine when the log was read, however the build ended.
pub(crate) async fn run(global: &Global, args: &Log) -> Result<Exit, Problem> {
    let request = Request::Log {
        of: whose(args)?,
        follow: args.follow,
    };
    let mut daemon = daemon(global).await?;
    let mut pieces = daemon.follow(&request).await?;
    let mut printer = LogPrinter::new(std::io::stdout().is_terminal());
    let mut out = anstream::AutoStream::auto(std::io::stdout());
    while let Some(piece) = pieces.next::<LogEvent>().await? {
        if global.json {
            print_json(&piece)?;
        } else {
            printer.print(&piece, &mut out)?;
        }
    }
    out.flush()?;
    Ok(Exit::Fine)
}

fn whose(args: &Log) -> Result<LogOf, Problem> {
    if let Some(attempt) = args.attempt {
        return Ok(LogOf::Attempt(AttemptId(attempt)));
    }
    let what = args.what.as_deref().unwrap_or_default();
    if select::is_derivation(what) {
        return Ok(LogOf::Derivation(what.to_owned()));
    }
    let attr = what.parse().map_err(|error| Problem::usage(format!("{error}")))?;
    let which = select::evaluation(args.which.as_deref(), args.project.as_deref())?;
    Ok(LogOf::Job { which, attr })
}

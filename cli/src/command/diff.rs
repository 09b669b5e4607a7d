//! `nixci diff`: what one evaluation says against another.

use nixci_protocol::nixci::control::Request;
use nixci_protocol::nixci::verdict::{Verdict, to_markdown};

use super::{daemon, exit_of, print, print_json};
use crate::args::{Diff, Format, Global};
use crate::exit::{Exit, Problem};
use crate::render::{self, Detail};
use crate::select;

/// Bytes of Markdown at most: what fits into a comment on any forge.
pub(super) const MARKDOWN_BYTES: usize = 60_000;

/// Runs the command; it ends as the verdict says.
pub(crate) async fn run(global: &Global, args: &Diff) -> Result<Exit, Problem> {
    let project = args.project.as_deref();
    let base = Some(select::evaluation(Some(&args.base), project)?);
    let head = select::evaluation(Some(&args.head), project)?;
    let verdict: Verdict = daemon(global).await?.ask(&Request::Verdict { head, base }).await?;
    let format = if global.json { Format::Json } else { args.format };
    match format {
        Format::Table => {
            let detail = if global.verbose > 0 {
                Detail::Full
            } else {
                Detail::Short
            };
            print(&render::verdict(&verdict, detail))?;
        }
        Format::Markdown => print(&to_markdown(&verdict, MARKDOWN_BYTES))?,
        Format::Json => print_json(&verdict)?,
    }
    Ok(exit_of(&verdict))
}

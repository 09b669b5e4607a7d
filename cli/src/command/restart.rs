//! `nixci restart` and `nixci cancel`.

use nixci_protocol::nixci::control::{self, Changed, Request};

use super::{daemon, print, print_json};
use crate::args::{Global, Target};
use crate::exit::{Exit, Problem};
use crate::render::plural;
use crate::select;

/// Forgets failures and tries again.
pub(crate) async fn restart(global: &Global, args: &Target) -> Result<Exit, Problem> {
    change(global, args, "restarted", |what| Request::Restart { what }).await
}

/// Stops what nobody else wants.
pub(crate) async fn cancel(global: &Global, args: &Target) -> Result<Exit, Problem> {
    change(global, args, "cancelled", |what| Request::Cancel { what }).await
}

async fn change(
    global: &Global,
    args: &Target,
    done: &str,
    request: impl FnOnce(control::Target) -> Request,
) -> Result<Exit, Problem> {
    let what = select::target(&args.what, args.project.as_deref())?;
    let changed: Changed = daemon(global).await?.ask(&request(what)).await?;
    if global.json {
        print_json(&changed)?;
    } else if changed.builds == 0 {
        print(&format!("nothing to be {done}\n"))?;
    } else {
        print(&format!("{done} {}\n", plural(changed.builds, "build")))?;
    }
    Ok(Exit::Fine)
}

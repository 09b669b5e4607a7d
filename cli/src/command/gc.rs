//! `nixci gc`.

use std::fmt::Write as _;

use nixci_protocol::nixci::control::{Collected, Info, Request};

use super::{daemon, print, print_json};
use crate::args::{Gc, Global};
use crate::exit::{Exit, Problem};
use crate::render::{grouped, plural, size};

/// Has the daemon forget what is old and delete what nobody needs.
pub(crate) async fn run(global: &Global, args: &Gc) -> Result<Exit, Problem> {
    let mut daemon = daemon(global).await?;
    let info: Info = daemon.ask(&Request::Info).await?;
    if !info.trusted {
        return Err(Problem::new(
            Exit::NotAllowed,
            format!(
                "the daemon collects garbage for its `trusted_users` only, and {} is none: ask its administrator",
                info.principal
            ),
        ));
    }
    let request = Request::CollectGarbage { dry_run: args.dry_run };
    let collected: Collected = daemon.ask(&request).await?;
    if global.json {
        print_json(&collected)?;
    } else {
        print(&text(&collected, args.dry_run))?;
    }
    Ok(Exit::Fine)
}

fn text(collected: &Collected, dry_run: bool) -> String {
    let done = if dry_run { "would delete" } else { "deleted" };
    let mut text = format!(
        "{done} {} of {} in the spool: {} on disk\n",
        plural(collected.objects, "object"),
        grouped(collected.objects_before),
        size(collected.disk_bytes)
    );
    if collected.evaluations > 0 || collected.log_bytes > 0 {
        let done = if dry_run { "would forget" } else { "forgot" };
        let logs = if dry_run {
            String::new()
        } else {
            format!(" and {} of logs", size(collected.log_bytes))
        };
        let evaluations = plural(collected.evaluations, "evaluation");
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{done} {evaluations}{logs}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_freed_is_said_in_two_lines_at_most() {
        let mut collected = Collected {
            objects: 1_478,
            objects_before: 29_718,
            disk_bytes: 2 << 20,
            ..Collected::default()
        };
        assert_eq!(
            text(&collected, false),
            "deleted 1,478 objects of 29,718 in the spool: 2.0 MiB on disk\n"
        );
        collected.evaluations = 1;
        collected.log_bytes = 512;
        assert!(text(&collected, false).ends_with("\nforgot 1 evaluation and 512 B of logs\n"));
        assert!(text(&collected, true).starts_with("would delete 1,478 objects"));
        assert!(text(&collected, true).ends_with("\nwould forget 1 evaluation\n"));
    }
}

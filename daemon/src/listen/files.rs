//! How many files the daemon may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// Files besides those of clients: index, spool, logs, stores, pages.
const OWN_FILES: u64 = 512;
/// A client's own socket, and one to the store behind it.
const FILES_PER_CLIENT: u64 = 2;

/// Takes all the open files the system lets this process have: the soft limit is 1,024 as a courtesy to programs that
/// use `select`, which nothing here does.
pub fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, "failed to raise the number of files that may be open: {error}");
    }
}

/// As many connections as are wanted, or as there are files for.
pub(super) fn connections_that_fit(wanted: usize) -> usize {
    fitting(wanted, getrlimit(Resource::Nofile).current)
}

/// Says in the log that fewer connections fit than are wanted, if that is so.
pub(crate) fn check_connections(wanted: usize) {
    let fit = connections_that_fit(wanted);
    if fit < wanted {
        warn!(
            fit,
            "only {fit} of {wanted} `connections` fit the files this process may open; raise LimitNOFILE of the service"
        );
    }
}

fn fitting(wanted: usize, files: Option<u64>) -> usize {
    let Some(files) = files else { return wanted };
    let room = files.saturating_sub(OWN_FILES) / FILES_PER_CLIENT;
    wanted.min(usize::try_from(room).unwrap_or(usize::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_everything_else() {
        assert_eq!(fitting(4_096, None), 4_096);
        assert_eq!(fitting(4_096, Some(524_288)), 4_096);
        assert_eq!(fitting(4_096, Some(4_096)), 1_792);
        assert_eq!(fitting(4_096, Some(256)), 1);
    }
}

//! How the server shall work for this connection.

use std::collections::BTreeMap;

use super::operations;
use crate::types::Verbosity;

operations! {
    /// Replaces the settings of the connection, the server's own `max-jobs` and `cores` included.
    ///
    /// The default is what a stock client sends when nothing was set.
    SetOptions = 19;
    reply ();
    {
        /// Keep the directories of failed builds.
        keep_failed: bool,
        /// Go on after a failed build.
        keep_going: bool,
        /// Build what cannot be substituted after all.
        try_fallback: bool,
        /// Which text messages the server sends; activities always come.
        verbosity: Verbosity,
        /// Builds at once for this connection.
        max_build_jobs: u64,
        /// Seconds a builder may be silent; 0 is for ever.
        max_silent_time: u64,
        /// Obsolete.
        use_build_hook: u64,
        /// 0 shows builders' output in old servers.
        verbose_build: Verbosity,
        /// Obsolete.
        log_type: u64,
        /// Obsolete.
        print_build_trace: u64,
        /// Cores per build; 0 is all.
        build_cores: u64,
        /// Whether to substitute.
        use_substitutes: bool,
        /// Settings by name; what an untrusted client may not set is ignored with a warning.
        overrides: BTreeMap<String, String>,
    }
}

impl Default for SetOptions {
    fn default() -> Self {
        Self {
            keep_failed: false,
            keep_going: false,
            try_fallback: false,
            verbosity: Verbosity::Info,
            max_build_jobs: 1,
            max_silent_time: 0,
            use_build_hook: 1,
            verbose_build: Verbosity::Vomit,
            log_type: 0,
            print_build_trace: 0,
            build_cores: 0,
            use_substitutes: true,
            overrides: BTreeMap::new(),
        }
    }
}

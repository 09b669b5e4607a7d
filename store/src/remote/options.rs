//! How a store is used: how many connections, how long to wait, and the settings of its builds.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::time::Duration;

use nixci_protocol::op::SetOptions;
use nixci_protocol::types::{StoreDir, Verbosity};

use super::Environment;

/// Connections per store where neither its URI nor its options say: a daemon gives each a process of its own.
const MAX_CONNECTIONS: usize = 8;
/// How long a store may take to answer the handshake. ssh may have to wake a machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// How a [`Remote`](super::Remote) is used.
#[derive(Debug, Clone)]
pub struct RemoteOptions {
    /// At most so many pooled connections; `max-connections` of the URI comes first. Unless told, 8.
    pub max_connections: usize,
    /// How long connecting may take, the handshake included. Unless told, 30 seconds.
    pub connect_timeout: Duration,
    /// How old a pooled connection may become: stores keep what a connection asked to be kept for as long as it lasts.
    /// Unless told, any age.
    pub max_age: Option<Duration>,
    /// The store directory as it is written in paths.
    pub store_dir: StoreDir,
    /// Features of ours to offer in the handshake.
    pub features: Vec<String>,
    /// Settings of every connection.
    pub build: BuildOptions,
    /// The variables of Nix, for `auto` and for programs that are started.
    pub environment: Environment,
}

impl Default for RemoteOptions {
    fn default() -> Self {
        Self {
            max_connections: MAX_CONNECTIONS,
            connect_timeout: CONNECT_TIMEOUT,
            max_age: None,
            store_dir: StoreDir::default(),
            features: Vec::new(),
            build: BuildOptions::default(),
            environment: Environment::of_process(),
        }
    }
}

/// Settings a store shall use for what a connection asks it to build.
///
/// What is `None` shall stay as the store has it. The protocol can only set all or nothing, so when everything is
/// `None` nothing is sent, and otherwise the rest gets what stock Nix sends: see each field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BuildOptions {
    /// Builds at once for one connection. When other settings are sent, `None` becomes the number of processors of
    /// *this* machine, for a store's own `max-jobs` cannot be asked for and 1 would needlessly lower it.
    pub max_jobs: Option<NonZero<u32>>,
    /// Cores per build; 0 is all. Otherwise all.
    pub cores: Option<u32>,
    /// How long a build may print nothing. Otherwise for ever.
    pub max_silent_time: Option<Duration>,
    /// How long a build may take. Otherwise as the store has it, always.
    pub timeout: Option<Duration>,
    /// Whether other builds go on after one failed. Otherwise not.
    pub keep_going: Option<bool>,
    /// Whether to substitute. Otherwise yes.
    pub use_substitutes: Option<bool>,
    /// Whether to build what a substituter promised and did not deliver. Otherwise not.
    pub fallback: Option<bool>,
    /// Which text messages the store sends; log lines of builds come always. Otherwise informational ones.
    pub verbosity: Option<Verbosity>,
    /// Other settings by name. A store that does not trust us ignores most of them.
    pub overrides: BTreeMap<String, String>,
}

impl BuildOptions {
    /// The request that sets them, if anything is to be set.
    pub(super) fn request(&self) -> Option<SetOptions> {
        if *self == Self::default() {
            return None;
        }
        let defaults = SetOptions::default();
        let mut overrides = self.overrides.clone();
        if let Some(timeout) = self.timeout {
            overrides.insert("timeout".to_owned(), whole_seconds(timeout).to_string());
        }
        let processors = || std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
        Some(SetOptions {
            keep_going: self.keep_going.unwrap_or(defaults.keep_going),
            try_fallback: self.fallback.unwrap_or(defaults.try_fallback),
            verbosity: self.verbosity.unwrap_or(defaults.verbosity),
            max_build_jobs: self.max_jobs.map_or_else(processors, |jobs| u64::from(jobs.get())),
            max_silent_time: self.max_silent_time.map_or(defaults.max_silent_time, whole_seconds),
            verbose_build: Verbosity::Error,
            build_cores: self.cores.map_or(defaults.build_cores, u64::from),
            use_substitutes: self.use_substitutes.unwrap_or(defaults.use_substitutes),
            overrides,
            ..defaults
        })
    }
}

/// Seconds, rounded up: 0 would mean for ever.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_set_is_nothing_sent() {
        assert_eq!(BuildOptions::default().request(), None);
    }

    #[test]
    fn a_limit_does_not_lower_the_number_of_jobs_to_one() {
        let options = BuildOptions {
            max_silent_time: Some(Duration::from_millis(1500)),
            timeout: Some(Duration::from_mins(1)),
            ..BuildOptions::default()
        };
        let request = options.request().unwrap();
        assert_eq!(
            request.max_build_jobs,
            std::thread::available_parallelism().unwrap().get() as u64
        );
        assert_eq!(request.max_silent_time, 2);
        assert_eq!(request.overrides["timeout"], "60");
    }
}

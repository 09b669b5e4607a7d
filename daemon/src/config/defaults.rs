//! What holds where the configuration is silent.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nixci_protocol::wire::Limits as WireLimits;

use super::{Cache, Limits, Retention, Users};

/// What the defaults depend on, taken once so that tests can say otherwise.
#[derive(Debug, Clone, Default)]
pub(super) struct Surroundings {
    /// The user the daemon runs as.
    pub uid: u32,
    /// Whether this is the system's daemon, whoever asks: it has the system's folders.
    pub is_system: bool,
    /// `$XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<OsString>,
    /// `$XDG_STATE_HOME`.
    pub state_home: Option<OsString>,
    /// `$HOME`.
    pub home: Option<OsString>,
}

impl Surroundings {
    pub(super) fn of_process() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            uid: rustix::process::geteuid().as_raw(),
            is_system: false,
            runtime_dir: variable("XDG_RUNTIME_DIR"),
            state_home: variable("XDG_STATE_HOME"),
            home: variable("HOME"),
        }
    }

    /// What holds for a configuration in this place.
    pub(super) fn of_file(path: &Path) -> Self {
        Self {
            is_system: path == Path::new(super::SYSTEM_FILE),
            ..Self::of_process()
        }
    }

    /// `$XDG_RUNTIME_DIR/nixci/socket`; `/run/nixci/socket` for root without that variable, and for the system's daemon.
    pub(super) fn socket(&self) -> Result<PathBuf, String> {
        match &self.runtime_dir {
            _ if self.is_system => Ok(PathBuf::from("/run/nixci/socket")),
            Some(dir) => Ok(PathBuf::from(dir).join("nixci/socket")),
            None if self.uid == 0 => Ok(PathBuf::from("/run/nixci/socket")),
            None => {
                Err("there is no XDG_RUNTIME_DIR to put the socket in; name one with `socket` in [listen]".to_owned())
            }
        }
    }

    /// `/var/lib/nixci` for the system's daemon and for root, else `$XDG_STATE_HOME/nixci` or `~/.local/state/nixci`.
    pub(super) fn state_dir(&self) -> Result<PathBuf, String> {
        match (&self.state_home, &self.home) {
            _ if self.is_system => Ok(PathBuf::from("/var/lib/nixci")),
            (Some(dir), _) => Ok(PathBuf::from(dir).join("nixci")),
            (None, _) if self.uid == 0 => Ok(PathBuf::from("/var/lib/nixci")),
            (None, Some(home)) => Ok(PathBuf::from(home).join(".local/state/nixci")),
            (None, None) => Err(
                "there is neither XDG_STATE_HOME nor HOME to keep state in; name a folder with `state_dir`".to_owned(),
            ),
        }
    }

    /// Root and the daemon's own user.
    pub(super) fn trusted_users(&self) -> Vec<Users> {
        let mut users = vec![Users::Uid(0)];
        if self.uid != 0 {
            users.push(Users::Uid(self.uid));
        }
        users
    }
}

/// One slot per core.
pub(super) fn slots() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX))
}

/// The system this program runs on, and the 32-bit one that Nix builds beside it.
pub(super) fn systems() -> Vec<String> {
    let os = if cfg!(target_os = "macos") {
        "darwin"
    } else {
        std::env::consts::OS
    };
    let mut systems = vec![format!("{}-{os}", std::env::consts::ARCH)];
    if cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        systems.push("i686-linux".to_owned());
    }
    systems
}

/// What Nix itself offers by default on such a machine.
pub(super) fn features() -> Vec<String> {
    let mut features = vec![
        "benchmark".to_owned(),
        "big-parallel".to_owned(),
        "nixos-test".to_owned(),
    ];
    if rustix::fs::access("/dev/kvm", rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK).is_ok() {
        features.push("kvm".to_owned());
    }
    features
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4_096,
            connections_per_user: 512,
            handshake_time: Duration::from_secs(30),
            wire: WireLimits::default(),
            jobs: 1_000_000,
            closure_bytes: 16 << 30,
            closure_unpacked_bytes: 64 << 30,
            nar_bytes: 16 << 30,
            log_bytes: 64 << 20,
            // GitHub and GitLab send no more.
            webhook_bytes: 25 << 20,
            build_time: None,
            silent_time: None,
            abandon_after: Duration::from_mins(10),
            known_paths: 250_000,
            known_infos: 50_000,
            known_time: Duration::from_mins(10),
            stop_time: Duration::from_secs(20),
        }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            failures: Duration::from_hours(168),
            evaluations: Duration::from_hours(90 * 24),
            newest: 20,
            uploads: Duration::from_hours(24),
            collect: Some(Duration::from_hours(24)),
        }
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            serve: true,
            // cache.nixos.org has 40: what only this one has is found either way, and the rest should not come from here.
            priority: 50,
            level: 3,
            size: None,
        }
    }
}

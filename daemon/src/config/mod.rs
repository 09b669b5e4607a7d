//! The configuration: one TOML file, checked whole before anything is bound.
//!
//! [`Config`] is what the rest of the daemon sees: every value resolved and valid. [`file`] is the
//! text form and its checks, [`defaults`] what holds where the file is silent or absent.

mod defaults;
mod duration;
mod error;
mod file;
mod forge;
mod keys;
mod oidc;
mod project;
mod secret;
mod signing;
mod size;
mod tokens;
mod users;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nixci_protocol::types::StoreDir;
use nixci_protocol::wire::Limits as WireLimits;

pub(crate) use duration::parse as duration;
pub use error::{ConfigError, Problem};
pub(crate) use file::is_safe_address;
pub use forge::{Forge, ForgeAuth, ForgeKind, Form, Pace, Window};
pub(crate) use oidc::one_fits;
pub use oidc::{Allow, ClaimNames, Oidc, OidcKind, Reuse};
pub use project::{ContextNames, Detail, Home, Project};
pub use secret::{SecretError, SecretFile};
pub use signing::Keys;
pub use tokens::{HashFrom, Projects, Right, Token, point_in_time};
pub use users::Users;

/// Where the configuration of the system's daemon is. Where it names no socket and no state folder they are the system's,
/// whoever reads it: the commands of an administrator then mean the daemon that runs as a user of its own.
pub const SYSTEM_FILE: &str = "/etc/nixci/nixci.toml";

/// Everything the daemon is told. Made by [`Config::load`], [`Config::per_user`] or, in tests and
/// for `--embedded`, [`Config::in_folder`].
#[derive(Debug, Clone)]
pub struct Config {
    /// Where index, spool, logs and lock live. Made when missing.
    pub state_dir: PathBuf,
    /// The store directory whose paths are taken.
    pub store_dir: StoreDir,
    /// What is listened on.
    pub listen: Listen,
    /// Where builds run; never empty, names are unique.
    pub stores: Vec<Store>,
    /// What is refused above which size.
    pub limits: Limits,
    /// What is kept for how long.
    pub retention: Retention,
    /// Who may ask over HTTP by token; names are unique.
    pub tokens: Vec<Token>,
    /// The binary cache over HTTP.
    pub cache: Cache,
    /// Whose signatures count, and with which keys nixci signs.
    pub keys: Keys,
    /// Who is told of verdicts; names are unique.
    pub forges: Vec<Forge>,
    /// Which projects are told where. The first that fits counts.
    pub projects: Vec<Project>,
    /// Whose jobs are let in without a token of ours; issuers are unique.
    pub oidc: Vec<Oidc>,
}

/// What is listened on, and what is done with what arrives.
#[derive(Debug, Clone)]
pub struct Listen {
    /// The Unix socket.
    pub socket: PathBuf,
    /// Its permission bits.
    pub mode: u32,
    /// The address of pages and API; none when HTTP is off. Port 0 takes a free one.
    pub http: Option<SocketAddr>,
    /// The address of the pages as the world knows it, without a trailing slash: that of the proxy in front.
    pub url: Option<String>,
    /// By which certificate HTTP is served inside TLS; none: a reverse proxy does that, or nobody.
    pub tls: Option<Tls>,
    /// What stock clients' writes do.
    pub writes: Writes,
    /// Who may ask over HTTP.
    pub http_read: HttpRead,
    /// Users who may add what carries no proof of its content, and who look after the store behind the
    /// door. Root and the daemon's own user are in it by default.
    pub trusted_users: Vec<Users>,
    /// Users who may connect to the socket besides the trusted ones; everybody by default, as far as the
    /// socket's mode lets them in.
    pub allowed_users: Vec<Users>,
}

/// The files by which HTTP is served inside TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The certificate and those between it and the root, as PEM; read again when it changes.
    pub certificate: PathBuf,
    /// Its private key, as PEM.
    pub key: SecretFile,
}

/// Who may ask over HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpRead {
    /// Everybody who reaches the address.
    Everyone,
    /// Who has a token with the right `read`.
    Token,
}

/// What a stock client's writes do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// They stay in the daemon's own spool until a build needs them.
    Spool,
    /// They go to the first store at once, for clients that look for them on the disk they share with it.
    Through,
}

/// One place where builds run.
#[derive(Debug, Clone)]
pub struct Store {
    /// Its name in logs and pages.
    pub name: String,
    /// `auto`, `unix://…`, `ssh-ng://…` or `local?root=…`.
    pub uri: String,
    /// Builds it runs at once.
    pub slots: u32,
    /// Cores that one build may use; 0 means all.
    pub cores: u32,
    /// Systems it builds for.
    pub systems: Vec<String>,
    /// Features it offers, as in `requiredSystemFeatures`.
    pub features: Vec<String>,
    /// What is sent to it.
    pub dispatch: Dispatch,
}

/// What is sent to a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dispatch {
    /// Single derivations, in dependency order.
    Derivation,
    /// Whole roots; the store schedules what is below them by itself.
    Root,
}

/// What is refused above which size. Error texts name the limit by its key.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once, but for those of root and of the daemon's own user.
    pub connections: usize,
    /// Connections of one user at once.
    pub connections_per_user: usize,
    /// How long a client may take to shake hands.
    pub handshake_time: Duration,
    /// What is taken into memory of one peer; each has a key of its own name.
    pub wire: WireLimits,
    /// Jobs in one evaluation.
    pub jobs: u64,
    /// Compressed bytes in one uploaded closure.
    pub closure_bytes: u64,
    /// Bytes in one uploaded closure once decompressed.
    pub closure_unpacked_bytes: u64,
    /// Bytes in one object.
    pub nar_bytes: u64,
    /// Bytes of log kept per attempt.
    pub log_bytes: u64,
    /// Bytes in the body of one webhook delivery.
    pub webhook_bytes: u64,
    /// How long a build may run; none means as long as it likes.
    pub build_time: Option<Duration>,
    /// How long a build may print nothing; none means as long as it likes.
    pub silent_time: Option<Duration>,
    /// How long an evaluation without its client waits for more jobs.
    pub abandon_after: Duration,
    /// Paths of each store that are known to be valid and answered from memory, about 100 bytes each; 0 asks always.
    pub known_paths: usize,
    /// Paths of each store whose infos are answered from memory, about a kilobyte each; 0 asks always.
    pub known_infos: usize,
    /// How long they are known. For as long the store does not collect them.
    pub known_time: Duration,
    /// How long a stop waits for connections and builds to wind down.
    pub stop_time: Duration,
}

/// What is kept for how long.
#[derive(Debug, Clone)]
pub struct Retention {
    /// How long a failed build is not tried again by itself.
    pub failures: Duration,
    /// How long an evaluation that has ended is kept, with its jobs, logs and uploads.
    pub evaluations: Duration,
    /// So many evaluations of each project are kept however old they are.
    pub newest: u32,
    /// How long what was uploaded stays although no evaluation needs it.
    pub uploads: Duration,
    /// How often everything else is collected by itself; none means only when somebody asks.
    pub collect: Option<Duration>,
}

/// The binary cache over HTTP.
#[derive(Debug, Clone)]
pub struct Cache {
    /// Whether stock Nix may substitute from the address of the pages.
    pub serve: bool,
    /// How clients rank it among their substituters; lower is asked first.
    pub priority: u32,
    /// The zstd level NARs are compressed at.
    pub level: i32,
    /// Bytes of compressed NARs kept on disk; 0 keeps none, and none of it here means as much as is reasonable.
    pub size: Option<u64>,
}

impl Config {
    /// Reads and checks a file. Every mistake in it is reported, each with its line.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Checks a text as if it had been read from `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let parsed = file::parse(text, &defaults::Surroundings::of_file(path));
        let mut config = parsed.map_err(|problems| ConfigError::Invalid {
            path: path.to_owned(),
            problems,
        })?;
        config.keys.named_in = Some(path.to_owned());
        Ok(config)
    }

    /// What holds for the current user when there is no file: socket and state in the user's runtime and
    /// state folders (`/run/nixci`, `/var/lib/nixci` for root), store `auto`, one slot per core.
    pub fn per_user() -> Result<Self, ConfigError> {
        file::parse("", &defaults::Surroundings::of_process()).map_err(|problems| ConfigError::Defaults { problems })
    }

    /// A daemon that lives in one folder and builds on one store: for `--embedded` and for tests.
    /// HTTP listens on a free loopback port.
    #[must_use]
    pub fn in_folder(folder: &Path, uri: &str, slots: u32) -> Self {
        let around = defaults::Surroundings::of_process();
        Self {
            state_dir: folder.join("state"),
            store_dir: StoreDir::default(),
            listen: Listen {
                socket: folder.join("socket"),
                mode: 0o600,
                http: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
                url: None,
                tls: None,
                writes: Writes::Spool,
                http_read: HttpRead::Everyone,
                trusted_users: around.trusted_users(),
                allowed_users: vec![Users::Everyone],
            },
            stores: vec![Store {
                name: "default".to_owned(),
                uri: uri.to_owned(),
                slots,
                cores: 0,
                systems: defaults::systems(),
                features: defaults::features(),
                dispatch: Dispatch::Derivation,
            }],
            limits: Limits::default(),
            retention: Retention::default(),
            tokens: Vec::new(),
            cache: Cache::default(),
            keys: Keys::default(),
            forges: Vec::new(),
            projects: Vec::new(),
            oidc: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;

//! Starting and stopping: the wiring.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nixci_protocol::wire::FEATURE_GC_REFERRERS;
use nixci_store::index::Index;
use nixci_store::logs::Logs;
use nixci_store::nar_cache::{NarCache, NarCacheOptions};
use nixci_store::negotiate::Memory;
use nixci_store::remote::{BuildOptions, Remote, RemoteOptions, StoreUri, StoreUriError};
use nixci_store::spool::Spool;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tracing::{info, warn};

use crate::ci::Ci;
use crate::config::{self, Config};
use crate::core::{BuildStore, Core};
use crate::door::Door;
use crate::error::{StartError, told};
use crate::forward::Holders;
use crate::http::cache::Cache;
use crate::http::{Certificate, Guard};
use crate::listen::{self, Admission, Inherited, StateLock};
use crate::objects::{Objects, Readers};
use crate::principal::Credentials;
use crate::read::Told;
use crate::reload::{self, Reloaded};
use crate::report::Outbox;
use crate::request::Requests;
use crate::scheduler::{Scheduler, StoreId, StoreSpec};
use crate::settings::{Fixed, Live, Secrets, Settings};
use crate::shutdown::Shutdown;
use crate::sign::Signer;
use crate::submit::{self, Attendance};
use crate::webhook::Hooks;
use crate::{advisory, backup, collect, dispatch, http, notify, recovery, report, webhook};

/// Evaluations that may change before somebody who watches looks again at all it shows.
const EVALUATION_CHANGES: usize = 1_024;

/// Connections to a store besides one per build.
const SPARE_CONNECTIONS: usize = 2;
/// Connections to a store for questions at once, and idle ones that are kept for clients.
const DOOR_CONNECTIONS: usize = 16;
/// How long HTTP responses that are being sent may take once the stop has begun.
const HTTP_GRACE: Duration = Duration::from_secs(1);

/// A daemon that runs. Dropping it leaves its tasks running; end it with [`Running::stop`].
#[derive(Debug)]
pub struct Running {
    /// The Unix socket it listens on.
    pub socket: PathBuf,
    /// Where its pages are; none when HTTP is off.
    pub http_addr: Option<SocketAddr>,
    /// Everything it can be asked.
    pub ci: Ci,
    _lock: StateLock,
}

/// Opens the state, binds the doors, takes up what was left unfinished and returns once connections are accepted.
///
/// On an error nothing is left bound or locked. Must be called on a multi-threaded Tokio runtime.
pub async fn start(config: Config) -> Result<Running, StartError> {
    start_with(config, Inherited::default()).await
}

/// As [`start`], with sockets that the service manager holds in place of binding them.
pub async fn start_with(config: Config, mut inherited: Inherited) -> Result<Running, StartError> {
    let starting = notify::starting();
    let lock = StateLock::take(&config.state_dir)?;
    if backup::is_unfinished(&config.state_dir) {
        return Err(StartError::HalfRestored { path: config.state_dir });
    }
    let readers = readers(&config)?;
    let stores = stores(&config, &readers)?;
    let certificate = config.listen.tls.as_ref().map(Certificate::open).transpose()?;
    let keys = config.keys.read()?;
    let secrets = Secrets::read(&config, None)?;
    let (index, spool, logs) = open(&config).await?;
    let spool = spool.trusting(config.keys.trusted_with(&keys));
    for key in &keys {
        info!(
            key = key.name(),
            "outputs of builds are served signed by {}",
            key.public()
        );
    }
    let public_keys = keys.iter().map(|key| key.public().to_string()).collect();
    let signer = Signer::new(keys, config.store_dir.clone(), index.clone());
    let nars = nar_cache(&config).await?;
    let socket = match inherited.socket(&config.listen)? {
        Some(socket) => socket,
        None => listen::bind(&config.listen.socket, config.listen.mode).await?,
    };
    let mut http = inherited.http(&config.listen)?;
    if let (true, Some(address)) = (http.is_empty(), config.listen.http) {
        http.push(bind_http(address, &config.state_dir).await?);
    }
    let http_addr = http.first().and_then(|listener| listener.local_addr().ok());
    let specs = config.stores.iter().map(|store| StoreSpec {
        name: store.name.as_str().into(),
        slots: store.slots,
        systems: store.systems.clone(),
        features: store.features.clone(),
    });
    let (scheduler, actions) = Scheduler::spawn(specs.collect());
    let stop = Shutdown::default();
    let rooms = (index.clone(), spool.clone(), logs.clone());
    let objects = Objects::new(rooms, readers, &signer, &config, &stop);
    let scheme = if certificate.is_some() { "https" } else { "http" };
    let address = http_addr.map(|address| format!("{scheme}://{address}"));
    let fixed = Fixed::of(&config);
    let live = Live::new(Settings::new(config, secrets, address.as_deref(), &index, None)?);
    let outbox = Outbox::new(index.clone(), live.clone(), stop.clone());
    let credentials = Credentials::new(live.clone(), index.clone());
    let core = Arc::new(Core {
        objects,
        signer,
        index,
        spool,
        logs,
        scheduler,
        stores,
        address,
        stop,
        attendance: Attendance::default(),
        holders: Holders::default(),
        outbox,
        requests: Requests::default(),
        evaluations_changed: tokio::sync::broadcast::channel(EVALUATION_CHANGES).0,
        config: fixed,
        live,
    });
    let ci = Ci::new(core.clone());
    let hooks = Hooks::new(core.live.clone(), core.index.clone());
    let working = &core.stop.working;
    working.spawn(dispatch::run(core.clone(), actions));
    working.spawn(submit::watch_over(core.clone()));
    working.spawn(collect::now_and_then(core.clone()));
    working.spawn(notify::watchdog(core.scheduler.clone(), core.stop.builds.clone()));
    if let Err(error) = recovery::recover(&core).await {
        warn!("failed to take up what was left unfinished: {}", told(&error));
    }
    if let Err(error) = core.outbox.start().await {
        warn!("failed to take up what forges were not told: {}", told(&error));
    }
    // After recovery, which moves evaluations on that are done.
    working.spawn(report::compose(ci.clone()));
    working.spawn(webhook::run(ci.clone(), hooks.clone()));
    let door = Door::new(ci.clone());
    if !http.is_empty() {
        let cache = nars.map(|nars| Cache::new(core.clone(), nars, public_keys));
        let guard = Guard::new(credentials.clone());
        let reading = guard.around(http::router(ci.reader().clone(), cache));
        let connecting = http::connect::routes(door.clone(), credentials, core.stop.clone());
        // A forge has no token of ours: its deliveries are signed.
        let telling = http::webhooks::routes(hooks, core.settings().config.limits.webhook_bytes);
        let router = reading.merge(connecting).merge(telling);
        if let Some(certificate) = certificate.clone() {
            working.spawn(certificate.watch(core.stop.accepting.clone()));
        }
        let live = core.live.clone();
        let admission = Admission::new(move || http::places(live.now().config.limits.connections));
        for listener in http {
            let serving = http::serve(
                listener,
                router.clone(),
                admission.clone(),
                certificate.clone(),
                core.stop.accepting.clone(),
            );
            core.stop.listeners.spawn(cut_off(serving, core.stop.clone()));
        }
    }
    let looking = core.clone();
    working.spawn(async move {
        let until = looking.stop.builds.clone();
        // None when the stop comes first; then nobody needs to know.
        let _: Option<()> = until.run_until_cancelled(advisory::look(&looking)).await;
    });
    let until = core.stop.builds.clone();
    let issuers = core.settings();
    working.spawn(async move {
        // As above.
        let _: Option<()> = until.run_until_cancelled(issuers.issuers.look()).await;
    });
    let names = core.settings();
    working.spawn_blocking(move || names.rules.check_names());
    listen::check_connections(core.settings().config.limits.connections);
    core.stop
        .listeners
        .spawn(listen::accept(socket, door, core.stop.clone()));
    let path = core.config.listen.socket.clone();
    let settings = core.settings();
    let pages = settings.pages.as_deref();
    info!(
        socket = %path.display(),
        http = pages,
        "listening on {}{}",
        path.display(),
        pages.map(|pages| format!(" and {pages}")).unwrap_or_default()
    );
    drop(starting);
    notify::ready(&status(&path, None));
    Ok(Running {
        socket: path,
        http_addr,
        ci,
        _lock: lock,
    })
}

fn stores(config: &Config, readers: &[Readers]) -> Result<Vec<BuildStore>, StartError> {
    config
        .stores
        .iter()
        .zip(readers)
        .zip(0..)
        .map(|((store, readers), nth)| {
            let options = RemoteOptions {
                max_connections: connections(store),
                ..options(config, store)
            };
            Ok(BuildStore {
                id: StoreId(nth),
                config: store.clone(),
                remote: Remote::new(&store.name, uri(store)?, options),
                readers: readers.clone(),
                told: Told::default(),
                uploading: Semaphore::new(1),
                has: Memory::new(config.limits.known_paths),
            })
        })
        .collect()
}

/// The same stores once more, with connections for the doors: questions must not wait for builds, nor builds for them.
fn readers(config: &Config) -> Result<Vec<Readers>, StartError> {
    config
        .stores
        .iter()
        .map(|store| {
            let options = RemoteOptions {
                max_connections: DOOR_CONNECTIONS,
                max_age: Some(config.limits.known_time),
                ..options(config, store)
            };
            let uri = uri(store)?;
            Ok(Readers {
                plain: Remote::new(&store.name, uri.clone(), options.clone()),
                set: Remote::new(&store.name, uri, options),
            })
        })
        .collect()
}

fn uri(store: &config::Store) -> Result<StoreUri, StartError> {
    store.uri.parse().map_err(|error: StoreUriError| StartError::Store {
        name: store.name.clone(),
        source: Box::new(error),
    })
}

fn options(config: &Config, store: &config::Store) -> RemoteOptions {
    RemoteOptions {
        store_dir: config.store_dir.clone(),
        features: vec![FEATURE_GC_REFERRERS.to_owned()],
        build: build_options(config, store),
        ..RemoteOptions::default()
    }
}

fn build_options(config: &Config, store: &config::Store) -> BuildOptions {
    BuildOptions {
        cores: (store.cores > 0).then_some(store.cores),
        max_silent_time: config.limits.silent_time,
        timeout: config.limits.build_time,
        ..BuildOptions::default()
    }
}

fn connections(store: &config::Store) -> usize {
    store.slots as usize + SPARE_CONNECTIONS
}

impl BuildStore {
    /// Uses the store as it is configured now, as far as that needs no restart.
    pub(crate) fn follow(&self, config: &Config, store: &config::Store) {
        self.remote.resize(connections(store));
        for remote in [&self.remote, &self.readers.plain, &self.readers.set] {
            remote.set_build(build_options(config, store));
        }
    }
}

async fn open(config: &Config) -> Result<(Index, Spool, Logs), StartError> {
    let (dir, store_dir, log_bytes) = (
        config.state_dir.clone(),
        config.store_dir.clone(),
        config.limits.log_bytes,
    );
    let opening = tokio::task::spawn_blocking(move || {
        let index = Index::open(&dir.join("index.db")).map_err(|error| failed("the index", error))?;
        let spool = Spool::open(&dir.join("spool"), store_dir).map_err(|error| failed("the spool", error))?;
        let logs = Logs::with_limit(&dir.join("logs"), log_bytes).map_err(|error| failed("the logs", error))?;
        Ok((index, spool, logs))
    });
    opening
        .await
        .unwrap_or_else(|error| Err(failed("the state", std::io::Error::other(error))))
}

/// The compressed NARs on disk, where they are served.
async fn nar_cache(config: &Config) -> Result<Option<NarCache>, StartError> {
    if config.listen.http.is_none() || !config.cache.serve {
        return Ok(None);
    }
    let dir = config.state_dir.join("nars");
    let (size, level) = (config.cache.size, config.cache.level);
    let opening = tokio::task::spawn_blocking(move || {
        std::fs::create_dir_all(&dir)?;
        let capacity = size.map_or_else(|| nixci_store::nar_cache::capacity_for(&dir), Ok)?;
        NarCache::open(&dir, NarCacheOptions { capacity, level })
    });
    let opened = opening.await.map_err(std::io::Error::other).flatten();
    opened.map(Some).map_err(|error| failed("the NAR cache", error))
}

fn failed(what: &'static str, error: impl std::error::Error + Send + Sync + 'static) -> StartError {
    StartError::Open {
        what,
        source: Box::new(error),
    }
}

/// Event streams end by themselves never: they are cut off with the other connections.
async fn cut_off(serving: impl Future<Output = ()>, stop: Shutdown) {
    tokio::select! {
        () = serving => {}
        () = async {
            stop.accepting.cancelled().await;
            tokio::time::sleep(HTTP_GRACE).await;
        } => {}
    }
}

/// The file that remembers the port of the pages, so that their addresses survive a restart.
const PORT_FILE: &str = "http-port";

async fn bind_http(address: SocketAddr, state_dir: &Path) -> Result<TcpListener, StartError> {
    let file = state_dir.join(PORT_FILE);
    let last = std::fs::read_to_string(&file)
        .ok()
        .and_then(|text| text.trim().parse().ok());
    if let (0, Some(port)) = (address.port(), last)
        && let Ok(listener) = TcpListener::bind(SocketAddr::new(address.ip(), port)).await
    {
        return Ok(listener);
    }
    let fail = |source| StartError::Bind {
        address: address.to_string(),
        source,
    };
    let listener = TcpListener::bind(address).await.map_err(fail)?;
    if address.port() == 0 {
        let port = listener.local_addr().map_err(fail)?.port();
        if let Err(error) = std::fs::write(&file, format!("{port}\n")) {
            warn!(%error, "failed to remember the port of the pages in {}: {error}", file.display());
        }
    }
    Ok(listener)
}

/// What the service manager shows.
fn status(socket: &Path, trouble: Option<&str>) -> String {
    let listening = format!("listening on {}", socket.display());
    trouble.map_or_else(|| listening.clone(), |trouble| format!("{listening}; {trouble}"))
}

impl Running {
    /// Reads the configuration again, from the file it was read from; see the documents on what it may change. What is wrong
    /// with it is in the log.
    pub async fn reload(&self, file: Option<PathBuf>) -> Reloaded {
        notify::reloading();
        let reloaded = reload::reload(&self.ci.core, file).await;
        notify::ready(&status(&self.socket, reloaded.trouble().as_deref()));
        reloaded
    }

    /// Stops in order: no new connections, connections end, builds are cut off and queued again at the
    /// next start, the index closes. Returns after the configured stop time at the latest.
    pub async fn stop(self) {
        let core = &self.ci.core;
        let deadline = core.settings().config.limits.stop_time;
        notify::stopping(deadline);
        core.stop.run(deadline).await;
        core.spool.close().await;
        core.index.close().await;
        info!("stopped");
    }
}

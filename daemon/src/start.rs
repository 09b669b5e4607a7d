//! Starting and stopping: the wiring.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nixci_store::index::Index;
use tokio::net::TcpListener;
use tracing::{info, warn};

use crate::ci::Ci;
use crate::config::Config;
use crate::core::{BuildStore, Core};
use crate::error::{StartError, told};
use crate::listen::{self, StateLock};
use crate::scheduler::{Scheduler, StoreId, StoreSpec};
use crate::shutdown::Shutdown;
use crate::submit::{self, Attendance};
use crate::{notify, recovery};

/// Evaluations that may change before somebody who watches looks again at all it shows.
const EVALUATION_CHANGES: usize = 1_024;

/// A daemon that runs. Dropping it leaves its tasks running; end it with [`Running::stop`].
#[derive(Debug)]
pub struct Running {
    /// The Unix socket it listens on.
    pub socket: PathBuf,
    /// Where its pages are; none when HTTP is off.
    pub http_addr: Option<SocketAddr>,
    /// Everything it can be asked.
    pub ci: Ci,
    deadline: Duration,
    _lock: StateLock,
}

/// Opens the state, binds the doors, takes up what was left unfinished and returns once connections are accepted.
///
/// On an error nothing is left bound or locked. Must be called on a multi-threaded Tokio runtime.
pub async fn start(config: Config) -> Result<Running, StartError> {
    let lock = StateLock::take(&config.state_dir)?;
    let index = Index::open(&config.state_dir.join("index.db")).map_err(|error| StartError::Open {
        what: "the index",
        source: Box::new(error),
    })?;
    let socket = listen::bind(&config.listen.socket, config.listen.mode).await?;
    let http = match config.listen.http {
        Some(address) => Some(bind_http(address, &config.state_dir).await?),
        None => None,
    };
    let http_addr = http.as_ref().and_then(|listener| listener.local_addr().ok());
    let specs = config.stores.iter().map(|store| StoreSpec {
        name: store.name.as_str().into(),
        slots: store.slots,
        systems: store.systems.clone(),
        features: store.features.clone(),
    });
    let (scheduler, actions) = Scheduler::spawn(specs.collect());
    let stores = config.stores.iter().zip(0..).map(|(store, nth)| BuildStore {
        id: StoreId(nth),
        config: store.clone(),
    });
    let core = Arc::new(Core {
        index,
        scheduler,
        stores: stores.collect(),
        pages: http_addr.map(|address| format!("http://{address}")),
        stop: Shutdown::default(),
        attendance: Attendance::default(),
        evaluations_changed: tokio::sync::broadcast::channel(EVALUATION_CHANGES).0,
        config: Arc::new(config),
    });
    core.stop.working.spawn(submit::watch_over(core.clone()));
    core.stop
        .working
        .spawn(notify::watchdog(core.scheduler.clone(), core.stop.builds.clone()));
    if let Err(error) = recovery::recover(&core).await {
        warn!("failed to take up what was left unfinished: {}", told(&error));
    }
    let path = core.config.listen.socket.clone();
    info!(
        socket = %path.display(),
        http = core.pages,
        "listening on {}{}",
        path.display(),
        core.pages.as_deref().map(|pages| format!(" and {pages}")).unwrap_or_default()
    );
    notify::ready(&format!("listening on {}", path.display()));
    drop((socket, actions));
    Ok(Running {
        socket: path,
        http_addr,
        deadline: core.config.limits.stop_time,
        ci: Ci::new(core),
        _lock: lock,
    })
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

impl Running {
    /// Stops in order: no new connections, connections end, builds are cut off and queued again at the
    /// next start, the index closes. Returns after the configured stop time at the latest.
    pub async fn stop(self) {
        let core = &self.ci.core;
        notify::stopping();
        core.stop.run(self.deadline).await;
        core.index.close().await;
        info!("stopped");
    }
}

//! A reload: the configuration is read again on SIGHUP, while connections, uploads and builds go on.
//!
//! The file is checked whole, and the secrets it names are read, before anything changes; then everything is
//! [changed at once](crate::settings::Live::change). Where something is wrong, all of it is in the log, and what held before
//! holds on.
//!
//! | applied | from when |
//! |---|---|
//! | `[[token]]`, `[[oidc]]` | the next request, also of connections that are open |
//! | `[[project]]` | the next webhook, status or token |
//! | `[[forge]]`, with its secrets | the next request to or from it; what is under way ends first |
//! | `url`, `http_read`, `trusted_users`, `allowed_users` in `[listen]` | the next request or connection |
//! | `[retention]` | the next collection; a changed `collect` counts from now |
//! | `connections`, `connections_per_user`, `handshake_time`, `max_*` in `[limits]` | the next connection |
//! | `jobs`, `nar_bytes`, `closure_bytes`, `closure_unpacked_bytes`, `abandon_after`, `stop_time` | the next time they are looked at |
//! | `log_bytes`, `build_time`, `silent_time` | the next build |
//! | `slots` and `cores` of a `[[store]]` | the next build; none is stopped where there are fewer |
//! | the files of TLS, without a reload | within seconds of their change |
//!
//! | needs a restart |
//! |---|
//! | `state_dir`, `store_dir` |
//! | `socket`, `mode`, `http`, `writes`, `tls_certificate_file`, `tls_key_file` in `[listen]` |
//! | a `[[store]]` that is new, gone or elsewhere in the order; its `uri`, `systems`, `features`, `dispatch` |
//! | `known_paths`, `known_infos`, `known_time`, `webhook_bytes` in `[limits]` |
//! | `[cache]`, `[keys]` |
//!
//! Files that systemd passes by `LoadCredential=` are copies made at the start: those of a secret that has changed are new
//! only after a restart. Variables of the environment are those of the start.

mod keys;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::{error, info, warn};

use crate::config::Config;
use crate::core::Core;
use crate::error::{StartError, told};
use crate::forge::Forges;
use crate::scheduler::SchedulerGone;
use crate::settings::{Secrets, Settings};

/// What came of a reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reloaded {
    /// The daemon runs without a file.
    NoFile,
    /// Something is wrong; what held before holds on.
    Refused {
        /// All that is wrong, a line each, with file and line where it is in one.
        problems: Vec<String>,
    },
    /// The file holds now.
    Applied {
        /// Keys that were changed and need a restart; they hold on as they were.
        left: Vec<String>,
    },
}

impl Reloaded {
    /// In a few words, for whoever looks at the service; none where everything is as it should be.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        match self {
            Self::NoFile => None,
            Self::Refused { problems } => Some(format!(
                "the configuration was not reloaded, {} mistake(s): see the log",
                problems.len()
            )),
            Self::Applied { left } if left.is_empty() => None,
            Self::Applied { left } => Some(format!("a restart is needed for {}", left.join(", "))),
        }
    }
}

/// Reads the configuration again. Cancelling it changes nothing, or everything but what follows from it.
pub(crate) async fn reload(core: &Arc<Core>, file: Option<PathBuf>) -> Reloaded {
    let Some(file) = file else {
        info!("there is no configuration to reload: the daemon runs with the defaults of its user");
        return Reloaded::NoFile;
    };
    let before = core.settings();
    let (reading, path) = (core.clone(), file.clone());
    let read = tokio::task::spawn_blocking(move || read(&reading, &path)).await;
    let read = read.unwrap_or_else(|panic| {
        Err(StartError::Open {
            what: "the configuration",
            source: Box::new(panic),
        })
    });
    let (settings, left) = match read {
        Ok(read) => read,
        Err(error) => {
            let problems: Vec<String> = error.to_string().lines().map(str::to_owned).collect();
            for problem in &problems {
                error!("not reloaded: {problem}");
            }
            error!("the configuration that was read before holds on");
            return Reloaded::Refused { problems };
        }
    };
    core.live.change(settings);
    info!("the configuration {} holds from now on", file.display());
    for key in &left {
        warn!(key, "{key} was changed, which needs a restart; it stays as it was");
    }
    if follow(core, &before.forges).await.is_err() {
        info!("the daemon is stopping");
    }
    Reloaded::Applied { left }
}

/// Reads everything and changes nothing. Blocks.
fn read(core: &Core, file: &Path) -> Result<(Settings, Vec<String>), StartError> {
    let before = core.settings();
    let (config, left) = keys::merge(&before.config, Config::load(file)?);
    let secrets = Secrets::read(&config, Some(&before))?;
    let settings = Settings::new(config, secrets, core.address.as_deref(), &core.index, Some(&before))?;
    Ok((settings, left))
}

/// Tells those who have to be told; the others look when they need to know.
async fn follow(core: &Arc<Core>, before: &Forges) -> Result<(), SchedulerGone> {
    let settings = core.settings();
    core.logs.limit(settings.config.limits.log_bytes);
    for (place, store) in core.stores.iter().zip(&settings.config.stores) {
        place.follow(&settings.config, store);
        core.scheduler.resize(place.id, store.slots).await?;
    }
    if let Err(error) = core.outbox.reloaded(before).await {
        warn!("failed to take up what forges were not told: {}", told(&error));
    }
    let until = core.stop.builds.clone();
    core.stop.working.spawn(async move {
        // None when the stop comes first; then nobody needs to know.
        let _: Option<()> = until
            .run_until_cancelled(async {
                let names = settings.clone();
                // It only writes to the log.
                drop(tokio::task::spawn_blocking(move || names.rules.check_names()).await);
                settings.issuers.look().await;
            })
            .await;
    });
    crate::listen::check_connections(core.settings().config.limits.connections);
    Ok(())
}

//! Who sends what the index says is to be shown: one sender for each identity of ours at a forge.
//!
//! A sender begins when something is to be sent and ends when nothing is and its pace has nothing to remember. They
//! share nothing but the index, so a forge that is down, slow or limiting delays nobody else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nixci_protocol::nixci::control::{EvaluationId, Millis};
use nixci_protocol::nixci::report::{ReportTrouble, ReportTroubleKind};
use nixci_store::index::statuses::{self, StatusId};
use nixci_store::index::{self, Index};
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;

use super::machine::{Trouble, TroubleKind};
use super::sender;
use crate::config::{self, Config, ForgeAuth, ForgeKind};
use crate::core::now;
use crate::error::StartError;
use crate::forge::Forges;
use crate::settings::{Live, Secrets, Settings};
use crate::shutdown::Shutdown;

/// Refused statuses that are told of.
const REFUSED_TOLD: u32 = 100;
/// How long a status that is to be sent as a new one waits for what changes with it, in milliseconds: its builds are queued
/// again within that time.
const RENEW_WAIT: Millis = 3_000;

/// A handle on all senders; clones share them.
#[derive(Debug, Clone)]
pub struct Outbox {
    rooms: Arc<Rooms>,
}

/// What senders share.
#[derive(Debug)]
pub(super) struct Rooms {
    pub(super) index: Index,
    pub(super) live: Live,
    pub(super) stop: Shutdown,
    /// Held for a look or a change only.
    senders: Mutex<BTreeMap<Installation, Arc<Bell>>>,
    /// Forges that do not know us, and since when. Held for a look or a change only.
    stopped: Mutex<BTreeMap<String, Trouble>>,
}

/// One identity of ours at a forge: what its limits count. A GitHub App has one for each owner of repositories.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Installation {
    pub(super) forge: String,
    pub(super) owner: Option<String>,
}

/// How a sender is told that there is something to send.
#[derive(Debug, Default)]
pub(super) struct Bell {
    pub(super) notify: Notify,
    has_rung: AtomicBool,
    trouble: Mutex<Option<Trouble>>,
}

impl Outbox {
    /// An outbox that sends nothing before [`Outbox::start`] or [`Outbox::ring`].
    pub(crate) fn new(index: Index, live: Live, stop: Shutdown) -> Self {
        Self {
            rooms: Arc::new(Rooms {
                index,
                live,
                stop,
                senders: Mutex::default(),
                stopped: Mutex::default(),
            }),
        }
    }

    /// An outbox without a daemon around it, as benches and tests use it; end it with [`Outbox::stop`]. Reads the
    /// secrets of the forges, so it blocks.
    pub fn alone(index: Index, config: Config) -> Result<Self, StartError> {
        let secrets = Secrets::read(&config, None)?;
        let settings = Settings::new(config, secrets, None, &index, None)?;
        Ok(Self::new(index, Live::new(settings), Shutdown::default()))
    }

    /// Ends all senders. Requests under way get a short grace; those that are cut off are looked for after the next
    /// start.
    pub async fn stop(&self) {
        let deadline = self.rooms.live.now().config.limits.stop_time;
        self.rooms.stop.run(deadline).await;
    }

    /// Takes up what was not sent before the daemon ended. Repositories that were refused when their forge was
    /// configured otherwise are tried again; forges that did not know us are tried once.
    pub async fn start(&self) -> Result<(), index::Error> {
        let forges: Vec<(String, String)> = self
            .forges()
            .all()
            .map(|(forge, _)| (forge.name.clone(), settings(forge)))
            .collect();
        let places = self
            .rooms
            .index
            .write(move |tx| {
                for (forge, settings) in &forges {
                    statuses::allow_repositories(tx, forge, settings)?;
                }
                statuses::unsent_places(tx)
            })
            .await?;
        for (forge, repository) in places {
            self.ring(&forge, &repository);
        }
        Ok(())
    }

    /// Says that something is to be sent to a repository. Call it after the change is committed. Cheap, and may be
    /// called as often as there are changes. A forge that is not configured any more is told nothing.
    pub fn ring(&self, forge: &str, repository: &str) {
        let Some(installation) = self.rooms.installation(forge, repository) else {
            return;
        };
        if self.rooms.stop.accepting.is_cancelled() || lock(&self.rooms.stopped).contains_key(forge) {
            return;
        }
        let mut senders = lock(&self.rooms.senders);
        if let Some(bell) = senders.get(&installation) {
            bell.has_rung.store(true, Ordering::Relaxed);
            bell.notify.notify_one();
            return;
        }
        let bell = Arc::new(Bell::default());
        senders.insert(installation.clone(), bell.clone());
        drop(senders);
        let sending = sender::run(self.rooms.clone(), installation, bell);
        self.rooms.stop.working.spawn(sending);
    }

    /// The forges it tells.
    pub(crate) fn forges(&self) -> Forges {
        self.rooms.live.now().forges.clone()
    }

    /// Takes up what may be sent now that forges are configured otherwise than `before`: those that did not know us, and
    /// repositories that were refused, are tried again.
    pub(crate) async fn reloaded(&self, before: &Forges) -> Result<(), index::Error> {
        let forges = self.forges();
        lock(&self.rooms.stopped).retain(|name, _| forges.agrees(before, name) && forges.config(name).is_some());
        self.start().await
    }

    /// Sends everything of an evaluation once more, also what was refused: `nixci report --again`. Says how many
    /// repositories are told.
    pub async fn send_again(&self, evaluation: EvaluationId) -> Result<usize, index::Error> {
        let at = now();
        let places = self
            .rooms
            .index
            .write(move |tx| statuses::send_again(tx, evaluation, at))
            .await?;
        for (forge, repository) in &places {
            lock(&self.rooms.stopped).remove(forge);
            self.ring(forge, repository);
        }
        Ok(places.len())
    }

    /// Sends statuses once more as new ones, as a forge's button to run again needs it. Call it before what they say is
    /// changed to waiting or running: it is sent when it changes, or else as it is after [`RENEW_WAIT`].
    pub async fn renew(&self, rows: Vec<StatusId>) -> Result<(), index::Error> {
        let at = now();
        let not_before = at.saturating_add(RENEW_WAIT);
        let places = self
            .rooms
            .index
            .write(move |tx| {
                let mut places = BTreeSet::new();
                for id in rows {
                    statuses::renew(tx, id, at, Some(not_before))?;
                    let key = statuses::get(tx, id)?.map(|row| row.wanted.key);
                    places.extend(key.map(|key| (key.forge, key.repository)));
                }
                Ok(places)
            })
            .await?;
        for (forge, repository) in &places {
            self.ring(forge, repository);
        }
        Ok(())
    }

    /// Tries a repository again: its forge has said that something changed there.
    pub async fn allow_repository(&self, forge: &str, repository: &str) -> Result<(), index::Error> {
        let (of_forge, name) = (forge.to_owned(), repository.to_owned());
        self.rooms
            .index
            .write(move |tx| statuses::allow_repository(tx, &of_forge, &name))
            .await?;
        lock(&self.rooms.stopped).remove(forge);
        self.ring(forge, repository);
        Ok(())
    }

    /// Why forges are not told everything, if they are not: of statuses that are refused the newest 100.
    pub async fn health(&self) -> Result<Vec<ReportTrouble>, index::Error> {
        let mut found: Vec<ReportTrouble> = Vec::new();
        for (forge, trouble) in lock(&self.rooms.stopped).iter() {
            found.push(told(forge, None, trouble));
        }
        for (installation, bell) in lock(&self.rooms.senders).iter() {
            if let Some(trouble) = &*lock(&bell.trouble) {
                found.push(told(&installation.forge, installation.owner.clone(), trouble));
            }
        }
        let (repositories, rows) = self
            .rooms
            .index
            .read(|conn| {
                Ok((
                    statuses::refused(conn)?,
                    statuses::refused_statuses(conn, REFUSED_TOLD)?,
                ))
            })
            .await?;
        found.extend(repositories.into_iter().map(|refused| ReportTrouble {
            forge: refused.forge,
            repository: Some(refused.repository),
            context: None,
            kind: ReportTroubleKind::RefusedRepository,
            reason: refused.reason,
            since: refused.since,
        }));
        found.extend(rows.into_iter().map(|row| ReportTrouble {
            forge: row.wanted.key.forge,
            repository: Some(row.wanted.key.repository),
            context: Some(row.wanted.key.context),
            kind: ReportTroubleKind::RefusedStatus,
            reason: row.error.unwrap_or_default(),
            since: row.refused.unwrap_or_default(),
        }));
        Ok(found)
    }
}

fn told(forge: &str, repository: Option<String>, trouble: &Trouble) -> ReportTrouble {
    ReportTrouble {
        forge: forge.to_owned(),
        repository,
        context: None,
        kind: match trouble.kind {
            TroubleKind::Stopped => ReportTroubleKind::Stopped,
            TroubleKind::Limited => ReportTroubleKind::Limited,
            TroubleKind::Down => ReportTroubleKind::Down,
        },
        reason: trouble.reason.clone(),
        since: trouble.since,
    }
}

impl Rooms {
    fn installation(&self, forge: &str, repository: &str) -> Option<Installation> {
        let settings = self.live.now();
        let config = settings.forges.config(forge)?;
        let is_app = config.kind == ForgeKind::GitHub && matches!(config.auth, Some(ForgeAuth::App { .. }));
        let owner = repository.split_once('/').map(|(owner, _)| owner.to_owned());
        Some(Installation {
            forge: forge.to_owned(),
            owner: owner.filter(|_| is_app),
        })
    }

    /// Ends a sender, unless it was rung for meanwhile.
    pub(super) fn end(&self, installation: &Installation, bell: &Bell) -> bool {
        let mut senders = lock(&self.senders);
        if bell.has_rung.swap(false, Ordering::Relaxed) {
            return false;
        }
        senders.remove(installation);
        true
    }

    /// Remembers that a forge does not know us.
    pub(super) fn stopped(&self, installation: &Installation, trouble: Trouble) {
        lock(&self.stopped).insert(installation.forge.clone(), trouble);
    }

    /// Forgets a sender that does no more, whether it was rung for or not; another one of the same stays.
    pub(super) fn leave(&self, installation: &Installation, bell: &Arc<Bell>) {
        let mut senders = lock(&self.senders);
        if senders.get(installation).is_some_and(|other| Arc::ptr_eq(other, bell)) {
            senders.remove(installation);
        }
    }

    /// Whether a forge does not know us.
    pub(super) fn is_stopped(&self, forge: &str) -> bool {
        lock(&self.stopped).contains_key(forge)
    }
}

impl Bell {
    /// It was heard.
    pub(super) fn heard(&self) {
        self.has_rung.store(false, Ordering::Relaxed);
    }

    /// Shows why the sender is behind.
    pub(super) fn show(&self, trouble: Option<&Trouble>) {
        let mut shown = lock(&self.trouble);
        if shown.as_ref() != trouble {
            *shown = trouble.cloned();
        }
    }
}

/// A digest of what may make a forge take what it refused before: where it is, and who we are there.
pub(super) fn settings(forge: &config::Forge) -> String {
    let text = format!("{:?}", (forge.kind, &forge.url, &forge.api, &forge.auth, forge.form));
    data_encoding::HEXLOWER.encode(&Sha256::digest(text.as_bytes())[..8])
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The time of a sender: that of records, but never set back or forward while it runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    began: Millis,
    since: tokio::time::Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self {
            began: now(),
            since: tokio::time::Instant::now(),
        }
    }

    pub(super) fn now(&self) -> Millis {
        let since = Millis::try_from(self.since.elapsed().as_millis()).unwrap_or(Millis::MAX);
        self.began.saturating_add(since)
    }

    /// The moment of a time that is still to come.
    pub(super) fn at(&self, time: Millis) -> tokio::time::Instant {
        let ahead = u64::try_from(time.saturating_sub(self.began)).unwrap_or(0);
        self.since + std::time::Duration::from_millis(ahead)
    }
}

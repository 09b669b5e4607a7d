//! One sender: drives its [`Machine`] with the index, the forge and the clock.

use std::future::Future;
use std::hash::{BuildHasher as _, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use nixci_protocol::nixci::control::Millis;
use nixci_store::index::evaluations::{self, EvaluationRow};
use nixci_store::index::statuses::{self, RefusedRepository, StatusId, StatusRow, Unsent};
use nixci_store::index::{self, Index};
use tracing::{info, warn};

use super::machine::{Action, End, Event, Machine, Record, TroubleKind};
use super::outbox::{Bell, Clock, Installation, Rooms, settings};
use crate::config::Config;
use crate::core::now;
use crate::error::told;
use crate::forge::{Client, EXTERNAL_ID, Outgoing, Quota, SendError};
use crate::http::{StatusWrite, status_written};

/// How long requests under way may take once the daemon stops. What is cut off is in doubt, and looked at after the next
/// start.
const GRACE: Duration = Duration::from_secs(3);
/// Statuses that are read at once, of each rank, over all repositories.
const MOST: usize = 2_048;
/// Of one repository at least, and at most.
const MOST_OF_ONE: (usize, usize) = (16, 256);

type Doing<'a> = Pin<Box<dyn Future<Output = Event> + Send + 'a>>;

/// Sends what there is to send of one installation, until there is nothing or the daemon stops. When its forge is configured
/// otherwise, it ends what is under way and begins anew.
pub(super) async fn run(rooms: Arc<Rooms>, installation: Installation, bell: Arc<Bell>) {
    while let Left::Changed = send_all(&rooms, &installation, &bell).await {
        bell.heard();
    }
}

/// Why a sender ends.
enum Left {
    /// It has nothing to do, or may not.
    Done,
    /// Its forge is configured otherwise now.
    Changed,
}

async fn send_all(rooms: &Arc<Rooms>, installation: &Installation, bell: &Arc<Bell>) -> Left {
    let mut changes = rooms.live.changes();
    let forges = rooms.live.now().forges.clone();
    let Some((client, forge)) = forges
        .client(&installation.forge)
        .zip(forges.config(&installation.forge))
    else {
        rooms.leave(installation, bell);
        return Left::Done;
    };
    let mut left = Left::Done;
    let clock = Clock::start();
    let longest = forge.pace.windows.iter().map(|window| window.time).max();
    let since = now().saturating_sub(longest.map_or(0, millis));
    let (name, owner) = (installation.forge.clone(), installation.owner.clone());
    let before = rooms
        .index
        .read(move |conn| statuses::tried_since(conn, &name, owner.as_deref(), since))
        .await;
    let before = before.unwrap_or_else(|error| {
        warn!(
            "failed to read what was sent to `{}`: {}",
            installation.forge,
            told(&error)
        );
        Vec::new()
    });
    let sender = Sender {
        rooms,
        installation,
        client,
        settings: settings(forge),
    };
    let mut machine = Machine::new(&forge.pace, before);
    let mut doing: FuturesUnordered<Doing<'_>> = FuturesUnordered::new();
    let mut event = Event::Rang;
    loop {
        if rooms.is_stopped(&installation.forge) && !machine.is_stopped() {
            event = Event::Stop;
        }
        let is_ending = matches!(event, Event::Stop);
        let was = machine.trouble().map(|trouble| trouble.kind);
        doing.extend(
            machine
                .step(event, clock.now(), jitter())
                .into_iter()
                .map(|action| sender.perform(action)),
        );
        sender.tell(&machine, was);
        bell.show(machine.trouble());
        if is_ending {
            break;
        }
        if let Some(trouble) = machine.trouble().filter(|_| machine.is_stopped()) {
            rooms.stopped(installation, trouble.clone());
            rooms.leave(installation, bell);
            break;
        }
        if machine.is_done(clock.now()) && doing.is_empty() && rooms.end(installation, bell) {
            return Left::Done;
        }
        let wake_at = machine.wake_at(clock.now()).map(|at| clock.at(at));
        event = tokio::select! {
            () = rooms.stop.accepting.cancelled() => Event::Stop,
            Some(event) = doing.next() => event,
            Ok(()) = changes.changed() => {
                let now = changes.borrow_and_update().clone();
                if now.forges.agrees(&forges, &installation.forge) {
                    Event::Woke
                } else {
                    left = Left::Changed;
                    Event::Stop
                }
            }
            () = bell.notify.notified() => {
                bell.heard();
                Event::Rang
            }
            () = until(wake_at) => Event::Woke,
        };
    }
    let ending = async {
        while let Some(event) = doing.next().await {
            let actions = machine.step(event, clock.now(), jitter());
            doing.extend(actions.into_iter().map(|action| sender.perform(action)));
        }
    };
    if tokio::time::timeout(GRACE, ending).await.is_err() {
        info!(
            "requests to `{}` were cut off; the forge is asked what it has after the next start",
            installation.forge
        );
    }
    match left {
        Left::Changed => {}
        Left::Done => rooms.leave(installation, bell),
    }
    left
}

async fn until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

struct Sender<'a> {
    rooms: &'a Rooms,
    installation: &'a Installation,
    client: &'a Client,
    settings: String,
}

impl<'a> Sender<'a> {
    fn perform<'b>(&'b self, action: Action) -> Doing<'b>
    where
        'a: 'b,
    {
        match action {
            Action::Load => Box::pin(self.load()),
            Action::Send(id) => Box::pin(self.send(id)),
            Action::LookUp(id) => Box::pin(self.look_up(id)),
            Action::Record(id, record) => Box::pin(self.record(id, record)),
        }
    }

    async fn load(&self) -> Event {
        let (forge, owner) = (self.installation.forge.clone(), self.installation.owner.clone());
        let loaded = self.rooms.index.read(move |conn| {
            let repositories = statuses::unsent_repositories(conn, &forge, owner.as_deref())?;
            let (least, most) = MOST_OF_ONE;
            let most = (MOST / repositories.len().max(1)).clamp(least, most);
            let mut rows: Vec<Unsent> = Vec::new();
            let mut is_all = true;
            for repository in repositories {
                let (found, is_all_of_it) = statuses::unsent(conn, &forge, &repository, most)?;
                rows.extend(found);
                is_all &= is_all_of_it;
            }
            Ok((rows, is_all))
        });
        match loaded.await {
            Ok((rows, is_all)) => Event::Loaded { rows, is_all },
            Err(error) => self.index_failed(None, &error),
        }
    }

    async fn send(&self, id: StatusId) -> Event {
        let begun = match self.begin(id).await {
            Ok(Some(begun)) => begun,
            Ok(None) => return Event::Ended { id, end: End::Nothing },
            Err(error) => return self.index_failed(Some(id), &error),
        };
        let (seq, state) = (begun.row.seq, begun.row.wanted.content.state);
        let status = outgoing(&self.rooms.live.now().config, begun.row, begun.evaluation.as_ref());
        let end = match self.client.send(&status).await {
            Ok(sent) => {
                status_written(&self.installation.forge, StatusWrite::Sent);
                End::Sent { seq, state, sent }
            }
            Err(error) => self.failed(seq, &status, error),
        };
        Event::Ended { id, end }
    }

    async fn begin(&self, id: StatusId) -> Result<Option<statuses::Begun>, index::Error> {
        // On disk before it goes out: after a power cut too, a doubt must be known to be one.
        let index: &Index = &self.rooms.index;
        let at = now();
        index.write_durable(move |tx| statuses::begin(tx, id, at)).await
    }

    async fn look_up(&self, id: StatusId) -> Event {
        let row = self.rooms.index.read(move |conn| {
            let Some(row) = statuses::get(conn, id)? else {
                return Ok(None);
            };
            let evaluation = evaluations::get(conn, row.wanted.evaluation)?;
            Ok(Some((row, evaluation)))
        });
        let (row, evaluation) = match row.await {
            Ok(Some((row, evaluation))) if row.sent_seq != Some(row.seq) && row.refused.is_none() => (row, evaluation),
            Ok(_) => return Event::Ended { id, end: End::Nothing },
            Err(error) => return self.index_failed(Some(id), &error),
        };
        let (seq, state) = (row.seq, row.wanted.content.state);
        let status = outgoing(&self.rooms.live.now().config, row, evaluation.as_ref());
        let end = match self.client.look_up(&status).await {
            Ok(Some(found)) if found.is_same => End::Sent {
                seq,
                state,
                sent: crate::forge::Sent {
                    remote_id: found.remote_id,
                    quota: found.quota,
                },
            },
            Ok(Some(found)) => End::Other {
                remote_id: found.remote_id,
                state: found.state,
                quota: found.quota,
            },
            Ok(None) => End::Other {
                remote_id: None,
                state: None,
                quota: Quota::default(),
            },
            Err(error) => self.failed(seq, &status, error),
        };
        Event::Ended { id, end }
    }

    fn failed(&self, seq: i64, status: &Outgoing, error: SendError) -> End {
        let write = match &error {
            SendError::Limited { .. } => StatusWrite::Limited,
            SendError::Failed { .. } => StatusWrite::Failed,
            SendError::Lost { .. } => StatusWrite::Lost,
            SendError::Refused { .. } => StatusWrite::Refused,
        };
        status_written(&self.installation.forge, write);
        if let SendError::Refused { why, .. } = &error {
            warn!(
                forge = self.installation.forge,
                repository = status.repository,
                commit = status.commit,
                context = status.context,
                "{why}; nothing more is tried there before something changes"
            );
        }
        End::Failed { seq, error }
    }

    async fn record(&self, id: StatusId, record: Record) -> Event {
        let at = now();
        let forge = self.installation.forge.clone();
        let settings = self.settings.clone();
        let recorded = self.rooms.index.write(move |tx| match record {
            Record::Sent { seq, state, remote_id } => statuses::confirm(tx, id, seq, state, remote_id.as_deref(), at),
            Record::Found { remote_id, state } => {
                statuses::found(tx, id, remote_id.as_deref(), state)?;
                Ok(false)
            }
            Record::Failed { seq, failure } => statuses::fail(tx, id, seq, &failure),
            Record::Refused { seq, why } => statuses::refuse(tx, id, seq, &why, at),
            Record::RefusedRepository { repository, seq, why } => {
                let refused = RefusedRepository {
                    forge,
                    repository,
                    reason: why.clone(),
                    since: at,
                    settings,
                };
                statuses::refuse_repository(tx, &refused)?;
                let failure = statuses::Failure {
                    error: why,
                    failures: 0,
                    retry_at: None,
                    is_in_doubt: false,
                };
                statuses::fail(tx, id, seq, &failure)
            }
        });
        match recorded.await {
            Ok(is_newer) => Event::Recorded { id, is_newer },
            Err(error) => self.index_failed(Some(id), &error),
        }
    }

    fn index_failed(&self, id: Option<StatusId>, error: &index::Error) -> Event {
        warn!(
            "failed to record what `{}` is told: {}; it is tried again",
            self.installation.forge,
            told(error)
        );
        Event::IndexFailed(id)
    }

    /// Logs when trouble begins and ends.
    fn tell(&self, machine: &Machine, was: Option<TroubleKind>) {
        let forge = &self.installation.forge;
        match machine.trouble() {
            Some(trouble) if was != Some(trouble.kind) => {
                let what = match trouble.kind {
                    TroubleKind::Stopped => "nothing is sent there before the daemon is started again",
                    TroubleKind::Limited => "it goes on when the forge allows it",
                    TroubleKind::Down => "it is tried again by itself",
                };
                warn!(forge, "{}; {what}", trouble.reason);
            }
            None if was.is_some() => info!(forge, "`{forge}` takes statuses again"),
            Some(_) | None => {}
        }
    }
}

/// What a row says, on its way out.
fn outgoing(config: &Config, row: StatusRow, evaluation: Option<&EvaluationRow>) -> Outgoing {
    let submission = evaluation.map(|evaluation| &evaluation.submission);
    let project = submission.and_then(|of| config.projects.iter().find(|project| project.fits(&of.project)));
    Outgoing {
        repository: row.wanted.key.repository,
        commit: row.wanted.key.commit,
        context: row.wanted.key.context,
        role: row.wanted.role,
        evaluation: row.wanted.evaluation,
        attr: row.wanted.attr,
        content: row.wanted.content,
        external_id: format!("{EXTERNAL_ID}{}", row.id.0),
        remote_id: row.remote_id,
        sent_state: row.sent_state,
        git_ref: submission.and_then(|of| of.git_ref.clone()),
        pull_request: submission.and_then(|of| of.pull_request),
        comment: project.is_some_and(|project| project.comment),
    }
}

fn millis(time: Duration) -> Millis {
    Millis::try_from(time.as_millis()).unwrap_or(Millis::MAX)
}

/// A number from 0 up to 1.
fn jitter() -> f64 {
    RandomState::new().hash_one(0) as f64 / u64::MAX as f64
}

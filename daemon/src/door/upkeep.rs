//! Looking after the store as a whole: collections, roots, checks and logs.
//!
//! That is for administrators, and goes to the store behind the door as it is, so that they meet that store itself:
//! its replies, its log, its errors. Behind several stores there is no such one store, and they are named. Everybody
//! else is refused, in Nix's own words where it has some, and always so that the connection goes on: what Nix takes
//! for the end of a connection (`AddPermRoot` of a user it does not trust) is an error like any other here.
//!
//! A collection is one of the store behind. What nixci keeps alive there only because somebody asked is let go before;
//! the spool is collected by nixci itself ([`crate::collect`]).

use std::fmt::Write as _;

use nixci_protocol::log::LogMessage;
use nixci_protocol::op::{self, GcAction, GcScope, Reply};
use nixci_protocol::server::{Exchange, HandlerError};
use nixci_protocol::wire::FEATURE_GC_REFERRERS;

use super::session::{Session, refuse};
use crate::config::Writes;

type Answered = Result<Reply, HandlerError>;

/// What users are told who are not trusted, where Nix has no words of its own.
const ASK: &str = "only users in `trusted_users` of nixci's configuration are; ask its administrator, or do it on the \
                   store behind it";

/// Lets pass who may do this, if there is one store to do it on. `privilege` is what others lack, as in "you are not
/// privileged to …", with the stock words where there are some; `command` is what helps on each of several stores.
fn admit(session: &Session, privilege: &str, command: &str) -> Result<(), HandlerError> {
    only_trusted(session, privilege)?;
    one_store(session, privilege, command)
}

/// Lets pass who may do this.
pub(super) fn only_trusted(session: &Session, privilege: &str) -> Result<(), HandlerError> {
    if session.who.is_trusted() {
        return Ok(());
    }
    Err(HandlerError::new(format!(
        "you are not privileged to {privilege}: {ASK}"
    )))
}

fn one_store(session: &Session, verb: &str, command: &str) -> Result<(), HandlerError> {
    let stores = &session.ci.core.stores;
    if stores.len() < 2 {
        return Ok(());
    }
    let mut text = format!(
        "nixci cannot {verb} on {} stores at once; ask each by itself:",
        stores.len()
    );
    for store in stores {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            " `{command} --store '{}'` ({})",
            store.config.uri, store.config.name
        );
    }
    Err(HandlerError::new(text))
}

pub(super) async fn find_roots(session: &mut Session, request: op::FindRoots, exchange: &mut Exchange<'_>) -> Answered {
    admit(
        session,
        "see the roots of the garbage collector",
        "nix-store --gc --print-roots",
    )?;
    session.upstream.ask(&request, exchange).await
}

pub(super) async fn collect(
    session: &mut Session,
    request: op::CollectGarbage,
    exchange: &mut Exchange<'_>,
) -> Answered {
    if request.ignore_liveness {
        return Err(HandlerError::new("you are not allowed to ignore liveness"));
    }
    let (privilege, command) = match request.action {
        GcAction::ReturnLive => ("list what is alive", "nix-store --gc --print-live"),
        GcAction::ReturnDead => ("list what is dead", "nix-store --gc --print-dead"),
        GcAction::DeleteDead => ("collect garbage", "nix store gc"),
        GcAction::DeleteSpecific => ("delete paths", "nix store delete"),
    };
    admit(session, privilege, command)?;
    let connection = session.upstream.connection().await?;
    if let Some(lost) = lost(&request, connection.negotiated().has(FEATURE_GC_REFERRERS)) {
        return Err(HandlerError::new(lost));
    }
    let _forgotten = session.ci.core.objects.retire().await;
    if let (GcAction::DeleteDead, Writes::Spool) = (request.action, session.ci.core.config.listen.writes) {
        let note = "nixci: this collects the store behind; what is in nixci's spool stays: `nixci gc` collects that";
        exchange.log(LogMessage::line(note)).await;
    }
    let collected = session.upstream.ask(&request, exchange).await;
    forget(session);
    collected
}

/// What was remembered of a store that has deleted paths is of no use any more.
fn forget(session: &Session) {
    for store in &session.ci.core.stores {
        store.has.clear();
    }
}

/// What a store that does not know the newer layout would overlook; it would then delete something else.
fn lost(request: &op::CollectGarbage, store_knows_scopes: bool) -> Option<&'static str> {
    let GcScope::Paths { delete_referrers, .. } = &request.scope else {
        return None;
    };
    if store_knows_scopes {
        return None;
    }
    match request.action {
        GcAction::DeleteSpecific if *delete_referrers => {
            Some("the store behind nixci cannot delete what refers to paths; name these paths too, or update its Nix")
        }
        GcAction::DeleteSpecific => None,
        GcAction::ReturnLive | GcAction::ReturnDead | GcAction::DeleteDead => {
            Some("the store behind nixci can only be looked at as a whole; leave the paths away, or update its Nix")
        }
    }
}

pub(super) async fn optimise(
    session: &mut Session,
    request: op::OptimiseStore,
    exchange: &mut Exchange<'_>,
) -> Answered {
    admit(session, "optimise the store", "nix store optimise")?;
    session.upstream.done(&request, exchange).await
}

pub(super) async fn verify(session: &mut Session, request: op::VerifyStore, exchange: &mut Exchange<'_>) -> Answered {
    let privilege = if request.repair {
        "repair paths"
    } else {
        "verify the store"
    };
    admit(session, privilege, "nix-store --verify")?;
    // What turns out to be gone is no longer valid, whatever protected it.
    let _forgotten = session.ci.core.objects.retire().await;
    let verified = session.upstream.ask(&request, exchange).await;
    forget(session);
    verified
}

pub(super) async fn perm_root(
    session: &mut Session,
    request: op::AddPermRoot,
    exchange: &mut Exchange<'_>,
) -> Answered {
    if !session.who.is_trusted() {
        return Err(HandlerError::new(format!(
            "you are not privileged to create perm roots: {ASK}\n\n\
             \u{1b}[35;1mhint:\u{1b}[0m you can make a link yourself and have it registered as an indirect root"
        )));
    }
    one_store(session, "make roots", "nix-store --realise --add-root")?;
    session.upstream.ask(&request, exchange).await
}

/// The link is on this host, as the store is: whoever is here too may have it registered.
pub(super) async fn indirect_root(
    session: &mut Session,
    request: op::AddIndirectRoot,
    exchange: &mut Exchange<'_>,
) -> Answered {
    match session.ci.core.config.listen.writes {
        Writes::Through if session.who.is_local() => {}
        Writes::Through | Writes::Spool => {
            if !session.who.is_trusted() {
                return Err(HandlerError::new(format!(
                    "you are not privileged to register roots here: {ASK}; with `--no-link` or `--no-out-link` none is \
                     needed"
                )));
            }
            one_store(session, "register roots", "nix-store --realise --add-root")?;
        }
    }
    session.upstream.done(&request, exchange).await
}

pub(super) async fn build_log(
    session: &mut Session,
    request: op::AddBuildLog,
    exchange: &mut Exchange<'_>,
) -> Answered {
    admit(session, "add logs", "nix store copy-log")?;
    let connection = session.upstream.connection().await?;
    // Stores say nothing meanwhile, and there is nobody to tell it: the body is read from the same client.
    let added = connection.call_framed(&request, exchange.body(), &mut ()).await;
    added.map_err(|error| refuse(&error))?;
    Ok(Reply::Done)
}

/// What is realised where cannot be proved by those who are not trusted.
pub(super) fn no_realisations() -> HandlerError {
    HandlerError::new(format!("you are not privileged to register realisations: {ASK}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_an_old_store_would_overlook_is_refused() {
        use GcAction::{DeleteDead, DeleteSpecific, ReturnDead, ReturnLive};
        let paths = |delete_referrers| GcScope::Paths {
            paths: BTreeSet::new(),
            delete_referrers,
        };
        for (action, scope, passes) in [
            (DeleteDead, GcScope::Whole, true),
            (ReturnLive, GcScope::Whole, true),
            (ReturnDead, GcScope::Whole, true),
            (DeleteSpecific, paths(false), true),
            (DeleteSpecific, paths(true), false),
            (DeleteDead, paths(false), false),
            (DeleteDead, paths(true), false),
            (ReturnLive, paths(false), false),
            (ReturnDead, paths(false), false),
        ] {
            let request = op::CollectGarbage {
                action,
                scope,
                ignore_liveness: false,
                max_freed: u64::MAX,
            };
            assert_eq!(lost(&request, false).is_none(), passes, "{request:?}");
            assert_eq!(lost(&request, true), None, "{request:?}");
        }
    }
}

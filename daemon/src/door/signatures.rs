//! Signatures that clients add to paths that are there: `nix store sign`.

use nixci_protocol::op::{self, Reply};
use nixci_protocol::server::{Exchange, HandlerError};

use super::add::authority;
use super::session::{Session, refuse};
use super::upkeep;
use crate::config::Writes;
use crate::error::told;

type Answered = Result<Reply, HandlerError>;

/// Adds signatures to a path where it is: in the spool, or on the stores behind that have it.
///
/// What is in the spool takes from anybody what a trusted key made; more, and signatures for the stores, only from
/// those who are trusted.
pub(super) async fn add(session: &mut Session, request: op::AddSignatures, exchange: &mut Exchange<'_>) -> Answered {
    if session.spooled(&request.path) {
        let (spool, authority) = (&session.ci.core.spool, authority(session, true));
        let added = spool.sign(&request.path, request.signatures.clone(), authority).await;
        if added.map_err(|error| refuse(&error))? {
            return Ok(Reply::Done);
        }
    }
    upkeep::only_trusted(session, "add signatures")?;
    let core = session.ci.core.clone();
    let stores = match core.config.listen.writes {
        Writes::Through => &core.stores[..core.stores.len().min(1)],
        Writes::Spool => &core.stores[..],
    };
    let reply = match stores {
        // What is wrong with the request, it says best itself.
        [] | [_] => {
            session.upstream.call(&request, exchange).await?;
            Reply::Done
        }
        several => {
            let mut found = false;
            for store in several {
                let failed = |error: String| HandlerError::new(format!("store `{}`: {error}", store.config.name));
                let connection = store.remote.acquire().await;
                let mut connection = connection.map_err(|error| refuse(&error))?;
                let question = op::IsValidPath {
                    path: request.path.clone(),
                };
                let valid = connection.call(&question, &mut ()).await;
                if valid.map_err(|error| failed(told(&error)))? {
                    let added = connection.call(&request, &mut ()).await;
                    added.map_err(|error| failed(told(&error)))?;
                    found = true;
                }
            }
            if !found {
                let path = core.config.store_dir.display(&request.path);
                return Err(HandlerError::new(format!("path '{path}' is not valid")));
            }
            Reply::Done
        }
    };
    core.objects.forget(&request.path);
    Ok(reply)
}

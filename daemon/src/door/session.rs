//! One client connection.

use std::collections::HashMap;

use nixci_protocol::client;
use nixci_protocol::log::RemoteError;
use nixci_protocol::nixci::RootsDigest;
use nixci_protocol::op::{self, Reply, Request};
use nixci_protocol::server::{Exchange, Handler, HandlerError};
use nixci_protocol::types::StorePath;
use nixci_store::remote::Link;
use nixci_store::spool::Lease;
use tracing::info;

use super::builds::Foreseen;
use super::options::Settings;
use super::upstream::Upstream;
use super::{add, builds, control, derivation, query, roots, signatures, upkeep};
use crate::ci::Ci;
use crate::error::told;
use crate::objects::Roots;
use crate::principal::{Pass, Principal, Work};
use crate::scheduler::StoreId;
use crate::submit::Attending;

/// The state of one connection.
pub(super) struct Session {
    pub(super) ci: Ci,
    pub(super) who: Principal,
    /// What must still count, where it came with a token.
    pass: Option<Pass>,
    /// It does not.
    is_over: bool,
    pub(super) upstream: Upstream,
    /// Roots this client took on paths that are known.
    pub(super) roots: Roots,
    /// The set of roots this client came with, if it is not known, until it asks about it path by path.
    pub(super) unknown_roots: Option<RootsDigest>,
    /// Evaluations this client sends jobs for.
    pub(super) attending: Vec<Attending>,
    /// Connections to stores other than the one behind the door, for what was built there for this client.
    pub(super) links: HashMap<StoreId, Link>,
    /// What the store has just said it would do: clients ask that before they ask for it.
    pub(super) foreseen: Option<Foreseen>,
    /// The client knows that its limits of time do not hold.
    pub(super) told_of_limits: bool,
    /// Keeps what this client was told that the spool has, and what it added.
    lease: Lease,
    pub(super) settings: Settings,
}

impl Session {
    /// Of a client that was told in the handshake what `lease` keeps.
    pub(super) fn new(
        ci: Ci,
        who: Principal,
        pass: Option<Pass>,
        lease: Lease,
        unknown_roots: Option<RootsDigest>,
    ) -> Self {
        Self {
            pass,
            is_over: false,
            upstream: Upstream::new(ci.core.clone()),
            roots: Roots::default(),
            unknown_roots,
            ci,
            who,
            attending: Vec::new(),
            links: HashMap::new(),
            foreseen: None,
            told_of_limits: false,
            lease,
            settings: Settings::default(),
        }
    }

    /// Whether the spool has a path and may answer for it. Where clients look for paths on a disk they
    /// share with the store behind, only that store's word counts.
    pub(super) fn spooled(&self, path: &StorePath) -> bool {
        self.ci.core.objects.spooled(path)
    }
}

/// An error as the client is told it. What a store said goes on as it said it.
pub(super) fn refuse(error: &(dyn std::error::Error + 'static)) -> HandlerError {
    if let Some(client::Error::Remote(said)) = error.downcast_ref() {
        return said.clone().into();
    }
    HandlerError::new(told(error))
}

/// What a request is, as far as rights go.
fn work(request: &Request) -> Work {
    match request {
        Request::SetOptions(_) | Request::SyncWithGc(_) | Request::Control(_) => Work::Own,
        Request::IsValidPath(_)
        | Request::QueryValidPaths(_)
        | Request::QueryValidBatch(_)
        | Request::QueryPathInfo(_)
        | Request::QueryDeriver(_)
        | Request::QueryPathFromHashPart(_)
        | Request::QueryDerivationOutputMap(_)
        | Request::QueryDerivationOutputs(_)
        | Request::QueryDerivationOutputNames(_)
        | Request::QuerySubstitutablePathInfo(_)
        | Request::QuerySubstitutablePathInfos(_)
        | Request::QuerySubstitutablePaths(_)
        | Request::QueryRealisation(_)
        | Request::QueryMissing(_)
        | Request::AddTempRoot(_) => Work::Ask,
        Request::NarFromPath(_) => Work::Fetch,
        Request::QueryReferrers(_) | Request::QueryValidDerivers(_) | Request::QueryAllValidPaths(_) => Work::Survey,
        Request::AddToStore(_)
        | Request::AddTextToStore(_)
        | Request::AddToStoreNar(_)
        | Request::AddMultipleToStore(_)
        | Request::AddClosure(_) => Work::Add,
        Request::BuildPaths(_)
        | Request::BuildPathsWithResults(_)
        | Request::BuildDerivation(_)
        | Request::EnsurePath(_) => Work::Build,
        Request::AddSignatures(_)
        | Request::AddIndirectRoot(_)
        | Request::AddPermRoot(_)
        | Request::FindRoots(_)
        | Request::CollectGarbage(_)
        | Request::OptimiseStore(_)
        | Request::VerifyStore(_)
        | Request::AddBuildLog(_)
        | Request::RegisterDrvOutput(_) => Work::Upkeep,
    }
}

impl Handler for Session {
    fn is_over(&self) -> bool {
        self.is_over
    }

    async fn handle(&mut self, request: Request, exchange: &mut Exchange<'_>) -> Result<Reply, HandlerError> {
        if let Some(pass) = &mut self.pass
            && let Err(why) = pass.check().await
        {
            info!(principal = self.who.name(), "{why}");
            self.is_over = true;
            return Err(RemoteError::refusal(why).into());
        }
        self.who.may_work(work(&request)).map_err(HandlerError::new)?;
        // Control messages say nothing of the spool, and who watches for days must not keep what others use.
        let uses_spool = !matches!(request, Request::Control(_));
        let _in_use = uses_spool.then(|| self.lease.busy());
        match request {
            Request::IsValidPath(request) => query::is_valid(self, request).await,
            Request::QueryValidPaths(request) => query::valid_paths(self, request, exchange).await,
            Request::QueryPathInfo(request) => query::path_info(self, request).await,
            Request::QueryReferrers(request) => query::referrers(self, request).await,
            Request::QueryDeriver(request) => query::deriver(self, request, exchange).await,
            Request::QueryValidDerivers(request) => query::valid_derivers(self, request).await,
            Request::QueryPathFromHashPart(request) => query::hash_part(self, request, exchange).await,
            Request::QueryDerivationOutputMap(request) => query::output_map(self, request, exchange).await,
            Request::QueryDerivationOutputs(request) => query::output_paths(self, request, exchange).await,
            Request::QueryDerivationOutputNames(request) => query::output_names(self, request, exchange).await,
            Request::QuerySubstitutablePathInfo(request) => self.upstream.ask(&request, exchange).await,
            Request::QuerySubstitutablePathInfos(request) => self.upstream.ask(&request, exchange).await,
            Request::QuerySubstitutablePaths(request) => self.upstream.ask(&request, exchange).await,
            Request::QueryRealisation(request) => query::realisation(self, request).await,
            Request::NarFromPath(request) => query::nar(self, request).await,
            Request::AddToStore(request) => add::to_store(self, request, exchange).await,
            Request::AddTextToStore(request) => add::text(self, request, exchange).await,
            Request::AddToStoreNar(request) => add::nar(self, request, exchange).await,
            Request::AddMultipleToStore(request) => add::multiple(self, &request, exchange).await,
            Request::AddSignatures(request) => signatures::add(self, request, exchange).await,
            Request::AddClosure(_) => add::closure(self, exchange).await,
            Request::QueryValidBatch(request) => Ok(roots::valid_batch(self, request)),
            Request::QueryMissing(request) => builds::missing(self, request, exchange).await,
            Request::BuildPaths(request) => builds::paths(self, request, exchange).await,
            Request::BuildPathsWithResults(request) => builds::paths_with_results(self, request, exchange).await,
            Request::BuildDerivation(request) => derivation::build(self, request, exchange).await,
            Request::EnsurePath(request) => query::ensure(self, request, exchange).await,
            Request::AddTempRoot(request) => query::temp_root(self, request, exchange).await,
            Request::QueryAllValidPaths(_) => query::all_valid(self).await,
            Request::AddIndirectRoot(request) => upkeep::indirect_root(self, request, exchange).await,
            Request::AddPermRoot(request) => upkeep::perm_root(self, request, exchange).await,
            Request::FindRoots(request) => upkeep::find_roots(self, request, exchange).await,
            Request::CollectGarbage(request) => upkeep::collect(self, request, exchange).await,
            Request::OptimiseStore(request) => upkeep::optimise(self, request, exchange).await,
            Request::VerifyStore(request) => upkeep::verify(self, request, exchange).await,
            Request::AddBuildLog(request) => upkeep::build_log(self, request, exchange).await,
            Request::RegisterDrvOutput(request) if self.who.is_trusted() => {
                query::register_realisation(self, request, exchange).await
            }
            Request::SyncWithGc(op::SyncWithGc {}) => Ok(Reply::Done),
            Request::SetOptions(request) => {
                let options = self.settings.filter(request, &self.who, exchange).await;
                self.upstream.set_options(options).await;
                Ok(Reply::Done)
            }
            Request::Control(request) => control::answer(self, &request.json).await,
            Request::RegisterDrvOutput(_) => Err(upkeep::no_realisations()),
        }
    }
}

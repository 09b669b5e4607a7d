//! Control requests of those who may not do everything: refused, narrowed, or answered without what is not theirs.
//!
//! What somebody may not see is answered like what is not there. Everything that can be asked passes here, in
//! [`Ci::answer`](crate::Ci::answer); what a principal may is decided in [`principal`](crate::principal).

use std::collections::{HashSet, VecDeque};

use nixci_protocol::nixci::control::{
    BuildDetail, EvaluationId, EvaluationSummary, LogOf, ProjectSummary, Request, Selector, Target,
};
use nixci_protocol::types::StorePath;
use nixci_store::index::evaluations::EvaluationRow;
use nixci_store::index::{self, DrvId, attempts, derivations, evaluations, jobs};

use crate::ci::Ci;
use crate::config::Right;
use crate::error::CiError;
use crate::principal::Principal;

/// Evaluations that are looked through for those somebody may see.
pub(crate) const LOOKED_THROUGH: u32 = 1_000;
/// Derivations above one that are looked at to find whose it is.
const ABOVE: usize = 20_000;
/// Jobs of one derivation that are looked at for that.
const USES: u32 = 1_000;

/// The request as it may be answered: selectors that could name anything name something of the caller's.
pub(crate) async fn narrowed(ci: &Ci, who: &Principal, request: Request) -> Result<Request, CiError> {
    let gate = Gate { ci, who };
    Ok(match request {
        // What these are about is looked at where they are done.
        Request::Info | Request::Submit { .. } | Request::SubmitBegin(_) | Request::CollectGarbage { .. } => request,
        Request::SubmitJobs { evaluation, .. } | Request::SubmitEnd { evaluation, .. } => {
            gate.may_continue(evaluation).await?;
            request
        }
        Request::Status { which } => Request::Status {
            which: gate.seen(which).await?,
        },
        Request::Jobs { which } => Request::Jobs {
            which: gate.seen(which).await?,
        },
        Request::Watch { which } => Request::Watch {
            which: gate.seen(which).await?,
        },
        Request::Verdict { head, base } => Request::Verdict {
            head: gate.seen(head).await?,
            base: match base {
                Some(base) => Some(gate.seen(base).await?),
                None => None,
            },
        },
        Request::Report { which, again } => {
            let which = gate.seen(which).await?;
            if again {
                let row = ci.reader().find(&which).await?;
                gate.need(Right::Restart, &row)?;
            }
            Request::Report { which, again }
        }
        Request::Log { of, follow } => {
            let of = match of {
                LogOf::Job { which, attr } => LogOf::Job {
                    which: gate.seen(which).await?,
                    attr,
                },
                LogOf::Derivation(ref path) => {
                    gate.derivation(path).await?;
                    of
                }
                LogOf::Attempt(id) => {
                    let row = ci.core.index.read(move |conn| attempts::get(conn, id)).await?;
                    if let Some(row) = row
                        && !gate.is_wanted(row.drv).await?
                    {
                        return Err(CiError::NotFound(format!("there is no attempt {}", id.0)));
                    }
                    of
                }
            };
            Request::Log { of, follow }
        }
        Request::Restart { what } => Request::Restart {
            what: match what {
                Target::Evaluation(which) => {
                    let which = gate.seen(which).await?;
                    gate.need(Right::Restart, &ci.reader().find(&which).await?)?;
                    Target::Evaluation(which)
                }
                Target::Derivation(path) => {
                    gate.whole(Right::Restart)?;
                    Target::Derivation(path)
                }
            },
        },
        Request::Cancel { what } => Request::Cancel {
            what: match what {
                Target::Evaluation(which) => {
                    let which = gate.seen(which).await?;
                    let row = ci.reader().find(&which).await?;
                    // Who submitted something may take it back.
                    if row.principal != who.name() {
                        gate.need(Right::Restart, &row)?;
                    }
                    Target::Evaluation(which)
                }
                Target::Derivation(path) => {
                    gate.whole(Right::Restart)?;
                    Target::Derivation(path)
                }
            },
        },
        Request::Build { ref drv_path } => {
            gate.derivation(drv_path).await?;
            request
        }
        Request::Evaluations { .. } | Request::Projects => {
            gate.need_reading()?;
            request
        }
        Request::Stores | Request::Forges | Request::Issuers => {
            if !who.sees_all() {
                return Err(gate.lacks("read", "for all projects, as stores, forges and issuers belong to none"));
            }
            request
        }
    })
}

struct Gate<'a> {
    ci: &'a Ci,
    who: &'a Principal,
}

impl Gate<'_> {
    fn lacks(&self, right: &str, more: &str) -> CiError {
        CiError::NotAllowed(format!(
            "{} may not do this: it lacks the right `{right}` {more}",
            self.who
        ))
    }

    fn need(&self, right: Right, row: &EvaluationRow) -> Result<(), CiError> {
        let project = &row.submission.project;
        if self.who.may(right, project) {
            return Ok(());
        }
        Err(self.lacks(right.word(), &format!("for project `{project}`")))
    }

    fn need_reading(&self) -> Result<(), CiError> {
        if self.who.has(Right::Read) || self.who.has(Right::Submit) {
            return Ok(());
        }
        Err(self.lacks("read", ""))
    }

    /// For what may belong to several projects.
    fn whole(&self, right: Right) -> Result<(), CiError> {
        if self.who.has(right) && !self.who.is_scoped() {
            return Ok(());
        }
        Err(self.lacks(
            right.word(),
            "for all projects, as other projects may want the same derivation; name an evaluation instead",
        ))
    }

    async fn may_continue(&self, evaluation: EvaluationId) -> Result<(), CiError> {
        if !self.who.is_scoped() && self.who.has(Right::Submit) {
            return Ok(());
        }
        let row = self
            .ci
            .core
            .index
            .read(move |conn| evaluations::get(conn, evaluation))
            .await?;
        let is_own = row.is_some_and(|row| self.who.may_continue(&row.submission.project, &row.principal));
        if is_own {
            return Ok(());
        }
        Err(CiError::NotFound(format!("there is no evaluation {}", evaluation.0)))
    }

    /// A selector that names nothing the caller may not see.
    async fn seen(&self, which: Selector) -> Result<Selector, CiError> {
        self.need_reading()?;
        if !self.who.is_scoped() {
            return Ok(which);
        }
        let which = match which {
            Selector::Evaluation(_) => which,
            Selector::Commit { project, commit } => Selector::Commit {
                project: Some(self.project(project)?),
                commit,
            },
            Selector::Latest { project } => Selector::Latest {
                project: Some(self.project(project)?),
            },
        };
        let row = self.ci.reader().find(&which).await?;
        if self.who.sees(&row.submission.project) {
            return Ok(which);
        }
        Err(match which {
            Selector::Evaluation(id) => CiError::NotFound(format!("there is no evaluation {} here", id.0)),
            Selector::Commit { .. } | Selector::Latest { .. } => self.unseen(&row.submission.project),
        })
    }

    fn project(&self, named: Option<String>) -> Result<String, CiError> {
        match named {
            Some(project) if self.who.sees(&project) => Ok(project),
            Some(project) => Err(self.unseen(&project)),
            None => self
                .who
                .only_project()
                .map(str::to_owned)
                .ok_or_else(|| CiError::Invalid(format!("{} is for several projects; name one of them", self.who))),
        }
    }

    fn unseen(&self, project: &str) -> CiError {
        CiError::NotFound(format!("there is no evaluation of {project} that {} may see", self.who))
    }

    /// Fails where no evaluation that the caller may see wants this derivation.
    async fn derivation(&self, text: &str) -> Result<(), CiError> {
        self.need_reading()?;
        if self.who.sees_all() || !self.who.is_scoped() {
            return Ok(());
        }
        let missing = || CiError::NotFound(format!("there is no derivation {text} here"));
        let path: StorePath = self.ci.core.config.store_dir.parse(text).map_err(|_| missing())?;
        let found = self
            .ci
            .core
            .index
            .read(move |conn| derivations::ids(conn, &[path]))
            .await?;
        let drv = found.into_iter().next().flatten().ok_or_else(missing)?;
        if self.is_wanted(drv).await? {
            Ok(())
        } else {
            Err(missing())
        }
    }

    /// Whether an evaluation that the caller may see wants a derivation, itself or for another.
    async fn is_wanted(&self, drv: DrvId) -> Result<bool, CiError> {
        self.need_reading()?;
        if !self.who.is_scoped() {
            return Ok(true);
        }
        let who = self.who.clone();
        let wanted = self
            .ci
            .core
            .index
            .read(move |conn| wanted(conn, drv, &|project| who.sees(project)));
        Ok(wanted.await?)
    }
}

fn wanted(conn: &rusqlite::Connection, drv: DrvId, sees: &dyn Fn(&str) -> bool) -> index::Result<bool> {
    let mut known = HashSet::from([drv]);
    let mut next = VecDeque::from([drv]);
    while let Some(at) = next.pop_front() {
        if jobs::where_used(conn, at, USES)?.iter().any(|used| sees(&used.project)) {
            return Ok(true);
        }
        for above in derivations::dependents(conn, at, ABOVE as u32)? {
            if known.len() < ABOVE && known.insert(above) {
                next.push_back(above);
            }
        }
    }
    Ok(false)
}

/// Only those that somebody may see, at most `limit`.
pub(crate) fn visible_evaluations(
    who: &Principal,
    mut all: Vec<EvaluationSummary>,
    limit: u32,
) -> Vec<EvaluationSummary> {
    all.retain(|evaluation| who.sees(&evaluation.project));
    all.truncate(limit as usize);
    all
}

/// Only those that somebody may see.
pub(crate) fn visible_projects(who: &Principal, mut all: Vec<ProjectSummary>) -> Vec<ProjectSummary> {
    all.retain(|project| who.sees(&project.project));
    all
}

/// Without jobs of projects that somebody may not see.
pub(crate) fn visible_build(who: &Principal, mut build: BuildDetail) -> BuildDetail {
    build.used_by.retain(|used| who.sees(&used.project));
    build
}

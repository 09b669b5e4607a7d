//! What somebody may, and for which projects. All of it is decided here.

use std::sync::Arc;

use nixci_protocol::nixci::control::Submission;

use super::job::{Confirmation, Job};
use super::{Principal, Refused};
use crate::config::{Projects, Right};

/// What a principal may besides what needs trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scope {
    /// Everything: users at the socket, and keys.
    Open,
    /// What a token says.
    Token {
        /// What.
        rights: Vec<Right>,
        /// Where.
        projects: Projects,
    },
    /// What the rules of the configuration give to a job: its project and commit.
    Job(Arc<Job>),
}

/// What an operation on the store is, as far as rights go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Settings of one's own, and control messages, which are looked at by themselves.
    Own,
    /// Asking about what can be named.
    Ask,
    /// Reading the content of what can be named.
    Fetch,
    /// Asking what else there is: everything, or what refers to something.
    Survey,
    /// Adding what proves its content.
    Add,
    /// Having something built or substituted that is in no evaluation.
    Build,
    /// Looking after the store as a whole.
    Upkeep,
}

impl Principal {
    /// A job of a CI system that a rule lets in.
    pub(crate) fn job(name: String, job: Job) -> Self {
        Self {
            name,
            trusted: false,
            place: super::Place::Elsewhere,
            scope: Scope::Job(Arc::new(job)),
        }
    }

    /// Whether it has this right somewhere.
    #[must_use]
    pub fn has(&self, right: Right) -> bool {
        match (&self.scope, right) {
            (Scope::Open, Right::Read | Right::Submit | Right::Restart) => true,
            (Scope::Open, Right::Admin) => self.trusted,
            (Scope::Token { rights, .. }, right) => rights.contains(&right),
            (Scope::Job(job), right) => job.rights.contains(&right),
        }
    }

    /// Whether it is for some projects only.
    #[must_use]
    pub fn is_scoped(&self) -> bool {
        match &self.scope {
            Scope::Open => false,
            Scope::Token { projects, .. } => *projects != Projects::All,
            Scope::Job(_) => true,
        }
    }

    /// Whether it is for this project.
    fn includes(&self, project: &str) -> bool {
        match &self.scope {
            Scope::Open => true,
            Scope::Token { projects, .. } => projects.include(project),
            Scope::Job(job) => job.project == project,
        }
    }

    /// Whether it has this right in a project.
    pub(crate) fn may(&self, right: Right, project: &str) -> bool {
        self.has(right) && self.includes(project)
    }

    /// Whether it may see the evaluations of a project. Who submits hears what becomes of it.
    pub(crate) fn sees(&self, project: &str) -> bool {
        (self.has(Right::Read) || self.has(Right::Submit)) && self.includes(project)
    }

    /// Whether it may see everything, also what belongs to no project.
    pub(crate) fn sees_all(&self) -> bool {
        self.has(Right::Read) && !self.is_scoped()
    }

    /// The only project it is for, where there is one.
    pub(crate) fn only_project(&self) -> Option<&str> {
        match &self.scope {
            Scope::Open => None,
            Scope::Token { projects, .. } => match projects {
                Projects::Fitting(patterns) => match patterns.as_slice() {
                    [one] if !one.contains('*') => Some(one),
                    _ => None,
                },
                Projects::All => None,
            },
            Scope::Job(job) => Some(&job.project),
        }
    }

    /// The job it is, with what its issuer vouches for.
    pub(crate) fn as_job(&self) -> Option<&Job> {
        match &self.scope {
            Scope::Job(job) => Some(job),
            Scope::Open | Scope::Token { .. } => None,
        }
    }

    /// Whether it may go on with an evaluation that `principal` began: a job only with those of its own run.
    pub(crate) fn may_continue(&self, project: &str, principal: &str) -> bool {
        let is_own = match &self.scope {
            Scope::Job(_) => principal == self.name,
            Scope::Open | Scope::Token { .. } => true,
        };
        is_own && self.may(Right::Submit, project)
    }

    /// Whether it may speak the worker protocol over HTTP at all.
    pub(crate) fn may_connect(&self) -> Result<(), Refused> {
        if Right::ALL.into_iter().any(|right| self.has(right)) {
            return Ok(());
        }
        Err(Refused::NotEnough(Right::Submit))
    }

    /// Whether it may do this kind of work on the store; an error says what is missing.
    pub(crate) fn may_work(&self, work: Work) -> Result<(), String> {
        if self.scope == Scope::Open {
            return Ok(());
        }
        let (is_fine, missing) = match work {
            Work::Own => (true, ""),
            Work::Ask => (
                self.has(Right::Read) || self.has(Right::Submit),
                "needs the right `read` or `submit`",
            ),
            Work::Fetch => (self.has(Right::Read), "needs the right `read`"),
            Work::Survey => (self.sees_all(), "needs the right `read` for all projects"),
            Work::Add => (self.has(Right::Submit), "needs the right `submit`"),
            Work::Build => (
                self.has(Right::Submit) && !self.is_scoped(),
                "needs the right `submit` for all projects; submit what is to be built with `nixci submit`",
            ),
            Work::Upkeep => (false, "is for users of the daemon's own system"),
        };
        if is_fine {
            Ok(())
        } else {
            Err(format!("{self} may not do this: it {missing}"))
        }
    }
}

/// Whether a principal may begin a submission, and what the forge must confirm first. Pure; an error says what it may.
pub(crate) fn admit_submission(who: &Principal, submission: &Submission) -> Result<Vec<Confirmation>, String> {
    if !who.has(Right::Submit) {
        return Err(format!("{who} may not submit: it lacks the right `submit`"));
    }
    match &who.scope {
        Scope::Open => Ok(Vec::new()),
        Scope::Token { projects, .. } if projects.include(&submission.project) => Ok(Vec::new()),
        Scope::Token { .. } => Err(format!(
            "{who} may not submit for project `{}`: it is for others",
            submission.project
        )),
        Scope::Job(job) => job.admit(submission),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Work; 7] = [
        Work::Own,
        Work::Ask,
        Work::Fetch,
        Work::Survey,
        Work::Add,
        Work::Build,
        Work::Upkeep,
    ];

    #[test]
    fn store_operations_need_what_they_touch() {
        use Work::{Add, Ask, Build, Fetch, Own, Survey};

        let some = || Projects::Fitting(vec!["o/*".to_owned()]);
        for (rights, projects, fine) in [
            (vec![Right::Submit], some(), vec![Own, Ask, Add]),
            (vec![Right::Submit], Projects::All, vec![Own, Ask, Add, Build]),
            (vec![Right::Read], some(), vec![Own, Ask, Fetch]),
            (vec![Right::Read], Projects::All, vec![Own, Ask, Fetch, Survey]),
            (vec![Right::Admin], Projects::All, vec![Own]),
        ] {
            let who = Principal::token("t", rights, projects);
            let may: Vec<Work> = ALL.into_iter().filter(|work| who.may_work(*work).is_ok()).collect();
            assert_eq!(may, fine, "{who:?}");
        }
        let user = Principal::local(1000, false);
        assert!(ALL.into_iter().all(|work| user.may_work(work).is_ok()));
    }
}

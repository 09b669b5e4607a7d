//! A job of a CI system, and for which commits it may speak.

use nixci_protocol::nixci::control::Submission;

use crate::config::Right;

/// A job, as its issuer vouches for it. Nothing in it comes from the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Job {
    /// The forge that has its repository, by its name in the configuration.
    pub(crate) forge: Option<String>,
    /// Its repository there.
    pub(crate) repository: String,
    /// The project that is told of.
    pub(crate) project: String,
    /// The commit it runs for; in a pull request often a merge that is shown nowhere.
    pub(crate) commit: String,
    /// Its branch or tag, in full, where there is one.
    pub(crate) git_ref: Option<String>,
    /// The branch of its pull request, where its own is that of the merge.
    pub(crate) head_ref: Option<String>,
    /// What started it.
    pub(crate) cause: Cause,
    /// What it may.
    pub(crate) rights: Vec<Right>,
}

/// What started a job, as far as that decides for which commits it may speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A pull request whose code it runs, and its number where the claims tell it.
    PullRequest(Option<u64>),
    /// Something about another commit than its own, such as a pull request from outside that another run has evaluated:
    /// it runs code of the default branch.
    Another,
    /// Anything else: its own commit.
    Own,
}

/// The label that names the run whose artifact is submitted.
pub(crate) const RUN_LABEL: &str = "run-id";

/// What only the forge can say, and must, before a submission is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Confirmation {
    /// That the commit is the head of this pull request now.
    Head {
        /// The pull request.
        number: u64,
        /// Its branch, where that is known.
        branch: Option<String>,
        /// The commit.
        commit: String,
    },
    /// That the commit is the one this run was for.
    Run {
        /// The run.
        run: u64,
        /// The commit.
        commit: String,
    },
}

impl Job {
    /// What must be confirmed before it may submit this; an error says what it may submit.
    pub(super) fn admit(&self, submission: &Submission) -> Result<Vec<Confirmation>, String> {
        if submission.project != self.project {
            return Err(format!(
                "this job is of project `{}` and cannot submit for `{}`",
                self.project, submission.project
            ));
        }
        let Some(commit) = &submission.commit else {
            return Err(format!(
                "a job submits for a commit, and this submission names none; give `--commit {}`",
                self.commit
            ));
        };
        let is_own = *commit == self.commit;
        match (self.cause, submission.pull_request) {
            (Cause::PullRequest(Some(number)), asked) => {
                if asked.is_some_and(|asked| asked != number) {
                    return Err(format!(
                        "this job is of pull request {number} and cannot submit for another"
                    ));
                }
                Ok(if is_own {
                    Vec::new()
                } else {
                    vec![head(number, None, commit)]
                })
            }
            (Cause::PullRequest(None), Some(number)) => {
                let branch = self.git_ref.as_deref().map(|full| short(full).to_owned());
                Ok(vec![head(number, branch, commit)])
            }
            (Cause::PullRequest(None) | Cause::Own | Cause::Another, None) if is_own => self.of_own_branch(submission),
            (Cause::Own, Some(number)) if is_own => Ok(vec![head(number, None, commit)]),
            (Cause::PullRequest(None) | Cause::Own, _) => Err(format!(
                "this job runs for commit {} and cannot submit for {commit}",
                self.commit
            )),
            (Cause::Another, number) => self.about_another(submission, commit, number),
        }
    }

    /// The branch or tag of its own commit, as people write it.
    pub(crate) fn branch(&self) -> Option<&str> {
        let of_pull = match self.cause {
            Cause::PullRequest(_) => self.head_ref.as_deref(),
            Cause::Another | Cause::Own => None,
        };
        of_pull.or(self.git_ref.as_deref()).map(short)
    }

    /// A commit of another run or of a pull request.
    fn about_another(
        &self,
        submission: &Submission,
        commit: &str,
        number: Option<u64>,
    ) -> Result<Vec<Confirmation>, String> {
        let run = match submission.labels.get(RUN_LABEL) {
            None => None,
            Some(text) => Some(
                text.parse()
                    .map_err(|_| format!("the label `{RUN_LABEL}` is not the number of a run"))?,
            ),
        };
        let mut needed: Vec<Confirmation> = run
            .map(|run| Confirmation::Run {
                run,
                commit: commit.to_owned(),
            })
            .into_iter()
            .collect();
        needed.extend(number.map(|number| head(number, None, commit)));
        if needed.is_empty() {
            return Err(format!(
                "this job runs for commit {}; to submit for {commit} it must say of which pull request that is the head, or of which run by the label `{RUN_LABEL}`",
                self.commit
            ));
        }
        Ok(needed)
    }

    /// A branch has a history of its own: nobody may write into that of another.
    fn of_own_branch(&self, submission: &Submission) -> Result<Vec<Confirmation>, String> {
        let own = self.git_ref.as_deref();
        match submission.git_ref.as_deref() {
            Some(asked) if own.is_some_and(|own| asked != own && asked != short(own)) => Err(format!(
                "this job runs for `{}` and cannot submit for `{asked}`",
                own.map(short).unwrap_or_default()
            )),
            Some(_) | None => Ok(Vec::new()),
        }
    }
}

fn head(number: u64, branch: Option<String>, commit: &str) -> Confirmation {
    Confirmation::Head {
        number,
        branch,
        commit: commit.to_owned(),
    }
}

/// A branch or tag without what stands in front of all of them.
fn short(full: &str) -> &str {
    full.strip_prefix("refs/heads/")
        .or_else(|| full.strip_prefix("refs/tags/"))
        .or_else(|| full.strip_prefix("refs/"))
        .unwrap_or(full)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const OWN: &str = "1111111111111111111111111111111111111111";
    const HEAD: &str = "2222222222222222222222222222222222222222";

    fn job(cause: Cause, git_ref: &str) -> Job {
        Job {
            forge: Some("github".to_owned()),
            repository: "o/r".to_owned(),
            project: "o/r".to_owned(),
            commit: OWN.to_owned(),
            git_ref: Some(git_ref.to_owned()),
            head_ref: None,
            cause,
            rights: vec![Right::Submit],
        }
    }

    fn asked(commit: &str, pull_request: Option<u64>, run: Option<&str>) -> Submission {
        Submission {
            key: "k".to_owned(),
            project: "o/r".to_owned(),
            commit: Some(commit.to_owned()),
            git_ref: None,
            base: None,
            pull_request,
            source: ".#checks".to_owned(),
            labels: run
                .map(|run| (RUN_LABEL.to_owned(), run.to_owned()))
                .into_iter()
                .collect::<BTreeMap<_, _>>(),
        }
    }

    fn head(number: u64, branch: Option<&str>, commit: &str) -> Confirmation {
        super::head(number, branch.map(str::to_owned), commit)
    }

    #[test]
    fn a_push_submits_for_its_own_commit_and_branch_only() {
        let job = job(Cause::Own, "refs/heads/main");
        let on = |git_ref: &str| Submission {
            git_ref: Some(git_ref.to_owned()),
            ..asked(OWN, None, None)
        };
        assert_eq!(job.admit(&asked(OWN, None, None)), Ok(Vec::new()));
        assert_eq!(job.admit(&on("main")), Ok(Vec::new()));
        assert!(job.admit(&on("release")).unwrap_err().contains("`release`"));
        assert!(job.admit(&asked(HEAD, None, None)).unwrap_err().contains(HEAD));
        assert!(job.admit(&asked(HEAD, Some(7), None)).is_err());
        assert!(job.admit(&asked(HEAD, None, Some("5"))).is_err());
        assert_eq!(job.admit(&asked(OWN, Some(7), None)), Ok(vec![head(7, None, OWN)]));
        let elsewhere = Submission {
            project: "o/other".to_owned(),
            ..asked(OWN, None, None)
        };
        assert!(job.admit(&elsewhere).unwrap_err().contains("`o/other`"));
        let nothing = Submission {
            commit: None,
            ..asked(OWN, None, None)
        };
        assert!(job.admit(&nothing).unwrap_err().contains("--commit"));
    }

    #[test]
    fn a_pull_request_submits_for_itself_and_the_forge_confirms_its_head() {
        let github = job(Cause::PullRequest(Some(7)), "refs/pull/7/merge");
        assert_eq!(github.admit(&asked(HEAD, Some(7), None)), Ok(vec![head(7, None, HEAD)]));
        assert_eq!(github.admit(&asked(HEAD, None, None)), Ok(vec![head(7, None, HEAD)]));
        assert_eq!(github.admit(&asked(OWN, Some(7), None)), Ok(Vec::new()));
        assert!(github.admit(&asked(HEAD, Some(8), None)).is_err());
        assert!(github.admit(&asked(OWN, Some(8), None)).is_err());
        let gitlab = job(Cause::PullRequest(None), "refs/heads/topic");
        assert_eq!(
            gitlab.admit(&asked(HEAD, Some(3), None)),
            Ok(vec![head(3, Some("topic"), HEAD)])
        );
        assert_eq!(gitlab.admit(&asked(OWN, None, None)), Ok(Vec::new()));
        assert!(gitlab.admit(&asked(HEAD, None, None)).is_err());
    }

    #[test]
    fn the_branch_is_that_of_the_claims() {
        let of_merge = Job {
            head_ref: Some("topic".to_owned()),
            ..job(Cause::PullRequest(Some(7)), "refs/pull/7/merge")
        };
        assert_eq!(of_merge.branch(), Some("topic"));
        let nobody_says = Job {
            head_ref: None,
            ..of_merge.clone()
        };
        assert_eq!(nobody_says.branch(), Some("pull/7/merge"));
        // What is called so where there is no pull request says nothing of this commit.
        let push = Job {
            cause: Cause::Own,
            git_ref: Some("refs/tags/v1".to_owned()),
            ..of_merge
        };
        assert_eq!(push.branch(), Some("v1"));
    }

    #[test]
    fn a_job_about_another_run_names_what_the_forge_can_confirm() {
        let job = job(Cause::Another, "refs/heads/main");
        let run = Confirmation::Run {
            run: 5,
            commit: HEAD.to_owned(),
        };
        assert_eq!(job.admit(&asked(HEAD, None, Some("5"))), Ok(vec![run.clone()]));
        assert_eq!(
            job.admit(&asked(HEAD, Some(7), Some("5"))),
            Ok(vec![run, head(7, None, HEAD)])
        );
        assert_eq!(job.admit(&asked(HEAD, Some(7), None)), Ok(vec![head(7, None, HEAD)]));
        assert_eq!(job.admit(&asked(OWN, None, None)), Ok(Vec::new()));
        assert!(job.admit(&asked(HEAD, None, None)).unwrap_err().contains(RUN_LABEL));
        assert!(job.admit(&asked(HEAD, None, Some("five"))).is_err());
    }
}

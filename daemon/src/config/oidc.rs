//! `[[oidc]]`: jobs of CI systems that are known by the tokens their issuer signs.

use std::time::Duration;

use serde::Deserialize;

use super::Right;
use super::project::fits;

/// One issuer of tokens, and which of its jobs are let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Oidc {
    /// Its address, exactly as its tokens and its discovery document write it.
    pub issuer: String,
    /// What its claims are called.
    pub kind: OidcKind,
    /// For whom its tokens must be made; none: the address of the pages.
    pub audience: Option<String>,
    /// The forge that has its repositories, by its name in the configuration. Without one nothing can be confirmed.
    pub forge: Option<String>,
    /// How often one token is taken.
    pub reuse: Reuse,
    /// How old a token may be, and how long it may be good for.
    pub max_age: Duration,
    /// What its claims are called.
    pub claims: ClaimNames,
    /// Who is let in. The first rule that fits counts; where none does, nobody is.
    pub allow: Vec<Allow>,
}

/// What the jobs of an issuer are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OidcKind {
    /// GitHub Actions, and what names its claims and events alike.
    GitHub,
    /// GitLab CI.
    GitLab,
    /// Forgejo Actions: named as GitHub's; older ones tell no numbers of repositories and owners.
    Forgejo,
    /// Anything else.
    Generic,
}

/// How often one token is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// Once. For issuers that make a new token whenever a job asks.
    Never,
    /// As often as it is good, for the same job, project and commit: for issuers that give a job one token at its start,
    /// with which it must connect several times. Whoever steals it can submit for that commit until it expires.
    Job,
}

/// Names every claim once: what it says, what the configuration calls it, and what GitHub and GitLab call it.
macro_rules! claims {
    ($($(#[$about:meta])* $field:ident, $key:literal: $github:literal, $gitlab:literal;)*) => {
        /// What claims are called that say something about a job.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct ClaimNames {
            $($(#[$about])* pub $field: String,)*
        }

        /// Names of claims in the configuration, in place of those of the kind.
        #[derive(Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct ClaimsTable {
            $(#[serde(rename = $key)] $field: Option<String>,)*
        }

        impl ClaimsTable {
            /// These, and for the others those of a kind.
            pub(super) fn or(self, default: ClaimNames) -> ClaimNames {
                ClaimNames { $($field: self.$field.unwrap_or(default.$field),)* }
            }
        }

        impl OidcKind {
            /// What its claims are called: <https://docs.github.com/en/actions/reference/security/oidc>,
            /// <https://docs.gitlab.com/ci/secrets/id_token_authentication/>.
            #[must_use]
            pub fn claims(self) -> ClaimNames {
                match self {
                    Self::GitHub | Self::Forgejo | Self::Generic => ClaimNames { $($field: $github.to_owned(),)* },
                    Self::GitLab => ClaimNames { $($field: $gitlab.to_owned(),)* },
                }
            }
        }
    };
}

claims! {
    /// The repository's name.
    repository, "repository": "repository", "project_path";
    /// Its number.
    repository_id, "repository_id": "repository_id", "project_id";
    /// The number of its owner or group.
    owner_id, "owner_id": "repository_owner_id", "namespace_id";
    /// The commit.
    commit, "commit": "sha", "sha";
    /// The branch or tag.
    git_ref, "ref": "ref", "ref_path";
    /// The branch of a pull request, where the branch or tag is that of its merge.
    head_ref, "head_ref": "head_ref", "ref_path";
    /// What started the job.
    event, "event": "event_name", "pipeline_source";
    /// The deployment environment.
    environment, "environment": "environment", "environment";
    /// Whether the branch or tag is protected.
    ref_protected, "ref_protected": "ref_protected", "ref_protected";
    /// The run or job.
    job, "job": "run_id", "pipeline_id";
}

/// Which jobs are let in, and what they may. Conditions that are not given hold always; lists hold where one of their
/// patterns fits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Allow {
    /// Names of repositories.
    pub repositories: Option<Vec<String>>,
    /// Numbers of repositories, which no other gets when a name is given away.
    pub repository_ids: Option<Vec<String>>,
    /// Numbers of owners or groups.
    pub owner_ids: Option<Vec<String>>,
    /// What started the job.
    pub events: Option<Vec<String>>,
    /// Branches and tags, in full: `refs/heads/main`.
    pub refs: Option<Vec<String>>,
    /// Deployment environments.
    pub environments: Option<Vec<String>>,
    /// Whether the branch or tag must be protected, or must not.
    pub ref_protected: Option<bool>,
    /// What such a job may; jobs of pull requests never more than submit.
    pub rights: Vec<Right>,
}

impl OidcKind {
    /// As the configuration writes it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::GitHub => "github",
            Self::GitLab => "gitlab",
            Self::Forgejo => "forgejo",
            Self::Generic => "generic",
        }
    }
}

/// Whether a value is one of a list of patterns; one that is not there fits none.
pub(crate) fn one_fits(patterns: &[String], value: Option<&str>) -> bool {
    value.is_some_and(|value| patterns.iter().any(|pattern| fits(pattern, value)))
}

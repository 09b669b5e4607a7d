//! `[[forge]]`: who is told of verdicts, and who tells of pushes and pull requests.

use super::secret::SecretFile;

/// One forge, as the identity that we have there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forge {
    /// Its name in the configuration, in records, and in the address of its webhooks, `/webhooks/NAME`.
    pub name: String,
    /// What it speaks.
    pub kind: ForgeKind,
    /// The address people use, without a trailing slash: `https://github.com`. Of a plain webhook, where it is sent.
    pub url: String,
    /// The address of its API, without a trailing slash: `https://api.github.com`. Of a plain webhook, the same as `url`.
    pub api: String,
    /// Who we are there; none where it only tells us things, or needs nothing (a plain webhook).
    pub auth: Option<ForgeAuth>,
    /// The secret by which its webhooks are known, and by which ours are (a plain webhook); without one none are taken.
    pub webhook_secret: Option<SecretFile>,
    /// In which form GitHub is told.
    pub form: Form,
}

/// What a forge speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ForgeKind {
    /// GitHub, or GitHub Enterprise Server.
    GitHub,
    /// Forgejo.
    Forgejo,
    /// Gitea.
    Gitea,
    /// GitLab.
    GitLab,
    /// Anybody who takes the verdict as JSON.
    Webhook,
}

impl ForgeKind {
    /// As the configuration writes it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::GitHub => "github",
            Self::Forgejo => "forgejo",
            Self::Gitea => "gitea",
            Self::GitLab => "gitlab",
            Self::Webhook => "webhook",
        }
    }
}

/// Who we are at a forge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ForgeAuth {
    /// A GitHub App.
    App {
        /// Its number.
        id: u64,
        /// Its private key, as PEM.
        key: SecretFile,
    },
    /// A token of a user or a bot.
    Token(SecretFile),
}

/// In which form GitHub is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As check runs, which only Apps may write.
    Checks,
    /// As commit statuses.
    Statuses,
}

#[cfg(test)]
impl Forge {
    /// A forge with nothing but a kind and an address.
    pub(crate) fn of(kind: ForgeKind, url: &str, form: Form) -> Self {
        Self {
            name: kind.word().to_owned(),
            kind,
            url: url.to_owned(),
            api: url.to_owned(),
            auth: None,
            webhook_secret: None,
            form,
        }
    }
}

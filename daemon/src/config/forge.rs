//! `[[forge]]`: who is told of verdicts, and who tells of pushes and pull requests.

use std::time::Duration;

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
    /// How much is written there.
    pub pace: Pace,
}

/// How much is written to a forge. One identity of ours counts there: of a GitHub App each installation, else the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    /// Writes in any time so long; each holds by itself. The configuration gives those of a minute and of an hour.
    pub windows: Vec<Window>,
    /// Requests at once.
    pub concurrent: u32,
    /// Writes of one context of a commit that the forge takes at all, where it has such a limit.
    pub per_context: Option<u64>,
}

/// So many writes in any time so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Writes; at least one.
    pub writes: u32,
    /// How long.
    pub time: Duration,
}

impl Pace {
    /// What is written at most where the configuration is silent.
    ///
    /// GitHub takes about 80 requests a minute and 500 an hour that create content, from each installation, and 1,000
    /// statuses of one context of a commit (docs.github.com, "Rate limits for the REST API" and "Create a commit
    /// status"). The others have no such limits by default; what is set here keeps a small server usable for people.
    #[must_use]
    pub fn of(kind: ForgeKind) -> Self {
        let (per_minute, per_hour, concurrent, per_context) = match kind {
            ForgeKind::GitHub => (75, 480, 8, Some(1_000)),
            ForgeKind::GitLab | ForgeKind::Forgejo | ForgeKind::Gitea => (300, 10_000, 4, None),
            ForgeKind::Webhook => (120, 3_600, 4, None),
        };
        Self {
            windows: Self::windows(per_minute, per_hour),
            concurrent,
            per_context,
        }
    }

    /// The windows of so many writes a minute and an hour.
    #[must_use]
    pub fn windows(per_minute: u32, per_hour: u32) -> Vec<Window> {
        let window = |writes: u32, time| Window {
            writes: writes.max(1),
            time,
        };
        vec![
            window(per_minute, Duration::from_mins(1)),
            window(per_hour, Duration::from_hours(1)),
        ]
    }
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
            pace: Pace::of(kind),
        }
    }
}

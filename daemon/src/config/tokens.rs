//! `[[token]]`: who may ask and submit over HTTP. Only hashes are configured; who reads the file learns no token.

use std::path::PathBuf;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use nixci_protocol::nixci::control::Millis;
use serde::Deserialize;
use toml::Spanned;

use super::file::Check;
use super::project::fits;
use crate::principal::TokenHash;

/// One token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its name in records.
    pub name: String,
    /// Where its hash is.
    pub hash: HashFrom,
    /// What it may.
    pub rights: Vec<Right>,
    /// Where it may do that.
    pub projects: Projects,
    /// From when on it is worth nothing, in milliseconds since the Unix epoch; none: never.
    pub expires: Option<Millis>,
}

/// Which projects somebody may see and act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Projects {
    /// All, and what belongs to none: stores, builds, objects.
    All,
    /// Those that fit one of these names or patterns, in which `*` stands for any text.
    Fitting(Vec<String>),
}

impl Projects {
    /// Whether this project is one of them.
    #[must_use]
    pub fn include(&self, project: &str) -> bool {
        match self {
            Self::All => true,
            Self::Fitting(patterns) => patterns.iter().any(|pattern| fits(pattern, project)),
        }
    }
}

/// Where the hash of a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashFrom {
    /// In the configuration.
    Here(TokenHash),
    /// In a file of its own, as `nixci-daemon hash-token` prints it; read at start.
    File(PathBuf),
}

/// What a token, or a job of a CI system, may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// See evaluations, logs and what was built.
    Read,
    /// Send derivations and have them built.
    Submit,
    /// Try again what failed, and cancel.
    Restart,
    /// Look after the daemon: collect garbage.
    Admin,
}

impl Right {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Read, Self::Submit, Self::Restart, Self::Admin];

    /// As the configuration writes it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Submit => "submit",
            Self::Restart => "restart",
            Self::Admin => "admin",
        }
    }

    /// What a word of the configuration means.
    pub fn read(word: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|right| right.word() == word)
            .ok_or_else(|| format!("`{word}` is no right; known are \"read\", \"submit\", \"restart\" and \"admin\""))
    }
}

/// When something ends: a day such as `2027-01-01`, at whose beginning it does (UTC), or a time such as
/// `2027-01-01T12:00:00Z`.
pub fn point_in_time(text: &str) -> Result<Millis, String> {
    let at = text.parse::<Timestamp>().or_else(|_| {
        let day: Date = text.parse()?;
        day.to_zoned(TimeZone::UTC).map(|at| at.timestamp())
    });
    at.map(Timestamp::as_millisecond)
        .map_err(|_| format!("`{text}` is no time; write it like \"2027-01-01\" or \"2027-01-01T12:00:00Z\""))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenTable {
    name: Spanned<String>,
    sha256: Option<Spanned<String>>,
    file: Option<Spanned<PathBuf>>,
    rights: Option<Vec<Spanned<String>>>,
    projects: Option<Vec<Spanned<String>>>,
    expires: Option<Spanned<String>>,
}

pub(super) fn tokens(tables: Option<Vec<TokenTable>>, check: &mut Check<'_>) -> Vec<Token> {
    let mut tokens: Vec<Token> = Vec::new();
    for table in tables.unwrap_or_default() {
        let at = table.name.span().start;
        let name = table.name.into_inner();
        if !crate::principal::is_name(&name) {
            check.at(
                at,
                format!("`{name}` cannot name a token; use letters, digits and `._+@-`"),
            );
        }
        if tokens.iter().any(|other| other.name == name) {
            check.at(at, format!("there are two tokens named `{name}`; names must differ"));
        }
        let hash = match (table.sha256, table.file) {
            (Some(text), None) => match text.get_ref().parse() {
                Ok(hash) => Some(HashFrom::Here(hash)),
                Err(error) => {
                    check.at(text.span().start, format!("`sha256` of token `{name}`: {error}"));
                    None
                }
            },
            (None, Some(file)) if file.get_ref().is_absolute() => Some(HashFrom::File(file.into_inner())),
            (None, Some(file)) => {
                let text = format!("`{}` must be an absolute path", file.get_ref().display());
                check.at(file.span().start, text);
                None
            }
            (Some(_), Some(_)) => {
                check.at(
                    at,
                    format!("token `{name}` has both `sha256` and `file`; one is enough"),
                );
                None
            }
            (None, None) => {
                let text = "needs `sha256` or a `file` with it; `nixci-daemon hash-token --new` makes one";
                check.at(at, format!("token `{name}` {text}"));
                None
            }
        };
        let mut rights = Vec::new();
        for right in table.rights.unwrap_or_default() {
            match Right::read(right.get_ref()) {
                Ok(known) => rights.push(known),
                Err(message) => check.at(right.span().start, message),
            }
        }
        if let Some(hash) = hash {
            tokens.push(Token {
                name,
                hash,
                rights,
                projects: projects(table.projects, check),
                expires: check.value(table.expires, None, |text| point_in_time(text).map(Some)),
            });
        }
    }
    tokens
}

/// Projects that are named, or all where none are.
fn projects(given: Option<Vec<Spanned<String>>>, check: &mut Check<'_>) -> Projects {
    let Some(given) = given else { return Projects::All };
    for pattern in &given {
        if pattern.get_ref().is_empty() {
            check.at(
                pattern.span().start,
                "a project needs a name, or `*` for all".to_owned(),
            );
        }
    }
    Projects::Fitting(given.into_iter().map(Spanned::into_inner).collect())
}

//! `[[token]]`: who may ask over HTTP. Only hashes are configured; who reads the file learns no token.

use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::file::Check;
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
}

/// Where the hash of a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashFrom {
    /// In the configuration.
    Here(TokenHash),
    /// In a file of its own, as `nixci-daemon hash-token` prints it; read at start.
    File(PathBuf),
}

/// What a token may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Ask for everything that HTTP shows.
    Read,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenTable {
    name: Spanned<String>,
    sha256: Option<Spanned<String>>,
    file: Option<Spanned<PathBuf>>,
    rights: Option<Vec<Spanned<String>>>,
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
            match right.get_ref().as_str() {
                "read" => rights.push(Right::Read),
                other => check.at(right.span().start, format!("`{other}` is no right; known is \"read\"")),
            }
        }
        if let Some(hash) = hash {
            tokens.push(Token { name, hash, rights });
        }
    }
    tokens
}

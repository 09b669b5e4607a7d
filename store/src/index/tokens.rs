//! Tokens that were made while the daemon runs: table `token`. Only their hashes are kept.

use nixci_protocol::nixci::control::Millis;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use super::error::Result;
use super::names::{json, nonsense};

/// A token, without what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// Its number.
    pub id: i64,
    /// Its name; no two have the same.
    pub name: String,
    /// What it may, in the words of the configuration.
    pub rights: Vec<String>,
    /// The projects it is for, as names or patterns; none: all.
    pub projects: Option<Vec<String>>,
    /// When it was made.
    pub created: Millis,
    /// From when on it is worth nothing; none: never.
    pub expires: Option<Millis>,
    /// When it was used last, about.
    pub used: Option<Millis>,
}

/// A token to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    /// Its name.
    pub name: String,
    /// Its SHA-256.
    pub hash: [u8; 32],
    /// What it may, in the words of the configuration.
    pub rights: Vec<String>,
    /// The projects it is for; none: all.
    pub projects: Option<Vec<String>>,
    /// From when on it is worth nothing.
    pub expires: Option<Millis>,
}

/// Keeps a token; false, and nothing changes, where one of this name or hash is there.
pub fn add(tx: &Transaction<'_>, token: &NewToken, now: Millis) -> Result<bool> {
    let projects = token.projects.as_ref().map(json).transpose()?;
    let added = tx
        .prepare_cached(
            "INSERT INTO token (name, hash, rights, projects, created, expires) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            token.name,
            token.hash,
            json(&token.rights)?,
            projects,
            now,
            token.expires
        ])?;
    Ok(added == 1)
}

/// All tokens, by name.
pub fn list(conn: &Connection) -> Result<Vec<TokenRow>> {
    let mut find = conn.prepare_cached(&format!("{SELECT} ORDER BY name"))?;
    let mut rows = find.query([])?;
    let mut tokens = Vec::new();
    while let Some(row) = rows.next()? {
        tokens.push(read(row)?);
    }
    Ok(tokens)
}

/// The token of this SHA-256. A look-up tells nothing of other tokens by how long it takes: what is looked for is a hash,
/// which nobody can choose.
pub fn by_hash(conn: &Connection, hash: &[u8; 32]) -> Result<Option<TokenRow>> {
    let mut find = conn.prepare_cached(&format!("{SELECT} WHERE hash = ?1"))?;
    let found = find.query_row([hash], |row| Ok(read(row))).optional()?;
    found.transpose()
}

/// Forgets a token; false where there is none of this name.
pub fn revoke(tx: &Transaction<'_>, name: &str) -> Result<bool> {
    let gone = tx
        .prepare_cached("DELETE FROM token WHERE name = ?1")?
        .execute([name])?;
    Ok(gone == 1)
}

/// Notes that a token was used.
pub fn used(tx: &Transaction<'_>, id: i64, now: Millis) -> Result<()> {
    tx.prepare_cached("UPDATE token SET used = ?2 WHERE id = ?1")?
        .execute(params![id, now])?;
    Ok(())
}

const SELECT: &str = "SELECT id, name, rights, projects, created, expires, used FROM token";

fn read(row: &Row<'_>) -> Result<TokenRow> {
    let list = |what: &str, text: String| -> Result<Vec<String>> {
        serde_json::from_str(&text).map_err(|error| nonsense(format!("the {what} of a token: {error}")))
    };
    let projects: Option<String> = row.get(3)?;
    Ok(TokenRow {
        id: row.get(0)?,
        name: row.get(1)?,
        rights: list("rights", row.get(2)?)?,
        projects: projects.map(|text| list("projects", text)).transpose()?,
        created: row.get(4)?,
        expires: row.get(5)?,
        used: row.get(6)?,
    })
}

//! Tokens of OIDC issuers that were used: table `used_identity`.

use nixci_protocol::nixci::control::Millis;
use rusqlite::{Transaction, params};

use super::error::Result;

/// Remembers that a token was used, until it is good no more; false where it was used before. Forgets those that have
/// expired.
pub fn use_up(tx: &Transaction<'_>, issuer: &str, number: &str, expires: Millis, now: Millis) -> Result<bool> {
    tx.prepare_cached("DELETE FROM used_identity WHERE expires < ?1")?
        .execute([now])?;
    let added = tx
        .prepare_cached(
            "INSERT INTO used_identity (issuer, number, expires) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
        )?
        .execute(params![issuer, number, expires])?;
    Ok(added == 1)
}

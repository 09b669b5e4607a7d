//! Whether a token is what its issuer signed, for us, and good now. Pure: the keys and the time are given.

use std::time::Duration;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

/// How far the clocks of an issuer and ours may be apart, in seconds.
pub(super) const LEEWAY: i64 = 60;

/// What a token says.
pub(super) type Claims = Map<String, Value>;

/// What is read of a token before its signature is looked at: enough to know whose key to ask for.
#[derive(Debug)]
pub(super) struct Unverified {
    pub(super) key_id: Option<String>,
    pub(super) issuer: String,
    pub(super) algorithm: Algorithm,
}

/// Why a token is not taken. Says what is wrong with it, and nothing that is in it but its issuer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Invalid {
    #[error("this token cannot be read")]
    Garbage,
    #[error(
        "this token is signed in a way that is not taken here; an issuer's key signs by RS256, PS256, ES256, ES384 or EdDSA"
    )]
    Algorithm,
    #[error("this token is not signed by the key it names")]
    Signature,
    #[error("this token lacks the claim `{0}`")]
    Lacks(&'static str),
    #[error("this token is made for somebody else; ask for one with the audience `{0}`")]
    Audience(String),
    #[error("this token has expired; ask for a new one")]
    Expired,
    #[error("this token is not good yet; the clock of its issuer or of this daemon is wrong")]
    NotYet,
    #[error("this token is older, or good for longer, than {} s (`max_age` in [[oidc]])", .0.as_secs())]
    TooOld(Duration),
}

/// What a token must say besides being signed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) issuer: &'a str,
    pub(super) audience: &'a str,
    pub(super) max_age: Duration,
    /// In seconds since the Unix epoch.
    pub(super) now: i64,
}

/// A token that counts.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) claims: Claims,
    /// What no other token of this issuer has: `jti`, or a digest of all that was signed.
    pub(super) number: String,
    /// In seconds since the Unix epoch.
    pub(super) expires: i64,
}

/// The algorithms by which issuers sign. HMAC is none of them: its key would be one that both sides know.
fn is_taken(algorithm: Algorithm) -> bool {
    matches!(
        algorithm,
        Algorithm::RS256 | Algorithm::PS256 | Algorithm::ES256 | Algorithm::ES384 | Algorithm::EdDSA
    )
}

/// Reads whose token this seems to be.
pub(super) fn look(token: &str) -> Result<Unverified, Invalid> {
    #[derive(Deserialize)]
    struct Issuer {
        iss: String,
    }
    // `none` is no algorithm that can be read.
    let header = match jsonwebtoken::decode_header(token) {
        Ok(header) => header,
        Err(_) if names_no_algorithm(token) => return Err(Invalid::Algorithm),
        Err(_) => return Err(Invalid::Garbage),
    };
    if !is_taken(header.alg) {
        return Err(Invalid::Algorithm);
    }
    let Issuer { iss } = jsonwebtoken::dangerous::insecure_decode_claims(token).map_err(|_| Invalid::Garbage)?;
    Ok(Unverified {
        key_id: header.kid,
        issuer: iss,
        algorithm: header.alg,
    })
}

/// Whether the header is one that can be read but for its algorithm.
fn names_no_algorithm(token: &str) -> bool {
    let header = token.split('.').next().unwrap_or_default();
    let bytes = data_encoding::BASE64URL_NOPAD.decode(header.as_bytes());
    bytes
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Map<String, Value>>(&bytes).ok())
        .is_some_and(|header| header.contains_key("alg"))
}

/// Whether a key of an issuer can have made a signature by this algorithm. What a key says of itself counts, never what
/// a token says of it.
fn fits(key: &Jwk, algorithm: Algorithm) -> bool {
    let for_signatures = match &key.common.public_key_use {
        None | Some(PublicKeyUse::Signature) => true,
        Some(PublicKeyUse::Encryption | PublicKeyUse::Other(_)) => false,
    };
    let by_name = key.common.key_algorithm.is_none_or(|of_key| {
        // Both are written alike.
        of_key.to_string() == format!("{algorithm:?}")
    });
    let by_type = match &key.algorithm {
        AlgorithmParameters::RSA(_) => matches!(algorithm, Algorithm::RS256 | Algorithm::PS256),
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => algorithm == Algorithm::ES256,
            EllipticCurve::P384 => algorithm == Algorithm::ES384,
            _ => false,
        },
        AlgorithmParameters::OctetKeyPair(key) => key.curve == EllipticCurve::Ed25519 && algorithm == Algorithm::EdDSA,
        // A shared secret is no key of an issuer.
        _ => false,
    };
    for_signatures && by_name && by_type
}

/// Checks the signature by one of the issuer's keys, and what is signed.
pub(super) fn verify(token: &str, by: Algorithm, key: &Jwk, wanted: Wanted<'_>) -> Result<Verified, Invalid> {
    if !fits(key, by) {
        return Err(Invalid::Algorithm);
    }
    let decoding = DecodingKey::from_jwk(key).map_err(|_| Invalid::Signature)?;
    let mut validation = Validation::new(by);
    // Looked at below, with words and a clock of ours.
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    let decoded = jsonwebtoken::decode::<Claims>(token, &decoding, &validation).map_err(|_| Invalid::Signature)?;
    let claims = decoded.claims;
    if claims.get("iss").and_then(Value::as_str) != Some(wanted.issuer) {
        return Err(Invalid::Lacks("iss"));
    }
    if !is_for(&claims, wanted.audience) {
        return Err(Invalid::Audience(wanted.audience.to_owned()));
    }
    let expires = check_times(&claims, wanted)?;
    Ok(Verified {
        number: number(token, &claims),
        claims,
        expires,
    })
}

fn is_for(claims: &Claims, audience: &str) -> bool {
    match claims.get("aud") {
        Some(Value::String(one)) => one == audience,
        Some(Value::Array(several)) => several.iter().any(|one| one.as_str() == Some(audience)),
        _ => false,
    }
}

/// When it expires, if it is good now.
fn check_times(claims: &Claims, wanted: Wanted<'_>) -> Result<i64, Invalid> {
    let now = wanted.now;
    let age = i64::try_from(wanted.max_age.as_secs()).unwrap_or(i64::MAX);
    let expires = time(claims, "exp")?.ok_or(Invalid::Lacks("exp"))?;
    let issued = time(claims, "iat")?.ok_or(Invalid::Lacks("iat"))?;
    if expires.saturating_add(LEEWAY) <= now {
        return Err(Invalid::Expired);
    }
    let from = time(claims, "nbf")?.unwrap_or(issued).max(issued);
    if from > now.saturating_add(LEEWAY) {
        return Err(Invalid::NotYet);
    }
    let lives = expires.saturating_sub(issued);
    if lives > age.saturating_add(LEEWAY) || now.saturating_sub(issued) > age.saturating_add(LEEWAY) {
        return Err(Invalid::TooOld(wanted.max_age));
    }
    Ok(expires)
}

/// A time in seconds, with or without a fraction.
fn time(claims: &Claims, name: &'static str) -> Result<Option<i64>, Invalid> {
    match claims.get(name) {
        None => Ok(None),
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a float that is too large becomes the largest number"
        )]
        Some(value) => value
            .as_i64()
            .or_else(|| value.as_f64().map(|seconds| seconds as i64))
            .map(Some)
            .ok_or(Invalid::Lacks(name)),
    }
}

fn number(token: &str, claims: &Claims) -> String {
    /// Longer ones are no numbers.
    const BYTES: usize = 256;
    match claims.get("jti").and_then(Value::as_str) {
        Some(number) if !number.is_empty() && number.len() <= BYTES => number.to_owned(),
        _ => {
            // Without the signature, which could be written in other ways.
            let signed = token.rsplit_once('.').map_or(token, |(signed, _)| signed);
            data_encoding::HEXLOWER.encode(&Sha256::digest(signed.as_bytes()))
        }
    }
}

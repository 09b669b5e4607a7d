//! Whether a delivery is from its forge: checked over the bytes as they came, before anything is made of them.
//!
//! - GitHub: `X-Hub-Signature-256: sha256=HEX`, HMAC-SHA256 of the body. `X-Hub-Signature` (SHA-1) is not taken.
//! - Forgejo, Gitea: the same, or bare in `X-Forgejo-Signature` or `X-Gitea-Signature`. They send GitHub's headers too, so
//!   what counts is the kind of the forge in the configuration, never which headers there are.
//! - GitLab: `X-Gitlab-Token` is the secret itself. A secret that begins with `whsec_` is a signing token instead: then
//!   `webhook-signature: v1,BASE64` is the HMAC-SHA256 of `ID.TIMESTAMP.BODY`, keyed by what the rest of the token is in
//!   base64 (the Standard Webhooks specification, which GitLab names), and the time must be near.
//!
//! Every comparison takes the same time whatever is wrong.

use axum::http::HeaderMap;
use data_encoding::{BASE64, HEXLOWER};
use hmac::{Hmac, Mac as _};
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use crate::config::ForgeKind;

/// How far the time of a signed GitLab delivery may be from ours, in seconds: what the specification recommends.
const NEAR_SECONDS: u64 = 300;
/// What GitLab's signing tokens begin with.
const SIGNING_TOKEN: &str = "whsec_";
/// Signatures that are looked at in one header: two while a key is changed.
const SIGNATURES: usize = 4;

/// Knows one forge's deliveries.
#[derive(Debug)]
pub(super) struct Verifier {
    by: By,
}

#[derive(Debug)]
enum By {
    /// HMAC of the body, in the first of these headers that is there.
    Body(SecretSlice<u8>, &'static [&'static str]),
    /// The secret itself.
    Token(SecretSlice<u8>),
    /// HMAC of number, time and body.
    Message(SecretSlice<u8>),
}

/// Why a delivery is not taken. Nothing here tells anything of the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadSignature {
    /// There is none.
    #[error("there is no `{0}`; give this webhook the secret that is in `webhook_secret_file`")]
    Missing(&'static str),
    /// It is not one.
    #[error("`{0}` is not a signature of this kind")]
    Malformed(&'static str),
    /// It is one of other bytes, or by another secret.
    #[error(
        "`{0}` is wrong: the secret of this webhook is not the one in `webhook_secret_file`, or the body was changed"
    )]
    Wrong(&'static str),
    /// It was right once.
    #[error("`webhook-timestamp` is more than {NEAR_SECONDS} s from the time here; look at both clocks")]
    Late,
}

const GITHUB: [&str; 1] = ["x-hub-signature-256"];
const FORGEJO: [&str; 3] = ["x-forgejo-signature", "x-gitea-signature", "x-hub-signature-256"];
const GITLAB_TOKEN: &str = "x-gitlab-token";
const GITLAB_SIGNATURE: &str = "webhook-signature";

impl Verifier {
    /// For a forge that has webhooks, with its secret. Fails with what to do where that cannot be one.
    pub(super) fn new(kind: ForgeKind, secret: &SecretString) -> Result<Self, String> {
        let plain = || SecretSlice::from(secret.expose_secret().as_bytes().to_vec());
        let by = match kind {
            ForgeKind::GitHub => By::Body(plain(), &GITHUB),
            ForgeKind::Forgejo | ForgeKind::Gitea => By::Body(plain(), &FORGEJO),
            ForgeKind::GitLab => {
                match secret.expose_secret().strip_prefix(SIGNING_TOKEN) {
                    None => By::Token(plain()),
                    Some(key) => {
                        let key = BASE64.decode(key.as_bytes()).ok().filter(|key| !key.is_empty());
                        let key = key.ok_or_else(|| {
                        format!("it begins with `{SIGNING_TOKEN}`, but the rest is not base64; copy it from GitLab whole")
                    })?;
                        By::Message(SecretSlice::from(key))
                    }
                }
            }
            ForgeKind::Webhook => return Err("it has no webhooks that could come here".to_owned()),
        };
        Ok(Self { by })
    }

    /// Whether the number of a delivery is part of what is signed, so that nobody else can have chosen it.
    pub(super) fn signs_number(&self) -> bool {
        match self.by {
            By::Message(_) => true,
            By::Body(..) | By::Token(_) => false,
        }
    }

    /// Whether a delivery is from its forge. `now` is in seconds since 1970.
    pub(super) fn check(&self, headers: &HeaderMap, body: &[u8], now: i64) -> Result<(), BadSignature> {
        match &self.by {
            By::Body(key, names) => {
                let name = names.iter().find(|name| headers.contains_key(**name)).copied();
                let Some(name) = name else {
                    return Err(BadSignature::Missing(names[0]));
                };
                let text = only(headers, name)?;
                let hex = if name == GITHUB[0] {
                    text.strip_prefix("sha256=").ok_or(BadSignature::Malformed(name))?
                } else {
                    text
                };
                let given = HEXLOWER.decode(hex.as_bytes());
                let given = given.map_err(|_| BadSignature::Malformed(name))?;
                verify(key, &[body], &given).map_err(|()| BadSignature::Wrong(name))
            }
            By::Token(secret) => {
                let given = only(headers, GITLAB_TOKEN)?.as_bytes();
                if secret.expose_secret().ct_eq(given).into() {
                    Ok(())
                } else {
                    Err(BadSignature::Wrong(GITLAB_TOKEN))
                }
            }
            By::Message(key) => {
                let signatures = only(headers, GITLAB_SIGNATURE)?;
                let (number, time) = (only(headers, "webhook-id")?, only(headers, "webhook-timestamp")?);
                let message = [number.as_bytes(), b".", time.as_bytes(), b".", body];
                let mut verdict = BadSignature::Malformed(GITLAB_SIGNATURE);
                let mut is_right = false;
                for signature in signatures.split(' ').take(SIGNATURES) {
                    let Some(given) = signature.strip_prefix("v1,") else {
                        continue;
                    };
                    if let Ok(given) = BASE64.decode(given.as_bytes()) {
                        verdict = BadSignature::Wrong(GITLAB_SIGNATURE);
                        is_right |= verify(key, &message, &given).is_ok();
                    }
                }
                if !is_right {
                    return Err(verdict);
                }
                // Only now does the time mean anything.
                let time: i64 = time.parse().map_err(|_| BadSignature::Malformed("webhook-timestamp"))?;
                if time.abs_diff(now) > NEAR_SECONDS {
                    return Err(BadSignature::Late);
                }
                Ok(())
            }
        }
    }
}

/// The value of a header that is there once.
fn only<'h>(headers: &'h HeaderMap, name: &'static str) -> Result<&'h str, BadSignature> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Err(BadSignature::Missing(name)),
        (Some(value), None) => value.to_str().map_err(|_| BadSignature::Malformed(name)),
        (Some(_), Some(_)) => Err(BadSignature::Malformed(name)),
    }
}

fn verify(key: &SecretSlice<u8>, message: &[&[u8]], given: &[u8]) -> Result<(), ()> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.expose_secret()).map_err(|_| ())?;
    for part in message {
        mac.update(part);
    }
    mac.verify_slice(given).map_err(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"Hello, World!";
    /// The example that GitHub documents, under "Testing the webhook payload validation".
    const SECRET: &str = "It's a Secret to Everybody";
    const RIGHT: &str = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    fn check(kind: ForgeKind, secret: &str, headers: &[(&'static str, &str)], now: i64) -> Result<(), BadSignature> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        Verifier::new(kind, &SecretString::from(secret))
            .unwrap()
            .check(&map, BODY, now)
    }

    #[test]
    fn githubs_own_example_is_right_and_everything_near_it_wrong() {
        let name = GITHUB[0];
        let upper = RIGHT.to_uppercase();
        for (value, expected) in [
            (format!("sha256={RIGHT}"), Ok(())),
            (RIGHT.to_owned(), Err(BadSignature::Malformed(name))),
            (format!("sha256={upper}"), Err(BadSignature::Malformed(name))),
            (format!("SHA256={RIGHT}"), Err(BadSignature::Malformed(name))),
            (format!("sha256={}", &RIGHT[..62]), Err(BadSignature::Wrong(name))),
            (format!("sha256={}", &RIGHT[..63]), Err(BadSignature::Malformed(name))),
            (format!("sha256={RIGHT}00"), Err(BadSignature::Wrong(name))),
            ("sha256=".to_owned(), Err(BadSignature::Wrong(name))),
            (String::new(), Err(BadSignature::Malformed(name))),
            (format!("sha256={}", "0".repeat(64)), Err(BadSignature::Wrong(name))),
            (format!("sha256= {RIGHT}"), Err(BadSignature::Malformed(name))),
        ] {
            assert_eq!(
                check(ForgeKind::GitHub, SECRET, &[(name, &value)], 0),
                expected,
                "{value}"
            );
        }
        let right = format!("sha256={RIGHT}");
        assert_eq!(
            check(ForgeKind::GitHub, "another", &[(name, &right)], 0),
            Err(BadSignature::Wrong(name))
        );
        assert_eq!(
            check(ForgeKind::GitHub, SECRET, &[(name, &right), (name, &right)], 0),
            Err(BadSignature::Malformed(name)),
            "two are one too many"
        );
        let sha1 = "sha1=5c23b31e0a8a5ae0a2b6ec3ff8dd8b6a8b1eec55";
        for headers in [&[][..], &[("x-hub-signature", sha1)], &[("x-gitea-signature", RIGHT)]] {
            let answer = check(ForgeKind::GitHub, SECRET, headers, 0);
            assert_eq!(answer, Err(BadSignature::Missing(name)), "{headers:?}");
        }
    }

    #[test]
    fn forgejo_and_gitea_sign_in_headers_of_three_names() {
        for kind in [ForgeKind::Forgejo, ForgeKind::Gitea] {
            for (name, value) in [
                ("x-gitea-signature", RIGHT.to_owned()),
                ("x-forgejo-signature", RIGHT.to_owned()),
                ("x-hub-signature-256", format!("sha256={RIGHT}")),
            ] {
                assert_eq!(check(kind, SECRET, &[(name, &value)], 0), Ok(()), "{name}");
            }
            let bare = check(kind, SECRET, &[("x-hub-signature-256", RIGHT)], 0);
            assert_eq!(bare, Err(BadSignature::Malformed("x-hub-signature-256")));
            let long = format!("sha256={RIGHT}");
            let prefixed = check(kind, SECRET, &[("x-gitea-signature", &long)], 0);
            assert_eq!(prefixed, Err(BadSignature::Malformed("x-gitea-signature")));
            let gogs = check(kind, SECRET, &[("x-gogs-signature", RIGHT)], 0);
            assert_eq!(gogs, Err(BadSignature::Missing("x-forgejo-signature")));
        }
    }

    #[test]
    fn gitlab_tells_the_secret_or_signs() {
        let token = |value| check(ForgeKind::GitLab, "s3cr3t", &[(GITLAB_TOKEN, value)], 0);
        assert_eq!(token("s3cr3t"), Ok(()));
        for wrong in ["S3cr3t", "s3cr3", "s3cr3t1", ""] {
            assert_eq!(token(wrong), Err(BadSignature::Wrong(GITLAB_TOKEN)), "{wrong}");
        }
        assert_eq!(
            check(ForgeKind::GitLab, "s3cr3t", &[], 0),
            Err(BadSignature::Missing(GITLAB_TOKEN))
        );

        let key = b"a key of thirty-two bytes, no less";
        let secret = format!("whsec_{}", BASE64.encode(key));
        let signed = |number: &str, time: &str| {
            let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
            mac.update(format!("{number}.{time}.Hello, World!").as_bytes());
            format!("v1,{}", BASE64.encode(&mac.finalize().into_bytes()))
        };
        let answer = |signature: &str, number: &str, time: &str, now| {
            let headers = [
                (GITLAB_SIGNATURE, signature),
                ("webhook-id", number),
                ("webhook-timestamp", time),
            ];
            check(ForgeKind::GitLab, &secret, &headers, now)
        };
        let right = signed("n1", "1000");
        assert_eq!(answer(&right, "n1", "1000", 1_300), Ok(()));
        assert_eq!(answer(&format!("v1,AAAA v2,x {right}"), "n1", "1000", 700), Ok(()));
        assert_eq!(answer(&right, "n1", "1000", 1_301), Err(BadSignature::Late));
        assert_eq!(answer(&right, "n1", "1000", 699), Err(BadSignature::Late));
        let wrong = Err(BadSignature::Wrong(GITLAB_SIGNATURE));
        assert_eq!(answer(&right, "n2", "1000", 1_000), wrong);
        assert_eq!(answer(&right, "n1", "1001", 1_000), wrong);
        assert_eq!(
            answer(&right[3..], "n1", "1000", 1_000),
            Err(BadSignature::Malformed(GITLAB_SIGNATURE))
        );
        let too_far = format!("v1,AAAA v1,AAAA v1,AAAA v1,AAAA {right}");
        assert_eq!(answer(&too_far, "n1", "1000", 1_000), wrong);
        assert_eq!(
            check(ForgeKind::GitLab, &secret, &[(GITLAB_TOKEN, &secret)], 0),
            Err(BadSignature::Missing(GITLAB_SIGNATURE)),
            "who has a signing token signs"
        );
        let broken = Verifier::new(ForgeKind::GitLab, &SecretString::from("whsec_?".to_owned())).unwrap_err();
        assert!(!broken.contains('?'), "{broken}");
    }
}

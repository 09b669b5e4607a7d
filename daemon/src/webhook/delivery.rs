//! Which delivery it is, and which event: what its headers say.

use axum::http::{HeaderMap, header};
use data_encoding::HEXLOWER;

use super::ask::{Malformed, Reading};
use super::{github, gitlab};
use crate::config::ForgeKind;

/// The longest number of a delivery and name of an event; those of all forges are far shorter.
const WORD_BYTES: usize = 128;

/// What the headers say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Label {
    /// What the forge calls the event.
    pub(super) event: String,
    /// The forge's number of the delivery, or the digest of the body where it has none.
    pub(super) number: String,
}

/// What the headers of a delivery say. `digest` is the SHA-256 of its body.
pub(super) fn label(kind: ForgeKind, headers: &HeaderMap, digest: &[u8; 32]) -> Result<Label, Malformed> {
    let events: &[&str] = match kind {
        ForgeKind::GitHub => &["x-github-event"],
        ForgeKind::Forgejo | ForgeKind::Gitea => &["x-forgejo-event", "x-gitea-event"],
        ForgeKind::GitLab => &["x-gitlab-event"],
        ForgeKind::Webhook => &[],
    };
    let event = word(headers, events).ok_or_else(|| {
        Malformed(format!(
            "no header `{}` says which event this is",
            events.first().unwrap_or(&"event")
        ))
    })?;
    let digest = || format!("sha256:{}", HEXLOWER.encode(digest));
    let number = match kind {
        ForgeKind::GitHub => word(headers, &["x-github-delivery"]),
        ForgeKind::Forgejo | ForgeKind::Gitea => word(headers, &["x-forgejo-delivery", "x-gitea-delivery"]),
        // An event of GitLab has one number for all hooks it sets off, and for those that these set off: where there is no
        // number of the delivery, body and event are one together.
        ForgeKind::GitLab => word(headers, &["webhook-id", "idempotency-key"])
            .or_else(|| word(headers, &["x-gitlab-event-uuid"]).map(|event| format!("{event}/{}", digest()))),
        ForgeKind::Webhook => None,
    };
    Ok(Label {
        event,
        number: number.unwrap_or_else(digest),
    })
}

/// Whether the body says that it is JSON. GitHub's hooks of repositories send forms where nobody says otherwise.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case("application/json")
    })
}

/// What a delivery asks for.
pub(super) fn read(kind: ForgeKind, app: Option<u64>, event: &str, body: &[u8]) -> Result<Reading, Malformed> {
    match kind {
        ForgeKind::GitHub => github::read(event, body, app),
        ForgeKind::Forgejo | ForgeKind::Gitea => match event {
            // Newer ones have an event of its own for a head that moved.
            "pull_request" | "pull_request_sync" => github::pull_request(body),
            "push" => github::push(body),
            _ => Ok(Reading::Nothing("nothing is done for such events".to_owned())),
        },
        ForgeKind::GitLab => gitlab::read(event, body),
        ForgeKind::Webhook => Ok(Reading::Nothing("it has no webhooks".to_owned())),
    }
}

/// The first of these headers that holds one short word.
fn word(headers: &HeaderMap, names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| {
        let text = headers.get(*name)?.to_str().ok()?.trim();
        (!text.is_empty() && text.len() <= WORD_BYTES).then(|| text.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: ForgeKind, headers: &[(&'static str, &str)]) -> Result<Label, Malformed> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        label(kind, &map, &[0xab; 32])
    }

    #[test]
    fn the_configured_kind_says_which_headers_count() {
        // What Gitea sends, all together.
        let all = [
            ("x-github-delivery", "n1"),
            ("x-github-event", "pull_request"),
            ("x-gitea-delivery", "n2"),
            ("x-gitea-event", "push"),
            ("x-gogs-delivery", "n3"),
        ];
        let label = |event: &str, number: &str| Label {
            event: event.to_owned(),
            number: number.to_owned(),
        };
        assert_eq!(of(ForgeKind::Gitea, &all).unwrap(), label("push", "n2"));
        assert_eq!(of(ForgeKind::GitHub, &all).unwrap(), label("pull_request", "n1"));
        of(ForgeKind::GitLab, &all).unwrap_err();
    }

    #[test]
    fn without_a_number_the_body_is_one() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let number = |kind, headers: &[(&'static str, &str)]| of(kind, headers).unwrap().number;
        let event = ("x-github-event", "push");
        assert_eq!(number(ForgeKind::GitHub, &[event]), digest);
        let long = "x".repeat(WORD_BYTES + 1);
        assert_eq!(
            number(ForgeKind::GitHub, &[event, ("x-github-delivery", &long)]),
            digest
        );
        let event = ("x-gitlab-event", "Push Hook");
        let (shared, own) = (("x-gitlab-event-uuid", "e1"), ("idempotency-key", "k1"));
        assert_eq!(number(ForgeKind::GitLab, &[event, shared]), format!("e1/{digest}"));
        assert_eq!(number(ForgeKind::GitLab, &[event, shared, own]), "k1");
        assert_eq!(number(ForgeKind::GitLab, &[event, own, ("webhook-id", "w1")]), "w1");
    }
}

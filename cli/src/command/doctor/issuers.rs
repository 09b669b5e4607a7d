//! Who vouches for jobs: whether the daemon can check their tokens.

use nixci_protocol::nixci::control::Millis;
use nixci_protocol::nixci::issuer::IssuerStatus;

use super::{Check, Level};
use crate::render::{ago, plural};

/// What there is to say of one issuer.
pub(super) fn check(issuer: &IssuerStatus, now: Millis) -> Check {
    let IssuerStatus {
        issuer: address,
        kind,
        audience,
        ..
    } = issuer;
    let what = "issuer";
    let usable = issuer.good_until.is_some_and(|until| until > now);
    let keys = match (issuer.keys, issuer.fetched) {
        (Some(count), Some(at)) => format!("{}, fetched {}", plural(count, "key"), ago(at, now)),
        (_, _) => "no keys yet".to_owned(),
    };
    if let Some(error) = &issuer.error {
        let (level, effect) = if usable {
            (Level::Warning, format!("{keys}, count for a day after that"))
        } else {
            (Level::Wrong, "its jobs are refused".to_owned())
        };
        return Check::trouble(
            level,
            what,
            format!("{address} · its keys cannot be had: {error}; {effect}"),
            format!(
                "look whether the daemon reaches {}/.well-known/openid-configuration, and whether [[oidc]] has exactly \
                 the `issuer` that stands there",
                address.trim_end_matches('/')
            ),
        );
    }
    if audience.is_empty() {
        return Check::trouble(
            Level::Wrong,
            what,
            format!("{address} · nothing says for whom its tokens must be made, so none counts"),
            "give its [[oidc]] an `audience`, or [listen] a `url`",
        );
    }
    if issuer.keys == Some(0) {
        return Check::trouble(
            Level::Wrong,
            what,
            format!("{address} · has no key that can be read here, so its jobs are refused"),
            "look at its `jwks_uri`: RSA, P-256, P-384 and Ed25519 keys are read",
        );
    }
    let confirms = match &issuer.forge {
        Some(forge) => format!("forge {forge} confirms"),
        None => "no forge confirms commits of others".to_owned(),
    };
    Check::fine(
        what,
        format!("{address} · {kind} · {keys} · for {audience} · {confirms}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = 1_800_000_000_000;
    const HOUR: Millis = 3_600_000;

    fn issuer() -> IssuerStatus {
        IssuerStatus {
            issuer: "https://gitlab.example.org".into(),
            kind: "gitlab".into(),
            audience: "https://ci.example.org".into(),
            forge: Some("gitlab".into()),
            keys: Some(2),
            fetched: Some(NOW - 120_000),
            good_until: Some(NOW + 24 * HOUR - 120_000),
            error: None,
        }
    }

    fn text(issuer: &IssuerStatus) -> String {
        anstream::adapter::strip_str(&check(issuer, NOW).text()).to_string()
    }

    #[test]
    fn an_issuer_that_is_well_has_one_line() {
        let text = text(&issuer());
        assert_eq!(text.lines().count(), 1, "{text}");
        for part in [
            "✓ issuer",
            "https://gitlab.example.org · gitlab · 2 keys, fetched 2 min ago · ",
            "for https://ci.example.org",
            "forge gitlab confirms",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn what_keeps_jobs_out_is_wrong_and_what_may_do_so_later_is_a_warning() {
        let down = |fetched: Option<Millis>| IssuerStatus {
            keys: fetched.map(|_| 2),
            fetched,
            good_until: fetched.map(|at| at + 24 * HOUR),
            error: Some("connection refused".into()),
            ..issuer()
        };
        let address = "→ look whether the daemon reaches https://gitlab.example.org/.well-known/openid-configuration";
        for (issuer, level, said, advice) in [
            (
                down(Some(NOW - 3 * HOUR)),
                "!",
                "2 keys, fetched 3 h ago, count for a day",
                address,
            ),
            (down(Some(NOW - 25 * HOUR)), "✕", "its jobs are refused", address),
            (down(None), "✕", "connection refused; its jobs are refused", address),
            (
                IssuerStatus {
                    audience: String::new(),
                    ..issuer()
                },
                "✕",
                "none counts",
                "→ give its [[oidc]] an `audience`",
            ),
            (
                IssuerStatus {
                    keys: Some(0),
                    ..issuer()
                },
                "✕",
                "no key that can be read",
                "→ look at its `jwks_uri`",
            ),
        ] {
            let text = text(&issuer);
            assert!(text.starts_with(level), "{text}");
            assert!(text.contains(said) && text.contains(advice), "{text}");
        }
    }
}

//! The forges of the daemon: whether they know it, and what they do not take.

use nixci_protocol::nixci::control::Millis;
use nixci_protocol::nixci::report::ForgeStatus;

use super::{Check, Level};
use crate::render;

/// How long a status may be on its way before somebody should look.
const LONG: Millis = 10 * 60_000;

/// What there is to say of one forge.
pub(super) fn checks(forge: &ForgeStatus, now: Millis) -> Vec<Check> {
    let what = format!("forge {}", forge.name);
    let mut checks = vec![match (&forge.error, &forge.found) {
        (Some(error), _) => Check::trouble(
            Level::Wrong,
            &what,
            error.as_str(),
            format!(
                "look at [[forge]] `{}` of the daemon's configuration, and whether the daemon reaches {}",
                forge.name, forge.url
            ),
        ),
        (None, Some(found)) => Check::fine(&what, format!("{} · {found}", forge.url)),
        (None, None) => Check::fine(&what, forge.url.as_str()),
    }];
    if forge.takes_webhooks == Some(false) {
        checks.push(Check::trouble(
            Level::Warning,
            &what,
            "it has no `webhook_secret_file`: its webhooks are refused, so that re-run buttons and closed pull requests do \
             nothing",
            format!(
                "make a webhook there to `/webhooks/{}` of the daemon's address, with a secret, and name the file with \
                 the secret as `webhook_secret_file`",
                forge.name
            ),
        ));
    }
    for refused in &forge.refused_repositories {
        checks.push(Check::trouble(
            Level::Wrong,
            &what,
            format!(
                "takes nothing for {} since {}: {}",
                refused.repository,
                render::ago(refused.since, now),
                refused.reason
            ),
            "mend it there, then send again: `nixci report --again`",
        ));
    }
    if forge.refused > 0 {
        let statuses = render::plural_statuses(forge.refused);
        checks.push(Check::trouble(
            Level::Warning,
            &what,
            format!("refused {statuses} for reasons of their own"),
            "`nixci report COMMIT` says why; `--again` sends them again",
        ));
    }
    if let Some(since) = forge.unsent_since.filter(|since| now - since > LONG) {
        checks.push(Check::trouble(
            Level::Warning,
            &what,
            format!(
                "{} not sent yet, the oldest of {}",
                render::plural_statuses(forge.unsent),
                render::ago(since, now)
            ),
            "`nixci report COMMIT` says what is in the way; nothing is lost meanwhile",
        ));
    }
    checks
}

#[cfg(test)]
mod tests {
    use nixci_protocol::nixci::report::RefusedRepository;

    use super::*;

    const NOW: Millis = 1_800_000_000_000;

    fn forge() -> ForgeStatus {
        ForgeStatus {
            name: "github".into(),
            kind: "github".into(),
            url: "https://github.com".into(),
            found: Some("App `nixci` with checks: write".into()),
            error: None,
            takes_webhooks: Some(true),
            unsent: 0,
            unsent_since: None,
            refused: 0,
            refused_repositories: Vec::new(),
        }
    }

    fn text(forge: &ForgeStatus) -> String {
        let text: String = checks(forge, NOW).iter().map(Check::text).collect();
        anstream::adapter::strip_str(&text).to_string()
    }

    #[test]
    fn a_forge_that_is_well_has_one_line() {
        insta::assert_snapshot!(text(&forge()), @"✓ forge github https://github.com · App `nixci` with checks: write");
        // What is on its way for a moment is no trouble.
        let busy = ForgeStatus {
            unsent: 3,
            unsent_since: Some(NOW - 60_000),
            ..forge()
        };
        assert_eq!(text(&busy), text(&forge()));
    }

    #[test]
    fn everything_that_is_in_the_way_is_named_with_what_to_do() {
        let ill = ForgeStatus {
            found: None,
            error: Some("`github` does not know us: Bad credentials (401)".into()),
            takes_webhooks: Some(false),
            unsent: 1_234,
            unsent_since: Some(NOW - 3 * 3_600_000),
            refused: 1,
            refused_repositories: vec![RefusedRepository {
                repository: "o/n".into(),
                reason: "`github` did not take a status: Resource not accessible by integration (403)".into(),
                since: NOW - 120_000,
            }],
            ..forge()
        };
        insta::assert_snapshot!(text(&ill));
    }
}

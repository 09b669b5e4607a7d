//! The token that would be shown to a daemon that is reached over HTTPS: where it comes from, never what it is.

use super::{Check, Level};
use crate::context::{Ci, Env};

const WHAT: &str = "token";

/// What an Actions runner gives to a job that may ask for tokens.
const ACTIONS: [&str; 2] = ["ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"];
/// Where a GitLab job of ours finds its token, by its own `id_tokens`.
const GITLAB: &str = "NIXCI_ID_TOKEN";
/// A token that somebody made.
const TOKEN: &str = "NIXCI_TOKEN";

/// What would be shown to the daemon at `address` from here. `is_kept` says whether `nixci login` keeps one for it.
pub(super) fn check(address: &str, env: Env<'_>, is_kept: bool) -> Option<Check> {
    if !address.starts_with("https://") {
        return None;
    }
    if env(TOKEN).is_some() {
        return Some(Check::fine(WHAT, format!("from ${TOKEN}")));
    }
    Some(match Ci::detect(env) {
        Some(Ci::Actions) if ACTIONS.iter().all(|name| env(name).is_some()) => {
            Check::fine(WHAT, "made by the runner for this job, for each use a new one (OIDC)")
        }
        Some(Ci::GitLab) if env(GITLAB).is_some() => {
            Check::fine(WHAT, format!("made by GitLab for this job (${GITLAB})"))
        }
        _ if is_kept => Check::fine(WHAT, "kept by `nixci login`"),
        Some(Ci::Actions) => Check::trouble(
            Level::Wrong,
            WHAT,
            format!("none: this job may not ask the runner for one (no ${})", ACTIONS[0]),
            "add `permissions: {id-token: write}` to the job (`enable-openid-connect: true` on Forgejo); pull requests of \
             forks never get one: hand over with `--artifact`",
        ),
        Some(Ci::GitLab) => Check::trouble(
            Level::Wrong,
            WHAT,
            format!("none: ${GITLAB} is not set"),
            format!("add `id_tokens: {{{GITLAB}: {{aud: {address}}}}}` to the job"),
        ),
        None => Check::trouble(
            Level::Wrong,
            WHAT,
            format!("none for {address}"),
            format!("`nixci login --to {address}` keeps one; `nixci-daemon token` makes it"),
        ),
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const TO: &str = "https://ci.example.org";

    #[rstest]
    #[case(&["NIXCI_TOKEN", "GITHUB_ACTIONS"], false, "✓ token        from $NIXCI_TOKEN\n")]
    #[case(
        &["GITHUB_ACTIONS", ACTIONS[0], ACTIONS[1]],
        true,
        "✓ token        made by the runner for this job, for each use a new one (OIDC)\n"
    )]
    #[case(&["GITLAB_CI", GITLAB], false, "✓ token        made by GitLab for this job ($NIXCI_ID_TOKEN)\n")]
    #[case(&["GITHUB_ACTIONS"], true, "✓ token        kept by `nixci login`\n")]
    #[case(&["GITHUB_ACTIONS"], false, "id-token: write")]
    #[case(&["GITLAB_CI"], false, "id_tokens: {NIXCI_ID_TOKEN: {aud: https://ci.example.org}}")]
    #[case(&[], false, "nixci login --to https://ci.example.org")]
    fn the_source_is_named_and_never_the_token(#[case] set: &[&str], #[case] is_kept: bool, #[case] said: &str) {
        let env = |name: &str| {
            set.contains(&name).then(|| match name {
                "GITHUB_ACTIONS" | "GITLAB_CI" => "true".to_owned(),
                _ => "s3cr3t".to_owned(),
            })
        };
        let text = check(TO, &env, is_kept).unwrap().text();
        let text = anstream::adapter::strip_str(&text).to_string();
        assert!(text.contains(said), "{text}");
        assert!(!text.contains("s3cr3t"), "{text}");
        assert!(check("unix:///run/nixci/socket", &env, is_kept).is_none());
    }
}

//! What a client may set on the store behind the door.
//!
//! A trusted client sets what it likes on its own connection: the store says what it makes of it. Of others only
//! what concerns their own requests passes; settings by name that could change what anybody else gets are left out,
//! and the client is told once which. Builds are shared, so that nothing that is set by name reaches those that are
//! scheduled; what could change them is named to a trusted client in the same way, for it was not refused before. What a
//! client set is never seen by another one: connections to the store on
//! which something was set by name are not handed on.

use std::collections::BTreeSet;

use nixci_protocol::log::LogMessage;
use nixci_protocol::op::SetOptions;
use nixci_protocol::server::Exchange;

use crate::principal::Principal;

/// Settings by name that harm nobody but who sets them.
const HARMLESS: [&str; 4] = ["timeout", "max-silent-time", "build-poll-interval", "connect-timeout"];
/// Settings that are left out without a word: clients send them along without meaning the store. `store` is what
/// `--store` on the command line makes of itself.
const IGNORED: [&str; 3] = ["ssh-auth-sock", "experimental-features", "store"];
/// Settings that may only be taken away: nobody else's builders or caches, none at all.
const MAY_BE_EMPTIED: [&str; 2] = ["builders", "substituters"];

/// Settings by name that change how a store builds, with the value that it has anyway where nobody set another one.
/// Limits of time are not among them: nixci has its own.
const OF_BUILDS: [(&str, Option<&str>); 23] = [
    ("allowed-impure-host-deps", None),
    ("build-dir", Some("")),
    ("build-hook", None),
    ("builders", Some("")),
    ("builders-use-substitutes", Some("false")),
    ("diff-hook", Some("")),
    ("extra-platforms", None),
    ("filter-syscalls", Some("true")),
    ("impersonate-linux-26", Some("false")),
    ("impure-env", Some("")),
    ("max-build-log-size", Some("0")),
    ("netrc-file", None),
    ("post-build-hook", Some("")),
    ("pre-build-hook", Some("")),
    ("require-sigs", Some("true")),
    ("run-diff-hook", Some("false")),
    ("sandbox", Some("true")),
    ("sandbox-fallback", Some("true")),
    ("sandbox-paths", None),
    ("substituters", None),
    ("system", None),
    ("system-features", None),
    ("trusted-public-keys", None),
];

/// Settings that are remembered as told: more than there are, and no more than a client may make us keep.
const TOLD: usize = 1_000;

/// What is left of a client's options.
#[derive(Debug, PartialEq, Eq)]
struct Filtered {
    options: SetOptions,
    /// Names of settings that were left out, and that the client should hear of.
    refused: Vec<String>,
}

/// What a client was told of its settings.
#[derive(Debug, Default)]
pub(super) struct Settings {
    told: BTreeSet<String>,
}

impl Settings {
    /// The options as far as this client may set them. Of each setting that is left out it is told once.
    pub(super) async fn filter(
        &mut self,
        asked: SetOptions,
        who: &Principal,
        exchange: &mut Exchange<'_>,
    ) -> SetOptions {
        let Filtered { options, refused } = filter(asked, who);
        self.tell(refused, refusal, exchange).await;
        options
    }

    /// Names the settings of a trusted client that do not reach builds that are scheduled. Of each it is told once.
    pub(super) async fn warn_of_unshared(
        &mut self,
        options: Option<&SetOptions>,
        who: &Principal,
        exchange: &mut Exchange<'_>,
    ) {
        if let (Some(options), true) = (options, who.is_trusted()) {
            self.tell(unshared(options), unshared_warning, exchange).await;
        }
    }

    async fn tell(
        &mut self,
        mut names: Vec<String>,
        warning: fn(&[String]) -> Option<String>,
        exchange: &mut Exchange<'_>,
    ) {
        names.retain(|name| !self.told.contains(name));
        if let Some(text) = warning(&names) {
            exchange.log(LogMessage::line(text)).await;
        }
        let room = TOLD.saturating_sub(self.told.len());
        self.told.extend(names.into_iter().take(room));
    }
}

/// The settings that would change builds, were they only this client's.
fn unshared(options: &SetOptions) -> Vec<String> {
    let changes = |(name, anyway): &(&str, Option<&str>)| {
        let set = options.overrides.get(*name);
        set.is_some_and(|value| anyway.is_none_or(|anyway| value.trim() != anyway))
    };
    let changing = OF_BUILDS.iter().filter(|setting| changes(setting));
    changing.map(|(name, _)| (*name).to_owned()).collect()
}

/// The options as far as this client may set them.
fn filter(mut asked: SetOptions, who: &Principal) -> Filtered {
    if who.is_trusted() {
        return Filtered {
            options: asked,
            refused: Vec::new(),
        };
    }
    let mut refused = Vec::new();
    asked.overrides.retain(|name, value| {
        let name = name.as_str();
        let passes = HARMLESS.contains(&name) || (MAY_BE_EMPTIED.contains(&name) && value.trim().is_empty());
        if !passes && !IGNORED.contains(&name) {
            refused.push(name.to_owned());
        }
        passes
    });
    // Kept failed builds are left on the store's disk for nobody.
    asked.keep_failed = false;
    Filtered {
        options: asked,
        refused,
    }
}

/// What the client is told of settings that were left out, in Nix's own words.
fn refusal(refused: &[String]) -> Option<String> {
    let because = match refused {
        [_] => "it is a restricted setting",
        _ => "they are restricted settings",
    };
    warning(refused, &format!("{because} and you are not a trusted user"))
}

/// The same of settings that do not reach builds.
fn unshared_warning(names: &[String]) -> Option<String> {
    warning(
        names,
        "builds are shared between all who want them and run with the settings of the store; change its nix.conf",
    )
}

fn warning(settings: &[String], because: &str) -> Option<String> {
    /// Names in one warning; more are a count, for a client may send any number.
    const NAMED: usize = 20;
    let (last, before) = settings.get(..settings.len().min(NAMED))?.split_last()?;
    let quoted: Vec<String> = before.iter().map(|name| format!("'{name}'")).collect();
    let more = settings.len() - before.len() - 1;
    let names = match (quoted.is_empty(), more) {
        (true, 0) => format!("setting '{last}'"),
        (_, 0) => format!("settings {} and '{last}'", quoted.join(", ")),
        (_, more) => format!("settings {}, '{last}' and {more} more", quoted.join(", ")),
    };
    Some(format!(
        "\u{1b}[35;1mwarning:\u{1b}[0m ignoring the client-specified {names}, because {because}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(overrides: &[(&str, &str)]) -> SetOptions {
        SetOptions {
            keep_failed: true,
            overrides: overrides
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..SetOptions::default()
        }
    }

    fn names(options: &SetOptions) -> Vec<&str> {
        options.overrides.keys().map(String::as_str).collect()
    }

    #[test]
    fn only_what_concerns_the_client_alone_passes() {
        let all = asked(&[
            ("timeout", "5"),
            ("connect-timeout", "5"),
            ("builders", "ssh://evil x86_64-linux"),
            ("substituters", ""),
            ("experimental-features", "nix-command"),
            ("ssh-auth-sock", "/tmp/s"),
            ("post-build-hook", "/tmp/evil"),
            ("sandbox", "false"),
            ("allowed-users", "*"),
        ]);
        let filtered = filter(all.clone(), &Principal::local(1000, false));
        assert_eq!(names(&filtered.options), ["connect-timeout", "substituters", "timeout"]);
        assert_eq!(
            filtered.refused,
            ["allowed-users", "builders", "post-build-hook", "sandbox"]
        );
        assert!(!filtered.options.keep_failed);
        let filtered = filter(asked(&[("builders", " ")]), &Principal::local(1000, false));
        assert_eq!(
            (names(&filtered.options), filtered.refused.len()),
            (vec!["builders"], 0)
        );
        // An administrator's options are the store's business.
        let trusted = filter(all.clone(), &Principal::local(0, true));
        assert_eq!((trusted.options, trusted.refused.len()), (all, 0));
    }

    #[test]
    fn one_warning_names_them_all() {
        let told = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            refusal(&names).map(|text| text.trim_start_matches(|c| c != 'i').to_owned())
        };
        assert_eq!(told(&[]), None);
        assert!(told(&["a"]).unwrap().ends_with(
            "ignoring the client-specified setting 'a', because it is a restricted setting and you are not a trusted user"
        ));
        assert!(told(&["a", "b", "c"]).unwrap().ends_with(
            "settings 'a', 'b' and 'c', because they are restricted settings and you are not a trusted user"
        ));
        let many: Vec<String> = (0..1000).map(|n| format!("s{n}")).collect();
        let text = refusal(&many).unwrap();
        assert!(
            text.contains("'s19' and 980 more, because") && !text.contains("'s20'"),
            "{text}"
        );
    }

    #[test]
    fn settings_that_would_change_a_build_are_named_and_defaults_are_not() {
        let all = asked(&[
            ("sandbox", "true"),
            ("post-build-hook", " "),
            ("timeout", "5"),
            ("warn-dirty", "false"),
            ("require-sigs", "false"),
            ("sandbox-paths", "/bin/sh"),
        ]);
        assert_eq!(unshared(&all), ["require-sigs", "sandbox-paths"]);
        let text = unshared_warning(&unshared(&all)).unwrap();
        assert!(
            text.contains("client-specified settings 'require-sigs' and 'sandbox-paths', because builds are shared"),
            "{text}"
        );
        assert_eq!(unshared_warning(&unshared(&asked(&[("sandbox", "true")]))), None);
    }
}

//! What a client may set on the store behind the door.
//!
//! A trusted client sets what it likes on its own connection: the store says what it makes of it. Of others only
//! what concerns their own requests passes; settings by name that could change what anybody else gets are left out,
//! and the client is told once which. What a client set is never seen by another one: connections to the store on
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
        let Filtered { options, mut refused } = filter(asked, who);
        refused.retain(|name| !self.told.contains(name));
        if let Some(text) = warning(&refused) {
            exchange.log(LogMessage::line(text)).await;
        }
        let room = TOLD.saturating_sub(self.told.len());
        self.told.extend(refused.into_iter().take(room));
        options
    }
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
fn warning(refused: &[String]) -> Option<String> {
    /// Names in one warning; more are a count, for a client may send any number.
    const NAMED: usize = 20;
    let (last, before) = refused.get(..refused.len().min(NAMED))?.split_last()?;
    let quoted: Vec<String> = before.iter().map(|name| format!("'{name}'")).collect();
    let more = refused.len() - before.len() - 1;
    let names = match (quoted.is_empty(), more) {
        (true, 0) => format!("setting '{last}', because it is a restricted setting"),
        (_, 0) => format!(
            "settings {} and '{last}', because they are restricted settings",
            quoted.join(", ")
        ),
        (_, more) => format!(
            "settings {}, '{last}' and {more} more, because they are restricted settings",
            quoted.join(", ")
        ),
    };
    Some(format!(
        "\u{1b}[35;1mwarning:\u{1b}[0m ignoring the client-specified {names} and you are not a trusted user"
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
            warning(&names).map(|text| text.trim_start_matches(|c| c != 'i').to_owned())
        };
        assert_eq!(told(&[]), None);
        assert!(told(&["a"]).unwrap().ends_with(
            "ignoring the client-specified setting 'a', because it is a restricted setting and you are not a trusted user"
        ));
        assert!(told(&["a", "b", "c"]).unwrap().ends_with(
            "settings 'a', 'b' and 'c', because they are restricted settings and you are not a trusted user"
        ));
        let many: Vec<String> = (0..1000).map(|n| format!("s{n}")).collect();
        let text = warning(&many).unwrap();
        assert!(
            text.contains("'s19' and 980 more, because") && !text.contains("'s20'"),
            "{text}"
        );
    }
}

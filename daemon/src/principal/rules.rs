//! What socket credentials are worth.

use tokio::net::unix::UCred;
use tracing::warn;

use super::system::{System, UserDatabase};
use super::{Lowered, Principal};
use crate::config::{Listen, Users};

/// The credentials of a socket's other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl From<UCred> for Peer {
    fn from(credentials: UCred) -> Self {
        Self {
            uid: credentials.uid(),
            gid: credentials.gid(),
        }
    }
}

/// Why a peer is not served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotAdmitted {
    #[error(
        "user {uid} may not use this nixci-daemon: `allowed_users` in [listen] of its configuration does not name it"
    )]
    NotAllowed { uid: u32 },
    #[error(
        "user {uid} may not speak for others: `nixci-daemon stdio --principal` works only as root or as the daemon's own user {own}"
    )]
    MayNotLower { uid: u32, own: u32 },
    #[error("the name of a principal may have letters, digits and `._+@-`, at most 64 of them")]
    BadName,
}

/// Who is trusted and who is let in, by user.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    trusted: Vec<Users>,
    allowed: Vec<Users>,
    /// The user the daemon runs as.
    own: u32,
}

impl Rules {
    pub(crate) fn new(listen: &Listen) -> Self {
        Self {
            trusted: listen.trusted_users.clone(),
            allowed: listen.allowed_users.clone(),
            own: rustix::process::geteuid().as_raw(),
        }
    }

    /// Decides who a peer is, and whom it speaks for.
    pub(crate) async fn admit(&self, peer: Peer, lowered: Option<&Lowered>) -> Result<Principal, NotAdmitted> {
        if !self.asks_the_system() {
            return self.decide(peer, lowered, &System);
        }
        let (rules, lowered) = (self.clone(), lowered.cloned());
        let deciding = tokio::task::spawn_blocking(move || rules.decide(peer, lowered.as_ref(), &System));
        // It ends early only in a panic or with the runtime; then nobody is let in.
        deciding.await.unwrap_or(Err(NotAdmitted::NotAllowed { uid: peer.uid }))
    }

    fn asks_the_system(&self) -> bool {
        let by_name = |users: &Users| match users {
            Users::Named(_) | Users::Group(_) => true,
            Users::Everyone | Users::Uid(_) => false,
        };
        self.trusted.iter().chain(&self.allowed).any(by_name)
    }

    fn decide(
        &self,
        peer: Peer,
        lowered: Option<&Lowered>,
        system: &impl UserDatabase,
    ) -> Result<Principal, NotAdmitted> {
        // Root and the daemon's own user could replace the daemon: to shut them out would only look safe.
        let is_own = peer.uid == 0 || peer.uid == self.own;
        let trusted = includes(&self.trusted, peer, system);
        if !(is_own || trusted || includes(&self.allowed, peer, system)) {
            return Err(NotAdmitted::NotAllowed { uid: peer.uid });
        }
        let bridge = Principal::local(peer.uid, trusted);
        match lowered {
            None => Ok(bridge),
            Some(_) if !is_own => Err(NotAdmitted::MayNotLower {
                uid: peer.uid,
                own: self.own,
            }),
            Some(lowered) if !lowered.is_valid() => Err(NotAdmitted::BadName),
            Some(lowered) => Ok(bridge.lowered(lowered)),
        }
    }

    /// Says in the log which names mean nobody: most likely they are misspelt.
    pub(crate) fn check_names(&self) {
        for (key, list) in [("trusted_users", &self.trusted), ("allowed_users", &self.allowed)] {
            for users in list {
                let known = match users {
                    Users::Everyone | Users::Uid(_) => true,
                    Users::Named(name) => System.has_user(name),
                    Users::Group(name) => System.group(name).is_some(),
                };
                if !known {
                    warn!("`{key}` in [listen] names `{users}`, which this system does not know (yet)");
                }
            }
        }
    }
}

/// As Nix does it: a group includes those whose first group it is, and its members by name.
fn includes(list: &[Users], peer: Peer, system: &impl UserDatabase) -> bool {
    let name = std::cell::OnceCell::new();
    let name = || name.get_or_init(|| system.user(peer.uid)).as_deref();
    list.iter().any(|users| match users {
        Users::Everyone => true,
        Users::Uid(uid) => *uid == peer.uid,
        Users::Named(wanted) => name() == Some(wanted),
        Users::Group(group) => system.group(group).is_some_and(|(gid, members)| {
            gid == peer.gid || name().is_some_and(|name| members.iter().any(|member| member == name))
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake;

    impl UserDatabase for Fake {
        fn user(&self, uid: u32) -> Option<String> {
            let name = match uid {
                0 => "root",
                990 => "nixci",
                1000 => "alice",
                1001 => "bob",
                _ => return None,
            };
            Some(name.to_owned())
        }

        fn group(&self, name: &str) -> Option<(u32, Vec<String>)> {
            (name == "ci").then(|| (500, vec!["alice".to_owned()]))
        }

        fn has_user(&self, _: &str) -> bool {
            false
        }
    }

    fn rules(trusted: &[&str], allowed: &[&str]) -> Rules {
        let read = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect();
        Rules {
            trusted: read(trusted),
            allowed: read(allowed),
            own: 990,
        }
    }

    fn decide(
        rules: &Rules,
        uid: u32,
        gid: u32,
        lowered: impl Into<Option<Lowered>>,
    ) -> Result<(String, bool, bool), NotAdmitted> {
        rules
            .decide(Peer { uid, gid }, lowered.into().as_ref(), &Fake)
            .map(|who| (who.name().to_owned(), who.is_trusted(), who.is_local()))
    }

    #[test]
    fn users_are_trusted_by_number_name_and_group() {
        for (trusted, uid, gid, expected) in [
            (vec!["0"], 0, 0, true),
            (vec!["0"], 1000, 0, false),
            (vec!["1000"], 1000, 100, true),
            (vec!["alice"], 1000, 100, true),
            (vec!["alice"], 1001, 100, false),
            (vec!["root"], 0, 0, true),
            (vec!["@ci"], 1000, 100, true),
            (vec!["@ci"], 1001, 100, false),
            (vec!["@ci"], 1001, 500, true),
            (vec!["@ci"], 4711, 500, true),
            (vec!["@none", "nobody-here"], 1000, 100, false),
            (vec!["*"], 4711, 4711, true),
            (vec![], 0, 0, false),
        ] {
            let who = decide(&rules(&trusted, &["*"]), uid, gid, None).unwrap();
            assert_eq!(who, (format!("uid:{uid}"), expected, true), "{trusted:?} {uid} {gid}");
        }
    }

    #[test]
    fn who_is_not_allowed_is_not_served_but_trusted_users_and_the_daemons_own_are() {
        let closed = rules(&["bob"], &["@ci"]);
        for (uid, gid, served) in [(1000, 100, true), (1001, 100, true), (0, 0, true), (990, 990, true)] {
            assert_eq!(decide(&closed, uid, gid, None).is_ok(), served, "{uid}");
        }
        let error = decide(&closed, 4711, 100, None).unwrap_err();
        assert_eq!(error, NotAdmitted::NotAllowed { uid: 4711 });
        assert!(error.to_string().contains("`allowed_users`"), "{error}");
    }

    #[test]
    fn a_bridge_lowers_itself_and_never_raises() {
        let open = rules(&["0", "990"], &["*"]);
        let as_alice = |trusted| Lowered::new("alice", trusted);
        let alice = |trusted| Ok(("key:alice".to_owned(), trusted, false));
        for uid in [0, 990] {
            assert_eq!(decide(&open, uid, uid, as_alice(false)), alice(false));
            assert_eq!(decide(&open, uid, uid, as_alice(true)), alice(true));
        }
        // The daemon's own user need not be trusted; then nobody it speaks for is.
        let strict = rules(&["0"], &[]);
        assert_eq!(decide(&strict, 990, 990, as_alice(true)), alice(false));
    }

    #[test]
    fn nobody_else_may_speak_for_others_not_even_who_is_trusted() {
        let open = rules(&["0", "990", "1000"], &["*"]);
        for uid in [1000, 1001] {
            for trusted in [false, true] {
                let error = decide(&open, uid, 100, Lowered::new("root", trusted)).unwrap_err();
                assert_eq!(error, NotAdmitted::MayNotLower { uid, own: 990 });
            }
        }
    }

    #[test]
    fn names_that_could_be_taken_for_others_are_refused() {
        for name in ["", "uid:0", "a b", "a\n", "ä", &"x".repeat(65)] {
            assert_eq!(Lowered::new(name, false), None, "{name:?}");
            let forged = Lowered {
                principal: name.to_owned(),
                trusted: false,
            };
            let error = decide(&rules(&["0"], &["*"]), 0, 0, Some(forged)).unwrap_err();
            assert_eq!(error, NotAdmitted::BadName, "{name:?}");
        }
        assert!(Lowered::new("ci-runner_2@example.org", false).is_some());
    }

    #[test]
    fn users_are_written_as_in_nix_conf() {
        for text in ["*", "1000", "alice", "@wheel", "svc-nix.2"] {
            assert_eq!(text.parse::<Users>().unwrap().to_string(), text);
        }
        for text in ["", "@", "a b", "@*", "a,b"] {
            assert!(text.parse::<Users>().is_err(), "{text:?}");
        }
    }
}

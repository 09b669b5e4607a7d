//! The system's database of users, behind a trait so that tests have one of their own.

use nix::unistd::{Group, Uid, User};

/// What is asked about users of the system.
pub(crate) trait UserDatabase {
    /// The name of a user.
    fn user(&self, uid: u32) -> Option<String>;
    /// The number of a group and its members besides those whose first group it is.
    fn group(&self, name: &str) -> Option<(u32, Vec<String>)>;
    /// Whether there is a user of this name.
    fn has_user(&self, name: &str) -> bool;
}

/// The one of this system: `/etc/passwd`, LDAP or whatever `nsswitch.conf` says. Its answers may take a
/// while, so nobody asks it on a thread that serves connections.
pub(crate) struct System;

impl UserDatabase for System {
    fn user(&self, uid: u32) -> Option<String> {
        User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name)
    }

    fn group(&self, name: &str) -> Option<(u32, Vec<String>)> {
        let group = Group::from_name(name).ok().flatten()?;
        Some((group.gid.as_raw(), group.mem))
    }

    fn has_user(&self, name: &str) -> bool {
        User::from_name(name).is_ok_and(|user| user.is_some())
    }
}

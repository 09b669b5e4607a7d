//! Users as `trusted_users` and `allowed_users` name them, in the words of `nix.conf`.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

/// Some users of this system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Users {
    /// `*`
    Everyone,
    /// `1000`
    Uid(u32),
    /// `alice`
    Named(String),
    /// `@wheel`
    Group(String),
}

impl FromStr for Users {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_name = |name: &str| {
            let fine = |c: char| c.is_ascii_graphic() && !matches!(c, ':' | ',' | '/' | '@' | '*');
            !name.is_empty() && name.len() <= 256 && name.chars().all(fine)
        };
        if text == "*" {
            return Ok(Self::Everyone);
        }
        if let Some(group) = text.strip_prefix('@').filter(|group| is_name(group)) {
            return Ok(Self::Group(group.to_owned()));
        }
        if let Ok(uid) = text.parse() {
            return Ok(Self::Uid(uid));
        }
        if is_name(text) {
            return Ok(Self::Named(text.to_owned()));
        }
        Err(format!(
            "`{text}` names no users; write a user's name or number, \"@group\", or \"*\" for everybody"
        ))
    }
}

impl fmt::Display for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everyone => f.write_str("*"),
            Self::Uid(uid) => write!(f, "{uid}"),
            Self::Named(name) => f.write_str(name),
            Self::Group(group) => write!(f, "@{group}"),
        }
    }
}

impl<'de> Deserialize<'de> for Users {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Read;

        impl Visitor<'_> for Read {
            type Value = Users;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a user's name or number, \"@group\", or \"*\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Users, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Users, E> {
                u32::try_from(number)
                    .map(Users::Uid)
                    .map_err(|_| E::custom(format!("{number} is no user's number")))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Users, E> {
                u32::try_from(number)
                    .map(Users::Uid)
                    .map_err(|_| E::custom(format!("{number} is no user's number")))
            }
        }
        from.deserialize_any(Read)
    }
}

//! Unknown keys: found with their line before serde sees the text, and answered with a near match.
//!
//! The keys that exist are asked from the `Deserialize` implementations themselves, so that there is
//! no second list that could differ.

use serde::de::{DeserializeOwned, Deserializer, Visitor, value};
use serde::forward_to_deserialize_any;

/// The field names of a struct that derives `Deserialize`.
pub(super) fn of<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut fields: &'static [&'static str] = &[];
    // The probe always fails: it only listens to what the type asks for.
    drop(T::deserialize(Probe(&mut fields)));
    fields
}

struct Probe<'p>(&'p mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(serde::de::Error::custom("a probe holds no value"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        Err(serde::de::Error::custom("a probe holds no value"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// The known key that a wrong one was most likely meant to be, if any is near enough.
pub(super) fn nearest<'k>(wrong: &str, known: &[&'k str]) -> Option<&'k str> {
    let wrong = wrong.to_lowercase().replace('-', "_");
    known
        .iter()
        .map(|key| (distance(&wrong, key), *key))
        .filter(|(distance, key)| *distance <= 1 + key.len() / 4 || (wrong.len() > 3 && key.contains(&wrong)))
        .min()
        .map(|(_, key)| key)
}

/// Edits (insert, remove, replace) between two short texts.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_mistake_finds_its_key() {
        let known = ["socket", "mode", "http", "writes", "trusted_users"];
        for (wrong, meant) in [
            ("sockt", Some("socket")),
            ("Socket", Some("socket")),
            ("write", Some("writes")),
            ("trusted-users", Some("trusted_users")),
            ("trusted", Some("trusted_users")),
            ("frobnicate", None),
        ] {
            assert_eq!(nearest(wrong, &known), meant, "{wrong}");
        }
    }

    #[test]
    fn keys_are_those_of_the_type() {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(dead_code, reason = "only its field names are asked for")]
        struct Two {
            one: u32,
            other: Option<String>,
        }
        assert_eq!(of::<Two>(), ["one", "other"]);
    }
}

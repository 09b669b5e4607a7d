//! The `?name=value&…` of a store URI.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::uri::UriFault;

/// Parameters that were read, all of them known.
#[derive(Debug)]
pub(super) struct Parameters(BTreeMap<String, String>);

impl Parameters {
    pub(super) fn parse(query: &str, known: &'static [&'static str]) -> Result<Self, UriFault> {
        let mut list = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !known.contains(&name) {
                return Err(UriFault::UnknownParameter {
                    name: name.to_owned(),
                    known,
                });
            }
            list.insert(name.to_owned(), unescape(value)?);
        }
        Ok(Self(list))
    }

    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name).filter(|value| !value.is_empty())
    }

    pub(super) fn path(&mut self, name: &str) -> Option<PathBuf> {
        self.take(name).map(PathBuf::from)
    }

    pub(super) fn count(&mut self, name: &'static str) -> Result<Option<usize>, UriFault> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.parse() {
            Ok(count) if count > 0 => Ok(Some(count)),
            Ok(_) | Err(_) => Err(UriFault::Value {
                name,
                value,
                expected: "a number from 1 up",
            }),
        }
    }

    pub(super) fn flag(&mut self, name: &'static str) -> Result<bool, UriFault> {
        match self.take(name).as_deref() {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(value) => Err(UriFault::Value {
                name,
                value: value.to_owned(),
                expected: "true or false",
            }),
        }
    }
}

/// Writes parameters, those that are set.
#[derive(Debug, Default)]
pub(super) struct Writer(String);

impl Writer {
    pub(super) fn text(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.0.push(if self.0.is_empty() { '?' } else { '&' });
            self.0.push_str(name);
            self.0.push('=');
            self.0.push_str(&escape(value));
        }
    }

    pub(super) fn path(&mut self, name: &str, value: Option<&Path>) {
        self.text(name, value.map(|path| path.to_string_lossy()).as_deref());
    }

    pub(super) fn count(&mut self, name: &str, value: Option<usize>) {
        self.text(name, value.map(|count| count.to_string()).as_deref());
    }

    pub(super) fn finish(self) -> String {
        self.0
    }
}

/// Escapes everything that could end or change a URI.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-+:@,~[]".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

/// Undoes [`escape`].
pub(super) fn unescape(text: &str) -> Result<String, UriFault> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
            let byte = digits
                .and_then(|digits| u8::from_str_radix(digits, 16).ok())
                .ok_or(UriFault::Escape)?;
            bytes.push(byte);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).map_err(|_| UriFault::Escape)
}

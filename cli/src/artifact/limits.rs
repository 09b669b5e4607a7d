//! How much is taken of a file that somebody without rights wrote.

use std::fmt;
use std::str::FromStr;

/// Bytes that a closure may have unpacked however small it is in the file: a set of derivations that are much alike can be
/// next to nothing there.
const ALWAYS: u64 = 256 << 20;

/// What is taken of a file, at most. A file with more is refused before it is unpacked any further.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of the file.
    pub(super) file: u64,
    /// Bytes of the head.
    pub(super) head: u64,
    pub(super) jobs: u64,
    /// Bytes of one attribute path.
    pub(super) attr: u64,
    /// Bytes of any other text in the head.
    pub(super) text: u64,
    /// Bytes of one error of an evaluation.
    pub(super) error: u64,
    pub(super) labels: u64,
    pub(super) paths: u64,
    /// Bytes of one NAR.
    pub(super) nar: u64,
    /// Bytes of the closure, unpacked.
    pub(super) unpacked: u64,
    /// How many times larger the closure may be unpacked than it is in the file, besides [`ALWAYS`]. Derivations of nixpkgs
    /// are twelve times.
    pub(super) ratio: u64,
}

/// The name of a limit, and what it shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limit {
    name: String,
    value: u64,
}

impl Limits {
    /// A large set of derivations with its sources, such as all of nixpkgs, is a tenth of this.
    pub(crate) const DEFAULT: Self = Self {
        file: 2 << 30,
        head: 256 << 20,
        jobs: 200_000,
        attr: 2_048,
        text: 4_096,
        error: 1 << 20,
        labels: 64,
        paths: 1_000_000,
        nar: 2 << 30,
        unpacked: 8 << 30,
        ratio: 200,
    };

    /// The default, and these in their places.
    pub(crate) fn with(given: &[Limit]) -> Self {
        let mut limits = Self::DEFAULT;
        for Limit { name, value } in given {
            for (known, limit) in limits.named() {
                if known == name {
                    *limit = *value;
                }
            }
        }
        limits
    }

    fn named(&mut self) -> [(&'static str, &mut u64); 11] {
        [
            ("file", &mut self.file),
            ("head", &mut self.head),
            ("jobs", &mut self.jobs),
            ("attr", &mut self.attr),
            ("text", &mut self.text),
            ("error", &mut self.error),
            ("labels", &mut self.labels),
            ("paths", &mut self.paths),
            ("nar", &mut self.nar),
            ("unpacked", &mut self.unpacked),
            ("ratio", &mut self.ratio),
        ]
    }

    /// How much a closure may have unpacked that has so many bytes in the file, and what an error says of that.
    pub(super) fn unpacked_of(&self, compressed: u64) -> (u64, &'static str) {
        let by_ratio = compressed
            .saturating_mul(self.ratio)
            .saturating_add(ALWAYS.min(self.unpacked / 8));
        if by_ratio < self.unpacked {
            let why = "when it is unpacked, many more than it has in the file, as no closure of sources does; if you trust who \
                       wrote it, allow more (`--artifact-limit ratio=N`)";
            (by_ratio, why)
        } else {
            let why = "when it is unpacked, which is more than is taken (`--artifact-limit unpacked=N`)";
            (self.unpacked, why)
        }
    }
}

/// What is too much, for people: `it has 7 labels, and at most 4 are taken (…)`.
pub(super) fn too_much(what: impl fmt::Display, most: u64, name: &str) -> String {
    format!("{what}, and at most {most} are taken (`--artifact-limit {name}=N`)")
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, number) = text.split_once('=').ok_or("write NAME=N, such as `unpacked=16G`")?;
        let mut known = Limits::DEFAULT;
        let names = known.named().map(|(name, _)| name);
        if !names.contains(&name) {
            return Err(format!("there is no limit `{name}`; there are {}", names.join(", ")));
        }
        let unit = |letter| number.strip_suffix(letter);
        let (digits, shift) = match (unit('K'), unit('M'), unit('G')) {
            (Some(digits), _, _) => (digits, 10),
            (_, Some(digits), _) => (digits, 20),
            (_, _, Some(digits)) => (digits, 30),
            (None, None, None) => (number, 0),
        };
        let value = digits
            .parse::<u64>()
            .ok()
            .and_then(|value| value.checked_mul(1 << shift));
        let value = value.ok_or_else(|| format!("`{number}` is no number; K, M and G may stand behind one"))?;
        Ok(Self {
            name: name.to_owned(),
            value,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_set_by_their_names() {
        let limit = |text: &str| text.parse::<Limit>();
        let limits = Limits::with(&[limit("unpacked=16G").unwrap(), limit("jobs=7").unwrap()]);
        assert_eq!((limits.unpacked, limits.jobs, limits.paths), (16 << 30, 7, 1_000_000));
        for (text, said) in [
            ("jobs", "NAME=N"),
            ("job=7", "there is no limit `job`; there are file, head, jobs"),
            ("jobs=", "no number"),
            ("jobs=-1", "no number"),
            ("jobs=99999999999G", "no number"),
        ] {
            let told = limit(text).unwrap_err();
            assert!(told.contains(said), "{text}: {told}");
        }
    }

    #[test]
    fn what_may_come_out_follows_from_what_is_there() {
        let limits = Limits::DEFAULT;
        assert_eq!(limits.unpacked_of(1_000).0, 200_000 + ALWAYS);
        // That of the measured closure of nixpkgs, and of one ten times as large.
        assert!(limits.unpacked_of(9_860_000).0 > 117_400_000);
        assert!(limits.unpacked_of(98_600_000).0 > 1_174_000_000);
        let (most, said) = limits.unpacked_of(u64::MAX);
        assert_eq!(most, limits.unpacked);
        assert!(said.contains("unpacked=N"));
    }
}

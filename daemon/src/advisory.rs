//! Holes that are known in the Nix of a store behind: who may build there could become root there.
//!
//! Judged by the version a store says it is, which is all that can be seen from here. A distribution may have mended
//! a hole without changing the version, so what is said is "by its version". Sources: the advisories of the Nix and
//! Lix projects and their CVE records.

use std::cmp::Ordering;
use std::fmt;

use nixci_protocol::nixci::control::Advisory;
use tracing::{info, warn};

use crate::core::Core;
use crate::steer;

/// A version, as far as holes are mended in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Release(u32, u32, u32);

impl Release {
    fn branch(self) -> (u32, u32) {
        (self.0, self.1)
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// Releases from which on something holds: one per branch (`2.28.x`). Branches after the last are like it; other
/// branches that are not named never got it.
type Since = &'static [Release];

fn since(releases: Since, version: Release) -> bool {
    match releases.iter().find(|release| release.branch() == version.branch()) {
        Some(release) => version >= *release,
        None => releases.iter().max().is_some_and(|last| version > *last),
    }
}

/// Where something is broken and mended.
struct Range {
    broken: Since,
    mended: Since,
    /// Branches of which no advisory says whether they were mended.
    unknown: &'static [(u32, u32)],
}

struct Hole {
    id: &'static str,
    what: &'static str,
    nix: Option<Range>,
    lix: Option<Range>,
}

const ALWAYS: Since = &[Release(0, 0, 0)];

/// The newest first.
const HOLES: &[Hole] = &[
    Hole {
        id: "CVE-2026-44028 (GHSA-vh5x-56v6-4368)",
        what: "whoever may connect to its daemon can overwrite the daemon's memory with a crafted archive, and become root",
        nix: Some(Range {
            broken: &[Release(2, 24, 4)],
            mended: &[
                Release(2, 34, 7),
                Release(2, 33, 6),
                Release(2, 32, 8),
                Release(2, 31, 5),
                Release(2, 30, 5),
                Release(2, 29, 4),
                Release(2, 28, 7),
            ],
            unknown: &[],
        }),
        lix: Some(Range {
            broken: &[Release(2, 93, 0)],
            mended: &[Release(2, 95, 2), Release(2, 94, 2), Release(2, 93, 4)],
            unknown: &[],
        }),
    },
    Hole {
        id: "CVE-2026-39860",
        what: "a build can overwrite any file as root through the output of a fixed-output derivation",
        nix: Some(Range {
            // It came with the mending of CVE-2024-27297.
            broken: &[
                Release(2, 21, 0),
                Release(2, 20, 5),
                Release(2, 19, 4),
                Release(2, 18, 2),
            ],
            mended: &[
                Release(2, 34, 5),
                Release(2, 33, 4),
                Release(2, 32, 7),
                Release(2, 31, 4),
                Release(2, 30, 4),
                Release(2, 29, 3),
                Release(2, 28, 6),
            ],
            unknown: &[],
        }),
        lix: None,
    },
    Hole {
        id: "CVE-2025-46415, CVE-2025-46416, CVE-2025-52991, CVE-2025-52992 and CVE-2025-52993",
        what: "builds that work together can become the build user or root, and change what is in the store",
        nix: Some(Range {
            broken: ALWAYS,
            mended: &[
                Release(2, 29, 1),
                Release(2, 28, 4),
                Release(2, 26, 4),
                Release(2, 24, 15),
            ],
            unknown: &[],
        }),
        lix: Some(Range {
            broken: ALWAYS,
            mended: &[Release(2, 93, 1), Release(2, 92, 2), Release(2, 91, 2)],
            unknown: &[],
        }),
    },
    Hole {
        id: "CVE-2024-45593",
        what: "a crafted archive can write any file as root",
        nix: Some(Range {
            broken: &[Release(2, 24, 0)],
            mended: &[Release(2, 24, 6)],
            unknown: &[],
        }),
        lix: None,
    },
    Hole {
        id: "CVE-2024-38531",
        what: "a build can leave a program behind that runs as the build user, and so change other builds",
        nix: Some(Range {
            broken: ALWAYS,
            mended: &[Release(2, 24, 0)],
            unknown: &[(2, 18), (2, 19), (2, 20), (2, 21), (2, 22), (2, 23)],
        }),
        lix: None,
    },
    Hole {
        id: "CVE-2024-27297",
        what: "a build can change the output of a fixed-output derivation after its hash was checked",
        nix: Some(Range {
            broken: ALWAYS,
            mended: &[
                Release(2, 20, 5),
                Release(2, 19, 4),
                Release(2, 18, 2),
                Release(2, 16, 3),
                Release(2, 3, 18),
            ],
            unknown: &[],
        }),
        lix: None,
    },
];

/// The first release of Lix; Nix itself is far from such numbers.
const LIX: (u32, u32) = (2, 90);

/// Whose numbers a version has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Nix,
    Lix,
}

/// What is known of the store's Nix.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// A release, or what came before it.
    Version { kind: Kind, release: Release },
    /// A daemon of ours, whose numbers mean nothing here.
    Ours,
    /// No version, or none that can be read.
    Unknown,
}

fn read(version: Option<&str>) -> Found {
    let Some(text) = version else { return Found::Unknown };
    if text.contains("(nixci ") {
        return Found::Ours;
    }
    let mut numbers = [0_u32; 3];
    let mut rest = text.trim();
    for (nth, number) in numbers.iter_mut().enumerate() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        match rest[..digits].parse() {
            Ok(value) => *number = value,
            // `2.34` and `2.34pre…` count as what comes before 2.34.0.
            Err(_) if nth == 2 => break,
            Err(_) => return Found::Unknown,
        }
        rest = &rest[digits..];
        match rest.strip_prefix('.') {
            Some(more) => rest = more,
            None if nth == 0 => return Found::Unknown,
            None => break,
        }
    }
    let mut release = Release(numbers[0], numbers[1], numbers[2]);
    if rest.starts_with("pre") {
        // Before its release, so at most what the last one was.
        match (release.2.checked_sub(1), release.1.checked_sub(1)) {
            (Some(patch), _) => release.2 = patch,
            (None, Some(minor)) => release = Release(release.0, minor, 0),
            (None, None) => return Found::Unknown,
        }
    }
    let kind = match release.branch().cmp(&LIX) {
        Ordering::Less => Kind::Nix,
        Ordering::Equal | Ordering::Greater => Kind::Lix,
    };
    Found::Version { kind, release }
}

/// The known holes of a store that says it is of this version.
pub(crate) fn of(version: Option<&str>) -> Vec<Advisory> {
    let Found::Version { kind, release } = read(version) else {
        return Vec::new();
    };
    let of_kind = |hole: &'static Hole| match kind {
        Kind::Nix => hole.nix.as_ref().map(|range| (hole, range)),
        Kind::Lix => hole.lix.as_ref().map(|range| (hole, range)),
    };
    HOLES
        .iter()
        .filter_map(of_kind)
        .filter(|(_, range)| since(range.broken, release) && !since(range.mended, release))
        .map(|(hole, range)| Advisory {
            id: hole.id.to_owned(),
            what: hole.what.to_owned(),
            fixed_in: next(range.mended, release).to_string(),
            certain: !range.unknown.contains(&release.branch()),
        })
        .collect()
}

/// The nearest release to change to.
fn next(mended: Since, version: Release) -> Release {
    let later = mended.iter().filter(|release| **release > version).min();
    later.or(mended.iter().max()).copied().unwrap_or(version)
}

/// Looks at every store once and names the holes it has in the log.
pub(crate) async fn look(core: &Core) {
    for store in steer::stores(core).await {
        let name = &store.name;
        if store.error.is_none() && read(store.version.as_deref()) == Found::Unknown {
            let version = store.version.as_deref().unwrap_or("none");
            info!(
                store = name,
                "store `{name}` says no version that could be looked up ({version}); whether its Nix has known holes is unknown"
            );
        }
        for advisory in &store.advisories {
            let version = store.version.as_deref().unwrap_or_default();
            let line = advisory.line();
            warn!(
                store = name,
                advisory = advisory.id,
                "store `{name}` runs Nix {version}, which by its version has {line}. Update its Nix, unless your distribution has mended it"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(version: &str) -> Vec<String> {
        let year = |id: &str| {
            id.split(['(', ','])
                .next()
                .unwrap_or_default()
                .trim()
                .replace("CVE-", "")
        };
        of(Some(version)).iter().map(|advisory| year(&advisory.id)).collect()
    }

    #[test]
    fn each_branch_is_mended_at_its_own_release() {
        const NAR: &str = "2026-44028";
        const LINK: &str = "2026-39860";
        const SET: &str = "2025-46415";
        for (version, expected) in [
            ("2.34.8", vec![]),
            ("2.34.7", vec![]),
            ("2.34.6", vec![NAR]),
            ("2.34.5", vec![NAR]),
            ("2.34.4", vec![NAR, LINK]),
            ("2.33.6", vec![]),
            ("2.33.5", vec![NAR]),
            ("2.31.5", vec![]),
            ("2.31.4", vec![NAR]),
            ("2.31.3", vec![NAR, LINK]),
            ("2.30.0", vec![NAR, LINK]),
            ("2.29.1", vec![NAR, LINK]),
            ("2.29.0", vec![NAR, LINK, SET]),
            ("2.28.7", vec![]),
            ("2.28.6", vec![NAR]),
            ("2.28.4", vec![NAR, LINK]),
            ("2.28.3", vec![NAR, LINK, SET]),
            ("2.27.1", vec![NAR, LINK, SET]),
            ("2.26.4", vec![NAR, LINK]),
            ("2.26.3", vec![NAR, LINK, SET]),
            ("2.24.15", vec![NAR, LINK]),
            ("2.24.14", vec![NAR, LINK, SET]),
            ("2.24.5", vec![NAR, LINK, SET, "2024-45593"]),
            ("2.24.3", vec![LINK, SET, "2024-45593"]),
            ("2.23.4", vec![LINK, SET, "2024-38531"]),
            ("2.18.9", vec![LINK, SET, "2024-38531"]),
            ("2.18.1", vec![SET, "2024-38531", "2024-27297"]),
            ("2.8.0", vec![SET, "2024-38531", "2024-27297"]),
            ("2.3.18", vec![SET, "2024-38531"]),
            ("2.35.0", vec![]),
            ("2.36.0pre20260801_abcdef0", vec![]),
            ("2.34.7pre20260501_abcdef0", vec![NAR]),
            ("2.34.0pre20260101_dirty", vec![NAR, LINK]),
            // Lix counts from 2.90.
            ("2.95.2", vec![]),
            ("2.95.1", vec![NAR]),
            ("2.93.4", vec![]),
            ("2.93.0", vec![NAR, SET]),
            ("2.92.2", vec![]),
            ("2.92.1", vec![SET]),
            ("2.90.0", vec![SET]),
        ] {
            assert_eq!(ids(version), expected, "{version}");
        }
    }

    #[test]
    fn the_release_to_change_to_is_the_nearest_and_doubt_is_told() {
        let fixed = |version: &str| -> Vec<String> { of(Some(version)).into_iter().map(|one| one.fixed_in).collect() };
        assert_eq!(fixed("2.31.3"), ["2.31.5", "2.31.4"]);
        assert_eq!(fixed("2.26.3"), ["2.28.7", "2.28.6", "2.26.4"]);
        assert_eq!(fixed("2.27.0"), ["2.28.7", "2.28.6", "2.28.4"]);
        let of_old = of(Some("2.18.9"));
        let doubtful: Vec<&Advisory> = of_old.iter().filter(|advisory| !advisory.certain).collect();
        assert_eq!(doubtful.len(), 1);
        assert!(
            doubtful[0]
                .line()
                .starts_with("CVE-2024-38531, unless its branch was mended")
        );
    }

    #[test]
    fn versions_that_mean_nothing_here_are_not_judged() {
        for (version, found) in [
            (None, Found::Unknown),
            (Some(""), Found::Unknown),
            (Some("nix"), Found::Unknown),
            (Some("2"), Found::Unknown),
            (Some("99999999999.1.1"), Found::Unknown),
            (Some("2.26.0 (nixci 0.1.0)"), Found::Ours),
        ] {
            assert_eq!(read(version), found, "{version:?}");
            assert_eq!(of(version), [], "{version:?}");
        }
        let release = Release(2, 18, 0);
        for text in ["2.18", "2.18.0", "2.18.0 (something)", "2.18.0-1+deb12"] {
            let found = Found::Version {
                kind: Kind::Nix,
                release,
            };
            assert_eq!(read(Some(text)), found, "{text}");
        }
    }
}

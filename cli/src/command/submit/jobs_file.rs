//! Lists of ready jobs: `attribute<TAB>derivation`, one per line.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use nixci_protocol::nixci::attr_path::AttrPath;
use nixci_protocol::nixci::control::{Evaluated, NewJob};
use nixci_protocol::types::StoreDir;

use crate::exit::Problem;

/// Bytes of a list at most: a million jobs fit.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// The jobs of the list at `path`; `-` is standard input. Blocks.
pub(super) fn read(path: &Path, store_dir: &StoreDir) -> Result<Vec<NewJob>, Problem> {
    let name = if path == Path::new("-") {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    };
    let fail = |error: std::io::Error| Problem::usage(format!("failed to read the jobs file `{name}`: {error}"));
    let mut text = Vec::new();
    if path == Path::new("-") {
        std::io::stdin()
            .lock()
            .take(MAX_BYTES + 1)
            .read_to_end(&mut text)
            .map_err(fail)?;
    } else {
        std::fs::File::open(path)
            .map_err(fail)?
            .take(MAX_BYTES + 1)
            .read_to_end(&mut text)
            .map_err(fail)?;
    }
    if text.len() as u64 > MAX_BYTES {
        return Err(Problem::usage(format!(
            "the jobs file `{name}` is longer than {MAX_BYTES} bytes: split it"
        )));
    }
    let text = String::from_utf8(text).map_err(|_| {
        Problem::usage(format!(
            "the jobs file `{name}` is not UTF-8: write attribute paths as text"
        ))
    })?;
    parse(&text, &name, store_dir)
}

/// The jobs of a list. Empty lines are skipped; anything else that is no job is named by its line.
fn parse(text: &str, name: &str, store_dir: &StoreDir) -> Result<Vec<NewJob>, Problem> {
    let mut jobs = Vec::new();
    let mut seen: HashMap<AttrPath, usize> = HashMap::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let number = at + 1;
        let wrong = |what: String| Problem::usage(format!("{name}:{number}: {what}"));
        let (attr, drv) = line
            .split_once('\t')
            .ok_or_else(|| wrong("expected `attribute<TAB>derivation`, found no tab".to_owned()))?;
        let attr: AttrPath = attr.parse().map_err(|error| wrong(format!("{error}")))?;
        if attr.names().is_empty() {
            return Err(wrong("the attribute before the tab is missing".to_owned()));
        }
        let job = ready(attr.clone(), drv.trim_end(), store_dir).map_err(wrong)?;
        if let Some(first) = seen.insert(attr, number) {
            return Err(wrong(format!(
                "the attribute `{}` was on line {first} already",
                job.attr
            )));
        }
        jobs.push(job);
    }
    if jobs.is_empty() {
        return Err(Problem::usage(format!("{name} holds no jobs")));
    }
    Ok(jobs)
}

/// A job of a derivation that exists already.
pub(super) fn ready(attr: AttrPath, drv: &str, store_dir: &StoreDir) -> Result<NewJob, String> {
    let path = store_dir
        .parse(drv)
        .map_err(|error| format!("`{drv}` is no store path: {error}"))?;
    if !path.is_derivation() {
        return Err(format!("`{drv}` is no derivation: its name does not end in `.drv`"));
    }
    Ok(NewJob {
        attr,
        result: Evaluated::Drv(drv.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::exit::Exit;

    const A: &str = "/nix/store/00000000000000000000000000000000-a.drv";

    #[test]
    fn a_list_is_attributes_and_derivations() {
        let text = format!("a\t{A}\n\nb.\"c d\"\t{A}\r\n");
        let jobs = parse(&text, "jobs", &StoreDir::default()).unwrap();
        let attrs: Vec<String> = jobs.iter().map(|job| job.attr.to_string()).collect();
        assert_eq!(attrs, ["a", "b.\"c d\""]);
        assert!(jobs.iter().all(|job| job.result == Evaluated::Drv(A.into())));
    }

    #[rstest]
    #[case("a\t@\nb", "jobs:2: expected `attribute<TAB>derivation`")]
    #[case("a..b\t@", "jobs:1: `a..b` is not an attribute path: it has an empty name")]
    #[case("\t@", "jobs:1: the attribute before the tab is missing")]
    #[case("a\t/tmp/x.drv", "jobs:1: `/tmp/x.drv` is no store path")]
    #[case(
        "a\t/nix/store/00000000000000000000000000000000-a",
        "jobs:1: `/nix/store/00000000000000000000000000000000-a` is no derivation"
    )]
    #[case("a\t@\n\na\t@", "jobs:3: the attribute `a` was on line 1 already")]
    #[case("\n", "jobs holds no jobs")]
    fn a_bad_line_is_named(#[case] text: &str, #[case] said: &str) {
        let problem = parse(&text.replace('@', A), "jobs", &StoreDir::default()).unwrap_err();
        assert!(problem.to_string().contains(said), "{problem}");
        assert_eq!(problem.exit(), Exit::Usage);
    }
}

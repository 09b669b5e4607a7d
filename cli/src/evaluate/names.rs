//! From a path in the set that is walked to the identity of a job.

use nixci_protocol::nixci::attr_path::AttrPath;

use super::{Options, Source};

/// The job a path stands for: what `apply` named it, else the attribute path from the outputs of the flake
/// or from the value of the file.
pub(super) fn job(source: &Source, options: &Options, path: &[String]) -> AttrPath {
    let below = |path: &[String]| {
        let prefix = source.attribute().names();
        AttrPath::new(prefix.iter().chain(path).cloned().collect())
    };
    let (Some(_), [first, rest @ ..]) = (&options.apply, path) else {
        return below(path);
    };
    let named = |name: &str| AttrPath::new(std::iter::once(name.to_owned()).chain(rest.iter().cloned()).collect());
    match first.split_once(':') {
        Some(("l" | "s", name)) => named(name),
        Some(("a", list)) => match serde_json::from_str::<Vec<String>>(list) {
            Ok(selected) => below(&[&selected, rest].concat()),
            Err(_) => named(list),
        },
        _ => named(first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_named_by_attribute_or_by_label() {
        let source = Source::flake(".").unwrap();
        let plain = Options::default();
        let applied = Options {
            apply: Some("x".to_owned()),
            ..Options::default()
        };
        for (options, path, expected) in [
            (&plain, &["s", "a.b"][..], "checks.s.\"a.b\""),
            (&plain, &[], "checks"),
            (&plain, &["l:x"], "checks.\"l:x\""),
            (&applied, &["l:lint: all"], "\"lint: all\""),
            (&applied, &["l:set", "x"], "set.x"),
            (&applied, &["s:a", "b"], "a.b"),
            (&applied, &["a:[\"s\",\"x\"]", "y"], "checks.s.x.y"),
            (&applied, &[], "checks"),
        ] {
            let path: Vec<_> = path.iter().map(|&name| name.to_owned()).collect();
            assert_eq!(job(&source, options, &path).to_string(), expected);
        }
    }
}

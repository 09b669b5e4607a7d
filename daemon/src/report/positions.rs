//! Where in the repository an evaluation error happened.

use nixci_protocol::nixci::report::Annotation;

/// The longest message of an annotation, in characters: GitHub takes 64 KB, but shows it beside one line.
const MESSAGE_CHARS: usize = 2_000;

/// The place that an error of the evaluator is about: the last `at …/path:line:column` in a source tree that is in the
/// store, which is where the repository itself is evaluated from, or below the current folder.
///
/// Nix names a flake's files by the store path of its tree. An input of the flake looks the same, so that a line which
/// belongs to no file of the repository can be told; forges show such an annotation without the line.
pub(crate) fn annotation(title: &str, message: &str) -> Option<Annotation> {
    let (path, line) = message.lines().rev().find_map(place)?;
    Some(Annotation {
        path,
        line,
        title: title.to_owned(),
        message: message.chars().take(MESSAGE_CHARS).collect(),
    })
}

/// The place in one line of a message.
fn place(line: &str) -> Option<(String, u32)> {
    let at = line
        .trim_start()
        .strip_prefix("at ")
        .or_else(|| line.split(" at ").nth(1))?;
    let at = at.trim_end().trim_end_matches(':');
    let mut parts = at.rsplitn(3, ':');
    let (_column, row, file) = (
        parts.next()?.parse::<u32>().ok()?,
        parts.next()?.parse().ok()?,
        parts.next()?,
    );
    let path = in_tree(file.trim_matches(['«', '»', '\'', '"']))?;
    Some((path.to_owned(), row))
}

/// The path in a source tree in the store; none for a file of its own there, and for other absolute paths.
fn in_tree(file: &str) -> Option<&str> {
    const DIGEST: usize = 32;
    if let Some((_, below)) = file.split_once("/store/") {
        let (base, path) = below.split_once('/')?;
        let (digest, _) = base.split_once('-')?;
        return (digest.len() == DIGEST && !path.is_empty()).then_some(path);
    }
    let relative = file.strip_prefix("./").unwrap_or(file);
    let is_relative = !relative.starts_with(['/', '<', '(']) && !relative.contains("://") && relative.contains('.');
    is_relative.then_some(relative)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_told_from_the_top_of_the_repository() {
        let tree = "/nix/store/00000000000000000000000000000000-source";
        for (message, expected) in [
            (
                format!("error: x\n\n       at {tree}/pkgs/a.nix:3:14:\n\n            2| …\n"),
                Some(("pkgs/a.nix", 3)),
            ),
            (
                format!("error:\n … while\n at {tree}/flake.nix:1:1:\n error: y\n at {tree}/deep/b.nix:20:3:"),
                Some(("deep/b.nix", 20)),
            ),
            (
                "error: undefined variable 'x' at ./ci.nix:7:2".to_owned(),
                Some(("ci.nix", 7)),
            ),
            ("error: x\n at «string»:1:1:".to_owned(), None),
            ("error: x\n at /home/me/ci.nix:1:1:".to_owned(), None),
            ("error: at the end".to_owned(), None),
            (
                "error: x\n at /nix/store/00000000000000000000000000000000-a.nix:1:1:".to_owned(),
                None,
            ),
        ] {
            let found = annotation("t", &message);
            let found = found.as_ref().map(|found| (found.path.as_str(), found.line));
            assert_eq!(found, expected, "{message}");
        }
    }
}

//! Whether a text holds what nobody may see.

/// What the secrets of tests have in them, where their form is free: a log that has it tells too much.
pub const MARK: &str = "hush-hush-";

/// The first thing in a text that looks like a secret, by its line and kind, without the secret itself: one with
/// [`MARK`], a token of ours, a JSON web token, a private key.
pub fn leak(text: &str) -> Option<String> {
    text.lines().zip(1..).find_map(|(line, number): (&str, u32)| {
        let kind = kind(line)?;
        Some(format!("line {number} has {kind}"))
    })
}

fn kind(line: &str) -> Option<&'static str> {
    if line.contains(MARK) {
        return Some("a secret of the test");
    }
    if line.contains(" PRIVATE KEY-----") {
        return Some("a private key");
    }
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let runs = |from: &str| from.split(|c| !is_part(c)).next().map_or(0, str::len);
    let ours = line
        .match_indices("nixci_")
        .any(|(at, found)| runs(&line[at + found.len()..]) == 43);
    if ours {
        return Some("a token of nixci");
    }
    let is_web_token = line.match_indices("eyJ").any(|(at, _)| {
        let mut parts = line[at..].split('.');
        let long = |part: Option<&str>| part.is_some_and(|part| runs(part) > 8);
        long(parts.next())
            && parts
                .next()
                .is_some_and(|part| part.starts_with("eyJ") && runs(part) > 8)
            && long(parts.next())
    });
    is_web_token.then_some("a JSON web token")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_found_and_not_repeated() {
        let token = format!("nixci_{}", "a".repeat(43));
        for (text, expected) in [
            ("nothing\nto see: nixci_daemon::report eyJ a.b.c".to_owned(), None),
            (format!("x\ntoken={token} y"), Some("line 2 has a token of nixci")),
            (
                "Bearer eyJhbGciOiJS.eyJpc3MiOiJo.c2lnbmF0dXJl".to_owned(),
                Some("line 1 has a JSON web token"),
            ),
            (format!("a {MARK}1"), Some("line 1 has a secret of the test")),
            (
                "-----BEGIN RSA PRIVATE KEY-----".to_owned(),
                Some("line 1 has a private key"),
            ),
        ] {
            assert_eq!(leak(&text).as_deref(), expected, "{text}");
        }
    }
}

//! How people name evaluations, commits and derivations on the command line.

use nixci_protocol::nixci::control::{EvaluationId, Selector, Target};

use crate::context;
use crate::exit::Problem;

/// The shortest prefix of a commit that names it.
const SHORTEST_COMMIT: usize = 7;

/// The evaluation that `text` names, without asking git: `12` and `#12` (its number), `latest`, a
/// commit or its prefix. Digits alone are a number up to six of them; `#` says so beyond.
fn parse(text: &str, project: Option<&str>) -> Option<Selector> {
    let project = project.map(str::to_owned);
    if text == "latest" {
        return Some(Selector::Latest { project });
    }
    let is_decimal = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = match text.strip_prefix('#') {
        Some(number) => is_decimal(number).then_some(number)?,
        None if is_decimal(text) && text.len() < SHORTEST_COMMIT => text,
        None => {
            let is_commit = (SHORTEST_COMMIT..=40).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
            return is_commit.then(|| Selector::Commit {
                project,
                commit: text.to_ascii_lowercase(),
            });
        }
    };
    Some(Selector::Evaluation(EvaluationId(number.parse().ok()?)))
}

/// The evaluation that `text` names; the newest without a text. A branch or tag is looked up by git in
/// the current folder.
pub(crate) fn evaluation(text: Option<&str>, project: Option<&str>) -> Result<Selector, Problem> {
    let text = text.unwrap_or("latest");
    if let Some(selector) = parse(text, project) {
        return Ok(selector);
    }
    let commit = context::resolve(text).ok_or_else(|| {
        Problem::usage(format!(
            "`{text}` names no evaluation: give its number, a commit (at least {SHORTEST_COMMIT} digits), `latest`, or a \
             name that git knows in this folder"
        ))
    })?;
    Ok(Selector::Commit {
        project: project.map(str::to_owned),
        commit,
    })
}

/// The derivation or evaluation that `text` names.
pub(crate) fn target(text: &str, project: Option<&str>) -> Result<Target, Problem> {
    if is_derivation(text) {
        Ok(Target::Derivation(text.to_owned()))
    } else {
        evaluation(Some(text), project).map(Target::Evaluation)
    }
}

/// Whether `text` is the path of a derivation, and not an attribute or a flake.
pub(crate) fn is_derivation(text: &str) -> bool {
    text.starts_with('/') && text.strip_suffix(".drv").is_some()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    /// How a selector is said in a message.
    fn words(selector: &Selector) -> String {
        let of = |project: &Option<String>| project.as_ref().map(|name| format!(" of {name}")).unwrap_or_default();
        match selector {
            Selector::Evaluation(id) => format!("evaluation #{}", id.0),
            Selector::Commit { project, commit } => format!("commit {commit}{}", of(project)),
            Selector::Latest { project } => format!("the newest evaluation{}", of(project)),
        }
    }

    #[rstest]
    #[case("12", Some("evaluation #12"))]
    #[case("#1234567", Some("evaluation #1234567"))]
    #[case("1234567", Some("commit 1234567"))]
    #[case("ABCDEF0", Some("commit abcdef0"))]
    #[case(
        "0123456789012345678901234567890123456789",
        Some("commit 0123456789012345678901234567890123456789")
    )]
    #[case("latest", Some("the newest evaluation"))]
    #[case("abcdef", None)]
    #[case("main", None)]
    #[case("#", None)]
    #[case("#x", None)]
    #[case("", None)]
    #[case("01234567890123456789012345678901234567890", None)]
    fn a_text_names_one_kind_of_thing(#[case] text: &str, #[case] said: Option<&str>) {
        assert_eq!(parse(text, None).map(|selector| words(&selector)).as_deref(), said);
    }

    #[test]
    fn a_project_narrows_what_is_not_a_number() {
        assert_eq!(
            words(&parse("latest", Some("o/n")).unwrap()),
            "the newest evaluation of o/n"
        );
        assert_eq!(
            words(&parse("abcdef01", Some("o/n")).unwrap()),
            "commit abcdef01 of o/n"
        );
        assert_eq!(words(&parse("7", Some("o/n")).unwrap()), "evaluation #7");
    }

    #[test]
    fn what_nobody_knows_is_a_usage_error_that_says_what_would_do() {
        let problem = evaluation(Some("no-such-branch-anywhere"), None).unwrap_err();
        assert_eq!(problem.exit(), crate::exit::Exit::Usage);
        assert!(problem.to_string().contains("give its number"), "{problem}");
    }
}

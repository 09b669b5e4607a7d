//! What a step of Actions learns of a submission: outputs for later steps, and a line in its summary.

use std::fs::OpenOptions;
use std::io::Write as _;

use nixci_protocol::nixci::control::EvaluationSummary;

use crate::context::Env;
use crate::render;

/// Appends `evaluation` and `page` to `$GITHUB_OUTPUT`, and a line with both to `$GITHUB_STEP_SUMMARY`, where there are
/// such files. A file that cannot be written changes nothing. Blocks.
pub(super) fn tell(summary: &EvaluationSummary, env: Env<'_>) {
    let page = summary.page.as_deref().filter(|page| is_plain(page));
    let mut outputs = format!("evaluation={}\n", summary.evaluation.0);
    if let Some(page) = page {
        outputs.push_str("page=");
        outputs.push_str(page);
        outputs.push('\n');
    }
    append("GITHUB_OUTPUT", &outputs, env);
    let number = format!("evaluation #{}", summary.evaluation.0);
    let link = page.map_or_else(|| number.clone(), |page| format!("[{number}](<{page}>)"));
    let jobs = render::plural(summary.counts.jobs, "job");
    append("GITHUB_STEP_SUMMARY", &format!("nixci {link}: {jobs}\n\n"), env);
}

/// Whether an address, which the daemon tells, stays on its line and in its place in Markdown.
fn is_plain(page: &str) -> bool {
    page.starts_with("http")
        && page
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'<' | b'>' | b'\\'))
}

fn append(variable: &str, text: &str, env: Env<'_>) {
    let Some(file) = env(variable) else { return };
    let opened = OpenOptions::new().create(true).append(true).open(&file);
    if let Err(error) = opened.and_then(|mut file| file.write_all(text.as_bytes())) {
        tracing::warn!("failed to write {variable}, `{file}`: {error}");
    }
}

#[cfg(test)]
mod tests {
    use nixci_protocol::nixci::control::{Counts, EvaluationId, EvaluationState};

    use super::*;

    fn told(page: Option<&str>) -> (String, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let summary = EvaluationSummary {
            evaluation: EvaluationId(12),
            project: "o/n".into(),
            commit: None,
            git_ref: None,
            base: None,
            pull_request: None,
            source: ".#checks".into(),
            state: EvaluationState::Building,
            error: None,
            created: 0,
            ended: None,
            counts: Counts {
                jobs: 14,
                ..Counts::default()
            },
            page: page.map(str::to_owned),
        };
        std::fs::write(path("GITHUB_OUTPUT"), "before=1\n").unwrap();
        tell(&summary, &|name| Some(path(name)));
        let read = |name| std::fs::read_to_string(path(name)).unwrap();
        (read("GITHUB_OUTPUT"), read("GITHUB_STEP_SUMMARY"))
    }

    #[test]
    fn later_steps_learn_the_number_and_the_page() {
        let (outputs, summary) = told(Some("https://ci.example.org/evaluations/12"));
        assert_eq!(
            outputs,
            "before=1\nevaluation=12\npage=https://ci.example.org/evaluations/12\n"
        );
        assert_eq!(
            summary,
            "nixci [evaluation #12](<https://ci.example.org/evaluations/12>): 14 jobs\n\n"
        );
    }

    #[test]
    fn an_address_cannot_set_another_output_or_leave_its_link() {
        for page in ["https://x\nevil=1", "https://x> <img>", "javascript:alert(1)", ""] {
            let (outputs, summary) = told(Some(page));
            assert_eq!(outputs, "before=1\nevaluation=12\n", "{page:?}");
            assert_eq!(summary, "nixci evaluation #12: 14 jobs\n\n", "{page:?}");
        }
    }

    #[test]
    fn without_the_files_nothing_is_written() {
        let (outputs, _) = told(None);
        assert_eq!(outputs, "before=1\nevaluation=12\n");
        let dir = tempfile::tempdir().unwrap();
        append("GITHUB_OUTPUT", "x", &|_| Some(dir.path().to_str().unwrap().to_owned()));
        append("GITHUB_OUTPUT", "x", &|_| None);
    }
}

//! Links within the repository, and files that are named.

use std::path::Path;

use crate::page::{code_spans, pages, root};

/// The name that a heading is linked by.
fn slug(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept
        .chars()
        .filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-' || *c == '_');
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn headings(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap();
    let mut fenced = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if !fenced && line.starts_with('#') {
            found.push(slug(line.trim_start_matches('#')));
        }
    }
    found
}

/// The targets of a line's links.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
}

#[test]
fn every_link_leads_somewhere() {
    let mut seen = 0;
    for page in pages() {
        let here = root().join(&page.name);
        for (number, line) in &page.prose {
            for target in targets(line).filter(|target| !target.starts_with("https://")) {
                let place = format!("{}:{number}", page.name);
                let (file, heading) = target.split_once('#').unwrap_or((target, ""));
                let file = if file.is_empty() {
                    here.clone()
                } else {
                    here.with_file_name(file)
                };
                assert!(file.exists(), "{place}: there is no {target}");
                assert!(
                    heading.is_empty() || headings(&file).iter().any(|known| known == heading),
                    "{place}: {target} has no such heading; it has {:?}",
                    headings(&file)
                );
                seen += 1;
            }
        }
    }
    assert!(seen > 60, "only {seen} links were found");
}

#[test]
fn every_page_is_reached_from_the_front() {
    let pages = pages();
    let linked: Vec<&str> = pages
        .iter()
        .flat_map(|page| &page.prose)
        .flat_map(|(_, line)| targets(line))
        .collect();
    for page in pages.iter().filter(|page| page.name != "README.md") {
        let name = page.name.strip_prefix("docs/").unwrap();
        assert!(
            linked.iter().any(|target| target.contains(name)),
            "nothing links to {}",
            page.name
        );
    }
}

#[test]
fn files_of_the_repository_that_are_named_exist() {
    const FOLDERS: [&str; 10] = [
        ".ci/",
        "cli/",
        "daemon/",
        "docs/",
        "examples/",
        "fuzz/",
        "nixos-module",
        "protocol/",
        "store/",
        "vm-tests/",
    ];
    for page in pages() {
        for (number, line) in &page.prose {
            let named = code_spans(line).filter(|span| FOLDERS.iter().any(|folder| span.starts_with(folder)));
            for path in named.filter(|path| !path.contains(' ')) {
                assert!(root().join(path).exists(), "{}:{number}: there is no {path}", page.name);
            }
        }
    }
}

//! Commands and flags that are named, against what the programs know; and that every command has somewhere to be run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use crate::page::{code_spans, pages, root};

/// Flags of other programs that the prose names.
const OF_OTHERS: [&str; 4] = ["--keep-going", "--no-check-sigs", "--refresh", "--repair"];

/// For each command, `nixci submit`, its flags; the program alone has those of all its commands.
fn known() -> BTreeMap<String, BTreeSet<String>> {
    let mut known = BTreeMap::new();
    for program in ["nixci", "nixci-daemon"] {
        help(program, &[], &mut known);
    }
    known
}

fn help(program: &str, words: &[String], known: &mut BTreeMap<String, BTreeSet<String>>) {
    let nixci = Path::new(env!("CARGO_BIN_EXE_nixci"));
    let output = Command::new(nixci.with_file_name(program))
        .args(words)
        .arg("--help")
        .output()
        .unwrap();
    assert!(output.status.success(), "{program} {words:?} --help");
    let text = String::from_utf8(output.stdout).unwrap();
    let flags: BTreeSet<String> = text
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        .filter(|word| word.starts_with("--") && word.len() > 2)
        .map(str::to_owned)
        .collect();
    let name = [&[program.to_owned()], words].concat().join(" ");
    let commands: Vec<String> = text
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|word| *word != "help")
        .map(str::to_owned)
        .collect();
    known
        .entry(program.to_owned())
        .or_default()
        .extend(flags.iter().cloned());
    known.entry(name).or_default().extend(flags);
    for command in commands {
        help(program, &[words, &[command]].concat(), known);
    }
}

/// The calls of our programs in a text of the shell.
fn calls(text: &str) -> Vec<Vec<String>> {
    let lines = text
        .lines()
        .map(|line| line.split(" # ").next().unwrap_or(line).trim_end_matches('\\'));
    let text = lines.collect::<Vec<_>>().join(" ");
    let mut calls: Vec<Vec<String>> = Vec::new();
    let mut inside = false;
    let mut before = "";
    for word in text.split_whitespace() {
        // Elsewhere it is the name of a user, a unit or a folder.
        let is_place = before.is_empty()
            || ["|", "||", "&&", "--"].contains(&before)
            || before.ends_with(';')
            || word.contains('(');
        before = word;
        let bare = word.trim_matches(['"', '\'', '(', ')', ',', ';', '`']);
        let program = bare.rsplit('/').next().unwrap_or(bare);
        if is_place && ["nixci", "nixci-daemon"].contains(&program) {
            calls.push(vec![program.to_owned()]);
            inside = true;
        } else if ["|", "||", "&&", ">", "<"].contains(&word) {
            inside = false;
        } else if inside && let Some(call) = calls.last_mut() {
            call.push(bare.to_owned());
            inside = !word.ends_with([';', ')']);
        }
    }
    calls
}

fn check(call: &[String], known: &BTreeMap<String, BTreeSet<String>>, place: &str) {
    let mut name = call[0].clone();
    let mut rest = &call[1..];
    while let Some((word, after)) = rest.split_first() {
        let longer = format!("{name} {word}");
        let is_group = known.keys().any(|known| known.starts_with(&format!("{name} ")));
        if known.contains_key(&longer) {
            (name, rest) = (longer, after);
        } else {
            let may_be =
                word.starts_with('-') || !is_group || word.chars().any(|c| !c.is_ascii_lowercase() && c != '-');
            assert!(may_be, "{place}: `{longer}` is no command");
            break;
        }
    }
    for flag in rest.iter().filter(|word| word.starts_with("--") && word.len() > 2) {
        let flag = flag.split('=').next().unwrap_or(flag);
        assert!(known[&name].contains(flag), "{place}: `{name}` has no `{flag}`");
    }
}

#[test]
fn commands_and_flags_exist() {
    let known = known();
    let all: BTreeSet<&str> = known.values().flatten().map(String::as_str).collect();
    let mut seen = 0;
    for page in pages() {
        for block in page.blocks.iter().filter(|block| block.kind == "console") {
            for command in block.commands() {
                for call in calls(&command) {
                    check(&call, &known, &format!("{}:{}", page.name, block.line));
                    seen += 1;
                }
            }
        }
        for (number, line) in &page.prose {
            let place = format!("{}:{number}", page.name);
            for span in code_spans(line) {
                // `nixci (nightly)` is the name of a status.
                if span.starts_with("nixci ") && !span.starts_with("nixci (") || span.starts_with("nixci-daemon ") {
                    for call in calls(span) {
                        check(&call, &known, &place);
                        seen += 1;
                    }
                } else if span.starts_with("--") {
                    let flag = span.split([' ', '=']).next().unwrap();
                    assert!(
                        all.contains(flag) || OF_OTHERS.contains(&flag),
                        "{place}: nothing has `{flag}`"
                    );
                }
            }
        }
    }
    assert!(seen > 50, "only {seen} calls were found");
}

/// What is not known to be run anywhere would be run nowhere.
#[test]
fn every_page_with_commands_is_run_or_says_why_not() {
    let story = std::fs::read_to_string(root().join("vm-tests/documents.py")).unwrap();
    for page in pages() {
        for block in &page.blocks {
            let place = format!("{}:{}", page.name, block.line);
            let kinds = ["console", "toml", "nix", "ini", "yaml", "nginx", "text"];
            assert!(
                kinds.contains(&block.kind.as_str()),
                "{place}: a block of the unknown kind `{}`",
                block.kind
            );
            for mark in &block.marks {
                let (what, how) = mark.split_once(": ").unwrap_or((mark, ""));
                let is_fine = match what {
                    "not run" => how.len() > 20,
                    "before" => how.lines().all(|line| line.starts_with("$ ") || line.starts_with("# ")),
                    "ends" => how
                        .split_once(", ")
                        .is_some_and(|(code, why)| code.parse::<u8>().is_ok() && why.len() > 10),
                    _ => false,
                };
                assert!(is_fine, "{place}: a comment that says nothing the tests know: {mark}");
            }
            if block.kind == "console" {
                let first = block.lines.first().map_or("", String::as_str);
                assert!(
                    first.starts_with("$ ") || first.starts_with("# "),
                    "{place}: it begins with no command"
                );
                let is_run = story.contains(&format!("\"{}\"", page.name));
                assert!(
                    is_run,
                    "{place}: {} is not among the pages of vm-tests/documents.py",
                    page.name
                );
            }
        }
    }
}

#[test]
fn targets_of_make_exist() {
    let makefile = std::fs::read_to_string(root().join("Makefile")).unwrap();
    let is_target = |name: &str| {
        let bench = name.strip_prefix("bench-").is_some_and(|bench| {
            ["protocol", "store", "daemon", "cli"]
                .iter()
                .any(|krate| root().join(format!("{krate}/benches/{bench}.rs")).exists())
        });
        bench || makefile.lines().any(|line| line.split(':').next() == Some(name))
    };
    for page in pages() {
        let commands = page
            .blocks
            .iter()
            .filter(|block| block.kind == "console")
            .flat_map(crate::page::Block::commands);
        let spans = page
            .prose
            .iter()
            .flat_map(|(_, line)| code_spans(line))
            .map(str::to_owned);
        for text in commands.chain(spans) {
            if let Some(target) = text.strip_prefix("make ") {
                let target = target.split_whitespace().next().unwrap();
                assert!(is_target(target), "{}: there is no `make {target}`", page.name);
            }
        }
    }
}

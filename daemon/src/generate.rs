//! What packages install beside a program: shell completions and man pages.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

/// Prints the completion script of one shell.
pub fn completions(mut program: Command, shell: Shell) -> io::Result<()> {
    let name = program.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut program, name, &mut script);
    io::stdout().lock().write_all(&script)
}

/// Writes `PROGRAM.1` and a page for every command, `PROGRAM-COMMAND.1`, into `dir`, which is made when missing.
pub fn man_pages(program: Command, dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let mut program = program.disable_help_subcommand(true);
    program.build();
    let source = format!("{} {}", program.get_name(), env!("CARGO_PKG_VERSION"));
    pages(&program, &source, dir)
}

fn pages(command: &Command, source: &str, dir: &Path) -> io::Result<()> {
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        pages(command, source, dir)?;
    }
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    man.render(&mut page)?;
    let title = command
        .get_display_name()
        .unwrap_or_else(|| command.get_name())
        .to_uppercase();
    let title = format!(".TH \"{title}\" 1 \"{}\" \"{source}\" \"nixci\"", date());
    fs::write(
        dir.join(man.get_filename()),
        tidy(&String::from_utf8_lossy(&page), &title),
    )
}

/// The day of the commit this was built from, so that the pages of one build are those of another.
fn date() -> &'static str {
    let (_, build) = crate::VERSION.split_once(" (").unwrap_or_default();
    match build.split_once(' ') {
        Some((_, date)) if date.starts_with(|first: char| first.is_ascii_digit()) => date.trim_end_matches(')'),
        _ => "",
    }
}

/// With a title that keeps its place for a date that is not known, and without breaks of a line where a paragraph ends
/// anyway.
fn tidy(page: &str, title: &str) -> String {
    let lines: Vec<&str> = page.lines().collect();
    let mut tidied = String::with_capacity(page.len());
    for (at, line) in lines.iter().enumerate() {
        let beside = [at.checked_sub(1), Some(at + 1)].map(|at| at.and_then(|at| lines.get(at)));
        if *line == ".br" && beside.contains(&Some(&"")) {
            continue;
        }
        tidied.push_str(if line.starts_with(".TH ") { title } else { line });
        tidied.push('\n');
    }
    tidied
}

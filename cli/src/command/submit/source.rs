//! What a submission consists of: ready derivations, or something to evaluate.

use nixci_protocol::nixci::attr_path::AttrPath;
use nixci_protocol::nixci::control::NewJob;
use nixci_protocol::types::StoreDir;
use std::path::{Path, PathBuf};

use super::jobs_file;
use crate::args::Submit;
use crate::context::project_of_url;
use crate::evaluate;
use crate::exit::Problem;
use crate::select;

/// Where jobs come from.
pub(super) enum Jobs {
    /// They are known already.
    Ready(Vec<NewJob>),
    /// They are found one after another.
    Evaluate(Box<(evaluate::Source, evaluate::Options)>),
}

/// A source of jobs, and what is said about it.
pub(super) struct Source {
    pub(super) jobs: Jobs,
    /// As it was typed: `.#checks`, `--file ci.nix`.
    pub(super) words: String,
    /// The checkout it is in, to ask git about; none where it is somewhere else.
    pub(super) dir: Option<PathBuf>,
    /// The project of a flake that is somewhere else.
    pub(super) project: Option<String>,
}

impl Source {
    /// Reads the command line, and the jobs file if one is named. Blocks.
    pub(super) fn read(args: &Submit, store_dir: &StoreDir) -> Result<Self, Problem> {
        let here = |jobs, words: String| Self {
            jobs,
            words: shortened(&words),
            dir: Some(PathBuf::from(".")),
            project: None,
        };
        let source = &args.source;
        if let Some(file) = &source.jobs_file {
            let jobs = jobs_file::read(file, store_dir)?;
            return Ok(here(Jobs::Ready(jobs), format!("--jobs-file {}", file.display())));
        }
        let attribute = attribute(source.attr.as_deref())?;
        let behind = source
            .attr
            .as_ref()
            .map(|attr| format!(" -A {attr}"))
            .unwrap_or_default();
        // It names the jobs: who reads the source must not take a label for an attribute.
        let applied = source
            .apply
            .as_ref()
            .map(|function| format!(" --apply {function}"))
            .unwrap_or_default();
        if let Some(path) = &source.file {
            let words = format!("--file {}{behind}{applied}", path.display());
            let dir = if path.is_dir() {
                Some(path.as_path())
            } else {
                path.parent()
            };
            let dir = dir
                .filter(|dir| !dir.as_os_str().is_empty())
                .unwrap_or(Path::new("."))
                .to_owned();
            let found = evaluate::Source::File {
                path: path.clone(),
                attribute,
            };
            return Ok(Self {
                dir: Some(dir),
                ..here(evaluated(found, args)?, words)
            });
        }
        if let Some(text) = &source.expr {
            let found = evaluate::Source::Expr {
                text: text.clone(),
                attribute,
            };
            return Ok(here(evaluated(found, args)?, format!("--expr {text}{behind}{applied}")));
        }
        if args.what.iter().any(|what| select::is_derivation(what)) {
            return Ok(here(
                Jobs::Ready(derivations(&args.what, store_dir)?),
                args.what.join(" "),
            ));
        }
        let text = match args.what.as_slice() {
            [] => ".#checks",
            [one] => one,
            more => {
                return Err(Problem::usage(format!(
                    "{} flake references were given, but a submission is of one: submit each by itself",
                    more.len()
                )));
            }
        };
        let reference = text.split_once('#').map_or(text, |(reference, _)| reference);
        let found = evaluate::Source::flake(text).map_err(|error| Problem::usage(error.to_string()))?;
        let dir = local_flake(reference);
        Ok(Self {
            project: if dir.is_some() {
                None
            } else {
                project_of_flake(reference)
            },
            dir,
            ..here(evaluated(found, args)?, format!("{text}{applied}"))
        })
    }
}

/// In one line and of bounded length: expressions may be long.
fn shortened(words: &str) -> String {
    const CHARS: usize = 1_000;
    let line = words.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(CHARS) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

fn attribute(text: Option<&str>) -> Result<AttrPath, Problem> {
    text.unwrap_or_default()
        .parse()
        .map_err(|error| Problem::usage(format!("{error}")))
}

/// One job per derivation; its attribute is the derivation's name, numbered where names repeat.
fn derivations(paths: &[String], store_dir: &StoreDir) -> Result<Vec<NewJob>, Problem> {
    let mut jobs: Vec<NewJob> = Vec::new();
    for path in paths {
        let name = nixci_protocol::nixci::verdict::derivation_name(path);
        let mut attr = AttrPath::new(vec![name.to_owned()]);
        let mut number = 2;
        while jobs.iter().any(|job| job.attr == attr) {
            attr = AttrPath::new(vec![name.to_owned(), number.to_string()]);
            number += 1;
        }
        let job = jobs_file::ready(attr, path, store_dir).map_err(Problem::usage)?;
        if !jobs.iter().any(|other| other.result == job.result) {
            jobs.push(job);
        }
    }
    Ok(jobs)
}

fn evaluated(source: evaluate::Source, args: &Submit) -> Result<Jobs, Problem> {
    let evaluator = &args.evaluator;
    let called_with = [("--arg", &evaluator.arg), ("--argstr", &evaluator.argstr)];
    let mut nix_args = evaluator.nix_arg.clone();
    for (option, values) in called_with {
        for pair in values.chunks(2) {
            nix_args.push(option.to_owned());
            nix_args.extend_from_slice(pair);
        }
    }
    if matches!(source, evaluate::Source::Flake { .. }) && called_with.iter().any(|(_, values)| !values.is_empty()) {
        return Err(Problem::usage(
            "--arg and --argstr are for --file and --expr: a flake takes no arguments",
        ));
    }
    let options = evaluate::Options {
        evaluator: evaluator.evaluator,
        force_recurse: evaluator.force_recurse,
        apply: args.source.apply.clone(),
        systems: evaluator.system.clone(),
        impure: evaluator.impure,
        workers: evaluator.workers.map(|workers| workers as usize),
        max_memory: evaluator.max_memory,
        nix_args,
        store: args.from.clone(),
        ..evaluate::Options::default()
    };
    Ok(Jobs::Evaluate(Box::new((source, options))))
}

/// The folder of a flake reference that is a path on this machine.
fn local_flake(reference: &str) -> Option<PathBuf> {
    let path = reference.split_once('?').map_or(reference, |(path, _)| path);
    let path = path
        .strip_prefix("path:")
        .or_else(|| path.strip_prefix("git+file://"))
        .unwrap_or(path);
    match path {
        "" => Some(PathBuf::from(".")),
        path if path.starts_with(['.', '/']) => Some(PathBuf::from(path)),
        _ => None,
    }
}

/// `o/n` of `github:o/n/main`, `git+https://host/o/n`.
fn project_of_flake(reference: &str) -> Option<String> {
    let reference = reference.split_once('?').map_or(reference, |(reference, _)| reference);
    if let Some(url) = reference.strip_prefix("git+") {
        return project_of_url(url);
    }
    let (_, path) = reference
        .split_once(':')
        .filter(|(scheme, _)| matches!(*scheme, "github" | "gitlab" | "sourcehut"))?;
    let mut parts = path.split('/');
    let (owner, name) = (parts.next()?, parts.next()?);
    Some(format!("{}/{name}", owner.replace("%2F", "/")))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use nixci_protocol::nixci::control::Evaluated;
    use rstest::rstest;

    use super::*;
    use crate::args::{Cli, Command};

    const A: &str = "/nix/store/00000000000000000000000000000000-a-1.drv";
    const B: &str = "/nix/store/11111111111111111111111111111111-a-1.drv";

    fn read(line: &str) -> Result<Source, String> {
        let Command::Submit(args) = Cli::try_parse_from(line.split(' ')).unwrap().command else {
            panic!("not a submit")
        };
        Source::read(&args, &StoreDir::default()).map_err(|problem| problem.to_string())
    }

    #[rstest]
    #[case("nixci submit", ".#checks", Some("."), None)]
    #[case("nixci submit .", ".", Some("."), None)]
    #[case("nixci submit /src/x?dir=y#packages", "/src/x?dir=y#packages", Some("/src/x"), None)]
    #[case("nixci submit path:./x", "path:./x", Some("./x"), None)]
    #[case("nixci submit github:o/n/main#checks", "github:o/n/main#checks", None, Some("o/n"))]
    #[case(
        "nixci submit git+https://host/g/s/n?ref=x",
        "git+https://host/g/s/n?ref=x",
        None,
        Some("g/s/n")
    )]
    #[case(
        "nixci submit --file sub/ci.nix -A a.b",
        "--file sub/ci.nix -A a.b",
        Some("sub"),
        None
    )]
    #[case("nixci submit --file ci.nix", "--file ci.nix", Some("."), None)]
    #[case("nixci submit .#checks --apply f", ".#checks --apply f", Some("."), None)]
    fn a_source_knows_where_it_is(
        #[case] line: &str,
        #[case] words: &str,
        #[case] dir: Option<&str>,
        #[case] project: Option<&str>,
    ) {
        let source = read(line).unwrap();
        assert_eq!(source.words, words);
        assert_eq!(source.dir.as_deref(), dir.map(Path::new));
        assert_eq!(source.project.as_deref(), project);
        assert!(matches!(source.jobs, Jobs::Evaluate(_)));
    }

    #[test]
    fn ready_derivations_are_jobs_by_name() {
        let Jobs::Ready(jobs) = read(&format!("nixci submit {A} {B} {A}")).unwrap().jobs else {
            panic!("nothing is to be evaluated")
        };
        let jobs: Vec<_> = jobs.into_iter().map(|job| (job.attr.to_string(), job.result)).collect();
        assert_eq!(
            jobs,
            [
                ("\"a-1\"".to_owned(), Evaluated::Drv(A.into())),
                ("\"a-1\".\"2\"".to_owned(), Evaluated::Drv(B.into()))
            ]
            .map(|(attr, result)| (attr.parse::<AttrPath>().unwrap().to_string(), result))
        );
    }

    #[rstest]
    #[case("nixci submit .#a .#b", "2 flake references")]
    #[case("nixci submit --file x -A a..b", "empty name")]
    #[case("nixci submit --argstr a b", "a flake takes no arguments")]
    #[case("nixci submit /nix/store/x.drv", "is no store path")]
    fn what_cannot_be_is_a_usage_error(#[case] line: &str, #[case] said: &str) {
        let problem = read(line).err().unwrap();
        assert!(problem.contains(said), "{problem}");
    }
}

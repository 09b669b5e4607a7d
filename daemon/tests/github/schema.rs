//! GitHub's own description of its interface, as a judge of what we send.

use jsonschema::Validator;
use serde_json::{Value, json};

use crate::server::Asked;

/// The description, cut to what concerns us.
pub(crate) struct Description {
    document: Value,
}

impl Description {
    pub(crate) fn read() -> Self {
        let file = nixci_store::testing::data_dir().join("forges/github-openapi-trimmed.json");
        let mut document: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        // What it does not name is a slip of ours, which the real one would not tell us of.
        for path in [
            "/repos/{owner}/{repo}/check-runs",
            "/repos/{owner}/{repo}/check-runs/{check_run_id}",
            "/repos/{owner}/{repo}/statuses/{sha}",
        ] {
            for method in ["post", "patch"] {
                if let Some(schema) =
                    document["paths"][path][method].pointer_mut("/requestBody/content/application~1json/schema")
                {
                    close(schema);
                }
            }
        }
        Self { document }
    }

    /// What is wrong with a request; nothing, if it is as described. A path that is not described is wrong.
    pub(crate) fn faults(&self, asked: &Asked) -> Vec<String> {
        let paths = self.document["paths"].as_object().unwrap();
        // The most literal fits: `/app/installations/{id}` before `/{a}/{b}/{c}`.
        let found = paths
            .iter()
            .filter(|(template, _)| fits(template, asked.path()))
            .min_by_key(|(template, _)| template.matches('{').count());
        let method = asked.method.to_lowercase();
        let Some(operation) = found.and_then(|(_, path)| path.get(&method)) else {
            return vec![format!("{} {} is not described", asked.method, asked.path())];
        };
        let mut faults = self.query_faults(operation, asked);
        if asked.header("accept") != Some("application/vnd.github+json") {
            faults.push(format!("Accept is {:?}", asked.header("accept")));
        }
        if asked.header("x-github-api-version") != Some("2022-11-28") {
            faults.push("the version is not told".to_owned());
        }
        if asked.header("user-agent").is_none_or(str::is_empty) {
            faults.push("GitHub refuses who does not tell its name".to_owned());
        }
        let schema = operation.pointer("/requestBody/content/application~1json/schema");
        match (schema, asked.body.is_empty()) {
            (Some(schema), false) => {
                let validator = self.validator(schema);
                faults.extend(
                    validator
                        .iter_errors(&asked.json())
                        .map(|error| format!("{}: {error}", error.instance_path())),
                );
            }
            (None, false) => faults.push("it takes no body".to_owned()),
            (_, true) => {
                if operation["requestBody"]["required"] == json!(true) {
                    faults.push("a body is missing".to_owned());
                }
            }
        }
        faults
    }

    fn query_faults(&self, operation: &Value, asked: &Asked) -> Vec<String> {
        let url = reqwest::Url::parse(&format!("http://x{}", asked.target)).unwrap();
        let known: Vec<&Value> = operation["parameters"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|parameter| match parameter["$ref"].as_str() {
                Some(reference) => self.document.pointer(&reference[1..]).unwrap(),
                None => parameter,
            })
            .filter(|parameter| parameter["in"] == "query")
            .collect();
        url.query_pairs()
            .filter_map(|(name, value)| {
                let Some(parameter) = known.iter().find(|parameter| parameter["name"] == name.as_ref()) else {
                    return Some(format!("there is no parameter {name}"));
                };
                let schema = &parameter["schema"];
                let value = match schema["type"].as_str() {
                    Some("integer") => value.parse::<u64>().map_or(Value::Null, Value::from),
                    _ => Value::from(value.as_ref()),
                };
                let fault = self
                    .validator(schema)
                    .iter_errors(&value)
                    .next()
                    .map(|error| error.to_string());
                fault.map(|fault| format!("{name}: {fault}"))
            })
            .collect()
    }

    fn validator(&self, schema: &Value) -> Validator {
        let mut root = schema.clone();
        root["components"] = self.document["components"].clone();
        jsonschema::options()
            .should_validate_formats(true)
            .build(&root)
            .expect("the schema is one")
    }
}

/// Refuses fields that are not named.
fn close(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    if let Some(properties) = object.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(close);
        object.entry("additionalProperties").or_insert(json!(false));
    }
    if let Some(items) = object.get_mut("items") {
        close(items);
    }
}

fn fits(template: &str, path: &str) -> bool {
    let (template, path): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
    template.len() == path.len()
        && template
            .iter()
            .zip(path)
            .all(|(part, given)| part.starts_with('{') || *part == given)
}

/// The judge must be able to say no.
#[test]
fn the_description_refuses_what_github_would() {
    let description = Description::read();
    let asked = |body: Value| Asked {
        method: "POST".to_owned(),
        target: "/repos/acme/widgets/check-runs".to_owned(),
        headers: [
            ("accept", "application/vnd.github+json"),
            ("x-github-api-version", "2022-11-28"),
            ("user-agent", "x"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec(),
        body: body.to_string().into_bytes(),
    };
    let fine = json!({"name": "a", "head_sha": "b", "output": {"title": "t", "summary": "s"}});
    assert_eq!(description.faults(&asked(fine.clone())), Vec::<String>::new());
    let annotation = json!({"path": "a", "start_line": 1, "end_line": 1, "annotation_level": "notice", "message": "m"});
    for (at, value) in [
        ("/output/summary", json!("x".repeat(65_536))),
        ("/output/annotations", json!(vec![annotation; 51])),
        ("/output/more", json!("unknown")),
        ("/conclusion", json!("broken")),
        ("/started_at", json!("yesterday")),
        (
            "/actions",
            json!([{"label": "much longer than twenty", "description": "d", "identifier": "i"}]),
        ),
        ("/head_sha", json!(null)),
    ] {
        let mut body = fine.clone();
        let (parent, name) = at.rsplit_once('/').unwrap();
        body.pointer_mut(parent).unwrap()[name] = value;
        assert_eq!(description.faults(&asked(body)).len(), 1, "{at}");
    }
}

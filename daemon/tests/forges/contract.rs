//! Forgejo's own description of its API, held against what is sent and answered.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock};

use serde_json::{Value, json};

/// The description: Swagger 2.0.
#[derive(Debug)]
pub(crate) struct Contract {
    swagger: Value,
    /// By the schema as text; making one takes longer than all else.
    validators: Mutex<HashMap<String, jsonschema::Validator>>,
}

impl Contract {
    pub(crate) fn forgejo() -> &'static Self {
        static CONTRACT: OnceLock<Contract> = OnceLock::new();
        CONTRACT.get_or_init(|| {
            let text = std::fs::read(nixci_store::testing::peers::forgejo_contract()).unwrap();
            Self {
                swagger: serde_json::from_slice(&text).unwrap(),
                validators: Mutex::default(),
            }
        })
    }

    /// Whether a request below the API is one that it describes. Stricter than it: no keys that it does not name.
    pub(crate) fn check_request(&self, method: &str, path: &str, query: &str, body: &[u8]) -> Result<(), String> {
        let operation = self.operation(method, path)?;
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let named = |name: &str, place: &str| {
            parameters
                .iter()
                .find(|known| known["name"] == name && known["in"] == place)
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or_else(|| format!("`{pair}` has no value"))?;
            let known = named(name, "query").ok_or_else(|| format!("no parameter `{name}`"))?;
            let is_fine = match known["type"].as_str() {
                Some("integer") => value.parse::<i64>().is_ok(),
                Some("boolean") => matches!(value, "true" | "false"),
                _ => known["enum"].as_array().is_none_or(|all| all.contains(&json!(value))),
            };
            if !is_fine {
                return Err(format!("`{name}` cannot be `{value}`"));
            }
        }
        let schema = named("body", "body").map(|known| &known["schema"]);
        match (schema, body) {
            (_, []) => Ok(()),
            (None, _) => Err("a body where none is known".to_owned()),
            (Some(schema), body) => {
                let body: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
                self.check_keys(schema, &body)?;
                self.check_value(schema, &body)
            }
        }
    }

    /// Whether an answer is one that it describes for this status; a status that it does not name is anything.
    pub(crate) fn check_answer(&self, method: &str, path: &str, status: u16, body: &Value) -> Result<(), String> {
        let operation = self.operation(method, path)?;
        let mut answer = &operation["responses"][status.to_string()];
        if let Some(name) = answer["$ref"]
            .as_str()
            .and_then(|name| name.strip_prefix("#/responses/"))
        {
            answer = &self.swagger["responses"][name];
        }
        match &answer["schema"] {
            Value::Null => Ok(()),
            schema => self.check_value(schema, body),
        }
    }

    fn operation(&self, method: &str, path: &str) -> Result<&Value, String> {
        let fits = |template: &str| {
            let (mut left, mut right) = (template.split('/'), path.split('/'));
            loop {
                match (left.next(), right.next()) {
                    (None, None) => return true,
                    (Some(a), Some(b)) if a == b || (a.starts_with('{') && !b.is_empty()) => {}
                    _ => return false,
                }
            }
        };
        let paths = self.swagger["paths"].as_object().unwrap();
        let found = paths
            .iter()
            .filter(|(template, operations)| fits(template) && operations.get(method.to_ascii_lowercase()).is_some());
        // The one with the fewest places is the nearest.
        let nearest = found.min_by_key(|(template, _)| template.matches('{').count());
        let (_, operations) = nearest.ok_or_else(|| format!("no {method} {path}"))?;
        Ok(&operations[method.to_ascii_lowercase()])
    }

    fn check_keys(&self, schema: &Value, body: &Value) -> Result<(), String> {
        let name = schema["$ref"]
            .as_str()
            .and_then(|name| name.strip_prefix("#/definitions/"));
        let known = &self.swagger["definitions"][name.unwrap_or_default()]["properties"];
        match body
            .as_object()
            .and_then(|body| body.keys().find(|key| known.get(key).is_none()))
        {
            Some(key) => Err(format!("no key `{key}`")),
            None => Ok(()),
        }
    }

    fn check_value(&self, schema: &Value, value: &Value) -> Result<(), String> {
        let mut validators = self.validators.lock().unwrap();
        let validator = validators.entry(schema.to_string()).or_insert_with(|| {
            let schema = json!({ "definitions": self.swagger["definitions"], "allOf": [schema] });
            jsonschema::draft4::new(&schema).unwrap()
        });
        let errors: Vec<String> = validator
            .iter_errors(value)
            .map(|error| format!("{error} at {}", error.instance_path()))
            .collect();
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors.join("; "))
        }
    }
}

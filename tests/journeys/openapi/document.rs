//! The description, read as its readers do.

use reqwest::Method;
use serde_json::{Map, Value};

use super::schema::Judge;

const METHODS: [(&str, Method); 5] = [
    ("get", Method::GET),
    ("post", Method::POST),
    ("put", Method::PUT),
    ("patch", Method::PATCH),
    ("delete", Method::DELETE),
];

/// An OpenAPI document.
pub(crate) struct Document(pub(crate) Value);

/// One method of one path.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) description: Value,
}

/// A body a request may have.
#[derive(Debug, Clone)]
pub(crate) struct Body {
    pub(crate) media_type: String,
    pub(crate) value: Value,
}

impl Document {
    /// All operations; those that change nothing first, and those that remove something last.
    pub(crate) fn operations(&self) -> Vec<Operation> {
        let mut operations = Vec::new();
        for (path, item) in object(&self.0["paths"]) {
            for (name, method) in METHODS {
                if let Some(description) = item.get(name) {
                    operations.push(Operation {
                        method,
                        path: path.clone(),
                        description: description.clone(),
                    });
                }
            }
        }
        operations.sort_by_key(|operation| {
            (
                operation.method == Method::DELETE,
                operation.method != Method::GET,
            )
        });
        operations
    }

    /// A parameter's example: its own, or that of its type.
    pub(crate) fn example(&self, parameter: &Value) -> Option<Value> {
        let schema = self.followed(&parameter["schema"]);
        let of_type = schema["examples"].get(0).or_else(|| schema.get("default"));
        parameter.get("example").or(of_type).cloned()
    }

    fn followed<'a>(&'a self, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str() {
            Some(reference) => self.0.pointer(reference.strip_prefix('#').unwrap()).unwrap(),
            None => schema,
        }
    }

    /// The example of a named type.
    pub(crate) fn example_of(&self, name: &str) -> &str {
        let schema = &self.0["components"]["schemas"][name];
        schema["examples"][0].as_str().unwrap()
    }

    /// What is wrong with an answer, if anything is.
    pub(crate) fn judge(&self, operation: &Operation, status: u16, media_type: Option<&str>, body: &str) {
        let answers = &operation.description["responses"];
        let described = &answers[status.to_string()];
        let context = format!("{operation}: {status} {body}");
        assert!(described.is_object(), "{context}: not described");
        let Some(contents) = described["content"].as_object() else {
            assert!(media_type.is_none() && body.is_empty(), "{context}");
            return;
        };
        let content = contents.get(media_type.unwrap_or_default());
        let content = content.unwrap_or_else(|| panic!("{context}: {media_type:?} is not described"));
        let value = match media_type {
            Some("text/event-stream") => Value::String(body.to_owned()),
            _ => serde_json::from_str(body).unwrap(),
        };
        if let Err(why) = Judge(&self.0).judge(&content["schema"], &value) {
            panic!("{context}: {why}");
        }
    }

    /// Every object anywhere in it, with the path to it.
    pub(crate) fn walk(&self, visit: &mut impl FnMut(&str, &Map<String, Value>)) {
        walk("", &self.0, visit);
    }
}

fn walk(path: &str, value: &Value, visit: &mut impl FnMut(&str, &Map<String, Value>)) {
    match value {
        Value::Object(members) => {
            visit(path, members);
            for (name, member) in members {
                walk(&format!("{path}/{name}"), member, visit);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| walk(path, item, visit)),
        _ => {}
    }
}

impl Operation {
    /// Its parameters at this place.
    pub(crate) fn parameters(&self, place: &str) -> Vec<&Value> {
        let all = self.description["parameters"].as_array().into_iter().flatten();
        all.filter(|parameter| parameter["in"] == place).collect()
    }

    /// Every body it gives as an example; none if it takes none.
    pub(crate) fn bodies(&self) -> Vec<Body> {
        let contents = self.description["requestBody"]["content"].as_object();
        let mut bodies = Vec::new();
        for (media_type, content) in contents.into_iter().flatten() {
            let many = content["examples"].as_object().into_iter().flatten();
            let many = many.map(|(_, example)| &example["value"]);
            for value in content.get("example").into_iter().chain(many) {
                bodies.push(Body {
                    media_type: media_type.clone(),
                    value: value.clone(),
                });
            }
        }
        bodies
    }

    /// Whether there must be a body.
    pub(crate) fn needs_a_body(&self) -> bool {
        self.description["requestBody"]["required"] == true
    }

    /// Whether it says that it may be answered so.
    pub(crate) fn may_answer(&self, status: u16) -> bool {
        self.description["responses"].get(status.to_string()).is_some()
    }
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

pub(crate) fn object(value: &Value) -> &Map<String, Value> {
    value
        .as_object()
        .unwrap_or_else(|| panic!("{value} is no object"))
}

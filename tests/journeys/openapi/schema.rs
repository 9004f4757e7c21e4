//! A judge of JSON by the part of JSON Schema (2020-12) that the description uses. What it does not
//! know it refuses, and so it does with members that no schema names.

use std::collections::BTreeSet;

use regex_lite::Regex;
use serde_json::{Map, Value};

/// What says nothing about which values are right.
const ANNOTATIONS: [&str; 5] = ["default", "description", "examples", "format", "title"];

/// Which members of an object a schema names.
enum Named {
    All,
    These(BTreeSet<String>),
}

impl Named {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::These(some), Self::These(others)) => Self::These(&some | &others),
            _ => Self::All,
        }
    }
}

/// Judges within a document, to which references lead.
pub(crate) struct Judge<'a>(pub(crate) &'a Value);

impl Judge<'_> {
    /// What is wrong with a value, if anything is.
    pub(crate) fn judge(&self, schema: &Value, value: &Value) -> Result<(), String> {
        let named = self.named(schema, value)?;
        if let (Named::These(names), Value::Object(members)) = (named, value)
            && let Some(name) = members.keys().find(|name| !names.contains(*name))
        {
            return Err(format!("no schema names {name:?} of {value}"));
        }
        Ok(())
    }

    /// Judges a value, and tells which of its members were looked at.
    fn named(&self, schema: &Value, value: &Value) -> Result<Named, String> {
        let keywords = schema.as_object().unwrap();
        if keywords.is_empty() {
            return Ok(Named::All); // Whatever it is.
        }
        let mut named = Named::These(BTreeSet::new());
        for (keyword, wanted) in keywords {
            let by_this = self.keyword(keyword, wanted, schema, value);
            named = named.and(by_this.map_err(|why| format!("{why}\nby {keyword} {wanted}"))?);
        }
        Ok(named)
    }

    fn keyword(&self, keyword: &str, wanted: &Value, schema: &Value, value: &Value) -> Result<Named, String> {
        match (keyword, value) {
            ("$ref", _) => {
                let pointer = wanted.as_str().unwrap().strip_prefix('#').unwrap();
                let target = self.0.pointer(pointer).ok_or(format!("there is no {pointer}"))?;
                return self.named(target, value);
            }
            ("allOf", _) => {
                let mut all = wanted.as_array().unwrap().iter();
                return all.try_fold(Named::These(BTreeSet::new()), |some, schema| {
                    Ok(some.and(self.named(schema, value)?))
                });
            }
            ("anyOf", _) => return self.any_of(wanted.as_array().unwrap(), value),
            ("oneOf", _) => return self.one_of(wanted.as_array().unwrap(), value),
            ("properties", Value::Object(members)) => {
                return self.properties(wanted.as_object().unwrap(), members);
            }
            ("additionalProperties", Value::Object(members)) => {
                return self.others(wanted, schema, members);
            }
            ("items", Value::Array(items)) => {
                for item in items {
                    self.judge(wanted, item)?;
                }
            }
            ("propertyNames", Value::Object(members)) => {
                for name in members.keys() {
                    self.judge(wanted, &name.as_str().into())?;
                }
            }
            _ => simple(keyword, wanted, value)?,
        }
        Ok(Named::These(BTreeSet::new()))
    }

    fn one_of(&self, schemas: &[Value], value: &Value) -> Result<Named, String> {
        let (good, bad): (Vec<_>, Vec<_>) = schemas
            .iter()
            .map(|schema| self.named(schema, value))
            .partition(Result::is_ok);
        let mut good = good.into_iter().flatten();
        match (good.next(), good.next()) {
            (Some(named), None) => Ok(named),
            (Some(_), Some(_)) => Err(format!("{value} is more than one of them")),
            (None, _) => Err(bad
                .into_iter()
                .filter_map(Result::err)
                .collect::<Vec<_>>()
                .join("\n")),
        }
    }

    fn any_of(&self, schemas: &[Value], value: &Value) -> Result<Named, String> {
        let judged = schemas.iter().map(|schema| self.named(schema, value));
        let (good, bad): (Vec<_>, Vec<_>) = judged.partition(Result::is_ok);
        let named = good.into_iter().flatten().reduce(Named::and);
        named.ok_or_else(|| {
            let why: Vec<_> = bad.into_iter().filter_map(Result::err).collect();
            why.join("\n")
        })
    }

    fn properties(
        &self,
        schemas: &Map<String, Value>,
        members: &Map<String, Value>,
    ) -> Result<Named, String> {
        for (name, schema) in schemas {
            if let Some(member) = members.get(name) {
                self.judge(schema, member)
                    .map_err(|why| format!("{name}: {why}"))?;
            }
        }
        Ok(Named::These(schemas.keys().cloned().collect()))
    }

    /// The members that the same schema's `properties` do not name.
    fn others(&self, wanted: &Value, schema: &Value, members: &Map<String, Value>) -> Result<Named, String> {
        let properties = schema["properties"].as_object();
        let mut others = members
            .iter()
            .filter(|(name, _)| !properties.is_some_and(|named| named.contains_key(*name)));
        match wanted {
            Value::Bool(true) => {}
            Value::Bool(false) => {
                if let Some((name, _)) = others.next() {
                    return Err(format!("{name:?} is not allowed"));
                }
            }
            schema => others.try_for_each(|(_, member)| self.judge(schema, member))?,
        }
        Ok(Named::All)
    }
}

/// What needs no other schema. Of other types than it is about, a keyword says nothing.
fn simple(keyword: &str, wanted: &Value, value: &Value) -> Result<(), String> {
    let number = || wanted.as_u64().unwrap();
    let fits = match (keyword, value) {
        ("type", _) => match wanted {
            Value::Array(types) => types.iter().any(|name| is(name, value)),
            name => is(name, value),
        },
        ("enum", _) => wanted.as_array().unwrap().contains(value),
        ("required", Value::Object(members)) => {
            let mut names = wanted.as_array().unwrap().iter();
            names.all(|name| members.contains_key(name.as_str().unwrap()))
        }
        ("pattern", Value::String(text)) => Regex::new(wanted.as_str().unwrap()).unwrap().is_match(text),
        ("minLength", Value::String(text)) => text.chars().count() as u64 >= number(),
        ("maxLength", Value::String(text)) => text.chars().count() as u64 <= number(),
        ("minItems", Value::Array(items)) => items.len() as u64 >= number(),
        ("maxItems", Value::Array(items)) => items.len() as u64 <= number(),
        ("minimum", Value::Number(given)) => given.as_f64() >= wanted.as_f64(),
        ("maximum", Value::Number(given)) => given.as_f64() <= wanted.as_f64(),
        (known, _) => {
            const TYPED: [&str; 12] = [
                "additionalProperties",
                "items",
                "maxItems",
                "maxLength",
                "maximum",
                "minItems",
                "minLength",
                "minimum",
                "pattern",
                "properties",
                "propertyNames",
                "required",
            ];
            let known = TYPED.contains(&known) || ANNOTATIONS.contains(&known);
            assert!(known, "{keyword} is unknown to this judge");
            true
        }
    };
    fits.then_some(()).ok_or_else(|| format!("{value} does not fit"))
}

fn is(name: &Value, value: &Value) -> bool {
    match name.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other} is no type"),
    }
}

#[test]
fn the_judge_knows_right_from_wrong() {
    let document = serde_json::json!({
        "named": {"type": "object", "required": ["a"], "properties": {"a": {"type": ["integer", "null"], "maximum": 9}}},
        "more": {"allOf": [{"$ref": "#/named"}, {"properties": {"b": {"oneOf": [{"enum": ["x"]}, {"type": "array", "items": {"pattern": "^y+$"}}]}}}]},
        "some": {"properties": {"a": {}, "b": {"type": "string"}}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
        "open": {"properties": {"a": {"type": "string"}}, "additionalProperties": {"minLength": 2}},
    });
    let judge = Judge(&document);
    for (name, value, right) in [
        ("named", r#"{"a": 9}"#, true),
        ("named", r#"{"a": null}"#, true),
        ("named", r#"{"a": 10}"#, false),
        ("named", r#"{"a": "9"}"#, false),
        ("named", r#"{"a": 9, "b": 1}"#, false),
        ("named", "{}", false),
        ("named", "[]", false),
        ("more", r#"{"a": 1, "b": "x"}"#, true),
        ("more", r#"{"a": 1, "b": ["y", "yy"]}"#, true),
        ("more", r#"{"a": 1, "b": ["z"]}"#, false),
        ("more", r#"{"a": 1, "c": 1}"#, false),
        ("more", r#"{"b": "x"}"#, false),
        ("some", r#"{"a": 1}"#, true),
        ("some", r#"{"b": "1", "a": 1}"#, true),
        ("some", r#"{"b": 1}"#, false),
        ("some", "{}", false),
        ("open", r#"{"a": "1", "b": "22"}"#, true),
        ("open", r#"{"a": 1}"#, false),
        ("open", r#"{"b": "2"}"#, false),
    ] {
        let judged = judge.judge(&document[name], &serde_json::from_str(value).unwrap());
        assert_eq!(judged.is_ok(), right, "{name} {value}: {judged:?}");
    }
}

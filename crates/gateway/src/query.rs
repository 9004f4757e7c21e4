//! What stands behind the question mark of a path. Each parameter is a field of a struct; one that is
//! none, or does not read as what it must be, is refused by its name. A list may be given at once
//! (`types=a,b`) or bit by bit (`types=a&types=b`), as clients differ in that. An encoded comma (`%2C`) separates
//! too, for most clients encode every comma of a value; one within a type has a backslash before it.

use std::{borrow::Cow, collections::HashMap};

use axum::{extract::FromRequestParts, http::request::Parts};
use percent_encoding::percent_decode_str;
use relay_event::{Invalid, list};
use serde::{
    Deserialize,
    de::{
        DeserializeOwned, Deserializer, Error as _, IntoDeserializer, Visitor,
        value::{Error, MapDeserializer, SeqDeserializer},
    },
    forward_to_deserialize_any,
};

use crate::{gateway::Gateway, problem::Problem};

/// A query, read.
pub(crate) struct Query<T>(pub(crate) T);

/// The query of what takes no parameters.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

impl<T: DeserializeOwned> FromRequestParts<Gateway> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Gateway) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        Ok(Self(read(query)?))
    }
}

fn read<T: DeserializeOwned>(query: &str) -> Result<T, Invalid> {
    let given = query.split('&').filter(|parameter| !parameter.is_empty());
    let mut parameters: Vec<(String, Value)> = Vec::new();
    let mut places = HashMap::new();
    for parameter in given.map(parameter) {
        let (name, value) = parameter?;
        let place = *places.entry(name.clone()).or_insert(parameters.len());
        match parameters.get_mut(place) {
            Some((_, values)) => values.0.push(value),
            None => parameters.push((name, Value(vec![value]))),
        }
    }
    let reader = MapDeserializer::<_, Error>::new(parameters.into_iter());
    serde_path_to_error::deserialize(reader)
        .map_err(|refused| Invalid::new(refused.path().to_string(), refused.inner().to_string()))
}

fn parameter(text: &str) -> Result<(String, String), Invalid> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    let name = decoded(name).ok_or_else(|| Invalid::new("query", "must be UTF-8, percent-encoded"))?;
    match decoded(value) {
        Some(value) => Ok((name, value)),
        None => Err(Invalid::new(name, "must be UTF-8, percent-encoded")),
    }
}

/// As forms are encoded: a plus sign stands for a space.
fn decoded(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8().ok();
    decoded.map(Cow::into_owned)
}

/// The values of a parameter, as often as it is given. Only of a list may there be more than one.
struct Value(Vec<String>);

impl Value {
    fn one(self) -> Result<String, Error> {
        match <[String; 1]>::try_from(self.0) {
            Ok([value]) => Ok(value),
            Err(_) => Err(Error::custom("is given twice")),
        }
    }
}

impl<'de> Deserializer<'de> for Value {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_string(self.one()?)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.one()?.as_str() {
            "true" => visitor.visit_bool(true),
            "false" => visitor.visit_bool(false),
            _ => Err(Error::custom("must be true or false")),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let parts = self.0.iter().flat_map(|value| list::split(value));
        let parts = parts.map(|part| Value(vec![part]));
        visitor.visit_seq(SeqDeserializer::new(parts))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.one()?
            .into_deserializer()
            .deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct tuple tuple_struct map struct identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de> for Value {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use relay_event::{DeliveryState, EndpointId, TypePattern};

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Wanted {
        types: Vec<TypePattern>,
        source: Option<String>,
        state: Option<DeliveryState>,
        endpoint: Option<EndpointId>,
        held: bool,
    }

    fn refused(query: &str) -> Invalid {
        read::<Wanted>(query).unwrap_err()
    }

    #[test]
    fn parameters_are_read_as_what_they_are() {
        assert_eq!(read(""), Ok(Wanted::default()));
        let query = "types=order.*,invoice.%23&source=%2Forders%3Fa%3D1%2B2&state=dead&held=true&";
        let wanted: Wanted = read(query).unwrap();
        let types = wanted.types.iter().map(TypePattern::as_str);
        assert_eq!(types.collect::<Vec<_>>(), ["order.*", "invoice.#"]);
        assert_eq!(wanted.source.as_deref(), Some("/orders?a=1+2"));
        assert_eq!((wanted.state, wanted.held), (Some(DeliveryState::Dead), true));
        let bit_by_bit: Wanted = read("types=order.*&source=a&types=b,invoice.%23").unwrap();
        let types = bit_by_bit.types.iter().map(TypePattern::as_str);
        assert_eq!(types.collect::<Vec<_>>(), ["order.*", "b", "invoice.#"]);
        let with_commas: Wanted = read(r"types=a\,b,c%5C%2Cd%2Ce&types=f\\").unwrap();
        let types = with_commas.types.iter().map(TypePattern::as_str);
        assert_eq!(types.collect::<Vec<_>>(), ["a,b", "c,d", "e", r"f\"]);
        let spaced: Wanted = read("source=two+words%20and=more").unwrap();
        assert_eq!(spaced.source.as_deref(), Some("two words and=more"));
    }

    #[test]
    fn a_refusal_names_the_parameter() {
        for (query, field) in [
            ("types=order.*,%23.%23.%23", "types[1]"),
            ("types=", "types[0]"),
            ("types=a&types=b,%23.%23.%23", "types[2]"),
            ("types=a&types=", "types[1]"),
            ("state=dead&state=dead", "state"),
            ("state=gone", "state"),
            ("endpoint=7", "endpoint"),
            ("held=yes", "held"),
            ("held", "held"),
            ("source=%ff", "source"),
            ("source=a&source=b", "source"),
            ("typ=order.*", "typ"),
            ("%ff=1", "query"),
        ] {
            assert_eq!(refused(query).field, field, "{query}");
        }
        let unknown = refused("typ=a").problem;
        assert!(
            unknown.contains("types") && unknown.contains("source"),
            "{unknown}"
        );
        assert!(read::<Nothing>("").is_ok());
        assert_eq!(read::<Nothing>("a=1").map(|_| ()).unwrap_err().field, "a");
    }
}

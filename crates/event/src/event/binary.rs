//! Binary mode: attributes that stand beside the data.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::value::RawValue;

use super::{Event, check_name, push_member, quoted, without_byte_order_mark};
use crate::invalid::Invalid;

impl Event {
    /// Puts an event in binary mode (attributes beside the data) into structured mode. The same
    /// parts always give the same bytes. JSON data is kept byte for byte, other text becomes a JSON
    /// string and anything else `data_base64`.
    ///
    /// # Errors
    /// As [`Event::parse`]; also data that claims to be JSON and is not.
    pub fn from_binary(
        mut attributes: Vec<(String, String)>,
        content_type: Option<&str>,
        data: &[u8],
    ) -> Result<Self, Invalid> {
        attributes.sort();
        let mut json = String::with_capacity(data.len() + 256);
        for (name, value) in &attributes {
            if matches!(name.as_str(), "data" | "data_base64" | "datacontenttype") {
                return Err(Invalid::new(name, "cannot be an attribute beside the data"));
            }
            check_name(name)?;
            json.push(if json.is_empty() { '{' } else { ',' });
            push_member(&mut json, name, &quoted(value));
        }
        if attributes.is_empty() {
            return Err(Invalid::new("specversion", "is missing"));
        }
        if let Some(content_type) = content_type {
            json.push(',');
            push_member(&mut json, "datacontenttype", &quoted(content_type));
        }
        if !data.is_empty() {
            let (name, value) = json_data(content_type, data)?;
            json.push(',');
            push_member(&mut json, name, &value);
        }
        json.push('}');
        Self::parse(json.into())
    }
}

/// The data of a binary event as a member of the JSON format (its section 3.1).
fn json_data<'a>(
    content_type: Option<&str>,
    data: &'a [u8],
) -> Result<(&'static str, Cow<'a, str>), Invalid> {
    let media_type = content_type.map(|given| {
        given
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase()
    });
    let claims_json = media_type
        .as_deref()
        .is_some_and(|media| media.ends_with("/json") || media.ends_with("+json"));
    match serde_json::from_slice::<&RawValue>(without_byte_order_mark(data)) {
        Ok(value) if claims_json || media_type.is_none() => return Ok(("data", value.get().into())),
        Err(error) if claims_json => {
            return Err(Invalid::new(
                "data",
                format!("is no JSON though its content type says so: {error}"),
            ));
        }
        _ => {}
    }
    let is_text = media_type.is_some_and(|media| media.starts_with("text/"));
    match std::str::from_utf8(data) {
        Ok(text) if is_text => Ok(("data", quoted(text).into())),
        _ => Ok(("data_base64", quoted(&STANDARD.encode(data)).into())),
    }
}

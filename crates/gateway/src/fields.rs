use relay_event::{
    CustomHeaders, Endpoint, EndpointState, EndpointUrl, Invalid, RetrySchedule, Secret, Selection,
    SignatureStyle, Timestamp, TypePattern,
};
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

use crate::openapi::types;

/// The fields that a client may give of an endpoint. A field that is not given is `None`; `null` is a value only
/// of the source, the subject, the rate limit and the time of expiry.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fields {
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = types::EndpointUrl)]
    url: Option<EndpointUrl>,
    /// The types of the events it wants: those that any of these patterns matches.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Vec<types::TypePattern>, min_items = 1, max_items = 50)]
    types: Option<Vec<TypePattern>>,
    /// The only source that it wants events of, compared as text; null for any.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 1024, examples("/imports"))]
    source: Option<Option<String>>,
    /// The only subject that it wants events about, compared as text; null for any. An event without a subject has
    /// no subject that could be equal.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 1024, examples("import-42"))]
    subject: Option<Option<String>>,
    /// One is made up unless it is given.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = types::Secret)]
    secret: Option<Secret>,
    /// The waits between attempts.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Vec<types::Delay>, max_items = 20, default = json!(["30s", "5m", "30m", "2h", "24h"]))]
    pub(crate) retry: Option<RetrySchedule>,
    /// For the whole exchange of an attempt, in milliseconds.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = u64, minimum = 100, maximum = 120_000, default = 30_000)]
    timeout_ms: Option<u64>,
    /// The most attempts under way at once, for each deliverer.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = u16, minimum = 1, maximum = 1_000, default = 32)]
    max_in_flight: Option<u16>,
    /// The most attempts begun in a second, for each deliverer; null for no limit.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 100_000)]
    rate_limit: Option<Option<u32>>,
    /// Headers of its own for every attempt.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = HashMap<String, String>)]
    headers: Option<CustomHeaders>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = types::SignatureStyle, default = "standard")]
    signature: Option<SignatureStyle>,
    /// Whether its events wait instead of being sent.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = bool, default = false)]
    paused: Option<bool>,
    /// The time after which it is removed, in the future; null for never.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<types::Time>, examples("2099-12-31T00:00:00Z"))]
    expires_at: Option<Option<Timestamp>>,
}

/// For a field where `null` is no value.
pub(crate) fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl Fields {
    /// A new endpoint of these fields.
    pub(crate) fn create(mut self, now: Timestamp) -> Result<Endpoint, Invalid> {
        self.check_expiry(now)?;
        let missing = |field| move || Invalid::new(field, "is missing");
        let url = self.url.take().ok_or_else(missing("url"))?;
        let types = self.types.take().ok_or_else(missing("types"))?;
        let secret = self.secret.take().unwrap_or_else(Secret::generate);
        let mut endpoint = Endpoint::new(url, types, secret, now);
        self.put_selection(&mut endpoint.selection);
        self.set(&mut endpoint);
        endpoint.check()?;
        Ok(endpoint)
    }

    /// Checks whether these fields can change an endpoint that is there.
    pub(crate) fn check_change(&self, now: Timestamp) -> Result<(), Invalid> {
        match self.secret {
            Some(_) => Err(Invalid::new("secret", "is changed by rotate-secret alone")),
            None => self.check_expiry(now),
        }
    }

    fn check_expiry(&self, now: Timestamp) -> Result<(), Invalid> {
        match self.expires_at {
            Some(Some(time)) => check_expiry("expires_at", time, now),
            _ => Ok(()),
        }
    }

    /// Changes an endpoint.
    pub(crate) fn change(&self, endpoint: &mut Endpoint, now: Timestamp) {
        let before = endpoint.clone();
        let mut fields = self.clone();
        let mut selection = endpoint.selection.clone();
        fields.put_selection(&mut selection);
        endpoint.select(selection, now);
        fields.set(endpoint);
        if *endpoint != before {
            touch(endpoint, now);
        }
        // Elsewhere, or sent to again: what failed before tells nothing of it.
        if endpoint.url != before.url || endpoint.state != before.state {
            endpoint.failing_since = None;
        }
    }

    fn put_selection(&mut self, selection: &mut Selection) {
        put(&mut selection.types, self.types.take());
        put(&mut selection.source, self.source.take());
        put(&mut selection.subject, self.subject.take());
    }

    fn set(self, endpoint: &mut Endpoint) {
        put(&mut endpoint.url, self.url);
        put(&mut endpoint.retry, self.retry);
        put(&mut endpoint.timeout_ms, self.timeout_ms);
        put(&mut endpoint.max_in_flight, self.max_in_flight);
        put(&mut endpoint.rate_limit, self.rate_limit);
        put(&mut endpoint.headers, self.headers);
        put(&mut endpoint.signature, self.signature);
        put(&mut endpoint.expires_at, self.expires_at);
        let state = |paused| match paused {
            true => EndpointState::Paused,
            false => EndpointState::Active,
        };
        put(&mut endpoint.state, self.paused.map(state));
    }
}

/// Checks whether an endpoint may expire at this time.
pub(crate) fn check_expiry(field: &str, time: Timestamp, now: Timestamp) -> Result<(), Invalid> {
    if time > now {
        return Ok(());
    }
    let problem = format!("must be later than now, which is {now}, not {time}");
    Err(Invalid::new(field, problem))
}

/// Notes a change. The time always moves, for others tell by it that there was one.
pub(crate) fn touch(endpoint: &mut Endpoint, now: Timestamp) {
    let tick = std::time::Duration::from_millis(1);
    endpoint.updated_at = now.max(endpoint.updated_at + tick);
}

fn put<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json, to_value};
    use utoipa::PartialSchema;

    use super::*;
    use crate::view::View;

    #[test]
    fn the_described_defaults_are_the_real_ones() {
        let now = Timestamp::now();
        let fields: Fields = from_value(json!({"url": "https://example.com/", "types": ["a"]})).unwrap();
        let endpoint = fields.create(now).unwrap();
        let view = to_value(View::of(&endpoint, now)).unwrap();
        let described = to_value(Fields::schema()).unwrap();
        let mut compared = 0;
        for (name, field) in described["properties"].as_object().unwrap() {
            if let (Some(default), Some(real)) = (field.get("default"), view.get(name)) {
                assert_eq!(default, real, "{name}");
                compared += 1;
            }
        }
        assert_eq!(compared, 4);
        let told = to_value(types::NewEndpoint::schema()).unwrap();
        let timeout = told["properties"]["timeout_ms"]["description"].as_str().unwrap();
        assert!(timeout.ends_with(" Unless it is given: `30000`."), "{timeout}");
        assert_eq!(
            (&described["properties"]["paused"]["default"], &view["state"]),
            (&json!(false), &json!("active"))
        );
    }
}

use relay_event::{
    CustomHeaders, Endpoint, EndpointState, EndpointUrl, Invalid, RetrySchedule, Secret, SignatureStyle,
    Timestamp, TypePattern,
};
use serde::{Deserialize, Deserializer};

/// What a client may say of an endpoint. A field that is not given is `None`; `null` is no value but
/// for the rate limit.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Fields {
    #[serde(deserialize_with = "given")]
    url: Option<EndpointUrl>,
    #[serde(deserialize_with = "given")]
    pub(crate) types: Option<Vec<TypePattern>>,
    #[serde(deserialize_with = "given")]
    secret: Option<Secret>,
    #[serde(deserialize_with = "given")]
    pub(crate) retry: Option<RetrySchedule>,
    #[serde(deserialize_with = "given")]
    timeout_ms: Option<u64>,
    #[serde(deserialize_with = "given")]
    max_in_flight: Option<u16>,
    #[serde(deserialize_with = "given")]
    rate_limit: Option<Option<u32>>,
    #[serde(deserialize_with = "given")]
    headers: Option<CustomHeaders>,
    #[serde(deserialize_with = "given")]
    signature: Option<SignatureStyle>,
    #[serde(deserialize_with = "given")]
    paused: Option<bool>,
}

fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl Fields {
    /// A new endpoint of these fields.
    pub(crate) fn create(mut self, now: Timestamp) -> Result<Endpoint, Invalid> {
        let missing = |field| move || Invalid::new(field, "is missing");
        let url = self.url.take().ok_or_else(missing("url"))?;
        let types = self.types.take().ok_or_else(missing("types"))?;
        let secret = self.secret.take().unwrap_or_else(Secret::generate);
        let mut endpoint = Endpoint::new(url, types, secret, now);
        self.set(&mut endpoint);
        endpoint.check()?;
        Ok(endpoint)
    }

    /// Whether these fields can change an endpoint there is.
    pub(crate) fn check_change(&self) -> Result<(), Invalid> {
        match self.secret {
            Some(_) => Err(Invalid::new("secret", "is changed by rotate-secret alone")),
            None => Ok(()),
        }
    }

    /// Whether the broker has to follow a change.
    pub(crate) fn concern_the_broker(&self) -> bool {
        self.types.is_some() || self.retry.is_some()
    }

    /// Changes an endpoint.
    pub(crate) fn change(&self, endpoint: &mut Endpoint, now: Timestamp) {
        let before = endpoint.clone();
        self.clone().set(endpoint);
        if *endpoint != before {
            touch(endpoint, now);
        }
    }

    fn set(self, endpoint: &mut Endpoint) {
        put(&mut endpoint.url, self.url);
        put(&mut endpoint.types, self.types);
        put(&mut endpoint.retry, self.retry);
        put(&mut endpoint.timeout_ms, self.timeout_ms);
        put(&mut endpoint.max_in_flight, self.max_in_flight);
        put(&mut endpoint.rate_limit, self.rate_limit);
        put(&mut endpoint.headers, self.headers);
        put(&mut endpoint.signature, self.signature);
        let state = |paused| match paused {
            true => EndpointState::Paused,
            false => EndpointState::Active,
        };
        put(&mut endpoint.state, self.paused.map(state));
    }
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

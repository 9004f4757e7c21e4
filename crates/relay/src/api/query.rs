use std::fmt::{self, Display};

use url::Url;

/// The parameters of a request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(Vec<(&'static str, String)>);

impl Query {
    /// With this parameter, if it has a value.
    pub(crate) fn with(mut self, name: &'static str, value: Option<impl Display>) -> Self {
        self.0.extend(value.map(|value| (name, value.to_string())));
        self
    }

    /// Whether nothing is asked for in particular.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn on(&self, mut url: Url) -> Url {
        if !self.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.0);
        }
        url
    }
}

/// For people, and to compare.
impl Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parameters: Vec<String> = self
            .0
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        f.write_str(&parameters.join("&"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_encoded_and_absent_ones_left_out() {
        let url: Url = "http://127.0.0.1:7400/v1/events".parse().unwrap();
        let none = Query::default().with("source", None::<&str>);
        assert_eq!(none.on(url.clone()), url);
        let query = none
            .with("types", Some("order.#,a"))
            .with("source", Some("/a b&c=d"));
        assert_eq!(
            query.on(url).as_str(),
            "http://127.0.0.1:7400/v1/events?types=order.%23%2Ca&source=%2Fa+b%26c%3Dd"
        );
    }
}

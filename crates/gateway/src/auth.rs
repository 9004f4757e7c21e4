use std::hint::black_box;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

use crate::{Token, gateway::Gateway, problem::Problem};

/// Lets requests through that carry the token. Only its digest is kept.
pub(crate) struct Gate(Option<[u8; 32]>);

impl Gate {
    pub(crate) fn new(token: Option<&Token>) -> Self {
        Self(token.map(|token| digest(token.as_str())))
    }

    fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(wanted) = &self.0 else {
            return true;
        };
        let given = headers.get(header::AUTHORIZATION).and_then(bearer);
        given.is_some_and(|given| same(wanted, &digest(given)))
    }
}

/// Answers 401 to requests without the token.
pub(crate) async fn authorize(State(gateway): State<Gateway>, request: Request, next: Next) -> Response {
    if gateway.gate.admits(request.headers()) {
        return next.run(request).await;
    }
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
    (challenge, Problem::unauthorized()).into_response()
}

fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim_matches(' '))
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// Takes as long whichever bytes differ.
fn same(wanted: &[u8; 32], given: &[u8; 32]) -> bool {
    let differing = wanted.iter().zip(given).fold(0, |seen, (a, b)| seen | (a ^ b));
    black_box(differing) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(gate: &Gate, authorization: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, authorization.parse().unwrap());
        gate.admits(&headers)
    }

    #[test]
    fn only_the_token_opens_it() {
        let gate = Gate::new(Some(&"hunter2".parse().unwrap()));
        for right in ["Bearer hunter2", "bearer hunter2", "Bearer  hunter2"] {
            assert!(admits(&gate, right), "{right}");
        }
        for wrong in [
            "",
            "hunter2",
            "Bearer",
            "Bearer ",
            "Basic hunter2",
            "Bearer hunter",
            "Bearer hunter22",
        ] {
            assert!(!admits(&gate, wrong), "{wrong}");
        }
        assert!(!gate.admits(&HeaderMap::new()));
        assert!(Gate::new(None).admits(&HeaderMap::new()));
    }
}

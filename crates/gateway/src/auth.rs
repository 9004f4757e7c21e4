use std::hint::black_box;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, Uri, header, uri::PathAndQuery},
    middleware::Next,
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

use crate::{
    Token,
    access::{Access, Key},
    gateway::Gateway,
    problem::{Kind, Problem},
};

/// The parameter of RFC 6750, section 2.3.
const ACCESS_TOKEN: &str = "access_token";

/// Lets requests through that carry the token, or one that was made for them. Only digests are kept.
pub(crate) struct Gate {
    token: Option<[u8; 32]>,
    key: Key,
}

impl Gate {
    pub(crate) fn new(token: Option<&Token>) -> Self {
        Self {
            token: token.map(|token| digest(token.as_str())),
            key: Key::derive(token),
        }
    }

    /// A token for this access.
    pub(crate) fn seal(&self, access: &Access) -> Result<String, Problem> {
        self.key.seal(access).map_err(|_| Problem::internal())
    }

    /// Whether a request may do anything, or what it may read. No handler sees its access token.
    fn admit(&self, request: &mut Request) -> Result<Option<Access>, Problem> {
        let in_query = take_access_token(request.uri_mut())?;
        let headers = request.headers();
        match (in_query, headers.get(header::AUTHORIZATION)) {
            (Some(_), Some(_)) => Err(refused(
                "give the access token as `access_token` or as `Authorization: Bearer`, not both",
            )),
            (Some(given), None) => match self.key.open(&given) {
                Some(access) => unexpired(access).map(Some),
                None => Err(refused("`access_token` is no access token of this relay")),
            },
            (None, _) => self.admit_by_header(headers),
        }
    }

    fn admit_by_header(&self, headers: &HeaderMap) -> Result<Option<Access>, Problem> {
        let given = headers.get(header::AUTHORIZATION).and_then(bearer);
        if self.is_the_token(given) {
            return Ok(None);
        }
        match (given.and_then(|given| self.key.open(given)), &self.token) {
            (Some(access), _) => unexpired(access).map(Some),
            (None, None) => Ok(None),
            (None, Some(_)) => Err(Problem::unauthorized()),
        }
    }

    fn is_the_token(&self, given: Option<&str>) -> bool {
        let wanted = self.token.as_ref().zip(given);
        wanted.is_some_and(|(wanted, given)| same(wanted, &digest(given)))
    }
}

/// Answers 401 to requests without the token, and 403 to those with an access token.
pub(crate) async fn by_token(State(gateway): State<Gateway>, mut request: Request, next: Next) -> Response {
    match gateway.gate.admit(&mut request) {
        Ok(None) => next.run(request).await,
        Ok(Some(_)) => challenged(forbidden()),
        Err(problem) => challenged(problem),
    }
}

/// The same for what an access token may read.
pub(crate) async fn by_access(State(gateway): State<Gateway>, mut request: Request, next: Next) -> Response {
    match gateway.gate.admit(&mut request) {
        Ok(Some(_)) if request.method() != Method::GET => return challenged(forbidden()),
        Ok(Some(access)) => {
            request.extensions_mut().insert(access);
        }
        Ok(None) => {}
        Err(problem) => return challenged(problem),
    }
    next.run(request).await
}

fn unexpired(access: Access) -> Result<Access, Problem> {
    if !access.left().is_zero() {
        return Ok(access);
    }
    let detail = "the access token has expired; ask for a new one where this came from";
    Err(Problem::new(Kind::AccessExpired, detail))
}

fn forbidden() -> Problem {
    let detail = "an access token only gets the feed, the stream, the socket, and an event by its id";
    Problem::new(Kind::Forbidden, detail)
}

fn refused(detail: &str) -> Problem {
    Problem::new(Kind::Unauthorized, detail)
}

/// With what RFC 6750, section 3, wants said.
fn challenged(problem: Problem) -> Response {
    let challenge = match problem.kind {
        Kind::AccessExpired => r#"Bearer error="invalid_token""#,
        Kind::Forbidden => r#"Bearer error="insufficient_scope""#,
        _ => "Bearer",
    };
    ([(header::WWW_AUTHENTICATE, challenge)], problem).into_response()
}

fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim_matches(' '))
}

/// Takes the access token out of a request's query.
fn take_access_token(uri: &mut Uri) -> Result<Option<String>, Problem> {
    let of_token = |parameter: &str| parameter.split('=').next() == Some(ACCESS_TOKEN);
    let query = uri.query().unwrap_or_default();
    if !query.split('&').any(of_token) {
        return Ok(None);
    }
    let (tokens, others): (Vec<&str>, Vec<&str>) = query.split('&').partition(|given| of_token(given));
    let [token] = tokens[..] else {
        return Err(refused("`access_token` is given twice"));
    };
    let token = token.split_once('=').map_or("", |(_, value)| value).to_owned();
    let rest = format!("{}?{}", uri.path(), others.join("&"));
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = PathAndQuery::try_from(rest).ok();
    *uri = Uri::from_parts(parts).map_err(|_| Problem::internal())?;
    Ok(Some(token))
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

    fn admits(gate: &Gate, authorization: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization {
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        }
        gate.admit_by_header(&headers)
            .is_ok_and(|access| access.is_none())
    }

    #[test]
    fn only_the_token_opens_it() {
        let gate = Gate::new(Some(&"hunter2".parse().unwrap()));
        for right in ["Bearer hunter2", "bearer hunter2", "Bearer  hunter2"] {
            assert!(admits(&gate, Some(right)), "{right}");
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
            assert!(!admits(&gate, Some(wrong)), "{wrong}");
        }
        assert!(!admits(&gate, None));
        assert!(admits(&Gate::new(None), None));
    }

    #[test]
    fn an_access_token_is_taken_out_of_the_query() {
        for (given, token, left) in [
            ("/v1/feed", None, "/v1/feed"),
            ("/v1/feed?after=now", None, "/v1/feed?after=now"),
            ("/v1/feed?access_token=a.b", Some("a.b"), "/v1/feed?"),
            ("/v1/feed?access_token", Some(""), "/v1/feed?"),
            (
                "/v1/feed?after=now&access_token=a.b&limit=%31",
                Some("a.b"),
                "/v1/feed?after=now&limit=%31",
            ),
            ("/v1/feed?access_tokens=a", None, "/v1/feed?access_tokens=a"),
        ] {
            let mut uri: Uri = given.parse().unwrap();
            assert_eq!(take_access_token(&mut uri).unwrap().as_deref(), token, "{given}");
            assert_eq!(uri.to_string(), left);
        }
        let mut twice = "/v1/feed?access_token=a&access_token=b".parse().unwrap();
        assert_eq!(
            take_access_token(&mut twice).unwrap_err().kind,
            Kind::Unauthorized
        );
    }
}

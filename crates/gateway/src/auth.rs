use std::{
    hint::black_box,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, Uri, header, uri::PathAndQuery},
    middleware::Next,
    response::{IntoResponse, Response},
};
use moka::future::Cache;
use relay_service::connections::Peer;
use sha2::{Digest, Sha256};

use crate::{
    Token,
    access::{Access, Key},
    gateway::Gateway,
    limits::Limit,
    problem::{Kind, Problem},
    streams::TokenDigest,
};

/// The parameter of RFC 6750, section 2.3.
const ACCESS_TOKEN: &str = "access_token";

/// Lets requests through that carry the token, or one that was made for them. Only digests are kept.
pub(crate) struct Gate {
    token: Option<[u8; 32]>,
    key: Key,
    guesses: Guesses,
}

impl Gate {
    /// An address may present so many wrong tokens a minute.
    pub(crate) fn new(token: Option<&Token>, guesses: usize) -> Self {
        Self {
            token: token.map(|token| digest(token.as_str())),
            key: Key::derive(token),
            guesses: Guesses::new(guesses),
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
        let presented = in_query
            .as_deref()
            .or_else(|| headers.get(header::AUTHORIZATION).and_then(bearer));
        let presented = presented.map(digest);
        let admitted = match (in_query, headers.get(header::AUTHORIZATION)) {
            (Some(_), Some(_)) => Err(refused(
                "give the access token as `access_token` or as `Authorization: Bearer`, not both",
            )),
            (Some(given), None) => match self.key.open(&given) {
                Some(access) => unexpired(access).map(Some),
                None => Err(refused("`access_token` is no access token of this relay")),
            },
            (None, _) => self.admit_by_header(headers),
        };
        if let (Ok(_), Some(digest)) = (&admitted, presented) {
            request.extensions_mut().insert::<TokenDigest>(digest);
        }
        admitted
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

/// Admits a request, unless its address has presented too many wrong tokens. A connection that has shown a good
/// one goes on: a wrong one ends it.
async fn admit(gateway: &Gateway, request: &mut Request) -> Result<Option<Access>, Problem> {
    let gate = &gateway.gate;
    let peer = request.extensions().get::<Peer>().cloned();
    let address = peer.as_ref().and_then(Peer::address);
    let is_trusted = peer.as_ref().is_some_and(Peer::is_trusted);
    if let Some(address) = address
        && !is_trusted
        && gate.guesses.are_too_many(address).await
    {
        gateway.limited.count(Limit::WRONG_TOKENS);
        let detail = "too many wrong tokens came from this address; come again in a minute";
        return Err(Problem::new(Kind::TooManyTokens, detail));
    }
    let presents = presents_a_token(request);
    let admitted = gate.admit(request);
    match (&admitted, peer, address) {
        (Ok(_), Some(peer), _) => peer.trust(),
        (Err(problem), Some(peer), Some(address)) if presents && problem.kind == Kind::Unauthorized => {
            gate.guesses.note(address).await;
            peer.end();
        }
        _ => {}
    }
    admitted
}

fn presents_a_token(request: &Request) -> bool {
    let of_token = |parameter: &str| parameter.split('=').next() == Some(ACCESS_TOKEN);
    let query = request.uri().query().unwrap_or_default();
    request.headers().contains_key(header::AUTHORIZATION) || query.split('&').any(of_token)
}

/// The wrong tokens of each address in the last minute.
struct Guesses {
    most: usize,
    by_address: Cache<IpAddr, Arc<AtomicUsize>>,
}

impl Guesses {
    fn new(most: usize) -> Self {
        const ADDRESSES: u64 = 65_536;
        let by_address = Cache::builder()
            .max_capacity(ADDRESSES)
            .time_to_live(Duration::from_secs(60))
            .build();
        Self { most, by_address }
    }

    async fn are_too_many(&self, address: IpAddr) -> bool {
        let guesses = self.by_address.get(&address).await;
        guesses.is_some_and(|guesses| guesses.load(Ordering::Relaxed) >= self.most)
    }

    async fn note(&self, address: IpAddr) {
        let guesses = self.by_address.get_with(address, async { Arc::default() }).await;
        guesses.fetch_add(1, Ordering::Relaxed);
    }
}

/// Answers 401 to requests without the token, and 403 to those with an access token.
pub(crate) async fn by_token(State(gateway): State<Gateway>, mut request: Request, next: Next) -> Response {
    match admit(&gateway, &mut request).await {
        Ok(None) => next.run(request).await,
        Ok(Some(_)) => challenged(forbidden()),
        Err(problem) => challenged(problem),
    }
}

/// The same for what an access token may read.
pub(crate) async fn by_access(State(gateway): State<Gateway>, mut request: Request, next: Next) -> Response {
    match admit(&gateway, &mut request).await {
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
        Kind::TooManyTokens => return problem.into_response(),
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
        let gate = Gate::new(Some(&"hunter2".parse().unwrap()), 30);
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
        assert!(admits(&Gate::new(None, 30), None));
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

//! One HTTP exchange with an endpoint.

use std::{
    error::Error,
    io,
    time::{Duration, Instant, SystemTime},
};

use relay_event::{
    ANSWER_CAP, DETAIL_CAP, Endpoint, ErrorClass, Event, Outcome, SignatureStyle, Timestamp, signature,
};
use reqwest::{
    Client, Response,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{CONTENT_TYPE, RETRY_AFTER},
    redirect::Policy,
};

const CONTENT_TYPE_STRUCTURED: &str = "application/cloudevents+json";

/// How much of an answer is read, in bytes, so that its connection can be used again. What is
/// longer costs the endpoint its connection, not its success.
const READ_CAP: usize = 16 * 1024;

/// What came of an exchange.
#[derive(Debug)]
pub(crate) struct Exchanged {
    pub(crate) outcome: Outcome,
    /// An error in words.
    pub(crate) detail: Option<String>,
    /// How long until the status and headers were there.
    pub(crate) first_byte: Option<Duration>,
    /// The beginning of the answer.
    pub(crate) answer: String,
}

/// The client of all endpoints: no redirects, no proxy, no tries of its own.
///
/// # Errors
/// The system's root certificates cannot be loaded.
pub(crate) fn client() -> reqwest::Result<Client> {
    Client::builder()
        .redirect(Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .http1_only()
        .tcp_nodelay(true)
        .pool_idle_timeout(Duration::from_secs(30))
        .dns_resolver(SystemResolver)
        .user_agent(concat!("event-relay/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Posts the event, signed, and reads the answer. The endpoint's timeout covers all of it.
pub(crate) async fn post(client: &Client, endpoint: &Endpoint, event: &Event, now: Timestamp) -> Exchanged {
    let mut head = None;
    let exchange = exchange(client, endpoint, event, now, &mut head);
    match tokio::time::timeout(endpoint.timeout(), exchange).await {
        Ok(Ok(exchanged)) => exchanged,
        Ok(Err(error)) => failed(classify(&error), head, innermost(&error)),
        Err(_) => {
            let seconds = endpoint.timeout().as_secs_f64();
            failed(
                ErrorClass::Timeout,
                head,
                format!("no complete answer within {seconds} s"),
            )
        }
    }
}

/// The part of an answer that came first.
#[derive(Clone, Copy)]
struct Head {
    status: u16,
    after: Duration,
}

fn failed(error: ErrorClass, head: Option<Head>, mut detail: String) -> Exchanged {
    detail.truncate(detail.floor_char_boundary(DETAIL_CAP));
    Exchanged {
        outcome: Outcome::Failed {
            error,
            status: head.map(|head| head.status),
        },
        detail: Some(detail),
        first_byte: head.map(|head| head.after),
        answer: String::new(),
    }
}

async fn exchange(
    client: &Client,
    endpoint: &Endpoint,
    event: &Event,
    now: Timestamp,
    head: &mut Option<Head>,
) -> reqwest::Result<Exchanged> {
    let began = Instant::now();
    let response = request(client, endpoint, event, now).send().await?;
    let (status, after) = (response.status().as_u16(), began.elapsed());
    *head = Some(Head { status, after });
    let outcome = Outcome::Answered {
        status,
        retry_after: asked_wait(&response, system_time(now)),
    };
    let answer = read_answer(response).await?;
    Ok(Exchanged {
        outcome,
        detail: None,
        first_byte: Some(after),
        answer,
    })
}

fn request(client: &Client, endpoint: &Endpoint, event: &Event, now: Timestamp) -> reqwest::RequestBuilder {
    let (id, seconds) = (event.id().as_str(), now.as_secs());
    let mut request = client
        .post(endpoint.url.as_url().clone())
        .header(CONTENT_TYPE, CONTENT_TYPE_STRUCTURED)
        .body(event.body().clone());
    for (name, value) in endpoint.headers.iter() {
        request = request.header(name, value);
    }
    let secrets = endpoint.signing_secrets(now);
    match endpoint.signature {
        SignatureStyle::Standard => request
            .header("webhook-id", id)
            .header("webhook-timestamp", seconds)
            .header(
                "webhook-signature",
                signature::sign(secrets, id, seconds, event.body()),
            ),
        SignatureStyle::Plain => request
            .header("x-webhook-delivery", id)
            .header("x-webhook-event", event.event_type().as_str())
            .header("x-webhook-timestamp", seconds)
            .header(
                "x-webhook-signature",
                signature::sign_plain(secrets, event.body()),
            ),
    }
}

/// Never more than the cap is held, whatever the endpoint sends.
async fn read_answer(mut response: Response) -> reqwest::Result<String> {
    let (mut kept, mut read) = (Vec::new(), 0);
    while let Some(chunk) = response.chunk().await? {
        let room = ANSWER_CAP - kept.len();
        kept.extend_from_slice(&chunk[..chunk.len().min(room)]);
        read += chunk.len();
        if read >= READ_CAP {
            break;
        }
    }
    let mut answer = String::from_utf8_lossy(&kept).into_owned();
    answer.truncate(answer.floor_char_boundary(ANSWER_CAP));
    Ok(answer)
}

fn asked_wait(response: &Response, now: SystemTime) -> Option<Duration> {
    retry_after(response.headers().get(RETRY_AFTER)?.to_str().ok()?, now)
}

/// RFC 9110 section 10.2.3: seconds, or a date.
fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    match value.trim().parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => Some(
            httpdate::parse_http_date(value.trim())
                .ok()?
                .duration_since(now)
                .unwrap_or_default(),
        ),
    }
}

fn system_time(time: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(0))
}

fn classify(error: &reqwest::Error) -> ErrorClass {
    if error.is_timeout() {
        ErrorClass::Timeout
    } else if causes(error).any(|cause| cause.is::<Unresolved>()) {
        ErrorClass::Dns
    } else if causes(error).any(is_tls) {
        ErrorClass::Tls
    } else if error.is_connect() {
        ErrorClass::Connect
    } else if error.is_body() || error.is_decode() {
        ErrorClass::Body
    } else {
        ErrorClass::Reset
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// rustls' errors travel inside I/O errors.
fn is_tls(cause: &(dyn Error + 'static)) -> bool {
    let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    cause.is::<rustls::Error>() || inner.is_some_and(|inner| inner.is::<rustls::Error>())
}

/// The last cause says most, and the first repeats the URL, which may hold credentials.
fn innermost(error: &reqwest::Error) -> String {
    causes(error)
        .last()
        .filter(|cause| !cause.is::<reqwest::Error>())
        .map_or_else(|| "the exchange failed".to_owned(), ToString::to_string)
}

/// The system's resolver, with errors that can be told from others.
struct SystemResolver;

#[derive(Debug, thiserror::Error)]
#[error("{host} does not resolve: {source}")]
struct Unresolved {
    host: String,
    source: io::Error,
}

impl Resolve for SystemResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found = tokio::net::lookup_host((host.as_str(), 0)).await;
            let found = found.map(|addresses| addresses.collect::<Vec<_>>());
            match found {
                Ok(addresses) => Ok(Box::new(addresses.into_iter()) as Addrs),
                Err(source) => Err(Unresolved { host, source }.into()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(retry_after("120", now), Some(Duration::from_secs(120)));
        assert_eq!(
            retry_after("Sun, 06 Nov 1994 08:50:37 GMT", now),
            Some(Duration::from_secs(60))
        );
        assert_eq!(
            retry_after("Sun, 06 Nov 1994 08:00:00 GMT", now),
            Some(Duration::ZERO)
        );
        assert_eq!(retry_after("soon", now), None);
        assert_eq!(retry_after("-5", now), None);
    }
}

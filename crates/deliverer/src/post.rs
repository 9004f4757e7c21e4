//! One HTTP exchange with an endpoint.

use std::{
    error::Error,
    io,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::Incoming,
    header::{ACCEPT, CONTENT_TYPE, HeaderValue, RETRY_AFTER, USER_AGENT},
};
use hyper_util::client::legacy;
use relay_event::{
    ANSWER_CAP, DETAIL_CAP, Endpoint, ErrorClass, Event, Outcome, SignatureStyle, Timestamp, signature,
};

use crate::{client::Client, resolver::Unresolved, shortage::Shortage, tls};

const CONTENT_TYPE_STRUCTURED: &str = "application/cloudevents+json";
const AGENT: &str = concat!("event-relay/", env!("CARGO_PKG_VERSION"));

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

/// An exchange that failed.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the endpoint's URL or headers make no request")]
    Request(#[source] hyper::http::Error),
    #[error("no answer came")]
    Answer(#[source] legacy::Error),
    #[error("the answer did not come to its end")]
    Body(#[source] hyper::Error),
}

/// Posts the event, signed, and reads the answer. The endpoint's timeout covers all of it.
///
/// # Errors
/// The machine has no connection to spare, and nothing was sent.
pub(crate) async fn post(
    client: &Client,
    endpoint: &Endpoint,
    event: &Event,
    now: Timestamp,
) -> Result<Exchanged, Shortage> {
    let mut head = None;
    let exchange = exchange(client, endpoint, event, now, &mut head);
    match tokio::time::timeout(endpoint.timeout(), exchange).await {
        Ok(Ok(exchanged)) => Ok(exchanged),
        Ok(Err(error)) => match causes(&error).find_map(Shortage::of) {
            Some(shortage) => Err(shortage),
            None => Ok(failed(classify(&error), head, innermost(&error))),
        },
        Err(_) => {
            let seconds = endpoint.timeout().as_secs_f64();
            let detail = match head {
                None => format!("no answer within {seconds} s"),
                Some(_) => format!("the answer did not end within {seconds} s"),
            };
            Ok(failed(ErrorClass::Timeout, head, detail))
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
) -> Result<Exchanged, Broken> {
    let began = Instant::now();
    let request = request(endpoint, event, now).map_err(Broken::Request)?;
    let (response, _busy) = client.request(request).await.map_err(Broken::Answer)?;
    let (status, after) = (response.status().as_u16(), began.elapsed());
    *head = Some(Head { status, after });
    if response.status().is_informational() {
        let detail = format!("the answer is {status}, and no other protocol was asked for");
        return Ok(failed(ErrorClass::Protocol, *head, detail));
    }
    let outcome = Outcome::Answered {
        status,
        retry_after: asked_wait(&response, system_time(now)),
    };
    let answer = read_answer(response.into_body()).await.map_err(Broken::Body)?;
    Ok(Exchanged {
        outcome,
        detail: None,
        first_byte: Some(after),
        answer,
    })
}

fn request(endpoint: &Endpoint, event: &Event, now: Timestamp) -> hyper::http::Result<Request<Full<Bytes>>> {
    let (id, seconds) = (event.webhook_id(), now.as_secs());
    let plain_time = match endpoint.signature {
        SignatureStyle::PlainSeconds => seconds.to_string(),
        SignatureStyle::Standard | SignatureStyle::Plain => now.to_string(),
    };
    let mut request =
        Request::post(endpoint.url.as_url().as_str()).header(CONTENT_TYPE, CONTENT_TYPE_STRUCTURED);
    for (name, value) in endpoint.headers.iter() {
        request = request.header(name, value);
    }
    let secrets = endpoint.signing_secrets(now);
    let request = match endpoint.signature {
        SignatureStyle::Standard => request
            .header("webhook-id", id.as_str())
            .header("webhook-timestamp", seconds)
            .header(
                "webhook-signature",
                signature::sign(secrets, id.as_str(), seconds, event.body()),
            ),
        SignatureStyle::Plain | SignatureStyle::PlainSeconds => request
            .header("x-webhook-delivery", id.as_str())
            .header("x-webhook-event", event.event_type().to_header())
            .header("x-webhook-timestamp", plain_time)
            .header(
                "x-webhook-signature",
                signature::sign_plain(secrets, event.body()),
            ),
    };
    let mut request = request.body(event.body().clone().into())?;
    for (name, value) in [(ACCEPT, "*/*"), (USER_AGENT, AGENT)] {
        let value = HeaderValue::from_static(value);
        request.headers_mut().entry(name).or_insert(value);
    }
    Ok(request)
}

/// Never more than the cap is held, whatever the endpoint sends.
async fn read_answer(mut body: Incoming) -> hyper::Result<String> {
    let (mut kept, mut read) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let chunk = frame?.into_data().unwrap_or_default(); // trailers are none
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

/// The longest of several waits.
fn asked_wait(response: &Response<Incoming>, now: SystemTime) -> Option<Duration> {
    let values = response.headers().get_all(RETRY_AFTER).iter();
    let waits = values.filter_map(|value| retry_after(value.to_str().ok()?, now));
    waits.max()
}

/// Seconds, or a date in any of HTTP's three forms (RFC 9110 sections 5.6.7 and 10.2.3). A number beyond all
/// that can be counted is as long as can be; what is neither, or past, asks for nothing.
pub(crate) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim_matches([' ', '\t']);
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    httpdate::parse_http_date(value).ok()?.duration_since(now).ok()
}

fn system_time(time: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(0))
}

fn classify(error: &Broken) -> ErrorClass {
    if causes(error).any(|cause| cause.is::<Unresolved>()) {
        return ErrorClass::Dns;
    }
    if causes(error).any(is_tls) {
        return ErrorClass::Tls;
    }
    match error {
        _ if causes(error).any(is_timeout) => ErrorClass::Timeout,
        Broken::Answer(error) if error.is_connect() => ErrorClass::Connect,
        Broken::Answer(_) if !causes(error).any(is_no_http) => ErrorClass::Reset,
        Broken::Request(_) | Broken::Answer(_) => ErrorClass::Protocol,
        Broken::Body(_) => ErrorClass::Body,
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// rustls' errors travel inside I/O errors, and whatever ends a handshake inside two of them.
fn is_tls(cause: &(dyn Error + 'static)) -> bool {
    let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    inner.is_some_and(|inner| inner.is::<rustls::Error>() || inner.is::<io::Error>())
}

/// The error of rustls that another one is, or holds.
fn of_rustls<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    cause
        .downcast_ref()
        .or_else(|| inner.and_then(|inner| of_rustls(inner)))
}

/// The system gives up on some connections before the endpoint's timeout.
fn is_timeout(cause: &(dyn Error + 'static)) -> bool {
    let error = cause.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
}

/// Whether it is about what came, and not about the connection.
fn is_no_http(cause: &(dyn Error + 'static)) -> bool {
    cause.downcast_ref::<hyper::Error>().is_some_and(|error| {
        let ended = error.is_incomplete_message() || error.is_canceled() || error.is_closed();
        !ended && !causes(error).any(|cause| cause.is::<io::Error>())
    })
}

/// A name that does not resolve, and TLS, have words of their own; else the last cause says most.
fn innermost(error: &Broken) -> String {
    if let Some(unresolved) = causes(error).find_map(|cause| cause.downcast_ref::<Unresolved>()) {
        return unresolved.to_string();
    }
    if let Some(error) = causes(error).find_map(of_rustls) {
        return tls::words(error);
    }
    causes(error).last().map(ToString::to_string).unwrap_or_default()
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
        for date in [
            "Sun, 06 Nov 1994 08:49:40 GMT",
            "Sunday, 06-Nov-94 08:49:40 GMT",
            "Sun Nov  6 08:49:40 1994",
        ] {
            assert_eq!(retry_after(date, now), Some(Duration::from_secs(3)), "{date}");
        }
        for beyond in ["18446744073709551616", "99999999999999999999", &"9".repeat(500)] {
            assert_eq!(retry_after(beyond, now), Some(Duration::from_secs(u64::MAX)));
        }
        for none in [
            "soon",
            "",
            "-5",
            "+5",
            "1.5",
            "5, 10",
            "5s",
            "Sun, 06 Nov 1994 08:00:00 GMT",
        ] {
            assert_eq!(retry_after(none, now), None, "{none}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_retry_after_of_any_kind_is_read_or_left(value in ".*", seconds in proptest::num::u64::ANY) {
            let now = SystemTime::UNIX_EPOCH;
            let _ = retry_after(&value, now);
            let read = retry_after(&seconds.to_string(), now);
            proptest::prop_assert_eq!(read, Some(Duration::from_secs(seconds)));
        }
    }
}

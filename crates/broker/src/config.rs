use std::{fmt, str::FromStr, time::Duration};

use lapin::uri::AMQPUri;
use relay_event::Invalid;

/// How to reach the broker and which objects there are ours.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the broker is.
    pub url: BrokerUrl,
    /// Which of its objects are this relay's.
    pub namespace: Namespace,
    /// What the connections are called in the broker's own tools, such as `relay-deliverer`.
    pub name: String,
    /// The time for which a queue that was just declared is left alone. RabbitMQ keeps what it was told of it in memory
    /// for up to two seconds; after a crash in that time it is gone, or empty and answers nobody, whatever it
    /// confirmed.
    pub new_queue_wait: Duration,
    /// The largest event, in bytes. Of a larger one only the first 4 KiB come into this process; so with
    /// letters of more than twice as many bytes, and with anything else of more than 2 MiB and than this.
    pub max_event_bytes: usize,
}

/// The two seconds that queues are at risk, and some more for a broker that is busy. See
/// [`Config::new_queue_wait`].
pub const NEW_QUEUE_WAIT: Duration = Duration::from_millis(2_500);

/// The longest frame, in bytes: RabbitMQ's own default, and so as long as the headers that a producer can
/// send. Told of it in advance, lapin touches its 8 MiB of buffers only as they are used. A URL may name a greater
/// one; with a smaller one, headers that the broker takes and cannot split would end the connection.
const FRAME_MAX: u32 = 128 * 1024;

/// An `amqp://` or `amqps://` URL. Its password prints only where it is asked for.
#[derive(Clone)]
pub struct BrokerUrl {
    text: String,
    uri: AMQPUri,
}

impl BrokerUrl {
    /// The URL with its password, for its owner.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// For connecting; a dead peer is noticed within twice the heartbeat.
    pub(crate) fn uri(&self) -> AMQPUri {
        const HEARTBEAT_SECONDS: u16 = 10;
        let mut uri = self.uri.clone();
        uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
        let frame_max = match uri.query.frame_max {
            Some(0) => 0, // any length
            given => given.unwrap_or_default().max(FRAME_MAX),
        };
        uri.query.frame_max = Some(frame_max);
        uri
    }
}

impl FromStr for BrokerUrl {
    type Err = Invalid;

    /// The refusal does not repeat what was given: it may hold a password.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let uri = text.parse().map_err(|problem: String| {
            Invalid::new(
                "amqp-url",
                format!("must be like amqp://user:password@host:5672/%2f ({problem})"),
            )
        })?;
        Ok(Self {
            text: text.to_owned(),
            uri,
        })
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = &self.uri.authority;
        write!(f, "{}:{}/{}", authority.host, authority.port, self.uri.vhost)
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The first word of every exchange and queue of one relay, so that several can share a broker:
/// 1 to 40 lower-case letters, digits, `-` and `_`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace(String);

impl Namespace {
    /// The namespace as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self("relay".to_owned())
    }
}

impl FromStr for Namespace {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        if (1..=40).contains(&text.len()) && text.bytes().all(allowed) {
            return Ok(Self(text.to_owned()));
        }
        let problem = format!("must be 1 to 40 lower-case letters, digits, `-` and `_`, not {text:?}");
        Err(Invalid::new("namespace", problem))
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RabbitMQ sends headers in one frame, whatever a client asks for.
    #[test]
    fn frames_are_never_shorter_than_the_headers_of_producers() {
        for (query, frame_max) in [
            ("", FRAME_MAX),
            ("?frame_max=8192", FRAME_MAX),
            ("?frame_max=262144", 262_144),
            ("?frame_max=0", 0),
        ] {
            let url: BrokerUrl = format!("amqp://localhost/%2f{query}").parse().unwrap();
            assert_eq!(url.uri().query.frame_max, Some(frame_max), "{query}");
        }
    }

    #[test]
    fn a_password_does_not_print() {
        let url: BrokerUrl = "amqp://relay:hunter2@localhost:5673/%2f".parse().unwrap();
        assert_eq!(format!("{url} {url:?}"), "localhost:5673// localhost:5673//");
        let refused = "http://relay:hunter2@localhost".parse::<BrokerUrl>().unwrap_err();
        assert!(!refused.to_string().contains("hunter2"), "{refused}");
    }
}

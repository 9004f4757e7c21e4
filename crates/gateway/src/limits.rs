//! The limits of a gateway's clients.

use std::{num::NonZeroUsize, time::Duration};

use clap::Args;
use relay_service::{
    args::time,
    connections::{self, Network},
};

/// The files that a process needs beside its clients' connections: for the broker, the store, the address of
/// its metrics, and those that are told why they are refused.
const OTHER_FILES: u64 = 256;

/// The limits of a gateway's clients. Each that is reached is counted in `relay_http_limited_total`.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits of clients")]
pub struct Limits {
    /// The most connections at once, fewer if the process may not open that many files; others are answered
    /// 503. A quarter is for those that have not shown a good token, of which the longest idle is closed for
    /// the next
    #[arg(
        long,
        env = "RELAY_MAX_CONNECTIONS",
        value_name = "COUNT",
        default_value = "8192"
    )]
    pub max_connections: NonZeroUsize,

    /// The most new connections a second that do not show a good token; beyond it new ones wait in the system's
    /// queue
    #[arg(
        long,
        env = "RELAY_CONNECTIONS_WITHOUT_TOKEN",
        value_name = "COUNT",
        default_value = "500"
    )]
    pub connections_without_token: NonZeroUsize,

    /// The most connections of one address (of IPv6: one /64) at once; others are answered 503
    #[arg(
        long,
        env = "RELAY_CONNECTIONS_PER_ADDRESS",
        value_name = "COUNT",
        default_value = "256"
    )]
    pub connections_per_address: NonZeroUsize,

    /// Networks whose addresses stand for many clients each, such as a reverse proxy's, and have no limits of
    /// their own; several with commas, or none
    #[arg(
        long,
        env = "RELAY_SHARED_NETWORKS",
        value_name = "NETWORK",
        value_delimiter = ',',
        default_value = "127.0.0.0/8,::1/128"
    )]
    pub shared_networks: Vec<Network>,

    /// The longest time that the head of a request may take; then it is answered 408
    #[arg(long, env = "RELAY_HEAD_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = time)]
    pub head_timeout: Duration,

    /// The longest time that a connection may be idle between requests; then it is closed
    #[arg(long, env = "RELAY_IDLE_TIMEOUT", value_name = "TIME", default_value = "60s", value_parser = time)]
    pub idle_timeout: Duration,

    /// The largest head of a request, in bytes; a larger one is answered 431
    #[arg(
        long,
        env = "RELAY_MAX_HEAD_BYTES",
        value_name = "BYTES",
        default_value = "65536"
    )]
    pub max_head_bytes: NonZeroUsize,

    /// The most headers of a request; more are answered 431
    #[arg(long, env = "RELAY_MAX_HEADERS", value_name = "COUNT", default_value = "100")]
    pub max_headers: NonZeroUsize,

    /// The longest path and query of a request, in bytes; a longer one is answered 414
    #[arg(
        long,
        env = "RELAY_MAX_URI_BYTES",
        value_name = "BYTES",
        default_value = "8192"
    )]
    pub max_uri_bytes: NonZeroUsize,

    /// The most bytes of all heads that are under way together, beyond 8 KiB of each; then larger heads are
    /// answered 503
    #[arg(
        long,
        env = "RELAY_HEAD_MEMORY",
        value_name = "BYTES",
        default_value = "16777216"
    )]
    pub head_memory: NonZeroUsize,

    /// The longest time that a client may take to send a request's body; then it is answered 408
    #[arg(long, env = "RELAY_BODY_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = time)]
    pub body_timeout: Duration,

    /// The least bytes a second at which a body must come, once it has had the time of a head; a slower one is
    /// answered 408
    #[arg(long, env = "RELAY_BODY_RATE", value_name = "BYTES", default_value = "1024")]
    pub body_rate: NonZeroUsize,

    /// The most bytes of all bodies in memory together; then requests are answered 503
    #[arg(
        long,
        env = "RELAY_BODY_MEMORY",
        value_name = "BYTES",
        default_value = "67108864"
    )]
    pub body_memory: NonZeroUsize,

    /// The most streams, sockets and requests that wait for events, of one token at once; others are answered
    /// 429. All tokens together may have half of the connections
    #[arg(
        long,
        env = "RELAY_STREAMS_PER_TOKEN",
        value_name = "COUNT",
        default_value = "1000"
    )]
    pub streams_per_token: NonZeroUsize,

    /// The most bytes that wait for one client to read them; no more is prepared for it until it does
    #[arg(
        long,
        env = "RELAY_UNSENT_BYTES",
        value_name = "BYTES",
        default_value = "262144"
    )]
    pub unsent_bytes: NonZeroUsize,

    /// The longest time that a client may read nothing of what waits for it; then its connection is closed
    #[arg(long, env = "RELAY_UNSENT_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = time)]
    pub unsent_timeout: Duration,

    /// The most frames a second that a client may send over a WebSocket; then it is closed with 1008
    #[arg(long, env = "RELAY_SOCKET_FRAMES", value_name = "COUNT", default_value = "10")]
    pub socket_frames: NonZeroUsize,

    /// The most wrong tokens of one address in a minute; then its requests are answered 429, but for those of
    /// connections that have shown a good one
    #[arg(long, env = "RELAY_WRONG_TOKENS", value_name = "COUNT", default_value = "30")]
    pub wrong_tokens: NonZeroUsize,

    /// The files that other parts of the same process may need.
    #[arg(skip)]
    pub files_of_others: u64,
}

impl Limits {
    /// The limits of connections.
    pub(crate) fn connections(&self) -> connections::Limits {
        connections::Limits {
            connections: self.max_connections.get(),
            connections_setting: "--max-connections, RELAY_MAX_CONNECTIONS",
            other_files: OTHER_FILES.saturating_add(self.files_of_others),
            per_address: self.connections_per_address.get(),
            per_address_setting: "--connections-per-address, RELAY_CONNECTIONS_PER_ADDRESS",
            shared: self.shared_networks.clone(),
            tokens: true,
            without_token_a_second: self.connections_without_token.get(),
            head_time: self.head_timeout,
            idle_time: self.idle_timeout,
            head_bytes: self.max_head_bytes.get(),
            headers: self.max_headers.get(),
            uri_bytes: self.max_uri_bytes.get(),
            head_memory: self.head_memory.get(),
            unsent_bytes: self.unsent_bytes.get(),
            unsent_time: self.unsent_timeout,
        }
    }
}

/// Names of the limits that a gateway has beside those of its connections, as the metrics have them.
#[derive(Debug)]
pub(crate) enum Limit {}

impl Limit {
    pub(crate) const BODY_TIME: &'static str = "body_time";
    pub(crate) const BODY_RATE: &'static str = "body_rate";
    pub(crate) const BODY_MEMORY: &'static str = "body_memory";
    pub(crate) const STREAMS_OF_TOKEN: &'static str = "streams_of_token";
    pub(crate) const STREAMS: &'static str = "streams";
    pub(crate) const SOCKET_FRAMES: &'static str = "socket_frames";
    pub(crate) const WRONG_TOKENS: &'static str = "wrong_tokens";

    pub(crate) const ALL: [&'static str; 7] = [
        Self::BODY_TIME,
        Self::BODY_RATE,
        Self::BODY_MEMORY,
        Self::STREAMS_OF_TOKEN,
        Self::STREAMS,
        Self::SOCKET_FRAMES,
        Self::WRONG_TOKENS,
    ];
}

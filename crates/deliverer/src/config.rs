use std::{num::NonZeroU32, str::FromStr, time::Duration};

use clap::Args;
use relay_broker::{BrokerUrl, Namespace};
use relay_event::{DELIVERER_CAP, Invalid};
use relay_service::args::{Unshown, time, time_or_none};
use relay_store::StoreUrl;

use crate::NameServers;

/// The settings of a deliverer.
#[derive(Debug, Clone, Args)]
pub struct Config {
    /// The broker
    #[arg(
        long,
        env = "RELAY_AMQP_URL",
        value_name = "URL",
        default_value = "amqp://guest:guest@127.0.0.1:5672/%2f",
        hide_env_values = true,
        value_parser = Unshown::<BrokerUrl>::new(unshown)
    )]
    pub amqp_url: BrokerUrl,

    /// The first word of the names of all exchanges and queues of this relay
    #[arg(long, env = "RELAY_NAMESPACE", value_name = "WORD", default_value = "relay")]
    pub namespace: Namespace,

    /// How long a queue that was just declared is left alone: RabbitMQ may lose a younger one in a crash,
    /// with all that it confirmed
    #[arg(long, env = "RELAY_NEW_QUEUE_WAIT", value_name = "TIME", default_value = "2500ms", value_parser = time_or_none)]
    pub new_queue_wait: Duration,

    /// Where the endpoints are kept
    #[arg(
        long,
        env = "RELAY_STORE_URL",
        value_name = "URL",
        default_value = "sqlite:relay.db",
        hide_env_values = true,
        value_parser = Unshown::<StoreUrl>::new(unshown)
    )]
    pub store: StoreUrl,

    /// What this deliverer signs its attempt records with [default: host name and process id]
    #[arg(long, env = "RELAY_DELIVERER_NAME", value_name = "NAME")]
    pub name: Option<String>,

    /// The largest event, in bytes; larger ones go to the dead-letter queue
    #[arg(long, env = "RELAY_MAX_EVENT_BYTES", value_name = "BYTES", default_value_t = relay_event::DEFAULT_MAX_EVENT_BYTES)]
    pub max_event_bytes: usize,

    /// The time between two reads of all endpoints; what changes is seen within a second without them
    #[arg(long, env = "RELAY_RECHECK", value_name = "TIME", default_value = "60s", value_parser = time)]
    pub recheck: Duration,

    /// How long a shutdown waits for attempts under way; what is left is redelivered
    #[arg(long, env = "RELAY_DRAIN_TIMEOUT", value_name = "TIME", default_value = "60s", value_parser = time)]
    pub drain_timeout: Duration,

    /// How many attempts may be under way at once over all endpoints, each with a socket of its own; fewer
    /// if the process may not open that many files
    #[arg(
        long,
        env = "RELAY_MAX_ATTEMPTS",
        value_name = "COUNT",
        default_value = "2048"
    )]
    pub max_attempts: NonZeroU32,

    /// The name servers that are asked for endpoints' hosts, such as 192.0.2.53 or 192.0.2.53:5353, at most
    /// three, separated by commas; /etc/hosts and the search list of /etc/resolv.conf count all the same [default: those in
    /// /etc/resolv.conf]
    #[arg(long, env = "RELAY_NAME_SERVERS", value_name = "ADDRESSES")]
    pub name_servers: Option<NameServers>,

    /// After which time without one success an endpoint is disabled; `never` for not at all
    #[arg(long, env = "RELAY_DISABLE_AFTER", value_name = "TIME", default_value = "5d")]
    pub disable_after: DisableAfter,

    /// How often the queues' lengths are read for the metrics
    #[arg(long, env = "RELAY_BACKLOG_INTERVAL", value_name = "TIME", default_value = "15s", value_parser = time)]
    pub backlog_interval: Duration,
}

impl Config {
    /// The broker connection of the process called `name`.
    pub fn broker(&self, name: &str) -> relay_broker::Config {
        relay_broker::Config {
            url: self.amqp_url.clone(),
            namespace: self.namespace.clone(),
            name: name.to_owned(),
            new_queue_wait: self.new_queue_wait,
            max_event_bytes: self.max_event_bytes,
        }
    }

    /// What attempt records are signed with.
    pub(crate) fn signature(&self) -> String {
        let mut name = self.name.clone().unwrap_or_else(|| {
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            let host = if host.trim().is_empty() {
                "localhost"
            } else {
                host.trim()
            };
            format!("{host}:{}", std::process::id())
        });
        name.truncate(name.floor_char_boundary(DELIVERER_CAP));
        name
    }
}

/// After which time without one success an endpoint is disabled, if ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DisableAfter(pub Option<Duration>);

impl FromStr for DisableAfter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "never" => Ok(Self(None)),
            _ => time(text)
                .map(|time| Self(Some(time)))
                .map_err(|_| "must be a time such as 12h or 5d, or never".to_owned()),
        }
    }
}

fn unshown<T: FromStr<Err = Invalid>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|refused: Invalid| refused.problem)
}

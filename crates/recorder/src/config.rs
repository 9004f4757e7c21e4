use std::time::Duration;

use clap::Args;
use relay_broker::{BrokerUrl, Namespace};
use relay_event::Invalid;
use relay_service::args::{Unshown, time};
use relay_store::StoreUrl;

/// The times by which held deliveries are sent on.
#[derive(Debug, Clone, Copy)]
pub struct DispatchTimes {
    /// The time for which a process has the duty to send held deliveries on, unless it renews it.
    pub lease: Duration,
    /// The time after which a claim of an earlier epoch is held again, if nothing was heard of it.
    pub silent: Duration,
    /// The same for any claim: its message is lost, by a purge of its queue for example.
    pub lost: Duration,
}

impl Default for DispatchTimes {
    /// 10 s, 3 min and 15 min.
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(10),
            silent: Duration::from_secs(180),
            lost: Duration::from_secs(900),
        }
    }
}

impl DispatchTimes {
    /// The time between two attempts to take or renew the duty.
    pub(crate) fn renewal(&self) -> Duration {
        self.lease / 3
    }

    /// The time between two looks for silent claims, and that while there are claims of an earlier epoch or messages
    /// that wait to be taken.
    pub(crate) fn look(&self) -> (Duration, Duration) {
        (self.lost / 3, self.silent / 12)
    }
}

/// The settings of a recorder.
#[derive(Debug, Clone, Args)]
pub struct Config {
    /// The broker
    #[arg(
        long,
        env = "RELAY_AMQP_URL",
        value_name = "URL",
        default_value = "amqp://guest:guest@127.0.0.1:5672/%2f",
        hide_env_values = true,
        value_parser = Unshown::<BrokerUrl>::new(broker_url)
    )]
    pub amqp_url: BrokerUrl,

    /// The first word of the names of all exchanges and queues of this relay
    #[arg(long, env = "RELAY_NAMESPACE", value_name = "WORD", default_value = "relay")]
    pub namespace: Namespace,

    /// The database of events, attempts, held deliveries and endpoints
    #[arg(
        long,
        env = "RELAY_STORE_URL",
        value_name = "URL",
        default_value = "sqlite:relay.db",
        hide_env_values = true,
        value_parser = Unshown::<StoreUrl>::new(store_url)
    )]
    pub store: StoreUrl,

    /// The largest event, in bytes; larger ones go to the dead-letter queue
    #[arg(long, env = "RELAY_MAX_EVENT_BYTES", value_name = "BYTES", default_value_t = relay_event::DEFAULT_MAX_EVENT_BYTES)]
    pub max_event_bytes: usize,

    /// The time between two reads of all endpoints, for changes that nobody announced
    #[arg(long, env = "RELAY_RECHECK", value_name = "TIME", default_value = "60s", value_parser = time)]
    pub recheck: Duration,

    /// The most events, attempts and held deliveries written in one transaction
    #[arg(
        long,
        env = "RELAY_BATCH_RECORDS",
        value_name = "COUNT",
        default_value_t = 2_000,
        value_parser = count
    )]
    pub batch_records: usize,

    /// The time for which events are kept, with the status of their deliveries; one that is held is kept longer
    #[arg(long, env = "RELAY_RETAIN_EVENTS", value_name = "TIME", default_value = "7d", value_parser = retention)]
    pub retain_events: Duration,

    /// The time for which attempts are kept, counted from the recording of their event
    #[arg(long, env = "RELAY_RETAIN_ATTEMPTS", value_name = "TIME", default_value = "7d", value_parser = retention)]
    pub retain_attempts: Duration,

    /// The time between two looks for events and attempts to forget
    #[arg(long, env = "RELAY_RETENTION_INTERVAL", value_name = "TIME", default_value = "60s", value_parser = time)]
    pub retention_interval: Duration,

    /// The times by which held deliveries are sent on.
    #[arg(skip)]
    pub dispatch: DispatchTimes,
}

impl Config {
    /// The broker connection of the process called `name`.
    pub fn broker(&self, name: &str) -> relay_broker::Config {
        relay_broker::Config {
            url: self.amqp_url.clone(),
            namespace: self.namespace.clone(),
            name: name.to_owned(),
            new_queue_wait: relay_broker::NEW_QUEUE_WAIT,
            max_event_bytes: self.max_event_bytes,
        }
    }
}

fn broker_url(text: &str) -> Result<BrokerUrl, String> {
    text.parse().map_err(|refused: Invalid| refused.problem)
}

fn store_url(text: &str) -> Result<StoreUrl, String> {
    text.parse().map_err(|refused: Invalid| refused.problem)
}

fn count(text: &str) -> Result<usize, String> {
    const ALLOWED: std::ops::RangeInclusive<usize> = 1..=10_000;
    let count = text.parse().ok().filter(|count| ALLOWED.contains(count));
    count.ok_or_else(|| format!("must be from {} to {}", ALLOWED.start(), ALLOWED.end()))
}

/// What is forgotten sooner could not even be looked at.
fn retention(text: &str) -> Result<Duration, String> {
    const SHORTEST: Duration = Duration::from_secs(60);
    let retention = time(text).ok().filter(|time| *time >= SHORTEST);
    retention.ok_or_else(|| "must be a time of at least 1m, such as 12h or 7d".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        config: Config,
    }

    fn parse(arguments: &[&str]) -> Result<Config, String> {
        let arguments = ["recorder"].iter().chain(arguments);
        let parsed = Program::try_parse_from(arguments).map_err(|error| error.to_string());
        parsed.map(|program| program.config)
    }

    #[test]
    fn a_week_is_kept_unless_told_otherwise() {
        let week = Duration::from_secs(7 * 24 * 3600);
        let config = parse(&["--retain-attempts", "1m"]).unwrap();
        assert_eq!(config.retain_events, week);
        assert_eq!(config.retain_attempts, Duration::from_secs(60));
    }

    #[test]
    fn odd_settings_are_refused_without_showing_a_password() {
        for arguments in [
            ["--retain-events", "0s"],
            ["--retain-events", "59s"],
            ["--retain-attempts", "for ever"],
            ["--retention-interval", "0s"],
            ["--batch-records", "0"],
            ["--batch-records", "1000000"],
            ["--store", "mysql://relay:hunter2@localhost/relay"],
            ["--amqp-url", "http://relay:hunter2@localhost"],
        ] {
            let refused = parse(&arguments).unwrap_err();
            assert!(refused.contains("must be"), "{refused}");
            assert!(!refused.contains("hunter2"), "{refused}");
        }
    }
}

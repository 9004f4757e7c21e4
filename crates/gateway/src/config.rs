use std::{fmt, net::SocketAddr, str::FromStr, time::Duration};

use anyhow::bail;
use clap::Args;
use relay_broker::{BrokerUrl, Namespace};
use relay_event::Invalid;
use relay_service::args::{Unshown, time};
use relay_store::StoreUrl;
use tokio::net::TcpListener;

use crate::{Limits, Origin};

/// The settings of a gateway.
#[derive(Debug, Clone, Args)]
pub struct Config {
    /// Where requests are taken. Port 0 takes any free port, which the log names
    #[arg(
        long,
        env = "RELAY_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:7400"
    )]
    pub listen: SocketAddr,

    /// What every request must carry as `Authorization: Bearer TOKEN`; needed to listen beyond this
    /// machine [default: requests need none]
    #[arg(
        long,
        env = "RELAY_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true,
        value_parser = Unshown::<Token>::new(unshown)
    )]
    pub token: Option<Token>,

    /// Where pages come from that may read the feed, such as `https://app.example.com`; several with commas, or
    /// by giving it again; * for any [default: no page may]
    #[arg(
        long = "cors-origin",
        env = "RELAY_CORS_ORIGINS",
        value_name = "ORIGIN",
        value_delimiter = ','
    )]
    pub cors_origins: Vec<Origin>,

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

    /// Where the endpoints and the log are kept
    #[arg(
        long,
        env = "RELAY_STORE_URL",
        value_name = "URL",
        default_value = "sqlite:relay.db",
        hide_env_values = true,
        value_parser = Unshown::<StoreUrl>::new(unshown)
    )]
    pub store: StoreUrl,

    /// The largest event, in bytes; larger ones are refused
    #[arg(long, env = "RELAY_MAX_EVENT_BYTES", value_name = "BYTES", default_value_t = relay_event::DEFAULT_MAX_EVENT_BYTES)]
    pub max_event_bytes: usize,

    /// The largest batch of events, in bytes; larger ones are refused
    #[arg(
        long,
        env = "RELAY_MAX_BATCH_BYTES",
        value_name = "BYTES",
        default_value_t = 4 * 1024 * 1024
    )]
    pub max_batch_bytes: usize,

    /// The source of events that name none, a URI reference. Only events of the default may keep their ids as
    /// `webhook-id`
    #[arg(long, env = "RELAY_SOURCE", value_name = "SOURCE", default_value = relay_event::DEFAULT_SOURCE, value_parser = source)]
    pub source: String,

    /// The time that the broker may take to confirm an event
    #[arg(long, env = "RELAY_CONFIRM_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = time)]
    pub confirm_timeout: Duration,

    /// The most that clients may use up.
    #[command(flatten)]
    pub limits: Limits,
}

impl Config {
    /// Listens where it is told to, unless that would open the relay to everyone.
    ///
    /// # Errors
    /// As [`Config::guard`]; or the address is taken, or none of this machine's.
    pub async fn bind(&self) -> anyhow::Result<TcpListener> {
        self.guard(self.listen)?;
        Ok(relay_service::bind(self.listen, "--listen").await?)
    }

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

    /// Whether `address` may be listened on with these settings.
    ///
    /// # Errors
    /// Others than this machine would reach it, and there is no token.
    pub fn guard(&self, address: SocketAddr) -> anyhow::Result<()> {
        if self.token.is_none() && !address.ip().to_canonical().is_loopback() {
            bail!(
                "would take requests from everyone who reaches {address}: set a token by --token (RELAY_TOKEN), or listen on 127.0.0.1 by --listen"
            );
        }
        Ok(())
    }
}

/// What requests are allowed by. It never prints.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Token {
    type Err = Invalid;

    /// The refusal does not repeat what was given.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(Self(text.to_owned()));
        }
        let problem = "must be visible ASCII characters without spaces, at least one";
        Err(Invalid::new("token", problem))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

fn unshown<T: FromStr<Err = Invalid>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|refused: Invalid| refused.problem)
}

/// As CloudEvents has it.
fn source(text: &str) -> Result<String, String> {
    relay_event::check_source(text).map_err(|refused| refused.problem)?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Shell {
        #[command(flatten)]
        config: Config,
    }

    fn parse(arguments: &[&str]) -> Result<Config, String> {
        let arguments = ["test"].iter().chain(arguments);
        Shell::try_parse_from(arguments)
            .map(|shell| shell.config)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn beyond_this_machine_it_wants_a_token() {
        let open = parse(&[]).unwrap();
        let all: SocketAddr = "0.0.0.0:7400".parse().unwrap();
        assert!(open.guard(open.listen).is_ok());
        assert!(open.guard("[::1]:1".parse().unwrap()).is_ok());
        let refused = open.guard(all).unwrap_err().to_string();
        assert!(refused.contains("RELAY_TOKEN"), "{refused}");
        let closed = parse(&["--token", "hunter2"]).unwrap();
        assert!(closed.guard(all).is_ok());
        assert!(!format!("{closed:?}").contains("hunter2"));
    }

    #[test]
    fn a_refused_secret_is_not_repeated() {
        for arguments in [
            ["--token", "hunter2 hunter2"],
            ["--amqp-url", "http://relay:hunter2@localhost"],
        ] {
            let refused = parse(&arguments).unwrap_err();
            assert!(!refused.contains("hunter2"), "{refused}");
            assert!(
                refused.contains(arguments[0]) && refused.contains("must be"),
                "{refused}"
            );
        }
    }

    #[test]
    fn odd_settings_are_refused() {
        for arguments in [
            ["--token", ""],
            ["--confirm-timeout", "0s"],
            ["--confirm-timeout", "10"],
            ["--source", "a b"],
            ["--source", ""],
            ["--cors-origin", "https://a.example,b.example"],
        ] {
            let refused = parse(&arguments).unwrap_err();
            assert!(refused.contains("must be"), "{refused}");
        }
    }
}

//! Which relay a command talks to: the one of the environment, else the one of the data folder.

use std::net::IpAddr;

use anyhow::anyhow;
use relay_broker::{BrokerUrl, Config, Error, Namespace, Session};
use url::{Host, Url};

use crate::{
    data::{DataArgs, DataFolder, Token},
    usage::Usage,
};

/// A relay's HTTP API.
pub(crate) struct HttpRelay {
    pub(crate) url: Url,
    pub(crate) token: Token,
    /// The source of the token, in words.
    pub(crate) token_of: &'static str,
}

type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl DataArgs {
    /// The HTTP API of the relay.
    pub(crate) fn http(&self) -> anyhow::Result<HttpRelay> {
        self.http_given(None, None)
    }

    /// The HTTP API of a relay of which some may be given here.
    pub(crate) fn http_given(&self, url: Option<&Url>, token: Option<&Token>) -> anyhow::Result<HttpRelay> {
        let folder = self.folder()?;
        let outside = |name: &str| match name {
            "RELAY_URL" => url.map(Url::to_string).or_else(|| environment(name)),
            "RELAY_TOKEN" => token
                .map(|token| token.as_str().to_owned())
                .or_else(|| environment(name)),
            _ => environment(name),
        };
        find_http(&folder, &outside)?
            .ok_or_else(|| nothing_found(&folder, "RELAY_URL and RELAY_TOKEN to reach one elsewhere"))
    }

    /// The HTTP API of the relay, if there is one.
    pub(crate) fn http_if_any(&self) -> anyhow::Result<Option<HttpRelay>> {
        find_http(&self.folder()?, &environment)
    }

    /// The HTTP API of the relay whose broker this is, if one is known to be: the other may be set in the
    /// environment and be of another relay.
    pub(crate) fn http_of(&self, broker: &Config) -> anyhow::Result<Option<HttpRelay>> {
        let folder = self.folder()?;
        find_http_of(&folder, &environment, broker)
    }

    /// The broker of the relay; `name` is what the connection is called in the broker's own tools.
    pub(crate) fn broker(&self, name: &str) -> anyhow::Result<Config> {
        let folder = self.folder()?;
        find_broker(&folder, &environment, name)?
            .ok_or_else(|| nothing_found(&folder, "RELAY_AMQP_URL to reach a broker elsewhere"))
    }
}

/// Connects to the broker, or says at once that it cannot be reached.
pub(crate) async fn open_session(config: &Config) -> anyhow::Result<Session> {
    must_have_relay(config).await?;
    Session::open(config, None).await.map_err(unreachable)
}

/// Refuses a broker on which no relay has this namespace: what is published there would be lost. Only the
/// relay's own processes declare what it needs.
pub(crate) async fn must_have_relay(config: &Config) -> anyhow::Result<()> {
    if Session::has_relay(config).await.map_err(unreachable)? {
        return Ok(());
    }
    Err(anyhow!(
        "no relay with the namespace `{}` uses the broker at {}; RELAY_NAMESPACE names another (a relay that was just \
         started may not be ready yet)",
        config.namespace,
        config.url
    ))
}

/// An address at which nobody listens, in the system's words.
pub(crate) const NOBODY_THERE: &str = "Connection refused";

/// A user that may not connect, or a wrong password, in RabbitMQ's words.
const REFUSED: &str = "ACCESS_REFUSED";

fn unreachable(error: Error) -> anyhow::Error {
    let hint = match &error {
        Error::Connect { source, .. } if source.to_string().contains(REFUSED) => {
            "the broker refuses the user or the password in its URL".to_owned()
        }
        Error::Connect { source, .. } if !source.to_string().contains(NOBODY_THERE) => {
            "the broker cannot be reached".to_owned()
        }
        Error::Connect { .. } | Error::Timeout { .. } => {
            format!(
                "the relay seems not to be running (start it with `{}`; just started, it may take a moment)",
                start_command()
            )
        }
        _ => "the broker did not do as it was asked".to_owned(),
    };
    anyhow!(error).context(hint)
}

fn nothing_found(folder: &DataFolder, otherwise: &str) -> anyhow::Error {
    anyhow!(
        "no relay runs here: {} has no relay.json; start one with `{}`, or set {otherwise}",
        folder.path().display(),
        start_command()
    )
}

/// This program as its reader would run it.
pub(crate) fn own_command() -> &'static str {
    if is_built_here() { "cargo relay" } else { "relay" }
}

/// The command that starts a relay, as its reader would run it.
pub(crate) fn start_command() -> &'static str {
    if is_built_here() {
        "cargo xtask up"
    } else {
        "relay up"
    }
}

/// Returns true if it was built by whoever runs it, false if it was installed.
fn is_built_here() -> bool {
    std::env::current_exe().is_ok_and(|path| path.ends_with("target/release/relay"))
}

fn find_http(folder: &DataFolder, outside: Lookup<'_>) -> anyhow::Result<Option<HttpRelay>> {
    let given = outside("RELAY_URL");
    let is_given = given.is_some();
    let text = match given {
        Some(url) => url,
        None => match folder.running()? {
            Some(running) => running.url,
            None => return Ok(None),
        },
    };
    let url = http_url(&text).map_err(|problem| Usage::new("RELAY_URL", problem))?;
    // The folder's token is for the folder's relay: it is not handed to just any address.
    let here = !is_given || is_loopback(&url);
    let token = match outside("RELAY_TOKEN") {
        Some(token) => {
            let token = Token::parse(&token);
            let token = token.map_err(|refused| Usage::new("RELAY_TOKEN", refused.to_string()))?;
            Some((token, "the given token (RELAY_TOKEN)"))
        }
        None if here => folder
            .token()?
            .map(|token| (token, "the token in the data folder")),
        None => None,
    };
    let (token, token_of) = token.ok_or_else(|| {
        anyhow!(
            "no API token for the relay at {}: set RELAY_TOKEN",
            without_password(&url)
        )
    })?;
    Ok(Some(HttpRelay { url, token, token_of }))
}

fn find_http_of(
    folder: &DataFolder,
    outside: Lookup<'_>,
    broker: &Config,
) -> anyhow::Result<Option<HttpRelay>> {
    let are_one = match (outside("RELAY_URL"), outside("RELAY_AMQP_URL")) {
        (Some(_), Some(_)) | (None, None) => true,
        (url, _) => folder.running()?.is_some_and(|running| {
            let same = (broker.url.as_str(), broker.namespace.as_str());
            same == (&running.amqp_url, &running.namespace) && url.is_none_or(|url| url == running.url)
        }),
    };
    if are_one {
        find_http(folder, outside)
    } else {
        Ok(None)
    }
}

/// The URL of a relay's HTTP API. The refusal does not repeat what was given: it may hold a password.
pub(crate) fn http_url(text: &str) -> Result<Url, String> {
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(url),
        _ => Err("must be an http or https URL such as http://127.0.0.1:7400".to_owned()),
    }
}

/// A URL as it is shown.
pub(crate) fn without_password(url: &Url) -> Url {
    let mut url = url.clone();
    // A URL with a host takes both.
    let _ = url.set_username("").and_then(|()| url.set_password(None));
    url
}

/// Returns true if a URL names this machine by a loopback address.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(ip)) => IpAddr::from(ip).is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::from(ip).to_canonical().is_loopback(),
        None => false,
    }
}

/// The largest event that is published from here, in bytes.
pub(crate) fn largest_event() -> anyhow::Result<usize> {
    max_event_bytes(&environment)
}

/// The largest event, by the name that the relay's processes know it by.
fn max_event_bytes(outside: Lookup<'_>) -> anyhow::Result<usize> {
    let given = outside("RELAY_MAX_EVENT_BYTES");
    given.map_or(Ok(relay_event::DEFAULT_MAX_EVENT_BYTES), |text| {
        let refused = |_| {
            let problem = format!("must be a number of bytes, not {text:?}");
            Usage::new("RELAY_MAX_EVENT_BYTES", problem)
        };
        Ok(text.parse().map_err(refused)?)
    })
}

fn find_broker(folder: &DataFolder, outside: Lookup<'_>, name: &str) -> anyhow::Result<Option<Config>> {
    let given = outside("RELAY_AMQP_URL");
    let running = folder.running()?;
    let Some(url) = given.or_else(|| Some(running.as_ref()?.amqp_url.clone())) else {
        return Ok(None);
    };
    let namespace = outside("RELAY_NAMESPACE").or_else(|| Some(running?.namespace));
    let namespace = namespace.map_or(Ok(Namespace::default()), |text| text.parse());
    Ok(Some(Config {
        url: url.parse::<BrokerUrl>().map_err(Usage::of("RELAY_AMQP_URL"))?,
        namespace: namespace.map_err(Usage::of("RELAY_NAMESPACE"))?,
        name: name.to_owned(),
        new_queue_wait: relay_broker::NEW_QUEUE_WAIT,
        max_event_bytes: max_event_bytes(outside)?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Running;

    fn folder(dir: &tempfile::TempDir) -> DataFolder {
        let args = DataArgs {
            data_dir: Some(dir.path().to_owned()),
        };
        args.folder().unwrap()
    }

    fn with_relay(dir: &tempfile::TempDir) -> DataFolder {
        let folder = folder(dir);
        folder
            .write_running(&Running {
                url: "http://127.0.0.1:7400".to_owned(),
                metrics_url: String::new(),
                amqp_url: "amqp://a:b@127.0.0.1:5673/%2f".to_owned(),
                namespace: "mine".to_owned(),
                pid: 1,
            })
            .unwrap();
        folder.token_or_new().unwrap();
        folder
    }

    fn outside(pairs: &'static [(&'static str, &'static str)]) -> impl Fn(&str) -> Option<String> {
        move |name| {
            let found = pairs.iter().find(|(known, _)| *known == name)?;
            Some(found.1.to_owned())
        }
    }

    #[test]
    fn the_folder_s_relay_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let folder = with_relay(&dir);
        let found = find_http(&folder, &outside(&[])).unwrap().unwrap();
        assert_eq!(found.url.as_str(), "http://127.0.0.1:7400/");
        assert_eq!(Some(found.token), folder.token().unwrap());
        let broker = find_broker(&folder, &outside(&[]), "x").unwrap().unwrap();
        assert_eq!(broker.url.as_str(), "amqp://a:b@127.0.0.1:5673/%2f");
        assert_eq!(broker.namespace.as_str(), "mine");
    }

    #[test]
    fn the_environment_overrides_each_fact() {
        let dir = tempfile::tempdir().unwrap();
        let folder = with_relay(&dir);
        let env = outside(&[("RELAY_TOKEN", "abc"), ("RELAY_NAMESPACE", "other")]);
        assert_eq!(find_http(&folder, &env).unwrap().unwrap().token.as_str(), "abc");
        let broker = find_broker(&folder, &env, "x").unwrap().unwrap();
        assert_eq!(broker.namespace.as_str(), "other");
        assert_eq!(broker.url.as_str(), "amqp://a:b@127.0.0.1:5673/%2f");
    }

    #[test]
    fn the_folder_s_token_stays_on_this_machine() {
        let dir = tempfile::tempdir().unwrap();
        let folder = with_relay(&dir);
        let elsewhere = outside(&[("RELAY_URL", "https://relay.example.com")]);
        let refused = find_http(&folder, &elsewhere).err().unwrap();
        assert!(refused.to_string().contains("RELAY_TOKEN"), "{refused}");
        let here = outside(&[("RELAY_URL", "http://localhost:1")]);
        assert!(find_http(&folder, &here).unwrap().is_some());
    }

    #[test]
    fn the_api_of_a_broker_is_that_of_its_own_relay() {
        let dir = tempfile::tempdir().unwrap();
        let folder = with_relay(&dir);
        let found = |env: &'static [(&str, &str)]| {
            let env = outside(env);
            let broker = find_broker(&folder, &env, "x").unwrap().unwrap();
            find_http_of(&folder, &env, &broker).ok().flatten().is_some()
        };
        let own = ("RELAY_AMQP_URL", "amqp://a:b@127.0.0.1:5673/%2f");
        let other = ("RELAY_AMQP_URL", "amqp://a:b@example.com/%2f");
        assert!(found(&[]));
        assert!(found(Box::leak(Box::new([own, ("RELAY_NAMESPACE", "mine")]))));
        assert!(!found(Box::leak(Box::new([own, ("RELAY_NAMESPACE", "other")]))));
        assert!(!found(Box::leak(Box::new([other]))));
        let both = [other, ("RELAY_URL", "http://127.0.0.1:1"), ("RELAY_TOKEN", "abc")];
        assert!(found(Box::leak(Box::new(both))));
        assert!(!found(&[("RELAY_URL", "http://127.0.0.1:1")]));
    }

    #[test]
    fn nothing_found_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let empty = folder(&dir);
        assert!(find_http(&empty, &outside(&[])).unwrap().is_none());
        assert!(find_broker(&empty, &outside(&[]), "x").unwrap().is_none());
        let text = nothing_found(&empty, "RELAY_URL").to_string();
        assert!(
            text.contains("`relay up`") && text.contains("RELAY_URL"),
            "{text}"
        );
    }

    #[test]
    fn a_password_does_not_show_in_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let env = outside(&[("RELAY_AMQP_URL", "http://a:hunter2@x")]);
        let refused = find_broker(&folder(&dir), &env, "x").err().unwrap();
        assert!(!format!("{refused:#}").contains("hunter2"), "{refused:#}");
    }
}

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _},
    path::Path,
};

use url::Url;

use crate::{data::Running, found::own_command, output};

/// Says where everything is and what to try next. At a terminal the owner of the data folder reads it, and
/// sees the token and the broker's password. What is written elsewhere is read by who knows whom: it says
/// where they are kept.
pub(super) fn print(folder: &Path, running: &Running, token: &str) {
    let token = io::stdout().is_terminal().then_some(token);
    // The relay runs on where nobody reads this.
    let _ = output::try_say(&text(folder, running, token, own_command()));
}

/// Without a token it has no password either.
fn text(folder: &Path, running: &Running, token: Option<&str>, command: &str) -> String {
    let Running {
        url,
        metrics_url,
        amqp_url,
        namespace,
        ..
    } = running;
    let kept = |file: &str| format!("kept in {}/{file}", folder.display());
    let (token, amqp) = match token {
        Some(token) => (
            format!("{token}\n             {}", kept("token")),
            amqp_url.clone(),
        ),
        None => {
            let amqp = without_password(amqp_url);
            let password = kept("relay.json");
            (
                kept("token"),
                format!("{amqp}\n             with its password {password}"),
            )
        }
    };
    let mut text = format!(
        "
The relay is ready.

  HTTP API   {url}
  API token  {token}
  AMQP       {amqp}
             exchange {namespace}.events, routing key = the event's type
  Metrics    {metrics_url}/metrics
  Data       {}

Try next, in another terminal:

",
        folder.display()
    );
    if std::env::var_os("RELAY_DATA").is_some() || !is_default(folder) {
        let _ = writeln!(text, "  export RELAY_DATA={}", folder.display());
    }
    let _ = write!(
        text,
        "  {command} receive --port 9000
  {command} endpoint add --url http://127.0.0.1:9000/hook --types 'order.*' --retry 1s,5s,30s
  {command} publish --type order.created --data '{{\"order_id\": 42}}'
  {command} events list
"
    );
    text
}

fn is_default(folder: &Path) -> bool {
    let default = crate::data::DataArgs::default().folder();
    default.is_ok_and(|default| default.path() == folder)
}

/// An AMQP URL for everybody. Of what is no URL nothing is shown.
fn without_password(url: &str) -> String {
    let shown = Url::parse(url).ok().and_then(|mut url| {
        url.set_password(None).ok()?;
        Some(url.to_string())
    });
    shown.unwrap_or_else(|| "…".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running() -> Running {
        Running {
            url: "http://127.0.0.1:7400".to_owned(),
            metrics_url: "http://127.0.0.1:7401".to_owned(),
            amqp_url: "amqp://relay:pw@127.0.0.1:5673/%2f".to_owned(),
            namespace: "relay".to_owned(),
            pid: 1,
        }
    }

    #[test]
    fn others_are_told_where_the_secrets_are() {
        let text = text(Path::new("/data/here"), &running(), None, "relay");
        for told in [
            "  API token  kept in /data/here/token\n",
            "  AMQP       amqp://relay@127.0.0.1:5673/%2f\n             with its password kept in /data/here/relay.json\n",
        ] {
            assert!(text.contains(told), "{told} is missing in {text}");
        }
        assert!(!text.contains("pw"), "{text}");
        assert_eq!(without_password("amqp://:pw@host"), "amqp://host");
    }

    #[test]
    fn tells_all_there_is_to_know() {
        let text = text(Path::new("/data/here"), &running(), Some("the-token"), "relay");
        for told in [
            "http://127.0.0.1:7400",
            "the-token",
            "amqp://relay:pw@127.0.0.1:5673/%2f",
            "relay.events",
            "http://127.0.0.1:7401/metrics",
            "export RELAY_DATA=/data/here",
            r#"relay publish --type order.created --data '{"order_id": 42}'"#,
        ] {
            assert!(text.contains(told), "{told} is missing in {text}");
        }
    }
}

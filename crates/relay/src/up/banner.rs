use std::{
    fmt::Write as _,
    io::{self, Write as _},
    path::Path,
};

use crate::data::Running;

/// Says where everything is and what to try next. The owner of the data folder reads it, so the
/// token and the broker's password are shown.
pub(super) fn print(folder: &Path, running: &Running, token: &str) {
    // The relay runs on where nobody reads this.
    let _ = writeln!(io::stdout(), "{}", text(folder, running, token, &command()));
}

fn text(folder: &Path, running: &Running, token: &str, command: &str) -> String {
    let Running {
        url,
        metrics_url,
        amqp_url,
        namespace,
        ..
    } = running;
    let mut text = format!(
        "
The relay is ready.

  HTTP API   {url}
  API token  {token}
             kept in {}/token
  AMQP       {amqp_url}
             exchange {namespace}.events, routing key = the event's type
  Metrics    {metrics_url}/metrics
  Data       {}

Try next, in another terminal:

",
        folder.display(),
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

/// As the reader would run this program: built here, or installed.
fn command() -> String {
    let built = std::env::current_exe().is_ok_and(|path| path.ends_with("target/release/relay"));
    if built {
        "cargo relay".to_owned()
    } else {
        "relay".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_all_there_is_to_know() {
        let running = Running {
            url: "http://127.0.0.1:7400".to_owned(),
            metrics_url: "http://127.0.0.1:7401".to_owned(),
            amqp_url: "amqp://relay:pw@127.0.0.1:5673/%2f".to_owned(),
            namespace: "relay".to_owned(),
            pid: 1,
        };
        let text = text(Path::new("/data/here"), &running, "the-token", "relay");
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

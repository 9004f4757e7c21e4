//! The log: one line for each thing that happened, to standard error.

use std::io::{self, IsTerminal};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::text::LogLines;

/// Before any filter given. lapin reports each lost connection as several errors, where the relay
/// says it once itself, with what it does about it; naming `lapin` in the filter brings them back.
const ALWAYS: &str = "info,lapin=off";

/// How a log line looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people; coloured on a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The settings of the log, to be flattened into a program's own.
#[derive(Debug, Clone, Default, Args)]
pub struct LogArgs {
    /// How log lines look
    #[arg(
        long,
        help_heading = "Operating",
        env = "RELAY_LOG_FORMAT",
        value_name = "FORMAT",
        value_enum,
        default_value_t
    )]
    pub log_format: LogFormat,

    /// What is logged: a level, or levels by part, such as info,relay_deliverer=debug
    #[arg(
        long = "log",
        help_heading = "Operating",
        env = "RELAY_LOG",
        value_name = "FILTER",
        default_value = "info"
    )]
    pub log_filter: String,
}

/// Starts logging, once in a process.
///
/// # Errors
/// The filter does not parse, or logging was started before.
pub fn init(args: &LogArgs) -> anyhow::Result<()> {
    let filter = filter(&args.log_filter)?;
    let json = args.log_format == LogFormat::Json;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || LogLines::new(io::stderr(), json))
        .with_ansi(io::stderr().is_terminal() && wants_colours())
        // It would report a line that nobody reads by `eprintln!`, whose panic ends the task that logged.
        .log_internal_errors(false);
    match args.log_format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .try_init(),
    }
    .map_err(|error| anyhow::anyhow!(error))
    .context("could not start logging")
}

/// By <https://no-color.org>, and by what terminals without colours say of themselves.
fn wants_colours() -> bool {
    let said = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    said("NO_COLOR").is_none() && said("TERM").is_none_or(|term| term != "dumb")
}

pub(crate) fn filter(given: &str) -> anyhow::Result<EnvFilter> {
    // The parser's error names its cause twice, so it is taken as text.
    EnvFilter::try_new(format!("{ALWAYS},{given}")).map_err(|error| {
        anyhow::anyhow!("--log (RELAY_LOG): must be a level or levels by part, such as info,relay_deliverer=debug, not {given:?}: {error}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_of_one_s_own_leaves_lapin_quiet_unless_it_names_it() {
        let shown = |given| filter(given).unwrap().to_string();
        assert!(shown("debug").contains("lapin=off"));
        assert!(shown("debug").contains("debug"));
        assert!(!shown("debug").contains("info"));
        assert!(shown("lapin=warn").contains("lapin=warn"));
        assert!(!shown("lapin=warn").contains("off"));
    }

    #[test]
    fn a_filter_that_does_not_parse_names_the_setting() {
        let refused = filter("relay=loudly").unwrap_err().to_string();
        assert!(refused.contains("RELAY_LOG"), "{refused}");
        assert!(refused.contains("relay=loudly"), "{refused}");
    }
}

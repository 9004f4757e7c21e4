use clap::{ColorChoice, Parser, Subcommand};

use crate::{deliveries, dlq, endpoint, events, listen, publish, receive, reconcile, up};

const ENVIRONMENT: &str = "\
Environment, each instead of what the data folder says:
  RELAY_URL        the relay's HTTP address, such as https://relay.example.com
  RELAY_TOKEN      its API token
  RELAY_AMQP_URL   its broker, such as amqp://user:password@host:5672/%2f
  RELAY_NAMESPACE  the first word of its queues' names [default: relay]
And beside it:
  RELAY_DATA             the data folder [default: $XDG_DATA_HOME/event-relay, else ~/.local/share/event-relay]
  RELAY_MAX_EVENT_BYTES  the largest event that is published, and taken whole out of the dead-letter queue, as
                         the relay has it [default: 262144]

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by a signal before the end; some commands have \
others, as their --help tells.";

/// Publish an event once to RabbitMQ, and every consumer gets it as a signed webhook.
#[derive(Debug, Parser)]
#[command(name = "relay", version, color = ColorChoice::Never, after_help = ENVIRONMENT)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything in one process
    Up(up::UpArgs),
    /// Publish an event, or a file of them
    Publish(publish::PublishArgs),
    /// Look at the events that were published, follow them, and send one again
    #[command(subcommand)]
    Events(events::EventsCommand),
    /// See what became of events, endpoint by endpoint
    #[command(subcommand)]
    Deliveries(deliveries::DeliveriesCommand),
    /// Add, change and remove the endpoints that events are sent to, and send them what they missed
    #[command(subcommand)]
    Endpoint(endpoint::EndpointCommand),
    /// Look into the dead-letter queue and drain it
    #[command(subcommand)]
    Dlq(dlq::DlqCommand),
    /// Receive webhooks on this machine, check their signatures and show them
    Receive(receive::ReceiveArgs),
    /// Post events to a URL of this machine as they come, without an endpoint
    Listen(listen::ListenArgs),
    /// Find the events that a receiver missed, and deliver them to it
    Reconcile(reconcile::ReconcileArgs),
}

impl Command {
    /// Runs any command but `up`, which has a runtime of its own.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Up(_) => unreachable!("`relay up` is run by main"),
            Self::Publish(args) => publish::run(args).await,
            Self::Events(command) => events::run(command).await,
            Self::Deliveries(command) => deliveries::run(command).await,
            Self::Endpoint(command) => endpoint::run(command).await,
            Self::Dlq(command) => dlq::run(command).await,
            Self::Receive(args) => receive::run(args).await,
            Self::Listen(args) => listen::run(args).await,
            Self::Reconcile(args) => reconcile::run(args).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_fit_together() {
        Cli::command().debug_assert();
    }

    /// Every command that does something shows how it is used.
    #[test]
    fn every_help_has_an_example() {
        fn check(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            if command.has_subcommands() {
                command.get_subcommands().for_each(|sub| check(sub, &path));
            } else if path != " relay up" {
                let help = command.get_after_help().map(ToString::to_string);
                assert!(help.unwrap_or_default().contains("Example"), "{path}");
            }
        }
        check(&Cli::command(), "");
    }
}

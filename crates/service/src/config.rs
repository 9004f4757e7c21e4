use std::net::SocketAddr;

use clap::Args;

use crate::logging::LogArgs;

/// The settings of every daemon, to be flattened into its own.
#[derive(Debug, Clone, Args)]
pub struct ServiceArgs {
    /// Where /live, /ready and /metrics are served; they ask for no token. Port 0 takes any free
    /// port, which the log names
    #[arg(
        long,
        help_heading = "Operating",
        env = "RELAY_METRICS_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:7401"
    )]
    pub metrics_listen: SocketAddr,

    /// How the log is written.
    #[command(flatten)]
    pub log: LogArgs,
}

//! A private `rabbitmq-server`, run as a child process.
//!
//! It listens on loopback alone, keeps everything it knows in one folder, and is
//! found again there, with the same address and the same credentials, however it
//! ended. It never outlives its owner: see `supervisor.sh`.
//!
//! ```no_run
//! # async fn story() -> Result<(), relay_local_broker::Error> {
//! use relay_local_broker::{Config, LocalBroker};
//!
//! let broker = LocalBroker::start(Config::new("data/broker")).await?;
//! println!("publish to {}", broker.amqp_url());
//! broker.stop().await?;
//! # Ok(())
//! # }
//! ```

mod broker;
mod config;
mod console;
mod error;
mod folder;
mod identity;
mod launch;
mod places;
mod ports;
mod ready;
mod server;
mod settings;
mod supervisor;

pub use broker::LocalBroker;
pub use config::{Config, Member};
pub use error::Error;

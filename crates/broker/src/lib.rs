//! The only room that knows AMQP: the relay's exchanges and queues, the connection and its
//! supervision, publishing with confirms, taking messages and settling them, and how events look
//! on the wire.

mod acks;
mod announce;
mod batches;
mod broker;
mod channels;
mod config;
mod connection;
mod dead_letters;
mod dispatch;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod inspector;
mod log;
mod metrics;
mod new_queues;
mod publisher;
mod queue;
mod reconnect;
mod session;
mod settle;
mod topology;
mod transport;
mod wire;

pub use announce::{Changes, Recordings};
pub use batches::RECORDS_CONTENT_TYPE;
pub use broker::{Broker, Status};
pub use channels::Subscription;
pub use config::{BrokerUrl, Config, NEW_QUEUE_WAIT, Namespace};
pub use dead_letters::{DeadLetters, DeadMessage};
pub use dispatch::Dispatched;
pub use log::{Holds, Records};
pub use metrics::Metrics;
pub use publisher::PublishError;
pub use queue::Queue;
pub use reconnect::Delays;
pub use session::{Error, QueueDepth, Session};
pub use settle::{Part, Settlement, Taken, Unsettled};
pub use wire::{Arrival, Received, Refused};

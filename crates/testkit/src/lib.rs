//! What the journey tests stand on: a webhook receiver that misbehaves on demand, a proxy that cuts real
//! wires, real processes, a real RabbitMQ, a real PostgreSQL, and waiting on conditions instead of sleeping.
//!
//! A test would only unwrap, so everything here panics with a clear message instead of returning errors.
#![allow(
    clippy::unwrap_used,
    reason = "test support: a panic that says why is the error"
)]

mod amqp;
mod broker;
mod cluster;
mod folder;
mod names;
mod port;
mod postgres;
mod process;
mod proxy;
pub mod raw_amqp;
mod receiver;
mod tls;
mod wait;

pub use amqp::confirming;
pub use broker::{PrivateBroker, namespace, private_broker, private_broker_with, shared_broker};
pub use cluster::{Epmd, private_cluster};
pub use names::{NameServer, Says};
pub use postgres::{PrivatePostgres, database, private_postgres, shared_postgres};
pub use process::{Process, binary};
pub use proxy::{Proxy, Toward};
pub use receiver::{Answer, Receiver, Reply, Request, Then};
pub use tls::{Authority, Certificate, TlsFront, TlsManner};
pub use wait::{Seen, WAIT_LIMIT, wait_until, wait_until_within};

/// The value, also when another test thread panicked while holding the lock.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

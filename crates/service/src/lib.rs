//! What every process of the relay shares: its log, its shutdown by signals, its health and metrics
//! over HTTP, and the shell of a `main` around them.

pub mod args;
mod config;
pub mod connections;
mod daemon;
mod files;
mod health;
mod listen;
pub mod logging;
pub mod metrics;
mod server;
mod signals;
pub mod text;
mod tls;

pub use config::ServiceArgs;
pub use daemon::{Context, run, supervise};
pub use files::raise_open_files;
pub use health::{Component, Health};
pub use listen::{BindError, bind};
pub use server::serve;
pub use signals::shutdown_on_signals;
pub use tls::install_crypto;

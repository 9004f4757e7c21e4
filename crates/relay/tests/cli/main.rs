//! The commands of `relay` as a user runs them, against a real broker.
#![allow(clippy::unwrap_used, reason = "a test only unwraps")]

mod drain;
mod drain_interrupted;
mod list;
mod publish;
mod publish_file;
mod publish_http;
mod receive;
mod receive_relay;
mod support;

//! The commands of `relay` as a user runs them, against a real broker or a stand-in
//! for the HTTP API.
#![allow(clippy::unwrap_used, reason = "a test only unwraps")]

mod deliveries;
mod drain;
mod drain_interrupted;
mod events;
mod follow;
mod gateway;
mod interrupted;
mod list;
mod listen;
mod publish;
mod publish_callback;
mod publish_file;
mod publish_http;
mod publish_wait;
mod receive;
mod receive_relay;
mod reconcile;
mod recover;
mod refusals;
mod removed;
mod secrets;
mod shown;
mod stats;
mod stdin;
mod support;
mod up;

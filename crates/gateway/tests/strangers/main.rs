//! Strangers at the door of a running gateway: what they may use up, and what they are told.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod bodies;
mod connections;
mod gateway;
mod heads;
mod sockets;
mod tokens;

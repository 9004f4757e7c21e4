//! The crate on a real broker: what becomes of a message on each of its ways.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod consumers;
mod dead_letters;
mod declared;
mod held;
mod late;
mod parts;
mod relay;

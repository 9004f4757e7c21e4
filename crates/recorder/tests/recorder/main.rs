//! The recorder against a real broker and a real store.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod dispatch;
mod hostile;
mod log;
mod outages;
mod relay;
mod takeover;

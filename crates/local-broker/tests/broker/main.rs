//! A private broker from outside, with the real server.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod lifecycle;
mod refusals;
mod support;

//! A private broker from outside, with the real server.

#![allow(clippy::unwrap_used)]

mod lifecycle;
mod refusals;
mod support;

//! The whole gateway over real HTTP, on a real broker and a real store.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod access;
mod dates;
mod encodings;
mod endpoints;
mod events;
mod feed;
mod log;
mod outages;
mod pages;
mod protocol;
mod publish;
mod relay;
mod resend;

//! The store on real databases: a file each, and a PostgreSQL that the tests start for themselves.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod make;
mod place;

mod confirmed;
mod consumers;
mod endpoints;
mod feed;
mod files;
mod fleet;
mod order;
mod pages;
mod records;
mod retention;
mod servers;
mod webhook_ids;

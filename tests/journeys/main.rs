//! Journeys through the real processes on a real broker, as users and their bad weather have them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod browser;
mod callback;
mod clients;
mod closed_off;
mod cloudevents;
mod dead_letters;
mod delivery;
mod deploy;
mod feed;
mod history;
mod hostile;
mod ledger;
mod listen;
mod log;
mod message;
mod misbehaviour;
mod names;
mod openapi;
mod outage;
mod plain;
mod poison;
mod publish;
mod reconcile;
mod removal;
mod retries;
mod selection;
mod topics;
mod up;
mod weather;
mod webhook_ids;

//! The management plane as its users and its neighbours meet it: over HTTP and the feed, on a real Postgres.
#![allow(clippy::unwrap_used)]

mod bad_input;
mod support;

//! The management plane as its users and its neighbours meet it: over HTTP and the feed, on a real Postgres.
#![allow(clippy::unwrap_used)]

mod access;
mod audits;
mod bad_input;
mod central;
mod concurrency;
mod feed;
mod iam;
mod outage;
mod past;
mod settings;
mod support;
mod writes;

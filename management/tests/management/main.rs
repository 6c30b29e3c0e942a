//! The management plane as its users and its neighbours meet it: over HTTP and the feed, on a real Postgres.
#![allow(clippy::unwrap_used)]

mod access;
mod approvals;
mod audit_keeping;
mod audit_streams;
mod audits;
mod backup;
mod bad_input;
mod break_glass;
mod central;
mod computations;
mod concurrency;
mod contract;
mod device;
mod explain;
mod feed;
mod grants;
mod handovers;
mod iam;
mod idempotency;
mod keys;
mod kinds;
mod login;
mod managed;
mod matrix;
mod oidc;
mod outage;
mod past;
mod plans;
mod programs;
mod replicas;
mod second_wall;
mod settings;
mod support;
mod wire;
mod writes;

//! A whole central between a management and edges that speak the real feed over real mTLS, in one process.
#![allow(clippy::unwrap_used)]

mod last_good;
mod order;
mod peers;
mod refusals;
mod routes;
mod world;

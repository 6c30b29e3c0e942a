//! The edge.

mod ads;
mod encode;
mod fleet;
mod metrics;
mod snapshot;

//! The brain of the mesh: what users want and what clusters have, made into what every proxy runs.
//!
//! Every pass is a pure, total, deterministic function; `lower(plan(resolve(intent), reports), view)` is the
//! specification of the whole system. There is no clock, no environment, no I/O and no wire format in this crate.

pub mod behaviour;
mod claims;
pub mod effective;
pub mod enforcement;
pub mod explain;
pub mod fields;
pub mod finding;
pub mod http;
pub mod intent;
pub mod invariant;
pub mod lower;
pub mod name;
pub mod observe;
pub mod persistent;
pub mod plan;
pub mod proxy;
pub mod readiness;
pub mod report;
pub mod resolve;
pub mod roll_up;
pub mod routes;
pub mod schema;
pub mod search;
pub mod selector;
pub mod setting;
pub mod touched;
pub mod url;
pub mod view;

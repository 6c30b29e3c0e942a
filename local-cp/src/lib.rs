//! The edge: the control plane of one cluster. It tells the centrals what its platform has, lowers the slice that they
//! give it onto that, and serves the result to the cluster's proxies over xDS; with its last good state it does so
//! without anybody above.

mod admin;
mod ads;
mod authorities;
mod edge;
mod encode;
mod feed;
mod fleet;
mod keep;
mod key_hosts;
mod metrics;
mod plaintext;
mod platform;
mod quota;
mod report;
mod snapshot;
#[cfg(test)]
mod testing;

pub use authorities::BadAuthorities;
pub use edge::{Config, EdgeError, Running, run, start};
pub use plaintext::Plaintext;

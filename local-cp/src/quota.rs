//! Parts of limits over all proxies (docs/adr/0011): proxies report what they use of a bucket, and are assigned what they may use.
//! What is known of a bucket is what was reported of it, and its limit is a part of its id, so that an edge that starts anew knows
//! all after an interval.

mod divide;
mod ledger;
mod limit;
pub(crate) mod server;

pub(crate) use limit::{GATEWAY, NAME as LIMIT};

/// Whether it is what a bucket may say as its limit.
#[cfg(test)]
pub(crate) fn is_limit(said: &str) -> bool {
    limit::Limit::parse(said).is_some()
}

//! Code generated from `proto/`; `tests/generated.rs` keeps it up to date.

#[allow(clippy::all, clippy::wildcard_imports, unreachable_pub, unused_qualifications)]
#[rustfmt::skip]
#[path = "generated/feed.rs"]
pub(crate) mod feed;

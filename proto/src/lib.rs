//! The wire between our planes: the `feed`, one session for both sides of both hops (management, central,
//! edge), and the bytes around it. What travels is named resources whose bodies the session never parses.

pub mod codec;
pub mod frame;
pub mod held;
pub mod link;

pub mod resource;
pub mod session;

mod generated;
#[cfg(test)]
mod replica;

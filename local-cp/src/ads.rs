//! The last hop: ADS to the proxies of one cluster, delta and state of the world. The session decides (sans I/O), the server
//! moves bytes.

pub(crate) mod blame;
pub(crate) mod node;
pub(crate) mod server;
pub(crate) mod session;
pub(crate) mod wire;
pub(crate) mod world;

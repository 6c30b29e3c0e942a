//! The last hop: delta ADS to the proxies of one cluster. The session decides (sans I/O), the server moves bytes.

pub(crate) mod blame;
pub(crate) mod node;
pub(crate) mod server;
pub(crate) mod session;
pub(crate) mod wire;

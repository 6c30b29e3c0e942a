//! What the tests share: an edge, hosts, clients, and a proxy between them.

pub(crate) mod ads;
pub(crate) mod asking;
pub(crate) mod authorizer;
pub(crate) mod certs;
pub(crate) mod clients;
pub(crate) mod collector;
pub(crate) mod limiter;
pub(crate) mod mesh;
pub(crate) mod proxy;
pub(crate) mod quotas;
pub(crate) mod site;
pub(crate) mod stage;
pub(crate) mod upstream;

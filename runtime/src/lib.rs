//! Process plumbing of the four planes: telemetry, shutdown and drain, the admin port, TLS identities with
//! reload, backoff and last-good files. It knows no mesh noun and never will: what a file, a readiness
//! condition or a connection means is its caller's.

pub mod admin;
pub mod authority;
pub mod backoff;
pub mod incarnation;
pub mod last_good;
pub mod plane_id;
pub mod shutdown;
pub mod telemetry;
pub mod tls;

mod replace;

//! The management plane: what users want, kept in Postgres, written over REST, and published to the centrals. It
//! owns tenancy, IAM and audit, and knows nothing of what proxies run but what is reported.

pub mod account_key;
mod api;
mod approval;
pub mod audit;
mod break_glass;
mod change;
mod change_plan;
pub mod delivery;
mod denial;
mod document;
pub mod embedded;
mod feed;
mod guard;
mod handover;
mod history;
pub mod iam;
mod idempotency;
mod keeper;
mod limit;
mod login;
mod managed;
mod mesh;
mod metrics;
mod outbound;
mod pem;
mod problem;
mod questions;
mod quota;
mod realm;
mod reply;
mod report_history;
mod server;
mod site;
mod snapshot;
mod store;
mod token;
mod unenforced;
mod wish;
mod writer;

pub use break_glass::BreakGlassError;
pub use login::{LoginConfig, OidcConfig, OidcError};
pub use outbound::OutboundError;
pub use server::{AuditConfig, Config, ManagementError, Running, run, start};
pub use site::SiteError;
pub use store::StoreError;

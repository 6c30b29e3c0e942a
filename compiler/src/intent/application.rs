//! Applications and their APIs: an OpenAPI document that becomes the routes of a gateway.

use schemars::JsonSchema;
use serde::Deserialize;

use super::openapi::OpenApi;
use crate::http::ServiceBackend;
use crate::name::{Fqn, WorkloadId};

/// What a team offers, as its users know it: the APIs below it are served by one workspace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Application {
    /// A workspace of the same tenant, whose services answer.
    pub workspace: Fqn,
}

/// One version of an interface. The hosts and the base path are those of the document's servers, and each of its
/// operations becomes a route; a request that is no operation finds none.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Api {
    /// OpenAPI 3.0 or 3.1.
    pub openapi: OpenApi,
    /// The gateway that serves it, as in [`Gateway`](super::Gateway).
    pub workload: WorkloadId,
    /// The workspace that lends the hosts by a reference grant, where they are not the application's own.
    pub hosts_from: Option<Fqn>,
    pub port: std::num::NonZeroU16,
    /// Services of the application's workspace.
    pub backend_refs: Vec<ServiceBackend>,
    /// Whether a request that the document does not describe in full (parameters, body) is refused with 400.
    #[serde(default)]
    pub validate_requests: bool,
}

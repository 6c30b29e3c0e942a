//! Requests and responses of ADS, delta and state of the world, in our own words, and their conversion from and to Envoy's.

use std::collections::BTreeMap;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest as PbRequest, DeltaDiscoveryResponse as PbResponse,
    DiscoveryRequest as PbWorldRequest, DiscoveryResponse as PbWorldResponse, Resource as PbResource,
};
use envoy_types::pb::google::protobuf::Any;

use crate::encode::{Encoded, Kind};

/// What a proxy says about one type of resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) kind: Kind,
    pub(crate) subscribe: Vec<String>,
    pub(crate) unsubscribe: Vec<String>,
    /// What it holds from an earlier stream, by name.
    pub(crate) initial_versions: BTreeMap<String, String>,
    pub(crate) answer: Option<Answer>,
}

/// What a proxy says to a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) nonce: String,
    /// The proxy's own words when it refuses.
    pub(crate) refused: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Response {
    pub(crate) kind: Kind,
    pub(crate) nonce: String,
    pub(crate) put: Vec<Put>,
    pub(crate) removed: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Put {
    pub(crate) name: String,
    pub(crate) encoded: Arc<Encoded>,
}

/// What a proxy says about one type of resource, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WorldRequest {
    pub(crate) kind: Kind,
    pub(crate) names: Vec<String>,
    /// Of the last response that it took, on this stream or before; empty if there was none.
    pub(crate) version: String,
    /// Of the last response on this stream; empty if there was none.
    pub(crate) nonce: String,
    pub(crate) refused: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WorldResponse {
    pub(crate) kind: Kind,
    pub(crate) version: String,
    pub(crate) nonce: String,
    pub(crate) resources: Vec<Any>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("type_url {given:?} is not served; use listeners, clusters, route configurations or endpoints of v3")]
pub(crate) struct UnknownType {
    given: String,
}

impl Request {
    pub(crate) fn nothing(kind: Kind) -> Request {
        Request {
            kind,
            subscribe: Vec::new(),
            unsubscribe: Vec::new(),
            initial_versions: BTreeMap::new(),
            answer: None,
        }
    }
}

impl TryFrom<PbRequest> for Request {
    type Error = UnknownType;

    fn try_from(request: PbRequest) -> Result<Request, UnknownType> {
        let kind = kind(&request.type_url)?;
        let refused = request.error_detail.map(|status| status.message);
        Ok(Request {
            kind,
            subscribe: request.resource_names_subscribe,
            unsubscribe: request.resource_names_unsubscribe,
            initial_versions: request.initial_resource_versions.into_iter().collect(),
            answer: (!request.response_nonce.is_empty()).then_some(Answer {
                nonce: request.response_nonce,
                refused,
            }),
        })
    }
}

impl From<Response> for PbResponse {
    fn from(response: Response) -> PbResponse {
        let resource = |put: Put| PbResource {
            name: put.name,
            version: put.encoded.version.clone(),
            resource: Some(put.encoded.body.clone()),
            ..PbResource::default()
        };
        PbResponse {
            type_url: response.kind.type_url().to_owned(),
            nonce: response.nonce,
            resources: response.put.into_iter().map(resource).collect(),
            removed_resources: response.removed,
            ..PbResponse::default()
        }
    }
}

impl TryFrom<PbWorldRequest> for WorldRequest {
    type Error = UnknownType;

    fn try_from(request: PbWorldRequest) -> Result<WorldRequest, UnknownType> {
        Ok(WorldRequest {
            kind: kind(&request.type_url)?,
            names: request.resource_names,
            version: request.version_info,
            nonce: request.response_nonce,
            refused: request.error_detail.map(|status| status.message),
        })
    }
}

impl From<WorldResponse> for PbWorldResponse {
    fn from(response: WorldResponse) -> PbWorldResponse {
        PbWorldResponse {
            type_url: response.kind.type_url().to_owned(),
            version_info: response.version,
            nonce: response.nonce,
            resources: response.resources,
            ..PbWorldResponse::default()
        }
    }
}

fn kind(type_url: &str) -> Result<Kind, UnknownType> {
    Kind::from_type_url(type_url).ok_or_else(|| UnknownType {
        given: type_url.chars().take(200).collect(),
    })
}

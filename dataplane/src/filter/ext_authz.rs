//! `envoy.filters.http.ext_authz`: a service that is asked whether a request may go on, and as what. What it is told and what its
//! answer means is here; who asks it is `asking`.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::address::Address as PbAddressKind;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{Address as PbAddress, QueryParameter, SocketAddress};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request as PbRequest};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{
    AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use envoy_types::pb::google::protobuf::Timestamp;
use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{StatusCode, Version};

use super::Answer;
use crate::exchange::{Flag, REQUEST_ID};
use crate::grpc_call::Callee;
use crate::header_changes::{HeaderChanges, Of, Unfit};
use crate::matcher::StringMatcher;

pub(crate) const PATH: PathAndQuery = PathAndQuery::from_static("/envoy.service.auth.v3.Authorization/Check");
/// Tells the service whether it has seen all of a body; no client may say it.
const PARTIAL_BODY: &str = "x-envoy-auth-partial-body";
/// Tells a host that nobody was there to say whether the request may come.
const FAILURE_ALLOWED: HeaderName = HeaderName::from_static("x-envoy-auth-failure-mode-allowed");

/// A service, and what routes tell it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ExtAuthz {
    pub(crate) service: Arc<Authorizer>,
    pub(crate) settings: Option<Arc<CheckSettings>>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Authorizer {
    pub(crate) callee: Callee,
    pub(crate) on_error: OnError,
    pub(crate) body: Option<Shown>,
    /// Headers that it is told; all of them, if nothing is said.
    pub(crate) allowed: Option<Vec<StringMatcher>>,
    pub(crate) disallowed: Vec<StringMatcher>,
}

/// What becomes of requests if the service says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnError {
    GoOn { says_so: bool },
    Answer(StatusCode),
}

/// How much of a body the service is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) bytes_max: usize,
    /// Whether it takes the begin of a larger one.
    pub(crate) partial: bool,
    pub(crate) as_bytes: bool,
}

/// What a route says to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CheckSettings {
    pub(crate) extensions: BTreeMap<String, String>,
    pub(crate) body: RouteBody,
}

/// How much of a body it is shown on a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum RouteBody {
    #[default]
    AsElsewhere,
    Nothing,
    Shown(Shown),
}

/// What the service is told of a request.
pub(crate) struct Case<'a> {
    pub(crate) source: SocketAddr,
    /// Who the client is by its certificate, if it has shown one.
    pub(crate) principal: &'a str,
    pub(crate) destination: SocketAddr,
    pub(crate) came: SystemTime,
    pub(crate) head: &'a http::request::Parts,
    pub(crate) scheme: &'static str,
    pub(crate) authority: &'a str,
    /// The path with its query.
    pub(crate) target: &'a str,
    /// Whether no body belongs to it.
    pub(crate) is_bodiless: bool,
    pub(crate) body: Option<Begin>,
}

/// Of a body, as much as is shown.
pub(crate) struct Begin {
    pub(crate) bytes: Vec<u8>,
    pub(crate) is_whole: bool,
}

/// What became of asking.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Said {
    /// In place of going on.
    pub(crate) answer: Option<Answer>,
    pub(crate) request: HeaderChanges,
    pub(crate) query: QueryChanges,
    /// To the answer's head, whoever gives it.
    pub(crate) response: HeaderChanges,
}

#[derive(Debug, Default, PartialEq)]
pub(crate) struct QueryChanges {
    set: Vec<(String, String)>,
    removed: Vec<String>,
}

impl ExtAuthz {
    /// How much of a body the service is shown.
    pub(crate) fn body(&self) -> Option<Shown> {
        match self.settings.as_ref().map(|settings| settings.body) {
            None | Some(RouteBody::AsElsewhere) => self.service.body,
            Some(RouteBody::Nothing) => None,
            Some(RouteBody::Shown(shown)) => Some(shown),
        }
    }

    pub(crate) fn request(&self, case: Case<'_>) -> CheckRequest {
        let headers = self.service.headers(&case);
        let http = HttpRequest {
            id: headers_line(&case.head.headers, &REQUEST_ID),
            method: case.head.method.to_string(),
            headers,
            path: case.target.to_owned(),
            host: case.authority.to_owned(),
            scheme: case.scheme.to_owned(),
            size: size(&case),
            protocol: protocol(case.head.version).to_owned(),
            ..HttpRequest::default()
        };
        let http = match case.body {
            Some(begin) if self.body().is_some_and(|shown| shown.as_bytes) => HttpRequest {
                raw_body: begin.bytes,
                ..http
            },
            Some(begin) => HttpRequest {
                body: readable(&begin.bytes),
                ..http
            },
            None => http,
        };
        let extensions = self.settings.iter().flat_map(|settings| &settings.extensions);
        let attributes = AttributeContext {
            source: Some(Peer {
                principal: case.principal.to_owned(),
                ..peer(case.source)
            }),
            destination: Some(peer(case.destination)),
            request: Some(PbRequest {
                time: Some(timestamp(case.came)),
                http: Some(http),
            }),
            context_extensions: extensions
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            ..AttributeContext::default()
        };
        CheckRequest {
            attributes: Some(attributes),
        }
    }

    /// What an answer means.
    pub(crate) fn said(&self, response: CheckResponse) -> Said {
        const OK: i32 = 0;
        // Where it is not said it is 0, as nothing that is not said is anything else.
        let is_allowed = response.status.is_none_or(|status| status.code == OK);
        let said = match response.http_response {
            Some(HttpResponse::ErrorResponse(error)) => self.failed_with(error),
            Some(HttpResponse::OkResponse(changes)) if is_allowed => allowed(changes),
            _ if is_allowed => Ok(Said::default()),
            Some(HttpResponse::DeniedResponse(denied)) => refused(denied, StatusCode::FORBIDDEN),
            _ => refused(DeniedHttpResponse::default(), StatusCode::FORBIDDEN),
        };
        said.unwrap_or_else(|_| Said {
            answer: Some(unfit()),
            ..Said::default()
        })
    }

    /// What becomes of a request if there was no answer.
    pub(crate) fn failed(&self) -> Said {
        let mut said = Said::default();
        match self.service.on_error {
            OnError::GoOn { says_so: true } => {
                said.request
                    .set(FAILURE_ALLOWED, HeaderValue::from_static("true"));
            }
            OnError::GoOn { says_so: false } => {}
            OnError::Answer(status) => said.answer = Some(answer(status, Bytes::new())),
        }
        said
    }

    fn failed_with(&self, error: DeniedHttpResponse) -> Result<Said, Unfit> {
        match self.service.on_error {
            OnError::GoOn { .. } => Ok(self.failed()),
            OnError::Answer(status) => refused(error, status),
        }
    }
}

impl Authorizer {
    fn headers(&self, case: &Case<'_>) -> HashMap<String, String> {
        let head = case.head;
        let text = |text: &str| text.as_bytes().to_vec();
        let pseudo = [
            (":authority", text(case.authority)),
            (":method", text(head.method.as_str())),
            (":path", text(case.target)),
            (":scheme", text(case.scheme)),
        ];
        let names = head
            .headers
            .keys()
            .filter(|name| **name != HOST && *name != PARTIAL_BODY);
        let lines = names.map(|name| {
            let lines: Vec<&[u8]> = head
                .headers
                .get_all(name)
                .iter()
                .map(HeaderValue::as_bytes)
                .collect();
            (name.as_str(), lines.join(&b","[..]))
        });
        let shown = pseudo
            .into_iter()
            .chain(lines)
            .filter(|(name, _)| self.shows(name));
        let mut headers: HashMap<String, String> = shown
            .map(|(name, value)| (name.to_owned(), readable(&value)))
            .collect();
        if let Some(begin) = &case.body {
            headers.insert(PARTIAL_BODY.to_owned(), (!begin.is_whole).to_string());
        }
        headers
    }

    fn shows(&self, name: &str) -> bool {
        let is_in =
            |matchers: &[StringMatcher]| matchers.iter().any(|matcher| matcher.matches(name.as_bytes()));
        self.allowed.as_deref().is_none_or(is_in) && !is_in(&self.disallowed)
    }
}

impl QueryChanges {
    /// What is removed is so after it was set.
    fn new(set: Vec<QueryParameter>, removed: Vec<String>) -> Self {
        let set = set.into_iter().map(|parameter| (parameter.key, parameter.value));
        let set = set.filter(|(key, _)| !removed.contains(key));
        Self {
            set: set.collect(),
            removed,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.set.is_empty() && self.removed.is_empty()
    }

    /// `target` with other parameters, none of them escaped for whoever says them.
    pub(crate) fn applied(&self, target: &PathAndQuery) -> Result<PathAndQuery, Unfit> {
        let name = |parameter: &str| parameter.split('=').next().unwrap_or_default().to_owned();
        let is_changed = |parameter: &&str| {
            let name = name(parameter);
            self.set.iter().any(|(set, _)| *set == name) || self.removed.contains(&name)
        };
        let parts = target.query().unwrap_or_default().split('&');
        let kept = parts
            .filter(|parameter| !parameter.is_empty() && !is_changed(parameter))
            .map(str::to_owned);
        let set = self.set.iter().map(|(name, value)| format!("{name}={value}"));
        let query = kept.chain(set).collect::<Vec<_>>().join("&");
        if query.contains('#') {
            // What is behind it would be lost.
            return Err(Unfit::Malformed);
        }
        let separator = if query.is_empty() { "" } else { "?" };
        let whole = format!("{}{separator}{query}", target.path());
        PathAndQuery::try_from(whole).map_err(|_| Unfit::Malformed)
    }
}

fn allowed(ok: OkHttpResponse) -> Result<Said, Unfit> {
    let mut said = Said {
        query: QueryChanges::new(ok.query_parameters_to_set, ok.query_parameters_to_remove),
        ..Said::default()
    };
    said.request.change(ok.headers, Of::Request)?;
    said.request.remove(&ok.headers_to_remove);
    said.response.change(ok.response_headers_to_add, Of::Answer)?;
    Ok(said)
}

fn refused(denied: DeniedHttpResponse, default: StatusCode) -> Result<Said, Unfit> {
    let status = match denied.status.map(|status| status.code) {
        None | Some(0) => default,
        Some(code) => u16::try_from(code)
            .ok()
            .filter(|code| (200..600).contains(code))
            .and_then(|code| StatusCode::from_u16(code).ok())
            .ok_or(Unfit::Malformed)?,
    };
    // Nothing may stand behind the heads of these.
    let body = match status {
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => Bytes::new(),
        _ => denied.body.into(),
    };
    let mut said = Said {
        answer: Some(answer(status, body)),
        ..Said::default()
    };
    said.response.change(denied.headers, Of::Refusal)?;
    Ok(said)
}

/// To what cannot be done: nobody knows what was meant, so the request does not go on.
pub(crate) fn unfit() -> Answer {
    answer(StatusCode::INTERNAL_SERVER_ERROR, Bytes::new())
}

fn answer(status: StatusCode, body: Bytes) -> Answer {
    Answer {
        status,
        code: None,
        flag: Flag::Unauthorized,
        body,
    }
}

fn peer(address: SocketAddr) -> Peer {
    Peer {
        address: Some(PbAddress {
            address: Some(PbAddressKind::SocketAddress(SocketAddress {
                address: address.ip().to_string(),
                port_specifier: Some(PortSpecifier::PortValue(address.port().into())),
                ..SocketAddress::default()
            })),
        }),
        ..Peer::default()
    }
}

fn headers_line(headers: &HeaderMap, name: &HeaderName) -> String {
    headers
        .get(name)
        .map(|value| readable(value.as_bytes()))
        .unwrap_or_default()
}

/// With `!` for what is not UTF-8.
fn readable(value: &[u8]) -> String {
    let mut text = String::with_capacity(value.len());
    for chunk in value.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '!'));
    }
    text
}

/// Of the body; -1 where nobody knows.
fn size(case: &Case<'_>) -> i64 {
    let said = case.head.headers.get(CONTENT_LENGTH);
    let said = said.and_then(|said| said.to_str().ok()?.parse().ok());
    let read = case.body.as_ref().filter(|body| body.is_whole);
    let read = read.and_then(|body| i64::try_from(body.bytes.len()).ok());
    said.or(read).unwrap_or(if case.is_bodiless { 0 } else { -1 })
}

fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

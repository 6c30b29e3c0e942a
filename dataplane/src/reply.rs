//! Answers of the proxy's own, in the manners of who asked: a call of gRPC is answered with 200 and a status of its own, and
//! says in a header what others find in the body.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use crate::attempt::Refusal;
use crate::body::ResponseBody;
use crate::config::{HeaderEdits, Redirect};
use crate::exchange::{Exchange, Flag};
use crate::grpc::{self, Code, GRPC_MESSAGE, GRPC_STATUS};

/// Says that the request was refused for there being too many.
const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");
/// Says that the proxy itself has too much.
const LOCAL_OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-local-overloaded");
/// Says that it is of the share that is refused.
const DROPPED: HeaderName = HeaderName::from_static("x-envoy-drop-overload");
const ALL_DROPPED: HeaderName = HeaderName::from_static("x-envoy-unconditional-drop-overload");

/// What is said.
pub(crate) struct Reply {
    status: StatusCode,
    flag: Flag,
    body: Bytes,
    /// To a call, where it is not what the status means.
    code: Option<Code>,
    header: Option<(HeaderName, HeaderValue)>,
    /// What its route does to it.
    edits: Option<Arc<HeaderEdits>>,
}

pub(crate) fn refuse(mut exchange: Exchange, refusal: Refusal) -> Response<ResponseBody> {
    exchange.decided(|| Some(refusal.reason.clone()));
    let reply = Reply::new(refusal.status, refusal.reason.into(), refusal.flag);
    let name = match refusal.flag {
        Flag::Overflow => Some(OVERLOADED),
        Flag::Dropped => Some(DROPPED),
        Flag::AllDropped => Some(ALL_DROPPED),
        Flag::Overloaded => Some(LOCAL_OVERLOADED),
        _ => None,
    };
    Reply {
        header: name.map(|name| (name, HeaderValue::from_static("true"))),
        ..reply
    }
    .send(exchange)
}

/// Sends the client elsewhere.
pub(crate) fn lead(exchange: Exchange, redirect: &Redirect, location: &str) -> Response<ResponseBody> {
    let Ok(location) = HeaderValue::from_str(location) else {
        return refuse(
            exchange,
            Refusal::bad_request("the redirect leads to a malformed URL"),
        );
    };
    Reply {
        header: Some((header::LOCATION, location)),
        ..Reply::new(redirect.status, Bytes::new(), Flag::None)
    }
    .with_edits(&redirect.response_edits)
    .send(exchange)
}

impl Reply {
    pub(crate) fn new(status: StatusCode, body: Bytes, flag: Flag) -> Self {
        Self {
            status,
            flag,
            body,
            code: None,
            header: None,
            edits: None,
        }
    }

    pub(crate) fn with_code(self, code: Option<Code>) -> Self {
        Self { code, ..self }
    }

    pub(crate) fn with_edits(self, edits: &Arc<HeaderEdits>) -> Self {
        Self {
            edits: (!edits.is_empty()).then(|| Arc::clone(edits)),
            ..self
        }
    }

    pub(crate) fn send(self, mut exchange: Exchange) -> Response<ResponseBody> {
        let mut response = Response::new(ResponseBody::Full(None));
        let headers = response.headers_mut();
        headers.extend(self.header.map(|(name, value)| (Some(name), value)));
        if let Some(edits) = self.edits {
            // Not behind what frames it.
            edits.apply(headers);
        }
        let is_call = exchange.is_call();
        let (status, body) = if is_call {
            let code = self.code.unwrap_or_else(|| Code::of(self.status));
            headers.insert(GRPC_STATUS, code.value());
            if !self.body.is_empty() {
                headers.insert(GRPC_MESSAGE, grpc::message(&self.body));
            }
            (StatusCode::OK, Bytes::new())
        } else {
            if self.body.is_empty() {
                headers.remove(header::CONTENT_TYPE);
            } else {
                // Unless the route has said what it is.
                let unsaid = headers.entry(header::CONTENT_TYPE);
                unsaid.or_insert(HeaderValue::from_static("text/plain"));
            }
            (self.status, self.body)
        };
        if exchange.wants_close() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if !body.is_empty() {
            headers.insert(header::CONTENT_LENGTH, body.len().into());
        }
        // Whoever writes an answer over HTTP/2 does not look at the method.
        let body = if exchange.is_head() { Bytes::new() } else { body };
        exchange.respond(status.as_u16());
        exchange.edit(headers);
        if is_call && !is_of_grpc(headers) {
            // Whatever somebody would have shown to a browser.
            headers.insert(header::CONTENT_TYPE, grpc::CONTENT_TYPE);
        }
        exchange.answered(headers);
        exchange.sent(body.len() as u64);
        exchange.end(self.flag);
        *response.status_mut() = status;
        if !body.is_empty() {
            *response.body_mut() = ResponseBody::Full(Some(body));
        }
        response
    }
}

/// Whether it is one, over the web too.
fn is_of_grpc(headers: &HeaderMap) -> bool {
    let given = headers.get(header::CONTENT_TYPE);
    given.is_some_and(|given| given.as_bytes().starts_with(b"application/grpc"))
}

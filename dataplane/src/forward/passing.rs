//! A host's answer on its way to the client.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Response};
use hyper::body::Body;

use super::head::strip_hop_by_hop;
use crate::body::{HostBody, ResponseBody, UpstreamBody};
use crate::config::HeaderEdits;
use crate::deadline::{Deadline, Watch};
use crate::exchange::{Exchange, Flag};
use crate::grpc;
use crate::gunzip::Gunzip;
use crate::headers;
use crate::pool::Lease;
use crate::recode::{Recoder, Recoding};
use crate::reply::Reply;
use crate::tunnel::Tunnel;

/// A host's answer, with what it comes over and how long it may.
pub(super) struct Answered {
    pub(super) response: Response<HostBody>,
    pub(super) lease: Lease,
    pub(super) deadline: Deadline,
}

/// Whether an answer is one to a call of gRPC.
fn is_of_call(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE);
    content_type.is_some_and(|content_type| grpc::is_call(content_type.as_bytes()))
}

/// Passes the response on, and the rest of the exchange to its body.
pub(super) fn pass(
    mut exchange: Exchange,
    answered: Answered,
    edits: &HeaderEdits,
    recoding: &Recoding,
) -> Response<ResponseBody> {
    let Answered {
        response,
        lease,
        deadline,
    } = answered;
    let (mut parts, mut incoming) = response.into_parts();
    if recoding.web.is_some() && !is_of_call(&parts.headers) {
        // Whoever made the call understands nothing else.
        let reason = Bytes::from_static(b"the host's answer is none of gRPC");
        return Reply::new(parts.status, reason, Flag::None).send(exchange);
    }
    parts.version = http::Version::HTTP_11;
    parts.extensions.clear();
    let mut unfit = strip_hop_by_hop(&mut parts.headers);
    unfit.extend(edits.names().cloned());
    edits.apply(&mut parts.headers);
    if exchange.wants_close() {
        parts
            .headers
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    exchange.respond(parts.status.as_u16());
    let has_body =
        !exchange.is_head() && !incoming.is_end_stream() && !matches!(incoming, HostBody::Switched(_));
    if let Some(by) = recoding.decompress.as_ref().filter(|_| has_body)
        && by.begin_answer(parts.status, &mut parts.headers)
    {
        incoming = HostBody::Zipped(Box::new((incoming, Gunzip::new(by.ratio_max))));
    }
    let level = match (&recoding.compress, &incoming) {
        (None, _) | (_, HostBody::Switched(_)) => None,
        (Some(compress), _) => compress.begin(
            exchange.is_head() || incoming.is_end_stream(),
            parts.status,
            &mut parts.headers,
        ),
    };
    if recoding.web.is_some() && !incoming.is_end_stream() {
        // There is a message more for the trailers, and each byte may become a longer text.
        headers::remove(&mut parts.headers, &[header::CONTENT_LENGTH]);
    }
    exchange.edit(&mut parts.headers);
    exchange.answered(&parts.headers);
    if let HostBody::Switched(host) = incoming {
        let tunnel = Tunnel {
            host: *host,
            _lease: lease,
            exchange,
            idle: deadline.stream_idle,
            until: deadline.until,
        };
        return Response::from_parts(parts, ResponseBody::Tunnel(Box::new(tunnel)));
    }
    if incoming.is_end_stream() {
        incoming.keep(&lease);
        exchange.end(Flag::None);
        return Response::from_parts(parts, ResponseBody::Full(None));
    }
    let body = UpstreamBody {
        incoming,
        lease: Some(lease),
        exchange: Some(exchange),
        watch: Watch::new(deadline),
        unfit,
        recoder: Recoder::new(recoding.web.map(|web| web.answer), level).map(Box::new),
    };
    Response::from_parts(parts, ResponseBody::Upstream(Box::new(body)))
}

//! How a host of HTTP/2 is asked to become the other end: by an extended CONNECT (RFC 8441), over a connection of its own, once the
//! host has said that it knows of that.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;

use aws_lc_rs::digest::{Context as Digest, SHA1_FOR_LEGACY_USE_ONLY};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use h2::client::Builder;
use h2::ext::Protocol;
use h2::{Ping, RecvStream, SendStream};
use http::header::{self, HeaderMap, HeaderValue};
use http::response::Parts;
use http::{Method, Request, Response, StatusCode};

use super::{HostEnd, Switched, WEBSOCKET, is_websocket};
use crate::attempt::{Failure, Refusal};
use crate::body::HostBody;
use crate::forward::Head;
use crate::h1::{Buffer, Buffers};
use crate::http2::{Duplex, HEAD_LIST_BYTES_MAX, Received, STREAM_WINDOW_BYTES};
use crate::io::BreakableIo;
use crate::retry::Outcome;
use crate::upload::RequestBody;

/// What the answer to a key is made of besides it (RFC 6455, section 1.3).
const ACCEPTS: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The request with these lines, which asks for `protocol`.
pub(super) fn request(head: &Head, headers: HeaderMap, protocol: &HeaderValue) -> Request<()> {
    let mut request = head.over_http2(headers, RequestBody::Empty).map(|_| ());
    // What comes behind is of no length.
    request.headers_mut().remove(header::CONTENT_LENGTH);
    *request.method_mut() = Method::CONNECT;
    // Only what a configuration names comes here, in any letters; hosts may know it in those of its RFC only.
    let protocol = if is_websocket(protocol) {
        Protocol::from_static(WEBSOCKET)
    } else {
        Protocol::from(protocol.to_str().unwrap_or_default())
    };
    request.extensions_mut().insert(protocol);
    request
}

/// Sends it and reads the answer's head, which is one of HTTP/1.1 then.
pub(super) async fn ask(
    io: BreakableIo,
    request: Request<()>,
    protocol: &HeaderValue,
    buffers: &Rc<Buffers>,
) -> Result<Response<HostBody>, Failure> {
    let accept = accept(protocol, request.headers());
    let breaker = Rc::clone(io.breaker());
    let (parts, received, sending) = asked(io, request).await?;
    if !parts.status.is_success() {
        let received = Received::new(received, &parts.headers);
        return Ok(Response::from_parts(parts, HostBody::Http2(received)));
    }
    if parts.headers.contains_key(header::CONTENT_LENGTH) {
        return Err(unknown("the host says how long a connection is"));
    }
    let host = Switched {
        end: HostEnd::Stream(RefCell::new(Duplex::with_host(received, sending)), breaker),
        input: Buffer::new(buffers),
        protocol: Some(protocol.clone()),
    };
    let mut response = Response::from_parts(parts, HostBody::Switched(Box::new(host)));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    if let Some(accept) = accept {
        // Of a host that has one it is the answer to the same key.
        let headers = response.headers_mut();
        headers.entry(header::SEC_WEBSOCKET_ACCEPT).or_insert(accept);
    }
    Ok(response)
}

async fn asked(
    io: BreakableIo,
    request: Request<()>,
) -> Result<(Parts, RecvStream, SendStream<Bytes>), Failure> {
    let broken = |error: h2::Error| Failure::reset(&error.to_string());
    let (mut sender, mut connection) = Builder::new()
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(STREAM_WINDOW_BYTES)
        .max_header_list_size(HEAD_LIST_BYTES_MAX)
        .enable_push(false)
        .handshake(io)
        .await
        .map_err(broken)?;
    let pings = connection.ping_pong();
    // It ends when nobody has a part of it any more.
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.await {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "upstream connection ended"
            );
        }
    });
    if let Some(mut pings) = pings {
        // What it knows of it has said before it answers.
        pings.ping(Ping::opaque()).await.map_err(broken)?;
    }
    if !sender.is_extended_connect_protocol_enabled() {
        return Err(unknown("the host knows no upgrades over HTTP/2"));
    }
    poll_fn(|cx| sender.poll_ready(cx)).await.map_err(broken)?;
    let (answer, sending) = sender.send_request(request, false).map_err(broken)?;
    let (parts, received) = answer.await.map_err(broken)?.into_parts();
    Ok((parts, received, sending))
}

/// The host does well what it does, and this is nothing of it: any client may ask for it, and others are not to miss the host.
fn unknown(detail: &str) -> Failure {
    let detail = format!("connection termination: {detail}");
    Failure::Client(Refusal::failed(Outcome::Reset, &detail))
}

/// What a client of HTTP/1.1 waits for in the answer, which HTTP/2 does not have.
fn accept(protocol: &HeaderValue, headers: &HeaderMap) -> Option<HeaderValue> {
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
    if !is_websocket(protocol) {
        return None;
    }
    let mut digest = Digest::new(&SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(key.as_bytes());
    digest.update(ACCEPTS);
    HeaderValue::try_from(STANDARD.encode(digest.finish())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_answered_as_the_protocol_has_it() {
        // The example of RFC 6455, section 1.3.
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        let headers = HeaderMap::from_iter([(header::SEC_WEBSOCKET_KEY, key)]);
        for (protocol, headers, expected) in [
            ("WebSocket", &headers, Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")),
            ("spoken", &headers, None),
            ("websocket", &HeaderMap::new(), None),
        ] {
            let found = accept(&HeaderValue::from_static(protocol), headers);
            assert_eq!(found, expected.map(HeaderValue::from_static), "{protocol}");
        }
    }
}

//! What a connection manager says of how much its clients may ask for, and how long that may take.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{Http2ProtocolOptions, HttpProtocolOptions};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::google::protobuf::UInt32Value;

use super::fields::{At, Reason, done, duration, positive};
use crate::h1::{BODY_TIMEOUT, HEAD_BYTES_MAX};
use crate::limits::ClientLimits;

/// Envoy's idle timeout of a connection when none is given.
pub(super) const IDLE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(3600);
/// What a client that is told to go has at least: what it sent before it heard of it is on its way.
const DRAIN_TIMEOUT_MIN: Duration = Duration::from_secs(1);
/// And at most: a connection on which nothing moves ends then anyway.
const DRAIN_TIMEOUT_MAX: Duration = BODY_TIMEOUT;
/// The smallest window that HTTP/2 can say at its begin (RFC 9113, section 6.9.2).
const WINDOW_BYTES_MIN: u32 = 65_535;

/// The limits, and how long a connection may be idle.
pub(super) fn take(pb: &mut HttpConnectionManager) -> Result<(ClientLimits, Option<Duration>), Reason> {
    const DEFAULT: ClientLimits = ClientLimits::DEFAULT;
    let mut limits = DEFAULT;
    if let Some(kilobytes) = number(
        pb.max_request_headers_kb.take(),
        1,
        u32::try_from(HEAD_BYTES_MAX / 1024).unwrap_or(u32::MAX),
    )
    .at("max_request_headers_kb")?
    {
        limits.head_bytes = kilobytes as usize * 1024;
    }
    if let Some(timeout) = pb.request_headers_timeout.take() {
        let timeout = duration(timeout).at("request_headers_timeout")?;
        if timeout > DEFAULT.head_timeout {
            let max = DEFAULT.head_timeout.as_secs();
            return Err(format!("request_headers_timeout: must be at most {max} s"));
        }
        // In Envoy 0 is none, as if it were not said.
        if !timeout.is_zero() {
            limits.head_timeout = timeout;
        }
    }
    if let Some(timeout) = pb.request_timeout.take() {
        let timeout = duration(timeout).at("request_timeout")?;
        limits.request_timeout = Some(timeout).filter(|timeout| !timeout.is_zero());
    }
    if let Some(timeout) = pb.stream_idle_timeout.take() {
        let timeout = duration(timeout).at("stream_idle_timeout")?;
        limits.stream_idle = Some(timeout).filter(|timeout| !timeout.is_zero());
    }
    if let Some(timeout) = pb.drain_timeout.take() {
        let timeout = duration(timeout).at("drain_timeout")?;
        limits.drain_timeout = timeout.clamp(DRAIN_TIMEOUT_MIN, DRAIN_TIMEOUT_MAX);
    }
    if let Some(options) = pb.http2_protocol_options.take() {
        http2(options, &mut limits).at("http2_protocol_options")?;
    }
    let idle_timeout = match pb.common_http_protocol_options.take() {
        None => Some(IDLE_TIMEOUT_DEFAULT),
        Some(options) => common(options, &mut limits).at("common_http_protocol_options")?,
    };
    Ok((limits, idle_timeout))
}

fn http2(mut pb: Http2ProtocolOptions, limits: &mut ClientLimits) -> Result<(), Reason> {
    const DEFAULT: ClientLimits = ClientLimits::DEFAULT;
    for (given, field, min, limit, max) in [
        (
            pb.max_concurrent_streams.take(),
            "max_concurrent_streams",
            1,
            &mut limits.streams,
            DEFAULT.streams,
        ),
        (
            pb.initial_stream_window_size.take(),
            "initial_stream_window_size",
            WINDOW_BYTES_MIN,
            &mut limits.stream_window,
            DEFAULT.stream_window,
        ),
        (
            pb.initial_connection_window_size.take(),
            "initial_connection_window_size",
            WINDOW_BYTES_MIN,
            &mut limits.connection_window,
            DEFAULT.connection_window,
        ),
    ] {
        if let Some(given) = number(given, min, max).at(field)? {
            *limit = given;
        }
    }
    done(&pb)
}

fn common(mut pb: HttpProtocolOptions, limits: &mut ClientLimits) -> Result<Option<Duration>, Reason> {
    let fields_max = u32::try_from(limits.fields).unwrap_or(u32::MAX);
    if let Some(count) = number(pb.max_headers_count.take(), 1, fields_max).at("max_headers_count")? {
        limits.fields = count as usize;
    }
    if let Some(lasts) = pb.max_connection_duration.take() {
        limits.duration = Some(positive(lasts).at("max_connection_duration")?);
    }
    // 0 is as many as there are.
    let requests = pb.max_requests_per_connection.take();
    limits.requests = requests
        .map(|requests| requests.value)
        .filter(|requests| *requests > 0);
    let idle = pb.idle_timeout.take();
    done(&pb)?;
    match idle {
        None => Ok(Some(IDLE_TIMEOUT_DEFAULT)),
        Some(idle) => Ok(Some(duration(idle).at("idle_timeout")?).filter(|idle| !idle.is_zero())),
    }
}

/// What is more than `max` would hold more memory than this proxy gives a client.
fn number(given: Option<UInt32Value>, min: u32, max: u32) -> Result<Option<u32>, Reason> {
    match given.map(|given| given.value) {
        Some(value) if !(min..=max).contains(&value) => Err(format!("must be {min} to {max}")),
        value => Ok(value),
    }
}

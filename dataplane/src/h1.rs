//! HTTP/1.1 towards clients and hosts: a codec without I/O (`head`, `framing`, `chunked`, `encode`) and the loop around it. What
//! is ambiguous is refused and its connection closed; nothing of a request is copied but its head, once.

pub(crate) use bridge::StreamedBody;
pub(crate) use buffer::{Buffer, Buffers};
pub(crate) use chunked::may_trail;
pub(crate) use connection::{HEAD_TIMEOUT, serve};
pub(crate) use encode::{date_value, push};
pub(crate) use exchange::sooner;
pub(crate) use framing::{Lines, Malformed, content_length};
pub(crate) use head::{FIELDS_MAX, HEAD_BYTES_MAX, Head, Known};
#[cfg(test)]
pub(crate) use head::{Fields, read_response};
pub(crate) use host::{Answered, Incoming, Outgoing, Unanswered, ask};
pub(crate) use stall::BODY_TIMEOUT;
pub(crate) use timer::Timer;

mod answer;
mod bridge;
mod buffer;
mod chunked;
mod connection;
mod encode;
mod exchange;
mod framing;
mod head;
mod host;
mod plan;
mod relay;
mod stall;
mod timer;
mod tunnel;
mod upload;

/// The codec, for what is fuzzed.
#[cfg(test)]
pub(crate) mod fuzzing {
    pub(crate) use super::bridge::body;
    pub(crate) use super::chunked::Chunked;
    pub(crate) use super::encode::{KeepAlive, Request, Response};
    pub(crate) use super::framing::{Framing, of_request, of_response};
    pub(crate) use super::head::{Fields, Known, read_request, read_response};
}

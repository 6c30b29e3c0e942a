//! How much a client of a listener may ask for, and how long it may take. What a listener does not say is what docs/xds.md says;
//! it may say less of what holds memory, and not more.

use std::time::Duration;

use crate::h1::{BODY_TIMEOUT, FIELDS_MAX, HEAD_BYTES_MAX, HEAD_TIMEOUT};
use crate::http2::{CONNECTION_WINDOW_BYTES, SHUT_DOWN_MAX, STREAM_WINDOW_BYTES, STREAMS_MAX};

/// Of one client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientLimits {
    pub(crate) head_bytes: usize,
    /// Lines of a head.
    pub(crate) fields: usize,
    /// From the first byte of a head to its last.
    pub(crate) head_timeout: Duration,
    /// From the end of a request's head to its own end, unless it is answered before.
    pub(crate) request_timeout: Option<Duration>,
    /// So long nothing may move of a request and its answer, where its route says nothing else.
    pub(crate) stream_idle: Option<Duration>,
    /// From its begin on; then it ends like one that is idle, behind what is under way.
    pub(crate) duration: Option<Duration>,
    pub(crate) requests: Option<u32>,
    /// What one that is told to go has to do so.
    pub(crate) drain_timeout: Duration,
    /// Of HTTP/2: requests at once, and bytes of a body and of all bodies that their hosts have not taken.
    pub(crate) streams: u32,
    pub(crate) stream_window: u32,
    pub(crate) connection_window: u32,
}

impl ClientLimits {
    pub(crate) const DEFAULT: Self = Self {
        head_bytes: HEAD_BYTES_MAX,
        fields: FIELDS_MAX,
        head_timeout: HEAD_TIMEOUT,
        request_timeout: None,
        stream_idle: Some(BODY_TIMEOUT),
        duration: None,
        requests: None,
        drain_timeout: SHUT_DOWN_MAX,
        streams: STREAMS_MAX,
        stream_window: STREAM_WINDOW_BYTES,
        connection_window: CONNECTION_WINDOW_BYTES,
    };

    /// A head as HTTP/2 counts it: 32 bytes more for each line (RFC 9113, section 6.5.2).
    pub(crate) fn head_list_bytes(&self) -> u32 {
        u32::try_from(self.head_bytes + self.fields * 32).unwrap_or(u32::MAX)
    }
}

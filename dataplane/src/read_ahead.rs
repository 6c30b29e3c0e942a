//! The begin of a request's body, read before it is known whether the request goes on.

use std::collections::VecDeque;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame};

use crate::body::{ClientBody, ClientError};

/// What was read, and what is still to come.
pub(crate) struct ReadAhead {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    trailers: Option<HeaderMap>,
    /// `None` once all has come.
    rest: Option<ClientBody>,
}

/// Why a body could not be read.
pub(crate) enum ReadError {
    Client(ClientError),
    /// Nothing of it came for too long.
    Stalled,
}

impl ReadAhead {
    /// Reads until all has come or it is more than `bytes_max`.
    pub(crate) async fn read(
        body: ClientBody,
        bytes_max: usize,
        patience: Duration,
    ) -> Result<Self, ReadError> {
        let mut read = Self {
            pieces: VecDeque::new(),
            bytes: 0,
            trailers: None,
            rest: Some(body),
        };
        while read.bytes <= bytes_max
            && let Some(rest) = &mut read.rest
        {
            let next = tokio::time::timeout(patience, rest.frame()).await;
            let Some(frame) = next.map_err(|_| ReadError::Stalled)? else {
                read.rest = None;
                break;
            };
            match frame.map_err(ReadError::Client)?.into_data() {
                Ok(piece) => {
                    read.bytes += piece.len();
                    read.pieces.push_back(piece);
                    if rest.is_end_stream() {
                        read.rest = None;
                    }
                }
                Err(frame) => {
                    read.trailers = frame.into_trailers().ok();
                    read.rest = None;
                }
            }
        }
        Ok(read)
    }

    /// Whether all has come, and is no more than `bytes_max`.
    pub(crate) fn is_whole(&self, bytes_max: usize) -> bool {
        self.rest.is_none() && self.bytes <= bytes_max
    }

    /// What was read, of it the first `bytes_max`.
    pub(crate) fn begin(&self, bytes_max: usize) -> Vec<u8> {
        let mut begin = Vec::with_capacity(self.bytes.min(bytes_max));
        for piece in &self.pieces {
            let room = bytes_max - begin.len();
            begin.extend_from_slice(&piece[..piece.len().min(room)]);
        }
        begin
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientError>>> {
        if let Some(piece) = self.pieces.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match &mut self.rest {
            Some(rest) => std::pin::Pin::new(rest).poll_frame(cx),
            None => Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))),
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        let is_over = self.rest.as_ref().is_none_or(Body::is_end_stream);
        self.pieces.is_empty() && self.trailers.is_none() && is_over
    }
}

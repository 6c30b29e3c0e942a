//! One stream of HTTP/2, on either side: the body that comes over it, and the one that is sent over it as fast as the other end
//! takes it.

use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, header};
use hyper::body::{Body, Frame, SizeHint};
use tokio::task::AbortHandle;

use crate::headers;

/// A body as it comes. What was taken of it makes room for more.
pub(crate) struct Received {
    stream: RecvStream,
    /// What is left of it, if its head said how long it is.
    left: Option<u64>,
    has_data: bool,
    _rest: Option<Rest>,
}

/// A body on its way.
pub(crate) struct Sending<B: Body> {
    stream: SendStream<Bytes>,
    body: B,
    /// Why there is no more of it. What was handed over before goes first: a reset takes back what has not gone yet.
    failed: Option<B::Error>,
    /// Waits for room.
    piece: Option<Bytes>,
}

/// The rest of a body that is sent beside the answer to it, as long as anybody wants that.
pub(crate) struct Rest(AbortHandle);

/// Why a body did not get through.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken<E: Error + 'static> {
    #[error(transparent)]
    Stream(h2::Error),
    #[error(transparent)]
    Body(E),
}

impl Received {
    pub(crate) fn new(stream: RecvStream, headers: &HeaderMap) -> Self {
        let said = headers::first(headers, &header::CONTENT_LENGTH);
        Self {
            left: said.and_then(|said| said.to_str().ok()?.parse().ok()),
            has_data: !stream.is_end_stream(),
            stream,
            _rest: None,
        }
    }

    /// With what is still to be sent of what it answers.
    pub(crate) fn with(self, rest: Option<Rest>) -> Self {
        Self { _rest: rest, ..self }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if self.has_data {
            match ready!(self.stream.poll_data(cx)?) {
                Some(piece) => {
                    let bytes = piece.len();
                    self.stream.flow_control().release_capacity(bytes)?;
                    self.left = self.left.map(|left| left.saturating_sub(bytes as u64));
                    return Poll::Ready(Some(Ok(Frame::data(piece))));
                }
                None => self.has_data = false,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx)?);
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.stream.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match self.left {
            _ if self.has_ended() => SizeHint::with_exact(0),
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::default(),
        }
    }
}

impl<B> Sending<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Error,
{
    pub(crate) fn new(stream: SendStream<Bytes>, body: B) -> Self {
        Self {
            stream,
            body,
            failed: None,
            piece: None,
        }
    }

    /// Ready when all of it was handed over, and not only when the other end has it.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken<B::Error>>> {
        if let Some(error) = self.failed.take() {
            self.stream.send_reset(reason(&error));
            return Poll::Ready(Err(Broken::Body(error)));
        }
        loop {
            if let Poll::Ready(reset) = self.stream.poll_reset(cx) {
                let error = reset.map_or_else(|error| error, h2::Error::from);
                return Poll::Ready(Err(Broken::Stream(error)));
            }
            if self.piece.is_some() {
                ready!(self.poll_room(cx)).map_err(Broken::Stream)?;
                let ends = self.body.is_end_stream();
                self.send(ends)?;
                if ends {
                    return Poll::Ready(Ok(()));
                }
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => {
                    self.piece = Some(Bytes::new());
                    return Poll::Ready(self.send(true));
                }
                Some(Err(error)) => {
                    self.failed = Some(error);
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(piece) => {
                        // Only once there is something to send: room that is kept for nothing is room that others do not have.
                        self.stream.reserve_capacity(piece.len().min(1));
                        self.piece = Some(piece);
                    }
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        self.stream.reserve_capacity(0);
                        return Poll::Ready(self.stream.send_trailers(trailers).map_err(Broken::Stream));
                    }
                },
            }
        }
    }

    /// Ready when the other end takes some of the piece; what is empty needs no room.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        if self.piece.as_ref().is_none_or(Bytes::is_empty) {
            return Poll::Ready(Ok(()));
        }
        while self.stream.capacity() == 0 {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(room) => room?,
                None => return Poll::Ready(Err(Reason::CANCEL.into())),
            };
        }
        Poll::Ready(Ok(()))
    }

    fn send(&mut self, ends: bool) -> Result<(), Broken<B::Error>> {
        let piece = self.piece.take().unwrap_or_default();
        self.stream.send_data(piece, ends).map_err(Broken::Stream)
    }
}

impl<B> Sending<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Error,
{
    pub(crate) fn beside(mut self) -> Rest {
        let task = tokio::task::spawn_local(async move {
            // Whoever reads the answer learns of it from the stream.
            let _ = poll_fn(|cx| self.poll(cx)).await;
        });
        Rest(task.abort_handle())
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What the other end is told of an error: what was told by whom it comes from, if that spoke HTTP/2. Nobody must take what was
/// broken off for whole, or for what was never looked at.
fn reason(error: &(dyn Error + 'static)) -> Reason {
    std::iter::successors(Some(error), |&error| error.source())
        .find_map(|error| error.downcast_ref::<h2::Error>()?.reason())
        .filter(|reason| ![Reason::NO_ERROR, Reason::REFUSED_STREAM].contains(reason))
        .unwrap_or(Reason::INTERNAL_ERROR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::{ClientError, HostError, ResponseError};
    use crate::upload::UploadError;

    #[test]
    fn a_reset_is_passed_on_unless_it_says_what_is_not_so() {
        for (told, passed_on) in [
            (Reason::CANCEL, Reason::CANCEL),
            (Reason::ENHANCE_YOUR_CALM, Reason::ENHANCE_YOUR_CALM),
            (Reason::NO_ERROR, Reason::INTERNAL_ERROR),
            (Reason::REFUSED_STREAM, Reason::INTERNAL_ERROR),
        ] {
            let by_client = UploadError::Client(ClientError::Http2(told.into()));
            assert_eq!(reason(&by_client), passed_on, "{told:?}");
            let by_host = ResponseError::from(HostError::Http2(told.into()));
            assert_eq!(reason(&by_host), passed_on, "{told:?}");
        }
        assert_eq!(reason(&UploadError::Superseded), Reason::INTERNAL_ERROR);
    }
}

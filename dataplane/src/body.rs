//! A response's body on its way down: streamed as it comes, ended by the route's timeout, and the end of its exchange.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Sleep;

use crate::exchange::{Exchange, Flag};
use crate::h1;
use crate::pool::Lease;
use crate::upload::Upload;

/// The body of a client's request, as its connection brings it.
pub(crate) enum ClientBody {
    Http1(h1::StreamedBody),
    Http2(Incoming),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("{0}")]
    Http1(h1::Malformed),
    #[error(transparent)]
    Http2(hyper::Error),
}

/// What a client's connection sends as a response's body.
pub(crate) enum ResponseBody {
    Full(Option<Bytes>),
    Upstream(Box<UpstreamBody>),
}

/// The rest of an exchange: dropped when the last byte has been passed on, or the client has left.
pub(crate) struct UpstreamBody {
    pub(crate) incoming: Incoming,
    pub(crate) lease: Lease,
    pub(crate) exchange: Option<Exchange>,
    pub(crate) deadline: Deadline,
    pub(crate) timer: Option<Pin<Box<Sleep>>>,
    /// Names of trailers that are left out.
    pub(crate) unfit: Vec<HeaderName>,
}

/// A route's timeout: from the end of the request to the end of the response.
#[derive(Clone)]
pub(crate) struct Deadline {
    pub(crate) timeout: Option<Duration>,
    pub(crate) request: RequestEnd,
}

/// When the request ended, or will.
#[derive(Clone)]
pub(crate) enum RequestEnd {
    At(Instant),
    WhenUploaded(Rc<Upload>),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ResponseError {
    #[error("the host's response broke off")]
    Upstream(#[source] hyper::Error),
    #[error("the response did not end in time")]
    Timeout,
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = ClientError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientError>>> {
        match self.get_mut() {
            Self::Http1(body) => body.poll_frame(cx).map_err(ClientError::Http1),
            Self::Http2(incoming) => Pin::new(incoming).poll_frame(cx).map_err(ClientError::Http2),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.has_ended(),
            Self::Http2(incoming) => incoming.is_end_stream(),
        }
    }
}

impl RequestEnd {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Instant> {
        match self {
            Self::At(at) => Poll::Ready(*at),
            Self::WhenUploaded(upload) => upload.poll_ended(cx),
        }
    }

    pub(crate) fn has_come(&self) -> bool {
        match self {
            Self::At(_) => true,
            Self::WhenUploaded(upload) => upload.completed_at().is_some(),
        }
    }

    /// Ready with the moment at which the request has ended.
    pub(crate) async fn come(&self) -> Instant {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }
}

impl Deadline {
    /// Ready when the time is over.
    pub(crate) async fn expired(&self) {
        let Some(timeout) = self.timeout else {
            return std::future::pending().await;
        };
        let ended = self.request.come().await;
        tokio::time::sleep_until((ended + timeout).into()).await;
    }
}

impl UpstreamBody {
    fn finish(&mut self) {
        let Some(mut exchange) = self.exchange.take() else {
            return;
        };
        exchange.end(Flag::None);
        // A connection on which the request is still being sent cannot serve another one.
        if self.deadline.request.has_come() {
            self.lease.release(Instant::now());
        }
    }

    fn fail(&mut self, flag: Flag) {
        if let Some(mut exchange) = self.exchange.take() {
            exchange.end(flag);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ResponseError>>> {
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(data), Some(exchange)) = (frame.data_ref(), &mut self.exchange) {
                    exchange.sent(data.len() as u64);
                }
                if self.incoming.is_end_stream() {
                    self.finish();
                }
                let frame = match frame.into_trailers() {
                    Ok(trailers) => Frame::trailers(without(trailers, &self.unfit)),
                    Err(data) => data,
                };
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                self.finish();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                self.fail(Flag::UpstreamReset);
                Poll::Ready(Some(Err(ResponseError::Upstream(error))))
            }
            Poll::Pending => self.poll_deadline(cx),
        }
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ResponseError>>> {
        let Some(timeout) = self.deadline.timeout else {
            return Poll::Pending;
        };
        let timer = match &mut self.timer {
            Some(timer) => timer,
            None => {
                let Poll::Ready(ended) = self.deadline.request.poll(cx) else {
                    return Poll::Pending;
                };
                self.timer
                    .insert(Box::pin(tokio::time::sleep_until((ended + timeout).into())))
            }
        };
        if timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.fail(Flag::UpstreamTimeout);
        Poll::Ready(Some(Err(ResponseError::Timeout)))
    }
}

/// The trailers that may stand behind a body of whose head `unfit` were taken out.
pub(crate) fn without(mut trailers: HeaderMap, unfit: &[HeaderName]) -> HeaderMap {
    let is_unfit = |name: &&HeaderName| unfit.contains(name) || !h1::may_trail(name.as_str().as_bytes());
    let unfit: Vec<HeaderName> = trailers.keys().filter(is_unfit).cloned().collect();
    for name in unfit {
        trailers.remove(name);
    }
    trailers
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = ResponseError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseError>>> {
        match self.get_mut() {
            Self::Full(body) => Poll::Ready(body.take().map(|body| Ok(Frame::data(body)))),
            Self::Upstream(upstream) => upstream.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(body) => body.is_none(),
            Self::Upstream(upstream) => upstream.exchange.is_none() && upstream.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(body) => SizeHint::with_exact(body.as_ref().map_or(0, Bytes::len) as u64),
            Self::Upstream(upstream) => upstream.incoming.size_hint(),
        }
    }
}

//! A response's body on its way down: streamed as it comes, and the end of its exchange. How long it may take is watched from
//! outside.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use hyper::body::{Body, Frame, SizeHint};

use crate::deadline::Watch;
use crate::exchange::{Exchange, Flag};
use crate::grpc_web::{NotText, Text};
use crate::gunzip::{Gunzip, GunzipError};
use crate::h1;
use crate::header_changes::is_read_as;
use crate::http2;
use crate::pool::Lease;
use crate::read_ahead::ReadAhead;
use crate::recode::Recoder;
use crate::tunnel::{Switched, Tunnel};

/// The body of a client's request, as its connection brings it.
pub(crate) enum ClientBody {
    Http1(h1::StreamedBody),
    Http2(http2::Received),
    /// Of so many bytes more at most.
    Limited(Box<Self>, u64),
    /// Somebody had to see it first.
    Read(Box<ReadAhead>),
    Nothing,
    /// One of those in base64.
    Text(Box<Self>, Text),
    /// And in gzip.
    Zipped(Box<(Self, Gunzip)>),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error(transparent)]
    Text(NotText),
    #[error("{0}")]
    Http1(h1::Malformed),
    #[error("{0}")]
    Http2(#[source] h2::Error),
    #[error("the request's body is too large")]
    TooLarge,
    #[error(transparent)]
    Gunzip(#[from] GunzipError),
}

/// What a client's connection sends as a response's body.
pub(crate) enum ResponseBody {
    Full(Option<Bytes>),
    Upstream(Box<UpstreamBody>),
    /// None, since the connection is not one of HTTP any more.
    Tunnel(Box<Tunnel>),
}

/// What a host sends as a response's body.
pub(crate) enum HostBody {
    Http1(Box<h1::Incoming>),
    Http2(http2::Received),
    /// None, since the connection is not one of HTTP any more.
    Switched(Box<Switched>),
    /// One of those in gzip.
    Zipped(Box<(Self, Gunzip)>),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum HostError {
    #[error("{0}")]
    Http1(h1::Malformed),
    #[error("{0}")]
    Http2(#[source] h2::Error),
    #[error(transparent)]
    Recode(std::io::Error),
    #[error(transparent)]
    Gunzip(#[from] GunzipError),
}

/// The rest of an exchange: dropped when the last byte has been passed on, or the client has left.
pub(crate) struct UpstreamBody {
    pub(crate) incoming: HostBody,
    pub(crate) lease: Option<Lease>,
    pub(crate) exchange: Option<Exchange>,
    pub(crate) watch: Rc<Watch>,
    /// Names of trailers that are left out.
    pub(crate) unfit: Vec<HeaderName>,
    /// If the client is written something else.
    pub(crate) recoder: Option<Box<Recoder>>,
}

#[derive(Debug, thiserror::Error)]
#[error("the host's response broke off")]
pub(crate) struct ResponseError(#[from] HostError);

impl Body for ClientBody {
    type Data = Bytes;
    type Error = ClientError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientError>>> {
        match self.get_mut() {
            Self::Http1(body) => body.poll_frame(cx).map_err(ClientError::Http1),
            Self::Http2(received) => received.poll(cx).map_err(ClientError::Http2),
            Self::Limited(body, left) => {
                let frame = ready!(Pin::new(&mut **body).poll_frame(cx)?);
                let data = frame.as_ref().and_then(Frame::data_ref);
                match left.checked_sub(data.map_or(0, Bytes::len) as u64) {
                    Some(rest) => *left = rest,
                    None => return Poll::Ready(Some(Err(ClientError::TooLarge))),
                }
                Poll::Ready(frame.map(Ok))
            }
            Self::Read(read) => read.poll_frame(cx),
            Self::Nothing => Poll::Ready(None),
            Self::Text(body, text) => poll_text(body, text, cx),
            Self::Zipped(zipped) => {
                let (body, gunzip) = &mut **zipped;
                gunzip.poll(body, cx)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.has_ended(),
            Self::Http2(received) => received.has_ended(),
            Self::Limited(body, _) => body.is_end_stream(),
            Self::Read(read) => read.has_ended(),
            Self::Nothing => true,
            Self::Text(body, text) => body.is_end_stream() && text.end().is_ok(),
            Self::Zipped(zipped) => zipped.1.has_ended(),
        }
    }
}

impl ClientBody {
    /// Whether all of it has come, though it may not have been passed on.
    pub(crate) fn has_come(&self) -> bool {
        match self {
            Self::Limited(body, _) | Self::Text(body, _) => body.has_come(),
            Self::Read(read) => read.has_come(),
            Self::Zipped(zipped) => zipped.0.has_come(),
            Self::Http1(_) | Self::Http2(_) | Self::Nothing => self.is_end_stream(),
        }
    }

    /// Which breaks off where it has more than `max` bytes, if that is said.
    pub(crate) fn at_most(self, max: Option<u64>) -> Self {
        match max {
            Some(max) => Self::Limited(Box::new(self), max),
            None => self,
        }
    }
}

/// What is within the next piece of a body in base64 that has something in it.
fn poll_text(
    body: &mut ClientBody,
    text: &mut Text,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, ClientError>>> {
    loop {
        let frame = match ready!(Pin::new(&mut *body).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            None => return Poll::Ready(text.end().err().map(|error| Err(ClientError::Text(error)))),
        };
        let read = match frame.into_data() {
            Ok(piece) => text.read(&piece),
            Err(trailers) => match text.end() {
                Ok(()) => return Poll::Ready(Some(Ok(trailers))),
                Err(error) => Err(error),
            },
        };
        match read {
            Ok(piece) if piece.is_empty() => {}
            read => return Poll::Ready(Some(read.map(Frame::data).map_err(ClientError::Text))),
        }
    }
}

impl HostBody {
    /// Lets other requests have the connection that it came over, if that is over with this one.
    pub(crate) fn keep(&mut self, lease: &Lease) {
        match self {
            Self::Http1(incoming) => {
                if let Some(io) = incoming.take_kept() {
                    lease.pool().keep_h1(io, Instant::now());
                }
            }
            Self::Zipped(zipped) => zipped.0.keep(lease),
            Self::Http2(_) | Self::Switched(_) => {}
        }
    }
}

impl Body for HostBody {
    type Data = Bytes;
    type Error = HostError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HostError>>> {
        match self.get_mut() {
            Self::Http1(incoming) => incoming.poll(cx).map_err(HostError::Http1),
            Self::Http2(received) => received.poll(cx).map_err(HostError::Http2),
            Self::Switched(_) => Poll::Ready(None),
            Self::Zipped(zipped) => {
                let (body, gunzip) = &mut **zipped;
                gunzip.poll(body, cx)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(incoming) => incoming.has_ended(),
            Self::Http2(received) => received.has_ended(),
            Self::Switched(_) => true,
            Self::Zipped(zipped) => zipped.1.has_ended(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(incoming) => incoming.size_hint(),
            Self::Http2(received) => received.size_hint(),
            Self::Switched(_) => SizeHint::with_exact(0),
            Self::Zipped(_) => SizeHint::default(),
        }
    }
}

impl UpstreamBody {
    fn finish(&mut self) {
        let Some(mut exchange) = self.exchange.take() else {
            return;
        };
        exchange.end(Flag::None);
        self.watch.ended();
        if let Some(lease) = self.lease.take() {
            self.incoming.keep(&lease);
        }
    }

    fn poll_recoded(
        &mut self,
        recoder: &mut Recoder,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseError>>> {
        loop {
            if let Some(frame) = recoder.take() {
                if let (Some(data), Some(exchange)) = (frame.data_ref(), &mut self.exchange) {
                    exchange.sent(data.len() as u64);
                }
                if recoder.has_ended() {
                    self.finish();
                }
                return Poll::Ready(Some(Ok(frame)));
            }
            if recoder.has_ended() {
                self.finish();
                return Poll::Ready(None);
            }
            let put = match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.watch.took();
                    self.trailed(&frame);
                    recoder.put(match frame.into_trailers() {
                        Ok(trailers) => Frame::trailers(without(trailers, &self.unfit)),
                        Err(data) => data,
                    })
                }
                Poll::Ready(None) => recoder.end(),
                Poll::Ready(Some(Err(error))) => {
                    if let Some(mut exchange) = self.exchange.take() {
                        exchange.broke_off();
                    }
                    return Poll::Ready(Some(Err(ResponseError(error))));
                }
                Poll::Pending => {
                    let flushed = recoder.flush();
                    if flushed.is_ok() && recoder.is_empty() {
                        self.watch.wants();
                        return Poll::Pending;
                    }
                    flushed
                }
            };
            if let Err(error) = put {
                return Poll::Ready(Some(Err(ResponseError(HostError::Recode(error)))));
            }
        }
    }

    /// Notes what came behind the body, if it is that.
    fn trailed(&mut self, frame: &Frame<Bytes>) {
        if let (Some(trailers), Some(exchange)) = (frame.trailers_ref(), &mut self.exchange) {
            exchange.trailed(trailers);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ResponseError>>> {
        if let Some(mut recoder) = self.recoder.take() {
            let polled = self.poll_recoded(&mut recoder, cx);
            self.recoder = Some(recoder);
            return polled;
        }
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.watch.took();
                if let (Some(data), Some(exchange)) = (frame.data_ref(), &mut self.exchange) {
                    exchange.sent(data.len() as u64);
                }
                self.trailed(&frame);
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
                if let Some(mut exchange) = self.exchange.take() {
                    exchange.broke_off();
                }
                Poll::Ready(Some(Err(ResponseError(error))))
            }
            Poll::Pending => {
                self.watch.wants();
                Poll::Pending
            }
        }
    }
}

impl Drop for UpstreamBody {
    fn drop(&mut self) {
        let Some(exchange) = &mut self.exchange else {
            return;
        };
        if let Some(flag) = self.watch.verdict() {
            exchange.end(flag);
        }
    }
}

impl ResponseBody {
    /// What says when it is to be given up, if it comes from a host.
    pub(crate) fn watch(&self) -> Option<Rc<Watch>> {
        match self {
            Self::Full(_) | Self::Tunnel(_) => None,
            Self::Upstream(upstream) => Some(Rc::clone(&upstream.watch)),
        }
    }
}

/// The trailers that may stand behind a body of whose head `unfit` were taken out.
pub(crate) fn without(mut trailers: HeaderMap, unfit: &[HeaderName]) -> HeaderMap {
    let is_unfit = |name: &&HeaderName| {
        let name = name.as_str().as_bytes();
        let is_it = |unfit: &HeaderName| is_read_as(name, unfit.as_str().as_bytes());
        unfit.iter().any(is_it) || !h1::may_trail(name)
    };
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
            Self::Tunnel(_) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(body) => body.is_none(),
            Self::Upstream(upstream) => match &upstream.recoder {
                Some(recoder) => recoder.has_ended(),
                None => upstream.exchange.is_none() && upstream.incoming.is_end_stream(),
            },
            Self::Tunnel(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(body) => SizeHint::with_exact(body.as_ref().map_or(0, Bytes::len) as u64),
            Self::Upstream(upstream) if upstream.recoder.is_some() => SizeHint::default(),
            Self::Upstream(upstream) => upstream.incoming.size_hint(),
            Self::Tunnel(_) => SizeHint::with_exact(0),
        }
    }
}

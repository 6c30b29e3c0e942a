//! A request's body on its way up: streamed as it comes, and kept while it is small, so that another attempt can
//! send it again.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;

use crate::attempt::Refusal;
use crate::body::{ClientBody, ClientError, without};

/// A body up to this size can be sent again; of a larger one nothing is kept, and it is sent once.
pub(crate) const KEPT_MAX_BYTES: usize = 64 * 1024;

/// What an upstream connection sends as one request's body.
pub(crate) enum RequestBody {
    Empty,
    /// The `attempt`-th sending of an upload; `next` counts the kept chunks it has sent.
    Upload {
        upload: Rc<Upload>,
        attempt: u32,
        next: usize,
    },
    /// All of a body that has come.
    Kept {
        chunks: VecDeque<Bytes>,
        trailers: Option<HeaderMap>,
    },
}

/// One request's body, shared by its attempts, of which only the latest may read.
pub(crate) struct Upload {
    state: RefCell<State>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    #[error("the client stopped sending its request")]
    Client(#[source] ClientError),
    #[error("another attempt took over")]
    Superseded,
}

struct State {
    incoming: ClientBody,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    trailers: Option<HeaderMap>,
    /// Names of trailers that are left out.
    unfit: Vec<HeaderName>,
    /// Bytes of data that the client has sent.
    received: u64,
    /// When the client's last piece was read, or an attempt began.
    moved: Instant,
    replay: Replay,
    end: End,
    attempt: u32,
    waiter: Option<Waker>,
    copies: Vec<oneshot::Sender<RequestBody>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Replay {
    Kept,
    /// Some of it was passed on without being kept.
    Lost,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Open,
    Complete(Instant),
    /// The connection that it was sent on wants no more of it; another attempt may.
    Abandoned(Instant),
    Broken,
    /// There is more of it than there may be.
    TooLarge,
}

impl Upload {
    /// `replay` says whether it may be sent more than once.
    pub(crate) fn new(incoming: ClientBody, replay: bool, unfit: Vec<HeaderName>) -> Rc<Self> {
        let replay = if replay { Replay::Kept } else { Replay::Lost };
        let state = State {
            incoming,
            kept: Vec::new(),
            kept_bytes: 0,
            trailers: None,
            unfit,
            received: 0,
            moved: Instant::now(),
            replay,
            end: End::Open,
            attempt: 0,
            waiter: None,
            copies: Vec::new(),
        };
        Rc::new(Self {
            state: RefCell::new(state),
        })
    }

    /// The body of the next attempt; earlier ones stop reading.
    pub(crate) fn attempt(self: &Rc<Self>) -> RequestBody {
        let mut state = self.state.borrow_mut();
        state.attempt += 1;
        if let End::Abandoned(_) = state.end {
            state.end = End::Open;
        }
        state.moved = Instant::now();
        RequestBody::Upload {
            upload: Rc::clone(self),
            attempt: state.attempt,
            next: 0,
        }
    }

    /// The whole body, as soon as it has come and if it could be kept; else an error.
    pub(crate) fn copied(&self) -> oneshot::Receiver<RequestBody> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state.borrow_mut();
        state.copies.push(sender);
        if !matches!(state.end, End::Open) || state.replay == Replay::Lost {
            state.hand_out();
        }
        receiver
    }

    /// Whether all of it has come, and could be kept.
    pub(crate) fn is_whole(&self) -> bool {
        self.state.borrow().is_whole()
    }

    /// All of it, beside attempts that send it as it comes.
    pub(crate) fn whole(&self) -> Option<RequestBody> {
        let state = self.state.borrow();
        state.is_whole().then(|| state.copy())
    }

    /// Whether another attempt would send the same bytes.
    pub(crate) fn can_repeat(&self) -> bool {
        let state = self.state.borrow();
        state.replay == Replay::Kept && !matches!(state.end, End::Broken | End::TooLarge)
    }

    pub(crate) fn completed_at(&self) -> Option<Instant> {
        match self.state.borrow().end {
            End::Complete(at) => Some(at),
            End::Open | End::Abandoned(_) | End::Broken | End::TooLarge => None,
        }
    }

    pub(crate) fn received(&self) -> u64 {
        self.state.borrow().received
    }

    /// When the client's last piece was read, or an attempt began.
    pub(crate) fn moved(&self) -> Instant {
        self.state.borrow().moved
    }

    /// Ready once it has stood still for so long; never when it has ended.
    pub(crate) async fn stalled(&self, timeout: Duration) {
        loop {
            let (moved, end) = {
                let state = self.state.borrow();
                (state.moved, state.end)
            };
            match end {
                End::Open if Instant::now() >= moved + timeout => return,
                End::Open => tokio::time::sleep_until((moved + timeout).into()).await,
                End::Complete(_) | End::Abandoned(_) | End::Broken | End::TooLarge => {
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    /// Ready `until` then if it has not ended by that time.
    pub(crate) async fn late(&self, until: Instant) {
        tokio::time::sleep_until(until.into()).await;
        let has_come = {
            let state = self.state.borrow();
            !matches!(state.end, End::Open) || state.incoming.has_come()
        };
        if has_come {
            std::future::pending::<()>().await;
        }
    }

    /// What a client is told that has broken it off, or sent too much.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        match self.state.borrow().end {
            End::Broken => Some(Refusal::broken_off()),
            End::TooLarge => Some(Refusal::too_large()),
            End::Open | End::Complete(_) | End::Abandoned(_) => None,
        }
    }

    /// Ready with the moment at which the client's last byte was read, or at which nobody wanted more of them.
    pub(crate) fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<Instant> {
        let mut state = self.state.borrow_mut();
        if let End::Complete(at) | End::Abandoned(at) = state.end {
            return Poll::Ready(at);
        }
        state.waiter = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl State {
    fn poll(
        &mut self,
        attempt: u32,
        next: &mut usize,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        if attempt != self.attempt {
            return Poll::Ready(Some(Err(UploadError::Superseded)));
        }
        if let Some(chunk) = self.kept.get(*next) {
            *next += 1;
            return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
        }
        if let End::Complete(_) = self.end {
            let trailers = if *next == self.kept.len() {
                self.trailers.clone()
            } else {
                None
            };
            *next = self.kept.len() + 1;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let frame = match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) => {
                self.complete();
                return Poll::Ready(None);
            }
            Poll::Ready(Some(Err(error))) => {
                self.end = match error {
                    ClientError::TooLarge => End::TooLarge,
                    ClientError::Gunzip(ref error) if error.is_too_large() => End::TooLarge,
                    ClientError::Gunzip(_)
                    | ClientError::Text(_)
                    | ClientError::Http1(_)
                    | ClientError::Http2(_) => End::Broken,
                };
                self.hand_out();
                return Poll::Ready(Some(Err(UploadError::Client(error))));
            }
            Poll::Ready(Some(Ok(frame))) => frame,
        };
        self.moved = Instant::now();
        match frame.into_data() {
            Ok(chunk) => {
                self.received += chunk.len() as u64;
                self.keep(&chunk, next);
                if self.incoming.is_end_stream() {
                    self.complete();
                }
                Poll::Ready(Some(Ok(Frame::data(chunk))))
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    let trailers = without(trailers, &self.unfit);
                    self.trailers = Some(trailers.clone());
                    self.complete();
                    *next = self.kept.len() + 1;
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn keep(&mut self, chunk: &Bytes, next: &mut usize) {
        if self.replay == Replay::Lost {
            return;
        }
        self.kept_bytes += chunk.len();
        if self.kept_bytes > KEPT_MAX_BYTES {
            self.replay = Replay::Lost;
            self.kept = Vec::new();
            self.hand_out();
            *next = 0;
        } else {
            self.kept.push(chunk.clone());
            *next = self.kept.len();
        }
    }

    /// Gives whoever waits for a copy what was kept, or nothing.
    fn hand_out(&mut self) {
        let whole = self.is_whole();
        for copy in std::mem::take(&mut self.copies).into_iter().filter(|_| whole) {
            // Whoever waited may have given up.
            let _ = copy.send(self.copy());
        }
    }

    fn is_whole(&self) -> bool {
        matches!(self.end, End::Complete(_)) && self.replay == Replay::Kept
    }

    /// What was kept.
    fn copy(&self) -> RequestBody {
        RequestBody::Kept {
            chunks: self.kept.iter().cloned().collect(),
            trailers: self.trailers.clone(),
        }
    }

    fn complete(&mut self) {
        if !matches!(self.end, End::Complete(_)) {
            self.end = End::Complete(Instant::now());
            self.hand_out();
        }
        self.wake();
    }

    /// Whoever sends the `attempt`-th one has dropped it.
    fn abandon(&mut self, attempt: u32) {
        if attempt == self.attempt && matches!(self.end, End::Open) {
            self.end = End::Abandoned(Instant::now());
            self.wake();
        }
    }

    fn wake(&mut self) {
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Self::Upload { upload, attempt, .. } = self {
            upload.state.borrow_mut().abandon(*attempt);
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Upload {
                upload,
                attempt,
                next,
            } => upload.state.borrow_mut().poll(*attempt, next, cx),
            Self::Kept { chunks, trailers } => {
                let frame = chunks.pop_front().map(Frame::data);
                Poll::Ready(frame.or_else(|| trailers.take().map(Frame::trailers)).map(Ok))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Upload { upload, next, .. } => {
                let state = upload.state.borrow();
                matches!(state.end, End::Complete(_)) && *next >= state.kept.len() && state.trailers.is_none()
            }
            Self::Kept { chunks, trailers } => chunks.is_empty() && trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            // The length, when the client gave one, is in the headers.
            Self::Upload { .. } | Self::Kept { .. } => SizeHint::default(),
        }
    }
}

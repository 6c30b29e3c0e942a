//! How long an answer may take, watched from outside of its body: who writes a body to a client that takes nothing does not look
//! at the body, nor at what is in it.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use crate::exchange::Flag;
use crate::h1::{BODY_TIMEOUT, Timer, sooner};
use crate::upload::Upload;

/// A route's timeout: from the end of the request to the end of the response, or until a moment.
#[derive(Clone)]
pub(crate) struct Deadline {
    pub(crate) timeout: Option<Duration>,
    pub(crate) until: Option<Instant>,
    /// So long nothing may come from the host.
    pub(crate) idle: Option<Duration>,
    pub(crate) request: RequestEnd,
}

/// When the request ended, or will.
#[derive(Clone)]
pub(crate) enum RequestEnd {
    At(Instant),
    WhenUploaded(Rc<Upload>),
}

/// What is known of an answer under way.
pub(crate) struct Watch {
    pub(crate) deadline: Deadline,
    /// When a piece of the body was last taken from it.
    moved: Cell<Instant>,
    turn: Cell<Turn>,
    verdict: Cell<Option<Flag>>,
}

/// Who is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Host,
    Client,
    /// The client, and the host has said all.
    ClientLast,
}

impl RequestEnd {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Instant> {
        match self {
            Self::At(at) => Poll::Ready(*at),
            Self::WhenUploaded(upload) => upload.poll_ended(cx),
        }
    }

    /// Ready with the moment at which the request has ended.
    pub(crate) async fn come(&self) -> Instant {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// When something of the request last came.
    fn moved(&self) -> Instant {
        match self {
            Self::At(at) => *at,
            Self::WhenUploaded(upload) => upload.moved(),
        }
    }
}

impl Deadline {
    /// Ready when the time is over.
    pub(crate) async fn expired(&self) {
        if let Some(until) = self.until {
            return tokio::time::sleep_until(until.into()).await;
        }
        let Some(timeout) = self.timeout else {
            return std::future::pending().await;
        };
        let ended = self.request.come().await;
        tokio::time::sleep_until((ended + timeout).into()).await;
    }
}

impl Watch {
    pub(crate) fn new(deadline: Deadline) -> Rc<Self> {
        Rc::new(Self {
            deadline,
            moved: Cell::new(Instant::now()),
            turn: Cell::new(Turn::Host),
            verdict: Cell::new(None),
        })
    }

    /// A piece of the body was taken from it, to be given to the client.
    pub(crate) fn took(&self) {
        self.moved.set(Instant::now());
        if self.turn.get() == Turn::Host {
            self.turn.set(Turn::Client);
        }
    }

    /// The client has got all that there is.
    pub(crate) fn wants(&self) {
        self.turn.set(Turn::Host);
    }

    /// The host has said all: the route's time is no more.
    pub(crate) fn ended(&self) {
        self.turn.set(Turn::ClientLast);
    }

    /// Why the answer was given up, if it was.
    pub(crate) fn verdict(&self) -> Option<Flag> {
        self.verdict.get()
    }

    /// Ready when the answer is to be given up.
    pub(crate) async fn over(&self) {
        let mut timer = Timer::new();
        poll_fn(|cx| self.poll_over(&mut timer, cx)).await;
    }

    pub(crate) fn poll_over(&self, timer: &mut Timer, cx: &mut Context<'_>) -> Poll<()> {
        let (until, flag) = self.until(cx);
        ready!(timer.poll(Some(until), cx));
        self.verdict.set(Some(flag));
        Poll::Ready(())
    }

    fn until(&self, cx: &mut Context<'_>) -> (Instant, Flag) {
        let (turn, request) = (self.turn.get(), &self.deadline.request);
        let blamed = match turn {
            Turn::Host => Flag::UpstreamTimeout,
            Turn::Client | Turn::ClientLast => Flag::ClientGone,
        };
        let route = match (turn, self.deadline.timeout) {
            (Turn::ClientLast, _) | (_, None) => None,
            (_, Some(timeout)) => match request.poll(cx) {
                Poll::Ready(ended) => Some(ended + timeout),
                Poll::Pending => None,
            },
        };
        let moved = self.moved.get().max(request.moved());
        let idle = self.deadline.idle.filter(|_| turn == Turn::Host);
        let stalled = moved + idle.map_or(BODY_TIMEOUT, |idle| idle.min(BODY_TIMEOUT));
        match self.deadline.until {
            // Envoy has no flag for it.
            Some(until) if until <= stalled => (until, Flag::None),
            _ => sooner(route, stalled, blamed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_the_time_of_its_route_and_may_not_stand_still() {
        let start = Instant::now();
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for (timeout, idle, moved, turn, until, flag) in [
            (Some(1), None, 0, Turn::Host, 1, Flag::UpstreamTimeout),
            (Some(1), None, 0, Turn::Client, 1, Flag::UpstreamTimeout),
            (Some(1), None, 0, Turn::ClientLast, 5, Flag::ClientGone),
            (Some(60), None, 7, Turn::Host, 12, Flag::UpstreamTimeout),
            (Some(60), None, 7, Turn::Client, 12, Flag::ClientGone),
            (Some(60), None, 58, Turn::Client, 60, Flag::UpstreamTimeout),
            (None, None, 0, Turn::Host, 5, Flag::UpstreamTimeout),
            (None, None, 3, Turn::Client, 8, Flag::ClientGone),
            (None, Some(2), 3, Turn::Host, 5, Flag::UpstreamTimeout),
            (None, Some(2), 3, Turn::Client, 8, Flag::ClientGone),
            (None, Some(2), 3, Turn::ClientLast, 8, Flag::ClientGone),
            (Some(4), Some(2), 3, Turn::Host, 4, Flag::UpstreamTimeout),
            (None, Some(9), 3, Turn::Host, 8, Flag::UpstreamTimeout),
        ] {
            let watch = Watch::new(Deadline {
                timeout: timeout.map(minutes),
                until: None,
                idle: idle.map(minutes),
                request: RequestEnd::At(start),
            });
            watch.moved.set(start + minutes(moved));
            watch.turn.set(turn);
            let got = watch.until(&mut cx);
            assert_eq!(
                got,
                (start + minutes(until), flag),
                "{timeout:?} {idle:?} {moved} {turn:?}"
            );
        }
    }

    #[test]
    fn what_was_said_last_stays_the_last() {
        let watch = Watch::new(Deadline {
            timeout: None,
            until: None,
            idle: None,
            request: RequestEnd::At(Instant::now()),
        });
        for (happens, turn) in [
            (Watch::took as fn(&Watch), Turn::Client),
            (Watch::wants, Turn::Host),
            (Watch::ended, Turn::ClientLast),
            (Watch::took, Turn::ClientLast),
        ] {
            happens(&watch);
            assert_eq!(watch.turn.get(), turn);
        }
    }
}

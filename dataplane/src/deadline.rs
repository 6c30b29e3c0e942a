//! How long an answer may take, watched from outside of its body: who writes a body to a client that takes nothing does not look
//! at the body, nor at what is in it.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use http::StatusCode;

use crate::attempt::{Failure, Refusal};
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
    /// So long nothing may move in either direction.
    pub(crate) stream_idle: Option<Duration>,
    pub(crate) request: RequestEnd,
}

/// What a request had no more of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// The time of its route.
    Time,
    /// That in which something of it has to move.
    Idle,
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
    /// Ready when there is no answer, and no time for one any more.
    pub(crate) async fn expired(&self) -> Over {
        let ended = async {
            let Some((time, over)) = first(self.timeout, self.stream_idle) else {
                return std::future::pending().await;
            };
            let ended = self.request.come().await;
            tokio::time::sleep_until((ended + time).into()).await;
            over
        };
        let Some(until) = self.until else {
            return ended.await;
        };
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(until.into()) => Over::Time,
            over = ended => over,
        }
    }
}

impl Over {
    /// A host to which there was no connection yet is not to blame for it.
    pub(crate) fn failure(self, connected: bool) -> Failure {
        match self {
            Self::Time => Failure::Late { connected },
            Self::Idle => Failure::Client(self.refusal()),
        }
    }

    /// What a client is told that has sent all of its request.
    pub(crate) fn refusal(self) -> Refusal {
        match self {
            Self::Time => Refusal::timed_out(),
            Self::Idle => Refusal::idle(StatusCode::GATEWAY_TIMEOUT),
        }
    }
}

/// What is over first after a request has ended, and how long that takes, while there is no answer.
pub(crate) fn first(timeout: Option<Duration>, idle: Option<Duration>) -> Option<(Duration, Over)> {
    match (timeout, idle) {
        (Some(timeout), idle) if idle.is_none_or(|idle| timeout <= idle) => Some((timeout, Over::Time)),
        (_, Some(idle)) => Some((idle, Over::Idle)),
        (_, None) => None,
    }
}

/// Makes a request wait so long, unless one of its times is over before that.
pub(crate) async fn delay(
    time: Duration,
    until: Option<Instant>,
    stream_idle: Option<Duration>,
) -> Result<(), Over> {
    let left = until.map(|until| until.saturating_duration_since(Instant::now()));
    let (time, ended) = match first(left, stream_idle) {
        Some((sooner, over)) if sooner <= time => (sooner, Err(over)),
        _ => (time, Ok(())),
    };
    tokio::time::sleep(time).await;
    ended
}

/// How long a client may take nothing, or send nothing, of what it is waited for: what it holds here is bounded, also where streams
/// may be idle for ever.
pub(crate) fn patience(idle: Option<Duration>) -> Duration {
    idle.map_or(BODY_TIMEOUT, |idle| idle.min(BODY_TIMEOUT))
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
        ready!(timer.poll(until, cx));
        self.verdict.set(Some(flag));
        Poll::Ready(())
    }

    fn until(&self, cx: &mut Context<'_>) -> (Option<Instant>, Flag) {
        let (turn, request) = (self.turn.get(), &self.deadline.request);
        let route = match (turn, self.deadline.timeout) {
            (Turn::ClientLast, _) | (_, None) => None,
            (_, Some(timeout)) => match request.poll(cx) {
                Poll::Ready(ended) => Some(ended + timeout),
                Poll::Pending => None,
            },
        };
        let moved = self.moved.get().max(request.moved());
        let (stream, host) = (self.deadline.stream_idle, self.deadline.idle);
        let (idle, flag) = match (turn, host) {
            (Turn::Client | Turn::ClientLast, _) => (Some(patience(stream)), Flag::StreamIdle),
            (Turn::Host, Some(host)) if stream.is_none_or(|stream| host <= stream) => {
                (Some(host), Flag::UpstreamTimeout)
            }
            (Turn::Host, _) => (stream, Flag::StreamIdle),
        };
        let stalled = idle.map(|idle| moved + idle);
        match self.deadline.until {
            // Envoy has no flag for it.
            Some(until) if stalled.is_none_or(|stalled| until <= stalled) => (Some(until), Flag::None),
            _ => sooner(route, stalled, flag),
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
        // All in minutes: of the route, between two pieces from the host, of the stream, and when a piece was last taken.
        for (timeout, host, stream, moved, turn, until, flag) in [
            (
                Some(1),
                None,
                Some(5),
                0,
                Turn::Host,
                Some(1),
                Flag::UpstreamTimeout,
            ),
            (
                Some(1),
                None,
                Some(5),
                0,
                Turn::Client,
                Some(1),
                Flag::UpstreamTimeout,
            ),
            (
                Some(1),
                None,
                Some(5),
                0,
                Turn::ClientLast,
                Some(5),
                Flag::StreamIdle,
            ),
            (Some(60), None, Some(5), 7, Turn::Host, Some(12), Flag::StreamIdle),
            (
                Some(60),
                None,
                Some(5),
                7,
                Turn::Client,
                Some(12),
                Flag::StreamIdle,
            ),
            (
                Some(60),
                None,
                Some(5),
                58,
                Turn::Client,
                Some(60),
                Flag::UpstreamTimeout,
            ),
            (None, None, Some(5), 0, Turn::Host, Some(5), Flag::StreamIdle),
            (None, None, Some(5), 3, Turn::Client, Some(8), Flag::StreamIdle),
            (
                None,
                Some(2),
                Some(5),
                3,
                Turn::Host,
                Some(5),
                Flag::UpstreamTimeout,
            ),
            (None, Some(2), Some(5), 3, Turn::Client, Some(8), Flag::StreamIdle),
            (
                None,
                Some(2),
                Some(5),
                3,
                Turn::ClientLast,
                Some(8),
                Flag::StreamIdle,
            ),
            (
                Some(4),
                Some(2),
                Some(5),
                3,
                Turn::Host,
                Some(4),
                Flag::UpstreamTimeout,
            ),
            (None, Some(9), Some(5), 3, Turn::Host, Some(8), Flag::StreamIdle),
            // A shorter one holds for both, a longer one for the host only, and so does none.
            (None, None, Some(1), 3, Turn::Host, Some(4), Flag::StreamIdle),
            (None, None, Some(1), 3, Turn::Client, Some(4), Flag::StreamIdle),
            (None, None, Some(30), 3, Turn::Host, Some(33), Flag::StreamIdle),
            (None, None, Some(30), 3, Turn::Client, Some(8), Flag::StreamIdle),
            (None, None, None, 3, Turn::Host, None, Flag::StreamIdle),
            (None, None, None, 3, Turn::ClientLast, Some(8), Flag::StreamIdle),
            (
                None,
                Some(9),
                None,
                3,
                Turn::Host,
                Some(12),
                Flag::UpstreamTimeout,
            ),
            (
                Some(60),
                None,
                None,
                3,
                Turn::Host,
                Some(60),
                Flag::UpstreamTimeout,
            ),
        ] {
            let watch = Watch::new(Deadline {
                timeout: timeout.map(minutes),
                until: None,
                idle: host.map(minutes),
                stream_idle: stream.map(minutes),
                request: RequestEnd::At(start),
            });
            watch.moved.set(start + minutes(moved));
            watch.turn.set(turn);
            let got = watch.until(&mut cx);
            assert_eq!(
                got,
                (until.map(|until| start + minutes(until)), flag),
                "{timeout:?} {host:?} {stream:?} {moved} {turn:?}"
            );
        }
    }

    #[test]
    fn what_is_shorter_is_over_first() {
        let secs = |secs: u64| Duration::from_secs(secs);
        for (timeout, idle, expected) in [
            (Some(15), Some(300), Some((15, Over::Time))),
            (Some(15), None, Some((15, Over::Time))),
            (Some(15), Some(15), Some((15, Over::Time))),
            (Some(15), Some(1), Some((1, Over::Idle))),
            (None, Some(300), Some((300, Over::Idle))),
            (None, None, None),
        ] {
            let expected = expected.map(|(time, over)| (secs(time), over));
            assert_eq!(
                first(timeout.map(secs), idle.map(secs)),
                expected,
                "{timeout:?} {idle:?}"
            );
        }
    }

    #[test]
    fn what_was_said_last_stays_the_last() {
        let watch = Watch::new(Deadline {
            timeout: None,
            until: None,
            idle: None,
            stream_idle: None,
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

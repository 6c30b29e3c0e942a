//! `envoy.filters.http.fault`: what goes wrong on purpose, as the configuration says or as a request asks for it itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::HeaderName;

use super::{Answer, Verdict};
use crate::balance::Draw;
use crate::config::MILLION;
use crate::exchange::Flag;
use crate::grpc::Code;
use crate::matcher::{HeaderMatcher, RequestView, Subject};

/// What Envoy says as well.
const BODY: &[u8] = b"fault filter abort";

const DELAY: HeaderName = HeaderName::from_static("x-envoy-fault-delay-request");
const DELAY_SHARE: HeaderName = HeaderName::from_static("x-envoy-fault-delay-request-percentage");
const ABORT: HeaderName = HeaderName::from_static("x-envoy-fault-abort-request");
const ABORT_CALL: HeaderName = HeaderName::from_static("x-envoy-fault-abort-grpc-request");
const ABORT_SHARE: HeaderName = HeaderName::from_static("x-envoy-fault-abort-request-percentage");

/// What a request may ask to be made to wait. Nobody waits that long, and every clock can tell the moment.
const ASKED_DELAY_MAX: Duration = Duration::from_secs(24 * 3600);

/// Delay and abort are each for so many of a million requests.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Fault {
    pub(crate) delay: Option<(Delay, u32)>,
    pub(crate) abort: Option<(Abort, u32)>,
    /// What must be said in a request's head.
    pub(crate) headers: Vec<HeaderMatcher>,
    /// How many requests may suffer at a time.
    pub(crate) active_max: Option<u64>,
    pub(crate) active: ActiveFaults,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delay {
    Fixed(Duration),
    /// As the request says, and no more often than it says, in so many of a million.
    Asked {
        unit: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Abort {
    Status(StatusCode),
    Code(Code),
    /// As the request says, and no more often than it says, in so many of a million.
    Asked {
        unit: u32,
    },
}

/// How many requests suffer from a listener's filter, whatever routes say of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct ActiveFaults(Arc<AtomicU64>);

/// A request that does, as long as this is held.
#[derive(Debug)]
pub(crate) struct ActiveFault(ActiveFaults);

impl Fault {
    pub(super) fn judge(
        &self,
        subject: &Subject<'_, impl RequestView>,
        draw: &impl Draw,
        verdict: &mut Verdict,
    ) {
        if !self.headers.iter().all(|header| header.matches(subject)) {
            return;
        }
        let happens = |millionths: u32| draw.below(MILLION) < millionths;
        // One at most, however much goes wrong.
        let mut active = None;
        let mut may = || {
            active = active.take().or_else(|| self.active.begin(self.active_max));
            active.is_some()
        };
        let delay = self
            .delay
            .and_then(|(delay, share)| delay.of(&subject.request, share));
        if let Some((delay, _)) = delay.filter(|(_, share)| happens(*share) && may()) {
            verdict.delay += delay;
        }
        let abort = self
            .abort
            .and_then(|(abort, share)| abort.of(&subject.request, share));
        if let Some((status, code, _)) = abort.filter(|(_, _, share)| happens(*share) && may()) {
            verdict.answer = Some(Answer {
                status,
                code,
                flag: Flag::FaultInjected,
                body: Bytes::from_static(BODY),
            });
        }
        verdict.faults.extend(active);
    }

    /// As a route says, where the rest of it is the listener's.
    pub(super) fn within(self, base: &Self) -> Self {
        Self {
            active: base.active.clone(),
            ..self
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.delay.is_none() && self.abort.is_none()
    }
}

impl Delay {
    /// How long, and for how many of a million, of which `share` is the most.
    fn of(self, request: &impl RequestView, share: u32) -> Option<(Duration, u32)> {
        match self {
            Self::Fixed(delay) => Some((delay, share)),
            Self::Asked { unit } => {
                let delay = Duration::from_millis(number(request, &DELAY)?).min(ASKED_DELAY_MAX);
                (!delay.is_zero()).then(|| (delay, asked(request, &DELAY_SHARE, unit, share)))
            }
        }
    }
}

impl Abort {
    fn of(self, request: &impl RequestView, share: u32) -> Option<(StatusCode, Option<Code>, u32)> {
        match self {
            Self::Status(status) => Some((status, None, share)),
            Self::Code(code) => Some((StatusCode::OK, Some(code), share)),
            Self::Asked { unit } => {
                let status = || {
                    let status = u16::try_from(number(request, &ABORT)?).ok()?;
                    (200..600).contains(&status).then_some(status)
                };
                let status = status().and_then(|status| StatusCode::from_u16(status).ok());
                // What is no status of HTTP may be one of a call yet.
                let code = || Code::try_from(number(request, &ABORT_CALL)?).ok();
                let (status, code) = match status {
                    Some(status) => (status, None),
                    None => (StatusCode::OK, Some(code()?)),
                };
                Some((status, code, asked(request, &ABORT_SHARE, unit, share)))
            }
        }
    }
}

/// How many of a million, if the request says that it is to be fewer than `share`.
fn asked(request: &impl RequestView, name: &HeaderName, unit: u32, share: u32) -> u32 {
    let numerator = number(request, name).and_then(|number| u32::try_from(number).ok());
    numerator.map_or(share, |numerator| numerator.saturating_mul(unit).min(share))
}

/// Of the first line of that name, which is all that Envoy looks at.
fn number(request: &impl RequestView, name: &HeaderName) -> Option<u64> {
    let line = request.lines(name).next()?;
    std::str::from_utf8(line).ok()?.trim().parse().ok()
}

impl ActiveFaults {
    /// One more, if there may be.
    fn begin(&self, max: Option<u64>) -> Option<ActiveFault> {
        let max = max.unwrap_or(u64::MAX);
        let more = |active: u64| (active < max).then(|| active + 1);
        let begun = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        begun.ok().map(|_| ActiveFault(self.clone()))
    }
}

/// Filters are the same whoever suffers from them.
impl PartialEq for ActiveFaults {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl PartialEq for ActiveFault {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0.0, &other.0.0)
    }
}

impl Drop for ActiveFault {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::Request;

    use super::*;
    use crate::balance::Always;
    use crate::matcher::{Of, StringMatcher, Wanted};

    const SECOND: Duration = Duration::from_secs(1);

    fn judged(fault: &Fault, lines: &[(&str, &str)], drawn: u32) -> Verdict {
        let request = lines.iter().fold(Request::get("/"), |request, (name, value)| {
            request.header(*name, *value)
        });
        let subject = Subject {
            authority: "a",
            path: "/",
            client: "10.0.0.1".parse().unwrap(),
            direct: "10.0.0.9".parse().unwrap(),
            request: &request.body(()).unwrap().into_parts().0,
        };
        let mut verdict = Verdict::default();
        fault.judge(&subject, &Always(drawn), &mut verdict);
        verdict
    }

    fn aborted(verdict: &Verdict) -> Option<(u16, Option<Code>)> {
        let answer = verdict.answer.as_ref()?;
        Some((answer.status.as_u16(), answer.code))
    }

    #[test]
    fn a_share_is_a_part_of_a_million() {
        for (delayed, aborted, drawn, expected) in [
            (0, 0, 0, (Duration::ZERO, false)),
            (1, 0, 0, (SECOND, false)),
            (1, 0, 1, (Duration::ZERO, false)),
            (MILLION, 500_000, 499_999, (SECOND, true)),
            (MILLION, 500_000, 500_000, (SECOND, false)),
            (MILLION, MILLION, MILLION - 1, (SECOND, true)),
        ] {
            let fault = Fault {
                delay: Some((Delay::Fixed(SECOND), delayed)),
                abort: Some((Abort::Status(StatusCode::IM_A_TEAPOT), aborted)),
                ..Fault::default()
            };
            let verdict = judged(&fault, &[], drawn);
            let found = (verdict.delay, verdict.answer.is_some());
            assert_eq!(found, expected, "{delayed} {aborted} {drawn}");
        }
    }

    #[test]
    fn a_request_asks_for_its_delay() {
        let (delay, share) = (
            "x-envoy-fault-delay-request",
            "x-envoy-fault-delay-request-percentage",
        );
        // Half of all at most, counted in hundredths.
        let fault = Fault {
            delay: Some((Delay::Asked { unit: 10_000 }, 500_000)),
            ..Fault::default()
        };
        for (lines, drawn, expected_ms) in [
            (&[][..], 0, 0),
            (&[(delay, "20")], 499_999, 20),
            (&[(delay, "20")], 500_000, 0),
            (&[(delay, " 20 ")], 0, 20),
            (&[(delay, "20"), (delay, "30")], 0, 20),
            (&[(delay, "0")], 0, 0),
            (&[(delay, "-1")], 0, 0),
            (&[(delay, "1s")], 0, 0),
            (&[(delay, "18446744073709551615")], 0, 24 * 3600 * 1000),
            (&[(delay, "18446744073709551616")], 0, 0),
            (&[(delay, "20"), (share, "10")], 99_999, 20),
            (&[(delay, "20"), (share, "10")], 100_000, 0),
            (&[(delay, "20"), (share, "0")], 0, 0),
            // No more than was said, and what is no number says nothing.
            (&[(delay, "20"), (share, "4294967295")], 500_000, 0),
            (&[(delay, "20"), (share, "all")], 499_999, 20),
        ] {
            let verdict = judged(&fault, lines, drawn);
            assert_eq!(
                verdict.delay,
                Duration::from_millis(expected_ms),
                "{lines:?} {drawn}"
            );
            assert_eq!(verdict.is_silent(), expected_ms == 0, "{lines:?} {drawn}");
        }
    }

    #[test]
    fn a_request_asks_for_its_abort() {
        let (http, call) = ("x-envoy-fault-abort-request", "x-envoy-fault-abort-grpc-request");
        let share = "x-envoy-fault-abort-request-percentage";
        let fault = Fault {
            abort: Some((Abort::Asked { unit: 100 }, MILLION)),
            ..Fault::default()
        };
        let status = |status| Some((status, None));
        let code = |code: &[u8]| Some((200, Code::read(code)));
        for (lines, drawn, expected) in [
            (&[][..], 0, None),
            (&[(http, "503")], 0, status(503)),
            (&[(http, "200")], 0, status(200)),
            (&[(http, "199")], 0, None),
            (&[(http, "600")], 0, None),
            (&[(http, "x")], 0, None),
            (&[(call, "5")], 0, code(b"5")),
            (&[(call, "256")], 0, None),
            (&[(http, "503"), (call, "5")], 0, status(503)),
            (&[(http, "99"), (call, "5")], 0, code(b"5")),
            (&[(http, "503"), (share, "10")], 999, status(503)),
            (&[(http, "503"), (share, "10")], 1000, None),
        ] {
            let verdict = judged(&fault, lines, drawn);
            assert_eq!(aborted(&verdict), expected, "{lines:?} {drawn}");
        }
        let fixed = Fault {
            abort: Some((Abort::Code(Code::ABORTED), MILLION)),
            ..Fault::default()
        };
        assert_eq!(aborted(&judged(&fixed, &[], 0)), Some((200, Some(Code::ABORTED))));
    }

    #[test]
    fn some_requests_suffer() {
        let fault = Fault {
            delay: Some((Delay::Fixed(SECOND), MILLION)),
            headers: vec![HeaderMatcher {
                of: Of::Header(HeaderName::from_static("x-user")),
                wanted: Wanted::Text(StringMatcher::exact("me")),
                inverted: false,
                missing_is_empty: false,
            }],
            ..Fault::default()
        };
        for (lines, expected) in [
            (&[][..], false),
            (&[("x-user", "me")], true),
            (&[("x-user", "you")], false),
        ] {
            assert_eq!(!judged(&fault, lines, 0).is_silent(), expected, "{lines:?}");
        }
    }

    #[test]
    fn no_more_suffer_than_may() {
        let base = Fault::default();
        let both = Fault {
            delay: Some((Delay::Fixed(SECOND), MILLION)),
            abort: Some((Abort::Status(StatusCode::IM_A_TEAPOT), MILLION)),
            active_max: Some(2),
            ..Fault::default()
        };
        let both = both.within(&base);
        let unbounded = Fault {
            active_max: None,
            ..both.clone()
        };
        let first = judged(&both, &[], 0);
        assert!(first.answer.is_some() && first.delay == SECOND, "it counts once");
        let second = judged(&unbounded.within(&base), &[], 0);
        assert!(
            judged(&both, &[], 0).is_silent(),
            "what other routes do counts too"
        );
        drop(first);
        let third = judged(&both, &[], 0);
        assert!(!third.is_silent(), "one is over");
        assert!(judged(&both, &[], 0).is_silent());
        drop((second, third));
        assert!(!judged(&both, &[], 0).is_silent());
        let none = Fault {
            active_max: Some(0),
            ..both
        };
        assert!(judged(&none, &[], 0).is_silent());
    }
}

//! Which failures of an attempt are worth another one, and when. Pure: the request path asks and waits.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderName;

use crate::grpc::{Code, GRPC_STATUS};
use crate::matcher::{HeaderMatcher, Headers};

const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");

/// A route's `retry_policy`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RetryPolicy {
    pub(crate) on: RetryOn,
    /// Attempts after the first.
    pub(crate) retries_max: u32,
    pub(crate) per_try_timeout: Option<Duration>,
    /// So long nothing may come from a host that has been sent all of the request, also between two pieces of its answer.
    pub(crate) per_try_idle: Option<Duration>,
    pub(crate) statuses: Vec<u16>,
    /// Of an answer; one that matches is enough.
    pub(crate) headers: Vec<HeaderMatcher>,
    pub(crate) hosts: RetryHosts,
    pub(crate) priorities: RetryPriorities,
    pub(crate) back_off: BackOff,
    pub(crate) reset: Option<Reset>,
    /// What takes longer than one try goes on beside the next.
    pub(crate) hedges: bool,
}

/// What hosts that are asked too much say of when to ask again.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reset {
    /// The first that says something is believed.
    pub(crate) headers: Vec<(HeaderName, ResetFormat)>,
    /// What is longer is not.
    pub(crate) max: Duration,
}

/// What a number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResetFormat {
    Seconds,
    UnixTimestamp,
}

/// The conditions of `retry_on`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RetryOn(u16);

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    ConnectFailure,
    RefusedStream,
    Reset,
    /// Before anything of the request was sent.
    ResetBeforeRequest,
    ServerError,
    GatewayError,
    /// 409, as in Envoy.
    Retriable4xx,
    /// Another Envoy has limited it.
    RateLimited,
    Statuses,
    Headers,
    Cancelled,
    DeadlineExceeded,
    Internal,
    ResourceExhausted,
    Unavailable,
}

/// Whether a retry may use a host that was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetryHosts {
    Any,
    /// Draw again, at most so many times, while the host drawn was tried before.
    Other {
        draws_max: u32,
    },
}

/// Whether a retry may use a priority that was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetryPriorities {
    Any,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BackOff {
    pub(crate) base: Duration,
    pub(crate) max: Duration,
}

/// How an attempt ended without a response to pass on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// No connection, in time or at all.
    ConnectFailure,
    /// There was no socket for one: nothing that the host is to blame for.
    NoSocket,
    /// The host did not look at it, and said so, or it never left on a new connection.
    RefusedStream,
    /// The connection broke, or was closed because a check declared the host dead.
    Reset,
    PerTryTimeout,
    Status(u16),
}

impl RetryPolicy {
    /// Whether `outcome` of an attempt is worth another one. As in Envoy, `reset`, `5xx` and `gateway-error` cover whatever left
    /// no response: a failed connection, a refused stream, a timeout of one try.
    pub(crate) fn repeats(&self, outcome: Outcome) -> bool {
        use Condition::{
            ConnectFailure, GatewayError, RefusedStream, Reset, ResetBeforeRequest, Retriable4xx,
            ServerError, Statuses,
        };
        let reset = [Reset, ServerError, GatewayError];
        match outcome {
            Outcome::ConnectFailure | Outcome::NoSocket => {
                self.on.has_any(&reset) || self.on.has_any(&[ConnectFailure, ResetBeforeRequest])
            }
            Outcome::RefusedStream => self.on.has_any(&reset) || self.on.has(RefusedStream),
            Outcome::Reset | Outcome::PerTryTimeout => self.on.has_any(&reset),
            Outcome::Status(status) => {
                let is = |condition, holds: bool| holds && self.on.has(condition);
                is(ServerError, (500..600).contains(&status))
                    || is(GatewayError, (502..=504).contains(&status))
                    || is(Retriable4xx, status == 409)
                    || is(Statuses, self.statuses.contains(&status))
            }
        }
    }

    /// Whether an answer is worth another attempt. What another Envoy has limited is repeated only where the policy says so.
    pub(crate) fn repeats_answer(&self, status: u16, headers: &impl Headers) -> bool {
        let is_limited = || headers.lines(&RATE_LIMITED).next().is_some();
        if self.repeats(Outcome::Status(status)) {
            return self.on.has(Condition::RateLimited) || !is_limited();
        }
        if self.on.0 & RetryOn::HEADS == 0 {
            return false;
        }
        if is_limited() {
            return self.on.has(Condition::RateLimited);
        }
        let code = || headers.lines(&GRPC_STATUS).next().and_then(Code::read);
        self.on.has(Condition::Headers) && self.headers.iter().any(|wanted| wanted.matches_answer(headers))
            || self.on.0 & RetryOn::CALLS != 0 && code().is_some_and(|code| self.on.repeats_call(code))
    }

    /// Whether it asks for what is done on the bridge only.
    pub(crate) fn is_bridged(&self) -> bool {
        self.hedges || self.per_try_idle.is_some()
    }

    /// How long an answer with these headers wants the next attempt to wait, if it may say so.
    pub(crate) fn reset_after(&self, headers: &impl Headers) -> Option<Duration> {
        let reset = self.reset.as_ref()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        reset.after(headers, now.as_secs())
    }

    /// Whether what a host has read, or may have, is sent to another one. A host of HTTP/1.1 refuses no streams.
    pub(crate) fn repeats_what_was_sent(&self) -> bool {
        let Self {
            on,
            statuses,
            headers,
            ..
        } = self;
        let idle = RetryOn::BEFORE
            | if statuses.is_empty() {
                RetryOn::of(&[Condition::Statuses]).0
            } else {
                0
            }
            | if headers.is_empty() {
                RetryOn::of(&[Condition::Headers]).0
            } else {
                0
            };
        self.retries_max > 0 && on.0 & !idle != 0
    }
}

impl Reset {
    /// How long an answer with these headers wants the next attempt to wait.
    pub(crate) fn after(&self, headers: &impl Headers, now_unix_s: u64) -> Option<Duration> {
        let said = self.headers.iter().filter_map(|(name, format)| {
            let line = headers.lines(name).next()?;
            let number: u64 = std::str::from_utf8(line).ok()?.trim().parse().ok()?;
            let seconds = match format {
                ResetFormat::Seconds => number,
                ResetFormat::UnixTimestamp => number.checked_sub(now_unix_s)?,
            };
            Some(Duration::from_secs(seconds))
        });
        let mut said = said.filter(|after| *after <= self.max);
        said.next()
    }
}

impl RetryOn {
    /// Those that look at more of an answer than its status.
    const HEADS: u16 = Self::CALLS | Self::of(&[Condition::RateLimited, Condition::Headers]).0;
    const CALLS: u16 = Self::of(&[
        Condition::Cancelled,
        Condition::DeadlineExceeded,
        Condition::Internal,
        Condition::ResourceExhausted,
        Condition::Unavailable,
    ])
    .0;
    /// Those of which a host of HTTP/1.1 has read nothing.
    const BEFORE: u16 = Self::of(&[
        Condition::ConnectFailure,
        Condition::RefusedStream,
        Condition::ResetBeforeRequest,
    ])
    .0;

    pub(crate) const fn of(conditions: &[Condition]) -> Self {
        let mut bits = 0;
        let mut at = 0;
        while at < conditions.len() {
            bits |= 1 << conditions[at] as u16;
            at += 1;
        }
        Self(bits)
    }

    pub(crate) fn add(&mut self, condition: Condition) {
        self.0 |= Self::of(&[condition]).0;
    }

    fn has(self, condition: Condition) -> bool {
        self.has_any(&[condition])
    }

    fn has_any(self, conditions: &[Condition]) -> bool {
        self.0 & Self::of(conditions).0 != 0
    }

    fn repeats_call(self, code: Code) -> bool {
        let condition = match code {
            Code::CANCELLED => Condition::Cancelled,
            Code::DEADLINE_EXCEEDED => Condition::DeadlineExceeded,
            Code::INTERNAL => Condition::Internal,
            Code::RESOURCE_EXHAUSTED => Condition::ResourceExhausted,
            Code::UNAVAILABLE => Condition::Unavailable,
            _ => return false,
        };
        self.has(condition)
    }
}

impl Condition {
    /// By Envoy's word for it.
    pub(crate) fn of(word: &str) -> Option<Self> {
        Some(match word {
            "connect-failure" => Self::ConnectFailure,
            "refused-stream" => Self::RefusedStream,
            "reset" => Self::Reset,
            "reset-before-request" => Self::ResetBeforeRequest,
            "5xx" => Self::ServerError,
            "gateway-error" => Self::GatewayError,
            "retriable-4xx" => Self::Retriable4xx,
            "envoy-ratelimited" => Self::RateLimited,
            "retriable-status-codes" => Self::Statuses,
            "retriable-headers" => Self::Headers,
            "cancelled" => Self::Cancelled,
            "deadline-exceeded" => Self::DeadlineExceeded,
            "internal" => Self::Internal,
            "resource-exhausted" => Self::ResourceExhausted,
            "unavailable" => Self::Unavailable,
            _ => return None,
        })
    }
}

impl BackOff {
    /// Envoy's default: 25 ms, at most ten times that.
    pub(crate) const DEFAULT: Self = Self {
        base: Duration::from_millis(25),
        max: Duration::from_millis(250),
    };

    /// The wait before retry number `retry` (0 is the first), fully jittered: a share `draw` in `0.0..1.0` of
    /// an interval that doubles up to the maximum.
    pub(crate) fn wait(self, retry: u32, draw: f64) -> Duration {
        let ceiling = self.base.saturating_mul(2u32.saturating_pow(retry)).min(self.max);
        ceiling.mul_f64(draw)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;
    use crate::matcher::{Of, StringMatcher, Wanted};

    fn policy(words: &str) -> RetryPolicy {
        let conditions = words.split_whitespace().map(|word| Condition::of(word).unwrap());
        RetryPolicy {
            on: RetryOn::of(&conditions.collect::<Vec<_>>()),
            retries_max: 2,
            per_try_timeout: None,
            per_try_idle: None,
            statuses: vec![418],
            headers: vec![HeaderMatcher {
                of: Of::Header(HeaderName::from_static("x-again")),
                wanted: Wanted::Text(StringMatcher::exact("yes")),
                inverted: false,
                missing_is_empty: false,
            }],
            hosts: RetryHosts::Any,
            priorities: RetryPriorities::Any,
            back_off: BackOff::DEFAULT,
            reset: None,
            hedges: false,
        }
    }

    #[test]
    fn outcomes_are_retried_as_the_policy_says() {
        let outcomes = [
            Outcome::ConnectFailure,
            Outcome::RefusedStream,
            Outcome::Reset,
            Outcome::PerTryTimeout,
        ];
        for (words, expected) in [
            ("", [false; 4]),
            ("connect-failure", [true, false, false, false]),
            ("reset-before-request", [true, false, false, false]),
            ("refused-stream", [false, true, false, false]),
            ("reset", [true; 4]),
            ("5xx", [true; 4]),
            ("gateway-error", [true; 4]),
            (
                "retriable-4xx retriable-status-codes envoy-ratelimited unavailable",
                [false; 4],
            ),
        ] {
            let got = outcomes.map(|outcome| policy(words).repeats(outcome));
            assert_eq!(got, expected, "{words}");
        }
    }

    #[test]
    fn answers_are_retried_as_the_policy_says() {
        let limited = ("x-envoy-ratelimited", "true");
        let code = |code| ("grpc-status", code);
        type Lines<'a> = &'a [(&'static str, &'static str)];
        let cases: [(&str, u16, Lines<'_>, bool); 33] = [
            ("", 503, &[], false),
            ("reset", 503, &[], false),
            ("5xx", 500, &[], true),
            ("5xx", 599, &[], true),
            ("5xx", 499, &[], false),
            ("5xx", 600, &[], false),
            ("gateway-error", 500, &[], false),
            ("gateway-error", 502, &[], true),
            ("gateway-error", 504, &[], true),
            ("gateway-error", 505, &[], false),
            ("retriable-4xx", 409, &[], true),
            ("retriable-4xx", 429, &[], false),
            ("retriable-status-codes", 418, &[], true),
            ("retriable-status-codes", 503, &[], false),
            ("5xx", 503, &[limited], false),
            ("5xx envoy-ratelimited", 503, &[limited], true),
            ("envoy-ratelimited", 429, &[limited], true),
            ("envoy-ratelimited", 429, &[], false),
            ("envoy-ratelimited", 200, &[limited], true),
            ("retriable-headers", 200, &[("x-again", "yes")], true),
            ("retriable-headers", 200, &[("x-again", "no")], false),
            ("retriable-headers", 200, &[("x-again", "yes"), limited], false),
            ("5xx", 200, &[("x-again", "yes")], false),
            ("cancelled", 200, &[code("1")], true),
            ("deadline-exceeded", 200, &[code("4")], true),
            ("internal", 200, &[code("13")], true),
            ("resource-exhausted", 200, &[code("8")], true),
            ("unavailable", 200, &[code("14")], true),
            ("unavailable", 200, &[code("13")], false),
            ("unavailable", 200, &[code("0")], false),
            ("unavailable", 200, &[], false),
            ("unavailable", 200, &[code("14"), limited], false),
            ("5xx", 200, &[code("14")], false),
        ];
        for (words, status, lines, expected) in cases {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(*name, HeaderValue::from_static(value));
            }
            let got = policy(words).repeats_answer(status, &headers);
            assert_eq!(got, expected, "{words} {status} {lines:?}");
        }
    }

    #[test]
    fn what_was_sent_is_kept_where_it_may_be_repeated() {
        for (words, expected) in [
            ("", false),
            ("connect-failure refused-stream reset-before-request", false),
            ("connect-failure reset", true),
            ("retriable-status-codes", true),
            ("retriable-headers", true),
            ("5xx", true),
            ("unavailable", true),
        ] {
            assert_eq!(policy(words).repeats_what_was_sent(), expected, "{words}");
        }
        let never = RetryPolicy {
            retries_max: 0,
            ..policy("5xx")
        };
        assert!(!never.repeats_what_was_sent());
        let nothing = RetryPolicy {
            statuses: Vec::new(),
            headers: Vec::new(),
            ..policy("retriable-status-codes retriable-headers connect-failure")
        };
        assert!(!nothing.repeats_what_was_sent());
    }

    #[test]
    fn hosts_say_when_to_ask_again() {
        let reset = Reset {
            headers: vec![
                (HeaderName::from_static("retry-after"), ResetFormat::Seconds),
                (
                    HeaderName::from_static("x-ratelimit-reset"),
                    ResetFormat::UnixTimestamp,
                ),
            ],
            max: Duration::from_secs(300),
        };
        for (after, reset_at, expected_s) in [
            (None, None, None),
            (Some("2"), None, Some(2)),
            (Some("2"), Some("1030"), Some(2)),
            (Some("0"), None, Some(0)),
            (Some("300"), None, Some(300)),
            (Some("301"), None, None),
            (Some("301"), Some("1030"), Some(30)),
            (Some("soon"), Some("1030"), Some(30)),
            (Some("-1"), None, None),
            (Some("1.5"), None, None),
            (None, Some("1000"), Some(0)),
            (None, Some("999"), None),
            (None, Some("1301"), None),
            (None, Some("18446744073709551616"), None),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in [("retry-after", after), ("x-ratelimit-reset", reset_at)] {
                if let Some(value) = value {
                    headers.insert(name, HeaderValue::from_static(value));
                }
            }
            let got = reset.after(&headers, 1000);
            assert_eq!(got, expected_s.map(Duration::from_secs), "{after:?} {reset_at:?}");
        }
    }

    #[test]
    fn back_off_doubles_up_to_its_maximum() {
        let back_off = BackOff {
            base: Duration::from_millis(10),
            max: Duration::from_millis(50),
        };
        let cases = [
            (0, 1.0, 10),
            (1, 1.0, 20),
            (2, 1.0, 40),
            (3, 1.0, 50),
            (40, 1.0, 50),
            (2, 0.5, 20),
            (5, 0.0, 0),
        ];
        for (retry, draw, expected_ms) in cases {
            assert_eq!(
                back_off.wait(retry, draw),
                Duration::from_millis(expected_ms),
                "retry {retry} × {draw}"
            );
        }
    }
}

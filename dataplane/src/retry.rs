//! Which failures of an attempt are worth another one, and when. Pure: the request path asks and waits.

use std::time::Duration;

/// A route's `retry_policy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RetryPolicy {
    pub(crate) on: RetryOn,
    /// Attempts after the first.
    pub(crate) retries_max: u32,
    pub(crate) per_try_timeout: Option<Duration>,
    pub(crate) statuses: Vec<u16>,
    pub(crate) hosts: RetryHosts,
    pub(crate) priorities: RetryPriorities,
    pub(crate) back_off: BackOff,
}

/// The conditions of `retry_on`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RetryOn {
    pub(crate) connect_failure: bool,
    pub(crate) refused_stream: bool,
    pub(crate) reset: bool,
    pub(crate) statuses: bool,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BackOff {
    pub(crate) base: Duration,
    pub(crate) max: Duration,
}

/// How an attempt ended without a response to pass on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// No connection, in time or at all.
    ConnectFailure,
    /// The host did not look at it, and said so, or it never left on a new connection.
    RefusedStream,
    /// The connection broke, or was closed because a check declared the host dead.
    Reset,
    PerTryTimeout,
    Status(u16),
}

impl RetryPolicy {
    /// Whether `outcome` of an attempt is worth another one. As in Envoy, `reset` covers whatever left no response: a failed
    /// connection, a refused stream, a timeout of one try.
    pub(crate) fn repeats(&self, outcome: Outcome) -> bool {
        match outcome {
            Outcome::ConnectFailure => self.on.connect_failure || self.on.reset,
            Outcome::RefusedStream => self.on.refused_stream || self.on.reset,
            Outcome::Reset | Outcome::PerTryTimeout => self.on.reset,
            Outcome::Status(status) => self.on.statuses && self.statuses.contains(&status),
        }
    }

    /// Whether what a host has read, or may have, is sent to another one. A host of HTTP/1.1 refuses no streams.
    pub(crate) fn repeats_what_was_sent(&self) -> bool {
        self.on.reset || (self.on.statuses && !self.statuses.is_empty())
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
mod tests {
    use super::*;

    fn policy(on: RetryOn) -> RetryPolicy {
        RetryPolicy {
            on,
            retries_max: 2,
            per_try_timeout: None,
            statuses: vec![503],
            hosts: RetryHosts::Any,
            priorities: RetryPriorities::Any,
            back_off: BackOff::DEFAULT,
        }
    }

    #[test]
    fn outcomes_are_retried_as_the_policy_says() {
        let none = RetryOn::default();
        let connect = RetryOn {
            connect_failure: true,
            ..none
        };
        let refused = RetryOn {
            refused_stream: true,
            ..none
        };
        let reset = RetryOn { reset: true, ..none };
        let statuses = RetryOn {
            statuses: true,
            ..none
        };
        let cases = [
            (none, Outcome::ConnectFailure, false),
            (connect, Outcome::ConnectFailure, true),
            (connect, Outcome::Reset, false),
            (refused, Outcome::RefusedStream, true),
            (refused, Outcome::Reset, false),
            (reset, Outcome::Reset, true),
            (reset, Outcome::ConnectFailure, true),
            (reset, Outcome::RefusedStream, true),
            (reset, Outcome::PerTryTimeout, true),
            (connect, Outcome::PerTryTimeout, false),
            (statuses, Outcome::Status(503), true),
            (statuses, Outcome::Status(500), false),
            (reset, Outcome::Status(503), false),
        ];
        for (on, outcome, expected) in cases {
            assert_eq!(policy(on).repeats(outcome), expected, "{on:?} {outcome:?}");
        }
    }

    #[test]
    fn what_was_sent_is_kept_where_it_may_be_repeated() {
        let on = |on: &str| RetryOn {
            connect_failure: on.contains('c'),
            refused_stream: on.contains('f'),
            reset: on.contains('r'),
            statuses: on.contains('s'),
        };
        for (conditions, expected) in [("", false), ("cf", false), ("cfr", true), ("cfs", true)] {
            assert_eq!(
                policy(on(conditions)).repeats_what_was_sent(),
                expected,
                "{conditions}"
            );
        }
        let no_status = RetryPolicy {
            statuses: Vec::new(),
            ..policy(on("s"))
        };
        assert!(!no_status.repeats_what_was_sent());
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

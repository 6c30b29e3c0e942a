//! Traces: which requests are sampled, what their hosts are told of it, and the spans that are made of them. A request that is not
//! sampled costs a line in its head; a listener without tracing has none of it.

use http::HeaderName;

use crate::balance::Draw;
use crate::matcher::Headers;
use crate::otlp::Stream;
use crate::worker::Random;

mod context;
mod span;

pub(crate) use context::Context;
pub(crate) use span::Traced;

use context::{Given, Sampled};

/// Who wants its request to be traced says so by this, as in Envoy.
const CLIENT_TRACE_ID: HeaderName = HeaderName::from_static("x-client-trace-id");

/// What a listener does about traces.
#[derive(Debug, PartialEq)]
pub(crate) struct Tracing {
    pub(crate) sampling: Sampling,
    /// Said of each span of a request.
    pub(crate) tags: Box<[Tag]>,
    /// Of the path that is said of a span.
    pub(crate) path_bytes_max: usize,
    pub(crate) spans: Spans,
    pub(crate) stream: Stream,
}

/// What a request has spans for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spans {
    /// Itself.
    Request,
    /// And each of its attempts.
    Attempts,
}

/// So many of a million requests of which no client has decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sampling {
    /// Of those whose client wants it.
    pub(crate) client: u32,
    /// Of all others.
    pub(crate) random: u32,
    /// Of all of them at most.
    pub(crate) overall: u32,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Tag {
    pub(crate) name: Box<str>,
    pub(crate) value: TagValue,
}

#[derive(Debug, PartialEq)]
pub(crate) enum TagValue {
    Literal(Box<str>),
    /// Of the request's head; where there is none, this, and no tag if that is empty.
    Header {
        name: HeaderName,
        or: Box<str>,
    },
}

/// What becomes of a request's trace.
pub(crate) struct Begun {
    pub(crate) context: Context,
    pub(crate) is_sampled: bool,
}

impl Tracing {
    /// Decides about a request with that head.
    pub(crate) fn begin(&self, headers: &impl Headers, random: &Random) -> Begun {
        let given = Given::of(headers);
        let wants = || headers.lines(&CLIENT_TRACE_ID).next().is_some();
        let sampled = given.sampled.unwrap_or_else(|| self.sampling.draw(wants, random));
        // Ids of zeros are none.
        let fresh = u128::from(random.next()) << 64 | u128::from(random.next() | 1);
        Begun {
            context: Context::new(given, fresh, new_span(random), sampled),
            is_sampled: sampled.is_yes(),
        }
    }
}

impl Sampling {
    fn draw(self, wants: impl FnOnce() -> bool, draw: &impl Draw) -> Sampled {
        let below = |share: u32, point: u32| point < share;
        // One point for both, so that the smaller share is what holds.
        let point = draw.below(crate::config::MILLION);
        let is_forced = wants() && below(self.client, draw.below(crate::config::MILLION));
        if (is_forced || below(self.random, point)) && below(self.overall, point) {
            Sampled::Yes
        } else {
            Sampled::No
        }
    }
}

fn new_span(random: &Random) -> u64 {
    random.next().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Draws the same again and again.
    struct Fixed(u32);

    impl Draw for Fixed {
        fn below(&self, _: u32) -> u32 {
            self.0
        }
    }

    #[test]
    fn the_smaller_share_holds() {
        let all = 1_000_000;
        // The shares of clients, of all and over all; whether the client wants it, the draw, and whether it is sampled.
        for (client, random, overall, wants, point, expected) in [
            (all, all, all, false, 999_999, true),
            (all, 500_000, all, false, 499_999, true),
            (all, 500_000, all, false, 500_000, false),
            (all, 500_000, 100_000, false, 99_999, true),
            (all, 500_000, 100_000, false, 100_000, false),
            (all, 0, all, false, 0, false),
            (all, 0, all, true, 0, true),
            (0, 0, all, true, 0, false),
            (all, 0, 100_000, true, 100_000, false),
            (all, all, 0, true, 0, false),
        ] {
            let sampling = Sampling {
                client,
                random,
                overall,
            };
            let got = sampling.draw(|| wants, &Fixed(point)).is_yes();
            assert_eq!(got, expected, "{sampling:?} {wants} {point}");
        }
    }
}

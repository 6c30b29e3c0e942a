//! A bucket's limit, as its id says it, and a part of it as a proxy is told. Pure.

use std::time::Duration;

use envoy_types::pb::envoy::r#type::v3::rate_limit_strategy::{BlanketRule, Strategy as PbStrategy};
use envoy_types::pb::envoy::r#type::v3::{
    RateLimitStrategy as PbRateLimitStrategy, TokenBucket as PbTokenBucket,
};
use envoy_types::pb::google::protobuf::{Duration as PbDuration, UInt32Value};

/// The part of an id that says its limit.
pub(crate) const NAME: &str = "limit";
/// The part that says whose it is.
pub(crate) const GATEWAY: &str = "gateway";
/// The value of a part that stands for all that a proxy does not tell apart.
pub(super) const OTHERS: &str = "*";
/// Of a request: what is divided is finer than requests are.
const PARTS: u64 = 1_000_000;
/// More would be longer than a proxy's process.
const PER_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// An Envoy says its times in whole seconds, and 0 is one of them.
const ELAPSED_MIN: Duration = Duration::from_secs(1);
/// What has to be rounded is a part of so many at most.
const PRECISION: u128 = 1000;

/// So many requests in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    requests: u32,
    per: Duration,
}

impl Limit {
    /// `REQUESTS/SECONDSs`, e.g. `100/60s`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| -> Option<u32> {
            let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|number| is_plain && *number > 0)
        };
        let (requests, per) = text.split_once('/')?;
        let per = Duration::from_secs(number(per.strip_suffix('s')?)?.into());
        (per <= PER_MAX).then_some(Self {
            requests: number(requests)?,
            per,
        })
    }

    /// What there is to divide.
    pub(super) fn parts(self) -> u64 {
        u64::from(self.requests) * PARTS
    }

    /// What somebody has used who has used so many requests in a time.
    pub(super) fn used(self, requests: u64, elapsed: Duration) -> u64 {
        let used = u128::from(requests) * u128::from(PARTS);
        let each = used.saturating_mul(self.per.as_nanos()) / elapsed.max(ELAPSED_MIN).as_nanos();
        // Nobody wants more than a thousand times all of it.
        let max = u128::from(self.parts()) * 1000;
        u64::try_from(each.min(max)).unwrap_or(u64::MAX)
    }

    /// A part as a bucket, which holds what comes in that time, and one at least.
    pub(super) fn told(self, parts: u64) -> PbRateLimitStrategy {
        let strategy = self.bucket(parts).map_or(
            PbStrategy::BlanketRule(BlanketRule::DenyAll as i32),
            PbStrategy::TokenBucket,
        );
        PbRateLimitStrategy {
            strategy: Some(strategy),
        }
    }

    /// None where it would have nothing in ten years.
    fn bucket(self, parts: u64) -> Option<PbTokenBucket> {
        const INTERVAL_MAX_S: u128 = 10 * 365 * 24 * 3600;
        if parts == 0 {
            return None;
        }
        let (tokens, seconds) = self.fill(parts.into());
        let held = (parts / PARTS).max(1);
        (seconds <= INTERVAL_MAX_S).then(|| PbTokenBucket {
            max_tokens: u32::try_from(held).unwrap_or(u32::MAX),
            tokens_per_fill: u32::try_from(tokens).ok().map(|value| UInt32Value { value }),
            fill_interval: Some(PbDuration {
                seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
                nanos: 0,
            }),
        })
    }

    /// So many tokens in so many seconds, whole ones, since an Envoy reads no others: rather a little less than more.
    fn fill(self, parts: u128) -> (u128, u128) {
        let each = u128::from(PARTS) * u128::from(self.per.as_secs());
        if parts >= PRECISION * each {
            return (parts / each, 1);
        }
        let tokens_of = |seconds: u128| (parts * seconds).div_ceil(each);
        let tokens = tokens_of(1);
        let tokens = if (tokens * each).is_multiple_of(parts) {
            tokens
        } else {
            tokens_of(PRECISION)
        };
        (tokens, (tokens * each).div_ceil(parts))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_id_says_its_limit() {
        for (text, expected) in [
            ("100/60s", Some((100, 60))),
            ("1/1s", Some((1, 1))),
            ("4294967295/1s", Some((u32::MAX, 1))),
            ("0/1s", None),
            ("1/0s", None),
            ("+1/1s", None),
            ("4294967296/1s", None),
            ("1/31622401s", None),
            ("1/1", None),
            ("1/1.5s", None),
            ("/s", None),
            ("", None),
        ] {
            let expected = expected.map(|(requests, per_s)| Limit {
                requests,
                per: Duration::from_secs(per_s),
            });
            assert_eq!(Limit::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn a_part_is_a_bucket_that_fills_no_faster() {
        // The limit, and the part: how many it holds, and how many come in how many seconds.
        for (text, parts, expected) in [
            ("100/1s", 100 * PARTS, Some((100, 100, 1))),
            ("100/1s", 50 * PARTS, Some((50, 50, 1))),
            ("60/60s", 30 * PARTS, Some((30, 1, 2))),
            ("10/1s", 10 * PARTS / 3, Some((3, 3334, 1001))),
            ("5000/1s", 5000 * PARTS / 3, Some((1666, 1666, 1))),
            ("1/3600s", PARTS / 2, Some((1, 1, 7200))),
            ("1/3601s", PARTS / 3, Some((1, 1, 10_804))),
            (
                "4294967295/1s",
                u64::from(u32::MAX) * PARTS,
                Some((u32::MAX, u32::MAX, 1)),
            ),
            ("100/1s", 0, None),
            ("1/31622400s", 1, None),
        ] {
            let strategy = Limit::parse(text).unwrap().told(parts).strategy.unwrap();
            let got = match strategy {
                PbStrategy::TokenBucket(bucket) => {
                    let interval = bucket.fill_interval.unwrap();
                    assert_eq!(interval.nanos, 0, "{text} {parts}");
                    let filled = bucket.tokens_per_fill.unwrap().value;
                    // No faster, and no slower by more than a thousandth.
                    let per_s = parts as f64 / PARTS as f64 / Limit::parse(text).unwrap().per.as_secs_f64();
                    let share = f64::from(filled) / interval.seconds as f64 / per_s;
                    assert!((0.999..=1.000_000_1).contains(&share), "{text} {parts}: {share}");
                    Some((bucket.max_tokens, filled, interval.seconds))
                }
                PbStrategy::BlanketRule(rule) => {
                    assert_eq!(rule, BlanketRule::DenyAll as i32);
                    None
                }
                PbStrategy::RequestsPerTimeUnit(_) => panic!("{text}"),
            };
            assert_eq!(got, expected, "{text} {parts}");
        }
    }

    #[test]
    fn what_is_used_is_compared_with_the_limit() {
        let limit = Limit::parse("100/60s").unwrap();
        let second = Duration::from_secs(1);
        for (requests, elapsed, expected) in [
            (0, second, 0),
            (1, second, 60 * PARTS),
            (100, 60 * second, 100 * PARTS),
            (u64::MAX, Duration::ZERO, 100_000 * PARTS),
            // What is said in less than an Envoy can say is of a second.
            (1, Duration::ZERO, 60 * PARTS),
            (1, second / 1000, 60 * PARTS),
        ] {
            assert_eq!(limit.used(requests, elapsed), expected, "{requests} {elapsed:?}");
        }
    }
}

//! What is assigned to a bucket, and until when. Pure; whoever asks brings the time.

use std::time::Instant;

use super::{Action, Expired, Strategy, Terms};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Life {
    /// Nobody has said anything yet, or anything more.
    #[default]
    Unassigned,
    Assigned {
        strategy: Strategy,
        /// For ever without one.
        lasts: Option<Lasts>,
    },
    /// It is over, and what is done then is not.
    Expired { strategy: Strategy, until: Instant },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lasts {
    since: Instant,
    until: Instant,
}

impl Life {
    /// After `action`. What was assigned before is over, and if it was the same it goes on.
    pub(super) fn on(action: Action, now: Instant) -> Self {
        match action {
            Action::Abandon => Self::Unassigned,
            Action::Assign { strategy, lasts } => Self::Assigned {
                strategy,
                lasts: lasts.map(|lasts| Lasts {
                    since: now,
                    until: now + lasts,
                }),
            },
        }
    }

    /// What has become of it by `now`.
    pub(super) fn by(self, now: Instant, expired: Expired) -> Self {
        match self {
            Self::Assigned {
                strategy,
                lasts: Some(lasts),
            } if lasts.until <= now => {
                let (strategy, goes_on) = match expired {
                    Expired::OnceMore => (strategy, lasts.until - lasts.since),
                    Expired::Reuse(timeout) => (strategy, timeout),
                    Expired::Fallback(fallback, timeout) => (fallback, timeout),
                };
                let until = lasts.until + goes_on;
                Self::Expired { strategy, until }.by(now, expired)
            }
            Self::Expired { until, .. } if until <= now => Self::Unassigned,
            Self::Unassigned | Self::Assigned { .. } | Self::Expired { .. } => self,
        }
    }

    /// When it changes if nobody says anything.
    pub(super) fn due(self) -> Option<Instant> {
        match self {
            Self::Unassigned => None,
            Self::Assigned { lasts, .. } => lasts.map(|lasts| lasts.until),
            Self::Expired { until, .. } => Some(until),
        }
    }

    /// What requests are held to.
    pub(super) fn strategy(self, terms: &Terms) -> Strategy {
        match self {
            Self::Unassigned => terms.unassigned,
            Self::Assigned { strategy, .. } | Self::Expired { strategy, .. } => strategy,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::balance::Draw;
    use crate::quota::buckets::samples;
    use crate::worker::Random;

    const ALL: Strategy = Strategy::AllowAll;
    const NONE: Strategy = Strategy::DenyAll;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn assign(strategy: Strategy, lasts_ms: Option<u64>) -> Action {
        Action::Assign {
            strategy,
            lasts: lasts_ms.map(ms),
        }
    }

    /// What holds at each of these times, for what was said once at the begin.
    #[test]
    fn an_assignment_holds_for_its_time() {
        let limit = Strategy::Rate(crate::filter::Rate::new(1, 1, ms(1000)));
        let begin = Instant::now();
        for (action, expired, expected) in [
            (
                assign(NONE, Some(100)),
                Expired::OnceMore,
                &[(0, NONE), (99, NONE), (100, NONE), (199, NONE), (200, limit)][..],
            ),
            (
                assign(NONE, Some(100)),
                Expired::Reuse(ms(10)),
                &[(99, NONE), (109, NONE), (110, limit)],
            ),
            (
                assign(NONE, Some(100)),
                Expired::Reuse(ms(0)),
                &[(99, NONE), (100, limit)],
            ),
            (
                assign(NONE, Some(100)),
                Expired::Fallback(ALL, ms(50)),
                &[(99, NONE), (100, ALL), (149, ALL), (150, limit)],
            ),
            // Who is to fall back at once.
            (
                assign(NONE, Some(0)),
                Expired::Fallback(ALL, ms(50)),
                &[(0, ALL), (49, ALL), (50, limit)],
            ),
            (assign(NONE, Some(0)), Expired::OnceMore, &[(0, limit)]),
            (
                assign(NONE, None),
                Expired::Fallback(ALL, ms(50)),
                &[(0, NONE), (1_000_000_000, NONE)],
            ),
            (Action::Abandon, Expired::OnceMore, &[(0, limit), (100, limit)]),
        ] {
            let mut terms = samples::terms();
            (terms.unassigned, terms.expired) = (limit, expired);
            // Looked at once, or all the time.
            let life = Life::on(action, begin);
            let mut looked_at = life;
            for (after_ms, strategy) in expected {
                let now = begin + ms(*after_ms);
                looked_at = looked_at.by(now, expired);
                for life in [life.by(now, expired), looked_at] {
                    assert_eq!(
                        life.strategy(&terms),
                        *strategy,
                        "{action:?} {expired:?} {after_ms}"
                    );
                }
            }
        }
    }

    /// Against the last thing that was said, and the time since then.
    #[test]
    fn only_the_last_word_counts() {
        let begin = Instant::now();
        for seed in 0..200 {
            let random = Random::seeded(seed);
            let draw = |below| u64::from(random.below(below));
            let mut terms = samples::terms();
            terms.unassigned = [ALL, NONE][usize::from(draw(2) == 1)];
            let fallback = [ALL, NONE][usize::from(draw(2) == 1)];
            terms.expired = match draw(3) {
                0 => Expired::OnceMore,
                1 => Expired::Reuse(ms(draw(50))),
                _ => Expired::Fallback(fallback, ms(draw(50))),
            };
            let (mut life, mut at_ms) = (Life::default(), 0);
            let mut said: Option<(u64, Strategy, u64)> = None;
            for step in 0..300 {
                at_ms += draw(30);
                let now = begin + ms(at_ms);
                life = life.by(now, terms.expired);
                match draw(6) {
                    0 => {
                        life = Life::on(Action::Abandon, now);
                        said = None;
                    }
                    1 => {
                        let (strategy, lasts_ms) = ([ALL, NONE][usize::from(draw(2) == 1)], draw(40));
                        life = Life::on(assign(strategy, Some(lasts_ms)), now).by(now, terms.expired);
                        said = Some((at_ms, strategy, lasts_ms));
                    }
                    _ => {}
                }
                let expected = said.map_or(terms.unassigned, |(since, strategy, lasts)| {
                    let (then, more) = match terms.expired {
                        Expired::OnceMore => (strategy, lasts),
                        Expired::Reuse(more) => (strategy, more.as_millis() as u64),
                        Expired::Fallback(then, more) => (then, more.as_millis() as u64),
                    };
                    match at_ms - since {
                        age if age < lasts => strategy,
                        age if age < lasts + more => then,
                        _ => terms.unassigned,
                    }
                });
                assert_eq!(
                    life.strategy(&terms),
                    expected,
                    "seed {seed}, step {step}: {life:?}"
                );
                assert!(life.due().is_none_or(|due| due > now), "seed {seed}, step {step}");
            }
        }
    }
}

//! How long to wait before the next attempt: exponential with full jitter, so that the many clients of a
//! server that comes back do not arrive together.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// The waits between failed attempts at one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    ceiling: Duration,
}

impl Backoff {
    /// The first wait lies within `min` and twice `min`; no wait is above `max`.
    pub fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max,
            ceiling: min,
        }
    }

    /// The next wait: between `min` and a ceiling that doubles with each call. `random` is uniform in 0..1,
    /// for example from [`jitter`].
    pub fn next(&mut self, random: f64) -> Duration {
        self.ceiling = self.ceiling.saturating_mul(2).min(self.max).max(self.min);
        self.min + (self.ceiling - self.min).mul_f64(random.clamp(0.0, 1.0))
    }

    /// Starts again from `min`: call it after a success.
    pub fn reset(&mut self) {
        self.ceiling = self.min;
    }
}

/// A number in 0..1, different in each process and at each call. Good enough to spread load; not a secret.
pub fn jitter() -> f64 {
    let bits = RandomState::new().hash_one(0u8) >> 11;
    // 53 bits fit an f64 exactly.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit an f64's mantissa")]
    let fraction = bits as f64 / (1u64 << 53) as f64;
    fraction
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Backoff, jitter};

    #[test]
    fn waits_grow_to_the_maximum_and_start_again() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(1000));
        let waits: Vec<_> = (0..5).map(|_| backoff.next(1.0)).collect();
        assert_eq!(waits, [ms(200), ms(400), ms(800), ms(1000), ms(1000)]);
        assert_eq!(backoff.next(0.0), ms(100));
        backoff.reset();
        assert_eq!(backoff.next(0.5), ms(150));
    }

    #[test]
    fn odd_limits_never_panic() {
        for (min, max) in [(0, 0), (5, 1), (1, u64::MAX)] {
            let mut backoff = Backoff::new(Duration::from_millis(min), Duration::from_millis(max));
            for random in [0.0, 1.0, 2.0, -1.0] {
                for _ in 0..100 {
                    backoff.next(random);
                }
            }
        }
    }

    #[test]
    fn jitter_lies_in_its_range_and_varies() {
        let drawn: Vec<_> = (0..64).map(|_| jitter()).collect();
        assert!(drawn.iter().all(|x| (0.0..1.0).contains(x)));
        assert!(drawn.windows(2).any(|pair| pair[0] != pair[1]));
    }
}

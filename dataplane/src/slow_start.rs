//! `slow_start_config`: a host that is new, or healthy again, gets its share of the requests little by little. What part it gets is a
//! pure function; a task for each cluster that has such hosts keeps it true while time goes on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::task::AbortHandle;

use crate::snapshot::{LiveCluster, Snapshot};

/// All of its weight, in the parts in which [`SlowStart::warmth`] counts.
pub(crate) const WARM: u32 = 1000;

/// How often the weights of slow hosts are computed anew: a hundred times, and neither so often that it is work nor so seldom that a
/// step is seen.
const STEPS: u32 = 100;
const STEP_MIN: Duration = Duration::from_millis(50);
const STEP_MAX: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SlowStart {
    /// More than 0.
    pub(crate) window: Duration,
    /// More than 0; with more than 1 a host gets more of its share in the beginning.
    pub(crate) aggression: f64,
    /// 0 to 1.
    pub(crate) share_min: f64,
}

/// The clusters with hosts that are slow, each with who keeps their weights true.
#[derive(Default)]
pub(crate) struct Starts(Mutex<HashMap<Arc<str>, AbortHandle>>);

impl SlowStart {
    /// What part of its weight a host has that has been healthy for so long: Envoy's `applySlowStartFactor`.
    pub(crate) fn warmth(&self, healthy_for: Duration) -> u32 {
        if healthy_for >= self.window {
            return WARM;
        }
        let elapsed = healthy_for.max(Duration::from_millis(1)).as_secs_f64();
        let factor = elapsed / self.window.as_secs_f64();
        let share = factor.powf(1.0 / self.aggression).max(self.share_min);
        ((share * f64::from(WARM)).round() as u32).clamp(1, WARM)
    }

    fn step(&self) -> Duration {
        (self.window / STEPS).clamp(STEP_MIN, STEP_MAX)
    }
}

impl Starts {
    /// Computes the weights of `cluster` anew until none of its hosts is slow.
    pub(crate) fn watch(self: &Arc<Self>, cluster: &LiveCluster, current: &Arc<ArcSwap<Snapshot>>) {
        let Some(slow_start) = cluster.config.slow_start else {
            return;
        };
        let mut held = self.lock();
        if held.contains_key(&cluster.name) {
            return;
        }
        let watch = watch(
            Arc::clone(&cluster.name),
            slow_start.step(),
            Arc::clone(current),
            Arc::downgrade(self),
        );
        held.insert(Arc::clone(&cluster.name), tokio::spawn(watch).abort_handle());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, AbortHandle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Starts {
    fn drop(&mut self) {
        self.lock().values().for_each(AbortHandle::abort);
    }
}

async fn watch(name: Arc<str>, step: Duration, current: Arc<ArcSwap<Snapshot>>, starts: Weak<Starts>) {
    loop {
        tokio::time::sleep(step).await;
        let Some(starts) = starts.upgrade() else {
            return;
        };
        // Whoever comes with a slow host meanwhile waits, and begins anew.
        let mut held = starts.lock();
        let snapshot = current.load();
        let cluster = snapshot.clusters.get(&name);
        if !cluster.is_some_and(|cluster| cluster.refresh()) {
            held.remove(&name);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_gets_its_share_little_by_little() {
        // Seconds of the window, aggression, least share, seconds in health, and thousandths of its weight.
        for (window_s, aggression, share_min, healthy_s, expected) in [
            (60, 1.0, 0.1, 0.0, 100),
            (60, 1.0, 0.1, 6.0, 100),
            (60, 1.0, 0.1, 30.0, 500),
            (60, 1.0, 0.1, 59.0, 983),
            (60, 1.0, 0.1, 60.0, 1000),
            (60, 1.0, 0.1, 1e6, 1000),
            (60, 1.0, 0.0, 0.0, 1),
            (60, 1.0, 0.0, 3.0, 50),
            (60, 2.0, 0.0, 15.0, 500),
            (60, 0.5, 0.0, 30.0, 250),
            (60, 0.5, 0.4, 30.0, 400),
            (60, 1.0, 1.0, 0.0, 1000),
        ] {
            let slow_start = SlowStart {
                window: Duration::from_secs(window_s),
                aggression,
                share_min,
            };
            let warmth = slow_start.warmth(Duration::from_secs_f64(healthy_s));
            assert_eq!(warmth, expected, "{slow_start:?} after {healthy_s} s");
        }
    }

    #[test]
    fn weights_are_computed_often_enough() {
        for (window_ms, step_ms) in [(1, 50), (1000, 50), (30_000, 300), (3_600_000, 1000)] {
            let slow_start = SlowStart {
                window: Duration::from_millis(window_ms),
                aggression: 1.0,
                share_min: 0.1,
            };
            assert_eq!(slow_start.step(), Duration::from_millis(step_ms));
        }
    }
}

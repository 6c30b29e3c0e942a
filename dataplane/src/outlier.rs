//! Hosts that answer worse than they should, or worse than the others, are left out for a while, whatever their checks say, as
//! Envoy's outlier detection has it. A [`Detector`] decides from what attempts brought and what time it is; workers only count.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::balance::Draw;
use crate::snapshot::{Host, Snapshot};
use crate::worker::Random;

mod record;
#[cfg(test)]
mod tests;

use record::CHECKED;
pub(crate) use record::{Record, Report, Volume};

/// What a cluster says of its outliers; shares are percentages.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Detection {
    /// So many failures one after the other, and how often that counts, by [`Trip`]; 0 never does.
    pub(crate) consecutive: [(u32, u32); 3],
    pub(crate) interval: Duration,
    pub(crate) base_time: Duration,
    pub(crate) max_time: Duration,
    pub(crate) max_jitter: Duration,
    pub(crate) max_percent: u32,
    /// Whether one host may be left out whatever `max_percent` says.
    pub(crate) always_one: bool,
    /// Whether failures to reach a host count apart from what it answers.
    pub(crate) splits: bool,
    pub(crate) success_rate: SuccessRate,
    pub(crate) failure_percentage: FailurePercentage,
    /// Whether a check that passes brings a host back.
    pub(crate) returns_checked: bool,
}

/// Hosts whose share of successes is far below that of the others.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SuccessRate {
    pub(crate) hosts_min: u32,
    pub(crate) requests_min: u32,
    /// Of a standard deviation, in thousandths.
    pub(crate) deviation_thousandths: u32,
    /// By [`Origin`].
    pub(crate) enforcing: [u32; 2],
}

/// Hosts whose share of failures is large by itself.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FailurePercentage {
    pub(crate) hosts_min: u32,
    pub(crate) requests_min: u32,
    pub(crate) threshold: u32,
    /// By [`Origin`].
    pub(crate) enforcing: [u32; 2],
}

/// Failures one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Trip {
    Gateway,
    FiveXx,
    LocalOrigin,
}

/// Who says that something failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    External,
    Local,
}

/// Why a host is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    Consecutive(Trip),
    SuccessRate(Origin),
    FailurePercentage(Origin),
}

/// What a sweep sees of one host, by [`Origin`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) host: u64,
    pub(crate) volumes: [Volume; 2],
}

/// What becomes of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    Ejected(u64, Why),
    /// It would be, if there were not so many already.
    TooMany(u64),
    Returned(u64),
}

/// The outliers of one cluster.
#[derive(Debug)]
pub(crate) struct Detector {
    detection: Detection,
    hosts: BTreeMap<u64, Held>,
}

#[derive(Debug, Default)]
struct Held {
    ejected: Option<Ejected>,
    /// Times that a host is left out grow with it; a healthy sweep takes one away.
    multiplier: u32,
    volumes: [Volume; 2],
}

#[derive(Clone, Copy, Debug)]
struct Ejected {
    since: Instant,
    jitter: Duration,
}

/// How often what happened, for one cluster.
#[derive(Debug, Default)]
pub(crate) struct Ejections {
    by_why: [AtomicU64; WHYS.len()],
    too_many: AtomicU64,
}

const WHYS: [Why; 7] = [
    Why::Consecutive(Trip::Gateway),
    Why::Consecutive(Trip::FiveXx),
    Why::Consecutive(Trip::LocalOrigin),
    Why::SuccessRate(Origin::External),
    Why::SuccessRate(Origin::Local),
    Why::FailurePercentage(Origin::External),
    Why::FailurePercentage(Origin::Local),
];

/// What is shared between a cluster's hosts and who looks after them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watched {
    pub(crate) wake: Arc<Notify>,
    pub(crate) ejections: Arc<Ejections>,
}

impl Trip {
    const ALL: [Self; 3] = [Self::Gateway, Self::FiveXx, Self::LocalOrigin];

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl Detector {
    pub(crate) fn new(detection: Detection) -> Self {
        Self {
            detection,
            hosts: BTreeMap::new(),
        }
    }

    /// These are the cluster's hosts.
    pub(crate) fn keep(&mut self, hosts: impl Iterator<Item = u64>) {
        let hosts: HashSet<u64> = hosts.collect();
        self.hosts.retain(|host, _| hosts.contains(host));
        for host in hosts {
            self.hosts.entry(host).or_default();
        }
    }

    /// What becomes of `host`, which has failed so often in a row.
    pub(crate) fn tripped(
        &mut self,
        host: u64,
        trip: Trip,
        now: Instant,
        draw: &impl Draw,
    ) -> Option<Finding> {
        let (_, enforcing) = self.detection.consecutive[trip as usize];
        self.eject(host, Why::Consecutive(trip), enforcing, now, draw)
    }

    /// A check of `host` has passed.
    pub(crate) fn checked(&mut self, host: u64) -> Option<Finding> {
        let held = self.hosts.get_mut(&host)?;
        held.ejected.take().map(|_| Finding::Returned(host))
    }

    /// What becomes of all hosts at the end of an interval.
    pub(crate) fn sweep(&mut self, seen: &[Seen], now: Instant, draw: &impl Draw) -> Vec<Finding> {
        let mut findings: Vec<Finding> = Vec::new();
        for (host, held) in &mut self.hosts {
            if held.is_over(&self.detection, now) {
                held.ejected = None;
                findings.push(Finding::Returned(*host));
            } else if held.ejected.is_none() {
                held.multiplier = held.multiplier.saturating_sub(1);
            }
        }
        let mut volumes = Vec::new();
        for seen in seen {
            if let Some(held) = self.hosts.get_mut(&seen.host) {
                let before = std::mem::replace(&mut held.volumes, seen.volumes);
                let since = |origin: usize| seen.volumes[origin].since(before[origin]);
                volumes.push((seen.host, [since(0), since(1)]));
            }
        }
        let origins: &[Origin] = if self.detection.splits {
            &[Origin::External, Origin::Local]
        } else {
            &[Origin::External]
        };
        for origin in origins {
            findings.extend(self.compare(*origin, &volumes, now, draw));
        }
        findings
    }

    /// Hosts beside each other.
    fn compare(
        &mut self,
        origin: Origin,
        volumes: &[(u64, [Volume; 2])],
        now: Instant,
        draw: &impl Draw,
    ) -> Vec<Finding> {
        let rates = |requests_min: u32| -> Vec<(u64, f64)> {
            let used = volumes.iter().filter(|(host, _)| !self.is_ejected(*host));
            used.filter_map(|(host, volumes)| Some((*host, volumes[origin as usize].rate(requests_min)?)))
                .collect()
        };
        let Detection {
            success_rate,
            failure_percentage,
            ..
        } = &self.detection;
        let mut outliers = Vec::new();
        let enough =
            |rates: &[(u64, f64)], hosts_min: u32| !rates.is_empty() && rates.len() >= hosts_min as usize;
        let valid = rates(success_rate.requests_min);
        if enough(&valid, success_rate.hosts_min) {
            let least = least_rate(&valid, success_rate.deviation_thousandths);
            let enforcing = success_rate.enforcing[origin as usize];
            let below = valid.iter().filter(|(_, rate)| *rate < least);
            outliers.extend(below.map(|(host, _)| (*host, Why::SuccessRate(origin), enforcing)));
        }
        let valid = rates(failure_percentage.requests_min);
        if enough(&valid, failure_percentage.hosts_min) {
            let threshold = f64::from(failure_percentage.threshold);
            let enforcing = failure_percentage.enforcing[origin as usize];
            let failing = valid.iter().filter(|(_, rate)| 100.0 - rate >= threshold);
            outliers.extend(failing.map(|(host, _)| (*host, Why::FailurePercentage(origin), enforcing)));
        }
        let eject = |(host, why, enforcing)| self.eject(host, why, enforcing, now, draw);
        outliers.into_iter().filter_map(eject).collect()
    }

    fn is_ejected(&self, host: u64) -> bool {
        self.hosts.get(&host).is_some_and(|held| held.ejected.is_some())
    }

    fn eject(
        &mut self,
        host: u64,
        why: Why,
        enforcing: u32,
        now: Instant,
        draw: &impl Draw,
    ) -> Option<Finding> {
        if !self.hosts.contains_key(&host) || self.is_ejected(host) {
            return None;
        }
        let active = self.hosts.values().filter(|held| held.ejected.is_some()).count();
        let fits = (active + 1) * 100 <= self.hosts.len() * self.detection.max_percent as usize;
        let may = fits || (self.detection.always_one && active == 0);
        if !may {
            return Some(Finding::TooMany(host));
        }
        if draw.below(100) >= enforcing {
            return None;
        }
        let Detection {
            base_time,
            max_time,
            max_jitter,
            ..
        } = self.detection;
        let jitter_ms = u32::try_from(max_jitter.as_millis()).unwrap_or(u32::MAX);
        let held = self.hosts.get_mut(&host)?;
        held.ejected = Some(Ejected {
            since: now,
            jitter: Duration::from_millis(draw.below(jitter_ms.saturating_add(1)).into()),
        });
        if base_time.saturating_mul(held.multiplier) < max_time + base_time {
            held.multiplier += 1;
        }
        Some(Finding::Ejected(host, why))
    }
}

impl Held {
    /// Whether it has been left out for as long as it had to be.
    fn is_over(&self, detection: &Detection, now: Instant) -> bool {
        let time = detection
            .base_time
            .saturating_mul(self.multiplier)
            .min(detection.max_time);
        self.ejected
            .is_some_and(|ejected| now.saturating_duration_since(ejected.since) >= time + ejected.jitter)
    }
}

/// Below it a host's share of successes is far from the others'.
fn least_rate(rates: &[(u64, f64)], deviation_thousandths: u32) -> f64 {
    let count = rates.len() as f64;
    let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / count;
    let variance = rates.iter().map(|(_, rate)| (mean - rate).powi(2)).sum::<f64>() / count;
    mean - f64::from(deviation_thousandths) / 1000.0 * variance.sqrt()
}

impl Why {
    fn word(self) -> &'static str {
        match self {
            Self::Consecutive(Trip::Gateway) => "consecutive_gateway_failure",
            Self::Consecutive(Trip::FiveXx) => "consecutive_5xx",
            Self::Consecutive(Trip::LocalOrigin) => "consecutive_local_origin_failure",
            Self::SuccessRate(Origin::External) => "success_rate",
            Self::SuccessRate(Origin::Local) => "local_origin_success_rate",
            Self::FailurePercentage(Origin::External) => "failure_percentage",
            Self::FailurePercentage(Origin::Local) => "local_origin_failure_percentage",
        }
    }
}

impl Ejections {
    fn count(&self, finding: &Finding) {
        let counter = match finding {
            Finding::Ejected(_, why) => WHYS.iter().position(|one| one == why).map(|at| &self.by_why[at]),
            Finding::TooMany(_) => Some(&self.too_many),
            Finding::Returned(_) => None,
        };
        if let Some(counter) = counter {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many hosts were left out, by why, as far as any were; what would have been too many comes last.
    pub(crate) fn counts(&self) -> Vec<(&'static str, u64)> {
        let words = WHYS.iter().map(|why| why.word());
        let counts = words.zip(&self.by_why).chain([("not_ejected", &self.too_many)]);
        counts
            .map(|(word, count)| (word, count.load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}

/// Looks after the hosts of `cluster` until the task is aborted. `refresh` lets its balancer know.
pub(crate) async fn watch(
    cluster: Arc<str>,
    detection: Detection,
    watched: Watched,
    current: Arc<ArcSwap<Snapshot>>,
    refresh: impl Fn(&Arc<str>),
) {
    let random = Random::new();
    let interval = detection.interval;
    let mut detector = Detector::new(detection);
    let mut sweeps = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
    sweeps.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let is_sweep = tokio::select! {
            _ = sweeps.tick() => true,
            () = watched.wake.notified() => false,
        };
        let snapshot = current.load_full();
        let Some(live) = snapshot.clusters.get(&cluster) else {
            continue;
        };
        let hosts: BTreeMap<u64, &Host> = live
            .hosts
            .iter()
            .map(|live| (live.host.id, &*live.host))
            .collect();
        let records: Records<'_> = hosts
            .iter()
            .filter_map(|(id, host)| Some((*id, host.record.as_ref()?)))
            .collect();
        detector.keep(records.keys().copied());
        let now = Instant::now();
        let mut findings = heard(&mut detector, &records, now, &random);
        if is_sweep {
            findings.extend(swept(&mut detector, &records, now, &random));
        }
        for finding in &findings {
            watched.ejections.count(finding);
            tell(*finding, &hosts);
        }
        let changes = |finding: &Finding| !matches!(finding, Finding::TooMany(_));
        if findings.iter().any(changes) {
            refresh(&cluster);
        }
    }
}

type Records<'a> = BTreeMap<u64, &'a Record>;

/// What becomes of those that workers and checks have said something of.
fn heard(detector: &mut Detector, records: &Records<'_>, now: Instant, draw: &impl Draw) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (host, record) in records {
        let signals = record.take_signals();
        let tripped = Trip::ALL.into_iter().filter(|trip| signals & trip.bit() != 0);
        findings.extend(tripped.filter_map(|trip| detector.tripped(*host, trip, now, draw)));
        if signals & CHECKED != 0 {
            findings.extend(detector.checked(*host));
        }
    }
    carried_out(findings, records)
}

/// What becomes of all at the end of an interval.
fn swept(detector: &mut Detector, records: &Records<'_>, now: Instant, draw: &impl Draw) -> Vec<Finding> {
    let seen = records.iter().map(|(host, record)| Seen {
        host: *host,
        volumes: record.volumes(),
    });
    carried_out(detector.sweep(&seen.collect::<Vec<_>>(), now, draw), records)
}

fn carried_out(findings: Vec<Finding>, records: &Records<'_>) -> Vec<Finding> {
    for finding in &findings {
        match finding {
            Finding::Ejected(host, _) => records.get(host).into_iter().for_each(|record| record.eject()),
            Finding::Returned(host) => records.get(host).into_iter().for_each(|record| record.readmit()),
            Finding::TooMany(_) => {}
        }
    }
    findings
}

fn tell(finding: Finding, hosts: &BTreeMap<u64, &Host>) {
    let (Finding::Ejected(id, _) | Finding::TooMany(id) | Finding::Returned(id)) = finding;
    let Some(Host { cluster, address, .. }) = hosts.get(&id) else {
        return;
    };
    match finding {
        Finding::Ejected(_, why) => {
            tracing::info!(%cluster, host = %address, why = why.word(), "host ejected");
        }
        Finding::Returned(_) => tracing::info!(%cluster, host = %address, "host returned"),
        Finding::TooMany(_) => {
            tracing::debug!(%cluster, host = %address, "an outlier stays, because as many hosts as may be are ejected");
        }
    }
}

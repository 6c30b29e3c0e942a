//! What the clients' samples say: pure functions over the ledger.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::sample::Answer;
use super::traffic::Sample;

/// An answer later than this is no longer what a user calls working.
const SLOW: Duration = Duration::from_secs(1);
/// Of the requests of an act with an incident, this share may fail: 1 in 1,000.
const FAILED_SHARE_MAX: f64 = 0.001;
/// And none that was sent later than this after the incident.
const FAILURES_END_AFTER: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) requests: usize,
    pub(super) failed: usize,
    pub(super) resent: usize,
}

impl Tally {
    pub(super) fn of(samples: &[Sample]) -> Tally {
        Tally {
            requests: samples.len(),
            failed: samples.iter().filter(|sample| sample.outcome.is_err()).count(),
            resent: samples.iter().filter(|sample| sample.resent).count(),
        }
    }

    pub(super) fn add(&mut self, other: Tally) {
        self.requests += other.requests;
        self.failed += other.failed;
        self.resent += other.resent;
    }
}

/// Whether the failures of an act are within what was promised; the text says which were not.
pub(super) fn check_failures(samples: &[Sample], incidents: &[Instant]) -> Result<(), String> {
    let excused = |sample: &Sample| {
        incidents
            .iter()
            .any(|at| sample.done >= *at && sample.sent.saturating_duration_since(*at) < FAILURES_END_AFTER)
    };
    let late = samples
        .iter()
        .find(|sample| sample.outcome.is_err() && !excused(sample));
    if let Some(Sample {
        outcome: Err(reason),
        cluster,
        ..
    }) = late
    {
        return Err(format!(
            "a request from {cluster} failed that should not have: {reason}"
        ));
    }
    let tally = Tally::of(samples);
    let share = tally.failed as f64 / tally.requests.max(1) as f64;
    if share > FAILED_SHARE_MAX {
        let reason = samples
            .iter()
            .find_map(|sample| sample.outcome.as_ref().err())
            .map_or("", String::as_str);
        return Err(format!(
            "{} of {} requests failed, such as: {reason}",
            tally.failed, tally.requests
        ));
    }
    Ok(())
}

/// Without an incident nobody has a reason to close a connection on a request.
pub(super) fn check_resends(samples: &[Sample], incidents: &[Instant]) -> Result<(), String> {
    match samples.iter().find(|sample| sample.resent) {
        Some(resent) if incidents.is_empty() => Err(format!(
            "{}'s {} closed a connection on a request, which its client sent again",
            resent.cluster, resent.via
        )),
        _ => Ok(()),
    }
}

/// How long after `from` the wanted state held for good: the end of the last sample that was not as wanted, or of
/// the first that was.
pub(super) fn held_after(
    samples: &[Sample],
    from: Instant,
    wanted: impl Fn(&Answer) -> bool,
) -> Option<Duration> {
    let good = |sample: &Sample| {
        sample.outcome.as_ref().is_ok_and(&wanted)
            && sample.done.saturating_duration_since(sample.sent) < SLOW
    };
    let relevant = || samples.iter().filter(|sample| sample.sent >= from);
    let last_bad = relevant()
        .filter(|sample| !good(sample))
        .map(|sample| sample.done)
        .max();
    let first_good = relevant()
        .filter(|sample| good(sample))
        .map(|sample| sample.done)
        .min()?;
    let held = last_bad.unwrap_or(first_good);
    relevant()
        .any(|sample| sample.done > held || Some(sample.done) > last_bad)
        .then(|| held.duration_since(from))
}

/// The percentage of the answers that came from that version.
pub(super) fn version_percent(samples: &[Sample], version: &str) -> f64 {
    let answers = samples.iter().filter_map(|sample| sample.outcome.as_ref().ok());
    let (all, hits) = answers.fold((0_u32, 0_u32), |(all, hits), answer| {
        (all + 1, hits + u32::from(answer.version == version))
    });
    100.0 * f64::from(hits) / f64::from(all.max(1))
}

/// Who answered, as `us-east v1 95 %`, most first.
pub(super) fn who_answered(samples: &[Sample]) -> String {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for answer in samples.iter().filter_map(|sample| sample.outcome.as_ref().ok()) {
        *counts.entry((&answer.cluster, &answer.version)).or_default() += 1;
    }
    let mut rows: Vec<_> = counts.into_iter().collect();
    rows.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let text: Vec<String> = rows
        .into_iter()
        .map(|((cluster, version), count)| {
            format!(
                "{cluster} {version} {:.0} %",
                100.0 * count as f64 / samples.len() as f64
            )
        })
        .collect();
    if text.is_empty() {
        "nobody".to_owned()
    } else {
        text.join(", ")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sample(start: Instant, sent_ms: u64, done_ms: u64, answered_by: Option<&str>) -> Sample {
        Sample {
            sent: start + Duration::from_millis(sent_ms),
            done: start + Duration::from_millis(done_ms),
            cluster: "us-east",
            via: "gateway",
            tester: false,
            resent: false,
            outcome: answered_by
                .map(|cluster| Answer {
                    service: "reviews".into(),
                    version: "v1".into(),
                    cluster: cluster.into(),
                })
                .ok_or_else(|| "503".to_owned()),
        }
    }

    #[test]
    fn a_state_holds_from_the_last_exception_on() {
        let start = Instant::now();
        let elsewhere = |answer: &Answer| answer.cluster != "us-east";
        for (name, samples, held_ms) in [
            ("nothing seen", vec![], None),
            ("at once", vec![sample(start, 1, 5, Some("us-west"))], Some(5)),
            (
                "after a failure",
                vec![sample(start, 1, 9, None), sample(start, 2, 12, Some("us-west"))],
                Some(9),
            ),
            (
                "after one that hung",
                vec![
                    sample(start, 1, 1500, Some("us-west")),
                    sample(start, 1600, 1605, Some("us-west")),
                ],
                Some(1500),
            ),
        ] {
            assert_eq!(
                held_after(&samples, start, elsewhere),
                held_ms.map(Duration::from_millis),
                "{name}"
            );
        }
    }

    #[test]
    fn a_connection_closes_on_a_request_only_after_an_incident() {
        let start = Instant::now();
        let mut samples = vec![sample(start, 1, 2, Some("us-west"))];
        assert_eq!(check_resends(&samples, &[]), Ok(()));
        samples[0].resent = true;
        assert!(check_resends(&samples, &[]).is_err());
        assert_eq!(check_resends(&samples, &[start]), Ok(()));
    }

    #[test]
    fn failures_are_excused_for_two_seconds_and_one_in_a_thousand() {
        let start = Instant::now();
        let good = || {
            (0..2000)
                .map(|at| sample(start, at, at + 1, Some("us-west")))
                .collect::<Vec<_>>()
        };
        for (name, failed_at_ms, incidents, passes) in [
            ("none", None, vec![], true),
            ("without an incident", Some(10), vec![], false),
            ("right after one", Some(10), vec![start], true),
            ("long after one", Some(2500), vec![start], false),
        ] {
            let mut samples = good();
            samples.extend(failed_at_ms.map(|at| sample(start, at, at + 1, None)));
            assert_eq!(check_failures(&samples, &incidents).is_ok(), passes, "{name}");
        }
        let mut samples = good();
        samples.extend((0..3).map(|at| sample(start, at, at + 1, None)));
        assert!(
            check_failures(&samples, &[start]).is_err(),
            "three in two thousand are too many"
        );
    }
}

//! `envoy.config.cluster.v3.OutlierDetection`.

use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::OutlierDetection;
use envoy_types::pb::google::protobuf::UInt32Value;

use super::fields::{At, Reason, done, duration, positive};
use crate::outlier::{Detection, FailurePercentage, SuccessRate};

/// Envoy's, where none is given.
const INTERVAL_DEFAULT: Duration = Duration::from_secs(10);
const BASE_TIME_DEFAULT: Duration = Duration::from_secs(30);
const MAX_TIME_DEFAULT: Duration = Duration::from_secs(300);

pub(super) fn decode(mut pb: OutlierDetection) -> Result<Detection, Reason> {
    let interval = match pb.interval.take() {
        Some(interval) => positive(interval).at("interval")?,
        None => INTERVAL_DEFAULT,
    };
    let base_time = match pb.base_ejection_time.take() {
        Some(time) => positive(time).at("base_ejection_time")?,
        None => BASE_TIME_DEFAULT,
    };
    let max_time = match pb.max_ejection_time.take() {
        Some(time) => positive(time).at("max_ejection_time")?,
        None => MAX_TIME_DEFAULT.max(base_time),
    };
    if max_time < base_time {
        return Err("max_ejection_time: is less than base_ejection_time".to_owned());
    }
    let max_jitter = match pb.max_ejection_time_jitter.take() {
        Some(jitter) => duration(jitter).at("max_ejection_time_jitter")?,
        None => Duration::ZERO,
    };
    let number = |given: Option<UInt32Value>, default| given.map_or(default, |given| given.value);
    let percent = |given: Option<UInt32Value>, default, field| match number(given, default) {
        percent @ 0..=100 => Ok(percent),
        other => Err(format!("{field}: {other} is not a percentage")),
    };
    let detection = Detection {
        consecutive: [
            (
                number(pb.consecutive_gateway_failure.take(), 5),
                percent(
                    pb.enforcing_consecutive_gateway_failure.take(),
                    0,
                    "enforcing_consecutive_gateway_failure",
                )?,
            ),
            (
                number(pb.consecutive_5xx.take(), 5),
                percent(
                    pb.enforcing_consecutive_5xx.take(),
                    100,
                    "enforcing_consecutive_5xx",
                )?,
            ),
            (
                number(pb.consecutive_local_origin_failure.take(), 5),
                percent(
                    pb.enforcing_consecutive_local_origin_failure.take(),
                    100,
                    "enforcing_consecutive_local_origin_failure",
                )?,
            ),
        ],
        interval,
        base_time,
        max_time,
        max_jitter,
        max_percent: percent(pb.max_ejection_percent.take(), 10, "max_ejection_percent")?,
        always_one: pb.always_eject_one_host.take().is_some_and(|always| always.value),
        splits: std::mem::take(&mut pb.split_external_local_origin_errors),
        success_rate: SuccessRate {
            hosts_min: number(pb.success_rate_minimum_hosts.take(), 5),
            requests_min: number(pb.success_rate_request_volume.take(), 100),
            deviation_thousandths: number(pb.success_rate_stdev_factor.take(), 1900),
            enforcing: [
                percent(pb.enforcing_success_rate.take(), 100, "enforcing_success_rate")?,
                percent(
                    pb.enforcing_local_origin_success_rate.take(),
                    100,
                    "enforcing_local_origin_success_rate",
                )?,
            ],
        },
        failure_percentage: FailurePercentage {
            hosts_min: number(pb.failure_percentage_minimum_hosts.take(), 5),
            requests_min: number(pb.failure_percentage_request_volume.take(), 50),
            threshold: percent(
                pb.failure_percentage_threshold.take(),
                85,
                "failure_percentage_threshold",
            )?,
            enforcing: [
                percent(
                    pb.enforcing_failure_percentage.take(),
                    0,
                    "enforcing_failure_percentage",
                )?,
                percent(
                    pb.enforcing_failure_percentage_local_origin.take(),
                    0,
                    "enforcing_failure_percentage_local_origin",
                )?,
            ],
        },
        returns_checked: pb
            .successful_active_health_check_uneject_host
            .take()
            .is_none_or(|returns| returns.value),
    };
    done(&pb)?;
    Ok(detection)
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::google::protobuf::Duration as PbDuration;

    use super::*;

    fn number(value: u32) -> Option<UInt32Value> {
        Some(UInt32Value { value })
    }

    fn seconds(seconds: i64) -> Option<PbDuration> {
        Some(PbDuration { seconds, nanos: 0 })
    }

    #[test]
    fn it_is_envoys_where_nothing_is_said() {
        let detection = decode(OutlierDetection::default());
        let expected = Detection {
            consecutive: [(5, 0), (5, 100), (5, 100)],
            interval: Duration::from_secs(10),
            base_time: Duration::from_secs(30),
            max_time: Duration::from_secs(300),
            max_jitter: Duration::ZERO,
            max_percent: 10,
            always_one: false,
            splits: false,
            success_rate: SuccessRate {
                hosts_min: 5,
                requests_min: 100,
                deviation_thousandths: 1900,
                enforcing: [100, 100],
            },
            failure_percentage: FailurePercentage {
                hosts_min: 5,
                requests_min: 50,
                threshold: 85,
                enforcing: [0, 0],
            },
            returns_checked: true,
        };
        assert_eq!(detection, Ok(expected));
        let long = OutlierDetection {
            base_ejection_time: seconds(400),
            ..Default::default()
        };
        assert_eq!(
            decode(long).map(|long| long.max_time),
            Ok(Duration::from_secs(400))
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        type Wrong = fn(&mut OutlierDetection);
        let cases: [(Wrong, &str); 6] = [
            (|o| o.interval = seconds(0), "interval: must be more than 0"),
            (
                |o| o.base_ejection_time = seconds(-1),
                "base_ejection_time: is negative",
            ),
            (
                |o| o.max_ejection_time = seconds(29),
                "max_ejection_time: is less than base_ejection_time",
            ),
            (
                |o| o.max_ejection_percent = number(101),
                "max_ejection_percent: 101 is not a percentage",
            ),
            (
                |o| o.enforcing_success_rate = number(200),
                "enforcing_success_rate: 200 is not a percentage",
            ),
            (
                |o| o.monitors.push(Default::default()),
                "monitors: is not supported by this proxy",
            ),
        ];
        for (change, expected) in cases {
            let mut wrong = OutlierDetection::default();
            change(&mut wrong);
            assert_eq!(decode(wrong), Err(expected.to_owned()));
        }
    }
}

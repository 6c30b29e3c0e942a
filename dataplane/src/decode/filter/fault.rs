//! `envoy.extensions.filters.http.fault.v3.HttpFault`.

use std::mem::take;

use envoy_types::pb::envoy::extensions::filters::common::fault::v3::FaultDelay;
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::fault_delay::{
    FaultDelaySecifier, HeaderDelay,
};
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::fault_abort::{ErrorType, HeaderAbort};
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault};
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
use envoy_types::pb::google::protobuf::Any;

use crate::decode::fields::{At, Reason, answer_status, any, done, millionths, positive, required};
use crate::decode::matcher::header;
use crate::filter::{Abort, ActiveFaults, Delay, Fault};
use crate::grpc::Code;

pub(super) fn decode(config: &Any) -> Result<Fault, Reason> {
    let mut pb: HttpFault = any(config)?;
    let delay = pb.delay.take().map(|given| delay(given).at("delay"));
    let abort = pb.abort.take().map(|given| abort(given).at("abort"));
    let mut headers = Vec::new();
    for (index, given) in take(&mut pb.headers).into_iter().enumerate() {
        headers.push(header(given).at_index("headers", index)?);
    }
    let active_max = pb.max_active_faults.take().map(|max| max.value.into());
    // Nothing here counts by clusters of clients.
    pb.disable_downstream_cluster_stats = false;
    done(&pb)?;
    Ok(Fault {
        delay: delay.transpose()?,
        abort: abort.transpose()?,
        headers,
        active_max,
        active: ActiveFaults::default(),
    })
}

fn delay(mut pb: FaultDelay) -> Result<(Delay, u32), Reason> {
    let share = required(pb.percentage.take()).at("percentage")?;
    let delay = match required(pb.fault_delay_secifier.take()).at("fault_delay_secifier")? {
        FaultDelaySecifier::FixedDelay(time) => Delay::Fixed(positive(time).at("fixed_delay")?),
        FaultDelaySecifier::HeaderDelay(HeaderDelay {}) => Delay::Asked {
            unit: unit(&share).at("percentage")?,
        },
    };
    let share = millionths(share).at("percentage")?;
    done(&pb)?;
    Ok((delay, share))
}

fn abort(mut pb: FaultAbort) -> Result<(Abort, u32), Reason> {
    let share = required(pb.percentage.take()).at("percentage")?;
    let abort = match required(pb.error_type.take()).at("error_type")? {
        ErrorType::HttpStatus(status) => Abort::Status(answer_status(status).at("http_status")?),
        ErrorType::GrpcStatus(code) => Abort::Code(self::code(code).at("grpc_status")?),
        ErrorType::HeaderAbort(HeaderAbort {}) => Abort::Asked {
            unit: unit(&share).at("percentage")?,
        },
    };
    let share = millionths(share).at("percentage")?;
    done(&pb)?;
    Ok((abort, share))
}

fn code(code: u32) -> Result<Code, Reason> {
    Code::try_from(u64::from(code)).map_err(|_| "is no status of gRPC".to_owned())
}

/// What a request's number counts, in millionths.
fn unit(share: &FractionalPercent) -> Result<u32, Reason> {
    millionths(FractionalPercent {
        numerator: 1,
        denominator: share.denominator,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use envoy_types::pb::envoy::config::route::v3::HeaderMatcher;
    use envoy_types::pb::envoy::extensions::filters::common::fault::v3::FaultRateLimit;
    use envoy_types::pb::google::protobuf::{Duration as PbDuration, UInt32Value};
    use envoy_types::util::pack_any;
    use http::StatusCode;

    use super::*;

    fn percent(numerator: u32, denominator: i32) -> Option<FractionalPercent> {
        Some(FractionalPercent {
            numerator,
            denominator,
        })
    }

    fn delayed(by: FaultDelaySecifier, percentage: Option<FractionalPercent>) -> HttpFault {
        HttpFault {
            delay: Some(FaultDelay {
                fault_delay_secifier: Some(by),
                percentage,
            }),
            ..HttpFault::default()
        }
    }

    fn aborted(by: ErrorType, percentage: Option<FractionalPercent>) -> HttpFault {
        HttpFault {
            abort: Some(FaultAbort {
                error_type: Some(by),
                percentage,
                ..FaultAbort::default()
            }),
            ..HttpFault::default()
        }
    }

    #[test]
    fn faults_are_what_is_said_or_asked_for() {
        let second = PbDuration { seconds: 1, nanos: 0 };
        let asked_delay = FaultDelaySecifier::HeaderDelay(HeaderDelay {});
        let asked_abort = ErrorType::HeaderAbort(HeaderAbort {});
        for (pb, delay, abort) in [
            (
                delayed(FaultDelaySecifier::FixedDelay(second), percent(50, 0)),
                Some((Delay::Fixed(Duration::from_secs(1)), 500_000)),
                None,
            ),
            (
                delayed(asked_delay, percent(50, 0)),
                Some((Delay::Asked { unit: 10_000 }, 500_000)),
                None,
            ),
            (
                aborted(ErrorType::HttpStatus(503), percent(1, 2)),
                None,
                Some((Abort::Status(StatusCode::SERVICE_UNAVAILABLE), 1)),
            ),
            (
                aborted(ErrorType::GrpcStatus(10), percent(1, 1)),
                None,
                Some((Abort::Code(Code::ABORTED), 100)),
            ),
            (
                aborted(asked_abort, percent(9, 1)),
                None,
                Some((Abort::Asked { unit: 100 }, 900)),
            ),
        ] {
            let got = decode(&pack_any(pb.clone()));
            let expected = Fault {
                delay,
                abort,
                ..Fault::default()
            };
            assert_eq!(got, Ok(expected), "{pb:?}");
        }
    }

    #[test]
    fn faults_that_cannot_be_had_are_refused() {
        for (pb, expected) in [
            (
                HttpFault {
                    delay: Some(FaultDelay::default()),
                    ..HttpFault::default()
                },
                "delay.percentage: is required",
            ),
            (
                aborted(ErrorType::HttpStatus(199), percent(1, 0)),
                "abort.http_status: must be 200 to 599",
            ),
            (
                aborted(ErrorType::GrpcStatus(256), percent(1, 0)),
                "abort.grpc_status: is no status of gRPC",
            ),
            (
                aborted(ErrorType::HeaderAbort(HeaderAbort {}), percent(1, 3)),
                "abort.percentage.denominator: is unknown",
            ),
            (
                HttpFault {
                    headers: vec![HeaderMatcher::default()],
                    ..HttpFault::default()
                },
                "headers[0].name: \"\" is not a header name",
            ),
            (
                HttpFault {
                    upstream_cluster: "a".to_owned(),
                    ..HttpFault::default()
                },
                "upstream_cluster: is not supported by this proxy",
            ),
            (
                HttpFault {
                    downstream_nodes: vec!["a".to_owned()],
                    ..HttpFault::default()
                },
                "downstream_nodes: is not supported by this proxy",
            ),
            (
                HttpFault {
                    response_rate_limit: Some(FaultRateLimit::default()),
                    ..HttpFault::default()
                },
                "response_rate_limit: is not supported by this proxy",
            ),
        ] {
            assert_eq!(decode(&pack_any(pb)).err().as_deref(), Some(expected));
        }
        let bounded = HttpFault {
            max_active_faults: Some(UInt32Value { value: 3 }),
            ..HttpFault::default()
        };
        let bounded = decode(&pack_any(bounded));
        assert_eq!(bounded.map(|fault| fault.active_max), Ok(Some(3)));
    }
}

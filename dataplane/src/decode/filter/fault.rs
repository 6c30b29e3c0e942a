//! `envoy.extensions.filters.http.fault.v3.HttpFault`.

use std::time::Duration;

use envoy_types::pb::envoy::extensions::filters::common::fault::v3::FaultDelay;
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::fault_delay::FaultDelaySecifier;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::fault_abort::ErrorType;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault};
use envoy_types::pb::google::protobuf::Any;
use http::StatusCode;

use crate::decode::fields::{At, Reason, answer_status, any, done, millionths, positive, required};
use crate::filter::Fault;

pub(super) fn decode(config: &Any) -> Result<Fault, Reason> {
    let mut pb: HttpFault = any(config)?;
    let delay = match pb.delay.take() {
        Some(delay) => Some(self::delay(delay).at("delay")?),
        None => None,
    };
    let abort = match pb.abort.take() {
        Some(abort) => Some(self::abort(abort).at("abort")?),
        None => None,
    };
    done(&pb)?;
    Ok(Fault { delay, abort })
}

fn delay(mut pb: FaultDelay) -> Result<(Duration, u32), Reason> {
    let Some(FaultDelaySecifier::FixedDelay(time)) = pb.fault_delay_secifier.take() else {
        return Err("fault_delay_secifier: only fixed_delay is supported".to_owned());
    };
    let time = positive(time).at("fixed_delay")?;
    let share = millionths(required(pb.percentage.take()).at("percentage")?).at("percentage")?;
    done(&pb)?;
    Ok((time, share))
}

fn abort(mut pb: FaultAbort) -> Result<(StatusCode, u32), Reason> {
    let Some(ErrorType::HttpStatus(status)) = pb.error_type.take() else {
        return Err("error_type: only http_status is supported".to_owned());
    };
    let status = answer_status(status).at("http_status")?;
    let share = millionths(required(pb.percentage.take()).at("percentage")?).at("percentage")?;
    done(&pb)?;
    Ok((status, share))
}

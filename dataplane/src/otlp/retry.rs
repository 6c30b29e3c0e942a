//! What a collector has refused, and whether and when it may be sent again
//! (<https://opentelemetry.io/docs/specs/otlp/#failures>). Pure.

use std::time::Duration;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use envoy_types::pb::google::rpc::Status;
use http::{HeaderMap, HeaderName, StatusCode};
use prost::Message;

use crate::grpc::{Code, GRPC_STATUS};

/// Of one batch: a collector that comes back within some ten seconds has missed nothing.
const RETRIES_MAX: u32 = 4;
/// Before the first, and twice as long before each next.
const WAIT: Duration = Duration::from_millis(500);
/// Who wants not to be asked for longer is asked all the same: others wait behind this batch.
const WAIT_MAX: Duration = Duration::from_secs(60);

const STATUS_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
/// Of binary headers, which are padded by some.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("{status}, {code:?}")]
pub(super) struct Refused {
    status: StatusCode,
    code: Option<Code>,
    /// When it may be sent again, if that was said.
    after: Option<Duration>,
}

/// `google.rpc.RetryInfo`
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    delay: Option<envoy_types::pb::google::protobuf::Duration>,
}

impl Refused {
    /// None where all is well.
    pub(super) fn of(status: StatusCode, headers: &HeaderMap, trailers: Option<&HeaderMap>) -> Option<Self> {
        let line = |name: HeaderName| {
            let trailer = trailers.and_then(|trailers| trailers.get(&name));
            trailer.or_else(|| headers.get(&name))
        };
        let code = line(GRPC_STATUS).and_then(|code| Code::read(code.as_bytes()));
        if status == StatusCode::OK && code == Some(Code::OK) {
            return None;
        }
        let after = line(STATUS_DETAILS).and_then(|details| after(details.as_bytes()));
        Some(Self { status, code, after })
    }

    pub(super) fn wait(&self, retries: u32, draw: f64) -> Option<Duration> {
        let may_be_sent_again = match self.code.unwrap_or(Code::of(self.status)) {
            Code::CANCELLED
            | Code::DEADLINE_EXCEEDED
            | Code::ABORTED
            | Code::OUT_OF_RANGE
            | Code::UNAVAILABLE
            | Code::DATA_LOSS => true,
            // It has room for it later only if it says when.
            Code::RESOURCE_EXHAUSTED => self.after.is_some(),
            _ => false,
        };
        let wait = wait(retries, draw).filter(|_| may_be_sent_again)?;
        Some(self.after.map_or(wait, |after| after.clamp(wait, WAIT_MAX)))
    }
}

/// Before it is sent again, of which up to half as long again is `draw`n; none where that was often enough.
pub(super) fn wait(retries: u32, draw: f64) -> Option<Duration> {
    let wait = WAIT * 2u32.pow(retries.min(RETRIES_MAX));
    (retries < RETRIES_MAX).then(|| wait.mul_f64(1.0 + draw / 2.0))
}

fn after(details: &[u8]) -> Option<Duration> {
    let status = Status::decode(&*BASE64.decode(details).ok()?).ok()?;
    let mut details = status.details.iter();
    let info = details.find(|detail| detail.type_url.ends_with("/google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(&*info.value).ok()?.delay.unwrap_or_default();
    let (seconds, nanos) = (
        u64::try_from(delay.seconds).ok()?,
        u32::try_from(delay.nanos).ok()?,
    );
    Some(Duration::from_secs(seconds) + Duration::from_nanos(nanos.into()))
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::google::protobuf::{Any, Duration as PbDuration};
    use http::HeaderValue;

    use super::*;

    fn details(seconds: i64) -> String {
        let info = RetryInfo {
            delay: Some(PbDuration { seconds, nanos: 0 }),
        };
        let status = Status {
            details: vec![Any {
                type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
                value: info.encode_to_vec(),
            }],
            ..Status::default()
        };
        BASE64.encode(status.encode_to_vec())
    }

    /// What is waited for the first time, in milliseconds.
    fn first(status: u16, code: &str, details: &str) -> Option<u128> {
        let mut headers = HeaderMap::new();
        for (name, value) in [("grpc-status", code), ("grpc-status-details-bin", details)] {
            if !value.is_empty() {
                headers.insert(
                    name,
                    HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static("?")),
                );
            }
        }
        let status = StatusCode::from_u16(status).unwrap_or_default();
        let in_head = Refused::of(status, &headers, None);
        assert_eq!(Refused::of(status, &HeaderMap::new(), Some(&headers)), in_head);
        in_head?.wait(0, 0.0).map(|wait| wait.as_millis())
    }

    #[test]
    fn what_may_be_taken_later_is_sent_again() {
        let (soon, late, later) = (details(0), details(7), details(600));
        let unpadded = late.trim_end_matches('=').to_owned();
        for (status, code, details, expected) in [
            (200, "0", "", None),
            (200, "1", "", Some(500)),
            (200, "2", "", None),
            (200, "3", "", None),
            (200, "4", "", Some(500)),
            (200, "7", "", None),
            (200, "8", "", None),
            (200, "8", &*late, Some(7000)),
            (200, "8", &*unpadded, Some(7000)),
            (200, "8", &*soon, Some(500)),
            (200, "8", &*later, Some(60_000)),
            (200, "8", "?", None),
            (200, "10", "", Some(500)),
            (200, "11", "", Some(500)),
            (200, "12", "", None),
            (200, "13", "", None),
            (200, "14", "", Some(500)),
            (200, "14", &*late, Some(7000)),
            (200, "15", "", Some(500)),
            (200, "16", "", None),
            (200, "", "", None),
            (503, "", "", Some(500)),
            (429, "", "", Some(500)),
            (404, "", "", None),
            (401, "", "", None),
        ] {
            assert_eq!(
                first(status, code, details),
                expected,
                "{status} {code} {details}"
            );
        }
    }

    #[test]
    fn waits_grow_and_end() {
        for (retries, draw, expected_ms) in [
            (0, 0.0, Some(500)),
            (0, 1.0, Some(750)),
            (3, 0.0, Some(4000)),
            (4, 0.0, None),
            (u32::MAX, 0.0, None),
        ] {
            let expected = expected_ms.map(Duration::from_millis);
            assert_eq!(wait(retries, draw), expected, "{retries} {draw}");
        }
    }
}

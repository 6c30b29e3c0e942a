//! What a service is asked, and what its answers mean.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::HeaderValue as PbHeaderValue;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::RateLimit as PbLimit;
use envoy_types::pb::google::protobuf::Duration as PbDuration;
use http::HeaderMap;

use super::*;

fn limit(says_limits: bool, on_error: Option<StatusCode>) -> RateLimit {
    RateLimit {
        service: Arc::new(Limiter {
            callee: Callee {
                cluster: "limits".into(),
                authority: "limits".parse().unwrap(),
                timeout: Duration::from_millis(20),
                headers: Vec::new(),
            },
            domain: "d".into(),
            stage: 0,
            on_error,
            status: StatusCode::TOO_MANY_REQUESTS,
            code: None,
            says_limited: true,
            says_limits,
        }),
        settings: None,
    }
}

fn status(remaining: u32, limit: Option<(u32, Unit, &str)>) -> DescriptorStatus {
    DescriptorStatus {
        code: PbCode::Ok as i32,
        current_limit: limit.map(|(requests_per_unit, unit, name)| PbLimit {
            requests_per_unit,
            unit: unit as i32,
            name: name.to_owned(),
        }),
        limit_remaining: remaining,
        duration_until_reset: Some(PbDuration {
            seconds: i64::from(remaining) + 10,
            nanos: 0,
        }),
        ..DescriptorStatus::default()
    }
}

fn told(said: &Said) -> String {
    let mut headers = HeaderMap::new();
    said.response.apply(&mut headers);
    let lines = headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_client_is_told_of_the_nearest_limit() {
    for (statuses, expected) in [
        (vec![], ""),
        (vec![status(3, None)], ""),
        (
            vec![status(3, Some((5, Unit::Minute, "")))],
            "x-ratelimit-limit: 5, 5;w=60\nx-ratelimit-remaining: 3\nx-ratelimit-reset: 13",
        ),
        (
            vec![
                status(9, Some((10, Unit::Second, "per-ip"))),
                status(7, Some((1000, Unit::Hour, ""))),
                status(8, Some((2, Unit::Unknown, ""))),
            ],
            "x-ratelimit-limit: 1000, 10;w=1;name=\"per-ip\", 1000;w=3600\nx-ratelimit-remaining: 7\nx-ratelimit-reset: 17",
        ),
        (
            vec![status(3, Some((5, Unit::Minute, "a\r\nb")))],
            "x-ratelimit-remaining: 3\nx-ratelimit-reset: 13",
        ),
    ] {
        let response = RateLimitResponse {
            overall_code: PbCode::Ok as i32,
            statuses,
            ..RateLimitResponse::default()
        };
        assert_eq!(
            told(&limit(true, None).said(response.clone())),
            expected,
            "{response:?}"
        );
        assert_eq!(told(&limit(false, None).said(response)), "");
    }
}

#[test]
fn only_over_the_limit_is_one_too_many() {
    let header = |key: &str| PbHeaderValue {
        key: key.to_owned(),
        value: "1".to_owned(),
        ..PbHeaderValue::default()
    };
    for (code, header_name, on_error, expected, lines, reaches_host) in [
        (PbCode::Ok, "x-a", None, None, "x-a: 1", true),
        (PbCode::Unknown, "x-a", None, None, "", false),
        (PbCode::Unknown, "x-a", Some(500), Some(500), "", false),
        (
            PbCode::OverLimit,
            "x-a",
            None,
            Some(429),
            "x-a: 1\nx-envoy-ratelimited: true",
            false,
        ),
        (PbCode::Ok, "content-length", None, None, "", false),
        // What cannot be said is no answer, but to one too many.
        (PbCode::Ok, "a b", None, None, "", false),
        (PbCode::Ok, "a b", Some(500), Some(500), "", false),
        (PbCode::OverLimit, "a b", Some(500), Some(429), "", false),
    ] {
        let on_error = on_error.map(|status| StatusCode::from_u16(status).unwrap());
        let said = limit(false, on_error).said(RateLimitResponse {
            overall_code: code as i32,
            response_headers_to_add: vec![header(header_name)],
            request_headers_to_add: vec![header(header_name)],
            raw_body: b"busy".to_vec(),
            ..RateLimitResponse::default()
        });
        let status = said.answer.as_ref().map(|answer| answer.status.as_u16());
        let got = (status, &*told(&said), !said.request.is_empty());
        assert_eq!(
            got,
            (expected, lines, reaches_host),
            "{code:?} {header_name} {on_error:?}"
        );
        if status == Some(429) {
            let answer = said.answer.unwrap();
            assert_eq!((&*answer.body, answer.flag), (&b"busy"[..], Flag::RateLimited));
        }
    }
}

#[test]
fn what_the_service_says_of_its_body_is_said_once() {
    let header = |value: &str| PbHeaderValue {
        key: "Content-Type".to_owned(),
        value: value.to_owned(),
        ..PbHeaderValue::default()
    };
    for (code, expected) in [
        (PbCode::OverLimit, "application/json"),
        (PbCode::Ok, "text/plain, application/json"),
    ] {
        let said = limit(false, None).said(RateLimitResponse {
            overall_code: code as i32,
            response_headers_to_add: vec![header("application/json")],
            ..RateLimitResponse::default()
        });
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("text/plain"));
        said.response.apply(&mut headers);
        let lines = headers.get_all("content-type").iter();
        let lines: Vec<&str> = lines.map(|line| line.to_str().unwrap()).collect();
        assert_eq!(lines.join(", "), expected, "{code:?}");
    }
}

#[test]
fn without_an_answer_it_is_as_the_listener_says() {
    assert_eq!(limit(false, None).failed(), Said::default());
    let failed = limit(false, Some(StatusCode::SERVICE_UNAVAILABLE)).failed();
    let answer = failed.answer.unwrap();
    assert_eq!((answer.status.as_u16(), answer.flag), (503, Flag::LimiterFailed));
}

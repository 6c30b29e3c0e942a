//! What goes wrong on purpose, and what is one too many.

use envoy_types::pb::envoy::config::core::v3::RuntimeFractionalPercent;
use envoy_types::pb::envoy::config::route::v3::Route;
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::FaultDelay;
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::fault_delay::FaultDelaySecifier;
use envoy_types::pb::envoy::extensions::filters::http::buffer::v3::{
    Buffer, BufferPerRoute, buffer_per_route,
};
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::fault_abort::ErrorType;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault};
use envoy_types::pb::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use envoy_types::pb::envoy::r#type::v3::fractional_percent::DenominatorType;
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, HttpStatus, TokenBucket};
use envoy_types::pb::google::protobuf::{Duration, UInt32Value};
use envoy_types::util::pack_any;
use http::Method;
use tombolo_tests::upstream::WISH;

use super::filters::{BODIES, FAULT, LIMIT, on, told};
use super::{BOTH, Site, at, passes, prefix, site};
use crate::case::{Case, Expect, GET};

pub(super) fn sites() -> Vec<Site> {
    vec![faults(), limits(), bodies()]
}

fn call(path: &'static str) -> Case {
    Case {
        path,
        method: Method::POST,
        headers: &[("content-type", "application/grpc")],
        ..GET
    }
}

fn faults() -> Site {
    let of = |numerator, denominator: DenominatorType| {
        Some(FractionalPercent {
            numerator,
            denominator: denominator as i32,
        })
    };
    let abort = |status, percentage| {
        Some(FaultAbort {
            percentage,
            error_type: Some(ErrorType::HttpStatus(status)),
            ..FaultAbort::default()
        })
    };
    let delay = |ms: i32, percentage| {
        Some(FaultDelay {
            percentage,
            fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(Duration {
                seconds: 0,
                nanos: ms * 1_000_000,
            })),
        })
    };
    let route = |path: &str, fault| -> Route { told(passes(prefix(path)), FAULT, pack_any(fault)) };
    let all = || of(100, DenominatorType::Hundred);
    let aborts = |status, percentage| HttpFault {
        abort: abort(status, percentage),
        ..HttpFault::default()
    };
    let routes = vec![
        route("/abort", aborts(503, all())),
        route("/teapot", aborts(418, all())),
        route("/million", aborts(429, of(1_000_000, DenominatorType::Million))),
        route(
            "/thousands",
            aborts(500, of(10_000, DenominatorType::TenThousand)),
        ),
        route("/never", aborts(503, of(0, DenominatorType::Hundred))),
        route(
            "/delay",
            HttpFault {
                delay: delay(50, all()),
                ..HttpFault::default()
            },
        ),
        route(
            "/both",
            HttpFault {
                delay: delay(50, all()),
                abort: abort(502, all()),
                ..HttpFault::default()
            },
        ),
        route("/nothing", HttpFault::default()),
    ];
    let by = Expect::Says("\"by\"");
    let said = Expect::Body("fault filter abort");
    site(
        "faults",
        "faults.test",
        routes,
        &[
            (
                at("/abort"),
                &[Expect::Status(503), said, Expect::NoHeader("x-answered-by")],
            ),
            (at("/teapot"), &[Expect::Status(418), said]),
            (at("/million"), &[Expect::Status(429)]),
            (at("/thousands"), &[Expect::Status(500)]),
            (at("/never"), &[by]),
            (at("/delay"), &[by]),
            (at("/both"), &[Expect::Status(502), said]),
            (at("/nothing"), &[by]),
            (
                call("/abort"),
                &[
                    Expect::Status(200),
                    Expect::Header("grpc-status", "14"),
                    Expect::Header("grpc-message", "fault filter abort"),
                ],
            ),
        ],
    )
}

/// A bucket has a token for each version that its first row is asked in, and none again while this lasts.
fn limits() -> Site {
    let share = |numerator| {
        Some(RuntimeFractionalPercent {
            default_value: Some(FractionalPercent {
                numerator,
                denominator: DenominatorType::Hundred as i32,
            }),
            ..RuntimeFractionalPercent::default()
        })
    };
    let bucket = || TokenBucket {
        max_tokens: u32::try_from(BOTH.len()).unwrap_or(u32::MAX),
        tokens_per_fill: Some(UInt32Value { value: 1 }),
        fill_interval: Some(Duration {
            seconds: 3600,
            nanos: 0,
        }),
    };
    let limit = || LocalRateLimit {
        stat_prefix: "raw".to_owned(),
        token_bucket: Some(bucket()),
        filter_enabled: share(100),
        filter_enforced: share(100),
        ..LocalRateLimit::default()
    };
    let status = |code| LocalRateLimit {
        status: Some(HttpStatus { code }),
        ..limit()
    };
    let route = |path: &str, limit| -> Route { told(passes(prefix(path)), LIMIT, pack_any(limit)) };
    let routes = vec![
        route("/limited", limit()),
        route("/unavailable", status(503)),
        // No success is an answer to one too many.
        route("/created", status(201)),
        route(
            "/tried",
            LocalRateLimit {
                filter_enforced: share(0),
                ..limit()
            },
        ),
        route(
            "/off",
            LocalRateLimit {
                filter_enabled: share(0),
                ..limit()
            },
        ),
        route("/call", limit()),
        route(
            "/exhausted",
            LocalRateLimit {
                rate_limited_as_resource_exhausted: true,
                ..limit()
            },
        ),
    ];
    let by: &[Expect] = &[Expect::Says("\"by\"")];
    let failed = |path| Case {
        headers: &[(WISH, "status=404")],
        ..at(path)
    };
    site(
        "limits",
        "limits.test",
        routes,
        &[
            (at("/limited"), by),
            (
                at("/limited/more"),
                &[Expect::Status(429), Expect::Body("local_rate_limited")],
            ),
            // What fails counts as well.
            (failed("/unavailable"), &[Expect::Status(404)]),
            (at("/unavailable"), &[Expect::Status(503)]),
            (at("/created"), by),
            (at("/created"), &[Expect::Status(429)]),
            (at("/tried"), by),
            (at("/tried"), by),
            (at("/off"), by),
            (at("/off"), by),
            (at("/call"), by),
            (
                call("/call"),
                &[Expect::Status(200), Expect::Header("grpc-status", "14")],
            ),
            (at("/exhausted"), by),
            (
                call("/exhausted"),
                &[
                    Expect::Header("grpc-status", "8"),
                    Expect::Header("grpc-message", "local_rate_limited"),
                ],
            ),
        ],
    )
}

/// A route for bodies of at most ten bytes.
pub(super) fn ten_bytes(path: &str) -> Route {
    let ten = BufferPerRoute {
        r#override: Some(buffer_per_route::Override::Buffer(Buffer {
            max_request_bytes: Some(UInt32Value { value: 10 }),
        })),
    };
    told(passes(prefix(path)), BODIES, pack_any(ten))
}

/// Those that are longer than they may be.
fn bodies() -> Site {
    let off = BufferPerRoute {
        r#override: Some(buffer_per_route::Override::Disabled(true)),
    };
    let routes = vec![
        told(passes(prefix("/on")), BODIES, on()),
        ten_bytes("/ten"),
        told(passes(prefix("/not")), BODIES, pack_any(off)),
        passes(prefix("/")),
    ];
    let sends = |path, body_bytes| Case {
        path,
        method: Method::POST,
        headers: &[(WISH, "echo")],
        body_bytes,
        ..GET
    };
    let echo: &[Expect] = &[Expect::Status(200), Expect::Echo];
    let too_long: &[Expect] = &[Expect::Status(413), Expect::NoHeader("x-answered-by")];
    site(
        "bodies",
        "bodies.test",
        routes,
        &[
            (sends("/on", 0), echo),
            (sends("/on", 1000), echo),
            (sends("/on", 100_000), too_long),
            (sends("/ten", 10), echo),
            (sends("/ten", 100_000), too_long),
            (sends("/not", 2000), echo),
            (sends("/", 2000), echo),
            (sends("/", 300_000), echo),
        ],
    )
}

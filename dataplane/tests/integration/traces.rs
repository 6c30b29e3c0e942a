//! Traces: what hosts are told, and the spans that a collector gets.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::accesslog::v3::{AccessLog, access_log};
use envoy_types::pb::envoy::config::core::v3::GrpcService;
use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, GoogleGrpc, TargetSpecifier};
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::trace::v3::OpenTelemetryConfig;
use envoy_types::pb::envoy::config::trace::v3::tracing::{Http as Provider, http::ConfigType};
use envoy_types::pb::envoy::extensions::access_loggers::grpc::v3::CommonGrpcAccessLogConfig;
use envoy_types::pb::envoy::extensions::access_loggers::open_telemetry::v3::OpenTelemetryAccessLogConfig;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::Tracing;
use envoy_types::pb::envoy::r#type::tracing::v3::custom_tag::{Header, Literal, Type};
use envoy_types::pb::envoy::r#type::tracing::v3::CustomTag;
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::BoolValue;
use envoy_types::pb::opentelemetry::proto::common::v1::any_value::Value;
use envoy_types::pb::opentelemetry::proto::common::v1::{AnyValue, KeyValue, KeyValueList};
use envoy_types::util::pack_any;
use http::{HeaderMap, Request, StatusCode};

use crate::support::collector::{self, Collector, Span};
use crate::support::mesh;
use crate::support::proxy::{client, eventually, free_address, http2_client, send};
use crate::support::site::{Site, at};
use crate::support::upstream::{Mood, Upstream};

mod ends;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

/// A proxy whose requests below `/hot`, `/kept` and `/bridged` have a first host that refuses and a second that does not.
struct Stage {
    site: Site,
    refusing: Upstream,
    well: Upstream,
}

impl Stage {
    async fn start(tracing: Option<Tracing>, collector: SocketAddr) -> Self {
        let (refusing, well) = (Upstream::start("refusing").await, Upstream::start("well").await);
        refusing.mood.send_replace(Mood::Refusing);
        let clusters = vec![
            (mesh::cluster("a"), vec![(refusing.address, 0), (well.address, 1)]),
            at(mesh::cluster("collector"), collector),
        ];
        let made = |plain| with_tracing(with_records(plain), tracing);
        let mut kept = mesh::with_retries(mesh::to_cluster("/kept", "a"), 1);
        kept.name = "kept".to_owned();
        let routes = vec![
            kept,
            mesh::with_rewrite(
                mesh::with_retries(mesh::to_cluster("/bridged", "a"), 1),
                "^/bridged",
                "/bridged",
            ),
            mesh::answer("/said", 200, "said"),
            mesh::to_cluster("/", "a"),
        ];
        Self {
            site: Site::start_listening(clusters, made, routes).await,
            refusing,
            well,
        }
    }

    /// The status, and what the last host was told.
    async fn ask(&self, path: &str, body: &str, headers: &[(&str, &str)]) -> (StatusCode, HeaderMap) {
        let mut request = Request::post(self.site.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = send(&client(), request.body(body.to_owned().into()).unwrap())
            .await
            .unwrap();
        let host = if answer.status == StatusCode::OK {
            &self.well
        } else {
            &self.refusing
        };
        (answer.status, host.last_headers())
    }

    async fn metric(&self, name: &str) -> u64 {
        self.site.proxy.metric(name).await.unwrap()
    }
}

fn with_tracing(listener: Listener, tracing: Option<Tracing>) -> Listener {
    mesh::with_manager(listener, |manager| manager.tracing = tracing)
}

/// `listener`, of whose requests a collector is told.
#[allow(deprecated, reason = "it is where Envoy before 1.37 has the collector")]
fn with_records(listener: Listener) -> Listener {
    let text = |text: &str| AnyValue {
        value: Some(Value::StringValue(text.to_owned())),
    };
    let pairs = |pairs: &[(&str, &str)]| KeyValueList {
        values: pairs
            .iter()
            .map(|(key, value)| KeyValue {
                key: (*key).to_owned(),
                value: Some(text(value)),
                ..Default::default()
            })
            .collect(),
    };
    let config = OpenTelemetryAccessLogConfig {
        common_config: Some(CommonGrpcAccessLogConfig {
            log_name: "in".to_owned(),
            grpc_service: Some(GrpcService {
                target_specifier: Some(to_cluster("collector")),
                ..Default::default()
            }),
            ..Default::default()
        }),
        body: Some(text("%REQ(:METHOD)% %REQ(X-NONE)% %RESPONSE_CODE%")),
        attributes: Some(pairs(&[
            ("path", "%REQ(:PATH)%"),
            ("cluster", "%UPSTREAM_CLUSTER%"),
        ])),
        resource_attributes: Some(pairs(&[("service.name", "shop")])),
        ..Default::default()
    };
    let log = AccessLog {
        name: "envoy.access_loggers.open_telemetry".to_owned(),
        config_type: Some(access_log::ConfigType::TypedConfig(pack_any(config))),
        ..Default::default()
    };
    mesh::with_manager(listener, |manager| manager.access_log = vec![log])
}

fn to_cluster(name: &str) -> TargetSpecifier {
    TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
        cluster_name: name.to_owned(),
        ..Default::default()
    })
}

fn tracing(target: TargetSpecifier, random: f64) -> Tracing {
    let config = OpenTelemetryConfig {
        grpc_service: Some(GrpcService {
            target_specifier: Some(target),
            ..Default::default()
        }),
        service_name: "shop".to_owned(),
        ..Default::default()
    };
    let tag = |name: &str, r#type| CustomTag {
        tag: name.to_owned(),
        r#type: Some(r#type),
    };
    Tracing {
        random_sampling: Some(Percent { value: random }),
        spawn_upstream_span: Some(BoolValue { value: true }),
        custom_tags: vec![
            tag(
                "zone",
                Type::Literal(Literal {
                    value: "b".to_owned(),
                }),
            ),
            tag(
                "tenant",
                Type::RequestHeader(Header {
                    name: "x-tenant".to_owned(),
                    default_value: "none".to_owned(),
                }),
            ),
        ],
        provider: Some(Provider {
            name: "envoy.tracers.opentelemetry".to_owned(),
            config_type: Some(ConfigType::TypedConfig(pack_any(config))),
        }),
        ..Default::default()
    }
}

/// The request's own, and those of its attempts in their order.
fn sorted(mut spans: Vec<Span>) -> (Span, Vec<Span>) {
    spans.sort_by_key(|span| (span.kind, span.start_time_unix_nano));
    let own = spans.remove(0);
    (own, spans)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_and_its_attempts_are_spans_of_its_clients_trace() {
    let parent = format!("00-{TRACE}-{SPAN}-01");
    for (path, body) in [
        ("/kept", ""),
        ("/kept", "body"),
        ("/bridged", ""),
        ("/bridged", "body"),
    ] {
        let collector = Collector::start().await;
        // Its client's word counts, not what is drawn.
        let stage = Stage::start(Some(tracing(to_cluster("collector"), 0.0)), collector.address).await;
        let headers = [
            ("traceparent", &*parent),
            ("tracestate", "a=1"),
            ("x-tenant", "t"),
        ];
        let (status, told) = stage.ask(&format!("{path}?secret"), body, &headers).await;
        assert_eq!(status, StatusCode::OK, "{path}");
        eventually("three spans have come", || async { collector.spans().len() == 3 }).await;
        let (own, attempts) = sorted(collector.spans());
        assert_eq!((own.kind, &*own.name, own.is_error()), (2, "POST", false));
        assert_eq!(
            (&*own.trace(), &*own.parent(), &*own.trace_state),
            (TRACE, SPAN, "a=1")
        );
        let said = own.attributes();
        for (name, value) in [
            ("http.request.method", "POST"),
            ("url.path", path),
            ("http.response.status_code", "200"),
            ("tombolo.cluster", "a"),
            ("zone", "b"),
            ("tenant", "t"),
            ("client.address", "127.0.0.1"),
            ("network.protocol.version", "1.1"),
        ] {
            assert_eq!(
                said.get(name).map(String::as_str),
                Some(value),
                "{name} of {said:?}"
            );
        }
        assert_eq!(said["http.request.body.size"], body.len().to_string());
        assert!(!format!("{said:?}").contains("secret"), "{said:?}");
        let [refused, taken] = &attempts[..] else {
            panic!("{attempts:?}");
        };
        assert_ne!(refused.id(), taken.id());
        for (attempt, host, status) in [(refused, &stage.refusing, "503"), (taken, &stage.well, "200")] {
            assert_eq!((attempt.trace(), attempt.parent()), (TRACE.to_owned(), own.id()));
            assert!(own.start_time_unix_nano <= attempt.start_time_unix_nano);
            assert!(attempt.start_time_unix_nano <= attempt.end_time_unix_nano);
            assert!(attempt.end_time_unix_nano <= own.end_time_unix_nano);
            let said = attempt.attributes();
            assert_eq!(said["http.response.status_code"], status, "{path}");
            assert_eq!(said["server.port"], host.address.port().to_string());
            let told = host.last_headers();
            assert_eq!(
                told["traceparent"],
                format!("00-{TRACE}-{}-01", attempt.id()),
                "{path} {body}"
            );
            assert_eq!(told["tracestate"], "a=1");
        }
        assert_eq!(taken.attributes()["http.request.resend_count"], "1");
        assert!(refused.is_error() && !taken.is_error());
        assert_eq!(told.get_all("traceparent").iter().count(), 1);
        assert_eq!(collector.resource()["service.name"], "shop");
        assert_eq!(collector.headers()["te"], "trailers");
        stage.site.proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_sampled_is_told_so_and_has_no_spans() {
    let collector = Collector::start().await;
    let stage = Stage::start(Some(tracing(to_cluster("collector"), 0.0)), collector.address).await;
    let flags = |told: &HeaderMap| told["traceparent"].to_str().unwrap()[53..].to_owned();
    let w3c = format!("00-{TRACE}-{SPAN}-00");
    for path in ["/kept", "/bridged"] {
        let (_, told) = stage.ask(path, "", &[]).await;
        assert_eq!(flags(&told), "00", "{path}");
        let (_, told) = stage.ask(path, "", &[("traceparent", &w3c)]).await;
        let said = told["traceparent"].to_str().unwrap();
        assert!(said.starts_with(&format!("00-{TRACE}-")) && said.ends_with("-00") && !said.contains(SPAN));
        let (_, told) = stage.ask(path, "", &[("b3", "0")]).await;
        assert!(told["b3"].to_str().unwrap().ends_with("-0") && !told.contains_key("traceparent"));
        let b3 = [
            ("X-B3-TraceId", TRACE),
            ("X-B3-SpanId", SPAN),
            ("X-B3-Sampled", "0"),
        ];
        let (_, told) = stage.ask(path, "", &b3).await;
        assert_eq!(
            (
                &told["x-b3-traceid"],
                &told["x-b3-parentspanid"],
                &told["x-b3-sampled"]
            ),
            (
                &TRACE.parse().unwrap(),
                &SPAN.parse().unwrap(),
                &"0".parse().unwrap()
            ),
        );
        assert_ne!(told["x-b3-spanid"], SPAN);
        assert_eq!(told.get_all("x-b3-spanid").iter().count(), 1);
    }
    // What comes after all of them is the first span.
    let (_, told) = stage
        .ask("/kept", "", &[("b3", &format!("{TRACE}-{SPAN}-1"))])
        .await;
    eventually("the spans of one request have come", || async {
        collector.spans().len() == 3
    })
    .await;
    assert!(told["b3"].to_str().unwrap().starts_with(TRACE));
    assert!(collector.spans().iter().all(|span| span.trace() == TRACE));
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_tracing_headers_pass_as_they_are() {
    let stage = Stage::start(None, free_address()).await;
    for path in ["/kept", "/bridged"] {
        let given = [("traceparent", "any"), ("b3", "thing"), ("x-b3-traceid", "goes")];
        let (_, told) = stage.ask(path, "", &given).await;
        for (name, value) in given {
            assert_eq!(told[name], value, "{path}");
        }
        let (_, told) = stage.ask(path, "", &[]).await;
        assert!(!told.contains_key("traceparent"));
    }
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_proxy_answers_by_itself_is_a_span_too_over_either_version() {
    let collector = Collector::start().await;
    let address = TargetSpecifier::GoogleGrpc(GoogleGrpc {
        target_uri: collector.address.to_string(),
        stat_prefix: "any".to_owned(),
        ..Default::default()
    });
    let stage = Stage::start(Some(tracing(address, 100.0)), collector.address).await;
    for client in [client(), http2_client()] {
        let request = Request::get(stage.site.url("/said"));
        send(&client, request.body(http_body_util::Full::default()).unwrap())
            .await
            .unwrap();
    }
    let (status, _) = stage.ask("/", "", &[]).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    // At the latest when the proxy ends.
    stage.site.proxy.stop().await;
    let spans = collector.spans();
    let shown = |span: &Span| {
        let said = span.attributes();
        let version = said.get("network.protocol.version").cloned();
        let status = said.get("http.response.status_code").cloned();
        (
            span.kind,
            version.unwrap_or_default(),
            status.unwrap_or_default(),
            span.is_error(),
        )
    };
    let mut shown: Vec<_> = spans.iter().map(shown).collect();
    shown.sort();
    let row =
        |kind, version: &str, status: &str, is_error| (kind, version.to_owned(), status.to_owned(), is_error);
    let expected = [
        row(2, "1.1", "200", false),
        row(2, "1.1", "503", true),
        row(2, "2", "200", false),
        row(3, "", "503", true),
    ];
    assert_eq!(shown, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_collector_that_is_not_there() {
    let stage = Stage::start(Some(tracing(to_cluster("nowhere"), 100.0)), free_address()).await;
    let (status, _) = stage.ask("/kept", "", &[]).await;
    assert_eq!(status, StatusCode::OK);
    eventually("its spans are dropped", || async {
        stage.metric("tombolo_spans_dropped_total").await == 3
    })
    .await;
    assert_eq!(stage.metric("tombolo_spans_sent_total").await, 0);
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_gets_a_record_of_each_request_with_its_trace() {
    let collector = Collector::start().await;
    let stage = Stage::start(Some(tracing(to_cluster("collector"), 0.0)), collector.address).await;
    let sampled = format!("00-{TRACE}-{SPAN}-01");
    for path in ["/kept?q", "/bridged"] {
        stage.ask(path, "", &[("traceparent", &sampled)]).await;
    }
    stage.ask("/said", "", &[]).await;
    eventually("the records and spans have come", || async {
        collector.logs().len() == 3 && collector.spans().len() == 6
    })
    .await;
    let own: Vec<String> = collector
        .spans()
        .iter()
        .filter(|span| span.kind == 2)
        .map(Span::id)
        .collect();
    let mut logs = collector.logs();
    logs.sort_by_key(|log| log.time_unix_nano);
    for (log, (path, cluster, is_sampled)) in logs.iter().zip([
        ("/kept?q", "a", true),
        ("/bridged", "a", true),
        ("/said", "-", false),
    ]) {
        assert_eq!(
            log.body.as_ref().map(collector::text).as_deref(),
            Some("POST - 200")
        );
        let said = log.attributes();
        assert_eq!((&*said["path"], &*said["cluster"]), (path, cluster));
        assert_eq!(
            log.trace() == TRACE && own.contains(&log.span()),
            is_sampled,
            "{log:?}"
        );
    }
    stage.site.proxy.stop().await;
    let text = format!("{:?}", collector.resource());
    assert!(text.contains("shop"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_that_a_collector_may_take_later_are_sent_again_and_no_others() {
    let collector = Collector::start().await;
    let stage = Stage::start(Some(tracing(to_cluster("collector"), 100.0)), collector.address).await;
    let sent = async |spans, calls, dropped| {
        stage.ask("/said", "", &[]).await;
        eventually("the span is sent or dropped", || async {
            let got = (
                collector.spans().len(),
                stage.metric("tombolo_spans_dropped_total").await,
            );
            got == (spans, dropped)
        })
        .await;
        assert_eq!(collector.calls(), calls, "{spans}");
    };
    sent(1, 1, 0).await;
    // Unavailable, and aborted.
    collector.refuses(&["14", "10"]);
    sent(2, 4, 0).await;
    // It is malformed, and stays so.
    collector.refuses(&["3"]);
    sent(2, 5, 1).await;
    sent(3, 6, 1).await;
    // Never again, for all that is known.
    collector.refuses(&["14"; 10]);
    let began = Instant::now();
    sent(3, 11, 2).await;
    assert!(began.elapsed() > Duration::from_secs(5), "they are waited for");
    // Who ends does not wait for it.
    stage.ask("/said", "", &[]).await;
    let began = Instant::now();
    stage.site.proxy.stop().await;
    assert!(began.elapsed() < Duration::from_secs(3));
}

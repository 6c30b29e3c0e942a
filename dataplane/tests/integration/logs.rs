//! What is written of requests: the proxy's own log, those of listeners, and metrics.

use std::path::Path;
use std::time::Duration;

use envoy_types::pb::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLog as PbAccessLog, AccessLogFilter, ComparisonFilter, StatusCodeFilter, access_log,
    comparison_filter,
};
use envoy_types::pb::envoy::config::core::v3::substitution_format_string::Format;
use envoy_types::pb::envoy::config::core::v3::{
    DataSource, RuntimeUInt32, SubstitutionFormatString, data_source,
};
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::Route;
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::FileAccessLog;
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::file_access_log::AccessLogFormat;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use envoy_types::util::pack_any;
use http::{HeaderValue, Request};
use http_body_util::Full;
use tokio::io::AsyncWriteExt;
use tombolo_dataplane::AccessLog;

use crate::support::mesh;
use crate::support::proxy::{Proxy, client, eventually, get, http2_client, send};
use crate::support::site::{Site, at};
use crate::support::upstream::{Mood, Upstream};

/// `listener`, which writes `logs`.
pub(crate) fn with_logs(listener: Listener, logs: Vec<PbAccessLog>) -> Listener {
    mesh::with_manager(listener, |manager| manager.access_log = logs)
}

/// All requests, as JSON.
pub(crate) fn json_log(path: &Path, fields: &[(&str, &str)]) -> PbAccessLog {
    let string = |text: &str| Value {
        kind: Some(Kind::StringValue(text.to_owned())),
    };
    let fields = fields
        .iter()
        .map(|(name, text)| ((*name).to_owned(), string(text)));
    let format = Format::JsonFormat(Struct {
        fields: fields.collect(),
    });
    log(path, format, None)
}

/// Requests that are answered with `status` or more.
fn text_log(path: &Path, status: u32, format: &str) -> PbAccessLog {
    let format = Format::TextFormatSource(DataSource {
        specifier: Some(data_source::Specifier::InlineString(format.to_owned())),
        ..Default::default()
    });
    let comparison = ComparisonFilter {
        op: comparison_filter::Op::Ge as i32,
        value: Some(RuntimeUInt32 {
            default_value: status,
            runtime_key: "any".to_owned(),
        }),
    };
    let filter = FilterSpecifier::StatusCodeFilter(StatusCodeFilter {
        comparison: Some(comparison),
    });
    log(path, format, Some(filter))
}

fn log(path: &Path, format: Format, filter: Option<FilterSpecifier>) -> PbAccessLog {
    let file = FileAccessLog {
        path: path.to_str().unwrap().to_owned(),
        access_log_format: Some(AccessLogFormat::LogFormat(SubstitutionFormatString {
            format: Some(format),
            ..Default::default()
        })),
    };
    PbAccessLog {
        name: "envoy.access_loggers.file".to_owned(),
        filter: filter.map(|filter| AccessLogFilter {
            filter_specifier: Some(filter),
        }),
        config_type: Some(access_log::ConfigType::TypedConfig(pack_any(file))),
    }
}

/// `route`, by that name in logs.
fn named(mut route: Route, name: &str) -> Route {
    route.name = name.to_owned();
    route
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_is_one_line_of_json() {
    let host = Upstream::start("a").await;
    let clusters = vec![at(mesh::cluster("a"), host.address)];
    let routes = mesh::routes("in", vec![mesh::to_cluster("/a", "a")]);
    let site = Site::start_with(clusters, |plain| plain, routes, Proxy::start_logging).await;
    get(&client(), &site.url("/a?q")).await.unwrap();
    get(&client(), &site.url("/b")).await.unwrap();
    let log = site.log();
    eventually("two lines are written", || async {
        std::fs::read_to_string(&log).unwrap_or_default().lines().count() == 2
    })
    .await;
    let text = std::fs::read_to_string(&log).unwrap();
    let mut lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    // Each worker writes its own.
    lines.sort_by_key(|line| line["status"].as_u64());
    assert_eq!(lines[0]["status"], 200);
    assert_eq!(lines[0]["cluster"], "a");
    assert_eq!(lines[0]["upstream_host"], host.address.to_string());
    assert_eq!(lines[0]["bytes_sent"], 5);
    assert_eq!(lines[1]["status"], 404);
    assert_eq!(lines[1]["flags"], "NR");
    site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_ended_is_logged_however_soon_the_process_ends() {
    let frozen = Upstream::start("frozen").await;
    frozen.mood.send_replace(Mood::Frozen);
    let routes = vec![
        mesh::answer("/denied", 403, "no\n"),
        mesh::to_cluster("/", "frozen"),
    ];
    let clusters = vec![at(mesh::cluster("frozen"), frozen.address)];
    let start = |edge: &str, data: &Path| {
        let log = AccessLog::File(Proxy::log(data));
        Proxy::start_draining(edge, data, log, Duration::from_millis(10))
    };
    let site = Site::start_with(clusters, |plain| plain, mesh::routes("in", routes), start).await;
    // Keeps its worker from being drained.
    let url = site.url("/");
    let waiting = tokio::spawn(async move { get(&client(), &url).await });
    eventually("it waits", || async {
        let shown = site.proxy.metrics().await;
        shown.contains("tombolo_requests_active{listener=\"in\",cluster=\"frozen\"} 1\n")
    })
    .await;
    for client in [client(), http2_client()] {
        let request = Request::head(site.url("/denied"));
        let answer = send(&client, request.body(Full::default()).unwrap())
            .await
            .unwrap();
        assert_eq!(
            (&answer.headers["content-length"], &*answer.body),
            (&HeaderValue::from_static("3"), "")
        );
    }
    let log = site.log();
    site.proxy.stop().await;
    let text = std::fs::read_to_string(log).unwrap();
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let denied = lines.filter(|line| line["status"] == 403);
    let sent: Vec<_> = denied.map(|line| line["bytes_sent"].clone()).collect();
    assert_eq!(sent, [0, 0], "{text}");
    waiting.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_logs_as_its_formats_say_over_both_ways_and_versions() {
    let host = Upstream::start("a").await;
    let data = tempfile::tempdir().unwrap();
    let (all, failed) = (data.path().join("all.log"), data.path().join("failed.log"));
    let json = [
        ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
        ("said", "%REQ(X-SAID):3%"),
        ("line", "%REQ(:METHOD)% %PROTOCOL%"),
        ("code", "%RESPONSE_CODE%"),
        ("flags", "%RESPONSE_FLAGS%"),
        ("in", "%BYTES_RECEIVED%"),
        ("out", "%BYTES_SENT%"),
        ("host", "%UPSTREAM_HOST%"),
        ("cluster", "%UPSTREAM_CLUSTER%"),
        ("route", "%ROUTE_NAME%"),
        ("who", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
        ("type", "%RESP(CONTENT-TYPE)%"),
        ("length", "%RESP(CONTENT-LENGTH)%"),
    ];
    let logs = vec![
        text_log(&failed, 500, "%RESPONSE_CODE% %REQ(X-SAID)%\n"),
        json_log(&all, &json),
    ];
    let routes = vec![
        mesh::with_rewrite(mesh::to_cluster("/bridged", "a"), "^/bridged", "/b"),
        mesh::answer("/fails", 500, "no"),
        named(mesh::to_cluster("/", "a"), "rest"),
    ];
    let clusters = vec![at(mesh::cluster("a"), host.address)];
    let site = Site::start_listening(clusters, |plain| with_logs(plain, logs), routes).await;
    let requests = [
        (client(), "/straight?q", "\u{e9}\"x", "abc"),
        (client(), "/bridged", "", "abcd"),
        (client(), "/fails", "why", ""),
        (http2_client(), "/straight", "s", "ab"),
    ];
    for (client, path, said, body) in requests {
        let said = HeaderValue::from_bytes(said.as_bytes()).unwrap();
        let request = Request::post(site.url(path)).header("x-said", said);
        send(&client, request.body(Full::from(body)).unwrap())
            .await
            .unwrap();
    }
    // What is not HTTP at all is logged too.
    let mut stream = tokio::net::TcpStream::connect(site.listener).await.unwrap();
    stream.write_all(b"nonsense\r\n\r\n").await.unwrap();
    let read = || std::fs::read_to_string(&all).unwrap_or_default();
    eventually("all is logged", || async { read().lines().count() == 5 }).await;
    let mut lines: Vec<serde_json::Value> = read()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    // Two workers write in no order.
    lines.sort_by_key(|line| (line["path"].to_string(), line["code"].to_string()));
    let address = host.address.to_string();
    let line = |path: Option<&str>,
                said: serde_json::Value,
                line,
                code: u16,
                flags,
                bytes: [u64; 2],
                to: Option<[&str; 3]>| {
        let [host, cluster, route] = to.map_or([None; 3], |to| to.map(Some));
        let of_ours = (path == Some("/fails")).then_some("text/plain");
        serde_json::json!({
            "path": path, "said": said, "line": line, "code": code, "flags": flags, "in": bytes[0], "out": bytes[1],
            "host": host, "cluster": cluster, "route": route.filter(|route| !route.is_empty()),
            "who": "127.0.0.1", "type": of_ours,
            "length": path.map(|_| bytes[1].to_string()),
        })
    };
    let null = serde_json::Value::Null;
    let rest = Some([&*address, "a", "rest"]);
    let expected = [
        line(
            Some("/bridged"),
            "".into(),
            "POST HTTP/1.1",
            200,
            "-",
            [4, 9],
            Some([&address, "a", ""]),
        ),
        line(
            Some("/fails"),
            "why".into(),
            "POST HTTP/1.1",
            500,
            "-",
            [0, 2],
            None,
        ),
        line(
            Some("/straight"),
            "s".into(),
            "POST HTTP/2",
            200,
            "-",
            [2, 14],
            rest,
        ),
        line(
            Some("/straight?q"),
            "\u{e9}\"".into(),
            "POST HTTP/1.1",
            200,
            "-",
            [3, 15],
            rest,
        ),
        line(
            None,
            null,
            "- -",
            400,
            "DPE",
            [0, "the head is malformed".len() as u64],
            None,
        ),
    ];
    for (line, expected) in lines.iter().zip(&expected) {
        assert_eq!(line, expected);
    }
    // What was not written yet is, before the process ends.
    get(&client(), &site.url("/last")).await.unwrap();
    site.proxy.stop().await;
    assert!(read().contains("/last"), "{}", read());
    assert_eq!(std::fs::read_to_string(&failed).unwrap(), "500 why\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_tell_what_passes_and_what_goes_wrong() {
    let (host, frozen) = (Upstream::start("a").await, Upstream::start("frozen").await);
    frozen.mood.send_replace(Mood::Frozen);
    let clusters = vec![
        at(mesh::cluster("a"), host.address),
        at(mesh::cluster("frozen"), frozen.address),
    ];
    let routes = vec![
        mesh::with_rewrite(mesh::to_cluster("/bridged", "a"), "^/bridged", "/"),
        mesh::with_timeout(mesh::to_cluster("/late", "frozen"), 50),
        mesh::to_cluster("/frozen", "frozen"),
        mesh::to_cluster("/", "a"),
    ];
    let site = Site::start(clusters, routes).await;
    let shown = async |lines: &[&str]| {
        let text = site.proxy.metrics().await;
        lines.iter().all(|line| text.lines().any(|shown| shown == *line))
    };
    for client in [client(), http2_client()] {
        for path in ["/", "/bridged"] {
            let request = Request::post(site.url(path));
            let answer = send(&client, request.body(Full::from("abc")).unwrap())
                .await
                .unwrap();
            assert_eq!(answer.body, "a / abc");
        }
        get(&client, &site.url("/late")).await.unwrap();
    }
    // Two that wait, and leave.
    let url = site.url("/frozen");
    let waiting = [client(), http2_client()].map(|client| {
        let request = Request::post(&url).body(Full::from("abc")).unwrap();
        tokio::spawn(async move { send(&client, request).await })
    });
    let passed = [
        "tombolo_requests_active{listener=\"in\",cluster=\"a\"} 0",
        "tombolo_requests_active{listener=\"in\",cluster=\"frozen\"} 2",
        "tombolo_request_bytes_total{listener=\"in\",cluster=\"a\"} 12",
        "tombolo_response_bytes_total{listener=\"in\",cluster=\"a\"} 28",
        "tombolo_requests_flagged_total{listener=\"in\",cluster=\"frozen\",flag=\"UT\"} 2",
    ];
    eventually("it is counted", || shown(&passed)).await;
    // Their bodies may come a moment after their heads.
    tokio::time::sleep(Duration::from_millis(100)).await;
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    let left = [
        "tombolo_request_bytes_total{listener=\"in\",cluster=\"frozen\"} 6",
        "tombolo_requests_active{listener=\"in\",cluster=\"frozen\"} 0",
        "tombolo_requests_flagged_total{listener=\"in\",cluster=\"frozen\",flag=\"DC\"} 2",
        "tombolo_requests_total{listener=\"in\",cluster=\"frozen\",code_class=\"4xx\"} 2",
    ];
    eventually("they have left", || shown(&left)).await;
    site.proxy.stop().await;
}

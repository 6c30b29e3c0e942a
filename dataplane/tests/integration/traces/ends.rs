//! What spans say of answers that break off, and of attempts beside each other.

use envoy_types::pb::envoy::config::cluster::v3::OutlierDetection;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::{HedgePolicy, RetryPolicy, Route};
use envoy_types::pb::google::protobuf::{Duration as PbDuration, UInt32Value};
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// A host that says `answers` to the requests that come, one after the other and each so many milliseconds later, and ends each
/// connection then. Who comes after that is answered in a minute.
async fn start_host(answers: &'static [(u64, &'static str)]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut answers = answers.iter();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (after_ms, answer) = answers.next().copied().unwrap_or((60_000, ""));
            tokio::spawn(say(stream, after_ms, answer));
        }
    });
    address
}

async fn say(mut stream: TcpStream, after_ms: u64, answer: &str) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    tokio::time::sleep(Duration::from_millis(after_ms)).await;
    stream.write_all(answer.as_bytes()).await.ok()
}

fn millis(millis: i32) -> Option<PbDuration> {
    Some(PbDuration {
        seconds: (millis / 1000).into(),
        nanos: millis % 1000 * 1_000_000,
    })
}

/// A route to `hedged`, with two attempts of which the second begins after 400 ms.
fn hedged(prefix: &str, timeout_ms: i32) -> Route {
    let mut route = mesh::to_cluster(prefix, "hedged");
    if let Some(Action::Route(action)) = &mut route.action {
        action.timeout = millis(timeout_ms);
        action.retry_policy = Some(RetryPolicy {
            retry_on: "5xx".to_owned(),
            num_retries: Some(UInt32Value { value: 1 }),
            per_try_timeout: millis(400),
            ..Default::default()
        });
        action.hedge_policy = Some(HedgePolicy {
            hedge_on_per_try_timeout: true,
            ..Default::default()
        });
    }
    route
}

/// With a cluster `hedged` of that host, to which what is below `/hedged` goes.
async fn stage_of(host: SocketAddr, timeout_ms: i32) -> (Stage, Collector) {
    let collector = Collector::start().await;
    let stage = Stage::start(Some(tracing(to_cluster("collector"), 100.0)), collector.address).await;
    let mut cluster = mesh::cluster("hedged");
    cluster.outlier_detection = Some(OutlierDetection {
        consecutive_5xx: Some(UInt32Value { value: 2 }),
        max_ejection_percent: Some(UInt32Value { value: 100 }),
        ..Default::default()
    });
    stage.site.edge.put("hedged", &cluster);
    stage
        .site
        .edge
        .put("hedged", &mesh::endpoints("hedged", &[(host, 0)]));
    let routes = vec![mesh::answer("/there", 200, ""), hedged("/hedged", timeout_ms)];
    stage.site.edge.put("in", &mesh::routes("in", routes));
    eventually("there are other routes", || async {
        stage.ask("/there", "", &[]).await.0 == StatusCode::OK
    })
    .await;
    eventually("its host is known", || async {
        !hosts_of(&stage).await[0].is_null()
    })
    .await;
    (stage, collector)
}

/// Of the cluster `hedged`.
async fn hosts_of(stage: &Stage) -> serde_json::Value {
    let hosts = stage.site.proxy.admin("/hosts").await.unwrap().body;
    let mut hosts: serde_json::Value = serde_json::from_str(&hosts).unwrap();
    hosts["hedged"].take()
}

/// The own span of the request that went to `host`, and those of its attempts.
async fn spans_of(collector: &Collector, host: SocketAddr, attempts: usize) -> (Span, Vec<Span>) {
    let port = host.port().to_string();
    let to_host = || {
        let mut spans = collector.spans();
        spans.retain(|span| span.attributes().get("server.port") == Some(&port));
        spans.sort_by_key(|span| span.start_time_unix_nano);
        spans
    };
    eventually("the spans have come", || async { to_host().len() == attempts }).await;
    let attempts = to_host();
    let parent = attempts[0].parent();
    let own = || collector.spans().into_iter().find(|span| span.id() == parent);
    eventually("the request's own span has come", || async { own().is_some() }).await;
    (own().unwrap(), attempts)
}

fn error_of(span: &Span) -> Option<String> {
    let error = span.attributes().get("error.type").cloned();
    assert_eq!(span.is_error(), error.is_some());
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_breaks_off_is_an_error() {
    for path in ["/kept", "/bridged"] {
        let collector = Collector::start().await;
        let stage = Stage::start(Some(tracing(to_cluster("collector"), 100.0)), collector.address).await;
        let host = start_host(&[(0, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")]).await;
        stage.site.edge.put("a", &mesh::endpoints("a", &[(host, 0)]));
        eventually("an answer breaks off", || async {
            let request = Request::get(stage.site.url(path));
            let request = request.body(Full::default()).unwrap();
            let Ok(answer) = client().request(request).await else {
                return true;
            };
            answer.into_body().collect().await.is_err()
        })
        .await;
        let (own, attempts) = spans_of(&collector, host, 1).await;
        for span in [&own, &attempts[0]] {
            assert_eq!(error_of(span).as_deref(), Some("reset"), "{path} {span:?}");
            assert_eq!(span.attributes()["http.response.status_code"], "200");
        }
        stage.site.proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_attempts_beside_each_other_each_has_its_own_end() {
    let host = start_host(&[(800, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")]).await;
    let (stage, collector) = stage_of(host, 8000).await;
    stage.ask("/hedged", "", &[]).await;
    let (own, attempts) = spans_of(&collector, host, 2).await;
    assert_eq!(error_of(&own), None);
    assert_eq!(error_of(&attempts[0]), None, "{attempts:?}");
    assert_eq!(attempts[0].attributes()["http.response.status_code"], "200");
    assert_eq!(
        error_of(&attempts[1]).as_deref(),
        Some("_OTHER"),
        "it was given up"
    );
    stage.site.proxy.stop().await;
}

/// Those that are late for all that, and those that are only late for the route.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_are_to_blame_where_the_routes_time_ends_all_attempts() {
    let host = start_host(&[]).await;
    let (stage, collector) = stage_of(host, 2_500).await;
    let (status, _) = stage.ask("/hedged", "", &[]).await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
    let (own, attempts) = spans_of(&collector, host, 2).await;
    assert_eq!(error_of(&own).as_deref(), Some("504"));
    for attempt in &attempts {
        assert_eq!(error_of(attempt).as_deref(), Some("timeout"), "{attempts:?}");
    }
    eventually("the host is left out", || async {
        hosts_of(&stage).await[0]["ejected"] == true
    })
    .await;
    stage.site.proxy.stop().await;
}

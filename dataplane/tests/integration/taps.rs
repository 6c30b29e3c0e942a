//! Taps, and metrics over UDP: what an operator sees of a proxy that runs.

use std::path::Path;
use std::time::Duration;

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::net::UdpSocket;

use crate::support::mesh;
use crate::support::proxy::{DEADLINE, Proxy, client, eventually, send};
use crate::support::site::Site;
use crate::support::upstream::{Mood, Upstream};

struct Stage {
    site: Site,
    refusing: Upstream,
    well: Upstream,
}

impl Stage {
    async fn start(statsd: Option<String>) -> Self {
        let (refusing, well) = (Upstream::start("refusing").await, Upstream::start("well").await);
        refusing.mood.send_replace(Mood::Refusing);
        let hosts = vec![(refusing.address, 0), (well.address, 1)];
        let mut kept = mesh::with_retries(mesh::to_cluster("/kept", "a"), 1);
        kept.name = "kept".to_owned();
        let mut bridged = mesh::with_retries(mesh::to_cluster("/bridged", "a"), 1);
        bridged.name = "bridged".to_owned();
        let bridged = mesh::with_rewrite(bridged, "^/bridged", "/bridged");
        let routes = vec![kept, bridged, mesh::answer("/said", 403, "said")];
        let routes = mesh::routes("in", routes);
        let clusters = vec![(mesh::cluster("a"), hosts)];
        let start = |edge: &str, data: &Path| Proxy::start_told(edge, data, statsd);
        Self {
            site: Site::start_with(clusters, |plain| plain, routes, start).await,
            refusing,
            well,
        }
    }

    async fn ask(&self, path: &str) -> StatusCode {
        let request = Request::get(self.site.url(path))
            .header("authorization", "Bearer hidden")
            .header("x-api-key", "hidden")
            .header("x-shown", "shown")
            .header("referer", "http://shop/cart?code=hidden")
            .header("x-sent-by", "Bearer hidden")
            .body(Full::default())
            .unwrap();
        send(&client(), request).await.unwrap().status
    }

    /// Lines of a tap that `ask` is told of once it is open.
    async fn tapped(&self, query: &str, ask: impl AsyncFnOnce(&Self)) -> Vec<serde_json::Value> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{}/tap?{query}", self.site.proxy.admin));
        let answer = client()
            .request(request.body(Full::default()).unwrap())
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{query}");
        ask(self).await;
        let body = tokio::time::timeout(DEADLINE, answer.into_body().collect()).await;
        let text = body.unwrap().unwrap().to_bytes();
        let text = std::str::from_utf8(&text).unwrap();
        assert!(!text.contains("hidden"), "{text}");
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tap_shows_requests_and_what_was_decided() {
    let stage = Stage::start(None).await;
    for (path, route) in [("/kept", "kept"), ("/bridged", "bridged")] {
        let lines = stage
            .tapped(&format!("requests=1&route={route}"), async |stage| {
                assert_eq!(stage.ask("/said").await, 403);
                assert_eq!(
                    stage
                        .ask(&format!("{path}/reset-token/hidden17?token=hidden"))
                        .await,
                    200
                );
            })
            .await;
        let [shown, end] = &lines[..] else {
            panic!("{lines:?}");
        };
        assert_eq!(end["missed"], 0);
        let path = format!("{path}/reset-token/[redacted]");
        assert_eq!((&shown["path"], &shown["status"]), (&path.into(), &200.into()));
        let decision = &shown["decision"];
        assert_eq!(decision["listener"], "in");
        assert_eq!(decision["host"], "all");
        assert_eq!(decision["route"], route);
        assert_eq!(decision["upstream"], "a");
        assert_eq!(decision["outcome"], "forward");
        for (at, (host, brought)) in [(&stage.refusing, "503"), (&stage.well, "200")]
            .into_iter()
            .enumerate()
        {
            assert_eq!(decision["attempts"][at]["address"], host.address.to_string());
            assert_eq!(decision["attempts"][at]["brought"], brought);
        }
        let has = |headers: &str, name: &str, value: &str| {
            let headers = shown[headers].as_array().unwrap();
            headers
                .iter()
                .any(|line| line[0] == name && (value.is_empty() || line[1] == value))
        };
        assert!(has("request_headers", "authorization", "[redacted]"), "{shown}");
        assert!(has("request_headers", "x-shown", "shown"), "{shown}");
        let referer = "http://shop/cart?[redacted]";
        assert!(has("request_headers", "referer", referer), "{shown}");
        assert!(has("response_headers", "content-length", ""), "{shown}");
    }
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tap_sees_what_it_wants_for_as_long_as_it_wants() {
    let stage = Stage::start(None).await;
    let all = async |stage: &Stage| {
        for path in ["/kept", "/said", "/none"] {
            stage.ask(path).await;
        }
    };
    for (query, expected) in [
        ("seconds=1", &[200, 403, 404][..]),
        ("seconds=1&status=4xx", &[403, 404]),
        ("seconds=1&status=404", &[404]),
        ("seconds=1&path_prefix=/sa", &[403]),
        ("seconds=1&listener=out", &[]),
        ("seconds=1&header=x-shown:shown", &[200, 403, 404]),
        ("seconds=1&header=x-shown:other", &[]),
        ("requests=2", &[200, 403]),
        ("requests=1&status=404", &[404]),
    ] {
        let lines = stage.tapped(query, all).await;
        let mut statuses: Vec<u64> = lines.iter().filter_map(|line| line["status"].as_u64()).collect();
        // An exchange may end after its client has begun the next one.
        statuses.sort_unstable();
        assert_eq!(statuses, expected, "{query}");
    }
    let lines = stage.tapped("requests=2&status=4xx", all).await;
    let reasons: Vec<&serde_json::Value> = lines.iter().map(|line| &line["decision"]["reason"]).collect();
    assert_eq!(
        reasons[..2],
        [&serde_json::Value::Null, &"no route".into()],
        "the first is its route's"
    );
    for (query, expected) in [
        ("status=6xx", StatusCode::BAD_REQUEST),
        ("header=a%20b", StatusCode::BAD_REQUEST),
        ("unknown=1", StatusCode::BAD_REQUEST),
    ] {
        let answer = stage.site.proxy.admin(&format!("/tap?{query}")).await.unwrap();
        assert_eq!(answer.status, expected, "{query}");
    }
    // Those that nobody reads any more make room for others.
    let url = format!("http://{}/tap?seconds=600", stage.site.proxy.admin);
    let open = async || {
        let request = Request::get(&url).body(Full::<bytes::Bytes>::default()).unwrap();
        client().request(request).await.unwrap()
    };
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(open().await);
    }
    assert_eq!(open().await.status(), StatusCode::TOO_MANY_REQUESTS);
    held.clear();
    eventually("there is room again", || async {
        open().await.status() == StatusCode::OK
    })
    .await;
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_sent_to_statsd_again_and_again_and_at_the_end() {
    let agent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let stage = Stage::start(Some(agent.local_addr().unwrap().to_string())).await;
    let counted =
        |requests: u64| format!("tombolo_requests_total:{requests}|c|#listener:in,cluster:-,code_class:4xx");
    let ask = async |times: usize| {
        for _ in 0..times {
            assert_eq!(stage.ask("/said").await, 403);
        }
    };
    let mut text = String::new();
    // Each time what came since the last, while the proxy runs on.
    for requests in [3, 2] {
        ask(requests).await;
        let line = counted(requests as u64);
        text.clear();
        while !has_line(&text, &line) {
            text += &datagram(&agent, DEADLINE).await.expect("it is flushed");
        }
    }
    ask(1).await;
    stage.site.proxy.stop().await;
    text.clear();
    while let Some(more) = datagram(&agent, Duration::from_millis(200)).await {
        text += &more;
    }
    for line in [&*counted(1), "tombolo_connections_active:0|g|#listener:in"] {
        assert!(has_line(&text, line), "{line} is missing in\n{text}");
    }
    let timers = text
        .lines()
        .filter(|line| line.starts_with("tombolo_request_duration:"));
    assert!(
        timers.clone().count() > 0 && timers.clone().all(|line| line.contains("|ms")),
        "{text}"
    );
}

fn has_line(text: &str, line: &str) -> bool {
    text.lines().any(|sent| sent == line)
}

/// The next one, as lines, if it comes within that time.
async fn datagram(agent: &UdpSocket, within: Duration) -> Option<String> {
    let mut datagram = [0; 2048];
    let read = tokio::time::timeout(within, agent.recv(&mut datagram))
        .await
        .ok()?
        .unwrap();
    Some(format!("{}\n", std::str::from_utf8(&datagram[..read]).unwrap()))
}

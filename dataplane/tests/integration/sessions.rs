//! Sessions that stay with a host, over real sockets and two workers: what clients carry, and what they cannot reach with it.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::LbPolicy;
use envoy_types::pb::envoy::config::core::v3::{HealthStatus, TypedExtensionConfig};
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::Route;
use envoy_types::pb::envoy::extensions::filters::http::stateful_session::v3::stateful_session_per_route::Override;
use envoy_types::pb::envoy::extensions::filters::http::stateful_session::v3::{
    StatefulSession, StatefulSessionPerRoute,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::UpgradeConfig;
use envoy_types::pb::envoy::extensions::http::stateful_session::cookie::v3::CookieBasedSessionState;
use envoy_types::pb::envoy::extensions::http::stateful_session::header::v3::HeaderBasedSessionState;
use envoy_types::pb::envoy::r#type::http::v3::Cookie;
use envoy_types::pb::google::protobuf::{Any, Duration};
use envoy_types::util::pack_any;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::mesh;
use crate::support::proxy::{Answer, eventually};
use crate::support::site::Site;
use crate::support::upstream::{Mood, Upstream};

const NAME: &str = "envoy.filters.http.stateful_session";

/// A proxy before a cluster of four hosts, and one that is of no cluster.
struct Stage {
    site: Site,
    hosts: Vec<Upstream>,
    outsider: Upstream,
}

impl Stage {
    async fn start() -> Self {
        let mut hosts = Vec::new();
        for name in ["a", "b", "c", "d"] {
            hosts.push(Upstream::start(name).await);
        }
        let outsider = Upstream::start("outsider").await;
        let cluster = Cluster {
            lb_policy: LbPolicy::RoundRobin as i32,
            ..mesh::cluster("x")
        };
        let addresses = hosts.iter().map(|host| (host.address, 0)).collect();
        let retried = mesh::with_retries(mesh::to_cluster("/retried", "x"), 2);
        let routes = vec![
            keeps(mesh::to_cluster("/cookie", "x"), cookie(), false),
            keeps(mesh::to_cluster("/strict", "x"), cookie(), true),
            keeps(mesh::to_cluster("/header", "x"), header(), false),
            keeps(retried, cookie(), false),
            mesh::to_cluster("/", "x"),
        ];
        Self {
            site: Site::start_listening(vec![(cluster, addresses)], with_sessions, routes).await,
            hosts,
            outsider,
        }
    }

    /// Who answers the same request ten times, over either version, and what clients are told.
    async fn answers(&self, path: &str, header: (&str, &str)) -> (BTreeSet<String>, bool) {
        let (mut hosts, mut told) = (BTreeSet::new(), false);
        for nth in 0..10 {
            let answer = self.site.get(path, header, nth % 2 == 0).await;
            assert_eq!(answer.status, 200, "{path} {header:?}: {}", answer.body);
            told |= answer.headers.contains_key("set-cookie") || answer.headers.contains_key("x-session");
            hosts.insert(answer.body.split(' ').next().unwrap().to_owned());
        }
        (hosts, told)
    }
}

fn with_sessions(listener: Listener) -> Listener {
    let listener = mesh::with_filters(listener, [(NAME, pack_any(StatefulSession::default()))]);
    mesh::with_manager(listener, |manager| {
        manager.upgrade_configs = vec![UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..Default::default()
        }];
    })
}

fn cookie() -> Any {
    pack_any(CookieBasedSessionState {
        cookie: Some(Cookie {
            name: "s".to_owned(),
            path: "/".to_owned(),
            ttl: Some(Duration {
                seconds: 60,
                nanos: 0,
            }),
            ..Default::default()
        }),
    })
}

fn header() -> Any {
    pack_any(HeaderBasedSessionState {
        name: "x-session".to_owned(),
    })
}

fn keeps(mut route: Route, state: Any, strict: bool) -> Route {
    let session = StatefulSession {
        session_state: Some(TypedExtensionConfig {
            name: "state".to_owned(),
            typed_config: Some(state),
        }),
        strict,
        ..Default::default()
    };
    let said = StatefulSessionPerRoute {
        r#override: Some(Override::StatefulSession(session)),
    };
    route.typed_per_filter_config = HashMap::from([(NAME.to_owned(), pack_any(said))]);
    route
}

/// What comes back for a request of `path` with `cookie` that asks for another protocol.
async fn upgrade(stage: &Stage, path: &str, cookie: &str) -> String {
    let asks = "host: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n";
    let request = format!("GET {path} HTTP/1.1\r\n{asks}cookie: {cookie}\r\n\r\n");
    let mut stream = TcpStream::connect(stage.site.listener).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// What a client says that wants to go there.
fn forged(address: SocketAddr) -> String {
    format!("s={}", STANDARD.encode(address.to_string()))
}

/// The cookie of an answer, as a browser sends it back.
fn given(answer: &Answer) -> String {
    let set = answer.headers["set-cookie"].to_str().unwrap();
    let (cookie, rest) = set.split_once(';').unwrap();
    assert_eq!(rest, " Max-Age=60; Path=/; HttpOnly");
    cookie.to_owned()
}

fn only(name: &str) -> BTreeSet<String> {
    BTreeSet::from([name.to_owned()])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_stays_where_it_began() {
    let stage = Stage::start().await;
    for (path, http2) in [("/cookie", false), ("/cookie", true), ("/strict", false)] {
        let first = stage.site.get(path, ("x", "y"), http2).await;
        let name = first.body.split(' ').next().unwrap();
        let answers = stage.answers(path, ("cookie", &given(&first))).await;
        assert_eq!(answers, (only(name), false), "{path}");
    }
    let first = stage.site.get("/header", ("x", "y"), false).await;
    let session = first.headers["x-session"].to_str().unwrap();
    let name = first.body.split(' ').next().unwrap();
    let answers = stage.answers("/header", ("x-session", session)).await;
    assert_eq!(answers, (only(name), false));
    let (hosts, told) = stage
        .answers("/", ("cookie", &forged(stage.hosts[0].address)))
        .await;
    assert!(hosts.len() > 1 && !told, "where nothing is said: {hosts:?}");
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_is_of_its_session() {
    let stage = Stage::start().await;
    for (nth, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
        for _ in 0..3 {
            let answer = upgrade(&stage, "/cookie", &forged(stage.hosts[nth].address)).await;
            assert!(answer.contains(&format!("\r\n\r\n{name} ")), "{name}: {answer}");
        }
    }
    let first = upgrade(&stage, "/cookie", "x=y").await;
    assert!(first.contains("\r\nset-cookie: s="), "{first}");
    let refused = upgrade(&stage, "/strict", &forged(stage.outsider.address)).await;
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert_eq!(stage.outsider.connections(), 0);
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_says_leads_to_no_other_host() {
    let stage = Stage::start().await;
    let outside = stage.outsider.address;
    let encoded = STANDARD.encode(outside.to_string());
    for (path, header) in [
        ("/cookie", ("cookie", forged(outside))),
        ("/cookie", ("cookie", "s=cnViYmlzaA==".to_owned())),
        ("/header", ("x-session", encoded)),
    ] {
        let (hosts, told) = stage.answers(path, (header.0, &header.1)).await;
        assert!(hosts.len() > 1 && told, "{path} {header:?}: {hosts:?}");
    }
    for http2 in [false, true] {
        let answer = stage
            .site
            .get("/strict", ("cookie", &forged(outside)), http2)
            .await;
        assert_eq!(
            (answer.status.as_u16(), answer.body.as_str()),
            (503, "no healthy upstream")
        );
    }
    assert_eq!(stage.outsider.connections(), 0);
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_whose_host_is_ill_moves_or_ends() {
    let stage = Stage::start().await;
    let ill = stage.hosts[0].address;
    let retried = stage.site.get("/retried", ("cookie", &forged(ill)), false).await;
    assert!(retried.body.starts_with("a "), "{}", retried.body);
    stage.hosts[0].mood.send_replace(Mood::Refusing);
    for http2 in [false, true] {
        let moved = stage.site.get("/retried", ("cookie", &forged(ill)), http2).await;
        assert_eq!(moved.status, 200);
        assert!(!moved.body.starts_with("a "), "{}", moved.body);
        let (hosts, told) = stage.answers("/cookie", ("cookie", &given(&moved))).await;
        assert!(hosts.len() == 1 && !told, "{hosts:?}");
    }
    stage.hosts[0].mood.send_replace(Mood::Well);
    let addresses: Vec<(SocketAddr, u32)> = stage.hosts.iter().map(|host| (host.address, 0)).collect();
    let mut endpoints = mesh::endpoints("x", &addresses);
    endpoints.endpoints[0].lb_endpoints[0].health_status = HealthStatus::Unhealthy as i32;
    stage.site.edge.put("x", &endpoints);
    eventually("a strict session ends", || async {
        stage
            .site
            .get("/strict", ("cookie", &forged(ill)), false)
            .await
            .status
            == 503
    })
    .await;
    let (hosts, told) = stage.answers("/cookie", ("cookie", &forged(ill))).await;
    assert!(!hosts.contains("a") && told, "{hosts:?}");
    stage.site.proxy.stop().await;
}

//! Requests that go to some hosts of a cluster only, over real sockets and two workers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::lb_subset_config::LbSubsetSelector;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{LbPolicy, LbSubsetConfig};
use envoy_types::pb::envoy::config::core::v3::{HealthStatus, Metadata};
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::route::v3::Route;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use http::Request;
use http_body_util::Full;

use crate::support::ads::AdsServer;
use crate::support::mesh;
use crate::support::proxy::{Answer, Proxy, client, eventually, free_address, http2_client, send};
use crate::support::upstream::{Mood, Upstream};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// A proxy before a cluster of four hosts, of which the first two are of version 1 and the others of version 2.
struct Stage {
    listener: SocketAddr,
    hosts: Vec<Upstream>,
    proxy: Proxy,
    edge: AdsServer,
    _data: tempfile::TempDir,
}

fn metadata(said: &[(&str, &str)]) -> Metadata {
    let value = |text: &str| Value {
        kind: Some(Kind::StringValue(text.to_owned())),
    };
    let fields = said.iter().map(|(key, text)| ((*key).to_owned(), value(text)));
    let said = Struct {
        fields: fields.collect(),
    };
    Metadata {
        filter_metadata: HashMap::from([("envoy.lb".to_owned(), said)]),
        ..Default::default()
    }
}

fn wants(mut route: Route, said: &[(&str, &str)]) -> Route {
    if let Some(Action::Route(action)) = &mut route.action {
        action.metadata_match = Some(metadata(said));
    }
    route
}

/// Requests of version 1 go to its hosts, but a tenth of them says version 2.
fn canary() -> Route {
    let mut route = mesh::to_weighted("/canary", &[("x", 90), ("x", 10)]);
    if let Some(Action::Route(action)) = &mut route.action {
        action.metadata_match = Some(metadata(&[("v", "1")]));
        if let Some(ClusterSpecifier::WeightedClusters(weighted)) = &mut action.cluster_specifier {
            weighted.clusters[1].metadata_match = Some(metadata(&[("v", "2")]));
        }
    }
    route
}

impl Stage {
    async fn start(policy: LbPolicy) -> Self {
        let edge = AdsServer::start_at(free_address()).await;
        let data = tempfile::tempdir().unwrap();
        let listener = free_address();
        let mut hosts = Vec::new();
        for name in NAMES {
            hosts.push(Upstream::start(name).await);
        }
        let cluster = Cluster {
            lb_policy: policy as i32,
            lb_subset_config: Some(LbSubsetConfig {
                subset_selectors: vec![LbSubsetSelector {
                    keys: vec!["v".to_owned()],
                    ..Default::default()
                }],
                ..Default::default()
            }),
            ..mesh::cluster("x")
        };
        edge.put("x", &cluster);
        let stage_hosts: Vec<(SocketAddr, u32)> = hosts.iter().map(|host| (host.address, 0)).collect();
        edge.put("x", &versions(&stage_hosts, ["1", "1", "2", "2"]));
        edge.put("in", &mesh::listener("in", listener, "in"));
        let routes = vec![
            wants(mesh::to_cluster("/v1", "x"), &[("v", "1")]),
            mesh::with_retries(wants(mesh::to_cluster("/retried", "x"), &[("v", "2")]), 2),
            // Nobody tells a request of HTTP/1.1 from others where its path is rewritten.
            mesh::with_rewrite(
                wants(mesh::to_cluster("/other", "x"), &[("v", "2")]),
                "other",
                "o",
            ),
            wants(mesh::to_cluster("/v3", "x"), &[("v", "3")]),
            canary(),
            mesh::to_cluster("/", "x"),
        ];
        edge.put("in", &mesh::routes("in", routes));
        let proxy = Proxy::start(&edge.url(), data.path());
        eventually("the proxy is ready", || proxy.is_ready()).await;
        Self {
            listener,
            hosts,
            proxy,
            edge,
            _data: data,
        }
    }

    async fn get(&self, path: &str, http2: bool) -> Answer {
        let client = if http2 { http2_client() } else { client() };
        let request = Request::get(format!("http://{}{path}", self.listener));
        send(&client, request.body(Full::default()).unwrap())
            .await
            .unwrap()
    }

    /// How many of so many requests each host has answered, and the status of those without one.
    async fn counts(&self, path: &str, requests: usize) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for nth in 0..requests {
            let answer = self.get(path, nth % 2 == 0).await;
            let who = match answer.status.as_u16() {
                200 => answer.body.split(' ').next().unwrap().to_owned(),
                status => status.to_string(),
            };
            *counts.entry(who).or_default() += 1;
        }
        counts
    }

    async fn who(&self, path: &str) -> BTreeSet<String> {
        self.counts(path, 16).await.into_keys().collect()
    }
}

fn versions(hosts: &[(SocketAddr, u32)], versions: [&str; 4]) -> ClusterLoadAssignment {
    let mut endpoints = mesh::endpoints("x", hosts);
    for (locality, version) in endpoints.endpoints.iter_mut().zip(versions) {
        locality.lb_endpoints[0].metadata = Some(metadata(&[("v", version)]));
    }
    endpoints
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_leads_to_hosts_of_which_is_said_what_it_wants() {
    for policy in [LbPolicy::RoundRobin, LbPolicy::LeastRequest] {
        let stage = Stage::start(policy).await;
        for (path, expected) in [
            ("/v1", &["a", "b"][..]),
            ("/other", &["c", "d"]),
            ("/v3", &["503"]),
            ("/", &["503"]),
        ] {
            assert_eq!(stage.who(path).await, names(expected), "{policy:?} {path}");
        }
        let canary = stage.counts("/canary", 200).await;
        let of = |names: [&str; 2]| names.iter().filter_map(|name| canary.get(*name)).sum::<usize>();
        assert_eq!(of(["a", "b"]) + of(["c", "d"]), 200, "{canary:?}");
        assert!((3..=50).contains(&of(["c", "d"])), "{canary:?}");
        stage.proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_stays_within_its_set() {
    let stage = Stage::start(LbPolicy::RoundRobin).await;
    stage.hosts[2].mood.send_replace(Mood::Refusing);
    assert_eq!(stage.who("/retried").await, names(&["d"]));
    stage.hosts[3].mood.send_replace(Mood::Refusing);
    assert_eq!(stage.who("/retried").await, names(&["503"]));
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sets_change_with_endpoints_and_health() {
    let stage = Stage::start(LbPolicy::RoundRobin).await;
    let hosts: Vec<(SocketAddr, u32)> = stage.hosts.iter().map(|host| (host.address, 0)).collect();
    stage.edge.put("x", &versions(&hosts, ["1", "2", "2", "3"]));
    eventually("sets are as the endpoints say", || async {
        stage.who("/v1").await == names(&["a"])
            && stage.who("/other").await == names(&["b", "c"])
            && stage.who("/v3").await == names(&["d"])
    })
    .await;
    let mut endpoints = versions(&hosts, ["1", "2", "2", "2"]);
    endpoints.endpoints[3].lb_endpoints[0].health_status = HealthStatus::Unhealthy as i32;
    stage.edge.put("x", &endpoints);
    eventually("one of the set is not healthy", || async {
        stage.who("/other").await == names(&["b", "c"])
    })
    .await;
    for host in [0, 1, 2] {
        endpoints.endpoints[host].lb_endpoints[0].health_status = HealthStatus::Unhealthy as i32;
    }
    stage.edge.put("x", &endpoints);
    eventually("all of a set are used in panic", || async {
        stage.who("/other").await == names(&["b", "c", "d"]) && stage.who("/v1").await == names(&["a"])
    })
    .await;
    stage.proxy.stop().await;
}

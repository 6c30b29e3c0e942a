//! How requests are spread over hosts, over real sockets and two workers: by turns, and those that belong together to one host.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::common_lb_config::{
    LocalityConfigSpecifier, LocalityWeightedLbConfig,
};
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    CommonLbConfig, LbConfig, LbPolicy, RoundRobinLbConfig, SlowStartConfig,
};
use envoy_types::pb::envoy::config::core::v3::HealthStatus;
use envoy_types::pb::envoy::config::endpoint::v3::cluster_load_assignment::Policy;
use envoy_types::pb::envoy::config::endpoint::v3::cluster_load_assignment::policy::DropOverload;
use envoy_types::pb::envoy::config::route::v3::Route;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::HashPolicy;
use envoy_types::pb::envoy::config::route::v3::route_action::hash_policy::{
    ConnectionProperties, Cookie, Header, PolicySpecifier, QueryParameter,
};
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
use envoy_types::pb::google::protobuf::{Duration, UInt32Value};

use crate::support::mesh;
use crate::support::proxy::eventually;
use crate::support::site::Site;
use crate::support::upstream::{Mood, Upstream};

/// A proxy before a cluster of four hosts; what is below a name of a policy goes by it.
struct Stage {
    site: Site,
    hosts: Vec<Upstream>,
}

impl Stage {
    async fn start(policy: LbPolicy) -> Self {
        let mut hosts = Vec::new();
        for name in ["a", "b", "c", "d"] {
            hosts.push(Upstream::start(name).await);
        }
        let cluster = Cluster {
            lb_policy: policy as i32,
            ..mesh::cluster("x")
        };
        let addresses = hosts.iter().map(|host| (host.address, 0)).collect();
        let header = PolicySpecifier::Header(Header {
            header_name: "k".to_owned(),
            ..Default::default()
        });
        let parameter = PolicySpecifier::QueryParameter(QueryParameter { name: "q".to_owned() });
        let source_ip = PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true });
        let cookie = PolicySpecifier::Cookie(Cookie {
            name: "c".to_owned(),
            ttl: Some(Duration {
                seconds: 60,
                nanos: 0,
            }),
            path: "/cookie".to_owned(),
            ..Default::default()
        });
        let routes = vec![
            by("/header", header.clone()),
            mesh::with_retries(by("/retried", header), 2),
            by("/parameter", parameter),
            by("/source", source_ip),
            by("/cookie", cookie),
            mesh::to_cluster("/", "x"),
        ];
        Self {
            site: Site::start(vec![(cluster, addresses)], routes).await,
            hosts,
        }
    }

    /// Who answers the same request ten times, over either version.
    async fn hosts(&self, path: &str, header: (&str, &str)) -> BTreeSet<String> {
        let mut hosts = BTreeSet::new();
        for nth in 0..10 {
            let answer = self.site.get(path, header, nth % 2 == 0).await;
            hosts.insert(answer.body.split(' ').next().unwrap().to_owned());
        }
        hosts
    }
}

fn by(prefix: &str, specifier: PolicySpecifier) -> Route {
    let mut route = mesh::to_cluster(prefix, "x");
    if let Some(Action::Route(action)) = &mut route.action {
        action.hash_policy = vec![HashPolicy {
            policy_specifier: Some(specifier),
            ..Default::default()
        }];
    }
    route
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_belong_together_go_to_one_host() {
    for policy in [LbPolicy::RingHash, LbPolicy::Maglev] {
        let stage = Stage::start(policy).await;
        let mut seen = BTreeSet::new();
        for key in 0..12 {
            let key = format!("key-{key}");
            let of_header = stage.hosts("/header", ("k", &key)).await;
            assert_eq!(of_header.len(), 1, "{policy:?} {key}: {of_header:?}");
            let of_query = stage.hosts(&format!("/parameter?q={key}"), ("x", "y")).await;
            assert_eq!(of_query, of_header, "the same text is the same key");
            seen.extend(of_header);
        }
        // Twelve keys miss half of four hosts in one of some three hundred runs.
        assert!(seen.len() > 1, "{policy:?}: all keys go to {seen:?}");
        assert_eq!(stage.hosts("/source", ("x", "y")).await.len(), 1, "{policy:?}");
        assert!(
            stage.hosts("/", ("k", "key-1")).await.len() > 1,
            "{policy:?}: without a policy"
        );
        stage.site.proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_a_cookie_is_given_one_that_leads_it_back() {
    let stage = Stage::start(LbPolicy::RingHash).await;
    for http2 in [false, true] {
        let first = stage.site.get("/cookie/x", ("x", "y"), http2).await;
        let set = first.headers["set-cookie"].to_str().unwrap().to_owned();
        let (cookie, rest) = set.split_once(';').unwrap();
        assert_eq!(rest, " Max-Age=60; Path=/cookie; HttpOnly");
        assert!(cookie.starts_with("c=\""), "{cookie}");
        let again = stage.site.get("/cookie/x", ("cookie", cookie), http2).await;
        assert_eq!(again.body, first.body);
        assert!(!again.headers.contains_key("set-cookie"));
        assert_eq!(stage.hosts("/cookie/x", ("cookie", cookie)).await.len(), 1);
    }
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_leaves_the_host_of_its_key() {
    let stage = Stage::start(LbPolicy::RingHash).await;
    let usual = stage.hosts("/retried", ("k", "1")).await;
    let at = stage
        .hosts
        .iter()
        .zip(["a", "b", "c", "d"])
        .find(|(_, name)| usual.contains(*name));
    at.unwrap().0.mood.send_replace(Mood::Refusing);
    for http2 in [false, true] {
        let answer = stage.site.get("/retried", ("k", "1"), http2).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_take_turns() {
    for policy in [LbPolicy::RoundRobin, LbPolicy::Random] {
        let stage = Stage::start(policy).await;
        for _ in 0..40 {
            assert_eq!(stage.site.get("/", ("x", "y"), false).await.status, 200);
        }
        let counts: Vec<u64> = stage.hosts.iter().map(Upstream::requests).collect();
        if policy == LbPolicy::RoundRobin {
            // Each worker goes round for itself.
            assert!(counts.iter().all(|count| (9..=11).contains(count)), "{counts:?}");
        } else {
            assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
        }
        stage.site.proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_priority_may_be_said_to_be_enough() {
    let stage = Stage::start(LbPolicy::RoundRobin).await;
    let [used, unhealthy, spare] = [0, 1, 2].map(|at: usize| stage.hosts[at].address);
    let mut endpoints = mesh::endpoints("x", &[(used, 0), (unhealthy, 0), (spare, 1)]);
    endpoints.endpoints[1].lb_endpoints[0].health_status = HealthStatus::Unhealthy as i32;
    for (factor, is_enough) in [(200, true), (100, false)] {
        endpoints.policy = Some(Policy {
            overprovisioning_factor: Some(UInt32Value { value: factor }),
            ..Default::default()
        });
        stage.site.edge.put("x", &endpoints);
        eventually("the spare one is used as it should be", || async {
            let before = stage.hosts[2].requests();
            for _ in 0..20 {
                stage.site.get("/", ("x", "y"), false).await;
            }
            (stage.hosts[2].requests() == before) == is_enough
        })
        .await;
    }
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn localities_get_what_their_weights_say() {
    let stage = Stage::start(LbPolicy::RoundRobin).await;
    let cluster = Cluster {
        lb_policy: LbPolicy::RoundRobin as i32,
        common_lb_config: Some(CommonLbConfig {
            locality_config_specifier: Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(
                LocalityWeightedLbConfig {},
            )),
            ..Default::default()
        }),
        ..mesh::cluster("x")
    };
    stage.site.edge.put("x", &cluster);
    let addresses: Vec<(SocketAddr, u32)> = stage.hosts.iter().map(|host| (host.address, 0)).collect();
    let mut endpoints = mesh::endpoints("x", &addresses);
    // What each host's locality weighs, if anything: the first two are in one, and the last gets nothing.
    let weights = [
        ("near", Some(1)),
        ("near", Some(1)),
        ("far", Some(3)),
        ("none", None),
    ];
    for (locality, (zone, weight)) in endpoints.endpoints.iter_mut().zip(weights) {
        locality.locality.get_or_insert_default().zone = zone.to_owned();
        locality.load_balancing_weight = weight.map(|value| UInt32Value { value });
    }
    stage.site.edge.put("x", &endpoints);
    eventually("the last host gets nothing", || async {
        let before = stage.hosts[3].requests();
        for _ in 0..8 {
            stage.site.get("/", ("x", "y"), false).await;
        }
        stage.hosts[3].requests() == before
    })
    .await;
    let before: Vec<u64> = stage.hosts.iter().map(Upstream::requests).collect();
    for nth in 0..80 {
        assert_eq!(stage.site.get("/", ("x", "y"), nth % 2 == 0).await.status, 200);
    }
    let counts = stage.hosts.iter().zip(before);
    let counts: Vec<u64> = counts.map(|(host, before)| host.requests() - before).collect();
    // Each worker counts turns for itself.
    for (count, expected) in counts.iter().zip([10, 10, 60, 0]) {
        assert!(count.abs_diff(expected) <= 3, "{counts:?}");
    }
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_of_requests_may_be_dropped() {
    const HALF: &str = "x-envoy-drop-overload";
    const ALL: &str = "x-envoy-unconditional-drop-overload";
    let stage = Stage::start(LbPolicy::LeastRequest).await;
    let mut endpoints = mesh::endpoints("x", &[(stage.hosts[0].address, 0)]);
    for (percent, header, body, dropped) in [
        (100, ALL, "unconditional drop overload", 100..=100),
        (50, HALF, "drop overload", 25..=75),
        (0, HALF, "", 0..=0),
    ] {
        endpoints.policy = Some(Policy {
            drop_overloads: vec![DropOverload {
                category: "lb".to_owned(),
                drop_percentage: Some(FractionalPercent {
                    numerator: percent,
                    ..Default::default()
                }),
            }],
            ..Default::default()
        });
        stage.site.edge.put("x", &endpoints);
        eventually("as many are dropped as should be", || async {
            let mut refused = 0;
            for nth in 0..100 {
                let before = stage.hosts[0].requests();
                let answer = stage.site.get("/", ("x", "y"), nth % 2 == 0).await;
                if answer.status == 503 && answer.headers.contains_key(header) && answer.body == body {
                    assert_eq!(stage.hosts[0].requests(), before);
                    refused += 1;
                }
            }
            dropped.contains(&refused)
        })
        .await;
    }
    let metrics = stage.site.proxy.metrics().await;
    for flag in ["DO", "UDO"] {
        assert!(metrics.contains(&format!("flag=\"{flag}\"")), "{flag}");
    }
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_host_gets_its_share_little_by_little() {
    const WINDOW: std::time::Duration = std::time::Duration::from_secs(4);
    let stage = Stage::start(LbPolicy::RoundRobin).await;
    let slow_start_config = Some(SlowStartConfig {
        slow_start_window: Some(Duration { seconds: 4, nanos: 0 }),
        ..Default::default()
    });
    let cluster = Cluster {
        lb_policy: LbPolicy::RoundRobin as i32,
        lb_config: Some(LbConfig::RoundRobinLbConfig(RoundRobinLbConfig {
            slow_start_config,
        })),
        ..mesh::cluster("x")
    };
    stage.site.edge.put("x", &cluster);
    let [first, second, new] = [0, 1, 2].map(|at: usize| (stage.hosts[at].address, 0));
    stage.site.edge.put("x", &mesh::endpoints("x", &[first, second]));
    tokio::time::sleep(WINDOW).await;
    stage
        .site
        .edge
        .put("x", &mesh::endpoints("x", &[first, second, new]));
    eventually("the new host is used", || async {
        stage.site.get("/", ("x", "y"), false).await;
        stage.hosts[2].requests() > 0
    })
    .await;
    let of_thirty = || async {
        let before = stage.hosts[2].requests();
        for nth in 0..30 {
            stage.site.get("/", ("x", "y"), nth % 2 == 0).await;
        }
        stage.hosts[2].requests() - before
    };
    let at_first = of_thirty().await;
    assert!(at_first < 7, "{at_first} of 30 when a third is ten");
    eventually("it gets a third", || async { of_thirty().await >= 9 }).await;
    stage.site.proxy.stop().await;
}

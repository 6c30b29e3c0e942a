#![allow(clippy::unwrap_used)]

use envoy_types::pb::envoy::config::cluster::v3::Cluster as PbCluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::LbPolicy;
use envoy_types::pb::envoy::config::core::v3::health_check::HealthChecker;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_action::hash_policy::PolicySpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use tombolo_compiler::http::{Affinity, HeaderMatch, HttpMatch, Method, PathMatch, Share, ValueMatch};
use tombolo_compiler::proxy::{
    Balancer, Check, Forward, Mirror, RetryPolicy, Route, RouteAction, RouteTable, Upstream, VirtualHost,
};
use tombolo_compiler::routes::HostConduct;
use tombolo_compiler::setting::Outliers;

use super::*;
use crate::testing::{config, endpoints, forward, origin, path, target, upstream};

mod quotas;
mod tokens;

fn decoded<T: Message + Default>(resources: &Resources, kind: Kind, name: &str) -> T {
    let encoded = resources.get(kind, name).unwrap();
    assert_eq!(encoded.body.type_url, kind.type_url());
    T::decode(encoded.body.value.as_slice()).unwrap()
}

fn routes(routes: Vec<Traced<Route>>) -> Resources {
    let table = RouteTable {
        ignore_port: false,
        hosts: vec![Traced::untraced(VirtualHost {
            name: "h".into(),
            domains: ["shop.example.com".into(), "shop.example.com:80".into()].into(),
            routes,
            conduct: HostConduct::default(),
        })],
    };
    encode(&ProxyConfig {
        route_tables: [("t".into(), Traced::untraced(table))].into(),
        ..ProxyConfig::default()
    })
}

fn route(matches: HttpMatch, action: RouteAction) -> Traced<Route> {
    Traced::untraced(Route { matches, action })
}

#[test]
fn the_same_configuration_gives_the_same_versions() {
    let (a, b) = (encode(&config(&["a", "b"])), encode(&config(&["a", "b"])));
    assert_eq!(a, b);
    let mut moved = config(&["a", "b"]);
    moved.clusters.get_mut("a").unwrap().origin = Some(origin("elsewhere"));
    let moved = encode(&moved);
    let version = |resources: &Resources| resources.get(Kind::Cluster, "a").unwrap().version.clone();
    assert_eq!(version(&moved), version(&a), "an origin moves no proxy");
    assert_ne!(version(&a), a.get(Kind::Cluster, "b").unwrap().version);
}

#[test]
fn what_changed_is_encoded_as_from_scratch_and_nothing_else_is() {
    let old = config(&["a", "b", "gone"]);
    let held = encode(&old);
    let mut new = config(&["a", "b", "added"]);
    new.clusters.get_mut("a").unwrap().origin = Some(origin("elsewhere"));
    new.endpoints.get_mut("b").unwrap().value.priorities.clear();
    let (since, scratch) = (encode_since(&old, &held, &new, None), encode(&new));
    for kind in Kind::ALL {
        let all = |resources: &Resources| -> Vec<_> {
            let of = resources.of(kind);
            of.map(|(name, encoded)| (name.clone(), encoded.clone(), encoded.origins.clone()))
                .collect()
        };
        assert_eq!(all(&since), all(&scratch), "{kind:?}");
    }
    let kept = |kind, name: &str| Arc::ptr_eq(held.get(kind, name).unwrap(), since.get(kind, name).unwrap());
    assert!(kept(Kind::Cluster, "b") && kept(Kind::Endpoints, "a"));
    assert!(!kept(Kind::Cluster, "a") && !kept(Kind::Endpoints, "b"));
}

#[test]
fn listeners_and_tables_need_their_clusters() {
    let resources = encode(&config(&["a", "b"]));
    for kind in [Kind::Listener, Kind::Routes] {
        let needs = &resources.get(kind, "in").unwrap().needs;
        assert_eq!(*needs, ["a".to_owned(), "b".to_owned()].into());
    }
    assert!(resources.get(Kind::Cluster, "a").unwrap().needs.is_empty());
}

#[test]
fn careful_retries_are_two_routes_and_asked_ones_are_one() {
    let asked = RetryPolicy::AsAsked {
        attempts: 3,
        codes: [500, 502].into(),
        backoff: Span::from_ms(30),
    };
    let resources = routes(vec![
        route(
            HttpMatch::default(),
            forward(vec![target("a", 100)], RetryPolicy::Careful { attempts: 2 }),
        ),
        route(HttpMatch::default(), forward(vec![target("a", 100)], asked)),
        route(
            HttpMatch::default(),
            forward(vec![target("a", 100)], RetryPolicy::Careful { attempts: 0 }),
        ),
    ]);
    let table: RouteConfiguration = decoded(&resources, Kind::Routes, "t");
    let found: Vec<_> = table.virtual_hosts[0]
        .routes
        .iter()
        .map(|route| {
            let Some(Action::Route(action)) = &route.action else {
                panic!("{route:?}")
            };
            let methods = route.r#match.as_ref().unwrap().headers.len();
            let policy = action.retry_policy.as_ref();
            let policy = policy.map(|policy| {
                let retries = policy.num_retries.unwrap().value;
                (
                    policy.retry_on.as_str(),
                    retries,
                    policy.retriable_status_codes.clone(),
                )
            });
            (methods, policy)
        })
        .collect();
    assert_eq!(
        found,
        [
            (
                1,
                Some((
                    "connect-failure,refused-stream,reset,retriable-status-codes",
                    2,
                    vec![503]
                ))
            ),
            (0, Some(("connect-failure,refused-stream", 2, vec![]))),
            (
                0,
                Some((
                    "connect-failure,refused-stream,reset,retriable-status-codes",
                    3,
                    vec![500, 502]
                ))
            ),
            (0, None),
        ]
    );
}

#[test]
fn matches_are_spelled_as_envoy_wants_them() {
    let prefix = |text: &str| Some(PathMatch::PathPrefix(path(text)));
    for (given, expected) in [
        (None, PathSpecifier::Prefix("/".into())),
        (prefix("/"), PathSpecifier::Prefix("/".into())),
        (prefix("/a"), PathSpecifier::PathSeparatedPrefix("/a".into())),
        (prefix("/a/b/"), PathSpecifier::PathSeparatedPrefix("/a/b".into())),
        (
            Some(PathMatch::Exact(path("/a/"))),
            PathSpecifier::Path("/a/".into()),
        ),
    ] {
        let header = HeaderMatch {
            name: "X-Canary".to_owned().try_into().unwrap(),
            value: ValueMatch::Exact("yes".into()),
        };
        let matches = HttpMatch {
            path: given,
            headers: [header].into(),
            ..HttpMatch::default()
        };
        let action = RouteAction::Respond {
            status: 503,
            body: "no".into(),
        };
        let table: RouteConfiguration = decoded(&routes(vec![route(matches, action)]), Kind::Routes, "t");
        let found = table.virtual_hosts[0].routes[0].r#match.clone().unwrap();
        assert_eq!(found.path_specifier, Some(expected));
        assert_eq!(found.headers[0].name, "x-canary");
    }
}

/// Envoy takes one pattern for the path; the others of a gateway's and a service's rule look at it with its query.
#[test]
fn several_patterns_of_a_path_all_hold() {
    let matches = |pattern: &str| -> HttpMatch {
        let path = serde_json::json!({"type": "RegularExpression", "value": pattern});
        serde_json::from_value(serde_json::json!({"path": path})).unwrap()
    };
    let both = matches("/a.*").and(&matches("/.*b")).unwrap();
    let action = RouteAction::Respond {
        status: 503,
        body: "no".into(),
    };
    let table: RouteConfiguration = decoded(&routes(vec![route(both, action)]), Kind::Routes, "t");
    let found = table.virtual_hosts[0].routes[0].r#match.clone().unwrap();
    let Some(PathSpecifier::SafeRegex(path)) = &found.path_specifier else {
        panic!("{found:?}")
    };
    assert_eq!(path.regex, r"(?:/(?:[!->@-\~])*b)");
    let [other] = found.headers.as_slice() else {
        panic!("{found:?}")
    };
    assert_eq!(other.name, ":path");
    assert!(
        format!("{other:?}").contains(r"(?:(?:/a(?:[!->@-\\~])*))(?:\\?.*)?"),
        "{other:?}"
    );
}

#[test]
fn each_target_says_where_the_request_is_for() {
    let two = vec![target("a", 95), target("b", 5)];
    let resources = routes(vec![
        route(
            HttpMatch::default(),
            forward(two, RetryPolicy::Careful { attempts: 0 }),
        ),
        route(
            HttpMatch::default(),
            forward(vec![target("a", 100)], RetryPolicy::Careful { attempts: 0 }),
        ),
    ]);
    let table: RouteConfiguration = decoded(&resources, Kind::Routes, "t");
    let [split, single] = table.virtual_hosts[0].routes.as_slice() else {
        panic!("two routes")
    };
    let destination = |options: &[HeaderValueOption]| options[0].header.clone().unwrap().value;
    let Some(Action::Route(action)) = &split.action else {
        panic!("{split:?}")
    };
    let Some(ClusterSpecifier::WeightedClusters(weighted)) = &action.cluster_specifier else {
        panic!("{action:?}")
    };
    let found: Vec<_> = weighted
        .clusters
        .iter()
        .map(|cluster| {
            (
                cluster.weight.unwrap().value,
                destination(&cluster.request_headers_to_add),
            )
        })
        .collect();
    assert_eq!(found, [(95, "a.shop:80".into()), (5, "b.shop:80".into())]);
    assert_eq!(destination(&single.request_headers_to_add), "a.shop:80");
}

#[test]
fn a_route_without_targets_and_a_long_reason_stay_within_what_envoy_takes() {
    let long = RouteAction::Respond {
        status: 503,
        body: "ü".repeat(4000),
    };
    let nowhere = forward(vec![], RetryPolicy::Careful { attempts: 2 });
    let resources = routes(vec![
        route(HttpMatch::default(), long),
        route(HttpMatch::default(), nowhere),
    ]);
    let table: RouteConfiguration = decoded(&resources, Kind::Routes, "t");
    for route in &table.virtual_hosts[0].routes {
        let Some(Action::DirectResponse(direct)) = &route.action else {
            panic!("{route:?}")
        };
        assert_eq!(direct.status, 503);
        assert!(direct.encoded_len() <= 4096 + 16);
    }
}

#[test]
fn a_cluster_checks_its_hosts() {
    let mut checked = config(&["a"]);
    checked.clusters.get_mut("a").unwrap().value = Upstream {
        http2: true,
        health: tombolo_compiler::proxy::Health {
            check: Check::Http {
                host: "a.shop".into(),
                path: path("/healthz"),
                destination: Some("a.shop:80".into()),
            },
            ..upstream(500).health
        },
        ..upstream(500)
    };
    let cluster: PbCluster = decoded(&encode(&checked), Kind::Cluster, "a");
    let check = &cluster.health_checks[0];
    assert_eq!(check.interval.unwrap().nanos, 400_000_000);
    let Some(HealthChecker::HttpHealthCheck(http)) = &check.health_checker else {
        panic!("{check:?}")
    };
    assert_eq!((http.host.as_str(), http.path.as_str()), ("a.shop", "/healthz"));
    assert_eq!(
        (http.expected_statuses[0].start, http.expected_statuses[0].end),
        (100, 500)
    );
    assert_eq!(http.request_headers_to_add.len(), 1);
}

#[test]
fn a_cluster_balances_and_limits_as_it_is_asked() {
    let encoded = |upstream: Upstream| -> PbCluster {
        let mut asked = config(&["a"]);
        asked.clusters.get_mut("a").unwrap().value = upstream;
        decoded(&encode(&asked), Kind::Cluster, "a")
    };
    for (balancer, policy) in [
        (Balancer::LeastRequest, LbPolicy::LeastRequest),
        (Balancer::RoundRobin, LbPolicy::RoundRobin),
        (Balancer::Random, LbPolicy::Random),
        (Balancer::Affinity, LbPolicy::RingHash),
    ] {
        let cluster = encoded(Upstream {
            balancer,
            ..upstream(500)
        });
        assert_eq!(cluster.lb_policy(), policy);
    }
    let limits = |connections_max, requests_max| {
        let cluster = encoded(Upstream {
            connections_max,
            requests_max,
            ..upstream(500)
        });
        let threshold = &cluster.circuit_breakers.as_ref().unwrap().thresholds[0];
        let value = |limit: &Option<UInt32Value>| limit.map(|limit| limit.value);
        assert_eq!(value(&threshold.max_retries), Some(1024));
        [
            value(&threshold.max_connections),
            value(&threshold.max_requests),
            value(&threshold.max_pending_requests),
        ]
    };
    for (connections, requests, expected) in [
        (None, None, [None, None, None]),
        (Some(7), Some(0), [Some(7), Some(0), Some(0)]),
        (Some(7), None, [Some(7), Some(1031), None]),
        (Some(5000), None, [Some(5000), Some(6024), None]),
        (Some(u32::MAX), None, [Some(u32::MAX), Some(u32::MAX), None]),
        (None, Some(7), [Some(1024), Some(7), Some(7)]),
        (None, Some(5000), [Some(5000), Some(5000), Some(5000)]),
    ] {
        assert_eq!(
            limits(connections, requests),
            expected,
            "{connections:?} {requests:?}"
        );
    }
    assert_eq!(encoded(upstream(500)).outlier_detection, None);
    // How long, and how often it is looked whether that is over.
    for (asked_ms, time_ms, interval_ms) in [
        (0, 1, 1000),
        (500, 500, 1000),
        (5000, 5000, 5000),
        (30_000, 30_000, 10_000),
    ] {
        let ejection = Span::from_ms(asked_ms);
        let outliers = Some(Outliers { errors: 3, ejection });
        let cluster = encoded(Upstream {
            outliers,
            ..upstream(500)
        });
        let detection = cluster.outlier_detection.unwrap();
        let number = |value: Option<UInt32Value>| value.unwrap().value;
        assert_eq!(
            detection.base_ejection_time,
            Some(duration(Span::from_ms(time_ms)))
        );
        assert_eq!(detection.interval, Some(duration(Span::from_ms(interval_ms))));
        assert_eq!(number(detection.consecutive_5xx), 3);
        assert_eq!(number(detection.max_ejection_percent), 100);
        assert_eq!(number(detection.enforcing_success_rate), 0);
        assert!(
            !detection
                .successful_active_health_check_uneject_host
                .unwrap()
                .value
        );
    }
}

#[test]
fn what_decides_the_instance_of_a_request_is_hashed() {
    let cookie = |made_for_ms: Option<u64>| Affinity::Cookie {
        name: "cart".to_owned().try_into().unwrap(),
        made_for: made_for_ms.map(Span::from_ms),
    };
    let RouteAction::Forward(forward) = forward(vec![target("a", 100)], RetryPolicy::Careful { attempts: 0 })
    else {
        panic!("it forwards")
    };
    let sticky = RouteAction::Forward(Forward {
        affinities: vec![
            cookie(None),
            cookie(Some(0)),
            cookie(Some(500)),
            cookie(Some(90_500)),
            Affinity::Header("x-user".to_owned().try_into().unwrap()),
            Affinity::Source,
        ],
        ..forward
    });
    let table: RouteConfiguration = decoded(
        &routes(vec![route(HttpMatch::default(), sticky)]),
        Kind::Routes,
        "t",
    );
    let Some(Action::Route(action)) = &table.virtual_hosts[0].routes[0].action else {
        panic!("it forwards")
    };
    let found: Vec<String> = action
        .hash_policy
        .iter()
        .map(|policy| match policy.policy_specifier.as_ref().unwrap() {
            _ if !policy.terminal => panic!("the first that is there decides: {policy:?}"),
            PolicySpecifier::Cookie(cookie) => {
                let seconds = cookie.ttl.map(|ttl| ttl.seconds);
                format!("cookie {} {seconds:?} {:?}", cookie.name, cookie.path)
            }
            PolicySpecifier::Header(header) => format!("header {}", header.header_name),
            PolicySpecifier::ConnectionProperties(of) => format!("source {}", of.source_ip),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [
        "cookie cart None \"\"",
        "cookie cart Some(0) \"/\"",
        "cookie cart Some(1) \"/\"",
        "cookie cart Some(91) \"/\"",
        "header x-user",
        "source true",
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_client_without_a_proxy_is_told_what_it_can_do() {
    let mut sidecar = config(&["calls", "pages"]);
    let calls = &mut sidecar.clusters.get_mut("calls").unwrap().value;
    calls.http2 = true;
    // By what no such client goes.
    sidecar.clusters.get_mut("pages").unwrap().value.balancer = Balancer::Affinity;
    let mut group = endpoints(&[&[1, 2], &[3]]);
    group.priorities[1][0].cluster = "us-west".parse().unwrap();
    sidecar.endpoints.get_mut("calls").unwrap().value = group;
    // Copies go to a service that speaks HTTP/1.1. One route goes by a header.
    let sent = |matches: HttpMatch| {
        let mut action = forward(vec![target("calls", 100)], RetryPolicy::Careful { attempts: 2 });
        if let RouteAction::Forward(forward) = &mut action {
            let (cluster, share) = ("pages".to_owned(), Share::ALL);
            forward.mirrors = vec![Mirror { cluster, share }];
            if matches.path.is_some() {
                forward.affinities = vec![Affinity::Header("x-user".to_owned().try_into().unwrap())];
            }
        }
        route(matches, action)
    };
    let method = |method| HttpMatch {
        method: Some(method),
        ..HttpMatch::default()
    };
    let below = HttpMatch {
        path: Some(PathMatch::PathPrefix(path("/shop.Cart"))),
        ..HttpMatch::default()
    };
    let host = |name: &str, domains: &[&str], routes| {
        Traced::untraced(VirtualHost {
            name: name.to_owned(),
            domains: domains.iter().map(|domain| (*domain).to_owned()).collect(),
            routes,
            conduct: HostConduct::default(),
        })
    };
    let pages = forward(vec![target("pages", 100)], RetryPolicy::Careful { attempts: 2 });
    sidecar.route_tables.get_mut("in").unwrap().value.hosts = vec![
        host(
            "shop/calls:80",
            &["calls.shop", "calls.shop:80"],
            vec![sent(method(Method::Get)), sent(below), sent(method(Method::Post))],
        ),
        host(
            "shop/pages:80",
            &["pages.shop"],
            vec![route(HttpMatch::default(), pages)],
        ),
        host("unknown", &["*"], vec![]),
    ];
    let own = "us-east".parse().unwrap();
    let told = encode_proxyless_since(&own, &ProxyConfig::default(), &Resources::default(), &sidecar);
    let names = |kind| -> Vec<&String> { told.of(kind).map(|(name, _)| name).collect() };
    assert_eq!(names(Kind::Listener), ["calls.shop", "calls.shop:80"]);
    assert_eq!(names(Kind::Routes), ["shop/calls:80"]);

    let table: RouteConfiguration = decoded(&told, Kind::Routes, "shop/calls:80");
    let routes = &table.virtual_hosts[0].routes;
    let paths: Vec<String> = routes
        .iter()
        .map(|route| match route.r#match.as_ref().unwrap() {
            matched if !matched.headers.is_empty() => panic!("every call is a POST: {matched:?}"),
            matched => match matched.path_specifier.as_ref().unwrap() {
                PathSpecifier::SafeRegex(regex) => regex.regex.clone(),
                PathSpecifier::Prefix(prefix) => prefix.clone(),
                other => panic!("{other:?}"),
            },
        })
        .collect();
    assert_eq!(paths, [r"\/shop\.Cart(?:/.*)?", "/"], "none for a GET");
    for route in routes {
        assert!(route.request_headers_to_add.is_empty(), "{route:?}");
        assert!(matches!(&route.action, Some(Action::Route(action))
            if action.retry_policy.is_none() && action.request_mirror_policies.is_empty()));
    }

    let cluster: PbCluster = decoded(&told, Kind::Cluster, "calls");
    assert_eq!(cluster.lb_policy(), LbPolicy::RingHash);
    let cluster: PbCluster = decoded(&told, Kind::Cluster, "pages");
    assert_eq!(cluster.lb_policy(), LbPolicy::RoundRobin);
    assert_eq!(
        (cluster.health_checks.len(), cluster.outlier_detection),
        (0, None)
    );

    let assignment: ClusterLoadAssignment = decoded(&told, Kind::Endpoints, "calls");
    let places: Vec<_> = assignment
        .endpoints
        .iter()
        .map(|place| {
            (
                place.lb_endpoints.len(),
                place.load_balancing_weight.unwrap().value,
            )
        })
        .collect();
    assert_eq!(places, [(2, 2)], "those of the other cluster are left out");
}

#[test]
fn priorities_have_no_gaps_on_the_wire() {
    let mut gaps = config(&["a"]);
    gaps.endpoints.get_mut("a").unwrap().value = endpoints(&[&[], &[1], &[], &[2, 3]]);
    let assignment: ClusterLoadAssignment = decoded(&encode(&gaps), Kind::Endpoints, "a");
    let found: Vec<_> = assignment
        .endpoints
        .iter()
        .map(|group| (group.priority, group.lb_endpoints.len()))
        .collect();
    assert_eq!(found, [(0, 1), (1, 2)]);
}

#[test]
fn invariant_8_a_shared_listener_is_refused_to_everybody_who_has_a_host_there() {
    let mut shared = config(&["a"]);
    let table = &mut shared.route_tables.get_mut("in").unwrap().value;
    let mut host = table.hosts[0].clone();
    table.hosts[0].origin = Some(origin("first"));
    host.origin = Some(origin("second"));
    table.hosts.push(host);
    let encoded = encode(&shared);
    for (kind, reason, blamed) in [
        (
            Kind::Listener,
            "cannot bind 127.0.0.1:8080",
            &["first", "second"][..],
        ),
        (Kind::Routes, "virtual_hosts[1]: bad", &["second"]),
        (Kind::Routes, "virtual_hosts[1].routes[0]: bad", &["a"]),
    ] {
        let expected: Vec<Origin> = blamed.iter().map(|name| origin(name)).collect();
        let origins = &encoded.get(kind, "in").unwrap().origins;
        assert_eq!(origins.blamed(reason), expected, "{reason}");
    }
}

#[test]
fn a_reason_is_laid_on_the_piece_that_it_names() {
    let pieces = ["a", "b"].into_iter().enumerate();
    let origins = |whole: Option<&str>| Origins {
        whole: whole.map(origin),
        pieces: pieces
            .clone()
            .map(|(at, name)| (format!("virtual_hosts[0].routes[{at}]"), origin(name)))
            .collect(),
    };
    for (whole, reason, blamed) in [
        (None, "virtual_hosts[0].routes[1].match: bad", &["b"][..]),
        (Some("w"), "virtual_hosts[0].routes[0]: bad", &["a"]),
        (Some("w"), "virtual_hosts[0].routes[7]: bad", &["w"]),
        (None, "bad", &["a", "b"]),
    ] {
        let expected: Vec<Origin> = blamed.iter().map(|name| origin(name)).collect();
        assert_eq!(origins(whole).blamed(reason), expected, "{reason}");
    }
}

//! Filter chains: which there may be, and what they may be chosen by.

use envoy_types::pb::envoy::config::core::v3::CidrRange;
use envoy_types::pb::envoy::config::listener::v3::{FilterChainMatch, ListenerFilter, listener_filter};
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;

use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::{
    ClusterSpecifier as TcpClusters, TunnelingConfig, WeightedCluster as TcpWeights,
    weighted_cluster::ClusterWeight as TcpWeight,
};

use super::*;
use crate::config::Choosing;

fn http(routes: &str) -> FilterChain {
    let manager = HttpConnectionManager {
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            route_config_name: routes.to_owned(),
            config_source: ads(),
        })),
        http_filters: vec![HttpFilter {
            config_type: Some(http_filter::ConfigType::TypedConfig(pack_any(Router::default()))),
            ..Default::default()
        }],
        server_header_transformation: ServerHeaderTransformation::PassThrough as i32,
        ..Default::default()
    };
    FilterChain {
        filters: vec![Filter {
            config_type: Some(filter::ConfigType::TypedConfig(pack_any(manager))),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn named(names: &[&str], routes: &str) -> FilterChain {
    FilterChain {
        filter_chain_match: Some(FilterChainMatch {
            server_names: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        }),
        ..http(routes)
    }
}

fn inspector(inspector: TlsInspector) -> ListenerFilter {
    ListenerFilter {
        name: "envoy.filters.listener.tls_inspector".to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(pack_any(inspector))),
        ..Default::default()
    }
}

fn right() -> PbListener {
    PbListener {
        name: "x".to_owned(),
        address: address("127.0.0.1", 80),
        filter_chains: vec![
            named(&["A.example", "*.example"], "a"),
            named(&["b.example"], "b"),
        ],
        default_filter_chain: Some(http("d")),
        listener_filters: vec![inspector(TlsInspector::default())],
        listener_filters_timeout: seconds(3),
        ..Default::default()
    }
}

fn matched(listener: &mut PbListener) -> &mut FilterChainMatch {
    listener.filter_chains[0].filter_chain_match.as_mut().unwrap()
}

#[test]
fn filter_chains_are_as_the_contract_says() {
    check(
        ResourceKind::Listener,
        &right(),
        &[
            (
                |l| matched(l).server_names[0] = "b.example".to_owned(),
                "filter_chains[1].filter_chain_match: takes what filter_chains[0] takes",
            ),
            (
                |l| matched(l).server_names[0] = "*a.example".to_owned(),
                "filter_chains[0].filter_chain_match.server_names: \"*a.example\" is neither a name nor *. before one",
            ),
            (
                |l| matched(l).server_names[0] = ".example".to_owned(),
                "filter_chains[0].filter_chain_match.server_names: \".example\" is neither a name nor *. before one",
            ),
            (
                |l| matched(l).server_names[0] = "*..example".to_owned(),
                "filter_chains[0].filter_chain_match.server_names: \"*..example\" is neither a name nor *. before one",
            ),
            (
                |l| matched(l).server_names[0] = "a.example.".to_owned(),
                "filter_chains[0].filter_chain_match.server_names: \"a.example.\" is neither a name nor *. before one",
            ),
            (
                |l| matched(l).server_names[0] = "*".to_owned(),
                "filter_chains[0].filter_chain_match.server_names: \"*\" is neither a name nor *. before one",
            ),
            (
                |l| matched(l).transport_protocol = "quic".to_owned(),
                "filter_chains[0].filter_chain_match.transport_protocol: \"quic\" is not supported",
            ),
            (
                |l| matched(l).destination_port = number(0),
                "filter_chains[0].filter_chain_match.destination_port: must be 1 to 65535",
            ),
            (
                |l| matched(l).prefix_ranges.push(CidrRange::default()),
                "filter_chains[0].filter_chain_match.prefix_ranges: is not supported by this proxy",
            ),
            (
                |l| matched(l).source_ports.push(1),
                "filter_chains[0].filter_chain_match.source_ports: is not supported by this proxy",
            ),
            (
                |l| {
                    l.default_filter_chain.as_mut().unwrap().filter_chain_match =
                        Some(FilterChainMatch::default());
                },
                "default_filter_chain.filter_chain_match: a default has no match",
            ),
            (
                |l| l.listener_filters[0].config_type = None,
                "listener_filters[0].typed_config: is required",
            ),
            (
                |l| {
                    l.listener_filters[0] = inspector(TlsInspector {
                        enable_ja3_fingerprinting: Some(BoolValue { value: true }),
                        ..Default::default()
                    });
                },
                "listener_filters[0].typed_config.enable_ja3_fingerprinting: is not supported by this proxy",
            ),
            (
                |l| l.continue_on_listener_filters_timeout = true,
                "continue_on_listener_filters_timeout: is not supported by this proxy",
            ),
            (
                |l| l.filter_chains[1].filters.clear(),
                "filter_chains[1].filters: exactly one is supported, got 0",
            ),
        ],
    );
}

#[test]
fn connections_are_looked_at_where_that_makes_a_difference() {
    fn plain(l: &mut PbListener) {
        l.filter_chains = vec![http("a")];
        l.default_filter_chain = None;
        l.listener_filters.clear();
    }
    let only_default = |l: &mut PbListener| {
        plain(l);
        l.default_filter_chain = Some(l.filter_chains.remove(0));
    };
    let of_another_port = |l: &mut PbListener| {
        plain(l);
        l.filter_chains[0].filter_chain_match = Some(FilterChainMatch {
            destination_port: number(81),
            ..Default::default()
        });
    };
    type Change<'a> = &'a dyn Fn(&mut PbListener);
    // The place of the only chain, or what is looked for.
    let cases: [(&str, Change<'_>, Option<Option<usize>>); 6] = [
        ("names", &|l| l.listener_filters.clear(), None),
        ("the filter", &|l| l.filter_chains = vec![http("a")], None),
        ("one chain", &plain, Some(Some(0))),
        ("only a default", &only_default, Some(Some(0))),
        ("another port", &of_another_port, Some(None)),
        (
            "any bytes",
            &|l| {
                plain(l);
                l.filter_chains[0].filter_chain_match = Some(FilterChainMatch {
                    transport_protocol: "raw_buffer".to_owned(),
                    ..Default::default()
                });
            },
            Some(Some(0)),
        ),
    ];
    for (what, change, expected) in cases {
        let mut listener = right();
        change(&mut listener);
        let decoded = crate::decode::listener::decode("x", &listener.encode_to_vec()).unwrap();
        let settled = match decoded.choosing {
            Choosing::Settled(chosen) => Some(chosen),
            Choosing::ByPort(_) | Choosing::Looking { .. } => None,
        };
        assert_eq!(settled, expected, "{what}");
    }
}

#[test]
fn a_tcp_proxy_is_as_the_contract_says() {
    fn proxy(listener: &mut PbListener, change: impl FnOnce(&mut TcpProxy)) {
        let weight = |name: &str, weight: u32| TcpWeight {
            name: name.to_owned(),
            weight,
            ..Default::default()
        };
        let mut proxy = TcpProxy {
            cluster_specifier: Some(TcpClusters::WeightedClusters(TcpWeights {
                clusters: vec![weight("a", 0), weight("b", 1)],
            })),
            ..Default::default()
        };
        change(&mut proxy);
        listener.filter_chains[0].filters[0].config_type =
            Some(filter::ConfigType::TypedConfig(pack_any(proxy)));
    }
    fn weights(proxy: &mut TcpProxy) -> &mut Vec<TcpWeight> {
        match &mut proxy.cluster_specifier {
            Some(TcpClusters::WeightedClusters(weights)) => &mut weights.clusters,
            _ => unreachable!("it was made with weights"),
        }
    }
    let mut right = right();
    proxy(&mut right, |_| {});
    check(
        ResourceKind::Listener,
        &right,
        &[
            (
                |l| proxy(l, |p| p.cluster_specifier = None),
                "filter_chains[0].tcp_proxy.cluster_specifier: is required",
            ),
            (
                |l| {
                    proxy(l, |p| {
                        p.cluster_specifier = Some(TcpClusters::Cluster(String::new()));
                    });
                },
                "filter_chains[0].tcp_proxy.cluster: is required",
            ),
            (
                |l| proxy(l, |p| weights(p)[1].name.clear()),
                "filter_chains[0].tcp_proxy.weighted_clusters.clusters[1].name: is required",
            ),
            (
                |l| proxy(l, |p| weights(p)[1].weight = 0),
                "filter_chains[0].tcp_proxy.weighted_clusters.clusters: their weights must add up to 1 to 4294967295",
            ),
            (
                |l| {
                    proxy(l, |p| {
                        weights(p).iter_mut().for_each(|weight| weight.weight = u32::MAX);
                    });
                },
                "filter_chains[0].tcp_proxy.weighted_clusters.clusters: their weights must add up to 1 to 4294967295",
            ),
            (
                |l| proxy(l, |p| p.max_connect_attempts = number(0)),
                "filter_chains[0].tcp_proxy.max_connect_attempts: must be more than 0",
            ),
            (
                |l| proxy(l, |p| p.idle_timeout = seconds(-1)),
                "filter_chains[0].tcp_proxy.idle_timeout: is negative",
            ),
            (
                |l| proxy(l, |p| p.tunneling_config = Some(TunnelingConfig::default())),
                "filter_chains[0].tcp_proxy.tunneling_config: is not supported by this proxy",
            ),
        ],
    );
}

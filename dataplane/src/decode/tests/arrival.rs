//! What connections begin with, from clients and to hosts.

use envoy_types::pb::envoy::config::cluster::v3::OutlierDetection;
use envoy_types::pb::envoy::config::cluster::v3::cluster::OriginalDstLbConfig;
use envoy_types::pb::envoy::config::core::v3::transport_socket::ConfigType;
use envoy_types::pb::envoy::config::core::v3::{
    ProxyProtocolConfig, ProxyProtocolPassThroughTlVs, TransportSocket,
};
use envoy_types::pb::envoy::config::listener::v3::{ListenerFilter, listener_filter};
use envoy_types::pb::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use envoy_types::pb::envoy::extensions::filters::listener::proxy_protocol::v3::{
    ProxyProtocol, proxy_protocol::Rule,
};
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use envoy_types::pb::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;

use super::*;
use crate::original_dst::Redirected;
use crate::proxy_protocol::{Taken, Version};

fn listener() -> PbListener {
    let (_, raw) = samples::listener("x", ([127, 0, 0, 1], 80).into(), "r");
    PbListener::decode(raw.body.as_slice()).unwrap()
}

fn cluster() -> PbCluster {
    PbCluster::decode(samples::cluster("x", 1).1.body.as_slice()).unwrap()
}

fn filter<M: Message + prost::Name>(config: M) -> ListenerFilter {
    ListenerFilter {
        config_type: Some(listener_filter::ConfigType::TypedConfig(pack_any(config))),
        ..Default::default()
    }
}

fn begun(protocol: ProxyProtocol) -> PbListener {
    PbListener {
        listener_filters: vec![filter(protocol), filter(TlsInspector::default())],
        ..listener()
    }
}

fn proxy(listener: &mut PbListener, protocol: ProxyProtocol) {
    listener.listener_filters[0] = filter(protocol);
}

#[test]
fn a_header_from_clients_is_as_the_contract_says() {
    check(
        ResourceKind::Listener,
        &begun(ProxyProtocol {
            stat_prefix: "x".to_owned(),
            ..Default::default()
        }),
        &[
            (
                |l| l.listener_filters.reverse(),
                "listener_filters[1].typed_config: a PROXY protocol filter must be the first",
            ),
            (
                |l| l.listener_filters.push(l.listener_filters[0].clone()),
                "listener_filters[2].typed_config: a PROXY protocol filter must be the first",
            ),
            (
                |l| {
                    proxy(
                        l,
                        ProxyProtocol {
                            rules: vec![Rule::default()],
                            ..Default::default()
                        },
                    );
                },
                "listener_filters[0].typed_config.rules: is not supported by this proxy",
            ),
            (
                |l| {
                    proxy(
                        l,
                        ProxyProtocol {
                            pass_through_tlvs: Some(ProxyProtocolPassThroughTlVs::default()),
                            ..Default::default()
                        },
                    );
                },
                "listener_filters[0].typed_config.pass_through_tlvs: is not supported by this proxy",
            ),
            (
                |l| {
                    proxy(
                        l,
                        ProxyProtocol {
                            disallowed_versions: vec![2],
                            ..Default::default()
                        },
                    );
                },
                "listener_filters[0].typed_config.disallowed_versions[0]: value 2 is not supported",
            ),
            (
                |l| {
                    proxy(
                        l,
                        ProxyProtocol {
                            disallowed_versions: vec![0, 1],
                            ..Default::default()
                        },
                    );
                },
                "listener_filters[0].typed_config.disallowed_versions: leave none",
            ),
        ],
    );
    for (none, disallowed, expected) in [
        (false, vec![], (true, true)),
        (true, vec![], (true, true)),
        (false, vec![0], (false, true)),
        (true, vec![1, 1], (true, false)),
    ] {
        let listener = begun(ProxyProtocol {
            allow_requests_without_proxy_protocol: none,
            disallowed_versions: disallowed,
            ..Default::default()
        });
        let decoded = crate::decode::listener::decode("x", &listener.encode_to_vec()).unwrap();
        let (v1, v2) = expected;
        assert_eq!(decoded.arrival.unwrap().proxy, Some(Taken { v1, v2, none }));
    }
}

#[test]
fn where_a_connection_was_to_go_is_as_the_contract_says() {
    let known = PbListener {
        listener_filters: vec![filter(OriginalDst {}), filter(TlsInspector::default())],
        ..listener()
    };
    let both = "listener_filters: where a connection was to go is said by the PROXY protocol or by the kernel, not by both";
    check(
        ResourceKind::Listener,
        &known,
        &[
            (
                |l| l.listener_filters.insert(0, filter(ProxyProtocol::default())),
                both,
            ),
            (
                |l| {
                    l.listener_filters = vec![filter(ProxyProtocol::default())];
                    l.use_original_dst = Some(BoolValue { value: true });
                },
                both,
            ),
            (
                |l| l.transparent = Some(BoolValue { value: true }),
                "transparent: is not supported by this proxy",
            ),
        ],
    );
    let value = |value| Some(BoolValue { value });
    for (filters, use_original_dst, bind_to_port, expected, binds) in [
        (vec![], None, None, None, true),
        (vec![], value(false), value(true), None, true),
        (vec![], value(true), None, Some(Redirected::HandedOver), true),
        (
            vec![filter(OriginalDst {})],
            None,
            None,
            Some(Redirected::Known),
            true,
        ),
        (
            vec![filter(OriginalDst {})],
            value(true),
            None,
            Some(Redirected::HandedOver),
            true,
        ),
        (vec![], None, value(false), None, false),
    ] {
        let listener = PbListener {
            listener_filters: filters,
            use_original_dst,
            bind_to_port,
            ..listener()
        };
        let decoded = crate::decode::listener::decode("x", &listener.encode_to_vec()).unwrap();
        let redirected = decoded.arrival.map(|arrival| arrival.redirected);
        assert_eq!((redirected, decoded.binds), (expected, binds));
    }
}

#[test]
fn a_cluster_of_where_connections_were_to_go_is_as_the_contract_says() {
    let right = PbCluster {
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst as i32)),
        eds_cluster_config: None,
        lb_policy: LbPolicy::ClusterProvided as i32,
        cleanup_interval: seconds(7),
        ..cluster()
    };
    check(
        ResourceKind::Cluster,
        &right,
        &[
            (
                |c| c.lb_policy = LbPolicy::RoundRobin as i32,
                "lb_policy: value 0 is not supported",
            ),
            (
                |c| c.eds_cluster_config = Some(EdsClusterConfig::default()),
                "eds_cluster_config: is not supported by this proxy",
            ),
            (
                |c| c.health_checks = vec![PbHealthCheck::default()],
                "health_checks: are of hosts that are known before they are used",
            ),
            (
                |c| c.outlier_detection = Some(OutlierDetection::default()),
                "outlier_detection: is of hosts that are known before they are used",
            ),
            (
                |c| c.lb_config = Some(LbConfig::OriginalDstLbConfig(OriginalDstLbConfig::default())),
                "lb_config: is not supported with this lb_policy",
            ),
            (
                |c| c.cleanup_interval = seconds(0),
                "cleanup_interval: must be more than 0",
            ),
            (
                |c| c.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Static as i32)),
                "type: only EDS and ORIGINAL_DST are supported",
            ),
        ],
    );
    let kept = |cluster: &PbCluster| cluster::decode("x", &cluster.encode_to_vec()).unwrap().original;
    assert_eq!(kept(&right), Some(std::time::Duration::from_secs(7)));
    let silent = PbCluster {
        cleanup_interval: None,
        ..right
    };
    assert_eq!(kept(&silent), Some(std::time::Duration::from_secs(5)));
    assert_eq!(kept(&cluster()), None);
}

#[test]
fn a_header_to_hosts_is_as_the_contract_says() {
    fn socket<M: Message + prost::Name>(config: M) -> Option<TransportSocket> {
        Some(TransportSocket {
            config_type: Some(ConfigType::TypedConfig(pack_any(config))),
            ..Default::default()
        })
    }
    fn around(cluster: &mut PbCluster, change: impl FnOnce(&mut ProxyProtocolUpstreamTransport)) {
        let mut transport = ProxyProtocolUpstreamTransport {
            config: Some(ProxyProtocolConfig {
                version: 1,
                ..Default::default()
            }),
            transport_socket: socket(RawBuffer {}),
            ..Default::default()
        };
        change(&mut transport);
        cluster.transport_socket = socket(transport);
    }
    let mut right = cluster();
    around(&mut right, |_| {});
    check(
        ResourceKind::Cluster,
        &right,
        &[
            (
                |c| around(c, |t| t.transport_socket = None),
                "transport_socket.transport_socket: is required",
            ),
            (
                |c| around(c, |t| t.transport_socket = socket(TlsInspector::default())),
                "transport_socket.transport_socket.typed_config: type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector is not supported here, expected type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            ),
            (
                |c| around(c, |t| t.config.as_mut().unwrap().version = 2),
                "transport_socket.config.version: value 2 is not supported",
            ),
            (
                |c| {
                    around(c, |t| {
                        t.config.as_mut().unwrap().pass_through_tlvs =
                            Some(ProxyProtocolPassThroughTlVs::default());
                    });
                },
                "transport_socket.config.pass_through_tlvs: is not supported by this proxy",
            ),
            (
                |c| around(c, |t| t.tlv_as_pool_key = true),
                "transport_socket.tlv_as_pool_key: is not supported by this proxy",
            ),
        ],
    );
    for (config, expected) in [
        (right.transport_socket.clone(), Some(Version::V2)),
        (
            socket(ProxyProtocolUpstreamTransport {
                transport_socket: socket(RawBuffer {}),
                ..Default::default()
            }),
            Some(Version::V1),
        ),
        (None, None),
    ] {
        right.transport_socket = config;
        let decoded = cluster::decode("x", &right.encode_to_vec()).unwrap();
        assert_eq!((decoded.greeting, decoded.tls), (expected, None));
    }
}

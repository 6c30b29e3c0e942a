//! `envoy.config.cluster.v3.Cluster`: hosts from EDS, which the proxy checks by itself.

use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CommonLbConfig, DiscoveryType, EdsClusterConfig, LbPolicy,
};
use envoy_types::pb::envoy::config::cluster::v3::{CircuitBreakers, Cluster as PbCluster, OutlierDetection};
use envoy_types::pb::envoy::config::core::v3::health_check::{
    HealthChecker, HttpHealthCheck, TcpHealthCheck,
};
use envoy_types::pb::envoy::config::core::v3::{
    HealthCheck as PbHealthCheck, Http1ProtocolOptions, Http2ProtocolOptions,
};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions,
};
use envoy_types::pb::envoy::r#type::v3::{CodecClientType, Int64Range, Percent};
use envoy_types::pb::google::protobuf::BoolValue;
use envoy_types::util::pack_any;
use tombolo_compiler::http::Span;
use tombolo_compiler::proxy::{Balancer, Check, Health, Upstream};
use tombolo_compiler::setting::Outliers;

use super::{ads, destination_header, duration, number, yes};

/// The key that Envoy looks for.
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
/// Envoy has no zero here, and its default of 50 % would send requests to dead hosts although another priority is
/// healthy: below one percent healthy is, in any cluster that we know of, none.
const PANIC_THRESHOLD_PERCENT: f64 = 1.0;
/// A cluster that never had traffic loses no request when it is found dead later; its first request is retried
/// elsewhere. Envoy's default of a minute would leave a failover cluster unproven for too long.
const NO_TRAFFIC_INTERVAL: Span = Span::from_ms(1000);
/// One pass puts a host back: `unhealthy_threshold` already damps, and the next failed check takes it out again.
const HEALTHY_THRESHOLD: u32 = 1;
/// Any answer of the application itself counts, also 404; Envoy's default would take only 200.
const EXPECTED_STATUSES: Int64Range = Int64Range { start: 100, end: 500 };

/// As many as there may be requests: Envoy's default of 3 would fail most of what is under way on an instance that dies, all of
/// which has another one to go to.
const RETRIES_MAX: u32 = 1024;

/// Of connections, of requests, and of those that wait for a connection: Envoy's, where nothing is said.
const LIMIT_DEFAULT: u32 = 1024;

/// Envoy refuses a cluster with none at all.
const EJECTION_MIN: Span = Span::from_ms(1);
/// How often is looked whose ejection is over: not much later than it is, and never more often than a second nor, as by
/// Envoy itself, less often than every ten.
const SWEEP_MIN: Span = Span::from_ms(1000);
const SWEEP_MAX: Span = Span::from_ms(10_000);

pub(super) fn encode(name: &str, upstream: &Upstream) -> PbCluster {
    PbCluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(ads()),
            ..EdsClusterConfig::default()
        }),
        connect_timeout: Some(duration(upstream.connect_timeout)),
        lb_policy: lb_policy(upstream.balancer) as i32,
        health_checks: vec![health_check(&upstream.health, upstream.http2)],
        common_lb_config: Some(CommonLbConfig {
            healthy_panic_threshold: Some(Percent {
                value: PANIC_THRESHOLD_PERCENT,
            }),
            ..CommonLbConfig::default()
        }),
        close_connections_on_host_health_failure: true,
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![thresholds(upstream)],
            ..CircuitBreakers::default()
        }),
        outlier_detection: upstream.outliers.map(outlier_detection),
        // The platform's word that an instance is gone is enough; it need not fail its checks first.
        ignore_health_on_host_removal: true,
        typed_extension_protocol_options: [(HTTP_OPTIONS.to_owned(), pack_any(protocol(upstream.http2)))]
            .into(),
        ..PbCluster::default()
    }
}

/// What is not said leaves room for what is: Envoy's own limits would be below it.
fn thresholds(upstream: &Upstream) -> Thresholds {
    let (connections, requests) = (upstream.connections_max, upstream.requests_max);
    // One that waits for a connection is a request as well.
    let used = connections.map(|connections| connections.saturating_add(LIMIT_DEFAULT));
    let needed = requests.map(|requests| requests.max(LIMIT_DEFAULT));
    Thresholds {
        max_connections: connections.or(needed).map(number),
        max_requests: requests.or(used).map(number),
        max_pending_requests: requests.map(number),
        max_retries: Some(number(RETRIES_MAX)),
        ..Thresholds::default()
    }
}

fn lb_policy(balancer: Balancer) -> LbPolicy {
    match balancer {
        Balancer::LeastRequest => LbPolicy::LeastRequest,
        Balancer::RoundRobin => LbPolicy::RoundRobin,
        Balancer::Random => LbPolicy::Random,
        Balancer::Affinity => LbPolicy::RingHash,
    }
}

fn outlier_detection(outliers: Outliers) -> OutlierDetection {
    let ejection = outliers.ejection.max(EJECTION_MIN);
    OutlierDetection {
        consecutive_5xx: Some(number(outliers.errors)),
        base_ejection_time: Some(duration(ejection)),
        interval: Some(duration(ejection.clamp(SWEEP_MIN, SWEEP_MAX))),
        // With nobody left, another priority has the requests, or all hosts are used as if they were well.
        max_ejection_percent: Some(number(100)),
        always_eject_one_host: Some(yes()),
        // What is asked for looks at each host by itself; Envoy would compare them as well.
        enforcing_success_rate: Some(number(0)),
        // Every host is checked, and one that answers its checks may fail its requests.
        successful_active_health_check_uneject_host: Some(BoolValue { value: false }),
        ..OutlierDetection::default()
    }
}

fn protocol(http2: bool) -> HttpProtocolOptions {
    let protocol_config = if http2 {
        ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions::default())
    } else {
        ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default())
    };
    HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(protocol_config),
        })),
        ..HttpProtocolOptions::default()
    }
}

fn health_check(health: &Health, http2: bool) -> PbHealthCheck {
    PbHealthCheck {
        timeout: Some(duration(health.timeout)),
        interval: Some(duration(health.interval)),
        no_traffic_interval: Some(duration(NO_TRAFFIC_INTERVAL)),
        unhealthy_threshold: Some(number(health.unhealthy_threshold)),
        healthy_threshold: Some(number(HEALTHY_THRESHOLD)),
        health_checker: Some(match &health.check {
            Check::Http {
                host,
                path,
                destination,
            } => HealthChecker::HttpHealthCheck(HttpHealthCheck {
                host: host.clone(),
                path: path.as_str().to_owned(),
                request_headers_to_add: destination_header(destination.as_ref()),
                expected_statuses: vec![EXPECTED_STATUSES],
                codec_client_type: if http2 {
                    CodecClientType::Http2 as i32
                } else {
                    CodecClientType::Http1 as i32
                },
                ..HttpHealthCheck::default()
            }),
            Check::Tcp => HealthChecker::TcpHealthCheck(TcpHealthCheck::default()),
        }),
        ..PbHealthCheck::default()
    }
}

//! `envoy.config.cluster.v3.Cluster`: found through EDS, checked by this proxy itself.

use std::collections::HashMap;
use std::mem::take;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::CircuitBreakers;
use envoy_types::pb::envoy::config::cluster::v3::Cluster as PbCluster;
use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::thresholds::RetryBudget;
use envoy_types::pb::envoy::config::cluster::v3::cluster::common_lb_config::{
    LocalityConfigSpecifier, LocalityWeightedLbConfig,
};
use envoy_types::pb::envoy::config::cluster::v3::cluster::ring_hash_lb_config::HashFunction;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CommonLbConfig, DiscoveryType, LbConfig, LbPolicy, MaglevLbConfig, RingHashLbConfig,
};
use envoy_types::pb::envoy::config::core::v3::health_check::{
    GrpcHealthCheck, HealthChecker, HttpHealthCheck,
};
use envoy_types::pb::envoy::config::core::v3::{
    HeaderValueOption, HealthCheck as PbHealthCheck, RoutingPriority, header_value_option::HeaderAppendAction,
};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::UpstreamProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use envoy_types::pb::envoy::r#type::v3::{CodecClientType, Int64Range};
use envoy_types::pb::google::protobuf::{Any, UInt32Value, UInt64Value};
use http::header::{HeaderName, HeaderValue};

use super::fields::{
    At, Reason, ads, any, done, header_to_set, header_value, message, only_enum, positive, required,
    same_name,
};
use super::outlier;
use super::proxy_protocol::{self, Transport};
use super::slow_start;
use super::subset;
use crate::balance::{Balancer, RING_MAX, RING_MIN_DEFAULT, RingSize, TABLE_DEFAULT, TABLE_MAX};
use crate::breaker::{Limits, RetryLimit};
use crate::config::{Cluster, HealthCheck, HttpProbe, Probe, Protocol};
use crate::health::GrpcProbe;

/// Key of the only protocol options a cluster may have.
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
/// Envoy's connect timeout when none is given.
const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// Envoy's panic threshold when none is given.
const PANIC_THRESHOLD_DEFAULT_PERCENT: f64 = 50.0;
/// Envoy's interval between checks of a cluster without traffic when none is given.
const NO_TRAFFIC_INTERVAL_DEFAULT: Duration = Duration::from_secs(60);

/// Envoy's time for hosts that are found as they are used, when none is given.
const CLEANUP_INTERVAL_DEFAULT: Duration = Duration::from_secs(5);

/// What Envoy takes for the parts of a retry budget that are not given.
const RETRY_BUDGET_DEFAULT_PERCENT: f64 = 20.0;
const RETRY_BUDGET_DEFAULT_MIN: u32 = 3;

pub(super) fn decode(name: &str, body: &[u8]) -> Result<Cluster, Reason> {
    let mut pb: PbCluster = message(body)?;
    same_name(&take(&mut pb.name), name).at("name")?;
    let original = match pb.cluster_discovery_type.take() {
        Some(ClusterDiscoveryType::Type(discovery)) if discovery == DiscoveryType::Eds as i32 => {
            let mut eds = required(pb.eds_cluster_config.take()).at("eds_cluster_config")?;
            ads(eds.eds_config.take()).at("eds_cluster_config.eds_config")?;
            done(&eds).at("eds_cluster_config")?;
            None
        }
        Some(ClusterDiscoveryType::Type(discovery)) if discovery == DiscoveryType::OriginalDst as i32 => {
            Some(original_dst(&mut pb)?)
        }
        _ => return Err("type: only EDS and ORIGINAL_DST are supported".to_owned()),
    };
    let connect_timeout = match pb.connect_timeout.take() {
        Some(timeout) => positive(timeout).at("connect_timeout")?,
        None => CONNECT_TIMEOUT_DEFAULT,
    };
    let mut lb_config = pb.lb_config.take();
    let slow_start = slow_start::taken(pb.lb_policy, &mut lb_config)?;
    let balancer = balancer(take(&mut pb.lb_policy), lb_config)?;
    let mut checks = take(&mut pb.health_checks).into_iter();
    let health_check = match checks.next() {
        Some(check) => Some(health_check(check, name).at_index("health_checks", 0)?),
        None => None,
    };
    if checks.next().is_some() {
        return Err("health_checks: at most one is supported".to_owned());
    }
    let mut common = pb.common_lb_config.take().unwrap_or_default();
    let is_by_locality = by_locality(common.locality_config_specifier.take()).at("common_lb_config")?;
    let subsets = match pb.lb_subset_config.take() {
        None => None,
        Some(_) if original.is_some() => {
            return Err("lb_subset_config: is of hosts of which something is said".to_owned());
        }
        Some(config) => subset::decode(config).at("lb_subset_config")?,
    };
    let panic_threshold_percent = panic_threshold(common).at("common_lb_config")?;
    // What leaves the endpoints is gone at once here, whatever its checks say.
    take(&mut pb.ignore_health_on_host_removal);
    let close_on_failure = take(&mut pb.close_connections_on_host_health_failure);
    let protocol =
        protocol(take(&mut pb.typed_extension_protocol_options)).at("typed_extension_protocol_options")?;
    let check = health_check.as_ref();
    if protocol == Protocol::Http1 && check.is_some_and(|check| matches!(check.probe, Probe::Grpc(_))) {
        return Err("health_checks[0].grpc_health_check: needs hosts of HTTP/2".to_owned());
    }
    let limits = limits(pb.circuit_breakers.take()).at("circuit_breakers")?;
    let outliers = match pb.outlier_detection.take() {
        Some(detection) => Some(outlier::decode(detection).at("outlier_detection")?),
        None => None,
    };
    let Transport { tls, greeting } = match pb.transport_socket.take() {
        None => Transport::default(),
        Some(socket) => proxy_protocol::of_hosts(socket, protocol).at("transport_socket")?,
    };
    done(&pb)?;
    Ok(Cluster {
        connect_timeout,
        protocol,
        health_check,
        panic_threshold_percent,
        close_on_failure,
        balancer,
        is_by_locality,
        subsets,
        slow_start,
        limits,
        outliers,
        tls,
        greeting,
        original,
    })
}

/// How long a host is kept that nobody uses. Nobody knows them before, so that nothing may be said of them.
fn original_dst(pb: &mut PbCluster) -> Result<Duration, Reason> {
    if !pb.health_checks.is_empty() {
        return Err("health_checks: are of hosts that are known before they are used".to_owned());
    }
    if pb.outlier_detection.is_some() {
        return Err("outlier_detection: is of hosts that are known before they are used".to_owned());
    }
    only_enum(pb.lb_policy, &[LbPolicy::ClusterProvided as i32]).at("lb_policy")?;
    // There is nothing to choose from; any balancer does that.
    pb.lb_policy = LbPolicy::Random as i32;
    match pb.cleanup_interval.take() {
        None => Ok(CLEANUP_INTERVAL_DEFAULT),
        Some(interval) => positive(interval).at("cleanup_interval"),
    }
}

/// A configuration of another policy than the chosen one is refused; Envoy does not look at it.
fn balancer(policy: i32, config: Option<LbConfig>) -> Result<Balancer, Reason> {
    match (LbPolicy::try_from(policy), config) {
        (Ok(LbPolicy::LeastRequest), None) => Ok(Balancer::LeastRequest),
        (Ok(LbPolicy::RoundRobin), None) => Ok(Balancer::RoundRobin),
        (Ok(LbPolicy::Random), None) => Ok(Balancer::Random),
        (Ok(LbPolicy::RingHash), None) => ring(RingHashLbConfig::default()),
        (Ok(LbPolicy::RingHash), Some(LbConfig::RingHashLbConfig(config))) => {
            ring(config).at("ring_hash_lb_config")
        }
        (Ok(LbPolicy::Maglev), None) => Ok(Balancer::Maglev(TABLE_DEFAULT)),
        (Ok(LbPolicy::Maglev), Some(LbConfig::MaglevLbConfig(config))) => {
            maglev(config).at("maglev_lb_config")
        }
        (
            Ok(
                LbPolicy::LeastRequest
                | LbPolicy::RoundRobin
                | LbPolicy::Random
                | LbPolicy::RingHash
                | LbPolicy::Maglev,
            ),
            Some(_),
        ) => Err("lb_config: is not supported with this lb_policy".to_owned()),
        _ => Err(format!("lb_policy: value {policy} is not supported")),
    }
}

fn ring(mut pb: RingHashLbConfig) -> Result<Balancer, Reason> {
    only_enum(take(&mut pb.hash_function), &[HashFunction::XxHash as i32]).at("hash_function")?;
    let size = |given: Option<UInt64Value>, default| given.map_or(default, |given| given.value);
    let min = size(pb.minimum_ring_size.take(), RING_MIN_DEFAULT);
    let max = size(pb.maximum_ring_size.take(), RING_MAX);
    done(&pb)?;
    if !(1..=RING_MAX).contains(&max) {
        return Err(format!("maximum_ring_size: must be 1 to {RING_MAX}"));
    }
    if !(1..=max).contains(&min) {
        return Err("minimum_ring_size: must be 1 to maximum_ring_size".to_owned());
    }
    Ok(Balancer::RingHash(RingSize { min, max }))
}

fn maglev(mut pb: MaglevLbConfig) -> Result<Balancer, Reason> {
    let size = pb.table_size.take().map_or(TABLE_DEFAULT, |size| size.value);
    done(&pb)?;
    let is_prime = size > 1
        && (2..)
            .take_while(|by| by * by <= size)
            .all(|by| !size.is_multiple_of(by));
    if !is_prime || size > TABLE_MAX {
        return Err(format!(
            "table_size: must be a prime number of at most {TABLE_MAX}"
        ));
    }
    Ok(Balancer::Maglev(size))
}

fn limits(breakers: Option<CircuitBreakers>) -> Result<Limits, Reason> {
    let Some(mut breakers) = breakers else {
        return Ok(Limits::DEFAULT);
    };
    let mut thresholds = take(&mut breakers.thresholds).into_iter();
    done(&breakers)?;
    let limits = match thresholds.next() {
        Some(thresholds) => self::thresholds(thresholds).at_index("thresholds", 0)?,
        None => Limits::DEFAULT,
    };
    if thresholds.next().is_some() {
        return Err("thresholds: at most one is supported".to_owned());
    }
    Ok(limits)
}

fn thresholds(mut pb: Thresholds) -> Result<Limits, Reason> {
    only_enum(take(&mut pb.priority), &[RoutingPriority::Default as i32]).at("priority")?;
    let number = |given: Option<UInt32Value>, default| given.map_or(default, |given| given.value);
    let connections_max = number(pb.max_connections.take(), Limits::DEFAULT.connections_max);
    let pending_max = number(pb.max_pending_requests.take(), Limits::DEFAULT.pending_max);
    let requests_max = number(pb.max_requests.take(), Limits::DEFAULT.requests_max);
    let retries_max = pb.max_retries.take();
    let retries = match pb.retry_budget.take() {
        // As in Envoy, a budget overrides the number.
        Some(budget) => Some(retry_budget(budget).at("retry_budget")?),
        None => retries_max.map(|max| RetryLimit::Max(max.value)),
    };
    done(&pb)?;
    Ok(Limits {
        connections_max,
        pending_max,
        requests_max,
        retries: retries.unwrap_or(Limits::DEFAULT.retries),
    })
}

fn retry_budget(mut pb: RetryBudget) -> Result<RetryLimit, Reason> {
    let percent = pb
        .budget_percent
        .take()
        .map_or(RETRY_BUDGET_DEFAULT_PERCENT, |percent| percent.value);
    let retries_min = pb
        .min_retry_concurrency
        .take()
        .map_or(RETRY_BUDGET_DEFAULT_MIN, |min| min.value);
    done(&pb)?;
    if !(0.0..=100.0).contains(&percent) {
        return Err(format!("budget_percent: {percent} is not a percentage"));
    }
    Ok(RetryLimit::Budget { percent, retries_min })
}

/// Whether requests are spread by the weights of localities.
fn by_locality(specifier: Option<LocalityConfigSpecifier>) -> Result<bool, Reason> {
    match specifier {
        None => Ok(false),
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(LocalityWeightedLbConfig {})) => Ok(true),
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(_)) => {
            Err("zone_aware_lb_config: is not supported".to_owned())
        }
    }
}

fn panic_threshold(mut config: CommonLbConfig) -> Result<f64, Reason> {
    let threshold = config.healthy_panic_threshold.take();
    done(&config)?;
    let Some(threshold) = threshold else {
        return Ok(PANIC_THRESHOLD_DEFAULT_PERCENT);
    };
    if (0.0..=100.0).contains(&threshold.value) {
        Ok(threshold.value)
    } else {
        Err(format!(
            "healthy_panic_threshold: {} is not a percentage",
            threshold.value
        ))
    }
}

fn protocol(mut options: HashMap<String, Any>) -> Result<Protocol, Reason> {
    let given = options.remove(HTTP_OPTIONS);
    if let Some(other) = options.keys().min() {
        return Err(format!("{other} is not supported"));
    }
    let Some(given) = given else {
        return Ok(Protocol::Http1);
    };
    let mut http: HttpProtocolOptions = any(&given)?;
    let Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) = http.upstream_protocol_options.take()
    else {
        return Err("only explicit_http_config is supported".to_owned());
    };
    done(&http)?;
    match required(explicit.protocol_config).at("explicit_http_config")? {
        ProtocolConfig::HttpProtocolOptions(options) => {
            done(&options).at("http_protocol_options")?;
            Ok(Protocol::Http1)
        }
        ProtocolConfig::Http2ProtocolOptions(options) => {
            done(&options).at("http2_protocol_options")?;
            Ok(Protocol::Http2)
        }
        ProtocolConfig::Http3ProtocolOptions(_) => Err("http3_protocol_options is not supported".to_owned()),
    }
}

fn health_check(mut pb: PbHealthCheck, cluster: &str) -> Result<HealthCheck, Reason> {
    let timeout = positive(required(pb.timeout.take()).at("timeout")?).at("timeout")?;
    let interval = positive(required(pb.interval.take()).at("interval")?).at("interval")?;
    let no_traffic_interval = match pb.no_traffic_interval.take() {
        Some(interval) => positive(interval).at("no_traffic_interval")?,
        None => NO_TRAFFIC_INTERVAL_DEFAULT,
    };
    let unhealthy_threshold = required(pb.unhealthy_threshold.take())
        .at("unhealthy_threshold")?
        .value;
    let healthy_threshold = required(pb.healthy_threshold.take())
        .at("healthy_threshold")?
        .value;
    let probe = match required(pb.health_checker.take()).at("health_checker")? {
        HealthChecker::TcpHealthCheck(tcp) => {
            done(&tcp).at("tcp_health_check")?;
            Probe::Tcp
        }
        HealthChecker::HttpHealthCheck(http) => {
            Probe::Http(http_probe(http, cluster).at("http_health_check")?)
        }
        HealthChecker::GrpcHealthCheck(grpc) => {
            Probe::Grpc(grpc_probe(grpc, cluster).at("grpc_health_check")?)
        }
        HealthChecker::CustomHealthCheck(_) => return Err("custom_health_check: is not supported".to_owned()),
    };
    done(&pb)?;
    Ok(HealthCheck {
        timeout,
        interval,
        no_traffic_interval,
        unhealthy_threshold,
        healthy_threshold,
        probe,
    })
}

fn http_probe(mut pb: HttpHealthCheck, cluster: &str) -> Result<HttpProbe, Reason> {
    let host = take(&mut pb.host);
    let host = header_value(if host.is_empty() { cluster } else { &host }).at("host")?;
    let path = take(&mut pb.path);
    if !path.starts_with('/') {
        return Err(format!("path: {path:?} does not start with a slash"));
    }
    let path = path
        .parse()
        .map_err(|_| format!("path: {path:?} is not a path"))?;
    let headers = probe_headers(take(&mut pb.request_headers_to_add), "request_headers_to_add")?;
    let mut expected = Vec::new();
    for (index, range) in take(&mut pb.expected_statuses).into_iter().enumerate() {
        expected.push(statuses(&range).at_index("expected_statuses", index)?);
    }
    if expected.is_empty() {
        expected.push(200..201);
    }
    let protocol = match take(&mut pb.codec_client_type) {
        codec if codec == CodecClientType::Http1 as i32 => Protocol::Http1,
        codec if codec == CodecClientType::Http2 as i32 => Protocol::Http2,
        codec => return Err(format!("codec_client_type: value {codec} is not supported")),
    };
    done(&pb)?;
    Ok(HttpProbe {
        host,
        path,
        headers,
        expected,
        protocol,
    })
}

fn grpc_probe(mut pb: GrpcHealthCheck, cluster: &str) -> Result<GrpcProbe, Reason> {
    let service = take(&mut pb.service_name);
    let authority = take(&mut pb.authority);
    let authority = header_value(if authority.is_empty() { cluster } else { &authority }).at("authority")?;
    let headers = probe_headers(take(&mut pb.initial_metadata), "initial_metadata")?;
    done(&pb)?;
    Ok(GrpcProbe::new(authority, headers, service))
}

fn probe_headers(
    given: Vec<HeaderValueOption>,
    field: &str,
) -> Result<Vec<(HeaderName, HeaderValue)>, Reason> {
    let actions = [
        HeaderAppendAction::AppendIfExistsOrAdd as i32,
        HeaderAppendAction::OverwriteIfExistsOrAdd as i32,
    ];
    let given = given.into_iter().enumerate();
    given
        .map(|(index, header)| header_to_set(header, &actions).at_index(field, index))
        .collect()
}

fn statuses(range: &Int64Range) -> Result<std::ops::Range<u16>, Reason> {
    let bound = |value: i64| {
        u16::try_from(value)
            .ok()
            .filter(|value| (100..=600).contains(value))
    };
    match (bound(range.start), bound(range.end)) {
        (Some(start), Some(end)) if start < end => Ok(start..end),
        _ => Err(format!(
            "{}..{} is not a range of status codes",
            range.start, range.end
        )),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use envoy_types::pb::envoy::r#type::v3::Percent;

    #[test]
    fn limits_are_envoys_where_nothing_is_said() {
        let number = |value| Some(UInt32Value { value });
        let given = |thresholds| {
            let breakers = CircuitBreakers {
                thresholds: vec![thresholds],
                ..Default::default()
            };
            limits(Some(breakers)).unwrap()
        };
        let budget = |budget_percent: Option<f64>, min| Thresholds {
            max_retries: number(7),
            retry_budget: Some(RetryBudget {
                budget_percent: budget_percent.map(|value| Percent { value }),
                min_retry_concurrency: min,
                ..Default::default()
            }),
            ..Default::default()
        };
        let requests = Thresholds {
            max_requests: number(0),
            ..Default::default()
        };
        let connections = Limits {
            connections_max: 3,
            pending_max: 0,
            ..Limits::DEFAULT
        };
        let given_connections = given(Thresholds {
            max_connections: number(3),
            max_pending_requests: number(0),
            ..Default::default()
        });
        assert_eq!(given_connections, connections);
        let retries = Thresholds {
            max_retries: number(0),
            ..Default::default()
        };
        let of = |percent, retries_min| RetryLimit::Budget { percent, retries_min };
        for (got, requests_max, retries) in [
            (limits(None).unwrap(), 1024, RetryLimit::Max(3)),
            (
                limits(Some(CircuitBreakers::default())).unwrap(),
                1024,
                RetryLimit::Max(3),
            ),
            (given(Thresholds::default()), 1024, RetryLimit::Max(3)),
            (given(requests), 0, RetryLimit::Max(3)),
            (given(retries), 1024, RetryLimit::Max(0)),
            (given(budget(None, None)), 1024, of(20.0, 3)),
            (given(budget(Some(50.0), number(0))), 1024, of(50.0, 0)),
        ] {
            assert_eq!(
                got,
                Limits {
                    requests_max,
                    retries,
                    ..Limits::DEFAULT
                }
            );
        }
    }
}

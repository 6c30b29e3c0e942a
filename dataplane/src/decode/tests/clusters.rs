//! Clusters, as the contract has them.

use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::thresholds::RetryBudget;
use envoy_types::pb::envoy::config::cluster::v3::cluster::common_lb_config::LocalityConfigSpecifier;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    CommonLbConfig, MaglevLbConfig, RingHashLbConfig,
};
use envoy_types::pb::envoy::config::core::v3::health_check::{
    HealthChecker, HttpHealthCheck, TcpHealthCheck,
};
use envoy_types::pb::envoy::r#type::v3::{Int64Range, Percent};
use envoy_types::pb::google::protobuf::UInt64Value;

use super::*;

#[test]
fn a_cluster_is_as_the_contract_says() {
    let right = PbCluster {
        name: "x".to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: ads(),
            ..Default::default()
        }),
        lb_policy: LbPolicy::LeastRequest as i32,
        health_checks: vec![PbHealthCheck {
            timeout: seconds(1),
            interval: seconds(1),
            unhealthy_threshold: number(2),
            healthy_threshold: number(1),
            health_checker: Some(HealthChecker::TcpHealthCheck(TcpHealthCheck::default())),
            ..Default::default()
        }],
        ..Default::default()
    };
    fn http(cluster: &mut PbCluster, change: impl FnOnce(&mut HttpHealthCheck)) {
        let mut check = HttpHealthCheck {
            path: "/".to_owned(),
            ..Default::default()
        };
        change(&mut check);
        cluster.health_checks[0].health_checker = Some(HealthChecker::HttpHealthCheck(check));
    }
    fn breaker(cluster: &mut PbCluster, change: impl FnOnce(&mut Thresholds)) {
        let mut thresholds = Thresholds::default();
        change(&mut thresholds);
        let breakers = cluster.circuit_breakers.get_or_insert_default();
        breakers.thresholds.push(thresholds);
    }
    check(
        ResourceKind::Cluster,
        &right,
        &[
            (
                |c| {
                    c.common_lb_config = Some(CommonLbConfig {
                        locality_config_specifier: Some(LocalityConfigSpecifier::ZoneAwareLbConfig(
                            Default::default(),
                        )),
                        ..Default::default()
                    });
                },
                "common_lb_config.zone_aware_lb_config: is not supported",
            ),
            (
                |c| breaker(c, |t| t.max_connection_pools = number(1)),
                "circuit_breakers.thresholds[0].max_connection_pools: is not supported by this proxy",
            ),
            (
                |c| breaker(c, |t| t.priority = 1),
                "circuit_breakers.thresholds[0].priority: value 1 is not supported",
            ),
            (
                |c| {
                    breaker(c, |t| {
                        t.retry_budget = Some(RetryBudget {
                            budget_percent: Some(Percent { value: 101.0 }),
                            ..Default::default()
                        });
                    });
                },
                "circuit_breakers.thresholds[0].retry_budget.budget_percent: 101 is not a percentage",
            ),
            (
                |c| {
                    breaker(c, |_| {});
                    breaker(c, |_| {});
                },
                "circuit_breakers.thresholds: at most one is supported",
            ),
            (
                |c| c.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Static as i32)),
                "type: only EDS and ORIGINAL_DST are supported",
            ),
            (|c| c.eds_cluster_config = None, "eds_cluster_config: is required"),
            (
                |c| c.eds_cluster_config.as_mut().unwrap().service_name = "s".to_owned(),
                "eds_cluster_config.service_name: is not supported by this proxy",
            ),
            (
                |c| c.lb_policy = LbPolicy::LoadBalancingPolicyConfig as i32,
                "lb_policy: value 7 is not supported",
            ),
            (
                |c| c.lb_config = Some(LbConfig::MaglevLbConfig(MaglevLbConfig::default())),
                "lb_config: is not supported with this lb_policy",
            ),
            (
                |c| {
                    c.lb_policy = LbPolicy::Maglev as i32;
                    let table_size = Some(UInt64Value { value: 65_536 });
                    c.lb_config = Some(LbConfig::MaglevLbConfig(MaglevLbConfig { table_size }));
                },
                "maglev_lb_config.table_size: must be a prime number of at most 5000011",
            ),
            (
                |c| {
                    c.lb_policy = LbPolicy::RingHash as i32;
                    c.lb_config = Some(LbConfig::RingHashLbConfig(RingHashLbConfig {
                        maximum_ring_size: Some(UInt64Value { value: 1000 }),
                        ..Default::default()
                    }));
                },
                "ring_hash_lb_config.minimum_ring_size: must be 1 to maximum_ring_size",
            ),
            (
                |c| {
                    c.lb_policy = LbPolicy::RingHash as i32;
                    c.lb_config = Some(LbConfig::RingHashLbConfig(RingHashLbConfig {
                        hash_function: 1,
                        ..Default::default()
                    }));
                },
                "ring_hash_lb_config.hash_function: value 1 is not supported",
            ),
            (
                |c| c.connect_timeout = seconds(0),
                "connect_timeout: must be more than 0",
            ),
            (
                |c| c.connect_timeout = seconds(-1),
                "connect_timeout: is negative",
            ),
            (
                |c| c.connect_timeout = seconds(315_360_001),
                "connect_timeout: is more than 315360000 s",
            ),
            (
                |c| c.connect_timeout = seconds(i64::MAX),
                "connect_timeout: is more than 315360000 s",
            ),
            (
                |c| c.connect_timeout = duration(315_360_000, 1),
                "connect_timeout: is more than 315360000 s",
            ),
            (
                |c| c.connect_timeout = duration(1, -1),
                "connect_timeout: has an invalid part of a second",
            ),
            (
                |c| c.connect_timeout = duration(1, 1_000_000_000),
                "connect_timeout: has an invalid part of a second",
            ),
            (
                |c| c.health_checks[0].interval = seconds(i64::MAX),
                "health_checks[0].interval: is more than 315360000 s",
            ),
            (
                |c| c.outlier_detection.get_or_insert_default().max_ejection_percent = number(101),
                "outlier_detection.max_ejection_percent: 101 is not a percentage",
            ),
            (
                |c| c.health_checks.push(c.health_checks[0].clone()),
                "health_checks: at most one is supported",
            ),
            (
                |c| c.health_checks[0].interval = None,
                "health_checks[0].interval: is required",
            ),
            (
                |c| c.health_checks[0].unhealthy_interval = seconds(1),
                "health_checks[0].unhealthy_interval: is not supported by this proxy",
            ),
            (
                |c| http(c, |h| h.path = "healthz".to_owned()),
                "health_checks[0].http_health_check.path: \"healthz\" does not start with a slash",
            ),
            (
                |c| {
                    http(c, |h| {
                        h.expected_statuses = vec![Int64Range { start: 300, end: 200 }];
                    });
                },
                "health_checks[0].http_health_check.expected_statuses[0]: 300..200 is not a range of status codes",
            ),
            (
                |c| http(c, |h| h.codec_client_type = 2),
                "health_checks[0].http_health_check.codec_client_type: value 2 is not supported",
            ),
            (
                |c| {
                    let threshold = Some(Percent { value: 101.0 });
                    c.common_lb_config = Some(CommonLbConfig {
                        healthy_panic_threshold: threshold,
                        ..Default::default()
                    });
                },
                "common_lb_config.healthy_panic_threshold: 101 is not a percentage",
            ),
            (
                |c| {
                    c.typed_extension_protocol_options
                        .insert("other".to_owned(), Default::default());
                },
                "typed_extension_protocol_options: other is not supported",
            ),
        ],
    );
}

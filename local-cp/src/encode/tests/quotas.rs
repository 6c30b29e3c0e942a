//! Limits over all proxies: on listeners and hosts.

use envoy_types::pb::envoy::config::listener::v3::Listener as PbListener;
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::config::route::v3::FilterConfig;
use envoy_types::pb::envoy::extensions::filters::http::rate_limit_quota::v3::RateLimitQuotaFilterConfig;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType as FilterKind;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter,
};
use serde_json::{Value, json};
use tombolo_compiler::proxy::Filter;

use super::*;

const WEB: &str = "organizations/acme/tenants/t/workspaces/w/gatewaygroups/g/gateways/web";
const APP: &str = "organizations/acme/tenants/t/workspaces/w/gatewaygroups/g/gateways/app";

/// Two hosts with limits over all proxies, and one where each proxy has its own.
fn limited() -> ProxyConfig {
    let mut config = config(&["a"]);
    let over = json!({"gateway": {"by": "x-user"}});
    let limits = [
        (
            WEB,
            json!({"requests": 100, "per": "1m", "over": {"gateway": {}}}),
        ),
        (APP, json!({"requests": 5, "per": "1s", "over": over})),
        ("alone", json!({"requests": 7, "per": "1s"})),
    ];
    let table = &mut config.route_tables.get_mut("in").unwrap().value;
    let host = table.hosts.remove(0);
    let listener = &mut config.listeners.get_mut("in").unwrap().value;
    listener.filters = [Filter::RateLimit, Filter::Quota, Filter::Fault].into();
    for (name, limit) in limits {
        let mut host = host.clone();
        host.value.name = name.to_owned();
        host.value.domains = [format!("{}.example.com", table.hosts.len())].into();
        host.value.conduct = serde_json::from_value(json!({"rate_limit": limit})).unwrap();
        table.hosts.push(host);
        if limit.get("over").is_some_and(Value::is_object) {
            let limit = serde_json::from_value(limit).unwrap();
            listener.quotas.insert(name.to_owned(), limit);
        }
    }
    config
}

fn filters(resources: &Resources) -> Vec<HttpFilter> {
    let listener: PbListener = decoded(resources, Kind::Listener, "in");
    let Some(ConfigType::TypedConfig(manager)) = &listener.filter_chains[0].filters[0].config_type else {
        panic!("{listener:?}")
    };
    let manager = HttpConnectionManager::decode(manager.value.as_slice()).unwrap();
    manager.http_filters
}

#[test]
fn each_has_a_filter_that_only_its_host_switches_on() {
    let resources = encode(&limited());
    let filters = filters(&resources);
    let name = |host: &str| format!("envoy.filters.http.rate_limit_quota/{host}");
    let found: Vec<_> = filters
        .iter()
        .map(|filter| (&*filter.name, filter.disabled))
        .collect();
    let (web, app) = (name(WEB), name(APP));
    assert_eq!(
        found,
        [
            ("envoy.filters.http.local_ratelimit", false),
            (&*app, true),
            (&*web, true),
            ("envoy.filters.http.fault", false),
            ("envoy.filters.http.router", false),
        ]
    );
    for filter in filters.iter().filter(|filter| filter.disabled) {
        let Some(FilterKind::TypedConfig(config)) = &filter.config_type else {
            panic!("{filter:?}")
        };
        let config = RateLimitQuotaFilterConfig::decode(config.value.as_slice()).unwrap();
        assert_eq!(config.domain, "organizations/acme/tenants/t/workspaces/w");
    }
    let table: RouteConfiguration = decoded(&resources, Kind::Routes, "in");
    for (host, expected) in
        table
            .virtual_hosts
            .iter()
            .zip([web.as_str(), app.as_str(), "envoy.filters.http.local_ratelimit"])
    {
        let said: Vec<_> = host.typed_per_filter_config.iter().collect();
        let [(name, config)] = said[..] else {
            panic!("{said:?}")
        };
        assert_eq!(name, expected);
        if config.type_url == FilterConfig::type_url() {
            let on = FilterConfig::decode(config.value.as_slice()).unwrap();
            assert_eq!(on.config, Some(Any::default()), "{name}");
        }
    }
}

/// An Envoy is told of a listener only when it is another one: it ends the connections of the one before.
#[test]
fn what_has_the_same_limits_is_no_news() {
    let mut config = limited();
    let mut held = encode(&config);
    for number in 0..20 {
        let old = config.clone();
        config.clusters.get_mut("a").unwrap().value = upstream(1000 + number);
        let next = encode_since(&old, &held, &config, None);
        for kind in [Kind::Listener, Kind::Routes] {
            assert_eq!(
                next.get(kind, "in").unwrap().version,
                held.get(kind, "in").unwrap().version,
                "{kind:?}"
            );
        }
        assert_ne!(
            next.get(Kind::Cluster, "a").unwrap().version,
            held.get(Kind::Cluster, "a").unwrap().version
        );
        held = next;
    }
}

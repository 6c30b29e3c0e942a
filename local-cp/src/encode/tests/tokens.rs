//! Tokens: on listeners, on hosts, and the clusters where keys are.

use envoy_types::pb::envoy::config::cluster::v3::Cluster as PbCluster;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::transport_socket::ConfigType;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::rbac::v3::Principal;
use envoy_types::pb::envoy::config::rbac::v3::principal::Identifier;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::PerRouteConfig;
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::RbacPerRoute;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use serde_json::{Value, json};

use tombolo_compiler::proxy::KeyHost;

use super::super::route::string_matcher;
use super::*;

/// One host with tokens; `rule` is the one that lets through.
fn with_tokens(rule: &Value) -> ProxyConfig {
    let mut config = config(&["a"]);
    let issuer = json!([{"issuer": "i", "jwksUri": "https://login.example.com/keys"}]);
    let conduct = json!({"jwt": issuer, "access": {"allow": [rule]}});
    let table = &mut config.route_tables.get_mut("in").unwrap().value;
    table.hosts[0].value.conduct = serde_json::from_value(conduct).unwrap();
    let listener = &mut config.listeners.get_mut("in").unwrap().value;
    listener.issuers = [("all".to_owned(), serde_json::from_value(issuer).unwrap())].into();
    let host = KeyHost {
        host: "login.example.com".to_owned(),
        port: 443,
        addresses: ["10.0.0.1".parse().unwrap()].into(),
    };
    config.key_hosts = [("jwks/login.example.com:443".to_owned(), Traced::untraced(host))].into();
    config
}

#[test]
fn hosts_of_keys_are_believed_by_name_and_no_listener_waits_for_them() {
    let config = with_tokens(&json!({}));
    let name = "jwks/login.example.com:443";
    let all = |authorities| {
        encode_since(
            &ProxyConfig::default(),
            &Resources::default(),
            &config,
            authorities,
        )
    };
    let resources = all(Some("PEM"));
    assert!(!resources.get(Kind::Listener, "in").unwrap().needs.contains(name));
    let cluster: PbCluster = decoded(&resources, Kind::Cluster, name);
    let Some(ConfigType::TypedConfig(tls)) = cluster.transport_socket.unwrap().config_type else {
        panic!("no TLS")
    };
    let tls = UpstreamTlsContext::decode(tls.value.as_slice()).unwrap();
    assert_eq!(tls.sni, "login.example.com");
    let Some(ValidationContextType::ValidationContext(believed)) =
        tls.common_tls_context.unwrap().validation_context_type
    else {
        panic!("anybody is believed")
    };
    assert_eq!(
        believed.trusted_ca.unwrap().specifier,
        Some(Specifier::InlineString("PEM".to_owned()))
    );
    let [name_of_host] = believed.match_typed_subject_alt_names.as_slice() else {
        panic!("any name is believed")
    };
    let exact = string_matcher(MatchPattern::Exact("login.example.com".to_owned()));
    assert_eq!(
        (name_of_host.san_type, &name_of_host.matcher),
        (SanType::Dns as i32, &Some(exact))
    );
    let endpoints: ClusterLoadAssignment = decoded(&resources, Kind::Endpoints, name);
    assert_eq!(endpoints.endpoints[0].lb_endpoints.len(), 1);

    // With nobody to believe there is no such cluster, and so no keys: tokens are refused.
    let resources = all(None);
    assert_eq!(resources.get(Kind::Cluster, name), None);
    assert_eq!(resources.get(Kind::Endpoints, name), None);

    // A host that has moved is told, and nothing else.
    let mut moved = config.clone();
    let host = &mut moved.key_hosts.get_mut(name).unwrap().value;
    host.addresses = ["10.0.0.2".parse().unwrap()].into();
    let old = all(Some("PEM"));
    let new = encode_since(&config, &old, &moved, Some("PEM"));
    let same = |kind| old.get(kind, name) == new.get(kind, name);
    assert!(!same(Kind::Endpoints));
    assert!(same(Kind::Cluster));
    assert_eq!(old.get(Kind::Listener, "in"), new.get(Kind::Listener, "in"));
}

#[test]
fn a_request_without_a_verified_token_is_refused_again_behind_the_filter_that_verifies() {
    let per_host = |rule: &Value| {
        let resources = encode(&with_tokens(rule));
        let table: RouteConfiguration = decoded(&resources, Kind::Routes, "in");
        let host = &table.virtual_hosts[0];
        let config = |name: &str| host.typed_per_filter_config[name].value.clone();
        let jwt = PerRouteConfig::decode(config("envoy.filters.http.jwt_authn").as_slice()).unwrap();
        assert_eq!(jwt, token::of_host("all"));
        let rules = |name: &str| {
            let rbac = RbacPerRoute::decode(config(name).as_slice()).unwrap();
            rbac.rbac.unwrap().rules.unwrap().policies
        };
        (
            rules("envoy.filters.http.rbac.deny"),
            rules("envoy.filters.http.rbac.allow"),
        )
    };
    let (denied, allowed) = per_host(&json!({}));
    assert_eq!(denied["unverified"], token::unverified());
    let anybody = Principal {
        identifier: Some(Identifier::Any(true)),
    };
    assert_eq!(allowed["0"].principals, [anybody]);

    let (_, allowed) = per_host(&json!({
        "sources": ["10.0.0.0/8"], "claims": {"role": ["a", "b"], "team": ["c"]},
    }));
    let [
        Principal {
            identifier: Some(Identifier::AndIds(all)),
        },
    ] = allowed["0"].principals.as_slice()
    else {
        panic!("{allowed:?}")
    };
    let values = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
    assert_eq!(all.ids[0], token::has_claim("role", &values(&["a", "b"])));
    assert_eq!(all.ids[1], token::has_claim("team", &values(&["c"])));
    assert!(matches!(&all.ids[2].identifier, Some(Identifier::OrIds(set)) if set.ids.len() == 1));
    assert_eq!(all.ids.len(), 3);
}

#![allow(clippy::unwrap_used)]

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::{HealthStatus, Node};
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::FileAccessLog;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use envoy_types::pb::google::protobuf::value::Kind as PbKind;
use prost::Message;

use super::*;

fn encode(name: &str, value: &Value) -> (Vec<u8>, Encoder) {
    let mut encoder = Encoder::new();
    encoder.begin("in");
    let body = encoder.message(name, value, "file");
    (body, encoder)
}

/// In the bytes that prost would have made of it.
fn decoded<M: Message + Default>(name: &str, value: &Value) -> M {
    let (body, encoder) = encode(name, value);
    assert_eq!(encoder.problems, [], "{value}");
    let message = M::decode(&*body).unwrap();
    assert_eq!(message.encoded_len(), body.len(), "{value}");
    message
}

#[test]
fn a_cluster_in_either_way_of_names() {
    let snake = json!({
        "name": "a", "type": "EDS", "connect_timeout": "0.25s", "lb_policy": "RING_HASH",
        "ring_hash_lb_config": { "minimum_ring_size": "64", "hash_function": 0 },
        "circuit_breakers": { "thresholds": [
            { "max_requests": 7, "retry_budget": { "budget_percent": { "value": 12.5 } } },
        ] },
        "health_checks": [{
            "timeout": "1s", "interval": "-1.5s", "unhealthy_threshold": 0,
            "http_health_check": { "path": "/", "expected_statuses": [{ "start": 200, "end": 204 }] },
        }],
        "metadata": { "filter_metadata": { "m": { "text": "t", "list": [1, null, true, { "a": {} }] }, "nothing": {} } },
        "respect_dns_ttl": false, "cleanup_interval": null,
    });
    let camel = json!({
        "name": "a", "type": 3, "connectTimeout": "0.250s", "lbPolicy": 2,
        "ringHashLbConfig": { "minimumRingSize": 64.0, "hashFunction": "XX_HASH" },
        "circuitBreakers": { "thresholds": [
            { "maxRequests": "7", "retryBudget": { "budgetPercent": { "value": "12.5" } } },
        ] },
        "healthChecks": [{
            "timeout": "1.000000000s", "interval": "-1.5s", "unhealthyThreshold": 0,
            "httpHealthCheck": { "path": "/", "expectedStatuses": [{ "start": "200", "end": 204 }] },
        }],
        "metadata": { "filterMetadata": { "m": { "text": "t", "list": [1, null, true, { "a": {} }] }, "nothing": {} } },
    });
    let name = "envoy.config.cluster.v3.Cluster";
    let cluster: Cluster = decoded(name, &snake);
    assert_eq!(decoded::<Cluster>(name, &camel), cluster);
    assert_eq!(cluster.connect_timeout.unwrap().nanos, 250_000_000);
    let thresholds = &cluster.circuit_breakers.unwrap().thresholds[0];
    assert_eq!(thresholds.max_requests.unwrap().value, 7);
    let percent = thresholds.retry_budget.unwrap().budget_percent.unwrap();
    assert!((percent.value - 12.5).abs() < f64::EPSILON);
    let check = &cluster.health_checks[0];
    let interval = check.interval.unwrap();
    assert_eq!((interval.seconds, interval.nanos), (-1, -500_000_000));
    // Zero is said, not left out.
    assert_eq!(check.unhealthy_threshold.unwrap().value, 0);
    let metadata = &cluster.metadata.unwrap().filter_metadata["m"];
    let Some(PbKind::ListValue(list)) = &metadata.fields["list"].kind else {
        panic!("{metadata:?}");
    };
    assert_eq!(list.values.len(), 4);
}

#[test]
fn what_is_one_of_several_is_said_even_where_it_is_a_default() {
    let name = "envoy.config.endpoint.v3.ClusterLoadAssignment";
    let value = json!({ "endpoints": [{ "lb_endpoints": [{
        "endpoint": { "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } } },
        "health_status": "UNHEALTHY",
    }] }] });
    let assignment: ClusterLoadAssignment = decoded(name, &value);
    let host = &assignment.endpoints[0].lb_endpoints[0];
    assert_eq!(host.health_status, HealthStatus::Unhealthy as i32);
    let Some(HostIdentifier::Endpoint(endpoint)) = &host.host_identifier else {
        panic!("{host:?}");
    };
    let shown = format!("{endpoint:?}");
    assert!(shown.contains("Some(PortValue(0))"), "{shown}");
}

#[test]
fn packed_numbers_and_what_may_be_anything() {
    let name = "envoy.config.route.v3.RouteConfiguration";
    let value = json!({ "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [{
        "match": { "prefix": "" },
        "route": { "cluster": "a", "retry_policy": { "retriable_status_codes": [0, 503, 70000] } },
        "typed_per_filter_config": {
            "cors": { "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true },
            "nothing": { "@type": "type.googleapis.com/google.protobuf.Duration", "value": "2s" },
        },
    }] }] });
    let table: RouteConfiguration = decoded(name, &value);
    let route = &table.virtual_hosts[0].routes[0];
    let Some(Action::Route(action)) = &route.action else {
        panic!("{route:?}");
    };
    let codes = &action.retry_policy.as_ref().unwrap().retriable_status_codes;
    assert_eq!(codes, &[0, 503, 70_000]);
    assert_eq!(route.typed_per_filter_config["cors"].value, [0x18, 1]);
    assert_eq!(route.typed_per_filter_config["nothing"].value, [0x08, 2]);
    let format = json!({ "path": "/log", "json_format": { "status": "%RESPONSE_CODE%" } });
    let log: FileAccessLog = decoded("envoy.extensions.access_loggers.file.v3.FileAccessLog", &format);
    let shown = format!("{log:?}");
    assert!(shown.contains("StringValue(\"%RESPONSE_CODE%\")"), "{shown}");
    // Something of Envoy's that no file has: nobody knows what it is made of.
    assert_eq!(Node::default().encoded_len(), 0);
    let (_, encoder) = encode("envoy.service.discovery.v3.Nothing", &json!({ "id": "a" }));
    let expected = "file.id: envoy.service.discovery.v3.Nothing is not supported by this proxy";
    assert_eq!(encoder.problems[0].to_string(), expected);
}

#[test]
fn all_that_is_wrong_is_told_with_its_path() {
    let cluster = |value: Value| ("envoy.config.cluster.v3.Cluster", value);
    let cases = [
        (cluster(json!([])), vec!["file: must be an object, not a list"]),
        (
            cluster(json!({ "nome": "a", "connect_timeout": 5, "type": "DYNAMIC" })),
            vec![
                "file.connect_timeout: must be a duration such as 0.5s, not 5",
                "file.nome: Cluster has no such field",
                "file.type: must be one of STATIC, STRICT_DNS, LOGICAL_DNS, EDS, ORIGINAL_DST, not \"DYNAMIC\"",
            ],
        ),
        (
            cluster(json!({ "name": 5, "respect_dns_ttl": "yes", "health_checks": {} })),
            vec![
                "file.health_checks: must be a list, not an object",
                "file.name: must be a string (in quotes), not a number",
                "file.respect_dns_ttl: must be true or false, not \"yes\"",
            ],
        ),
        (
            cluster(json!({ "circuit_breakers": { "thresholds": [{ "max_requests": -1 }] } })),
            vec![
                "file.circuit_breakers.thresholds[0].max_requests: must be a whole number from 0 to 4294967295, not -1",
            ],
        ),
        (
            // What may be a secret, or stand for one, is not told.
            (
                "envoy.extensions.transport_sockets.tls.v3.TlsCertificate",
                json!({
                    "certificate_chain": { "inline_string": 4711 },
                    "password": { "inline_bytes": "hunter2!" },
                    "private_key": "hunter2",
                    "ocsp_staple": 4711,
                    "signed_certificate_timestamp": { "inline_bytes": "hunter2!" },
                }),
            ),
            vec![
                "file.certificate_chain.inline_string: must be a string (in quotes), not a number",
                "file.ocsp_staple: must be an object, not a number",
                "file.password.inline_bytes: must be base64, not a string",
                "file.private_key: must be an object, not a string",
                "file.signed_certificate_timestamp: must be a list, not an object",
            ],
        ),
        (
            cluster(json!({ "lb_policy": "RANDOM", "lbPolicy": "RANDOM" })),
            vec!["file.lb_policy: is said twice"],
        ),
        (
            cluster(json!({ "type": "EDS", "cluster_type": { "name": "x" } })),
            vec!["file.type: excludes cluster_type, which stands beside it"],
        ),
        (
            cluster(json!({ "transport_socket": { "name": "tls", "typed_config": {} } })),
            vec!["file.transport_socket.typed_config: must say its \"@type\""],
        ),
        (
            cluster(json!({ "transport_socket": { "typed_config": { "@type": "t.io/envoy.Quic" } } })),
            vec!["file.transport_socket.typed_config: t.io/envoy.Quic is not supported by this proxy"],
        ),
        (
            cluster(json!({ "typed_extension_protocol_options": { "a.b": { "@type": 1 } } })),
            vec!["file.typed_extension_protocol_options[a.b]: must say its \"@type\""],
        ),
    ];
    for ((name, value), expected) in cases {
        let (_, encoder) = encode(name, &value);
        let told: Vec<String> = encoder.problems.iter().map(ToString::to_string).collect();
        assert_eq!(told, expected, "{value}");
    }
}

#[test]
fn durations() {
    for (text, expected) in [
        ("1s", Some((1, 0))),
        ("0s", Some((0, 0))),
        ("0.000000001s", Some((0, 1))),
        ("3.5s", Some((3, 500_000_000))),
        ("-0.5s", Some((0, -500_000_000))),
        ("1", None),
        ("1ms", None),
        (".5s", None),
        ("1.s", None),
        ("1.0000000001s", None),
        ("+1s", None),
        ("99999999999999999999s", None),
        ("", None),
    ] {
        let read = duration(&json!(text)).ok();
        let read = read.map(|body| envoy_types::pb::google::protobuf::Duration::decode(&*body).unwrap());
        assert_eq!(read.map(|read| (read.seconds, read.nanos)), expected, "{text:?}");
    }
}

#[test]
fn a_table_stands_by_itself_and_secrets_come_as_in_a_stream() {
    let manager = json!({
        "@type": format!("type.googleapis.com/{MANAGER}"),
        "route_config": { "name": "local_route", "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [
            { "match": { "prefix": "/" }, "route": { "weighted_clusters": { "clusters": [{ "name": "b" }] } } },
        ] }] },
    });
    let chain = json!({
        "filters": [{ "name": "http", "typed_config": manager }],
        "transport_socket": { "name": "tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": { "tls_certificate_sds_secret_configs": [{ "name": "own" }] },
        } },
    });
    let value = json!({ "name": "in", "filter_chains": [chain, chain] });
    let (body, encoder) = encode("envoy.config.listener.v3.Listener", &value);
    assert_eq!(encoder.problems, []);
    let listener = Listener::decode(&*body).unwrap();
    let Some(ConfigType::TypedConfig(manager)) = &listener.filter_chains[1].filters[0].config_type else {
        panic!("{listener:?}");
    };
    let manager = HttpConnectionManager::decode(&*manager.value).unwrap();
    let Some(RouteSpecifier::Rds(rds)) = manager.route_specifier else {
        panic!("{manager:?}");
    };
    assert_eq!(rds.route_config_name, "in/1");
    let tables: Vec<(&str, &str)> = encoder
        .tables
        .iter()
        .map(|table| (&*table.name, &*table.path))
        .collect();
    assert_eq!(
        tables,
        [
            (
                "in/0",
                "file.filter_chains[0].filters[0].typed_config.route_config"
            ),
            (
                "in/1",
                "file.filter_chains[1].filters[0].typed_config.route_config"
            ),
        ]
    );
    assert_eq!(
        RouteConfiguration::decode(&*encoder.tables[0].body).unwrap().name,
        "in/0"
    );
    let mentions: Vec<(Mentioned, &str)> = encoder
        .mentions
        .iter()
        .map(|mention| (mention.what, &*mention.name))
        .collect();
    let each = [(Mentioned::Cluster, "b"), (Mentioned::Secret, "own")];
    assert_eq!(mentions, [each, each].concat());
}

#[test]
fn files_are_read_into_what_names_them() {
    let dir = tempfile::tempdir().unwrap();
    let (pem, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&pem, "PEM").unwrap();
    std::fs::write(&key, [0xff, 0]).unwrap();
    let name = "envoy.extensions.transport_sockets.tls.v3.Secret";
    let value = json!({ "name": "own", "tls_certificate": {
        "certificate_chain": { "filename": pem },
        "private_key": { "filename": key },
    } });
    let (body, encoder) = encode(name, &value);
    assert_eq!(encoder.problems, []);
    let shown = format!("{:?}", Secret::decode(&*body).unwrap());
    assert!(
        shown.contains("InlineString(\"PEM\")") && shown.contains("InlineBytes([255, 0])"),
        "{shown}"
    );
    let included: Vec<_> = encoder.included.iter().map(|(path, _)| path.clone()).collect();
    assert_eq!(included, [pem, key.clone()]);
    std::fs::remove_file(key).unwrap();
    let (_, encoder) = encode(name, &value);
    let told = encoder.problems[0].to_string();
    assert!(
        told.starts_with("file.tls_certificate.private_key.filename: cannot be read: "),
        "{told}"
    );
}

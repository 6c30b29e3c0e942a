#![allow(clippy::unwrap_used)]

use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use prost::Message;

use super::*;

const HTTP: &str = r#"
static_resources:
  listeners:
  - name: in
    address: { socket_address: { address: 127.0.0.1, port_value: 10000 } }
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          route_config:
            name: local_route
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: { prefix: /pay }
                route: { cluster: payments, timeout: 1.5s }
              - match: { prefix: / }
                direct_response: { status: 404, body: { inline_string: nothing here } }
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
  - name: payments
    type: STATIC
    connect_timeout: 1s
    load_assignment:
      cluster_name: payments
      endpoints:
      - lb_endpoints:
        - endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 10001 } } }
"#;

fn resolved(text: &str, held: &Resources) -> Result<Resources, Vec<String>> {
    let value = parse(text).map_err(|reason| vec![reason])?;
    match said(&value).resolve(held, Path::new("file")) {
        Ok(resources) => Ok(resources),
        Err(FileError::Refused { problems, .. }) => Err(problems.iter().map(ToString::to_string).collect()),
        Err(other) => Err(vec![other.to_string()]),
    }
}

pub(crate) fn parsed(text: &str) -> Value {
    parse(text).unwrap()
}

/// All that a file says, each under this name.
pub(crate) fn encoded(file: &Value, name: &str) -> Vec<(ResourceKind, Vec<u8>)> {
    let said = said(file);
    assert_eq!(said.problems, vec![], "{file}");
    let all = said.resources.into_iter().flat_map(|(kind, resources)| {
        resources.into_iter().map(move |(_, raw)| match kind {
            ResourceKind::Routes => {
                let mut table = RouteConfiguration::decode(raw.body.as_slice()).unwrap();
                table.name = name.to_owned();
                (kind, table.encode_to_vec())
            }
            _ => (kind, raw.body),
        })
    });
    all.collect()
}

#[test]
fn a_file_is_what_an_edge_would_send() {
    let resources = resolved(HTTP, &Resources::default()).unwrap();
    let config = resources.config();
    assert_eq!(
        config.clusters.names().map(|name| &**name).collect::<Vec<_>>(),
        ["payments"]
    );
    assert_eq!(config.endpoints.get("payments").unwrap().endpoints.len(), 1);
    assert_eq!(
        config.routes.names().map(|name| &**name).collect::<Vec<_>>(),
        ["in/0"]
    );
    assert!(config.listeners.contains("in"));
    // The same in JSON.
    let value = parse(HTTP).unwrap();
    let json = serde_json::to_string_pretty(&value).unwrap();
    let other = resolved(&json, &Resources::default()).unwrap();
    for kind in ResourceKind::ALL {
        assert!(resources.held(kind).eq(other.held(kind)), "{kind:?}");
    }
}

#[test]
fn what_stays_the_same_is_kept_and_what_is_gone_goes() {
    let first = resolved(HTTP, &Resources::default()).unwrap();
    let text = HTTP.replace("status: 404", "status: 410");
    let second = resolved(&text, &first).unwrap();
    let cluster = |of: &Resources| std::sync::Arc::clone(of.config().clusters.get("payments").unwrap());
    assert!(std::sync::Arc::ptr_eq(&cluster(&first), &cluster(&second)));
    let table = |of: &Resources| std::sync::Arc::clone(of.config().routes.get("in/0").unwrap());
    assert!(!std::sync::Arc::ptr_eq(&table(&first), &table(&second)));
    let none = resolved("static_resources: {}", &second).unwrap();
    for kind in ResourceKind::ALL {
        assert_eq!(none.held(kind).count(), 0, "{kind:?}");
    }
}

/// Texts, and what is to stand in their place.
type Changes = &'static [(&'static str, &'static str)];

#[test]
fn all_that_cannot_be_had_is_told_by_its_place() {
    let listener = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config";
    let cases: [(Changes, &[String]); 16] = [
        (&[("static_resources:", "static_resources: 5\nnone:")], &[
            "none: is not supported by this proxy".to_owned(),
            "static_resources: must be an object".to_owned(),
        ]),
        (&[("static_resources:", "admin: {}\nstatic_resources:")], &[
            "admin: is not read from a file: use --admin".to_owned(),
        ]),
        (&[("  clusters:", "  cluster:")], &[
            "static_resources.cluster: there is no such field: use listeners, clusters and secrets".to_owned(),
            format!(
                "{listener}.route_config.virtual_hosts[0].routes[0].route.cluster: \"payments\" is none of static_resources.clusters"
            ),
        ]),
        (&[("type: STATIC", "type: STRICT_DNS")], &[
            "static_resources.clusters[0].type: only STATIC and ORIGINAL_DST are supported: hosts are given by their IP addresses".to_owned(),
        ]),
        (&[("type: STATIC", "type: {}")], &[
            "static_resources.clusters[0].type: only STATIC and ORIGINAL_DST are supported: hosts are given by their IP addresses".to_owned(),
            "static_resources.clusters[0].type: must be one of STATIC, STRICT_DNS, LOGICAL_DNS, EDS, ORIGINAL_DST, not an object".to_owned(),
        ]),
        (&[("type: STATIC", "type: 1")], &[
            "static_resources.clusters[0].type: only STATIC and ORIGINAL_DST are supported: hosts are given by their IP addresses".to_owned(),
        ]),
        (&[("type: STATIC", "type: 4\n    lb_policy: CLUSTER_PROVIDED")], &[
            "static_resources.clusters[0].load_assignment: has no place beside ORIGINAL_DST, whose hosts are those of its clients".to_owned(),
        ]),
        (&[("type: STATIC", "type: 0\n    edsClusterConfig: { service_name: s }")], &[
            "static_resources.clusters[0].edsClusterConfig: has no place beside STATIC, whose hosts stand with it".to_owned(),
        ]),
        (&[("address: 127.0.0.1, port_value: 10001", "address: payments.shop, port_value: 10001")], &[
            "static_resources.clusters[0].load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address: \"payments.shop\" is not an IP address".to_owned(),
        ]),
        // One wrong thing hides no other.
        (
            &[
                ("connect_timeout: 1s", "connect_timeout: 0s"),
                ("stat_prefix: in", "stat_prefix: in\n          add_user_agent: true"),
                ("status: 404", "status: 5"),
            ],
            &[
                "static_resources.clusters[0].connect_timeout: must be more than 0".to_owned(),
                "static_resources.listeners[0].filter_chains[0].http_connection_manager.add_user_agent: is not supported by this proxy".to_owned(),
                format!("{listener}.route_config.virtual_hosts[0].routes[1].direct_response.status: must be 200 to 599"),
            ],
        ),
        (&[("timeout: 1.5s", "timeout: 1500")], &[format!(
            "{listener}.route_config.virtual_hosts[0].routes[0].route.timeout: must be a duration such as 0.5s, not 1500"
        )]),
        (&[("          route_config:", "          rds: {}\n          x_config:")], &[
            format!("{listener}.rds: is not supported in a file: routes stand in route_config"),
            format!("{listener}.route_config: is required"),
            format!("{listener}.x_config: HttpConnectionManager has no such field"),
        ]),
        (&[("  - name: in\n", "  - stat_prefix: in\n")], &[
            "static_resources.listeners[0].name: is required".to_owned(),
        ]),
        (&[("  clusters:", "  clusters:\n  - name: payments")], &[
            "static_resources.clusters[1].name: \"payments\" is the name of static_resources.clusters[0] too".to_owned(),
        ]),
        (&[("    connect_timeout: 1s", "    type: STATIC\n    connect_timeout: 1s")], &[]),
        (&[("    type: STATIC", "    type: ORIGINAL_DST\n    lb_policy: CLUSTER_PROVIDED")], &[
            "static_resources.clusters[0].load_assignment: has no place beside ORIGINAL_DST, whose hosts are those of its clients".to_owned(),
        ]),
    ];
    for (changes, expected) in cases {
        let mut text = HTTP.to_owned();
        for (from, to) in changes {
            assert!(text.contains(from), "{from}");
            text = text.replacen(from, to, 1);
        }
        let told = resolved(&text, &Resources::default()).err().unwrap_or_default();
        if expected.is_empty() {
            // A key twice: the parser says where.
            assert!(
                told.len() == 1 && told[0].contains("duplicate") && told[0].contains("line"),
                "{told:?}"
            );
        } else {
            assert_eq!(told, expected, "{changes:?}");
        }
    }
}

#[test]
fn many_clusters_share_what_an_anchor_has_and_no_alias_is_a_bomb() {
    let mut text =
        "static_resources:\n  clusters:\n  - &shared { name: c, connect_timeout: 2s, type: STATIC }\n"
            .to_owned();
    for number in 0..1_000 {
        text.push_str(&format!("  - {{ <<: *shared, name: c{number} }}\n"));
    }
    let value = parse(&text).unwrap();
    let clusters = value["static_resources"]["clusters"].as_array().unwrap();
    assert_eq!(clusters.len(), 1_001);
    let last = json!({ "name": "c999", "connect_timeout": "2s", "type": "STATIC" });
    assert_eq!(clusters[1_000], last);
    // A text of 64 KiB, said more often than a file may have bytes.
    let text = "x".repeat(64 << 10);
    let bomb = format!("a: &a {text}\nall: [{}]\n", vec!["*a"; 1_100].join(", "));
    assert!(parse(&bomb).is_err());
}

#[test]
fn the_documented_file_can_be_run() {
    let page =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/static-file.md")).unwrap();
    let (_, rest) = page.split_once("```yaml\n").unwrap();
    let (text, _) = rest.split_once("```").unwrap();
    // But for its certificate, which nobody has here.
    let told = resolved(text, &Resources::default()).unwrap_err();
    let is_missing = |told: &String| told.contains("filename: cannot be read: No such file");
    assert!(told.len() == 2 && told.iter().all(is_missing), "{told:?}");
}

#[test]
fn a_file_is_checked_without_being_run() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("proxy.yaml");
    let error = check(&path).unwrap_err().to_string();
    assert!(error.starts_with("cannot read the configuration "), "{error}");
    std::fs::write(&path, HTTP).unwrap();
    let checked = check(&path).unwrap().to_string();
    assert_eq!(checked, "listeners: 1, route tables: 1, clusters: 1, secrets: 0");
    std::fs::write(&path, "static_resources: [").unwrap();
    let error = check(&path).unwrap_err().to_string();
    assert!(error.contains("is neither YAML nor JSON"), "{error}");
    std::fs::write(&path, HTTP.replace("STATIC", "EDS")).unwrap();
    let error = check(&path).unwrap_err().to_string();
    assert!(
        error.contains("cannot be run:\n  static_resources.clusters[0].type: only"),
        "{error}"
    );
}

#[test]
fn of_many_problems_some_are_listed() {
    let problem = |number: usize| Problem {
        path: format!("p{number}"),
        reason: "wrong".to_owned(),
    };
    let many: Vec<Problem> = (0..=PROBLEMS_MAX).map(problem).collect();
    let listed = listed(&many);
    assert!(
        listed.starts_with("\n  p0: wrong\n") && listed.ends_with("\n  and 1 more"),
        "{listed}"
    );
}

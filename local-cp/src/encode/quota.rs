//! Limits over all proxies of a workload: a filter of the listener for each gateway that has one, which only its host switches on, since
//! an Envoy takes none from routes. The edge that says so assigns the parts (docs/adr/0011).

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use envoy_types::pb::envoy::config::core::v3::{GrpcService, TypedExtensionConfig as PbExtension};
use envoy_types::pb::envoy::config::route::v3::FilterConfig;
use envoy_types::pb::envoy::extensions::filters::http::rate_limit_quota::v3::rate_limit_quota_bucket_settings::bucket_id_builder::ValueBuilder;
use envoy_types::pb::envoy::extensions::filters::http::rate_limit_quota::v3::rate_limit_quota_bucket_settings::bucket_id_builder::value_builder::ValueSpecifier;
use envoy_types::pb::envoy::extensions::filters::http::rate_limit_quota::v3::rate_limit_quota_bucket_settings::expired_assignment_behavior::{
    ExpiredAssignmentBehavior as Expired, ReuseLastAssignment,
};
use envoy_types::pb::envoy::extensions::filters::http::rate_limit_quota::v3::rate_limit_quota_bucket_settings::{
    BucketIdBuilder, ExpiredAssignmentBehavior,
};
use envoy_types::pb::envoy::extensions::filters::http::rate_limit_quota::v3::{
    RateLimitQuotaBucketSettings, RateLimitQuotaFilterConfig,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use envoy_types::pb::envoy::r#type::matcher::v3::HttpRequestHeaderMatchInput;
use envoy_types::pb::google::protobuf::Any;
use envoy_types::pb::xds::core::v3::TypedExtensionConfig;
use envoy_types::pb::xds::r#type::matcher::v3::Matcher;
use envoy_types::pb::xds::r#type::matcher::v3::matcher::OnMatch;
use envoy_types::pb::xds::r#type::matcher::v3::matcher::on_match::OnMatch as On;
use envoy_types::util::pack_any;
use tombolo_compiler::http::{HeaderName, Span};
use tombolo_compiler::name::{Fqn, Kind};
use tombolo_compiler::routes::{Over, RateLimit};

use super::duration;
use super::listener::http_filter;
use crate::quota::{GATEWAY, LIMIT};

const FILTER: &str = "envoy.filters.http.rate_limit_quota";
/// The edge, as the bootstrap of an Envoy calls it.
const EDGE: &str = "xds";
/// What moves between proxies takes up to one. Each tells all of its buckets as often, of which clients may make up thousands.
const INTERVAL: Span = Span::from_ms(5000);
/// What was assigned goes on for so long when it is over: as long once more as the shortest that the edge assigns.
const REUSED: Span = Span::from_ms(15_000);

/// Of the host of that name.
pub(super) fn filter_name(host: &str) -> String {
    format!("{FILTER}/{host}")
}

/// On the listener; it does nothing but where a host switches it on.
pub(super) fn of_listener(host: &str, limit: &RateLimit) -> HttpFilter {
    let (domain, gateway) = names(host);
    let config = RateLimitQuotaFilterConfig {
        rlqs_server: Some(GrpcService {
            target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
                cluster_name: EDGE.to_owned(),
                ..EnvoyGrpc::default()
            })),
            ..GrpcService::default()
        }),
        domain,
        bucket_matchers: Some(always(pack_any(bucket(gateway, limit)))),
        ..RateLimitQuotaFilterConfig::default()
    };
    HttpFilter {
        disabled: true,
        ..http_filter(&filter_name(host), pack_any(config))
    }
}

/// Switches it on.
pub(super) fn of_host() -> Any {
    pack_any(FilterConfig {
        config: Some(Any::default()),
        ..FilterConfig::default()
    })
}

/// In whose domain it is, and what tells it from others there. What clients make up takes the room of their workspace, and who says
/// the same domain has one stream.
fn names(host: &str) -> (String, String) {
    let gateway: Option<Fqn> = host.parse().ok();
    let names = gateway.and_then(|gateway| {
        let (workspace, group) = (gateway.ancestor(Kind::Workspace)?, gateway.parent()?);
        Some((
            workspace.to_string(),
            format!("{}/{}", group.leaf(), gateway.leaf()),
        ))
    });
    names.unwrap_or_else(|| (host.to_owned(), host.to_owned()))
}

fn bucket(gateway: String, limit: &RateLimit) -> RateLimitQuotaBucketSettings {
    let said = format!("{}/{}s", limit.requests, limit.per.as_ms() / 1000);
    let by = match &limit.over {
        Over::Gateway { by: Some(header) } => Some((format!("header.{}", header.as_str()), value_of(header))),
        Over::Gateway { by: None } | Over::Proxy => None,
    };
    let texts = [(GATEWAY, gateway), (LIMIT, said)];
    let texts = texts.map(|(name, text)| (name.to_owned(), ValueSpecifier::StringValue(text)));
    let built = |value| ValueBuilder {
        value_specifier: Some(value),
    };
    let parts = texts.into_iter().chain(by);
    let parts: HashMap<_, _> = parts.map(|(name, value)| (name, built(value))).collect();
    RateLimitQuotaBucketSettings {
        bucket_id_builder: Some(BucketIdBuilder {
            bucket_id_builder: parts,
        }),
        reporting_interval: Some(duration(INTERVAL)),
        expired_assignment_behavior: Some(ExpiredAssignmentBehavior {
            expired_assignment_behavior_timeout: Some(duration(REUSED)),
            expired_assignment_behavior: Some(Expired::ReuseLastAssignment(ReuseLastAssignment {})),
        }),
        ..RateLimitQuotaBucketSettings::default()
    }
}

/// An Envoy has no header of the name `host`.
fn value_of(header: &HeaderName) -> ValueSpecifier {
    let name = match header.as_str() {
        "host" => ":authority",
        name => name,
    };
    let input = HttpRequestHeaderMatchInput {
        header_name: name.to_owned(),
    };
    ValueSpecifier::CustomValue(PbExtension {
        name: "header".to_owned(),
        typed_config: Some(pack_any(input)),
    })
}

fn always(settings: Any) -> Matcher {
    let action = TypedExtensionConfig {
        name: "bucket".to_owned(),
        typed_config: Some(settings),
    };
    Matcher {
        on_no_match: Some(Box::new(OnMatch {
            on_match: Some(On::Action(action)),
            ..OnMatch::default()
        })),
        ..Matcher::default()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use prost::Message;
    use serde_json::json;

    use super::*;

    const HOST: &str = "organizations/acme/tenants/t/workspaces/w/gatewaygroups/g/gateways/in";

    /// By name: what it says, or the header that it is.
    fn id(limit: serde_json::Value) -> Vec<(String, String)> {
        let settings = bucket(names(HOST).1, &serde_json::from_value(limit).unwrap());
        let parts = settings.bucket_id_builder.unwrap().bucket_id_builder;
        let mut parts: Vec<_> = parts
            .into_iter()
            .map(|(name, value)| match value.value_specifier.unwrap() {
                ValueSpecifier::StringValue(text) => (name, text),
                ValueSpecifier::CustomValue(input) => {
                    let input = input.typed_config.unwrap().value;
                    let input = HttpRequestHeaderMatchInput::decode(input.as_slice()).unwrap();
                    (name, format!("<{}>", input.header_name))
                }
            })
            .collect();
        parts.sort();
        parts
    }

    #[test]
    fn a_bucket_says_whose_limit_it_is_and_which() {
        for (limit, expected) in [
            (
                json!({"requests": 100, "per": "1m", "over": {"gateway": {}}}),
                &[("gateway", "g/in"), ("limit", "100/60s")][..],
            ),
            (
                json!({"requests": 1, "per": "1s", "over": {"gateway": {"by": "X-User"}}}),
                &[
                    ("gateway", "g/in"),
                    ("header.x-user", "<x-user>"),
                    ("limit", "1/1s"),
                ],
            ),
            // No client says a limit.
            (
                json!({"requests": 1, "per": "1s", "over": {"gateway": {"by": "limit"}}}),
                &[
                    ("gateway", "g/in"),
                    ("header.limit", "<limit>"),
                    ("limit", "1/1s"),
                ],
            ),
            (
                json!({"requests": 1, "per": "24h", "over": {"gateway": {"by": "host"}}}),
                &[
                    ("gateway", "g/in"),
                    ("header.host", "<:authority>"),
                    ("limit", "1/86400s"),
                ],
            ),
        ] {
            let found = id(limit.clone());
            let found: Vec<_> = found.iter().map(|(name, said)| (&**name, &**said)).collect();
            assert_eq!(found, expected, "{limit}");
            let said = found.iter().find(|(name, _)| *name == LIMIT).unwrap().1;
            assert!(crate::quota::is_limit(said), "{said}");
        }
    }

    #[test]
    fn gateways_of_a_workspace_have_a_domain() {
        let workspace = "organizations/acme/tenants/t/workspaces/w";
        assert_eq!(names(HOST), (workspace.to_owned(), "g/in".to_owned()));
        assert_eq!(names("h"), ("h".to_owned(), "h".to_owned()));
    }
}

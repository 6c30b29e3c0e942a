//! What filters do for one host or route: their `typed_per_filter_config`.

use std::collections::{BTreeSet, HashMap};

use envoy_types::pb::envoy::config::core::v3::CidrRange;
use envoy_types::pb::envoy::config::core::v3::RuntimeFractionalPercent;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::rbac::v3::permission::{self, Rule as PermissionRule};
use envoy_types::pb::envoy::config::rbac::v3::principal::{self, Identifier};
use envoy_types::pb::envoy::config::rbac::v3::rbac::Action;
use envoy_types::pb::envoy::config::rbac::v3::{Permission, Policy, Principal, Rbac as Rules};
use envoy_types::pb::envoy::config::route::v3::Route;
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::FaultDelay;
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::fault_delay::FaultDelaySecifier;
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::fault_abort::ErrorType;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault};
use envoy_types::pb::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::{Rbac, RbacPerRoute};
use envoy_types::pb::envoy::r#type::matcher::v3::path_matcher::Rule as PathRule;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{PathMatcher, StringMatcher};
use envoy_types::pb::envoy::r#type::v3::TokenBucket;
use envoy_types::pb::google::protobuf::Any;
use envoy_types::util::pack_any;
use tombolo_compiler::http::{Fault, HeaderName, PlainPath, Share, Span};
use tombolo_compiler::intent::Cors;
use tombolo_compiler::proxy::VirtualHost;
use tombolo_compiler::routes::{Access, AccessRule, HostConduct, Over, RateLimit, SPELLINGS};
use tombolo_compiler::url::WebOrigin;

use super::listener::{ALLOW, CORS, DENY, JWT, RATE_LIMIT, unlimited};
use super::route::{header_matcher, regex, string_matcher};
use super::{duration, header, number, quota, share, token, yes};

/// Envoy refuses to fill a bucket more often.
const FILL_INTERVAL_MIN_MS: u64 = 50;

/// What an answer says to browsers about other origins.
const CORS_HEADERS: [&str; 6] = [
    "access-control-allow-origin",
    "access-control-allow-credentials",
    "access-control-allow-methods",
    "access-control-allow-headers",
    "access-control-expose-headers",
    "access-control-max-age",
];

pub(super) fn of_host(host: &VirtualHost) -> HashMap<String, Any> {
    let HostConduct {
        cors,
        jwt,
        access,
        rate_limit,
    } = &host.conduct;
    let cors = cors.as_ref().map(|cors| (CORS, pack_any(self::cors(cors))));
    let tokens = jwt.as_ref().map(|_| (JWT, pack_any(token::of_host(&host.name))));
    let mut denying = access.as_ref().map(denied);
    if jwt.is_some() {
        let unverified = ("unverified".to_owned(), token::unverified());
        denying.get_or_insert_default().extend([unverified]);
    }
    let denied = denying.map(|policies| (DENY, rbac(Action::Deny, policies)));
    let allowed = access
        .as_ref()
        .map(|access| (ALLOW, rbac(Action::Allow, policies(&access.allow))));
    let limit = rate_limit.as_ref().map(|limit| match limit.over {
        Over::Proxy => {
            let config = pack_any(self::rate_limit(&host.name, limit));
            (RATE_LIMIT.to_owned(), config)
        }
        Over::Gateway { .. } => (quota::filter_name(&host.name), quota::of_host()),
    });
    let configs = [cors, tokens, denied, allowed];
    let configs = configs.into_iter().flatten();
    let configs = configs.map(|(name, config)| (name.to_owned(), config));
    configs.chain(limit).collect()
}

fn policies(rules: &[AccessRule]) -> HashMap<String, Policy> {
    let policies = rules.iter().enumerate().map(|(number, rule)| {
        let policy = Policy {
            permissions: vec![permission(rule)],
            principals: principals(rule),
            ..Policy::default()
        };
        (number.to_string(), policy)
    });
    policies.collect()
}

fn denied(access: &Access) -> HashMap<String, Policy> {
    let mut denied = policies(&access.deny);
    if access.names_paths() {
        let other = SPELLINGS.map(|part| Permission {
            rule: Some(PermissionRule::UrlPath(PathMatcher {
                rule: Some(PathRule::Path(StringMatcher {
                    ignore_case: true,
                    ..string_matcher(MatchPattern::Contains(part.to_owned()))
                })),
            })),
        });
        let policy = Policy {
            permissions: other.into(),
            principals: vec![Principal {
                identifier: Some(Identifier::Any(true)),
            }],
            ..Policy::default()
        };
        denied.insert("spelling".to_owned(), policy);
    }
    denied
}

fn rbac(action: Action, policies: HashMap<String, Policy>) -> Any {
    let rules = Rules {
        action: action as i32,
        policies,
        ..Rules::default()
    };
    pack_any(RbacPerRoute {
        rbac: Some(Rbac {
            rules: Some(rules),
            ..Rbac::default()
        }),
    })
}

/// One of the methods, and one of the paths.
fn permission(rule: &AccessRule) -> Permission {
    let permission = |rule| Permission { rule: Some(rule) };
    let methods = rule.methods.iter().map(|method| {
        let pattern = MatchPattern::Exact(method.as_str().to_owned());
        permission(PermissionRule::Header(header_matcher(":method", pattern)))
    });
    let paths = rule.paths.iter().flat_map(|path| match path {
        PlainPath::Exact(path) => vec![MatchPattern::Exact(path.as_str().to_owned())],
        PlainPath::PathPrefix(prefix) => {
            let prefix = prefix.as_str().trim_end_matches('/');
            let itself = (!prefix.is_empty()).then(|| MatchPattern::Exact(prefix.to_owned()));
            let below = MatchPattern::Prefix(format!("{prefix}/"));
            itself.into_iter().chain([below]).collect()
        }
    });
    let paths = paths.map(|pattern| {
        let path = PathRule::Path(string_matcher(pattern));
        permission(PermissionRule::UrlPath(PathMatcher { rule: Some(path) }))
    });
    let one_of = |rules: Vec<Permission>| {
        let set = permission::Set { rules };
        (!set.rules.is_empty()).then(|| permission(PermissionRule::OrRules(set)))
    };
    let parts: Vec<Permission> = [one_of(methods.collect()), one_of(paths.collect())]
        .into_iter()
        .flatten()
        .collect();
    if parts.is_empty() {
        return permission(PermissionRule::Any(true));
    }
    permission(PermissionRule::AndRules(permission::Set { rules: parts }))
}

/// One of the sources, and each of the claims.
fn principals(rule: &AccessRule) -> Vec<Principal> {
    let principal = |identifier| Principal {
        identifier: Some(identifier),
    };
    let claims = rule
        .claims
        .iter()
        .map(|(name, values)| token::has_claim(name, values));
    let mut parts: Vec<Principal> = claims.collect();
    let blocks = rule.sources.iter().map(|block| {
        let range = CidrRange {
            address_prefix: block.address().to_string(),
            prefix_len: Some(number(block.prefix_bits().into())),
        };
        principal(Identifier::DirectRemoteIp(range))
    });
    let blocks: Vec<Principal> = blocks.collect();
    match (blocks.is_empty(), parts.is_empty()) {
        (true, true) => vec![principal(Identifier::Any(true))],
        (false, true) => blocks,
        (is_empty, false) => {
            if !is_empty {
                parts.push(principal(Identifier::OrIds(principal::Set { ids: blocks })));
            }
            vec![principal(Identifier::AndIds(principal::Set { ids: parts }))]
        }
    }
}

fn cors(cors: &Cors) -> CorsPolicy {
    let origin = |origin: &WebOrigin| {
        let pattern = match origin.wildcard() {
            _ if origin.is_any() => MatchPattern::SafeRegex(regex(".*")),
            Some((scheme, name)) => {
                let name = name.replace('.', r"\.");
                MatchPattern::SafeRegex(regex(&format!("{scheme}[a-z0-9.-]+{name}")))
            }
            None => MatchPattern::Exact(origin.as_str().to_owned()),
        };
        string_matcher(pattern)
    };
    let headers = |names: &BTreeSet<HeaderName>| list(names.iter().map(HeaderName::as_str));
    CorsPolicy {
        allow_origin_string_match: cors.allow_origins.iter().map(origin).collect(),
        allow_methods: list(cors.allow_methods.iter().map(|method| method.as_str())),
        allow_headers: headers(&cors.allow_headers),
        expose_headers: headers(&cors.expose_headers),
        max_age: cors
            .max_age
            .map_or_else(String::new, |age| (age.as_ms() / 1000).to_string()),
        allow_credentials: cors.allow_credentials.then(yes),
        ..CorsPolicy::default()
    }
}

/// What an application says of other origins by itself would go beside what its gateway says; and what one origin was told is
/// not for a cache to tell another.
pub(super) fn speaks_alone(route: &mut Route) {
    route
        .response_headers_to_remove
        .extend(CORS_HEADERS.map(str::to_owned));
    route
        .response_headers_to_add
        .push(header("vary", "origin", HeaderAppendAction::AppendIfExistsOrAdd));
}

fn list<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.collect::<Vec<_>>().join(",")
}

fn rate_limit(host: &str, limit: &RateLimit) -> LocalRateLimit {
    let all = RuntimeFractionalPercent {
        default_value: Some(share(Share::ALL)),
        runtime_key: String::new(),
    };
    LocalRateLimit {
        token_bucket: Some(token_bucket(limit)),
        filter_enabled: Some(all.clone()),
        filter_enforced: Some(all),
        ..unlimited(host)
    }
}

/// As many at once as in the whole time. A time that is too short for Envoy is taken several times.
fn token_bucket(limit: &RateLimit) -> TokenBucket {
    let per_ms = limit.per.as_ms();
    let times = FILL_INTERVAL_MIN_MS.div_ceil(per_ms);
    let requests = limit.requests.get();
    let tokens = u64::from(requests).saturating_mul(times);
    TokenBucket {
        max_tokens: requests,
        tokens_per_fill: Some(number(u32::try_from(tokens).unwrap_or(u32::MAX))),
        fill_interval: Some(duration(Span::from_ms(per_ms.saturating_mul(times)))),
    }
}

pub(super) fn fault(fault: &Fault) -> HttpFault {
    HttpFault {
        delay: fault.delay.map(|delay| FaultDelay {
            percentage: Some(share(delay.percent)),
            fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(duration(delay.duration))),
        }),
        abort: fault.abort.map(|abort| FaultAbort {
            percentage: Some(share(abort.percent)),
            error_type: Some(ErrorType::HttpStatus(abort.status_code.as_u16().into())),
            ..FaultAbort::default()
        }),
        ..HttpFault::default()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_pages_may_do_is_said_in_lists() {
        let given = json!({
            "allowOrigins": ["*", "https://*.example.com:8443", "https://a.example.com"],
            "allowMethods": ["GET", "POST"],
            "exposeHeaders": ["x-b", "x-a"],
            "allowCredentials": true,
            "maxAge": "1h",
        });
        let policy = cors(&serde_json::from_value(given).unwrap());
        let any = string_matcher(MatchPattern::SafeRegex(regex(".*")));
        let one = string_matcher(MatchPattern::Exact("https://a.example.com".to_owned()));
        let below = string_matcher(MatchPattern::SafeRegex(regex(
            r"https://[a-z0-9.-]+\.example\.com:8443",
        )));
        assert_eq!(policy.allow_origin_string_match, [any, below, one]);
        assert_eq!(
            [
                policy.allow_methods,
                policy.allow_headers,
                policy.expose_headers,
                policy.max_age
            ],
            ["GET,POST", "", "x-a,x-b", "3600"]
        );
        assert_eq!(policy.allow_credentials, Some(yes()));
        assert_eq!(
            cors(&serde_json::from_value(json!({"allowOrigins": []})).unwrap()).allow_credentials,
            None
        );
    }

    #[test]
    fn a_bucket_fills_as_fast_as_requests_may_come() {
        for (requests, per, expected) in [
            (5, "1s", (5, 5, 1_000)),
            (1, "50ms", (1, 1, 50)),
            (2, "20ms", (2, 6, 60)),
            (3, "1ms", (3, 150, 50)),
            (1000, "1h", (1000, 1000, 3_600_000)),
        ] {
            let limit = RateLimit {
                requests: std::num::NonZeroU32::new(requests).unwrap(),
                per: per.to_owned().try_into().unwrap(),
                over: Over::Proxy,
            };
            let bucket = token_bucket(&limit);
            let interval = bucket.fill_interval.unwrap();
            let found = (
                bucket.max_tokens,
                bucket.tokens_per_fill.unwrap().value,
                interval.seconds * 1000 + i64::from(interval.nanos) / 1_000_000,
            );
            assert_eq!(found, expected, "{requests} per {per}");
        }
    }
}

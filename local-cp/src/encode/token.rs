//! `envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication`: whose tokens count for which hosts, and what rules ask of
//! their claims.

use std::collections::{BTreeMap, BTreeSet};

use envoy_types::pb::envoy::config::core::v3::HttpUri;
use envoy_types::pb::envoy::config::core::v3::http_uri::HttpUpstreamType;
use envoy_types::pb::envoy::config::rbac::v3::permission::Rule as PermissionRule;
use envoy_types::pb::envoy::config::rbac::v3::principal::{Identifier, Set};
use envoy_types::pb::envoy::config::rbac::v3::{
    MetadataSource, Permission, Policy, Principal, SourcedMetadata,
};
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::jwt_provider::{
    JwksSourceSpecifier, NormalizePayload,
};
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::jwt_requirement::RequiresType;
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::per_route_config::RequirementSpecifier;
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::{
    JwksAsyncFetch, JwtAuthentication, JwtHeader, JwtProvider, JwtRequirement, JwtRequirementOrList,
    PerRouteConfig, RemoteJwks,
};
use envoy_types::pb::envoy::r#type::matcher::v3::double_matcher::MatchPattern as DoublePattern;
use envoy_types::pb::envoy::r#type::matcher::v3::list_matcher::MatchPattern as ListPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::metadata_matcher::PathSegment;
use envoy_types::pb::envoy::r#type::matcher::v3::metadata_matcher::path_segment::Segment;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::value_matcher::MatchPattern as ValuePattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{
    DoubleMatcher, ListMatcher, MetadataMatcher, ValueMatcher,
};
use tombolo_compiler::http::Span;
use tombolo_compiler::intent::JwtIssuer;
use tombolo_compiler::proxy::KeyHost;
use tombolo_compiler::setting::Issuers;
use tombolo_proto::resource::ContentHash;

use super::duration;
use super::listener::JWT;
use super::route::string_matcher;

/// Under which the filters behind find what a token says.
const PAYLOAD: &str = "payload";
/// Every token that counts has it.
const ISSUER: &str = "iss";
/// The one claim that is a list of words in one text (RFC 8693, section 4.2).
const SCOPE: &str = "scope";
/// From here on proxies take some whole numbers for others (2^53).
const NUMBER_MAX: f64 = 9_007_199_254_740_992.0;
/// An issuer answers from memory; whoever waits longer gets no answer at all.
const FETCH_TIMEOUT: Span = Span::from_ms(5000);
/// An Envoy knows a new key when this is over; issuers tell of one hours before they sign by it.
const KEYS_CACHED: Span = Span::from_ms(300_000);

pub(super) fn authentication(issuers: &BTreeMap<String, Issuers>) -> JwtAuthentication {
    let all: BTreeSet<&JwtIssuer> = issuers.values().flat_map(Issuers::iter).collect();
    // Numbered, because what users write makes no names that differ.
    let names: BTreeMap<&JwtIssuer, String> = all
        .into_iter()
        .enumerate()
        .map(|(number, issuer)| (issuer, format!("{number} {}", issuer.issuer)))
        .collect();
    let providers = names
        .iter()
        .map(|(issuer, name)| (name.clone(), provider(issuer)));
    let requirements = issuers.iter().map(|(host, issuers)| {
        let names = issuers.iter().map(|issuer| names[issuer].clone());
        (requirement(host), one_of(names.collect()))
    });
    JwtAuthentication {
        providers: providers.collect(),
        requirement_map: requirements.collect(),
        ..JwtAuthentication::default()
    }
}

/// The requirement of that host.
pub(super) fn of_host(host: &str) -> PerRouteConfig {
    PerRouteConfig {
        requirement_specifier: Some(RequirementSpecifier::RequirementName(requirement(host))),
    }
}

/// Proxies list these to anybody as long as a listener does not have that of a host, so that they tell nothing.
fn requirement(host: &str) -> String {
    ContentHash::of(host.as_bytes()).to_string()
}

/// Every request whose token nobody has verified. The filter that does answers these by itself; but in an Envoy a connection
/// that was open before its listener had that filter goes on without it.
pub(super) fn unverified() -> Policy {
    let present = ValuePattern::PresentMatch(true);
    Policy {
        permissions: vec![Permission {
            rule: Some(PermissionRule::Any(true)),
        }],
        principals: vec![principal(Identifier::NotId(Box::new(claim(ISSUER, present))))],
        ..Policy::default()
    }
}

/// Who has one of the values of the claim, or a list with one of them.
pub(super) fn has_claim(name: &str, values: &BTreeSet<String>) -> Principal {
    let ids = values
        .iter()
        .flat_map(|value| spellings(value))
        .flat_map(|pattern| {
            let item = ValuePattern::ListMatch(Box::new(ListMatcher {
                match_pattern: Some(ListPattern::OneOf(Box::new(ValueMatcher {
                    match_pattern: Some(pattern.clone()),
                }))),
            }));
            [claim(name, pattern), claim(name, item)]
        });
    principal(Identifier::OrIds(Set { ids: ids.collect() }))
}

/// The value as a text, and as what else an issuer may write for it: `true` or a number.
fn spellings(value: &str) -> Vec<ValuePattern> {
    let text = ValuePattern::StringMatch(string_matcher(MatchPattern::Exact(value.to_owned())));
    let truth = value.parse().ok().map(ValuePattern::BoolMatch);
    let number = value
        .parse()
        .ok()
        .filter(|number: &f64| number.abs() < NUMBER_MAX);
    let number = number.map(|number| {
        ValuePattern::DoubleMatch(DoubleMatcher {
            match_pattern: Some(DoublePattern::Exact(number)),
        })
    });
    [Some(text), truth, number].into_iter().flatten().collect()
}

fn claim(name: &str, pattern: ValuePattern) -> Principal {
    let key = |key: &str| PathSegment {
        segment: Some(Segment::Key(key.to_owned())),
    };
    principal(Identifier::SourcedMetadata(SourcedMetadata {
        metadata_matcher: Some(MetadataMatcher {
            filter: JWT.to_owned(),
            path: vec![key(PAYLOAD), key(name)],
            value: Some(ValueMatcher {
                match_pattern: Some(pattern),
            }),
            ..MetadataMatcher::default()
        }),
        metadata_source: MetadataSource::Dynamic as i32,
    }))
}

fn principal(identifier: Identifier) -> Principal {
    Principal {
        identifier: Some(identifier),
    }
}

fn one_of(mut names: Vec<String>) -> JwtRequirement {
    let named = |name| JwtRequirement {
        requires_type: Some(RequiresType::ProviderName(name)),
    };
    // Envoy wants two for a choice.
    if names.len() == 1 {
        return named(names.remove(0));
    }
    JwtRequirement {
        requires_type: Some(RequiresType::RequiresAny(JwtRequirementOrList {
            requirements: names.into_iter().map(named).collect(),
        })),
    }
}

fn provider(issuer: &JwtIssuer) -> JwtProvider {
    let jwks = RemoteJwks {
        http_uri: Some(HttpUri {
            uri: issuer.jwks_uri.to_string(),
            timeout: Some(duration(FETCH_TIMEOUT)),
            http_upstream_type: Some(HttpUpstreamType::Cluster(
                KeyHost::name_of(issuer).unwrap_or_default(),
            )),
        }),
        cache_duration: Some(duration(KEYS_CACHED)),
        // Nobody waits for the keys, and those that an Envoy has stay while the issuer does not answer, until its listener is made
        // anew.
        async_fetch: Some(JwksAsyncFetch {
            fast_listener: true,
            ..JwksAsyncFetch::default()
        }),
        ..RemoteJwks::default()
    };
    JwtProvider {
        issuer: issuer.issuer.clone(),
        audiences: issuer.audiences.iter().cloned().collect(),
        from_headers: vec![JwtHeader {
            name: "authorization".to_owned(),
            value_prefix: "Bearer ".to_owned(),
        }],
        // The gateway checks; what comes behind it may want to know who asks.
        forward: true,
        payload_in_metadata: PAYLOAD.to_owned(),
        normalize_payload_in_metadata: Some(NormalizePayload {
            space_delimited_claims: vec![SCOPE.to_owned()],
        }),
        jwks_source_specifier: Some(JwksSourceSpecifier::RemoteJwks(jwks)),
        ..JwtProvider::default()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_is_a_text_a_truth_or_a_number() {
        let exact = |number| {
            let match_pattern = Some(DoublePattern::Exact(number));
            ValuePattern::DoubleMatch(DoubleMatcher { match_pattern })
        };
        for (value, others) in [
            ("admin", vec![]),
            ("true", vec![ValuePattern::BoolMatch(true)]),
            ("false", vec![ValuePattern::BoolMatch(false)]),
            ("True", vec![]),
            ("7", vec![exact(7.0)]),
            ("-0.5", vec![exact(-0.5)]),
            ("9007199254740991", vec![exact(9_007_199_254_740_991.0)]),
            ("9007199254740992", vec![]),
            ("9007199254740993", vec![]),
            ("inf", vec![]),
            ("nan", vec![]),
            ("", vec![]),
        ] {
            let [text, found @ ..] = &spellings(value)[..] else {
                panic!("{value} has no spelling")
            };
            assert!(matches!(text, ValuePattern::StringMatch(_)), "{value}");
            assert_eq!(found, others, "{value}");
        }
        let Some(Identifier::OrIds(ids)) = has_claim("a", &["true".to_owned()].into()).identifier else {
            panic!("no choice")
        };
        assert_eq!(ids.ids.len(), 4, "each by itself and in a list");
    }

    #[test]
    fn hosts_share_no_more_than_they_name() {
        let issuers = |list| -> Issuers { serde_json::from_value(list).unwrap() };
        let one = json!({"issuer": "a", "jwksUri": "https://a.example.com/keys"});
        let narrow = json!({"issuer": "a", "audiences": ["x"], "jwksUri": "https://a.example.com/keys"});
        let two = json!({"issuer": "b", "jwksUri": "https://[::1]:8443/keys"});
        let authentication = authentication(
            &[
                ("first".to_owned(), issuers(json!([one]))),
                ("second".to_owned(), issuers(json!([two, narrow]))),
                ("third".to_owned(), issuers(json!([one]))),
            ]
            .into(),
        );
        let asked = |host: &str| -> Vec<(String, Vec<String>, String)> {
            let names = match authentication.requirement_map[&requirement(host)]
                .requires_type
                .clone()
                .unwrap()
            {
                RequiresType::ProviderName(name) => vec![name],
                RequiresType::RequiresAny(list) => {
                    let named = list.requirements.into_iter().map(|one| match one.requires_type {
                        Some(RequiresType::ProviderName(name)) => name,
                        other => panic!("{other:?}"),
                    });
                    named.collect()
                }
                other => panic!("{other:?}"),
            };
            let provider = |name: &String| {
                let provider = authentication.providers[name].clone();
                let Some(JwksSourceSpecifier::RemoteJwks(jwks)) = provider.jwks_source_specifier else {
                    panic!("{name} has no remote keys")
                };
                let Some(HttpUpstreamType::Cluster(cluster)) = jwks.http_uri.unwrap().http_upstream_type
                else {
                    panic!("{name} is asked nowhere")
                };
                (provider.issuer, provider.audiences, cluster)
            };
            names.iter().map(provider).collect()
        };
        let a = |audiences: &[&str]| {
            let audiences = audiences.iter().map(|audience| (*audience).to_owned());
            (
                "a".to_owned(),
                audiences.collect(),
                "jwks/a.example.com:443".to_owned(),
            )
        };
        let b = || ("b".to_owned(), vec![], "jwks/::1:8443".to_owned());
        assert_eq!(asked("first"), [a(&[])]);
        assert_eq!(asked("second"), [a(&["x"]), b()]);
        assert_eq!(asked("third"), [a(&[])]);
        assert_eq!(authentication.providers.len(), 3, "those that differ, once");
        for name in authentication.requirement_map.keys() {
            assert!(
                !["first", "second", "third"].contains(&name.as_str()),
                "{name} tells whose it is"
            );
        }
    }
}

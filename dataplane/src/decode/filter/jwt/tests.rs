#![allow(clippy::unwrap_used)]

use envoy_types::pb::envoy::config::route::v3::RouteMatch;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::{
    JwksAsyncFetch, JwtRequirementOrList, ProviderWithAudiences,
};
use envoy_types::pb::google::protobuf::{Duration as PbDuration, UInt32Value};
use envoy_types::util::pack_any;
use serde_json::json;

use super::*;
use crate::jwks::samples::{Issuer, keys};

fn local_keys(text: &str) -> Option<JwksSourceSpecifier> {
    Some(JwksSourceSpecifier::LocalJwks(DataSource {
        specifier: Some(Specifier::InlineString(text.to_owned())),
        ..DataSource::default()
    }))
}

fn good() -> JwtProvider {
    let set = keys(&[Issuer::ed25519().key(&json!({}))]);
    JwtProvider {
        issuer: "i".to_owned(),
        jwks_source_specifier: local_keys(&set),
        ..JwtProvider::default()
    }
}

fn seconds(seconds: i64) -> Option<PbDuration> {
    Some(PbDuration { seconds, nanos: 0 })
}

fn remote_keys() -> RemoteJwks {
    RemoteJwks {
        http_uri: Some(HttpUri {
            uri: "https://issuer.example:8443/keys?a=b".to_owned(),
            timeout: seconds(5),
            http_upstream_type: Some(HttpUpstreamType::Cluster("issuer".to_owned())),
        }),
        ..RemoteJwks::default()
    }
}

fn remote_at(change: impl FnOnce(&mut RemoteJwks)) -> JwtProvider {
    let mut remote = remote_keys();
    change(&mut remote);
    JwtProvider {
        jwks_source_specifier: Some(JwksSourceSpecifier::RemoteJwks(remote)),
        ..good()
    }
}

fn requires(requires_type: RequiresType) -> JwtRequirement {
    JwtRequirement {
        requires_type: Some(requires_type),
    }
}

fn named(name: &str) -> JwtRequirement {
    requires(RequiresType::ProviderName(name.to_owned()))
}

fn any_of(requirements: Vec<JwtRequirement>) -> JwtRequirement {
    requires(RequiresType::RequiresAny(JwtRequirementOrList { requirements }))
}

fn taken(pb: &JwtAuthentication) -> Result<Arc<Authentication>, Reason> {
    of_listener(&pack_any(pb.clone())).map(|jwt| jwt.authentication.unwrap())
}

#[test]
fn providers_are_taken_or_refused() {
    let with = |change: fn(&mut JwtProvider)| {
        let mut provider = good();
        change(&mut provider);
        provider
    };
    let uri = |change: fn(&mut HttpUri)| remote_at(|remote| change(remote.http_uri.as_mut().unwrap()));
    let cases = [
        (good(), ""),
        (remote_at(|_| {}), ""),
        (
            with(|pb| pb.jwks_source_specifier = None),
            "jwks_source_specifier: is required",
        ),
        (
            with(|pb| pb.jwks_source_specifier = local_keys("x")),
            "local_jwks.inline_string: is not a JSON object",
        ),
        (
            with(|pb| pb.jwks_source_specifier = local_keys(r#"{"keys":[{"kty":"oct","k":"AA"}]}"#)),
            "local_jwks.inline_string: has no public key for signatures that this proxy knows",
        ),
        (
            with(|pb| pb.clear_route_cache = true),
            "clear_route_cache: is not supported by this proxy",
        ),
        (
            with(|pb| pb.header_in_metadata = "a".into()),
            "header_in_metadata: is not supported by this proxy",
        ),
        (
            with(|pb| pb.forward_payload_header = "a b".into()),
            "forward_payload_header: \"a b\" is not a header name",
        ),
        (
            with(|pb| pb.forward_payload_header = "Host".into()),
            "forward_payload_header: host cannot be changed",
        ),
        (
            with(|pb| pb.forward_payload_header = "Transfer-Encoding".into()),
            "forward_payload_header: transfer-encoding cannot be changed",
        ),
        (
            with(|pb| {
                pb.from_headers = vec![JwtHeader {
                    name: "content-length".into(),
                    ..Default::default()
                }];
            }),
            "from_headers[0].name: content-length cannot be changed",
        ),
        (
            with(|pb| pb.from_headers = vec![JwtHeader::default()]),
            "from_headers[0].name: \"\" is not a header name",
        ),
        (
            with(|pb| pb.from_params = vec![String::new()]),
            "from_params[0]: is empty",
        ),
        (
            with(|pb| pb.from_cookies = vec!["a".into(), String::new()]),
            "from_cookies[1]: is empty",
        ),
        (
            with(|pb| {
                pb.claim_to_headers = vec![JwtClaimToHeader {
                    header_name: "a".into(),
                    ..Default::default()
                }];
            }),
            "claim_to_headers[0].claim_name: is required",
        ),
        (
            with(|pb| pb.max_lifetime = seconds(-1)),
            "max_lifetime: is negative",
        ),
        (
            remote_at(|pb| pb.http_uri = None),
            "remote_jwks.http_uri: is required",
        ),
        (
            remote_at(|pb| pb.cache_duration = seconds(0)),
            "remote_jwks.cache_duration: must be at least 1 s",
        ),
        (
            uri(|pb| pb.uri = "/keys".into()),
            "remote_jwks.http_uri.uri: has no host",
        ),
        (
            uri(|pb| pb.uri = "http://a b".into()),
            "remote_jwks.http_uri.uri: \"http://a b\" is not a URL",
        ),
        (
            uri(|pb| pb.timeout = None),
            "remote_jwks.http_uri.timeout: is required",
        ),
        (
            uri(|pb| pb.http_upstream_type = Some(HttpUpstreamType::Cluster(String::new()))),
            "remote_jwks.http_uri.cluster: is required",
        ),
        (
            remote_at(|pb| {
                pb.retry_policy = Some(PbRetryPolicy {
                    num_retries: Some(UInt32Value { value: 101 }),
                    ..Default::default()
                });
            }),
            "remote_jwks.retry_policy.num_retries: is more than 100",
        ),
        (
            remote_at(|pb| {
                pb.retry_policy = Some(PbRetryPolicy {
                    retry_on: "5xx".into(),
                    ..Default::default()
                });
            }),
            "remote_jwks.retry_policy.retry_on: is not supported by this proxy",
        ),
    ];
    for (provider, reason) in cases {
        let pb = JwtAuthentication {
            providers: [("p".to_owned(), provider)].into(),
            ..JwtAuthentication::default()
        };
        let found = taken(&pb).err().unwrap_or_default();
        let expected = if reason.is_empty() {
            String::new()
        } else {
            format!("providers[p].{reason}")
        };
        assert_eq!(found, expected, "{pb:?}");
    }
}

#[test]
fn what_is_not_said_is_as_in_envoy() {
    let provider = provider(remote_at(|_| {})).unwrap();
    assert_eq!(provider.skew_seconds, 60);
    assert_eq!(provider.places.len(), 2);
    let Keys::Remote(keys) = &provider.keys else {
        unreachable!()
    };
    assert_eq!(
        keys.at,
        Remote {
            authority: "issuer.example:8443".parse().unwrap(),
            path: "/keys?a=b".parse().unwrap(),
            cluster: "issuer".into(),
            timeout: Duration::from_secs(5),
            cached: Duration::from_secs(600),
            again: Duration::from_secs(1),
            retries_max: 0,
            back_off: BACK_OFF_DEFAULT,
        }
    );
    let fetched = JwksAsyncFetch {
        fast_listener: true,
        failed_refetch_duration: seconds(7),
    };
    let mut said = remote_keys();
    said.async_fetch = Some(fetched);
    assert_eq!(remote(said).unwrap().again, Duration::from_secs(7));
}

#[test]
fn requirements_are_of_providers_that_are_there() {
    let lenient = || requires(RequiresType::AllowMissing(Default::default()));
    let failed = || requires(RequiresType::AllowMissingOrFailed(Default::default()));
    let only = |provider| Requirement::Provider {
        provider,
        audiences: None,
    };
    let names: Names = [("a".to_owned(), 0), ("b".to_owned(), 1)].into();
    let audiences = ProviderWithAudiences {
        provider_name: "b".to_owned(),
        audiences: vec!["x".to_owned()],
    };
    use Requirement::{Missing, OneOf, Whatever};
    for (pb, expected) in [
        (JwtRequirement::default(), Ok(None)),
        (named("b"), Ok(Some(only(1)))),
        (
            named("c"),
            Err("provider_name: \"c\" is not one of the providers".to_owned()),
        ),
        (
            requires(RequiresType::ProviderAndAudiences(audiences)),
            Ok(Some(Requirement::Provider {
                provider: 1,
                audiences: Some(Audiences::new(&["x".to_owned()])),
            })),
        ),
        (lenient(), Ok(Some(Missing([0, 1].into())))),
        (
            any_of(vec![named("a")]),
            Err("requires_any.requirements: at least two are required".to_owned()),
        ),
        (
            any_of(vec![named("a"), named("b")]),
            Ok(Some(OneOf([only(0), only(1)].into()))),
        ),
        (
            any_of(vec![lenient(), named("b")]),
            Ok(Some(OneOf([only(1), Missing([1].into())].into()))),
        ),
        (
            any_of(vec![lenient(), failed(), named("b")]),
            Ok(Some(OneOf([only(1), Whatever([1].into())].into()))),
        ),
        (
            any_of(vec![lenient(), failed()]),
            Ok(Some(OneOf([Whatever([0, 1].into())].into()))),
        ),
        (
            any_of(vec![named("a"), named("c")]),
            Err("requires_any.requirements[1].provider_name: \"c\" is not one of the providers".to_owned()),
        ),
        (
            requires(RequiresType::ExtractOnlyWithoutValidation(Default::default())),
            Err("extract_only_without_validation: is not supported by this proxy".to_owned()),
        ),
    ] {
        assert_eq!(requirement(pb.clone(), &names), expected, "{pb:?}");
    }
}

#[test]
fn rules_name_what_there_is() {
    let rule = |requirement_type| RequirementRule {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
            ..RouteMatch::default()
        }),
        requirement_type,
    };
    let pb = |rules| JwtAuthentication {
        providers: [("p".to_owned(), good())].into(),
        requirement_map: [("r".to_owned(), named("p"))].into(),
        rules,
        ..JwtAuthentication::default()
    };
    let by_name = |name: &str| rule(Some(RequirementType::RequirementName(name.to_owned())));
    let found = taken(&pb(vec![by_name("r"), rule(None)])).unwrap();
    assert!(found.rules[0].1.is_some() && found.rules[1].1.is_none());
    assert_eq!(
        taken(&pb(vec![by_name("x")])).unwrap_err(),
        "rules[0].requirement_name: \"x\" is not in requirement_map"
    );
    let blind = RequirementRule::default();
    assert_eq!(
        taken(&pb(vec![blind])).unwrap_err(),
        "rules[0].match: is required"
    );
}

#[test]
fn routes_name_a_requirement_or_none() {
    let pb = |requirement_specifier| {
        pack_any(PerRouteConfig {
            requirement_specifier,
        })
    };
    for (specifier, expected) in [
        (Some(RequirementSpecifier::Disabled(true)), Ok(Asks::Nothing)),
        (
            Some(RequirementSpecifier::Disabled(false)),
            Err("disabled: must be true"),
        ),
        (
            Some(RequirementSpecifier::RequirementName("r".into())),
            Ok(Asks::Named("r".into())),
        ),
        (
            Some(RequirementSpecifier::RequirementName(String::new())),
            Err("requirement_name: is empty"),
        ),
        (None, Err("requirement_specifier: is required")),
    ] {
        let found = of_route(&pb(specifier)).map(|jwt| jwt.asks);
        assert_eq!(found, expected.map_err(str::to_owned));
    }
}

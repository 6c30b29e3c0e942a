//! Tokens (JWT) that let requests in, and those that do not. They are signed here, by a key that lasts as long as the test.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::jwt_provider::JwksSourceSpecifier;
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::jwt_requirement::RequiresType;
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::per_route_config::RequirementSpecifier;
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::{
    JwtAuthentication, JwtClaimToHeader, JwtHeader, JwtProvider, JwtRequirement, JwtRequirementAndList,
    JwtRequirementOrList, PerRouteConfig, ProviderWithAudiences,
};
use envoy_types::pb::google::protobuf::Empty;
use envoy_types::util::pack_any;
use http::Method;
use rcgen::{KeyPair, PKCS_ED25519, SigningKey};
use serde_json::{Value, json};

use super::filters::{TOKENS, told};
use super::{Site, passes, prefix, site};
use crate::case::{Case, Expect, GET};

const ISSUER: &str = "https://issuer.test";
const OTHER_ISSUER: &str = "https://other.test";
const HOUR_SECONDS: u64 = 3600;

/// Both issuers' own, and one that is nobody's.
static KEYS: LazyLock<[KeyPair; 3]> = LazyLock::new(|| {
    [(); 3].map(|()| KeyPair::generate_for(&PKCS_ED25519).expect("invariant: keys of this kind can be made"))
});

pub(super) fn authentication() -> JwtAuthentication {
    let provider = |issuer: &str, key: &KeyPair| JwtProvider {
        issuer: issuer.to_owned(),
        audiences: vec!["shop".to_owned(), "store".to_owned()],
        jwks_source_specifier: Some(JwksSourceSpecifier::LocalJwks(DataSource {
            specifier: Some(Specifier::InlineString(key_set(key))),
            ..DataSource::default()
        })),
        ..JwtProvider::default()
    };
    let [own, other, _] = &*KEYS;
    let one = || provider(ISSUER, own);
    let providers = [
        ("one", one()),
        ("other", provider(OTHER_ISSUER, other)),
        (
            "forwarded",
            JwtProvider {
                forward: true,
                forward_payload_header: "x-payload".to_owned(),
                claim_to_headers: vec![JwtClaimToHeader {
                    header_name: "x-subject".to_owned(),
                    claim_name: "sub".to_owned(),
                    ..JwtClaimToHeader::default()
                }],
                ..one()
            },
        ),
        (
            "elsewhere",
            JwtProvider {
                from_headers: vec![JwtHeader {
                    name: "x-token".to_owned(),
                    value_prefix: "Key ".to_owned(),
                }],
                from_params: vec!["token".to_owned()],
                from_cookies: vec!["token".to_owned()],
                ..one()
            },
        ),
        (
            "strict",
            JwtProvider {
                require_expiration: true,
                ..one()
            },
        ),
    ];
    let named = |name: &str| RequiresType::ProviderName(name.to_owned());
    let requirements = || [named("one"), named("other")].map(required).into();
    let any = |more| {
        RequiresType::RequiresAny(JwtRequirementOrList {
            requirements: [required(named("one")), required(more)].into(),
        })
    };
    let requirement_map = [
        ("one", named("one")),
        ("forwarded", named("forwarded")),
        ("elsewhere", named("elsewhere")),
        ("strict", named("strict")),
        ("either", any(named("other"))),
        (
            "both",
            RequiresType::RequiresAll(JwtRequirementAndList {
                requirements: requirements(),
            }),
        ),
        ("missing", any(RequiresType::AllowMissing(Empty::default()))),
        (
            "failed",
            any(RequiresType::AllowMissingOrFailed(Empty::default())),
        ),
        (
            "audience",
            RequiresType::ProviderAndAudiences(ProviderWithAudiences {
                provider_name: "one".to_owned(),
                audiences: vec!["warehouse".to_owned()],
            }),
        ),
    ];
    JwtAuthentication {
        providers: HashMap::from(providers.map(|(name, provider)| (name.to_owned(), provider))),
        requirement_map: HashMap::from(
            requirement_map.map(|(name, requires)| (name.to_owned(), required(requires))),
        ),
        bypass_cors_preflight: true,
        ..JwtAuthentication::default()
    }
}

pub(super) fn sites() -> Vec<Site> {
    let by_name = |name: &str| RequirementSpecifier::RequirementName(name.to_owned());
    let route = |path: &str, specifier| {
        let config = PerRouteConfig {
            requirement_specifier: Some(specifier),
        };
        told(passes(prefix(path)), TOKENS, pack_any(config))
    };
    let routes = vec![
        route("/one", by_name("one")),
        route("/forwarded", by_name("forwarded")),
        route("/elsewhere", by_name("elsewhere")),
        route("/strict", by_name("strict")),
        route("/either", by_name("either")),
        route("/both", by_name("both")),
        route("/missing", by_name("missing")),
        route("/failed", by_name("failed")),
        route("/audience", by_name("audience")),
        route("/off", RequirementSpecifier::Disabled(true)),
        passes(prefix("/")),
    ];
    let yes: &'static [Expect] = &[Expect::Says("\"by\"")];
    let refused = |words| -> &'static [Expect] {
        Vec::from([
            Expect::Status(401),
            Expect::Body(words),
            Expect::NoHeader("x-answered-by"),
        ])
        .leak()
    };
    let [own, other, nobodys] = &*KEYS;
    let good = token(&claims(&json!({})), own);
    let of_other = token(&claims(&json!({"iss": OTHER_ISSUER})), other);
    let changed = |change: &Value| token(&claims(change), own);
    let now = now_seconds();
    let (long_ago, then) = (now - HOUR_SECONDS, now + HOUR_SECONDS);
    let missing = refused("Jwt is missing");
    let bearer = |path, token: &str| with_header(path, "authorization", &format!("Bearer {token}"));
    let malformed = "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections";
    let rows: Vec<(Case, &[Expect])> = vec![
        (
            bearer("/one", &good),
            &[Expect::Says("\"by\""), Expect::SawNone("authorization")],
        ),
        (
            Case { path: "/one", ..GET },
            &[
                Expect::Status(401),
                Expect::Body("Jwt is missing"),
                Expect::Header("www-authenticate", "Bearer realm=\"http://tokens.test/one\""),
            ],
        ),
        (
            bearer("/one", &changed(&json!({"exp": long_ago}))),
            &[
                Expect::Status(401),
                Expect::Body("Jwt is expired"),
                Expect::Header(
                    "www-authenticate",
                    "Bearer realm=\"http://tokens.test/one\", error=\"invalid_token\"",
                ),
            ],
        ),
        (
            bearer("/one", &changed(&json!({"nbf": then}))),
            refused("Jwt not yet valid"),
        ),
        // Clocks may differ by a minute.
        (bearer("/one", &changed(&json!({"exp": now - 20}))), yes),
        (bearer("/one", &changed(&json!({"nbf": now + 20}))), yes),
        (bearer("/one", &changed(&json!({"exp": null}))), yes),
        (bearer("/strict", &good), yes),
        (
            bearer("/strict", &changed(&json!({"exp": null}))),
            &[Expect::Status(401), Expect::NoHeader("x-answered-by")],
        ),
        (
            bearer("/one", &changed(&json!({"iss": "https://nobody.test"}))),
            refused("Jwt issuer is not configured"),
        ),
        (
            bearer("/one", &changed(&json!({"aud": "bank"}))),
            &[
                Expect::Status(403),
                Expect::Body("Audiences in Jwt are not allowed"),
            ],
        ),
        (bearer("/one", &changed(&json!({"aud": ["bank", "store"]}))), yes),
        (
            bearer("/one", &changed(&json!({"aud": null}))),
            &[Expect::Status(403)],
        ),
        (
            bearer("/one", &token(&claims(&json!({})), nobodys)),
            refused("Jwt verification fails"),
        ),
        (bearer("/one", "a.b"), refused(malformed)),
        (bearer("/one", &format!("{good}.more")), &[Expect::Status(401)]),
        (bearer("/one", &unsigned()), &[Expect::Status(401)]),
        (with_header("/one", "authorization", "Basic YTpi"), missing),
        (with_header("/one", "x-token", &format!("Key {good}")), missing),
        (
            bearer("/forwarded", &good),
            &[
                Expect::SawSome("authorization"),
                Expect::SawSome("x-payload"),
                Expect::SawHeader("x-subject", "ann"),
            ],
        ),
        (with_header("/elsewhere", "x-token", &format!("Key {good}")), yes),
        (
            with_header("/elsewhere", "cookie", &format!("a=b; token={good}")),
            yes,
        ),
        (in_query("/elsewhere", &good), yes),
        (bearer("/elsewhere", &good), missing),
        (bearer("/either", &good), yes),
        (bearer("/either", &of_other), yes),
        (bearer("/one", &of_other), refused("Jwt issuer is not configured")),
        (bearer("/both", &good), &[Expect::Status(401)]),
        (
            Case {
                path: "/missing",
                ..GET
            },
            yes,
        ),
        (bearer("/missing", &good), yes),
        (
            bearer("/missing", &changed(&json!({"exp": long_ago}))),
            &[Expect::Status(401)],
        ),
        (
            Case {
                path: "/failed",
                ..GET
            },
            yes,
        ),
        (bearer("/failed", &changed(&json!({"exp": long_ago}))), yes),
        (bearer("/audience", &good), &[Expect::Status(403)]),
        (bearer("/audience", &changed(&json!({"aud": "warehouse"}))), yes),
        (Case { path: "/off", ..GET }, yes),
        (GET, yes),
        (
            Case {
                path: "/one",
                method: Method::OPTIONS,
                headers: &[
                    ("origin", "https://pages.test"),
                    ("access-control-request-method", "PUT"),
                ],
                ..GET
            },
            yes,
        ),
        (
            Case {
                path: "/one",
                method: Method::POST,
                headers: &[("content-type", "application/grpc")],
                ..GET
            },
            &[
                Expect::Status(200),
                Expect::Header("grpc-status", "16"),
                Expect::Header("grpc-message", "Jwt is missing"),
            ],
        ),
    ];
    vec![site("tokens", "tokens.test", routes, &rows)]
}

fn required(requires: RequiresType) -> JwtRequirement {
    JwtRequirement {
        requires_type: Some(requires),
    }
}

/// What a good token claims, with this in place of it; null is nothing at all.
fn claims(change: &Value) -> Value {
    let mut claims = json!({
        "iss": ISSUER,
        "sub": "ann",
        "aud": "shop",
        "exp": now_seconds() + HOUR_SECONDS,
    });
    for (name, value) in change.as_object().into_iter().flatten() {
        claims[name] = value.clone();
    }
    if let Some(claims) = claims.as_object_mut() {
        claims.retain(|_, value| !value.is_null());
    }
    claims
}

fn token(claims: &Value, key: &KeyPair) -> String {
    let head = json!({"alg": "EdDSA", "typ": "JWT", "kid": "k"});
    let signed = format!("{}.{}", encoded(&head), encoded(claims));
    let signature = key
        .sign(signed.as_bytes())
        .expect("invariant: a key of this kind can sign");
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// With `alg: none`.
fn unsigned() -> String {
    format!(
        "{}.{}.",
        encoded(&json!({"alg": "none"})),
        encoded(&claims(&json!({})))
    )
}

fn encoded(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn key_set(key: &KeyPair) -> String {
    let x = URL_SAFE_NO_PAD.encode(key.public_key_raw());
    json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "k", "x": x}]})
        .to_string()
}

fn with_header(path: &'static str, name: &'static str, value: &str) -> Case {
    let headers = Vec::from([(name, &*value.to_owned().leak())]).leak();
    Case { path, headers, ..GET }
}

fn in_query(path: &str, token: &str) -> Case {
    Case {
        path: format!("{path}?token={token}").leak(),
        ..GET
    }
}

fn now_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

//! `envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication`, and `PerRouteConfig` of routes.

use std::collections::BTreeMap;
use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::http_uri::HttpUpstreamType;
use envoy_types::pb::envoy::config::core::v3::{
    BackoffStrategy, DataSource, HttpUri, RetryPolicy as PbRetryPolicy,
};
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::jwt_provider::JwksSourceSpecifier;
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::jwt_requirement::RequiresType;
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::per_route_config::RequirementSpecifier;
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::requirement_rule::RequirementType;
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::{
    JwtAuthentication, JwtClaimToHeader, JwtHeader, JwtProvider, JwtRequirement, PerRouteConfig, RemoteJwks,
    RequirementRule,
};
use envoy_types::pb::google::protobuf::Any;
use http::Uri;
use http::header::{AUTHORIZATION, HeaderName};
use http::uri::PathAndQuery;

use crate::decode::fields::{At, Reason, any, done, duration, header_name, positive, required};
use crate::decode::matcher::{of_route as route_match, string};
use crate::filter::{
    Asks, Audiences, Authentication, ClaimHeader, Expiration, Jwt, Keys, PayloadHeader, Place, Provider,
    Requirement,
};
use crate::header_changes::is_framing;
use crate::jwks::{KeySet, Remote, RemoteKeys};
use crate::matcher::RouteMatcher;
use crate::retry::BackOff;

/// Envoy's, where none is given.
const SKEW_DEFAULT_SECONDS: u64 = 60;
const CACHED_DEFAULT: Duration = Duration::from_secs(10 * 60);
const AGAIN_DEFAULT: Duration = Duration::from_secs(1);
const BACK_OFF_DEFAULT: BackOff = BackOff {
    base: Duration::from_secs(1),
    max: Duration::from_secs(10),
};
/// An issuer is not asked more often.
const CACHED_MIN: Duration = Duration::from_secs(1);
/// Each would hold up the next fetch.
const FETCH_RETRIES_MAX: u32 = 100;

/// Providers by their names, in the order of these.
type Names = BTreeMap<String, usize>;

pub(super) fn of_listener(config: &Any) -> Result<Jwt, Reason> {
    let mut pb: JwtAuthentication = any(config)?;
    take(&mut pb.stat_prefix);
    let given: BTreeMap<String, JwtProvider> = take(&mut pb.providers).into_iter().collect();
    let names: Names = given.keys().cloned().zip(0..).collect();
    let mut providers = Vec::new();
    for (name, one) in given {
        providers.push(provider(one).at_key("providers", &name)?);
    }
    let given: BTreeMap<String, JwtRequirement> = take(&mut pb.requirement_map).into_iter().collect();
    let mut named = BTreeMap::new();
    for (name, one) in given {
        let required = requirement(one, &names).at_key("requirement_map", &name)?;
        named.insert(Box::from(name), required);
    }
    let mut rules = Vec::new();
    for (index, one) in take(&mut pb.rules).into_iter().enumerate() {
        rules.push(rule(one, &names, &named).at_index("rules", index)?);
    }
    let authentication = Authentication {
        providers: providers.into(),
        rules: rules.into(),
        named,
        lets_preflights_pass: take(&mut pb.bypass_cors_preflight),
        says_nothing: take(&mut pb.strip_failure_response),
    };
    done(&pb)?;
    Ok(Jwt {
        authentication: Some(Arc::new(authentication)),
        asks: Asks::ByRules,
    })
}

pub(super) fn of_route(config: &Any) -> Result<Jwt, Reason> {
    let mut pb: PerRouteConfig = any(config)?;
    let asks = match required(pb.requirement_specifier.take()).at("requirement_specifier")? {
        RequirementSpecifier::Disabled(true) => Asks::Nothing,
        // As in Envoy.
        RequirementSpecifier::Disabled(false) => return Err("disabled: must be true".to_owned()),
        RequirementSpecifier::RequirementName(name) if name.is_empty() => {
            return Err("requirement_name: is empty".to_owned());
        }
        RequirementSpecifier::RequirementName(name) => Asks::Named(name.into()),
    };
    done(&pb)?;
    Ok(Jwt {
        authentication: None,
        asks,
    })
}

fn rule(
    mut pb: RequirementRule,
    names: &Names,
    named: &BTreeMap<Box<str>, Option<Requirement>>,
) -> Result<(RouteMatcher, Option<Requirement>), Reason> {
    let matcher = route_match(required(pb.r#match.take()).at("match")?).at("match")?;
    let required = match pb.requirement_type.take() {
        None => None,
        Some(RequirementType::Requires(one)) => requirement(one, names).at("requires")?,
        Some(RequirementType::RequirementName(name)) => {
            let known = named.get(&*name);
            let known =
                known.ok_or_else(|| format!("requirement_name: {name:?} is not in requirement_map"))?;
            known.clone()
        }
    };
    done(&pb)?;
    Ok((matcher, required))
}

/// None where nothing is required.
fn requirement(pb: JwtRequirement, names: &Names) -> Result<Option<Requirement>, Reason> {
    let provider = |name: &str| {
        let known = names.get(name).copied();
        known.ok_or_else(|| format!("provider_name: {name:?} is not one of the providers"))
    };
    let all = || names.values().copied().collect();
    let Some(required) = pb.requires_type else {
        return Ok(None);
    };
    Ok(Some(match required {
        RequiresType::ProviderName(name) => Requirement::Provider {
            provider: provider(&name)?,
            audiences: None,
        },
        RequiresType::ProviderAndAudiences(both) => Requirement::Provider {
            provider: provider(&both.provider_name).at("provider_and_audiences")?,
            audiences: Some(Audiences::new(&both.audiences)),
        },
        RequiresType::RequiresAll(list) => {
            let list = requirements(list.requirements, names).at("requires_all")?;
            Requirement::All(list.into())
        }
        RequiresType::RequiresAny(list) => one_of(requirements(list.requirements, names).at("requires_any")?),
        RequiresType::AllowMissing(_) => Requirement::Missing(all()),
        RequiresType::AllowMissingOrFailed(_) => Requirement::Whatever(all()),
        RequiresType::ExtractOnlyWithoutValidation(_) => {
            return Err("extract_only_without_validation: is not supported by this proxy".to_owned());
        }
    }))
}

fn requirements(given: Vec<JwtRequirement>, names: &Names) -> Result<Vec<Requirement>, Reason> {
    if given.len() < 2 {
        return Err("requirements: at least two are required".to_owned());
    }
    let mut list = Vec::new();
    for (index, one) in given.into_iter().enumerate() {
        list.extend(requirement(one, names).at_index("requirements", index)?);
    }
    Ok(list)
}

/// As in Envoy, what lets requests pass without a token is asked last, and of the providers beside it, if there are any.
fn one_of(given: Vec<Requirement>) -> Requirement {
    let (lenient, mut some): (Vec<_>, Vec<_>) = given
        .into_iter()
        .partition(|one| matches!(one, Requirement::Missing(_) | Requirement::Whatever(_)));
    let beside: Box<[usize]> = some
        .iter()
        .filter_map(|one| match one {
            Requirement::Provider { provider, .. } => Some(*provider),
            _ => None,
        })
        .collect();
    let takes_all = |one: &Requirement| matches!(one, Requirement::Whatever(_));
    let takes_whatever = lenient.iter().any(takes_all);
    some.extend(lenient.into_iter().next().map(|one| {
        let of = match one {
            Requirement::Missing(all) | Requirement::Whatever(all) if beside.is_empty() => all,
            _ => beside,
        };
        if takes_whatever {
            Requirement::Whatever(of)
        } else {
            Requirement::Missing(of)
        }
    }));
    Requirement::OneOf(some.into())
}

fn provider(mut pb: JwtProvider) -> Result<Provider, Reason> {
    let keys = match required(pb.jwks_source_specifier.take()).at("jwks_source_specifier")? {
        JwksSourceSpecifier::LocalJwks(source) => local(source).at("local_jwks")?,
        JwksSourceSpecifier::RemoteJwks(remote_jwks) => {
            Keys::Remote(RemoteKeys::new(remote(remote_jwks).at("remote_jwks")?))
        }
    };
    let subjects = match pb.subjects.take() {
        None => None,
        Some(subjects) => Some(string(subjects).at("subjects")?),
    };
    let expiration = match (pb.max_lifetime.take(), take(&mut pb.require_expiration)) {
        (Some(time), _) => Expiration::Within(duration(time).at("max_lifetime")?),
        (None, true) => Expiration::Required,
        (None, false) => Expiration::Optional,
    };
    let skew_seconds = match take(&mut pb.clock_skew_seconds) {
        0 => SKEW_DEFAULT_SECONDS,
        seconds => seconds.into(),
    };
    let is_padded = take(&mut pb.pad_forward_payload_header);
    let payload_header = match take(&mut pb.forward_payload_header) {
        name if name.is_empty() => None,
        name => Some(PayloadHeader {
            name: end_to_end(&name).at("forward_payload_header")?,
            is_padded,
        }),
    };
    let mut claim_headers = Vec::new();
    for (index, header) in take(&mut pb.claim_to_headers).into_iter().enumerate() {
        claim_headers.push(claim_header(header).at_index("claim_to_headers", index)?);
    }
    let worded = pb.normalize_payload_in_metadata.take();
    let worded = worded.map(|normal| normal.space_delimited_claims);
    // Every worker remembers as many as it does for all providers together.
    pb.jwt_cache_config.take();
    let places = places(&mut pb)?;
    let issuer = take(&mut pb.issuer);
    let metadata = take(&mut pb.payload_in_metadata);
    let audiences = Audiences::new(&take(&mut pb.audiences));
    let forwards = take(&mut pb.forward);
    done(&pb)?;
    Ok(Provider {
        issuer: Some(issuer).filter(|issuer| !issuer.is_empty()).map(Box::from),
        audiences,
        subjects,
        expiration,
        skew_seconds,
        places,
        forwards,
        payload_header,
        claim_headers: claim_headers.into(),
        metadata: Some(metadata).filter(|key| !key.is_empty()).map(Arc::from),
        worded: worded.unwrap_or_default().into_iter().map(Box::from).collect(),
        keys,
    })
}

/// Where tokens are: `authorization` and `access_token` if nothing is said.
fn places(pb: &mut JwtProvider) -> Result<Box<[Place]>, Reason> {
    let mut places = Vec::new();
    for (index, header) in take(&mut pb.from_headers).into_iter().enumerate() {
        let JwtHeader { name, value_prefix } = header;
        places.push(Place::Header {
            name: end_to_end(&name).at("name").at_index("from_headers", index)?,
            prefix: value_prefix.into(),
        });
    }
    let named = |name: String| (!name.is_empty()).then(|| Box::from(name));
    let empty = || "is empty".to_owned();
    for (index, name) in take(&mut pb.from_params).into_iter().enumerate() {
        let name = named(name).ok_or_else(empty).at_index("from_params", index)?;
        places.push(Place::Parameter(name));
    }
    for (index, name) in take(&mut pb.from_cookies).into_iter().enumerate() {
        let name = named(name).ok_or_else(empty).at_index("from_cookies", index)?;
        places.push(Place::Cookie(name));
    }
    if places.is_empty() {
        places = vec![
            Place::Header {
                name: AUTHORIZATION,
                prefix: "Bearer ".into(),
            },
            Place::Parameter("access_token".into()),
        ];
    }
    Ok(places.into())
}

/// Of a header that may be taken out or set without changing how long a message is, or where it ends.
fn end_to_end(name: &str) -> Result<HeaderName, Reason> {
    let name = header_name(name)?;
    if is_framing(&name) {
        return Err(format!("{name} cannot be changed"));
    }
    Ok(name)
}

fn claim_header(mut pb: JwtClaimToHeader) -> Result<ClaimHeader, Reason> {
    let name = end_to_end(&take(&mut pb.header_name)).at("header_name")?;
    let claim = take(&mut pb.claim_name);
    done(&pb)?;
    if claim.is_empty() {
        return Err("claim_name: is required".to_owned());
    }
    Ok(ClaimHeader {
        name,
        claim: claim.split('.').map(Box::from).collect(),
    })
}

fn local(mut pb: DataSource) -> Result<Keys, Reason> {
    let (field, text) = match required(pb.specifier.take()).at("specifier")? {
        Specifier::InlineString(text) => ("inline_string", text.into_bytes()),
        Specifier::InlineBytes(bytes) => ("inline_bytes", bytes),
        Specifier::Filename(_) | Specifier::EnvironmentVariable(_) => {
            return Err("specifier: only inline_string and inline_bytes are supported".to_owned());
        }
    };
    done(&pb)?;
    let keys = KeySet::parse(&text).map_err(|bad| bad.to_string()).at(field)?;
    Ok(Keys::Local(Arc::new(keys)))
}

fn remote(mut pb: RemoteJwks) -> Result<Remote, Reason> {
    let cached = match pb.cache_duration.take() {
        None => CACHED_DEFAULT,
        Some(time) => duration(time).at("cache_duration")?,
    };
    if cached < CACHED_MIN {
        return Err(format!(
            "cache_duration: must be at least {} s",
            CACHED_MIN.as_secs()
        ));
    }
    let mut again = None;
    if let Some(mut fetch) = pb.async_fetch.take() {
        // No listener waits for keys here.
        take(&mut fetch.fast_listener);
        if let Some(time) = fetch.failed_refetch_duration.take() {
            again = Some(duration(time).at("async_fetch.failed_refetch_duration")?);
        }
        done(&fetch).at("async_fetch")?;
    }
    let (retries_max, back_off) = match pb.retry_policy.take() {
        None => (0, BACK_OFF_DEFAULT),
        Some(policy) => retries(policy).at("retry_policy")?,
    };
    let (uri, cluster, timeout) = http_uri(required(pb.http_uri.take()).at("http_uri")?).at("http_uri")?;
    done(&pb)?;
    let authority = uri.authority().cloned();
    Ok(Remote {
        authority: authority.ok_or("http_uri.uri: has no host")?,
        path: uri
            .path_and_query()
            .cloned()
            .unwrap_or(PathAndQuery::from_static("/")),
        cluster,
        timeout,
        cached,
        again: again.unwrap_or(AGAIN_DEFAULT).max(AGAIN_DEFAULT),
        retries_max,
        back_off,
    })
}

fn http_uri(mut pb: HttpUri) -> Result<(Uri, Arc<str>, Duration), Reason> {
    let text = take(&mut pb.uri);
    let uri = text.parse().map_err(|_| format!("uri: {text:?} is not a URL"))?;
    let HttpUpstreamType::Cluster(cluster) =
        required(pb.http_upstream_type.take()).at("http_upstream_type")?;
    if cluster.is_empty() {
        return Err("cluster: is required".to_owned());
    }
    let timeout = positive(required(pb.timeout.take()).at("timeout")?).at("timeout")?;
    done(&pb)?;
    Ok((uri, cluster.into(), timeout))
}

fn retries(mut pb: PbRetryPolicy) -> Result<(u32, BackOff), Reason> {
    let retries = pb.num_retries.take().map_or(1, |retries| retries.value);
    let back_off = match pb.retry_back_off.take() {
        None => BACK_OFF_DEFAULT,
        Some(strategy) => back_off(strategy).at("retry_back_off")?,
    };
    done(&pb)?;
    if retries > FETCH_RETRIES_MAX {
        return Err(format!("num_retries: is more than {FETCH_RETRIES_MAX}"));
    }
    Ok((retries, back_off))
}

fn back_off(mut pb: BackoffStrategy) -> Result<BackOff, Reason> {
    let base = positive(required(pb.base_interval.take()).at("base_interval")?).at("base_interval")?;
    let max = match pb.max_interval.take() {
        None => base.saturating_mul(10),
        Some(max) => positive(max).at("max_interval")?,
    };
    done(&pb)?;
    if max < base {
        return Err("max_interval: is less than base_interval".to_owned());
    }
    Ok(BackOff { base, max })
}

#[cfg(test)]
mod tests;

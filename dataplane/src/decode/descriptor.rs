//! `envoy.config.route.v3.RateLimit`: what requests of a route count as.

use std::mem::take;
use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3::RateLimit as PbRateLimit;
use envoy_types::pb::envoy::config::route::v3::rate_limit::Action as PbAction;
use envoy_types::pb::envoy::config::route::v3::rate_limit::action::{
    ActionSpecifier, GenericKey, HeaderValueMatch, MaskedRemoteAddress, QueryParameterValueMatch,
    RequestHeaders,
};
use envoy_types::pb::google::protobuf::UInt32Value;

use super::fields::{At, Reason, done, required};
use super::matcher::{header, parameter};
use crate::filter::{Described, DescribingAction as Action, Entry, RouteLimits, of_name};

/// As in Envoy.
const STAGE_MAX: u32 = 10;

pub(super) fn decode(given: Vec<PbRateLimit>, field: &str) -> Result<Vec<Described>, Reason> {
    let given = given.into_iter().enumerate();
    given
        .map(|(index, limit)| described(limit).at_index(field, index))
        .collect()
}

/// What a route says, where its host says `outer`; nothing where nobody says anything.
pub(super) fn of_route(
    own: Vec<Described>,
    includes_outer: bool,
    outer: &Arc<[Described]>,
) -> Option<Box<RouteLimits>> {
    (!own.is_empty() || !outer.is_empty()).then(|| {
        Box::new(RouteLimits {
            own,
            outer: Arc::clone(outer),
            includes_outer,
        })
    })
}

pub(super) fn stage(stage: u32) -> Result<u32, Reason> {
    if stage > STAGE_MAX {
        return Err(format!("must be 0 to {STAGE_MAX}"));
    }
    Ok(stage)
}

fn described(mut pb: PbRateLimit) -> Result<Described, Reason> {
    let stage = stage(pb.stage.take().map_or(0, |stage| stage.value)).at("stage")?;
    // There is no runtime in which it could be set.
    take(&mut pb.disable_key);
    let given = take(&mut pb.actions);
    if given.is_empty() {
        return Err("actions: at least one is required".to_owned());
    }
    let mut actions = Vec::with_capacity(given.len());
    for (index, given) in given.into_iter().enumerate() {
        actions.push(action(given).at_index("actions", index)?);
    }
    done(&pb)?;
    Ok(Described { stage, actions })
}

fn action(pb: PbAction) -> Result<Action, Reason> {
    match required(pb.action_specifier).at("action_specifier")? {
        ActionSpecifier::DestinationCluster(_) => Ok(Action::Destination),
        ActionSpecifier::RemoteAddress(_) => Ok(Action::Client),
        ActionSpecifier::RequestHeaders(given) => request_header(given).at("request_headers"),
        ActionSpecifier::GenericKey(given) => generic_key(given).at("generic_key"),
        ActionSpecifier::HeaderValueMatch(given) => header_value(given).at("header_value_match"),
        ActionSpecifier::QueryParameterValueMatch(given) => {
            query_parameter(given).at("query_parameter_value_match")
        }
        ActionSpecifier::MaskedRemoteAddress(given) => masked(given).at("masked_remote_address"),
        _ => Err(
            "action_specifier: only destination_cluster, request_headers, remote_address, generic_key, header_value_match, query_parameter_value_match and masked_remote_address are supported"
                .to_owned(),
        ),
    }
}

fn request_header(mut pb: RequestHeaders) -> Result<Action, Reason> {
    let name = take(&mut pb.header_name);
    let of = of_name(&name).ok_or_else(|| format!("header_name: {name:?} is not a header name"))?;
    let key = filled(take(&mut pb.descriptor_key)).at("descriptor_key")?;
    let skips = take(&mut pb.skip_if_absent);
    done(&pb)?;
    Ok(Action::Header { of, key, skips })
}

fn generic_key(mut pb: GenericKey) -> Result<Action, Reason> {
    let entry = entry(
        &take(&mut pb.descriptor_key),
        "generic_key",
        take(&mut pb.descriptor_value),
    )?;
    done(&pb)?;
    Ok(Action::Key(entry))
}

fn header_value(mut pb: HeaderValueMatch) -> Result<Action, Reason> {
    let entry = entry(
        &take(&mut pb.descriptor_key),
        "header_match",
        take(&mut pb.descriptor_value),
    )?;
    let expected = pb.expect_match.take().is_none_or(|expected| expected.value);
    let given = take(&mut pb.headers);
    if given.is_empty() {
        return Err("headers: at least one is required".to_owned());
    }
    let mut matchers = Vec::with_capacity(given.len());
    for (index, given) in given.into_iter().enumerate() {
        matchers.push(header(given).at_index("headers", index)?);
    }
    done(&pb)?;
    Ok(Action::Headers {
        matchers,
        expected,
        entry,
    })
}

fn query_parameter(mut pb: QueryParameterValueMatch) -> Result<Action, Reason> {
    let entry = entry(
        &take(&mut pb.descriptor_key),
        "query_match",
        take(&mut pb.descriptor_value),
    )?;
    let expected = pb.expect_match.take().is_none_or(|expected| expected.value);
    let given = take(&mut pb.query_parameters);
    if given.is_empty() {
        return Err("query_parameters: at least one is required".to_owned());
    }
    let mut matchers = Vec::with_capacity(given.len());
    for (index, given) in given.into_iter().enumerate() {
        matchers.push(parameter(given).at_index("query_parameters", index)?);
    }
    done(&pb)?;
    Ok(Action::Parameters {
        matchers,
        expected,
        entry,
    })
}

fn masked(mut pb: MaskedRemoteAddress) -> Result<Action, Reason> {
    let v4_bits = bits(pb.v4_prefix_mask_len.take(), 32).at("v4_prefix_mask_len")?;
    let v6_bits = bits(pb.v6_prefix_mask_len.take(), 128).at("v6_prefix_mask_len")?;
    done(&pb)?;
    Ok(Action::ClientBlock { v4_bits, v6_bits })
}

/// All of them where nothing is said.
fn bits(given: Option<UInt32Value>, all: u8) -> Result<u8, Reason> {
    let Some(given) = given else { return Ok(all) };
    let bits = u8::try_from(given.value).ok().filter(|bits| *bits <= all);
    bits.ok_or_else(|| format!("{} is more than {all}", given.value))
}

fn entry(key: &str, key_default: &str, value: String) -> Result<Entry, Reason> {
    let key = if key.is_empty() { key_default } else { key };
    let value = filled(value).at("descriptor_value")?;
    if value.contains('%') {
        return Err(format!(
            "descriptor_value: {value:?} has a %, and substitutions are not supported"
        ));
    }
    Ok(Entry::new(key, &value))
}

fn filled(text: String) -> Result<Box<str>, Reason> {
    required(Some(text).filter(|text| !text.is_empty())).map(String::into_boxed_str)
}

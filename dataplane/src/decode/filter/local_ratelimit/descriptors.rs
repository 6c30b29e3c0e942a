//! What requests of a local rate limit count as, and the limits of those that count apart.

use std::collections::HashSet;
use std::mem::take;

use envoy_types::pb::envoy::extensions::common::ratelimit::v3::{
    LocalRateLimitDescriptor, VhRateLimitsOptions,
};
use envoy_types::pb::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit as PbLocalRateLimit;

use super::rate;
use crate::decode::descriptor;
use crate::decode::fields::{At, Reason, done, required};
use crate::filter::{DescribedLimit, Descriptors, Entry, Outer};

/// As in Envoy.
const VALUES_DEFAULT: u32 = 20;
/// As many take some ten megabytes.
const VALUES_MAX: u32 = 100_000;

/// What is said of descriptors, if anything is.
pub(super) fn descriptors(pb: &mut PbLocalRateLimit) -> Result<Option<Descriptors>, Reason> {
    let stage = descriptor::stage(take(&mut pb.stage)).at("stage")?;
    let outer = match VhRateLimitsOptions::try_from(take(&mut pb.vh_rate_limits)) {
        Ok(VhRateLimitsOptions::Override) => Outer::Default,
        Ok(VhRateLimitsOptions::Include) => Outer::Included,
        Ok(VhRateLimitsOptions::Ignore) => Outer::Ignored,
        Err(_) => return Err("vh_rate_limits: is unknown".to_owned()),
    };
    let given = take(&mut pb.rate_limits);
    if let Some(index) = given.iter().position(|given| given.stage.is_some()) {
        return Err(format!("rate_limits[{index}].stage: is not supported here"));
    }
    let own = descriptor::decode(given, "rate_limits")?;
    let counts_to_all = pb.always_consume_default_token_bucket.take();
    let values_max = pb.max_dynamic_descriptors.take();
    let values_max = values_max.map_or(VALUES_DEFAULT, |max| max.value);
    if !(1..=VALUES_MAX).contains(&values_max) {
        return Err(format!("max_dynamic_descriptors: must be 1 to {VALUES_MAX}"));
    }
    let mut limits = Vec::with_capacity(pb.descriptors.len());
    let mut known = HashSet::new();
    for (index, given) in take(&mut pb.descriptors).into_iter().enumerate() {
        let limit = limit(given).at_index("descriptors", index)?;
        if !known.insert(limit.entries.clone()) {
            return Err(format!("descriptors[{index}].entries: are those of another one"));
        }
        limits.push(limit);
    }
    Ok((!limits.is_empty()).then(|| Descriptors {
        own,
        stage,
        outer,
        limits,
        values_max: usize::try_from(values_max).unwrap_or(usize::MAX),
        counts_to_all: counts_to_all.is_none_or(|counts| counts.value),
    }))
}

fn limit(mut pb: LocalRateLimitDescriptor) -> Result<DescribedLimit, Reason> {
    let rate = rate(required(pb.token_bucket.take()).at("token_bucket")?).at("token_bucket")?;
    let given = take(&mut pb.entries);
    if given.is_empty() {
        return Err("entries: at least one is required".to_owned());
    }
    let mut entries = Vec::with_capacity(given.len());
    for (index, given) in given.into_iter().enumerate() {
        if given.key.is_empty() {
            return Err(format!("entries[{index}].key: is required"));
        }
        entries.push(Entry::new(&given.key, &given.value));
    }
    done(&pb)?;
    Ok(DescribedLimit { entries, rate })
}

//! `envoy.config.cluster.v3.Cluster.LbSubsetConfig`, and the metadata by which hosts are told apart.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;

use envoy_types::pb::envoy::config::cluster::v3::cluster::LbSubsetConfig;
use envoy_types::pb::envoy::config::cluster::v3::cluster::lb_subset_config::lb_subset_selector::LbSubsetSelectorFallbackPolicy as PbOtherwise;
use envoy_types::pb::envoy::config::cluster::v3::cluster::lb_subset_config::{
    LbSubsetFallbackPolicy, LbSubsetSelector,
};
use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};

use super::fields::{At, Reason, done};
use crate::balance::{Fallback, Labels, Otherwise, Selector, SubsetRules};
use crate::json::Json;

/// What Envoy's balancer looks at, of all that may be said.
const NAMESPACE: &str = "envoy.lb";
/// A host is in a set of each selector at most: so a cluster has no more than so many times as many as it has hosts.
const SELECTORS_MAX: usize = 32;

/// As in Envoy, there are no sets without selectors.
pub(super) fn decode(mut pb: LbSubsetConfig) -> Result<Option<Box<SubsetRules>>, Reason> {
    let fallback = take(&mut pb.fallback_policy);
    let fallback = match LbSubsetFallbackPolicy::try_from(fallback) {
        Ok(LbSubsetFallbackPolicy::NoFallback) => Fallback::Nobody,
        Ok(LbSubsetFallbackPolicy::AnyEndpoint) => Fallback::Any,
        Ok(LbSubsetFallbackPolicy::DefaultSubset) => Fallback::Default,
        Err(_) => return Err(format!("fallback_policy: value {fallback} is not supported")),
    };
    let default = match pb.default_subset.take() {
        None => Labels::default(),
        Some(default) => said(default).at("default_subset")?,
    };
    let given = take(&mut pb.subset_selectors);
    if given.len() > SELECTORS_MAX {
        return Err(format!("subset_selectors: must be at most {SELECTORS_MAX}"));
    }
    let mut selectors: Vec<Selector> = Vec::with_capacity(given.len());
    for (index, given) in given.into_iter().enumerate() {
        let selector = selector(given).at_index("subset_selectors", index)?;
        if selectors.iter().any(|other| other.keys == selector.keys) {
            return Err(format!(
                "subset_selectors[{index}].keys: are another selector's too"
            ));
        }
        selectors.push(selector);
    }
    let is_by_locality = take(&mut pb.locality_weight_aware);
    let is_any_in_panic = take(&mut pb.panic_mode_any);
    done(&pb)?;
    let rules = SubsetRules {
        selectors: selectors.into(),
        fallback,
        is_any_in_panic,
        default,
        is_by_locality,
    };
    Ok((!rules.selectors.is_empty()).then(|| Box::new(rules)))
}

fn selector(mut pb: LbSubsetSelector) -> Result<Selector, Reason> {
    let in_order = |keys: Vec<String>| keys.into_iter().map(String::into_boxed_str).collect();
    let keys: BTreeSet<Box<str>> = in_order(take(&mut pb.keys));
    if keys.is_empty() {
        return Err("keys: at least one is needed".to_owned());
    }
    let kept: BTreeSet<Box<str>> = in_order(take(&mut pb.fallback_keys_subset));
    let policy = take(&mut pb.fallback_policy);
    let of = |fallback| Some(Otherwise::Of(fallback));
    let is_by_keys = policy == PbOtherwise::KeysSubset as i32;
    if is_by_keys && (kept.is_empty() || !kept.is_subset(&keys) || kept == keys) {
        return Err("fallback_keys_subset: must be some of keys, and not all".to_owned());
    }
    if !is_by_keys && !kept.is_empty() {
        return Err("fallback_keys_subset: is for fallback_policy KEYS_SUBSET".to_owned());
    }
    let otherwise = match PbOtherwise::try_from(policy) {
        Ok(PbOtherwise::NotDefined) => None,
        Ok(PbOtherwise::NoFallback) => of(Fallback::Nobody),
        Ok(PbOtherwise::AnyEndpoint) => of(Fallback::Any),
        Ok(PbOtherwise::DefaultSubset) => of(Fallback::Default),
        Ok(PbOtherwise::KeysSubset) => Some(Otherwise::Keys(kept.into_iter().collect())),
        Err(_) => return Err(format!("fallback_policy: value {policy} is not supported")),
    };
    done(&pb)?;
    Ok(Selector {
        keys: keys.into_iter().collect(),
        otherwise,
    })
}

/// What is said for the balancer, if anything is; for others nothing may be.
pub(super) fn labels(mut pb: Metadata) -> Result<Option<Labels>, Reason> {
    let mut given = take(&mut pb.filter_metadata);
    done(&pb)?;
    let own = given.remove(NAMESPACE);
    if let Some(other) = given.keys().min() {
        return Err(format!("{other} is not supported, only {NAMESPACE}"));
    }
    let labels = said(own.unwrap_or_default()).at(NAMESPACE)?;
    Ok(Some(labels).filter(|labels| !labels.is_empty()))
}

fn said(pb: Struct) -> Result<Labels, Reason> {
    let mut labels = BTreeMap::new();
    for (key, value) in pb.fields {
        let value = json(value).at(&key)?;
        let text = serde_json::to_string(&value).map_err(|error| format!("{key}: {error}"))?;
        labels.insert(key.into(), text.into());
    }
    Ok(Labels::new(labels))
}

fn json(pb: Value) -> Result<Json, Reason> {
    Ok(match pb.kind {
        None => return Err("has no value".to_owned()),
        Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::BoolValue(value)) => Json::Bool(value),
        Some(Kind::NumberValue(value)) if value.is_finite() => Json::Number(value),
        Some(Kind::NumberValue(value)) => return Err(format!("{value} is not a number of JSON")),
        Some(Kind::StringValue(text)) => Json::Text(text.into()),
        Some(Kind::ListValue(list)) => {
            let items: Result<_, Reason> = list.values.into_iter().map(json).collect();
            Json::List(items?)
        }
        Some(Kind::StructValue(object)) => {
            let fields = object.fields.into_iter();
            let fields: Result<_, Reason> = fields
                .map(|(name, value)| Ok((name.into(), json(value)?)))
                .collect();
            Json::Object(fields?)
        }
    })
}

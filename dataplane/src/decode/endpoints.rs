//! `envoy.config.endpoint.v3.ClusterLoadAssignment`.

use std::collections::BTreeMap;
use std::mem::take;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::HealthStatus;
use envoy_types::pb::envoy::config::endpoint::v3::cluster_load_assignment::Policy;
use envoy_types::pb::envoy::config::endpoint::v3::cluster_load_assignment::policy::DropOverload;
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint as PbEndpoint, LbEndpoint, LocalityLbEndpoints,
};

use super::fields::{At, Reason, done, message, millionths, same_name, socket_address};
use super::subset;
use crate::balance::{Locality, OVERPROVISIONING_DEFAULT_PERCENT};
use crate::config::{Endpoint, Endpoints};

/// Envoy's bound on priorities.
const PRIORITY_MAX: u32 = 128;

pub(super) fn decode(name: &str, body: &[u8]) -> Result<Endpoints, Reason> {
    let mut pb: ClusterLoadAssignment = message(body)?;
    same_name(&take(&mut pb.cluster_name), name).at("cluster_name")?;
    let policy = pb.policy.take().unwrap_or_default();
    let (overprovisioning_percent, dropped_millionths) = self::policy(policy).at("policy")?;
    let mut placed = Vec::new();
    for (index, locality) in take(&mut pb.endpoints).into_iter().enumerate() {
        placed.push(locality_endpoints(locality).at_index("endpoints", index)?);
    }
    done(&pb)?;
    let endpoints = joined(placed);
    let weights = endpoints
        .iter()
        .map(|endpoint| (endpoint.priority, endpoint.weight));
    let weights = summed(weights).at("endpoints")?;
    let localities: BTreeMap<_, _> = endpoints
        .iter()
        .map(|endpoint| {
            (
                endpoint.locality.nth,
                (endpoint.priority, endpoint.locality.weight),
            )
        })
        .collect();
    summed(localities.into_values()).map_err(|reason| format!("endpoints: of localities, {reason}"))?;
    match weights
        .keys()
        .enumerate()
        .find(|(expected, priority)| expected != *priority)
    {
        Some((missing, _)) => Err(format!(
            "endpoints: no endpoint has priority {missing}, but a later one is used"
        )),
        None => Ok(Endpoints {
            endpoints,
            overprovisioning_percent,
            dropped_millionths,
        }),
    }
}

/// How much more than its healthy share a priority or a locality gets, and how many of a million requests are refused.
fn policy(mut pb: Policy) -> Result<(u32, u32), Reason> {
    let factor = pb.overprovisioning_factor.take();
    let overprovisioning_percent = factor.map_or(OVERPROVISIONING_DEFAULT_PERCENT, |factor| factor.value);
    let mut drops = take(&mut pb.drop_overloads).into_iter();
    let dropped_millionths = match drops.next() {
        Some(drop) => dropped(drop).at_index("drop_overloads", 0)?,
        None => 0,
    };
    if drops.next().is_some() {
        return Err("drop_overloads: at most one is supported".to_owned());
    }
    done(&pb)?;
    if overprovisioning_percent == 0 {
        return Err("overprovisioning_factor: must be more than 0".to_owned());
    }
    Ok((overprovisioning_percent, dropped_millionths))
}

fn dropped(mut pb: DropOverload) -> Result<u32, Reason> {
    if take(&mut pb.category).is_empty() {
        return Err("category: is required".to_owned());
    }
    let dropped = millionths(pb.drop_percentage.take().unwrap_or_default()).at("drop_percentage")?;
    done(&pb)?;
    Ok(dropped)
}

/// Sums by priority, each of which fits 32 bits.
fn summed(weights: impl Iterator<Item = (usize, u32)>) -> Result<BTreeMap<usize, u64>, Reason> {
    let mut sums: BTreeMap<usize, u64> = BTreeMap::new();
    for (priority, weight) in weights {
        *sums.entry(priority).or_default() += u64::from(weight);
    }
    match sums.iter().find(|(_, sum)| **sum > u32::MAX.into()) {
        Some((priority, _)) => Err(format!(
            "the weights of priority {priority} are more than {} together",
            u32::MAX
        )),
        None => Ok(sums),
    }
}

/// Where some endpoints are: their priority, and region, zone and sub-zone.
type Place = (usize, [String; 3]);

struct Placed {
    place: Place,
    weight: Option<u32>,
    endpoints: Vec<Endpoint>,
}

/// All endpoints; those of one place, which may be said in parts, are in one locality. Their order is Envoy's.
fn joined(placed: Vec<Placed>) -> Vec<Endpoint> {
    let mut localities: BTreeMap<Place, Locality> = BTreeMap::new();
    for Placed { place, weight, .. } in &placed {
        let locality = localities
            .entry(place.clone())
            .or_insert(Locality { nth: 0, weight: 0 });
        locality.weight = weight.unwrap_or(locality.weight);
    }
    for (nth, locality) in localities.values_mut().enumerate() {
        locality.nth = nth;
    }
    let at = |placed: Placed| {
        let locality = localities[&placed.place];
        let endpoints = placed.endpoints.into_iter();
        endpoints.map(move |endpoint| Endpoint { locality, ..endpoint })
    };
    placed.into_iter().flat_map(at).collect()
}

fn locality_endpoints(mut pb: LocalityLbEndpoints) -> Result<Placed, Reason> {
    let locality = pb.locality.take().unwrap_or_default();
    let priority = take(&mut pb.priority);
    if priority > PRIORITY_MAX {
        return Err(format!("priority: {priority} is more than {PRIORITY_MAX}"));
    }
    let weight = pb.load_balancing_weight.take().map(|weight| weight.value);
    if weight == Some(0) {
        return Err("load_balancing_weight: must be more than 0".to_owned());
    }
    let given = take(&mut pb.lb_endpoints);
    done(&pb)?;
    let priority = priority as usize;
    let endpoints: Result<_, Reason> = given
        .into_iter()
        .enumerate()
        .map(|(index, endpoint)| lb_endpoint(endpoint, priority).at_index("lb_endpoints", index))
        .collect();
    Ok(Placed {
        place: (priority, [locality.region, locality.zone, locality.sub_zone]),
        weight,
        endpoints: endpoints?,
    })
}

fn lb_endpoint(mut pb: LbEndpoint, priority: usize) -> Result<Endpoint, Reason> {
    let Some(HostIdentifier::Endpoint(endpoint)) = pb.host_identifier.take() else {
        return Err("endpoint: is required".to_owned());
    };
    let mut endpoint: PbEndpoint = endpoint;
    let address = socket_address(endpoint.address.take()).at("endpoint.address")?;
    done(&endpoint).at("endpoint")?;
    let status = take(&mut pb.health_status);
    let eligible = match HealthStatus::try_from(status) {
        Ok(HealthStatus::Unknown | HealthStatus::Healthy) => true,
        Ok(HealthStatus::Unhealthy | HealthStatus::Draining | HealthStatus::Timeout) => false,
        _ => return Err(format!("health_status: value {status} is not supported")),
    };
    let weight = pb.load_balancing_weight.take().map_or(1, |weight| weight.value);
    if weight == 0 {
        return Err("load_balancing_weight: must be more than 0".to_owned());
    }
    let labels = match pb.metadata.take() {
        None => None,
        Some(metadata) => subset::labels(metadata).at("metadata")?,
    };
    done(&pb)?;
    Ok(Endpoint {
        address,
        priority,
        locality: Locality { nth: 0, weight: 0 },
        weight,
        eligible,
        labels: labels.map(Arc::new),
    })
}

//! `envoy.config.endpoint.v3.ClusterLoadAssignment`.

use std::collections::BTreeMap;
use std::mem::take;

use envoy_types::pb::envoy::config::core::v3::HealthStatus;
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint as PbEndpoint, LbEndpoint, LocalityLbEndpoints,
};

use super::fields::{At, Reason, done, message, same_name, socket_address};
use crate::balance::OVERPROVISIONING_DEFAULT_PERCENT;
use crate::config::{Endpoint, Endpoints};

/// Envoy's bound on priorities.
const PRIORITY_MAX: u32 = 128;

pub(super) fn decode(name: &str, body: &[u8]) -> Result<Endpoints, Reason> {
    let mut pb: ClusterLoadAssignment = message(body)?;
    same_name(&take(&mut pb.cluster_name), name).at("cluster_name")?;
    let mut overprovisioning_percent = OVERPROVISIONING_DEFAULT_PERCENT;
    if let Some(mut policy) = pb.policy.take() {
        if let Some(factor) = policy.overprovisioning_factor.take() {
            overprovisioning_percent = factor.value;
        }
        done(&policy).at("policy")?;
        if overprovisioning_percent == 0 {
            return Err("policy.overprovisioning_factor: must be more than 0".to_owned());
        }
    }
    let mut endpoints = Vec::new();
    for (index, locality) in take(&mut pb.endpoints).into_iter().enumerate() {
        endpoints.extend(locality_endpoints(locality).at_index("endpoints", index)?);
    }
    done(&pb)?;
    let mut weights: BTreeMap<usize, u64> = BTreeMap::new();
    for endpoint in &endpoints {
        *weights.entry(endpoint.priority).or_default() += u64::from(endpoint.weight);
    }
    if let Some((priority, _)) = weights.iter().find(|(_, sum)| **sum > u32::MAX.into()) {
        return Err(format!(
            "endpoints: the weights of priority {priority} are more than {} together",
            u32::MAX
        ));
    }
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
        }),
    }
}

fn locality_endpoints(mut pb: LocalityLbEndpoints) -> Result<Vec<Endpoint>, Reason> {
    pb.locality = None;
    let priority = take(&mut pb.priority);
    if priority > PRIORITY_MAX {
        return Err(format!("priority: {priority} is more than {PRIORITY_MAX}"));
    }
    let given = take(&mut pb.lb_endpoints);
    done(&pb)?;
    let priority = priority as usize;
    given
        .into_iter()
        .enumerate()
        .map(|(index, endpoint)| lb_endpoint(endpoint, priority).at_index("lb_endpoints", index))
        .collect()
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
        Ok(HealthStatus::Unhealthy) => false,
        _ => return Err(format!("health_status: value {status} is not supported")),
    };
    let weight = pb.load_balancing_weight.take().map_or(1, |weight| weight.value);
    if weight == 0 {
        return Err("load_balancing_weight: must be more than 0".to_owned());
    }
    done(&pb)?;
    Ok(Endpoint {
        address,
        priority,
        weight,
        eligible,
    })
}

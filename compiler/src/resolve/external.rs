//! External services: hosts that are said to lie outside of the mesh, and are said to be something else as well.
//!
//! Nothing is refused for it: an external service of a workspace is for that workspace alone, and takes nothing from
//! others.

use std::collections::BTreeSet;

use super::gateway::served_hosts;
use super::resolver::{Part, Resolver, Update};
use crate::finding::{Code, Finding};
use crate::intent::{ExternalService, Spec};
use crate::name::{Fqn, Hostname, Kind};

const FIELD: &str = "spec.hosts";

/// Those that were written, and those of hosts that others have begun or ceased to name. After the gateways, whose hosts
/// are indexed then.
pub(super) fn update(update: &mut Update<'_>) {
    let mut dirty = BTreeSet::new();
    let named = &mut update.to.wanted.external_hosts;
    for touch in update.touched.of(Kind::ExternalService) {
        for host in touch.was().map(hosts).unwrap_or_default() {
            named.remove(&host, &touch.name);
        }
        for host in touch.is().map(hosts).unwrap_or_default() {
            named.insert(&host, &touch.name);
        }
        dirty.insert(touch.name.clone());
    }
    let naming = [Kind::ExternalService, Kind::Gateway, Kind::Api];
    for touch in naming.into_iter().flat_map(|kind| update.touched.of(kind)) {
        let specs = [touch.was(), touch.is()].into_iter().flatten();
        for host in specs.flat_map(hosts) {
            dirty.extend(named.intersecting(&host).map(|(_, external)| external.clone()));
        }
    }
    for name in dirty {
        update.recomputed += 1;
        let findings = match update.to.tree.spec(&name) {
            Some(Spec::ExternalService(external)) => check(update.to, &name, external),
            _ => Vec::new(),
        };
        update.tell(Part::Claims, &name, findings);
    }
}

fn hosts(spec: &Spec) -> BTreeSet<Hostname> {
    match spec {
        Spec::ExternalService(external) => external.hosts.clone(),
        spec => served_hosts(spec),
    }
}

fn check(resolver: &Resolver, name: &Fqn, external: &ExternalService) -> Vec<Finding> {
    external
        .hosts
        .iter()
        .flat_map(|host| [served(resolver, name, host), named_before(resolver, name, host)])
        .flatten()
        .collect()
}

/// A gateway of the mesh has it: requests for it would leave the mesh. Whose it is, is for those of its tenant to know.
fn served(resolver: &Resolver, name: &Fqn, host: &Hostname) -> Option<Finding> {
    let serving = resolver.wanted.hosts.intersecting(host);
    let (served, gateway) = serving.min_by_key(|(_, gateway)| *gateway)?;
    let tenant = gateway.ancestor(Kind::Tenant);
    let by = match tenant.is_some_and(|tenant| name.is_within(&tenant)) {
        true => format!("{gateway} serves {served}"),
        false => "somebody else's gateway serves it".to_owned(),
    };
    let message = format!(
        "host {host} is said to lie outside of the mesh, and {by} inside of it; leave it out here, or have it served \
         there no longer"
    );
    Some(Finding::warning(name, FIELD, Code::HostTaken, message))
}

/// Another one for the same node names it.
fn named_before(resolver: &Resolver, name: &Fqn, host: &Hostname) -> Option<Finding> {
    let named = resolver.wanted.external_hosts.intersecting(host);
    let others = named.filter(|(_, other)| *other < name && other.parent() == name.parent());
    let (_, first) = others.min_by_key(|(_, other)| *other)?;
    let message = format!("host {host} is described by {first} already; describe it in one of them");
    Some(Finding::warning(name, FIELD, Code::HostTaken, message))
}

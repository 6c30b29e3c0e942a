//! What a change of routes means to those who send and serve: which hosts move, who can newly reach whom or no longer,
//! and which clusters' proxies change. It is read off two plans, so it is as true as the reports that they are made of.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Serialize;

use crate::name::{ClusterName, Fqn, Hostname, Label, ServiceId};
use crate::plan::{Plans, SliceChange, diff};
use crate::routes::{RoutedGatewayMode, ServiceAction, Slice, SliceItem, SliceKey};

/// What differs in behaviour between two plans.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Behaviour {
    pub hosts: Vec<HostMove>,
    pub services: Vec<ServiceMove>,
    pub newly_reachable: BTreeSet<Reach>,
    pub no_longer_reachable: BTreeSet<Reach>,
    /// The clusters whose proxies are given something else.
    pub clusters: BTreeSet<ClusterName>,
}

/// A host that is served elsewhere than before, newly, or no longer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct HostMove {
    pub host: Hostname,
    pub before: BTreeSet<HostPlace>,
    pub after: BTreeSet<HostPlace>,
}

/// Where requests from outside for a host come in, and where they go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct HostPlace {
    pub gateway: Fqn,
    pub cluster: ClusterName,
    /// Without those of rules that refuse.
    pub services: BTreeSet<ServiceId>,
}

/// A service whose requests from within the mesh are spread otherwise, over other clusters or over other subsets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ServiceMove {
    pub service: ServiceId,
    pub workspace: Fqn,
    /// Who sends.
    pub cluster: ClusterName,
    pub before: Option<Spread>,
    pub after: Option<Spread>,
}

/// How requests of one cluster for a service are spread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Spread {
    /// By tier, the other clusters.
    pub failover: BTreeMap<u8, BTreeSet<ClusterName>>,
    /// Of each rule in order, the subsets with their percentages, or why it refuses.
    pub rules: Vec<String>,
}

/// Who can send requests to whom.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reach {
    pub from: Source,
    pub to: ServiceId,
    pub workspace: Fqn,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// What runs in a namespace of a cluster.
    Namespace(ClusterName, Label),
    /// Whoever reaches the gateway from outside of the mesh.
    Outside(Fqn),
}

impl Behaviour {
    pub fn is_empty(&self) -> bool {
        *self == Behaviour::default()
    }
}

pub fn behaviour(before: &Plans, after: &Plans) -> Behaviour {
    let changes = diff(before, after);
    let (reached, reaches) = (reach(before, &changes), reach(after, &changes));
    Behaviour {
        hosts: hosts(before, after),
        services: services(&changes),
        newly_reachable: reaches.difference(&reached).cloned().collect(),
        no_longer_reachable: reached.difference(&reaches).cloned().collect(),
        clusters: changes.into_keys().collect(),
    }
}

fn hosts(before: &Plans, after: &Plans) -> Vec<HostMove> {
    let (before, after) = (places(before), places(after));
    let hosts: BTreeSet<&Hostname> = before.keys().chain(after.keys()).collect();
    hosts
        .into_iter()
        .map(|host| HostMove {
            host: host.clone(),
            before: before.get(host).cloned().unwrap_or_default(),
            after: after.get(host).cloned().unwrap_or_default(),
        })
        .filter(|host| host.before != host.after)
        .collect()
}

fn places(plans: &Plans) -> BTreeMap<Hostname, BTreeSet<HostPlace>> {
    let mut places: BTreeMap<Hostname, BTreeSet<HostPlace>> = BTreeMap::new();
    for (cluster, slice) in plans {
        for (gateway, hosts, services) in ingresses(slice) {
            let place = HostPlace {
                gateway: gateway.clone(),
                cluster: cluster.clone(),
                services,
            };
            for host in hosts {
                places.entry(host.clone()).or_default().insert(place.clone());
            }
        }
    }
    places
}

/// The gateways of a slice that let requests in, with their hosts and the services that they send to.
fn ingresses(slice: &Slice) -> impl Iterator<Item = (&Fqn, &BTreeSet<Hostname>, BTreeSet<ServiceId>)> {
    slice.items.iter().filter_map(|(key, item)| {
        let (SliceKey::Gateway(name), SliceItem::Gateway(gateway)) = (key, item) else {
            return None;
        };
        let RoutedGatewayMode::Ingress { hosts, rules, .. } = &gateway.value.mode else {
            return None;
        };
        let services = rules.iter().flat_map(|rule| rule.value.services());
        Some((name, hosts, services.cloned().collect()))
    })
}

fn services(changes: &BTreeMap<ClusterName, Vec<SliceChange>>) -> Vec<ServiceMove> {
    let mut moves = Vec::new();
    for (cluster, changes) in changes {
        for change in changes {
            let SliceKey::Service(service, workspace) = &change.key else {
                continue;
            };
            let moved = ServiceMove {
                service: service.clone(),
                workspace: workspace.clone(),
                cluster: cluster.clone(),
                before: change.before.as_ref().and_then(spread),
                after: change.after.as_ref().and_then(spread),
            };
            if moved.before != moved.after {
                moves.push(moved);
            }
        }
    }
    moves
}

fn spread(item: &SliceItem) -> Option<Spread> {
    let SliceItem::Service(service) = item else {
        return None;
    };
    let mut failover: BTreeMap<u8, BTreeSet<ClusterName>> = BTreeMap::new();
    for remote in &service.value.remotes {
        let tier = failover.entry(remote.tier).or_default();
        tier.insert(remote.cluster.clone());
    }
    let rules = service.value.rules.iter();
    Some(Spread {
        failover,
        rules: rules.map(|rule| shares(&rule.value.action)).collect(),
    })
}

/// `v1 95 %, v2 5 %`
fn shares(action: &ServiceAction) -> String {
    let targets = match action {
        ServiceAction::Refuse(reason) => return format!("503: {reason}"),
        ServiceAction::Redirect(to) => return format!("redirect with {}", u16::from(to.status)),
        ServiceAction::Split(targets) => targets,
    };
    let share = |(subset, percent): &(Option<Label>, u32)| match subset {
        Some(subset) => format!("{subset} {percent} %"),
        None => format!("all {percent} %"),
    };
    targets.iter().map(share).collect::<Vec<_>>().join(", ")
}

/// Who reaches whom in the clusters that change, as far as the workspaces go that change there: what does not change
/// cancels out, and need not be looked at.
fn reach(plans: &Plans, changes: &BTreeMap<ClusterName, Vec<SliceChange>>) -> BTreeSet<Reach> {
    let mut reach = BTreeSet::new();
    for (cluster, changes) in changes {
        let Some(slice) = plans.get(cluster) else { continue };
        let touched: BTreeSet<&Fqn> = changes.iter().flat_map(workspaces).collect();
        let mut namespaces: BTreeMap<&Fqn, Vec<&Label>> = BTreeMap::new();
        for (key, item) in &slice.items {
            if let (SliceKey::Namespace(namespace), SliceItem::Namespace(owner)) = (key, item) {
                namespaces
                    .entry(&owner.value.workspace)
                    .or_default()
                    .push(namespace);
            }
        }
        for (key, item) in &slice.items {
            let (SliceKey::Service(service, workspace), SliceItem::Service(_)) = (key, item) else {
                continue;
            };
            if !touched.contains(workspace) {
                continue;
            }
            let namespaces = namespaces.get(workspace).into_iter().flatten();
            reach.extend(namespaces.map(|namespace| Reach {
                from: Source::Namespace(cluster.clone(), (*namespace).clone()),
                to: service.clone(),
                workspace: workspace.clone(),
            }));
        }
        for (gateway, _, services) in ingresses(slice) {
            let Some(SliceItem::Gateway(item)) = slice.items.get(&SliceKey::Gateway(gateway.clone())) else {
                continue;
            };
            let workspace = &item.value.workspace;
            if touched.contains(workspace) {
                reach.extend(services.into_iter().map(|service| Reach {
                    from: Source::Outside(gateway.clone()),
                    to: service,
                    workspace: workspace.clone(),
                }));
            }
        }
    }
    reach
}

/// The workspaces that a change is about.
fn workspaces(change: &SliceChange) -> impl Iterator<Item = &Fqn> {
    let items = [&change.before, &change.after].into_iter().flatten();
    items.filter_map(|item| match item {
        SliceItem::Namespace(owner) => Some(&owner.value.workspace),
        SliceItem::Service(service) => Some(&service.value.workspace),
        SliceItem::Gateway(gateway) => Some(&gateway.value.workspace),
        SliceItem::Cluster(_) => None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::intent::{Intent, Resource};
    use crate::plan::plan;
    use crate::report::{ClusterReport, Reports};
    use crate::resolve::resolve;

    const WORKSPACE: &str = "organizations/acme/tenants/a/workspaces/w";

    fn plans(more: &[Value]) -> Plans {
        let documents = [
            json!({"name": "organizations/acme"}),
            json!({"name": "organizations/acme/clusters/east", "spec": {"region": "us"}}),
            json!({"name": "organizations/acme/clusters/west", "spec": {"region": "eu"}}),
            json!({"name": "organizations/acme/tenants/a"}),
            json!({"name": WORKSPACE, "spec": {"namespaces": ["*/shop"]}}),
            json!({"name": format!("{WORKSPACE}/gatewaygroups/g")}),
            json!({"name": format!("{WORKSPACE}/trafficgroups/g")}),
        ];
        let mut intent = Intent::new();
        for document in documents.iter().chain(more) {
            let resource = Resource::from_json(document.clone()).unwrap();
            intent.insert(resource.name.clone(), Arc::new(resource));
        }
        let report: ClusterReport = serde_json::from_value(json!({
            "services": {"shop/web": {"ports": [{"name": "http", "port": 80}], "labelSets": [{}], "state": "up"}},
            "gateways": {
                "shop/door": {"eastWest": ["127.0.0.1:15443"], "state": "up"},
                "lent/door": {"eastWest": [], "state": "up"},
            },
        }))
        .unwrap();
        let clusters = ["east", "west"].map(|name| (name.parse().unwrap(), report.clone()));
        let reports = Reports {
            joined: BTreeSet::new(),
            clusters: clusters
                .map(|(cluster, report)| (cluster, Arc::new(report)))
                .into(),
            ..Reports::default()
        };
        plan(&resolve(&intent).0, &reports).0
    }

    fn gateway(leaf: &str, host: &str) -> Value {
        json!({"name": format!("{WORKSPACE}/gatewaygroups/g/gateways/{leaf}"), "spec": {
            "workload": "shop/door", "type": "ingress", "port": 8080, "hosts": [host],
            "rules": [{"backendRefs": [{"namespace": "shop", "name": "web"}]}],
        }})
    }

    #[test]
    fn what_does_not_change_is_no_behaviour() {
        let same = plans(&[gateway("in", "shop.example.com")]);
        assert!(behaviour(&same, &same).is_empty());
    }

    #[test]
    fn a_host_that_is_served_newly_is_reachable_from_outside() {
        let found = behaviour(&plans(&[]), &plans(&[gateway("in", "shop.example.com")]));
        let [host] = found.hosts.as_slice() else {
            panic!("one host moves: {found:?}");
        };
        assert_eq!(host.host.as_str(), "shop.example.com");
        assert!(host.before.is_empty());
        let clusters: Vec<&str> = host.after.iter().map(|place| place.cluster.as_str()).collect();
        assert_eq!(clusters, ["east", "west"]);
        let from: Vec<&Source> = found.newly_reachable.iter().map(|reach| &reach.from).collect();
        let gateway = format!("{WORKSPACE}/gatewaygroups/g/gateways/in")
            .parse()
            .unwrap();
        assert_eq!(from, [&Source::Outside(gateway)]);
        assert_eq!(found.clusters.len(), 2);
    }

    #[test]
    fn a_host_moves_from_one_gateway_to_another() {
        let before = plans(&[gateway("in", "shop.example.com")]);
        let after = plans(&[gateway("other", "shop.example.com")]);
        let found = behaviour(&before, &after);
        let leaf = |places: &BTreeSet<HostPlace>| places.first().unwrap().gateway.leaf().to_owned();
        assert_eq!(leaf(&found.hosts[0].before), "in");
        assert_eq!(leaf(&found.hosts[0].after), "other");
    }

    #[test]
    fn a_grant_that_is_given_or_recalled_says_who_reaches_whom() {
        const OTHER: &str = "organizations/acme/tenants/b/workspaces/lender";
        let door = json!({"name": format!("{WORKSPACE}/gatewaygroups/g/gateways/in"), "spec": {
            "workload": "lent/door", "type": "ingress", "port": 8080, "hosts": ["shop.example.com"],
            "rules": [{"backendRefs": [{"namespace": "shop", "name": "web"}]}],
        }});
        let lender = [
            json!({"name": "organizations/acme/tenants/b"}),
            json!({"name": OTHER, "spec": {"namespaces": ["east/lent"]}}),
            door,
        ];
        let grant = json!({"name": format!("{OTHER}/referencegrants/g"), "spec": {
            "from": [{"kind": "Gateway", "node": WORKSPACE}], "to": {"workloads": ["lent/door"]},
        }});
        let without = plans(&lender);
        let with = plans(&[&lender[..], &[grant]].concat());
        let said = |reaches: &BTreeSet<Reach>| -> Vec<String> {
            let reaches = reaches.iter();
            reaches
                .map(|reach| format!("{:?} {}", reach.from, reach.to))
                .collect()
        };
        let reach = format!(
            "Outside({:?}) shop/web",
            format!("{WORKSPACE}/gatewaygroups/g/gateways/in")
        );
        let given = behaviour(&without, &with);
        assert_eq!(said(&given.newly_reachable), [reach.as_str()]);
        let clusters: Vec<&str> = given.clusters.iter().map(ClusterName::as_str).collect();
        assert_eq!(
            clusters,
            ["east", "west"],
            "in west nobody owns the door's namespace"
        );
        let recalled = behaviour(&with, &without);
        assert_eq!(said(&recalled.no_longer_reachable), [reach.as_str()]);
        assert!(recalled.newly_reachable.is_empty());
    }

    #[test]
    fn a_workspace_that_gives_a_namespace_up_reaches_it_no_longer() {
        let given_up = json!({"name": WORKSPACE, "spec": {"namespaces": ["east/shop"]}});
        let found = behaviour(&plans(&[]), &plans(&[given_up]));
        let lost: Vec<String> = found
            .no_longer_reachable
            .iter()
            .map(|reach| format!("{:?} {}", reach.from, reach.to))
            .collect();
        assert_eq!(lost, ["Namespace(\"west\", \"shop\") shop/web"]);
        assert!(found.newly_reachable.is_empty());
        let moved: Vec<&str> = found
            .services
            .iter()
            .map(|moved| moved.cluster.as_str())
            .collect();
        assert_eq!(
            moved,
            ["east", "west"],
            "east loses its failover, west its routes"
        );
    }

    #[test]
    fn a_split_says_how_much_goes_where() {
        let route = |v1: u32| {
            json!({"name": format!("{WORKSPACE}/trafficgroups/g/serviceroutes/r"), "spec": {
                "service": "shop/web",
                "subsets": [{"name": "v1", "labels": {}}, {"name": "v2", "labels": {}}],
                "rules": [{"backendRefs": [{"subset": "v1", "weight": v1}, {"subset": "v2", "weight": 100 - v1}]}],
            }})
        };
        let found = behaviour(&plans(&[route(95)]), &plans(&[route(50)]));
        let rules = |spread: &Option<Spread>| spread.clone().unwrap().rules;
        assert_eq!(rules(&found.services[0].before), ["v1 95 %, v2 5 %"]);
        assert_eq!(rules(&found.services[0].after), ["v1 50 %, v2 50 %"]);
    }
}

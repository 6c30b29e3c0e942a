//! What holds of every mesh, also of one that is full of mistakes. None of the passes may panic on any of them.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, Strategy, any, proptest};
use serde_json::{Value, json};
use tombolo_compiler::finding::{Code, Finding};
use tombolo_compiler::intent::{Intent, Resource, Spec};
use tombolo_compiler::lower::lower;
use tombolo_compiler::name::{ClusterName, Fqn, Hostname, ServiceId};
use tombolo_compiler::plan::{Planner, Plans, plan};
use tombolo_compiler::proxy::{ProxyConfig, ProxyNode, ProxyRole, RouteAction};
use tombolo_compiler::resolve::{Resolved, Resolver, resolve};
use tombolo_compiler::routes::{RoutedGateway, RoutedGatewayMode, RoutedService, Slice, SliceItem, SliceKey};
use tombolo_compiler::view::View;

mod claims;
mod cost;
mod explain;
mod mandates;
mod readiness;
mod resolver;
mod world;

use world::{CLUSTERS, Edit, NAMESPACES, World, edits, worlds};

/// As they go over the wire: with all origins, which equality leaves out.
fn wire(plans: &Plans) -> BTreeMap<String, (bool, BTreeMap<String, Value>)> {
    let wire = |slice: &Slice| {
        let items = slice.items.iter();
        let items = items.map(|(key, item)| (key.to_string(), serde_json::to_value(item).unwrap()));
        (slice.complete, items.collect())
    };
    plans
        .iter()
        .map(|(cluster, slice)| (cluster.to_string(), wire(slice)))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn incremental_plans_equal_those_from_scratch(world in worlds(), edits in vec(edits(), 1..6)) {
        incremental_equals_scratch(world, edits);
    }

    #[test]
    fn a_change_costs_what_it_concerns(world in worlds(), edits in vec(edits(), 1..6)) {
        costs_what_it_concerns(world, edits);
    }

    #[test]
    fn incremental_resolution_equals_that_from_scratch(world in worlds(), edits in vec(vec(edits(), 1..4), 1..6)) {
        resolver::incremental_equals_scratch(world, edits);
    }

    #[test]
    fn claims_go_to_whom_the_pairwise_definition_gives_them(world in worlds()) {
        claims::agree_with_the_definition(&world.intent);
    }

    #[test]
    fn the_order_of_documents_changes_nothing(world in worlds(), (left, right) in two_orders()) {
        let build = |keys: &[usize]| -> Intent {
            let mut documents: Vec<&Arc<Resource>> = world.intent.values().collect();
            documents.sort_by_cached_key(|resource| {
                keys[resource.name.as_str().bytes().map(usize::from).sum::<usize>() % keys.len()]
            });
            documents.into_iter().map(|resource| (resource.name.clone(), Arc::clone(resource))).collect()
        };
        let (left, right) = (resolve(&build(&left)), resolve(&build(&right)));
        assert_eq!(left, right);
        let (left, right) = (plan(&left.0, &world.reports()), plan(&right.0, &world.reports()));
        assert_eq!(wire(&left.0), wire(&right.0));
        assert_eq!(left.1, right.1);
    }

    /// Holds invariant 8: whoever caused it can see it.
    #[test]
    fn invariant_8_every_finding_names_a_resource_that_exists(world in worlds()) {
        let (resolved, mut findings) = resolve(&world.intent);
        let (plans, found) = plan(&resolved, &world.reports());
        findings.extend(found);
        for (_, _, lowered) in lowered(&world, &plans) {
            findings.extend(lowered.1);
        }
        for finding in findings {
            assert!(world.intent.contains_key(&finding.resource), "{finding:?}");
            assert!(!finding.message.is_empty() && !finding.message.ends_with('.'), "{finding:?}");
        }
    }

    /// Holds invariant 6: a service has instances and remotes of its own workspace's namespaces only.
    #[test]
    fn invariant_6_workspaces_with_a_service_of_the_same_name_never_join(world in worlds()) {
        let (resolved, _) = resolve(&world.intent);
        let (plans, _) = plan(&resolved, &world.reports());
        for (cluster, slice) in &plans {
            for service in services(slice) {
                for remote in &service.remotes {
                    let owner = resolved.owner(&remote.cluster, &service.id.namespace);
                    assert_eq!(owner, Some(&service.workspace), "{cluster} sees {service:?}");
                }
            }
        }
        for (cluster, node, (config, _)) in lowered(&world, &plans) {
            never_joins(&resolved, &cluster, &node, &config);
        }
    }

    /// Holds invariant 6: what somebody else owns is used as far as that one grants it, and no further.
    #[test]
    fn invariant_6_nothing_of_another_workspace_is_used_without_its_grant(world in worlds()) {
        let (resolved, _) = resolve(&world.intent);
        let (plans, _) = plan(&resolved, &world.reports());
        for (cluster, slice) in &plans {
            let gateways = slice.items.iter().filter_map(|(key, item)| match (key, item) {
                (SliceKey::Gateway(name), SliceItem::Gateway(gateway)) => Some((name, &gateway.value)),
                _ => None,
            });
            let gateways: Vec<(&Fqn, &RoutedGateway)> = gateways.collect();
            for (name, gateway) in &gateways {
                let owner = resolved.owner(cluster, &gateway.workload.namespace);
                if let Some(owner) = owner.filter(|owner| **owner != gateway.workspace) {
                    let mut grants = claims::grants(owner, &world.intent);
                    assert!(grants.any(|grant| grant.lends_workload(&gateway.workload, name)), "{name} runs in {cluster}");
                }
                let of_hosts = owner_of_hosts(name, gateway, &world.intent);
                for (other, beside) in gateways.iter().filter(|(other, _)| other > name) {
                    let (hosts, others) = (hosts(gateway), hosts(beside));
                    if hosts.iter().any(|host| others.iter().any(|other| other.intersects(host))) {
                        assert_eq!(of_hosts, owner_of_hosts(other, beside, &world.intent), "{name} and {other}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_a_proxy_is_given_is_well_formed(world in worlds()) {
        let (resolved, _) = resolve(&world.intent);
        let (plans, _) = plan(&resolved, &world.reports());
        for (_, _, (config, _)) in lowered(&world, &plans) {
            well_formed(&config);
        }
    }

    /// Holds invariant 5: what nobody has said is not said to be gone.
    #[test]
    fn invariant_5_what_is_unknown_is_withheld_and_never_published_as_complete(world in worlds()) {
        let (resolved, _) = resolve(&world.intent);
        let reports = world.reports();
        let (plans, _) = plan(&resolved, &reports);
        let unknown: Vec<&ClusterName> = reports
            .joined
            .iter()
            .filter(|cluster| resolved.clusters.contains_key(*cluster))
            .filter(|cluster| !reports.clusters.contains_key(*cluster))
            .collect();
        for (cluster, slice) in &plans {
            let is_doubtful = unknown.contains(&cluster) || reports.unread.contains(cluster);
            assert!(!(slice.complete && is_doubtful), "{cluster} has not been heard, or not been understood");
            for service in services(slice) {
                let reaches = |cluster: &ClusterName| resolved.workspaces[&service.workspace].value.reaches(cluster);
                assert!(!unknown.iter().any(|cluster| reaches(cluster)), "{cluster} is told of {service:?}");
            }
        }
    }
}

fn hosts(gateway: &RoutedGateway) -> BTreeSet<Hostname> {
    match &gateway.mode {
        RoutedGatewayMode::Ingress { hosts, .. } => hosts.clone(),
        RoutedGatewayMode::EastWest => BTreeSet::new(),
    }
}

/// The workspace whose hosts a gateway serves: its own, or one that lends all of them.
fn owner_of_hosts(name: &Fqn, gateway: &RoutedGateway, intent: &Intent) -> Fqn {
    let lender = match &intent[name].spec {
        Spec::Gateway(spec) => &spec.hosts_from,
        Spec::Api(spec) => &spec.hosts_from,
        spec => panic!("{spec:?}"),
    };
    let lender = lender.as_ref().filter(|lender| **lender != gateway.workspace);
    for host in lender.iter().flat_map(|_| hosts(gateway)) {
        let mut grants = lender.iter().flat_map(|lender| claims::grants(lender, intent));
        assert!(
            grants.any(|grant| grant.lends_host(&host, name)),
            "{name} serves {host}"
        );
    }
    lender.unwrap_or(&gateway.workspace).clone()
}

fn two_orders() -> impl Strategy<Value = (Vec<usize>, Vec<usize>)> {
    (vec(any::<usize>(), 7), vec(any::<usize>(), 7))
}

fn costs_what_it_concerns(mut world: World, edits: Vec<Edit>) {
    let (mut resolver, mut planner) = (Resolver::default(), Planner::new());
    resolver.update(resolver::changes(&Intent::new(), &world.intent));
    planner.update(resolver.resolved(), &world.reports());
    for edit in edits {
        let before = world.clone();
        world.apply(edit.clone());
        let most = cost::most(&edit, &before, &world);
        let resolved = resolver.update(resolver::changes(&before.intent, &world.intent));
        let planned = planner.update(resolver.resolved(), &world.reports());
        let (resolved, planned) = (resolved.recomputed, planned.recomputed);
        assert!(
            most.resolved.is_none_or(|most| resolved <= most),
            "{resolved} of {most:?} keys resolved for {edit:?}"
        );
        assert!(
            most.planned.is_none_or(|most| planned <= most),
            "{planned} of {most:?} keys planned for {edit:?}"
        );
    }
}

fn incremental_equals_scratch(mut world: World, edits: Vec<Edit>) {
    let (mut resolver, mut planner) = (Resolver::default(), Planner::new());
    resolver.update(resolver::changes(&Intent::new(), &world.intent));
    let mut mirror: BTreeMap<ClusterName, Slice> = BTreeMap::new();
    let mut steps: Vec<Option<Edit>> = vec![None];
    steps.extend(edits.into_iter().map(Some));
    for edit in steps {
        let context = format!("{edit:?}");
        if let Some(edit) = edit {
            let before = world.intent.clone();
            world.apply(edit);
            resolver.update(resolver::changes(&before, &world.intent));
        }
        let (plans, findings) = plan(&resolve(&world.intent).0, &world.reports());
        // As in a plane: what has not changed is shared with what was there.
        let changed = planner.update(resolver.resolved(), &world.reports());
        assert_eq!(wire(planner.slices()), wire(&plans), "{context}");
        assert!(planner.findings().eq(&findings), "{context}");
        // What is said to have changed is all that somebody else must copy.
        mirror.retain(|cluster, _| planner.slices().contains_key(cluster));
        for (cluster, keys) in &changed.slices {
            let now = &planner.slices()[cluster];
            let copy = mirror.entry(cluster.clone()).or_default();
            copy.complete = now.complete;
            for key in keys {
                match now.items.get(key) {
                    Some(item) => copy.items.insert(key.clone(), item.clone()),
                    None => copy.items.remove(key),
                };
            }
        }
        assert_eq!(wire(&mirror), wire(planner.slices()), "{context}");
        let again = planner.update(&resolve(&world.intent).0, &world.reports());
        assert_eq!(again.recomputed, 0, "nothing changed after {context}");
    }
}

fn services(slice: &Slice) -> impl Iterator<Item = &RoutedService> {
    slice.items.values().filter_map(|item| match item {
        SliceItem::Service(service) => Some(&service.value),
        _ => None,
    })
}

/// Every address says where it is: 127.CLUSTER.NAMESPACE.1 for an instance, 10.CLUSTER.NAMESPACE.1 for a gateway.
fn placed(cluster: &ClusterName, view: &View) -> View {
    let mut view = view.clone();
    let octet = |name: &str, names: &[&str]| names.iter().position(|known| *known == name).unwrap() as u8;
    let at = octet(cluster.as_str(), &CLUSTERS);
    for (id, service) in &mut view.services {
        for instance in &mut service.instances {
            instance.address = IpAddr::from([127, at, octet(id.namespace.as_str(), &NAMESPACES), 1]);
        }
    }
    for (id, gateway) in &mut view.gateways {
        gateway.bind = IpAddr::from([10, at, octet(id.namespace.as_str(), &NAMESPACES), 1]);
    }
    view
}

type Lowered = (ClusterName, ProxyNode, (ProxyConfig, Vec<Finding>));

/// What every proxy that there could be is given.
fn lowered(world: &World, plans: &Plans) -> Vec<Lowered> {
    let mut lowered = Vec::new();
    for (cluster, view) in &world.views {
        let view = placed(cluster, view);
        let sidecars = NAMESPACES.iter().map(|namespace| ProxyRole::Sidecar {
            namespace: namespace.parse().unwrap(),
            outbound: "127.0.0.1:15001".parse().unwrap(),
        });
        let gateways = view.gateways.keys().map(|workload| ProxyRole::Gateway {
            workload: workload.clone(),
        });
        let nothing = Slice::default();
        let slice = plans.get(cluster).unwrap_or(&nothing);
        for role in sidecars.chain(gateways) {
            let node = ProxyNode {
                id: "p".to_owned(),
                role,
            };
            let result = lower(cluster, slice, &view, &node);
            lowered.push((cluster.clone(), node, result));
        }
    }
    lowered
}

fn never_joins(resolved: &Resolved, cluster: &ClusterName, node: &ProxyNode, config: &ProxyConfig) {
    for (name, endpoints) in &config.endpoints {
        let name = name.strip_prefix("local/").unwrap_or(name);
        let (owner, namespace) = match name.split('/').collect::<Vec<_>>().as_slice() {
            ["-", namespace, ..] => (None, *namespace),
            [tenant, workspace, namespace, ..] => {
                let owner = format!("organizations/acme/tenants/{tenant}/workspaces/{workspace}");
                (Some(owner.parse::<Fqn>().unwrap()), *namespace)
            }
            _ => panic!("{name}"),
        };
        let namespace = namespace.parse().unwrap();
        for group in endpoints.value.priorities.iter().flatten() {
            assert_eq!(
                resolved.owner(&group.cluster, &namespace),
                owner.as_ref(),
                "{name} at {node:?}"
            );
            for endpoint in &group.endpoints {
                let IpAddr::V4(address) = endpoint.address.ip() else {
                    panic!()
                };
                // Instances of other clusters never get here; their gateways do.
                let is_instance = address.octets()[0] == 127 && address.octets()[1..] != [0, 0, 1];
                if is_instance {
                    assert_eq!(group.cluster, *cluster);
                    assert_eq!(CLUSTERS[usize::from(address.octets()[1])], cluster.as_str());
                }
            }
        }
    }
}

/// What an xDS client refuses does not get that far.
fn well_formed(config: &ProxyConfig) {
    for listener in config.listeners.values() {
        assert!(config.route_tables.contains_key(&listener.value.route_table));
    }
    let binds: BTreeSet<_> = config
        .listeners
        .values()
        .map(|listener| listener.value.bind)
        .collect();
    assert_eq!(
        binds.len(),
        config.listeners.len(),
        "two listeners on one address"
    );
    assert!(config.clusters.keys().eq(config.endpoints.keys()));
    let mut used = BTreeSet::new();
    for table in config.route_tables.values() {
        let mut domains = BTreeSet::new();
        for host in table.value.hosts.iter().map(|host| &host.value) {
            assert!(!host.domains.is_empty(), "{}", host.name);
            for domain in &host.domains {
                assert!(domains.insert(domain), "{domain} twice");
            }
            for route in &host.routes {
                if let RouteAction::Forward(forward) = &route.value.action {
                    assert!(!forward.targets.is_empty(), "{forward:?}");
                    let sum: u32 = forward.targets.iter().map(|target| target.weight).sum();
                    assert!((1..=10_000).contains(&sum), "{forward:?}");
                    assert!(
                        forward.targets.iter().all(|target| target.weight > 0),
                        "{forward:?}"
                    );
                    used.extend(forward.targets.iter().map(|target| target.cluster.clone()));
                    used.extend(forward.mirrors.iter().map(|mirror| mirror.cluster.clone()));
                }
            }
        }
    }
    assert!(
        used.iter().eq(config.clusters.keys()),
        "clusters that are used, and those that are there"
    );
    for endpoints in config.endpoints.values() {
        for priority in &endpoints.value.priorities {
            assert!(!priority.is_empty() && priority.iter().all(|group| !group.endpoints.is_empty()));
        }
    }
}

/// Two workspaces in two clusters, with two services each.
fn two_workspaces() -> World {
    let mut world = World::default();
    let documents = [
        json!({"name": "organizations/acme"}),
        json!({"name": "organizations/acme/clusters/east", "spec": {"region": "r1"}}),
        json!({"name": "organizations/acme/clusters/west", "spec": {"region": "r2"}}),
        json!({"name": "organizations/acme/tenants/a"}),
        json!({"name": "organizations/acme/tenants/a/workspaces/w", "spec": {"namespaces": ["*/shop"]}}),
        json!({"name": "organizations/acme/tenants/a/workspaces/w/trafficgroups/g"}),
        json!({"name": "organizations/acme/tenants/b"}),
        json!({"name": "organizations/acme/tenants/b/workspaces/w", "spec": {"namespaces": ["*/cart"]}}),
    ];
    for document in documents {
        world.apply(Edit::Write(Box::new(Resource::from_json(document).unwrap())));
    }
    let service = json!({"ports": [{"name": "http", "port": 80}], "instances": [{"address": "127.0.0.1"}]});
    let view: View = serde_json::from_value(json!({
        "services": {"shop/reviews": service, "shop/web": service, "cart/basket": service},
        "gateways": {"mesh/gateway": {"bind": "127.0.0.1", "eastWestPort": 15443}},
    }))
    .unwrap();
    for cluster in ["east", "west"] {
        world.apply(Edit::View(cluster.parse().unwrap(), Some(view.clone())));
    }
    world
}

#[test]
fn a_change_recomputes_its_own_keys_only() {
    let mut world = two_workspaces();
    let mut planner = Planner::new();
    let step =
        |planner: &mut Planner, world: &World| planner.update(&resolve(&world.intent).0, &world.reports());
    let first = step(&mut planner, &world);
    assert_eq!(
        first.recomputed,
        2 + 2 * 3 + 3,
        "clusters, namespaces and services"
    );

    let west: ClusterName = "west".parse().unwrap();
    let reviews: ServiceId = "shop/reviews".parse().unwrap();
    world
        .views
        .get_mut(&west)
        .unwrap()
        .services
        .get_mut(&reviews)
        .unwrap()
        .instances
        .clear();
    let changed = step(&mut planner, &world);
    assert_eq!(changed.recomputed, 1, "one service went down");
    let owner: Fqn = "organizations/acme/tenants/a/workspaces/w".parse().unwrap();
    let keys = BTreeSet::from([SliceKey::Service(reviews.clone(), owner.clone())]);
    assert_eq!(
        changed.slices,
        [("east".parse().unwrap(), keys)].into(),
        "west has no remote but east"
    );

    let route = json!({
        "name": format!("{owner}/trafficgroups/g/serviceroutes/r"),
        "spec": {"service": "shop/reviews", "rules": []}
    });
    world.apply(Edit::Write(Box::new(Resource::from_json(route.clone()).unwrap())));
    assert_eq!(
        step(&mut planner, &world).recomputed,
        1,
        "one service got a route"
    );

    let mut described = route;
    described["description"] = "says nothing to a proxy".into();
    world.apply(Edit::Write(Box::new(Resource::from_json(described).unwrap())));
    let changed = step(&mut planner, &world);
    assert_eq!(
        (changed.recomputed, changed.slices),
        (0, BTreeMap::new()),
        "a description"
    );
}

/// Holds invariant 6: an error tells of another tenant that it owns the name, and nothing else.
/// Endpoints reach a proxy before routes do, so what keeps its name must keep its meaning.
#[test]
fn invariant_3_a_subset_that_is_redefined_is_another_upstream() {
    let mut world = two_workspaces();
    for view in world.views.values_mut() {
        let reviews = view.services.get_mut(&"shop/reviews".parse().unwrap()).unwrap();
        reviews.instances = serde_json::from_value(json!([
            {"address": "127.0.0.1", "ports": {"http": 8081}, "labels": {"version": "v1"}},
            {"address": "127.0.0.1", "ports": {"http": 8082}, "labels": {"version": "v2"}},
        ]))
        .unwrap();
    }
    let mut step = |stable: &str, canary: &str| {
        let route = json!({
            "name": "organizations/acme/tenants/a/workspaces/w/trafficgroups/g/serviceroutes/r",
            "spec": {
                "service": "shop/reviews",
                "subsets": [
                    {"name": "stable", "labels": {"version": stable}},
                    {"name": "canary", "labels": {"version": canary}},
                ],
                "rules": [{"backendRefs": [
                    {"subset": "stable", "weight": 95},
                    {"subset": "canary", "weight": 5},
                ]}],
            },
        });
        world.apply(Edit::Write(Box::new(Resource::from_json(route).unwrap())));
        let plans = plan(&resolve(&world.intent).0, &world.reports()).0;
        lowered(&world, &plans)
    };
    let configs = step("v1", "v2").into_iter().zip(step("v2", "v1"));
    let mut subsets = 0;
    for ((_, node, (before, _)), (_, _, (after, _))) in configs {
        for (name, endpoints) in &before.endpoints {
            if let Some(redefined) = after.endpoints.get(name) {
                assert_eq!(redefined.value, endpoints.value, "{name} at {}", node.id);
            }
            subsets += usize::from(name.contains("/stable"));
        }
    }
    assert!(subsets > 0);
}

#[test]
fn invariant_6_an_error_names_the_owner_and_nothing_else_of_it() {
    let mut world = two_workspaces();
    for (tenant, secret) in [("a", "secret-a"), ("b", "secret-b")] {
        let workspace = format!("organizations/acme/tenants/{tenant}/workspaces/w");
        for document in [
            json!({"name": format!("{workspace}/gatewaygroups/g")}),
            json!({"name": format!("{workspace}/gatewaygroups/g/gateways/in"), "description": secret,
                "labels": {"secret": secret}, "spec": {"workload": "mesh/gateway", "type": "ingress", "port": 8080,
                "hosts": ["shop.example.com", format!("{secret}.example.com")],
                "rules": [{"backendRefs": [{"namespace": "shop", "name": secret}]}]}}),
        ] {
            world.apply(Edit::Write(Box::new(Resource::from_json(document).unwrap())));
        }
    }
    let (_, findings) = resolve(&world.intent);
    let of_b: Vec<&Finding> = findings
        .iter()
        .filter(|finding| finding.resource.as_str().contains("tenants/b"))
        .collect();
    let codes: Vec<Code> = of_b.iter().map(|finding| finding.code).collect();
    assert_eq!(codes, [Code::HostTaken, Code::NamespaceNotOwned]);
    for finding in of_b {
        assert!(!finding.message.contains("secret-a"), "{finding}");
    }
    assert!(
        findings
            .iter()
            .all(|finding| !finding.resource.as_str().contains("tenants/a"))
    );
}

/// Holds invariant 5: the same cluster unknown, then heard, then silent again; nothing that it offered is withdrawn.
#[test]
fn invariant_5_unknown_is_never_empty() {
    let mut world = two_workspaces();
    let west: ClusterName = "west".parse().unwrap();
    let view = world.views.remove(&west).unwrap();
    world.joined.push(west.clone());
    let (resolved, _) = resolve(&world.intent);
    let (plans, findings) = plan(&resolved, &world.reports());
    assert!(
        plans
            .values()
            .all(|slice| !slice.complete && services(slice).next().is_none())
    );
    assert_eq!(findings, [], "nothing is said to be missing either");
    world.views.insert(west, view);
    let (plans, _) = plan(&resolved, &world.reports());
    assert!(
        plans
            .values()
            .all(|slice| slice.complete && services(slice).count() == 3)
    );
}

//! Resolution by key: what a change costs, and that it is resolution all the same.

use std::sync::Arc;

use serde_json::{Value, json};
use tombolo_compiler::finding::{Code, Finding};
use tombolo_compiler::intent::{Intent, Resource};
use tombolo_compiler::name::Fqn;
use tombolo_compiler::resolve::{self, Resolver, resolve};

use crate::world::{Edit, World};

/// Each of the steps takes several edits at once.
pub(crate) fn incremental_equals_scratch(mut world: World, steps: Vec<Vec<Edit>>) {
    let mut resolver = Resolver::default();
    resolver.update(changes(&Intent::new(), &world.intent));
    check(&resolver, &world.intent, "at first");
    for step in steps {
        let context = format!("{step:?}");
        let (before, kept) = (world.intent.clone(), resolver.clone());
        for edit in step {
            world.apply(edit);
        }
        resolver.update(changes(&before, &world.intent));
        check(&resolver, &world.intent, &context);
        check(&kept, &before, "a copy is not touched");
        new_findings(&kept, &resolver);
        let again = resolver.update(world.intent.values().cloned().map(resolve::Edit::Put));
        assert_eq!(again.recomputed, 0, "nothing changed after {context}");
        // As a write that is tried and given up, and as one that is undone.
        resolver.clone().update(changes(&world.intent, &before));
        check(&resolver, &world.intent, &context);
    }
}

pub(crate) fn changes(before: &Intent, after: &Intent) -> Vec<resolve::Edit> {
    let differences = before.diff(after, Arc::ptr_eq).into_iter();
    differences
        .map(|differs| match differs.after {
            Some(resource) => resolve::Edit::Put(resource.clone()),
            None => resolve::Edit::Remove(differs.key.clone()),
        })
        .collect()
}

/// With all origins, which equality leaves out.
fn check(resolver: &Resolver, intent: &Intent, context: &str) {
    let (resolved, findings) = resolve(intent);
    assert_eq!(
        format!("{:#?}", resolver.resolved()),
        format!("{resolved:#?}"),
        "{context}"
    );
    let found: Vec<Finding> = resolver.findings().cloned().collect();
    assert_eq!(found, findings, "{context}");
    assert_eq!(resolver.intent(), intent, "{context}");
}

fn new_findings(before: &Resolver, after: &Resolver) {
    let was: Vec<&Finding> = before.findings().collect();
    let expected: Vec<&Finding> = after
        .findings()
        .filter(|finding| !was.contains(finding))
        .collect();
    assert_eq!(after.findings_since(before).collect::<Vec<_>>(), expected);
}

fn put(document: Value) -> resolve::Edit {
    resolve::Edit::Put(Arc::new(Resource::from_json(document).unwrap()))
}

#[test]
fn a_change_resolves_its_own_keys_only() {
    let mut resolver = Resolver::default();
    let mut documents = vec![
        json!({"name": "organizations/acme"}),
        json!({"name": "organizations/acme/clusters/east", "spec": {"region": "us"}}),
        json!({"name": "organizations/acme/users/ana"}),
        json!({"name": "organizations/acme/tenants/a"}),
    ];
    let workspace = |number: u32| format!("organizations/acme/tenants/a/workspaces/w{number:02}");
    let route = |number: u32, subset: &str| {
        let name = format!("{}/trafficgroups/g/serviceroutes/r", workspace(number));
        let subsets = json!([{"name": subset, "labels": {}}]);
        json!({"name": name, "spec": {"service": format!("ns{number:02}/web"), "subsets": subsets, "rules": []}})
    };
    let gateway = |number: u32, host: &str| {
        let name = format!("{}/gatewaygroups/g/gateways/in", workspace(number));
        let rules = json!([{"backendRefs": [{"namespace": format!("ns{number:02}"), "name": "web"}]}]);
        json!({"name": name, "spec": {"workload": "mesh/gw", "type": "ingress", "port": 80, "hosts": [host], "rules": rules}})
    };
    for number in 0..50 {
        let name = workspace(number);
        let host = format!("h{number:02}.example.com");
        documents.extend([
            json!({"name": name, "spec": {"namespaces": [format!("*/ns{number:02}")]}}),
            json!({"name": format!("{name}/trafficgroups/g")}),
            json!({"name": format!("{name}/gatewaygroups/g")}),
            json!({"name": format!("{name}/bindings/b"), "spec": {"role": "reader", "subjects": ["organizations/acme/users/ana"]}}),
            route(number, "v1"),
            gateway(number, &host),
        ]);
    }
    resolver.update(documents.into_iter().map(put));
    assert_eq!(resolver.findings().count(), 0);
    let name: Fqn = format!("{}/trafficgroups/g/serviceroutes/r", workspace(7))
        .parse()
        .unwrap();
    let steps = [
        ("a route", vec![put(route(7, "v2"))], 1),
        ("a gateway", vec![put(gateway(7, "new.example.com"))], 1),
        // It and the one that has the host: the second name loses.
        (
            "a host that another has",
            vec![put(gateway(7, "h09.example.com"))],
            2,
        ),
        // It and its settings, its groups, route and gateway; nobody else wants its namespaces.
        (
            "a workspace",
            vec![put(
                json!({"name": workspace(7), "spec": {"namespaces": ["*/moved"]}}),
            )],
            6,
        ),
        (
            "a description",
            vec![put(
                json!({"name": "organizations/acme/tenants/a", "description": "x"}),
            )],
            0,
        ),
        ("a route that goes", vec![resolve::Edit::Remove(name)], 1),
        // All bindings name her.
        (
            "a user that goes",
            vec![resolve::Edit::Remove(
                "organizations/acme/users/ana".parse().unwrap(),
            )],
            50,
        ),
    ];
    for (what, edits, expected) in steps {
        assert_eq!(resolver.update(edits).recomputed, expected, "{what}");
    }
}

#[test]
fn a_port_that_is_given_up_goes_to_the_next_that_wants_it() {
    let workspace = "organizations/acme/tenants/a/workspaces/w";
    let gateway = |leaf: &str| format!("{workspace}/gatewaygroups/g/gateways/{leaf}");
    let backends = json!([{"namespace": "shop", "name": "web"}]);
    let http = |leaf: &str| {
        let hosts = [format!("{leaf}.example.com")];
        put(
            json!({"name": gateway(leaf), "spec": {"workload": "mesh/gw", "type": "ingress", "port": 80,
            "hosts": hosts, "rules": [{"backendRefs": backends}]}}),
        )
    };
    let tcp = |leaf: &str| {
        put(
            json!({"name": gateway(leaf), "spec": {"workload": "mesh/gw", "type": "ingress", "protocol": "tcp",
            "port": 80, "backendRefs": backends}}),
        )
    };
    let gone = |leaf: &str| resolve::Edit::Remove(gateway(leaf).parse().unwrap());
    let mut resolver = Resolver::default();
    let skeleton = [
        json!({"name": "organizations/acme"}),
        json!({"name": "organizations/acme/tenants/a"}),
        json!({"name": workspace, "spec": {"namespaces": ["*/shop"]}}),
        json!({"name": format!("{workspace}/gatewaygroups/g")}),
    ];
    resolver.update(skeleton.map(put));
    for (step, edit, refused) in [
        ("the first", http("b"), ""),
        ("another one for connections", tcp("c"), "c by b"),
        ("one before it for requests", http("a"), "c by a"),
        ("another one for connections", tcp("d"), "c by a, d by a"),
        ("one that is not in the way", gone("b"), "c by a, d by a"),
        ("the last for requests", gone("a"), "d by c"),
        ("a later one for requests", http("e"), "d by c, e by c"),
        ("the one that has it", gone("c"), "e by d"),
        ("one that takes it for requests", http("d"), ""),
    ] {
        resolver.update([edit]);
        check(&resolver, &resolver.intent().clone(), step);
        let taken: Vec<String> = resolver
            .findings()
            .filter(|finding| finding.code == Code::PortTaken)
            .map(|finding| {
                let holder = &finding.claim.as_ref().unwrap().holder;
                format!("{} by {}", finding.resource.leaf(), holder.leaf())
            })
            .collect();
        assert_eq!(taken.join(", "), refused, "{step}");
    }
}

//! What is used again of earlier updates is what would be decoded anew, and an update of one is an update of one.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use prost::Message;

use super::samples::{self, Named, cluster, endpoints, listener, routes, turns_off, virtual_host};
use super::*;
use crate::balance::Draw;
use crate::router::RouteTable;
use crate::worker::Random;

type Model = BTreeMap<(ResourceKind, String), RawResource>;

/// One of the listeners wants each of the tables, unless it is the one that wants another.
fn some_listener(random: &Random) -> Named {
    let number = random.below(3);
    let port = 10_000 + u16::try_from(number).unwrap();
    let table = format!("r{}", random.below(3));
    listener(&format!("l{number}"), ([127, 0, 0, 1], port).into(), &table)
}

/// Hosts in some order, some of which say something of filters.
fn some_table(random: &Random) -> Named {
    let mut hosts: Vec<VirtualHost> = Vec::new();
    for number in 0..8 {
        let mut host = virtual_host(&format!("h{number}"), 200 + random.below(2));
        match random.below(8) {
            0 => continue,
            1 => host.typed_per_filter_config = turns_off("f"),
            2 => host.routes[0].typed_per_filter_config = turns_off("g"),
            3 => host.domains.push(format!("{}.example.org", host.name)),
            _ => {}
        }
        let place = match random.below(8) {
            0 => random.below(u32::try_from(hosts.len()).unwrap() + 1) as usize,
            _ => hosts.len(),
        };
        hosts.insert(place, host);
    }
    let name = format!("r{}", random.below(3));
    let (name, raw) = routes(&name, hosts);
    let mut body = raw.body;
    if random.below(6) == 0 {
        // `ignore_port_in_host_matching`, field 14.
        body.extend([0x70, 1]);
    }
    if random.below(3) == 0 {
        let said = RouteConfiguration {
            typed_per_filter_config: turns_off("h"),
            ..RouteConfiguration::default()
        };
        body.extend(said.encode_to_vec());
    }
    (name, RawResource { body, ..raw })
}

fn some_update(random: &Random) -> Update {
    let name = || format!("c{}", random.below(12));
    let (kind, one): (_, &dyn Fn() -> Named) = match random.below(4) {
        0 => (ResourceKind::Cluster, &|| {
            cluster(&name(), 1 + i64::from(random.below(2)))
        }),
        1 => (ResourceKind::Endpoints, &|| {
            let ports: Vec<u16> = (0..random.below(4))
                .map(|port| 8000 + u16::try_from(port).unwrap())
                .collect();
            endpoints(&name(), &ports)
        }),
        2 => (ResourceKind::Listener, &|| some_listener(random)),
        _ => (ResourceKind::Routes, &|| some_table(random)),
    };
    let resources: BTreeMap<String, RawResource> = (0..1 + random.below(3)).map(|_| one()).collect();
    let mut removed = Vec::new();
    if random.below(4) == 0 {
        let (name, _) = one();
        removed.extend((!resources.contains_key(&name)).then_some(name));
    }
    Update {
        kind,
        resources: resources.into_iter().collect(),
        removed,
    }
}

/// The same, from nothing.
fn from_scratch(model: &Model) -> Resources {
    ResourceKind::ALL
        .into_iter()
        .fold(Resources::default(), |held, kind| {
            let of_kind = model.iter().filter(|((of, _), _)| *of == kind);
            let resources = of_kind.map(|((_, name), raw)| (name.clone(), raw.clone()));
            held.with(&samples::update(kind, resources.collect(), &[]))
                .unwrap()
        })
}

fn shown(resources: &Resources) -> Model {
    let of_kind = |kind| {
        let held = resources.held(kind);
        held.map(move |(name, raw)| ((kind, name.to_string()), RawResource::clone(raw)))
    };
    ResourceKind::ALL.into_iter().flat_map(of_kind).collect()
}

fn assert_same<V: PartialEq + fmt::Debug>(one: &ByName<Arc<V>>, other: &ByName<Arc<V>>, context: &str) {
    assert!(one.iter().eq(other.iter()), "{context}:\n{one:?}\n{other:?}");
}

#[test]
fn a_row_of_updates_is_what_they_leave_from_scratch() {
    for seed in 0..40 {
        let random = Random::seeded(seed);
        let mut held = Resources::default();
        let mut model = Model::new();
        for step in 0..60 {
            let update = some_update(&random);
            held = held.with(&update).unwrap();
            for (name, raw) in &update.resources {
                model.insert((update.kind, name.clone()), raw.clone());
            }
            for name in &update.removed {
                model.remove(&(update.kind, name.clone()));
            }
            // What nothing mentions is not kept, whichever update it was that said so.
            let wanted = held.config.wanted_routes();
            let secrets = held.config.wanted_secrets();
            let clusters: Vec<String> = held.config.clusters.names().map(ToString::to_string).collect();
            model.retain(|(kind, name), _| match kind {
                ResourceKind::Endpoints => clusters.contains(name),
                ResourceKind::Secret => secrets.contains(name.as_str()),
                ResourceKind::Routes => wanted.contains(name.as_str()),
                ResourceKind::Cluster | ResourceKind::Listener => true,
            });
            let context = format!("seed {seed}, step {step}");
            assert_eq!(shown(&held), model, "{context}");
            let scratch = from_scratch(&model);
            assert_same(&held.config.clusters, &scratch.config.clusters, &context);
            assert_same(&held.config.endpoints, &scratch.config.endpoints, &context);
            assert_same(&held.config.listeners, &scratch.config.listeners, &context);
            assert_same(&held.config.routes, &scratch.config.routes, &context);
        }
    }
}

fn hosts(count: u32) -> Vec<VirtualHost> {
    (0..count)
        .map(|number| virtual_host(&format!("h{number}"), 200))
        .collect()
}

/// How many hosts of the table after are those of the table before.
fn reused(before: &[VirtualHost], after: &[VirtualHost]) -> usize {
    let table = |held: &Resources| -> Arc<RouteTable> { Arc::clone(held.config.routes.get("r").unwrap()) };
    let put = |kind, resource| samples::update(kind, vec![resource], &[]);
    let listener = listener("l", ([127, 0, 0, 1], 80).into(), "r");
    let held = Resources::default()
        .with(&put(ResourceKind::Listener, listener))
        .unwrap();
    let held = held
        .with(&put(ResourceKind::Routes, routes("r", before.to_vec())))
        .unwrap();
    let next = held
        .with(&put(ResourceKind::Routes, routes("r", after.to_vec())))
        .unwrap();
    let (before, after) = (table(&held), table(&next));
    let is_held = |host: &&Arc<_>| before.hosts().iter().any(|held| Arc::ptr_eq(held, host));
    after.hosts().iter().filter(is_held).count()
}

#[test]
fn a_virtual_host_that_stays_is_decoded_once() {
    let before = hosts(500);
    type Edit = fn(&mut Vec<VirtualHost>);
    let cases: [(&str, Edit, usize); 6] = [
        ("nothing", |_| {}, 500),
        ("one changed", |hosts| hosts[250] = virtual_host("h250", 503), 499),
        (
            "one before all",
            |hosts| hosts.insert(0, virtual_host("new", 200)),
            500,
        ),
        ("one gone", |hosts| drop(hosts.remove(7)), 499),
        ("another order", |hosts| hosts.reverse(), 500),
        (
            "one that says something of filters",
            |hosts| hosts[0].typed_per_filter_config = turns_off("f"),
            499,
        ),
    ];
    for (what, edit, expected) in cases {
        let mut after = before.clone();
        edit(&mut after);
        assert_eq!(reused(&before, &after), expected, "{what}");
    }
    let mut said = before.clone();
    for host in &mut said {
        host.typed_per_filter_config = turns_off("f");
    }
    let mut after = said.clone();
    after[499] = virtual_host("h499", 503);
    assert_eq!(reused(&said, &after), 499, "all say something of filters");
}

#[test]
fn what_is_used_again_is_held_against_the_rest() {
    let put = |kind, resource| samples::update(kind, vec![resource], &[]);
    let listener = listener("l", ([127, 0, 0, 1], 80).into(), "r");
    let held = Resources::default()
        .with(&put(ResourceKind::Listener, listener))
        .unwrap();
    let held = held
        .with(&put(ResourceKind::Routes, routes("r", hosts(3))))
        .unwrap();
    type Edit = fn(&mut VirtualHost);
    let cases: [(Edit, &str); 2] = [
        (
            |host| host.name = "h0".to_owned(),
            "r: virtual_hosts[2].name: \"h0\" is another virtual host's too",
        ),
        (
            |host| host.domains = vec!["H0.example.com".to_owned()],
            "r: virtual_hosts[2].domains: domain h0.example.com is listed twice",
        ),
    ];
    for (edit, expected) in cases {
        let mut after = hosts(3);
        edit(&mut after[2]);
        let refused = held
            .with(&put(ResourceKind::Routes, routes("r", after)))
            .unwrap_err();
        assert_eq!(describe(&refused), expected);
    }
}

#[test]
fn an_update_of_one_cluster_touches_one() {
    let all = (0..5000).map(|number| cluster(&format!("c{number}"), 1));
    let before = Resources::default();
    let before = before
        .with(&samples::update(ResourceKind::Cluster, all.collect(), &[]))
        .unwrap();
    // What is said again as it was is no change.
    let said = vec![cluster("c2500", 2), cluster("c2501", 1)];
    let one = samples::update(ResourceKind::Cluster, said, &["c7"]);
    let after = before.with(&one).unwrap();
    let changes = after
        .config
        .clusters
        .changes(&before.config.clusters, Arc::ptr_eq);
    let names: Vec<&str> = changes.iter().map(|change| &**change.name).collect();
    assert_eq!(names, ["c2500", "c7"]);
}

//! What the edge may say of each part of the contract, said in `dataplane/fuzz/decoding.yaml`, so that a change of it is not refused at
//! once.

use std::fs;

use serde_json::{Map, Value, json};

use super::resources;
use crate::config::ResourceKind;
use crate::file;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/decoding.yaml");
const TYPES: &str = "type.googleapis.com/envoy.extensions.filters";

/// All of them as inputs.
pub(super) fn inputs() -> Vec<Vec<u8>> {
    let seeds = seeds();
    let inputs = seeds.iter().flat_map(resources_of).map(|(kind, body)| {
        let place = ResourceKind::ALL.into_iter().position(|other| other == kind);
        let mut input = vec![u8::try_from(place.unwrap()).unwrap()];
        input.extend(body);
        input
    });
    inputs.collect()
}

fn seeds() -> Vec<Map<String, Value>> {
    let file = file::parsed(&fs::read_to_string(FILE).unwrap());
    let seeds = file["seeds"].as_array().unwrap().iter();
    seeds.map(|seed| seed.as_object().unwrap().clone()).collect()
}

fn resources_of(seed: &Map<String, Value>) -> Vec<(ResourceKind, Vec<u8>)> {
    let mut all = Map::new();
    for key in ["listeners", "clusters", "secrets"] {
        all.extend(seed.get(key).map(|value| (key.to_owned(), value.clone())));
    }
    if ["filter", "manager", "chain"]
        .iter()
        .any(|key| seed.contains_key(*key))
    {
        all.insert("listeners".to_owned(), json!([listener(seed)]));
    }
    file::encoded(&json!({ "static_resources": all }), resources::NAME)
}

fn listener(seed: &Map<String, Value>) -> Value {
    let router = json!({ "@type": format!("{TYPES}.http.router.v3.Router") });
    let filter = seed.get("filter");
    let filters = filter
        .map(|filter| json!({ "name": "filter", "typed_config": filter }))
        .into_iter()
        .chain([json!({ "name": "router", "typed_config": router })]);
    let mut manager = json!({
        "@type": format!("{TYPES}.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "x",
        "route_config": { "virtual_hosts": [] },
        "http_filters": filters.collect::<Vec<_>>(),
    });
    add(&mut manager, seed.get("manager"));
    let mut chain = json!({ "filters": [{ "name": "http", "typed_config": manager }] });
    add(&mut chain, seed.get("chain"));
    json!({
        "name": resources::NAME,
        "address": { "socket_address": { "address": "127.0.0.1", "port_value": 1 } },
        "filter_chains": [chain],
    })
}

fn add(to: &mut Value, more: Option<&Value>) {
    let more = more.and_then(Value::as_object).cloned();
    to.as_object_mut().unwrap().extend(more.into_iter().flatten());
}

#[test]
fn each_is_taken_or_refused_as_it_says() {
    let seeds = seeds();
    let mut wrong = Vec::new();
    for seed in &seeds {
        let all = resources_of(seed);
        assert!(!all.is_empty(), "{} has nothing", seed["name"]);
        let outcomes = all
            .iter()
            .map(|(kind, body)| resources::taken(*kind, body).map(drop));
        let outcome: Result<(), String> = outcomes.collect();
        let is_right = match (&outcome, seed.get("refused").and_then(Value::as_str)) {
            (Ok(()), None) => true,
            (Err(reason), Some(expected)) => reason.contains(expected),
            _ => false,
        };
        if !is_right {
            wrong.push(format!("{}: {outcome:?}", seed["name"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seeds.len() >= 30);
}

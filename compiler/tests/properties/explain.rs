//! An explanation says what the whole mesh, planned and lowered as for real proxies, does.

use std::collections::BTreeMap;

use proptest::prelude::{ProptestConfig, Strategy, proptest};
use proptest::sample::{select, subsequence};
use tombolo_compiler::explain::request::Request;
use tombolo_compiler::explain::{
    Destination, Hosts, Outcome, Place, Stage, Step, Trace, Viewpoint, explain, trace,
};
use tombolo_compiler::finding::Origin;
use tombolo_compiler::http::HeaderName;
use tombolo_compiler::name::{ClusterName, Kind};
use tombolo_compiler::plan::plan;
use tombolo_compiler::report::State;
use tombolo_compiler::resolve::resolve;

use super::world::{CLUSTERS, NAMESPACES, worlds};

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_part_of_the_mesh_explains_what_the_whole_does(world in worlds(), requests in proptest::collection::vec(requests(), 1..6)) {
        let (resolved, findings) = resolve(&world.intent);
        let (plans, _) = plan(&resolved, &world.reports());
        for from in viewpoints() {
            for request in &requests {
                let explanation = explain(&resolved, &world.reports(), &findings, &from, request, &|_| true);
                let Some(entry) = explanation.entry else { continue };
                let (Some(slice), Some(view)) = (plans.get(&from.cluster), world.views.get(&from.cluster)) else {
                    continue;
                };
                let whole = trace(&from.cluster, slice, view, &entry, request);
                // What a cluster is told does not say who lent a gateway what, nor who decided an order of failover.
                let is_told = |step: &&Step| !matches!(step.stage, Stage::Grant | Stage::Failover);
                let steps = explanation.trace.steps.iter().filter(is_told);
                assert!(steps.eq(&whole.steps), "{from} {request}: {:#?}, not {:#?}", explanation.trace.steps, whole.steps);
                assert_eq!(summary(&explanation.trace), summary(&whole), "{from} {request}");
                ends_in_its_outcome(&whole);
            }
        }
    }

    #[test]
    fn a_refusal_comes_with_advice(world in worlds(), request in requests()) {
        let (resolved, findings) = resolve(&world.intent);
        for from in viewpoints() {
            let explanation = explain(&resolved, &world.reports(), &findings, &from, &request, &|_| true);
            let by_rule = explanation.trace.steps.iter().any(|step| matches!(step.stage, Stage::ServiceRule)
                || (step.stage == Stage::GatewayRule && step.origin.is_some()));
            let told = !explanation.advice.is_empty();
            match &explanation.trace.outcome {
                Outcome::Refuse { .. } if !by_rule => assert!(told, "{from} {request}"),
                Outcome::NotTaken { .. } if resolved.clusters.contains_key(&from.cluster) && explanation.entry.is_some() => {
                    assert!(told, "{from} {request}");
                }
                _ => {}
            }
            for resource in explanation.resources() {
                assert!(world.intent.contains_key(resource), "{resource}");
            }
        }
    }
}

fn requests() -> impl Strategy<Value = Request> {
    let host = select(vec![
        "reviews",
        "reviews.shop",
        "reviews.shop:90",
        "web.shop.svc",
        "basket.cart.svc.clusterset.local",
        "basket.cart.svc.cluster.local:80",
        "a.example.com",
        "a.example.com:8081",
        "b.example.com:8080",
        "x.y.example.com",
        "nobody.example.org",
    ]);
    let path = select(vec!["/", "/a", "/a/b", "/ab", "/b/c?d=e"]);
    let headers = subsequence(vec![("x-a", "1"), ("x-b", "1")], 0..3);
    (host, path, headers).prop_map(|(host, path, headers)| {
        let headers: BTreeMap<HeaderName, String> = headers
            .into_iter()
            .map(|(name, value)| (name.to_owned().try_into().unwrap(), value.to_owned()))
            .collect();
        Request::new("GET", &format!("http://{host}{path}"), headers).unwrap()
    })
}

fn viewpoints() -> Vec<Viewpoint> {
    let mut viewpoints = Vec::new();
    for cluster in CLUSTERS {
        let cluster: ClusterName = cluster.parse().unwrap();
        let places = NAMESPACES
            .iter()
            .map(|namespace| Place::Application(format!("{namespace}/any").parse().unwrap()));
        let gateways = ["p", "q"]
            .iter()
            .map(|name| Place::Gateway(name.parse().unwrap()));
        viewpoints.extend(places.chain(gateways).map(|place| Viewpoint {
            cluster: cluster.clone(),
            place,
        }));
    }
    viewpoints
}

type Summary = (
    String,
    Option<Origin>,
    Vec<(String, u32, Vec<(usize, ClusterName, State)>)>,
);

/// Without the addresses of instances, which only the edge knows.
fn summary(trace: &Trace) -> Summary {
    let what = match &trace.outcome {
        Outcome::Forward { .. } => "forward".to_owned(),
        Outcome::Refuse { status, reason, .. } => format!("{status} {reason}"),
        Outcome::Redirect { status, location, .. } => format!("{status} {location}"),
        Outcome::NotTaken { reason } => reason.clone(),
    };
    let targets = match &trace.outcome {
        Outcome::Forward { targets, .. } => targets.as_slice(),
        _ => &[],
    };
    let target = |target: &Destination| {
        let places = target.places.iter().map(|place| {
            let up = match &place.hosts {
                Hosts::Gateways(hosts) if hosts.iter().any(|host| host.usable) => State::Up,
                Hosts::Gateways(_) => State::Down,
                // A report says of the service whether it is up, and not of each instance.
                Hosts::Reported(_) | Hosts::Instances(_) => State::Up,
            };
            (place.priority, place.cluster.clone(), up)
        });
        (target.upstream.clone(), target.weight, places.collect())
    };
    (
        what,
        trace.outcome.origin().cloned(),
        targets.iter().map(target).collect(),
    )
}

/// The last rule that took the request is where the route came from that the proxy took: the service's where a user
/// wrote one, else the gateway's.
fn ends_in_its_outcome(trace: &Trace) {
    let matched = |stage: Stage| trace.steps.iter().rev().find(|step| step.stage == stage);
    let Some(rule) = matched(Stage::ServiceRule) else {
        return;
    };
    let of_gateway = matched(Stage::GatewayRule).and_then(|step| step.origin.as_ref());
    let of_route = rule
        .origin
        .as_ref()
        .filter(|origin| origin.resource.kind() == Kind::ServiceRoute);
    let expected = match of_gateway {
        Some(gateway) if rule.told.contains("its last rule applies") => Some(gateway),
        Some(gateway) => of_route.or(Some(gateway)),
        None => rule.origin.as_ref(),
    };
    assert_eq!(trace.outcome.origin(), expected, "{trace:?}");
}

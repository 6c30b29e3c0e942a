//! Resources: a refusal is an answer, a panic is none; what is taken runs, and routes are found as a scan finds them.

use std::sync::{Arc, LazyLock};

use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use http::Request;
use prost::Message;

use super::{Target, one_of, wire};
use crate::balance::{Balancer, Candidate, RingSize, Rules, Selection};
use crate::config::ResourceKind;
use crate::decode::samples::{self, update};
use crate::decode::{RawResource, Resources, describe};
use crate::matcher::Subject;
use crate::router::{Ports, RouteTable, normalize_path};
use crate::snapshot::LiveListener;

/// A kind of resource, as its place among all of them, and its bytes.
pub(super) const DECODING: Target = Target {
    name: "decoding",
    check: decoding,
    mutate: |random, pool| {
        let (kind, body) = one_of::<Vec<u8>>(random, pool).split_first().unwrap_or((&0, &[]));
        let mut input = vec![*kind];
        input.extend(wire::mutate(random, body));
        input
    },
};

/// The bytes of a route configuration.
pub(super) const ROUTES: Target = Target {
    name: "routes",
    check: routes,
    mutate: |random, pool| wire::mutate(random, one_of::<Vec<u8>>(random, pool)),
};

/// What the resources of the corpus are called.
pub(super) const NAME: &str = "x";

/// A cluster and a listener that mention what is taken: nobody would keep it otherwise.
static MENTIONING: LazyLock<Resources> = LazyLock::new(|| {
    let cluster = update(ResourceKind::Cluster, vec![samples::cluster(NAME, 1)], &[]);
    let listener = update(
        ResourceKind::Listener,
        vec![samples::listener(NAME, ([127, 0, 0, 1], 1).into(), NAME)],
        &[],
    );
    let resources = Resources::default().with(&cluster).unwrap();
    resources.with(&listener).unwrap()
});

pub(super) fn taken(kind: ResourceKind, body: &[u8]) -> Result<Resources, String> {
    let raw = RawResource {
        version: "1".to_owned(),
        body: body.to_vec(),
    };
    MENTIONING
        .with(&update(kind, vec![(NAME.to_owned(), raw)], &[]))
        .map_err(|rejections| describe(&rejections))
}

fn decoding(input: &[u8]) -> String {
    let Some((kind, body)) = input.split_first() else {
        return "nothing".to_owned();
    };
    let kind = ResourceKind::ALL[usize::from(*kind) % ResourceKind::ALL.len()];
    let resources = match taken(kind, body) {
        Ok(resources) => resources,
        // Of its words, not of what they quote.
        Err(reason) => return reason.split_ascii_whitespace().take(3).collect(),
    };
    let config = resources.config();
    let table = RouteTable::new(Ports::Ignored, vec![vec![]], vec![], None).unwrap();
    let table = Arc::new(table);
    let mut known = config.clone();
    for name in config.wanted_routes() {
        known.routes.insert(name, Arc::clone(&table));
    }
    for listener in config.listeners.values() {
        let _runs = LiveListener::new(listener, &known, None);
    }
    for endpoints in config.endpoints.values() {
        let candidates: Vec<Candidate> = endpoints
            .endpoints
            .iter()
            .map(|endpoint| Candidate {
                address: endpoint.address,
                priority: endpoint.priority,
                locality: Some(endpoint.locality),
                weight: endpoint.weight,
                warmth: 100,
                healthy: endpoint.eligible,
            })
            .collect();
        let rules = Rules {
            panic_threshold_percent: 50.0,
            overprovisioning_percent: endpoints.overprovisioning_percent,
        };
        let ring = RingSize { min: 16, max: 64 };
        for balancer in [
            Balancer::LeastRequest,
            Balancer::RoundRobin,
            Balancer::Random,
            Balancer::RingHash(ring),
            Balancer::Maglev(101),
        ] {
            let _runs = Selection::new(&candidates, rules, balancer);
        }
    }
    format!("{kind:?} is taken, {}", body.len())
}

fn routes(body: &[u8]) -> String {
    let resources = match taken(ResourceKind::Routes, body) {
        Ok(resources) => resources,
        Err(reason) => return reason.split_ascii_whitespace().take(3).collect(),
    };
    let Ok(pb) = RouteConfiguration::decode(body) else {
        panic!("what cannot be read was taken");
    };
    // What the table itself speaks of, and what is near it.
    let mut authorities = vec!["a.example".to_owned(), String::new()];
    let mut paths = vec!["/".to_owned(), "/a/b".to_owned()];
    for host in &pb.virtual_hosts {
        authorities.extend(host.domains.iter().map(|domain| domain.replace('*', "x")));
        for route in &host.routes {
            match route
                .r#match
                .as_ref()
                .and_then(|matcher| matcher.path_specifier.as_ref())
            {
                Some(PathSpecifier::Prefix(path) | PathSpecifier::Path(path)) => {
                    paths.extend([path.clone(), format!("{path}/a"), format!("{path}a")]);
                }
                Some(PathSpecifier::PathSeparatedPrefix(path)) => {
                    paths.extend([path.clone(), format!("{path}/a"), format!("{path}a")]);
                }
                _ => {}
            }
        }
    }
    let request = Request::get("/")
        .header("x-user", "anna")
        .body(())
        .unwrap()
        .into_parts()
        .0;
    let mut found = 0;
    for table in resources.config().routes.values() {
        for authority in &authorities {
            for path in paths.iter().filter_map(|path| normalize_path(path)) {
                let subject = Subject {
                    authority,
                    path: &path,
                    client: [10, 0, 0, 1].into(),
                    direct: [10, 0, 0, 9].into(),
                    request: &request,
                };
                let route = table.route(&subject).map(std::ptr::from_ref);
                let scanned = table.scan(&subject).map(std::ptr::from_ref);
                assert_eq!(route, scanned, "{authority}{path}");
                found += usize::from(route.is_some());
            }
        }
    }
    format!(
        "{} hosts, {} paths, {found} found",
        pb.virtual_hosts.len(),
        paths.len()
    )
}

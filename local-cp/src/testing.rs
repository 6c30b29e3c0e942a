//! Proxy configurations for the tests of this crate.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use tombolo_compiler::finding::{Origin, Traced};
use tombolo_compiler::http::{HttpMatch, Path, PathMatch, Span};
use tombolo_compiler::proxy::{
    Balancer, Check, Endpoint, EndpointGroup, Endpoints, Forward, Health, Listener, ProxyConfig, RetryPolicy,
    Route, RouteAction, RouteTable, Target, Upstream, VirtualHost,
};
use tombolo_compiler::routes::HostConduct;

pub(crate) fn path(text: &str) -> Path {
    text.to_owned().try_into().unwrap()
}

pub(crate) fn origin(leaf: &str) -> Origin {
    Origin::new(
        format!("organizations/acme/tenants/{leaf}").parse().unwrap(),
        "spec",
    )
}

pub(crate) fn upstream(connect_timeout_ms: u64) -> Upstream {
    Upstream {
        http2: false,
        connect_timeout: Span::from_ms(connect_timeout_ms),
        health: Health {
            interval: Span::from_ms(400),
            timeout: Span::from_ms(400),
            unhealthy_threshold: 2,
            check: Check::Tcp,
        },
        balancer: Balancer::LeastRequest,
        connections_max: None,
        requests_max: None,
        outliers: None,
    }
}

/// One priority per list of ports.
pub(crate) fn endpoints(priorities: &[&[u16]]) -> Endpoints {
    let endpoint = |port: &u16| Endpoint {
        address: format!("127.0.0.1:{port}").parse().unwrap(),
        usable: true,
    };
    let group = |ports: &&[u16]| {
        vec![EndpointGroup {
            region: Some("us".parse().unwrap()),
            zone: None,
            cluster: "us-east".parse().unwrap(),
            endpoints: ports.iter().map(endpoint).collect(),
        }]
    };
    Endpoints {
        priorities: priorities.iter().map(group).collect(),
    }
}

pub(crate) fn target(cluster: &str, weight: u32) -> Target {
    Target {
        cluster: cluster.to_owned(),
        weight,
        destination: Some(format!("{cluster}.shop:80")),
    }
}

pub(crate) fn forward(targets: Vec<Target>, retry: RetryPolicy) -> RouteAction {
    RouteAction::Forward(Forward {
        targets,
        timeout: Span::from_ms(15_000),
        retry,
        edits: Box::default(),
        mirrors: Vec::new(),
        fault: None,
        affinities: Vec::new(),
    })
}

/// A listener `in` whose table `in` sends `/NAME` to each of the clusters; each route's origin is of that name.
pub(crate) fn config(clusters: &[&str]) -> ProxyConfig {
    let route = |name: &&str| {
        let route = Route {
            matches: HttpMatch {
                path: Some(PathMatch::PathPrefix(path(&format!("/{name}")))),
                ..HttpMatch::default()
            },
            action: forward(vec![target(name, 100)], RetryPolicy::Careful { attempts: 2 }),
        };
        Traced::new(route, origin(name))
    };
    let table = RouteTable {
        ignore_port: true,
        hosts: vec![Traced::untraced(VirtualHost {
            name: "all".to_owned(),
            domains: ["*".to_owned()].into(),
            routes: clusters.iter().map(route).collect(),
            conduct: HostConduct::default(),
        })],
    };
    let listener = Listener {
        bind: "127.0.0.1:8080".parse().unwrap(),
        route_table: "in".to_owned(),
        filters: BTreeSet::new(),
        issuers: BTreeMap::new(),
        quotas: BTreeMap::new(),
    };
    ProxyConfig {
        listeners: [("in".to_owned(), Traced::untraced(listener))].into(),
        route_tables: [("in".to_owned(), Traced::untraced(table))].into(),
        clusters: clusters
            .iter()
            .map(|name| ((*name).to_owned(), Traced::new(upstream(500), origin(name))))
            .collect(),
        endpoints: clusters
            .iter()
            .map(|name| ((*name).to_owned(), Traced::untraced(endpoints(&[&[9001]]))))
            .collect(),
        key_hosts: BTreeMap::new(),
    }
}

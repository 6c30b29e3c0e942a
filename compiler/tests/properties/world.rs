//! Small random meshes: few names, so that they collide, and much that is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::collection::{btree_map, vec};
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};
use tombolo_compiler::intent::{Intent, Resource};
use tombolo_compiler::name::{ClusterName, Fqn, ServiceId};
use tombolo_compiler::report::Reports;
use tombolo_compiler::view::{LocalService, View};

pub(crate) const CLUSTERS: [&str; 3] = ["east", "north", "west"];
pub(crate) const NAMESPACES: [&str; 3] = ["cart", "mesh", "shop"];
const SERVICES: [&str; 3] = ["cart/basket", "shop/reviews", "shop/web"];
const WORKLOADS: [&str; 2] = ["mesh/gateway", "shop/door"];
const WORKSPACES: [&str; 3] = [
    "tenants/a/workspaces/v",
    "tenants/a/workspaces/w",
    "tenants/b/workspaces/w",
];

#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    pub(crate) intent: Intent,
    pub(crate) joined: Vec<ClusterName>,
    pub(crate) unread: BTreeSet<ClusterName>,
    pub(crate) views: BTreeMap<ClusterName, View>,
}

/// One change of a world.
#[derive(Clone, Debug)]
pub(crate) enum Edit {
    Write(Box<Resource>),
    Delete(usize),
    /// What only people read.
    Describe(usize, &'static str),
    /// One service of a cluster that is heard of.
    Service(ClusterName, ServiceId, Option<LocalService>),
    View(ClusterName, Option<View>),
    Join(ClusterName),
    /// Whether it says something that cannot be read.
    Unread(ClusterName, bool),
}

impl World {
    pub(crate) fn reports(&self) -> Reports {
        let reports = self.views.iter();
        Reports {
            joined: self.joined.iter().cloned().collect(),
            clusters: reports
                .map(|(cluster, view)| (cluster.clone(), Arc::new(view.report())))
                .collect(),
            unread: self.unread.clone(),
        }
    }

    pub(crate) fn apply(&mut self, edit: Edit) {
        match edit {
            Edit::Write(resource) => {
                self.intent.insert(resource.name.clone(), Arc::from(resource));
            }
            Edit::Delete(at) => {
                self.name_at(at).and_then(|name| self.intent.remove(&name));
            }
            Edit::Describe(at, text) => {
                if let Some(resource) = self.name_at(at).and_then(|name| self.intent.get_mut(&name)) {
                    text.clone_into(&mut Arc::make_mut(resource).description);
                }
            }
            Edit::Service(cluster, id, service) => {
                let services = self.views.get_mut(&cluster).map(|view| &mut view.services);
                match (services, service) {
                    (Some(services), Some(service)) => drop(services.insert(id, service)),
                    (Some(services), None) => drop(services.remove(&id)),
                    (None, _) => {}
                }
            }
            Edit::View(cluster, Some(view)) => {
                self.views.insert(cluster, view);
            }
            Edit::View(cluster, None) => {
                self.views.remove(&cluster);
            }
            Edit::Join(cluster) => self.joined.push(cluster),
            Edit::Unread(cluster, true) => drop(self.unread.insert(cluster)),
            Edit::Unread(cluster, false) => drop(self.unread.remove(&cluster)),
        }
    }

    fn name_at(&self, at: usize) -> Option<Fqn> {
        self.intent.keys().nth(at % self.intent.len().max(1)).cloned()
    }
}

pub(crate) fn worlds() -> impl Strategy<Value = World> {
    let documents = vec(resources(), 0..40);
    let views = btree_map(clusters(), views(), 0..4);
    let some = || vec(clusters(), 0..2);
    (skeleton(), documents, views, some(), some()).prop_map(|(skeleton, documents, views, joined, unread)| {
        let mut world = World {
            views,
            joined,
            unread: unread.into_iter().collect(),
            ..World::default()
        };
        for resource in skeleton.into_iter().chain(documents) {
            world.apply(Edit::Write(Box::new(resource)));
        }
        world
    })
}

pub(crate) fn edits() -> impl Strategy<Value = Edit> {
    prop_oneof![
        4 => resources().prop_map(|resource| Edit::Write(Box::new(resource))),
        2 => any::<usize>().prop_map(Edit::Delete),
        1 => (any::<usize>(), select(vec!["old", "new"])).prop_map(|(at, text)| Edit::Describe(at, text)),
        2 => (clusters(), select(&SERVICES[..]), proptest::option::weighted(0.8, service())).prop_map(
            |(cluster, id, service)| {
                let service = service.map(|service| serde_json::from_value(service).unwrap());
                Edit::Service(cluster, id.parse().unwrap(), service)
            }
        ),
        3 => (clusters(), proptest::option::weighted(0.8, views())).prop_map(|(c, view)| Edit::View(c, view)),
        1 => clusters().prop_map(Edit::Join),
        1 => (clusters(), any::<bool>()).prop_map(|(cluster, is)| Edit::Unread(cluster, is)),
    ]
}

/// Without which hardly anything has an effect.
fn skeleton() -> impl Strategy<Value = Vec<Resource>> {
    let mut names = vec![
        "".to_owned(),
        "/clusters/east".to_owned(),
        "/clusters/north".to_owned(),
        "/clusters/west".to_owned(),
        "/tenants/a".to_owned(),
        "/tenants/b".to_owned(),
    ];
    for workspace in WORKSPACES {
        names.push(format!("/{workspace}"));
        names.push(format!("/{workspace}/trafficgroups/g"));
        names.push(format!("/{workspace}/gatewaygroups/g"));
    }
    let all = names.len();
    subsequence(names, all - 1..=all).prop_map(|names| {
        let documents = names.into_iter().map(|name| {
            let spec = if name.contains("/clusters/") {
                json!({"region": "r1"})
            } else if name.ends_with("workspaces/v") {
                json!({"namespaces": ["*/cart"]})
            } else if name.ends_with("a/workspaces/w") {
                // Each reaches the clusters where the other owns the same namespace, in which it can borrow.
                json!({"namespaces": ["east/shop", "west/shop", "north/toys"]})
            } else if name.ends_with("b/workspaces/w") {
                json!({"namespaces": ["north/shop", "east/games", "west/games"]})
            } else {
                json!({})
            };
            resource(&name, &spec)
        });
        documents.collect()
    })
}

fn resource(name: &str, spec: &Value) -> Resource {
    Resource::from_json(json!({"name": format!("organizations/acme{name}"), "spec": spec})).unwrap()
}

fn clusters() -> impl Strategy<Value = ClusterName> {
    select(&CLUSTERS[..]).prop_map(|name| name.parse().unwrap())
}

fn resources() -> impl Strategy<Value = Resource> {
    prop_oneof![
        1 => failover().prop_map(|failover| resource("", &json!({"failover": failover}))),
        2 => (select(&CLUSTERS[..]), select(vec!["r1", "r2"]))
            .prop_map(|(name, region)| resource(&format!("/clusters/{name}"), &json!({"region": region}))),
        4 => (select(&WORKSPACES[..]), selectors(), failover()).prop_map(|(name, namespaces, failover)| {
            resource(&format!("/{name}"), &json!({"namespaces": namespaces, "failover": failover}))
        }),
        1 => (select(&WORKSPACES[..]), select(vec!["trafficgroups", "gatewaygroups"]), selectors())
            .prop_map(|(name, group, namespaces)| {
                resource(&format!("/{name}/{group}/g"), &json!({"namespaces": namespaces}))
            }),
        6 => (select(&WORKSPACES[..]), select(vec!["p", "q"]), route())
            .prop_map(|(name, leaf, spec)| {
                resource(&format!("/{name}/trafficgroups/g/serviceroutes/{leaf}"), &spec)
            }),
        6 => (select(&WORKSPACES[..]), select(vec!["p", "q"]), gateway())
            .prop_map(|(name, leaf, spec)| {
                resource(&format!("/{name}/gatewaygroups/g/gateways/{leaf}"), &spec)
            }),
        3 => (select(&WORKSPACES[..]), grant())
            .prop_map(|(name, spec)| resource(&format!("/{name}/referencegrants/p"), &spec)),
        1 => select(vec!["ana", "ben"]).prop_map(|user| {
            resource("/bindings/b", &json!({"role": "writer", "subjects": [format!("organizations/acme/users/{user}")]}))
        }),
        1 => Just(resource("/users/ana", &json!({}))),
        1 => select(vec!["v", "w"]).prop_map(|workspace| {
            let workspace = format!("organizations/acme/tenants/a/workspaces/{workspace}");
            resource("/tenants/a/applications/x", &json!({"workspace": workspace}))
        }),
        2 => (select(&SERVICES[..]), select(vec!["a.example.com", "z.example.com"]), lender()).prop_map(|(service, host, lender)| {
            let id: ServiceId = service.parse().unwrap();
            let servers = json!([{"url": format!("https://{host}")}]);
            let openapi = json!({"openapi": "3.1.0", "info": {"title": "x", "version": "1"}, "servers": servers,
                "paths": {"/x": {"get": {"responses": {}}}, "/x/{id}": {"post": {"parameters": [{"in": "path", "name": "id"}]}}}});
            resource("/tenants/a/applications/x/apis/v1", &json!({"openapi": openapi, "workload": "mesh/gateway",
                "port": 8080, "hostsFrom": lender, "backendRefs": [{"namespace": id.namespace, "name": id.name}]}))
        }),
    ]
}

fn selectors() -> impl Strategy<Value = Vec<&'static str>> {
    let some = vec![
        "east/shop",
        "north/shop",
        "west/shop",
        "*/shop",
        "e*/s*",
        "ea*/shop",
        "*/cart",
        "west/*",
        "mars/shop",
        "*/mesh",
    ];
    subsequence(some, 0..4)
}

fn failover() -> impl Strategy<Value = Vec<Value>> {
    let entry = (
        select(vec!["r1", "r2"]),
        subsequence(vec!["r1", "r2", "r3"], 0..3),
    )
        .prop_map(|(from, to)| json!({"from": from, "to": to}));
    vec(entry, 0..2)
}

fn matches() -> impl Strategy<Value = Value> {
    let path = prop_oneof![
        3 => Just(Value::Null),
        4 => (select(vec!["Exact", "PathPrefix"]), select(vec!["/", "/a", "/a/b", "/b"]))
            .prop_map(|(kind, path)| json!({"type": kind, "value": path})),
        2 => select(vec!["/a.*", "/[a-b](?:/.*)?", r"/\w", "(?i)/A/?|/b.*", "/[^/]*"])
            .prop_map(|path| json!({"type": "RegularExpression", "value": path})),
    ];
    let headers = vec![
        value("x-a", "1"),
        value("x-a", "2"),
        value("x-b", "1"),
        pattern("x-a", "[12]"),
        pattern("x-b", "2.*"),
    ];
    let params = vec![value("d", "e"), pattern("d", "e|f"), pattern("x-a", ".?")];
    let cookies = vec![
        value("user", "anna"),
        value("user", "bert"),
        pattern("user", "an+a|carl"),
    ];
    let parts = (
        path,
        subsequence(headers, 0..3),
        sometimes(params),
        sometimes(cookies),
    );
    let one = parts.prop_map(|(path, headers, params, cookies)| {
        json!({"path": path, "headers": headers, "queryParams": params, "cookies": cookies})
    });
    vec(one, 0..3).prop_map(Value::from)
}

fn value(name: &str, value: &str) -> Value {
    json!({"name": name, "value": value})
}

fn pattern(name: &str, value: &str) -> Value {
    json!({"type": "RegularExpression", "name": name, "value": value})
}

/// Mostly none, so that much is still reached.
fn sometimes(some: Vec<Value>) -> impl Strategy<Value = Vec<Value>> {
    prop_oneof![
        4 => Just(Vec::new()),
        1 => subsequence(some, 1..2),
    ]
}

fn rule(backends: impl Strategy<Value = Vec<Value>>) -> impl Strategy<Value = Value> {
    let timeouts = proptest::option::of(Just(json!({"request": "2s"})));
    let retry = proptest::option::of(Just(json!({"attempts": 3, "codes": [503]})));
    let mirrors = sometimes(vec![
        json!({"backendRef": {"namespace": "shop", "name": "web"}}),
        json!({"backendRef": {"namespace": "shop", "name": "reviews", "port": 90}, "percent": 50}),
        json!({"backendRef": {"subset": "v2"}, "percent": 0.5}),
    ]);
    let filters = mirrors.prop_map(|mirrors| -> Vec<Value> {
        let filters = mirrors.into_iter();
        filters
            .map(|mirror| json!({"type": "RequestMirror", "requestMirror": mirror}))
            .collect()
    });
    let parts = (matches(), filters, backends, timeouts, retry);
    parts.prop_map(|(matches, filters, backends, timeouts, retry)| {
        json!({"matches": matches, "filters": filters, "backendRefs": backends, "timeouts": timeouts, "retry": retry})
    })
}

/// Backends whose weights mostly add up.
fn weighted(backend: impl Strategy<Value = Value>) -> impl Strategy<Value = Vec<Value>> {
    let weights = select(vec![
        vec![100],
        vec![95, 5],
        vec![0, 100],
        vec![33, 33, 34],
        vec![50, 60],
    ]);
    (vec(backend, 0..4), weights).prop_map(|(backends, weights)| {
        let pairs = backends.into_iter().zip(weights).map(|(mut backend, weight)| {
            backend["weight"] = weight.into();
            backend
        });
        pairs.collect()
    })
}

fn route() -> impl Strategy<Value = Value> {
    let backend = select(vec!["v1", "v2", "v3"]).prop_map(|subset| json!({"subset": subset}));
    let subsets = vec![
        json!({"name": "v1", "labels": {"version": "1"}}),
        json!({"name": "v2", "labels": {"version": "2"}}),
        json!({"name": "v2", "labels": {}}),
    ];
    let subsets = subsequence(subsets, 1..4);
    let rules = vec(rule(weighted(backend)), 0..4);
    (select(&SERVICES[..]), subsets, rules)
        .prop_map(|(service, subsets, rules)| json!({"service": service, "subsets": subsets, "rules": rules}))
}

/// Whose hosts they are; mostly one's own.
fn lender() -> impl Strategy<Value = Option<String>> {
    let lenders = select(&WORKSPACES[..]).prop_map(|name| format!("organizations/acme/{name}"));
    proptest::option::weighted(0.3, lenders)
}

fn grant() -> impl Strategy<Value = Value> {
    let nodes = vec![
        "",
        "/tenants/a",
        "/tenants/b",
        "/tenants/a/workspaces/v/gatewaygroups/g",
    ];
    let borrower = (select(vec!["Gateway", "Gateway", "API"]), select(nodes))
        .prop_map(|(kind, node)| json!({"kind": kind, "node": format!("organizations/acme{node}")}));
    let hosts = vec!["a.example.com", "*.a.example.com", "*.example.com"];
    let to = (subsequence(WORKLOADS.to_vec(), 0..=2), subsequence(hosts, 0..3));
    (vec(borrower, 1..3), to).prop_map(
        |(from, (workloads, hosts))| json!({"from": from, "to": {"workloads": workloads, "hosts": hosts}}),
    )
}

fn gateway() -> impl Strategy<Value = Value> {
    let backend = (
        select(&SERVICES[..]),
        select(vec![Value::Null, json!(80), json!(90)]),
    )
        .prop_map(|(service, port)| {
            let id: ServiceId = service.parse().unwrap();
            json!({"namespace": id.namespace, "name": id.name, "port": port})
        });
    let hosts = subsequence(
        vec![
            "a.example.com",
            "b.example.com",
            "*.example.com",
            "x.a.example.com",
            "*.a.example.com",
        ],
        1..4,
    );
    let ingress = (
        select(vec![8080, 8081, 15443]),
        hosts,
        vec(rule(weighted(backend)), 1..4),
        lender(),
    );
    let unopened = (
        select(vec![8080, 8443]),
        proptest::option::of(Just(vec!["a.example.com"])),
    );
    let mode = prop_oneof![
        1 => Just(json!({"type": "eastwest"})),
        1 => unopened.prop_map(|(port, hosts)| {
            let backends = json!([{"namespace": "shop", "name": "web"}]);
            let mut spec = json!({"type": "ingress", "protocol": "tcp", "port": port, "backendRefs": backends});
            if let Some(hosts) = hosts {
                spec["protocol"] = "tls".into();
                spec["hosts"] = hosts.into();
            }
            spec
        }),
        4 => ingress.prop_map(|(port, hosts, rules, lender)| {
            json!({"type": "ingress", "port": port, "hosts": hosts, "hostsFrom": lender, "rules": rules})
        }),
    ];
    (select(&WORKLOADS[..]), mode).prop_map(|(workload, mut spec)| {
        spec["workload"] = workload.into();
        spec
    })
}

/// Instances and gateways get addresses of their own when a view is looked at in a cluster; see `main.rs`.
pub(crate) fn views() -> impl Strategy<Value = View> {
    let gateway = (proptest::option::weighted(0.8, Just(15443)), state())
        .prop_map(|(port, state)| json!({"bind": "127.0.0.1", "eastWestPort": port, "state": state}));
    let services = btree_map(select(&SERVICES[..]), service(), 0..4);
    let gateways = btree_map(select(&WORKLOADS[..]), gateway, 0..3);
    (services, gateways).prop_map(|(services, gateways)| {
        serde_json::from_value(json!({"services": services, "gateways": gateways})).unwrap()
    })
}

fn service() -> impl Strategy<Value = Value> {
    let instance = (
        select(vec![json!({}), json!({"version": "1"}), json!({"version": "2"})]),
        state(),
    )
        .prop_map(|(labels, state)| json!({"address": "127.0.0.1", "labels": labels, "state": state}));
    let ports = vec![
        json!({"name": "http", "port": 80}),
        json!({"name": "grpc", "port": 90, "protocol": "grpc", "health": "tcp"}),
        json!({"name": "sql", "port": 5432, "protocol": "tcp"}),
    ];
    (subsequence(ports, 0..4), vec(instance, 0..3))
        .prop_map(|(ports, instances)| json!({"ports": ports, "instances": instances}))
}

fn state() -> impl Strategy<Value = &'static str> {
    select(vec!["up", "down"])
}

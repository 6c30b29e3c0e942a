//! Random sequences of writes on a small tree: few names, so that they collide, and many that are refused.
//!
//! All of it is JSON as a client would send it, so that the same sequences run through pure functions and over HTTP.

use serde_json::{Value, json};
use tombolo_compiler::name::Kind;

const ACME: &str = "organizations/acme";
const WORKSPACES: [&str; 3] = [
    "tenants/a/workspaces/v",
    "tenants/a/workspaces/w",
    "tenants/b/workspaces/w",
];
const SERVICES: [&str; 3] = ["shop/web", "shop/reviews", "cart/basket"];
const HOSTS: [&str; 3] = ["a.example.com", "b.example.com", "*.example.com"];
const WORKLOAD: &str = "mesh/gateway";
const PORT: u16 = 8080;
/// The leaves of offers, which say what is offered.
const OFFERED: [&str; 6] = ["cart", "shop", "mesh", "a", "b", "port"];
/// Of each workspace, at the start.
const NAMESPACES: [&str; 3] = ["*/cart", "*/shop", "*/mesh"];
/// Of one write.
const EDITS_MAX: usize = 2;
/// Of so many changes, one deletes something, and of so many others, where there is an offer, one takes it.
const DELETES: usize = 5;
const ACCEPTS: usize = 2;
/// What a change writes, and how often: what routes are made of comes often, so that there are some.
const DRAWN: [(Kind, usize); Kind::ALL.len()] = [
    (Kind::Organization, 1),
    (Kind::Cluster, 3),
    (Kind::User, 1),
    (Kind::Team, 1),
    (Kind::ServiceAccount, 1),
    (Kind::Role, 1),
    (Kind::Tenant, 1),
    (Kind::Workspace, 4),
    (Kind::TrafficGroup, 1),
    (Kind::GatewayGroup, 1),
    (Kind::SecurityGroup, 2),
    (Kind::Gateway, 10),
    (Kind::ServiceRoute, 8),
    (Kind::Binding, 2),
    (Kind::Application, 3),
    (Kind::Api, 4),
    (Kind::WasmExtension, 1),
    (Kind::ExternalService, 1),
    (Kind::NetworkReachability, 1),
    (Kind::Quota, 1),
    (Kind::TrafficSetting, 4),
    (Kind::SecuritySetting, 3),
    (Kind::ServiceSecuritySetting, 2),
    (Kind::Invariant, 1),
    (Kind::ApprovalPolicy, 1),
    (Kind::ReferenceGrant, 6),
    (Kind::ClaimOffer, 8),
];

/// A sequence is its seed, so that one that fails can be run again.
#[derive(Debug)]
pub struct Edits {
    state: u64,
}

enum Claim {
    Namespaces(String),
    Host(String),
    Port,
}

/// The clusters, with what each of them reports, as the feed has it.
pub fn reports() -> Value {
    let report = |services: &[&str]| {
        let ports = json!([{"name": "http", "port": 80}]);
        let labels = json!([{"version": "1"}, {"version": "2"}]);
        let service = json!({"ports": ports, "labelSets": labels, "state": "up"});
        let services: serde_json::Map<String, Value> = services
            .iter()
            .map(|id| ((*id).to_owned(), service.clone()))
            .collect();
        let gateways = json!({"mesh/gateway": {"eastWest": ["127.0.0.1:15443"], "state": "up"}});
        json!({"services": services, "gateways": gateways})
    };
    json!({"east": report(&SERVICES), "west": report(&["shop/web", "cart/basket"])})
}

/// The tree that every sequence begins with, parents first; the organization is there already.
pub fn tree() -> Vec<Value> {
    let mut all = vec![
        document("/clusters/east", &json!({"region": "r1"})),
        document("/clusters/west", &json!({"region": "r2"})),
        document("/tenants/a", &json!({})),
        document("/tenants/b", &json!({})),
    ];
    for (workspace, namespaces) in WORKSPACES.into_iter().zip(NAMESPACES) {
        all.push(document(
            &format!("/{workspace}"),
            &json!({"namespaces": [namespaces]}),
        ));
        all.push(document(&format!("/{workspace}/trafficgroups/g"), &json!({})));
        all.push(document(&format!("/{workspace}/gatewaygroups/g"), &json!({})));
    }
    // APIs need more than one thing to be there before them.
    for (tenant, workspace) in [("tenants/a", WORKSPACES[1]), ("tenants/b", WORKSPACES[2])] {
        let spec = json!({"workspace": format!("{ACME}/{workspace}")});
        all.push(document(&format!("/{tenant}/applications/x"), &spec));
    }
    let from = ["Gateway", "API"].map(|kind| json!({"kind": kind, "node": format!("{ACME}/tenants/a")}));
    let lent = json!({"from": from, "to": {"workloads": [WORKLOAD]}});
    all.push(document(&format!("/{}/referencegrants/p", WORKSPACES[2]), &lent));
    all
}

impl Edits {
    pub fn new(seed: u64) -> Edits {
        // Seeds that are next to each other are to begin far from each other; none of them may come to nothing.
        Edits {
            state: (seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15),
        }
    }

    /// The body of the next write. `names` are those that exist: what it deletes is one of them.
    pub fn next(&mut self, names: &[&str]) -> Value {
        let changes: Vec<Value> = (0..=self.below(EDITS_MAX)).map(|_| self.change(names)).collect();
        json!({ "changes": changes })
    }

    fn change(&mut self, names: &[&str]) -> Value {
        if self.below(DELETES) == 0 {
            let is_ours = |name: &&&str| !name.contains("admin") && **name != ACME;
            let names: Vec<&&str> = names.iter().filter(is_ours).collect();
            return json!({"op": "delete", "name": names[self.below(names.len())]});
        }
        let offers: Vec<&str> = names
            .iter()
            .filter_map(|name| name.strip_prefix(ACME)?.strip_prefix('/'))
            .filter(|name| name.contains("/claimoffers/"))
            .collect();
        let mut resource = match self.below(ACCEPTS) {
            0 if !offers.is_empty() => {
                let offer = self.one_of(&offers);
                self.acceptance(offer)
            }
            _ => {
                let kind = self.kind();
                self.resource(kind)
            }
        };
        resource["description"] = self.one_of(&["old", "new"]).into();
        json!({"op": "apply", "resource": resource})
    }

    fn kind(&mut self) -> Kind {
        let all = DRAWN.iter().map(|(_, often)| often).sum();
        let mut drawn = self.below(all);
        let found = DRAWN.iter().find(|(_, often)| match drawn.checked_sub(*often) {
            None => true,
            Some(rest) => {
                drawn = rest;
                false
            }
        });
        found.map_or(Kind::Organization, |(kind, _)| *kind)
    }

    fn resource(&mut self, kind: Kind) -> Value {
        let workspace = self.one_of(&WORKSPACES);
        let tenant = self.one_of(&["tenants/a", "tenants/b"]);
        let leaf = self.one_of(&["p", "q"]);
        let service = self.one_of(&SERVICES);
        let host = self.one_of(&HOSTS);
        let (namespace, service_name) = service.split_once('/').unwrap_or_default();
        let backends = json!([{"namespace": namespace, "name": service_name}]);
        let node = self.one_of(&["", "/tenants/a", "/tenants/b", "/tenants/a/workspaces/w"]);
        let half = self.one_of(&["defaults", "mandates"]);
        let mtls = json!({"mtls": self.one_of(&["disabled", "permissive", "strict"])});
        let (name, spec) = match kind {
            Kind::Organization => {
                let region = self.one_of(&["r1", "r2"]);
                (
                    String::new(),
                    json!({"failover": [{"from": region, "to": ["r2"]}]}),
                )
            }
            Kind::Cluster => {
                let cluster = self.one_of(&["east", "west"]);
                let region = self.one_of(&["r1", "r2"]);
                (format!("/clusters/{cluster}"), json!({ "region": region }))
            }
            Kind::User => ("/users/ann".to_owned(), json!({})),
            Kind::Team => {
                let members = json!({"members": [format!("{ACME}/users/ann")]});
                ("/teams/web".to_owned(), members)
            }
            Kind::ServiceAccount => (format!("/{tenant}/serviceaccounts/ci"), json!({})),
            Kind::Role => {
                let rules = json!([{"kinds": ["ServiceRoute"], "verbs": ["read", "update"]}]);
                (format!("/{tenant}/roles/router"), json!({ "rules": rules }))
            }
            Kind::Tenant => (format!("/{tenant}"), json!({})),
            Kind::Workspace => {
                let namespaces = self.one_of(&["*/cart", "*/shop", "east/shop", "*/mesh", "west/*"]);
                (format!("/{workspace}"), json!({"namespaces": [namespaces]}))
            }
            Kind::TrafficGroup => (format!("/{workspace}/trafficgroups/{leaf}"), json!({})),
            Kind::GatewayGroup => (format!("/{workspace}/gatewaygroups/{leaf}"), json!({})),
            Kind::SecurityGroup => (format!("/{workspace}/securitygroups/g"), json!({})),
            Kind::Gateway => (
                format!("/{workspace}/gatewaygroups/g/gateways/{leaf}"),
                self.gateway(host, &backends),
            ),
            Kind::ServiceRoute => {
                let weight = self.below(101);
                let spec = json!({"service": service, "subsets": [
                    {"name": "v1", "labels": {"version": "1"}}, {"name": "v2", "labels": {"version": "2"}}],
                    "rules": [{"backendRefs": [
                        {"subset": "v1", "weight": weight}, {"subset": "v2", "weight": 100 - weight}]}]});
                (format!("/{workspace}/trafficgroups/g/serviceroutes/{leaf}"), spec)
            }
            Kind::Binding => {
                let own = format!("{ACME}/{tenant}/roles/router");
                let role = self.one_of(&["writer", own.as_str()]).to_owned();
                let spec = json!({"role": role, "subjects": [format!("{ACME}/users/ann")]});
                (format!("/{tenant}/bindings/ann"), spec)
            }
            Kind::Application => (
                format!("/{tenant}/applications/x"),
                json!({"workspace": format!("{ACME}/{workspace}")}),
            ),
            Kind::Api => (
                format!("/{tenant}/applications/x/apis/{leaf}"),
                self.api(host, &backends),
            ),
            Kind::WasmExtension => {
                let spec = json!({"url": "oci://images.example.com/geo:1", "sha256": "0".repeat(64), "phase": "authz",
                    "tenants": [format!("{ACME}/{tenant}")]});
                ("/extensions/geo".to_owned(), spec)
            }
            Kind::ExternalService => {
                let ports = json!([{"port": 443, "protocol": "tls"}]);
                let spec = json!({"hosts": ["api.pay.example.com"], "ports": ports});
                (format!("/{workspace}/externalservices/pay"), spec)
            }
            Kind::NetworkReachability => {
                let network = self.one_of(&["n1", "n2"]);
                let spec = json!({"reaches": {"n1": [network], "n2": ["n1"]}});
                ("/networkreachabilities/default".to_owned(), spec)
            }
            Kind::Quota => {
                let limit = self.below(3);
                let spec =
                    json!({"node": format!("{ACME}/{tenant}"), "limits": {"Gateway": limit, "API": limit}});
                (format!("/quotas/{leaf}"), spec)
            }
            Kind::TrafficSetting => {
                let timeout = self.one_of(&["1s", "20s"]);
                let spec =
                    json!({"failover": [{"from": "r1", "to": ["r2"]}], "resilience": {"timeout": timeout}});
                (format!("{node}/trafficsettings/default"), json!({ half: spec }))
            }
            Kind::SecuritySetting => {
                let group = format!("/{workspace}/securitygroups/g");
                let node = self.one_of(&[node, group.as_str()]).to_owned();
                let mut security = mtls;
                if self.below(2) == 0 {
                    security["extensions"] = json!(["geo"]);
                }
                (
                    format!("{node}/securitysettings/default"),
                    json!({ half: security }),
                )
            }
            Kind::ServiceSecuritySetting => (
                format!("/{workspace}/securitygroups/g/servicesecuritysettings/{leaf}"),
                json!({"service": service, "settings": mtls}),
            ),
            Kind::Invariant => {
                let kept = json!({"neverFromOutside": {"workspace": format!("{ACME}/{workspace}")}});
                ("/invariants/inside".to_owned(), kept)
            }
            Kind::ApprovalPolicy => (
                format!("/{workspace}/approvalpolicies/two"),
                json!({"approver": "admin", "kinds": ["Gateway"]}),
            ),
            Kind::ReferenceGrant => {
                let kind = self.one_of(&["Gateway", "API"]);
                let from = json!([{"kind": kind, "node": format!("{ACME}/{tenant}")}]);
                let to = json!({"workloads": [WORKLOAD], "hosts": [host]});
                // Whoever has the workload has it from the start, most of the time.
                let workspace = self.one_of(&[workspace, WORKSPACES[2]]);
                (
                    format!("/{workspace}/referencegrants/{leaf}"),
                    json!({"from": from, "to": to}),
                )
            }
            Kind::ClaimOffer => {
                let offered = self.one_of(&OFFERED);
                let to = format!("{ACME}/{}", next(workspace));
                let mut spec = json!({ "to": to });
                match claim(offered) {
                    Claim::Namespaces(selector) => spec["namespaces"] = json!([selector]),
                    Claim::Host(host) => spec["hosts"] = json!([host]),
                    Claim::Port => spec["ports"] = json!([{"workload": WORKLOAD, "port": PORT}]),
                }
                (format!("/{workspace}/claimoffers/{offered}"), spec)
            }
        };
        document(&name, &spec)
    }

    /// The write of the other side.
    fn acceptance(&mut self, offer: &str) -> Value {
        let (holder, offered) = offer.split_once("/claimoffers/").unwrap_or_default();
        let taker = next(holder);
        let gateway = format!("/{taker}/gatewaygroups/g/gateways/p");
        let backends = json!([{"namespace": "shop", "name": "web"}]);
        match claim(offered) {
            Claim::Namespaces(selector) => {
                let held = WORKSPACES.iter().position(|workspace| *workspace == taker);
                let held = NAMESPACES[held.unwrap_or_default()];
                let namespaces = [held, selector.as_str()];
                let from = self.below(namespaces.len());
                document(&format!("/{taker}"), &json!({"namespaces": namespaces[from..]}))
            }
            Claim::Host(host) => document(&gateway, &self.gateway(&host, &backends)),
            Claim::Port => {
                let host = self.one_of(&HOSTS);
                document(&gateway, &self.gateway(host, &backends))
            }
        }
    }

    fn gateway(&mut self, host: &str, backends: &Value) -> Value {
        let mut gateway = json!({"workload": WORKLOAD, "type": "ingress", "port": PORT, "hosts": [host],
            "rules": [{"backendRefs": backends}]});
        self.borrow(&mut gateway);
        gateway
    }

    fn api(&mut self, host: &str, backends: &Value) -> Value {
        let path = self.one_of(&["/orders", "/orders/{id}"]);
        let parameters =
            json!([{"name": "id", "in": "path", "required": true, "schema": {"type": "string"}}]);
        let parameters = if path.contains("{id}") {
            parameters
        } else {
            json!([])
        };
        let operation = json!({"responses": {"200": {"description": "it"}}, "parameters": parameters});
        let openapi = json!({"openapi": "3.1.0", "info": {"title": "orders", "version": "1"},
            "servers": [{"url": format!("https://{host}/v1")}], "paths": {path: {"get": operation}}});
        let mut api =
            json!({"workload": WORKLOAD, "port": PORT, "backendRefs": backends, "openapi": openapi});
        self.borrow(&mut api);
        api
    }

    /// Some have their hosts from somebody else.
    fn borrow(&mut self, borrower: &mut Value) {
        if self.below(4) == 0 {
            borrower["hostsFrom"] = format!("{ACME}/{}", self.one_of(&WORKSPACES)).into();
        }
    }

    /// Marsaglia's xorshift.
    fn below(&mut self, limit: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        usize::try_from(self.state >> 33).unwrap_or_default() % limit
    }

    fn one_of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len())]
    }
}

/// To whom a workspace offers its claims.
fn next(workspace: &str) -> &'static str {
    let held = WORKSPACES.iter().position(|known| *known == workspace);
    WORKSPACES[(held.unwrap_or_default() + 1) % WORKSPACES.len()]
}

/// What an offer of that leaf is about.
fn claim(offered: &str) -> Claim {
    match offered {
        "port" => Claim::Port,
        "a" | "b" => Claim::Host(format!("{offered}.example.com")),
        namespace => Claim::Namespaces(format!("*/{namespace}")),
    }
}

fn document(name: &str, spec: &Value) -> Value {
    json!({"name": format!("{ACME}{name}"), "spec": spec})
}

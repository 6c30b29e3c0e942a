//! Random sequences of writes on a small tree: few names, so that they collide, and many that are refused.
//!
//! All of it is JSON as a client would send it, so that the same sequences run through pure functions and over HTTP.

use serde_json::{Value, json};

const ACME: &str = "organizations/acme";
const WORKSPACES: [&str; 3] = [
    "tenants/a/workspaces/v",
    "tenants/a/workspaces/w",
    "tenants/b/workspaces/w",
];
const SERVICES: [&str; 3] = ["shop/web", "shop/reviews", "cart/basket"];
/// Of one write.
const EDITS_MAX: usize = 2;

/// A sequence is its seed, so that one that fails can be run again.
#[derive(Debug)]
pub struct Edits {
    state: u64,
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
    for (workspace, namespaces) in WORKSPACES.into_iter().zip(["*/cart", "*/shop", "*/mesh"]) {
        all.push(document(
            &format!("/{workspace}"),
            &json!({"namespaces": [namespaces]}),
        ));
        all.push(document(&format!("/{workspace}/trafficgroups/g"), &json!({})));
        all.push(document(&format!("/{workspace}/gatewaygroups/g"), &json!({})));
    }
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
        let workspace = self.one_of(&WORKSPACES);
        let (leaf, text) = (self.one_of(&["p", "q"]), self.one_of(&["old", "new"]));
        let (namespace, name) = self.one_of(&SERVICES).split_once('/').unwrap_or_default();
        let weight = self.below(101);
        let mut resource = match self.below(12) {
            0 => {
                let namespaces = self.one_of(&["*/cart", "*/shop", "east/shop", "*/mesh", "west/*"]);
                document(&format!("/{workspace}"), &json!({"namespaces": [namespaces]}))
            }
            1 => {
                let cluster = self.one_of(&["east", "west"]);
                document(
                    &format!("/clusters/{cluster}"),
                    &json!({"region": self.one_of(&["r1", "r2"])}),
                )
            }
            2..4 => document(
                &format!("/{workspace}/trafficgroups/g/serviceroutes/{leaf}"),
                &json!({"service": format!("{namespace}/{name}"), "subsets": [
                    {"name": "v1", "labels": {"version": "1"}}, {"name": "v2", "labels": {"version": "2"}}],
                    "rules": [{"backendRefs": [
                        {"subset": "v1", "weight": weight}, {"subset": "v2", "weight": 100 - weight}]}]}),
            ),
            4..6 => {
                let host = self.one_of(&["a.example.com", "b.example.com", "*.example.com"]);
                document(
                    &format!("/{workspace}/gatewaygroups/g/gateways/{leaf}"),
                    &json!({"workload": "mesh/gateway", "type": "ingress", "port": 8080, "hosts": [host],
                        "rules": [{"backendRefs": [{"namespace": namespace, "name": name}]}]}),
                )
            }
            6 => {
                let node = self.one_of(&["", "/tenants/a", "/tenants/b", "/tenants/a/workspaces/w"]);
                let half = self.one_of(&["defaults", "mandates"]);
                let timeout = self.one_of(&["1s", "20s"]);
                document(
                    &format!("{node}/trafficsettings/default"),
                    &json!({half: {"failover": [{"from": "r1", "to": ["r2"]}], "resilience": {"timeout": timeout}}}),
                )
            }
            7 => document("/users/ann", &json!({})),
            8 => document(
                "/bindings/ann",
                &json!({"role": "writer", "subjects": [format!("{ACME}/users/ann")]}),
            ),
            _ => {
                let is_ours = |name: &&&str| !name.contains("admin") && **name != ACME;
                let names: Vec<&&str> = names.iter().filter(is_ours).collect();
                return json!({"op": "delete", "name": names[self.below(names.len())]});
            }
        };
        resource["description"] = text.into();
        json!({"op": "apply", "resource": resource})
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

fn document(name: &str, spec: &Value) -> Value {
    json!({"name": format!("{ACME}{name}"), "spec": spec})
}

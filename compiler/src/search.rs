//! Which resources touch a host, a service or a namespace: by name, by a wildcard that covers it, by any of the names
//! that a service has.
//!
//! Every kind calls such fields the same, so that a kind which is new is found as well.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::intent::{Intent, Resource};
use crate::name::{Fqn, Hostname, Kind, Label, ServiceId};
use crate::selector::Selector;

/// What is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sought {
    /// As somebody writes it into a URL: also what a service is called inside the mesh.
    Host(String),
    /// `namespace/name`, or a name in whichever namespace.
    Service(String),
    Namespace(Label),
}

/// One field of one resource that touches it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct Touch {
    pub resource: Fqn,
    pub kind: Kind,
    /// A path such as `spec.hosts[0]`.
    pub field: String,
    /// What stands there.
    pub value: String,
    pub how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum How {
    /// It stands there as it was asked for.
    Exact,
    /// By another name of the same service.
    Alias,
    /// By a wildcard, of the field or of what was asked for.
    Wildcard,
}

/// Every field that touches it, by resource.
pub fn search(intent: &Intent, sought: &Sought) -> Vec<Touch> {
    let wanted = Wanted::new(sought);
    let mut touches: Vec<Touch> = intent
        .values()
        .flat_map(|resource| wanted.touches(resource))
        .collect();
    touches.sort();
    touches
}

/// What is looked for, in the words of the fields.
#[derive(Debug, Default)]
struct Wanted {
    host: Option<Hostname>,
    /// In any namespace when that is not said.
    service: Option<(Option<Label>, Label)>,
    /// How a field that names the service names it.
    service_how: Option<How>,
    namespace: Option<Label>,
}

impl Wanted {
    fn new(sought: &Sought) -> Wanted {
        match sought {
            Sought::Host(host) => {
                let host = host.to_ascii_lowercase();
                let name = host.split_once(':').map_or(host.as_str(), |(name, _)| name);
                Wanted {
                    host: name.parse().ok(),
                    service: called(name),
                    service_how: Some(How::Alias),
                    namespace: None,
                }
            }
            Sought::Service(service) => Wanted {
                service: match service.split_once('/') {
                    Some((namespace, name)) => namespace
                        .parse()
                        .ok()
                        .zip(name.parse().ok())
                        .map(|(namespace, name)| (Some(namespace), name)),
                    None => service.parse().ok().map(|name| (None, name)),
                },
                service_how: Some(How::Exact),
                ..Wanted::default()
            },
            Sought::Namespace(namespace) => Wanted {
                namespace: Some(namespace.clone()),
                ..Wanted::default()
            },
        }
    }

    fn touches(&self, resource: &Resource) -> Vec<Touch> {
        let mut found = Vec::new();
        // Identities name neither.
        if resource.kind().is_published() {
            self.visit("spec", "", &resource.to_json()["spec"], &mut found);
        }
        let touch = |(field, value, how)| Touch {
            resource: resource.name.clone(),
            kind: resource.kind(),
            field,
            value,
            how,
        };
        found.into_iter().map(touch).collect()
    }

    /// `key` is the nearest name above, also of the items of a list.
    fn visit(&self, path: &str, key: &str, value: &Value, found: &mut Vec<(String, String, How)>) {
        match value {
            Value::String(text) => {
                if let Some(how) = self.named(key, text) {
                    found.push((path.to_owned(), text.clone(), how));
                }
            }
            Value::Array(items) => {
                for (at, item) in items.iter().enumerate() {
                    self.visit(&format!("{path}[{at}]"), key, item, found);
                }
            }
            Value::Object(fields) => {
                let text = |name: &str| fields.get(name).and_then(Value::as_str);
                if let (Some(namespace), Some(name)) = (text("namespace"), text("name")) {
                    let id = format!("{namespace}/{name}");
                    found.extend(self.named("service", &id).map(|how| (path.to_owned(), id, how)));
                    return;
                }
                for (key, value) in fields {
                    self.visit(&format!("{path}.{key}"), key, value, found);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn named(&self, key: &str, text: &str) -> Option<How> {
        match key {
            "host" | "hosts" | "hostname" | "hostnames" => {
                let (wanted, held) = (self.host.as_ref()?, text.parse::<Hostname>().ok()?);
                if *wanted == held {
                    return Some(How::Exact);
                }
                wanted.intersects(&held).then_some(How::Wildcard)
            }
            "service" | "services" | "workload" | "workloads" => {
                let id: ServiceId = text.parse().ok()?;
                if self.namespace.as_ref() == Some(&id.namespace) {
                    return Some(How::Exact);
                }
                let (namespace, name) = self.service.as_ref()?;
                let same =
                    *name == id.name && namespace.as_ref().is_none_or(|wanted| *wanted == id.namespace);
                // A workload is no service.
                self.service_how.filter(|_| same && key.starts_with("service"))
            }
            "namespace" => (self.namespace.as_ref()?.as_str() == text).then_some(How::Exact),
            "namespaces" => {
                let namespace = self.namespace.as_ref()?;
                let selector: Selector = text.parse().ok()?;
                match selector.exact_namespace() {
                    Some(exact) => (exact == namespace).then_some(How::Exact),
                    None => selector.matches_namespace(namespace).then_some(How::Wildcard),
                }
            }
            _ => None,
        }
    }
}

/// The service that a host names inside the mesh; a short name is one in whichever namespace.
fn called(host: &str) -> Option<(Option<Label>, Label)> {
    if let Ok(name) = host.parse::<Label>() {
        return Some((None, name));
    }
    // With two labels or more the namespace is said, so it does not matter from where.
    let anywhere: Label = "x".parse().ok()?;
    let id = crate::lower::named_service(host, &anywhere)?;
    Some((Some(id.namespace), id.name))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    const W: &str = "organizations/acme/tenants/a/workspaces/w";

    fn intent() -> Intent {
        let documents = [
            json!({"name": "organizations/acme"}),
            json!({"name": W, "spec": {"namespaces": ["east/shop", "*/sh*", "east/cart"]}}),
            json!({"name": format!("{W}/trafficgroups/g/serviceroutes/r"), "spec": {"service": "shop/reviews", "rules": []}}),
            json!({"name": format!("{W}/gatewaygroups/g/gateways/in"), "spec": {
                "workload": "shop/reviews", "type": "ingress", "port": 80, "hosts": ["*.example.com", "shop.example.org"],
                "rules": [{"backendRefs": [{"namespace": "cart", "name": "basket"}, {"namespace": "shop", "name": "reviews"}]}]}}),
        ];
        documents
            .into_iter()
            .map(|document| Resource::from_json(document).unwrap())
            .map(|resource| (resource.name.clone(), Arc::new(resource)))
            .collect()
    }

    #[test]
    fn a_name_is_found_in_all_its_forms() {
        let host = |text: &str| Sought::Host(text.to_owned());
        let service = |text: &str| Sought::Service(text.to_owned());
        let namespace = |text: &str| Sought::Namespace(text.parse().unwrap());
        let route = "r spec.service Alias";
        let backend = "in spec.rules[0].backendRefs[1] Alias";
        for (sought, expected) in [
            (host("shop.example.org"), vec!["in spec.hosts[1] Exact"]),
            (host("SHOP.example.com:8080"), vec!["in spec.hosts[0] Wildcard"]),
            (host("*.shop.example.com"), vec!["in spec.hosts[0] Wildcard"]),
            (host("*.example.org"), vec!["in spec.hosts[1] Wildcard"]),
            (host("example.com"), vec![]),
            (host("reviews"), vec![backend, route]),
            (host("reviews.shop"), vec![backend, route]),
            (host("reviews.shop.svc"), vec![backend, route]),
            (host("reviews.shop.svc.cluster.local"), vec![backend, route]),
            (host("reviews.shop.svc.clusterset.local"), vec![backend, route]),
            (host("reviews.cart"), vec![]),
            (service("basket"), vec!["in spec.rules[0].backendRefs[0] Exact"]),
            (
                service("cart/basket"),
                vec!["in spec.rules[0].backendRefs[0] Exact"],
            ),
            (service("shop/basket"), vec![]),
            (
                namespace("cart"),
                vec![
                    "in spec.rules[0].backendRefs[0] Exact",
                    "w spec.namespaces[2] Exact",
                ],
            ),
            (namespace("ships"), vec!["w spec.namespaces[1] Wildcard"]),
        ] {
            let mut found: Vec<String> = search(&intent(), &sought)
                .iter()
                .map(|touch| format!("{} {} {:?}", touch.resource.leaf(), touch.field, touch.how))
                .collect();
            found.sort();
            assert_eq!(found, expected, "{sought:?}");
        }
    }
}

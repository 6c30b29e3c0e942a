//! Whether settings let requests of one tenant come to another's workloads in plain text. It is about what settings ask
//! for: no proxy encrypts what it sends to another yet, whatever they say.
//!
//! Tenants meet at gateways. Whoever reaches an ingress reaches the workload that it runs on and the services behind it.
//! The east-west gateways of a cluster know no tenants: whoever reaches one reaches every service that is there and
//! elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use super::is_in_several;
use crate::effective::{Decided, mtls_of_node, mtls_of_service, mtls_within};
use crate::intent::{Intent, Spec};
use crate::name::{Fqn, Kind, ServiceId};
use crate::resolve::Resolved;
use crate::routes::{RoutedGateway, RoutedGatewayMode};
use crate::setting::Mtls;

/// Where in a workspace it is decided that plain text may come, and by what.
type Lax = (Fqn, Decided<Mtls>);

struct Tenants<'a> {
    intent: &'a Intent,
    resolved: &'a Resolved,
    /// By workspace; those that are strict throughout are left out.
    lax: BTreeMap<&'a Fqn, Vec<Lax>>,
}

/// Each gateway and workspace through which it may come, with an example.
pub(super) fn between_tenants(intent: &Intent, resolved: &Resolved) -> Vec<(Fqn, String)> {
    let lax = resolved.workspaces.keys().filter_map(|workspace| {
        let mut within = mtls_within(intent, workspace);
        within.retain(|(_, decided)| !is_strict(decided));
        (!within.is_empty()).then_some((workspace, within))
    });
    let tenants = Tenants {
        intent,
        resolved,
        lax: lax.collect(),
    };
    let gateways = resolved.gateways.iter();
    let through_gateways = gateways.filter_map(|(name, gateway)| {
        let example = tenants.through_gateway(name, &gateway.value)?;
        Some((name.clone(), example))
    });
    let between_clusters = tenants.lax.iter().filter_map(|(workspace, lax)| {
        let example = tenants.between_clusters(workspace, lax.first()?)?;
        Some(((*workspace).clone(), example))
    });
    through_gateways.chain(between_clusters).collect()
}

impl Tenants<'_> {
    fn through_gateway(&self, name: &Fqn, gateway: &RoutedGateway) -> Option<String> {
        let workload = self.owners(gateway).into_iter().find_map(|owner| {
            let decided = self.lax_service(owner, &gateway.workload)?;
            let stranger = self.stranger(owner.unwrap_or(&gateway.workspace))?;
            Some((&gateway.workload, stranger, decided))
        });
        let service = || {
            let decided = gateway.backends().find_map(|service| {
                let decided = self.lax_service(Some(&gateway.workspace), service)?;
                Some((service, decided))
            });
            let ((service, decided), stranger) = (decided?, self.stranger(&gateway.workspace)?);
            Some((service, stranger, decided))
        };
        let (reached, stranger, decided) = workload.or_else(service)?;
        let through = match gateway.mode {
            RoutedGatewayMode::Ingress { .. } => "through",
            RoutedGatewayMode::EastWest => "as the door between clusters of",
        };
        let what = format!("{stranger} can reach {reached} {through} {name}");
        Some(sentence(&what, &decided))
    }

    fn between_clusters(&self, workspace: &Fqn, (at, decided): &Lax) -> Option<String> {
        let stranger = self.stranger(workspace)?;
        if !is_in_several(workspace, self.resolved) {
            return None;
        }
        let reached = match self.intent.get(at).map(|resource| &resource.spec) {
            Some(Spec::ServiceSecuritySetting(setting)) => format!("{} of {workspace}", setting.service),
            _ => format!("services of {at}"),
        };
        let what = format!("{stranger} can reach {reached} through east-west gateways");
        Some(sentence(&what, decided))
    }

    /// Whose the workload is that a gateway runs on; `None` where it is nobody's.
    fn owners(&self, gateway: &RoutedGateway) -> BTreeSet<Option<&Fqn>> {
        let clusters = self.resolved.clusters_of(&gateway.workspace);
        clusters
            .map(|cluster| self.resolved.owner(cluster, &gateway.workload.namespace))
            .collect()
    }

    /// What lets plain text come to a workload. What is nobody's has what is set for all.
    fn lax_service(&self, owner: Option<&Fqn>, service: &ServiceId) -> Option<Decided<Mtls>> {
        let decided = match owner {
            Some(owner) => {
                self.lax.get(owner)?;
                mtls_of_service(self.intent, owner, service)
            }
            None => mtls_of_node(self.intent, self.intent.keys().next()?),
        };
        (!is_strict(&decided)).then_some(decided)
    }

    /// Another tenant than that of a workspace, with namespaces of its own.
    fn stranger(&self, workspace: &Fqn) -> Option<Fqn> {
        let tenant = workspace.ancestor(Kind::Tenant);
        let workspaces = self.resolved.workspaces.iter();
        let others = workspaces.filter(|(_, other)| !other.value.namespaces.is_empty());
        let mut others = others.map(|(other, _)| other.ancestor(Kind::Tenant));
        others.find(|other| *other != tenant)?
    }
}

fn is_strict(decided: &Decided<Mtls>) -> bool {
    decided.value.value == Some(Mtls::Strict)
}

fn sentence(what: &str, decided: &Decided<Mtls>) -> String {
    let mode = match decided.value.value {
        Some(Mtls::Disabled) => "disabled",
        Some(Mtls::Permissive) | None => "permissive",
        Some(Mtls::Strict) => "strict",
    };
    match &decided.value.origin {
        Some(origin) => format!(
            "{what}, where {} of {} lets plain text pass: mtls is {mode} and not strict",
            origin.field, origin.resource
        ),
        None => format!("{what}, where no setting says mtls: {mode} is built in, and lets plain text pass"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::super::broken;
    use crate::intent::{Intent, Resource};
    use crate::resolve::resolve;

    const ACME: &str = "organizations/acme";
    const SHOP: &str = "/tenants/pay/workspaces/shop";
    const OF_ALL: &str = "/securitysettings/default";
    const OF_SHOP: &str = "/tenants/pay/workspaces/shop/securitysettings/default";
    const OF_GROUP: &str = "/tenants/pay/workspaces/shop/securitygroups/s/securitysettings/default";
    const OF_WEB: &str = "/tenants/pay/workspaces/shop/securitygroups/s/servicesecuritysettings/web";

    /// A shop with a door, a workspace of another tenant, and what a case adds or has in place of these.
    fn examples(more: &[(&str, Value)]) -> Vec<String> {
        let door = json!({"workload": "shop/door", "type": "ingress", "port": 8080, "hosts": ["shop.example.com"],
            "rules": [{"backendRefs": [{"namespace": "shop", "name": "web"}]}]});
        let base = [
            ("", json!({})),
            ("/clusters/us", json!({"region": "us"})),
            ("/tenants/pay", json!({})),
            (SHOP, json!({"namespaces": ["*/shop", "*/cart"]})),
            ("/tenants/pay/workspaces/shop/gatewaygroups/g", json!({})),
            ("/tenants/pay/workspaces/shop/gatewaygroups/g/gateways/door", door),
            (
                "/tenants/pay/workspaces/shop/securitygroups/s",
                json!({"namespaces": ["*/shop"]}),
            ),
            ("/tenants/media", json!({})),
            (
                "/tenants/media/workspaces/video",
                json!({"namespaces": ["us/video"]}),
            ),
            ("/invariants/i", json!({"noPlaintextBetweenTenants": {}})),
        ];
        let mut intent = Intent::new();
        for (name, spec) in base.iter().chain(more) {
            let document = json!({"name": format!("{ACME}{name}"), "spec": spec});
            let resource = Resource::from_json(document).unwrap();
            intent.insert(resource.name.clone(), Arc::new(resource));
        }
        let (resolved, _) = resolve(&intent);
        broken(&intent, &resolved)
            .into_iter()
            .map(|broken| broken.example.replace(&format!("{ACME}/tenants/"), ""))
            .collect()
    }

    #[test]
    fn what_lets_plain_text_come_from_another_tenant_is_named() {
        let mtls = |half: &str, mode: &str| json!({half: {"mtls": mode}});
        let web = |mode: &str| json!({"service": "shop/web", "settings": {"mtls": mode}});
        let strict = || (OF_ALL, mtls("defaults", "strict"));
        let strict_group = || (OF_GROUP, mtls("defaults", "strict"));
        let eu = || ("/clusters/eu", json!({"region": "eu"}));
        let east_west = || {
            let spec = json!({"workload": "cart/ew", "type": "eastwest"});
            ("/tenants/pay/workspaces/shop/gatewaygroups/g/gateways/ew", spec)
        };
        for (case, more, expected) in [
            (
                "nothing is set",
                vec![],
                vec![
                    "media can reach shop/door through pay/workspaces/shop/gatewaygroups/g/gateways/door, where no \
                     setting says mtls: permissive is built in",
                ],
            ),
            ("all are strict", vec![strict()], vec![]),
            (
                "a workspace takes it back",
                vec![strict(), (OF_SHOP, mtls("defaults", "permissive"))],
                vec!["media can reach shop/door through"],
            ),
            (
                "a mandate is not taken back",
                vec![
                    (OF_ALL, mtls("mandates", "strict")),
                    (OF_SHOP, mtls("defaults", "disabled")),
                ],
                vec![],
            ),
            (
                "one service behind the gateway",
                vec![strict(), (OF_WEB, web("disabled"))],
                vec![
                    "media can reach shop/web through pay/workspaces/shop/gatewaygroups/g/gateways/door, where \
                     spec.settings.mtls of pay/workspaces/shop/securitygroups/s/servicesecuritysettings/web lets plain \
                     text pass: mtls is disabled and not strict",
                ],
            ),
            (
                "what nobody else can reach needs nothing",
                vec![strict_group()],
                vec![],
            ),
            (
                "what is elsewhere too is reached through other doors",
                vec![strict_group(), eu()],
                vec!["media can reach services of pay/workspaces/shop through east-west gateways, where no"],
            ),
            (
                "one service that is elsewhere too",
                vec![strict(), eu(), (OF_WEB, web("permissive"))],
                vec![
                    "media can reach shop/web of pay/workspaces/shop through east-west gateways",
                    "media can reach shop/web through pay/workspaces/shop/gatewaygroups",
                ],
            ),
            (
                "what is in one cluster only is reached by no other door",
                vec![strict_group(), eu(), (SHOP, json!({"namespaces": ["us/shop"]}))],
                vec![],
            ),
            (
                "where the namespace of a workload is nobody's, it has what is set for all",
                vec![
                    strict_group(),
                    eu(),
                    (SHOP, json!({"namespaces": ["us/shop", "eu/cart"]})),
                ],
                vec!["media can reach shop/door through"],
            ),
            (
                "a door of one's own",
                vec![strict_group(), east_west()],
                vec!["media can reach cart/ew as the door between clusters of"],
            ),
            (
                "nobody else has namespaces",
                vec![("/tenants/media/workspaces/video", json!({"namespaces": []}))],
                vec![],
            ),
        ] {
            let found = examples(&more);
            assert_eq!(found.len(), expected.len(), "{case}: {found:#?}");
            for (found, expected) in found.iter().zip(expected) {
                assert!(found.starts_with(expected), "{case}: {found:#?}");
            }
        }
    }
}

//! One table per rule: what is written where, and what then counts, because of whom.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::finding::{Code, Finding};
use crate::intent::Resource;
use crate::name::Fqn;
use crate::resolve::resolve;

const WORKSPACE: &str = "organizations/acme/tenants/pay/workspaces/shop";
const VIDEO: &str = "organizations/acme/tenants/media/workspaces/video";

/// `acme`, `pay`, `shop` with the security groups `a` and `b` and the traffic group `web`, and settings on them: each a
/// node and its spec, or the rest of a name and its spec.
fn intent(settings: &[(&str, Value)]) -> Intent {
    let nodes = ["acme", "pay", "shop", "a", "b", "web"].map(|node| json!({"name": name(node)}));
    let mut documents: Vec<Value> = nodes.into();
    documents[2]["spec"] = json!({"namespaces": ["*/shop", "*/db"]});
    for (at, spec) in settings {
        let (node, rest) = at.split_once('/').unwrap_or((at, ""));
        if rest.is_empty() {
            let own = documents
                .iter_mut()
                .find(|document| document["name"] == name(node))
                .unwrap();
            for (field, value) in spec.as_object().unwrap() {
                own["spec"][field] = value.clone();
            }
        } else {
            documents.push(json!({"name": format!("{}/{rest}", name(node)), "spec": spec}));
        }
    }
    let documents = documents.into_iter().map(|document| {
        let resource = Resource::from_json(document).unwrap();
        (resource.name.clone(), Arc::new(resource))
    });
    documents.collect()
}

fn name(node: &str) -> String {
    match node {
        "acme" => "organizations/acme".to_owned(),
        "pay" => "organizations/acme/tenants/pay".to_owned(),
        "shop" => WORKSPACE.to_owned(),
        "web" => format!("{WORKSPACE}/trafficgroups/web"),
        group => format!("{WORKSPACE}/securitygroups/{group}"),
    }
}

fn short(resource: &Fqn) -> String {
    let nodes = ["a", "b", "web", "shop", "pay", "acme"];
    let node = nodes
        .into_iter()
        .find(|node| resource.is_within(&name(node).parse().unwrap()))
        .unwrap();
    resource.as_str().replacen(&name(node), node, 1)
}

/// `VALUE <- who said so | who lost`.
fn shown(effective: &Effective, field: &str) -> String {
    let rows = effective.rows();
    let row = rows.iter().find(|row| row.field == field).unwrap();
    let from = row.origin.iter().chain(&row.with);
    let from: Vec<String> = from
        .map(|origin| format!("{} {}", short(&origin.resource), origin.field))
        .collect();
    let lost = row.origin.iter().flat_map(|origin| &origin.lost);
    let lost: Vec<String> = lost.map(short).collect();
    let shown = format!("{} <- {} | {}", row.value, from.join(" + "), lost.join(", "));
    shown
        .replace("/securitysettings/default", "")
        .replace("/trafficsettings/default", "")
        .replace('"', "")
}

fn of(intent: &Intent, node: &str) -> Effective {
    of_node(intent, &name(node).parse().unwrap()).unwrap()
}

fn found(intent: &Intent, code: Code) -> Vec<Finding> {
    let findings = resolve(intent).1;
    findings
        .into_iter()
        .filter(|finding| finding.code == code)
        .collect()
}

fn mtls(half: &str, mode: &str) -> Value {
    json!({half: {"mtls": mode}})
}

#[test]
fn of_defaults_the_nearest_counts_unless_a_mandate_is_stricter() {
    let acme = "acme/securitysettings/default";
    let pay = "pay/securitysettings/default";
    let shop = "shop/securitysettings/default";
    for (settings, expected) in [
        (vec![], "permissive <-  | "),
        (
            vec![(acme, mtls("defaults", "strict"))],
            "strict <- acme spec.defaults.mtls | ",
        ),
        (
            vec![
                (acme, mtls("defaults", "strict")),
                (shop, mtls("defaults", "disabled")),
            ],
            "disabled <- shop spec.defaults.mtls | acme",
        ),
        (
            vec![
                (acme, mtls("mandates", "strict")),
                (shop, mtls("defaults", "disabled")),
            ],
            "strict <- acme spec.mandates.mtls | shop",
        ),
        // Both agree: the mandate is named, for changing the default would change nothing.
        (
            vec![
                (acme, mtls("mandates", "strict")),
                (shop, mtls("defaults", "strict")),
            ],
            "strict <- acme spec.mandates.mtls | ",
        ),
        // A floor, and a default above it.
        (
            vec![(
                acme,
                json!({"defaults": {"mtls": "strict"}, "mandates": {"mtls": "permissive"}}),
            )],
            "strict <- acme spec.defaults.mtls | ",
        ),
        (
            vec![
                (
                    acme,
                    json!({"defaults": {"mtls": "strict"}, "mandates": {"mtls": "permissive"}}),
                ),
                (pay, mtls("defaults", "disabled")),
            ],
            "permissive <- acme spec.mandates.mtls | pay",
        ),
        // A mandate cannot undo the one above it.
        (
            vec![
                (acme, mtls("mandates", "strict")),
                (pay, mtls("mandates", "disabled")),
            ],
            "strict <- acme spec.mandates.mtls | ",
        ),
        // A mandate holds for its own node and below, not above.
        (
            vec![("a/securitysettings/default", mtls("mandates", "strict"))],
            "permissive <-  | ",
        ),
    ] {
        let intent = intent(&settings);
        assert_eq!(
            shown(&of(&intent, "shop"), "security.mtls"),
            expected,
            "{settings:?}"
        );
    }
}

#[test]
fn sets_narrow_or_grow() {
    let allow = |half: &str, from: &[&str]| {
        let rules: Vec<Value> = from.iter().map(|from| json!({ "from": from })).collect();
        json!({half: {"authorization": {"allow": rules, "deny": rules}}})
    };
    let intent = intent(&[
        (
            "acme/securitysettings/default",
            allow("mandates", &["shop/*", "db/*"]),
        ),
        (
            "shop/securitysettings/default",
            allow("defaults", &["*/web", "pay/*"]),
        ),
    ]);
    let shop = of(&intent, "shop");
    let both = "acme spec.mandates.authorization.X + shop spec.defaults.authorization.X | ";
    assert_eq!(
        shown(&shop, "security.authorization.allow"),
        format!(
            "[{{from:db/web}},{{from:shop/web}}] <- {}",
            both.replace('X', "allow")
        )
    );
    assert_eq!(
        shown(&shop, "security.authorization.deny"),
        format!(
            "[{{from:db/*}},{{from:pay/*}},{{from:shop/*}},{{from:*/web}}] <- {}",
            both.replace('X', "deny")
        )
    );
    let fields: Vec<String> = found(&intent, Code::MandateRelaxed)
        .into_iter()
        .map(|finding| finding.field)
        .collect();
    assert_eq!(
        fields,
        ["spec.defaults.authorization.allow"],
        "a denial adds to those above and relaxes nothing"
    );
}

/// A mandate that would let more through than is let through without it is none.
#[test]
fn what_is_built_in_is_not_weakened_by_a_mandate() {
    let intent = intent(&[
        (
            "acme/securitysettings/default",
            json!({"mandates": {"waf": {"exclusions": [1, 2]}, "mtls": "disabled"}}),
        ),
        (
            "a/securitysettings/default",
            json!({"defaults": {"waf": {"exclusions": [2]}}}),
        ),
    ]);
    let shop = of(&intent, "shop");
    assert_eq!(shown(&shop, "security.waf.exclusions"), "[] <-  | ");
    assert_eq!(shown(&shop, "security.mtls"), "permissive <-  | ");
    let a = of(&intent, "a");
    assert_eq!(
        shown(&a, "security.waf.exclusions"),
        "[2] <- a spec.defaults.waf.exclusions | "
    );
}

#[test]
fn a_service_gets_what_is_as_strict_as_each_of_its_groups() {
    let service = |group: &str, leaf: &str, mode: &str| {
        (
            format!("{group}/servicesecuritysettings/{leaf}"),
            json!({"service": "shop/web", "settings": {"mtls": mode}}),
        )
    };
    let a = (
        "a/securitysettings/default".to_owned(),
        mtls("defaults", "strict"),
    );
    let b = (
        "b/securitysettings/default".to_owned(),
        mtls("defaults", "permissive"),
    );
    let mandate = (
        "acme/securitysettings/default".to_owned(),
        mtls("mandates", "permissive"),
    );
    for (settings, expected) in [
        (vec![a.clone(), b.clone()], "strict <- a spec.defaults.mtls | b"),
        (vec![service("a", "x", "disabled")], "permissive <-  | "),
        (
            vec![
                a.clone(),
                service("a", "x", "disabled"),
                service("b", "x", "disabled"),
            ],
            "disabled <- a/servicesecuritysettings/x spec.settings.mtls | a",
        ),
        (
            vec![
                service("a", "x", "permissive"),
                service("a", "y", "strict"),
                service("b", "x", "permissive"),
            ],
            "strict <- a/servicesecuritysettings/y spec.settings.mtls | a/servicesecuritysettings/x, b/servicesecuritysettings/x",
        ),
        (
            vec![
                mandate,
                service("a", "x", "disabled"),
                service("b", "x", "disabled"),
            ],
            "permissive <- acme spec.mandates.mtls | a/servicesecuritysettings/x, b/servicesecuritysettings/x",
        ),
    ] {
        let settings: Vec<(&str, Value)> = settings
            .iter()
            .map(|(at, spec)| (at.as_str(), spec.clone()))
            .collect();
        let intent = intent(&settings);
        let service = of_service(&intent, &WORKSPACE.parse().unwrap(), &"shop/web".parse().unwrap()).unwrap();
        assert_eq!(shown(&service, "security.mtls"), expected, "{settings:?}");
    }
}

#[test]
fn a_group_that_does_not_take_the_service_says_nothing_about_it() {
    let intent = intent(&[
        ("a", json!({"namespaces": ["*/db"]})),
        ("a/securitysettings/default", mtls("defaults", "strict")),
        ("shop/securitysettings/default", mtls("defaults", "disabled")),
    ]);
    let of = |service: &str| {
        let service = of_service(&intent, &WORKSPACE.parse().unwrap(), &service.parse().unwrap());
        shown(&service.unwrap(), "security.mtls")
    };
    assert_eq!(of("shop/web"), "disabled <- shop spec.defaults.mtls | ");
    assert_eq!(of("db/main"), "strict <- a spec.defaults.mtls | shop");
}

#[test]
fn failover_is_the_nearest_wherever_it_is_written() {
    let to = |region: &str| json!([{"from": "us", "to": [region]}]);
    let own = |region: &str| json!({"failover": to(region)});
    let set = |half: &str, region: &str| json!({half: {"failover": to(region)}});
    let (acme, pay) = ("acme/trafficsettings/default", "pay/trafficsettings/default");
    for (settings, expected) in [
        (vec![("acme", own("eu"))], "eu <- acme spec.failover | "),
        (
            vec![("acme", own("eu")), ("shop", own("asia"))],
            "asia <- shop spec.failover | acme",
        ),
        (
            vec![("acme", own("eu")), (acme, set("defaults", "asia"))],
            "asia <- acme spec.defaults.failover | acme",
        ),
        (
            vec![(pay, set("mandates", "eu")), ("shop", own("asia"))],
            "eu <- pay spec.mandates.failover | shop",
        ),
        (
            vec![(acme, set("mandates", "eu")), (pay, set("mandates", "asia"))],
            "eu <- acme spec.mandates.failover | pay",
        ),
    ] {
        let intent = intent(&settings);
        let shown = shown(&of(&intent, "web"), "traffic.failover");
        let shown = shown.replace("[{from:us,to:[", "").replace("]}]", "");
        assert_eq!(shown, expected, "{settings:?}");
    }
}

#[test]
fn what_is_wrong_is_found_on_who_wrote_it() {
    let own = json!({"failover": [{"from": "us", "to": ["eu"]}]});
    for (settings, code, resource, message) in [
        (
            vec![
                ("acme/securitysettings/default", mtls("mandates", "strict")),
                (
                    "a/servicesecuritysettings/x",
                    json!({"service": "shop/web", "settings": {"mtls": "disabled"}}),
                ),
            ],
            Code::MandateRelaxed,
            "a/servicesecuritysettings/x",
            "spec.settings.mtls asks for less than organizations/acme/securitysettings/default mandates in spec.mandates.mtls",
        ),
        (
            vec![(
                "acme/securitysettings/default",
                json!({"defaults": {"mtls": "disabled"}, "mandates": {"mtls": "strict"}}),
            )],
            Code::MandateRelaxed,
            "acme/securitysettings/default",
            "spec.defaults.mtls asks for less",
        ),
        (
            vec![
                (
                    "pay/trafficsettings/default",
                    json!({"mandates": {"failover": []}}),
                ),
                ("shop", own.clone()),
            ],
            Code::MandateRelaxed,
            "shop",
            "spec.failover asks for less than organizations/acme/tenants/pay/trafficsettings/default",
        ),
        (
            vec![
                ("acme", own.clone()),
                (
                    "acme/trafficsettings/default",
                    json!({"defaults": {"failover": []}}),
                ),
            ],
            Code::SettingIgnored,
            "acme",
            "the failover of organizations/acme/trafficsettings/default counts",
        ),
        (
            vec![
                ("a/servicesecuritysettings/x", json!({"service": "shop/web"})),
                ("a/servicesecuritysettings/y", json!({"service": "shop/web"})),
            ],
            Code::ServiceTaken,
            "a/servicesecuritysettings/y",
            "servicesecuritysettings/x is for service shop/web of this group already",
        ),
        (
            vec![("a/servicesecuritysettings/x", json!({"service": "other/web"}))],
            Code::NamespaceNotOwned,
            "a/servicesecuritysettings/x",
            "namespace other is not one of",
        ),
        (
            vec![
                ("a/securitysettings/default", json!({})),
                ("b/securitysettings/default", json!({})),
                ("b", json!({"namespaces": ["us/shop"]})),
            ],
            Code::SettingsOverlap,
            "b",
            "securitygroups/a takes some of the same namespaces",
        ),
    ] {
        let found = found(&intent(&settings), code);
        let [finding] = found.as_slice() else {
            panic!("{settings:?}: {found:?}");
        };
        assert_eq!(short(&finding.resource), resource);
        assert!(finding.message.contains(message), "{}", finding.message);
    }
}

#[test]
fn what_nothing_is_set_on_has_the_settings_of_where_it_stands() {
    let served_by = |workspace: &str| json!({ "workspace": workspace });
    let intent = intent(&[
        (
            "shop/gatewaygroups/edge/gateways/door",
            json!({"workload": "shop/door", "type": "eastwest"}),
        ),
        ("web/serviceroutes/r", json!({"service": "shop/web", "rules": []})),
        ("pay/applications/app", served_by(WORKSPACE)),
        (
            "pay/applications/lost",
            served_by("organizations/acme/tenants/pay/workspaces/gone"),
        ),
        ("pay/applications/other", served_by(VIDEO)),
        ("acme/tenants/media/workspaces/video", json!({"namespaces": []})),
        ("acme/clusters/us", json!({"region": "us"})),
    ]);
    let node = |resource: &str| {
        let found = node_of(&intent, &resource.parse().unwrap());
        found
            .map(|node| node.to_string())
            .map_err(|error| error.to_string())
    };
    let tenant = "organizations/acme/tenants/pay";
    for (resource, expected) in [
        (WORKSPACE.to_owned(), WORKSPACE.to_owned()),
        (
            format!("{WORKSPACE}/gatewaygroups/edge/gateways/door"),
            format!("{WORKSPACE}/gatewaygroups/edge"),
        ),
        (
            format!("{WORKSPACE}/trafficgroups/web/serviceroutes/r"),
            format!("{WORKSPACE}/trafficgroups/web"),
        ),
        (format!("{tenant}/applications/app"), WORKSPACE.to_owned()),
    ] {
        assert_eq!(node(&resource), Ok(expected), "{resource}");
    }
    for (resource, reason) in [
        (format!("{tenant}/applications/lost"), "the workspace of"),
        (format!("{tenant}/applications/other"), "the workspace of"),
        (format!("{tenant}/applications/none"), "does not exist"),
        (
            "organizations/acme/clusters/us".to_owned(),
            "settings count for organizations",
        ),
    ] {
        let refused = node(&resource).unwrap_err();
        assert!(refused.contains(reason), "{resource}: {refused}");
    }
}

#[test]
fn who_is_asked_in_vain_is_told_whom_to_ask() {
    let intent = intent(&[(
        "shop/trafficgroups/web/serviceroutes/r",
        json!({"service": "shop/web", "rules": []}),
    )]);
    let route = format!("{WORKSPACE}/trafficgroups/web/serviceroutes/r");
    for (node, service, reason) in [
        ("organizations/other", None, "does not exist"),
        (
            route.as_str(),
            None,
            "settings count for organizations, tenants, workspaces and groups",
        ),
        (
            "organizations/acme/tenants/pay",
            Some("shop/web"),
            "has no services; ask its workspaces",
        ),
        (
            WORKSPACE,
            Some("other/web"),
            "namespace other of service other/web is not one of",
        ),
    ] {
        let node = node.parse().unwrap();
        let refused = match service {
            None => of_node(&intent, &node),
            Some(service) => of_service(&intent, &node, &service.parse().unwrap()),
        };
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains(reason), "{refused}");
    }
}

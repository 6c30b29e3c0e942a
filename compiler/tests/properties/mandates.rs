//! Invariant 7: a mandate of an ancestor cannot be relaxed below it, by any combination of resources. What "stricter"
//! means is said here a second time, by what is let through and not by the orders that the compiler folds with.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::{Just, ProptestConfig, Strategy, prop_oneof, proptest};
use proptest::sample::select;
use serde_json::{Map, Value, json};
use tombolo_compiler::effective::{Effective, of_node, of_service};
use tombolo_compiler::intent::{Intent, Resource};
use tombolo_compiler::name::Fqn;
use tombolo_compiler::resolve::resolve;

const ACME: &str = "organizations/acme";
const TENANT: &str = "organizations/acme/tenants/pay";
const WORKSPACE: &str = "organizations/acme/tenants/pay/workspaces/shop";
/// Two that take the same namespace, and one for traffic.
const GROUPS: [&str; 3] = ["securitygroups/a", "securitygroups/b", "trafficgroups/web"];
const SERVICE: &str = "shop/web";
/// From weak to strict.
const WORDS: [(&str, &[&str]); 5] = [
    (
        "traffic.reachability",
        &["organization", "tenant", "workspace", "group", "namespace"],
    ),
    ("security.mtls", &["disabled", "permissive", "strict"]),
    ("security.authentication.tokens", &["optional", "required"]),
    (
        "security.authorization.callers",
        &[
            "anyone",
            "organization",
            "tenant",
            "workspace",
            "group",
            "namespace",
            "nobody",
        ],
    ),
    ("security.waf.mode", &["off", "detect", "block"]),
];

/// A tree of nodes with a setting each, and the settings of one service.
#[derive(Clone, Debug)]
struct Tree {
    documents: Vec<Value>,
}

impl Tree {
    fn intent(&self) -> Intent {
        let skeleton = [
            json!({"name": ACME}),
            json!({"name": TENANT}),
            json!({"name": WORKSPACE, "spec": {"namespaces": ["*/shop"]}}),
        ];
        let groups = GROUPS.map(|group| json!({"name": format!("{WORKSPACE}/{group}")}));
        let documents = skeleton
            .into_iter()
            .chain(groups)
            .chain(self.documents.iter().cloned());
        documents
            .map(|document| {
                let resource = Resource::from_json(document).unwrap();
                (resource.name.clone(), Arc::new(resource))
            })
            .collect()
    }

    /// What the nodes from the organization to `node` mandate for a field such as `security.mtls`, topmost first.
    fn mandates(&self, node: &str, field: &str) -> Vec<&Value> {
        let (concern, path) = field.split_once('.').unwrap();
        let pointer = format!("/spec/mandates/{}", path.replace('.', "/"));
        let lineage: Vec<String> = node
            .parse::<Fqn>()
            .unwrap()
            .lineage()
            .map(|node| format!("{node}/{concern}settings/default"))
            .collect();
        let above = lineage.iter().rev().filter_map(|name| {
            let mut documents = self.documents.iter();
            documents
                .find(|document| document["name"] == **name)?
                .pointer(&pointer)
        });
        above.collect()
    }
}

fn trees() -> impl Strategy<Value = Tree> {
    let traffic = [ACME, TENANT, WORKSPACE, "trafficgroups/web"];
    let security = [ACME, TENANT, WORKSPACE, "securitygroups/a", "securitygroups/b"];
    let name = |node: &str, collection: &str| match node.starts_with(ACME) {
        true => format!("{node}/{collection}/default"),
        false => format!("{WORKSPACE}/{node}/{collection}/default"),
    };
    let both =
        |half: fn() -> proptest::strategy::BoxedStrategy<Value>| option::weighted(0.7, (half(), half()));
    let settings = (
        vec(both(traffic_half), traffic.len()),
        vec(both(security_half), security.len()),
    );
    let services = vec(option::of(security_half()), 3);
    (settings, services).prop_map(move |((traffics, securities), services)| {
        let document = |name: String, (defaults, mandates)| {
            json!({"name": name, "spec": {"defaults": defaults, "mandates": mandates}})
        };
        let traffics = traffic.iter().zip(traffics);
        let traffics = traffics.filter_map(|(node, halves)| Some(document(name(node, "trafficsettings"), halves?)));
        let securities = security.iter().zip(securities);
        let securities = securities.filter_map(|(node, halves)| Some(document(name(node, "securitysettings"), halves?)));
        let services = [("a", "one"), ("a", "two"), ("b", "one")].into_iter().zip(services);
        let services = services.filter_map(|((group, leaf), settings)| {
            let name = format!("{WORKSPACE}/securitygroups/{group}/servicesecuritysettings/{leaf}");
            Some(json!({"name": name, "spec": {"service": SERVICE, "settings": settings?}}))
        });
        Tree {
            documents: traffics.chain(securities).chain(services).collect(),
        }
    })
}

fn traffic_half() -> proptest::strategy::BoxedStrategy<Value> {
    let hosts = btree_set(select(&["*.a", "x.a", "*.x.a", "b"][..]), 0..3);
    let egress = prop_oneof![
        Just(json!("any")),
        hosts.prop_map(|hosts| json!({"hosts": hosts}))
    ];
    let to = select(&["us", "eu"][..]);
    let failover = to.prop_map(|to| json!([{"from": "asia", "to": [to]}]));
    let limit = || select(&[1, 2, 3][..]).prop_map(|limit| json!(limit));
    fields(vec![
        ("reachability", word(0)),
        ("egress", egress.boxed()),
        ("failover", failover.boxed()),
        (
            "resilience.timeout",
            select(&["1s", "2s", "3s"][..])
                .prop_map(|span| json!(span))
                .boxed(),
        ),
        ("resilience.requestsMax", limit().boxed()),
    ])
}

fn security_half() -> proptest::strategy::BoxedStrategy<Value> {
    let from = option::of(select(&["shop/*", "*/x", "shop/x", "sh*/y"][..]));
    let methods = btree_set(select(&["GET", "POST"][..]), 0..2);
    let path = option::of(select(&["/", "/a", "/a/b"][..]));
    let rule = (from, methods, path).prop_map(|(from, methods, path)| {
        let path = path.map(|path| json!({"type": "PathPrefix", "value": path}));
        json!({"from": from, "methods": methods, "path": path})
    });
    let rules = vec(rule, 0..3).prop_map(Value::from).boxed();
    let audiences = btree_set(select(&["x", "y"][..]), 0..2);
    let issuer = (select(&["https://k", "https://l"][..]), audiences);
    let issuers = option::of(issuer).prop_map(|issuer| {
        let issuer = issuer
            .map(|(keys, audiences)| json!({"issuer": "https://i", "jwksUri": keys, "audiences": audiences}));
        Value::from_iter(issuer)
    });
    let labels = || {
        btree_set(select(&["one", "two"][..]), 0..3)
            .prop_map(|set| json!(set))
            .boxed()
    };
    fields(vec![
        ("mtls", word(1)),
        ("authentication.tokens", word(2)),
        ("authentication.issuers", issuers.boxed()),
        ("authorization.callers", word(3)),
        ("authorization.allow", rules.clone()),
        ("authorization.deny", rules),
        ("waf.mode", word(4)),
        ("waf.ruleSets", labels()),
        (
            "waf.exclusions",
            btree_set(0..3_u32, 0..3).prop_map(|set| json!(set)).boxed(),
        ),
        ("extensions", labels()),
    ])
}

fn word(at: usize) -> proptest::strategy::BoxedStrategy<Value> {
    select(WORDS[at].1).prop_map(|word| json!(word)).boxed()
}

/// An object with some of the fields, each at its path.
fn fields(
    all: Vec<(&'static str, proptest::strategy::BoxedStrategy<Value>)>,
) -> proptest::strategy::BoxedStrategy<Value> {
    let (names, values): (Vec<_>, Vec<_>) = all.into_iter().unzip();
    let values: Vec<_> = values
        .into_iter()
        .map(|value| option::weighted(0.4, value))
        .collect();
    let object = values.prop_map(move |values| {
        let mut object = Map::new();
        for (name, value) in names.iter().zip(values) {
            match (name.split_once('.'), value) {
                (Some((block, name)), Some(value)) => {
                    object.entry(block).or_insert_with(|| json!({}))[name] = value;
                }
                (None, Some(value)) => drop(object.insert((*name).to_owned(), value)),
                (_, None) => {}
            }
        }
        Value::Object(object)
    });
    object.boxed()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 10_000, ..ProptestConfig::default() })]

    #[test]
    fn invariant_7_nothing_below_weakens_a_mandate(tree in trees()) {
        let intent = tree.intent();
        for node in [ACME, TENANT, WORKSPACE] {
            holds(&tree, &of_node(&intent, &node.parse().unwrap()).unwrap(), &[node.to_owned()]);
        }
        for group in GROUPS.map(|group| format!("{WORKSPACE}/{group}")) {
            holds(&tree, &of_node(&intent, &group.parse().unwrap()).unwrap(), &[group]);
        }
        // All groups take the service, so the mandates of each hold for it.
        let service = of_service(&intent, &WORKSPACE.parse().unwrap(), &SERVICE.parse().unwrap()).unwrap();
        holds(&tree, &service, &GROUPS.map(|group| format!("{WORKSPACE}/{group}")));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Nobody gains by the name of a group or of a setting.
    #[test]
    fn the_names_of_groups_do_not_matter(tree in trees()) {
        let swap = |name: &str| {
            let name = name.replace("securitygroups/a", "securitygroups/c");
            name.replace("securitygroups/b", "securitygroups/a").replace("securitygroups/c", "securitygroups/b")
        };
        let mut swapped = tree.clone();
        for document in &mut swapped.documents {
            document["name"] = swap(document["name"].as_str().unwrap()).into();
        }
        let security = |tree: &Tree| {
            let effective = of_service(
                &tree.intent(),
                &WORKSPACE.parse().unwrap(),
                &SERVICE.parse().unwrap(),
            );
            values(&effective.unwrap())
        };
        assert_eq!(security(&tree), security(&swapped));
    }

    /// Writing down what counts already changes nothing.
    #[test]
    fn mandating_what_counts_changes_nothing(tree in trees()) {
        let workspace: Fqn = WORKSPACE.parse().unwrap();
        let before = of_node(&tree.intent(), &workspace).unwrap();
        let mut mandates = Map::new();
        for row in before.rows() {
            let Some(path) = row.field.strip_prefix("security.").filter(|_| !row.value.is_null()) else {
                continue;
            };
            match path.split_once('.') {
                Some((block, name)) => mandates.entry(block).or_insert_with(|| json!({}))[name] = row.value,
                None => drop(mandates.insert(path.to_owned(), row.value)),
            }
        }
        let name = format!("{WORKSPACE}/securitysettings/default");
        let mut after = tree.clone();
        let held = after.documents.iter().position(|document| document["name"] == *name);
        let defaults = held.map_or(json!({}), |at| after.documents.remove(at)["spec"]["defaults"].take());
        after.documents.push(json!({"name": name, "spec": {"defaults": defaults, "mandates": mandates}}));
        assert_eq!(values(&of_node(&after.intent(), &workspace).unwrap()), values(&before));
    }

    #[test]
    fn settings_full_of_contradictions_are_findings_on_those_who_wrote_them(tree in trees()) {
        let intent = tree.intent();
        for finding in resolve(&intent).1 {
            assert!(intent.contains_key(&finding.resource), "{finding:?}");
        }
    }
}

/// What counts for security, whoever said so.
fn values(effective: &Effective) -> Vec<(String, Value)> {
    let rows = effective.rows().into_iter();
    rows.filter(|row| row.field.starts_with("security."))
        .map(|row| (row.field, row.value))
        .collect()
}

/// Whether each field is as strict as all that the lineages of these nodes mandate.
fn holds(tree: &Tree, effective: &Effective, nodes: &[String]) {
    for row in effective.rows() {
        let mandates: Vec<Vec<&Value>> = nodes.iter().map(|node| tree.mandates(node, &row.field)).collect();
        let topmost = mandates.iter().find_map(|mandates| mandates.first().copied());
        for mandate in mandates.iter().flatten().copied() {
            let holds = match row.field.as_str() {
                "traffic.failover" => Some(&row.value) == topmost,
                field => is_as_strict(field, &row.value, mandate),
            };
            assert!(
                holds,
                "{}: {} under the mandate {mandate}\n{row:?}\n{tree:?}",
                row.field, row.value
            );
        }
        let set_by_nobody = row.origin.is_none();
        assert!(
            mandates.iter().all(Vec::is_empty) || !row.value.is_null(),
            "{row:?}"
        );
        assert!(!set_by_nobody || row.with.is_empty(), "{row:?}");
    }
}

fn is_as_strict(field: &str, value: &Value, mandate: &Value) -> bool {
    if let Some((_, words)) = WORDS.iter().find(|(name, _)| *name == field) {
        let rank = |word: &Value| words.iter().position(|known| word == known).unwrap();
        return rank(value) >= rank(mandate);
    }
    match field {
        "traffic.egress" => ["a", "x.a", "y.x.a", "y.a", "b", "c"]
            .iter()
            .all(|host| !lets_out(value, host) || lets_out(mandate, host)),
        "traffic.resilience.timeout" => value.as_str() <= mandate.as_str(),
        "traffic.resilience.requestsMax" => value.as_u64() <= mandate.as_u64(),
        "security.authentication.issuers" => {
            tokens().all(|token| !accepts(value, token) || accepts(mandate, token))
        }
        "security.authorization.allow" => {
            requests().all(|request| !matches(value, request) || matches(mandate, request))
        }
        "security.authorization.deny" => {
            requests().all(|request| matches(value, request) || !matches(mandate, request))
        }
        "security.waf.ruleSets" | "security.extensions" => set(value).is_superset(&set(mandate)),
        "security.waf.exclusions" => set(value).is_subset(&set(mandate)),
        other => panic!("what is strict for {other}?"),
    }
}

fn set(value: &Value) -> BTreeSet<String> {
    value.as_array().unwrap().iter().map(Value::to_string).collect()
}

fn lets_out(egress: &Value, host: &str) -> bool {
    *egress == json!("any")
        || egress["hosts"].as_array().unwrap().iter().any(|pattern| {
            let pattern = pattern.as_str().unwrap();
            pattern == host
                || pattern
                    .strip_prefix('*')
                    .is_some_and(|suffix| host.ends_with(suffix))
        })
}

/// Of whose keys, and for whom.
fn tokens() -> impl Iterator<Item = (&'static str, &'static str)> {
    ["https://k", "https://l"]
        .into_iter()
        .flat_map(|keys| ["x", "y", "z"].map(|audience| (keys, audience)))
}

fn accepts(issuers: &Value, (keys, audience): (&str, &str)) -> bool {
    issuers.as_array().unwrap().iter().any(|issuer| {
        let audiences = issuer["audiences"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        issuer["jwksUri"] == keys && (audiences.is_empty() || audiences.contains(&json!(audience)))
    })
}

type Request = (Option<(&'static str, &'static str)>, &'static str, &'static str);

fn requests() -> impl Iterator<Item = Request> {
    let callers = [
        None,
        Some(("shop", "x")),
        Some(("shop", "y")),
        Some(("pay", "x")),
        Some(("shed", "y")),
    ];
    callers.into_iter().flat_map(|caller| {
        let paths = ["/", "/a", "/a/b/c", "/ab"];
        paths
            .into_iter()
            .flat_map(move |path| ["GET", "POST", "PUT"].map(|method| (caller, method, path)))
    })
}

fn matches(rules: &Value, (caller, method, path): Request) -> bool {
    let side = |pattern: &str, name: &str| match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => pattern == name,
    };
    rules.as_array().unwrap().iter().any(|rule| {
        let from = rule["from"].as_str().is_none_or(|from| {
            let (namespace, account) = from.split_once('/').unwrap();
            caller.is_some_and(|caller| side(namespace, caller.0) && side(account, caller.1))
        });
        let methods = rule["methods"].as_array().map(Vec::as_slice).unwrap_or_default();
        let below = rule["path"]["value"].as_str().is_none_or(|prefix| {
            let rest = path.strip_prefix(prefix.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        from && (methods.is_empty() || methods.contains(&json!(method))) && below
    })
}

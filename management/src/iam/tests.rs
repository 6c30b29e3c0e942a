use serde_json::{Value, json};
use tombolo_compiler::intent::Resource;

use super::*;
use crate::snapshot::{Stored, etag};

const ACME: &str = "organizations/acme";
const PAY: &str = "organizations/acme/tenants/pay";
const SHOP: &str = "organizations/acme/tenants/pay/workspaces/shop";
const ROUTE: &str = "organizations/acme/tenants/pay/workspaces/shop/trafficgroups/g/serviceroutes/r";

/// Users that exist in each of the trees below.
const USERS: [&str; 5] = ["root", "ann", "bob", "eve", "walt"];

fn name(text: &str) -> Fqn {
    text.parse().unwrap()
}

fn user(leaf: &str) -> Principal {
    let name = name(&format!("{ACME}/users/{leaf}"));
    Principal::User {
        uid: uid_of(&name),
        name,
    }
}

/// Of the first resource of that name.
fn uid_of(name: &Fqn) -> Uuid {
    let mut bytes = [0; 16];
    let text = name.leaf().as_bytes();
    let length = text.len().min(16);
    bytes[..length].copy_from_slice(&text[..length]);
    Uuid::from_bytes(bytes)
}

fn bindings(documents: Vec<Value>) -> Bindings {
    owned(documents, &[])
}

fn owned(mut documents: Vec<Value>, owners: &[(&str, &str)]) -> Bindings {
    documents.extend(USERS.map(|leaf| json!({"name": format!("{ACME}/users/{leaf}")})));
    documents.extend([ACME, PAY].map(|node| json!({ "name": node })));
    documents.push(json!({"name": SHOP, "spec": {"namespaces": ["*/shop"]}}));
    let tree: Tree = documents
        .into_iter()
        .map(|document| {
            let resource = Arc::new(Resource::from_json(document).unwrap());
            let name = resource.name.clone();
            let owner = owners.iter().find(|(node, _)| *node == name.as_str());
            let stored = Stored {
                uid: uid_of(&name),
                etag: etag(Uuid::nil(), 1),
                revision: 1,
                created_at: DateTime::UNIX_EPOCH,
                updated_at: DateTime::UNIX_EPOCH,
                managed: None,
                owner: owner.and_then(|(_, leaf)| user(leaf).uid()),
                resource,
            };
            (name, Arc::new(stored))
        })
        .collect();
    let intent = tree
        .iter()
        .map(|(name, stored)| (name.clone(), stored.resource.clone()))
        .collect();
    Bindings::of(&intent, tree)
}

fn binding(leaf: &str, node: &str, role: &str, subject: &str) -> Value {
    let subject = match subject.contains('/') {
        true => format!("{ACME}/{subject}"),
        false => format!("{ACME}/users/{subject}"),
    };
    json!({"name": format!("{node}/bindings/{leaf}"), "spec": {"role": role, "subjects": [subject]}})
}

fn ask(who: &Principal, action: Action, node: &str, bindings: &Bindings) -> Decision {
    let asker = Asker {
        principal: who,
        source: "127.0.0.1",
        time: DateTime::UNIX_EPOCH,
        opened: &Opened::Everything,
    };
    decide(&asker, action, &name(node), bindings)
}

#[test]
fn roles_are_inherited_downwards_and_nowhere_else() {
    let given = bindings(vec![
        binding("root", ACME, "admin", "root"),
        binding("ann", PAY, "writer", "ann"),
        binding("bob", SHOP, "reader", "bob"),
        binding("eve", SHOP, "admin", "eve"),
    ]);
    use Action::{Create, Delete, Read, ReadAudit, SetPolicy, Tokens, Update};
    for (who, action, node, allowed) in [
        ("root", Update, ACME, true),
        ("root", Create, "organizations/acme/clusters/us", true),
        ("root", Delete, ROUTE, true),
        ("root", ReadAudit, ACME, true),
        ("root", Tokens, "organizations/acme/users/ann", true),
        ("root", Read, "organizations/other", false),
        ("root", Create, "organizations/other/tenants/x", false),
        ("ann", Read, ROUTE, true),
        ("ann", Create, ROUTE, true),
        ("ann", Create, SHOP, true),
        ("ann", Update, PAY, false),
        ("ann", Read, ACME, false),
        ("ann", Read, "organizations/acme/tenants/payments", false),
        ("ann", Create, "organizations/acme/tenants/pay/bindings/me", false),
        ("ann", SetPolicy, PAY, false),
        ("ann", Tokens, "organizations/acme/users/ann", true),
        ("ann", Tokens, "organizations/acme/users/bob", false),
        ("ann", Read, "organizations/acme/users/ann", false),
        ("ann", ReadAudit, PAY, false),
        ("bob", Read, ROUTE, true),
        ("bob", Update, ROUTE, false),
        ("bob", Read, PAY, false),
        ("eve", Create, &format!("{SHOP}/bindings/me"), true),
        ("eve", SetPolicy, SHOP, true),
        ("eve", Create, "organizations/acme/tenants/pay/bindings/me", false),
        ("walt", Read, ACME, false),
    ] {
        let decision = ask(&user(who), action, node, &given);
        assert_eq!(
            decision.is_allowed(),
            allowed,
            "{who} {action} {node}: {decision:?}"
        );
    }
}

#[test]
fn an_answer_names_what_settled_it() {
    let web =
        json!({"name": format!("{ACME}/teams/web"), "spec": {"members": [format!("{ACME}/teams/on-call")]}});
    let on_call =
        json!({"name": format!("{ACME}/teams/on-call"), "spec": {"members": [format!("{ACME}/users/ann")]}});
    let given = owned(
        vec![web, on_call, binding("web", PAY, "writer", "teams/web")],
        &[(SHOP, "bob")],
    );
    for (who, action, node, words) in [
        (
            "ann",
            Action::Update,
            ROUTE,
            "organizations/acme/tenants/pay/bindings/web gives organizations/acme/teams/web the role writer",
        ),
        (
            "bob",
            Action::Delete,
            SHOP,
            "it owns organizations/acme/tenants/pay/workspaces/shop",
        ),
        (
            "bob",
            Action::SetPolicy,
            SHOP,
            "it owns organizations/acme/tenants/pay/workspaces/shop",
        ),
        (
            "bob",
            Action::Read,
            ROUTE,
            "it owns organizations/acme/tenants/pay/workspaces/shop",
        ),
        (
            "eve",
            Action::Tokens,
            "organizations/acme/users/eve",
            "everybody keeps its own tokens",
        ),
    ] {
        match ask(&user(who), action, node, &given) {
            Decision::Allow(because) => assert_eq!(because.to_string(), words),
            denied @ Decision::Deny(_) => panic!("{who} {action} {node}: {denied:?}"),
        }
    }
    assert!(
        !ask(&user("bob"), Action::Update, ROUTE, &given).is_allowed(),
        "an owner sees what others make below"
    );
}

#[test]
fn a_denial_says_what_is_missing_and_whom_to_ask_as_far_as_one_may_see() {
    let given = bindings(vec![
        binding("root", ACME, "admin", "root"),
        binding("eve", PAY, "admin", "eve"),
        binding("ann", PAY, "reader", "ann"),
    ]);
    for (who, node, words) in [
        (
            "ann",
            SHOP,
            "organizations/acme/users/ann needs the role writer to delete organizations/acme/tenants/pay/workspaces/shop; \
             ask organizations/acme/users/eve for a binding on it or on a node above it",
        ),
        (
            "bob",
            SHOP,
            "organizations/acme/users/bob needs the role writer to delete organizations/acme/tenants/pay/workspaces/shop; \
             ask an administrator for a binding on it or on a node above it",
        ),
    ] {
        match ask(&user(who), Action::Delete, node, &given) {
            Decision::Deny(lack) => assert_eq!(lack.to_string(), words),
            allowed @ Decision::Allow(_) => panic!("{who}: {allowed:?}"),
        }
    }
}

#[test]
fn a_condition_that_does_not_hold_gives_nothing_and_is_named() {
    let mut spec = binding("ann", PAY, "writer", "ann");
    spec["spec"]["condition"] = json!("inNetwork(source, '10.0.0.0/8')");
    let given = bindings(vec![spec]);
    let principal = user("ann");
    let from = |source| Asker {
        principal: &principal,
        source,
        time: DateTime::UNIX_EPOCH,
        opened: &Opened::Everything,
    };
    assert!(decide(&from("10.1.1.1"), Action::Update, &name(SHOP), &given).is_allowed());
    let denied = decide(&from("127.0.0.1"), Action::Update, &name(SHOP), &given);
    let Decision::Deny(lack) = denied else {
        panic!("{denied:?}");
    };
    let words = "the condition of organizations/acme/tenants/pay/bindings/ann does not hold now";
    assert!(lack.to_string().contains(words), "{lack}");
}

#[test]
fn whoever_has_the_name_of_a_user_that_was_deleted_has_none_of_its_rights() {
    let given = owned(vec![binding("ann", PAY, "admin", "ann")], &[(SHOP, "ann")]);
    let stranger = Principal::User {
        name: name("organizations/acme/users/ann"),
        uid: Uuid::now_v7(),
    };
    for (action, node) in [
        (Action::Read, PAY),
        (Action::Update, SHOP),
        (Action::Tokens, "organizations/acme/users/ann"),
    ] {
        assert!(ask(&user("ann"), action, node, &given).is_allowed());
        let denied = ask(&stranger, action, node, &given);
        let Decision::Deny(lack) = denied else {
            panic!("{denied:?}");
        };
        assert_eq!(
            lack.to_string(),
            "organizations/acme/users/ann does not exist any more"
        );
    }
}

/// Each case is what stands, and what `giver` adds to it.
#[test]
fn nobody_gives_what_it_does_not_hold() {
    let granter = json!({"name": format!("{ACME}/roles/granter"), "spec": {"rules": [
        {"verbs": ["read", "set-policy"]}, {"kinds": ["Team"], "verbs": ["update"]}]}});
    let powers = json!({"name": format!("{ACME}/roles/granter"), "spec": {"rules": [
        {"verbs": ["read", "set-policy", "update"]}, {"kinds": ["Team"], "verbs": ["update"]}]}});
    let team = |members: &[&str]| {
        let members: Vec<String> = members.iter().map(|leaf| format!("{ACME}/{leaf}")).collect();
        json!({"name": format!("{ACME}/teams/admins"), "spec": {"members": members}})
    };
    let inner =
        json!({"name": format!("{ACME}/teams/inner"), "spec": {"members": [format!("{ACME}/users/bob")]}});
    let mut sometimes = binding("sometimes", PAY, "writer", "walt");
    sometimes["spec"]["condition"] = json!("true");
    let stands = || {
        vec![
            binding("root", ACME, "admin", "root"),
            binding("eve", PAY, "admin", "eve"),
            binding("walt", ACME, "organizations/acme/roles/granter", "walt"),
            binding("admins", ACME, "admin", "teams/admins"),
            granter.clone(),
            inner.clone(),
            sometimes.clone(),
        ]
    };
    let cases = [
        (
            "an admin gives all",
            "root",
            vec![binding("new", ACME, "admin", "bob")],
            None,
        ),
        (
            "what one holds",
            "walt",
            vec![binding("new", PAY, "reader", "bob")],
            None,
        ),
        (
            "the same role",
            "walt",
            vec![binding("new", PAY, "organizations/acme/roles/granter", "bob")],
            None,
        ),
        (
            "more than one holds",
            "walt",
            vec![binding("new", PAY, "writer", "bob")],
            Some("would get create of"),
        ),
        (
            "to oneself",
            "walt",
            vec![binding("new", ACME, "admin", "walt")],
            Some("on organizations/acme;"),
        ),
        (
            "below, as admin there",
            "eve",
            vec![binding("new", SHOP, "admin", "bob")],
            None,
        ),
        (
            "above",
            "eve",
            vec![binding("new", ACME, "reader", "bob")],
            Some("would get read of Organization"),
        ),
        (
            "a role that grows",
            "walt",
            vec![powers],
            Some("would get update of"),
        ),
        (
            "a member more",
            "walt",
            vec![team(&["users/walt"])],
            Some("organizations/acme/users/walt would get"),
        ),
        (
            "a team within",
            "walt",
            vec![team(&["teams/inner"])],
            Some("organizations/acme/users/bob would get"),
        ),
        (
            "a member more, by an admin",
            "root",
            vec![team(&["users/bob"])],
            None,
        ),
    ];
    for (case, giver, added, words) in cases {
        let mut before = stands();
        before.push(team(&[]));
        let named: Vec<Value> = added.iter().map(|document| document["name"].clone()).collect();
        let mut after = before.clone();
        after.retain(|document| !named.contains(&document["name"]));
        after.extend(added);
        let (before, after) = (bindings(before), bindings(after));
        let giver = user(giver);
        let asker = Asker {
            principal: &giver,
            source: "",
            time: DateTime::UNIX_EPOCH,
            opened: &Opened::Everything,
        };
        let found = excess(&asker, &before, &after).map(|excess| excess.to_string());
        match (found, words) {
            (None, None) => {}
            (Some(found), Some(words)) => assert!(found.contains(words), "{case}: {found}"),
            (found, _) => panic!("{case}: {found:?}"),
        }
        assert_eq!(
            excess(&asker, &after, &before),
            None,
            "{case}: taking away gives nothing"
        );
    }
}

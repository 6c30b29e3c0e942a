//! The authorization matrix as a golden file: role × kind × verb × relation, asked of [`decide`] itself.
//! `UPDATE_EXPECT=1` rewrites it.

use std::path::Path;

use serde_json::json;
use tombolo_compiler::intent::Resource;
use tombolo_compiler::name::ATTACHED;

use super::*;
use crate::snapshot::Stored;

const ANN: &str = "organizations/acme/users/ann";

/// A node of that kind; of two branches, no node but the organization is above both.
fn sample(kind: Kind, branch: &str) -> Fqn {
    let parent = Kind::ALL
        .into_iter()
        .find(|parent| parent.children().contains(&kind));
    let Some(parent) = parent else {
        return "organizations/acme".parse().unwrap();
    };
    let leaf = if kind.is_attached() { ATTACHED } else { branch };
    sample(parent, branch)
        .child(kind, &leaf.parse().unwrap())
        .unwrap()
}

fn can_be_bound(node: &Fqn) -> bool {
    node.kind().children().contains(&Kind::Binding)
}

/// The node that a role stands on, for each relation to `node`; `None` where no binding can stand.
fn relations(kind: Kind) -> [(&'static str, Option<Fqn>); 3] {
    let node = sample(kind, "a");
    let above = node.parent().filter(can_be_bound);
    let beside = sample(kind, "b").lineage().find(can_be_bound);
    let beside = beside.filter(|beside| !node.is_within(beside));
    [
        ("on", Some(node).filter(can_be_bound)),
        ("above", above),
        ("beside", beside),
    ]
}

fn bindings(role: &str, node: &Fqn) -> Bindings {
    let documents = [
        json!({ "name": ANN }),
        json!({"name": format!("{node}/bindings/ann"), "spec": {"role": role, "subjects": [ANN]}}),
    ];
    let stored = documents.map(|document| {
        let resource = Arc::new(Resource::from_json(document).unwrap());
        Arc::new(Stored {
            resource,
            uid: Uuid::nil(),
            etag: String::new(),
            revision: 1,
            created_at: DateTime::UNIX_EPOCH,
            updated_at: DateTime::UNIX_EPOCH,
            managed: None,
            owner: None,
        })
    });
    let tree: Tree = stored
        .into_iter()
        .map(|stored| (stored.name().clone(), stored))
        .collect();
    let intent = tree
        .iter()
        .map(|(name, stored)| (name.clone(), stored.resource.clone()))
        .collect();
    Bindings::of(&intent, tree)
}

fn verbs(bindings: &Bindings, node: &Fqn) -> String {
    let principal = Principal::User {
        name: ANN.parse().unwrap(),
        uid: Uuid::nil(),
    };
    let asker = Asker {
        principal: &principal,
        source: "",
        time: DateTime::UNIX_EPOCH,
        opened: &Opened::Everything,
    };
    let allowed = Action::ALL
        .into_iter()
        .filter(|action| may(&asker, *action, node, bindings).is_some());
    let words: Vec<&str> = allowed.map(Action::as_str).collect();
    match words.len() {
        0 => "nothing".to_owned(),
        all if all == Action::ALL.len() => "everything".to_owned(),
        _ => words.join(" "),
    }
}

#[test]
fn the_authorization_matrix() {
    let mut found = String::new();
    for role in BuiltinRole::ALL {
        for kind in Kind::ALL {
            let node = sample(kind, "a");
            for (relation, on) in relations(kind) {
                let told = on.map_or("no binding stands there".to_owned(), |on| {
                    verbs(&bindings(role.as_str(), &on), &node)
                });
                found.push_str(&format!("{role} | {kind} | {relation} | {told}\n"));
            }
            assert_eq!(
                verbs(&Bindings::default(), &node),
                "nothing",
                "{role} {kind} without any binding"
            );
        }
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/iam/matrix.txt");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&file, &found).unwrap();
    }
    let expected = std::fs::read_to_string(&file).unwrap_or_default();
    for (number, (expected, found)) in expected.lines().zip(found.lines()).enumerate() {
        assert_eq!(
            found,
            expected,
            "line {}; UPDATE_EXPECT=1 rewrites it",
            number + 1
        );
    }
    assert_eq!(
        found.lines().count(),
        expected.lines().count(),
        "UPDATE_EXPECT=1 rewrites it"
    );
}

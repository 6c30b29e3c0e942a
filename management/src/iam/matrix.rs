//! The authorization matrix as a golden file: role × kind × verb × relation, asked of [`decide`] itself. Beside the roles that
//! come with Tombolo it has one of one's own for each scope, with all verbs, and the owner of a node, who needs no binding.
//! `UPDATE_EXPECT=1` rewrites it.

use std::path::Path;

use serde_json::{Value, json};
use tombolo_compiler::intent::Resource;
use tombolo_compiler::name::ATTACHED;
use tombolo_compiler::schema;

use super::*;
use crate::snapshot::Stored;

const ANN: &str = "organizations/acme/users/ann";
/// A role of one's own, by its scope.
const OWN: [(&str, &str); 3] = [("own-all", "all"), ("own-node", "node"), ("own-below", "below")];

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

/// Where somebody has a role, or owns something, for each relation to `node`; `None` where that cannot be.
fn relations(kind: Kind, can_be: impl Fn(&Fqn) -> bool) -> [(&'static str, Option<Fqn>); 4] {
    let node = sample(kind, "a");
    let above = node.parent().filter(&can_be);
    let mut below = kind.children().iter().map(|child| {
        let leaf = if child.is_attached() { ATTACHED } else { "a" };
        node.child(*child, &leaf.parse().unwrap()).unwrap()
    });
    let below = below.find(&can_be);
    let beside = sample(kind, "b").lineage().find(&can_be);
    let beside = beside.filter(|beside| !node.is_within(beside));
    [
        ("on", Some(node).filter(can_be)),
        ("above", above),
        ("below", below),
        ("beside", beside),
    ]
}

fn stored(document: Value, owner: Option<Uuid>) -> Arc<Stored> {
    Arc::new(Stored {
        resource: Arc::new(Resource::from_json(document).unwrap()),
        uid: Uuid::nil(),
        etag: String::new(),
        revision: 1,
        created_at: DateTime::UNIX_EPOCH,
        updated_at: DateTime::UNIX_EPOCH,
        managed: None,
        owner,
    })
}

fn tree(stored: impl IntoIterator<Item = Arc<Stored>>) -> Bindings {
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

fn bound(role: &str, node: &Fqn) -> Bindings {
    let mut documents = vec![json!({ "name": ANN })];
    let own = OWN.into_iter().find(|(own, _)| *own == role);
    let role = match own {
        None => role.to_owned(),
        Some((_, scope)) => {
            let name = format!("organizations/acme/roles/{role}");
            let rule = json!({"verbs": Action::ALL, "scope": scope});
            documents.push(json!({"name": name, "spec": {"rules": [rule]}}));
            name
        }
    };
    let spec = json!({"role": role, "subjects": [ANN]});
    documents.push(json!({"name": format!("{node}/bindings/ann"), "spec": spec}));
    tree(documents.into_iter().map(|document| stored(document, None)))
}

fn owned(node: &Fqn) -> Bindings {
    let mut document = schema::example(node.kind());
    document["name"] = node.as_str().into();
    let ann = stored(json!({ "name": ANN }), None);
    tree([stored(document, Some(ann.uid)), ann])
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
    let own = OWN.into_iter().map(|(role, _)| role);
    for role in BuiltinRole::ALL.into_iter().map(BuiltinRole::as_str).chain(own) {
        for kind in Kind::ALL {
            for (relation, on) in relations(kind, can_be_bound) {
                let told = on.map_or("no binding stands there".to_owned(), |on| {
                    verbs(&bound(role, &on), &sample(kind, "a"))
                });
                found.push_str(&format!("{role} | {kind} | {relation} | {told}\n"));
            }
        }
    }
    for kind in Kind::ALL {
        let node = sample(kind, "a");
        for (relation, of) in relations(kind, |_| true) {
            let told = of.map_or("there is nothing".to_owned(), |of| verbs(&owned(&of), &node));
            found.push_str(&format!("owner | {kind} | {relation} | {told}\n"));
        }
        assert_eq!(
            verbs(&Bindings::default(), &node),
            "nothing",
            "{kind} without any binding"
        );
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

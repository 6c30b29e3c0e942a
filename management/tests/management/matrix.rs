//! The authorization matrix over HTTP: what `src/iam/matrix.txt` says of every role, kind, relation and verb is what a
//! request is answered with. A verb that no request of a kind asks for is asked of `iam:test`, as are all the others. An
//! owner is who a node was transferred to.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, stream};
use http::Method;
use serde_json::{Value, json};
use tombolo_compiler::intent::{Action, BuiltinRole};
use tombolo_compiler::name::{Fqn, Kind};
use tombolo_compiler::schema;

use crate::support::{ACME, Answer, Api, Management};

const MATRIX: &str = include_str!("../../src/iam/matrix.txt");
/// No role: whoever owns the node.
const OWNER: &str = "owner";
/// What the name of a role of one's own begins with, before its scope.
const OWN: &str = "own-";
/// A node that is neither an example nor above one.
const BESIDE: &str = "organizations/acme/tenants/beside";
/// What an example is given to.
const TAKER: &str = "organizations/acme/users/taker";
const AT_ONCE: usize = 16;

/// A line of the matrix that a binding, or an owner, can make true.
#[derive(Debug)]
struct Line {
    role: &'static str,
    kind: Kind,
    relation: &'static str,
    verbs: BTreeSet<Action>,
}

/// The example of a kind, and where a role stands, or what somebody owns.
#[derive(Debug)]
struct Case {
    line: Line,
    name: Fqn,
    bound: Fqn,
}

fn lines() -> Vec<Line> {
    let line = |line: &'static str| {
        let parts: Vec<&str> = line.split(" | ").collect();
        let [role, kind, relation, told] = parts[..] else {
            panic!("{line}");
        };
        let kind = Kind::ALL
            .into_iter()
            .find(|known| known.to_string() == kind)
            .unwrap();
        let verbs = match told {
            "no binding stands there" | "there is nothing" => return None,
            "nothing" => BTreeSet::new(),
            "everything" => Action::ALL.into(),
            words => words.split(' ').map(|word| word.parse().unwrap()).collect(),
        };
        Some(Line {
            role,
            kind,
            relation,
            verbs,
        })
    };
    MATRIX.lines().filter_map(line).collect()
}

fn example(kind: Kind) -> Fqn {
    schema::example(kind)["name"].as_str().unwrap().parse().unwrap()
}

fn case(line: Line) -> Case {
    let name = example(line.kind);
    let can_be = |node: &Fqn| line.role == OWNER || node.kind().children().contains(&Kind::Binding);
    let bound = match line.relation {
        "on" => name.clone(),
        "above" => name.parent().unwrap(),
        "below" if line.role == OWNER => owned_below(&name),
        "below" => {
            let mut below = Kind::ALL.into_iter().map(example);
            below
                .find(|below| below.parent().as_ref() == Some(&name) && can_be(below))
                .unwrap_or_else(|| panic!("{line:?}: no example stands below {name}"))
        }
        "beside" => BESIDE.parse().unwrap(),
        other => panic!("{other}"),
    };
    assert!(can_be(&bound), "{line:?}: {bound}");
    Case { line, name, bound }
}

/// A binding, which stands below everything that something stands below.
fn owned_below(name: &Fqn) -> Fqn {
    name.child(Kind::Binding, &"below".parse().unwrap()).unwrap()
}

fn holder(role: &str, bound: &Fqn) -> String {
    let place = bound.as_str().replace('/', "-");
    format!("{role}-{}", &place[place.len().saturating_sub(40)..]).replace("--", "-")
}

/// The examples, a tenant beside them, and a user for each role on each node, with its token.
async fn populated(cases: &[Case]) -> (Management, BTreeMap<String, Api>) {
    let management = Management::start().await;
    let admin = &management.admin;
    let europe = json!({"name": format!("{ACME}/clusters/eu-west"), "spec": {"region": "eu"}});
    let mut documents: Vec<Value> = Kind::ALL.into_iter().map(schema::example).collect();
    documents.extend([europe, json!({ "name": BESIDE }), json!({ "name": TAKER })]);
    let bound_below = Kind::ALL
        .into_iter()
        .filter(|kind| kind.children().contains(&Kind::Binding));
    documents.extend(bound_below.map(|kind| {
        let spec = json!({"role": "reader", "subjects": [TAKER]});
        json!({"name": owned_below(&example(kind)), "spec": spec})
    }));
    let all = admin.post("changes?overwrite=true&allowUnenforced=true", documents.into());
    let all = all.await;
    assert_eq!(all.status, 200, "{}", all.text);
    let holders: BTreeMap<String, (&str, &Fqn)> = cases
        .iter()
        .map(|case| (holder(case.line.role, &case.bound), (case.line.role, &case.bound)))
        .collect();
    let mut documents = BTreeMap::new();
    for (leaf, (role, bound)) in &holders {
        let name = format!("{ACME}/users/{leaf}");
        documents.insert(name.clone(), json!({ "name": name }));
        if *role == OWNER {
            continue;
        }
        let own = format!("{ACME}/roles/{role}");
        let given = match role.strip_prefix(OWN) {
            None => *role,
            Some(scope) => {
                let rules = json!([{"verbs": Action::ALL, "scope": scope}]);
                documents.insert(own.clone(), json!({"name": own, "spec": {"rules": rules}}));
                &own
            }
        };
        let binding = format!("{bound}/bindings/{leaf}");
        let spec = json!({"role": given, "subjects": [name]});
        documents.insert(binding.clone(), json!({"name": binding, "spec": spec}));
    }
    let all = admin.post("changes", documents.into_values().collect()).await;
    assert_eq!(all.status, 200, "{}", all.text);
    let mut callers = BTreeMap::new();
    for (leaf, (role, bound)) in holders {
        if role == OWNER {
            let wish = json!({ "owner": format!("{ACME}/users/{leaf}") });
            let transferred = admin
                .post(&format!("{bound}:transfer?breakGlass=test"), wish)
                .await;
            assert_eq!(transferred.status, 200, "{bound}: {}", transferred.text);
        }
        let issued = admin
            .post(&format!("{ACME}/users/{leaf}/tokens"), json!({}))
            .await;
        assert_eq!(issued.status, 201, "{}", issued.text);
        callers.insert(leaf, Api::new(admin.addr, issued.json()["token"].as_str()));
    }
    (management, callers)
}

/// Whether the request that takes the verb is let through; `None` where no request of that kind takes it. Writes are
/// dry: what keeps them from being done otherwise than by a denial comes after it.
async fn is_let_through(api: &Api, case: &Case, action: Action, document: &Value) -> Option<bool> {
    const DRY: &str = "?dry_run=true&allowUnenforced=true";
    let name = &case.name;
    let any = [("if-match", "*")];
    let (allowed, denied, answer): (&[u16], u16, Answer) = match action {
        Action::Read => (&[200], 404, api.get(name.as_str()).await),
        Action::Create => {
            let (collection, _) = name.as_str().rsplit_once('/')?;
            if case.line.kind == Kind::Organization {
                return None;
            }
            let sent = api.post(&format!("{collection}{DRY}"), document.clone()).await;
            (&[409], 403, sent)
        }
        Action::Update => {
            let body = document.to_string();
            let sent = api.send(Method::PUT, &format!("{name}{DRY}"), &any, body).await;
            (&[200], 403, sent)
        }
        Action::Delete => {
            let sent = api.send(Method::DELETE, &format!("{name}{DRY}"), &any, "").await;
            (&[200, 409], 403, sent)
        }
        Action::SetPolicy => {
            let wish = json!({ "owner": TAKER });
            let sent = api.post(&format!("{name}:transfer?dry_run=true"), wish).await;
            // Whoever may set the policy gives no more away than it holds, which is asked after that.
            if sent.status == 403 && sent.text.contains("cannot give what it does not hold") {
                return Some(true);
            }
            (&[200], 403, sent)
        }
        Action::ReadAudit => {
            // With those of what stands below it.
            let path = format!("audit?pageSize=500&kind={}&name={name}", case.line.kind);
            let page = api.get(&path).await.json();
            let mut records = page["items"].as_array().unwrap().iter();
            return Some(records.any(|record| record["name"] == name.as_str()));
        }
        Action::Tokens if case.line.kind.is_principal() => {
            (&[200], 403, api.get(&format!("{name}/tokens")).await)
        }
        Action::Adopt if case.line.kind == Kind::Organization => {
            (&[200], 403, api.post(&format!("{name}:adopt"), json!({})).await)
        }
        Action::Tokens | Action::Adopt => return None,
    };
    let status = answer.status.as_u16();
    assert!(
        allowed.contains(&status) || status == denied,
        "{case:?} {action}: {status} {}",
        answer.text
    );
    Some(status != denied)
}

/// Of each verb for which the answers are not what the line says.
async fn differences(api: &Api, case: &Case) -> Vec<String> {
    let document = schema::example(case.line.kind);
    let mut differences = Vec::new();
    for action in Action::ALL {
        let expected = case.line.verbs.contains(&action);
        let asked = api.post("iam:test", json!({"action": action, "names": [case.name]}));
        let told = asked.await.json()["decisions"][0]["allowed"].as_bool();
        let found = is_let_through(api, case, action, &document).await;
        let let_through = expected && (!writes_offer(case, action) || may_update_parent(api, case).await);
        if told != Some(expected) || found.is_some_and(|found| found != let_through) {
            differences.push(format!(
                "{case:?} {action}: {expected} is written, iam:test says {told:?}, the request {found:?}"
            ));
        }
    }
    differences
}

/// Whoever offers a claim gives it away: that takes the right to change the workspace as well.
fn writes_offer(case: &Case, action: Action) -> bool {
    let writes = [Action::Create, Action::Update, Action::Delete, Action::SetPolicy];
    writes.contains(&action) && case.line.kind == Kind::ClaimOffer
}

async fn may_update_parent(api: &Api, case: &Case) -> bool {
    let parent = case.name.parent().unwrap();
    let asked = api.post("iam:test", json!({"action": Action::Update, "names": [parent]}));
    asked.await.json()["decisions"][0]["allowed"] == true
}

#[tokio::test]
async fn every_request_is_answered_as_the_authorization_matrix_says() {
    let cases: Vec<Case> = lines().into_iter().map(case).collect();
    let roles = BuiltinRole::ALL.map(BuiltinRole::as_str);
    let others = ["own-all", "own-node", "own-below", OWNER];
    for kind in Kind::ALL {
        for role in roles.into_iter().chain(others) {
            let told = cases
                .iter()
                .any(|case| case.line.kind == kind && case.line.role == role);
            assert!(told, "the matrix says nothing of {role} and {kind}");
        }
    }
    let (management, callers) = populated(&cases).await;
    let found: Vec<String> = stream::iter(&cases)
        .map(|case| differences(&callers[&holder(case.line.role, &case.bound)], case))
        .buffer_unordered(AT_ONCE)
        .concat()
        .await;
    assert!(found.is_empty(), "{found:#?}");
    management.stop().await;
}

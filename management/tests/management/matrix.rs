//! The authorization matrix over HTTP: what `src/iam/matrix.txt` says of every role, kind, relation and verb is what a
//! request is answered with. A verb that no request of a kind asks for is asked of `iam:test`, as are all the others.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, stream};
use http::Method;
use serde_json::{Value, json};
use tombolo_compiler::intent::{Action, BuiltinRole};
use tombolo_compiler::name::{Fqn, Kind};
use tombolo_compiler::schema;

use crate::support::{ACME, Answer, Api, Management};

const MATRIX: &str = include_str!("../../src/iam/matrix.txt");
/// A node that is neither an example nor above one.
const BESIDE: &str = "organizations/acme/tenants/beside";
/// What an example is given to.
const TAKER: &str = "organizations/acme/users/taker";
const AT_ONCE: usize = 16;

/// A line of the matrix that a binding can make true.
#[derive(Debug)]
struct Line {
    role: &'static str,
    kind: Kind,
    relation: &'static str,
    verbs: BTreeSet<Action>,
}

/// The example of a kind, and where a role stands.
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
            "no binding stands there" => return None,
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
    let bound = match line.relation {
        "on" => name.clone(),
        "above" => name.parent().unwrap(),
        "beside" => BESIDE.parse().unwrap(),
        other => panic!("{other}"),
    };
    assert!(
        bound.kind().children().contains(&Kind::Binding),
        "{line:?}: {bound}"
    );
    Case { line, name, bound }
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
    let all = admin.post("changes?overwrite=true&allowUnenforced=true", documents.into());
    let all = all.await;
    assert_eq!(all.status, 200, "{}", all.text);
    let holders: BTreeMap<String, (&str, &Fqn)> = cases
        .iter()
        .map(|case| (holder(case.line.role, &case.bound), (case.line.role, &case.bound)))
        .collect();
    let documents: Vec<Value> = holders
        .iter()
        .flat_map(|(leaf, (role, bound))| {
            let name = format!("{ACME}/users/{leaf}");
            let spec = json!({"role": role, "subjects": [name]});
            [
                json!({ "name": name }),
                json!({"name": format!("{bound}/bindings/{leaf}"), "spec": spec}),
            ]
        })
        .collect();
    let all = admin.post("changes", documents.into()).await;
    assert_eq!(all.status, 200, "{}", all.text);
    let mut callers = BTreeMap::new();
    for leaf in holders.into_keys() {
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
            (
                &[200],
                403,
                api.post(&format!("{name}:transfer?dry_run=true"), wish).await,
            )
        }
        Action::ReadAudit => {
            let page = api.get(&format!("audit?pageSize=1&name={name}")).await.json();
            return Some(!page["items"].as_array().unwrap().is_empty());
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
        if told != Some(expected) || found.is_some_and(|found| found != expected) {
            differences.push(format!(
                "{case:?} {action}: {expected} is written, iam:test says {told:?}, the request {found:?}"
            ));
        }
    }
    differences
}

#[tokio::test]
async fn every_request_is_answered_as_the_authorization_matrix_says() {
    let cases: Vec<Case> = lines().into_iter().map(case).collect();
    for kind in Kind::ALL {
        for role in BuiltinRole::ALL {
            let told = cases
                .iter()
                .any(|case| case.line.kind == kind && case.line.role == role.as_str());
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

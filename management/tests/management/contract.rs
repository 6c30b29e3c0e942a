//! The OpenAPI document against the running server: every endpoint that it tells asks who calls and what that caller may
//! do, and whatever is answered is what the document says.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};
use tombolo_compiler::name::Kind;
use tombolo_compiler::schema;
use tombolo_tests::eventually;

use crate::support::{ACME, Answer, Api, Management};

/// Of the examples, what only those with a right may read.
const TENANTS: &str = "organizations/acme/tenants/";

/// One operation of the document, with a request that makes sense to the examples.
#[derive(Clone, Debug)]
struct Call {
    method: Method,
    /// As the document has it.
    path: String,
    /// With the names of the examples.
    url: String,
    body: String,
    operation: Value,
}

/// What each parameter in a path stands for: the names of the examples.
fn leaf(parameter: &str) -> String {
    let kind = Kind::ALL
        .into_iter()
        .find(|kind| kind.to_string().eq_ignore_ascii_case(parameter));
    match (kind, parameter) {
        (Some(kind), _) => {
            let name = schema::example(kind)["name"].as_str().unwrap().to_owned();
            name.rsplit('/').next().unwrap().to_owned()
        }
        (None, "id") => "00000000-0000-0000-0000-000000000000".to_owned(),
        (None, "kind") => "Gateway".to_owned(),
        (None, other) => panic!("no example for the parameter {other}"),
    }
}

fn fill(path: &str) -> String {
    let mut filled = String::new();
    for (at, part) in path.split('{').enumerate() {
        match part.split_once('}').filter(|_| at > 0) {
            Some((parameter, rest)) => {
                filled.push_str(&leaf(parameter));
                filled.push_str(rest);
            }
            None => filled.push_str(part),
        }
    }
    filled
}

/// The example of the kind whose resources stand there, under the name that the path gives it.
fn body(document: &Value, operation: &Value, url: &str) -> Value {
    let Some(name) = referred(&operation["requestBody"]) else {
        return json!({});
    };
    let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.to_string() == name) else {
        assert!(document["components"]["schemas"][name].is_object());
        return match name {
            "ChangeSet" => schema::example(Kind::Tenant),
            "RollbackWish" => json!({"revision": 1}),
            "TransferWish" => json!({"owner": format!("{ACME}/users/admin")}),
            "AccessQuestion" => json!({"action": "read", "names": [ACME]}),
            "Question" => {
                json!({"from": "us-east/gateway/web", "request": {"url": "http://shop.example.com/"}})
            }
            _ => json!({}),
        };
    };
    let mut example = schema::example(kind);
    let path = url.strip_prefix("/v1/").unwrap();
    let name = match path.split('/').count() % 2 {
        0 => path.to_owned(),
        _ => format!("{path}/{}", leaf(&kind.to_string())),
    };
    example["name"] = name.into();
    example
}

/// `plan` is the id of one that waits.
fn calls(document: &Value, plan: &str) -> Vec<Call> {
    let mut calls = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let url = fill(&path.replace("plans/{id}", &format!("plans/{plan}")));
            calls.push(Call {
                method: method.to_ascii_uppercase().parse().unwrap(),
                path: path.clone(),
                body: body(document, operation, &url).to_string(),
                url,
                operation: operation.clone(),
            });
        }
    }
    calls
}

impl Call {
    async fn by(&self, api: &Api, flags: &str) -> Answer {
        let needed = match (self.takes("from"), self.takes("host")) {
            (true, _) => "?from=1",
            (_, true) => "?host=shop.example.com",
            _ => "",
        };
        let url = format!("{}{flags}{needed}", self.url);
        let seen = [("if-match", "\"unknown\"")];
        api.send(self.method.clone(), &url, &seen, self.body.clone())
            .await
    }

    fn is_write(&self) -> bool {
        self.method != Method::GET
    }

    /// Whoever has logged out can ask for nothing more.
    fn ends_who_calls(&self) -> bool {
        self.operation["operationId"] == "logout"
    }

    fn takes(&self, parameter: &str) -> bool {
        let parameters = self.operation["parameters"].as_array().unwrap();
        parameters.iter().any(|given| referred(given) == Some(parameter))
    }

    /// What the document says about such an answer, and in what the answer differs.
    fn check(&self, document: &Value, answer: &Answer) {
        let status = answer.status.as_u16().to_string();
        let told = resolve(document, &self.operation["responses"][&status]);
        assert!(
            told.is_object(),
            "{} {}: {status} is not in the document: {}",
            self.method,
            self.path,
            answer.text
        );
        let media = answer.headers["content-type"].to_str().unwrap();
        let media = media.split(';').next().unwrap();
        let schema = &told["content"][media]["schema"];
        assert!(
            schema.is_object(),
            "{} {}: {status} as {media}",
            self.method,
            self.path
        );
        let mut wrong = Vec::new();
        let value = match media.ends_with("json") {
            true => answer.json(),
            false => json!(answer.text),
        };
        validate(document, schema, &value, "", &mut wrong);
        assert!(
            wrong.is_empty(),
            "{} {}: {status}: {wrong:#?}\n{}",
            self.method,
            self.path,
            answer.text
        );
    }
}

async fn served(management: &Management) -> Value {
    let answer = management.admin.get("openapi.json").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

/// Of a change that nobody has asked for.
async fn a_plan_that_waits(management: &Management) -> String {
    let change = json!({"name": format!("{ACME}/tenants/planned")});
    let kept = management.admin.post("plans?submit=true", change).await;
    assert_eq!(kept.status, 201, "{}", kept.text);
    kept.json()["id"].as_str().unwrap().to_owned()
}

async fn with_examples() -> (Management, Value) {
    let management = Management::start().await;
    let europe = json!({"name": format!("{ACME}/clusters/eu-west"), "spec": {"region": "eu"}});
    let examples: Value = Kind::ALL
        .into_iter()
        .map(schema::example)
        .chain([europe])
        .collect();
    let applied = management
        .admin
        .post("changes?overwrite=true&allowUnenforced=true", examples)
        .await;
    assert_eq!(applied.status, 200, "{}", applied.text);
    let document = served(&management).await;
    (management, document)
}

#[tokio::test]
async fn the_document_that_is_checked_in_is_the_one_that_is_served() {
    const CHECKED_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
    let management = Management::start().await;
    let text = in_short_lines(&format!("{:#}\n", served(&management).await));
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(CHECKED_IN, &text).unwrap();
    }
    let held = std::fs::read_to_string(CHECKED_IN).unwrap();
    let advice = "docs/openapi.json is old: run this test with UPDATE_EXPECT=1 and commit what it writes";
    assert!(held == text, "{advice}");
}

/// With each reference on one line: there are thousands, and nothing else stands in them.
fn in_short_lines(pretty: &str) -> String {
    let mut short = String::new();
    let mut lines = pretty.lines();
    while let Some(line) = lines.next() {
        let mut after = lines.clone();
        let (next, last) = (
            after.next().unwrap_or_default().trim(),
            after.next().unwrap_or_default().trim(),
        );
        short.push_str(line);
        if line.ends_with('{') && next.starts_with("\"$ref\"") && last.starts_with('}') {
            short.push_str(&format!("{next}{last}"));
            lines = after;
        }
        short.push('\n');
    }
    short
}

/// With as many of the stranger's they fit into the queue of denials, beyond which they are counted only.
const DENIALS_AT_ONCE: i64 = 200;

#[tokio::test]
async fn no_endpoint_serves_a_stranger_and_every_denial_is_on_record() {
    let (management, document) = with_examples().await;
    let stranger = management.anonymous();
    let powerless = management.user("powerless", &[]).await;
    let mut denied = 0;
    let plan = a_plan_that_waits(&management).await;
    for call in calls(&document, &plan) {
        if call.ends_who_calls() {
            continue;
        }
        let what = format!("{} {}", call.method, call.path);
        let answer = call.by(&stranger, "").await;
        let served = call.operation["x-access"] == "anyone";
        // A login without a name and a password is none.
        let expected = match (served, call.is_write()) {
            (true, true) => 400,
            (true, false) => 200,
            (false, _) => 401,
        };
        assert_eq!(answer.status, expected, "{what}: {}", answer.text);
        call.check(&document, &answer);
        if served {
            continue;
        }

        let flags = match call.takes("allowUnenforced") {
            true => "?allowUnenforced=true",
            false => "",
        };
        let answer = call.by(&powerless, flags).await;
        call.check(&document, &answer);
        match call.operation["x-access"].as_str().unwrap() {
            "decided" => {
                denied += 1;
                if denied % DENIALS_AT_ONCE == 0 {
                    are_on_record(&management, denied).await;
                }
                let hidden = answer.status == StatusCode::NOT_FOUND;
                assert!(
                    hidden || answer.status == 403,
                    "{what}: {} {}",
                    answer.status,
                    answer.text
                );
            }
            "filtered" => {
                assert_eq!(answer.status, 200, "{what}: {}", answer.text);
                assert!(!answer.text.contains(TENANTS), "{what} tells {}", answer.text);
                let is_json = answer.headers["content-type"] == "application/json";
                let items = is_json.then(|| answer.json()["items"].take());
                assert!(
                    items.is_none_or(|items| items.is_null() || items == json!([])),
                    "{what} lists {}",
                    answer.text
                );
            }
            access => {
                assert_eq!(access, "known", "{what}");
                assert_eq!(answer.status, 200, "{what}: {}", answer.text);
            }
        }
    }
    are_on_record(&management, denied).await;
}

async fn are_on_record(management: &Management, denied: i64) {
    // Of more than one batch holds, those that are alike are one record with the number of the others.
    let records = format!(
        "SELECT coalesce(sum(1 + coalesce((convert_from(record, 'UTF8')::jsonb->>'repeated')::bigint, 0)), 0)::bigint \
         FROM audit WHERE actor = '{ACME}/users/powerless' AND outcome = 'denied'"
    );
    eventually(Duration::from_secs(20), async || {
        let found = management.count(&records).await;
        anyhow::ensure!(found == denied, "{found} of {denied} denials are on record");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_is_answered_is_what_the_document_says() {
    let (management, document) = with_examples().await;
    let admin = &management.admin;
    let mut succeeded = Map::new();
    let plan = a_plan_that_waits(&management).await;
    for call in calls(&document, &plan) {
        // Every write is dry, or based on a state that never was, but for those of the plan that waits.
        let flags = match (call.is_write(), call.takes("dry_run")) {
            (true, true) => "?dry_run=true&allowUnenforced=true",
            _ => "",
        };
        if call.ends_who_calls() || call.operation["operationId"] == "adoptOrganization" {
            continue;
        }
        let answer = call.by(admin, flags).await;
        call.check(&document, &answer);
        if answer.status.is_success() {
            let id = call.operation["operationId"].as_str().unwrap().to_owned();
            succeeded.insert(id, json!(true));
        }
    }
    for kind in Kind::ALL {
        let got = succeeded
            .keys()
            .any(|id| id.starts_with("get") && id.ends_with(&kind.to_string()));
        assert!(got, "no answer with a resource of the kind {kind} was compared");
    }
    for id in [
        "listAudit",
        "verifyAudit",
        "listTokensUser",
        "issueTokenUser",
        "listTokensTenantServiceAccount",
        "listKeysTenantServiceAccount",
        "issueKeyTenantServiceAccount",
        "accessTenant",
        "transferTenant",
        "testAccess",
        "getSchema",
        "change",
        "historyTenant",
        "diffTenant",
        "compiledTenant",
        "effectiveTenant",
        "readinessWorkspace",
        "explain",
        "search",
        "exportAudit",
        "listAuditKeys",
        "plan",
        "listPlans",
        "getPlan",
        "whoami",
        "loginMethods",
        "listSessions",
    ] {
        assert!(
            succeeded.contains_key(id),
            "{id} has not answered well: {succeeded:?}"
        );
    }
}

#[tokio::test]
async fn a_write_that_succeeds_is_recorded_as_the_document_says() {
    let (management, document) = with_examples().await;
    let admin = &management.admin;
    let tenant =
        |leaf: &str, text: &str| json!({"name": format!("{ACME}/tenants/{leaf}"), "description": text});
    let kept = async |leaf: &str| {
        let kept = admin.post("plans?submit=true", tenant(leaf, "")).await;
        kept.json()["id"].as_str().unwrap().to_owned()
    };
    let policy = json!({"name": format!("{ACME}/tenants/guarded/approvalpolicies/two"), "spec": {"approver": "admin"}});
    admin
        .post("changes", json!([tenant("guarded", ""), policy]))
        .await;
    let ben = management.user("ben", &[(ACME, "admin")]).await;
    let guarded = admin
        .post("plans?submit=true&overwrite=true", tenant("guarded", "x"))
        .await
        .json();
    let guarded = guarded["id"].as_str().unwrap();
    let (rejected, applied) = (kept("rejected").await, kept("applied").await);
    let tokens = format!("{ACME}/users/ben/tokens");
    let token = admin.get(&tokens).await.json()["items"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let keys = format!("{ACME}/tenants/payments/serviceaccounts/ci/keys");
    let key = admin.post(&keys, json!({})).await.json()["id"].clone();
    let revision = admin.post("changes", tenant("back", "then")).await.json()["revision"].clone();
    admin.post("changes?overwrite=true", tenant("back", "now")).await;
    let password = json!({"password": "a horse that reads maps"});
    let of_ben = format!("{ACME}/users/ben");
    let set = admin
        .send(
            Method::PUT,
            &format!("{of_ben}/password"),
            &[],
            password.to_string(),
        )
        .await;
    assert_eq!(set.status, 200, "{}", set.text);
    let login = json!({"user": "ben", "password": password["password"]});
    let stranger = management.anonymous();
    let session = stranger.post("auth:login", login.clone()).await.json()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let leaver = management.user("leaver", &[]).await;
    let of = |leaf: &str, suffix: &str| format!("{ACME}/tenants/{leaf}{suffix}");
    let nothing = json!({});
    let writes = [
        (
            "createTenant",
            admin,
            Method::POST,
            format!("{ACME}/tenants"),
            tenant("one", ""),
        ),
        (
            "updateTenant",
            admin,
            Method::PUT,
            of("one", ""),
            tenant("one", "x"),
        ),
        (
            "deleteTenant",
            admin,
            Method::DELETE,
            of("one", ""),
            nothing.clone(),
        ),
        (
            "change",
            admin,
            Method::POST,
            "changes".to_owned(),
            tenant("two", ""),
        ),
        (
            "rollbackTenant",
            admin,
            Method::POST,
            of("back", ":rollback"),
            json!({ "revision": revision }),
        ),
        (
            "plan",
            admin,
            Method::POST,
            "plans?submit=true".to_owned(),
            tenant("planned", ""),
        ),
        (
            "approvePlan",
            &ben,
            Method::POST,
            format!("plans/{guarded}:approve"),
            nothing.clone(),
        ),
        (
            "rejectPlan",
            admin,
            Method::POST,
            format!("plans/{rejected}:reject"),
            nothing.clone(),
        ),
        (
            "applyPlan",
            admin,
            Method::POST,
            format!("plans/{applied}:apply"),
            nothing.clone(),
        ),
        (
            "revokeSession",
            admin,
            Method::DELETE,
            format!("{of_ben}/sessions/{session}"),
            nothing.clone(),
        ),
        (
            "setPassword",
            admin,
            Method::PUT,
            format!("{of_ben}/password"),
            password,
        ),
        ("login", &stranger, Method::POST, "auth:login".to_owned(), login),
        (
            "logout",
            &leaver,
            Method::POST,
            "auth:logout".to_owned(),
            nothing.clone(),
        ),
        (
            "transferTenant",
            admin,
            Method::POST,
            of("two", ":transfer"),
            json!({"owner": format!("{ACME}/users/ben")}),
        ),
        (
            "issueTokenUser",
            admin,
            Method::POST,
            tokens.clone(),
            nothing.clone(),
        ),
        (
            "revokeTokenUser",
            admin,
            Method::DELETE,
            format!("{tokens}/{token}"),
            nothing.clone(),
        ),
        (
            "issueKeyTenantServiceAccount",
            admin,
            Method::POST,
            keys.clone(),
            nothing.clone(),
        ),
        (
            "revokeKeyTenantServiceAccount",
            admin,
            Method::DELETE,
            format!("{keys}/{}", key.as_str().unwrap()),
            nothing.clone(),
        ),
        (
            "adoptOrganization",
            admin,
            Method::POST,
            format!("{ACME}:adopt"),
            nothing,
        ),
    ];
    let operations: Map<String, Value> = document["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|methods| methods.as_object().unwrap().values())
        .map(|operation| {
            (
                operation["operationId"].as_str().unwrap().to_owned(),
                operation.clone(),
            )
        })
        .collect();
    // Of what is the same for each kind, one is enough.
    let of_one_kind = |id: &&String| {
        !Kind::ALL
            .iter()
            .any(|kind| *kind != Kind::Tenant && id.ends_with(&kind.to_string()))
    };
    let told: Vec<&String> = operations
        .keys()
        .filter(|id| !operations[*id]["x-audit"].is_null())
        .filter(|id| of_one_kind(id) || id.as_str() == "adoptOrganization")
        .collect();
    for id in told {
        assert!(
            writes.iter().any(|(write, ..)| write == id),
            "{id} is not tried here"
        );
    }
    for (id, api, method, path, body) in writes {
        let last = async || {
            let newest = admin.get("audit?outcome=done&pageSize=1").await.json();
            newest["items"][0].clone()
        };
        let before = last().await;
        let answer = api
            .send(method, &path, &[("if-match", "*")], body.to_string())
            .await;
        assert!(answer.status.is_success(), "{id}: {}", answer.text);
        let record = last().await;
        assert_ne!(record, before, "{id} leaves no record");
        let verbs = operations[id]["x-audit"].as_array().unwrap();
        assert!(verbs.contains(&record["verb"]), "{id}: {record}");
    }
    management.stop().await;
}

/// The name of what stands elsewhere in the document.
fn referred(reference: &Value) -> Option<&str> {
    reference["$ref"].as_str()?.rsplit('/').next()
}

fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(reference) => document.pointer(reference.strip_prefix('#').unwrap()).unwrap(),
        None => schema,
    }
}

/// As much of JSON Schema as the document uses; what it does not know, it refuses to pass over.
fn validate(document: &Value, schema: &Value, value: &Value, at: &str, wrong: &mut Vec<String>) {
    let Some(keywords) = schema.as_object() else {
        assert_eq!(schema, &json!(true), "{at}: a schema is an object or true");
        return;
    };
    let fails = |schema: &Value| {
        let mut found = Vec::new();
        validate(document, schema, value, at, &mut found);
        found
    };
    let size = match value {
        Value::String(text) => text.chars().count(),
        Value::Array(items) => items.len(),
        Value::Object(fields) => fields.len(),
        _ => 0,
    };
    for (keyword, wanted) in keywords {
        let holds = match keyword.as_str() {
            "$ref" => {
                wrong.extend(fails(resolve(document, schema)));
                true
            }
            "allOf" => {
                wrong.extend(wanted.as_array().unwrap().iter().flat_map(fails));
                true
            }
            "anyOf" => wanted
                .as_array()
                .unwrap()
                .iter()
                .any(|schema| fails(schema).is_empty()),
            "oneOf" => {
                wanted
                    .as_array()
                    .unwrap()
                    .iter()
                    .filter(|schema| fails(schema).is_empty())
                    .count()
                    == 1
            }
            "type" => match wanted {
                Value::Array(types) => types.iter().any(|wanted| is_a(value, wanted.as_str().unwrap())),
                wanted => is_a(value, wanted.as_str().unwrap()),
            },
            "const" => value == wanted,
            "enum" => wanted.as_array().unwrap().contains(value),
            "minimum" => value
                .as_f64()
                .is_none_or(|value| value >= wanted.as_f64().unwrap()),
            "maximum" => value
                .as_f64()
                .is_none_or(|value| value <= wanted.as_f64().unwrap()),
            "minLength" => !value.is_string() || size >= limit(wanted),
            "maxLength" => !value.is_string() || size <= limit(wanted),
            "minItems" => !value.is_array() || size >= limit(wanted),
            "maxItems" => !value.is_array() || size <= limit(wanted),
            "minProperties" => !value.is_object() || size >= limit(wanted),
            "required" => value.as_object().is_none_or(|fields| {
                let mut names = wanted.as_array().unwrap().iter();
                names.all(|name| fields.contains_key(name.as_str().unwrap()))
            }),
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    validate(document, wanted, item, &format!("{at}/{index}"), wrong);
                }
                true
            }
            "properties" => {
                for (name, schema) in wanted.as_object().unwrap() {
                    if let Some(value) = value.get(name) {
                        validate(document, schema, value, &format!("{at}/{name}"), wrong);
                    }
                }
                true
            }
            // The keys of a map, which its parser has checked.
            "patternProperties" => {
                let schemas: Vec<&Value> = wanted.as_object().unwrap().values().collect();
                for (name, value) in value.as_object().into_iter().flatten() {
                    for schema in &schemas {
                        validate(document, schema, value, &format!("{at}/{name}"), wrong);
                    }
                }
                true
            }
            "additionalProperties" if keywords.contains_key("patternProperties") => true,
            "additionalProperties" => {
                let others = value.as_object().into_iter().flatten();
                let others = others.filter(|(name, _)| {
                    keywords
                        .get("properties")
                        .is_none_or(|own| own.get(name).is_none())
                });
                for (name, value) in others {
                    match wanted {
                        Value::Bool(false) => wrong.push(format!("{at}/{name}: is not told")),
                        wanted => validate(document, wanted, value, &format!("{at}/{name}"), wrong),
                    }
                }
                true
            }
            "propertyNames" => {
                for name in value.as_object().into_iter().flat_map(Map::keys) {
                    validate(document, wanted, &json!(name), &format!("{at}/{name}"), wrong);
                }
                true
            }
            // Read by people and generators, or about what the parser of the noun has checked.
            "title" | "description" | "examples" | "default" | "format" | "pattern" | "readOnly"
            | "uniqueItems" => true,
            other => panic!("{at}: the keyword {other} is not known here"),
        };
        if !holds {
            wrong.push(format!("{at}: {value} is not as {keyword}: {wanted} wants it"));
        }
    }
}

fn is_a(value: &Value, wanted: &str) -> bool {
    match wanted {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("no such type: {other}"),
    }
}

fn limit(wanted: &Value) -> usize {
    usize::try_from(wanted.as_u64().unwrap()).unwrap()
}

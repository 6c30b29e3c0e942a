//! Schemas of what is sent and answered beside resources, as the handlers write it. A test compares the running server's
//! answers with them, and none of them allows a field that it does not name.

use serde_json::{Map, Value, json};
use tombolo_compiler::intent::Action;
use tombolo_compiler::name::Kind;

/// What every plan that is kept tells.
const KEPT: &[&str] = &[
    "id",
    "node",
    "author",
    "description",
    "plan",
    "state",
    "createTime",
    "expireTime",
    "votes",
];

/// By name.
pub(crate) fn schemas() -> Map<String, Value> {
    let schemas = [
        ("Problem", problem()),
        ("DryRun", dry_run()),
        ("Plan", planned(json!({}), &[])),
        ("SubmittedPlan", submitted_plan()),
        ("KeptPlan", kept_plan()),
        ("PlanList", page(reference("KeptPlan"), &["items"])),
        ("Opinion", closed(json!({ "comment": text() }), &[])),
        ("ChangeSet", change_set()),
        ("Changed", changed()),
        (
            "Deleted",
            closed(
                json!({"name": text(), "revision": count()}),
                &["name", "revision"],
            ),
        ),
        (
            "Adopted",
            closed(
                json!({"name": text(), "epoch": count(), "revision": count()}),
                &["name", "epoch", "revision"],
            ),
        ),
        (
            "StatusOfName",
            closed(
                json!({"name": text(), "revision": count(), "status": reference("Status")}),
                &["name", "revision", "status"],
            ),
        ),
        (
            "Schemas",
            closed(
                json!({"items": list(closed(
                    json!({"kind": text(), "collection": text(), "schema": text()}),
                    &["kind", "collection", "schema"],
                ))}),
                &["items"],
            ),
        ),
        (
            "JsonSchema",
            json!({"type": "object", "required": ["$schema", "$id", "title", "properties", "examples"]}),
        ),
        (
            "OpenApiDocument",
            json!({"type": "object", "required": ["openapi", "info", "paths", "components"]}),
        ),
        (
            "RollbackWish",
            closed(json!({ "revision": count() }), &["revision"]),
        ),
        (
            "Question",
            closed(
                json!({
                    "from": {
                        "type": "string",
                        "description": "`CLUSTER/NAMESPACE/SERVICE`, or `CLUSTER/gateway/NAME`.",
                    },
                    "request": reference("Request"),
                }),
                &["from", "request"],
            ),
        ),
        ("Explanation", explanation()),
        ("ExplainedStep", explained_step()),
        ("ExplainedOutcome", explained_outcome()),
        (
            "Found",
            closed(
                json!({"revision": count(), "items": list(reference("Touch")), "nextPageToken": text(), "hidden": count()}),
                &["revision", "items", "hidden"],
            ),
        ),
        (
            "ReadinessOfName",
            closed(
                json!({"name": text(), "revision": count(), "items": list(reference("Readiness")), "nextPageToken": text()}),
                &["name", "revision", "items"],
            ),
        ),
        (
            "OffersToName",
            closed(
                json!({"name": text(), "revision": count(), "items": list(claim_offer()), "nextPageToken": text()}),
                &["name", "revision", "items"],
            ),
        ),
        ("Effective", effective()),
        ("Tree", tree()),
        ("TransferWish", closed(json!({ "owner": text() }), &["owner"])),
        ("AccessList", access_list()),
        ("AccessQuestion", access_question()),
        ("AccessDecisions", access_decisions()),
        ("History", page(history_entry(), &["items"])),
        ("Differences", differences()),
        ("Compiled", compiled()),
        ("AuditRecord", audit_record()),
        ("AuditPage", page(reference("AuditRecord"), &["items"])),
        ("AuditVerdict", audit_verdict()),
        ("AuditKeys", audit_keys()),
        ("Token", token(json!({}), &["id", "createTime"])),
        (
            "IssuedToken",
            token(json!({ "token": text() }), &["id", "createTime", "token"]),
        ),
        ("TokenList", page(reference("Token"), &["items"])),
        (
            "TokenWish",
            closed(json!({"description": text(), "expireTime": time()}), &[]),
        ),
        ("RevokedToken", closed(json!({ "id": uuid() }), &["id"])),
        (
            "Key",
            token(json!({ "publicKey": text() }), &["id", "createTime", "publicKey"]),
        ),
        ("KeyFile", key_file()),
        (
            "IssuedKey",
            token(
                json!({"publicKey": text(), "key": reference("KeyFile")}),
                &["id", "createTime", "publicKey", "key"],
            ),
        ),
        ("KeyList", page(reference("Key"), &["items"])),
        (
            "LoginWish",
            closed(json!({"user": text(), "password": text()}), &["user", "password"]),
        ),
        ("Session", session(json!({}), &[])),
        ("OpenedSession", session(json!({ "user": text() }), &["user"])),
        ("SessionList", page(reference("Session"), &["items"])),
        ("RevokedSession", closed(json!({ "id": uuid() }), &["id"])),
        (
            "LoginMethods",
            closed(
                json!({"provider": closed(json!({ "issuer": text() }), &["issuer"])}),
                &[],
            ),
        ),
        ("WhoAmI", who_am_i()),
        (
            "PasswordWish",
            closed(
                json!({
                    "password": text(),
                    "current": {"type": "string", "description": "What it is now, to change one's own."},
                }),
                &["password"],
            ),
        ),
        ("PasswordSet", closed(json!({ "user": text() }), &["user"])),
    ];
    schemas
        .into_iter()
        .map(|(name, schema)| (name.to_owned(), schema))
        .collect()
}

/// A page of resources of one kind, all of one revision.
pub(crate) fn page_of(kind: &str) -> Value {
    let mut page = page(reference(kind), &["items", "revision"]);
    page["properties"]["revision"] = count();
    page
}

pub(crate) fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn page(item: Value, required: &[&str]) -> Value {
    closed(json!({"items": list(item), "nextPageToken": text()}), required)
}

/// RFC 9457.
fn problem() -> Value {
    let error = closed(
        json!({
            "pointer": {"type": "string", "description": "RFC 6901, into the body of the request."},
            "detail": text(),
            "resource": text(),
            "code": reference("Code"),
        }),
        &["detail"],
    );
    let mut problem = closed(
        json!({
            "type": {
                "type": "string",
                "pattern": "^urn:tombolo:problem:[a-z-]+$",
                "description": "Stable, for programs.",
            },
            "title": text(),
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": {"type": "string", "description": "For people: the object, and what to do."},
            "instance": {"type": "string", "pattern": "^urn:tombolo:request:"},
            "errors": list(error),
        }),
        &["type", "title", "status", "detail", "instance"],
    );
    problem["description"] = json!("What went wrong (RFC 9457).");
    problem
}

fn dry_run() -> Value {
    planned(json!({"dryRun": {"type": "boolean", "const": true}}), &["dryRun"])
}

/// What others would hand over, and who they are.
fn claim_offer() -> Value {
    closed(
        json!({
            "name": text(),
            "from": text(),
            "namespaces": list(reference("Selector")),
            "hosts": list(reference("Hostname")),
            "ports": list(reference("PortClaim")),
            "expireTime": time(),
        }),
        &["name", "from", "namespaces", "hosts", "ports", "expireTime"],
    )
}

/// What a change would do, with what else is told of it.
fn planned(more: Value, required: &[&str]) -> Value {
    let change = closed(
        json!({"name": text(), "action": action(), "before": {"type": "object"}, "after": {"type": "object"}}),
        &["name", "action"],
    );
    let mut handed = list(change.clone());
    handed["description"] = json!("What the offers that it accepts take from their makers.");
    let any = json!({"type": ["object", "null"]});
    let route = closed(
        json!({"route": text(), "action": action(), "before": any, "after": any}),
        &["route", "action", "before", "after"],
    );
    let mut fields = json!({
        "plan": {"type": "string", "description": "Its name: the revision that it was made on, and its hash."},
        "revision": count(),
        "changes": list(change),
        "handedOver": handed,
        "handedOverHidden": count(),
        "routes": {"type": "object", "additionalProperties": list(route)},
        "routesHidden": count(),
        "behaviour": behaviour(),
        "findings": list(reference("Finding")),
    });
    let always = [
        "plan",
        "revision",
        "changes",
        "handedOver",
        "handedOverHidden",
        "routes",
        "routesHidden",
        "behaviour",
        "findings",
    ];
    if let (Some(fields), Value::Object(more)) = (fields.as_object_mut(), more) {
        fields.extend(more);
    }
    closed(fields, &[&always[..], required].concat())
}

/// What a change means to those who send and serve, from what clusters report at that moment.
fn behaviour() -> Value {
    let by_cluster = |of: Value| json!({"type": "object", "additionalProperties": of});
    let changed = json!({"names": list(text()), "more": count(), "silent": count(), "version": version()});
    let changed = closed(changed, &["names", "more", "silent", "version"]);
    let at_most = json!({"type": ["integer", "null"]});
    let mut hidden = count();
    hidden["description"] =
        json!("Changes of routes that the caller may not read: the edge is not asked about those.");
    let proxies = closed(
        json!({"atMost": at_most, "changed": changed, "away": text(), "routesHidden": hidden}),
        &["atMost"],
    );
    closed(
        json!({
            "hosts": list(reference("HostMove")),
            "services": list(reference("ServiceMove")),
            "newlyReachable": list(reference("Reach")),
            "noLongerReachable": list(reference("Reach")),
            "hidden": count(),
            "more": count(),
            "proxies": by_cluster(proxies),
            "reports": by_cluster(json!({"type": ["object", "null"]})),
        }),
        &[
            "hosts",
            "services",
            "newlyReachable",
            "noLongerReachable",
            "hidden",
            "more",
            "proxies",
            "reports",
        ],
    )
}

/// The fields of a plan that is kept.
fn kept() -> Value {
    let vote = closed(
        json!({"voter": text(), "approves": {"type": "boolean"}, "comment": text(), "time": time()}),
        &["voter", "approves", "comment", "time"],
    );
    json!({
        "id": uuid(),
        "node": text(),
        "author": text(),
        "description": text(),
        "plan": text(),
        "state": {"type": "string", "enum": ["open", "rejected", "applied"]},
        "createTime": time(),
        "expireTime": time(),
        "votes": list(vote),
    })
}

fn kept_plan() -> Value {
    let mut fields = kept();
    fields["documents"] = list(json!({"type": "object"}));
    fields["documentsHidden"] = count();
    closed(fields, KEPT)
}

fn submitted_plan() -> Value {
    let mut fields = kept();
    fields["approvals"] = list(closed(
        json!({"policy": text(), "node": text(), "approver": text()}),
        &["policy", "node", "approver"],
    ));
    planned(fields, &[KEPT, &["approvals"]].concat())
}

fn change_set() -> Value {
    let op = |ops: &[&str], more: (&str, Value), required: &[&str]| {
        closed(
            json!({"op": {"type": "string", "enum": ops}, more.0: more.1, "etag": text()}),
            required,
        )
    };
    let resource = json!({"type": "object", "required": ["name"]});
    let write = op(
        &["create", "update", "apply"],
        ("resource", resource.clone()),
        &["op", "resource"],
    );
    let delete = op(&["delete"], ("name", text()), &["op", "name"]);
    let changes = closed(
        json!({"changes": list(json!({"anyOf": [write, delete]}))}),
        &["changes"],
    );
    json!({
        "description": "Resources to create or update, or a list of changes.",
        "anyOf": [list(resource.clone()), changes, resource],
    })
}

fn changed() -> Value {
    let change = closed(
        json!({"name": text(), "action": action(), "etag": text(), "revision": count()}),
        &["name", "action"],
    );
    closed(
        json!({"revision": count(), "changes": list(change)}),
        &["revision", "changes"],
    )
}

/// What an edge answers has the version of what it holds; what management computes itself has the rest.
fn explanation() -> Value {
    let trace = |more: Value, required: &[&str]| {
        let mut fields = json!({
            "steps": list(reference("ExplainedStep")),
            "stepsHidden": count(),
            "outcome": reference("ExplainedOutcome"),
        });
        if let (Some(fields), Value::Object(more)) = (fields.as_object_mut(), more) {
            fields.extend(more);
        }
        closed(fields, &[&["steps", "stepsHidden", "outcome"], required].concat())
    };
    let edge = json!({"anyOf": [
        closed(json!({"answer": trace(json!({ "version": version() }), &["version"])}), &["answer"]),
        closed(json!({ "away": text() }), &["away"]),
    ]});
    trace(
        json!({
            "advice": list(reference("Advice")),
            "adviceHidden": count(),
            "edge": edge,
            "revision": count(),
            "from": text(),
            "request": reference("Request"),
            "reports": report_sources(),
            "written": written(),
        }),
        &["advice", "adviceHidden", "revision", "from", "request"],
    )
}

/// One thing that was decided, or only at which stage when the caller may not read what decided it.
fn explained_step() -> Value {
    let tried = closed(json!({"origin": origin(), "why": list(text())}), &["why"]);
    let told = closed(
        json!({"stage": reference("Stage"), "told": text(), "origin": origin(), "tried": list(tried)}),
        &["stage", "told"],
    );
    json!({"anyOf": [
        told,
        closed(json!({"stage": reference("Stage"), "hidden": hidden()}), &["stage", "hidden"]),
    ]})
}

fn explained_outcome() -> Value {
    let status = json!({"type": "integer", "minimum": 100, "maximum": 599});
    let one = |name: &str, fields: Value, required: &[&str]| {
        closed(json!({name: closed(fields, required)}), &[name])
    };
    json!({"anyOf": [
        one(
            "forward",
            json!({"origin": origin(), "targets": list(reference("Destination"))}),
            &["targets"],
        ),
        one(
            "refuse",
            json!({"origin": origin(), "status": status, "reason": text()}),
            &["status", "reason"],
        ),
        one(
            "redirect",
            json!({"origin": origin(), "status": status, "location": text()}),
            &["status", "location"],
        ),
        one("notTaken", json!({ "reason": text() }), &["reason"]),
        closed(json!({"hidden": hidden(), "status": status}), &["hidden"]),
    ]})
}

fn hidden() -> Value {
    json!({"type": "boolean", "const": true})
}

fn origin() -> Value {
    closed(
        json!({"resource": text(), "field": text(), "lost": list(text()), "lostHidden": count()}),
        &["resource"],
    )
}

fn effective() -> Value {
    let field = closed(
        json!({
            "field": text(),
            "value": true,
            "origin": origin(),
            "with": list(origin()),
            "notEnforced": text(),
        }),
        &["field", "value"],
    );
    closed(
        json!({"name": text(), "revision": count(), "fields": list(field), "service": text()}),
        &["name", "revision", "fields"],
    )
}

/// Of all kinds.
fn right() -> Value {
    json!({"type": "string", "enum": Action::ALL})
}

fn access_list() -> Value {
    let item = closed(
        json!({
            "subject": text(),
            "role": {"type": "string", "description": "`owner` where nothing but ownership gives it."},
            "verbs": list(right()),
            "binding": text(),
            "condition": text(),
            "members": list(text()),
        }),
        &["subject", "role", "verbs"],
    );
    closed(
        json!({"name": text(), "items": list(item), "nextPageToken": text(), "revision": count()}),
        &["name", "items", "revision"],
    )
}

fn access_question() -> Value {
    closed(
        json!({
            "who": {"type": "string", "description": "The caller when left out."},
            "action": right(),
            "names": list(text()),
            "source": {"type": "string", "description": "An address; that of the caller when left out."},
            "time": {"type": "string", "format": "date-time", "description": "Now when left out."},
        }),
        &["action", "names"],
    )
}

fn access_decisions() -> Value {
    let decision = closed(
        json!({
            "name": text(),
            "allowed": {"type": "boolean"},
            "because": text(),
            "binding": text(),
            "role": text(),
            "subject": text(),
            "missingRole": text(),
            "ask": list(text()),
            "unmetConditions": list(text()),
        }),
        &["name", "allowed", "because"],
    );
    closed(
        json!({"who": text(), "action": right(), "decisions": list(decision), "revision": count()}),
        &["who", "action", "decisions", "revision"],
    )
}

fn tree() -> Value {
    let any: Vec<Value> = Kind::ALL
        .into_iter()
        .map(|kind| reference(&kind.to_string()))
        .collect();
    let mut tree = page(json!({ "anyOf": any }), &["items", "revision"]);
    tree["properties"]["revision"] = count();
    tree
}

fn history_entry() -> Value {
    closed(
        json!({
            "name": text(),
            "revision": count(),
            "action": action(),
            "uid": uuid(),
            "actor": text(),
            "time": time(),
            "etag": text(),
        }),
        &["name", "revision", "action", "uid", "actor", "time"],
    )
}

fn differences() -> Value {
    closed(
        json!({"name": text(), "from": count(), "to": count(), "changes": list(difference()),
            "nextPageToken": text()}),
        &["name", "from", "to", "changes"],
    )
}

fn difference() -> Value {
    let state = json!({"type": "object"});
    closed(
        json!({
            "name": text(),
            "action": action(),
            "before": state,
            "after": state,
            "recreated": {"type": "boolean"},
        }),
        &["name", "action"],
    )
}

/// What a revision has done.
fn written() -> Value {
    closed(
        json!({"actor": text(), "time": time(), "changes": list(difference()), "changesHidden": count()}),
        &["actor", "time", "changes", "changesHidden"],
    )
}

fn by_cluster(of: Value) -> Value {
    let mut schema = json!({"type": "object"});
    schema["additionalProperties"] = of;
    schema
}

/// With which reports a revision was compiled again.
fn report_sources() -> Value {
    by_cluster(closed(
        json!({"source": {"type": "string", "enum": ["stored", "present"]}, "since": time(), "hash": text()}),
        &["source", "hash"],
    ))
}

fn compiled() -> Value {
    closed(
        json!({
            "name": text(),
            "revision": count(),
            "reports": report_sources(),
            "routes": by_cluster(json!({"type": "object"})),
            "nextPageToken": text(),
            "routesHidden": count(),
            "findings": list(reference("Finding")),
        }),
        &[
            "name",
            "revision",
            "reports",
            "routes",
            "routesHidden",
            "findings",
        ],
    )
}

fn audit_record() -> Value {
    let state = json!({"type": "object"});
    closed(
        json!({
            "time": time(),
            "actor": text(),
            "teams": list(text()),
            "verb": text(),
            "kind": reference("Kind"),
            "name": text(),
            "outcome": {"type": "string", "enum": ["done", "denied", "unauthenticated"]},
            "source": text(),
            "requestId": text(),
            "revision": count(),
            "reason": text(),
            "before": state,
            "after": state,
            "repeated": count(),
            "dropped": count(),
            "chain": {"type": "string", "enum": ["writes", "denials"]},
            "sequence": count(),
            "hash": text(),
            "unreadable": {"type": "boolean"},
        }),
        &["chain", "sequence", "hash"],
    )
}

fn audit_verdict() -> Value {
    let broken = closed(
        json!({"sequence": count(), "reason": text()}),
        &["sequence", "reason"],
    );
    let chain = closed(
        json!({
            "chain": text(),
            "records": count(),
            "hash": text(),
            "broken": {"anyOf": [broken, {"type": "null"}]},
        }),
        &["chain", "records", "hash", "broken"],
    );
    closed(
        json!({"ok": {"type": "boolean"}, "chains": list(chain)}),
        &["ok", "chains"],
    )
}

fn audit_keys() -> Value {
    let key = closed(
        json!({"id": text(), "algorithm": {"type": "string", "const": "Ed25519"}, "pem": text(), "since": time()}),
        &["id", "algorithm", "pem", "since"],
    );
    closed(json!({ "keys": list(key) }), &["keys"])
}

fn token(more: Value, required: &[&str]) -> Value {
    let mut fields = json!({
        "id": uuid(),
        "description": text(),
        "createTime": time(),
        "expireTime": time(),
        "revokeTime": time(),
        "issuedBy": uuid(),
    });
    if let (Some(fields), Value::Object(more)) = (fields.as_object_mut(), more) {
        fields.extend(more);
    }
    closed(fields, required)
}

/// What the holder of a key keeps.
fn key_file() -> Value {
    let fields = ["subject", "audience", "publicKey", "privateKey"];
    let properties: Map<String, Value> = fields
        .map(|field| (field.to_owned(), text()))
        .into_iter()
        .collect();
    closed(properties.into(), &fields)
}

fn session(more: Value, required: &[&str]) -> Value {
    let mut fields = json!({
        "id": uuid(),
        "method": {"type": "string", "enum": ["password", "oidc", "device"]},
        "groups": list(text()),
        "source": text(),
        "agent": text(),
        "createTime": time(),
        "expireTime": time(),
        "revokeTime": time(),
        "issuedBy": uuid(),
    });
    if let (Some(fields), Value::Object(more)) = (fields.as_object_mut(), more) {
        fields.extend(more);
    }
    let always = [
        "id",
        "method",
        "groups",
        "source",
        "agent",
        "createTime",
        "expireTime",
    ];
    closed(fields, &[&always, required].concat())
}

fn who_am_i() -> Value {
    let credential = closed(
        json!({
            "kind": {"type": "string", "enum": ["token", "key", "session"]},
            "id": uuid(),
            "expireTime": time(),
        }),
        &["kind", "id"],
    );
    closed(
        json!({
            "user": text(),
            "uid": uuid(),
            "groups": list(text()),
            "teams": list(text()),
            "credential": credential,
        }),
        &["user", "uid", "groups", "teams", "credential"],
    )
}

/// An object with these fields and no others.
fn closed(properties: Value, required: &[&str]) -> Value {
    let mut schema = json!({"type": "object", "required": required, "additionalProperties": false});
    schema["properties"] = properties;
    schema
}

fn list(items: Value) -> Value {
    let mut schema = json!({"type": "array"});
    schema["items"] = items;
    schema
}

fn action() -> Value {
    json!({"type": "string", "enum": ["create", "update", "delete", "transfer", "unchanged"]})
}

fn text() -> Value {
    json!({"type": "string"})
}

fn count() -> Value {
    json!({"type": "integer", "minimum": 0})
}

/// The epoch and the revision of a slice.
fn version() -> Value {
    json!({"type": "array", "items": count(), "minItems": 2, "maxItems": 2})
}

fn time() -> Value {
    json!({"type": "string", "format": "date-time"})
}

fn uuid() -> Value {
    json!({"type": "string", "format": "uuid"})
}

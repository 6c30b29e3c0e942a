//! The OpenAPI 3.1 document, made from the table of endpoints and the schemas of the nouns. A generator of our own and
//! not utoipa: that documents handlers one by one, and one handler of ours serves the resources of all kinds, whose
//! paths follow from which kind may stand below which.

use axum::Json;
use axum::http::Method;
use serde_json::{Map, Value, json};
use tombolo_compiler::name::Kind;
use tombolo_compiler::schema;

use super::answer::{self, page_of, reference};
use super::endpoint::{self, Access, Endpoint, Place, Shape};
use crate::caller::Caller;
use crate::problem::PROBLEMS;

pub(crate) async fn get(_caller: Caller) -> Json<Value> {
    Json(document(&endpoint::table()))
}

/// One place in the tree where a kind may stand.
#[derive(Clone, Debug)]
struct Node {
    /// From the organization down to the kind itself.
    kinds: Vec<Kind>,
}

pub(crate) fn document(table: &[Endpoint]) -> Value {
    let nodes = nodes();
    let mut paths: Map<String, Value> = Map::new();
    let mut shared = Shared::default();
    for endpoint in table {
        for (path, node) in places(endpoint, &nodes) {
            shared.add(endpoint, &path, node.map(Node::kind));
            let operation = operation(endpoint, &path, node, &nodes);
            paths.entry(path).or_insert_with(|| json!({}))[method(&endpoint.method)] = operation;
        }
    }
    let mut components = schema::components();
    components.extend(answer::schemas());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tombolo",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The management plane of a Tombolo mesh. docs/api.md tells what the endpoints have in common.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"token": []}, {"session": []}, {"sessionOnLoopback": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": "__Host-tombolo-session"},
                "sessionOnLoopback": {"type": "apiKey", "in": "cookie", "name": "tombolo-session"},
            },
            "schemas": components,
            "parameters": shared.parameters,
            "requestBodies": shared.bodies,
            "responses": shared.responses,
        },
    })
}

/// What many operations have in common, told once and referred to by name.
#[derive(Debug)]
struct Shared {
    parameters: Map<String, Value>,
    bodies: Map<String, Value>,
    responses: Map<String, Value>,
}

impl Default for Shared {
    fn default() -> Shared {
        Shared {
            parameters: Map::new(),
            bodies: Map::new(),
            responses: problems(),
        }
    }
}

impl Shared {
    fn add(&mut self, endpoint: &Endpoint, path: &str, kind: Option<Kind>) {
        for name in in_path(path) {
            let told = || json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}});
            self.parameters.entry(path_parameter(name)).or_insert_with(told);
        }
        for name in endpoint.parameters {
            let told = || parameter(name);
            self.parameters.entry(*name).or_insert_with(told);
        }
        if let Some(shape) = endpoint.takes {
            let told = || {
                let schema = shape_schema(shape, kind);
                let content =
                    json!({"application/json": {"schema": schema}, "application/yaml": {"schema": schema}});
                json!({"required": true, "content": content})
            };
            self.bodies.entry(shape_name(shape, kind)).or_insert_with(told);
        }
        for (_, shape) in endpoint.answers {
            let told = || answered(*shape, kind);
            self.responses
                .entry(shape_name(*shape, kind))
                .or_insert_with(told);
        }
    }
}

/// The parameters in a path.
fn in_path(path: &str) -> impl Iterator<Item = &str> {
    path.split('{').skip(1).filter_map(|rest| rest.split('}').next())
}

/// What the document calls it: `kind` is also the name of a parameter of queries.
fn path_parameter(name: &str) -> String {
    format!("{name}InPath")
}

/// What a body of this shape is called.
fn shape_name(shape: Shape, kind: Option<Kind>) -> String {
    let of_kind = |more: &str| format!("{}{more}", kind.unwrap_or(Kind::Organization));
    match shape {
        Shape::Nothing => "NotModified".to_owned(),
        Shape::Resource => of_kind(""),
        Shape::Page => of_kind("Page"),
        Shape::Named(name) => name.to_owned(),
        Shape::OrDryRun(shape) => format!("{}OrDryRun", shape_name(*shape, kind)),
        // `event-stream`, `jsonl.csv`.
        Shape::Stream(types) => {
            let types: Vec<&str> = types
                .iter()
                .filter_map(|media| media.rsplit('/').next())
                .collect();
            types.join(".")
        }
    }
}

/// Every place of every kind, parents first.
fn nodes() -> Vec<Node> {
    let mut nodes = vec![Node {
        kinds: vec![Kind::Organization],
    }];
    let mut at = 0;
    while let Some(node) = nodes.get(at).cloned() {
        nodes.extend(node.kind().children().iter().map(|child| Node {
            kinds: node.kinds.iter().copied().chain([*child]).collect(),
        }));
        at += 1;
    }
    nodes
}

impl Node {
    fn kind(&self) -> Kind {
        *self
            .kinds
            .last()
            .expect("invariant: a node is made with at least one kind")
    }

    fn parameters(&self) -> impl Iterator<Item = (Kind, String)> {
        self.kinds.iter().map(|kind| (*kind, camel(&kind.to_string())))
    }

    fn collection(&self) -> String {
        let path = self.resource();
        path.rsplit_once('/')
            .map_or_else(String::new, |(collection, _)| collection.to_owned())
    }

    fn resource(&self) -> String {
        self.parameters()
            .fold("/v1".to_owned(), |path, (kind, parameter)| {
                format!("{path}/{}/{{{parameter}}}", kind.collection())
            })
    }

    /// The kind, with that above it where the kind may stand at several places.
    fn word(&self, nodes: &[Node]) -> String {
        let alone = nodes.iter().filter(|node| node.kind() == self.kind()).count() == 1;
        match self.kinds.iter().rev().nth(1) {
            Some(parent) if !alone => format!("{parent}{}", self.kind()),
            _ => self.kind().to_string(),
        }
    }
}

/// The paths of an endpoint, each with the node that it stands for.
fn places<'a>(endpoint: &Endpoint, nodes: &'a [Node]) -> Vec<(String, Option<&'a Node>)> {
    let each = |suffix: &str, of: &dyn Fn(&Node) -> bool| {
        let nodes = nodes.iter().filter(|node| of(node));
        nodes
            .map(|node| (format!("{}{suffix}", node.resource()), Some(node)))
            .collect()
    };
    match endpoint.place {
        Place::At(path) => vec![(path.to_owned(), None)],
        Place::Plan(suffix) => vec![(format!("/v1/plans/{{id}}{suffix}"), None)],
        Place::Resource(suffix) => each(suffix, &|_| true),
        Place::ResourceOf(kinds, suffix) => each(suffix, &|node| kinds.contains(&node.kind())),
        Place::Principal(suffix) => each(suffix, &|node| node.kind().is_principal()),
        Place::ServiceAccount(suffix) => each(suffix, &|node| node.kind() == Kind::ServiceAccount),
        Place::Collection => nodes.iter().map(|node| (node.collection(), Some(node))).collect(),
    }
}

fn operation(endpoint: &Endpoint, path: &str, node: Option<&Node>, nodes: &[Node]) -> Value {
    let id = match node {
        Some(node) => format!("{}{}", endpoint.id, node.word(nodes)),
        None => endpoint.id.to_owned(),
    };
    let kind = node.map(Node::kind);
    let shared = |of: &str, name: &str| json!({"$ref": format!("#/components/{of}/{name}")});
    let parameters: Vec<Value> = in_path(path)
        .map(path_parameter)
        .chain(endpoint.parameters.iter().map(|name| (*name).to_owned()))
        .map(|name| shared("parameters", &name))
        .collect();
    let mut responses: Map<String, Value> = endpoint
        .answers
        .iter()
        .map(|(status, shape)| (status.to_string(), shared("responses", &shape_name(*shape, kind))))
        .collect();
    for (status, _) in PROBLEMS.iter().filter(|(status, _)| concerns(endpoint, *status)) {
        responses.insert(status.to_string(), shared("responses", &status.to_string()));
    }
    let mut operation = json!({
        "operationId": id,
        "summary": endpoint.summary,
        "tags": [kind.map_or_else(|| "Organization-wide".to_owned(), |kind| kind.to_string())],
        "parameters": parameters,
        "responses": responses,
        "x-access": access(endpoint.access),
    });
    if endpoint.access == Access::Anyone {
        operation["security"] = json!([]);
    }
    if !endpoint.audit.is_empty() {
        operation["x-audit"] = json!(endpoint.audit);
    }
    if let Some(shape) = endpoint.takes {
        operation["requestBody"] = shared("requestBodies", &shape_name(shape, kind));
    }
    operation
}

fn answered(shape: Shape, kind: Option<Kind>) -> Value {
    if shape == Shape::Nothing {
        return json!({"description": "It is as it was seen."});
    }
    if let Shape::Stream(types) = shape {
        let text = |media: &&str| ((*media).to_owned(), json!({"schema": {"type": "string"}}));
        let content: Map<String, Value> = types.iter().map(text).collect();
        return json!({"description": "Sent as it is read.", "content": content});
    }
    let mut response = json!({
        "description": "Done.",
        "content": {"application/json": {"schema": shape_schema(shape, kind)}},
    });
    if shape == Shape::Page {
        let about = "With `watch`: events `reset`, `put`, `delete`, and `synced`, whose id is a revision to come back with.";
        response["content"]["text/event-stream"] =
            json!({"schema": {"type": "string", "description": about}});
    }
    if matches!(shape, Shape::Resource | Shape::OrDryRun(Shape::Resource)) {
        response["headers"] = json!({"ETag": {"schema": {"type": "string"}}});
    }
    response
}

fn shape_schema(shape: Shape, kind: Option<Kind>) -> Value {
    let kind = kind.unwrap_or(Kind::Organization);
    match shape {
        Shape::Nothing | Shape::Stream(_) => json!(false),
        Shape::Resource => reference(&kind.to_string()),
        Shape::Page => page_of(&kind.to_string()),
        Shape::Named(name) => reference(name),
        Shape::OrDryRun(shape) => {
            json!({"anyOf": [shape_schema(*shape, Some(kind)), reference("DryRun")]})
        }
    }
}

/// Operations that can be held to a plan or bring their ETags in the body.
const WITH_A_PLAN: &[&str] = &["change", "rollback", "approvePlan", "rejectPlan", "applyPlan"];

/// Whether that problem can happen there: what is about bodies and states concerns writes only.
fn concerns(endpoint: &Endpoint, status: u16) -> bool {
    match status {
        412 | 428 => endpoint.parameters.contains(&"If-Match") || WITH_A_PLAN.contains(&endpoint.id),
        409 | 422 => !endpoint.audit.is_empty(),
        408 | 413 | 415 => endpoint.takes.is_some(),
        _ => true,
    }
}

/// By status, what may go wrong anywhere.
fn problems() -> Map<String, Value> {
    let response = |(status, words): &(u16, &[&str])| {
        let types: Vec<String> = words
            .iter()
            .map(|word| format!("urn:tombolo:problem:{word}"))
            .collect();
        let schema = json!({"allOf": [
            reference("Problem"),
            {"properties": {"type": {"enum": types}, "status": {"const": status}}},
        ]});
        let response = json!({
            "description": words.join(", "),
            "content": {"application/problem+json": {"schema": schema}},
        });
        (status.to_string(), response)
    };
    PROBLEMS.iter().map(response).collect()
}

/// A parameter that is not in the path.
fn parameter(name: &str) -> Value {
    let (place, schema, about) = match name {
        "pageSize" => (
            "query",
            json!({"type": "integer", "minimum": 1, "maximum": 500, "default": 100}),
            "How many at most.",
        ),
        "pageToken" => (
            "query",
            json!({"type": "string"}),
            "The `nextPageToken` of the page before.",
        ),
        "dry_run" => (
            "query",
            json!({"type": "boolean", "default": false}),
            "Say what would change, and change nothing.",
        ),
        "overwrite" => (
            "query",
            json!({"type": "boolean", "default": false}),
            "Replace what is there, whatever it is now.",
        ),
        "plan" | "confirm" => (
            "query",
            json!({"type": "string"}),
            "The plan that the write is held to: it does what that says, or nothing.",
        ),
        "If-Plan" => ("header", json!({"type": "string"}), "As the parameter `plan`."),
        "breakGlass" => (
            "query",
            json!({"type": "string"}),
            "Why the write goes past approval policies; for administrators of the organization, and on record.",
        ),
        "submit" => (
            "query",
            json!({"type": "boolean", "default": false}),
            "Keep the plan, for others to approve.",
        ),
        "description" => (
            "query",
            json!({"type": "string"}),
            "For those who are to approve it.",
        ),
        "allowUnenforced" => (
            "query",
            json!({"type": "boolean", "default": false}),
            "Keep security that no plane enforces yet.",
        ),
        "If-Match" => (
            "header",
            json!({"type": "string"}),
            "The ETag of the state that was seen, or `*`.",
        ),
        "Idempotency-Key" => (
            "header",
            json!({"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"}),
            "What the caller calls this write in all its tries: it is done once, and each try is given the first answer.",
        ),
        "Tombolo-Manager" => (
            "header",
            json!({"type": "string"}),
            "Who manages from now on what is written.",
        ),
        "Tombolo-Force" => (
            "header",
            json!({"type": "boolean", "default": false}),
            "Write also what somebody else manages.",
        ),
        "revision" => (
            "query",
            json!({"type": "integer", "minimum": 0}),
            "At which, or with `watch` since which; the latest when left out.",
        ),
        "from" => (
            "query",
            json!({"type": "integer", "minimum": 0}),
            "The earlier revision.",
        ),
        "to" => (
            "query",
            json!({"type": "integer", "minimum": 0}),
            "The later revision; the latest when left out.",
        ),
        "below" => (
            "query",
            json!({"type": "boolean", "default": false}),
            "With all that stands below.",
        ),
        "service" => ("query", json!({"type": "string"}), "A service: `namespace/name`."),
        "If-None-Match" => (
            "header",
            json!({"type": "string"}),
            "The ETag that was seen: 304 while it is still that.",
        ),
        "watch" => (
            "query",
            json!({"type": "boolean", "default": false}),
            "Send what changes as server-sent events, from `revision` on.",
        ),
        "wait" => (
            "query",
            json!({"type": "string"}),
            "How long at most, such as `30s`; 60 s at most.",
        ),
        "since" | "until" => (
            "query",
            json!({"type": "string", "format": "date-time"}),
            "In the order of time.",
        ),
        "actor" => ("query", json!({"type": "string"}), "Who did it."),
        "name" => (
            "query",
            json!({"type": "string"}),
            "The resource, or one above it.",
        ),
        "kind" => ("query", json!({"type": "string"}), "The kind of the resource."),
        "verb" => ("query", json!({"type": "string"}), "What was done."),
        "text" => (
            "query",
            json!({"type": "string"}),
            "Words that a record must hold, all of them.",
        ),
        "format" => (
            "query",
            json!({"type": "string", "enum": ["jsonl", "csv"], "default": "jsonl"}),
            "Of the file.",
        ),
        "after" => (
            "query",
            json!({"type": "string", "pattern": "^(?:writes|denials)\\.[0-9]+$"}),
            "The chain and the sequence with which an earlier export ended.",
        ),
        "Last-Event-ID" => (
            "header",
            json!({"type": "string"}),
            "The id of the last event that was received: what came after it is sent again.",
        ),
        "host" => (
            "query",
            json!({"type": "string"}),
            "A host as it stands in a URL, also what a service is called inside the mesh.",
        ),
        "namespace" => ("query", json!({"type": "string"}), "A namespace."),
        "outcome" => (
            "query",
            json!({"type": "string", "enum": ["done", "denied", "unauthenticated"]}),
            "What came of it.",
        ),
        _ => unreachable!("invariant: a test makes the document of the whole table"),
    };
    json!({"name": name, "in": place, "schema": schema, "description": about, "required": name == "from"})
}

fn access(access: Access) -> &'static str {
    match access {
        Access::Anyone => "anyone",
        Access::Decided => "decided",
        Access::Filtered => "filtered",
        Access::Known => "known",
    }
}

fn method(method: &Method) -> String {
    method.as_str().to_ascii_lowercase()
}

/// `TrafficGroup` → `trafficGroup`, `API` → `api`.
fn camel(word: &str) -> String {
    if word.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return word.to_ascii_lowercase();
    }
    let mut letters = word.chars();
    let first = letters.next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(letters).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_operation_has_an_id_of_its_own_and_schemas_that_exist() {
        let document = document(&endpoint::table());
        let mut ids = BTreeSet::new();
        for (path, operations) in document["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                let id = operation["operationId"].as_str().unwrap();
                assert!(ids.insert(id.to_owned()), "{method} {path}: {id} is used twice");
                // It is asked with a body, and writes nothing.
                let asks = method == "get" || ["explain", "testAccess"].contains(&id);
                assert!(
                    asks || !operation["x-audit"].is_null(),
                    "{method} {path} changes state and leaves no audit record"
                );
            }
        }
        let own = answer::schemas();
        for name in schema::components().keys() {
            assert!(!own.contains_key(name), "the schema {name} is told twice");
        }
        let text = document.to_string();
        for found in text.split("\"$ref\":\"#").skip(1) {
            let pointer = found.split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{pointer} does not exist");
        }
    }
}

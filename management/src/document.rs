//! Bodies of requests: YAML or JSON, made into resources and what their writer has seen of them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use tombolo_compiler::intent::{BadResource, Resource};
use tombolo_compiler::name::Fqn;
use uuid::Uuid;

use crate::change::{Change, ChangeVerb, IfMatch};

/// Of a request's body. A resource is at most a few KiB, and a transaction of hundreds is still one.
pub(crate) const BODY_BYTES_MAX: usize = 1024 * 1024;

/// From a request's headers to the end of its body. Who calls was looked up at the headers; a poor line brings the largest
/// body in a third of it.
pub(crate) const BODY_TIME_MAX: Duration = Duration::from_secs(30);

/// Of one request, below what one statement of Postgres can bind.
const CHANGES_MAX: usize = 1000;

/// What the server sets and callers may send back: that makes get, edit, apply work.
const SERVER_FIELDS: [&str; 8] = [
    "revision",
    "createTime",
    "updateTime",
    "status",
    "managedBy",
    "managedRevision",
    "managedFields",
    "owner",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Yaml,
}

/// A resource as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Document {
    pub(crate) resource: Arc<Resource>,
    pub(crate) etag: Option<String>,
    pub(crate) uid: Option<Uuid>,
}

/// Why the body is not even data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadBody {
    #[error("the body is larger than {BODY_BYTES_MAX} bytes; split it")]
    TooLarge,
    #[error("the body took longer than {} s to arrive; send it again", BODY_TIME_MAX.as_secs())]
    TooSlow,
    #[error("the content type {given:?} is not understood; send application/json or application/yaml")]
    MediaType { given: String },
    #[error("the body was cut off")]
    CutOff,
    #[error("the body is not UTF-8")]
    NotUtf8,
    #[error("the body is empty")]
    Empty,
    #[error("the body holds a NUL character, which nothing here can mean")]
    Nul,
    #[error("the body holds {given} documents where one is expected")]
    Many { given: usize },
    #[error("the body is not {format}: line {line}, column {column}: {message}")]
    Syntax {
        format: Format,
        line: u64,
        column: u64,
        message: String,
    },
}

/// Why data is not what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadDocument {
    pub(crate) pointer: String,
    pub(crate) resource: Option<String>,
    pub(crate) reason: String,
}

impl Format {
    pub(crate) fn from_content_type(given: &str) -> Result<Format, BadBody> {
        let essence = given
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        match essence.as_str() {
            "application/json" => Ok(Format::Json),
            "application/yaml" | "application/x-yaml" | "text/yaml" => Ok(Format::Yaml),
            _ => Err(BadBody::MediaType {
                given: given.to_owned(),
            }),
        }
    }
}

/// All documents of a body; YAML's may be many, and its empty ones do not count.
pub(crate) fn parse(format: Format, body: &[u8]) -> Result<Vec<Value>, BadBody> {
    let text = std::str::from_utf8(body).map_err(|_| BadBody::NotUtf8)?;
    if text.trim().is_empty() {
        return Err(BadBody::Empty);
    }
    let mut documents: Vec<Value> = match format {
        Format::Json => serde_json::from_str(text)
            .map(|value| vec![value])
            .map_err(|error| BadBody::Syntax {
                format,
                line: error.line() as u64,
                column: error.column() as u64,
                message: without_place(&error.to_string()),
            })?,
        Format::Yaml => serde_saphyr::from_multiple(text).map_err(|error| {
            let location = error.location();
            BadBody::Syntax {
                format,
                line: location.map_or(0, |at| at.line()),
                column: location.map_or(0, |at| at.column()),
                message: first_line(&error.without_snippet().to_string()),
            }
        })?,
    };
    if documents.iter().any(holds_nul) {
        return Err(BadBody::Nul);
    }
    documents.retain(|document| !document.is_null());
    if documents.is_empty() {
        return Err(BadBody::Empty);
    }
    Ok(documents)
}

pub(crate) fn parse_one(format: Format, body: &[u8]) -> Result<Value, BadBody> {
    let documents = parse(format, body)?;
    let given = documents.len();
    let mut documents = documents.into_iter();
    match (documents.next(), given) {
        (Some(document), 1) => Ok(document),
        _ => Err(BadBody::Many { given }),
    }
}

/// `at` is where the value stands in the body.
pub(crate) fn resource(value: Value, at: &str) -> Result<Document, BadDocument> {
    let Value::Object(mut fields) = value else {
        return Err(bad(at, None, BadResource::NotAnObject.to_string()));
    };
    let name = fields.get("name").and_then(Value::as_str).map(str::to_owned);
    let wrong = |field: &str, reason: &str| bad(&format!("{at}/{field}"), name.clone(), reason);
    let etag = match fields.remove("etag") {
        None | Some(Value::Null) => None,
        Some(Value::String(etag)) => Some(unquoted(&etag)),
        Some(_) => return Err(wrong("etag", "the ETag is not a string")),
    };
    let uid = match fields.remove("uid") {
        None | Some(Value::Null) => None,
        Some(uid) => Some(
            uid.as_str()
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| wrong("uid", "the uid is not a UUID"))?,
        ),
    };
    for field in SERVER_FIELDS {
        fields.remove(field);
    }
    let resource = Resource::from_json(Value::Object(fields)).map_err(|error| match &error {
        BadResource::Field { pointer, message } => bad(&format!("{at}{pointer}"), name.clone(), message),
        error => bad(at, name.clone(), error.to_string()),
    })?;
    Ok(Document {
        resource: Arc::new(resource),
        etag,
        uid,
    })
}

/// The body of `POST /v1/changes`: resources to apply, or one object with a list of `changes`. With `overwrite`,
/// resources need no ETag.
pub(crate) fn changes(documents: Vec<Value>, overwrite: bool) -> Result<Vec<Change>, BadDocument> {
    let changes = read_changes(documents, overwrite)?;
    if changes.len() > CHANGES_MAX {
        let reason = format!(
            "{} changes in one request; send at most {CHANGES_MAX}",
            changes.len()
        );
        return Err(bad("", None, reason));
    }
    Ok(changes)
}

fn read_changes(mut documents: Vec<Value>, overwrite: bool) -> Result<Vec<Change>, BadDocument> {
    if let [Value::Object(fields)] = documents.as_mut_slice()
        && let Some(changes) = fields.remove("changes")
    {
        if let Some(field) = fields.keys().next() {
            return Err(bad(
                &format!("/{field}"),
                None,
                format!("unknown field `{field}` beside `changes`"),
            ));
        }
        let Value::Array(changes) = changes else {
            return Err(bad("/changes", None, "changes is not a list"));
        };
        return each(changes, "/changes", |value, at| change(value, at, overwrite));
    }
    let apply = |value, at: &str| {
        let document = resource(value, at)?;
        Ok(document.into_change(ChangeVerb::Apply, overwrite))
    };
    match documents.as_mut_slice() {
        [Value::Array(list)] => each(std::mem::take(list), "", apply),
        [_] => apply(documents.remove(0), "").map(|change| vec![change]),
        _ => each(documents, "", apply),
    }
}

/// What of a body is about resources that may be read, and how many of its parts are not.
pub(crate) fn readable(mut documents: Vec<Value>, may_read: impl Fn(&Fqn) -> bool) -> (Vec<Value>, usize) {
    let mut hidden = 0;
    let mut keep_readable = |parts: &mut Vec<Value>| {
        let before = parts.len();
        parts.retain(|part| subject(part).is_some_and(|name| may_read(&name)));
        hidden += before - parts.len();
    };
    match documents.as_mut_slice() {
        [Value::Array(list)] => keep_readable(list),
        [Value::Object(fields)] if fields.contains_key("changes") => {
            if let Some(Value::Array(changes)) = fields.get_mut("changes") {
                keep_readable(changes);
            }
        }
        _ => keep_readable(&mut documents),
    }
    (documents, hidden)
}

/// Of a resource, a change or a rollback.
fn subject(part: &Value) -> Option<Fqn> {
    let places = ["/name", "/resource/name", "/rollback/name"];
    let mut names = places.iter().filter_map(|place| part.pointer(place));
    names.next()?.as_str()?.parse().ok()
}

/// Header and document write ETags with and without quotes.
pub(crate) fn unquoted(etag: &str) -> String {
    etag.trim().trim_matches('"').to_owned()
}

impl Document {
    fn into_change(self, verb: impl FnOnce(Arc<Resource>, IfMatch) -> ChangeVerb, overwrite: bool) -> Change {
        Change {
            name: self.resource.name.clone(),
            verb: verb(self.resource, if_match(self.etag, overwrite)),
            uid: self.uid,
        }
    }
}

fn change(value: Value, at: &str, overwrite: bool) -> Result<Change, BadDocument> {
    let Value::Object(mut fields) = value else {
        return Err(bad(
            at,
            None,
            "a change is not an object with op and resource or name",
        ));
    };
    let op =
        text(&mut fields, "op", at)?.ok_or_else(|| bad(&format!("{at}/op"), None, "missing field `op`"))?;
    let etag = text(&mut fields, "etag", at)?.map(|etag| unquoted(&etag));
    let change = if op == "delete" {
        let name = text(&mut fields, "name", at)?
            .ok_or_else(|| bad(&format!("{at}/name"), None, "missing field `name`"))?;
        let parsed: Fqn = name
            .parse()
            .map_err(|error| bad(&format!("{at}/name"), Some(name.clone()), format!("{error}")))?;
        Change {
            name: parsed,
            verb: ChangeVerb::Delete(if_match(etag, overwrite)),
            uid: None,
        }
    } else {
        let value = fields
            .remove("resource")
            .ok_or_else(|| bad(&format!("{at}/resource"), None, "missing field `resource`"))?;
        let mut document = resource(value, &format!("{at}/resource"))?;
        document.etag = etag.or(document.etag);
        match op.as_str() {
            "create" => document.into_change(|resource, _| ChangeVerb::Create(resource), overwrite),
            "update" => document.into_change(ChangeVerb::Update, overwrite),
            "apply" => document.into_change(ChangeVerb::Apply, overwrite),
            _ => {
                let reason = format!("unknown op {op:?}; expected apply, create, update or delete");
                return Err(bad(&format!("{at}/op"), None, reason));
            }
        }
    };
    match fields.keys().next() {
        Some(field) => Err(bad(
            &format!("{at}/{field}"),
            None,
            format!("unknown field `{field}`"),
        )),
        None => Ok(change),
    }
}

fn if_match(etag: Option<String>, overwrite: bool) -> IfMatch {
    match etag {
        Some(etag) => IfMatch::Etag(etag),
        None if overwrite => IfMatch::Any,
        None => IfMatch::Missing,
    }
}

fn each(
    values: Vec<Value>,
    at: &str,
    read: impl Fn(Value, &str) -> Result<Change, BadDocument>,
) -> Result<Vec<Change>, BadDocument> {
    let numbered = values.into_iter().enumerate();
    numbered
        .map(|(index, value)| read(value, &format!("{at}/{index}")))
        .collect()
}

fn text(fields: &mut Map<String, Value>, field: &str, at: &str) -> Result<Option<String>, BadDocument> {
    match fields.remove(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(bad(
            &format!("{at}/{field}"),
            None,
            format!("{field} is not a string"),
        )),
    }
}

fn bad(pointer: &str, resource: Option<String>, reason: impl Into<String>) -> BadDocument {
    BadDocument {
        pointer: pointer.to_owned(),
        resource,
        reason: reason.into(),
    }
}

/// Postgres stores no NUL in text.
fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(holds_nul),
        Value::Object(fields) => fields
            .iter()
            .any(|(key, value)| key.contains('\0') || holds_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// serde_json repeats the place that we tell already.
fn without_place(text: &str) -> String {
    text.split(" at line ").next().unwrap_or(text).to_owned()
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Json => "JSON",
            Format::Yaml => "YAML",
        })
    }
}

impl fmt::Display for BadDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(resource) = &self.resource {
            write!(f, "{resource}: ")?;
        }
        if !self.pointer.is_empty() {
            write!(f, "{}: ", self.pointer)?;
        }
        f.write_str(&self.reason)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    const TENANT: &str = "organizations/acme/tenants/pay";

    fn read(format: Format, text: &str) -> Result<Vec<Change>, String> {
        let documents = parse(format, text.as_bytes()).map_err(|error| error.to_string())?;
        changes(documents, false).map_err(|error| error.to_string())
    }

    #[test]
    fn what_was_got_can_be_applied() {
        let text = format!(
            "kind: Tenant\nname: {TENANT}\nuid: 0190a0b0-0000-7000-8000-000000000000\netag: '\"ab\"'\nrevision: 4\n\
             createTime: x\nupdateTime: y\nspec: {{}}\n---\n---\nname: {TENANT}2\n"
        );
        let changes = read(Format::Yaml, &text).unwrap();
        assert_eq!(changes.len(), 2);
        assert!(matches!(&changes[0].verb, ChangeVerb::Apply(_, IfMatch::Etag(etag)) if etag == "ab"));
        assert!(changes[0].uid.is_some());
        assert!(matches!(&changes[1].verb, ChangeVerb::Apply(_, IfMatch::Missing)));
    }

    #[test]
    fn the_three_forms_of_changes() {
        let list = format!(r#"[{{"name": "{TENANT}"}}]"#);
        let one = format!(r#"{{"name": "{TENANT}"}}"#);
        let ops = format!(
            r#"{{"changes": [{{"op": "create", "resource": {one}}}, {{"op": "delete", "name": "{TENANT}/bindings/b", "etag": "x"}}]}}"#
        );
        assert_eq!(read(Format::Json, &list), read(Format::Json, &one));
        let changes = read(Format::Json, &ops).unwrap();
        assert!(matches!(changes[0].verb, ChangeVerb::Create(_)));
        assert!(matches!(&changes[1].verb, ChangeVerb::Delete(IfMatch::Etag(etag)) if etag == "x"));
    }

    #[test]
    fn bad_bodies_say_where_and_what() {
        for (format, text, expected) in [
            (Format::Json, "", "the body is empty"),
            (Format::Yaml, "---\n---\n", "the body is empty"),
            (
                Format::Json,
                "{\n  \"name\": }",
                "the body is not JSON: line 2, column 11: expected value",
            ),
            (
                Format::Yaml,
                "name: a\nspec: [1, 2\n",
                "the body is not YAML: line ",
            ),
            (Format::Yaml, "name: a\nname: b\n", "the body is not YAML: line 2"),
            (Format::Json, "[1]", "/0: the document is not an object"),
            (
                Format::Json,
                r#"{"changes": 1}"#,
                "/changes: changes is not a list",
            ),
            (
                Format::Json,
                r#"{"changes": [], "x": 1}"#,
                "/x: unknown field `x` beside `changes`",
            ),
            (
                Format::Json,
                r#"{"changes": [{}]}"#,
                "/changes/0/op: missing field `op`",
            ),
            (
                Format::Json,
                r#"{"changes": [{"op": "delete"}]}"#,
                "/changes/0/name: missing field `name`",
            ),
            (
                Format::Json,
                r#"{"changes": [{"op": "explode", "resource": {"name": "organizations/acme"}}]}"#,
                "unknown op \"explode\"; expected apply, create, update or delete",
            ),
            (
                Format::Json,
                r#"{"changes": [{"op": "delete", "name": "organizations/acme", "nmae": 1}]}"#,
                "/changes/0/nmae: unknown field `nmae`",
            ),
            (
                Format::Yaml,
                "name: organizations/acme\n---\nname: organizations/acme/tenants/pay\nspec: {color: red}\n",
                "organizations/acme/tenants/pay: /1/spec/color: unknown field `color`",
            ),
            (
                Format::Json,
                r#"{"kind": "Workspace", "name": "organizations/acme/tenants/pay"}"#,
                "kind is Workspace but organizations/acme/tenants/pay is a Tenant",
            ),
            (
                Format::Json,
                r#"{"name": "tenants/pay"}"#,
                "expected organizations",
            ),
            (
                Format::Json,
                r#"{"name": "organizations/acme", "uid": "x"}"#,
                "/uid: the uid is not a UUID",
            ),
            (
                Format::Json,
                r#"{"name": "organizations/acme", "etag": 1}"#,
                "the ETag is not a string",
            ),
        ] {
            let error = read(format, text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        assert_eq!(parse(Format::Json, &[0xff]), Err(BadBody::NotUtf8));
        assert_eq!(parse(Format::Json, br#"[{"a": "\u0000"}]"#), Err(BadBody::Nul));
        let many = vec![serde_json::json!({"name": TENANT}); CHANGES_MAX + 1];
        let error = changes(many, false).unwrap_err().to_string();
        assert_eq!(error, "1001 changes in one request; send at most 1000");
    }

    #[test]
    fn media_types_are_read_without_their_parameters() {
        assert_eq!(
            Format::from_content_type("application/json; charset=utf-8"),
            Ok(Format::Json)
        );
        assert_eq!(Format::from_content_type("Application/YAML"), Ok(Format::Yaml));
        let error = Format::from_content_type("text/html").unwrap_err();
        assert!(
            error
                .to_string()
                .contains("send application/json or application/yaml")
        );
    }

    #[test]
    fn of_a_body_only_what_may_be_read_is_left() {
        let (mine, other) = (
            "organizations/acme/tenants/mine",
            "organizations/acme/tenants/other",
        );
        let named = |name: &str| json!({ "name": name });
        let change = |name: &str| json!({"op": "apply", "resource": {"name": name}});
        let rollback = |name: &str| json!({"rollback": {"name": name, "revision": 1}});
        for (documents, left, hidden) in [
            (vec![named(mine)], vec![named(mine)], 0),
            (vec![named(other), named(mine)], vec![named(mine)], 1),
            (
                vec![json!([named(mine), named(other)])],
                vec![json!([named(mine)])],
                1,
            ),
            (
                vec![json!({"changes": [change(other), change(mine), {"op": "delete", "name": other}]})],
                vec![json!({"changes": [change(mine)]})],
                2,
            ),
            (vec![rollback(mine)], vec![rollback(mine)], 0),
            (vec![rollback(other)], vec![], 1),
            (vec![json!({"spec": {}})], vec![], 1),
        ] {
            let told = format!("{documents:?}");
            assert_eq!(
                readable(documents, |name| name.as_str() == mine),
                (left, hidden),
                "{told}"
            );
        }
    }
}

//! Envoy's messages from their form in JSON (proto3's), as bytes of protobuf that the decoders take. All that is wrong is told, with
//! its path. What a file says in another way than a stream does is told in the stream's way: tables of routes stand by
//! themselves, files are read, and secrets are named.

use std::borrow::Cow;
use std::path::PathBuf;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use prost::encoding::encode_key;
use serde_json::{Map, Value, json};

use super::Problem;
use super::schema::{Field, Kind, Label, Schema, Type};
use super::stamp::{Stamp, read_bounded};
use value::{Scalar, delimited, duration, enumerated, list, named, of_struct, scalar, shape, structure};

mod value;

/// Of a certificate, a key or a set of keys: a thousand times what one of them has.
const INCLUDED_BYTES_MAX: u64 = 4 << 20;

const MANAGER: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTES: &str = "envoy.config.route.v3.RouteConfiguration";
const SECRET_NAME: &str = "envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig";
const DATA: &str = "envoy.config.core.v3.DataSource";

/// A value of a map that is an empty message, which prost leaves out.
const NOTHING_SAID: [u8; 2] = [2 << 3 | 2, 0];

/// The fields that name something else of the file.
const MENTIONS: [(&str, &str, Mentioned); 8] = [
    ("envoy.config.route.v3.RouteAction", "cluster", Mentioned::Cluster),
    (
        "envoy.config.route.v3.RouteAction.RequestMirrorPolicy",
        "cluster",
        Mentioned::Cluster,
    ),
    (
        "envoy.config.route.v3.WeightedCluster.ClusterWeight",
        "name",
        Mentioned::Cluster,
    ),
    (
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "cluster",
        Mentioned::Cluster,
    ),
    (
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster.ClusterWeight",
        "name",
        Mentioned::Cluster,
    ),
    (
        "envoy.config.core.v3.GrpcService.EnvoyGrpc",
        "cluster_name",
        Mentioned::Cluster,
    ),
    ("envoy.config.core.v3.HttpUri", "cluster", Mentioned::Cluster),
    (SECRET_NAME, "name", Mentioned::Secret),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mentioned {
    Cluster,
    Secret,
}

/// What something else of the file was named as.
#[derive(Debug)]
pub(super) struct Mention {
    pub(super) what: Mentioned,
    pub(super) name: String,
    pub(super) path: String,
}

/// A table of routes that stood where it is used.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) path: String,
    pub(super) body: Vec<u8>,
}

pub(super) struct Encoder {
    schema: Schema,
    /// Of the listener whose tables are found now.
    pub(super) owner: String,
    pub(super) tables: Vec<Table>,
    pub(super) mentions: Vec<Mention>,
    pub(super) problems: Vec<Problem>,
    /// What was read besides, as it was just before.
    pub(super) included: Vec<(PathBuf, Stamp)>,
    owned_tables: usize,
}

impl Encoder {
    pub(super) fn new() -> Self {
        Self {
            schema: Schema::read(),
            owner: String::new(),
            tables: Vec::new(),
            mentions: Vec::new(),
            problems: Vec::new(),
            included: Vec::new(),
            owned_tables: 0,
        }
    }

    /// From here on tables are those of that listener.
    pub(super) fn begin(&mut self, owner: &str) {
        owner.clone_into(&mut self.owner);
        self.owned_tables = 0;
    }

    pub(super) fn problem(&mut self, path: &str, reason: impl Into<String>) {
        self.problems.push(Problem {
            path: path.to_owned(),
            reason: reason.into(),
        });
    }

    /// What `value` says is one of these messages. What is wrong with it is left out, and told.
    pub(super) fn message(&mut self, name: &str, value: &Value, path: &str) -> Vec<u8> {
        match name.strip_prefix("google.protobuf.") {
            Some("Any") => return self.any(value, path),
            Some("Duration") => return self.taken(duration(value), path),
            Some("Struct") => return self.taken(structure(value), path),
            Some("Value") => return of_struct(value),
            Some("ListValue") => return self.taken(list(value), path),
            Some(wrapper) if wrapper.ends_with("Value") => return self.wrapped(name, value, path),
            _ => {}
        }
        let Value::Object(object) = value else {
            self.problem(path, format!("must be an object, not {}", shape(value)));
            return Vec::new();
        };
        let object = self.told_as_a_stream_does(name, object, path);
        self.fields(name, &object, path)
    }

    /// Which value of an enum it is, if it is one.
    pub(super) fn named(&self, name: &str, value: &Value) -> Option<&'static str> {
        match self.schema.get(name)? {
            Type::Enum(values) => named(values, value).map(|(name, _)| name),
            Type::Message(_) => None,
        }
    }

    fn fields(&mut self, name: &str, object: &Map<String, Value>, path: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let mut numbers = Vec::new();
        let mut groups = Vec::new();
        for (key, value) in object {
            let path = format!("{path}.{key}");
            let Some(Type::Message(fields)) = self.schema.get(name) else {
                self.problem(&path, format!("{name} is not supported by this proxy"));
                continue;
            };
            let Some(field) = fields.iter().find(|field| field.is_called(key)).copied() else {
                let short = name.rsplit_once('.').map_or(name, |(_, short)| short);
                self.problem(&path, format!("{short} has no such field"));
                continue;
            };
            // As if it were not there, in proto3's JSON.
            if value.is_null() && field.kind != Kind::Named("google.protobuf.Value") {
                continue;
            }
            if numbers.contains(&field.number) {
                self.problem(&path, "is said twice");
                continue;
            }
            numbers.push(field.number);
            if let Label::OneOf(group) = field.label {
                if let Some((_, other)) = groups.iter().find(|(held, _)| *held == group) {
                    self.problem(&path, format!("excludes {other}, which stands beside it"));
                    continue;
                }
                groups.push((group, field.name));
            }
            self.field(&mut out, field, value, &path);
            let named = MENTIONS
                .iter()
                .find(|(of, mention, _)| *of == name && *mention == field.name);
            if let (Some((_, _, what)), Some(name)) = (named, value.as_str()) {
                self.mentions.push(Mention {
                    what: *what,
                    name: name.to_owned(),
                    path,
                });
            }
        }
        out
    }

    fn field(&mut self, out: &mut Vec<u8>, field: Field, value: &Value, path: &str) {
        match field.label {
            Label::Single | Label::Optional | Label::OneOf(_) => {
                let keeps_default = field.label != Label::Single;
                self.one(out, field, value, keeps_default, path);
            }
            Label::Repeated => {
                let Value::Array(values) = value else {
                    self.problem(path, format!("must be a list, not {}", shape(value)));
                    return;
                };
                self.repeated(out, field, values, path);
            }
            Label::Map => {
                let Value::Object(entries) = value else {
                    self.problem(path, format!("must be an object, not {}", shape(value)));
                    return;
                };
                for (key, value) in entries {
                    let path = format!("{path}[{key}]");
                    self.entry(out, field, key, value, &path);
                }
            }
        }
    }

    fn repeated(&mut self, out: &mut Vec<u8>, field: Field, values: &[Value], path: &str) {
        let mut packed = Vec::new();
        for (index, value) in values.iter().enumerate() {
            let path = format!("{path}[{index}]");
            match self.scalar(field.kind, value, &path) {
                None => {
                    let Kind::Named(name) = field.kind else { continue };
                    let body = self.message(name, value, &path);
                    delimited(out, field.number, &body);
                }
                Some(None) => {}
                Some(Some(Scalar::Bytes(bytes))) => delimited(out, field.number, &bytes),
                Some(Some(number)) => number.put(&mut packed),
            }
        }
        if !packed.is_empty() {
            delimited(out, field.number, &packed);
        }
    }

    /// Keys of Envoy's maps are strings.
    fn entry(&mut self, out: &mut Vec<u8>, field: Field, key: &str, value: &Value, path: &str) {
        let Kind::Named(entry) = field.kind else { return };
        let Some(Type::Message(members)) = self.schema.get(entry) else {
            return;
        };
        let Some(of_value) = members.iter().find(|member| member.number == 2).copied() else {
            return;
        };
        let mut body = Vec::new();
        if !key.is_empty() {
            delimited(&mut body, 1, key.as_bytes());
        }
        let mut said = Vec::new();
        self.one(&mut said, of_value, value, false, path);
        if said != NOTHING_SAID {
            body.extend(said);
        }
        delimited(out, field.number, &body);
    }

    fn one(&mut self, out: &mut Vec<u8>, field: Field, value: &Value, keeps_default: bool, path: &str) {
        match self.scalar(field.kind, value, path) {
            None => {
                let Kind::Named(name) = field.kind else { return };
                let body = self.message(name, value, path);
                delimited(out, field.number, &body);
            }
            Some(None) => {}
            Some(Some(scalar)) if scalar.is_default() && !keeps_default => {}
            Some(Some(scalar)) => {
                encode_key(field.number, scalar.wire_type(), out);
                scalar.put(out);
            }
        }
    }

    /// `None` for what is a message; nothing of what is wrong, which is told.
    fn scalar(&mut self, kind: Kind, value: &Value, path: &str) -> Option<Option<Scalar>> {
        let read = match kind {
            Kind::Named(name) => match self.schema.get(name) {
                Some(Type::Enum(values)) => enumerated(values, value),
                _ => return None,
            },
            kind => scalar(kind, value),
        };
        match read {
            Ok(scalar) => Some(Some(scalar)),
            Err(reason) => {
                self.problem(path, reason);
                Some(None)
            }
        }
    }

    fn wrapped(&mut self, name: &str, value: &Value, path: &str) -> Vec<u8> {
        let mut out = Vec::new();
        match self.schema.get(name) {
            Some(Type::Message(fields)) => {
                if let Some(field) = fields.first().copied() {
                    self.one(&mut out, field, value, false, path);
                }
            }
            _ => self.problem(path, format!("{name} is not supported by this proxy")),
        }
        out
    }

    fn any(&mut self, value: &Value, path: &str) -> Vec<u8> {
        let Some(mut object) = value.as_object().cloned() else {
            self.problem(path, format!("must be an object, not {}", shape(value)));
            return Vec::new();
        };
        let Some(Value::String(url)) = object.remove("@type") else {
            self.problem(path, "must say its \"@type\"");
            return Vec::new();
        };
        let name = url.rsplit_once('/').map_or(&*url, |(_, name)| name);
        if !matches!(self.schema.get(name), Some(Type::Message(_))) {
            self.problem(path, format!("{url} is not supported by this proxy"));
            return Vec::new();
        }
        let body = match object.get("value") {
            // Those that are no objects in JSON.
            Some(value) if name.starts_with("google.protobuf.") => self.message(name, value, path),
            _ => self.message(name, &Value::Object(object), path),
        };
        let mut out = Vec::new();
        delimited(&mut out, 1, url.as_bytes());
        if !body.is_empty() {
            delimited(&mut out, 2, &body);
        }
        out
    }

    fn taken(&mut self, read: Result<Vec<u8>, String>, path: &str) -> Vec<u8> {
        read.unwrap_or_else(|reason| {
            self.problem(path, reason);
            Vec::new()
        })
    }

    fn told_as_a_stream_does<'a>(
        &mut self,
        name: &str,
        object: &'a Map<String, Value>,
        path: &str,
    ) -> Cow<'a, Map<String, Value>> {
        match name {
            MANAGER => self.manager(object, path),
            SECRET_NAME => {
                let mut object = object.clone();
                if object.contains_key("sds_config") || object.contains_key("sdsConfig") {
                    self.problem(
                        &format!("{path}.sds_config"),
                        "is not supported in a file: a secret is one of static_resources.secrets, or stands here",
                    );
                }
                object.remove("sdsConfig");
                object.insert("sds_config".to_owned(), over_ads());
                Cow::Owned(object)
            }
            DATA if object.contains_key("filename") => {
                let mut object = object.clone();
                if let Some(file) = object.remove("filename") {
                    let (form, read) = self.included(&file, &format!("{path}.filename"));
                    object.insert(form.to_owned(), read);
                }
                Cow::Owned(object)
            }
            _ => Cow::Borrowed(object),
        }
    }

    /// One whose table has a name, and stands elsewhere.
    fn manager<'a>(&mut self, object: &'a Map<String, Value>, path: &str) -> Cow<'a, Map<String, Value>> {
        let mut object = Cow::Borrowed(object);
        if object.contains_key("rds") {
            self.problem(
                &format!("{path}.rds"),
                "is not supported in a file: routes stand in route_config",
            );
            object.to_mut().remove("rds");
        }
        let spelt = ["route_config", "routeConfig"];
        let Some(key) = spelt.into_iter().find(|key| object.contains_key(*key)) else {
            self.problem(&format!("{path}.route_config"), "is required");
            return object;
        };
        let path = format!("{path}.{key}");
        let name = format!("{}/{}", self.owner, self.owned_tables);
        self.owned_tables += 1;
        if let Some(Value::Object(mut table)) = object.to_mut().remove(key) {
            table.insert("name".to_owned(), json!(name));
            let body = self.message(ROUTES, &Value::Object(table), &path);
            self.tables.push(Table {
                name: name.clone(),
                path,
                body,
            });
        } else {
            self.problem(&path, "must be an object");
        }
        let rds = json!({ "route_config_name": name, "config_source": over_ads() });
        let said = ["server_header_transformation", "serverHeaderTransformation"];
        let object = object.to_mut();
        object.insert("rds".to_owned(), rds);
        // What a file does not say need not be Envoy's default, which there is none of here.
        if !said.into_iter().any(|key| object.contains_key(key)) {
            object.insert(said[0].to_owned(), json!("PASS_THROUGH"));
        }
        Cow::Owned(std::mem::take(object))
    }

    /// What a file holds, and how that is said.
    fn included(&mut self, file: &Value, path: &str) -> (&'static str, Value) {
        let nothing = ("inline_string", json!(""));
        let Some(file) = file.as_str() else {
            self.problem(path, format!("must be a string, not {}", shape(file)));
            return nothing;
        };
        let file = PathBuf::from(file);
        let stamp = Stamp::of(&file);
        let read = read_bounded(&file, INCLUDED_BYTES_MAX);
        self.included.push((file, stamp));
        match read.map(String::from_utf8) {
            Ok(Ok(text)) => ("inline_string", Value::String(text)),
            Ok(Err(bytes)) => (
                "inline_bytes",
                Value::String(BASE64_STANDARD.encode(bytes.as_bytes())),
            ),
            Err(error) => {
                self.problem(path, format!("cannot be read: {error}"));
                nothing
            }
        }
    }
}

/// How a stream says that it says something.
pub(super) fn over_ads() -> Value {
    json!({ "ads": {}, "resource_api_version": "V3" })
}

#[cfg(test)]
mod tests;

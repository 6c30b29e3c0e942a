//! A configuration from a file instead of an edge: the `static_resources` of an Envoy's, in YAML or JSON. It becomes the resources
//! that an edge would send, and is decoded as these are, so that nothing is taken that a stream would be refused for.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::Hasher;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use twox_hash::XxHash64;

use crate::config::ResourceKind;
use crate::decode::{RawResource, Rejection, Resources, Update, joined};
use json::{Encoder, Mentioned, over_ads};
use stamp::{Stamp, read_bounded};

pub(crate) use watch::{Watched, from_file};

mod json;
mod schema;
mod stamp;
mod watch;

/// Of a file: ten thousand clusters with their routes are a tenth of it.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Of a file's values, which have 16 bytes each at least where they are alone on a line.
const VALUES_MAX: usize = 4 << 20;
/// What is told of a file that is wrong throughout.
const PROBLEMS_MAX: usize = 50;

/// Why nothing, or nothing else than before, is run from a file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot read the configuration {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the configuration {path} is neither YAML nor JSON: {reason}")]
    Malformed { path: PathBuf, reason: String },
    #[error("the configuration {path} cannot be run:{}", listed(.problems))]
    Refused { path: PathBuf, problems: Vec<Problem> },
}

/// What is wrong, and where in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub path: String,
    pub reason: String,
}

/// What a file that can be run has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    pub listeners: usize,
    pub route_tables: usize,
    pub clusters: usize,
    pub secrets: usize,
}

/// What a file says, as an edge would.
struct Said {
    resources: BTreeMap<ResourceKind, Vec<(String, RawResource)>>,
    /// Where each of them stands.
    paths: HashMap<(ResourceKind, String), String>,
    /// What could not be encoded.
    problems: Vec<Problem>,
    /// What is named, and is not there.
    missing: Vec<Problem>,
    /// What was read besides the file.
    included: Vec<(PathBuf, Stamp)>,
}

/// Whether a proxy could run the file, as far as that can be known without running it.
///
/// # Errors
/// It cannot: with all that is wrong.
pub fn check(path: &Path) -> Result<Checked, FileError> {
    let resources = read(path).and_then(|said| said.resolve(&Resources::default(), path))?;
    let config = resources.config();
    Ok(Checked {
        listeners: config.listeners.iter().count(),
        route_tables: config.routes.iter().count(),
        clusters: config.clusters.iter().count(),
        secrets: config.secrets.iter().count(),
    })
}

fn read(path: &Path) -> Result<Said, FileError> {
    let bytes = read_bounded(path, FILE_BYTES_MAX).map_err(|source| FileError::Read {
        path: path.to_owned(),
        source,
    })?;
    let malformed = |reason: String| FileError::Malformed {
        path: path.to_owned(),
        reason,
    };
    let text = String::from_utf8(bytes).map_err(|error| malformed(error.to_string()))?;
    parse(&text).map(|value| said(&value)).map_err(malformed)
}

/// JSON is YAML too.
fn parse(text: &str) -> Result<Value, String> {
    let mut options = serde_saphyr::Options::default();
    options.with_snippet = false;
    if let Some(budget) = &mut options.budget {
        budget.max_events = 3 * VALUES_MAX;
        budget.max_nodes = VALUES_MAX;
        budget.max_merge_keys = VALUES_MAX;
        budget.max_aliases = VALUES_MAX;
        budget.max_recorded_anchor_events = VALUES_MAX;
        // One that many share is what anchors are for; what comes of it counts with the other values.
        budget.enforce_alias_anchor_ratio = false;
    }
    options.alias_limits.max_total_replayed_events = 3 * VALUES_MAX;
    serde_saphyr::from_str_with_options(text, options).map_err(|error| error.to_string())
}

/// All that a file says and all that is wrong with that, as far as it can be seen without decoding it.
fn said(file: &Value) -> Said {
    let mut encoder = Encoder::new();
    let mut said = Said {
        resources: ResourceKind::ALL
            .into_iter()
            .map(|kind| (kind, Vec::new()))
            .collect(),
        paths: HashMap::new(),
        problems: Vec::new(),
        missing: Vec::new(),
        included: Vec::new(),
    };
    let all = resources_of(file, &mut encoder);
    for (key, value) in all.into_iter().flatten() {
        let path = format!("static_resources.{key}");
        let add = match key.as_str() {
            "listeners" => add_listener,
            "clusters" => add_cluster,
            "secrets" => add_secret,
            _ => {
                encoder.problem(
                    &path,
                    "there is no such field: use listeners, clusters and secrets",
                );
                continue;
            }
        };
        let Value::Array(values) = value else {
            encoder.problem(&path, "must be a list");
            continue;
        };
        for (index, value) in values.iter().enumerate() {
            let path = format!("{path}[{index}]");
            match value {
                Value::Object(object) => add(&mut said, &mut encoder, object, &path),
                _ => encoder.problem(&path, "must be an object"),
            }
        }
    }
    for table in std::mem::take(&mut encoder.tables) {
        said.add(
            &mut encoder,
            ResourceKind::Routes,
            &table.name,
            &table.path,
            table.body,
        );
    }
    for mention in std::mem::take(&mut encoder.mentions) {
        let (kind, what) = match mention.what {
            Mentioned::Cluster => (ResourceKind::Cluster, "clusters"),
            Mentioned::Secret => (ResourceKind::Secret, "secrets"),
        };
        // A name that is missing is the decoder's to miss.
        if !mention.name.is_empty() && !said.paths.contains_key(&(kind, mention.name.clone())) {
            said.missing.push(Problem {
                path: mention.path,
                reason: format!("{:?} is none of static_resources.{what}", mention.name),
            });
        }
    }
    said.problems = encoder.problems;
    said.included = encoder.included;
    said
}

fn resources_of<'a>(file: &'a Value, encoder: &mut Encoder) -> Option<&'a Map<String, Value>> {
    let Value::Object(file) = file else {
        encoder.problem("static_resources", "is required");
        return None;
    };
    for key in file.keys().filter(|key| *key != "static_resources") {
        let reason = match key.as_str() {
            "admin" => "is not read from a file: use --admin",
            "node" => "is not read from a file: nobody is told",
            "dynamic_resources" => "is not read from a file: without --config, an edge is followed",
            "overload_manager" => "is not read from a file: the proxy finds its limits itself",
            _ => "is not supported by this proxy",
        };
        encoder.problem(key, reason);
    }
    match file.get("static_resources") {
        Some(Value::Object(all)) => Some(all),
        Some(_) => {
            encoder.problem("static_resources", "must be an object");
            None
        }
        None => {
            encoder.problem("static_resources", "is required");
            None
        }
    }
}

fn add_listener(said: &mut Said, encoder: &mut Encoder, object: &Map<String, Value>, path: &str) {
    let Some(name) = name_of(encoder, object, path) else {
        return;
    };
    encoder.begin(&name);
    let kind = ResourceKind::Listener;
    let body = encoder.message("envoy.config.listener.v3.Listener", &json!(object), path);
    said.add(encoder, kind, &name, path, body);
}

/// One whose hosts stand with it, and are told apart from it.
fn add_cluster(said: &mut Said, encoder: &mut Encoder, object: &Map<String, Value>, path: &str) {
    let Some(name) = name_of(encoder, object, path) else {
        return;
    };
    let mut object = object.clone();
    let hosts = ["load_assignment", "loadAssignment"]
        .into_iter()
        .find_map(|key| object.remove(key).map(|hosts| (key, hosts)));
    let is_custom = ["cluster_type", "clusterType"]
        .into_iter()
        .any(|key| object.remove(key).is_some());
    let kind = match object.get("type") {
        None | Some(Value::Null) => Some("STATIC"),
        Some(kind) => encoder.named("envoy.config.cluster.v3.Cluster.DiscoveryType", kind),
    };
    match kind {
        Some("STATIC") if !is_custom => {
            for key in ["eds_cluster_config", "edsClusterConfig"] {
                if object.remove(key).is_some_and(|eds| !eds.is_null()) {
                    let reason = "has no place beside STATIC, whose hosts stand with it";
                    encoder.problem(&format!("{path}.{key}"), reason);
                }
            }
            object.insert("type".to_owned(), json!("EDS"));
            object.insert(
                "eds_cluster_config".to_owned(),
                json!({ "eds_config": over_ads() }),
            );
        }
        Some("ORIGINAL_DST") if !is_custom => {
            if hosts.is_some() {
                let reason = "has no place beside ORIGINAL_DST, whose hosts are those of its clients";
                encoder.problem(&format!("{path}.load_assignment"), reason);
            }
        }
        _ => {
            let reason = "only STATIC and ORIGINAL_DST are supported: hosts are given by their IP addresses";
            encoder.problem(&format!("{path}.type"), reason);
        }
    }
    if let Some((key, mut hosts)) = hosts {
        let path = format!("{path}.{key}");
        if let Value::Object(hosts) = &mut hosts {
            hosts.remove("clusterName");
            hosts.insert("cluster_name".to_owned(), json!(name));
        }
        let body = encoder.message("envoy.config.endpoint.v3.ClusterLoadAssignment", &hosts, &path);
        said.add(encoder, ResourceKind::Endpoints, &name, &path, body);
    }
    let body = encoder.message("envoy.config.cluster.v3.Cluster", &json!(object), path);
    said.add(encoder, ResourceKind::Cluster, &name, path, body);
}

fn add_secret(said: &mut Said, encoder: &mut Encoder, object: &Map<String, Value>, path: &str) {
    let Some(name) = name_of(encoder, object, path) else {
        return;
    };
    let kind = ResourceKind::Secret;
    let body = encoder.message(
        "envoy.extensions.transport_sockets.tls.v3.Secret",
        &json!(object),
        path,
    );
    said.add(encoder, kind, &name, path, body);
}

fn name_of(encoder: &mut Encoder, object: &Map<String, Value>, path: &str) -> Option<String> {
    match object.get("name").and_then(Value::as_str) {
        Some(name) if !name.is_empty() => Some(name.to_owned()),
        _ => {
            encoder.problem(&format!("{path}.name"), "is required");
            None
        }
    }
}

impl Said {
    fn add(&mut self, encoder: &mut Encoder, kind: ResourceKind, name: &str, path: &str, body: Vec<u8>) {
        let key = (kind, name.to_owned());
        if let Some(other) = self.paths.get(&key) {
            encoder.problem(
                &format!("{path}.name"),
                format!("{name:?} is the name of {other} too"),
            );
            return;
        }
        self.paths.insert(key, path.to_owned());
        let raw = RawResource {
            version: version(&body),
            body,
        };
        self.resources
            .entry(kind)
            .or_default()
            .push((name.to_owned(), raw));
    }

    /// What runs instead of `held`, which keeps what is the same, or all that is wrong.
    fn resolve(self, held: &Resources, path: &Path) -> Result<Resources, FileError> {
        let mut next = held.clone();
        let mut rejected = Vec::new();
        for (kind, resources) in self.resources {
            let gone = held.held(kind).map(|(name, _)| name.to_string());
            let gone = gone.filter(|name| !self.paths.contains_key(&(kind, name.clone())));
            let update = Update {
                kind,
                removed: gone.collect(),
                resources,
            };
            match next.with(&update) {
                Ok(with) => next = with,
                Err(rejections) => {
                    let told = rejections
                        .iter()
                        .map(|rejection| told(&self.paths, kind, rejection));
                    rejected.extend(told);
                }
            }
        }
        // What could not be encoded is missing in what was decoded.
        let mut problems = self.problems;
        rejected.retain(|told| !problems.iter().any(|known| told.is_of(known)));
        problems.extend(rejected);
        problems.extend(self.missing);
        if problems.is_empty() {
            return Ok(next);
        }
        Err(FileError::Refused {
            path: path.to_owned(),
            problems,
        })
    }
}

impl Problem {
    /// Whether it may be about nothing else than `known`: something in the same resource.
    fn is_of(&self, known: &Self) -> bool {
        let resource = |path: &str| path.split('.').take(2).collect::<Vec<_>>().join(".");
        resource(&self.path) == resource(&known.path)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.reason)
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            listeners,
            route_tables,
            clusters,
            secrets,
        } = self;
        write!(
            f,
            "listeners: {listeners}, route tables: {route_tables}, clusters: {clusters}, secrets: {secrets}"
        )
    }
}

/// With the place in the file, in place of the name.
fn told(
    paths: &HashMap<(ResourceKind, String), String>,
    kind: ResourceKind,
    rejection: &Rejection,
) -> Problem {
    let path = paths.get(&(kind, rejection.name.clone()));
    let whole = joined(path.unwrap_or(&rejection.name), &rejection.reason);
    let (path, reason) = whole.split_once(": ").unwrap_or((&whole, ""));
    Problem {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}

/// The same for what is the same.
fn version(body: &[u8]) -> String {
    let mut hasher = XxHash64::with_seed(0);
    hasher.write(body);
    format!("{:016x}", hasher.finish())
}

fn listed(problems: &[Problem]) -> String {
    let shown = problems.iter().take(PROBLEMS_MAX);
    let mut listed: String = shown.map(|problem| format!("\n  {problem}")).collect();
    if let Some(more @ 1..) = problems.len().checked_sub(PROBLEMS_MAX) {
        listed.push_str(&format!("\n  and {more} more"));
    }
    listed
}

#[cfg(test)]
pub(crate) use tests::{encoded, parsed};

#[cfg(test)]
mod tests;

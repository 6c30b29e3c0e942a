//! OpenAPI documents, read as far as routing needs them and checked as far as a wrong one would mislead: what is not
//! understood refuses the document instead of becoming a route that matches something else.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::http::{BadPattern, Method, Path, PathMatch};
use crate::name::Hostname;

/// What an OpenAPI document (3.0 or 3.1) says about routes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Value")]
pub struct OpenApi {
    /// Of its servers.
    pub hosts: BTreeSet<Hostname>,
    /// The methods of each path.
    pub paths: BTreeMap<PathTemplate, BTreeSet<Method>>,
}

/// A path whose segments may be parameters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PathTemplate {
    /// In the words of the document: `/items/{id}`.
    written: String,
    /// With the base path of the servers.
    matches: PathMatch,
}

/// Why a document is not an OpenAPI document that can be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {reason}")]
pub struct BadOpenApi {
    /// Where in the document, as a JSON pointer.
    at: String,
    reason: String,
}

/// What a path item may hold beside its operations.
const PATH_FIELDS: [&str; 3] = ["summary", "description", "parameters"];

const METHODS: [(&str, Method); 8] = [
    ("get", Method::Get),
    ("head", Method::Head),
    ("post", Method::Post),
    ("put", Method::Put),
    ("patch", Method::Patch),
    ("delete", Method::Delete),
    ("options", Method::Options),
    ("trace", Method::Trace),
];

/// One place where the interface is offered.
struct Server {
    host: Hostname,
    /// Before every path; empty or without a slash at its end.
    base: String,
}

impl PathTemplate {
    fn new(written: &str, base: &str) -> Result<PathTemplate, String> {
        let path = format!("{base}{written}");
        let matches = match path.contains('{') {
            false => Path::try_from(path)
                .map(PathMatch::Exact)
                .map_err(|error| error.to_string())?,
            true => pattern(&path)
                .try_into()
                .map(PathMatch::RegularExpression)
                .map_err(|error: BadPattern| error.to_string())?,
        };
        Ok(PathTemplate {
            written: written.to_owned(),
            matches,
        })
    }

    pub fn as_str(&self) -> &str {
        &self.written
    }

    pub fn matches(&self) -> &PathMatch {
        &self.matches
    }

    /// The same for two templates that match the same paths.
    fn shape(&self) -> String {
        let segments = self.written.split('/').map(|segment| match parameter(segment) {
            Some(_) => "{}",
            None => segment,
        });
        segments.collect::<Vec<_>>().join("/")
    }

    fn parameters(&self) -> impl Iterator<Item = &str> {
        self.written.split('/').filter_map(parameter)
    }
}

impl TryFrom<Value> for OpenApi {
    type Error = BadOpenApi;

    fn try_from(document: Value) -> Result<Self, BadOpenApi> {
        let root = object(&document, "")?;
        check_head(root)?;
        check_references(&document, &document, "")?;
        let (hosts, base) = servers(root)?;
        Ok(OpenApi {
            hosts,
            paths: paths(&document, root, &base)?,
        })
    }
}

fn check_head(root: &Map<String, Value>) -> Result<(), BadOpenApi> {
    let version = root.get("openapi").and_then(Value::as_str).unwrap_or_default();
    if !(version.starts_with("3.0.") || version.starts_with("3.1.")) {
        return Err(bad(
            "/openapi",
            format!("{version:?} is not a version of 3.0 or 3.1"),
        ));
    }
    let info = object(root.get("info").unwrap_or(&Value::Null), "/info")?;
    for field in ["title", "version"] {
        if !info.get(field).is_some_and(Value::is_string) {
            return Err(bad(&format!("/info/{field}"), "is missing or no text"));
        }
    }
    Ok(())
}

/// The hosts, and the base path that all of them have.
fn servers(root: &Map<String, Value>) -> Result<(BTreeSet<Hostname>, String), BadOpenApi> {
    let given = root.get("servers").and_then(Value::as_array);
    let given = given.filter(|given| !given.is_empty());
    let given =
        given.ok_or_else(|| bad("/servers", "name at least one server: its host is what is served"))?;
    let mut hosts = BTreeSet::new();
    let mut base: Option<String> = None;
    for (at, server) in given.iter().enumerate() {
        let at = format!("/servers/{at}/url");
        let url = server.get("url").and_then(Value::as_str).unwrap_or_default();
        let server = self::server(url).ok_or_else(|| {
            bad(
                &at,
                format!("{url:?} is not http:// or https:// with a host, without variables, query and user"),
            )
        })?;
        if *base.get_or_insert_with(|| server.base.clone()) != server.base {
            let reason = "has another base path than the first server; write an API for each base path";
            return Err(bad(&at, reason));
        }
        hosts.insert(server.host);
    }
    Ok((hosts, base.unwrap_or_default()))
}

fn server(url: &str) -> Option<Server> {
    let rest = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"))?;
    let (authority, base) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let host = match authority.split_once(':') {
        Some((host, port)) => port.parse::<u16>().ok().map(|_| host)?,
        None => authority,
    };
    let base = base.trim_end_matches('/');
    let sound = base.is_empty() || (!base.contains(['{', '}']) && Path::try_from(base.to_owned()).is_ok());
    sound.then_some(Server {
        host: host.to_ascii_lowercase().parse().ok()?,
        base: base.to_owned(),
    })
}

fn paths(
    document: &Value,
    root: &Map<String, Value>,
    base: &str,
) -> Result<BTreeMap<PathTemplate, BTreeSet<Method>>, BadOpenApi> {
    let given = object(root.get("paths").unwrap_or(&Value::Null), "/paths")?;
    let mut shapes = BTreeMap::new();
    let mut names = BTreeMap::new();
    let mut paths = BTreeMap::new();
    for (path, item) in given.iter().filter(|(path, _)| !path.starts_with("x-")) {
        let at = format!("/paths/{}", escape(path));
        let template = template(path, base, &at)?;
        if let Some(other) = shapes.insert(template.shape(), path.clone()) {
            return Err(bad(&at, format!("matches the same requests as {other}")));
        }
        let methods = operations(document, &template, object(item, &at)?, &at, &mut names)?;
        paths.insert(template, methods);
    }
    if paths.values().all(BTreeSet::is_empty) {
        return Err(bad("/paths", "holds no operation, so there is nothing to serve"));
    }
    Ok(paths)
}

fn template(path: &str, base: &str, at: &str) -> Result<PathTemplate, BadOpenApi> {
    let sound = |segment: &str| parameter(segment).is_some() || !segment.contains(['{', '}']);
    if !path.split('/').all(sound) {
        return Err(bad(at, "a parameter takes a whole segment, such as /items/{id}"));
    }
    Path::try_from(path.replace(['{', '}'], "")).map_err(|error| bad(at, error.to_string()))?;
    PathTemplate::new(path, base).map_err(|reason| bad(at, reason))
}

/// A parameter is one segment that is not empty.
fn pattern(template: &str) -> String {
    let segments = template.split('/').map(|segment| match parameter(segment) {
        Some(_) => "[^/]+".to_owned(),
        None => regex_syntax::escape(segment),
    });
    segments.collect::<Vec<_>>().join("/")
}

fn operations(
    document: &Value,
    template: &PathTemplate,
    item: &Map<String, Value>,
    at: &str,
    names: &mut BTreeMap<String, String>,
) -> Result<BTreeSet<Method>, BadOpenApi> {
    let mut methods = BTreeSet::new();
    for (field, value) in item {
        if PATH_FIELDS.contains(&field.as_str()) || field.starts_with("x-") {
            continue;
        }
        let at = format!("{at}/{}", escape(field));
        let Some((_, method)) = METHODS.iter().find(|(word, _)| word == field) else {
            return Err(bad(
                &at,
                "is not understood here; write methods, summary, description and parameters",
            ));
        };
        let operation = object(value, &at)?;
        if operation.contains_key("servers") {
            return Err(bad(
                &at,
                "an operation has the servers of its document: remove its own",
            ));
        }
        if let Some(name) = operation.get("operationId").and_then(Value::as_str)
            && let Some(other) = names.insert(name.to_owned(), at.clone())
        {
            return Err(bad(&at, format!("operationId {name} is that of {other} as well")));
        }
        let declared: BTreeSet<&str> = path_parameters(document, item)
            .chain(path_parameters(document, operation))
            .collect();
        if let Some(missing) = template.parameters().find(|name| !declared.contains(name)) {
            return Err(bad(&at, format!("declares no path parameter {missing}")));
        }
        methods.insert(*method);
    }
    Ok(methods)
}

/// The names of the parameters in the path that a path item or an operation declares.
fn path_parameters<'a>(document: &'a Value, of: &'a Map<String, Value>) -> impl Iterator<Item = &'a str> {
    let list = of.get("parameters").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(|parameter| {
        let parameter = match parameter.get("$ref").and_then(Value::as_str) {
            Some(reference) => document.pointer(reference.strip_prefix('#')?)?,
            None => parameter,
        };
        let in_path = parameter.get("in").and_then(Value::as_str) == Some("path");
        in_path.then(|| parameter.get("name")?.as_str()).flatten()
    })
}

/// Every reference leads to something in the same document.
fn check_references(document: &Value, value: &Value, at: &str) -> Result<(), BadOpenApi> {
    match value {
        Value::Object(fields) => {
            if let Some(reference) = fields.get("$ref").and_then(Value::as_str) {
                let found = reference
                    .strip_prefix('#')
                    .and_then(|pointer| document.pointer(pointer));
                if found.is_none() {
                    let reason = format!("{reference:?} is not in this document; references start with #/");
                    return Err(bad(&format!("{at}/$ref"), reason));
                }
            }
            let mut fields = fields.iter();
            fields.try_for_each(|(name, value)| {
                check_references(document, value, &format!("{at}/{}", escape(name)))
            })
        }
        Value::Array(values) => {
            let mut values = values.iter().enumerate();
            values.try_for_each(|(index, value)| check_references(document, value, &format!("{at}/{index}")))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

/// `id` of `{id}`.
fn parameter(segment: &str) -> Option<&str> {
    let name = segment.strip_prefix('{')?.strip_suffix('}')?;
    (!name.is_empty() && !name.contains(['{', '}'])).then_some(name)
}

fn object<'a>(value: &'a Value, at: &str) -> Result<&'a Map<String, Value>, BadOpenApi> {
    value
        .as_object()
        .ok_or_else(|| bad(at, "is missing or no object"))
}

fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

fn bad(at: &str, reason: impl Into<String>) -> BadOpenApi {
    BadOpenApi {
        at: if at.is_empty() {
            "/".to_owned()
        } else {
            at.to_owned()
        },
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document(paths: &Value) -> Value {
        json!({
            "openapi": "3.1.0",
            "info": {"title": "shop", "version": "1"},
            "servers": [{"url": "https://API.example.com:8443/v1.0/"}, {"url": "http://api.example.org/v1.0"}],
            "paths": paths,
            "components": {"parameters": {"id": {"in": "path", "name": "id"}}},
        })
    }

    #[test]
    fn servers_and_operations_are_read() {
        let read: OpenApi = serde_json::from_value(document(&json!({
            "/items": {"get": {"operationId": "list"}, "post": {}},
            "/items/{id}": {"parameters": [{"$ref": "#/components/parameters/id"}], "delete": {}},
            "x-owner": "shop",
        })))
        .unwrap();
        let hosts: Vec<&str> = read.hosts.iter().map(Hostname::as_str).collect();
        assert_eq!(hosts, ["api.example.com", "api.example.org"]);
        let paths: Vec<(&str, Vec<Method>, &PathMatch)> = read
            .paths
            .iter()
            .map(|(path, methods)| (path.as_str(), methods.iter().copied().collect(), path.matches()))
            .collect();
        let items = PathMatch::Exact("/v1.0/items".to_owned().try_into().unwrap());
        let item = PathMatch::RegularExpression(r"/v1\.0/items/[^/]+".to_owned().try_into().unwrap());
        assert_eq!(
            paths,
            [
                ("/items", vec![Method::Get, Method::Post], &items),
                ("/items/{id}", vec![Method::Delete], &item),
            ]
        );
        for (path, taken) in [
            ("/v1.0/items/7", true),
            ("/v1.0/items/", false),
            ("/v1.0/items/7/parts", false),
            ("/v1x0/items/7", false),
        ] {
            assert_eq!(item.admits(path), taken, "{path}");
        }
    }

    #[test]
    fn what_would_mislead_is_refused_where_it_stands() {
        let get = json!({"get": {}});
        let with = |field: &str, value: Value| {
            let mut document = document(&json!({ "/a": get }));
            document[field] = value;
            document
        };
        let server = |url: &str| with("servers", json!([{ "url": url }]));
        let path = |path: &str| document(&json!({ path: get }));
        for (given, expected) in [
            (json!([]), "/: is missing or no object"),
            (
                with("openapi", json!("2.0")),
                "/openapi: \"2.0\" is not a version",
            ),
            (with("info", json!({"title": "x"})), "/info/version: is missing"),
            (with("servers", json!([])), "/servers: name at least one server"),
            (
                server("/v1"),
                "/servers/0/url: \"/v1\" is not http:// or https://",
            ),
            (server("https://{region}.example.com"), "without variables"),
            (server("https://example.com/{version}"), "without variables"),
            (server("https://example.com:port"), "/servers/0/url"),
            (server("https://user@example.com"), "/servers/0/url"),
            (
                with(
                    "servers",
                    json!([{"url": "https://a.example.com/v1"}, {"url": "https://b.example.com"}]),
                ),
                "/servers/1/url: has another base path than the first server",
            ),
            (with("paths", json!({})), "/paths: holds no operation"),
            (
                path(&format!("/{{id}}/{}", "a".repeat(100))),
                "is too large for a proxy",
            ),
            (path("items"), "/paths/items: path \"items\" must start with '/'"),
            (
                path("/a/x{id}"),
                "/paths/~1a~1x{id}: a parameter takes a whole segment",
            ),
            (
                path("/a/{id}"),
                "/paths/~1a~1{id}/get: declares no path parameter id",
            ),
            (
                document(&json!({"/a": {"fetch": {}}})),
                "/paths/~1a/fetch: is not understood here",
            ),
            (
                document(&json!({"/a": {"servers": []}})),
                "/paths/~1a/servers: is not understood here",
            ),
            (
                document(&json!({"/a": {"get": {"servers": []}}})),
                "has the servers of its document",
            ),
            (
                document(&json!({"/a": {"get": {"operationId": "x"}}, "/b": {"get": {"operationId": "x"}}})),
                "operationId x is that of /paths/~1a/get",
            ),
            (
                document(&json!({
                    "/a/{x}": {"parameters": [{"in": "path", "name": "x"}], "get": {}},
                    "/a/{y}": {"parameters": [{"in": "path", "name": "y"}], "get": {}},
                })),
                "/paths/~1a~1{y}: matches the same requests as /a/{x}",
            ),
            (
                document(&json!({"/a": {"get": {"requestBody": {"$ref": "other.yaml#/x"}}}})),
                "/paths/~1a/get/requestBody/$ref: \"other.yaml#/x\" is not in this document",
            ),
            (
                document(&json!({"/a": {"get": {"requestBody": {"$ref": "#/components/none"}}}})),
                "is not in this document",
            ),
        ] {
            let found = serde_json::from_value::<OpenApi>(given.clone())
                .unwrap_err()
                .to_string();
            assert!(found.contains(expected), "{given}: {found}");
        }
    }
}

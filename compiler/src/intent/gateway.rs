//! Gateways: what a gateway workload lets through.

use std::borrow::Cow;
use std::collections::BTreeSet;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;

use super::host_policy::{Authorization, Cors, HostPolicy, HostRedirect, Jwt, RateLimit, RateLimitScope};
use crate::http::{HttpRule, PlainPath, ServiceBackend};
use crate::name::{Fqn, Hostname, Kind, WorkloadId};
use crate::url::WebOrigin;

/// What a gateway workload does, in every cluster that has a workload of that name. One resource is one listener for
/// some hosts; a workload, and a port for HTTP, may have many.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "GatewayDocument")]
pub struct Gateway {
    /// The platform's gateway (`namespace/name`): in a namespace of this workspace, in one that nobody owns, or lent by a
    /// reference grant of its owner.
    pub workload: WorkloadId,
    /// The workspace whose hosts these are, where it is another one, which lends them by a reference grant.
    pub hosts_from: Option<Fqn>,
    pub mode: GatewayMode,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatewayMode {
    /// Lets requests from outside the mesh in.
    Ingress(Box<Ingress>),
    /// Lets connections from outside the mesh in, unopened.
    Passthrough(Passthrough),
    /// Lets requests of this workspace out of the mesh.
    Egress(Egress),
    /// Makes it the one door through which other clusters reach this workspace's services in its cluster. Without
    /// such a resource any east-west gateway of the cluster serves.
    EastWest,
    /// Carries what goes between networks that do not reach each other.
    Transit,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingress {
    pub port: u16,
    pub hosts: BTreeSet<Hostname>,
    /// None where the policy redirects.
    pub rules: Vec<HttpRule<ServiceBackend>>,
    pub policy: HostPolicy,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passthrough {
    pub port: u16,
    pub connections: Connections,
    pub backend_refs: Vec<ServiceBackend>,
}

/// Which connections to a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Connections {
    /// TLS for these server names.
    Tls(BTreeSet<Hostname>),
    /// All.
    Tcp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Egress {
    pub port: u16,
    /// Of external services.
    pub hosts: BTreeSet<Hostname>,
    /// Who may use it; without, the whole workspace.
    pub authorization: Option<Authorization>,
}

/// The written form of a gateway, flat so that errors point at the field.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(
    description = "One listener of a gateway workload, in every cluster that has a workload of that name."
)]
struct GatewayDocument {
    workload: WorkloadId,
    r#type: GatewayType,
    /// What an ingress lets in; `http` when left out.
    protocol: Option<Protocol>,
    port: Option<u16>,
    hosts: Option<BTreeSet<Hostname>>,
    /// The workspace that lends these hosts by a reference grant, where they are not this workspace's own.
    hosts_from: Option<Fqn>,
    /// Of HTTP; most specific first, whatever the order here.
    rules: Option<Vec<HttpRule<ServiceBackend>>>,
    /// Where `tls` and `tcp` connections go.
    backend_refs: Option<Vec<ServiceBackend>>,
    jwt: Option<Jwt>,
    authorization: Option<Authorization>,
    cors: Option<Cors>,
    rate_limit: Option<RateLimit>,
    /// Instead of rules.
    redirect: Option<HostRedirect>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum GatewayType {
    Ingress,
    Egress,
    EastWest,
    Transit,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Protocol {
    Http,
    /// By server name, and not opened.
    Tls,
    Tcp,
}

/// Why a document is not a gateway.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadGateway {
    #[error("{what} needs {field}")]
    Missing { what: &'static str, field: &'static str },
    #[error("{what} takes no {field}")]
    NotHere { what: &'static str, field: &'static str },
    #[error(
        "allowCredentials with the origin * would let every page on the web read as its visitor; name the origins, or leave \
         allowCredentials out"
    )]
    AnybodyAsAnybody,
    #[error(
        "path {0:?} of an authorization can be spelled in other ways, which would pass it by; use letters, digits, -, ., _ and ~ \
         between single slashes, and no segments of dots"
    )]
    Spelling(String),
    #[error("a rateLimit of no time limits nothing; give it a per, such as 1s")]
    NoTime,
    #[error(
        "a rateLimit over Gateway is divided in whole seconds; give it a per such as 1s, or let each proxy count by itself"
    )]
    PartOfSecond,
}

/// Where the hosts of a gateway or of an API stand.
pub(crate) fn hosts_field(kind: Kind) -> &'static str {
    match kind {
        Kind::Api => "spec.openapi.servers",
        _ => "spec.hosts",
    }
}

impl GatewayMode {
    /// The port that it holds of its workload, and the hosts there: `None` for every connection.
    pub fn listener(&self) -> Option<(u16, Option<&BTreeSet<Hostname>>)> {
        match self {
            GatewayMode::Ingress(ingress) => Some((ingress.port, Some(&ingress.hosts))),
            GatewayMode::Passthrough(passthrough) => match &passthrough.connections {
                Connections::Tls(hosts) => Some((passthrough.port, Some(hosts))),
                Connections::Tcp => Some((passthrough.port, None)),
            },
            GatewayMode::Egress(egress) => Some((egress.port, Some(&egress.hosts))),
            GatewayMode::EastWest | GatewayMode::Transit => None,
        }
    }
}

impl JsonSchema for Gateway {
    fn schema_name() -> Cow<'static, str> {
        "Gateway".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        GatewayDocument::json_schema(generator)
    }
}

impl TryFrom<GatewayDocument> for Gateway {
    type Error = BadGateway;

    fn try_from(mut document: GatewayDocument) -> Result<Self, BadGateway> {
        let hosts_from = document.hosts_from.clone();
        let mode = match (document.r#type, document.protocol) {
            (GatewayType::Ingress, None | Some(Protocol::Http)) => document.http()?,
            (GatewayType::Ingress, Some(Protocol::Tls)) => document.tls()?,
            (GatewayType::Ingress, Some(Protocol::Tcp)) => document.tcp()?,
            (GatewayType::Egress, _) => document.egress()?,
            (GatewayType::EastWest, _) => document.nothing("an eastwest gateway", GatewayMode::EastWest)?,
            (GatewayType::Transit, _) => document.nothing("a transit gateway", GatewayMode::Transit)?,
        };
        Ok(Gateway {
            workload: document.workload,
            hosts_from,
            mode,
        })
    }
}

/// Each takes out what its mode has, and refuses what is left.
impl GatewayDocument {
    fn http(&mut self) -> Result<GatewayMode, BadGateway> {
        const WHAT: &str = "an ingress gateway";
        let policy = HostPolicy {
            jwt: self.jwt.take(),
            authorization: self.authorization.take(),
            cors: self.cors.take(),
            rate_limit: self.rate_limit.take(),
            redirect: self.redirect.take(),
        };
        check(&policy)?;
        let rules = match policy.redirect {
            None => non_empty(WHAT, "at least one rule", self.rules.take(), Vec::is_empty)?,
            Some(_) => Vec::new(),
        };
        let ingress = Ingress {
            port: self.port(WHAT)?,
            hosts: self.hosts(WHAT)?,
            rules,
            policy,
        };
        self.protocol = None;
        self.hosts_from = None;
        self.nothing(WHAT, GatewayMode::Ingress(Box::new(ingress)))
    }

    fn tls(&mut self) -> Result<GatewayMode, BadGateway> {
        const WHAT: &str = "an ingress gateway of tls";
        let hosts = self.hosts(WHAT)?;
        self.hosts_from = None;
        self.passthrough(WHAT, Connections::Tls(hosts))
    }

    fn tcp(&mut self) -> Result<GatewayMode, BadGateway> {
        self.passthrough("an ingress gateway of tcp", Connections::Tcp)
    }

    fn passthrough(
        &mut self,
        what: &'static str,
        connections: Connections,
    ) -> Result<GatewayMode, BadGateway> {
        let passthrough = Passthrough {
            port: self.port(what)?,
            connections,
            backend_refs: non_empty(what, "backendRefs", self.backend_refs.take(), Vec::is_empty)?,
        };
        self.protocol = None;
        self.nothing(what, GatewayMode::Passthrough(passthrough))
    }

    fn egress(&mut self) -> Result<GatewayMode, BadGateway> {
        const WHAT: &str = "an egress gateway";
        let egress = Egress {
            port: self.port(WHAT)?,
            hosts: self.hosts(WHAT)?,
            authorization: self.authorization.take(),
        };
        self.nothing(WHAT, GatewayMode::Egress(egress))
    }

    fn port(&mut self, what: &'static str) -> Result<u16, BadGateway> {
        let port = self.port.take().filter(|port| *port != 0);
        port.ok_or(BadGateway::Missing {
            what,
            field: "a port between 1 and 65535",
        })
    }

    fn hosts(&mut self, what: &'static str) -> Result<BTreeSet<Hostname>, BadGateway> {
        non_empty(what, "at least one host", self.hosts.take(), BTreeSet::is_empty)
    }

    fn nothing(&self, what: &'static str, mode: GatewayMode) -> Result<GatewayMode, BadGateway> {
        let left = [
            ("protocol", self.protocol.is_some()),
            ("port", self.port.is_some()),
            ("hosts", self.hosts.is_some()),
            ("hostsFrom", self.hosts_from.is_some()),
            ("rules", self.rules.is_some()),
            ("backendRefs", self.backend_refs.is_some()),
            ("jwt", self.jwt.is_some()),
            ("authorization", self.authorization.is_some()),
            ("cors", self.cors.is_some()),
            ("rateLimit", self.rate_limit.is_some()),
            ("redirect", self.redirect.is_some()),
        ];
        match left.into_iter().find(|(_, given)| *given) {
            Some((field, _)) => Err(BadGateway::NotHere { what, field }),
            None => Ok(mode),
        }
    }
}

fn check(policy: &HostPolicy) -> Result<(), BadGateway> {
    let is_open = |cors: &Cors| cors.allow_credentials && cors.allow_origins.iter().any(WebOrigin::is_any);
    if policy.cors.as_ref().is_some_and(is_open) {
        return Err(BadGateway::AnybodyAsAnybody);
    }
    let rules = policy.authorization.iter();
    let rules = rules.flat_map(|authorization| authorization.allow.iter().chain(&authorization.deny));
    let mut paths = rules.flat_map(|rule| &rule.paths).map(PlainPath::as_str);
    if let Some(path) = paths.find(|path| !has_one_spelling(path)) {
        return Err(BadGateway::Spelling(path.to_owned()));
    }
    match &policy.rate_limit {
        Some(limit) if limit.per.as_ms() == 0 => Err(BadGateway::NoTime),
        Some(limit) if limit.over == RateLimitScope::Gateway && !limit.per.as_ms().is_multiple_of(1000) => {
            Err(BadGateway::PartOfSecond)
        }
        _ => Ok(()),
    }
}

/// Whether proxies and hosts read this path in one way, and no other path as this one.
fn has_one_spelling(path: &str) -> bool {
    let has_no_escape =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'.' | b'_' | b'~');
    path.bytes().all(has_no_escape)
        && !path.contains("//")
        && !path.split('/').any(|segment| matches!(segment, "." | ".."))
}

fn non_empty<T>(
    what: &'static str,
    field: &'static str,
    given: Option<T>,
    is_empty: impl Fn(&T) -> bool,
) -> Result<T, BadGateway> {
    given
        .filter(|given| !is_empty(given))
        .ok_or(BadGateway::Missing { what, field })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(mut spec: Value) -> Result<GatewayMode, String> {
        spec["workload"] = "mesh/gateway".into();
        serde_json::from_value::<Gateway>(spec)
            .map(|gateway| gateway.mode)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn what_would_only_look_like_protection_is_refused() {
        let gateway = |field: &str, value: Value| {
            let mut spec = json!({
                "type": "ingress", "port": 80, "hosts": ["a.example.com"],
                "rules": [{"backendRefs": [{"namespace": "shop", "name": "web"}]}],
            });
            spec[field] = value;
            read(spec).err()
        };
        let guarded = |rule: Value| gateway("authorization", json!({"allow": [rule]}));
        let path = |path: &str| guarded(json!({"paths": [{"type": "PathPrefix", "value": path}]}));
        for path in [path("/"), path("/a/b"), path("/a.b/..c/")] {
            assert_eq!(path, None);
        }
        for path in ["/a%20b", "/a;b", "/@a", "/a:b", "/a//b", "/a/../b", "/a/."].map(path) {
            assert!(path.is_some_and(|error| error.contains("can be spelled in other ways")));
        }
        for empty in [
            json!({"sources": []}),
            json!({"methods": []}),
            json!({"paths": []}),
        ] {
            assert!(guarded(empty).is_some_and(|error| error.contains("is empty")));
        }
        assert_eq!(guarded(json!({})), None);
        let cors = |origin: &str| json!({"allowOrigins": [origin], "allowCredentials": true});
        assert_eq!(gateway("cors", cors("https://*.example.com")), None);
        assert!(gateway("cors", cors("*")).is_some_and(|error| error.contains("every page")));
        let limit = |per: &str| json!({"requests": 1, "per": per});
        assert_eq!(gateway("rateLimit", limit("1ms")), None);
        assert!(gateway("rateLimit", limit("0s")).is_some_and(|error| error.contains("no time")));
        let over = |per: &str| json!({"requests": 1, "per": per, "over": "Gateway"});
        assert_eq!(gateway("rateLimit", over("60000ms")), None);
        assert!(gateway("rateLimit", over("1500ms")).is_some_and(|error| error.contains("whole seconds")));
    }

    #[test]
    fn each_mode_takes_its_own_fields_and_no_others() {
        let backend = json!([{"namespace": "shop", "name": "db"}]);
        let rules = json!([{"backendRefs": backend}]);
        let host = json!(["shop.example.com"]);
        let lender = "organizations/acme/tenants/a/workspaces/w";
        for (spec, expected) in [
            (
                json!({"type": "ingress", "port": 80, "hosts": host, "rules": rules}),
                Ok(()),
            ),
            (
                json!({"type": "ingress", "protocol": "http", "port": 80, "hosts": host, "rules": rules}),
                Ok(()),
            ),
            (
                json!({"type": "ingress", "protocol": "tls", "port": 443, "hosts": host, "backendRefs": backend}),
                Ok(()),
            ),
            (
                json!({"type": "ingress", "protocol": "tcp", "port": 5432, "backendRefs": backend}),
                Ok(()),
            ),
            (
                json!({"type": "ingress", "port": 80, "hosts": host, "redirect": {"scheme": "https"}}),
                Ok(()),
            ),
            (json!({"type": "egress", "port": 80, "hosts": host}), Ok(())),
            (json!({"type": "eastwest"}), Ok(())),
            (json!({"type": "transit"}), Ok(())),
            (
                json!({"type": "ingress", "port": 80, "hosts": host}),
                Err("needs at least one rule"),
            ),
            (
                json!({"type": "ingress", "port": 0, "hosts": host, "rules": rules}),
                Err("needs a port between 1 and 65535"),
            ),
            (
                json!({"type": "ingress", "port": 80, "hosts": [], "rules": rules}),
                Err("needs at least one host"),
            ),
            (
                json!({"type": "ingress", "port": 80, "hosts": host, "rules": rules, "redirect": {"scheme": "https"}}),
                Err("takes no rules"),
            ),
            (
                json!({"type": "ingress", "protocol": "tcp", "port": 1, "hosts": host, "backendRefs": backend}),
                Err("an ingress gateway of tcp takes no hosts"),
            ),
            (
                json!({"type": "ingress", "protocol": "tls", "port": 1, "hosts": host, "rules": rules, "backendRefs": backend}),
                Err("an ingress gateway of tls takes no rules"),
            ),
            (
                json!({"type": "egress", "protocol": "http", "port": 80, "hosts": host}),
                Err("takes no protocol"),
            ),
            (
                json!({"type": "egress", "port": 80, "hosts": host, "rules": rules}),
                Err("takes no rules"),
            ),
            (
                json!({"type": "ingress", "port": 80, "hosts": host, "hostsFrom": lender, "rules": rules}),
                Ok(()),
            ),
            (
                json!({"type": "egress", "port": 80, "hosts": host, "hostsFrom": lender}),
                Err("an egress gateway takes no hostsFrom"),
            ),
            (
                json!({"type": "ingress", "protocol": "tcp", "port": 1, "hostsFrom": lender, "backendRefs": backend}),
                Err("an ingress gateway of tcp takes no hostsFrom"),
            ),
            (
                json!({"type": "eastwest", "port": 80}),
                Err("an eastwest gateway takes no port"),
            ),
            (
                json!({"type": "transit", "hosts": host}),
                Err("a transit gateway takes no hosts"),
            ),
        ] {
            match (read(spec.clone()), expected) {
                (Ok(_), Ok(())) => {}
                (Err(found), Err(expected)) => assert!(found.contains(expected), "{spec}: {found}"),
                (found, expected) => panic!("{spec}: {found:?}, expected {expected:?}"),
            }
        }
    }
}

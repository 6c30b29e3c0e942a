//! The proxy model: what one proxy runs, in our own nouns. Serialised only to be read by people. `local-cp` has the one encoder to Envoy's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use crate::finding::Traced;
use crate::http::{Affinity, Edits, Fault, HttpMatch, Path, RedirectTo, Share, Span};
use crate::intent::JwtIssuer;
use crate::name::{ClusterName, HostPort, Label, WorkloadId};
use crate::routes::{HostConduct, RateLimit};
use crate::setting::{Issuers, Outliers};

/// Which service and subset a request is for; read by the destination's east-west gateway (ADR 0002).
pub const DESTINATION_HEADER: &str = "x-tombolo-destination";

/// A proxy as it introduces itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProxyNode {
    /// Unique within its cluster.
    pub id: String,
    pub role: ProxyRole,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProxyRole {
    /// Serves a gateway workload of the platform.
    Gateway { workload: WorkloadId },
    /// Stands beside one application and carries its outgoing requests.
    Sidecar { namespace: Label, outbound: SocketAddr },
}

/// Everything that one proxy runs, by xDS name. Equal configurations need no message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProxyConfig {
    pub listeners: BTreeMap<String, Traced<Listener>>,
    pub route_tables: BTreeMap<String, Traced<RouteTable>>,
    pub clusters: BTreeMap<String, Traced<Upstream>>,
    /// Same names as `clusters`.
    pub endpoints: BTreeMap<String, Traced<Endpoints>>,
    /// Where issuers of tokens have their keys; names that are none of `clusters`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub key_hosts: BTreeMap<String, Traced<KeyHost>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listener {
    pub bind: SocketAddr,
    pub route_table: String,
    /// What its routes ask for, and nothing else: a filter that comes or goes may move connections.
    pub filters: BTreeSet<Filter>,
    /// Whose tokens count, by the name of the virtual host.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub issuers: BTreeMap<String, Issuers>,
    /// Limits over all proxies that have them, by the name of the virtual host.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub quotas: BTreeMap<String, RateLimit>,
}

/// Asked by TLS for the keys by which tokens are verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyHost {
    /// As it stands in its certificate: a name, or an address.
    pub host: String,
    pub port: u16,
    /// What the edge knows of it; the compiler asks nobody, and leaves it empty.
    pub addresses: BTreeSet<IpAddr>,
}

/// What a listener needs so that some of its routes can do what they say, in the order in which a request meets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Filter {
    Cors,
    Jwt,
    Deny,
    Allow,
    RateLimit,
    Quota,
    Fault,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouteTable {
    /// On a gateway `shop.example.com:8080` is `shop.example.com`; on a sidecar the port says which port is meant.
    pub ignore_port: bool,
    /// Each may be another user's.
    pub hosts: Vec<Traced<VirtualHost>>,
}

impl KeyHost {
    /// The name of its cluster for these keys; `None` where they cannot be had.
    pub fn name_of(issuer: &JwtIssuer) -> Option<String> {
        let (host, port) = issuer.jwks_uri.authority()?;
        Some(format!("jwks/{host}:{port}"))
    }
}

impl RouteTable {
    /// By the name of the host.
    pub(crate) fn issuers(&self) -> BTreeMap<String, Issuers> {
        let hosts = self.hosts.iter().map(|host| &host.value);
        hosts
            .filter_map(|host| Some((host.name.clone(), host.conduct.jwt.clone()?)))
            .collect()
    }

    /// Limits of which a proxy has a part, by the name of the host.
    pub(crate) fn quotas(&self) -> BTreeMap<String, RateLimit> {
        let hosts = self.hosts.iter().map(|host| &host.value);
        let limits = hosts.filter_map(|host| Some((host.name.clone(), host.conduct.rate_limit.clone()?)));
        limits.filter(|(_, limit)| !limit.over.is_proxy()).collect()
    }

    /// Those that its routes need.
    pub(crate) fn filters(&self) -> BTreeSet<Filter> {
        let of_hosts = self.hosts.iter().flat_map(|host| {
            let HostConduct {
                cors,
                jwt,
                access,
                rate_limit,
            } = &host.value.conduct;
            let denies = access.as_ref().is_some_and(|access| !access.deny.is_empty());
            let is_local = rate_limit.as_ref().map(|limit| limit.over.is_proxy());
            let filters = [
                (cors.is_some(), Filter::Cors),
                (jwt.is_some(), Filter::Jwt),
                (denies, Filter::Deny),
                (access.is_some(), Filter::Allow),
                (is_local == Some(true), Filter::RateLimit),
                (is_local == Some(false), Filter::Quota),
            ];
            let needed = filters.into_iter().filter(|(needed, _)| *needed);
            needed.map(|(_, filter)| filter)
        });
        let routes = self.hosts.iter().flat_map(|host| &host.value.routes);
        let forwards = routes.filter_map(|route| match &route.value.action {
            RouteAction::Forward(forward) => Some(forward),
            RouteAction::Redirect(_) | RouteAction::Respond { .. } => None,
        });
        forwards
            .filter_map(|forward| forward.fault.map(|_| Filter::Fault))
            .chain(of_hosts)
            .collect()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VirtualHost {
    pub name: String,
    /// `host`, `host:port`, `*.suffix` or `*`.
    pub domains: BTreeSet<String>,
    /// The first that matches decides.
    pub routes: Vec<Traced<Route>>,
    /// Before any route does what it says.
    #[serde(skip_serializing_if = "HostConduct::is_empty")]
    pub conduct: HostConduct,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Route {
    /// Path and headers; the destination header is matched as any other.
    pub matches: HttpMatch,
    pub action: RouteAction,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum RouteAction {
    Forward(Forward),
    Redirect(RedirectTo),
    /// Answered by the proxy itself.
    Respond {
        status: u16,
        body: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Forward {
    /// Each weighs at least 1; what counts is its share in the sum, which is at most 10 000.
    pub targets: Vec<Target>,
    /// From the request's end to the response's end, with all retries.
    pub timeout: Span,
    pub retry: RetryPolicy,
    pub edits: Box<Edits>,
    /// Copies of requests, whose answers are thrown away.
    pub mirrors: Vec<Mirror>,
    pub fault: Option<Fault>,
    /// The first of these that a request has decides its instance.
    pub affinities: Vec<Affinity>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mirror {
    /// Name of an upstream of the same configuration.
    pub cluster: String,
    pub share: Share,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Target {
    /// Name of an upstream of the same configuration.
    pub cluster: String,
    pub weight: u32,
    /// The value of [`DESTINATION_HEADER`]; `None` where the request has arrived in its cluster.
    pub destination: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum RetryPolicy {
    /// Nothing was asked for: idempotent methods are retried on connection failures, resets and 503; others only on
    /// connection failures, where the request provably never reached the application.
    Careful { attempts: u32 },
    /// The user's wish: every method, on connection failures, resets and these codes.
    AsAsked {
        attempts: u32,
        codes: BTreeSet<u16>,
        backoff: Span,
    },
}

/// One set of hosts that serve the same, with their order of failover.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Upstream {
    pub http2: bool,
    pub connect_timeout: Span,
    pub health: Health,
    pub balancer: Balancer,
    /// What the proxy keeps open, and has under way, to all of its hosts together.
    pub connections_max: Option<u32>,
    pub requests_max: Option<u32>,
    pub outliers: Option<Outliers>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Balancer {
    LeastRequest,
    RoundRobin,
    Random,
    /// By what the route of a request says; those of a route that says nothing go anywhere.
    Affinity,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Health {
    pub interval: Span,
    pub timeout: Span,
    pub unhealthy_threshold: u32,
    pub check: Check,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Check {
    /// Any status below 500 passes. Through another cluster's gateway the same check reaches the service itself.
    Http {
        host: String,
        path: Path,
        destination: Option<String>,
    },
    Tcp,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Endpoints {
    /// By priority, from 0, without gaps.
    pub priorities: Vec<Vec<EndpointGroup>>,
}

/// Endpoints that are in one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EndpointGroup {
    pub region: Option<Label>,
    pub zone: Option<Label>,
    pub cluster: ClusterName,
    pub endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    pub address: HostPort,
    /// False: never chosen while anything else works.
    pub usable: bool,
}

//! What a proxy runs: listeners, route tables, clusters and endpoints, already checked and in the shape the
//! request path reads. Every value is immutable and shared; an update makes a new [`Config`] that shares what
//! did not change. Nothing here knows Envoy's messages: `decode` is the only way in.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderName, HeaderValue};

use crate::access_log::Log;
use crate::arrival::Arrival;
use crate::balance::{Balancer, Labels, Locality, OVERPROVISIONING_DEFAULT_PERCENT, SubsetRules};
use crate::breaker::Limits;
use crate::by_name::ByName;
use crate::filter::{ListenerFilter, RouteLimits};
use crate::filter_chain::{ChainMatch, Choices};
use crate::hash::HashPolicy;
use crate::health::GrpcProbe;
use crate::limits::ClientLimits;
use crate::matcher::RouteMatcher;
use crate::outlier::Detection;
use crate::proxy_protocol::Version;
use crate::retry::RetryPolicy;
use crate::rewrite::PathRewrite;
use crate::router::RouteTable;
use crate::slow_start::SlowStart;
use crate::tls::{ClientTls, Secret, ServerTls};
use crate::trace::Tracing;
use crate::tunnel::Upgrade;

/// What shares of requests are parts of.
pub(crate) const MILLION: u32 = 1_000_000;

/// The kinds of resource of docs/xds.md, in the order in which a stream is opened and a file is read: what mentions names comes
/// before what is held for being mentioned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ResourceKind {
    Cluster,
    Endpoints,
    Listener,
    Routes,
    Secret,
}

/// Everything the proxy has accepted, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Config {
    pub(crate) clusters: ByName<Arc<Cluster>>,
    pub(crate) endpoints: ByName<Arc<Endpoints>>,
    pub(crate) listeners: ByName<Arc<Listener>>,
    pub(crate) routes: ByName<Arc<RouteTable>>,
    pub(crate) secrets: ByName<Arc<Secret>>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    /// Whether it listens; else it is given what was redirected to others.
    pub(crate) binds: bool,
    /// What its connections begin with, if there is anything.
    pub(crate) arrival: Option<Arrival>,
    /// The default one, if there is one, is the last.
    pub(crate) chains: Box<[Arc<FilterChain>]>,
    pub(crate) choosing: Choosing,
}

/// How a connection finds its filter chain.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Choosing {
    /// It is the same for all, if there is one.
    Settled(Option<usize>),
    /// By the port alone that they were to go to.
    ByPort(Choices),
    /// By what they begin with, which must come in time.
    Looking {
        choices: Choices,
        timeout: Option<Duration>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FilterChain {
    /// `None` for the default one, which is not the one that takes everything.
    pub(crate) serves: Option<ChainMatch>,
    /// `None` for what is not to be answered in TLS.
    pub(crate) tls: Option<Arc<ServerTls>>,
    pub(crate) network: Network,
}

impl FilterChain {
    /// Whether every client that it takes shows as much of itself as `other` asks for.
    pub(crate) fn is_as_strict_as(&self, other: &Self) -> bool {
        match (&self.tls, &other.tls) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(tls), Some(other)) => tls.clients.strictness() >= other.clients.strictness(),
        }
    }
}

/// What becomes of a connection.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Network {
    Http(Arc<Http>),
    /// It is passed on as it is.
    Tcp(Arc<TcpProxy>),
}

/// An HTTP connection manager.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Http {
    /// Name of its route configuration.
    pub(crate) routes: Arc<str>,
    /// A connection without requests is closed after this long; `None` keeps it open.
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) limits: ClientLimits,
    /// In the order in which they are asked; the router is not one of them.
    pub(crate) filters: Box<[ListenerFilter]>,
    /// What is written of its requests, besides the proxy's own log.
    pub(crate) logs: Box<[Log]>,
    /// Without it, what requests say of a trace passes as it is.
    pub(crate) tracing: Option<Arc<Tracing>>,
    /// What requests may become that say so, where their routes say nothing else.
    pub(crate) upgrades: Box<[Upgrade]>,
    /// Whether requests of HTTP/2 may ask for a connection.
    pub(crate) connects: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TcpProxy {
    /// At least one.
    pub(crate) targets: Box<[TcpTarget]>,
    /// Sum of the targets' weights, never 0.
    pub(crate) total_weight: u32,
    /// Without a byte in either direction; `None` waits for ever.
    pub(crate) idle_timeout: Option<Duration>,
    /// At least 1.
    pub(crate) connect_attempts_max: u32,
    /// What is written of its connections, besides the proxy's own log.
    pub(crate) logs: Box<[Log]>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TcpTarget {
    pub(crate) cluster: Arc<str>,
    pub(crate) weight: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cluster {
    pub(crate) connect_timeout: Duration,
    pub(crate) protocol: Protocol,
    pub(crate) health_check: Option<HealthCheck>,
    /// Below this share of healthy hosts (percent) a priority is used as if all its hosts were healthy.
    pub(crate) panic_threshold_percent: f64,
    /// Reset what is in flight on a host when a health check declares it dead.
    pub(crate) close_on_failure: bool,
    pub(crate) balancer: Balancer,
    /// Requests are spread over localities by their weights, and over the hosts of each then.
    pub(crate) is_by_locality: bool,
    /// Which of its hosts a request may have, if that depends on its route.
    pub(crate) subsets: Option<Box<SubsetRules>>,
    /// Hosts that are new get less at first.
    pub(crate) slow_start: Option<SlowStart>,
    pub(crate) limits: Limits,
    /// Which of its hosts are left out for what they answer.
    pub(crate) outliers: Option<Detection>,
    pub(crate) tls: Option<Arc<ClientTls>>,
    /// How its hosts are told whose connections are.
    pub(crate) greeting: Option<Version>,
    /// Where its hosts are those that clients' connections were to go to: for how long each is kept unused.
    pub(crate) original: Option<Duration>,
}

/// What is spoken to the hosts of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HealthCheck {
    pub(crate) timeout: Duration,
    pub(crate) interval: Duration,
    /// Used instead of `interval` until the cluster has been sent a request.
    pub(crate) no_traffic_interval: Duration,
    pub(crate) unhealthy_threshold: u32,
    pub(crate) healthy_threshold: u32,
    pub(crate) probe: Probe,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Probe {
    /// A connection is enough.
    Tcp,
    Http(HttpProbe),
    /// Over HTTP/2.
    Grpc(GrpcProbe),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HttpProbe {
    /// The `host` header; empty means the cluster's name, as in Envoy.
    pub(crate) host: HeaderValue,
    pub(crate) path: http::uri::PathAndQuery,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// Half-open ranges of status codes that pass.
    pub(crate) expected: Vec<std::ops::Range<u16>>,
    pub(crate) protocol: Protocol,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Endpoints {
    pub(crate) endpoints: Vec<Endpoint>,
    /// A priority gets its healthy share times this before the next priority gets anything.
    pub(crate) overprovisioning_percent: u32,
    /// So many of a million requests are refused.
    pub(crate) dropped_millionths: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    /// 0 is used first; there are no gaps.
    pub(crate) priority: usize,
    pub(crate) locality: Locality,
    pub(crate) weight: u32,
    /// False when the edge says so; such a host is chosen in panic only.
    pub(crate) eligible: bool,
    /// What is said of it, if anything is.
    pub(crate) labels: Option<Arc<Labels>>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Route {
    /// For logs; may be empty.
    pub(crate) name: Box<str>,
    /// Which of its table's [`Levels`](crate::filter::Levels) say what filters do to its requests.
    pub(crate) levels: usize,
    pub(crate) matcher: RouteMatcher,
    /// Its own with those of its host and its table.
    pub(crate) edits: Arc<HeaderEdits>,
    pub(crate) action: Action,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    Forward(Box<Forward>),
    Redirect(Redirect),
    Respond {
        status: StatusCode,
        body: Bytes,
        edits: Arc<HeaderEdits>,
    },
}

/// What is `None` stays as the client asked for it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Redirect {
    pub(crate) scheme: Option<Box<str>>,
    pub(crate) host: Option<Box<str>>,
    pub(crate) port: Option<u16>,
    pub(crate) path: Option<PathRewrite>,
    pub(crate) keeps_query: bool,
    pub(crate) status: StatusCode,
    pub(crate) response_edits: Arc<HeaderEdits>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Forward {
    pub(crate) targets: Vec<Target>,
    /// Sum of the targets' weights, never 0.
    pub(crate) total_weight: u32,
    /// From the end of the request to the end of the response; `None` waits for ever.
    pub(crate) timeout: Option<Duration>,
    /// In its place.
    pub(crate) duration: Option<StreamDuration>,
    /// So long nothing may move, in place of what the listener says; 0 is for ever.
    pub(crate) idle: Option<Duration>,
    pub(crate) retry: Option<RetryPolicy>,
    /// In place of the host that the client asked for.
    pub(crate) host: Option<HeaderValue>,
    pub(crate) path: Option<PathRewrite>,
    /// What sends requests to the same host, where the balancer listens to it.
    pub(crate) hash: Box<[HashPolicy]>,
    pub(crate) response_edits: Arc<HeaderEdits>,
    pub(crate) mirrors: Vec<Mirror>,
    /// What its requests count as, where somebody counts.
    pub(crate) limits: Option<Box<RouteLimits>>,
    /// What its requests may become.
    pub(crate) upgrades: Box<[Upgrade]>,
}

/// From the begin of a request to the end of its response; what is `None` has no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamDuration {
    pub(crate) max: Option<Duration>,
    /// For those that say how long they wait.
    pub(crate) said: Option<SaidDuration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SaidDuration {
    pub(crate) max: Option<Duration>,
    /// So much less than what was said, so that the time is over here before it is for the client.
    pub(crate) less: Duration,
}

/// Where copies of requests go.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mirror {
    pub(crate) cluster: Arc<str>,
    /// So many of a million requests.
    pub(crate) millionths: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Target {
    pub(crate) cluster: Arc<str>,
    pub(crate) weight: u32,
    /// What is to be said of its hosts, if anything is.
    pub(crate) labels: Option<Box<Labels>>,
    pub(crate) edits: HeaderEdits,
}

/// Changes to headers; what is removed is removed before anything is set or added.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct HeaderEdits {
    pub(crate) remove: Vec<HeaderName>,
    pub(crate) set: Vec<(HeaderName, HeaderValue)>,
    /// As lines of their own beside those that are there.
    pub(crate) add: Vec<(HeaderName, HeaderValue)>,
}

impl Default for Endpoints {
    /// Nobody.
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            overprovisioning_percent: OVERPROVISIONING_DEFAULT_PERCENT,
            dropped_millionths: 0,
        }
    }
}

impl ResourceKind {
    pub(crate) const ALL: [Self; 5] = [
        Self::Cluster,
        Self::Endpoints,
        Self::Listener,
        Self::Routes,
        Self::Secret,
    ];

    pub(crate) fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Routes => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    pub(crate) fn of(type_url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == type_url)
    }

    /// The word used in logs, metrics and the admin port.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Endpoints => "endpoints",
            Self::Listener => "listener",
            Self::Secret => "secret",
            Self::Routes => "routes",
        }
    }
}

impl Config {
    /// The route tables that listeners want, which are subscribed by name. Of endpoints it is those of all clusters.
    pub(crate) fn wanted_routes(&self) -> BTreeSet<Arc<str>> {
        self.chains()
            .filter_map(|chain| chain.routes())
            .cloned()
            .collect()
    }

    /// The secrets that listeners and clusters want, which are subscribed by name too.
    pub(crate) fn wanted_secrets(&self) -> BTreeSet<Arc<str>> {
        let contexts = self.chains().filter_map(|chain| chain.tls.as_ref());
        let of_clients = contexts.flat_map(|tls| tls.secrets());
        let contexts = self.clusters.values().filter_map(|cluster| cluster.tls.as_ref());
        let of_hosts = contexts.flat_map(|tls| tls.secrets());
        of_clients.chain(of_hosts).cloned().collect()
    }

    fn chains(&self) -> impl Iterator<Item = &Arc<FilterChain>> {
        self.listeners.values().flat_map(|listener| &listener.chains)
    }
}

impl FilterChain {
    /// Name of its route configuration, if it has one.
    pub(crate) fn routes(&self) -> Option<&Arc<str>> {
        match &self.network {
            Network::Http(http) => Some(&http.routes),
            Network::Tcp(_) => None,
        }
    }
}

impl Endpoint {
    /// Stands for the hosts that clients' connections were to go to.
    pub(crate) const ANY: Self = Self {
        address: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        priority: 0,
        locality: Locality { nth: 0, weight: 0 },
        weight: 1,
        eligible: true,
        labels: None,
    };
}

impl TcpProxy {
    /// The target at `point`, which is below `total_weight`.
    pub(crate) fn target(&self, mut point: u32) -> &TcpTarget {
        let mut targets = self.targets.iter();
        let found = targets.find(|target| {
            let is_here = point < target.weight;
            point = point.saturating_sub(target.weight);
            is_here
        });
        found.expect("invariant: the point is below the sum of the weights")
    }
}

impl Forward {
    /// How long nothing may move of a request and its answer, if the listener says so.
    pub(crate) fn idle(&self, listener: Option<Duration>) -> Option<Duration> {
        self.idle.or(listener).filter(|idle| !idle.is_zero())
    }

    /// The target at `point`, which is below `total_weight`.
    pub(crate) fn target(&self, mut point: u32) -> &Target {
        for target in &self.targets {
            if point < target.weight {
                return target;
            }
            point -= target.weight;
        }
        self.targets
            .last()
            .expect("invariant: a forward has at least one target")
    }
}

impl StreamDuration {
    /// For a request with that `grpc-timeout`, if it has one.
    pub(crate) fn of(self, timeout: Option<Duration>) -> Option<Duration> {
        match (self.said, timeout) {
            (Some(said), Some(timeout)) => {
                let timeout = said.max.map_or(timeout, |max| timeout.min(max));
                Some(timeout.saturating_sub(said.less))
            }
            _ => self.max,
        }
    }
}

impl HeaderEdits {
    pub(crate) fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Does as one what these and then `later` do.
    pub(crate) fn extend(&mut self, later: Self) {
        let Self { remove, set, add } = later;
        let is_kept =
            |name: &HeaderName| !remove.contains(name) && !set.iter().any(|(replaced, _)| replaced == name);
        self.set.retain(|(name, _)| is_kept(name));
        self.add.retain(|(name, _)| is_kept(name));
        self.remove.extend(remove);
        self.set.extend(set);
        self.add.extend(add);
    }

    /// Whether lines of that name do not stay as they are.
    pub(crate) fn replaces(&self, name: &[u8]) -> bool {
        let is_it = |replaced: &HeaderName| name.eq_ignore_ascii_case(replaced.as_str().as_bytes());
        self.remove.iter().any(is_it) || self.set.iter().any(|(replaced, _)| is_it(replaced))
    }

    /// The names of which no line stays as it is.
    pub(crate) fn replaced(&self) -> impl Iterator<Item = &HeaderName> {
        let set = self.set.iter().map(|(name, _)| name);
        self.remove.iter().chain(set)
    }

    /// The names of all lines that are not as they came, or not alone.
    pub(crate) fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.replaced().chain(self.add.iter().map(|(name, _)| name))
    }

    pub(crate) fn apply(&self, headers: &mut http::HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name.clone(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_lasts_as_long_as_it_says_or_as_it_may() {
        let ms = |ms: u64| Some(Duration::from_millis(ms));
        // What all may, what those that say so may, and how much less; what is said; and what it comes to.
        for (max, said, timeout, expected) in [
            (ms(400), None, None, ms(400)),
            (ms(400), None, ms(100), ms(400)),
            (None, None, ms(100), None),
            (ms(400), Some((ms(500), 0)), None, ms(400)),
            (None, Some((ms(500), 0)), ms(300), ms(300)),
            (None, Some((ms(500), 0)), ms(900), ms(500)),
            (None, Some((None, 0)), ms(900), ms(900)),
            (ms(200), Some((ms(500), 100)), ms(900), ms(400)),
            (None, Some((ms(500), 100)), ms(50), ms(0)),
            (None, Some((ms(500), 100)), ms(0), ms(0)),
        ] {
            let said = said.map(|(max, less)| SaidDuration {
                max,
                less: Duration::from_millis(less),
            });
            let got = StreamDuration { max, said }.of(timeout);
            assert_eq!(got, expected, "{max:?} {said:?} {timeout:?}");
        }
    }
}

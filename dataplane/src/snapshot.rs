//! What the workers run: listeners joined with their route tables, and clusters joined with their hosts. A snapshot is
//! swapped whole; hosts (and what is known of their health) live on across snapshots.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use foldhash::HashMap;
use http::uri::Scheme;

use crate::balance::{Asked, Candidate, Labelled, Labels, Layout, Rules, Selection, Tried};
use crate::breaker::Load;
use crate::by_name::ByName;
use crate::config::{
    Cluster, Config, Endpoint, Endpoints, FilterChain, Http, Listener, Network, Route, TcpProxy,
};
use crate::filter::{Chain, Filter, Held, ListenerFilter, RateLimitQuota, chains};
use crate::filter_chain::ChainMatch;
use crate::outlier::{Ejections, Record};
use crate::proxy_protocol::Version;
use crate::retry::{RetryHosts, RetryPriorities};
use crate::router::{NO_LEVELS, RouteTable};
use crate::slow_start::WARM;
use crate::tls::{HostTls, LiveTls};
use crate::worker::{Random, turns};

#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) listeners: BTreeMap<Arc<str>, Arc<LiveListener>>,
    pub(crate) clusters: ByName<Arc<LiveCluster>>,
}

/// What a snapshot has otherwise than the one before it; what is only in the later one is not told of.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Clusters that both have.
    pub(crate) changed: Vec<Arc<str>>,
    /// Clusters that only the earlier one has.
    pub(crate) removed: Vec<Arc<str>>,
    /// Hosts that only the earlier one has, by id.
    pub(crate) hosts: Vec<u64>,
    /// Listeners that the earlier one has.
    pub(crate) listeners: Vec<Arc<str>>,
}

/// A listener of which one chain at least can serve, or could before it was tightened.
#[derive(Debug)]
pub(crate) struct LiveListener {
    pub(crate) config: Arc<Listener>,
    /// In the order of the configuration; `None` for those that wait for their routes or secrets, and have not served before as strictly.
    pub(crate) chains: Vec<Option<Arc<LiveChain>>>,
}

/// A filter chain whose routes and secrets are known.
#[derive(Debug)]
pub(crate) struct LiveChain {
    pub(crate) config: Arc<FilterChain>,
    pub(crate) tls: Option<LiveTls>,
    pub(crate) network: LiveNetwork,
}

#[derive(Debug)]
pub(crate) enum LiveNetwork {
    Http(LiveHttp),
    Tcp(Arc<TcpProxy>),
}

/// What requests of a filter chain are put to.
#[derive(Clone, Debug)]
pub(crate) struct LiveHttp {
    pub(crate) config: Arc<Http>,
    pub(crate) routes: Arc<RouteTable>,
    /// At the places that routes name; none where the listener has no filters.
    chains: Arc<[Chain]>,
}

#[derive(Debug)]
pub(crate) struct LiveCluster {
    pub(crate) name: Arc<str>,
    pub(crate) config: Arc<Cluster>,
    pub(crate) hosts: Vec<LiveHost>,
    /// Their places, once somebody has asked for one.
    by_address: OnceLock<HashMap<SocketAddr, usize>>,
    rules: Rules,
    /// So many of a million requests are refused.
    pub(crate) dropped_millionths: u32,
    /// Which of its hosts are told apart, if they are.
    pub(crate) subsets: Option<Arc<Layout>>,
    pub(crate) selection: ArcSwap<Selection>,
    /// Two changes at once must not store their selections in the wrong order.
    refreshing: Mutex<()>,
    /// Whether a request was ever sent here; checks are slower until then.
    pub(crate) traffic: Arc<AtomicBool>,
    /// Outlives this value, as what is under way does.
    pub(crate) load: Arc<Load>,
    /// If its hosts are compared at all.
    pub(crate) ejections: Option<Arc<Ejections>>,
}

#[derive(Debug)]
pub(crate) struct LiveHost {
    pub(crate) host: Arc<Host>,
    pub(crate) endpoint: Endpoint,
}

/// One address of one cluster, known by the same `id` for as long as its address, its check, what is said of TLS, how it is told of
/// clients and what makes it an outlier stay the same.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) id: u64,
    pub(crate) cluster: Arc<str>,
    pub(crate) address: SocketAddr,
    /// If it is spoken to in TLS.
    pub(crate) tls: Option<Arc<HostTls>>,
    /// If it is told whose connections are, and how.
    pub(crate) greeting: Option<Version>,
    /// If it stands for those that clients' connections were to go to: for how long each is kept unused.
    pub(crate) original: Option<Duration>,
    health: AtomicU8,
    /// When it was made, and how many milliseconds later it became healthy.
    made: Instant,
    healthy_after_ms: AtomicU64,
    /// What attempts brought, if that may make it an outlier.
    pub(crate) record: Option<Record>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// No check has finished; counts as unhealthy.
    Unchecked,
    Healthy,
    Unhealthy,
}

impl Snapshot {
    /// Those that the edge has named.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &LiveHost> {
        let hosts = self.clusters.values().flat_map(|cluster| &cluster.hosts);
        hosts.filter(|live| live.host.original.is_none())
    }

    /// Limits of which this proxy has parts. Listeners without any are not looked through.
    pub(crate) fn quotas(&self) -> impl Iterator<Item = &RateLimitQuota> {
        let chains = self
            .listeners
            .values()
            .flat_map(|listener| listener.chains.iter().flatten());
        let http = chains.filter_map(|chain| match &chain.network {
            LiveNetwork::Http(http) => Some(http),
            LiveNetwork::Tcp(_) => None,
        });
        let counts = |listed: &ListenerFilter| matches!(listed.filter, Filter::Quota(_));
        let http = http.filter(move |http| http.config.filters.iter().any(counts));
        http.flat_map(|http| http.chains.iter().flat_map(Chain::quotas))
    }
}

impl Snapshot {
    /// What is not here as it was in `before`.
    pub(crate) fn difference(&self, before: &Self) -> Difference {
        let mut difference = Difference::default();
        for change in self.clusters.changes(&before.clusters, Arc::ptr_eq) {
            let Some(before) = change.before else { continue };
            let ids = |cluster: &Arc<LiveCluster>| -> BTreeSet<u64> {
                cluster.hosts.iter().map(|live| live.host.id).collect()
            };
            let kept = change.now.map(ids).unwrap_or_default();
            difference.hosts.extend(ids(before).difference(&kept));
            let names = match change.now {
                Some(_) => &mut difference.changed,
                None => &mut difference.removed,
            };
            names.push(Arc::clone(change.name));
        }
        let is_same = |name: &Arc<str>, held: &Arc<LiveListener>| {
            self.listeners.get(name).is_some_and(|now| Arc::ptr_eq(now, held))
        };
        let changed = before
            .listeners
            .iter()
            .filter(|(name, held)| !is_same(name, held));
        difference.listeners = changed.map(|(name, _)| Arc::clone(name)).collect();
        difference
    }
}

impl LiveListener {
    /// In place of `held`, if it ran before: a chain that serves the same goes on as it was until all that the new one needs is
    /// there, unless it would take clients that the new one turns away. Nothing as long as no chain can serve, and none must end.
    pub(crate) fn new(config: &Arc<Listener>, all: &Config, held: Option<&Arc<Self>>) -> Option<Arc<Self>> {
        let before = |chain: &FilterChain| held.and_then(|held| held.serving(chain.serves.as_ref()));
        let live = |chain: &Arc<FilterChain>| {
            let held = before(chain);
            let goes_on = held.filter(|held| held.config.is_as_strict_as(chain));
            LiveChain::new(chain, all, held).or_else(|| goes_on.cloned())
        };
        let chains: Vec<_> = config.chains.iter().map(live).collect();
        if let Some(held) = held
            && Arc::ptr_eq(&held.config, config)
            && held.chains.iter().map(pointer).eq(chains.iter().map(pointer))
        {
            return Some(Arc::clone(held));
        }
        let is_tightened =
            |chain: &Arc<FilterChain>| before(chain).is_some_and(|held| !held.config.is_as_strict_as(chain));
        let is_new = chains.iter().any(Option::is_some) || config.chains.iter().any(is_tightened);
        let config = Arc::clone(config);
        is_new.then(|| Arc::new(Self { config, chains }))
    }

    /// Whether it runs as `wanted`, with all that this needs.
    pub(crate) fn is_whole(&self, wanted: &Arc<Listener>) -> bool {
        let mut chains = self.chains.iter().zip(&wanted.chains);
        Arc::ptr_eq(&self.config, wanted)
            && chains.all(|(chain, wanted)| {
                chain
                    .as_ref()
                    .is_some_and(|chain| Arc::ptr_eq(&chain.config, wanted))
            })
    }

    /// Whether somebody who knows nothing of what was before would serve as much with `wanted`.
    pub(crate) fn is_repeatable(&self, wanted: &Arc<Listener>, all: &Config) -> bool {
        let fresh = Self::new(wanted, all, None);
        let serves = |chain: &Arc<LiveChain>| {
            let fresh = fresh.as_ref();
            fresh.is_some_and(|fresh| fresh.serving(chain.config.serves.as_ref()).is_some())
        };
        self.chains.iter().flatten().all(serves)
    }

    /// The route tables of its chains.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &Arc<RouteTable>> {
        self.chains
            .iter()
            .flatten()
            .filter_map(|chain| match &chain.network {
                LiveNetwork::Http(http) => Some(&http.routes),
                LiveNetwork::Tcp(_) => None,
            })
    }

    fn serving(&self, serves: Option<&ChainMatch>) -> Option<&Arc<LiveChain>> {
        let mut chains = self.chains.iter().flatten();
        chains.find(|chain| chain.config.serves.as_ref() == serves)
    }
}

impl LiveChain {
    fn new(config: &Arc<FilterChain>, all: &Config, held: Option<&Arc<Self>>) -> Option<Arc<Self>> {
        let network = LiveNetwork::new(&config.network, all, held.map(|held| &held.network))?;
        let tls = match &config.tls {
            None => None,
            Some(tls) => Some(LiveTls::new(tls, all, held.and_then(|held| held.tls.as_ref()))?),
        };
        if let Some(held) = held
            && Arc::ptr_eq(&held.config, config)
            && held.network.is_same(&network)
            && held.tls.as_ref().map(LiveTls::pointer) == tls.as_ref().map(LiveTls::pointer)
        {
            return Some(Arc::clone(held));
        }
        Some(Arc::new(Self {
            config: Arc::clone(config),
            tls,
            network,
        }))
    }
}

impl LiveNetwork {
    fn new(config: &Network, all: &Config, held: Option<&Self>) -> Option<Self> {
        match (config, held) {
            (Network::Tcp(proxy), _) => Some(Self::Tcp(Arc::clone(proxy))),
            (Network::Http(http), held) => {
                let routes = all.routes.get(&http.routes)?;
                let held = match held {
                    Some(Self::Http(held)) => Some(held),
                    Some(Self::Tcp(_)) | None => None,
                };
                Some(Self::Http(LiveHttp::new(
                    Arc::clone(http),
                    Arc::clone(routes),
                    held,
                )))
            }
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Http(one), Self::Http(other)) => {
                Arc::ptr_eq(&one.config, &other.config) && Arc::ptr_eq(&one.routes, &other.routes)
            }
            (Self::Tcp(one), Self::Tcp(other)) => Arc::ptr_eq(one, other),
            (Self::Http(_), Self::Tcp(_)) | (Self::Tcp(_), Self::Http(_)) => false,
        }
    }
}

fn pointer(chain: &Option<Arc<LiveChain>>) -> Option<*const LiveChain> {
    chain.as_ref().map(Arc::as_ptr)
}

impl LiveHttp {
    /// In place of `held`, if it ran before.
    fn new(config: Arc<Http>, routes: Arc<RouteTable>, held: Option<&Self>) -> Self {
        if let Some(held) = held
            && Arc::ptr_eq(&held.config, &config)
            && Arc::ptr_eq(&held.routes, &routes)
        {
            return held.clone();
        }
        let held = held.map_or_else(Held::default, |held| Held {
            chains: &held.chains,
            routes: if Arc::ptr_eq(&held.config, &config) {
                held.routes.levels()
            } else {
                &[]
            },
        });
        let chains = chains(&config.filters, routes.levels(), held);
        Self {
            config,
            routes,
            chains,
        }
    }

    /// The filters that requests of `route`, or without one, are put to, if there are any.
    pub(crate) fn chain(&self, route: Option<&Route>) -> Option<&Chain> {
        let chain = self.chains.get(route.map_or(NO_LEVELS, |route| route.levels));
        chain.filter(|chain| !chain.is_empty())
    }
}

impl LiveCluster {
    /// `before` is the one of the same name that it is instead of, of whose sets those stay that are the same.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn new(
        name: Arc<str>,
        config: Arc<Cluster>,
        hosts: Vec<LiveHost>,
        endpoints: &Endpoints,
        traffic: Arc<AtomicBool>,
        load: Arc<Load>,
        ejections: Option<Arc<Ejections>>,
        before: Option<&Self>,
    ) -> Self {
        let rules = Rules {
            panic_threshold_percent: config.panic_threshold_percent,
            overprovisioning_percent: endpoints.overprovisioning_percent,
        };
        let candidates = candidates(&config, &hosts, Instant::now());
        let subsets = layout(&config, &hosts);
        let before = before.map(|before| before.selection.load());
        let before = before.as_deref().map(|before| &**before);
        let selection = selection(&config, &candidates, rules, subsets.as_ref(), before);
        Self {
            name,
            config,
            hosts,
            by_address: OnceLock::new(),
            rules,
            dropped_millionths: endpoints.dropped_millionths,
            subsets,
            selection: ArcSwap::from_pointee(selection),
            refreshing: Mutex::default(),
            traffic,
            load,
            ejections,
        }
    }

    /// Computes the selection from the hosts' present health; says whether some of them are not given all of their share yet.
    pub(crate) fn refresh(&self) -> bool {
        let _order = self.refreshing.lock().unwrap_or_else(PoisonError::into_inner);
        let candidates = candidates(&self.config, &self.hosts, Instant::now());
        // What is hashed takes its time.
        let before = self.selection.load();
        if !before.is_of(&candidates) {
            let layout = self.subsets.as_ref();
            let selection = selection(&self.config, &candidates, self.rules, layout, Some(&before));
            self.selection.store(Arc::new(selection));
        }
        candidates.iter().any(|candidate| candidate.warmth < WARM)
    }

    /// One of them for who is no request, as the balancer has it.
    pub(crate) fn any_host(&self) -> Option<Arc<Host>> {
        let asked = Asked {
            hosts: RetryHosts::Any,
            priorities: RetryPriorities::Any,
            key: None,
            labels: None,
        };
        let (random, turns) = (Random::new(), turns(self));
        let selection = self.selection.load();
        let chosen = selection.choose(&random, |_| 0, &turns, &mut Tried::default(), asked)?;
        Some(Arc::clone(&self.hosts[chosen.0].host))
    }

    /// The place of the host at `address`, if it is one of this cluster's.
    pub(crate) fn host_at(&self, address: SocketAddr) -> Option<usize> {
        let by_address = self.by_address.get_or_init(|| {
            let hosts = self.hosts.iter().enumerate();
            hosts.map(|(place, live)| (live.host.address, place)).collect()
        });
        by_address.get(&address).copied()
    }

    /// Whether every host has been checked once, or needs no check, or waits for secrets, which may come only when it is not waited
    /// for.
    pub(crate) fn is_checked(&self) -> bool {
        self.hosts.iter().all(|live| {
            let waits = live.host.tls.as_ref().is_some_and(|tls| !tls.is_ready());
            waits || live.host.health() != Health::Unchecked
        })
    }
}

impl Host {
    /// One in plain text that is told nothing of clients, stands for itself, and is no outlier whatever attempts bring.
    pub(crate) fn new(id: u64, cluster: Arc<str>, address: SocketAddr, health: Health) -> Self {
        Self {
            id,
            cluster,
            address,
            tls: None,
            greeting: None,
            original: None,
            health: AtomicU8::new(health as u8),
            made: Instant::now(),
            healthy_after_ms: AtomicU64::new(0),
            record: None,
        }
    }

    /// One of those that it stands for.
    pub(crate) fn at(&self, address: SocketAddr) -> Self {
        Self {
            tls: self.tls.clone(),
            greeting: self.greeting,
            ..Self::new(self.id, Arc::clone(&self.cluster), address, Health::Healthy)
        }
    }

    pub(crate) fn health(&self) -> Health {
        match self.health.load(Ordering::Relaxed) {
            0 => Health::Unchecked,
            1 => Health::Healthy,
            _ => Health::Unhealthy,
        }
    }

    /// For how long it has been healthy, if it is.
    fn healthy_for(&self, now: Instant) -> Duration {
        let after = Duration::from_millis(self.healthy_after_ms.load(Ordering::Relaxed));
        now.saturating_duration_since(self.made).saturating_sub(after)
    }

    /// Of what it is asked for by the proxy itself.
    pub(crate) fn scheme(&self) -> Scheme {
        if self.tls.is_some() {
            Scheme::HTTPS
        } else {
            Scheme::HTTP
        }
    }

    pub(crate) fn is_ejected(&self) -> bool {
        self.record.as_ref().is_some_and(Record::is_ejected)
    }

    pub(crate) fn set_health(&self, health: Health) {
        if health == Health::Healthy && self.health() != Health::Healthy {
            let after_ms = u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.healthy_after_ms.store(after_ms, Ordering::Relaxed);
        }
        self.health.store(health as u8, Ordering::Relaxed);
    }
}

impl Health {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Unchecked => "unchecked",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

fn layout(cluster: &Cluster, hosts: &[LiveHost]) -> Option<Arc<Layout>> {
    let rules = cluster.subsets.as_ref()?;
    let nothing = Labels::default();
    let labelled = hosts.iter().map(|live| Labelled {
        priority: live.endpoint.priority,
        locality: live.endpoint.locality.nth,
        labels: live.endpoint.labels.as_deref().unwrap_or(&nothing),
    });
    let hosts: Vec<_> = labelled.collect();
    Some(Arc::new(Layout::new(
        rules,
        cluster.balancer,
        cluster.is_by_locality,
        &hosts,
    )))
}

fn selection(
    cluster: &Cluster,
    candidates: &[Candidate],
    rules: Rules,
    layout: Option<&Arc<Layout>>,
    before: Option<&Selection>,
) -> Selection {
    match layout {
        None => Selection::new(candidates, rules, cluster.balancer),
        Some(layout) => Selection::of_subsets(candidates, rules, layout, before),
    }
}

fn candidates(cluster: &Cluster, hosts: &[LiveHost], now: Instant) -> Vec<Candidate> {
    let candidate = |live: &LiveHost| {
        let healthy =
            live.endpoint.eligible && live.host.health() == Health::Healthy && !live.host.is_ejected();
        let slow_start = cluster.slow_start.filter(|_| healthy);
        Candidate {
            address: live.host.address,
            priority: live.endpoint.priority,
            locality: cluster.is_by_locality.then_some(live.endpoint.locality),
            weight: live.endpoint.weight,
            warmth: slow_start.map_or(WARM, |slow| slow.warmth(live.host.healthy_for(now))),
            healthy,
        }
    };
    hosts.iter().map(candidate).collect()
}

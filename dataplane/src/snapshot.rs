//! What the workers run: listeners joined with their route tables, and clusters joined with their hosts. A snapshot is
//! swapped whole; hosts (and what is known of their health) live on across snapshots.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::balance::{Candidate, Rules, Selection};
use crate::breaker::Load;
use crate::by_name::ByName;
use crate::config::{Cluster, Endpoint, Listener, Route};
use crate::filter::{Chain, Held, chains};
use crate::outlier::{Ejections, Record};
use crate::router::{NO_LEVELS, RouteTable};

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

/// A listener whose routes are known.
#[derive(Clone, Debug)]
pub(crate) struct LiveListener {
    pub(crate) config: Arc<Listener>,
    pub(crate) routes: Arc<RouteTable>,
    /// At the places that routes name; none where the listener has no filters.
    chains: Arc<[Chain]>,
}

#[derive(Debug)]
pub(crate) struct LiveCluster {
    pub(crate) name: Arc<str>,
    pub(crate) config: Arc<Cluster>,
    pub(crate) hosts: Vec<LiveHost>,
    rules: Rules,
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

/// One address of one cluster, known by the same `id` for as long as its address, its check and what makes it an outlier stay
/// the same.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) id: u64,
    pub(crate) cluster: Arc<str>,
    pub(crate) address: SocketAddr,
    health: AtomicU8,
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
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &LiveHost> {
        self.clusters.values().flat_map(|cluster| &cluster.hosts)
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
    /// In place of `held`, if it ran before.
    pub(crate) fn new(config: Arc<Listener>, routes: Arc<RouteTable>, held: Option<&Self>) -> Self {
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
    pub(crate) fn new(
        name: Arc<str>,
        config: Arc<Cluster>,
        hosts: Vec<LiveHost>,
        overprovisioning_percent: u32,
        traffic: Arc<AtomicBool>,
        load: Arc<Load>,
        ejections: Option<Arc<Ejections>>,
    ) -> Self {
        let rules = Rules {
            panic_threshold_percent: config.panic_threshold_percent,
            overprovisioning_percent,
        };
        let selection = Selection::new(&candidates(&hosts), rules, config.balancer);
        Self {
            name,
            config,
            hosts,
            rules,
            selection: ArcSwap::from_pointee(selection),
            refreshing: Mutex::default(),
            traffic,
            load,
            ejections,
        }
    }

    /// Computes the selection from the hosts' present health.
    pub(crate) fn refresh(&self) {
        let _order = self.refreshing.lock().unwrap_or_else(PoisonError::into_inner);
        let candidates = candidates(&self.hosts);
        // What is hashed takes its time.
        if !self.selection.load().is_of(&candidates) {
            let selection = Selection::new(&candidates, self.rules, self.config.balancer);
            self.selection.store(Arc::new(selection));
        }
    }

    /// Whether every host has been checked once, or needs no check.
    pub(crate) fn is_checked(&self) -> bool {
        self.hosts
            .iter()
            .all(|live| live.host.health() != Health::Unchecked)
    }
}

impl Host {
    pub(crate) fn new(
        id: u64,
        cluster: Arc<str>,
        address: SocketAddr,
        health: Health,
        record: Option<Record>,
    ) -> Self {
        Self {
            id,
            cluster,
            address,
            health: AtomicU8::new(health as u8),
            record,
        }
    }

    pub(crate) fn health(&self) -> Health {
        match self.health.load(Ordering::Relaxed) {
            0 => Health::Unchecked,
            1 => Health::Healthy,
            _ => Health::Unhealthy,
        }
    }

    pub(crate) fn is_ejected(&self) -> bool {
        self.record.as_ref().is_some_and(Record::is_ejected)
    }

    pub(crate) fn set_health(&self, health: Health) {
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

fn candidates(hosts: &[LiveHost]) -> Vec<Candidate> {
    hosts
        .iter()
        .map(|live| Candidate {
            address: live.host.address,
            priority: live.endpoint.priority,
            weight: live.endpoint.weight,
            healthy: live.endpoint.eligible
                && live.host.health() == Health::Healthy
                && !live.host.is_ejected(),
        })
        .collect()
}

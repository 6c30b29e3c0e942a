//! Makes accepted configuration run: binds sockets, keeps the hosts and their checks, hands every worker the same
//! snapshot. All or nothing: what can fail is done before anything changes.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{SocketAddr, TcpListener};
use std::slice;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;
use tonic::transport::Endpoint as EdgeEndpoint;

use crate::breaker::Load;
use crate::config::{Cluster, Config, Endpoint, Endpoints, HealthCheck, Listener, ResourceKind};
use crate::decode::{Rejection, Update, describe};
use crate::health::{self, OnChange};
use crate::jwks::Fetchers;
use crate::listener;
use crate::orders::{Command, Remote};
use crate::outlier::{self, Detection, Record, Watched};
use crate::quota::Quotas;
use crate::restart;
use crate::router::RouteTable;
use crate::slow_start::Starts;
use crate::snapshot::{Difference, Health, Host, LiveCluster, LiveHost, LiveListener, Snapshot};
use crate::tls::HostTls;

mod takeover;

/// Wait between two tries to bind a port.
const PORT_WAIT: Duration = Duration::from_millis(200);

pub(crate) struct Activation {
    workers: Vec<Remote>,
    current: Arc<ArcSwap<Snapshot>>,
    /// What `current` was made of.
    running: Config,
    /// Tables that were replaced and that requests still use. They are dropped here, where no request waits for it.
    replaced: Vec<Arc<RouteTable>>,
    hosts: HashMap<(Arc<str>, SocketAddr), TrackedHost>,
    traffic: HashMap<Arc<str>, Arc<AtomicBool>>,
    loads: HashMap<Arc<str>, Arc<Load>>,
    detectors: HashMap<Arc<str>, Detecting>,
    /// Of the clusters whose hosts are spoken to in TLS.
    tls: HashMap<Arc<str>, Arc<HostTls>>,
    /// Of issuers' keys.
    fetchers: Fetchers,
    quotas: Quotas,
    next_host: u64,
    /// Of a predecessor, until the first listeners run.
    inherited: restart::Sockets,
    balancers: Arc<Balancers>,
    on_health: OnChange,
}

/// What an update still waits for after it has been applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Warming {
    /// Listeners whose routes or secrets are not known.
    listeners: Vec<Arc<str>>,
    /// Clusters that had no hosts and now have some, none of which has been checked.
    clusters: Vec<Arc<str>>,
}

struct TrackedHost {
    host: Arc<Host>,
    check: Option<HealthCheck>,
    outliers: Option<Detection>,
    task: Option<AbortHandle>,
}

/// Who looks for a cluster's outliers.
struct Detecting {
    detection: Detection,
    watched: Watched,
    task: AbortHandle,
}

/// Which hosts are chosen from, kept true while their health changes.
struct Balancers {
    current: Arc<ArcSwap<Snapshot>>,
    starts: Arc<Starts>,
    changed: watch::Sender<u64>,
}

type Sockets = Vec<(Arc<str>, Vec<TcpListener>)>;

impl Activation {
    /// `edge` is where what it runs comes from, if that is no file.
    pub(crate) fn new(
        workers: Vec<Remote>,
        current: Arc<ArcSwap<Snapshot>>,
        edge: Option<EdgeEndpoint>,
    ) -> Self {
        let balancers = Arc::new(Balancers {
            current: Arc::clone(&current),
            starts: Arc::default(),
            changed: watch::channel(0).0,
        });
        let on_health = on_health(Arc::clone(&balancers), workers.clone());
        Self {
            workers,
            fetchers: Fetchers::new(Arc::clone(&current)),
            quotas: Quotas::new(Arc::clone(&current), edge),
            current,
            running: Config::default(),
            replaced: Vec::new(),
            hosts: HashMap::new(),
            traffic: HashMap::new(),
            loads: HashMap::new(),
            detectors: HashMap::new(),
            tls: HashMap::new(),
            next_host: 0,
            inherited: restart::Sockets::new(),
            balancers,
            on_health,
        }
    }

    /// Changes whenever a host's health does.
    pub(crate) fn health_changes(&self) -> watch::Receiver<u64> {
        self.balancers.changed.subscribe()
    }

    /// Runs `config` on every worker, or says what is in the way and changes nothing. Only a port can be in the way, and a
    /// predecessor that is about to give it up is waited for: `tries` times a fifth of a second.
    pub(crate) async fn apply(&mut self, config: &Config, tries: u32) -> Result<(), Vec<Rejection>> {
        for _ in 1..tries {
            let Err(rejections) = self.try_apply(config).await else {
                return Ok(());
            };
            tracing::warn!(message = %describe(&rejections), "cannot run this configuration yet");
            tokio::time::sleep(PORT_WAIT).await;
        }
        self.try_apply(config).await
    }

    async fn try_apply(&mut self, config: &Config) -> Result<(), Vec<Rejection>> {
        let before = self.current.load_full();
        let listeners = live_listeners(config, &before);
        let sockets = self.bind(&listeners, &before)?;
        self.update_tls(config);
        let mut clusters = before.clusters.clone();
        for name in changed_clusters(config, &self.running) {
            match config.clusters.get(&name) {
                Some(cluster) => {
                    let held = before.clusters.get(&name);
                    let live = self.live_cluster(&name, cluster, config.endpoints.get(&name), held);
                    clusters.insert(name, live);
                }
                None => clusters.remove(&name),
            }
        }
        let snapshot = Arc::new(Snapshot { listeners, clusters });
        let difference = Arc::new(snapshot.difference(&before));
        self.fetchers.attach(config, &self.running);
        self.quotas.attach(&snapshot);
        self.hand_over(&snapshot, &difference, sockets).await;
        self.current.store(Arc::clone(&snapshot));
        self.fetchers.begin(config, &self.running);
        self.running = config.clone();
        let gone: HashSet<u64> = difference.hosts.iter().copied().collect();
        for change in snapshot.clusters.changes(&before.clusters, Arc::ptr_eq) {
            // A host may have changed between building the snapshot and storing it.
            if let Some(cluster) = change.now {
                self.balancers.keep(cluster);
            }
            if let Some(cluster) = change.before {
                self.forget_hosts(cluster, &gone);
            }
        }
        for name in &difference.removed {
            self.traffic.remove(name);
            self.loads.remove(name);
            self.detectors.remove(name);
        }
        self.replace_tables(&before, &difference);
        self.let_go();
        Ok(())
    }

    /// Drops the tables that no request uses any more, and ends what is fetched for nobody.
    pub(crate) fn let_go(&mut self) {
        self.replaced.retain(|table| Arc::strong_count(table) > 1);
        self.fetchers.let_go();
        self.quotas.let_go();
    }

    fn replace_tables(&mut self, before: &Snapshot, difference: &Difference) {
        let listeners = difference
            .listeners
            .iter()
            .filter_map(|name| before.listeners.get(name));
        for table in listeners.flat_map(|listener| listener.tables()) {
            if !self.replaced.iter().any(|held| Arc::ptr_eq(held, table)) {
                self.replaced.push(Arc::clone(table));
            }
        }
    }

    /// What `update`, which was just applied, still waits for.
    pub(crate) fn warming(&self, update: &Update, before: &Snapshot) -> Warming {
        let now = self.current.load();
        let names = || {
            update
                .resources
                .iter()
                .map(|(name, _)| Arc::<str>::from(name.as_str()))
        };
        match update.kind {
            ResourceKind::Listener => Warming {
                listeners: names().collect(),
                ..Warming::default()
            },
            ResourceKind::Endpoints => {
                let had_hosts = |name: &Arc<str>| {
                    before
                        .clusters
                        .get(name)
                        .is_some_and(|cluster| !cluster.hosts.is_empty())
                };
                let clusters = names().filter(|name| now.clusters.contains(name) && !had_hosts(name));
                Warming {
                    clusters: clusters.collect(),
                    ..Warming::default()
                }
            }
            ResourceKind::Cluster | ResourceKind::Secret | ResourceKind::Routes => Warming::default(),
        }
    }

    /// Whether what was waited for has come, or is not wanted any more. What has come is not looked at again.
    pub(crate) fn is_warm(&self, warming: &mut Warming, config: &Config) -> bool {
        let now = self.current.load();
        let listening = |name: &Arc<str>| match (config.listeners.get(name), now.listeners.get(name)) {
            (Some(wanted), Some(live)) => live.is_whole(wanted),
            (Some(_), None) => false,
            (None, _) => true,
        };
        let checked = |name: &Arc<str>| now.clusters.get(name).is_none_or(|cluster| cluster.is_checked());
        while warming.listeners.pop_if(|name| listening(name)).is_some() {}
        while warming.clusters.pop_if(|name| checked(name)).is_some() {}
        warming.listeners.is_empty() && warming.clusters.is_empty()
    }

    /// Sockets for the listeners that are new or have moved.
    fn bind(
        &mut self,
        listeners: &BTreeMap<Arc<str>, Arc<LiveListener>>,
        before: &Snapshot,
    ) -> Result<Sockets, Vec<Rejection>> {
        let mut sockets = Vec::new();
        let mut rejections = Vec::new();
        for (name, live) in listeners {
            let address = live.config.address;
            let is_there = |held: &Arc<LiveListener>| held.config.binds && held.config.address == address;
            if !live.config.binds || before.listeners.get(name).is_some_and(is_there) {
                continue;
            }
            let ours = before.listeners.values().any(is_there);
            let bound = match self.inherited.remove(&address) {
                Some(sockets) => listener::join(address, sockets, self.workers.len()),
                None => listener::bind(address, self.workers.len(), ours),
            };
            match bound {
                Ok(bound) => sockets.push((Arc::clone(name), bound)),
                Err(error) => rejections.push(Rejection {
                    name: name.to_string(),
                    reason: format!("address: cannot listen on {address}: {error}"),
                }),
            }
        }
        if rejections.is_empty() {
            Ok(sockets)
        } else {
            Err(rejections)
        }
    }

    /// New secrets are for new connections.
    fn update_tls(&mut self, config: &Config) {
        for change in config.clusters.changes(&self.running.clusters, Arc::ptr_eq) {
            let said = change.now.and_then(|cluster| cluster.tls.as_ref());
            let held = self
                .tls
                .remove(change.name)
                .filter(|held| Some(&held.said) == said);
            let tls = said.map(|said| held.unwrap_or_else(|| Arc::new(HostTls::new(Arc::clone(said)))));
            if let Some(tls) = tls {
                self.tls.insert(Arc::clone(change.name), tls);
            }
        }
        self.tls.values().for_each(|tls| tls.update(config));
    }

    fn live_cluster(
        &mut self,
        name: &Arc<str>,
        config: &Arc<Cluster>,
        endpoints: Option<&Arc<Endpoints>>,
        before: Option<&Arc<LiveCluster>>,
    ) -> Arc<LiveCluster> {
        let traffic = Arc::clone(self.traffic.entry(Arc::clone(name)).or_default());
        let workers = self.workers.len();
        let load = self.loads.entry(Arc::clone(name));
        let load = Arc::clone(load.or_insert_with(|| Load::new(workers)));
        let watched = self.watched(name, config.outliers.as_ref());
        let said = endpoints.cloned().unwrap_or_default();
        let given = match config.original {
            Some(_) => slice::from_ref(&Endpoint::ANY),
            None => &said.endpoints[..],
        };
        let hosts = given
            .iter()
            .map(|endpoint| LiveHost {
                host: self.host(name, endpoint.address, config, &traffic, watched.as_ref()),
                endpoint: endpoint.clone(),
            })
            .collect();
        Arc::new(LiveCluster::new(
            Arc::clone(name),
            Arc::clone(config),
            hosts,
            &said,
            traffic,
            load,
            watched.map(|watched| watched.ejections),
            before.map(|before| &**before),
        ))
    }

    /// What looks for outliers of a cluster. It begins anew when it looks for others; so does what is known of the hosts.
    fn watched(&mut self, cluster: &Arc<str>, detection: Option<&Detection>) -> Option<Watched> {
        let held = self.detectors.get(cluster);
        if held.map(|held| &held.detection) != detection {
            self.detectors.remove(cluster);
        }
        let detection = detection?;
        let started = self.detectors.entry(Arc::clone(cluster)).or_insert_with(|| {
            let watched = Watched::default();
            let balancers = Arc::clone(&self.balancers);
            let watch = outlier::watch(
                Arc::clone(cluster),
                detection.clone(),
                watched.clone(),
                Arc::clone(&self.current),
                move |cluster| balancers.refresh(cluster),
            );
            Detecting {
                detection: detection.clone(),
                watched,
                task: tokio::spawn(watch).abort_handle(),
            }
        });
        Some(started.watched.clone())
    }

    /// The host at `address`, with what is known of its health: as long as its check is the same, nothing changes for it;
    /// with another check its health is kept until that has an opinion.
    fn host(
        &mut self,
        cluster: &Arc<str>,
        address: SocketAddr,
        config: &Cluster,
        traffic: &Arc<AtomicBool>,
        watched: Option<&Watched>,
    ) -> Arc<Host> {
        let check = config.health_check.as_ref();
        let outliers = config.outliers.as_ref();
        let key = (Arc::clone(cluster), address);
        let held = self.hosts.get(&key);
        let tls = self.tls.get(cluster);
        if let Some(held) = held
            && held.check.as_ref() == check
            && held.outliers.as_ref() == outliers
            && held.host.tls.as_ref().map(Arc::as_ptr) == tls.map(Arc::as_ptr)
            && (held.host.greeting, held.host.original) == (config.greeting, config.original)
        {
            return Arc::clone(&held.host);
        }
        let health = match (check, held) {
            (None, _) => Health::Healthy,
            (Some(_), Some(held)) => held.host.health(),
            (Some(_), None) => Health::Unchecked,
        };
        self.next_host += 1;
        let record = outliers
            .zip(watched)
            .map(|(outliers, watched)| Record::new(outliers, self.workers.len(), &watched.wake));
        let mut host = Host::new(self.next_host, Arc::clone(cluster), address, health);
        host.tls = tls.cloned();
        host.greeting = config.greeting;
        host.original = config.original;
        host.record = record;
        let host = Arc::new(host);
        let task = check.map(|check| {
            let watch = health::watch(
                Arc::clone(&host),
                check.clone(),
                Arc::clone(traffic),
                Arc::clone(&self.on_health),
            );
            tokio::spawn(watch).abort_handle()
        });
        let tracked = TrackedHost {
            host: Arc::clone(&host),
            check: check.cloned(),
            outliers: outliers.cloned(),
            task,
        };
        self.hosts.insert(key, tracked);
        host
    }

    async fn hand_over(&self, snapshot: &Arc<Snapshot>, difference: &Arc<Difference>, sockets: Sockets) {
        let mut shares: Vec<Sockets> = self.workers.iter().map(|_| Vec::new()).collect();
        for (name, bound) in sockets {
            for (share, sockets) in shares.iter_mut().zip(dealt(bound, self.workers.len())) {
                share.push((Arc::clone(&name), sockets));
            }
        }
        let mut applied = Vec::new();
        for (worker, sockets) in self.workers.iter().zip(shares) {
            let (done, finished) = oneshot::channel();
            let command = Command::Apply {
                snapshot: Arc::clone(snapshot),
                difference: Arc::clone(difference),
                sockets,
                done,
            };
            if worker.send(command).await {
                applied.push(finished);
            }
        }
        for finished in applied {
            // A worker that is gone runs nothing, so it runs nothing old either.
            let _ = finished.await;
        }
    }

    /// Ends the checks of a former cluster's hosts that are gone.
    fn forget_hosts(&mut self, cluster: &LiveCluster, gone: &HashSet<u64>) {
        for live in cluster.hosts.iter().filter(|live| gone.contains(&live.host.id)) {
            let key = (Arc::clone(&live.host.cluster), live.host.address);
            // Another host may have come to this address.
            if let Entry::Occupied(tracked) = self.hosts.entry(key)
                && tracked.get().host.id == live.host.id
            {
                tracked.remove();
            }
        }
    }
}

impl Drop for TrackedHost {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Drop for Detecting {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Balancers {
    /// Lets the balancer of `cluster` know that something has changed for its hosts.
    fn refresh(&self, cluster: &Arc<str>) {
        // Not before: a snapshot that comes later has seen the change.
        if let Some(cluster) = self.current.load().clusters.get(cluster) {
            self.keep(cluster);
        }
        self.changed.send_modify(|changes| *changes += 1);
    }

    /// Computes whom to choose from, now and as long as time itself changes it.
    fn keep(&self, cluster: &LiveCluster) {
        if cluster.refresh() {
            self.starts.watch(cluster, &self.current);
        }
    }
}

/// One to each hand after the other: a predecessor may have had more workers, and what is queued on any of its sockets is to be
/// served.
fn dealt<T>(all: Vec<T>, hands: usize) -> Vec<Vec<T>> {
    let mut dealt: Vec<Vec<T>> = (0..hands).map(|_| Vec::new()).collect();
    for (at, one) in all.into_iter().enumerate() {
        dealt[at % hands].push(one);
    }
    dealt
}

/// The names of clusters of which anything is not as it is in `running`.
fn changed_clusters(config: &Config, running: &Config) -> BTreeSet<Arc<str>> {
    let clusters = config.clusters.changes(&running.clusters, Arc::ptr_eq);
    let endpoints = config.endpoints.changes(&running.endpoints, Arc::ptr_eq);
    let clusters = clusters.iter().map(|change| change.name);
    let endpoints = endpoints.iter().map(|change| change.name);
    clusters.chain(endpoints).map(Arc::clone).collect()
}

/// Listeners that can serve. What of one cannot yet keeps running as it was: make before break.
fn live_listeners(config: &Config, before: &Snapshot) -> BTreeMap<Arc<str>, Arc<LiveListener>> {
    let live = |(name, listener): (&Arc<str>, &Arc<Listener>)| {
        let held = before.listeners.get(name);
        let live = LiveListener::new(listener, config, held).or_else(|| held.cloned())?;
        Some((Arc::clone(name), live))
    };
    config.listeners.iter().filter_map(live).collect()
}

/// What happens when a check changes its mind: the balancer learns it, and if the cluster wants it, what is in flight on a dead
/// host is reset.
fn on_health(balancers: Arc<Balancers>, workers: Vec<Remote>) -> OnChange {
    Arc::new(move |host, health| {
        balancers.refresh(&host.cluster);
        let snapshot = balancers.current.load();
        let cluster = snapshot.clusters.get(&host.cluster);
        if health == Health::Unhealthy && cluster.is_some_and(|cluster| cluster.config.close_on_failure) {
            workers.iter().for_each(|worker| worker.declare_dead(host.id));
        }
    })
}

#[cfg(test)]
mod tests;

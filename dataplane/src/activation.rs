//! Makes accepted configuration run: binds sockets, keeps the hosts and their checks, hands every worker the same
//! snapshot. All or nothing: what can fail is done before anything changes.

use std::collections::{BTreeMap, HashMap};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use crate::breaker::Load;
use crate::config::{Cluster, Config, Endpoints, HealthCheck, ResourceKind};
use crate::decode::{Rejection, Update, describe};
use crate::health::{self, OnChange};
use crate::listener;
use crate::snapshot::{Health, Host, LiveCluster, LiveHost, LiveListener, Snapshot};
use crate::worker::Command;

/// Wait between two tries to bind a port.
const PORT_WAIT: Duration = Duration::from_millis(200);

pub(crate) struct Activation {
    workers: Vec<mpsc::Sender<Command>>,
    current: Arc<ArcSwap<Snapshot>>,
    hosts: HashMap<(Arc<str>, SocketAddr), TrackedHost>,
    traffic: HashMap<Arc<str>, Arc<AtomicBool>>,
    loads: HashMap<Arc<str>, Arc<Load>>,
    next_host: u64,
    on_health: OnChange,
    health_changes: watch::Receiver<u64>,
}

/// What an update still waits for after it has been applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Warming {
    /// Listeners whose routes are not known.
    listeners: Vec<Arc<str>>,
    /// Clusters that had no hosts and now have some, none of which has been checked.
    clusters: Vec<Arc<str>>,
}

struct TrackedHost {
    host: Arc<Host>,
    check: Option<HealthCheck>,
    task: Option<AbortHandle>,
}

type Sockets = Vec<(Arc<str>, Vec<TcpListener>)>;

impl Activation {
    pub(crate) fn new(workers: Vec<mpsc::Sender<Command>>, current: Arc<ArcSwap<Snapshot>>) -> Self {
        let (changed, health_changes) = watch::channel(0);
        let on_health = on_health(Arc::clone(&current), workers.clone(), changed);
        Self {
            workers,
            current,
            hosts: HashMap::new(),
            traffic: HashMap::new(),
            loads: HashMap::new(),
            next_host: 0,
            on_health,
            health_changes,
        }
    }

    /// Changes whenever a host's health does.
    pub(crate) fn health_changes(&self) -> watch::Receiver<u64> {
        self.health_changes.clone()
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
        let clusters = config
            .clusters
            .iter()
            .map(|(name, cluster)| {
                (
                    Arc::clone(name),
                    self.live_cluster(name, cluster, config.endpoints.get(name), &before),
                )
            })
            .collect();
        let snapshot = Arc::new(Snapshot { listeners, clusters });
        self.hand_over(&snapshot, sockets).await;
        self.current.store(Arc::clone(&snapshot));
        // A host may have changed between building the snapshot and storing it.
        snapshot.clusters.values().for_each(|cluster| cluster.refresh());
        self.forget_hosts(&snapshot);
        Ok(())
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
                let clusters = names().filter(|name| now.clusters.contains_key(name) && !had_hosts(name));
                Warming {
                    clusters: clusters.collect(),
                    ..Warming::default()
                }
            }
            ResourceKind::Cluster | ResourceKind::Routes => Warming::default(),
        }
    }

    /// Whether what was waited for has come, or is not wanted any more.
    pub(crate) fn is_warm(&self, warming: &Warming, config: &Config) -> bool {
        let now = self.current.load();
        let listening = |name: &Arc<str>| match (config.listeners.get(name), now.listeners.get(name)) {
            (Some(wanted), Some(live)) => Arc::ptr_eq(wanted, &live.config),
            (Some(_), None) => false,
            (None, _) => true,
        };
        let checked = |name: &Arc<str>| now.clusters.get(name).is_none_or(|cluster| cluster.is_checked());
        warming.listeners.iter().all(listening) && warming.clusters.iter().all(checked)
    }

    /// Sockets for the listeners that are new or have moved.
    fn bind(
        &self,
        listeners: &BTreeMap<Arc<str>, Arc<LiveListener>>,
        before: &Snapshot,
    ) -> Result<Sockets, Vec<Rejection>> {
        let mut sockets = Vec::new();
        let mut rejections = Vec::new();
        for (name, live) in listeners {
            let address = live.config.address;
            if before
                .listeners
                .get(name)
                .is_some_and(|held| held.config.address == address)
            {
                continue;
            }
            let ours = before
                .listeners
                .values()
                .any(|held| held.config.address == address);
            match listener::bind(address, self.workers.len(), ours) {
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

    fn live_cluster(
        &mut self,
        name: &Arc<str>,
        config: &Arc<Cluster>,
        endpoints: Option<&Arc<Endpoints>>,
        before: &Snapshot,
    ) -> Arc<LiveCluster> {
        if let Some(held) = before.clusters.get(name)
            && Arc::ptr_eq(&held.config, config)
            && held.endpoints.as_ref().map(Arc::as_ptr) == endpoints.map(Arc::as_ptr)
        {
            return Arc::clone(held);
        }
        let traffic = Arc::clone(self.traffic.entry(Arc::clone(name)).or_default());
        let workers = self.workers.len();
        let load = self.loads.entry(Arc::clone(name));
        let load = Arc::clone(load.or_insert_with(|| Load::new(workers)));
        let given = endpoints.map_or(&[][..], |endpoints| &endpoints.endpoints);
        let hosts = given
            .iter()
            .map(|endpoint| LiveHost {
                host: self.host(name, endpoint.address, config.health_check.as_ref(), &traffic),
                endpoint: endpoint.clone(),
            })
            .collect();
        Arc::new(LiveCluster::new(
            Arc::clone(name),
            Arc::clone(config),
            endpoints.cloned(),
            hosts,
            traffic,
            load,
        ))
    }

    /// The host at `address`, with what is known of its health: as long as its check is the same, nothing changes for it;
    /// with another check its health is kept until that has an opinion.
    fn host(
        &mut self,
        cluster: &Arc<str>,
        address: SocketAddr,
        check: Option<&HealthCheck>,
        traffic: &Arc<AtomicBool>,
    ) -> Arc<Host> {
        let key = (Arc::clone(cluster), address);
        let held = self.hosts.get(&key);
        if let Some(held) = held
            && held.check.as_ref() == check
        {
            return Arc::clone(&held.host);
        }
        let health = match (check, held) {
            (None, _) => Health::Healthy,
            (Some(_), Some(held)) => held.host.health(),
            (Some(_), None) => Health::Unchecked,
        };
        self.next_host += 1;
        let host = Arc::new(Host::new(self.next_host, Arc::clone(cluster), address, health));
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
            task,
        };
        self.hosts.insert(key, tracked);
        host
    }

    async fn hand_over(&self, snapshot: &Arc<Snapshot>, sockets: Sockets) {
        let mut shares: Vec<Vec<(Arc<str>, TcpListener)>> = self.workers.iter().map(|_| Vec::new()).collect();
        for (name, bound) in sockets {
            for (share, socket) in shares.iter_mut().zip(bound) {
                share.push((Arc::clone(&name), socket));
            }
        }
        let mut applied = Vec::new();
        for (worker, sockets) in self.workers.iter().zip(shares) {
            let (done, finished) = oneshot::channel();
            let command = Command::Apply {
                snapshot: Arc::clone(snapshot),
                sockets,
                done,
            };
            if worker.send(command).await.is_ok() {
                applied.push(finished);
            }
        }
        for finished in applied {
            // A worker that is gone runs nothing, so it runs nothing old either.
            let _ = finished.await;
        }
    }

    fn forget_hosts(&mut self, snapshot: &Snapshot) {
        let used: HashMap<u64, ()> = snapshot.hosts().map(|live| (live.host.id, ())).collect();
        self.hosts
            .retain(|_, tracked| used.contains_key(&tracked.host.id));
        self.traffic
            .retain(|name, _| snapshot.clusters.contains_key(name));
        self.loads.retain(|name, _| snapshot.clusters.contains_key(name));
    }
}

impl Drop for TrackedHost {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Listeners whose routes are known. One whose new routes are not known yet keeps running as it was: make before break.
fn live_listeners(config: &Config, before: &Snapshot) -> BTreeMap<Arc<str>, Arc<LiveListener>> {
    let mut live = BTreeMap::new();
    for (name, listener) in &config.listeners {
        let held = before.listeners.get(name);
        let next = match (config.routes.get(&listener.routes), held) {
            (Some(routes), Some(held))
                if Arc::ptr_eq(&held.config, listener) && Arc::ptr_eq(&held.routes, routes) =>
            {
                Arc::clone(held)
            }
            (Some(routes), _) => {
                let held = held.map(Arc::as_ref);
                Arc::new(LiveListener::new(Arc::clone(listener), Arc::clone(routes), held))
            }
            (None, Some(held)) => Arc::clone(held),
            (None, None) => continue,
        };
        live.insert(Arc::clone(name), next);
    }
    live
}

/// What happens when a check changes its mind: the balancer learns it, and if the cluster wants it, what is in flight on a dead
/// host is reset.
fn on_health(
    current: Arc<ArcSwap<Snapshot>>,
    workers: Vec<mpsc::Sender<Command>>,
    changed: watch::Sender<u64>,
) -> OnChange {
    // Two checks that end together must not store their selections in the wrong order.
    let refreshing = Mutex::new(());
    Arc::new(move |host, health| {
        let snapshot = current.load();
        let cluster = snapshot.clusters.get(&host.cluster);
        if let Some(cluster) = cluster {
            let _order = refreshing.lock().unwrap_or_else(PoisonError::into_inner);
            cluster.refresh();
        }
        if health == Health::Unhealthy && cluster.is_some_and(|cluster| cluster.config.close_on_failure) {
            for worker in &workers {
                if worker.try_send(Command::HostFailed(host.id)).is_err() {
                    tracing::warn!(host = %host.address, "a worker is too busy to reset what is in flight on a dead host");
                }
            }
        }
        changed.send_modify(|changes| *changes += 1);
    })
}

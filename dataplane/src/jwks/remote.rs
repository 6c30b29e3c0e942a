//! Keys that an issuer publishes: a task of the main runtime asks for them over a cluster of the proxy, and keeps what it had while
//! nobody answers. Requests read what is there, and wait for nothing.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use bytes::Bytes;
use futures::future::join_all;
use http::header::{HOST, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, Request, StatusCode, Uri};
use http_body_util::Full;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::{BadKeys, KeySet};
use crate::config::{Config, Listener, Network, Protocol};
use crate::health;
use crate::retry::BackOff;
use crate::snapshot::{Host, LiveCluster, Snapshot};
use crate::worker::Random;

/// How long keys are believed after their issuer has last been heard of.
const KEYS_KEPT_MAX: Duration = Duration::from_secs(24 * 3600);
/// Between two fetches: names of keys cost nothing to make up, so unknown ones must not make the proxy ask without end.
const FETCH_WAIT_MIN: Duration = Duration::from_secs(10);
/// What these waits grow to while nothing comes of them, unless the configuration says a longer one.
const FETCH_WAIT_MAX: Duration = Duration::from_secs(60);

/// Where keys are, and how they are asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Remote {
    pub(crate) authority: Authority,
    pub(crate) path: PathAndQuery,
    pub(crate) cluster: Arc<str>,
    pub(crate) timeout: Duration,
    pub(crate) cached: Duration,
    /// Until the next fetch after one that failed.
    pub(crate) again: Duration,
    pub(crate) retries_max: u32,
    pub(crate) back_off: BackOff,
}

/// Where keys are, however they are asked for.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Source {
    cluster: Arc<str>,
    authority: Authority,
    path: PathAndQuery,
}

/// The same, as one process names it to another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Place {
    cluster: String,
    authority: String,
    path: String,
}

/// What a filter knows of them. Two are equal when they are in the same place, and are asked for in the same way.
#[derive(Clone, Debug)]
pub(crate) struct RemoteKeys {
    pub(crate) at: Remote,
    /// Nobody fetches them until the configuration runs.
    fetched: OnceLock<Arc<Fetched>>,
}

#[derive(Debug)]
struct Fetched {
    /// As the last that came to want them says.
    at: ArcSwap<Remote>,
    /// It says otherwise now.
    changed: Notify,
    keys: ArcSwapOption<KeySet>,
    /// Somebody has a token of a key that is not among them.
    wanted: Notify,
    /// There are other keys than before.
    renewed: Notify,
}

/// Who fetches, one task for each source.
pub(crate) struct Fetchers {
    current: Arc<ArcSwap<Snapshot>>,
    running: HashMap<Source, Fetcher>,
}

struct Fetcher {
    fetched: Arc<Fetched>,
    task: AbortHandle,
}

#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("there is no cluster {0}")]
    NoCluster(Arc<str>),
    #[error("no host of cluster {0} is healthy")]
    NoHost(Arc<str>),
    #[error("it did not answer in time")]
    Late,
    #[error("cannot ask {host}")]
    Ask {
        host: std::net::SocketAddr,
        #[source]
        source: health::ProbeError,
    },
    #[error("the answer is {0}")]
    Status(StatusCode),
    #[error("the answer broke off, or is too large")]
    Body,
    #[error("the answer {0}")]
    Keys(#[from] BadKeys),
}

impl RemoteKeys {
    pub(crate) fn new(at: Remote) -> Self {
        Self {
            at,
            fetched: OnceLock::new(),
        }
    }

    /// None until they have come, and once they are too old.
    pub(crate) fn keys(&self) -> Option<Guard<Option<Arc<KeySet>>>> {
        let keys = self.fetched.get()?.keys.load();
        keys.is_some().then_some(keys)
    }

    /// Has them fetched anew, if that has not been done only now.
    pub(crate) fn want(&self) {
        if let Some(fetched) = self.fetched.get() {
            fetched.wanted.notify_one();
        }
    }

    #[cfg(test)]
    pub(crate) fn come(&self, keys: Option<Arc<KeySet>>) {
        let fetched = self.fetched.get_or_init(|| Arc::new(Fetched::new(&self.at)));
        fetched.keys.store(keys);
    }
}

impl Remote {
    fn source(&self) -> Source {
        Source {
            cluster: Arc::clone(&self.cluster),
            authority: self.authority.clone(),
            path: self.path.clone(),
        }
    }
}

impl From<&Source> for Place {
    fn from(source: &Source) -> Self {
        Self {
            cluster: source.cluster.to_string(),
            authority: source.authority.to_string(),
            path: source.path.to_string(),
        }
    }
}

impl Fetched {
    fn new(at: &Remote) -> Self {
        Self {
            at: ArcSwap::from_pointee(at.clone()),
            changed: Notify::new(),
            keys: ArcSwapOption::empty(),
            wanted: Notify::new(),
            renewed: Notify::new(),
        }
    }
}

impl PartialEq for RemoteKeys {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Fetchers {
    pub(crate) fn new(current: Arc<ArcSwap<Snapshot>>) -> Self {
        Self {
            current,
            running: HashMap::new(),
        }
    }

    /// Has the listeners of `config` that `running` has not or has otherwise know the keys that are there already, before any
    /// request comes to them.
    pub(crate) fn attach(&self, config: &Config, running: &Config) {
        each_wanted(config, running, |keys| {
            if let Some(held) = self.running.get(&keys.at.source()) {
                keys.fetched.get_or_init(|| Arc::clone(&held.fetched));
            }
        });
    }

    /// Fetches what these listeners want, as they say it.
    pub(crate) fn begin(&mut self, config: &Config, running: &Config) {
        each_wanted(config, running, |keys| self.fetch(keys));
    }

    fn fetch(&mut self, keys: &RemoteKeys) {
        let fetched = match self.running.entry(keys.at.source()) {
            Entry::Occupied(held) => Arc::clone(&held.get().fetched),
            Entry::Vacant(place) => {
                let fetched = Arc::new(Fetched::new(&keys.at));
                let run = run(Arc::clone(&fetched), Arc::clone(&self.current));
                let task = tokio::spawn(run).abort_handle();
                Arc::clone(&place.insert(Fetcher { fetched, task }).fetched)
            }
        };
        if **fetched.at.load() != keys.at {
            fetched.at.store(Arc::new(keys.at.clone()));
            fetched.changed.notify_one();
        }
        keys.fetched.get_or_init(|| fetched);
    }

    /// Ready once there are keys of all of these places of which any are wanted.
    pub(crate) async fn come(&self, places: &BTreeSet<Place>) {
        join_all(self.of(places).map(Fetched::come)).await;
    }

    /// Those of these places of which there are no keys.
    pub(crate) fn missing(&self, places: &BTreeSet<Place>) -> impl Iterator<Item = Arc<Remote>> {
        let missing = self.of(places).filter(|fetched| fetched.keys.load().is_none());
        missing.map(|fetched| fetched.at.load_full())
    }

    fn of(&self, places: &BTreeSet<Place>) -> impl Iterator<Item = &Fetched> {
        let fetchers = self.running.iter();
        let of = fetchers.filter(|(source, _)| places.contains(&Place::from(*source)));
        of.map(|(_, fetcher)| &*fetcher.fetched)
    }

    /// Ends what no listener wants any more.
    pub(crate) fn let_go(&mut self) {
        // Ours, and the task's.
        self.running
            .retain(|_, fetcher| Arc::strong_count(&fetcher.fetched) > 2);
    }
}

impl Fetched {
    async fn come(&self) {
        loop {
            let renewed = self.renewed.notified();
            if self.keys.load().is_some() {
                return;
            }
            renewed.await;
        }
    }
}

fn each_wanted(config: &Config, running: &Config, mut show: impl FnMut(&RemoteKeys)) {
    for change in config.listeners.changes(&running.listeners, Arc::ptr_eq) {
        change.now.into_iter().flat_map(wanted).for_each(&mut show);
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The places of which `config` has keys that have come.
pub(crate) fn known(config: &Config) -> BTreeSet<Place> {
    let all = config.listeners.values().flat_map(wanted);
    let known = all.filter(|keys| keys.keys().is_some());
    known.map(|keys| Place::from(&keys.at.source())).collect()
}

fn wanted(listener: &Arc<Listener>) -> impl Iterator<Item = &RemoteKeys> {
    let http = listener.chains.iter().filter_map(|chain| match &chain.network {
        Network::Http(http) => Some(http),
        Network::Tcp(_) => None,
    });
    let filters = http.flat_map(|http| &http.filters);
    filters.flat_map(|filter| filter.filter.remote_keys())
}

/// Keeps the keys fresh, until the task is aborted.
async fn run(fetched: Arc<Fetched>, current: Arc<ArcSwap<Snapshot>>) {
    let mut heard = Instant::now();
    let mut is_down = false;
    // In a row: that failed, and that were wanted for a key that did not come.
    let (mut failed, mut in_vain) = (0, 0);
    let mut is_wanted = false;
    loop {
        let at = fetched.at.load_full();
        let result = fetch_or_retry(&at, &current).await;
        let asked = Instant::now();
        let wait = match result {
            Ok(keys) => {
                if is_down {
                    tracing::info!(cluster = %at.cluster, path = %at.path, "an issuer's keys can be fetched again");
                }
                (heard, is_down) = (asked, false);
                // What was verified by the same keys stays so.
                let is_new = fetched.keys.load().as_deref() != Some(&keys);
                if is_new {
                    fetched.keys.store(Some(Arc::new(keys)));
                    fetched.renewed.notify_waiters();
                }
                failed = 0;
                in_vain = if is_wanted && !is_new { in_vain + 1 } else { 0 };
                at.cached
            }
            Err(error) => {
                if !is_down {
                    tracing::warn!(cluster = %at.cluster, authority = %at.authority, path = %at.path, error = &error as &dyn std::error::Error, "cannot fetch an issuer's keys");
                }
                is_down = true;
                // Who has taken all keys back has no more of them.
                let has_none = matches!(error, FetchError::Keys(BadKeys::NoneUsable));
                if has_none || heard.elapsed() >= KEYS_KEPT_MAX {
                    fetched.keys.store(None);
                }
                failed += 1;
                grown(at.again, failed - 1, Random::new().share())
            }
        };
        let wait_min = wait.min(grown(FETCH_WAIT_MIN, in_vain, Random::new().share()));
        is_wanted = tokio::select! {
            () = tokio::time::sleep_until(asked + wait) => false,
            () = fetched.wanted.notified() => {
                tokio::time::sleep_until(asked + wait_min).await;
                true
            }
            () = fetched.changed.notified() => {
                let again = fetched.at.load().again;
                tokio::time::sleep_until(asked + again).await;
                false
            }
        };
    }
}

/// A wait that doubles each time up to a minute, unless it is longer from the start, and of which up to a quarter more is `draw`n,
/// so that proxies that have begun together do not stay together.
fn grown(wait: Duration, times: u32, draw: f64) -> Duration {
    let max = wait.max(FETCH_WAIT_MAX);
    let grown = wait.saturating_mul(2u32.saturating_pow(times)).min(max);
    grown.mul_f64(1.0 + draw / 4.0)
}

async fn fetch_or_retry(at: &Remote, current: &ArcSwap<Snapshot>) -> Result<KeySet, FetchError> {
    let mut retry = 0;
    loop {
        let fetched = tokio::time::timeout(at.timeout, fetch(at, current)).await;
        let fetched = fetched.unwrap_or(Err(FetchError::Late));
        if fetched.is_ok() || retry == at.retries_max {
            return fetched;
        }
        let wait = at.back_off.wait(retry, Random::new().share());
        tokio::time::sleep(wait).await;
        retry += 1;
    }
}

async fn fetch(at: &Remote, current: &ArcSwap<Snapshot>) -> Result<KeySet, FetchError> {
    let (cluster, host) = host(at, &current.load())?;
    let protocol = cluster.config.protocol;
    let mut session = None;
    let request = || request(at, &host, protocol);
    let asked = health::ask(&host, protocol, &mut session, health::Wanted::Body, request);
    let told = Box::pin(asked).await.map_err(|source| FetchError::Ask {
        host: host.address,
        source,
    })?;
    if told.head.status != StatusCode::OK {
        return Err(FetchError::Status(told.head.status));
    }
    let body = told.body.ok_or(FetchError::Body)?;
    Ok(KeySet::parse(&body.to_bytes())?)
}

/// As the cluster's balancer has it.
fn host(at: &Remote, snapshot: &Snapshot) -> Result<(Arc<LiveCluster>, Arc<Host>), FetchError> {
    let cluster = snapshot.clusters.get(&at.cluster);
    let cluster = cluster.ok_or_else(|| FetchError::NoCluster(Arc::clone(&at.cluster)))?;
    let host = cluster.any_host();
    let host = host.ok_or_else(|| FetchError::NoHost(Arc::clone(&at.cluster)))?;
    Ok((Arc::clone(cluster), host))
}

fn request(at: &Remote, host: &Host, protocol: Protocol) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::default());
    let mut uri = http::uri::Parts::default();
    uri.path_and_query = Some(at.path.clone());
    let mut headers = HeaderMap::new();
    match protocol {
        Protocol::Http1 => {
            let authority = HeaderValue::from_str(at.authority.as_str());
            headers.insert(
                HOST,
                authority.expect("invariant: an authority is a header value"),
            );
        }
        Protocol::Http2 => {
            uri.scheme = Some(host.scheme());
            uri.authority = Some(at.authority.clone());
        }
    }
    *request.headers_mut() = headers;
    *request.uri_mut() =
        Uri::from_parts(uri).expect("invariant: a path, or scheme, authority and path, are a URI");
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_differ() {
        let seconds = Duration::from_secs;
        for (wait, times, draw, expected) in [
            (1, 0, 0.0, seconds(1)),
            (1, 0, 1.0, Duration::from_millis(1250)),
            (1, 3, 0.0, seconds(8)),
            (1, 40, 0.0, seconds(60)),
            (10, 2, 0.0, seconds(40)),
            (10, 3, 1.0, seconds(75)),
            (100, 5, 0.0, seconds(100)),
        ] {
            assert_eq!(grown(seconds(wait), times, draw), expected, "{wait} {times}");
        }
    }
}

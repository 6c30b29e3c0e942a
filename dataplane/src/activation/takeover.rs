//! The first configuration of a process that takes over from another one.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Activation, live_listeners};
use crate::by_name::ByName;
use crate::config::Config;
use crate::decode::Rejection;
use crate::jwks::{Place, Remote};
use crate::restart::Sockets;

/// How long the first checks of all hosts are waited for: those of a host that does not answer take their timeout, which is
/// rarely longer.
const CHECKS_MAX: Duration = Duration::from_secs(10);
/// How long the keys of issuers are waited for that the other process has: whose tokens are good to that one would be turned away by
/// this one.
const KEYS_MAX: Duration = Duration::from_secs(10);

impl Activation {
    /// Runs `config` on sockets on which another process still accepts. It does not begin to before its hosts have been checked and
    /// issuers' keys have come, unless it is `alone` and nobody serves meanwhile; and not at all if one of the sockets would be left
    /// out: what the kernel has queued on it would be lost.
    pub(crate) async fn take_over<A: Future<Output = ()>>(
        &mut self,
        config: &Config,
        sockets: Sockets,
        keys: &BTreeSet<Place>,
        alone: impl Fn() -> A,
    ) -> Result<(), Vec<Rejection>> {
        let without_listeners = Config {
            listeners: ByName::default(),
            ..config.clone()
        };
        self.try_apply(&without_listeners).await?;
        tokio::select! {
            () = self.first_checks() => {}
            () = alone() => tracing::warn!("taking over at once, since the other process has ended"),
        }
        self.fetchers.begin(config, &self.running);
        tokio::select! {
            come = self.first_keys(keys) => come?,
            () = alone() => tracing::warn!("taking over without the keys of all issuers, since the other process has ended"),
        }
        let listeners = live_listeners(config, &self.current.load());
        let is_left_out = |address: &SocketAddr| {
            !listeners
                .values()
                .any(|live| live.config.binds && live.config.address == *address)
        };
        let left_out: Vec<Rejection> = sockets
            .keys()
            .filter(|address| is_left_out(address))
            .map(|address| Rejection {
                name: address.to_string(),
                reason: "no listener of its configuration can serve there yet".to_owned(),
            })
            .collect();
        if !left_out.is_empty() {
            return Err(left_out);
        }
        self.inherited = sockets;
        let applied = self.try_apply(config).await;
        self.inherited.clear();
        applied
    }

    async fn first_checks(&self) {
        let mut changes = self.health_changes();
        let checked = async {
            while !self
                .current
                .load()
                .clusters
                .values()
                .all(|cluster| cluster.is_checked())
            {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(CHECKS_MAX, checked).await.is_err() {
            tracing::warn!("taking over although some hosts have not been checked");
        }
    }

    async fn first_keys(&self, keys: &BTreeSet<Place>) -> Result<(), Vec<Rejection>> {
        let come = tokio::time::timeout(KEYS_MAX, self.fetchers.come(keys)).await;
        let missing = |at: Arc<Remote>| Rejection {
            name: at.cluster.to_string(),
            reason: format!("its keys of {}{} have not come in time", at.authority, at.path),
        };
        come.map_err(|_| self.fetchers.missing(keys).map(missing).collect())
    }
}

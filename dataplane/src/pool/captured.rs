//! Hosts of a cluster of the type ORIGINAL_DST: they are where clients' connections were to go, and known from the first of
//! those on, until none has been used for long.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::HostPool;
use crate::arrival::Ends;

/// Of one cluster and worker. A client chooses where it goes, so that their number must not be the clients' choice.
const HOSTS_MAX: usize = 1024;

/// The hosts of a pool that is of no address; of another one there are none.
#[derive(Default)]
pub(super) struct Captured(OnceCell<Box<Hosts>>);

type Hosts = RefCell<HashMap<SocketAddr, Used>>;

struct Used {
    pool: Rc<HostPool>,
    last: Instant,
}

impl HostPool {
    /// The pool of the host that a client's connection was to go to; `None` where nobody knows, or there are too many.
    pub(super) fn captured(&self, client: Option<&Ends>) -> Option<Rc<Self>> {
        let address = client.filter(|client| client.is_redirected)?.to;
        let now = Instant::now();
        let mut hosts = self.captured.0.get_or_init(Box::default).borrow_mut();
        if let Some(used) = hosts.get_mut(&address) {
            used.last = now;
            return Some(Rc::clone(&used.pool));
        }
        if hosts.len() >= HOSTS_MAX {
            let unused = hosts.iter().filter(|(_, used)| used.pool.active() == 0);
            let longest = unused
                .min_by_key(|(_, used)| used.last)
                .map(|(address, _)| *address)?;
            hosts.remove(&longest);
        }
        let host = Arc::new(self.host.at(address));
        let pool = Self::new(host, self.turns.share.clone());
        let used = Used {
            pool: Rc::clone(&pool),
            last: now,
        };
        hosts.insert(address, used);
        Some(pool)
    }
}

impl Captured {
    /// Forgets who was not used for as long as hosts are kept.
    pub(super) fn sweep(&self, kept: Option<Duration>, now: Instant) {
        let (Some(hosts), Some(kept)) = (self.0.get(), kept) else {
            return;
        };
        let mut hosts = hosts.borrow_mut();
        hosts.retain(|_, used| used.pool.active() > 0 || now.saturating_duration_since(used.last) < kept);
        hosts.values().for_each(|used| used.pool.sweep(now));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.get().map_or(0, |hosts| hosts.borrow().len())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::breaker::{Load, Share};
    use crate::snapshot::{Health, Host};

    const KEPT: Duration = Duration::from_secs(5);

    fn template() -> Rc<HostPool> {
        let any = ([0, 0, 0, 0], 0).into();
        let mut host = Host::new(7, "a".into(), any, Health::Healthy);
        host.original = Some(KEPT);
        HostPool::new(Arc::new(host), Share::new(&Load::new(1), 0))
    }

    fn to(port: u16) -> Ends {
        Ends {
            client: ([10, 0, 0, 1], 1).into(),
            direct: [10, 0, 0, 1].into(),
            to: ([10, 0, 0, 2], port).into(),
            is_redirected: true,
            pools: crate::pool::OwnPools::default(),
        }
    }

    #[test]
    fn a_host_is_where_a_connection_was_to_go_for_as_long_as_it_is_used() {
        let any = template();
        assert!(any.of(None).is_none(), "nobody's");
        let came_here = Ends {
            is_redirected: false,
            ..to(80)
        };
        assert!(any.of(Some(&came_here)).is_none());
        let one = any.of(Some(&to(80))).unwrap();
        assert_eq!(one.host.address, to(80).to);
        assert!(Rc::ptr_eq(&one, &any.of(Some(&to(80))).unwrap()));
        assert!(!Rc::ptr_eq(&one, &any.of(Some(&to(81))).unwrap()));
        let busy = one.lease();
        let now = Instant::now();
        any.sweep(now + KEPT / 2);
        assert_eq!(any.captured.len(), 2);
        any.sweep(now + 2 * KEPT);
        assert_eq!(any.captured.len(), 1, "what is under way keeps its host");
        assert!(Rc::ptr_eq(&one, &any.of(Some(&to(80))).unwrap()));
        drop(busy);
        any.sweep(now + 4 * KEPT);
        assert_eq!(any.captured.len(), 0);
    }

    #[test]
    fn hosts_make_room_as_long_as_one_is_not_used() {
        let any = template();
        let ports = 1..=u16::try_from(HOSTS_MAX).unwrap();
        let mut busy: Vec<_> = ports
            .map(|port| any.of(Some(&to(port))).unwrap().lease())
            .collect();
        assert!(any.of(Some(&to(9999))).is_none(), "all are used");
        busy.remove(500);
        assert!(any.of(Some(&to(9999))).is_some());
        assert_eq!(any.captured.len(), HOSTS_MAX);
        assert!(any.of(Some(&to(501))).is_some(), "nobody uses the last one");
        assert_eq!(any.captured.len(), HOSTS_MAX);
    }
}

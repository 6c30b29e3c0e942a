//! Connections to hosts that are told whose they are (`proxy_protocol`): each client's connection has pools of its own, which end
//! with it.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::HostPool;
use crate::arrival::Ends;
use crate::proxy_protocol::Addresses;

/// Hosts that one client's connection has pools for at once: who has more to do than that opens connections again.
const POOLS_MAX: usize = 64;
/// Fewer than so many are not looked through for those that are gone.
const LOOKED_THROUGH_MIN: usize = 64;

/// The pools of one client's connection.
#[derive(Default)]
pub(crate) struct OwnPools(RefCell<Vec<Rc<HostPool>>>);

/// Whose a pool is.
pub(super) struct Owner {
    pub(super) addresses: Addresses,
    /// The host's pool for all.
    shared: Weak<HostPool>,
}

/// What a pool knows of those of single clients.
#[derive(Default)]
pub(super) struct Clients {
    pools: RefCell<Vec<Weak<HostPool>>>,
    /// With so many, those that are gone are looked for.
    look_through_at: Cell<usize>,
}

impl HostPool {
    /// The pool for a client's requests to this host, if it is one or the client's connection was to go to one. Without a
    /// client they are the proxy's own.
    pub(crate) fn of(self: &Rc<Self>, client: Option<&Ends>) -> Option<Rc<Self>> {
        let pool = match self.host.original {
            None => Rc::clone(self),
            Some(_) => self.captured(client)?,
        };
        Some(match client.filter(|_| pool.host.greeting.is_some()) {
            Some(client) => client.pools.of(&pool, client),
            None => pool,
        })
    }

    /// The host's pool for all, if that is not this one and the host is not gone.
    pub(super) fn shared(&self) -> Option<Rc<Self>> {
        self.owner.as_ref()?.shared.upgrade()
    }

    /// Whether nobody will want its connections any more.
    pub(super) fn is_orphan(&self) -> bool {
        self.owner
            .as_ref()
            .is_some_and(|owner| owner.shared.strong_count() == 0)
    }

    fn of_client(self: &Rc<Self>, client: &Ends) -> Rc<Self> {
        let owner = Owner {
            addresses: client.addresses(),
            shared: Rc::downgrade(self),
        };
        let (host, share) = (Arc::clone(&self.host), self.turns.share.clone());
        let own = Rc::new(Self::with(host, share, Some(Box::new(owner))));
        self.clients.add(&own);
        own
    }
}

impl OwnPools {
    fn of(&self, shared: &Rc<HostPool>, client: &Ends) -> Rc<HostPool> {
        let mut pools = self.0.borrow_mut();
        let host = |pool: &HostPool| (pool.host.id, pool.host.address);
        if let Some(own) = pools.iter().find(|own| host(own) == host(shared)) {
            return Rc::clone(own);
        }
        if pools.len() == POOLS_MAX {
            let unused = pools.iter().position(|own| own.active.get() == 0);
            // What is under way keeps its pool.
            pools.remove(unused.unwrap_or(0));
        }
        let own = shared.of_client(client);
        pools.push(Rc::clone(&own));
        own
    }
}

impl Clients {
    fn add(&self, own: &Rc<HostPool>) {
        let mut pools = self.pools.borrow_mut();
        if pools.len() >= self.look_through_at.get().max(LOOKED_THROUGH_MIN) {
            pools.retain(|own| own.strong_count() > 0);
            self.look_through_at.set(2 * pools.len());
        }
        pools.push(Rc::downgrade(own));
    }

    pub(super) fn each(&self, mut act: impl FnMut(&HostPool)) {
        let mut pools = self.pools.borrow_mut();
        // One that is gone holds its memory as long as somebody knows of it.
        pools.retain(|own| own.strong_count() > 0);
        pools.shrink_to(LOOKED_THROUGH_MIN);
        let living: Vec<_> = pools.iter().filter_map(Weak::upgrade).collect();
        drop(pools);
        living.iter().for_each(|own| act(own));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::breaker::{Load, Share};
    use crate::proxy_protocol::Version;
    use crate::snapshot::{Health, Host};

    #[test]
    fn nothing_is_left_of_clients_that_have_gone() {
        let address = ([10, 0, 0, 2], 80).into();
        let mut host = Host::new(7, "a".into(), address, Health::Healthy);
        host.greeting = Some(Version::V2);
        let shared = HostPool::new(Arc::new(host), Share::new(&Load::new(1), 0));
        let client = |port| Ends {
            client: ([10, 0, 0, 1], port).into(),
            direct: [10, 0, 0, 1].into(),
            to: ([10, 0, 0, 3], 80).into(),
            is_redirected: false,
            pools: OwnPools::default(),
        };
        let stays = client(1);
        let own = shared.of(Some(&stays)).unwrap();
        for port in 2..1000 {
            shared.of(Some(&client(port)));
        }
        shared.sweep(Instant::now());
        let known = shared.clients.pools.borrow();
        assert_eq!(known.len(), 1);
        assert!(known.capacity() <= LOOKED_THROUGH_MIN);
        assert!(Rc::ptr_eq(&known[0].upgrade().unwrap(), &own));
    }
}

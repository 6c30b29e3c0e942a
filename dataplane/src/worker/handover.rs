//! Connections that were redirected to one listener and were to go to another: that one serves them, whether or not it listens.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use super::{View, Worker};
use crate::listener::WorkerListener;
use crate::snapshot::{LiveListener, Snapshot};

/// Names of listeners by their addresses.
pub(super) type Addresses = HashMap<SocketAddr, Arc<str>>;

impl Worker {
    /// The listener on `address`, or on its port on all addresses.
    pub(crate) fn listener_at(self: &Rc<Self>, address: SocketAddr) -> Option<Rc<WorkerListener>> {
        let (name, live) = self.view.listener_at(address)?;
        let mut listeners = self.listeners.borrow_mut();
        if let Some(held) = listeners.get(&name) {
            return Some(Rc::clone(held));
        }
        let listener = WorkerListener::new(self, &name, &live);
        if let Some(leaving) = self.drains.get() {
            listener.drain(leaving);
        } else {
            listeners.insert(name, Rc::clone(&listener));
        }
        Some(listener)
    }
}

impl View {
    fn listener_at(&self, address: SocketAddr) -> Option<(Arc<str>, Arc<LiveListener>)> {
        let snapshot = self.snapshot.borrow();
        let mut addresses = self.addresses.borrow_mut();
        let addresses = addresses.get_or_insert_with(|| by_address(&snapshot));
        let name = find(addresses, address)?;
        let live = snapshot.listeners.get(name)?;
        Some((Arc::clone(name), Arc::clone(live)))
    }
}

fn by_address(snapshot: &Snapshot) -> Addresses {
    let listeners = snapshot.listeners.iter();
    listeners
        .map(|(name, live)| (live.config.address, Arc::clone(name)))
        .collect()
}

/// Where IPv6 listens on all addresses, so does IPv4.
fn find(addresses: &Addresses, address: SocketAddr) -> Option<&Arc<str>> {
    let all: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let all = all.into_iter().skip(usize::from(address.is_ipv6()));
    let mut keys = std::iter::once(address).chain(all.map(|ip| SocketAddr::new(ip, address.port())));
    keys.find_map(|key| addresses.get(&key))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_address_itself_comes_before_all_addresses() {
        let given = ["10.0.0.1:80", "0.0.0.0:80", "[::]:80", "[::]:81", "[fd00::1]:81"];
        let addresses = given.map(|address| (address.parse().unwrap(), Arc::from(address)));
        let addresses = Addresses::from(addresses);
        for (address, expected) in [
            ("10.0.0.1:80", Some("10.0.0.1:80")),
            ("10.0.0.2:80", Some("0.0.0.0:80")),
            ("10.0.0.2:81", Some("[::]:81")),
            ("[fd00::1]:80", Some("[::]:80")),
            ("[fd00::1]:81", Some("[fd00::1]:81")),
            ("10.0.0.1:82", None),
        ] {
            let found = find(&addresses, address.parse().unwrap());
            assert_eq!(found.map(|name| &**name), expected, "{address}");
        }
    }
}

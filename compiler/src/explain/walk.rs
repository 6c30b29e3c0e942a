//! A request's way through what one proxy runs: listener, virtual host, route. What this says, every proxy does; the
//! differential test holds it against real ones.

use super::request::Request;
use crate::finding::Traced;
use crate::lower::EAST_WEST;
use crate::proxy::{Listener, ProxyConfig, Route, RouteTable, VirtualHost};

/// Where the walk ended.
#[derive(Clone, Copy, Debug)]
pub enum Walk<'a> {
    /// The proxy does not listen for it.
    NoListener,
    /// The proxy answers 404 by itself.
    NoHost,
    /// Likewise: the host's routes take other requests.
    NoRoute { host: &'a Traced<VirtualHost> },
    Route {
        host: &'a Traced<VirtualHost>,
        route: &'a Traced<Route>,
    },
}

/// What becomes of a request that arrives at one listener of a proxy.
pub fn walk<'a>(config: &'a ProxyConfig, listener: &str, request: &Request) -> Walk<'a> {
    let table = config
        .listeners
        .get(listener)
        .and_then(|listener| config.route_tables.get(&listener.value.route_table));
    let Some(table) = table else {
        return Walk::NoListener;
    };
    let Some(host) = table.value.host(request) else {
        return Walk::NoHost;
    };
    let mut routes = host.value.routes.iter();
    match routes.find(|route| route.value.matches.admits(request).is_ok()) {
        Some(route) => Walk::Route { host, route },
        None => Walk::NoRoute { host },
    }
}

/// The listener of a gateway at which a request from outside arrives: at the port that its URL names; else at the scheme's own port,
/// or at the first that knows the host, as whoever leads traffic to the gateway may map ports.
pub(super) fn arrival<'a>(config: &'a ProxyConfig, request: &Request) -> Option<(&'a str, &'a Listener)> {
    let mut listeners: Vec<(&str, &Listener)> = config
        .listeners
        .iter()
        .filter(|(name, _)| *name != EAST_WEST)
        .map(|(name, listener)| (name.as_str(), &listener.value))
        .collect();
    listeners.sort_by_key(|(_, listener)| listener.bind.port());
    let at = |port: u16| {
        listeners
            .iter()
            .copied()
            .find(|(_, listener)| listener.bind.port() == port)
    };
    if let Some(port) = request.port() {
        return at(port);
    }
    let knows = |listener: &Listener| {
        let table = config.route_tables.get(&listener.route_table);
        table.is_some_and(|table| table.value.host(request).is_some())
    };
    at(request.scheme().default_port()).or_else(|| {
        let mut knowing = listeners.iter().copied().filter(|(_, listener)| knows(listener));
        knowing.next().or(listeners.first().copied())
    })
}

impl RouteTable {
    /// The virtual host of a request: of its exact name, else of the longest suffix, else the one for any.
    pub(crate) fn host(&self, request: &Request) -> Option<&Traced<VirtualHost>> {
        let name = if self.ignore_port {
            request.host()
        } else {
            request.authority()
        };
        let ranked = self.hosts.iter().filter_map(|host| {
            let domains = host.value.domains.iter();
            let rank = domains.filter_map(|domain| rank(domain, name)).max()?;
            Some((rank, host))
        });
        ranked.max_by_key(|(rank, _)| *rank).map(|(_, host)| host)
    }
}

/// How well a domain fits a name: the length of what it fixes; an exact one beats all. `None` when it does not.
fn rank(domain: &str, name: &str) -> Option<usize> {
    if domain == name {
        return Some(usize::MAX);
    }
    let suffix = domain.strip_prefix('*')?;
    (name.len() > suffix.len() && name.ends_with(suffix)).then_some(suffix.len())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::routes::HostConduct;

    #[test]
    fn the_most_specific_domain_wins() {
        let host = |name: &str, domains: &[&str]| {
            Traced::untraced(VirtualHost {
                name: name.to_owned(),
                domains: domains.iter().map(|domain| (*domain).to_owned()).collect(),
                routes: Vec::new(),
                conduct: HostConduct::default(),
            })
        };
        let hosts = vec![
            host("any", &["*"]),
            host("suffix", &["*.example.com"]),
            host("longer suffix", &["*.shop.example.com"]),
            host("exact", &["reviews.shop.example.com", "reviews", "reviews:90"]),
        ];
        for (ignore_port, authority, expected) in [
            (true, "reviews", "exact"),
            (true, "REVIEWS:8080", "exact"),
            (false, "reviews:8080", "any"),
            (false, "reviews:90", "exact"),
            (true, "reviews.shop.example.com", "exact"),
            (true, "ratings.shop.example.com", "longer suffix"),
            (true, "shop.example.com", "suffix"),
            (true, "example.com", "any"),
        ] {
            let table = RouteTable {
                ignore_port,
                hosts: hosts.clone(),
            };
            let request = Request::new("GET", &format!("http://{authority}/"), BTreeMap::new()).unwrap();
            assert_eq!(table.host(&request).unwrap().value.name, expected, "{authority}");
        }
    }
}

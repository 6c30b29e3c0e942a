//! Who claims which hosts.

use crate::name::{Fqn, Hostname};
use crate::persistent::{Map, Set};

/// Hosts by their labels from right to left, `com.example.shop`, so that all below a wildcard are neighbours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostIndex(Map<String, (Hostname, Set<Fqn>)>);

impl HostIndex {
    pub(crate) fn insert(&mut self, host: &Hostname, by: &Fqn) {
        let key = reversed(host.as_str());
        if !self.0.contains_key(&key) {
            self.0.insert(key.clone(), (host.clone(), Set::new()));
        }
        if let Some((_, owners)) = self.0.get_mut(&key) {
            owners.insert(by.clone(), ());
        }
    }

    pub(crate) fn remove(&mut self, host: &Hostname, by: &Fqn) {
        let key = reversed(host.as_str());
        let Some((_, owners)) = self.0.get_mut(&key) else {
            return;
        };
        owners.remove(by);
        if owners.is_empty() {
            self.0.remove(&key);
        }
    }

    /// Every claim of a host that some request could be for as well as for this one.
    pub(crate) fn intersecting(&self, host: &Hostname) -> impl Iterator<Item = (&Hostname, &Fqn)> {
        let key = reversed(host.as_str());
        // `com.example.*` is there for `com.example.shop`, and `com.*`.
        let above = key
            .match_indices('.')
            .filter_map(|(at, _)| self.0.get(format!("{}.*", &key[..at]).as_str()));
        let mut found: Vec<&(Hostname, Set<Fqn>)> = above.collect();
        match key.strip_suffix('*') {
            // The wildcard itself is above its labels already.
            Some(below) => {
                let inside = self.0.starting_with(below);
                found.extend(
                    inside
                        .filter(|(other, _)| **other != key)
                        .map(|(_, claims)| claims),
                );
            }
            None => found.extend(self.0.get(&key)),
        }
        found
            .into_iter()
            .flat_map(|(host, owners)| owners.keys().map(move |owner| (host, owner)))
    }
}

fn reversed(host: &str) -> String {
    let mut labels: Vec<&str> = host.split('.').collect();
    labels.reverse();
    labels.join(".")
}

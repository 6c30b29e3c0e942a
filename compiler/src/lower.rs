//! Last pass: one cluster's slice and view, made into what each of its proxies runs.

use std::collections::{BTreeMap, BTreeSet};

use crate::finding::{Code, Finding, Origin, Traced};
use crate::http::{Retry, Span};
use crate::intent::JwtIssuer;
use crate::name::{ClusterName, Fqn, Label};
use crate::proxy::{
    Filter, KeyHost, ProxyConfig, ProxyNode, ProxyRole, RetryPolicy, RouteTable, VirtualHost,
};
use crate::routes::{Locality, NamespaceOwner, Slice, SliceItem, SliceKey};
use crate::setting::Issuers;
use crate::view::View;

mod eastwest;
mod forward;
mod ingress;
mod offered;
mod sidecar;
mod upstream;

pub(crate) use eastwest::NAME as EAST_WEST;
pub(crate) use sidecar::{NAME as OUTBOUND, named_service};
pub(crate) use upstream::upstream_prefix;

/// For requests whose author gave no timeout; what Envoy takes as well.
pub const REQUEST_TIMEOUT: Span = Span::from_ms(15_000);
/// How often a request is tried again when its author did not say: the dead host, its neighbour that died with it, and
/// then one that lives.
pub const RETRY_ATTEMPTS: u32 = 2;
/// The shortest wait before a retry that its author asked for without a wait; what Envoy takes as well.
pub const RETRY_BACKOFF: Span = Span::from_ms(25);
/// Where a request arrives from another cluster: the client's proxy, which knows the author's timeout, gives up first.
pub const EAST_WEST_TIMEOUT: Span = Span::from_ms(3_600_000);
/// The client's proxy tries other clusters; here one more host of this cluster is worth it.
pub const EAST_WEST_RETRY_ATTEMPTS: u32 = 1;

/// From how many a gateway fetches keys: each is told with all authorities of a system, some 200 KiB.
const KEY_HOSTS_MAX: usize = 32;

/// What one proxy runs. A gateway that the view does not hold runs nothing.
pub fn lower(
    cluster: &ClusterName,
    slice: &Slice,
    view: &View,
    node: &ProxyNode,
) -> (ProxyConfig, Vec<Finding>) {
    let site = Site { cluster, slice, view };
    let mut lowered = Lowered::default();
    match &node.role {
        ProxyRole::Sidecar { namespace, outbound } => {
            sidecar::lower(&site, namespace, *outbound, &mut lowered);
        }
        ProxyRole::Gateway { workload } => {
            if let Some(gateway) = view.gateways.get(workload) {
                ingress::lower(&site, workload, gateway, &mut lowered);
                eastwest::lower(&site, workload, gateway, &mut lowered);
            }
        }
    }
    lowered.findings.sort();
    (lowered.config, lowered.findings)
}

/// The cluster as its edge knows it.
struct Site<'a> {
    cluster: &'a ClusterName,
    slice: &'a Slice,
    view: &'a View,
}

impl<'a> Site<'a> {
    fn owner(&self, namespace: &Label) -> Option<&'a Traced<NamespaceOwner>> {
        match self.slice.items.get(&SliceKey::Namespace(namespace.clone())) {
            Some(SliceItem::Namespace(owner)) => Some(owner),
            _ => None,
        }
    }

    fn is_owned_by(&self, namespace: &Label, workspace: &Fqn) -> bool {
        self.owner(namespace)
            .is_some_and(|owner| owner.value.workspace == *workspace)
    }

    fn locality(&self) -> Option<&'a Locality> {
        match self.slice.items.get(&SliceKey::Cluster) {
            Some(SliceItem::Cluster(locality)) => Some(&locality.value),
            _ => None,
        }
    }
}

/// The configuration as it grows.
#[derive(Default)]
struct Lowered {
    config: ProxyConfig,
    findings: Vec<Finding>,
}

impl Lowered {
    /// A listener with a table of its own, both named the same.
    fn listen(
        &mut self,
        name: &str,
        bind: std::net::SocketAddr,
        always: &[Filter],
        table: Traced<RouteTable>,
    ) {
        let needed = table.value.filters();
        let (issuers, quotas) = (table.value.issuers(), table.value.quotas());
        let listener = crate::proxy::Listener {
            bind,
            route_table: name.to_owned(),
            filters: needed.into_iter().chain(always.iter().copied()).collect(),
            issuers,
            quotas,
        };
        let origin = table.origin.clone();
        let listener = Traced {
            value: listener,
            origin,
        };
        self.config.listeners.insert(name.to_owned(), listener);
        self.config.route_tables.insert(name.to_owned(), table);
    }

    /// From where the host's issuers have them, as far as there is room for one more.
    fn fetch_keys(&mut self, cluster: &ClusterName, host: &Traced<VirtualHost>) {
        let issuers = host.value.conduct.jwt.iter().flat_map(Issuers::iter);
        for issuer in issuers {
            let (Some(name), Some((at, port))) = (KeyHost::name_of(issuer), issuer.jwks_uri.authority())
            else {
                continue;
            };
            let key_hosts = &self.config.key_hosts;
            if key_hosts.len() >= KEY_HOSTS_MAX && !key_hosts.contains_key(&name) {
                let refused = host
                    .origin
                    .as_ref()
                    .map(|origin| no_key_host(cluster, origin, issuer));
                self.findings.extend(refused);
                continue;
            }
            // Several may have theirs there, so it is nobody's.
            self.config.key_hosts.entry(name).or_insert_with(|| {
                Traced::untraced(KeyHost {
                    host: at.to_owned(),
                    port,
                    addresses: BTreeSet::new(),
                })
            });
        }
    }
}

fn no_key_host(cluster: &ClusterName, gateway: &Origin, issuer: &JwtIssuer) -> Finding {
    let message = format!(
        "the proxies of this workload fetch keys from {KEY_HOSTS_MAX} hosts already, so tokens of {} are refused; use another \
         workload, or issuers with the same host",
        issuer.issuer
    );
    Finding::warning(
        &gateway.resource,
        "spec.jwt.issuers",
        Code::SettingIgnored,
        message,
    )
    .in_cluster(cluster)
}

fn retry_policy(asked: Option<&Retry>) -> RetryPolicy {
    match asked {
        None => RetryPolicy::Careful {
            attempts: RETRY_ATTEMPTS,
        },
        Some(retry) => RetryPolicy::AsAsked {
            attempts: retry.attempts.as_u32(),
            codes: retry.codes.iter().map(|code| code.as_u16()).collect(),
            backoff: retry.backoff.unwrap_or(RETRY_BACKOFF),
        },
    }
}

/// Items of one kind, by key.
fn gateways(slice: &Slice) -> BTreeMap<&Fqn, &Traced<crate::routes::RoutedGateway>> {
    slice
        .items
        .values()
        .zip(slice.items.keys())
        .filter_map(|(item, key)| match (item, key) {
            (SliceItem::Gateway(gateway), SliceKey::Gateway(name)) => Some((name, gateway)),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_gateway_fetches_keys_from_so_many_hosts_only() {
        let cluster: ClusterName = "us-east".parse().unwrap();
        let mut lowered = Lowered::default();
        let mut fetch = |issuers: Vec<Value>| {
            let gateway = "organizations/acme/tenants/t/workspaces/w/gatewaygroups/g/gateways/in";
            let host = VirtualHost {
                name: gateway.to_owned(),
                domains: BTreeSet::new(),
                routes: Vec::new(),
                conduct: serde_json::from_value(json!({"jwt": issuers})).unwrap(),
            };
            let host = Traced::new(host, Origin::new(gateway.parse().unwrap(), "spec"));
            lowered.fetch_keys(&cluster, &host);
            (lowered.config.key_hosts.len(), lowered.findings.len())
        };
        let issuer = |number: usize| json!({"issuer": format!("i{number}"), "jwksUri": format!("https://{number}.example.com/")});
        assert_eq!(
            fetch((0..KEY_HOSTS_MAX).map(issuer).collect()),
            (KEY_HOSTS_MAX, 0)
        );
        assert_eq!(fetch(vec![issuer(0)]), (KEY_HOSTS_MAX, 0), "the host is there");
        assert_eq!(fetch(vec![issuer(KEY_HOSTS_MAX)]), (KEY_HOSTS_MAX, 1));
    }
}

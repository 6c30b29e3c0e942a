//! A service as one proxy may reach it: what the slice says of it, joined with what its own cluster has.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::Site;
use crate::finding::{Origin, Traced};
use crate::http::Edits;
use crate::intent::Subset;
use crate::name::{Fqn, Label, ServiceId};
use crate::plan::port::is_routed;
use crate::report::{Protocol, ServicePort};
use crate::routes::{
    Conduct, Delivery, Remote, RoutedService, ServiceAction, ServiceRule, SliceItem, SliceKey,
};
use crate::view::{HealthCheck, LocalService};

pub(super) struct Offered<'a> {
    pub(super) id: &'a ServiceId,
    /// `None` for one in a namespace that nobody owns.
    pub(super) workspace: Option<&'a Fqn>,
    routed: Option<&'a Traced<RoutedService>>,
    pub(super) local: Option<&'a LocalService>,
    /// Of the workspace, for what no route decides.
    owner: Option<&'a Origin>,
}

/// A port that speaks HTTP.
#[derive(Clone, Debug)]
pub(super) struct Port {
    pub(super) port: u16,
    /// In the own cluster; instances may map it.
    pub(super) name: Option<Label>,
    pub(super) http2: bool,
    pub(super) health: HealthCheck,
}

/// All services of a workspace that the slice tells of, and those of its namespaces in the own cluster that the slice
/// does not tell of yet: what is local needs nobody above.
pub(super) fn of_workspace<'a>(site: &Site<'a>, workspace: &'a Fqn) -> Vec<Offered<'a>> {
    let routed = site
        .slice
        .items
        .iter()
        .filter_map(|(key, item)| match (key, item) {
            (SliceKey::Service(id, owner), SliceItem::Service(service)) if owner == workspace => {
                Some((id, Some(service)))
            }
            _ => None,
        });
    let local = site.view.services.keys().map(|id| (id, None));
    let local = local.filter(|(id, _)| site.is_owned_by(&id.namespace, workspace));
    let mut services: BTreeMap<&ServiceId, Option<&Traced<RoutedService>>> = local.collect();
    services.extend(routed);
    services
        .into_iter()
        .map(|(id, routed)| Offered::new(site, workspace, id, routed))
        .collect()
}

/// One service of a workspace.
pub(super) fn one<'a>(site: &Site<'a>, workspace: &'a Fqn, id: &'a ServiceId) -> Option<Offered<'a>> {
    let key = SliceKey::Service(id.clone(), workspace.clone());
    let routed = match site.slice.items.get(&key) {
        Some(SliceItem::Service(service)) => Some(service),
        _ => None,
    };
    let offered = Offered::new(site, workspace, id, routed);
    (offered.routed.is_some() || offered.local.is_some()).then_some(offered)
}

/// The services of a namespace that nobody owns, in the own cluster only.
pub(super) fn of_unowned_namespace<'a>(site: &Site<'a>, namespace: &Label) -> Vec<Offered<'a>> {
    site.view
        .services
        .iter()
        .filter(|(id, _)| id.namespace == *namespace)
        .map(|(id, local)| Offered {
            id,
            workspace: None,
            routed: None,
            local: Some(local),
            owner: None,
        })
        .collect()
}

impl<'a> Offered<'a> {
    fn new(
        site: &Site<'a>,
        workspace: &'a Fqn,
        id: &'a ServiceId,
        routed: Option<&'a Traced<RoutedService>>,
    ) -> Offered<'a> {
        let owner = site.owner(&id.namespace);
        let owner = owner.filter(|owner| owner.value.workspace == *workspace);
        Offered {
            id,
            workspace: Some(workspace),
            routed,
            // A namesake of another owner is another service.
            local: owner.and_then(|_| site.view.services.get(id)),
            owner: owner.and_then(|owner| owner.origin.as_ref()),
        }
    }

    pub(super) fn origin(&self) -> Option<&'a Origin> {
        let routed = self.routed.and_then(|routed| routed.origin.as_ref());
        routed.or(self.owner)
    }

    /// By number. The own cluster's word about a port counts before that of others.
    pub(super) fn ports(&self) -> Vec<Port> {
        let routed = self.routed.map_or(&[][..], |routed| &routed.value.ports);
        let mut ports: BTreeMap<u16, Option<Port>> = routed
            .iter()
            .map(|port| {
                let elsewhere = is_routed(port.protocol).then(|| Port {
                    port: port.port,
                    name: None,
                    http2: is_http2(port.protocol),
                    health: HealthCheck::Auto,
                });
                (port.port, elsewhere)
            })
            .collect();
        let local = self.local.map_or(&[][..], |local| &local.ports);
        ports.extend(local.iter().map(|port| {
            let here = is_routed(port.protocol).then(|| Port {
                port: port.port,
                name: Some(port.name.clone()),
                http2: is_http2(port.protocol),
                health: port.health.clone(),
            });
            (port.port, here)
        }));
        ports.into_values().flatten().collect()
    }

    /// As they are reported, for picking one.
    pub(super) fn service_ports(&self) -> Cow<'a, [ServicePort]> {
        match (self.routed, self.local) {
            (Some(routed), _) => Cow::Borrowed(&routed.value.ports),
            (None, Some(local)) => Cow::Owned(local.service_ports()),
            (None, None) => Cow::Borrowed(&[]),
        }
    }

    pub(super) fn subsets(&self) -> &'a [Subset] {
        self.routed.map_or(&[], |routed| &routed.value.subsets)
    }

    pub(super) fn remotes(&self) -> &'a [Remote] {
        self.routed.map_or(&[], |routed| &routed.value.remotes)
    }

    pub(super) fn delivery(&self) -> Delivery {
        self.routed
            .map_or_else(Delivery::default, |routed| routed.value.delivery.clone())
    }

    /// Most specific first; the last one matches everything.
    pub(super) fn rules(&self) -> Cow<'a, [Traced<ServiceRule>]> {
        if let Some(routed) = self.routed {
            return Cow::Borrowed(&routed.value.rules);
        }
        let value = ServiceRule {
            matches: Vec::new(),
            action: ServiceAction::Split(vec![(None, 100)]),
            edits: Edits::default(),
            timeout: None,
            retry: None,
            conduct: Conduct::default(),
        };
        let origin = self.owner.cloned();
        Cow::Owned(vec![Traced { value, origin }])
    }
}

fn is_http2(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::Http2 | Protocol::Grpc)
}

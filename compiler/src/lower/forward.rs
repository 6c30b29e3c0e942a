//! A rule of a service, made into the route that carries it out.

use super::offered::{Offered, Port, one};
use super::upstream::{Scope, destination, upstream};
use super::{Lowered, REQUEST_TIMEOUT, Site, retry_policy};
use crate::http::{Affinity, Edits, Fault, HttpMatch, Retry, Share, Span};
use crate::name::{Fqn, Label};
use crate::plan::port;
use crate::proxy::{Balancer, Forward, Mirror, Route, RouteAction, Target};
use crate::routes::{Conduct, MirrorTarget, ServiceAction, ServiceRule};

/// 503: what is asked for exists and cannot be had now.
pub(super) const UNAVAILABLE: u16 = 503;
/// 404: nothing of that name can be reached from here.
pub(super) const NOT_FOUND: u16 = 404;

/// A service at one of its ports.
pub(super) struct Destination<'a> {
    pub(super) offered: &'a Offered<'a>,
    pub(super) port: &'a Port,
}

impl Destination<'_> {
    /// The targets of a split, each weight times `scale`. Those without a share are left out.
    pub(super) fn targets(
        &self,
        site: &Site<'_>,
        split: &[(Option<Label>, u32)],
        scale: u32,
        lowered: &mut Lowered,
    ) -> Vec<Target> {
        let shares = split.iter().filter(|(_, share)| *share > 0);
        shares
            .map(|(subset, share)| {
                let subset = subset.as_ref();
                Target {
                    cluster: upstream(site, self.offered, self.port, subset, Scope::Mesh, lowered),
                    weight: share.saturating_mul(scale),
                    destination: Some(destination(self.offered.id, self.port, subset)),
                }
            })
            .collect()
    }

    pub(super) fn action(
        &self,
        site: &Site<'_>,
        rule: &ServiceRule,
        wishes: Wishes<'_>,
        lowered: &mut Lowered,
    ) -> RouteAction {
        match &rule.action {
            ServiceAction::Refuse(reason) => refuse(reason),
            ServiceAction::Redirect(to) => RouteAction::Redirect(to.clone()),
            ServiceAction::Split(split) => {
                let targets = self.targets(site, split, 1, lowered);
                let mut wishes = wishes.or(rule);
                if let Some(workspace) = self.offered.workspace {
                    let own = mirrors(site, workspace, &rule.conduct, Some(self), lowered);
                    wishes.mirrors.extend(own);
                }
                let wanted = self.offered.delivery().affinity();
                wishes
                    .affinities
                    .extend(wanted.filter(|affinity| wishes.of_clients || *affinity != Affinity::Source));
                forward(targets, wishes, lowered)
            }
        }
    }
}

/// What an author asked for, apart from the target.
#[derive(Clone, Debug, Default)]
pub(super) struct Wishes<'a> {
    pub(super) timeout: Option<Span>,
    pub(super) retry: Option<&'a Retry>,
    pub(super) edits: Edits,
    pub(super) mirrors: Vec<Mirror>,
    pub(super) fault: Option<Fault>,
    /// Of a session first.
    pub(super) affinities: Vec<Affinity>,
    /// Whether requests come from clients themselves. Elsewhere the peer is one application or proxy, by whose address all of
    /// its requests would go to one instance.
    pub(super) of_clients: bool,
}

impl<'a> Wishes<'a> {
    /// What is left open is as the service's rule has it.
    fn or(self, rule: &'a ServiceRule) -> Wishes<'a> {
        Wishes {
            timeout: self.timeout.or(rule.timeout),
            retry: self.retry.or(rule.retry.as_ref()),
            edits: self.edits.then(&rule.edits),
            mirrors: self.mirrors,
            fault: self.fault.or(rule.conduct.fault),
            affinities: match self.affinities.is_empty() {
                true => rule.conduct.session.iter().cloned().collect(),
                false => self.affinities,
            },
            of_clients: self.of_clients,
        }
    }
}

/// Where copies go: to instances of this cluster, because no other cluster is asked to bear them. A service that it does
/// not have gets none.
pub(super) fn mirrors(
    site: &Site<'_>,
    workspace: &Fqn,
    conduct: &Conduct,
    own: Option<&Destination<'_>>,
    lowered: &mut Lowered,
) -> Vec<Mirror> {
    let mut found = Vec::new();
    let some = conduct.mirrors.iter().filter(|mirror| mirror.share > Share::NONE);
    for mirror in some {
        let cluster = match (&mirror.target, own) {
            (MirrorTarget::Subset(subset), Some(own)) => copies(site, own, Some(subset), lowered),
            (MirrorTarget::Subset(_), None) => None,
            (MirrorTarget::Port(wanted), _) => one(site, workspace, &mirror.service).and_then(|offered| {
                let picked = port::pick(offered.id, &offered.service_ports(), *wanted).ok()?;
                let ports = offered.ports();
                let port = ports.iter().find(|port| port.port == picked)?;
                let destination = Destination {
                    offered: &offered,
                    port,
                };
                copies(site, &destination, None, lowered)
            }),
        };
        found.extend(cluster.map(|cluster| Mirror {
            cluster,
            share: mirror.share,
        }));
    }
    found
}

fn copies(
    site: &Site<'_>,
    to: &Destination<'_>,
    subset: Option<&Label>,
    lowered: &mut Lowered,
) -> Option<String> {
    let is_here = to.offered.local.is_some() && to.port.name.is_some();
    is_here.then(|| upstream(site, to.offered, to.port, subset, Scope::Local, lowered))
}

pub(super) fn forward(targets: Vec<Target>, wishes: Wishes<'_>, lowered: &mut Lowered) -> RouteAction {
    if !wishes.affinities.is_empty() {
        let clusters = targets.iter().map(|target| &target.cluster);
        clusters.for_each(|cluster| by_affinity(cluster, lowered));
    }
    RouteAction::Forward(Forward {
        targets,
        timeout: wishes.timeout.unwrap_or(REQUEST_TIMEOUT),
        retry: retry_policy(wishes.retry),
        edits: Box::new(wishes.edits),
        mirrors: wishes.mirrors,
        fault: wishes.fault,
        affinities: wishes.affinities,
    })
}

/// Whatever its service's setting says: what a rule asks for is nearer. Other rules that send there draw any host.
pub(super) fn by_affinity(cluster: &str, lowered: &mut Lowered) {
    if let Some(upstream) = lowered.config.clusters.get_mut(cluster) {
        upstream.value.balancer = Balancer::Affinity;
    }
}

pub(super) fn refuse(reason: &str) -> RouteAction {
    RouteAction::Respond {
        status: UNAVAILABLE,
        body: reason.to_owned(),
    }
}

/// One for each of the alternatives; none means every request.
pub(super) fn routes(matches: &[HttpMatch], action: &RouteAction) -> Vec<Route> {
    alternatives(matches)
        .into_iter()
        .map(|matches| Route {
            matches,
            action: action.clone(),
        })
        .collect()
}

pub(super) fn alternatives(matches: &[HttpMatch]) -> Vec<HttpMatch> {
    if matches.is_empty() {
        vec![HttpMatch::default()]
    } else {
        matches.to_vec()
    }
}

/// A route for all that no other took.
pub(super) fn otherwise(status: u16, body: String) -> Route {
    Route {
        matches: HttpMatch::default(),
        action: RouteAction::Respond { status, body },
    }
}

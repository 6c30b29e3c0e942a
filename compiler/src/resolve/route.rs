//! Service routes: one per service and workspace, each rule a split over subsets that exist, or a refusal.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::resolver::{Part, Update};
use super::rules::Mirrored;
use super::workspace::namespaces;
use super::{ResolvedRoute, listed, rules, same_route};
use crate::finding::{Claim, Code, Finding, Origin, Traced};
use crate::http::{Edits, Effect, HttpRule, SubsetBackend};
use crate::intent::{ServiceRoute, Spec, Subset};
use crate::name::{Fqn, Kind, Label, ServiceId};
use crate::routes::{Conduct, ServiceAction, ServiceRule};
use crate::selector::Selector;

/// A service of a workspace.
type Key = (Fqn, ServiceId);

pub(super) fn update(update: &mut Update<'_>, groups: &BTreeSet<Fqn>) {
    let mut dirty: Vec<Key> = Vec::new();
    let services = &mut update.to.wanted.services;
    for touch in update.touched.of(Kind::ServiceRoute) {
        if let Some(key) = key(&touch.name, touch.was()) {
            services.remove(&key, &touch.name);
            dirty.push(key);
        }
        if let Some(key) = key(&touch.name, touch.is()) {
            services.insert(&key, &touch.name);
            dirty.push(key);
        }
    }
    for group in groups.iter().filter(|group| group.kind() == Kind::TrafficGroup) {
        let routes = update.to.tree.children(group, Kind::ServiceRoute);
        dirty.extend(routes.filter_map(|route| key(route, update.to.tree.spec(route))));
    }
    // Routes come nearly in the order of their keys, twice when all is new: sorting that is cheaper than a set.
    dirty.sort();
    dirty.dedup();
    for key in dirty {
        update.recomputed += 1;
        service(update, key);
    }
    // One that has lost to it may have turned to a service that came later in the order.
    for winner in update.take_contested(&[Kind::ServiceRoute]) {
        let Some(key) = key(&winner, update.to.tree.spec(&winner)) else {
            continue;
        };
        let held = update.to.resolved.routes.get(&key);
        let held = held.filter(|held| {
            held.origin
                .as_ref()
                .is_some_and(|origin| origin.resource == winner)
        });
        if let Some(held) = held {
            let held = held.value.clone();
            store(update, key, &winner, held);
        }
    }
}

fn key(route: &Fqn, spec: Option<&Spec>) -> Option<Key> {
    let Some(Spec::ServiceRoute(spec)) = spec else {
        return None;
    };
    Some((route.ancestor(Kind::Workspace)?, spec.service.clone()))
}

/// Of several routes for one service, the one whose name sorts first counts.
fn service(update: &mut Update<'_>, key: Key) {
    let routes: Vec<Fqn> = update.to.wanted.services.of(&key).cloned().collect();
    let mut winner: Option<(Fqn, ResolvedRoute)> = None;
    for name in &routes {
        let (Some(group), Some(Spec::ServiceRoute(route))) = (name.parent(), update.to.tree.spec(name))
        else {
            continue;
        };
        let mut findings = Vec::new();
        // What is wrong with the group is told of the group.
        let namespaces = namespaces(update.to, &group, &mut Vec::new());
        if is_of_group(name, route, (&group, &namespaces), &mut findings) {
            // Checked even when it loses, so that its author hears of everything at once.
            let resolved = resolved(name, route, &namespaces, &mut findings);
            match &winner {
                None => winner = Some((name.clone(), resolved)),
                Some((winner, _)) => {
                    let claim = Claim {
                        what: format!("service {}", route.service),
                        holder: winner.clone(),
                    };
                    findings.push(Finding::taken(name, "spec.service", Code::ServiceTaken, claim));
                }
            }
        }
        update.tell(Part::Claims, name, findings);
    }
    match winner {
        None => drop(update.to.resolved.routes.remove(&key)),
        Some((name, route)) => store(update, key, &name, route),
    }
}

fn store(update: &mut Update<'_>, key: Key, name: &Fqn, route: ResolvedRoute) {
    let route = Traced::new(route, update.origin(name, "spec"));
    let was = update.to.resolved.routes.get(&key);
    if !was.is_some_and(|was| same_route(was, &route)) {
        update.to.resolved.routes.insert(key, Arc::new(route));
    }
}

fn is_of_group(
    name: &Fqn,
    route: &ServiceRoute,
    (group, namespaces): (&Fqn, &[Selector]),
    findings: &mut Vec<Finding>,
) -> bool {
    let namespace = &route.service.namespace;
    let is_of_group = namespaces
        .iter()
        .any(|selector| selector.matches_namespace(namespace));
    if !is_of_group {
        let message = format!(
            "namespace {namespace} is not one of {group}: {}; route a service of those namespaces",
            listed(namespaces)
        );
        findings.push(Finding::error(
            name,
            "spec.service",
            Code::NamespaceNotOwned,
            message,
        ));
    }
    is_of_group
}

fn resolved(
    name: &Fqn,
    route: &ServiceRoute,
    namespaces: &[Selector],
    findings: &mut Vec<Finding>,
) -> ResolvedRoute {
    let subsets = subsets(name, route, findings);
    let known: BTreeSet<&Label> = subsets.iter().map(|subset| &subset.name).collect();
    let mirrored = Mirrored::ByService {
        service: &route.service,
        subsets: &known,
        namespaces,
    };
    let outcomes: Vec<(ServiceAction, Edits, Conduct)> = route
        .rules
        .iter()
        .enumerate()
        .map(|(at, rule)| match rules::effect(name, at, rule, findings) {
            Ok(Effect::Pass(edits, mirrors)) => {
                let action = action(name, &route.service, at, rule, &known, findings);
                let conduct = rules::conduct(name, at, rule, &mirrors, &mirrored, findings);
                (action, *edits, conduct)
            }
            Ok(Effect::Redirect(to)) => (ServiceAction::Redirect(*to), Edits::default(), Conduct::default()),
            Err(reason) => (
                ServiceAction::Refuse(reason),
                Edits::default(),
                Conduct::default(),
            ),
        })
        .collect();
    let rules = rules::ordered(name, &route.rules, findings)
        .into_iter()
        .map(|ordered| {
            let (action, edits, conduct) = outcomes[ordered.at].clone();
            let rule = ServiceRule {
                matches: ordered.matches.into_iter().collect(),
                action,
                edits,
                timeout: ordered.rule.timeouts.map(|timeouts| timeouts.request),
                retry: ordered.rule.retry.clone(),
                conduct,
            };
            let field = format!("spec.rules[{}]", ordered.at);
            Traced::new(rule, Origin::new(name.clone(), field))
        })
        .collect();
    ResolvedRoute { subsets, rules }
}

fn subsets(name: &Fqn, route: &ServiceRoute, findings: &mut Vec<Finding>) -> Vec<Subset> {
    let mut seen = BTreeSet::new();
    let mut subsets = Vec::new();
    for (at, subset) in route.subsets.iter().enumerate() {
        if seen.insert(&subset.name) {
            subsets.push(subset.clone());
        } else {
            let field = format!("spec.subsets[{at}].name");
            let message = format!(
                "subset {} is declared twice; give each subset its own name",
                subset.name
            );
            findings.push(Finding::error(name, field, Code::DuplicateSubset, message));
        }
    }
    subsets
}

fn action(
    name: &Fqn,
    service: &ServiceId,
    at: usize,
    rule: &HttpRule<SubsetBackend>,
    known: &BTreeSet<&Label>,
    findings: &mut Vec<Finding>,
) -> ServiceAction {
    let field = format!("spec.rules[{at}].backendRefs");
    let shares = match rule.shares() {
        Ok(shares) => shares,
        Err(bad) => {
            findings.push(Finding::error(name, field, Code::BadWeights, bad.to_string()));
            return ServiceAction::Refuse(format!("the route of service {service} is not valid: {bad}"));
        }
    };
    let unknown: Vec<(usize, &Label)> = rule
        .backend_refs
        .iter()
        .map(|backend| &backend.subset)
        .enumerate()
        .filter(|(_, subset)| !known.contains(subset))
        .collect();
    findings.extend(unknown.iter().map(|(backend, subset)| {
        let field = format!("{field}[{backend}].subset");
        let message = format!(
            "subset {subset} is not declared; declare it under spec.subsets, or use one of: {}",
            listed(known)
        );
        Finding::error(name, field, Code::UnknownSubset, message)
    }));
    if let Some((_, subset)) = unknown.first() {
        return ServiceAction::Refuse(format!(
            "the route of service {service} is not valid: subset {subset} is not declared"
        ));
    }
    let subsets = rule
        .backend_refs
        .iter()
        .map(|backend| Some(backend.subset.clone()));
    ServiceAction::Split(subsets.zip(shares).collect())
}

//! Service routes: one per service and workspace, each rule a split over subsets that exist, or a refusal.

use std::collections::{BTreeMap, BTreeSet};

use super::workspace::Groups;
use super::{ResolvedRoute, Tree, listed, rules};
use crate::finding::{Claim, Code, Finding, Origin, Traced};
use crate::http::{Edits, Effect, HttpRule, SubsetBackend};
use crate::intent::{ServiceRoute, Spec, Subset};
use crate::name::{Fqn, Kind, Label, ServiceId};
use crate::routes::{ServiceAction, ServiceRule};

type Routes = BTreeMap<(Fqn, ServiceId), Traced<ResolvedRoute>>;

pub(super) fn routes(tree: &Tree<'_>, groups: &Groups<'_>, findings: &mut Vec<Finding>) -> Routes {
    let mut routes = Routes::new();
    for (name, resource) in tree {
        let Spec::ServiceRoute(route) = &resource.spec else {
            continue;
        };
        let parents = name.parent().zip(name.ancestor(Kind::Workspace));
        let Some((group, workspace)) = parents else {
            continue;
        };
        let namespaces = groups.get(&group).map_or(&[][..], Vec::as_slice);
        let namespace = &route.service.namespace;
        if !namespaces
            .iter()
            .any(|selector| selector.matches_namespace(namespace))
        {
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
            continue;
        }
        // Checked even when it loses, so that its author hears of everything at once.
        let resolved = resolved(name, route, findings);
        let key = (workspace, route.service.clone());
        match routes.get_mut(&key) {
            None => {
                let origin = Origin::new((*name).clone(), "spec");
                routes.insert(key, Traced::new(resolved, origin));
            }
            Some(winner) => lose(name, &route.service, winner, findings),
        }
    }
    routes
}

fn lose(name: &Fqn, service: &ServiceId, winner: &mut Traced<ResolvedRoute>, findings: &mut Vec<Finding>) {
    let Some(origin) = &mut winner.origin else { return };
    origin.lost.push(name.clone());
    let claim = Claim {
        what: format!("service {service}"),
        holder: origin.resource.clone(),
    };
    findings.push(Finding::taken(name, "spec.service", Code::ServiceTaken, claim));
}

fn resolved(name: &Fqn, route: &ServiceRoute, findings: &mut Vec<Finding>) -> ResolvedRoute {
    let subsets = subsets(name, route, findings);
    let known: BTreeSet<&Label> = subsets.iter().map(|subset| &subset.name).collect();
    let outcomes: Vec<(ServiceAction, Edits)> = route
        .rules
        .iter()
        .enumerate()
        .map(|(at, rule)| match rules::effect(name, at, rule, findings) {
            Ok(Effect::Pass(edits)) => (action(name, &route.service, at, rule, &known, findings), *edits),
            Ok(Effect::Redirect(to)) => (ServiceAction::Redirect(*to), Edits::default()),
            Err(reason) => (ServiceAction::Refuse(reason), Edits::default()),
        })
        .collect();
    let rules = rules::ordered(name, &route.rules, findings)
        .into_iter()
        .map(|ordered| {
            let (action, edits) = outcomes[ordered.at].clone();
            let rule = ServiceRule {
                matches: ordered.matches.into_iter().collect(),
                action,
                edits,
                timeout: ordered.rule.timeouts.map(|timeouts| timeouts.request),
                retry: ordered.rule.retry.clone(),
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

//! The order in which rules are tried: one match each, most specific first, none that can never be reached.

use std::collections::BTreeSet;

use super::{ResolvedWorkspace, listed};
use crate::finding::{Code, Finding};
use crate::http::{Affinity, BadFilters, Effect, HttpMatch, HttpRule, MirrorBackend, RequestMirror};
use crate::name::{Fqn, Label, ServiceId};
use crate::routes::{Conduct, Mirror, MirrorTarget};
use crate::selector::Selector;

/// Position in the resource, and its one match; `None` matches every request.
pub(super) struct Ordered<'a, B> {
    pub(super) at: usize,
    pub(super) matches: Option<HttpMatch>,
    pub(super) rule: &'a HttpRule<B>,
}

/// Whose mirrors are looked at, and what they may name.
pub(super) enum Mirrored<'a> {
    ByGateway {
        workspace: &'a Fqn,
        owned: &'a ResolvedWorkspace,
    },
    ByService {
        service: &'a ServiceId,
        subsets: &'a BTreeSet<&'a Label>,
        /// Of the route's group.
        namespaces: &'a [Selector],
    },
}

/// Splits rules by their matches and sorts them as the Gateway API does. Of two equal matches the one written first
/// counts, and a rule of which nothing remains is a finding.
pub(super) fn ordered<'a, B>(
    resource: &Fqn,
    rules: &'a [HttpRule<B>],
    findings: &mut Vec<Finding>,
) -> Vec<Ordered<'a, B>> {
    let mut seen: BTreeSet<Option<HttpMatch>> = BTreeSet::new();
    let mut ordered = Vec::new();
    for (at, rule) in rules.iter().enumerate() {
        let before = ordered.len();
        for matches in alternatives(rule) {
            if seen.insert(matches.clone()) {
                ordered.push(Ordered { at, matches, rule });
            }
        }
        if ordered.len() == before {
            findings.push(Finding::warning(
                resource,
                format!("spec.rules[{at}]"),
                Code::RuleIgnored,
                "an earlier rule matches the same requests, so this one is never used; remove it or change its matches",
            ));
        }
    }
    ordered.sort_by_cached_key(|rule| rule.matches.clone().unwrap_or_default().precedence());
    ordered
}

/// What the filters of the rule at that place do; or why the rule refuses.
pub(super) fn effect<B>(
    resource: &Fqn,
    at: usize,
    rule: &HttpRule<B>,
    findings: &mut Vec<Finding>,
) -> Result<Effect, String> {
    let bad = match Effect::of(&rule.filters, &rule.matches) {
        Ok(Effect::Redirect(_)) if !rule.backend_refs.is_empty() || rule.fault.is_some() => {
            BadFilters::RedirectAndMore
        }
        Ok(effect) => return Ok(effect),
        Err(bad) => bad,
    };
    let field = format!("spec.rules[{at}].filters");
    findings.push(Finding::error(resource, field, Code::BadFilters, bad.to_string()));
    Err(format!("this route is not valid: {bad}"))
}

/// What the rule at that place does beside its backends. A mirror that cannot be had makes no copies: requests go on.
pub(super) fn conduct<B>(
    resource: &Fqn,
    at: usize,
    rule: &HttpRule<B>,
    mirrors: &[RequestMirror],
    mirrored: &Mirrored<'_>,
    findings: &mut Vec<Finding>,
) -> Conduct {
    let mut found = Vec::new();
    for mirror in mirrors {
        match mirrored.target(&mirror.backend) {
            Ok((service, target)) => found.push(Mirror {
                service,
                target,
                share: mirror.share,
            }),
            Err((code, message)) => {
                let field = format!("spec.rules[{at}].filters");
                findings.push(Finding::error(resource, field, code, message));
            }
        }
    }
    Conduct {
        mirrors: found,
        fault: rule.fault,
        session: session(resource, at, rule, findings),
    }
}

/// What a session stays by, with what of it does not hold.
fn session<B>(
    resource: &Fqn,
    at: usize,
    rule: &HttpRule<B>,
    findings: &mut Vec<Finding>,
) -> Option<Affinity> {
    let session = rule.session_persistence.as_ref()?;
    let field = format!("spec.rules[{at}].sessionPersistence");
    let mut partly = |field: String, reason: &str| {
        let message = format!("accepted, not yet enforced: {reason}");
        findings.push(Finding::warning(resource, field, Code::NotEnforced, message));
    };
    if rule.backend_refs.len() > 1 {
        let reason = "each request of a session goes to one of the backends by their weights, and only there to the same instance";
        partly(field.clone(), reason);
    }
    if session.ends_unseen() {
        let reason = "no session ends before its client forgets it; make the cookie permanent";
        partly(format!("{field}.absoluteTimeout"), reason);
    }
    Some(session.affinity())
}

impl Mirrored<'_> {
    fn target(&self, backend: &MirrorBackend) -> Result<(ServiceId, MirrorTarget), (Code, String)> {
        match (backend, self) {
            (MirrorBackend::Service(id, port), _) => {
                let (owned, owner, namespaces) = match self {
                    Mirrored::ByGateway { workspace, owned } => (
                        owned.owns_somewhere(&id.namespace),
                        format!("those of {workspace}"),
                        listed(&owned.namespaces),
                    ),
                    Mirrored::ByService { namespaces, .. } => (
                        namespaces
                            .iter()
                            .any(|held| held.matches_namespace(&id.namespace)),
                        "those of its group".to_owned(),
                        listed(*namespaces),
                    ),
                };
                if owned {
                    return Ok((id.clone(), MirrorTarget::Port(*port)));
                }
                let message = format!(
                    "no copies are sent to service {id}: its namespace is not one of {owner}: {namespaces}"
                );
                Err((Code::NamespaceNotOwned, message))
            }
            (MirrorBackend::Subset(subset), Mirrored::ByService { service, subsets, .. }) => {
                if subsets.contains(subset) {
                    return Ok(((*service).clone(), MirrorTarget::Subset(subset.clone())));
                }
                let message = format!(
                    "no copies are sent to subset {subset}, which is not declared; declare it under spec.subsets, or use one of: {}",
                    listed(*subsets)
                );
                Err((Code::UnknownSubset, message))
            }
            (MirrorBackend::Subset(subset), Mirrored::ByGateway { .. }) => {
                let message = format!(
                    "no copies are sent to subset {subset}: a gateway's mirror names a service; mirror to a subset in the route of its service"
                );
                Err((Code::UnknownSubset, message))
            }
        }
    }
}

fn alternatives<B>(rule: &HttpRule<B>) -> Vec<Option<HttpMatch>> {
    if rule.matches.is_empty() {
        return vec![None];
    }
    rule.matches
        .iter()
        .map(|matches| (!matches.is_catch_all()).then(|| matches.clone()))
        .collect()
}

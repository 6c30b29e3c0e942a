//! The order in which rules are tried: one match each, most specific first, none that can never be reached.

use std::collections::BTreeSet;

use crate::finding::{Code, Finding};
use crate::http::{BadFilters, Effect, HttpMatch, HttpRule};
use crate::name::Fqn;

/// Position in the resource, and its one match; `None` matches every request.
pub(super) struct Ordered<'a, B> {
    pub(super) at: usize,
    pub(super) matches: Option<HttpMatch>,
    pub(super) rule: &'a HttpRule<B>,
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
        Ok(Effect::Redirect(_)) if !rule.backend_refs.is_empty() => BadFilters::RedirectAndMore,
        Ok(effect) => return Ok(effect),
        Err(bad) => bad,
    };
    let field = format!("spec.rules[{at}].filters");
    findings.push(Finding::error(resource, field, Code::BadFilters, bad.to_string()));
    Err(format!("this route is not valid: {bad}"))
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

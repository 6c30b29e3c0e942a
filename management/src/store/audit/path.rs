//! How a page is found: which index is walked from its newest entry, so that whatever is asked for, the walk meets
//! little else than the page.

use super::page::Filter;
use crate::audit::{NODE_KEYS, actor_key, key};

/// One walk. Those of a filter are disjoint, and together find all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) lead: Lead,
    /// Whether it walks each class by itself, or meets other classes too.
    pub(super) by_class: bool,
}

/// The keys that an index of `audit` leads with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lead {
    /// None: by time alone, or by class and time.
    Any,
    Actor(i32),
    /// Nodes of one depth, and what an actor has done there.
    Nodes {
        depth: usize,
        keys: Vec<i32>,
        actor: Option<i32>,
    },
}

/// The depth of the first of the node keys: the organization has none.
pub(super) const FIRST_KEY_DEPTH: usize = 2;

/// None when there is nothing that the caller may read.
pub(super) fn paths(organization: &str, filter: &Filter) -> Vec<Path> {
    let actor = filter
        .actor
        .as_deref()
        .map(|actor| actor_key(organization, actor));
    let by_class = filter.has_class();
    let scope = scope(filter);
    if scope.iter().any(|node| depth(node) < FIRST_KEY_DEPTH) {
        let lead = actor.map_or(Lead::Any, Lead::Actor);
        return vec![Path { lead, by_class }];
    }
    let depth_max = FIRST_KEY_DEPTH + NODE_KEYS - 1;
    let of_depth = |wanted: usize| {
        let mut keys: Vec<i32> = scope
            .iter()
            .filter(|node| depth(node).min(depth_max) == wanted)
            .map(|node| key(cut(node, wanted)))
            .collect();
        keys.sort_unstable();
        keys.dedup();
        (!keys.is_empty()).then_some(Path {
            lead: Lead::Nodes {
                depth: wanted,
                keys,
                actor,
            },
            by_class: by_class && actor.is_none(),
        })
    };
    (FIRST_KEY_DEPTH..=depth_max).filter_map(of_depth).collect()
}

/// The nodes that are asked for and may be read, none of them below another.
pub(super) fn scope(filter: &Filter) -> Vec<&str> {
    let readable = filter.nodes.iter().map(String::as_str);
    let wanted: Vec<&str> = match filter.name.as_deref() {
        None => readable.collect(),
        Some(name) if readable.clone().any(|node| is_within(name, node)) => vec![name],
        Some(name) => readable.filter(|node| is_within(node, name)).collect(),
    };
    let mut outermost: Vec<&str> = wanted
        .iter()
        .copied()
        .filter(|node| !wanted.iter().any(|other| other != node && is_within(node, other)))
        .collect();
    outermost.sort_unstable();
    outermost.dedup();
    outermost
}

/// Pairs of collection and leaf.
pub(super) fn depth(name: &str) -> usize {
    name.split('/').count() / 2
}

fn is_within(name: &str, node: &str) -> bool {
    name.strip_prefix(node)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The ancestor at that depth.
fn cut(name: &str, depth: usize) -> &str {
    let end = name.match_indices('/').nth(2 * depth - 1);
    end.map_or(name, |(at, _)| &name[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACME: &str = "organizations/acme";
    const PAY: &str = "organizations/acme/tenants/pay";
    const SHOP: &str = "organizations/acme/tenants/pay/workspaces/shop";
    const WEB: &str = "organizations/acme/tenants/pay/workspaces/shop/trafficgroups/web";
    const ROUTE: &str = "organizations/acme/tenants/pay/workspaces/shop/trafficgroups/web/serviceroutes/r";
    const MEDIA: &str = "organizations/acme/tenants/media";

    fn filter(nodes: &[&str]) -> Filter {
        Filter {
            nodes: nodes.iter().map(ToString::to_string).collect(),
            ..Filter::default()
        }
    }

    fn nodes(depth: usize, names: &[&str]) -> Lead {
        let mut keys: Vec<i32> = names.iter().map(|name| key(name)).collect();
        keys.sort_unstable();
        Lead::Nodes {
            depth,
            keys,
            actor: None,
        }
    }

    #[test]
    fn the_scope_is_what_is_asked_for_and_readable() {
        let cases: [(&[&str], Option<&str>, &[&str]); 7] = [
            (&[ACME], None, &[ACME]),
            (&[ACME, PAY], None, &[ACME]),
            (&[PAY, SHOP, MEDIA], None, &[MEDIA, PAY]),
            (&[ACME], Some(SHOP), &[SHOP]),
            (&[SHOP], Some(PAY), &[SHOP]),
            (&[MEDIA], Some(PAY), &[]),
            (&["organizations/acme/tenants/pa"], Some(PAY), &[]),
        ];
        for (readable, name, expected) in cases {
            let filter = Filter {
                name: name.map(str::to_owned),
                ..filter(readable)
            };
            assert_eq!(scope(&filter), expected, "{readable:?} {name:?}");
        }
    }

    #[test]
    fn every_filter_has_its_index() {
        let ann = Some("organizations/acme/users/ann".to_owned());
        let ann_key = actor_key("acme", "organizations/acme/users/ann");
        let verb = Some("create".to_owned());
        let path = |lead, by_class| Path { lead, by_class };
        let cases = [
            (filter(&[ACME]), vec![path(Lead::Any, false)]),
            (
                Filter {
                    verb: verb.clone(),
                    ..filter(&[ACME])
                },
                vec![path(Lead::Any, true)],
            ),
            (
                Filter {
                    actor: ann.clone(),
                    verb: verb.clone(),
                    ..filter(&[ACME])
                },
                vec![path(Lead::Actor(ann_key), true)],
            ),
            (
                Filter {
                    verb: verb.clone(),
                    ..filter(&[MEDIA, SHOP])
                },
                vec![path(nodes(2, &[MEDIA]), true), path(nodes(3, &[SHOP]), true)],
            ),
            (
                Filter {
                    verb: verb.clone(),
                    name: Some(ROUTE.to_owned()),
                    ..filter(&[ACME])
                },
                vec![path(nodes(5, &[ROUTE]), true)],
            ),
            (
                Filter {
                    actor: ann,
                    verb,
                    name: Some(WEB.to_owned()),
                    ..filter(&[PAY])
                },
                vec![path(
                    Lead::Nodes {
                        depth: 4,
                        keys: vec![key(WEB)],
                        actor: Some(ann_key),
                    },
                    false,
                )],
            ),
            (
                Filter {
                    name: Some(format!("{ROUTE}/trafficsettings/default")),
                    ..filter(&[ACME])
                },
                vec![path(nodes(5, &[ROUTE]), false)],
            ),
            (filter(&[]), Vec::new()),
        ];
        for (filter, expected) in cases {
            assert_eq!(paths("acme", &filter), expected, "{filter:?}");
        }
    }
}

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::subset::{Fallback, Labelled, Labels, Layout, Otherwise, Selector, SubsetRules};
use super::*;

/// What is said of each host: the last says nothing.
const HOSTS: [&[(&str, &str)]; 5] = [
    &[("stage", "prod"), ("v", "1")],
    &[("stage", "dev"), ("v", "1")],
    &[("stage", "prod"), ("v", "2")],
    &[("v", "2")],
    &[],
];

fn labels(said: &[(&str, &str)]) -> Labels {
    Labels::new(
        said.iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect(),
    )
}

fn keys(keys: &[&str]) -> Box<[Box<str>]> {
    keys.iter().map(|key| (*key).into()).collect()
}

fn subsets(fallback: Fallback, otherwise: Option<Otherwise>) -> SubsetRules {
    let selector = |names: &[&str], otherwise| Selector {
        keys: keys(names),
        otherwise,
    };
    SubsetRules {
        selectors: [selector(&["v"], None), selector(&["stage", "v"], otherwise)].into(),
        fallback,
        is_any_in_panic: false,
        default: labels(&[("stage", "dev")]),
        is_by_locality: false,
    }
}

/// Those of [`HOSTS`], with places as candidates have them.
fn layout(rules: &SubsetRules, balancer: Balancer, candidates: &[Candidate]) -> Arc<Layout> {
    let said: Vec<Labels> = HOSTS.iter().map(|said| labels(said)).collect();
    let hosts: Vec<_> = candidates
        .iter()
        .zip(&said)
        .map(|(candidate, labels)| Labelled {
            priority: candidate.priority,
            locality: candidate.locality.map_or(0, |locality| locality.nth),
            labels,
        })
        .collect();
    let is_by_locality = candidates.iter().any(|candidate| candidate.locality.is_some());
    Arc::new(Layout::new(rules, balancer, is_by_locality, &hosts))
}

fn turns(layout: &Layout) -> Vec<Cell<u64>> {
    vec![Cell::new(0); layout.turns]
}

fn wanting<'a>(labels: Option<&'a Labels>, key: u64) -> Asked<'a> {
    Asked {
        key: Some(key),
        labels,
        ..asked(RetryHosts::Any, RetryPriorities::Any)
    }
}

/// The hosts that requests with these labels have.
fn had(selection: &Selection, layout: &Layout, wanted: Option<&[(&str, &str)]>) -> BTreeSet<usize> {
    let (draw, turns) = (Counter(Cell::new(1)), turns(layout));
    let wanted = wanted.map(labels);
    let chosen = (0..64u64).filter_map(|nth| {
        let asked = wanting(wanted.as_ref(), nth.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        selection.choose(&draw, |_| 0, &turns, &mut Tried::default(), asked)
    });
    chosen.map(|(host, _)| host).collect()
}

#[test]
fn a_request_has_hosts_of_which_is_said_what_it_wants() {
    use Fallback::{Any, Default, Nobody};
    let of = |fallback| Some(Otherwise::Of(fallback));
    let by = |names: &[&str]| Some(Otherwise::Keys(keys(names)));
    let all: &[usize] = &[0, 1, 2, 3, 4];
    type Wanted<'a> = Option<&'a [(&'a str, &'a str)]>;
    // The cluster's fallback, that of stage and v, what is wanted, and who has it.
    let cases: &[(Fallback, Option<Otherwise>, Wanted<'_>, &[usize])] = &[
        (Nobody, None, Some(&[("v", "1")]), &[0, 1]),
        (Nobody, None, Some(&[("v", "2")]), &[2, 3]),
        (Nobody, None, Some(&[("stage", "prod"), ("v", "2")]), &[2]),
        // Nobody has it, its keys are not all of a selector's, or nothing is wanted.
        (Nobody, None, Some(&[("v", "3")]), &[]),
        (Nobody, None, Some(&[("stage", "dev"), ("v", "2")]), &[]),
        (Nobody, None, Some(&[("stage", "prod")]), &[]),
        (Nobody, None, Some(&[("v", "1"), ("w", "1")]), &[]),
        (Nobody, None, None, &[]),
        (Any, None, Some(&[("v", "3")]), all),
        (Any, None, None, all),
        (Default, None, Some(&[("v", "3")]), &[1]),
        (Default, None, None, &[1]),
        // What the selector says of its own keys comes before.
        (Any, of(Nobody), Some(&[("stage", "dev"), ("v", "2")]), &[]),
        (Any, of(Default), Some(&[("stage", "dev"), ("v", "2")]), &[1]),
        (Nobody, of(Any), Some(&[("stage", "dev"), ("v", "2")]), all),
        (Nobody, of(Any), Some(&[("v", "3")]), &[]),
        (Nobody, of(Any), Some(&[("stage", "prod"), ("v", "2")]), &[2]),
        (Nobody, by(&["v"]), Some(&[("stage", "dev"), ("v", "2")]), &[2, 3]),
        (Nobody, by(&["v"]), Some(&[("stage", "dev"), ("v", "3")]), &[]),
        (Any, by(&["v"]), Some(&[("stage", "dev"), ("v", "3")]), all),
        (Any, by(&["stage"]), Some(&[("stage", "dev"), ("v", "2")]), all),
    ];
    for balancer in BALANCERS {
        for (fallback, otherwise, wanted, expected) in cases {
            let rules = subsets(*fallback, otherwise.clone());
            let candidates = given(&[1; 5]);
            let layout = layout(&rules, balancer, &candidates);
            let selection = Selection::of_subsets(&candidates, super::rules(50.0), &layout, None);
            let got: Vec<_> = had(&selection, &layout, *wanted).into_iter().collect();
            assert_eq!(
                got, *expected,
                "{balancer:?} {fallback:?} {otherwise:?} {wanted:?}"
            );
        }
    }
}

const BALANCERS: [Balancer; 5] = [
    Balancer::LeastRequest,
    Balancer::RoundRobin,
    Balancer::Random,
    RING,
    Balancer::Maglev(101),
];

#[test]
fn health_and_priorities_count_within_a_set() {
    // What is wanted, which hosts are unhealthy, and who has it; the last two are of the second priority.
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a [usize], &'a [usize]);
    let cases: &[Case<'_>] = &[
        (&[("v", "1")], &[0], &[1]),
        // No priority of the set has enough: all of it is used, whatever there is elsewhere.
        (&[("v", "1")], &[0, 1], &[0, 1]),
        (&[("v", "2")], &[], &[2]),
        (&[("v", "2")], &[2], &[3]),
        (&[("v", "2")], &[0, 1, 4], &[2]),
        (&[("v", "2")], &[2, 3], &[2, 3]),
    ];
    for balancer in BALANCERS {
        let mut candidates = given(&[1; 5]);
        candidates[3].priority = 1;
        candidates[4].priority = 1;
        let rules = subsets(Fallback::Any, None);
        let layout = layout(&rules, balancer, &candidates);
        let mut selection = Selection::of_subsets(&candidates, super::rules(50.0), &layout, None);
        for (wanted, unhealthy, expected) in cases {
            for (place, candidate) in candidates.iter_mut().enumerate() {
                candidate.healthy = !unhealthy.contains(&place);
            }
            selection = Selection::of_subsets(&candidates, super::rules(50.0), &layout, Some(&selection));
            let got: Vec<_> = had(&selection, &layout, Some(wanted)).into_iter().collect();
            assert_eq!(got, *expected, "{balancer:?} {wanted:?} without {unhealthy:?}");
        }
    }
}

#[test]
fn a_fallback_without_hosts_may_be_anybody() {
    for (is_any_in_panic, expected) in [(false, vec![]), (true, vec![0, 1, 2, 3, 4])] {
        let rules = SubsetRules {
            is_any_in_panic,
            default: labels(&[("stage", "none")]),
            ..subsets(Fallback::Default, Some(Otherwise::Of(Fallback::Default)))
        };
        let candidates = given(&[1; 5]);
        let layout = layout(&rules, Balancer::Random, &candidates);
        let selection = Selection::of_subsets(&candidates, super::rules(50.0), &layout, None);
        let got: Vec<_> = had(&selection, &layout, None).into_iter().collect();
        assert_eq!(got, expected);
        // Not where a selector says what it falls back to.
        let wanted = had(&selection, &layout, Some(&[("stage", "x"), ("v", "1")]));
        assert!(wanted.is_empty(), "{wanted:?}");
    }
}

#[test]
fn sets_take_turns_each_for_itself() {
    let candidates = given(&[1; 5]);
    let layout = layout(&subsets(Fallback::Any, None), Balancer::RoundRobin, &candidates);
    let selection = Selection::of_subsets(&candidates, rules(50.0), &layout, None);
    let turns = turns(&layout);
    let wanted = [labels(&[("v", "1")]), labels(&[("v", "2")])];
    let mut counts = [0; 5];
    for nth in 0..20 {
        let asked = wanting(Some(&wanted[nth % 2]), 0);
        let chosen = selection.choose(&Always(0), |_| 0, &turns, &mut Tried::default(), asked);
        counts[chosen.unwrap().0] += 1;
    }
    assert_eq!(counts, [5, 5, 5, 5, 0]);
}

#[test]
fn localities_have_their_weights_within_sets_that_are_told_of_them() {
    // Those of v=1 are in two places, of weights 1 and 3; so is all else.
    for (is_by_locality, expected) in [(false, [40, 40]), (true, [20, 60])] {
        let mut candidates = given(&[1; 5]);
        for (place, candidate) in candidates.iter_mut().enumerate() {
            let (nth, weight) = [(2, 1), (7, 3)][place % 2];
            candidate.locality = Some(Locality { nth, weight });
        }
        let rules = SubsetRules {
            is_by_locality,
            ..subsets(Fallback::Nobody, None)
        };
        let layout = layout(&rules, Balancer::RoundRobin, &candidates);
        let selection = Selection::of_subsets(&candidates, super::rules(50.0), &layout, None);
        let (turns, wanted) = (turns(&layout), labels(&[("v", "1")]));
        let mut counts = [0; 5];
        for _ in 0..80 {
            let asked = wanting(Some(&wanted), 0);
            let chosen = selection.choose(&Always(0), |_| 0, &turns, &mut Tried::default(), asked);
            counts[chosen.unwrap().0] += 1;
        }
        let got = [counts[0], counts[1]];
        let is_near = |(got, expected): (&i32, &i32)| (got - expected).abs() <= 1;
        assert!(
            got.iter().zip(&expected).all(is_near),
            "{is_by_locality}: {got:?}"
        );
    }
}

#[test]
fn a_set_as_large_as_it_may_be_has_a_table() {
    // A pair of hosts for each of more sets than have tables.
    let count = 600;
    let said: Vec<Labels> = (0..count)
        .map(|nth| labels(&[("v", &(nth / 2).to_string())]))
        .collect();
    let hosts: Vec<_> = said
        .iter()
        .map(|labels| Labelled {
            priority: 0,
            locality: 0,
            labels,
        })
        .collect();
    let rules = SubsetRules {
        selectors: [Selector {
            keys: keys(&["v"]),
            otherwise: None,
        }]
        .into(),
        ..subsets(Fallback::Nobody, None)
    };
    let candidates = given(&vec![1; count]);
    let layout = Arc::new(Layout::new(&rules, Balancer::Maglev(101), false, &hosts));
    let selection = Selection::of_subsets(&candidates, super::rules(50.0), &layout, None);
    let mut by_key = 0;
    for set in 0..count / 2 {
        let wanted = labels(&[("v", &set.to_string())]);
        let had: BTreeSet<usize> = (0..32)
            .map(|nth| {
                let draw = Counter(Cell::new(nth));
                let asked = wanting(Some(&wanted), 7);
                selection
                    .choose(&draw, |_| 0, &[], &mut Tried::default(), asked)
                    .unwrap()
                    .0
            })
            .collect();
        assert!(had.iter().all(|host| host / 2 == set), "{set}: {had:?}");
        by_key += usize::from(had.len() == 1);
    }
    assert_eq!(by_key, 256);
}

#[test]
fn what_is_wanted_of_a_weighted_cluster_comes_before_what_all_want() {
    let outer = labels(&[("a", "1"), ("b", "1")]);
    for (inner, expected) in [
        (&[][..], &[("a", "1"), ("b", "1")][..]),
        (&[("b", "2")], &[("a", "1"), ("b", "2")]),
        (&[("c", "3"), ("a", "3")], &[("a", "3"), ("b", "1"), ("c", "3")]),
    ] {
        assert_eq!(outer.overlaid(&labels(inner)), labels(expected), "{inner:?}");
    }
}

#[test]
fn keys_and_values_are_not_taken_for_each_other() {
    let same = labels(&[("a", "b"), ("c", "d")]);
    for other in [
        &[("a", "d"), ("c", "b")][..],
        &[("b", "a"), ("d", "c")],
        &[("a", "b")],
        &[("ab", ""), ("c", "d")],
    ] {
        assert_ne!(labels(other), same, "{other:?}");
        assert_ne!(labels(other).hash(), same.hash(), "{other:?}");
    }
    assert_eq!(labels(&[("c", "d"), ("a", "b")]).hash(), same.hash());
}

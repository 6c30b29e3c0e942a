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
fn who_falls_back_to_nobody_has_nobody_in_panic_either() {
    let anybody = Some(Otherwise::Of(Fallback::Any));
    // What is said of stage and v, what is wanted, and how many hosts have it.
    for (otherwise, wanted, expected) in [
        (None, None, 0),
        (None, Some(&[("v", "9")][..]), 0),
        (anybody.clone(), None, 0),
        (anybody.clone(), Some(&[("v", "9")]), 0),
        (anybody, Some(&[("stage", "dev"), ("v", "9")]), 5),
    ] {
        let calm = subsets(Fallback::Nobody, otherwise.clone());
        let rules = SubsetRules {
            is_any_in_panic: true,
            ..calm.clone()
        };
        let candidates = given(&[1; 5]);
        let made = layout(&rules, Balancer::RoundRobin, &candidates);
        let selection = Selection::of_subsets(&candidates, super::rules(50.0), &made, None);
        let got = had(&selection, &made, wanted);
        assert_eq!(got.len(), expected, "{otherwise:?} {wanted:?}: {got:?}");
        // Nothing is kept for it.
        let calm = layout(&calm, Balancer::RoundRobin, &candidates);
        assert_eq!(made.turns, calm.turns, "{otherwise:?}");
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

/// Of sets of so many hosts, which take turns in these priorities.
fn layout_of_sets(fallback: Fallback, balancer: Balancer, priorities: &[usize], sets: usize) -> Arc<Layout> {
    let size = priorities.len();
    let said: Vec<Labels> = (0..sets * size)
        .map(|nth| labels(&[("v", &(nth / size).to_string())]))
        .collect();
    let hosts: Vec<_> = said
        .iter()
        .zip(priorities.iter().cycle())
        .map(|(labels, priority)| Labelled {
            priority: *priority,
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
        default: labels(&[("v", "0")]),
        ..subsets(fallback, None)
    };
    Arc::new(Layout::new(&rules, balancer, false, &hosts))
}

#[test]
fn sets_have_tables_while_there_is_room() {
    let ring = |min, max| Balancer::RingHash(RingSize { min, max });
    let (maglev, largest) = (Balancer::Maglev(TABLE_DEFAULT), Balancer::Maglev(TABLE_MAX));
    let usual = ring(RING_MIN_DEFAULT, RING_MAX);
    // The cluster's balancer, that of sets that have it, the priorities of each set's hosts, and how many of 600 have it.
    for (balancer, of_sets, priorities, expected) in [
        (maglev, maglev, &[0, 0][..], 511),
        (maglev, maglev, &[0, 0, 1, 1], 255),
        (maglev, maglev, &[0, 0, 1], 511),
        (maglev, maglev, &[0, 1], 600),
        (maglev, maglev, &[0], 600),
        (largest, largest, &[0, 0], 6),
        (usual, ring(RING_MIN_DEFAULT, 16_384), &[0, 0], 512),
        (ring(1, 100), ring(1, 100), &[0, 0], 600),
        (ring(100_000, RING_MAX), ring(100_000, 100_000), &[0, 0], 83),
        (ring(RING_MAX, RING_MAX), ring(RING_MAX, RING_MAX), &[0, 0], 1),
        (Balancer::RoundRobin, Balancer::RoundRobin, &[0, 0], 600),
    ] {
        for fallback in [Fallback::Nobody, Fallback::Any, Fallback::Default] {
            let layout = layout_of_sets(fallback, balancer, priorities, 600);
            let balancers: Vec<_> = layout.balancers().collect();
            let (selected, fallbacks) = balancers.split_at(600);
            let having = selected.iter().filter(|own| **own == of_sets).count();
            assert_eq!(having, expected, "{balancer:?} {priorities:?} {fallback:?}");
            let others = selected.iter().filter(|own| **own == Balancer::Random).count();
            assert_eq!(having + others, 600, "{balancer:?} {priorities:?} {fallback:?}");
            // A fallback has what a cluster without sets has.
            let expected = match fallback {
                Fallback::Nobody => vec![],
                Fallback::Any | Fallback::Default => vec![balancer],
            };
            assert_eq!(fallbacks, expected, "{balancer:?} {priorities:?} {fallback:?}");
        }
    }
}

#[test]
fn keys_choose_in_sets_with_tables_and_in_fallbacks() {
    let ring = Balancer::RingHash(RingSize {
        min: RING_MIN_DEFAULT,
        max: RING_MAX,
    });
    for (fallback, of_fallback) in [(Fallback::Any, 0..1200), (Fallback::Default, 0..2)] {
        let layout = layout_of_sets(fallback, ring, &[0, 0], 600);
        let selection = Selection::of_subsets(&given(&[1; 1200]), rules(50.0), &layout, None);
        let had = |wanted: Option<&Labels>| -> BTreeSet<usize> {
            let chosen = (0..32).map(|nth| {
                let draw = Counter(Cell::new(nth));
                let asked = wanting(wanted, 7);
                selection.choose(&draw, |_| 0, &[], &mut Tried::default(), asked)
            });
            chosen.map(|chosen| chosen.unwrap().0).collect()
        };
        let mut by_key = 0;
        for set in 0..600 {
            let had = had(Some(&labels(&[("v", &set.to_string())])));
            assert!(had.iter().all(|host| host / 2 == set), "{set}: {had:?}");
            by_key += usize::from(had.len() == 1);
        }
        assert_eq!(by_key, 512);
        let had = had(None);
        assert_eq!(had.len(), 1, "{fallback:?}: {had:?}");
        assert!(had.iter().all(|host| of_fallback.contains(host)), "{had:?}");
    }
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

/// Of sets of ten hosts each, one of which comes, goes or weighs more: the others' tables stay as they are.
#[test]
fn a_change_of_hosts_makes_only_the_sets_anew_that_it_concerns() {
    let said: Vec<Labels> = (0..100).map(|set| labels(&[("v", &set.to_string())])).collect();
    let rules_of_sets = SubsetRules {
        selectors: [Selector {
            keys: keys(&["v"]),
            otherwise: None,
        }]
        .into(),
        ..subsets(Fallback::Nobody, None)
    };
    let made = |hosts: &[(Candidate, usize)], balancer, before: Option<&Selection>| {
        let labelled = hosts.iter().map(|(candidate, set)| Labelled {
            priority: candidate.priority,
            locality: 0,
            labels: &said[*set],
        });
        let labelled: Vec<_> = labelled.collect();
        let layout = Arc::new(Layout::new(&rules_of_sets, balancer, false, &labelled));
        let candidates: Vec<_> = hosts.iter().map(|(candidate, _)| *candidate).collect();
        let selection = Selection::of_subsets(&candidates, rules(50.0), &layout, before);
        (layout, selection)
    };
    let hosts: Vec<_> = given(&[1; 1000])
        .into_iter()
        .enumerate()
        .map(|(nth, candidate)| (candidate, nth % 100))
        .collect();
    let other = Candidate {
        address: ([10, 9, 9, 9], 80).into(),
        ..hosts[0].0
    };
    let maglev = Balancer::Maglev(1021);
    let (layout, before) = made(&hosts, maglev, None);
    type Hosts = Vec<(Candidate, usize)>;
    let change = |act: &dyn Fn(&mut Hosts)| {
        let mut changed = hosts.clone();
        act(&mut changed);
        changed
    };
    for (changed, balancer, expected) in [
        (hosts.clone(), maglev, 0),
        // All others have another place among all then.
        (change(&|hosts| hosts.insert(0, (other, 7))), maglev, 1),
        (change(&|hosts| hosts.truncate(999)), maglev, 1),
        (change(&|hosts| hosts.rotate_left(1)), maglev, 1),
        (change(&|hosts| hosts[0].0.weight = 3), maglev, 1),
        (change(&|hosts| hosts[0].0.healthy = false), maglev, 1),
        (change(&|hosts| hosts[0].1 = 1), maglev, 2),
        (change(&|hosts| hosts.swap(0, 100)), maglev, 1),
        (change(&|hosts| hosts.swap(0, 1)), maglev, 0),
        (hosts.clone(), Balancer::Maglev(1031), 100),
        (hosts.clone(), Balancer::RoundRobin, 100),
    ] {
        let (layout_after, after) = made(&changed, balancer, Some(&before));
        let (_, afresh) = made(&changed, balancer, None);
        let had = before.spreads();
        let new = after
            .spreads()
            .iter()
            .filter(|spread| !had.contains(spread))
            .count();
        assert_eq!(new, expected, "{balancer:?}");
        // What has stayed chooses as what would have been made of the same.
        for (set, said) in said.iter().enumerate() {
            for key in 0..20 {
                let chosen = |selection: &Selection| {
                    let (draw, turns) = (Counter(Cell::new(key)), turns(&layout_after));
                    let asked = wanting(Some(said), u64::from(key) * 7919);
                    selection.choose(&draw, |_| 0, &turns, &mut Tried::default(), asked)
                };
                let (kept, anew) = (chosen(&after), chosen(&afresh));
                assert_eq!(kept, anew, "{set} {key}");
                assert!(kept.is_some_and(|(host, _)| changed[host].1 == set));
            }
        }
    }
    // Other rules are for all of them.
    let candidates: Vec<_> = hosts.iter().map(|(candidate, _)| *candidate).collect();
    let after = Selection::of_subsets(&candidates, rules(0.0), &layout, Some(&before));
    let had = before.spreads();
    assert!(after.spreads().iter().all(|spread| !had.contains(spread)));
}

#![allow(clippy::unwrap_used)]

mod locality;
mod subset;

use std::cell::{Cell, RefCell};

use super::*;

/// Draws what it is told, in turn, then 0.
struct Script(RefCell<Vec<u32>>);

impl Draw for Script {
    fn below(&self, bound: u32) -> u32 {
        let mut script = self.0.borrow_mut();
        let value = if script.is_empty() { 0 } else { script.remove(0) };
        assert!(value < bound, "scripted draw {value} of {bound}");
        value
    }
}

struct Counter(Cell<u32>);

impl Draw for Counter {
    fn below(&self, bound: u32) -> u32 {
        self.0
            .set(self.0.get().wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
        (self.0.get() >> 8) % bound
    }
}

fn census(levels: &[(u32, u32)]) -> Vec<Census> {
    levels
        .iter()
        .map(|(healthy, hosts)| Census {
            hosts: *hosts,
            healthy: *healthy,
        })
        .collect()
}

#[test]
fn loads_are_envoys() {
    // (healthy, hosts) per priority, threshold → load, panic. Most rows are from the tables of Envoy's documentation.
    type Case<'a> = (&'a [(u32, u32)], f64, &'a [u32], &'a [bool]);
    let cases: &[Case<'_>] = &[
        (&[(100, 100), (100, 100)], 50.0, &[100, 0], &[false, false]),
        (&[(72, 100), (100, 100)], 50.0, &[100, 0], &[false, false]),
        (&[(71, 100), (100, 100)], 50.0, &[99, 1], &[false, false]),
        (&[(50, 100), (100, 100)], 50.0, &[70, 30], &[false, false]),
        (&[(25, 100), (100, 100)], 50.0, &[35, 65], &[false, false]),
        (&[(0, 100), (100, 100)], 50.0, &[0, 100], &[false, false]),
        (&[(25, 100), (25, 100)], 50.0, &[50, 50], &[true, true]),
        (&[(5, 100), (65, 100)], 50.0, &[8, 92], &[true, false]),
        (
            &[(100, 100), (100, 100), (100, 100)],
            50.0,
            &[100, 0, 0],
            &[false, false, false],
        ),
        (
            &[(50, 100), (50, 100), (100, 100)],
            50.0,
            &[70, 30, 0],
            &[false, false, false],
        ),
        (
            &[(25, 100), (25, 100), (100, 100)],
            50.0,
            &[35, 35, 30],
            &[false, false, false],
        ),
        (
            &[(25, 100), (0, 100), (100, 100)],
            50.0,
            &[35, 0, 65],
            &[false, false, false],
        ),
        (&[(0, 3), (0, 1)], 50.0, &[75, 25], &[true, true]),
        (&[(0, 2)], 50.0, &[100], &[true]),
        (&[(0, 2)], 0.0, &[0], &[false]),
        (&[(0, 0)], 50.0, &[0], &[true]),
        (&[], 50.0, &[], &[]),
        (&[(1, 3)], 50.0, &[100], &[true]),
        (&[(2, 3)], 50.0, &[100], &[false]),
    ];
    for (levels, threshold, load, panic) in cases {
        let got = loads(&census(levels), rules(*threshold));
        assert_eq!(
            (got.load.as_slice(), got.panic.as_slice()),
            (*load, *panic),
            "{levels:?} at {threshold}"
        );
    }
}

fn hosts(given: &[(usize, bool)]) -> Vec<Candidate> {
    given
        .iter()
        .map(|(priority, healthy)| Candidate {
            address: ([10, 0, 0, 1], 80).into(),
            priority: *priority,
            locality: None,
            weight: 1,
            warmth: WARM,
            healthy: *healthy,
        })
        .collect()
}

#[test]
fn the_less_busy_of_two_draws_wins() {
    let selection = Selection::new(
        &hosts(&[(0, true), (0, true), (0, true)]),
        rules(50.0),
        Balancer::LeastRequest,
    );
    let busy = [5, 2, 9];
    let cases = [([0, 0, 1], 1), ([0, 1, 0], 1), ([0, 0, 2], 0), ([0, 2, 2], 2)];
    for (script, expected) in cases {
        let draw = Script(RefCell::new(script.to_vec()));
        let chosen = selection.choose(
            &draw,
            |i| busy[i],
            &[],
            &mut Tried::default(),
            asked(RetryHosts::Any, RetryPriorities::Any),
        );
        assert_eq!(chosen, Some((expected, 0)), "{script:?}");
    }
}

#[test]
fn unhealthy_hosts_are_chosen_in_panic_only() {
    type Case<'a> = (&'a [(usize, bool)], &'a [usize]);
    let cases: &[Case<'_>] = &[
        (&[(0, true), (0, true), (0, false)], &[0, 1]),
        (&[(0, false), (0, false), (1, true)], &[2]),
        (&[(0, false), (0, false)], &[0, 1]),
    ];
    for (given, expected) in cases {
        let selection = Selection::new(&hosts(given), rules(50.0), Balancer::LeastRequest);
        let draw = Counter(Cell::new(7));
        let mut seen: Vec<usize> = (0..200)
            .map(|_| {
                let tried = &mut Tried::default();
                selection
                    .choose(
                        &draw,
                        |_| 0,
                        &[],
                        tried,
                        asked(RetryHosts::Any, RetryPriorities::Any),
                    )
                    .unwrap()
                    .0
            })
            .collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, *expected, "{given:?} {:?}", selection.loads());
    }
}

#[test]
fn a_retry_goes_elsewhere() {
    let selection = Selection::new(
        &hosts(&[(0, true), (0, true), (1, true)]),
        rules(50.0),
        Balancer::LeastRequest,
    );
    let draw = Counter(Cell::new(3));
    let other = RetryHosts::Other { draws_max: 20 };
    for _ in 0..50 {
        let mut tried = Tried::default();
        tried.add((0, 0));
        let host = selection
            .choose(&draw, |_| 0, &[], &mut tried, asked(other, RetryPriorities::Any))
            .unwrap();
        assert_eq!(host, (1, 0), "another host of the same priority");
        let host = selection
            .choose(
                &draw,
                |_| 0,
                &[],
                &mut tried,
                asked(other, RetryPriorities::Other),
            )
            .unwrap();
        assert_eq!(host, (2, 1), "another priority");
        tried.add((2, 1));
        let host = selection
            .choose(
                &draw,
                |_| 0,
                &[],
                &mut tried,
                asked(other, RetryPriorities::Other),
            )
            .unwrap();
        assert_eq!(
            host,
            (1, 0),
            "all priorities were tried: start over, on a host not tried"
        );
    }
}

#[test]
fn weights_are_shares() {
    let candidates = [1, 3].map(|weight| Candidate {
        address: ([10, 0, 0, 1], 80).into(),
        priority: 0,
        locality: None,
        weight,
        warmth: WARM,
        healthy: true,
    });
    let selection = Selection::new(&candidates, rules(50.0), Balancer::LeastRequest);
    let draw = Counter(Cell::new(11));
    // The first draw counts, because both are equally busy.
    let second = (0..4000)
        .filter(|_| {
            let tried = &mut Tried::default();
            selection
                .choose(
                    &draw,
                    |_| 0,
                    &[],
                    tried,
                    asked(RetryHosts::Any, RetryPriorities::Any),
                )
                .unwrap()
                .0
                == 1
        })
        .count();
    assert!(
        (2800..3200).contains(&second),
        "{second} of 4000 to the host with weight 3 of 4"
    );
}

fn asked(hosts: RetryHosts, priorities: RetryPriorities) -> Asked<'static> {
    Asked {
        hosts,
        priorities,
        key: None,
        labels: None,
    }
}

/// Hosts of one priority with these weights, as Envoy was given them.
fn given(weights: &[u32]) -> Vec<Candidate> {
    let ports = 8101u16..;
    let candidates = ports.zip(weights).map(|(port, weight)| Candidate {
        address: ([127, 88, 0, 1], port).into(),
        priority: 0,
        locality: None,
        weight: *weight,
        warmth: WARM,
        healthy: true,
    });
    candidates.collect()
}

fn by_key(selection: &Selection, key: u64) -> usize {
    let asked = Asked {
        key: Some(key),
        ..asked(RetryHosts::Any, RetryPriorities::Any)
    };
    let tried = &mut Tried::default();
    selection.choose(&Always(0), |_| 0, &[], tried, asked).unwrap().0
}

fn by_turn(selection: &Selection, draw: &impl Draw, turns: &[Cell<u64>]) -> usize {
    let asked = asked(RetryHosts::Any, RetryPriorities::Any);
    let tried = &mut Tried::default();
    selection.choose(draw, |_| 0, turns, tried, asked).unwrap().0
}

const RING: Balancer = Balancer::RingHash(RingSize {
    min: RING_MIN_DEFAULT,
    max: RING_MAX,
});

#[test]
fn xxh64_is_that_of_its_authors() {
    for (text, seed, expected) in [
        ("", 0, 0xef46_db37_51d8_e999),
        ("a", 0, 0xd24e_c4f1_a98c_6e5b),
        ("abc", 0, 0x44bc_2cf5_ad77_0999),
        (
            "Nobody inspects the spammish repetition",
            0,
            0xfbce_a83c_8a37_8bf1,
        ),
    ] {
        assert_eq!(xxh64(text.as_bytes(), seed), expected, "{text}");
    }
    assert_ne!(xxh64(b"a", 1), xxh64(b"a", 0));
}

/// Where Envoy 1.40 sent requests with these values of the header that was hashed.
#[test]
fn keys_go_to_the_hosts_of_envoy() {
    const KEYS: [&str; 12] = [
        "a", "b", "c", "d", "e", "f", "g", "hello", "world", "user-1", "user-2", "user-3",
    ];
    let small = Balancer::RingHash(RingSize { min: 4, max: 8 });
    for (balancer, weights, expected) in [
        (RING, &[1; 5][..], [1, 4, 1, 3, 5, 5, 1, 3, 1, 3, 1, 2]),
        (RING, &[1, 2, 5], [1, 3, 1, 3, 3, 3, 3, 3, 3, 3, 3, 2]),
        (small, &[1; 5], [5, 5, 5, 5, 5, 5, 4, 1, 4, 5, 5, 5]),
        (
            Balancer::Maglev(TABLE_DEFAULT),
            &[1; 5],
            [5, 4, 1, 4, 5, 1, 3, 3, 4, 3, 3, 4],
        ),
        (
            Balancer::Maglev(TABLE_DEFAULT),
            &[1, 2, 5],
            [1, 3, 2, 3, 2, 3, 3, 3, 1, 3, 3, 3],
        ),
        (
            Balancer::Maglev(101),
            &[1; 5],
            [2, 1, 5, 1, 1, 3, 4, 1, 1, 3, 2, 5],
        ),
    ] {
        let selection = Selection::new(&given(weights), rules(50.0), balancer);
        let hosts = KEYS.map(|key| by_key(&selection, xxh64(key.as_bytes(), 0)) + 1);
        assert_eq!(hosts, expected, "{balancer:?} {weights:?}");
    }
}

#[test]
fn keys_are_spread_and_stay_where_they_are() {
    const KEYS: u64 = 20_000;
    let keys: Vec<u64> = (0..KEYS).map(|nth| xxh64(&nth.to_le_bytes(), 7)).collect();
    // How far from its share a host may be, and how many keys of the others may move, in hundredths of all.
    for (balancer, spread, moved_max) in [(RING, 8, 15), (Balancer::Maglev(TABLE_DEFAULT), 1, 5)] {
        let all = given(&[1; 5]);
        let mut four = all.clone();
        four[2].healthy = false;
        let before = Selection::new(&all, rules(50.0), balancer);
        let after = Selection::new(&four, rules(50.0), balancer);
        let hosts: Vec<(usize, usize)> = keys
            .iter()
            .map(|key| (by_key(&before, *key), by_key(&after, *key)))
            .collect();
        for host in 0..5 {
            let share = 100 * hosts.iter().filter(|(before, _)| *before == host).count() / keys.len();
            assert!(
                share.abs_diff(20) <= spread,
                "{balancer:?}: {share} % to the {host}th"
            );
        }
        assert!(hosts.iter().all(|(_, after)| *after != 2), "{balancer:?}");
        let moved = hosts
            .iter()
            .filter(|(before, after)| before != after && *before != 2)
            .count();
        assert!(
            moved <= moved_max * keys.len() / 100,
            "{balancer:?}: {moved} moved"
        );
    }
}

#[test]
fn later_attempts_of_a_key_go_elsewhere() {
    for balancer in [RING, Balancer::Maglev(TABLE_DEFAULT)] {
        let selection = Selection::new(&given(&[1; 5]), rules(50.0), balancer);
        let asked = Asked {
            key: xxh64(b"k", 0).into(),
            ..asked(RetryHosts::Other { draws_max: 20 }, RetryPriorities::Any)
        };
        let mut tried = Tried::default();
        let mut seen = Vec::new();
        for _ in 0..3 {
            let chosen = selection
                .choose(&Always(0), |_| 0, &[], &mut tried, asked)
                .unwrap();
            assert!(
                !seen.contains(&chosen.0),
                "{balancer:?}: {chosen:?} after {seen:?}"
            );
            seen.push(chosen.0);
            tried.add(chosen);
        }
    }
}

#[test]
fn hosts_take_turns_by_their_weights() {
    let turns = [Cell::new(0)];
    for (weights, rounds) in [
        (&[1, 1, 1][..], 1),
        (&[1, 2, 5], 100),
        (&[7], 1),
        (&[1, 1000], 100),
        (&[3, 3], 1),
    ] {
        let selection = Selection::new(&given(weights), rules(50.0), Balancer::RoundRobin);
        let total: u32 = weights.iter().sum();
        let times = total as usize * rounds;
        let mut counts = vec![0; weights.len()];
        (0..times).for_each(|_| counts[by_turn(&selection, &Always(0), &turns)] += 1);
        for (count, weight) in counts.iter().zip(weights) {
            let share = *weight as usize * rounds;
            assert!(
                share.abs_diff(*count) <= 1 + share / 50,
                "{weights:?}: {counts:?} of {times}"
            );
        }
    }
    let equal = Selection::new(&given(&[1; 4]), rules(50.0), Balancer::RoundRobin);
    let first = by_turn(&equal, &Always(0), &turns);
    for nth in 1..9 {
        assert_eq!(by_turn(&equal, &Always(0), &turns), (first + nth) % 4);
    }
}

#[test]
fn slow_hosts_get_less() {
    // Weights, the warmth of each, and how many of 2100 requests each is due.
    for (weights, warmth, due) in [
        (&[1, 1][..], &[WARM, WARM][..], &[1050, 1050][..]),
        (&[1, 1], &[100, 100], &[1050, 1050]),
        (&[1, 1], &[WARM, 500], &[1400, 700]),
        (&[1, 1, 1], &[WARM, WARM, 100], &[1000, 1000, 100]),
        (&[2, 1], &[500, WARM], &[1050, 1050]),
        (&[u32::MAX - 1, 1], &[WARM, 1], &[2100, 0]),
    ] {
        let mut candidates = given(weights);
        for (candidate, warmth) in candidates.iter_mut().zip(warmth) {
            candidate.warmth = *warmth;
        }
        for (balancer, spread) in [(Balancer::RoundRobin, 10), (Balancer::LeastRequest, 150)] {
            let selection = Selection::new(&candidates, rules(50.0), balancer);
            let (turns, draw) = ([Cell::new(0)], Counter(Cell::new(3)));
            let mut counts = vec![0usize; weights.len()];
            (0..2100).for_each(|_| counts[by_turn(&selection, &draw, &turns)] += 1);
            let is_due = counts
                .iter()
                .zip(due)
                .all(|(count, due)| count.abs_diff(*due) <= spread);
            assert!(is_due, "{balancer:?} {weights:?} {warmth:?}: {counts:?}");
        }
    }
}

#[test]
fn what_is_random_knows_no_weights() {
    let selection = Selection::new(&given(&[1, 9]), rules(50.0), Balancer::Random);
    let draw = Counter(Cell::new(5));
    let second = (0..4000).filter(|_| by_turn(&selection, &draw, &[]) == 1).count();
    assert!((1800..2200).contains(&second), "{second} of 4000");
}

#[test]
fn there_may_be_nobody() {
    for balancer in [
        Balancer::LeastRequest,
        Balancer::RoundRobin,
        Balancer::Random,
        RING,
        Balancer::Maglev(7),
    ] {
        let asked = asked(RetryHosts::Any, RetryPriorities::Any);
        let turns = [Cell::new(0)];
        let mut unhealthy = given(&[1]);
        unhealthy[0].healthy = false;
        for candidates in [vec![], unhealthy] {
            let selection = Selection::new(&candidates, rules(0.0), balancer);
            let chosen = selection.choose(&Always(0), |_| 0, &turns, &mut Tried::default(), asked);
            assert_eq!(chosen, None, "{balancer:?}");
        }
    }
}

fn rules(panic_threshold_percent: f64) -> Rules {
    Rules {
        panic_threshold_percent,
        overprovisioning_percent: OVERPROVISIONING_DEFAULT_PERCENT,
    }
}

#[test]
fn a_priority_may_be_said_to_hold_more_or_less() {
    for (overprovisioning_percent, expected) in [
        (100, [50, 50]),
        (140, [70, 30]),
        (200, [100, 0]),
        (u32::MAX, [100, 0]),
    ] {
        let rules = Rules {
            overprovisioning_percent,
            ..rules(0.0)
        };
        let got = loads(&census(&[(5, 10), (10, 10)]), rules);
        assert_eq!(got.load, expected, "{overprovisioning_percent}");
    }
}

//! What Envoy 1.40 did with the same hosts.

use super::*;

/// Hosts at the ports from 8101 on: where each is, and if it is healthy.
fn placed(weights: &[u32], hosts: &[(usize, bool)]) -> Vec<Candidate> {
    let ports = 8101u16..;
    let candidates = ports.zip(hosts).map(|(port, (nth, healthy))| Candidate {
        address: ([127, 0, 77, 1], port).into(),
        priority: 0,
        locality: Some(Locality {
            nth: *nth,
            weight: weights[*nth],
        }),
        weight: 1,
        warmth: WARM,
        healthy: *healthy,
    });
    candidates.collect()
}

#[test]
fn localities_get_the_shares_of_envoy() {
    // The weights of localities, their hosts, and how many of 200 requests each of these was sent.
    type Case<'a> = (&'a [u32], &'a [(usize, bool)], &'a [usize]);
    let cases: &[Case<'_>] = &[
        (&[1, 3], &[(0, true), (0, true), (1, true)], &[25, 25, 150]),
        (&[0, 0], &[(0, true), (0, true), (1, true)], &[66, 67, 67]),
        (&[0, 3], &[(0, true), (0, true), (1, true)], &[0, 0, 200]),
        (
            &[1, 1],
            &[(0, true), (0, false), (1, true), (1, true)],
            &[82, 0, 59, 59],
        ),
        // In panic.
        (&[0, 1], &[(0, true), (0, false), (1, false)], &[67, 67, 66]),
        // Nobody is left where something would be sent.
        (
            &[0, 1],
            &[(0, true), (0, true), (1, false), (0, true), (0, true)],
            &[50, 50, 0, 50, 50],
        ),
    ];
    for (weights, hosts, expected) in cases {
        for balancer in [Balancer::RoundRobin, Balancer::LeastRequest, Balancer::Random] {
            let selection = Selection::new(&placed(weights, hosts), rules(50.0), balancer);
            let turns = [const { Cell::new(0) }; 3];
            let draw = Counter(Cell::new(9));
            let mut counts = vec![0usize; hosts.len()];
            (0..2000).for_each(|_| counts[by_turn(&selection, &draw, &turns)] += 1);
            // What takes turns is nearer to what is due than what is drawn.
            let spread = if balancer == Balancer::RoundRobin { 20 } else { 150 };
            for (count, expected) in counts.iter().zip(*expected) {
                assert!(
                    count.abs_diff(10 * expected) <= spread,
                    "{balancer:?} {weights:?} {hosts:?}: {counts:?}"
                );
            }
        }
    }
}

#[test]
fn keys_know_of_localities_as_in_envoy() {
    const KEYS: [&str; 12] = [
        "a", "b", "c", "d", "e", "f", "g", "hello", "world", "user-1", "user-2", "user-3",
    ];
    let hosts = [(0, true), (0, true), (1, true)];
    for (balancer, expected) in [
        (RING, [3, 3, 3, 1, 3, 1, 3, 3, 3, 1, 3, 3]),
        (
            Balancer::Maglev(TABLE_DEFAULT),
            [3, 3, 1, 3, 3, 3, 2, 3, 3, 3, 3, 2],
        ),
    ] {
        let selection = Selection::new(&placed(&[1, 3], &hosts), rules(50.0), balancer);
        let got = KEYS.map(|key| by_key(&selection, xxh64(key.as_bytes(), 0)) + 1);
        assert_eq!(got, expected, "{balancer:?}");
        // Where no locality has a weight there is nobody.
        let selection = Selection::new(&placed(&[0, 0], &hosts), rules(50.0), balancer);
        let asked = asked(RetryHosts::Any, RetryPriorities::Any);
        let chosen = selection.choose(&Always(0), |_| 0, &[], &mut Tried::default(), asked);
        assert_eq!(chosen, None, "{balancer:?}");
    }
}

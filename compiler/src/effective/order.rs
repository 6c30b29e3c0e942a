//! What "stricter" means for each shape of value. `docs/settings.md` shows the same to users.
//!
//! For every field of a security setting [`Order::tighten`] is the meet of a lattice: total, associative, commutative
//! and idempotent, so that the outcome does not depend on who said what first. The tests below hold these laws over
//! random values.

use std::collections::BTreeSet;

use crate::name::Hostname;
use crate::setting::{CallRule, Egress, Issuers};

/// How two values of a field, of which the first is said further up, become one.
#[derive(Debug)]
pub(super) enum Order<T> {
    /// By the meet of two values: what is below must be as strict as what is above.
    Narrows(fn(&T, &T) -> T),
    /// By the union: what is below adds to what is above and cannot take away, so that it never asks for less.
    Grows(fn(&T, &T) -> T),
    /// The values have no order: what is mandated above is what counts.
    Fixed,
}

impl<T: Clone + PartialEq> Order<T> {
    /// The weakest value that is as strict as both.
    pub(super) fn tighten(&self, above: &T, below: &T) -> T {
        match self {
            Order::Narrows(meet) | Order::Grows(meet) => meet(above, below),
            Order::Fixed => above.clone(),
        }
    }

    /// Whether `below` asks for less than `mandate`. Sets that mean the same are equal once they went through
    /// [`Order::tighten`], and only then.
    pub(super) fn relaxes(&self, mandate: &T, below: &T) -> bool {
        match self {
            Order::Narrows(_) | Order::Fixed => self.tighten(mandate, below) != *below,
            Order::Grows(_) => false,
        }
    }
}

/// Of words that are declared from weak to strict.
pub(super) fn later<T: Ord + Clone>(a: &T, b: &T) -> T {
    a.max(b).clone()
}

/// Of limits.
pub(super) fn lower<T: Ord + Clone>(a: &T, b: &T) -> T {
    a.min(b).clone()
}

pub(super) fn union<T: Ord + Clone>(a: &BTreeSet<T>, b: &BTreeSet<T>) -> BTreeSet<T> {
    a.union(b).cloned().collect()
}

pub(super) fn intersection<T: Ord + Clone>(a: &BTreeSet<T>, b: &BTreeSet<T>) -> BTreeSet<T> {
    a.intersection(b).cloned().collect()
}

/// The requests that both lists let in.
pub(super) fn common_rules(a: &BTreeSet<CallRule>, b: &BTreeSet<CallRule>) -> BTreeSet<CallRule> {
    widest(&products(a, b, CallRule::meet), CallRule::meet)
}

/// The hosts that both let out.
pub(super) fn common_hosts(a: &Egress, b: &Egress) -> Egress {
    match (a, b) {
        (Egress::Any, Egress::Any) => Egress::Any,
        (Egress::Any, Egress::Hosts(hosts)) | (Egress::Hosts(hosts), Egress::Any) => {
            Egress::Hosts(widest(hosts, meet_hosts))
        }
        (Egress::Hosts(a), Egress::Hosts(b)) => {
            Egress::Hosts(widest(&products(a, b, meet_hosts), meet_hosts))
        }
    }
}

/// The tokens that both accept.
pub(super) fn common_issuers(a: &Issuers, b: &Issuers) -> Issuers {
    a.meet(b)
}

/// Of two host names that share anything one stands below the other.
fn meet_hosts(a: &Hostname, b: &Hostname) -> Option<Hostname> {
    if !a.intersects(b) {
        return None;
    }
    let narrower = match (a.is_wildcard(), b.is_wildcard()) {
        (false, _) => a,
        (true, false) => b,
        (true, true) if a.as_str().len() >= b.as_str().len() => a,
        (true, true) => b,
    };
    Some(narrower.clone())
}

/// What each pair shares: the patterns that cover exactly what both sets cover.
fn products<T: Ord>(a: &BTreeSet<T>, b: &BTreeSet<T>, meet: fn(&T, &T) -> Option<T>) -> BTreeSet<T> {
    a.iter()
        .flat_map(|a| b.iter().filter_map(move |b| meet(a, b)))
        .collect()
}

/// Without the patterns that another one covers: the one way to write the set.
fn widest<T: Ord + Clone>(set: &BTreeSet<T>, meet: fn(&T, &T) -> Option<T>) -> BTreeSet<T> {
    let normal: BTreeSet<T> = set.iter().filter_map(|one| meet(one, one)).collect();
    let is_covered = |one: &T| {
        let mut others = normal.iter().filter(|other| *other != one);
        others.any(|other| meet(one, other).as_ref() == Some(one))
    };
    normal.iter().filter(|one| !is_covered(one)).cloned().collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fmt::Debug;

    use proptest::collection::{btree_set, vec};
    use proptest::option;
    use proptest::prelude::{Just, ProptestConfig, Strategy, prop_oneof, proptest};
    use proptest::sample::select;
    use serde_json::{Value, json};

    use super::*;
    use crate::intent::JwtIssuer;
    use crate::setting::Callers;

    /// Total because it returned, and the rest of what makes it a meet.
    fn is_a_meet<T: Clone + PartialEq + Debug>(meet: fn(&T, &T) -> T, a: &T, b: &T, c: &T) {
        let (a, b, c) = (&meet(a, a), &meet(b, b), &meet(c, c));
        assert_eq!(meet(a, a), *a, "idempotent");
        assert_eq!(meet(a, b), meet(b, a), "commutative");
        assert_eq!(meet(&meet(a, b), c), meet(a, &meet(b, c)), "associative");
        let both = meet(a, b);
        assert_eq!(meet(&both, a), both, "as strict as each");
    }

    fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn rules() -> impl Strategy<Value = BTreeSet<CallRule>> {
        let from = select(&["*/*", "a/*", "a*/*", "ab/*", "*/x", "a/x", "ab/xy"][..]);
        let method = select(&["GET", "POST", "PUT"][..]);
        let path = select(&["/", "/a", "/a/", "/a/b", "/ab"][..]);
        let kind = select(&["Exact", "PathPrefix"][..]);
        let rule = (
            option::of(from),
            btree_set(method, 0..3),
            option::of((kind, path)),
        );
        let rule = rule.prop_map(|(from, methods, path)| {
            let path = path.map(|(kind, path)| json!({"type": kind, "value": path}));
            read(json!({"from": from, "methods": methods, "path": path}))
        });
        btree_set(rule, 0..4)
    }

    fn hosts() -> impl Strategy<Value = Egress> {
        let host = select(&["*.a", "x.a", "*.x.a", "y.x.a", "*.b", "b", "x.b"][..]);
        let hosts = btree_set(host.prop_map(|host| host.parse().unwrap()), 0..4);
        prop_oneof![Just(Egress::Any), hosts.prop_map(Egress::Hosts)]
    }

    fn issuers() -> impl Strategy<Value = Issuers> {
        let one = |name: &'static str| {
            let keys = select(&["https://k", "https://l"][..]);
            let audiences = btree_set(select(&["x", "y", "z"][..]), 0..3);
            let one = (keys, audiences).prop_map(move |(keys, audiences)| -> JwtIssuer {
                read(json!({"issuer": name, "jwksUri": keys, "audiences": audiences}))
            });
            option::of(one)
        };
        (one("https://i"), one("https://j"))
            .prop_map(|(i, j)| Issuers::try_from(i.into_iter().chain(j).collect::<Vec<_>>()).unwrap())
    }

    fn callers() -> impl Strategy<Value = Callers> {
        use Callers::{Anyone, Group, Namespace, Nobody, Organization, Tenant, Workspace};
        select(vec![
            Anyone,
            Organization,
            Tenant,
            Workspace,
            Group,
            Namespace,
            Nobody,
        ])
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

        #[test]
        fn access_rules_have_a_meet(sets in vec(rules(), 3)) {
            is_a_meet(common_rules, &sets[0], &sets[1], &sets[2]);
            is_a_meet(union, &sets[0], &sets[1], &sets[2]);
            is_a_meet(intersection, &sets[0], &sets[1], &sets[2]);
        }

        #[test]
        fn egress_has_a_meet(sets in vec(hosts(), 3)) {
            is_a_meet(common_hosts, &sets[0], &sets[1], &sets[2]);
        }

        #[test]
        fn issuers_have_a_meet(sets in vec(issuers(), 3)) {
            is_a_meet(common_issuers, &sets[0], &sets[1], &sets[2]);
        }

        #[test]
        fn words_and_limits_have_a_meet(words in vec(callers(), 3), limits in vec(0..5_u32, 3)) {
            is_a_meet(later, &words[0], &words[1], &words[2]);
            is_a_meet(lower, &limits[0], &limits[1], &limits[2]);
        }
    }

    #[test]
    fn what_relaxes_a_mandate() {
        let egress = |hosts: &[&str]| Egress::Hosts(hosts.iter().map(|host| host.parse().unwrap()).collect());
        for (mandate, below, relaxes) in [
            (Egress::Any, egress(&["a"]), false),
            (egress(&["a"]), Egress::Any, true),
            (egress(&["*.a", "b"]), egress(&["x.a"]), false),
            (egress(&["*.a", "b"]), egress(&["x.a", "c"]), true),
            (egress(&["x.a"]), egress(&["*.a"]), true),
            (egress(&[]), egress(&[]), false),
        ] {
            let order = Order::Narrows(common_hosts);
            assert_eq!(
                order.relaxes(&mandate, &below),
                relaxes,
                "{below:?} under {mandate:?}"
            );
        }
        let set = |all: &[u32]| all.iter().copied().collect::<BTreeSet<u32>>();
        assert!(
            !Order::Grows(union).relaxes(&set(&[1]), &set(&[2])),
            "it adds to what is mandated"
        );
        assert!(Order::Narrows(intersection).relaxes(&set(&[1]), &set(&[1, 2])));
        assert!(Order::Fixed.relaxes(&1, &2));
        assert_eq!(Order::Fixed.tighten(&1, &2), 1, "the one further up counts");
    }
}

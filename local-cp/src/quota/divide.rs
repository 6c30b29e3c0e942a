//! How a limit is divided. Pure.

/// An equal part is so many times what anybody may begin with, whatever others want.
const FOOTHOLDS: u64 = 10;

/// Parts of `limit` for those who want so much, in their order, which add up to no more. Nobody gets more than another who wants as
/// much, or more than somebody who got less than he wanted (max-min); what nobody wants goes to all in equal parts.
pub(super) fn divide(limit: u64, wants: &[u64]) -> Vec<u64> {
    let Ok(count @ 1..) = u64::try_from(wants.len()) else {
        return Vec::new();
    };
    // Who has used nothing can begin with something.
    let foothold = limit / count / FOOTHOLDS;
    let wants: Vec<u64> = wants.iter().map(|want| grown(*want).max(foothold)).collect();
    let level = level(limit, &wants);
    let mut parts: Vec<u64> = wants.iter().map(|want| (*want).min(level)).collect();
    let rest = (limit - parts.iter().sum::<u64>()) / count;
    parts.iter_mut().for_each(|part| *part += rest);
    parts
}

/// A tenth more than was used, so that it can grow.
fn grown(used: u64) -> u64 {
    used.saturating_add(used / 10)
}

/// What nobody gets more of, so that all is given that is wanted of `limit`.
fn level(limit: u64, wants: &[u64]) -> u64 {
    let mut sorted = wants.to_vec();
    sorted.sort_unstable();
    let (mut left, mut count) = (limit, sorted.len() as u64);
    for want in sorted {
        if want > left / count {
            return left / count;
        }
        left -= want;
        count -= 1;
    }
    u64::MAX
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_limit_is_divided() {
        for (limit, wants, expected) in [
            (100, &[][..], &[][..]),
            (100, &[0], &[100]),
            (100, &[1_000_000], &[100]),
            // What nobody wants is for all.
            (100, &[0, 0, 0, 0], &[25, 25, 25, 25]),
            (120, &[50, 10, 0], &[55 + 16, 11 + 16, 4 + 16]),
            // Nobody gets more than who wants as much...
            (100, &[500, 500], &[50, 50]),
            (100, &[500, 90], &[50, 50]),
            // ...and who wants little gets that.
            (100, &[500, 20], &[78, 22]),
            (100, &[500, 500, 20], &[39, 39, 22]),
            // Who has just come begins with something.
            (1000, &[5000, 0], &[950, 50]),
            (1, &[5, 5], &[0, 0]),
            (0, &[5, 0], &[0, 0]),
            (u64::MAX, &[u64::MAX, u64::MAX], &[u64::MAX / 2, u64::MAX / 2]),
        ] {
            assert_eq!(divide(limit, wants), expected, "{limit} {wants:?}");
        }
    }

    proptest! {
        #[test]
        fn nobody_has_more_at_the_cost_of_who_wants_it(
            limit in 0..1_000_000u64,
            wants in prop::collection::vec(0..200_000u64, 1..40),
        ) {
            let parts = divide(limit, &wants);
            let count = wants.len() as u64;
            let sum: u64 = parts.iter().sum();
            prop_assert!(sum <= limit);
            // No more is lost than a whole number of each cannot hold.
            prop_assert!(limit - sum < 2 * count, "{limit} {wants:?} {parts:?}");
            for (part, want) in parts.iter().zip(&wants) {
                prop_assert!(*part >= limit / count / FOOTHOLDS);
                for (other_part, other_want) in parts.iter().zip(&wants) {
                    if want == other_want {
                        prop_assert_eq!(part, other_part);
                    }
                    // Who got less than he wants has no less than anybody.
                    if *part < *want {
                        prop_assert!(other_part <= part, "{limit} {wants:?} {parts:?}");
                    }
                }
            }
        }
    }
}

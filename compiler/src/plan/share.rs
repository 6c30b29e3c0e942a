//! Percentages that stay percentages when a target drops out.

/// The whole.
const PERCENT: u32 = 100;

/// Scales shares so that they add up to 100 again, by largest remainder; `None` when nothing is left to scale.
pub(super) fn rescaled<T>(shares: Vec<(T, u32)>) -> Option<Vec<(T, u32)>> {
    let sum: u64 = shares.iter().map(|(_, share)| u64::from(*share)).sum();
    if sum == 0 {
        return None;
    }
    let scaled = |share: u32| u64::from(share) * u64::from(PERCENT);
    let floors: Vec<u32> = shares
        .iter()
        .map(|(_, share)| u32::try_from(scaled(*share) / sum).unwrap_or(PERCENT))
        .collect();
    let missing = PERCENT.saturating_sub(floors.iter().sum()) as usize;
    let mut by_remainder: Vec<usize> = (0..shares.len()).collect();
    by_remainder.sort_by_key(|at| std::cmp::Reverse(scaled(shares[*at].1) % sum));
    let raised = &by_remainder[..missing.min(shares.len())];
    let rescaled = shares
        .into_iter()
        .zip(floors)
        .enumerate()
        .map(|(at, ((target, _), floor))| (target, floor + u32::from(raised.contains(&at))));
    Some(rescaled.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_always_add_up_to_a_hundred() {
        for (shares, expected) in [
            (vec![95], Some(vec![100])),
            (vec![50, 45], Some(vec![53, 47])),
            (vec![1, 1, 1], Some(vec![34, 33, 33])),
            (vec![100, 0], Some(vec![100, 0])),
            (vec![0], None),
            (vec![], None),
        ] {
            let found = rescaled(shares.iter().map(|share| ((), *share)).collect());
            let found = found.map(|shares| shares.into_iter().map(|(_, share)| share).collect::<Vec<_>>());
            assert_eq!(found, expected, "{shares:?}");
        }
    }
}

//! Medians and percentiles of what was measured.

/// Numbers in ascending order; never empty.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sorted(Vec<f64>);

impl Sorted {
    /// `None` when there is nothing to tell about.
    pub(crate) fn new(samples: impl IntoIterator<Item = f64>) -> Option<Sorted> {
        let mut samples: Vec<f64> = samples.into_iter().collect();
        samples.sort_by(f64::total_cmp);
        (!samples.is_empty()).then_some(Sorted(samples))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn min(&self) -> f64 {
        self.0[0]
    }

    pub(crate) fn max(&self) -> f64 {
        self.0[self.0.len() - 1]
    }

    /// The middle one, or the mean of the two in the middle.
    pub(crate) fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        if self.0.len() % 2 == 1 {
            self.0[middle]
        } else {
            f64::midpoint(self.0[middle - 1], self.0[middle])
        }
    }

    /// The smallest sample that at least `share` (0 to 1) of all do not exceed.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let rank = (share * self.0.len() as f64).ceil() as usize;
        self.0[rank.clamp(1, self.0.len()) - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn middles_and_tails() {
        let sorted = |samples: &[f64]| Sorted::new(samples.iter().copied()).unwrap();
        assert_eq!(Sorted::new([]), None);
        assert_eq!(sorted(&[3.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(sorted(&[4.0, 1.0, 2.0, 3.0]).median(), 2.5);
        let hundred = sorted(&(1..=100).map(f64::from).collect::<Vec<_>>());
        assert_eq!((hundred.quantile(0.5), hundred.quantile(0.99)), (50.0, 99.0));
        assert_eq!((hundred.min(), hundred.max(), hundred.len()), (1.0, 100.0, 100));
        assert_eq!(sorted(&[7.0]).quantile(0.99), 7.0);
    }
}

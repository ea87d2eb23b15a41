//! How far one sample is shifted against another: the Hodges-Lehmann estimate and its bounds.
//!
//! The estimate is the median of all differences y_j - x_i (J. L. Hodges and E. L. Lehmann, 1963,
//! Annals of Mathematical Statistics 34:598-611). Its bounds come from inverting the test: a shift θ
//! is kept if the Mann-Whitney statistic of x and y - θ is not too extreme (L. E. Moses, in
//! H. M. Walker and J. Lev, 1953, Statistical Inference, ch. 18; E. L. Lehmann, 1963, Annals of
//! Mathematical Statistics 34:1507-1512). The statistic only changes where θ passes a difference, so
//! the bound is a difference. Without ties which one it is depends on the sizes alone; with them the
//! null distribution is that of the groups as they lie for that θ. The bound itself belongs to the
//! interval: closed intervals lose no coverage where values are discrete (G. E. Noether, 1967,
//! Journal of the American Statistical Association 62:184-188).

use super::mann_whitney::{Tables, lower_tail, upper_tail};
use super::order::median;

/// Two samples and everything that is asked of them together.
pub struct TwoSamples {
    /// Ascending distinct values and how often each is there.
    x: Vec<(f64, usize)>,
    y: Vec<(f64, usize)>,
    m: usize,
    n: usize,
    /// All y - x, ascending.
    differences: Vec<f64>,
}

impl TwoSamples {
    /// Of a base `x` and a new `y`, neither empty, all finite.
    pub fn new(x: &[f64], y: &[f64]) -> TwoSamples {
        let (x_groups, y_groups) = (groups(x), groups(y));
        let mut differences: Vec<f64> = x.iter().flat_map(|x| y.iter().map(move |y| y - x)).collect();
        differences.sort_unstable_by(f64::total_cmp);
        TwoSamples { x: x_groups, y: y_groups, m: x.len(), n: y.len(), differences }
    }

    /// The median difference.
    pub fn estimate(&self) -> f64 {
        median(&self.differences).unwrap_or(f64::NAN)
    }

    /// The largest shift below which the shift lies with probability at most `alpha`: the lower end
    /// of the lowest stretch of shifts that the one-sided test keeps. Minus infinity where so few
    /// values can't exclude anything.
    pub fn lower_bound(&self, alpha: f64, tables: &mut Tables) -> f64 {
        let d = &self.differences;
        let all = d.len();
        // Without ties: shifts between d[k - 1] and d[k] leave U = all - k.
        let untied = |tables: &mut Tables, k: usize| tables.untied_upper_tail(self.m, self.n, all - k);
        let (mut low, mut high) = (0, all);
        while low < high {
            let middle = usize::midpoint(low, high);
            if untied(tables, middle) > alpha { high = middle } else { low = middle + 1 }
        }
        let mut k = low;
        if self.has_ties() {
            k = self.start_of_stretch(k);
            // The ties' own distribution is nearly the same: a step or two from here.
            while k > 0 && self.is_kept(self.previous(k), alpha) {
                k = self.previous(k);
            }
            while k < all && !self.is_kept(k, alpha) {
                k = self.next(k);
            }
        }
        if k == 0 { f64::NEG_INFINITY } else { d[k - 1] }
    }

    /// The mirror image of [`TwoSamples::lower_bound`].
    pub fn upper_bound(&self, alpha: f64, tables: &mut Tables) -> f64 {
        -self.mirrored().lower_bound(alpha, tables)
    }

    /// The two-sided p-value of no shift at all: twice the smaller tail.
    pub fn p_value(&self) -> f64 {
        let (sizes, twice_u) = self.pooled(|difference| {
            difference.partial_cmp(&0.0).expect("finite values have finite differences")
        });
        let tail = upper_tail(&sizes, self.n, twice_u).min(lower_tail(&sizes, self.n, twice_u));
        (2.0 * tail).min(1.0)
    }

    fn mirrored(&self) -> TwoSamples {
        let negated = |groups: &[(f64, usize)]| groups.iter().rev().map(|&(v, t)| (-v, t)).collect();
        TwoSamples {
            x: negated(&self.x),
            y: negated(&self.y),
            m: self.m,
            n: self.n,
            differences: self.differences.iter().rev().map(|d| -d).collect(),
        }
    }

    fn has_ties(&self) -> bool {
        self.x.len() < self.m || self.y.len() < self.n
    }

    /// Is a shift just above d[k - 1] kept?
    fn is_kept(&self, k: usize, alpha: f64) -> bool {
        let at = if k == 0 { f64::NEG_INFINITY } else { self.differences[k - 1] };
        let (sizes, twice_u) = self.pooled(|difference| match difference > at {
            true => std::cmp::Ordering::Greater,
            false => std::cmp::Ordering::Less,
        });
        upper_tail(&sizes, self.n, twice_u) > alpha
    }

    /// The first index of a stretch of shifts: equal differences are passed at once.
    fn start_of_stretch(&self, mut k: usize) -> usize {
        while k > 0 && k < self.differences.len() && self.differences[k] == self.differences[k - 1] {
            k += 1;
        }
        k
    }

    fn next(&self, k: usize) -> usize {
        self.start_of_stretch(k + 1)
    }

    fn previous(&self, k: usize) -> usize {
        let value = self.differences[k - 1];
        self.differences.partition_point(|&d| d < value)
    }

    /// Sizes of the groups of equal values in the pooled sample, ascending, and 2U, when `order`
    /// tells how y stands to x by their difference.
    fn pooled(&self, order: impl Fn(f64) -> std::cmp::Ordering) -> (Vec<usize>, usize) {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let mut sizes = Vec::with_capacity(self.x.len() + self.y.len());
        let (mut i, mut j, mut below, mut twice_u) = (0, 0, 0, 0);
        while i < self.x.len() || j < self.y.len() {
            let ordering = match (self.x.get(i), self.y.get(j)) {
                (Some(x), Some(y)) => order(y.0 - x.0),
                (Some(_), None) => Greater,
                (None, _) => Less,
            };
            let (x_here, y_here) = match ordering {
                Greater => (self.x[i].1, 0),
                Less => (0, self.y[j].1),
                Equal => (self.x[i].1, self.y[j].1),
            };
            twice_u += y_here * (2 * below + x_here);
            sizes.push(x_here + y_here);
            below += x_here;
            i += usize::from(x_here > 0);
            j += usize::from(y_here > 0);
        }
        (sizes, twice_u)
    }
}

/// Ascending distinct values and how often each is there.
fn groups(values: &[f64]) -> Vec<(f64, usize)> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.chunk_by(|a, b| a == b).map(|group| (group[0], group.len())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lower(x: &[f64], y: &[f64], alpha: f64) -> f64 {
        TwoSamples::new(x, y).lower_bound(alpha, &mut Tables::default())
    }

    fn upper(x: &[f64], y: &[f64], alpha: f64) -> f64 {
        TwoSamples::new(x, y).upper_bound(alpha, &mut Tables::default())
    }

    #[test]
    fn four_against_four_by_hand() {
        let (x, y) = ([0.0, 1.0, 3.0, 7.0], [10.0, 20.5, 40.25, 80.125]);
        // Differences ascending: 3, 7, 9, 10, 13.5, … ; P(U ≤ 1) = 2/70 ≤ 5 % < P(U ≤ 2) = 4/70.
        assert_eq!(lower(&x, &y, 0.05), 7.0);
        // P(U = 0) = 1/70 ≤ 2.5 % < 2/70.
        assert_eq!(lower(&x, &y, 0.025), 3.0);
        assert_eq!(upper(&x, &y, 0.025), 80.125);
        assert_eq!(lower(&x, &y, 0.01), f64::NEG_INFINITY);
        assert_eq!(upper(&x, &y, 0.01), f64::INFINITY);
        let both = TwoSamples::new(&x, &y);
        assert_eq!(both.estimate(), 26.875);
        assert!((both.p_value() - 2.0 / 70.0).abs() < 1e-12);
    }

    #[test]
    fn constant_samples_have_one_shift() {
        let (x, y) = ([1.0; 5], [1.5; 5]);
        assert_eq!((lower(&x, &y, 0.05), upper(&x, &y, 0.05)), (0.5, 0.5));
        assert!((TwoSamples::new(&x, &y).p_value() - 2.0 / 252.0).abs() < 1e-12);
        assert_eq!(TwoSamples::new(&x, &x).p_value(), 1.0);
    }

    /// The definition, tried at every stretch.
    fn by_definition(x: &[f64], y: &[f64], alpha: f64) -> f64 {
        let mut ends: Vec<f64> = x.iter().flat_map(|x| y.iter().map(move |y| y - x)).collect();
        ends.sort_unstable_by(f64::total_cmp);
        ends.dedup();
        let mut stretches = vec![(f64::NEG_INFINITY, ends[0] - 1.0)];
        for pair in ends.windows(2) {
            stretches.push((pair[0], f64::midpoint(pair[0], pair[1])));
        }
        stretches.push((ends[ends.len() - 1], ends[ends.len() - 1] + 1.0));
        let kept = |theta: f64| {
            let mut pooled: Vec<f64> = x.iter().copied().chain(y.iter().map(|y| y - theta)).collect();
            pooled.sort_unstable_by(f64::total_cmp);
            let sizes: Vec<usize> = pooled.chunk_by(|a, b| a == b).map(<[f64]>::len).collect();
            let u: usize = x.iter().map(|x| y.iter().filter(|&y| y - theta > *x).count()).sum();
            upper_tail(&sizes, y.len(), 2 * u) > alpha
        };
        stretches.into_iter().find(|&(_, theta)| kept(theta)).unwrap().0
    }

    proptest! {
        #[test]
        fn bounds_follow_the_definition(
            x in prop::collection::vec(0u32..12, 3..8),
            y in prop::collection::vec(0u32..12, 3..8),
            alpha in prop::sample::select(vec![0.05, 0.025, 0.2]),
        ) {
            // Sixteenths: sums and midpoints are exact, ties are many.
            let scale = |v: &[u32]| v.iter().map(|&v| f64::from(v) / 16.0).collect::<Vec<_>>();
            let (x, y) = (scale(&x), scale(&y));
            let (expected, found) = (by_definition(&x, &y, alpha), lower(&x, &y, alpha));
            prop_assert_eq!(expected, found);
            let negate = |v: &[f64]| v.iter().map(|v| -v).collect::<Vec<_>>();
            prop_assert_eq!(upper(&x, &y, alpha), -lower(&negate(&x), &negate(&y), alpha));
            let both = TwoSamples::new(&x, &y);
            prop_assert!(found <= both.estimate() && both.estimate() <= upper(&x, &y, alpha));
        }

        #[test]
        fn a_shift_moves_everything_by_itself(
            x in prop::collection::hash_set(0u32..10_000, 4..9),
            shift in -100i32..100,
        ) {
            let x: Vec<f64> = x.into_iter().map(f64::from).collect();
            let y: Vec<f64> = x.iter().map(|v| v + f64::from(shift)).collect();
            let (here, there) = (TwoSamples::new(&x, &x), TwoSamples::new(&x, &y));
            prop_assert_eq!(there.estimate(), here.estimate() + f64::from(shift));
            prop_assert_eq!(lower(&x, &y, 0.05), lower(&x, &x, 0.05) + f64::from(shift));
        }
    }
}

//! The exact null distribution of the Mann-Whitney statistic, ties included.
//!
//! For samples x (m values) and y (n values), U = #{(i, j): y_j > x_i} + ½ #{(i, j): y_j = x_i}
//! (H. B. Mann and D. R. Whitney, 1947, Annals of Mathematical Statistics 18:50-60). If both come
//! from one distribution, every choice of n of the m + n pooled values as "y" is equally likely, so
//! the distribution given the pooled values is a count of choices. Equal pooled values form a group;
//! only the sizes of the groups, in ascending order of their value, matter (the conditional
//! distribution of E. L. Lehmann, 1975, Nonparametrics: Statistical Methods Based on Ranks, 1.4).
//!
//! Counting: go through the groups upwards. A choice of c out of a group of t puts c values of y
//! above the x values seen so far (each of the pairs counts 1) and beside the t - c values of x in
//! the group (each counts ½). So 2U grows by 2·c·(x seen so far) + c·(t - c), the state is (y chosen
//! so far, 2U), and the weight of the step is C(t, c). Everything is an integer; counts are kept as
//! f64, exact up to 2^53 and within rounding beyond.

use std::collections::HashMap;

/// Above this product of sample sizes the normal approximation takes over: 50 against 50, where the
/// exact count costs a millisecond and its tails differ by less than 1 %.
const EXACT_UP_TO: usize = 2500;

/// Null distributions without ties, kept because every row of a comparison asks for the same one.
#[derive(Default)]
pub struct Tables {
    untied: HashMap<(usize, usize), Vec<f64>>,
}

impl Tables {
    /// P(U ≥ u) for samples of m and n without ties.
    pub fn untied_upper_tail(&mut self, m: usize, n: usize, u: usize) -> f64 {
        if m * n > EXACT_UP_TO {
            return normal_upper_tail(&vec![1; m + n], n, 2 * u);
        }
        let cumulative = self.untied.entry((m, n)).or_insert_with(|| {
            // Symmetric, so P(U ≤ k) is P(U ≥ mn - k).
            let mut cumulative = counts(&vec![1; m + n], n, 2 * m * n);
            let total: f64 = cumulative.iter().sum();
            let mut sum = 0.0;
            for entry in &mut cumulative {
                sum += *entry;
                *entry = sum / total;
            }
            cumulative
        });
        if u > m * n { 0.0 } else { cumulative[2 * (m * n - u)] }
    }
}

/// P(2U ≥ `twice_u`) for a pooled sample whose ascending groups of equal values have these sizes,
/// `n` of them being y.
pub fn upper_tail(groups: &[usize], n: usize, twice_u: usize) -> f64 {
    let total: usize = groups.iter().sum();
    let m = total - n;
    let most = 2 * m * n;
    if twice_u > most {
        return 0.0;
    }
    if m * n > EXACT_UP_TO {
        return normal_upper_tail(groups, n, twice_u);
    }
    // In descending order U counts the pairs with y below x: 2mn - 2U.
    let descending: Vec<usize> = groups.iter().rev().copied().collect();
    let favourable: f64 = counts(&descending, n, most - twice_u).iter().sum();
    favourable / choose(total, n)
}

/// P(2U ≤ `twice_u`), as [`upper_tail`].
pub fn lower_tail(groups: &[usize], n: usize, twice_u: usize) -> f64 {
    let total: usize = groups.iter().sum();
    let most = 2 * (total - n) * n;
    let descending: Vec<usize> = groups.iter().rev().copied().collect();
    upper_tail(&descending, n, most - twice_u.min(most))
}

/// The number of choices with 2U = k, for k up to `limit`.
fn counts(groups: &[usize], n: usize, limit: usize) -> Vec<f64> {
    let width = limit + 1;
    // One row of `width` per number of y chosen so far.
    let mut now = vec![0.0; (n + 1) * width];
    now[0] = 1.0;
    let mut next = vec![0.0; now.len()];
    let mut seen = 0;
    let mut binomials = Binomials::default();
    for &size in groups {
        next.fill(0.0);
        let binomial = binomials.row(size);
        for chosen in 0..=n.min(seen) {
            let row = &now[chosen * width..(chosen + 1) * width];
            let x_below = seen - chosen;
            for c in 0..=size.min(n - chosen) {
                let step = 2 * c * x_below + c * (size - c);
                if step > limit {
                    continue;
                }
                let target = &mut next[(chosen + c) * width + step..(chosen + c + 1) * width];
                for (to, from) in target.iter_mut().zip(row) {
                    *to += binomial[c] * from;
                }
            }
        }
        std::mem::swap(&mut now, &mut next);
        seen += size;
    }
    now.split_off(n * width)
}

/// Rows of Pascal's triangle, kept.
#[derive(Default)]
struct Binomials {
    rows: HashMap<usize, Vec<f64>>,
}

impl Binomials {
    fn row(&mut self, n: usize) -> &[f64] {
        self.rows.entry(n).or_insert_with(|| (0..=n).map(|k| choose(n, k)).collect())
    }
}

/// n over k; each product before its division is an integer.
pub fn choose(n: usize, k: usize) -> f64 {
    (1..=k.min(n - k)).fold(1.0, |product, i| product * (n + 1 - i) as f64 / i as f64)
}

/// With the variance that ties leave, mn/12 · (N + 1 - Σ(t³ - t)/(N(N - 1))), and a continuity
/// correction of half a step (Lehmann, 1975, 1.4, formula 1.35).
fn normal_upper_tail(groups: &[usize], n: usize, twice_u: usize) -> f64 {
    let total: usize = groups.iter().sum();
    let (m, n, all) = ((total - n) as f64, n as f64, total as f64);
    let ties: f64 = groups.iter().map(|&t| (t as f64).powi(3) - t as f64).sum();
    let variance = m * n / 12.0 * (all + 1.0 - ties / (all * (all - 1.0)));
    let above = twice_u as f64 / 2.0 - 0.5 - m * n / 2.0;
    if variance <= 0.0 {
        return if above <= 0.0 { 1.0 } else { 0.0 };
    }
    normal_tail(above / variance.sqrt())
}

/// P(Z ≥ z) for a standard normal Z, by the trapezoidal rule on the half line; its error falls
/// faster than any power of the step for this integrand, here below 1e-12.
fn normal_tail(z: f64) -> f64 {
    if z < 0.0 {
        return 1.0 - normal_tail(-z);
    }
    let density = |t: f64| (-t * t / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    // Simpson's rule up to 12 standard deviations beyond.
    let (steps, length) = (2000, 12.0);
    let h = length / f64::from(steps);
    let weight = |i: i32| if i == 0 || i == steps { 1.0 } else { 2.0 + 2.0 * f64::from(i % 2) };
    (0..=steps).map(|i| weight(i) * density(z + f64::from(i) * h)).sum::<f64>() * h / 3.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// P(2U ≥ u) by trying every choice.
    fn by_enumeration(groups: &[usize], n: usize, twice_u: usize) -> f64 {
        let values: Vec<usize> = groups.iter().enumerate().flat_map(|(v, &t)| vec![v; t]).collect();
        let (mut hits, mut all) = (0u32, 0u32);
        for mask in 0u32..1 << values.len() {
            if mask.count_ones() as usize != n {
                continue;
            }
            let is_y = |i: usize| mask >> i & 1 == 1;
            let mut twice = 0;
            for i in (0..values.len()).filter(|&i| !is_y(i)) {
                for j in (0..values.len()).filter(|&j| is_y(j)) {
                    twice += match values[j].cmp(&values[i]) {
                        std::cmp::Ordering::Greater => 2,
                        std::cmp::Ordering::Equal => 1,
                        std::cmp::Ordering::Less => 0,
                    };
                }
            }
            all += 1;
            hits += u32::from(twice >= twice_u);
        }
        f64::from(hits) / f64::from(all)
    }

    proptest! {
        #[test]
        fn counting_equals_trying_every_choice(
            groups in prop::collection::vec(1usize..4, 1..6),
            split in 0.0..1.0f64,
            at in 0.0..1.0f64,
        ) {
            let total: usize = groups.iter().sum();
            prop_assume!((2..=12).contains(&total));
            let n = 1 + (split * (total - 1) as f64) as usize;
            let u = (at * (2 * n * (total - n) + 1) as f64) as usize;
            prop_assert!((upper_tail(&groups, n, u) - by_enumeration(&groups, n, u)).abs() < 1e-12);
            let both = upper_tail(&groups, n, u + 1) + lower_tail(&groups, n, u);
            prop_assert!((both - 1.0).abs() < 1e-12, "{both}");
        }
    }

    #[test]
    fn published_critical_values() {
        // Mann and Whitney (1947), table I: P(U ≤ u) for m = n.
        let mut tables = Tables::default();
        let mut lower = |n: usize, u: usize| tables.untied_upper_tail(n, n, n * n - u);
        assert!((lower(3, 0) - 0.05).abs() < 1e-12);
        assert!((lower(4, 1) - 2.0 / 70.0).abs() < 1e-12);
        assert!((lower(5, 2) - 4.0 / 252.0).abs() < 1e-12);
        assert!((lower(8, 13) - 0.025).abs() < 5e-4);
        // The usual two-sided 5 % values: 2, 5, 8, 13, 17, 23 for n = 5 to 10.
        for (n, critical) in [(5, 2), (6, 5), (7, 8), (8, 13), (9, 17), (10, 23)] {
            assert!(lower(n, critical) <= 0.025 && lower(n, critical + 1) > 0.025, "{n}");
        }
        assert_eq!(lower(5, 25), 1.0);
    }

    #[test]
    fn all_equal_says_nothing() {
        assert_eq!(upper_tail(&[8], 4, 16), 1.0);
        assert_eq!(lower_tail(&[8], 4, 16), 1.0);
        assert_eq!(upper_tail(&[8], 4, 17), 0.0);
    }

    #[test]
    fn the_approximation_meets_the_exact_count() {
        let groups = vec![1; 100];
        for u in [1250, 1400, 1500, 1600] {
            let (exact, normal) = (upper_tail(&groups, 50, 2 * u), normal_upper_tail(&groups, 50, 2 * u));
            assert!((exact - normal).abs() < 1e-3, "{u}: {exact} {normal}");
        }
        assert!((normal_tail(1.959_963_985) - 0.025).abs() < 1e-10);
        assert!((normal_tail(-1.0) - 0.841_344_746_068_5).abs() < 1e-10);
        assert!(upper_tail(&vec![1; 120], 60, 2 * 1800) - 0.5 < 0.01);
    }
}

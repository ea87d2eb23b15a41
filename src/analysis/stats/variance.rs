//! How much of a spread lies within groups, and how much between them.
//!
//! One-way random effects: value = mean + group effect + rest. The mean squares within and between
//! groups have the expectations σ_w² and σ_w² + n₀ σ_b² with n₀ = (N - Σ n_i² / N) / (k - 1); solving
//! for the two gives the estimates (C. R. Henderson, 1953, Biometrics 9:226-252, method 1). A
//! negative σ_b² says that the groups differ by less than their own noise: 0.

/// The two parts of a spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Components {
    /// Standard deviation within a group; none if no group has two values.
    pub within: Option<f64>,
    /// Standard deviation of the group effects; none of a single group, or without `within`.
    pub between: Option<f64>,
}

/// Of groups of values.
pub fn components(groups: &[Vec<f64>]) -> Components {
    let groups: Vec<&Vec<f64>> = groups.iter().filter(|group| !group.is_empty()).collect();
    let count = groups.iter().map(|group| group.len()).sum::<usize>() as f64;
    let k = groups.len() as f64;
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let inner: f64 = groups
        .iter()
        .map(|group| {
            let center = mean(group);
            group.iter().map(|value| (value - center).powi(2)).sum::<f64>()
        })
        .sum();
    let free = count - k;
    if free < 1.0 {
        return Components { within: None, between: None };
    }
    let within = inner / free;
    let grand = groups.iter().flat_map(|group| group.iter()).sum::<f64>() / count;
    let outer: f64 = groups.iter().map(|group| group.len() as f64 * (mean(group) - grand).powi(2)).sum();
    let squares: f64 = groups.iter().map(|group| (group.len() as f64).powi(2)).sum();
    let n0 = (count - squares / count) / (k - 1.0);
    let between = (k > 1.0).then(|| ((outer / (k - 1.0) - within) / n0).max(0.0).sqrt());
    Components { within: Some(within.sqrt()), between }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        // Means 2 and 6, squares within 2 + 2 on 4 degrees, between 24 on 1, n0 = 3.
        let found = components(&[vec![1.0, 2.0, 3.0], vec![5.0, 6.0, 7.0]]);
        assert_eq!(found.within, Some(1.0));
        assert!((found.between.unwrap() - ((24.0f64 - 1.0) / 3.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn what_cannot_be_known_is_absent() {
        assert_eq!(components(&[]), Components { within: None, between: None });
        assert_eq!(components(&[vec![1.0], vec![2.0]]), Components { within: None, between: None });
        assert_eq!(components(&[vec![1.0, 3.0]]).between, None);
        assert_eq!(components(&[vec![1.0, 3.0], vec![1.0, 3.0], vec![]]).between, Some(0.0));
    }
}

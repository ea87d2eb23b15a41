//! Means and order statistics.

/// The median; the mean of the middle two of an even number. None of nothing.
pub fn median(sorted: &[f64]) -> Option<f64> {
    let n = sorted.len();
    let upper = *sorted.get(n / 2)?;
    Some(if n % 2 == 1 { upper } else { f64::midpoint(sorted[n / 2 - 1], upper) })
}

/// The arithmetic mean. None of nothing.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The geometric mean of positive values; of equal values exactly that value. None of nothing.
pub fn geometric_mean(values: &[f64]) -> Option<f64> {
    let first = *values.first()?;
    if values.iter().all(|&value| value == first) {
        return Some(first);
    }
    let logs = values.iter().map(|value| value.ln()).sum::<f64>();
    Some((logs / values.len() as f64).exp())
}

/// The variance with n - 1 in the denominator. None of fewer than two values.
pub fn sample_variance(values: &[f64]) -> Option<f64> {
    let mean = mean(values).filter(|_| values.len() > 1)?;
    let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
    Some(squares / (values.len() - 1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), Some(3.0));
    }

    #[test]
    fn means() {
        assert_eq!((mean(&[]), geometric_mean(&[]), sample_variance(&[1.0])), (None, None, None));
        assert_eq!(mean(&[1.0, 2.0, 6.0]), Some(3.0));
        assert_eq!(geometric_mean(&[0.1, 0.1, 0.1]), Some(0.1));
        assert!((geometric_mean(&[1.0, 8.0, 27.0]).unwrap() - 6.0).abs() < 1e-12);
        assert_eq!(sample_variance(&[1.0, 2.0, 3.0, 4.0]), Some(5.0 / 3.0));
    }
}

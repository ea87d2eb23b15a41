//! Student's t distribution for whole degrees of freedom.

use std::f64::consts::PI;

/// P(|T| <= t) with `df` degrees of freedom: the finite series of Abramowitz and Stegun, 26.7.3 and
/// 26.7.4.
fn central(t: f64, df: u32) -> f64 {
    let theta = (t / f64::from(df).sqrt()).atan();
    let (sin, cos) = theta.sin_cos();
    // Terms cos^1, cos^3, … of an odd number of degrees, cos^0, cos^2, … of an even one.
    let odd = df % 2 == 1;
    let (mut term, mut sum, mut k) = (if odd { cos } else { 1.0 }, 0.0, if odd { 1 } else { 0 });
    while k + 2 <= df {
        sum += term;
        k += 2;
        term *= f64::from(k - 1) / f64::from(k) * cos * cos;
    }
    if odd { 2.0 / PI * (theta + sin * sum) } else { sin * sum }
}

/// The t that |T| exceeds with probability `1 - level`, by bisection. `df` is at least 1.
pub fn quantile(level: f64, df: u32) -> f64 {
    let (mut low, mut high) = (0.0, 1e6);
    for _ in 0..200 {
        let middle = f64::midpoint(low, high);
        if central(middle, df) < level { low = middle } else { high = middle }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the printed table of any textbook.
    #[test]
    fn the_table() {
        for (df, expected) in [
            (1, 12.706_205),
            (2, 4.302_653),
            (3, 3.182_446),
            (4, 2.776_445),
            (5, 2.570_582),
            (9, 2.262_157),
            (10, 2.228_139),
            (30, 2.042_272),
            (1000, 1.962_339),
        ] {
            assert!((quantile(0.95, df) - expected).abs() < 1e-5, "{df}: {}", quantile(0.95, df));
        }
        assert!((quantile(0.99, 4) - 4.604_095).abs() < 1e-5);
    }
}

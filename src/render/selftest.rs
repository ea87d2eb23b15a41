//! What the harness itself costs, on one screen.

use crate::measure::costs::Cost;
use std::io::{self, Write};

/// One line a figure; the limit where it has one, and whether this machine keeps it now.
///
/// # Errors
/// The stream does not take it.
pub fn write(out: &mut dyn Write, costs: &[Cost]) -> io::Result<()> {
    let width = costs.iter().map(|cost| cost.what.len()).max().unwrap_or(0);
    for cost in costs {
        let value =
            if cost.value < 100.0 { format!("{:.2}", cost.value) } else { format!("{:.0}", cost.value) };
        let limit = match cost.limit {
            Some(limit) if cost.is_beyond() => format!("  beyond {limit}: is the machine idle?"),
            Some(limit) => format!("  at most {limit}"),
            None => String::new(),
        };
        let line = format!("{:<width$}  {value:>8} {:<3}{limit}", cost.what, cost.unit);
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_beyond_their_limit_are_said_to_be() {
        let costs = [
            Cost::new("clock read", 23.456, "ns"),
            Cost::new("closed loop", 120.0, "ns").at_most(100.0),
            Cost::new("round trip", 12.0, "us").at_most(50.0),
        ];
        let mut text = Vec::new();
        write(&mut text, &costs).unwrap();
        let expected = "\
clock read      23.46 ns
closed loop       120 ns   beyond 100: is the machine idle?
round trip      12.00 us   at most 50
";
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }
}

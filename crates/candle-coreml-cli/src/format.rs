//! Human-readable sizes and durations.

use std::time::Duration;

const UNITS: [(&str, u64); 9] = [
    ("kB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("B", 1),
];
const TIMES: [(&str, u64); 5] = [("w", 604_800), ("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];

/// `1.2 GB`.
pub(crate) fn bytes(n: u64) -> String {
    match UNITS[..4].iter().rev().find(|(_, unit)| n >= *unit) {
        Some((name, unit)) => format!("{:.1} {name}", n as f64 / *unit as f64),
        None => format!("{n} B"),
    }
}

/// `3d`: the largest fitting unit.
pub(crate) fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    let unit = TIMES[1..].iter().find(|(_, unit)| seconds >= *unit);
    unit.map_or("0s".to_owned(), |(name, unit)| format!("{}{name}", seconds / unit))
}

/// Parses a number with a unit.
fn parse(text: &str, units: &[(&str, u64)]) -> Result<u64, String> {
    let names: Vec<&str> = units.iter().map(|u| u.0).collect();
    let fail = || format!("expected a number with a unit ({})", names.join(", "));
    let at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(fail)?;
    let number: u64 = text[..at].parse().map_err(|_| fail())?;
    let unit = units.iter().find(|u| u.0.eq_ignore_ascii_case(text[at..].trim())).ok_or_else(fail)?;
    number.checked_mul(unit.1).ok_or_else(|| "too large".to_owned())
}

/// `30d`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    parse(text, &TIMES).map(Duration::from_secs)
}

/// `20GB`.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    parse(text, &UNITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_read_and_written() {
        assert_eq!([0, 999, 1000, 2_500_000].map(bytes), ["0 B", "999 B", "1.0 kB", "2.5 MB"]);
        assert_eq!([0, 59, 3600, 200_000].map(|s| age(Duration::from_secs(s))), ["0s", "59s", "1h", "2d"]);
        assert_eq!(parse_bytes("20GB"), Ok(20_000_000_000));
        assert_eq!(parse_bytes("1 mib"), Ok(1 << 20));
        assert_eq!(parse_duration("2w"), Ok(Duration::from_secs(1_209_600)));
        for bad in ["", "5", "GB", "-1d", "1.5GB", "1x", "99999999999999999999d", "99999999TiB", "1é"] {
            assert!(parse_bytes(bad).is_err() && parse_duration(bad).is_err(), "{bad}");
        }
    }
}

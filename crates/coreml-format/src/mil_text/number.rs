//! Numbers in MIL text: C99 hexadecimal floats, decimals, `inf`, `nan`.

use std::fmt::Write;

/// Parses an integer, decimal or hexadecimal.
pub(super) fn integer(text: &str) -> Option<i128> {
    let (negative, body) = sign(text);
    let digits = body.strip_prefix("0x").or_else(|| body.strip_prefix("0X"));
    let magnitude = match digits {
        Some(hex) => i128::from_str_radix(hex, 16).ok()?,
        None => body.parse::<i128>().ok()?,
    };
    // The standard library's parsers would accept a second sign.
    if body.starts_with(['+', '-']) || digits.is_some_and(|d| d.starts_with(['+', '-'])) {
        return None;
    }
    Some(if negative { -magnitude } else { magnitude })
}

fn sign(text: &str) -> (bool, &str) {
    match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    }
}

/// Parses a floating-point number.
pub(super) fn float(text: &str) -> Option<f64> {
    let (negative, body) = sign(text);
    let magnitude = match body.strip_prefix("0x").or_else(|| body.strip_prefix("0X")) {
        Some(hex) => hexadecimal(hex)?,
        None if body.eq_ignore_ascii_case("nan") => f64::NAN,
        None if body.starts_with(['+', '-']) => return None,
        // The standard library parses decimals, `inf` and `infinity`; a C suffix is dropped.
        None if body.starts_with(|c: char| c.is_ascii_digit()) => body.trim_end_matches(['f', 'F']).parse().ok()?,
        None => body.parse().ok()?,
    };
    Some(if negative { -magnitude } else { magnitude })
}

/// `1.99ap-4` (without `0x`): digits, an optional fraction, an optional binary exponent.
fn hexadecimal(text: &str) -> Option<f64> {
    let (mantissa, exponent) = match text.split_once(['p', 'P']) {
        Some((m, e)) => (m, e.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    // Sixteen hexadecimal digits exceed the precision of a double; the rest only sets the sticky bit.
    let (mut bits, mut shift, mut sticky) = (0u64, i64::from(exponent), false);
    for (i, c) in whole.chars().chain(fraction.chars()).enumerate() {
        let digit = u64::from(c.to_digit(16)?);
        let in_fraction = i >= whole.len();
        if bits >> 60 == 0 {
            bits = bits << 4 | digit;
            shift -= if in_fraction { 4 } else { 0 };
        } else {
            sticky |= digit != 0;
            shift += if in_fraction { 0 } else { 4 };
        }
    }
    Some(scale(bits | u64::from(sticky), shift))
}

/// `bits` × 2^`shift`, rounded once to the nearest double, ties to even.
fn scale(bits: u64, shift: i64) -> f64 {
    if bits == 0 {
        return 0.0;
    }
    let top = 63 - i64::from(bits.leading_zeros());
    let exponent = top + shift;
    if exponent > 1023 {
        return f64::INFINITY;
    }
    // Bits of precision: 53 for normal numbers, fewer below 2^-1022.
    let kept = if exponent >= -1022 { 53 } else { 53 - (-1022 - exponent) };
    if kept < 0 {
        return 0.0;
    }
    let drop = top + 1 - kept;
    let rounded = if drop <= 0 {
        bits
    } else if drop > 64 {
        0
    } else {
        let (half, mask) = (1u128 << (drop - 1), (1u128 << drop) - 1);
        let (quotient, rest) = ((u128::from(bits) >> drop) as u64, u128::from(bits) & mask);
        quotient + u64::from(rest > half || (rest == half && quotient & 1 == 1))
    };
    let power = shift + drop.max(0);
    // `rounded` has at most 54 bits and is exact; splitting the power keeps each factor in range.
    let first = power.clamp(-1000, 1000);
    rounded as f64 * 2f64.powi(first as i32) * 2f64.powi((power - first) as i32)
}

/// Writes a hexadecimal float that reads back exactly.
pub(super) fn write_float(out: &mut String, value: f64) {
    if value.is_nan() {
        out.push_str("nan");
        return;
    }
    if value.is_sign_negative() {
        out.push('-');
    }
    if value.is_infinite() {
        out.push_str("inf");
        return;
    }
    let bits = value.to_bits();
    let (exponent, mantissa) = ((bits >> 52 & 0x7ff) as i32, bits & ((1 << 52) - 1));
    let (lead, power) = match (exponent, mantissa) {
        (0, 0) => (0, 0),
        (0, _) => (0, -1022),
        (e, _) => (1, e - 1023),
    };
    let _ = write!(out, "0x{lead}");
    if mantissa != 0 {
        let digits = format!("{mantissa:013x}");
        let _ = write!(out, ".{}", digits.trim_end_matches('0'));
    }
    let _ = write!(out, "p{power:+}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spellings_of_the_compiler_are_read() {
        // Values computed by hand: 0x1.99ap-4 = (1 + 0x99a/4096) / 16.
        assert_eq!(float("0x1p-1"), Some(0.5));
        assert_eq!(float("0x1.99ap-4"), Some((1.0 + 2458.0 / 4096.0) / 16.0));
        assert_eq!(float("-0x1.8p+1"), Some(-3.0));
        assert_eq!(float("1e-5"), Some(1e-5));
        assert_eq!(float("-inf"), Some(f64::NEG_INFINITY));
        assert_eq!(float("0x1p-1074"), Some(f64::from_bits(1)));
        assert_eq!(float("0x1p5000"), Some(f64::INFINITY));
        assert_eq!(float("0x1p-5000"), Some(0.0));
        assert_eq!(float("0x1.00000000000008p0"), Some(1.0), "a tie goes to even");
        assert_eq!(float("0x1.000000000000080001p0"), Some(1.0 + f64::EPSILON), "above a tie goes up");
        assert!(float("nan").is_some_and(f64::is_nan));
        for bad in ["0x", "0xp1", "0x1p", "--1", "1.2.3", "", "abc", "0xgp1"] {
            assert_eq!(float(bad), None, "{bad}");
        }
        assert_eq!(integer("-12"), Some(-12));
        assert_eq!(integer("0xff"), Some(255));
        for bad in ["--1", "0x-1", "1.0", "", "-"] {
            assert_eq!(integer(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_double_reads_back(bits in any::<u64>()) {
            let value = f64::from_bits(bits);
            let mut text = String::new();
            write_float(&mut text, value);
            let back = float(&text).expect("it is a number");
            prop_assert!(back.to_bits() == bits || (back.is_nan() && value.is_nan()), "{text}");
        }

        #[test]
        fn decimals_agree_with_the_standard_library(value in any::<f64>()) {
            prop_assume!(value.is_finite());
            prop_assert_eq!(float(&format!("{value:e}")), Some(value));
        }
    }
}

//! Numbers in texts.

/// A number as SQLite reads it: digits, a point, an exponent; nothing else around it.
pub(super) fn parse(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?;
    let looks =
        text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E'));
    // Of the rest, Rust reads what SQLite reads.
    if looks { text.parse().ok() } else { None }
}

/// Digits of a number in a text.
const DIGITS: usize = 6;

/// Appends a number with six digits, in the shorter of the two usual forms, as `%g` does.
pub(super) fn push(out: &mut String, value: f64) {
    use std::fmt::Write as _;
    if value == 0.0 {
        out.push('0');
        return;
    }
    if !value.is_finite() {
        out.push_str(match (value.is_nan(), value > 0.0) {
            (true, _) => "NaN",
            (false, true) => "Inf",
            (false, false) => "-Inf",
        });
        return;
    }
    let start = out.len();
    // Rounded first: the exponent may rise with it.
    let _ = write!(out, "{value:.*e}", DIGITS - 1);
    let scientific = out.split_off(start);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let last = i32::try_from(DIGITS).unwrap_or(i32::MAX);
    if (-4..last).contains(&exponent) {
        let decimals = usize::try_from(last - 1 - exponent).unwrap_or(0);
        let _ = write!(out, "{value:.decimals$}");
        trim(out, start);
    } else {
        out.push_str(mantissa);
        trim(out, start);
        let sign = if exponent < 0 { '-' } else { '+' };
        let _ = write!(out, "e{sign}{:02}", exponent.unsigned_abs());
    }
}

/// Removes the zeros that end a fraction.
fn trim(out: &mut String, start: usize) {
    if out[start..].contains('.') {
        let kept = out.trim_end_matches('0').trim_end_matches('.').len();
        out.truncate(kept.max(start));
    }
}

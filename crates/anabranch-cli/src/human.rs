//! Numbers, sizes, times and lists as people read them, and colours where they help.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::Duration;

use anabranch::Micros;
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// `12,345`.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 page`, `2,000 pages`.
pub(crate) fn counted(n: u64, one: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{} {one}{plural}", count(n))
}

/// `812 B`, `3.1 kB`, `10.4 MB`: decimal units, two or three significant digits.
#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if n < 1000 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1000.0;
    let mut unit = 0;
    // 999.5 would be shown as "1000".
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = usize::from(value < 99.95);
    format!("{value:.digits$} {}", UNITS[unit])
}

/// `0.8 s`, `2 min 5 s`.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// `in 2.1 s, 120 MB/s`; nothing for what took no noticeable time.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(crate) fn speed(moved: u64, time: Duration) -> String {
    if time < Duration::from_millis(500) {
        return String::new();
    }
    let rate = (moved as f64 / time.as_secs_f64()) as u64;
    format!(" in {}, {}/s", duration(time), bytes(rate))
}

/// `2026-11-23 10:00:05` in the local zone.
pub(crate) fn time(at: Micros) -> String {
    time_in(at, TimeZone::system())
}

fn time_in(at: Micros, zone: TimeZone) -> String {
    match Timestamp::from_microsecond(at.0) {
        Ok(time) => time.to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => format!("{} µs since 1970", at.0),
    }
}

/// `2026-11-23T09:00:05.123456Z`, for programs.
pub(crate) fn rfc3339(at: Micros) -> Option<String> {
    Timestamp::from_microsecond(at.0).ok().map(|time| format!("{time:.6}"))
}

/// Why the remote cannot be reached, for a line that says already that it cannot.
pub(crate) fn offline_reason(reason: &str) -> &str {
    reason.strip_prefix("offline: ").unwrap_or(reason)
}

/// Page numbers as ranges, cut after a screenful: `3, 7-9, 12 and 240 more`.
pub(crate) fn page_list(pages: &[u32]) -> String {
    const RANGES_MAX: usize = 12;
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for &page in pages {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(page) => *last = page,
            _ => ranges.push((page, page)),
        }
    }
    let mut text = String::new();
    for (i, (first, last)) in ranges.iter().take(RANGES_MAX).enumerate() {
        let separator = if i == 0 { "" } else { ", " };
        // Writing to a string cannot fail.
        let _ = match last == first {
            true => write!(text, "{separator}{first}"),
            false => write!(text, "{separator}{first}-{last}"),
        };
    }
    let rest: u64 = ranges.iter().skip(RANGES_MAX).map(|(a, b)| u64::from(b - a) + 1).sum();
    if rest > 0 {
        let _ = write!(text, " and {} more", count(rest));
    }
    text
}

/// Colours, if they are wanted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Paint {
    on: bool,
}

impl Paint {
    /// Colours for a stream that is a terminal, unless `NO_COLOR` is set or the terminal is dumb.
    pub(crate) fn for_stream(stream: &impl IsTerminal) -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
            || std::env::var_os("TERM").is_some_and(|v| v == "dumb");
        Paint { on: stream.is_terminal() && !refused }
    }

    /// Whether there are colours.
    pub(crate) fn is_on(self) -> bool {
        self.on
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Something is wrong.
    pub(crate) fn bad(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    /// Something needs a look.
    pub(crate) fn warn(self, text: &str) -> String {
        self.paint("33", text)
    }

    /// All is well.
    pub(crate) fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// What matters.
    pub(crate) fn strong(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// What matters less.
    pub(crate) fn faint(self, text: &str) -> String {
        self.paint("2", text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_sizes_read_well() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(counted(1, "page"), "1 page");
        assert_eq!(counted(0, "page"), "0 pages");
        let sizes = [0, 999, 1000, 3100, 99_949, 99_950, 999_499, 999_500, 1_073_741_824];
        let texts =
            ["0 B", "999 B", "1.0 kB", "3.1 kB", "99.9 kB", "100 kB", "999 kB", "1.0 MB", "1.1 GB"];
        assert_eq!(sizes.map(bytes), texts);
        assert!(bytes(u64::MAX).ends_with("PB"));
    }

    #[test]
    fn durations_read_well() {
        let secs = Duration::from_secs_f64;
        assert_eq!(duration(secs(0.84)), "0.8 s");
        assert_eq!(duration(secs(125.0)), "2 min 5 s");
        assert_eq!(duration(secs(7260.0)), "2 h 1 min");
        assert_eq!(speed(100, secs(0.1)), "");
        assert_eq!(speed(240_000_000, secs(2.0)), " in 2.0 s, 120 MB/s");
    }

    #[test]
    fn times_are_local_and_any_number_is_shown() {
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        assert_eq!(time_in(Micros(0), berlin.clone()), "1970-01-01 01:00:00");
        assert!(time_in(Micros(i64::MAX), berlin).contains("since 1970"));
        assert_eq!(rfc3339(Micros(1)).unwrap(), "1970-01-01T00:00:00.000001Z");
        assert_eq!(rfc3339(Micros(i64::MIN)), None);
    }

    #[test]
    fn pages_are_listed_as_ranges_and_long_lists_are_cut() {
        assert_eq!(page_list(&[]), "");
        assert_eq!(page_list(&[3, 7, 8, 9, 12]), "3, 7-9, 12");
        let scattered: Vec<u32> = (0..40).map(|n| n * 2 + 1).collect();
        assert!(page_list(&scattered).ends_with("21, 23 and 28 more"));
        assert_eq!(page_list(&[u32::MAX]), u32::MAX.to_string());
    }
}

//! Times and durations as people type them.
//!
//! Decides what `--at`, `--retain` and `--busy-timeout` mean. A time is a moment by the clock of
//! the local zone unless it says otherwise. One rule makes what `log` prints usable as it stands: a
//! clock time without a fraction means the *end* of that second, and a day means the end of that
//! day, so that the entry which `log` shows with this time is part of what is restored.

use std::time::Duration;

use anabranch::{At, Lsn, Micros};
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp, Unit, Zoned};

/// A parsed `--at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// The newest state.
    Head,
    /// A position.
    Lsn(Lsn),
    /// A moment.
    Time(Micros),
}

impl From<When> for At {
    fn from(when: When) -> At {
        match when {
            When::Head => At::Head,
            When::Lsn(lsn) => At::Lsn(lsn),
            When::Time(time) => At::Time(time),
        }
    }
}

const EXPECTED: &str = "expected a position (16 hex digits as in `anabranch log`, or a decimal \
    number) or a time such as '2026-11-23 10:00', 2026-11-23T10:00:00Z, 2026-11-22, yesterday, -2h \
    or '3 days ago'";

const EXPECTED_SINCE: &str = "expected a time such as '2026-11-23 10:00', 2026-11-23T10:00:00Z, \
    2026-11-22, yesterday, -2h or '3 days ago'";

/// Reads `--at`, by the clock and zone of this machine.
pub(crate) fn parse_at(text: &str) -> Result<When, String> {
    parse_at_from(text, &Zoned::now())
}

/// Reads `--since`: a time as for `--at`, but a clock time means the start of its second, and a day its
/// first moment.
pub(crate) fn parse_since(text: &str) -> Result<Micros, String> {
    parse_since_from(text, &Zoned::now())
}

fn parse_since_from(text: &str, now: &Zoned) -> Result<Micros, String> {
    match parse_at_from(text, now)? {
        When::Time(end) => Ok(start_of(text, end, now)),
        _ => Err(EXPECTED_SINCE.to_owned()),
    }
}

/// Where the second, or the day, begins that ends with `end`.
fn start_of(text: &str, end: Micros, now: &Zoned) -> Micros {
    let text = text.trim();
    let day = matches!(text.to_ascii_lowercase().as_str(), "today" | "yesterday")
        || (text.len() <= "2026-11-22".len() && text.parse::<Date>().is_ok());
    let moment = Timestamp::from_microsecond(end.0).ok();
    let start = match moment {
        Some(moment) if day => {
            let day = moment.to_zoned(now.time_zone().clone()).start_of_day();
            day.ok().map(|start| start.timestamp().as_microsecond())
        }
        // The last microsecond of a second stands for all of it.
        Some(_) if end.0.rem_euclid(1_000_000) == 999_999 => Some(end.0 - 999_999),
        _ => None,
    };
    Micros(start.unwrap_or(end.0))
}

fn parse_at_from(text: &str, now: &Zoned) -> Result<When, String> {
    let text = text.trim();
    let lower = text.to_ascii_lowercase();
    if matches!(lower.as_str(), "head" | "now" | "newest") {
        return Ok(When::Head);
    }
    if let Ok(lsn) = text.parse::<Lsn>() {
        return Ok(When::Lsn(lsn));
    }
    let moment = day_name(&lower, now)
        .or_else(|| absolute(text, now))
        .unwrap_or_else(|| relative(&lower, now))?;
    Ok(When::Time(Micros(moment.as_microsecond())))
}

type Moment = Option<Result<Timestamp, String>>;

fn day_name(text: &str, now: &Zoned) -> Moment {
    let back = match text {
        "today" => 0,
        "yesterday" => 1,
        _ => return None,
    };
    let day = now.date().checked_sub(Span::new().days(back)).map_err(|e| e.to_string());
    Some(day.and_then(|day| end_of_day(day, now.time_zone())))
}

fn end_of_day(day: Date, zone: &TimeZone) -> Result<Timestamp, String> {
    let end = day.tomorrow().and_then(|next| next.to_zoned(zone.clone()));
    let end = end.map_err(|e| e.to_string())?.timestamp();
    end.checked_sub(SignedDuration::from_micros(1)).map_err(|e| e.to_string())
}

/// The last microsecond of the second that `time` begins, unless it has a fraction.
fn end_of_second(time: Timestamp) -> Result<Timestamp, String> {
    if time.subsec_nanosecond() != 0 {
        return Ok(time);
    }
    time.checked_add(SignedDuration::from_micros(999_999)).map_err(|e| e.to_string())
}

fn absolute(text: &str, now: &Zoned) -> Moment {
    if let Ok(zoned) = text.parse::<Zoned>() {
        return Some(end_of_second(zoned.timestamp()));
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(end_of_second(time));
    }
    let local = |at: DateTime| {
        let zoned = at.to_zoned(now.time_zone().clone()).map_err(|e| e.to_string())?;
        end_of_second(zoned.timestamp())
    };
    // A date alone would also parse as midnight.
    if text.len() <= "2026-11-22".len()
        && let Ok(day) = text.parse::<Date>()
    {
        return Some(end_of_day(day, now.time_zone()));
    }
    if let Ok(at) = text.parse::<DateTime>() {
        return Some(local(at));
    }
    if text.contains(':')
        && let Ok(time) = text.parse::<Time>()
    {
        return Some(local(now.date().to_datetime(time)));
    }
    None
}

fn relative(text: &str, now: &Zoned) -> Result<Timestamp, String> {
    let span: Span = text.parse().map_err(|_| EXPECTED.to_owned())?;
    if span.is_positive() {
        return Err(format!(
            "that lies in the future; for the past, write '-{text}' or '{text} ago'"
        ));
    }
    let then = now.checked_add(span).map_err(|e| e.to_string())?;
    Ok(then.timestamp())
}

/// Reads a length of time: `30d`, `5s`, `500ms`, `2 weeks`; a bare number is seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let expected = "expected a length of time such as 500ms, 5s, 2h, 30d or '2 weeks'";
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|_| expected.to_owned());
    }
    let span: Span = text.parse().map_err(|_| expected.to_owned())?;
    if span.get_months() != 0 || span.get_years() != 0 {
        return Err(format!("months and years differ in length: {expected}"));
    }
    let seconds = span
        .total((Unit::Second, SpanRelativeTo::days_are_24_hours()))
        .map_err(|e| e.to_string())?;
    Duration::try_from_secs_f64(seconds).map_err(|_| expected.to_owned())
}

/// SQLite counts the milliseconds in a signed number of 32 bits.
const BUSY_TIMEOUT_MAX: Duration = Duration::from_millis(i32::MAX as u64);

/// Reads `--busy-timeout`.
pub(crate) fn parse_busy_timeout(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        timeout if timeout > BUSY_TIMEOUT_MAX => Err("SQLite waits at most 24 days".to_owned()),
        timeout => Ok(timeout),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Result<When, String> {
        let now: Zoned = "2026-11-23T15:30:00+01:00[Europe/Berlin]".parse().unwrap();
        parse_at_from(text, &now)
    }

    fn moment(text: &str) -> When {
        When::Time(Micros(text.parse::<Timestamp>().unwrap().as_microsecond()))
    }

    #[test]
    fn positions_are_read_in_both_forms() {
        assert_eq!(at("00000000000004d2"), Ok(When::Lsn(Lsn::new(1234))));
        assert_eq!(at("1234"), Ok(When::Lsn(Lsn::new(1234))));
        assert_eq!(at("HEAD"), Ok(When::Head));
    }

    #[test]
    fn a_clock_time_takes_in_its_whole_second_and_a_day_the_whole_day() {
        let second = moment("2026-11-23T09:00:00.999999Z");
        for text in [
            "2026-11-23 10:00",
            "2026-11-23T10:00:00",
            "2026-11-23T09:00:00Z",
            "2026-11-23T11:00:00+02:00",
            "2026-11-23T10:00[Europe/Berlin]",
            "10:00",
        ] {
            assert_eq!(at(text), Ok(second), "{text}");
        }
        assert_eq!(at("2026-11-23 10:00:00.25"), Ok(moment("2026-11-23T09:00:00.25Z")));
        let night = moment("2026-11-22T22:59:59.999999Z");
        assert_eq!(at("yesterday"), Ok(night));
        assert_eq!(at("2026-11-22"), Ok(night));
    }

    #[test]
    fn since_begins_where_a_second_or_a_day_does() {
        let now: Zoned = "2026-11-23T15:30:00+01:00[Europe/Berlin]".parse().unwrap();
        let since = |text: &str| {
            parse_since_from(text, &now)
                .map(|since| Timestamp::from_microsecond(since.0).unwrap().to_string())
        };
        assert_eq!(since("2026-11-23 10:00").unwrap(), "2026-11-23T09:00:00Z");
        assert_eq!(since("yesterday").unwrap(), "2026-11-21T23:00:00Z");
        assert_eq!(since("2026-11-22").unwrap(), "2026-11-21T23:00:00Z");
        assert_eq!(since("-2h").unwrap(), "2026-11-23T12:30:00Z");
        assert!(since("00000000000004d2").is_err() && since("now").is_err());
    }

    #[test]
    fn a_span_leads_back_from_now() {
        for text in ["-2h", "2h ago", "2 hours ago", "-120 minutes"] {
            assert_eq!(at(text), Ok(moment("2026-11-23T12:30:00Z")), "{text}");
        }
        assert_eq!(at("3 days ago"), Ok(moment("2026-11-20T14:30:00Z")));
        // Across the end of summer time a day has 25 hours.
        assert_eq!(at("30 days ago"), Ok(moment("2026-10-24T13:30:00Z")));
        assert!(at("2h").unwrap_err().contains("-2h"));
    }

    #[test]
    fn nonsense_is_answered_with_what_would_be_understood() {
        for text in ["", "teatime", "2026-13-01", "-", "12x"] {
            assert!(at(text).unwrap_err().contains("yesterday"), "{text}");
        }
    }

    #[test]
    fn durations_read_as_written() {
        for (text, ms) in [
            ("30d", 2_592_000_000),
            ("5s", 5000),
            ("500ms", 500),
            ("1.5", 1500),
            ("2 weeks", 1_209_600_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "-5s", "-1", "1 month", "soon"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}

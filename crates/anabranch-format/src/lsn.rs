//! Positions in the log.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A position in the log of one database: the number of frames up to and including a given frame.
///
/// `Lsn::ZERO` is the empty database. Printed as 16 lower-case hex digits, the form used in object
/// names, so that text order is log order. All steps are checked: an `Lsn` may come from outside.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lsn(u64);

impl Lsn {
    /// The empty database, before the first frame.
    pub const ZERO: Lsn = Lsn(0);
    /// Greater than any position of a log; stands for "never" (the floor of a deleted database).
    pub const MAX: Lsn = Lsn(u64::MAX);

    /// The position after `frames` frames.
    #[must_use]
    pub const fn new(frames: u64) -> Self {
        Lsn(frames)
    }

    /// The number of frames up to this position.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The position `frames` further on, or `None` past the end of the number range.
    #[must_use]
    pub fn checked_add(self, frames: u64) -> Option<Self> {
        self.0.checked_add(frames).map(Lsn)
    }

    /// The number of the next frame: where a segment that follows this position begins.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        self.checked_add(1)
    }

    /// How many frames lie after `earlier`, up to and including this position.
    #[must_use]
    pub fn frames_since(self, earlier: Lsn) -> Option<u64> {
        self.0.checked_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lsn({})", self.0)
    }
}

/// The text is not an Lsn.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an Lsn: expected 16 lower-case hex digits, or a decimal number")]
pub struct ParseLsnError(String);

impl FromStr for Lsn {
    type Err = ParseLsnError;

    /// Reads the 16-digit hex form of object names, or a shorter decimal number as people type it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseLsnError(text.chars().take(40).collect());
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == 16 && text.bytes().all(hex) {
            return u64::from_str_radix(text, 16).map(Lsn).map_err(|_| bad());
        }
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        text.parse().map(Lsn).map_err(|_| bad())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_order_is_log_order_and_reads_back() {
        let all = [0, 1, 9, 10, 255, 1 << 40, u64::MAX].map(Lsn::new);
        for pair in all.windows(2) {
            assert!(pair[0].to_string() < pair[1].to_string());
        }
        for lsn in all {
            assert_eq!(lsn.to_string().parse::<Lsn>().unwrap(), lsn);
        }
        assert_eq!("1234".parse::<Lsn>().unwrap(), Lsn::new(1234));
        for bad in ["", "-1", "12x", "00000000000000FF", "99999999999999999999"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }

    #[test]
    fn steps_past_the_end_are_refused() {
        assert_eq!(Lsn::MAX.next(), None);
        assert_eq!(Lsn::new(5).frames_since(Lsn::new(6)), None);
        assert_eq!(Lsn::new(6).frames_since(Lsn::new(5)), Some(1));
    }
}

//! Fresh ids, and the time, for those who append. A log itself draws nothing and looks at no clock.

use std::time::{SystemTime, UNIX_EPOCH};

use anabranch_format::{DatabaseId, Micros, PushId, WriterId};

/// `count` random hex digits, 20 at most: all bits of 15 are random, 62 of those of 16, 74 of those
/// of 20.
///
/// # Panics
/// If `count` is more than 20.
#[must_use]
pub fn digits(count: usize) -> String {
    assert!(count <= 20, "there are no more than 20");
    let mut text = uuid::Uuid::new_v4().simple().to_string();
    text.split_off(text.len() - count)
}

/// 12 random hex digits, 48 bits: compared only with who stands at one place of one log. The
/// smallest pushes are hardly larger than their metadata, so ids are no longer than they need be.
#[must_use]
pub fn push_id() -> PushId {
    digits(12).parse().expect("hex digits are an id")
}

/// 15 random hex digits, 60 bits: tells the replicas of one database apart.
#[must_use]
pub fn writer_id() -> WriterId {
    digits(15).parse().expect("hex digits are an id")
}

/// 20 hex digits, 74 bits of them random: tells databases apart everywhere.
#[must_use]
pub fn database_id() -> DatabaseId {
    digits(20).parse().expect("hex digits are an id")
}

/// Now.
#[must_use]
pub fn now() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_their_lengths_and_are_fresh() {
        assert_eq!(push_id().as_str().len(), 12);
        assert_eq!(writer_id().as_str().len(), 15);
        assert_eq!(database_id().as_str().len(), 20);
        assert_ne!(push_id(), push_id());
        assert!(now() > Micros(0));
    }
}

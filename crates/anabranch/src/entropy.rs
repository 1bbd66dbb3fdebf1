//! Where fresh ids, seeds and the time come from.

use std::time::{SystemTime, UNIX_EPOCH};

use anabranch_format::{DatabaseId, Micros, PushId, WriterId};

fn hex(digits: usize) -> String {
    let mut text = uuid::Uuid::new_v4().simple().to_string();
    // The last digits of a version 4 UUID are all random.
    text.split_off(text.len() - digits.min(text.len()))
}

/// 12 random hex digits, 48 bits: compared only with who stands at one place of one log. The
/// smallest pushes are hardly larger than their metadata, so ids are no longer than they need be.
pub(crate) fn push_id() -> PushId {
    hex(12).parse().expect("hex digits are an id")
}

/// 15 random hex digits, 60 bits: tells the replicas of one database apart.
pub(crate) fn writer_id() -> WriterId {
    hex(15).parse().expect("hex digits are an id")
}

/// 20 hex digits of a version 4 UUID, more than 72 bits of them random: tells databases apart
/// everywhere.
pub(crate) fn database_id() -> DatabaseId {
    hex(20).parse().expect("hex digits are an id")
}

/// A random seed for keyed checksums.
pub(crate) fn seed() -> u64 {
    let bytes = uuid::Uuid::new_v4().into_bytes();
    let other = uuid::Uuid::new_v4().into_bytes();
    // Some bits of each UUID are fixed; the XOR of opposite halves of two has none that is.
    let half = |b: &[u8]| b.iter().fold(0u64, |n, &byte| n << 8 | u64::from(byte));
    half(&bytes[8..]) ^ half(&other[..8]).rotate_left(29)
}

/// A random schema cookie.
pub(crate) fn cookie() -> u32 {
    let seed = seed().to_le_bytes();
    u32::from_le_bytes([seed[0], seed[3], seed[5], seed[7]])
}

/// Now.
pub(crate) fn now() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

//! Where fresh ids, seeds and the time come from.

use std::time::{SystemTime, UNIX_EPOCH};

use anabranch_format::{DatabaseId, Micros, PushId, WriterId};

fn hex(digits: usize) -> String {
    let mut text = uuid::Uuid::new_v4().simple().to_string();
    // The last digits of a version 4 UUID are all random.
    text.split_off(text.len() - digits.min(text.len()))
}

/// 15 random hex digits: compared only with the pushes at one place of one log.
pub(crate) fn push_id() -> PushId {
    hex(15).parse().expect("hex digits are an id")
}

/// 15 random hex digits.
pub(crate) fn writer_id() -> WriterId {
    hex(15).parse().expect("hex digits are an id")
}

/// A version 4 UUID without dashes.
pub(crate) fn database_id() -> DatabaseId {
    uuid::Uuid::new_v4().simple().to_string().parse().expect("hex digits are an id")
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

//! Where fresh ids, seeds and the time come from.

pub(crate) use anabranch_store::fresh::{database_id, now, push_id, writer_id};

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

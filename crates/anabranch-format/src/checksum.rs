//! Page checksums and the rolling database checksum.
//!
//! A page checksum is XXH3-64 of the page, seeded with its number, with the local fields of page 1
//! read as zeros. The database checksum is the XOR of all of them, so that a changed page updates it
//! without a look at the others. It finds accidents, not malice: who can choose page contents can
//! craft collisions. A replica therefore keeps a second, keyed checksum per page for itself.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

use crate::page::{DB_HEADER_BYTES, LOCAL_FIELDS, Pgno};

/// Checksum of one page, the same on every replica.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PageChecksum(pub u64);

impl PageChecksum {
    /// The checksum of page `pgno` with content `page`.
    #[must_use]
    pub fn of(pgno: Pgno, page: &[u8]) -> Self {
        PageChecksum(hash(u64::from(pgno.get()), pgno, page))
    }
}

/// Checksum of one page under the secret seed of one replica: a change that was crafted to leave
/// [`PageChecksum`] equal is still seen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct KeyedChecksum(pub u64);

impl KeyedChecksum {
    /// The checksum of page `pgno` with content `page`, under the replica's `seed`.
    #[must_use]
    pub fn of(seed: u64, pgno: Pgno, page: &[u8]) -> Self {
        // The odd multiplier spreads neighbouring page numbers over the seed's bits.
        let seed = seed ^ u64::from(pgno.get()).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        KeyedChecksum(hash(seed, pgno, page))
    }
}

fn hash(seed: u64, pgno: Pgno, page: &[u8]) -> u64 {
    if pgno != Pgno::ONE || page.len() < DB_HEADER_BYTES {
        return xxh3_64_with_seed(page, seed);
    }
    let (header, rest) = page.split_at(DB_HEADER_BYTES);
    let mut masked = [0u8; DB_HEADER_BYTES];
    masked.copy_from_slice(header);
    for field in LOCAL_FIELDS {
        masked[field].fill(0);
    }
    let mut hasher = Xxh3::with_seed(seed);
    hasher.update(&masked);
    hasher.update(rest);
    hasher.digest()
}

/// XXH3-64 of any bytes: guards what is kept outside pages, such as rows of a sidecar.
#[must_use]
pub fn content_hash(bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, 0)
}

/// XOR of the checksums of all pages of a database (lock page aside). The empty database has 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct DbChecksum(pub u64);

impl DbChecksum {
    /// The checksum of the empty database.
    pub const EMPTY: DbChecksum = DbChecksum(0);

    /// Adds a page that was not counted, or takes out one that was: the two are the same step.
    pub fn toggle(&mut self, page: PageChecksum) {
        self.0 ^= page.0;
    }
}

impl fmt::Display for DbChecksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for DbChecksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DbChecksum({self})")
    }
}

/// The text is not a checksum.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a checksum of 16 lower-case hex digits")]
pub struct ParseChecksumError;

impl FromStr for DbChecksum {
    type Err = ParseChecksumError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() != 16 || !text.bytes().all(hex) {
            return Err(ParseChecksumError);
        }
        u64::from_str_radix(text, 16).map(DbChecksum).map_err(|_| ParseChecksumError)
    }
}

impl Serialize for DbChecksum {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DbChecksum {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pgno(n: u32) -> Pgno {
        Pgno::new(n).unwrap()
    }

    #[test]
    fn local_fields_of_page_one_do_not_count_and_all_else_does() {
        let page = vec![7u8; 512];
        let base = PageChecksum::of(pgno(1), &page);
        for at in 0..512 {
            let mut other = page.clone();
            other[at] ^= 1;
            let local = LOCAL_FIELDS.iter().any(|f| f.contains(&at));
            assert_eq!(PageChecksum::of(pgno(1), &other) == base, local, "byte {at}");
            assert_ne!(PageChecksum::of(pgno(2), &other), PageChecksum::of(pgno(2), &page));
        }
    }

    #[test]
    fn the_same_content_on_another_page_has_another_checksum() {
        let page = vec![0u8; 512];
        assert_ne!(PageChecksum::of(pgno(2), &page), PageChecksum::of(pgno(3), &page));
        assert_ne!(KeyedChecksum::of(1, pgno(2), &page), KeyedChecksum::of(2, pgno(2), &page));
    }

    #[test]
    fn toggling_twice_is_nothing() {
        let mut sum = DbChecksum::EMPTY;
        sum.toggle(PageChecksum(5));
        sum.toggle(PageChecksum(9));
        sum.toggle(PageChecksum(5));
        assert_eq!(sum, DbChecksum(9));
        assert_eq!(sum.to_string().parse::<DbChecksum>().unwrap(), sum);
    }
}

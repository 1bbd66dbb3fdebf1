//! Pages of a SQLite file: numbers, sizes, the lock page and the header on page 1.
//!
//! Facts about the file format: <https://www.sqlite.org/fileformat2.html>, sections 1.3 and 1.3.1.

use std::fmt;
use std::num::NonZeroU32;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Number of a page in a SQLite file, from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pgno(NonZeroU32);

impl Pgno {
    /// Page 1, which begins with the database header.
    pub const ONE: Pgno = Pgno(NonZeroU32::MIN);

    /// The page with this number; `None` for 0, which is no page.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(n) => Some(Pgno(n)),
            None => None,
        }
    }

    /// The number, from 1.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for Pgno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Pgno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pgno({})", self.0)
    }
}

/// Size of a page in bytes: a power of two from 512 to 65536.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct PageSize(u32);

/// The number is not a page size of SQLite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a page size of SQLite: expected a power of two from 512 to 65536")]
pub struct InvalidPageSize(pub u32);

impl PageSize {
    /// The smallest page size of SQLite.
    pub const MIN: PageSize = PageSize(512);
    /// SQLite's default page size.
    pub const DEFAULT: PageSize = PageSize(4096);
    /// The largest page size of SQLite.
    pub const MAX: PageSize = PageSize(65536);

    /// Checks that `bytes` is a page size of SQLite.
    pub const fn new(bytes: u32) -> Result<Self, InvalidPageSize> {
        if bytes.is_power_of_two() && bytes >= 512 && bytes <= 65536 {
            Ok(PageSize(bytes))
        } else {
            Err(InvalidPageSize(bytes))
        }
    }

    /// The size in bytes.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The size in bytes, as a length in memory.
    #[must_use]
    pub const fn bytes(self) -> usize {
        self.0 as usize
    }

    /// The page that holds byte 2^30, which SQLite uses for file locks only and never for content.
    /// It is never stored, sent or hashed.
    #[must_use]
    pub const fn lock_page(self) -> Pgno {
        match Pgno::new((1 << 30) / self.0 + 1) {
            Some(pgno) => pgno,
            None => unreachable!(),
        }
    }

    /// How many pages of a database of `db_size` pages carry content: all but the lock page.
    #[must_use]
    pub fn content_pages(self, db_size: u32) -> u32 {
        if db_size >= self.lock_page().get() { db_size - 1 } else { db_size }
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageSize({})", self.0)
    }
}

impl TryFrom<u32> for PageSize {
    type Error = InvalidPageSize;

    fn try_from(bytes: u32) -> Result<Self, Self::Error> {
        PageSize::new(bytes)
    }
}

impl From<PageSize> for u32 {
    fn from(size: PageSize) -> u32 {
        size.0
    }
}

/// Length of the database header at the start of page 1.
pub const DB_HEADER_BYTES: usize = 100;

/// The text every SQLite file begins with.
pub const SQLITE_MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// The parts of page 1 that belong to one copy of the file and not to the database: the journal
/// mode (18..20), the change counter (24..28), the schema cookie (40..44), the counter and SQLite
/// version of the last writer (92..100). Left out of checksums and comparisons; SQLite itself
/// rewrites most of them at each commit that contains page 1.
pub const LOCAL_FIELDS: [Range<usize>; 4] = [18..20, 24..28, 40..44, 92..100];

/// The version number that canonical page images carry in bytes 96..100: that of SQLite 3.54.1.
/// Readers trust the size in the header only if bytes 24..28 and 92..96 are equal; the version
/// itself is informative.
const CANONICAL_VERSION: u32 = 3_054_001;

/// Why a page is not the first page of a database that can be kept in step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PageOneError {
    /// The page is shorter than the header.
    #[error("page 1 has {0} bytes, fewer than the 100 of a database header")]
    Short(usize),
    /// Not SQLite's magic.
    #[error("page 1 does not begin with the text of a SQLite database")]
    NotSqlite,
    /// A page size that SQLite does not know.
    #[error("page 1 states a page size of {0}")]
    PageSize(u32),
}

/// The fields of the database header that Anabranch reads, all in SQLite's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageOne {
    /// Page size (bytes 16..18; the stored 1 means 65536).
    pub page_size: PageSize,
    /// Write version (byte 18): 2 in a WAL database, 1 in a rollback-journal one.
    pub write_version: u8,
    /// Read version (byte 19): 2 in a WAL database, 1 in a rollback-journal one.
    pub read_version: u8,
    /// Bytes reserved at the end of each page (byte 20).
    pub reserved: u8,
    /// Change counter (24..28). Grows only with commits that contain page 1.
    pub change_counter: u32,
    /// Size in pages (28..32); trustworthy only if `change_counter == version_valid_for`.
    pub db_size: u32,
    /// Schema cookie (40..44): connections read the schema anew when it differs from theirs.
    pub schema_cookie: u32,
    /// The change counter for which the version number and the size are valid (92..96).
    pub version_valid_for: u32,
}

impl PageOne {
    /// Reads the header from the start of page 1.
    pub fn read(page: &[u8]) -> Result<Self, PageOneError> {
        let header: &[u8; DB_HEADER_BYTES] =
            page.first_chunk().ok_or(PageOneError::Short(page.len()))?;
        if !header.starts_with(SQLITE_MAGIC) {
            return Err(PageOneError::NotSqlite);
        }
        let stored = u32::from(u16::from_be_bytes([header[16], header[17]]));
        let bytes = if stored == 1 { 65536 } else { stored };
        let u32_at = |at: usize| {
            u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        Ok(PageOne {
            page_size: PageSize::new(bytes).map_err(|e| PageOneError::PageSize(e.0))?,
            write_version: header[18],
            read_version: header[19],
            reserved: header[20],
            change_counter: u32_at(24),
            db_size: u32_at(28),
            schema_cookie: u32_at(40),
            version_valid_for: u32_at(92),
        })
    }
}

/// Brings a copy of page 1 into the one form that the log holds: WAL mode, counters equal (so that
/// the size in the header counts), the size itself, and the log's own schema `cookie`.
///
/// # Panics
/// If `page` is shorter than the database header.
pub fn canonicalise_page_one(page: &mut [u8], cookie: u32, db_size: u32) {
    page[18..20].fill(2);
    page[24..28].copy_from_slice(&1u32.to_be_bytes());
    page[28..32].copy_from_slice(&db_size.to_be_bytes());
    page[40..44].copy_from_slice(&cookie.to_be_bytes());
    page[92..96].copy_from_slice(&1u32.to_be_bytes());
    page[96..100].copy_from_slice(&CANONICAL_VERSION.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_page_holds_byte_two_to_the_thirty() {
        for shift in 9..=16 {
            let size = PageSize::new(1 << shift).unwrap();
            let first = u64::from(size.lock_page().get() - 1) * u64::from(size.get());
            assert!(first <= 1 << 30 && (1 << 30) < first + u64::from(size.get()));
            assert_eq!(size.content_pages(size.lock_page().get()), size.lock_page().get() - 1);
            assert_eq!(size.content_pages(7), 7);
        }
        assert_eq!(PageSize::DEFAULT.lock_page().get(), 262_145);
    }

    #[test]
    fn only_sqlite_page_sizes_pass() {
        for bad in [0, 1, 256, 511, 1000, 131_072] {
            assert!(PageSize::new(bad).is_err());
        }
        assert!(PageSize::new(65536).is_ok());
    }

    #[test]
    fn page_one_is_read_and_refused() {
        let mut page = vec![0u8; 512];
        assert_eq!(PageOne::read(&page), Err(PageOneError::NotSqlite));
        page[..16].copy_from_slice(SQLITE_MAGIC);
        assert_eq!(PageOne::read(&page), Err(PageOneError::PageSize(0)));
        page[16..18].copy_from_slice(&[0, 1]);
        assert_eq!(PageOne::read(&page).unwrap().page_size, PageSize::MAX);
        canonicalise_page_one(&mut page, 77, 12);
        let one = PageOne::read(&page).unwrap();
        assert_eq!((one.schema_cookie, one.db_size, one.write_version), (77, 12, 2));
        assert_eq!(one.change_counter, one.version_valid_for);
        assert_eq!(PageOne::read(&page[..99]), Err(PageOneError::Short(99)));
    }
}

//! The base map: what each page was when file and remote were last in step.
//!
//! Decides nothing; it answers "is this page still as in the base?" and moves on when told so. It
//! lives in two tables of the caller's database (the sidecar):
//!
//! | table | row |
//! |---|---|
//! | `base` | 512 pages: per page its shared and its keyed checksum, 16 bytes |
//! | `staged` | up to 512 pages that an intent will change: number and both checksums, 20 bytes |
//!
//! The shared checksum is needed to keep the database checksum rolling, the keyed one (under the
//! replica's secret seed) to compare, so that a page crafted to keep its shared checksum is seen.
//!
//! It owns no transaction: callers wrap [`BaseMap::settle`] and what else must happen with it into
//! one of theirs. Only touched chunks are read, a few are kept in memory.
//!
//! Each row ends with a checksum under the seed: a damaged sidecar is an error, never "local changes".

use std::cell::RefCell;

use anabranch_format::{DbChecksum, KeyedChecksum, PageChecksum, PageSet, PageSize, Pgno};
use rusqlite::{Connection, OptionalExtension, params};

use crate::error::BaseError;

/// Pages per row of `base`, and at most per row of `staged`.
const CHUNK_PAGES: u32 = 512;
const ENTRY_BYTES: usize = 16;
const STAGED_BYTES: usize = 4 + ENTRY_BYTES;
const ROW_SUM_BYTES: usize = 8;
/// Chunks kept in memory. Captures and settles walk upwards, so that two would nearly do.
const CACHED_CHUNKS: usize = 8;

/// Both checksums of one page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageEntry {
    /// The same on every replica; rolls into the database checksum.
    pub shared: PageChecksum,
    /// Under this replica's seed; what pages are compared by.
    pub keyed: KeyedChecksum,
}

impl PageEntry {
    fn encode(self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..8].copy_from_slice(&self.shared.0.to_be_bytes());
        bytes[8..].copy_from_slice(&self.keyed.0.to_be_bytes());
        bytes
    }

    /// All zeros stand for "no entry": the lock page, and pages that were never settled.
    fn decode(bytes: &[u8; ENTRY_BYTES]) -> Option<Self> {
        let word = u128::from_be_bytes(*bytes);
        let [shared, keyed] = [word >> 64, word & u128::from(u64::MAX)]
            .map(|half| u64::try_from(half).expect("half of 128 bits"));
        (word != 0)
            .then_some(PageEntry { shared: PageChecksum(shared), keyed: KeyedChecksum(keyed) })
    }
}

/// Makes entries of pages under one replica's seed; may move to another thread.
#[derive(Clone, Copy)]
pub struct PageHasher {
    seed: u64,
}

impl std::fmt::Debug for PageHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The seed is a secret.
        f.debug_struct("PageHasher").finish_non_exhaustive()
    }
}

impl PageHasher {
    /// Hashes under `seed`; any will do where no base map is made.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        PageHasher { seed }
    }

    /// The entry of a page with content `page`.
    #[must_use]
    pub fn entry(&self, pgno: Pgno, page: &[u8]) -> PageEntry {
        PageEntry {
            shared: PageChecksum::of(pgno, page),
            keyed: KeyedChecksum::of(self.seed, pgno, page),
        }
    }
}

/// The base map over the sidecar's connection.
pub struct BaseMap<'c> {
    conn: &'c Connection,
    seed: u64,
    page_size: PageSize,
    /// Entries of chunks, the last used first.
    cache: RefCell<Vec<(u32, Vec<u8>)>>,
}

impl std::fmt::Debug for BaseMap<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The seed is a secret.
        f.debug_struct("BaseMap").field("page_size", &self.page_size).finish_non_exhaustive()
    }
}

fn chunk_of(pgno: u32) -> u32 {
    (pgno - 1) / CHUNK_PAGES
}

fn slot_of(pgno: u32) -> usize {
    ((pgno - 1) % CHUNK_PAGES) as usize * ENTRY_BYTES
}

impl<'c> BaseMap<'c> {
    /// The map in the tables of `conn`, for a replica with this `seed` and page size.
    #[must_use]
    pub fn new(conn: &'c Connection, seed: u64, page_size: PageSize) -> Self {
        BaseMap { conn, seed, page_size, cache: RefCell::new(Vec::new()) }
    }

    /// Creates the tables where they are missing.
    pub fn create_tables(conn: &Connection) -> Result<(), BaseError> {
        Ok(conn.execute_batch(
            "CREATE TABLE IF NOT EXISTS base(chunk INTEGER PRIMARY KEY, entries BLOB NOT NULL);
             CREATE TABLE IF NOT EXISTS staged(
                 intent INTEGER NOT NULL, first INTEGER NOT NULL, entries BLOB NOT NULL,
                 PRIMARY KEY(intent, first));",
        )?)
    }

    /// The entry of a page with content `page`.
    #[must_use]
    pub fn entry(&self, pgno: Pgno, page: &[u8]) -> PageEntry {
        self.hasher().entry(pgno, page)
    }

    /// What makes this map's entries.
    #[must_use]
    pub fn hasher(&self) -> PageHasher {
        PageHasher { seed: self.seed }
    }

    pub(crate) fn keyed(&self, pgno: Pgno, page: &[u8]) -> KeyedChecksum {
        KeyedChecksum::of(self.seed, pgno, page)
    }

    /// What the page was in the base; `None` if it was not there.
    pub fn get(&self, pgno: Pgno) -> Result<Option<PageEntry>, BaseError> {
        let chunk = chunk_of(pgno.get());
        let mut cache = self.cache.borrow_mut();
        match cache.iter().position(|(at, _)| *at == chunk) {
            Some(0) => {}
            Some(at) => cache[..=at].rotate_right(1),
            None => {
                let entries = self.load(chunk)?;
                cache.truncate(CACHED_CHUNKS - 1);
                cache.insert(0, (chunk, entries));
            }
        }
        let slot = slot_of(pgno.get());
        Ok(cache[0].1.get(slot..).and_then(|rest| rest.first_chunk()).and_then(PageEntry::decode))
    }

    /// The database checksum of the base, computed from every page: for checks, not for each sync.
    pub fn checksum(&self, size: u32) -> Result<DbChecksum, BaseError> {
        let mut sum = DbChecksum::EMPTY;
        for pgno in (1..=size).filter_map(Pgno::new) {
            if let Some(entry) = self.get(pgno)? {
                sum.toggle(entry.shared);
            }
        }
        Ok(sum)
    }

    /// Starts to note what pages an intent will leave behind.
    pub fn stage(&self, intent: i64) -> Staging<'_, 'c> {
        Staging { map: self, intent, row: Vec::new(), first: 0, last: None, pages: 0 }
    }

    /// The staged pages of an intent, ascending.
    #[must_use]
    pub fn staged(&self, intent: i64) -> Staged<'_, 'c> {
        Staged { map: self, intent, row: Vec::new(), at: 0, after: 0 }
    }

    /// What an intent will make of a page; `None` if it does not touch it.
    pub fn staged_page(&self, intent: i64, pgno: Pgno) -> Result<Option<PageEntry>, BaseError> {
        let found = self
            .conn
            .prepare_cached(
                "SELECT first, entries FROM staged
                 WHERE intent = ?1 AND first <= ?2 ORDER BY first DESC LIMIT 1",
            )?
            .query_row(params![intent, pgno.get()], |r| Ok((r.get(0)?, r.get(1)?)))
            .optional()?;
        let Some((first, row)) = found else { return Ok(None) };
        let row = self.unseal_staged(intent, first, row)?;
        let (records, _) = row.as_chunks::<STAGED_BYTES>();
        Ok(records
            .binary_search_by_key(&pgno.get(), record_pgno)
            .ok()
            .and_then(|at| decode_record(&records[at]))
            .map(|(_, entry)| entry))
    }

    /// The numbers of the staged pages of an intent.
    pub fn staged_pages(&self, intent: i64) -> Result<PageSet, BaseError> {
        let mut pages = PageSet::new(0);
        for staged in self.staged(intent) {
            let (pgno, _) = staged?;
            pages.grow(pgno.get());
            pages.insert(pgno);
        }
        Ok(pages)
    }

    /// Forgets the staged pages of an intent.
    pub fn drop_staged(&self, intent: i64) -> Result<(), BaseError> {
        self.conn.prepare_cached("DELETE FROM staged WHERE intent = ?1")?.execute([intent])?;
        Ok(())
    }

    /// The database checksum after an intent, given the base's checksum and size and the size after.
    pub fn checksum_after(
        &self,
        intent: i64,
        before: DbChecksum,
        size_before: u32,
        size_after: u32,
    ) -> Result<DbChecksum, BaseError> {
        let mut sum = before;
        let toggle_base = |sum: &mut DbChecksum, pgno: Pgno| -> Result<(), BaseError> {
            if pgno.get() <= size_before
                && let Some(old) = self.get(pgno)?
            {
                sum.toggle(old.shared);
            }
            Ok(())
        };
        for staged in self.staged(intent) {
            let (pgno, entry) = staged?;
            toggle_base(&mut sum, pgno)?;
            sum.toggle(entry.shared);
        }
        for pgno in (size_after.saturating_add(1)..=size_before).filter_map(Pgno::new) {
            toggle_base(&mut sum, pgno)?;
        }
        Ok(sum)
    }

    /// Makes what an intent staged the base, for a database of `size_after` pages, and forgets it as
    /// staged. The caller's transaction makes this one step with whatever else settles.
    pub fn settle(&self, intent: i64, size_after: u32) -> Result<(), BaseError> {
        self.cache.borrow_mut().clear();
        let mut open: Option<(u32, Vec<u8>)> = None;
        for staged in self.staged(intent) {
            let (pgno, entry) = staged?;
            let chunk = chunk_of(pgno.get());
            if open.as_ref().is_none_or(|(at, _)| *at != chunk) {
                if let Some((at, entries)) = open.take() {
                    self.store(at, entries)?;
                }
                open = Some((chunk, self.load(chunk)?));
            }
            let (_, entries) = open.as_mut().expect("opened just above");
            let slot = slot_of(pgno.get());
            if entries.len() < slot + ENTRY_BYTES {
                entries.resize(slot + ENTRY_BYTES, 0);
            }
            entries[slot..slot + ENTRY_BYTES].copy_from_slice(&entry.encode());
        }
        if let Some((at, entries)) = open {
            self.store(at, entries)?;
        }
        self.truncate(size_after)?;
        self.drop_staged(intent)
    }

    /// Drops the entries of pages above `size`.
    fn truncate(&self, size: u32) -> Result<(), BaseError> {
        let chunks = size.div_ceil(CHUNK_PAGES);
        self.conn.prepare_cached("DELETE FROM base WHERE chunk >= ?1")?.execute([chunks])?;
        let Some(last) = chunks.checked_sub(1) else { return Ok(()) };
        let mut entries = self.load(last)?;
        let keep = (size - last * CHUNK_PAGES) as usize * ENTRY_BYTES;
        if entries.len() > keep {
            entries.truncate(keep);
            self.store(last, entries)?;
        }
        Ok(())
    }

    fn load(&self, chunk: u32) -> Result<Vec<u8>, BaseError> {
        let sealed: Option<Vec<u8>> = self
            .conn
            .prepare_cached("SELECT entries FROM base WHERE chunk = ?1")?
            .query_row([chunk], |r| r.get(0))
            .optional()?;
        let Some(sealed) = sealed else { return Ok(Vec::new()) };
        let whole = sealed.len() <= CHUNK_PAGES as usize * ENTRY_BYTES + ROW_SUM_BYTES;
        match unseal(self.seed, chunk, sealed, ENTRY_BYTES) {
            Some(entries) if whole => Ok(entries),
            _ => Err(BaseError::Damaged { table: "base", row: i64::from(chunk) }),
        }
    }

    fn store(&self, chunk: u32, entries: Vec<u8>) -> Result<(), BaseError> {
        self.conn
            .prepare_cached("INSERT OR REPLACE INTO base(chunk, entries) VALUES (?1, ?2)")?
            .execute(params![chunk, seal(self.seed, chunk, entries)])?;
        Ok(())
    }

    fn staged_seed(&self, intent: i64) -> u64 {
        // Another key than the one of `base` rows, and one per intent.
        !self.seed ^ intent.cast_unsigned()
    }

    fn unseal_staged(&self, intent: i64, first: u32, row: Vec<u8>) -> Result<Vec<u8>, BaseError> {
        unseal(self.staged_seed(intent), first, row, STAGED_BYTES)
            .ok_or(BaseError::Damaged { table: "staged", row: i64::from(first) })
    }
}

/// The row's own checksum: keyed, so that it also ties the row to this replica.
fn row_sum(seed: u64, row: u32, bytes: &[u8]) -> [u8; ROW_SUM_BYTES] {
    // Not page 1, whose checksum leaves fields out; row numbers stay far below the end.
    let pgno = Pgno::new(row.saturating_add(2)).expect("at least 2");
    KeyedChecksum::of(seed, pgno, bytes).0.to_be_bytes()
}

fn seal(seed: u64, row: u32, mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = row_sum(seed, row, &bytes);
    bytes.extend_from_slice(&sum);
    bytes
}

fn unseal(seed: u64, row: u32, mut bytes: Vec<u8>, record_bytes: usize) -> Option<Vec<u8>> {
    let (content, sum) = bytes.split_last_chunk::<ROW_SUM_BYTES>()?;
    let good = content.len().is_multiple_of(record_bytes) && row_sum(seed, row, content) == *sum;
    let length = content.len();
    bytes.truncate(length);
    good.then_some(bytes)
}

fn record_pgno(record: &[u8; STAGED_BYTES]) -> u32 {
    u32::from_be_bytes([record[0], record[1], record[2], record[3]])
}

fn decode_record(record: &[u8; STAGED_BYTES]) -> Option<(Pgno, PageEntry)> {
    let entry: &[u8; ENTRY_BYTES] = record.last_chunk()?;
    Some((Pgno::new(record_pgno(record))?, PageEntry::decode(entry)?))
}

/// Notes the pages of one intent, ascending. What was not [finished](Staging::finish) is incomplete.
#[must_use = "call finish: the last rows are held back"]
pub struct Staging<'m, 'c> {
    map: &'m BaseMap<'c>,
    intent: i64,
    row: Vec<u8>,
    first: u32,
    last: Option<Pgno>,
    pages: u64,
}

impl Staging<'_, '_> {
    /// Adds a page; numbers must ascend.
    pub fn push(&mut self, pgno: Pgno, entry: PageEntry) -> Result<(), BaseError> {
        if let Some(previous) = self.last
            && pgno <= previous
        {
            return Err(BaseError::Order { page: pgno, previous });
        }
        if self.row.len() == CHUNK_PAGES as usize * STAGED_BYTES {
            self.flush()?;
        }
        if self.row.is_empty() {
            self.first = pgno.get();
        }
        self.row.extend_from_slice(&pgno.get().to_be_bytes());
        self.row.extend_from_slice(&entry.encode());
        self.last = Some(pgno);
        self.pages += 1;
        Ok(())
    }

    /// Writes the rest; answers how many pages were staged.
    pub fn finish(mut self) -> Result<u64, BaseError> {
        self.flush()?;
        Ok(self.pages)
    }

    fn flush(&mut self) -> Result<(), BaseError> {
        if self.row.is_empty() {
            return Ok(());
        }
        let row =
            seal(self.map.staged_seed(self.intent), self.first, std::mem::take(&mut self.row));
        self.map
            .conn
            .prepare_cached("INSERT INTO staged(intent, first, entries) VALUES (?1, ?2, ?3)")?
            .execute(params![self.intent, self.first, row])?;
        Ok(())
    }
}

/// The staged pages of one intent, ascending; a row at a time in memory.
pub struct Staged<'m, 'c> {
    map: &'m BaseMap<'c>,
    intent: i64,
    row: Vec<u8>,
    at: usize,
    /// Rows with a first page above this one are still to come.
    after: u32,
}

impl Staged<'_, '_> {
    fn next_row(&mut self) -> Result<bool, BaseError> {
        let found: Option<(u32, Vec<u8>)> = self
            .map
            .conn
            .prepare_cached(
                "SELECT first, entries FROM staged
                 WHERE intent = ?1 AND first > ?2 ORDER BY first LIMIT 1",
            )?
            .query_row(params![self.intent, self.after], |r| Ok((r.get(0)?, r.get(1)?)))
            .optional()?;
        let Some((first, row)) = found else { return Ok(false) };
        self.row = self.map.unseal_staged(self.intent, first, row)?;
        self.at = 0;
        self.after = first;
        Ok(true)
    }
}

impl Iterator for Staged<'_, '_> {
    type Item = Result<(Pgno, PageEntry), BaseError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at == self.row.len() {
            match self.next_row() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
        let record = self.row[self.at..].first_chunk::<STAGED_BYTES>().and_then(decode_record);
        self.at += STAGED_BYTES;
        Some(record.ok_or(BaseError::Damaged { table: "staged", row: i64::from(self.after) }))
    }
}

#[cfg(test)]
mod tests;

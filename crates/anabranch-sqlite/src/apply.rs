//! Apply: replaces the state that a view shows by another, if it is still the committed one.
//!
//! The comparison is free: the pages are written in the very transaction that the view reads in, and
//! SQLite refuses the upgrade with `SQLITE_BUSY_SNAPSHOT` exactly if somebody committed (or
//! restarted the WAL) since. Steps, in this order and no other:
//!
//! 1. take the write lock; someone else's open write is waited for within the busy timeout;
//! 2. write the pages as they come, but page 1 last: with a new cookie on it SQLite would read the
//!    schema at the next statement, and take what it remembers of the old pages for the layout of
//!    the new ones;
//! 3. cut off the pages above the new size: *after* page 1, as any write of a page cancels it. It
//!    takes a statement, so page 1 keeps its cookie until then, and gets the new one last;
//! 4. let the caller write its intent, while nobody can commit in between;
//! 5. COMMIT, durable on return (or at close: see [`LiveFile::begin_apply`](crate::LiveFile));
//! 6. verify from another connection what was committed, and go on with that connection.
//!
//! Page 1 comes with the fields of another copy of the file. Journal mode and counters stay the live
//! file's (SQLite raises the counters at COMMIT itself), the size in the header must be the size
//! after, page size and reserved bytes must be equal. The schema cookie stays, unless the schema
//! changed: then it becomes a random value that neither side has used, so that no connection goes on
//! with the schema it knows.

use anabranch_format::{PageOne, PageOrder, PageSize, PageSource, Pgno};
use serde::{Deserialize, Serialize};

use crate::base::{BaseMap, PageEntry, PageHasher};
use crate::error::{ApplyError, FileError, NewPagesError};
use crate::mark::Mark;
use crate::raw_pages;
use crate::verify::Committed;
use crate::view::View;
use anabranch_format::PageSet;

/// So much is written to the `-wal` before the disk is asked to take it; the next time at three times
/// as much, and so on: each sync costs something too.
const SYNC_BYTES: usize = 12 << 20;

/// The change to apply.
pub struct ApplyDelta<'a> {
    /// Page size of the change; must be the file's.
    pub page_size: PageSize,
    /// Size of the database afterwards, in pages.
    pub size_after: u32,
    /// The pages, ascending and complete (all pages of the growth are among them).
    pub pages: &'a mut dyn NewPages,
    /// What becomes of the schema cookie.
    pub schema_cookie: CookieRule,
    /// The base map's staging takes the pages' entries, under [`ApplyDelta::intent`].
    pub base: &'a BaseMap<'a>,
    /// Number of the intent, the caller's own; nothing may be staged under it yet.
    pub intent: i64,
    /// Where the file is not as the base before the change: what is staged under this number tells how
    /// its pages differ.
    pub before: Option<i64>,
}

/// A page of a change, with its entry in the base map.
#[derive(Debug)]
pub struct NewPage<'p> {
    /// Its number.
    pub pgno: Pgno,
    /// Its entry.
    pub entry: PageEntry,
    /// Its content.
    pub page: &'p [u8],
}

/// The pages of a change, ascending. That entries belong to their pages is seen after COMMIT, when
/// what is in the file is hashed again.
pub trait NewPages {
    /// The next page; `None` after the last, once the source knows that all of them are right.
    fn next_new(&mut self) -> Result<Option<NewPage<'_>>, NewPagesError>;
}

/// Hashes the pages of a source as they come.
pub struct Hashed<S> {
    source: S,
    hasher: PageHasher,
    page: Vec<u8>,
}

impl<S: PageSource> Hashed<S> {
    /// The pages of `source`, with the entries that `hasher` makes.
    #[must_use]
    pub fn new(source: S, hasher: PageHasher, page_size: PageSize) -> Self {
        Hashed { source, hasher, page: vec![0; page_size.bytes()] }
    }
}

impl<S: PageSource> NewPages for Hashed<S> {
    fn next_new(&mut self) -> Result<Option<NewPage<'_>>, NewPagesError> {
        let Some(pgno) = self.source.next_page(&mut self.page)? else { return Ok(None) };
        let entry = self.hasher.entry(pgno, &self.page);
        Ok(Some(NewPage { pgno, entry, page: &self.page }))
    }
}

/// What becomes of the schema cookie of the live file when page 1 is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CookieRule {
    /// The schema did not change: the file keeps its cookie.
    Keep,
    /// The schema changed if page 1 of the change has another cookie than `log_cookie`, the log's at
    /// the base: then the file gets `random`, or the next value that is neither its own nor the
    /// log's old or new one.
    ByLog {
        /// The log's cookie at the base.
        log_cookie: u32,
        /// Drawn by the caller.
        random: u32,
    },
    /// The schema changed: the file gets `random`, or the next value that neither side has.
    Replace {
        /// Drawn by the caller.
        random: u32,
    },
}

/// What recovery needs to know about an apply; the caller keeps it until it has settled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyIntent {
    /// The caller's number; the pages are staged under it.
    pub id: i64,
    /// The end of the WAL before the change; `None` if it was empty.
    pub mark_before: Option<Mark>,
    /// Size in pages before.
    pub size_before: u32,
    /// Size in pages after.
    pub size_after: u32,
    /// Number of pages in the change.
    pub pages: u64,
    /// The file's schema cookie before.
    pub cookie_before: u32,
    /// The file's schema cookie after, if it becomes a new one.
    pub cookie_after: Option<u32>,
    /// The file need not have been as the base was before, so that its old pages tell nothing.
    #[serde(default)]
    pub replaces: bool,
    /// Where the file was not as the base before, and it is known how: what is staged under this
    /// number tells what those of its pages were that differed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<i64>,
}

/// What the caller is told while the write lock is held and all pages are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnderLock {
    /// To be kept durably before the callback returns.
    pub intent: ApplyIntent,
    /// The log's schema cookie after the change, if it contains page 1.
    pub log_cookie: Option<u32>,
}

/// The outcome of an apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Exactly the end of our commit in the WAL; `None` if it could not be told apart from a commit
    /// that followed at once.
    pub mark: Option<Mark>,
    /// The file's schema cookie after the change.
    pub local_cookie: u32,
    /// The log's schema cookie after the change, if it contains page 1.
    pub log_cookie: Option<u32>,
    /// The change counter that the file had when the change was looked at again (others may have
    /// raised it further).
    pub change_counter: u32,
    /// Number of pages written.
    pub pages: u64,
    /// Whether every page was compared with what was meant. Not if somebody restarted the WAL
    /// between our commit and the look; pages that others changed meanwhile are left out.
    pub verified: bool,
}

/// What writing the pages found out.
struct Written {
    set: PageSet,
    /// XOR of the pages' keyed checksums.
    keyed: u64,
    pages: u64,
    log_cookie: Option<u32>,
    cookie_after: Option<u32>,
}

impl View<'_> {
    /// Replaces the state of this view by the change, or changes nothing. Durable on return; for a
    /// view of [`LiveFile::begin_apply`](crate::LiveFile::begin_apply) once the file is closed.
    ///
    /// `under_lock` is called once, when all pages are written and nobody else can commit any more;
    /// if it fails, nothing was changed. The pages' entries are staged in the base map before that,
    /// on its own connection and in its caller's transaction if one is open there.
    ///
    /// An error after COMMIT says so: see [`ApplyError::may_be_committed`].
    pub fn apply<E>(
        mut self,
        change: ApplyDelta<'_>,
        under_lock: &mut dyn FnMut(&UnderLock) -> Result<(), E>,
    ) -> Result<Applied, ApplyError<E>> {
        self.check(&change)?;
        if !self.lock()? {
            return Err(ApplyError::Moved);
        }
        if self.live.lazy && !self.live.has_empty_wal() {
            // Somebody wrote to the `-wal` and took it back: the next try waits for the disk.
            return Err(ApplyError::Moved);
        }
        self.live.spent = true;
        let data_version = self.data_version()?;
        let (base, intent, before) = (change.base, change.intent, change.before);
        let (size_after, cookie_rule) = (change.size_after, change.schema_cookie);
        let written = self.write_pages(change)?;
        let told = UnderLock {
            intent: ApplyIntent {
                id: intent,
                mark_before: self.mark().copied(),
                size_before: self.db_size(),
                size_after,
                pages: written.pages,
                cookie_before: self.page_one().schema_cookie,
                cookie_after: written.cookie_after,
                replaces: matches!(cookie_rule, CookieRule::Replace { .. }) && before.is_none(),
                before,
            },
            log_cookie: written.log_cookie,
        };
        crash_point!("apply::under-lock");
        under_lock(&told).map_err(ApplyError::Callback)?;
        crash_point!("apply::before-commit");
        self.live
            .conn
            .execute_batch("COMMIT")
            .map_err(|e| ApplyError::Commit(self.live.error("writing", e)))?;
        crash_point!("apply::after-commit");
        self.live.unsynced |= self.live.lazy;
        if let Some(behind) = self.live.behind.as_ref().filter(|_| self.live.unsynced) {
            // While the change is verified; `close` waits for it.
            behind.sync();
        }
        // Whoever closes this connection last checkpoints with it, and that must reach the disk.
        self.live.set_lazy(false).map_err(ApplyError::AfterCommit)?;
        let committed =
            Committed { intent: told.intent, set: written.set, keyed: written.keyed, data_version };
        let seen = committed.verify(self, base)?;
        Ok(Applied {
            mark: seen.mark,
            local_cookie: committed.intent.cookie_after.unwrap_or(committed.intent.cookie_before),
            log_cookie: told.log_cookie,
            change_counter: seen.change_counter,
            pages: committed.intent.pages,
            verified: seen.verified,
        })
    }

    fn check<E>(&self, change: &ApplyDelta<'_>) -> Result<(), ApplyError<E>> {
        if !self.is_wal() {
            return Err(ApplyError::NotWal);
        }
        if change.page_size != self.live.page_size {
            return Err(ApplyError::PageSize {
                file: self.live.page_size,
                delta: change.page_size,
            });
        }
        let lock_page = self.live.page_size.lock_page();
        if change.size_after == 0 || change.size_after == lock_page.get() {
            return Err(ApplyError::PageOne(format!(
                "no database can have {} pages",
                change.size_after
            )));
        }
        Ok(())
    }

    fn write_pages<E>(&mut self, change: ApplyDelta<'_>) -> Result<Written, ApplyError<E>> {
        let ApplyDelta { page_size, size_after, pages, schema_cookie, base, intent, .. } = change;
        let mut order = PageOrder::new(page_size, self.db_size(), size_after);
        let mut staging = base.stage(intent);
        let mut written = Written {
            set: PageSet::new(size_after),
            keyed: 0,
            pages: 0,
            log_cookie: None,
            cookie_after: None,
        };
        let mut page_one = None;
        let (mut bytes, mut sync_at) = (0, SYNC_BYTES);
        while let Some(NewPage { pgno, entry, page }) = pages.next_new()? {
            order.next(pgno)?;
            staging.push(pgno, entry)?;
            written.keyed ^= entry.keyed.0;
            written.set.insert(pgno);
            if pgno == Pgno::ONE {
                let mut page = page.to_vec();
                self.adjust_page_one(&mut page, size_after, schema_cookie, &mut written)?;
                page_one = Some(page);
            } else {
                self.write_page(pgno, page)?;
            }
            bytes += page.len();
            if bytes >= sync_at {
                self.live.write_behind();
                sync_at = bytes * 3;
            }
        }
        order.end()?;
        match page_one {
            Some(page) if size_after < self.db_size() => {
                self.write_page_one_and_cut_off(page, size_after, written.cookie_after)?;
            }
            Some(page) => self.write_page(Pgno::ONE, &page)?,
            None if size_after != self.db_size() => {
                return Err(ApplyError::PageOne("it is missing although the size changes".into()));
            }
            None => {}
        }
        written.pages = staging.finish()?;
        Ok(written)
    }

    fn write_page(&self, pgno: Pgno, page: &[u8]) -> Result<(), FileError> {
        raw_pages::write_page(&self.live.conn, pgno, page)
            .map_err(|e| self.live.error("writing", e))
    }

    /// Gives page 1 of the change the live file's own fields.
    fn adjust_page_one<E>(
        &self,
        page: &mut [u8],
        size_after: u32,
        rule: CookieRule,
        written: &mut Written,
    ) -> Result<(), ApplyError<E>> {
        let refuse = |what: String| Err(ApplyError::PageOne(what));
        let live = self.page_one();
        let new = match PageOne::read(page) {
            Ok(new) => new,
            Err(error) => return refuse(error.to_string()),
        };
        if new.page_size != live.page_size {
            return refuse(format!("page size {} instead of {}", new.page_size, live.page_size));
        }
        if new.reserved != live.reserved {
            return refuse(format!("{} reserved bytes instead of {}", new.reserved, live.reserved));
        }
        if new.db_size != size_after {
            return refuse(format!("it states {} pages, not {size_after}", new.db_size));
        }
        written.log_cookie = Some(new.schema_cookie);
        written.cookie_after = rule.new_cookie(live.schema_cookie, new.schema_cookie);
        let cookie = written.cookie_after.unwrap_or(live.schema_cookie);
        page[18] = live.write_version;
        page[19] = live.read_version;
        page[24..28].copy_from_slice(&live.change_counter.to_be_bytes());
        page[40..44].copy_from_slice(&cookie.to_be_bytes());
        page[92..96].copy_from_slice(&live.version_valid_for.to_be_bytes());
        Ok(())
    }

    /// Writes page 1, cuts off the pages above `size_after`, and only then gives the file its new
    /// schema cookie: see the module.
    fn write_page_one_and_cut_off(
        &self,
        mut page: Vec<u8>,
        size_after: u32,
        cookie: Option<u32>,
    ) -> Result<(), FileError> {
        page[40..44].copy_from_slice(&self.page_one().schema_cookie.to_be_bytes());
        self.write_page(Pgno::ONE, &page)?;
        raw_pages::cut_off(&self.live.conn, size_after, cookie)
            .map_err(|e| self.live.error("truncating", e))
    }

    /// A number that changes for this connection exactly when another one has committed.
    pub(crate) fn data_version(&self) -> Result<i64, FileError> {
        self.live
            .conn
            .query_row("PRAGMA data_version", [], |r| r.get(0))
            .map_err(|e| self.live.error("reading", e))
    }
}

impl CookieRule {
    /// The new cookie of the file, which has `live`, for a page 1 that comes with `incoming`.
    fn new_cookie(self, live: u32, incoming: u32) -> Option<u32> {
        let (random, taken) = match self {
            CookieRule::Keep => return None,
            CookieRule::ByLog { log_cookie, .. } if log_cookie == incoming => return None,
            CookieRule::ByLog { log_cookie, random } => (random, [0, live, incoming, log_cookie]),
            CookieRule::Replace { random } => (random, [0, live, incoming, incoming]),
        };
        // Four values are taken, so one of five is free.
        (0..5).map(|step| random.wrapping_add(step)).find(|cookie| !taken.contains(cookie))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cookie_changes_only_with_the_schema_and_to_a_value_nobody_has() {
        assert_eq!(CookieRule::Keep.new_cookie(7, 9), None);
        assert_eq!(CookieRule::ByLog { log_cookie: 9, random: 1 }.new_cookie(7, 9), None);
        for random in [0, 6, 7, 8, 9, u32::MAX] {
            let rule = CookieRule::ByLog { log_cookie: 8, random };
            let new = rule.new_cookie(7, 9).unwrap();
            assert!(![0, 7, 8, 9].contains(&new), "{new}");
            let new = CookieRule::Replace { random }.new_cookie(7, 9).unwrap();
            assert!(![0, 7, 9].contains(&new), "{new}");
        }
    }
}

//! After COMMIT: where our commit ends in the WAL, and whether the file holds what was meant.
//!
//! Other programs may commit between our COMMIT and this look. Our own frames are told from theirs
//! by position: we held the write lock from the snapshot at the view's mark to COMMIT, so the first
//! transaction after that mark is ours. Pages that others changed since are left out of the
//! comparison; if somebody restarted the WAL meanwhile, nothing can be said, and the next capture
//! will compare every page anyway.
//!
//! The size is that which SQLite shows to a connection that took no part in the writing. The pages
//! are read from our frames in one sweep of the WAL: each page of the change once and no other, their
//! checksums together as they should be. Frames up to a reader's snapshot are what it is shown of
//! those pages, so this is the comparison with what SQLite reads, at a fraction of its cost. Where
//! the frames do not allow it (SQLite wrote a page twice, or they are gone), every page is read
//! through the new connection. An automatic vacuum, a lost truncation or a damaged write would all be
//! seen here.

use anabranch_format::Pgno;

use crate::apply::ApplyIntent;
use crate::base::BaseMap;
use crate::error::{ApplyError, FileError, Mismatch};
use crate::ffi;
use crate::live::LiveFile;
use crate::mark::{Mark, Snapshot};
use crate::view::View;
use crate::wal::{self, WalFile};
use anabranch_format::PageSet;

/// A change that was just committed.
pub(crate) struct Committed {
    pub(crate) intent: ApplyIntent,
    /// The pages of the change.
    pub(crate) set: PageSet,
    /// XOR of their keyed checksums.
    pub(crate) keyed: u64,
    /// The writing connection's data version before COMMIT.
    pub(crate) data_version: i64,
}

/// What was found.
pub(crate) struct Seen {
    pub(crate) mark: Option<Mark>,
    pub(crate) change_counter: u32,
    pub(crate) verified: bool,
}

impl Committed {
    /// Looks at the file again through a new connection, which replaces the one that wrote.
    pub(crate) fn verify<E>(
        &self,
        view: View<'_>,
        base: &BaseMap<'_>,
    ) -> Result<Seen, ApplyError<E>> {
        let after = |e| ApplyError::AfterCommit(e);
        let mark = self.our_mark(&view).map_err(after)?;
        // The new connection looks at the database before the old one closes; else that one, perhaps
        // the last, would delete the `-wal`.
        let mut fresh = view.live.connect_again().map_err(after)?;
        let look = fresh.begin().map_err(after)?;
        let seen = self.compare(&look, mark, base)?;
        drop(look);
        view.live.replace_connection(fresh.conn);
        Ok(seen)
    }

    /// The end of our commit, if it is certain.
    fn our_mark(&self, view: &View<'_>) -> Result<Option<Snapshot>, FileError> {
        let live: &LiveFile = view.live;
        let now = {
            live.conn.execute_batch("BEGIN").map_err(|e| live.error("reading", e))?;
            let version = view.data_version();
            let bytes = ffi::snapshot(&live.conn).map_err(|e| live.error("reading", e));
            live.rollback();
            let now = bytes?.and_then(|bytes| Snapshot::decode(&bytes, live.page_size));
            (version?, now)
        };
        let (version, Some(now)) = now else { return Ok(None) };
        if version == self.data_version {
            return Ok(Some(now));
        }
        Ok(self.first_commit_after(live, &now).ok().flatten())
    }

    /// The end of the first transaction after the mark before ours: ours, as we held the lock.
    fn first_commit_after(
        &self,
        live: &LiveFile,
        now: &Snapshot,
    ) -> Result<Option<Snapshot>, crate::capture::ScanReason> {
        let Some(before) = &self.intent.mark_before else { return Ok(None) };
        let mut ours = None;
        wal::frames_between(live.wal_path(), live.page_size, before, now, &mut |frame, header| {
            if header.is_commit() && ours.is_none() {
                let mark = Mark { salts: before.salts, frame, checksum: header.checksum };
                ours = Some(Snapshot { mark, db_size: header.commit_size });
            }
        })?;
        Ok(ours)
    }

    fn compare<E>(
        &self,
        look: &View<'_>,
        ours: Option<Snapshot>,
        base: &BaseMap<'_>,
    ) -> Result<Seen, ApplyError<E>> {
        let change_counter = look.page_one().change_counter;
        let mark = ours.map(|s| s.mark);
        let unknown = Seen { mark, change_counter, verified: false };
        let (Some(ours), Some(now)) = (ours, &look.snapshot) else { return Ok(unknown) };
        let whole = self.check_frames(look.live, &ours, base)?;
        let mut theirs = PageSet::new(look.db_size());
        let changed_since = wal::frames_between(
            look.live.wal_path(),
            look.live.page_size,
            &ours.mark,
            now,
            &mut |_, frame| {
                theirs.insert(frame.pgno);
            },
        );
        let Ok(frames_since) = changed_since else { return Ok(unknown) };
        if frames_since == 0 && look.db_size() != self.intent.size_after {
            return Err(ApplyError::Verify(Mismatch::Size {
                found: look.db_size(),
                expected: self.intent.size_after,
            }));
        }
        if whole {
            return Ok(Seen { mark, change_counter, verified: true });
        }
        for staged in base.staged(self.intent.id) {
            let (pgno, entry) = staged?;
            if theirs.contains(pgno) || pgno.get() > look.db_size() {
                continue;
            }
            let same = look
                .with_page(pgno, |page| base.keyed(pgno, page) == entry.keyed)
                .map_err(ApplyError::AfterCommit)?;
            if !same {
                return Err(ApplyError::Verify(Mismatch::Page(pgno)));
            }
        }
        Ok(Seen { mark, change_counter, verified: true })
    }

    /// Checks our frames: pages of the change only (and page 1, which SQLite may add to a commit),
    /// the size that was meant. Answers whether they also prove that every page of the change is what
    /// was meant; if they do not, it says nothing.
    fn check_frames<E>(
        &self,
        live: &LiveFile,
        ours: &Snapshot,
        base: &BaseMap<'_>,
    ) -> Result<bool, ApplyError<E>> {
        if ours.db_size != self.intent.size_after {
            return Err(ApplyError::Verify(Mismatch::Size {
                found: ours.db_size,
                expected: self.intent.size_after,
            }));
        }
        let Ok(swept) = self.sweep(live, &ours.mark, base) else { return Ok(false) };
        match swept.foreign {
            Some(pgno) => Err(ApplyError::Verify(Mismatch::Foreign(pgno))),
            None => Ok(swept.once && swept.pages == self.intent.pages && swept.keyed == self.keyed),
        }
    }

    fn sweep(
        &self,
        live: &LiveFile,
        end: &Mark,
        base: &BaseMap<'_>,
    ) -> Result<Swept, crate::capture::ScanReason> {
        let first = match &self.intent.mark_before {
            Some(before) if before.same_run(end) => before.frame + 1,
            _ => 1,
        };
        let mut seen = PageSet::new(self.intent.size_after);
        let mut swept = Swept { foreign: None, once: true, pages: 0, keyed: 0 };
        let wal = WalFile::open(live.wal_path(), live.page_size, end)?;
        wal.frames(first, end.frame, &mut |header, page| {
            let pgno = header.pgno;
            if self.set.contains(pgno) {
                swept.once &= seen.insert(pgno);
                swept.pages += 1;
                swept.keyed ^= base.keyed(pgno, page).0;
            } else if pgno != Pgno::ONE {
                swept.foreign = Some(pgno);
            }
        })?;
        wal.check_mark(end)?;
        wal.check_unchanged()?;
        Ok(swept)
    }
}

/// What the frames of our commit hold.
struct Swept {
    /// A page that is not of the change.
    foreign: Option<Pgno>,
    /// No page came twice.
    once: bool,
    /// Frames with pages of the change.
    pages: u64,
    /// XOR of their keyed checksums.
    keyed: u64,
}

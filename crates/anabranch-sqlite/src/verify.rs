//! After COMMIT: where our commit ends in the WAL, and whether the file holds what was meant.
//!
//! Other programs may commit between our COMMIT and this look. Our own frames are told from theirs
//! by position: we held the write lock from the snapshot at the view's mark to COMMIT, so the first
//! transaction after that mark is ours. Pages that others changed since are left out of the
//! comparison; if somebody restarted the WAL meanwhile, nothing can be said, and the next capture
//! will compare every page anyway.
//!
//! The comparison is with what SQLite shows to a connection that took no part in the writing: an
//! automatic vacuum, a lost truncation or a damaged write would all be seen here.

use anabranch_format::Pgno;

use crate::apply::ApplyIntent;
use crate::base::BaseMap;
use crate::error::{ApplyError, FileError, Mismatch};
use crate::ffi;
use crate::live::LiveFile;
use crate::mark::{Mark, Snapshot};
use crate::pages::PageSet;
use crate::view::View;
use crate::wal::{self, WalFile};

/// A change that was just committed.
pub(crate) struct Committed {
    pub(crate) intent: ApplyIntent,
    /// The pages of the change.
    pub(crate) set: PageSet,
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
        self.check_frames(look.live, &ours)?;
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

    /// Our frames contain pages of the change only (and page 1, which SQLite may add to a commit),
    /// and state the size that was meant. If the frames are gone, there is nothing to check.
    fn check_frames<E>(&self, live: &LiveFile, ours: &Snapshot) -> Result<(), ApplyError<E>> {
        if ours.db_size != self.intent.size_after {
            return Err(ApplyError::Verify(Mismatch::Size {
                found: ours.db_size,
                expected: self.intent.size_after,
            }));
        }
        let first = match &self.intent.mark_before {
            Some(before) if before.same_run(&ours.mark) => before.frame + 1,
            _ => 1,
        };
        let mut foreign = None;
        let read = || -> Result<(), crate::capture::ScanReason> {
            let wal = WalFile::open(live.wal_path(), live.page_size, &ours.mark)?;
            for frame in first..=ours.mark.frame {
                let pgno = wal.frame_header(frame)?.pgno;
                if pgno != Pgno::ONE && !self.set.contains(pgno) {
                    foreign = Some(pgno);
                }
            }
            wal.check_mark(&ours.mark)?;
            wal.check_unchanged()
        };
        let mut read = read;
        match (read(), foreign) {
            (Ok(()), Some(pgno)) => Err(ApplyError::Verify(Mismatch::Foreign(pgno))),
            _ => Ok(()),
        }
    }
}

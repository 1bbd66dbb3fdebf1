//! A view: one committed state of a live file, held by a read transaction.
//!
//! Owns the transaction from `BEGIN` to the end of an apply or its own drop. While it lives, others
//! may commit; the view does not see it, and an apply through it then answers
//! [`ApplyError::Moved`](crate::ApplyError::Moved).
//!
//! A [`View`] borrows the file. A [`PinnedView`] owns it, so that it can be put away, sent to another
//! thread, and read as the [`PageRead`] beneath an [`Overlay`](crate::Overlay).

use std::borrow::BorrowMut;
use std::io;
use std::path::Path;

use anabranch_format::{PageOne, PageSize, Pgno};
use rusqlite::OptionalExtension;

use crate::capture::ScanReason;
use crate::error::FileError;
use crate::ffi;
use crate::live::LiveFile;
use crate::mark::{Mark, Snapshot, earlier_header};
use crate::page_read::PageRead;
use crate::wal::WalFile;

/// One committed state of a live file that is borrowed.
pub type View<'a> = ViewOf<&'a mut LiveFile>;

/// One committed state of a live file that the view owns.
///
/// The `-wal` can be checkpointed meanwhile, but not restarted: it grows as long as others write.
pub type PinnedView = ViewOf<LiveFile>;

/// One committed state of a live file `L`: see [`View`] and [`PinnedView`].
pub struct ViewOf<L: BorrowMut<LiveFile>> {
    pub(crate) live: L,
    page_one: PageOne,
    db_size: u32,
    pub(crate) snapshot: Option<Snapshot>,
}

impl<L: BorrowMut<LiveFile>> std::fmt::Debug for ViewOf<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View")
            .field("path", &self.live().path)
            .field("db_size", &self.db_size)
            .field("snapshot", &self.snapshot)
            .finish_non_exhaustive()
    }
}

/// What is read once at the start of a view.
struct Start {
    page_one: PageOne,
    db_size: u32,
    snapshot: Option<Snapshot>,
}

impl PinnedView {
    /// Begins a read transaction on the file, as [`LiveFile::begin`] does, and keeps both.
    pub fn begin(mut live: LiveFile) -> Result<Self, FileError> {
        live.ready_to_read()?;
        Self::begin_on(live)
    }

    /// As [`PinnedView::begin`], of the earlier state at `mark`, when the database had `db_size`
    /// pages. `None` if it cannot be shown: the `-wal` was restarted since, or copied into the
    /// database beyond the mark.
    pub fn begin_at(live: LiveFile, mark: &Mark, db_size: u32) -> Result<Option<Self>, FileError> {
        let mut view = Self::begin(live)?;
        if !view.has_commit(mark, db_size) {
            return Ok(None);
        }
        let fail = |e| view.live.error("reading", e);
        let header = ffi::snapshot(&view.live.conn).map_err(fail)?;
        let page_size = view.live.page_size;
        let Some(header) = header.and_then(|now| earlier_header(&now, page_size, mark, db_size))
        else {
            return Ok(None);
        };
        if !ffi::open_snapshot(&view.live.conn, &header).map_err(fail)? {
            return Ok(None);
        }
        let Start { page_one, db_size: found, snapshot } = look(&view.live)?;
        let shown = snapshot.as_ref().is_some_and(|snapshot| snapshot.mark == *mark);
        if !shown || found != db_size {
            return Ok(None);
        }
        (view.page_one, view.db_size, view.snapshot) = (page_one, found, snapshot);
        Ok(Some(view))
    }

    /// Whether the frame at `mark` is in the `-wal` as it was marked, and ended a transaction that
    /// left `db_size` pages.
    fn has_commit(&self, mark: &Mark, db_size: u32) -> bool {
        let Some(now) = &self.snapshot else { return false };
        if !mark.same_run(&now.mark) || mark.frame == 0 || mark.frame > now.mark.frame {
            return false;
        }
        let look = || -> Result<bool, ScanReason> {
            let wal = WalFile::open(self.live.wal_path(), self.live.page_size, mark)?;
            wal.check_mark(mark)?;
            let commit = wal.frame_header(mark.frame)?.commit_size == db_size;
            wal.check_unchanged()?;
            Ok(commit)
        };
        look().unwrap_or(false)
    }
}

impl PageRead for PinnedView {
    fn page_size(&self) -> PageSize {
        self.live().page_size
    }

    fn size(&self) -> u32 {
        self.db_size
    }

    fn read(&mut self, pgno: Pgno, buf: &mut [u8]) -> io::Result<()> {
        self.page(pgno, buf).map_err(io::Error::other)
    }
}

impl<L: BorrowMut<LiveFile>> ViewOf<L> {
    pub(crate) fn begin_on(live: L) -> Result<Self, FileError> {
        match start(live.borrow()) {
            Ok(Start { page_one, db_size, snapshot }) => {
                Ok(ViewOf { live, page_one, db_size, snapshot })
            }
            Err(error) => {
                live.borrow().rollback();
                Err(error)
            }
        }
    }

    /// Ends the transaction and begins one on the newest state.
    pub(crate) fn begin_again(&mut self) -> Result<(), FileError> {
        let live = self.live.borrow_mut();
        live.rollback();
        // Frames may have come since.
        let lazy = live.lazy && live.has_empty_wal();
        live.set_lazy(lazy)?;
        let Start { page_one, db_size, snapshot } = start(live)?;
        (self.page_one, self.db_size, self.snapshot) = (page_one, db_size, snapshot);
        Ok(())
    }

    pub(crate) fn live(&self) -> &LiveFile {
        self.live.borrow()
    }

    /// Size of the database in pages, the lock page included.
    #[must_use]
    pub fn db_size(&self) -> u32 {
        self.db_size
    }

    /// The file header, as it stands in the file.
    #[must_use]
    pub fn page_one(&self) -> &PageOne {
        &self.page_one
    }

    /// The place in the `-wal` up to which this view sees; `None` if the `-wal` is empty or the
    /// database not in WAL mode.
    #[must_use]
    pub fn mark(&self) -> Option<&Mark> {
        self.snapshot.as_ref().map(|s| &s.mark)
    }

    /// The database, as SQLite resolved it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.live().path
    }

    /// Whether the database is in WAL mode.
    #[must_use]
    pub fn is_wal(&self) -> bool {
        self.page_one.write_version == 2
    }

    /// Reads a page into `buf`, which must be one page long. The lock page reads as zeros.
    ///
    /// # Panics
    /// If `buf` has another length.
    pub fn page(&self, pgno: Pgno, buf: &mut [u8]) -> Result<(), FileError> {
        self.with_page(pgno, |page| buf.copy_from_slice(page))
    }

    /// Calls `f` with a page, without a copy.
    pub(crate) fn with_page<T>(
        &self,
        pgno: Pgno,
        f: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, FileError> {
        read_page(self.live(), pgno, f)
    }

    /// Names and definitions of the tables, up to `limit` of them, as SQLite reads them: for telling
    /// databases apart, not for trusting them.
    pub fn tables(&self, limit: u32) -> Result<Vec<(String, String)>, FileError> {
        let read = || -> rusqlite::Result<Vec<(String, String)>> {
            let mut statement = self.live().conn.prepare(
                "SELECT name, coalesce(sql, '') FROM sqlite_schema
                 WHERE type = 'table' ORDER BY name LIMIT ?1",
            )?;
            let tables = statement.query_map([limit], |row| Ok((row.get(0)?, row.get(1)?)))?;
            tables.collect()
        };
        read().map_err(|e| self.live().error("reading the schema of", e))
    }

    /// Makes everything that this view shows survive a power failure, whatever `synchronous`
    /// setting it was written with.
    ///
    /// Syncs the `-wal` and its directory entry, and the database file too, since frames that were
    /// copied there may count no longer in the `-wal`.
    pub fn sync_wal(&self) -> Result<(), FileError> {
        let fail = |e| self.live().error("syncing", e);
        if self.snapshot.is_some() {
            ffi::sync(&self.live().conn, ffi::Which::Wal).map_err(fail)?;
            sync_directory_of(self.live().wal_path())?;
        }
        ffi::sync(&self.live().conn, ffi::Which::Main).map_err(fail)
    }
}

impl<L: BorrowMut<LiveFile>> Drop for ViewOf<L> {
    fn drop(&mut self) {
        let live = self.live.borrow_mut();
        live.rollback();
        // If this connection is the last to close, its checkpoint carries others' commits as well.
        if let Err(error) = live.set_lazy(false) {
            tracing::warn!(path = %live.path.display(), %error, "waiting for the disk again");
        }
    }
}

fn start(live: &LiveFile) -> Result<Start, FileError> {
    live.conn.execute_batch("BEGIN").map_err(|e| live.error("reading", e))?;
    look(live)
}

/// What the transaction shows.
fn look(live: &LiveFile) -> Result<Start, FileError> {
    let fail = |e| live.error("reading", e);
    // The first statement that reads takes the snapshot; everything below sees that one.
    let db_size: u32 = live.conn.query_row("PRAGMA page_count", [], |r| r.get(0)).map_err(fail)?;
    if db_size == 0 {
        return Err(FileError::Empty { path: live.path.clone() });
    }
    let page_one = read_page(live, Pgno::ONE, PageOne::read)?
        .map_err(|source| FileError::PageOne { path: live.path.clone(), source })?;
    if page_one.page_size != live.page_size {
        return Err(FileError::PageSizeChanged {
            path: live.path.clone(),
            was: live.page_size,
            now: page_one.page_size,
        });
    }
    let snapshot = ffi::snapshot(&live.conn)
        .map_err(fail)?
        .and_then(|bytes| Snapshot::decode(&bytes, live.page_size));
    Ok(Start { page_one, db_size, snapshot })
}

fn read_page<T>(live: &LiveFile, pgno: Pgno, f: impl FnOnce(&[u8]) -> T) -> Result<T, FileError> {
    let fail = |e| live.error("reading", e);
    let mut statement =
        live.conn.prepare_cached("SELECT data FROM sqlite_dbpage WHERE pgno = ?1").map_err(fail)?;
    let read = statement
        .query_row([pgno.get()], |row| {
            let data = row.get_ref(0)?.as_blob()?;
            Ok((data.len() == live.page_size.bytes() || pgno == Pgno::ONE).then(|| f(data)))
        })
        .optional()
        .map_err(fail)?;
    read.flatten().ok_or(FileError::Page { path: live.path.clone(), page: pgno })
}

/// A new file's directory entry is durable only once its directory is synced; whoever created the
/// `-wal` with `synchronous = NORMAL` has not done so.
#[cfg(unix)]
pub(crate) fn sync_directory_of(path: &Path) -> Result<(), FileError> {
    let Some(directory) = path.parent() else { return Ok(()) };
    std::fs::File::open(directory).and_then(|d| d.sync_all()).map_err(|source| FileError::Io {
        path: directory.to_path_buf(),
        what: "syncing",
        source,
    })
}

#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "fails on Unix")]
pub(crate) fn sync_directory_of(_: &Path) -> Result<(), FileError> {
    Ok(())
}

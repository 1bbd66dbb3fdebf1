//! A watcher: sees every page that is written to a live file, for as long as it lives.
//!
//! A capture that finds the `-wal` restarted since its mark must read every page. A watcher spares
//! that: it keeps the chain of frames unbroken by *looking* now and then, and notes the pages it saw
//! in a set, a bit for each page. Looking is apart from syncing: while a remote is away, pages are
//! noted all the same, and the `-wal` is held by nothing.
//!
//! How the chain holds. Between looks a read transaction, the *pin*, stays open:
//!
//! - on a state of which something is not yet copied into the database, it keeps the `-wal` from being
//!   restarted: the next look goes on in the same run;
//! - on a state that is copied completely, the next writer may restart the `-wal`; but only once, as
//!   such a pin keeps everything from being copied until the next look. Nothing can have been
//!   appended to the old run after the pin then, so all frames of the new run, from the first on, are
//!   what is new.
//!
//! The next pin begins before the last one ends, so there is no gap between them.
//!
//! A pin that only ever moves forward would let the `-wal` grow for ever under a busy writer, as
//! nothing copies the last commit. So beyond [`FRAMES_MAX`] frames the watcher *tidies*: it copies what
//! there is while nobody waits for it; then it takes the write lock, looks (this is the very end),
//! copies the little that came meanwhile, and pins the state that is now copied completely. With the
//! lock released the next writer restarts the `-wal`, and the chain goes on. Readers of an old state
//! can prevent it; then it is tried again later.
//!
//! Where the chain breaks nothing is lost: the next capture finds its candidates without the watcher,
//! by a scan if need be, and from there on the chain is whole again.
//!
//! Effects on other programs: the write lock is held now and then for the time that one small
//! checkpoint takes; checkpoints of their own, other than passive ones, may report "busy"; the
//! database cannot be switched out of WAL mode. Memory: two bits for each page.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anabranch_format::PageSize;
use rusqlite::Connection;

use crate::capture::ScanReason;
use crate::error::FileError;
use crate::ffi;
use crate::identity::FileIdentity;
use crate::live::{LiveFile, connect, sqlite_error};
use crate::mark::{Mark, Snapshot};
use crate::wal;
use anabranch_format::PageSet;

/// Frames in the `-wal` from which on it is tidied: as many as make SQLite itself checkpoint.
pub const FRAMES_MAX: u32 = 1000;

/// If tidying did not lead to a restart, it is tried again after so many frames more.
const FRAMES_STEP: u32 = 500;

/// How long tidying waits for the write lock before it lets others go first.
const LOCK_WAIT: Duration = Duration::from_millis(50);

/// How often copying under the write lock is tried: a checkpoint of another program may be at it.
const COPIES_MAX: u32 = 4;

/// So many frames of a look may be of pages that lie beyond the size before and after it.
const BEYOND_MAX: usize = 1 << 16;

/// A `-wal` of more bytes is cut off once nothing in it is needed; SQLite itself only reuses it.
const SHRINK_BYTES: u64 = 64 << 20;

/// What a watcher has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WatcherCounts {
    /// Looks, those while tidying included.
    pub looks: u64,
    /// Looks that found something written.
    pub written: u64,
    /// Restarts of the `-wal` that the chain went on over.
    pub restarts: u64,
    /// Times that the chain broke.
    pub breaks: u64,
    /// Times that the `-wal` was tidied.
    pub tidied: u64,
}

/// Sees every page that is written to a live file. See the module.
pub struct Watcher {
    path: PathBuf,
    wal_path: PathBuf,
    page_size: PageSize,
    busy: Duration,
    identity: FileIdentity,
    /// One of them holds the pin.
    pins: [Connection; 2],
    pinned: usize,
    /// Takes the write lock, and never writes.
    locker: Connection,
    /// What the pin sees; `None`: an empty `-wal`.
    at: Option<Snapshot>,
    /// Pages that may differ from the base since before the operation under way began.
    old: PageSet,
    /// Pages written since.
    new: PageSet,
    /// Whether the sets hold every page that differs from the base.
    whole: bool,
    /// The chain broke since the operation under way was announced.
    broken: bool,
    /// At the pin the file is as the base.
    in_step: bool,
    /// Tidied at so many frames.
    tidy_at: u32,
    counts: WatcherCounts,
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watcher")
            .field("path", &self.path)
            .field("at", &self.at)
            .field("whole", &self.whole)
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}

impl Watcher {
    /// Begins to watch the database at `path`, which is switched to WAL mode if need be. Nothing is
    /// known of its base yet: the first capture tells.
    pub fn open(path: &Path, busy: Duration) -> Result<Self, FileError> {
        let mut live = LiveFile::open(path, busy)?;
        live.prepare()?;
        let (path, wal_path) = (live.path().to_owned(), live.wal_path().to_owned());
        let (identity, page_size) = (live.identity()?, live.page_size());
        let again = || connect(&path, busy);
        let mut watcher = Watcher {
            pins: [again()?, again()?],
            pinned: 0,
            locker: again()?,
            identity,
            page_size,
            busy,
            at: None,
            old: PageSet::new(0),
            new: PageSet::new(0),
            whole: false,
            broken: false,
            in_step: false,
            tidy_at: FRAMES_MAX,
            counts: WatcherCounts::default(),
            wal_path,
            path,
        };
        let locker = &watcher.locker;
        locker.busy_timeout(LOCK_WAIT).map_err(|e| watcher.error("setting up", e))?;
        watcher.at = watcher.begin_pin(0)?.ok().flatten();
        let mode: String = watcher.pins[0]
            .query_row("PRAGMA journal_mode", [], |row| row.get(0))
            .map_err(|e| watcher.error("reading", e))?;
        if mode != "wal" {
            return Err(FileError::NoWalMode { path: watcher.path, mode });
        }
        // Only now: were it the last to close, the `-wal` would be gone.
        drop(live);
        Ok(watcher)
    }

    /// The database, as SQLite resolved it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The write-ahead log beside it.
    #[must_use]
    pub fn wal_path(&self) -> &Path {
        &self.wal_path
    }

    /// Which file is watched: another one may lie at its path by now.
    #[must_use]
    pub fn identity(&self) -> &FileIdentity {
        &self.identity
    }

    /// What was done so far.
    #[must_use]
    pub fn counts(&self) -> WatcherCounts {
        self.counts
    }

    /// Whether nothing was written since the file was last known to be as the base, as of the last
    /// look.
    #[must_use]
    pub fn is_in_step(&self) -> bool {
        self.in_step
    }

    /// Looks at what was written since the last look, and tidies the `-wal` where it has become long.
    /// Answers whether something was written. After an error the chain is as before.
    pub fn look(&mut self) -> Result<bool, FileError> {
        let mut written = self.advance()?;
        if self.frames() >= self.tidy_at {
            written |= self.tidy()?;
        }
        Ok(written)
    }

    /// Announces an operation. To be called before it begins its first view: what is written from
    /// here on is kept apart, since the operation may not see it.
    pub fn announce(&mut self) {
        self.old.add(&self.new);
        self.new = PageSet::new(0);
        self.broken = false;
    }

    /// The pages that may differ from the base in a view that began after the last
    /// [`Watcher::announce`]; `None` if the watcher cannot tell.
    pub fn candidates(&mut self) -> Result<Option<PageSet>, FileError> {
        self.advance()?;
        if !self.whole {
            return Ok(None);
        }
        let mut all = self.old.clone();
        all.add(&self.new);
        Ok(Some(all))
    }

    /// A view that began after the last [`Watcher::announce`], with its end at `mark`, was compared
    /// with the base completely: exactly `changed` differ.
    pub fn captured(&mut self, changed: PageSet, mark: Option<&Mark>) -> Result<(), FileError> {
        let in_step = changed.is_empty();
        self.old = changed;
        self.whole = !self.broken;
        if in_step { self.settled(mark) } else { Ok(()) }
    }

    /// The base has become what the file was at `mark`: a state that was seen after the last
    /// [`Watcher::announce`].
    pub fn settled(&mut self, mark: Option<&Mark>) -> Result<(), FileError> {
        self.old = PageSet::new(0);
        self.whole = !self.broken;
        self.advance()?;
        if self.whole && self.at.as_ref().map(|at| &at.mark) == mark {
            self.new = PageSet::new(0);
            self.in_step = true;
        }
        Ok(())
    }

    /// The base has become something else than what this watcher was told of: what it saw says
    /// nothing any more, until the next capture.
    pub fn distrust(&mut self) {
        self.whole = false;
        self.in_step = false;
    }

    /// Frames in the `-wal`, as the pin sees it.
    fn frames(&self) -> u32 {
        self.at.as_ref().map_or(0, |at| at.mark.frame)
    }

    /// Moves the pin to the newest state and notes the pages on the way. Answers whether there were
    /// any.
    fn advance(&mut self) -> Result<bool, FileError> {
        let spare = 1 - self.pinned;
        let found = match self.begin_pin(spare) {
            Ok(found) => found,
            Err(error) => {
                self.end(&self.pins[spare]);
                return Err(error);
            }
        };
        self.counts.looks += 1;
        let noted = match found {
            Ok(now) => self.note(now.as_ref()),
            Err(reason) => Err(reason),
        };
        let now = found.ok().flatten();
        if !same_run(self.at.as_ref(), now.as_ref()) {
            self.tidy_at = FRAMES_MAX;
            self.counts.restarts += u64::from(noted.is_ok());
        }
        self.end(&self.pins[self.pinned]);
        (self.pinned, self.at) = (spare, now);
        let written = match noted {
            Ok(frames) => frames > 0,
            Err(reason) => {
                tracing::debug!(path = %self.path.display(), %reason, "the chain of frames broke");
                self.counts.breaks += 1;
                self.broken = true;
                self.whole = false;
                true
            }
        };
        self.in_step &= !written;
        self.counts.written += u64::from(written);
        Ok(written)
    }

    /// Begins a read transaction, and answers what it sees, if that can be understood.
    fn begin_pin(&self, pin: usize) -> Result<Result<Option<Snapshot>, ScanReason>, FileError> {
        let conn = &self.pins[pin];
        let fail = |e| self.error("reading", e);
        conn.prepare_cached("BEGIN").and_then(|mut s| s.execute([])).map_err(fail)?;
        // Reading begins the transaction. If asking for the snapshot did, SQLite would hold the `-wal`
        // also where all of it is copied, and it would never be restarted.
        conn.prepare_cached("PRAGMA page_count")
            .and_then(|mut s| s.query_row([], |_| Ok(())))
            .map_err(fail)?;
        let Some(bytes) = ffi::snapshot(conn).map_err(fail)? else { return Ok(Ok(None)) };
        Ok(match Snapshot::decode(&bytes, self.page_size) {
            Some(snapshot) => Ok(Some(snapshot)),
            None => Err(ScanReason::Unreadable),
        })
    }

    /// Notes the pages of all frames from the pin to `now`. Answers how many frames there were.
    fn note(&mut self, now: Option<&Snapshot>) -> Result<u32, ScanReason> {
        let Some(now) = now else {
            // An empty `-wal` is what there was, or nothing is known of what happened to it.
            return if self.at.is_none() { Ok(0) } else { Err(ScanReason::NoWal) };
        };
        let since = match &self.at {
            Some(at) if at.mark.same_run(&now.mark) => at.mark,
            _ => now.mark.start_of_run(),
        };
        if now.mark.frame == 0 || since == now.mark {
            return Ok(0);
        }
        // An operation may see any state on the way, so the largest of them counts.
        let mut largest = self.at.map_or(0, |at| at.db_size).max(now.db_size);
        self.new.grow(largest);
        let (new, mut beyond) = (&mut self.new, Vec::new());
        let frames =
            wal::frames_between(&self.wal_path, self.page_size, &since, now, &mut |_, frame| {
                largest = largest.max(frame.commit_size);
                if frame.pgno.get() <= new.last() {
                    new.insert(frame.pgno);
                } else if beyond.len() <= BEYOND_MAX {
                    beyond.push(frame.pgno);
                }
            })?;
        if beyond.len() > BEYOND_MAX {
            return Err(ScanReason::Unreadable);
        }
        new.grow(largest);
        for pgno in beyond {
            new.insert(pgno);
        }
        Ok(frames)
    }

    /// Brings the `-wal` to where the next writer restarts it. Answers whether something was written
    /// by others meanwhile.
    fn tidy(&mut self) -> Result<bool, FileError> {
        self.counts.tidied += 1;
        self.copy()?;
        let mut written = self.advance()?;
        let mut copied = false;
        if self.lock()? {
            let done = self.tidy_under_lock();
            self.end(&self.locker);
            (written, copied) = done.map(|(more, copied)| (written | more, copied))?;
        }
        self.tidy_at = self.frames().saturating_add(FRAMES_STEP);
        if copied {
            self.shrink();
        }
        Ok(written)
    }

    /// Answers whether something had been written, and whether all of it is copied now.
    fn tidy_under_lock(&mut self) -> Result<(bool, bool), FileError> {
        let mut written = self.advance()?;
        let mut copied = false;
        for _ in 0..COPIES_MAX {
            copied = self.copy()?;
            if copied {
                written |= self.advance()?;
                break;
            }
        }
        Ok((written, copied))
    }

    /// Copies from the `-wal` into the database what no reader still needs there. Answers whether
    /// that was all.
    fn copy(&self) -> Result<bool, FileError> {
        let spare = &self.pins[1 - self.pinned];
        let (busy, frames, copied): (i64, i64, i64) = spare
            .prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")
            .and_then(|mut s| s.query_row([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?))))
            .map_err(|e| self.error("checkpointing", e))?;
        Ok(busy == 0 && frames == copied)
    }

    /// Takes the write lock, if it can be had soon.
    fn lock(&self) -> Result<bool, FileError> {
        match self.locker.execute_batch("BEGIN IMMEDIATE") {
            Ok(()) => Ok(true),
            Err(e) => match self.error("locking", e) {
                FileError::Busy { .. } => Ok(false),
                e => Err(e),
            },
        }
    }

    /// Gives the space of a very long `-wal` back, if nobody needs it just now. The pin is on a state
    /// that is copied completely, so this is the one restart that it allows.
    fn shrink(&self) {
        let long = std::fs::metadata(&self.wal_path).is_ok_and(|wal| wal.len() > SHRINK_BYTES);
        if long
            && let Err(error) =
                self.locker.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        {
            tracing::debug!(path = %self.path.display(), %error, "the -wal keeps its length");
        }
    }

    fn end(&self, conn: &Connection) {
        if !conn.is_autocommit()
            && let Err(error) = conn.execute_batch("ROLLBACK")
        {
            tracing::warn!(path = %self.path.display(), %error, "rolling back failed");
        }
    }

    fn error(&self, what: &'static str, error: rusqlite::Error) -> FileError {
        sqlite_error(&self.path, what, self.busy, error)
    }
}

fn same_run(a: Option<&Snapshot>, b: Option<&Snapshot>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.mark.same_run(&b.mark),
        (a, b) => a.is_none() && b.is_none(),
    }
}

//! An operation on a replica: its lock, its sidecar, its file, and the checks that come before
//! anything else.
//!
//! All of it is blocking and moves between blocking threads as one value. The database is opened
//! only through SQLite, by [`Session::live`], each time for one purpose.

use std::borrow::BorrowMut;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anabranch_format::{DbChecksum, Pgno, content_hash};
use anabranch_sqlite::{
    BaseMap, Compare, FileError, FileIdentity, How, LiveFile, Mark, PageEntry, PageSet, ScanReason,
    ViewOf,
};

use crate::adopt;
use crate::entropy;
use crate::error::Error;
use crate::keep::Keep;
use crate::lock::ReplicaLock;
use crate::remote;
use crate::replica::Options;
use crate::report::Note;
use crate::sidecar::{self, Sidecar};
use crate::state::{Known, State};

mod older;
mod settle;

pub(crate) use settle::Act;

/// An operation under way.
pub(crate) struct Session {
    lock: Option<ReplicaLock>,
    pub(crate) sidecar: Sidecar,
    pub(crate) state: State,
    /// The database, as SQLite resolves its name.
    pub(crate) db: PathBuf,
    /// Which file that was when the operation began; `None` if there was none yet.
    seen: Option<FileIdentity>,
    /// The tables of the file, if they were read; remembered when something settles.
    tables: RefCell<Option<Known>>,
    busy: Duration,
    /// What a long-lived program has open beside the operation.
    keep: Option<Arc<Keep>>,
    pub(crate) notes: Vec<Note>,
    /// See [`Session::hold`].
    held: Option<LiveFile>,
}

/// What changed here since the base.
#[derive(Debug, Clone)]
pub(crate) struct LocalChanges {
    /// Pages that differ from the base; a shrunken database has at least page 1 among them.
    pub(crate) pages: u64,
    /// Size now.
    pub(crate) size: u32,
    /// Database checksum now.
    pub(crate) sum: DbChecksum,
    /// How far the WAL has been looked at.
    pub(crate) mark: Option<Mark>,
    /// Page 1's schema cookie and change counter now.
    pub(crate) file_cookie: u32,
    pub(crate) change_counter: u32,
    /// How they were found.
    pub(crate) how: How,
    /// Pages that were looked at and are as in the base.
    pub(crate) unchanged: u64,
}

impl LocalChanges {
    pub(crate) fn is_empty(&self) -> bool {
        self.pages == 0
    }
}

/// Told of each changed page, ascending: number, image, entry.
pub(crate) type OnChange<'a> = dyn FnMut(Pgno, &[u8], PageEntry) -> Result<(), Error> + 'a;

impl Session {
    /// Locks the replica at `file` and opens its sidecar, unless that is `opened`; refuses a file that
    /// is not the one that the sidecar belongs to. For a program that keeps something open between
    /// operations, `keep` is that.
    pub(crate) fn open(
        file: &Path,
        options: &Options,
        opened: Option<Sidecar>,
        keep: Option<Arc<Keep>>,
    ) -> Result<Self, Error> {
        let (db, lock) = Self::lock(file, options)?;
        let mut session = Self::read(db, Some(lock), opened, options)?;
        session.check_identity()?;
        let seen = session.seen.as_ref();
        session.keep =
            keep.filter(|keep| seen.is_some_and(|seen| keep.begin(seen, &session.state)));
        Ok(session)
    }

    /// As [`Session::open`], for those who mend a file that is not the sidecar's any more.
    pub(crate) fn open_unchecked(file: &Path, options: &Options) -> Result<Self, Error> {
        let (db, lock) = Self::lock(file, options)?;
        Self::read(db, Some(lock), None, options)
    }

    fn lock(file: &Path, options: &Options) -> Result<(PathBuf, ReplicaLock), Error> {
        let db = resolve(file)?;
        refuse_what_is_no_replica(&db, options.busy_timeout)?;
        let lock = ReplicaLock::take(&db, options.busy_timeout)?;
        Ok((db, lock))
    }

    /// Opens the replica at `file` beside an operation that may be running: for looking only.
    pub(crate) fn look(file: &Path, options: &Options) -> Result<Self, Error> {
        let session = Self::glance(file, options)?;
        session.check_identity()?;
        Ok(session)
    }

    fn read(
        db: PathBuf,
        lock: Option<ReplicaLock>,
        opened: Option<Sidecar>,
        options: &Options,
    ) -> Result<Self, Error> {
        let (sidecar, state) = Sidecar::reopen(&db, opened)?;
        adopt::refuse_unfinished(&db, &state)?;
        let seen = Some(identity_of(&db)?);
        let busy = options.busy_timeout;
        let tables = RefCell::new(None);
        let (keep, notes) = (None, Vec::new());
        Ok(Session { lock, sidecar, state, db, seen, tables, busy, keep, notes, held: None })
    }

    /// A session on a replica that was just made.
    pub(crate) fn new(
        db: PathBuf,
        lock: ReplicaLock,
        sidecar: Sidecar,
        state: State,
        options: &Options,
    ) -> Self {
        let busy = options.busy_timeout;
        let seen = identity_of(&db).ok();
        let tables = RefCell::new(None);
        let (keep, notes) = (None, Vec::new());
        Session {
            lock: Some(lock),
            sidecar,
            state,
            db,
            seen,
            tables,
            busy,
            keep,
            notes,
            held: None,
        }
    }

    /// Closes the sidecar, keeping the lock.
    ///
    /// # Panics
    /// If the session was only for looking.
    pub(crate) fn into_lock(self) -> (PathBuf, ReplicaLock) {
        (self.db, self.lock.expect("a session that changes things holds the lock"))
    }

    /// Opens the replica at `file` without a look at the file itself: for what the sidecar knows.
    pub(crate) fn glance(file: &Path, options: &Options) -> Result<Self, Error> {
        let db = resolve(file)?;
        refuse_what_is_no_replica(&db, options.busy_timeout)?;
        Self::read(db, None, None, options)
    }

    /// The remote, credentials left out.
    pub(crate) fn remote_name(&self) -> String {
        remote::shown(&self.state.remote.to_os_string())
    }

    /// Opens the database through SQLite, for reading.
    pub(crate) fn live(&self) -> Result<LiveFile, Error> {
        let live = LiveFile::open(&self.db, self.busy)?;
        if live.page_size() != self.state.page_size {
            return Err(Error::PageSizeChanged {
                path: self.db.clone(),
                found: live.page_size(),
                expected: self.state.page_size,
            });
        }
        Ok(live)
    }

    /// Opens the database through SQLite, for pushing or pulling: in WAL mode, if need be again.
    pub(crate) fn live_prepared(&mut self) -> Result<LiveFile, Error> {
        let mut live = self.live()?;
        if live.prepare()?.switched_to_wal && !self.notes.contains(&Note::SwitchedToWal) {
            self.notes.push(Note::SwitchedToWal);
        }
        Ok(live)
    }

    /// Keeps a connection to the database open until [`Session::let_go`]: as long as there is one, the
    /// `-wal` stays, which tells what was written since the last look.
    pub(crate) fn hold(&mut self) -> Result<(), Error> {
        if self.held.is_none() {
            let mut live = self.live()?;
            // Only who has read counts.
            drop(live.begin()?);
            self.held = Some(live);
        }
        Ok(())
    }

    /// How long other programs' locks are waited for.
    pub(crate) fn patience(&self) -> Duration {
        self.busy
    }

    /// Closes what [`Session::hold`] keeps open.
    pub(crate) fn let_go(&mut self) {
        self.held = None;
    }

    /// The base map in the sidecar.
    pub(crate) fn base_map(&self) -> BaseMap<'_> {
        BaseMap::new(self.sidecar.conn(), self.state.seed, self.state.page_size)
    }

    /// Whether somebody seems to have written since the base was settled, by the times of the files. A
    /// guess that costs nothing: it may decide what is done first, never what is true.
    pub(crate) fn looks_written(&self) -> bool {
        let Some(settled) = self.state.settled_at else { return true };
        let settled = Duration::from_micros(u64::try_from(settled.0).unwrap_or(0));
        let since = std::time::UNIX_EPOCH + settled;
        [self.db.clone(), sidecar::beside(&self.db, "-wal")].iter().any(|path| {
            let modified = std::fs::metadata(path).and_then(|found| found.modified());
            modified.is_ok_and(|modified| modified > since)
        })
    }

    fn check_identity(&self) -> Result<(), Error> {
        match difference(&self.state.identity, &self.identity()?) {
            Some(what) => Err(Error::NotTheSameFile { path: self.db.clone(), what }),
            None => Ok(()),
        }
    }

    /// Fails if another file was put into this one's place since the operation began. For those who
    /// have just begun to read it: what they read is of the file that was looked at first.
    pub(crate) fn check_still_the_same(&self) -> Result<(), Error> {
        let Some(seen) = &self.seen else { return Ok(()) };
        match difference(seen, &self.identity()?) {
            Some(_) => Err(Error::NotTheSameFile {
                path: self.db.clone(),
                what: "it was replaced just now, while it was being looked at".to_owned(),
            }),
            None => Ok(()),
        }
    }

    /// Takes the file as it is for the replica's from now on, as a replica of its own: pushes of the
    /// one it may be a copy of must never be taken for its own. Nothing is written before something
    /// settles, so that a repair that fails leaves the file as strange as it was.
    pub(crate) fn take_up(&mut self) -> Result<(), Error> {
        let identity = self.identity()?;
        self.state.identity = identity.clone();
        self.seen = Some(identity);
        self.state.replica = entropy::writer_id();
        self.state.mark = None;
        Ok(())
    }

    /// Which file this is now.
    pub(crate) fn identity(&self) -> Result<FileIdentity, Error> {
        identity_of(&self.db)
    }

    /// Whether the machine was not restarted since the base was settled. A restart may have taken
    /// back what was not synced, so that no mark counts any more.
    pub(crate) fn same_boot(&self) -> Result<bool, Error> {
        Ok(self.state.identity.same_boot(&self.identity()?))
    }

    /// Finds what changed in `view` since the base. Stops with a typed error if the file is older
    /// than the replica, before anything can be pushed.
    pub(crate) fn capture<L: BorrowMut<LiveFile>>(
        &self,
        view: &ViewOf<L>,
        on_change: &mut OnChange<'_>,
    ) -> Result<LocalChanges, Error> {
        if view.page_one().change_counter < self.state.change_counter {
            return Err(self.older(None));
        }
        let changes = self.difference(view, on_change)?;
        if matches!(changes.how, How::Scan(ScanReason::Lost { .. })) {
            return Err(self.older(None));
        }
        let proven = matches!(changes.how, How::Chain { .. } | How::Watched);
        if !changes.is_empty() && !proven {
            self.refuse_foreign(view, &changes)?;
            self.refuse_older(view, &changes)?;
        }
        self.note_tables(view);
        Ok(changes)
    }

    /// As [`Session::capture`], for those who mend a file that may have gone back.
    pub(crate) fn difference<L: BorrowMut<LiveFile>>(
        &self,
        view: &ViewOf<L>,
        on_change: &mut OnChange<'_>,
    ) -> Result<LocalChanges, Error> {
        self.check_still_the_same()?;
        let base = &self.state.base;
        let same_boot = self.same_boot()?;
        let map = self.base_map();
        let watched = self.keep.as_ref().and_then(|keep| keep.candidates());
        let ahead = self.ahead()?;
        let mut changed = PageSet::new(view.db_size());
        let with = Compare {
            since: self.state.mark.as_ref(),
            watched: watched.as_ref(),
            ahead: ahead.as_ref(),
            restarted: !same_boot,
            base_size: base.size,
            page_one_always: false,
        };
        let captured = view.capture(&with, &map, &mut |pgno, page, entry| {
            changed.insert(pgno);
            on_change(pgno, page, entry)
        })?;
        if let Some(keep) = &self.keep {
            keep.captured(changed, view.mark(), &self.state);
        }
        let mut sum = base.sum;
        sum.0 ^= captured.checksum_change.0;
        Ok(LocalChanges {
            pages: captured.pages_changed,
            size: captured.db_size,
            sum,
            mark: view.mark().copied(),
            file_cookie: view.page_one().schema_cookie,
            change_counter: view.page_one().change_counter,
            how: captured.how,
            unchanged: captured.pages_read - captured.pages_changed,
        })
    }

    /// Reads the names of the tables of the file.
    pub(crate) fn read_tables(&self) -> Result<Known, Error> {
        let mut live = self.live()?;
        Ok(known_of(&live.begin()?))
    }

    /// The schema became another one; what it is known by is read when it is next looked at.
    pub(crate) fn forget_tables(&mut self) {
        *self.tables.get_mut() = Some(Known::default());
    }

    /// Reads the names of the tables, unless they are known.
    fn note_tables<L: BorrowMut<LiveFile>>(&self, view: &ViewOf<L>) {
        let cookie = view.page_one().schema_cookie;
        let known = &self.state.known;
        if known.tables.is_empty() || known.cookie != cookie {
            *self.tables.borrow_mut() = Some(known_of(view));
        }
    }

    /// Remembers how far the `-wal` was looked at, if a scan has found the file to be as its base:
    /// else each look would be a scan, until something changes. Only where that costs more than to
    /// make the `-wal` durable, without which there is no mark.
    pub(crate) fn note_unchanged(
        &mut self,
        view: &ViewOf<&mut LiveFile>,
        changes: &LocalChanges,
    ) -> Result<(), Error> {
        let scanned = matches!(changes.how, How::Scan(_));
        if !scanned || changes.unchanged < SCAN_PAGES_MAX || changes.mark.is_none() {
            return Ok(());
        }
        view.sync_wal()?;
        let mut next = self.state.clone();
        next.mark = changes.mark;
        next.change_counter = changes.change_counter;
        next.identity = match &self.seen {
            Some(seen) => seen.clone(),
            None => self.identity()?,
        };
        // If power fails it is gone, and the next look is a scan again.
        self.sidecar.begin_settling()?;
        let saved = self.sidecar.save_state(&next);
        if let Err(e) = saved.and_then(|()| self.sidecar.commit_settled()) {
            // The first error is the one to report.
            let _ = self.sidecar.rollback();
            return Err(e);
        }
        self.state = next;
        if let Some(keep) = &self.keep {
            keep.settled(&self.state);
        }
        Ok(())
    }

    /// Counts what changed here.
    pub(crate) fn local_changes(&self) -> Result<LocalChanges, Error> {
        let mut live = self.live()?;
        let view = live.begin()?;
        self.capture(&view, &mut |_, _, _| Ok(()))
    }
}

/// Scans of fewer pages are made again and again rather than waiting for the disk once.
const SCAN_PAGES_MAX: u64 = 1024;

/// The database's name as SQLite resolves it: symbolic links followed, made absolute. SQLite is not
/// asked: if nobody else had the database open, closing it would delete the `-wal`, and with it the
/// proof of what was written since the last sync.
pub(crate) fn resolve(file: &Path) -> Result<PathBuf, Error> {
    file.canonicalize().map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => Error::File(FileError::Missing { path: file.to_owned() }),
        std::io::ErrorKind::PermissionDenied => Error::File(FileError::Permission {
            path: file.to_owned(),
            source: Some(Box::new(source)),
        }),
        _ => Error::Io { what: "resolving", path: file.to_owned(), source },
    })
}

/// Where there is no sidecar, SQLite may know why: the path names a directory, or no database.
fn refuse_what_is_no_replica(db: &Path, busy: Duration) -> Result<(), Error> {
    let sidecar = sidecar::path_for(db);
    if sidecar.exists() {
        return Ok(());
    }
    LiveFile::open(db, busy)?;
    Err(Error::NotAReplica { path: db.to_owned(), sidecar })
}

/// How many tables are remembered by name: a few are enough to know a database again.
const TABLES_MAX: u32 = 256;

/// What the database in `view` is known by; nothing if its schema cannot be read.
pub(crate) fn known_of<L: BorrowMut<LiveFile>>(view: &ViewOf<L>) -> Known {
    let cookie = view.page_one().schema_cookie;
    Known { tables: tables_of(view).unwrap_or_default(), cookie }
}

/// Hashes of the names of the tables in `view`, and of their columns, so that a table is known again
/// after it was renamed.
fn tables_of<L: BorrowMut<LiveFile>>(view: &ViewOf<L>) -> Result<Vec<u64>, FileError> {
    let tables = view.tables(TABLES_MAX)?;
    let columns = |sql: &str| sql.find('(').map(|at| content_hash(&sql.as_bytes()[at..]));
    let hashes = tables
        .iter()
        .flat_map(|(name, sql)| std::iter::once(content_hash(name.as_bytes())).chain(columns(sql)));
    Ok(hashes.collect())
}

/// What tells two files apart; `None` if they are the same.
fn difference(known: &FileIdentity, now: &FileIdentity) -> Option<String> {
    let differ =
        |a: &Option<String>, b: &Option<String>| matches!((a, b), (Some(a), Some(b)) if a != b);
    if differ(&known.machine, &now.machine) {
        return Some("it was copied from another machine together with its sidecar".into());
    }
    if known.inode != now.inode || !known.same_birth(now) {
        let what = "it was replaced or copied: it is not the file that was there when they were \
                    last in step";
        return Some(what.into());
    }
    // Device numbers may change from boot to boot.
    if known.device != now.device && known.same_boot(now) {
        return Some("it lies on another device".into());
    }
    None
}

/// Which file lies at `path`.
pub(crate) fn identity_of(path: &Path) -> Result<FileIdentity, Error> {
    FileIdentity::of(path).map_err(|source| Error::Io {
        what: "looking at",
        path: path.to_owned(),
        source,
    })
}

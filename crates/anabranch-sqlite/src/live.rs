//! A live file: one connection to a database that other programs use.
//!
//! Owns the connection and how it is set up; does not own a transaction beyond a [`View`]. The
//! connection serves reading and writing of raw pages only, and is replaced after every apply: the
//! one that wrote pages keeps its old schema and answers wrongly. The first of those is kept open
//! unused and closed last: it has synced the directory of the `-wal` already, which each further
//! connection would do again before its first sync, at the latest when it is the last to close.
//!
//! Set-up of each connection, and why:
//! - `synchronous = FULL`: what was applied must survive a power failure, as the sidecar says so.
//!   One exception, for speed: see [`LiveFile::begin_apply`];
//! - `wal_autocheckpoint = 0`: no checkpoint inside our commits, while others wait for the lock;
//! - triggers and foreign keys off, automatic vacuum refused: pages go in exactly as they came.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anabranch_format::PageSize;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::error::FileError;
use crate::ffi;
use crate::identity::FileIdentity;
use crate::view::View;
use crate::write_behind::WriteBehind;

/// Bytes that SQLite's checksum extension reserves per page.
const CHECKSUM_VFS_RESERVED: u8 = 8;

/// A database file that other programs use at the same time.
pub struct LiveFile {
    pub(crate) conn: Connection,
    pub(crate) path: PathBuf,
    wal_path: PathBuf,
    pub(crate) page_size: PageSize,
    pub(crate) busy: Duration,
    /// The first connection that wrote pages; never used again. Declared after `conn`, so that it is
    /// the last to close.
    retired: Option<Connection>,
    /// The connection wrote pages; it must not be used for anything more.
    pub(crate) spent: bool,
    /// COMMIT will not wait for the disk; [`LiveFile::close`] does.
    pub(crate) lazy: bool,
    /// Something was committed that way.
    pub(crate) unsynced: bool,
    /// The `-wal` was there before this connection, so that somebody else has the database open: our
    /// close will not checkpoint.
    shared: bool,
    /// Syncs the `-wal` while it is being written.
    pub(crate) behind: Option<WriteBehind>,
}

impl std::fmt::Debug for LiveFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LiveFile")
            .field("path", &self.path)
            .field("page_size", &self.page_size)
            .finish_non_exhaustive()
    }
}

/// What [`LiveFile::prepare`] did to the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Prepared {
    /// The database was in another journal mode and is in WAL mode now.
    pub switched_to_wal: bool,
    /// The size in the file header was out of date and is right now.
    pub normalised_size: bool,
}

/// The form a database is in; that of one without content.
#[derive(Default)]
struct Header {
    /// Bytes that are reserved at the end of each page.
    reserved: Option<u8>,
    /// The size it states is not the true one, or does not count.
    stale_size: bool,
    wal: bool,
}

impl LiveFile {
    /// Opens an existing database. Waits up to `busy` for other programs' locks, here and later.
    ///
    /// Changes nothing in the database (SQLite itself rolls back what a crashed program left).
    pub fn open(path: &Path, busy: Duration) -> Result<Self, FileError> {
        check_features()?;
        check_is_file(path)?;
        let shared = wal_of(path).is_some_and(|wal| wal.exists());
        let conn = connect(path, busy)?;
        Ok(LiveFile { shared, ..Self::with(conn, path, busy)? })
    }

    /// Creates a database without content, of one page, in WAL mode. The file must not exist.
    pub fn create_empty(
        path: &Path,
        page_size: PageSize,
        busy: Duration,
    ) -> Result<Self, FileError> {
        check_features()?;
        // Nobody in this process can have a connection to a file that did not exist: the one case
        // in which closing it outside SQLite drops no locks.
        std::fs::File::create_new(path).map_err(|source| match source.kind() {
            std::io::ErrorKind::AlreadyExists => FileError::Exists { path: path.into() },
            std::io::ErrorKind::PermissionDenied => {
                FileError::Permission { path: path.into(), source: Some(Box::new(source)) }
            }
            _ => FileError::Io { path: path.into(), what: "creating", source },
        })?;
        let conn = connect(path, busy)?;
        conn.pragma_update(None, "page_size", page_size.get())
            .map_err(|e| sqlite_error(path, "creating", busy, e))?;
        let mut live = Self::with(conn, path, busy)?;
        live.prepare()?;
        Ok(live)
    }

    fn with(conn: Connection, path: &Path, busy: Duration) -> Result<Self, FileError> {
        let resolved = ffi::path(&conn, ffi::Which::Main);
        let wal_path = ffi::path(&conn, ffi::Which::Wal);
        let (Some(resolved), Some(wal_path)) = (resolved, wal_path) else {
            return Err(FileError::NotADatabase { path: path.into() });
        };
        let page_size = read_page_size(&conn, &resolved, busy)?;
        Ok(LiveFile {
            conn,
            path: resolved,
            wal_path,
            page_size,
            busy,
            retired: None,
            spent: false,
            lazy: false,
            unsynced: false,
            shared: false,
            behind: None,
        })
    }

    /// Puts the database into the form that can be kept in step: WAL mode, and a file header that
    /// states the true size. Says what it had to change.
    pub fn prepare(&mut self) -> Result<Prepared, FileError> {
        self.renew_if_spent()?;
        let found = self.header()?;
        if let Some(reserved) = found.reserved.filter(|n| *n == CHECKSUM_VFS_RESERVED) {
            return Err(FileError::UnsupportedReserved { path: self.path.clone(), reserved });
        }
        // Looked at first, since the switch writes page 1 and so corrects the size on the way.
        let normalised_size = found.stale_size;
        if found.wal && !normalised_size {
            return Ok(Prepared::default());
        }
        let switched_to_wal = self.switch_to_wal()?;
        if self.header()?.stale_size {
            self.rewrite_size()?;
        }
        self.page_size = read_page_size(&self.conn, &self.path, self.busy)?;
        Ok(Prepared { switched_to_wal, normalised_size })
    }

    /// What the file header says of the form the database is in.
    fn header(&mut self) -> Result<Header, FileError> {
        match self.begin() {
            Ok(view) => {
                let one = view.page_one();
                // The size does not count where the counters differ: SQLite before 3.7 wrote none.
                // Pages travel without a file's length to go by, so the header must be right.
                let counts = one.change_counter == one.version_valid_for;
                Ok(Header {
                    reserved: Some(one.reserved),
                    stale_size: !counts || one.db_size != view.db_size(),
                    wal: view.is_wal(),
                })
            }
            Err(FileError::Empty { .. }) => Ok(Header::default()),
            Err(error) => Err(error),
        }
    }

    fn rewrite_size(&self) -> Result<(), FileError> {
        // Any write of page 1 makes SQLite correct the size and both counters.
        let work = || -> rusqlite::Result<()> {
            let version: i64 = self.conn.query_row("PRAGMA user_version", [], |r| r.get(0))?;
            self.conn
                .execute_batch(&format!("BEGIN IMMEDIATE; PRAGMA user_version = {version}; COMMIT"))
        };
        let done = work();
        if done.is_err() {
            self.rollback();
        }
        done.map_err(|e| self.error("correcting the header of", e))
    }

    fn switch_to_wal(&self) -> Result<bool, FileError> {
        let ask = |sql: &str| -> Result<String, FileError> {
            self.conn
                .query_row(sql, [], |r| r.get(0))
                .map_err(|e| self.error("switching to WAL mode", e))
        };
        if ask("PRAGMA journal_mode")? == "wal" {
            return Ok(false);
        }
        let mode = ask("PRAGMA journal_mode = WAL")?;
        if mode == "wal" {
            Ok(true)
        } else {
            Err(FileError::NoWalMode { path: self.path.clone(), mode })
        }
    }

    /// The database, as SQLite resolved it: absolute, symbolic links followed.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The write-ahead log beside it.
    #[must_use]
    pub fn wal_path(&self) -> &Path {
        &self.wal_path
    }

    /// The page size.
    #[must_use]
    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// Which file this is, by `stat`.
    pub fn identity(&self) -> Result<FileIdentity, FileError> {
        FileIdentity::of(&self.path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => FileError::Missing { path: self.path.clone() },
            _ => FileError::Io { path: self.path.clone(), what: "looking at", source },
        })
    }

    /// The type of the file system, if it is one that other machines may write too (NFS, SMB, folders
    /// of a virtual machine's host): a reason to warn, as WAL mode does not work across machines.
    /// Known on Linux only.
    #[must_use]
    pub fn shared_filesystem(&self) -> Option<String> {
        crate::mount::shared_filesystem(&self.path)
    }

    /// Begins a read transaction: the committed state of this moment, until the view is dropped.
    pub fn begin(&mut self) -> Result<View<'_>, FileError> {
        self.ready_to_read()?;
        View::begin_on(self)
    }

    /// As [`LiveFile::begin`], for a view that will be compared and applied to. What is applied is
    /// durable only when [`LiveFile::close`] has returned, which must be called then.
    ///
    /// With an empty `-wal`, COMMIT need not wait for the disk: there are no older frames that a
    /// power failure could bring back, so the new ones are there as a whole or not at all; and if
    /// nobody else has the database open, the checkpoint at close syncs them anyway. That is two
    /// waits less in each pull.
    pub fn begin_apply(&mut self) -> Result<View<'_>, FileError> {
        self.renew_if_spent()?;
        let lazy = self.has_empty_wal();
        self.set_lazy(lazy)?;
        View::begin_on(self)
    }

    pub(crate) fn ready_to_read(&mut self) -> Result<(), FileError> {
        self.renew_if_spent()?;
        self.set_lazy(false)
    }

    /// Whether the `-wal` is absent or empty: not one byte of an earlier run is in it.
    pub(crate) fn has_empty_wal(&self) -> bool {
        match std::fs::metadata(&self.wal_path) {
            Ok(found) => found.len() == 0,
            Err(e) => e.kind() == std::io::ErrorKind::NotFound,
        }
    }

    /// Outside a transaction only: SQLite refuses it inside one.
    pub(crate) fn set_lazy(&mut self, lazy: bool) -> Result<(), FileError> {
        if self.lazy != lazy {
            let level = if lazy { "off" } else { "full" };
            self.conn
                .pragma_update(None, "synchronous", level)
                .map_err(|e| self.error("setting up", e))?;
            self.lazy = lazy;
        }
        Ok(())
    }

    /// Closes the file. What was applied is durable when this returns: either the last one to close
    /// has checkpointed it, or the `-wal`, which others have open, is synced here.
    pub fn close(mut self) -> Result<(), FileError> {
        let (path, unsynced, behind) = (self.wal_path.clone(), self.unsynced, self.behind.take());
        drop(self);
        let failed = |source| FileError::Io { path: path.clone(), what: "syncing", source };
        if let Some(behind) = behind {
            behind.finish().map_err(failed)?;
            if unsynced {
                // It was asked for after COMMIT.
                return crate::view::sync_directory_of(&path);
            }
        }
        if !unsynced {
            return Ok(());
        }
        match std::fs::File::open(&path) {
            Ok(wal) => {
                wal.sync_all().map_err(failed)?;
                crate::view::sync_directory_of(&path)
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(failed(e)),
        }
    }

    /// Has the disk take what the `-wal` holds by now, if that spares a wait later. Without it
    /// everything is only slower, so that it does not start is no error.
    pub(crate) fn write_behind(&mut self) {
        if self.shared && self.behind.is_none() {
            let started = std::fs::File::open(&self.wal_path).and_then(WriteBehind::start);
            self.behind = started.ok();
        }
        if let Some(behind) = &self.behind {
            behind.sync_soon();
        }
    }

    pub(crate) fn renew_if_spent(&mut self) -> Result<(), FileError> {
        if self.spent {
            self.replace_connection(connect(&self.path, self.busy)?);
        }
        Ok(())
    }

    /// A further connection, set up like the first.
    pub(crate) fn connect_again(&self) -> Result<LiveFile, FileError> {
        let conn = connect(&self.path, self.busy)?;
        Self::with(conn, &self.path, self.busy)
    }

    /// Goes on with `conn`, which must have looked at the database already: otherwise the old one,
    /// being the last, would delete the `-wal` when it closes.
    pub(crate) fn replace_connection(&mut self, conn: Connection) {
        let spent = std::mem::replace(&mut self.conn, conn);
        self.retired.get_or_insert(spent);
        self.spent = false;
        self.lazy = false;
    }

    pub(crate) fn rollback(&self) {
        if !self.conn.is_autocommit()
            && let Err(error) = self.conn.execute_batch("ROLLBACK")
        {
            tracing::warn!(path = %self.path.display(), %error, "rolling back failed");
        }
    }

    pub(crate) fn error(&self, what: &'static str, error: rusqlite::Error) -> FileError {
        sqlite_error(&self.path, what, self.busy, error)
    }
}

/// Where the `-wal` of the database at `path` is.
pub(crate) fn wal_of(path: &Path) -> Option<PathBuf> {
    let mut wal = path.canonicalize().ok()?.into_os_string();
    wal.push("-wal");
    Some(wal.into())
}

fn check_features() -> Result<(), FileError> {
    for (name, option) in
        [(c"ENABLE_DBPAGE_VTAB", "ENABLE_DBPAGE_VTAB"), (c"ENABLE_SNAPSHOT", "ENABLE_SNAPSHOT")]
    {
        if !ffi::compiled_with(name) {
            return Err(FileError::MissingFeature { version: rusqlite::version(), option });
        }
    }
    Ok(())
}

pub(crate) fn check_is_file(path: &Path) -> Result<(), FileError> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(FileError::IsADirectory { path: path.into() }),
        Ok(_) => Ok(()),
        Err(source) => Err(match source.kind() {
            std::io::ErrorKind::NotFound => FileError::Missing { path: path.into() },
            std::io::ErrorKind::PermissionDenied => {
                FileError::Permission { path: path.into(), source: Some(Box::new(source)) }
            }
            _ => FileError::Io { path: path.into(), what: "looking at", source },
        }),
    }
}

/// A connection, set up as the module says.
pub(crate) fn connect(path: &Path, busy: Duration) -> Result<Connection, FileError> {
    let fail = |e| sqlite_error(path, "opening", busy, e);
    // A path is a path, also one that begins with "file:", which SQLite may be compiled to take for
    // an address: an absolute one never does.
    let path = &std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    // Private cache: each connection must see the file as other processes do.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_PRIVATE_CACHE;
    let conn = Connection::open_with_flags(path, flags).map_err(fail)?;
    if conn.is_readonly(rusqlite::MAIN_DB).map_err(fail)? {
        return Err(FileError::Permission { path: path.into(), source: None });
    }
    set_up(&conn, busy).map_err(fail)?;
    Ok(conn)
}

fn set_up(conn: &Connection, busy: Duration) -> rusqlite::Result<()> {
    conn.busy_timeout(busy)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false)?;
    ffi::never_autovacuum(conn)?;
    conn.execute_batch("PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0")
}

fn read_page_size(conn: &Connection, path: &Path, busy: Duration) -> Result<PageSize, FileError> {
    // The read of the schema version makes SQLite look at the file first.
    let read = || -> rusqlite::Result<u32> {
        conn.query_row("PRAGMA schema_version", [], |_| Ok(()))?;
        conn.query_row("PRAGMA page_size", [], |r| r.get(0))
    };
    let bytes = read().map_err(|e| sqlite_error(path, "reading", busy, e))?;
    PageSize::new(bytes).map_err(|_| FileError::NotADatabase { path: path.into() })
}

/// SQLite's error in the caller's terms.
pub(crate) fn sqlite_error(
    path: &Path,
    what: &'static str,
    busy: Duration,
    error: rusqlite::Error,
) -> FileError {
    let path = path.to_path_buf();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            FileError::Busy { path, what, waited: busy }
        }
        Some(ErrorCode::NotADatabase) => FileError::NotADatabase { path },
        Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly | ErrorCode::CannotOpen) => {
            FileError::Permission { path, source: Some(Box::new(error)) }
        }
        _ => FileError::Sqlite { path, what, source: error },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commit_waits_for_the_disk_wherever_older_frames_could_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        let mut live =
            LiveFile::create_empty(&path, PageSize::DEFAULT, Duration::from_secs(5)).unwrap();
        let other = Connection::open(&path).unwrap();
        other.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES (1)").unwrap();
        drop(live.begin_apply().unwrap());
        assert!(!live.lazy, "frames that count");
        other
            .query_row("PRAGMA wal_checkpoint(RESTART)", [], |row| row.get::<_, i64>(0))
            .map(|busy| assert_eq!(busy, 0))
            .unwrap();
        drop(live.begin_apply().unwrap());
        assert!(!live.lazy, "frames that are copied, but still in the file");
        other.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        let view = live.begin_apply().unwrap();
        assert!(view.live.lazy, "no frame at all");
        drop(view);
        assert!(!live.lazy, "the last to close checkpoints what others have committed");
        assert!(!live.begin().unwrap().live.lazy, "a view that is not for applying");
    }
}

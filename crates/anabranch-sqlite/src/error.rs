//! Why an operation on a live file, a base map, a capture or an apply failed.

use std::path::PathBuf;
use std::time::Duration;

use anabranch_format::{DbChecksum, DeltaError, PageOneError, PageSize, Pgno};

/// Why a live file could not be opened, read or prepared. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// There is no such file.
    #[error("{path} does not exist", path = path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The path names a directory.
    #[error("{path} is a directory, not a database file", path = path.display())]
    IsADirectory {
        /// The directory.
        path: PathBuf,
    },
    /// A file stands where a new one was to be made.
    #[error("{path} exists already; it is never overwritten", path = path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The content is not a SQLite database, or it is encrypted.
    #[error("{path} is not a SQLite database (or it is encrypted)", path = path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// The file has no page yet; [`LiveFile::prepare`](crate::LiveFile::prepare) gives it its first.
    #[error("{path} is an empty file, not yet a database", path = path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The file, its directory, or a file beside it may not be read or written.
    #[error(
        "no permission to read and write {path}, its directory, or its -wal and -shm files",
        path = path.display()
    )]
    Permission {
        /// The database.
        path: PathBuf,
        /// What SQLite or the system said.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// Another program holds the database; try again, or close that program.
    #[error(
        "another program holds {path} (waited {waited:?} for {what}); try again when it is done",
        path = path.display()
    )]
    Busy {
        /// The database.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// How long.
        waited: Duration,
    },
    /// The database reserves 8 bytes per page, as the checksum VFS does.
    #[error(
        "{path} reserves {reserved} bytes at the end of each page, as SQLite's checksum extension \
         does; such pages cannot be kept in step. Remove the reservation \
         (sqlite3_file_control with SQLITE_FCNTL_RESERVE_BYTES 0, then VACUUM) and try again",
        path = path.display()
    )]
    UnsupportedReserved {
        /// The database.
        path: PathBuf,
        /// Bytes reserved per page.
        reserved: u8,
    },
    /// The page size changed while the file was open here.
    #[error("{path} had pages of {was} bytes and has pages of {now} bytes now", path = path.display())]
    PageSizeChanged {
        /// The database.
        path: PathBuf,
        /// When it was opened.
        was: PageSize,
        /// Now.
        now: PageSize,
    },
    /// The database could not be switched to WAL mode.
    #[error(
        "{path} stays in journal mode '{mode}': it could not be switched to WAL (some file \
         systems and storage layers do not support it)",
        path = path.display()
    )]
    NoWalMode {
        /// The database.
        path: PathBuf,
        /// The mode it is in.
        mode: String,
    },
    /// SQLite was compiled without a part this crate stands on.
    #[error(
        "SQLite {version} in this program was compiled without {option}; build with \
         LIBSQLITE3_FLAGS=\"-DSQLITE_ENABLE_DBPAGE_VTAB -DSQLITE_ENABLE_SNAPSHOT\""
    )]
    MissingFeature {
        /// SQLite's version.
        version: &'static str,
        /// The compile option.
        option: &'static str,
    },
    /// The first page is not that of a database.
    #[error("{path} cannot be kept in step", path = path.display())]
    PageOne {
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: PageOneError,
    },
    /// A page that should be there is not, or has another length.
    #[error("{path}: page {page} cannot be read; run `PRAGMA integrity_check`", path = path.display())]
    Page {
        /// The database.
        path: PathBuf,
        /// The page.
        page: Pgno,
    },
    /// SQLite failed otherwise.
    #[error("{what} {path} failed", path = path.display())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What was tried ("opening", "reading", ...).
        what: &'static str,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// The operating system failed.
    #[error("{what} {path} failed", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl FileError {
    /// Whether another program's lock was in the way, so that trying again later can help.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(self, FileError::Busy { .. })
    }
}

/// Why the base map cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BaseError {
    /// SQLite failed on the sidecar.
    #[error("reading or writing the base map failed")]
    Sqlite(#[from] rusqlite::Error),
    /// A row is not what was written.
    #[error("the base map is damaged: row {row} of table '{table}' does not have its checksum")]
    Damaged {
        /// The table.
        table: &'static str,
        /// The row's key.
        row: i64,
    },
    /// Staged pages must ascend.
    #[error("page {page} was staged after page {previous}")]
    Order {
        /// The page that is out of order.
        page: Pgno,
        /// The page before it.
        previous: Pgno,
    },
}

/// Why a capture failed; `E` is the error of the caller's callback.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError<E> {
    /// The live file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The base map.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// The callback.
    #[error(transparent)]
    Callback(E),
}

/// Why the pages of a change do not come.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NewPagesError {
    /// They cannot be read.
    #[error("reading the change")]
    Pages(#[from] DeltaError),
    /// The base map cannot be read.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// All are there, but they do not lead to the state that they should.
    #[error("the change leads to a state with checksum {found}, not {expected}")]
    Checksum {
        /// The database checksum that they lead to.
        found: DbChecksum,
        /// The one that was stated.
        expected: DbChecksum,
    },
}

/// Why an apply failed; `E` is the error of the caller's callback.
///
/// Unless [`ApplyError::may_be_committed`], nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError<E> {
    /// Somebody committed since the view began: capture again.
    #[error("the database was written since it was looked at")]
    Moved,
    /// The database is in rollback-journal mode; [`LiveFile::prepare`](crate::LiveFile::prepare)
    /// switches it back.
    #[error("the database left WAL mode: some program switched it")]
    NotWal,
    /// The change is for pages of another size.
    #[error("the change is for pages of {delta} bytes, the file has pages of {file} bytes")]
    PageSize {
        /// Of the file.
        file: PageSize,
        /// Of the change.
        delta: PageSize,
    },
    /// Page 1 of the change does not fit the file or the change.
    #[error("page 1 of the change does not fit: {0}")]
    PageOne(String),
    /// The pages of the change are not those of a change to this file.
    #[error("the change cannot be applied")]
    Pages(#[from] DeltaError),
    /// The pages of the change lead to another state than was stated.
    #[error("the change leads to a state with checksum {found}, not {expected}")]
    Checksum {
        /// The database checksum that they lead to.
        found: DbChecksum,
        /// The one that was stated.
        expected: DbChecksum,
    },
    /// The live file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The base map.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// The callback.
    #[error(transparent)]
    Callback(E),
    /// COMMIT itself failed; SQLite usually rolled back, recovery finds out.
    #[error("committing the change failed")]
    Commit(#[source] FileError),
    /// The change was committed, but looking at it afterwards failed.
    #[error("the change was committed, but could not be verified")]
    AfterCommit(#[source] FileError),
    /// The change was committed, but the file does not hold it.
    #[error("the change was committed, but {0}; run `PRAGMA integrity_check`")]
    Verify(Mismatch),
}

impl<E> From<NewPagesError> for ApplyError<E> {
    fn from(e: NewPagesError) -> Self {
        match e {
            NewPagesError::Pages(e) => ApplyError::Pages(e),
            NewPagesError::Base(e) => ApplyError::Base(e),
            NewPagesError::Checksum { found, expected } => ApplyError::Checksum { found, expected },
        }
    }
}

impl<E> ApplyError<E> {
    /// Whether the change may be in the file in spite of the error. If so, the intent must be kept
    /// and decided by [`View::was_applied`](crate::View::was_applied).
    #[must_use]
    pub fn may_be_committed(&self) -> bool {
        matches!(self, ApplyError::Commit(_) | ApplyError::AfterCommit(_) | ApplyError::Verify(_))
    }
}

/// How the file differs from what was committed to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Mismatch {
    /// The size.
    #[error("the file has {found} pages instead of {expected}")]
    Size {
        /// Pages found.
        found: u32,
        /// Pages committed.
        expected: u32,
    },
    /// A page of the change holds something else.
    #[error("page {0} holds something else")]
    Page(Pgno),
    /// The commit contains a page that is not in the change.
    #[error("page {0}, which is not part of the change, was written with it")]
    Foreign(Pgno),
}

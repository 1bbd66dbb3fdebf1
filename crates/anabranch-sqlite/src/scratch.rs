//! A connection of SQLite on a state that is no file: to read it, or to make a further one.
//!
//! The state may come from anybody. How each connection is set up, and why:
//! - no triggers, no foreign keys: rows are written exactly as they are given;
//! - `trusted_schema` off, `cell_size_check` on, a bound on the size of a value, no extensions: what
//!   is in the schema or the pages must not make SQLite do more than read them;
//! - `defensive` off on a writable one alone: shadow tables and `sqlite_schema` are written there;
//! - nothing waits for a disk and nobody else has it open: `synchronous` off, exclusive locking.
//!
//! A writable connection has a journal, so that statements and transactions that fail are undone; it
//! is a temporary file without a name, as are SQLite's own temporary files, in the folder for
//! temporary files of the system. So memory is bounded by [`CACHE_KIB`] and the layer's own bound,
//! also in `VACUUM` or while an index is built.
//!
//! SQLite knows only numbers of errors. What really failed is kept aside: [`Scratch::explain`].

use std::fmt;
use std::io;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use anabranch_format::{DB_HEADER_BYTES, PageOne, PageOneError, PageSize, Pgno};
use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags};

use crate::ffi::vfs;
use crate::overlay::SharedOverlay;
use crate::page_read::{SharedPages, lock};
use crate::state_file::{Failure, StateFile};

/// The largest value, row or statement, in bytes.
pub const VALUE_BYTES_MAX: i32 = 256 << 20;

/// SQLite's cache of pages for one connection.
const CACHE_KIB: u32 = 8 << 10;

/// A connection on a state: see the module. Derefs to the connection.
pub struct Scratch {
    conn: Connection,
    failure: Failure,
}

/// A page of a state that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{what} page {page}")]
pub struct PageFailure {
    /// What was tried.
    what: &'static str,
    /// The page; the first if it was about the whole state.
    page: Pgno,
    /// Why.
    #[source]
    pub(crate) source: io::Error,
}

impl PageFailure {
    pub(crate) fn reading(page: Pgno, source: io::Error) -> Self {
        PageFailure { what: "reading", page, source }
    }

    pub(crate) fn writing(page: Pgno, source: io::Error) -> Self {
        PageFailure { what: "writing", page, source }
    }
}

/// Why a connection on a state could not be had, or what it was asked could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScratchError {
    /// SQLite itself failed.
    #[error("SQLite failed")]
    Sqlite(#[source] rusqlite::Error),
    /// The pages cannot be read or written.
    #[error("the pages of the database cannot be used")]
    Pages(#[from] PageFailure),
    /// The first page is not that of a database.
    #[error("the first page is not that of a database")]
    PageOne(#[from] PageOneError),
    /// The first page states another page size than the state has.
    #[error("the first page states pages of {stated} bytes, the state has pages of {found} bytes")]
    PageSize {
        /// As in the file header.
        stated: PageSize,
        /// As the pages are.
        found: PageSize,
    },
    /// Another connection writes to the same layer.
    #[error("another connection writes to this state")]
    InUse,
}

impl Scratch {
    /// A connection that only reads.
    pub fn read_only(pages: SharedPages) -> Result<Self, ScratchError> {
        Self::open(pages, None)
    }

    /// A connection whose writes become pages of `overlay`. There can be one at a time; nothing else
    /// may read the overlay as a database before it is closed.
    pub fn writable(overlay: &SharedOverlay) -> Result<Self, ScratchError> {
        {
            let mut layer = lock(overlay).map_err(|e| PageFailure::reading(Pgno::ONE, e))?;
            if layer.written {
                return Err(ScratchError::InUse);
            }
            // Until the file that is made below is dropped.
            layer.written = true;
        }
        Self::open(overlay.clone(), Some(overlay.clone()))
    }

    fn open(pages: SharedPages, writable: Option<SharedOverlay>) -> Result<Self, ScratchError> {
        let failure = Arc::new(Mutex::new(None));
        let is_writable = writable.is_some();
        let first = |e| PageFailure::reading(Pgno::ONE, e);
        let file = StateFile::new(pages.clone(), writable, Arc::clone(&failure)).map_err(first)?;
        let page_size = check_page_one(&pages)?;
        let access = if is_writable {
            OpenFlags::SQLITE_OPEN_READ_WRITE
        } else {
            OpenFlags::SQLITE_OPEN_READ_ONLY
        };
        let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_PRIVATE_CACHE;
        let conn = vfs::open(Box::new(file), flags).map_err(|e| explain(&failure, e))?;
        let scratch = Scratch { conn, failure };
        match set_up(&scratch.conn, is_writable, page_size) {
            Ok(()) => Ok(scratch),
            Err(error) => Err(scratch.explain(error)),
        }
    }

    /// What a failed statement of this connection is due to: the pages beneath, if they failed since
    /// the last call, else what SQLite says.
    #[must_use]
    pub fn explain(&self, error: rusqlite::Error) -> ScratchError {
        explain(&self.failure, error)
    }

    /// The first failure of the pages beneath since the last call.
    #[must_use]
    pub fn take_failure(&self) -> Option<PageFailure> {
        take(&self.failure)
    }
}

fn take(failure: &Failure) -> Option<PageFailure> {
    failure.lock().unwrap_or_else(PoisonError::into_inner).take()
}

fn explain(failure: &Failure, error: rusqlite::Error) -> ScratchError {
    take(failure).map_or(ScratchError::Sqlite(error), ScratchError::Pages)
}

impl Deref for Scratch {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.conn
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratch").field("conn", &self.conn).finish_non_exhaustive()
    }
}

/// Whether SQLite would cut the state into pages as it is cut here.
fn check_page_one(pages: &SharedPages) -> Result<PageSize, ScratchError> {
    let first = |e| PageFailure::reading(Pgno::ONE, e);
    let mut pages = lock(pages).map_err(first)?;
    let found = pages.page_size();
    if pages.size() > 0 {
        let mut page = vec![0; found.bytes()];
        pages.read(Pgno::ONE, &mut page).map_err(first)?;
        let stated = PageOne::read(&page[..DB_HEADER_BYTES])?.page_size;
        if stated != found {
            return Err(ScratchError::PageSize { stated, found });
        }
    }
    Ok(found)
}

fn set_up(conn: &Connection, writable: bool, page_size: PageSize) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, !writable)?;
    conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX)?;
    conn.execute_batch(&format!(
        "PRAGMA page_size = {page_size}; PRAGMA locking_mode = EXCLUSIVE;
         PRAGMA synchronous = OFF; PRAGMA cache_size = -{CACHE_KIB}; PRAGMA temp_store = FILE;
         PRAGMA cell_size_check = ON;"
    ))?;
    if writable {
        // The journal stays open and is emptied at each COMMIT.
        conn.query_row("PRAGMA journal_mode = TRUNCATE", [], |_| Ok(()))?;
    }
    // Makes SQLite look at the state, so that what cannot be read at all is found here.
    conn.query_row("PRAGMA schema_version", [], |_| Ok(()))
}

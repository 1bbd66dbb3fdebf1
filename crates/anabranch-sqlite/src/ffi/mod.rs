//! The only place with `unsafe`: calls to SQLite that `rusqlite` does not wrap, and in [`vfs`] and
//! [`temp_files`] calls from SQLite to us.
//!
//! Each function here takes a live `&Connection`, so the handle is valid for the call, and no pointer
//! that SQLite owns leaves this module. The connection of a [`LiveFile`](crate::LiveFile) is used
//! by one thread at a time (`Connection` is not `Sync`).
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::PathBuf;

use rusqlite::{Connection, ffi};

pub(crate) mod temp_files;
pub(crate) mod vfs;

const MAIN: &CStr = c"main";

/// Length of the WAL-index header that a snapshot consists of.
pub(crate) const SNAPSHOT_BYTES: usize = 48;

// The binding's opaque struct is what is copied out below.
const _: () = assert!(size_of::<ffi::sqlite3_snapshot>() == SNAPSHOT_BYTES);

/// A file of a database, as SQLite holds it open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// The database.
    Main,
    /// The `-wal` (in rollback mode: the journal).
    Wal,
}

/// The result code of SQLite as an error of `rusqlite`.
fn check(code: c_int) -> rusqlite::Result<()> {
    if code == ffi::SQLITE_OK {
        Ok(())
    } else {
        Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None))
    }
}

/// The WAL-index header of the connection's read transaction; `None` without a WAL, with an empty
/// one, or in a write transaction.
pub(crate) fn snapshot(conn: &Connection) -> rusqlite::Result<Option<[u8; SNAPSHOT_BYTES]>> {
    let mut raw: *mut ffi::sqlite3_snapshot = std::ptr::null_mut();
    // SAFETY: the handle is valid while `conn` is borrowed; `raw` is a valid place for one pointer.
    let code = unsafe { ffi::sqlite3_snapshot_get(conn.handle(), MAIN.as_ptr(), &raw mut raw) };
    if code == ffi::SQLITE_ERROR {
        return Ok(None);
    }
    check(code)?;
    if raw.is_null() {
        return Ok(None);
    }
    // SAFETY: on SQLITE_OK `raw` points to a `sqlite3_snapshot`, whose size is asserted above; it is
    // read once, then freed by the function that SQLite provides for it, and not used again.
    let bytes = unsafe {
        let bytes = (*raw).hidden;
        ffi::sqlite3_snapshot_free(raw);
        bytes
    };
    Ok(Some(bytes))
}

/// Moves the connection's read transaction to the state that a WAL-index header describes; `false` if
/// SQLite cannot show it any more.
///
/// The header must be one of the `-wal` as it is, no later than its end: SQLite takes it as it comes.
pub(crate) fn open_snapshot(
    conn: &Connection,
    header: &[u8; SNAPSHOT_BYTES],
) -> rusqlite::Result<bool> {
    let mut snapshot = ffi::sqlite3_snapshot { hidden: *header };
    // SAFETY: the handle is valid while `conn` is borrowed; SQLite copies what it needs of the
    // snapshot before it returns.
    let code =
        unsafe { ffi::sqlite3_snapshot_open(conn.handle(), MAIN.as_ptr(), &raw mut snapshot) };
    match code {
        ffi::SQLITE_ERROR | ffi::SQLITE_ERROR_SNAPSHOT => Ok(false),
        code => check(code).map(|()| true),
    }
}

/// Makes COMMIT leave free pages where they are, whatever `auto_vacuum` says: pages are written here
/// exactly as they came.
pub(crate) fn never_autovacuum(conn: &Connection) -> rusqlite::Result<()> {
    extern "C" fn none(
        _: *mut c_void,
        _: *const c_char,
        _: c_uint,
        _: c_uint,
        _: c_uint,
    ) -> c_uint {
        0
    }
    // SAFETY: the handle is valid; the callback is a plain function that uses none of its arguments,
    // so it may outlive everything; no destructor is needed for the null context.
    check(unsafe {
        ffi::sqlite3_autovacuum_pages(conn.handle(), Some(none), std::ptr::null_mut(), None)
    })
}

/// Syncs a file of the database through SQLite's own handle. Opening the database anew and closing
/// it would drop this process's locks on it.
pub(crate) fn sync(conn: &Connection, which: Which) -> rusqlite::Result<()> {
    let op = match which {
        Which::Main => ffi::SQLITE_FCNTL_FILE_POINTER,
        Which::Wal => ffi::SQLITE_FCNTL_JOURNAL_POINTER,
    };
    let mut file: *mut ffi::sqlite3_file = std::ptr::null_mut();
    // SAFETY: the handle is valid; both operations store a `sqlite3_file*` in the pointed-to place.
    check(unsafe {
        ffi::sqlite3_file_control(
            conn.handle(),
            MAIN.as_ptr(),
            op,
            (&raw mut file).cast::<c_void>(),
        )
    })?;
    // SAFETY: the file belongs to the connection's pager and lives as long as `conn` is borrowed;
    // `pMethods` is null exactly when the file is not open, and else points to a static table.
    unsafe {
        let Some(methods) = file.as_ref().and_then(|f| f.pMethods.as_ref()) else {
            return Ok(());
        };
        match methods.xSync {
            Some(sync) => check(sync(file, ffi::SQLITE_SYNC_NORMAL)),
            None => Ok(()),
        }
    }
}

/// Path of the database or of its `-wal`, as SQLite resolved it; `None` for a database in memory.
pub(crate) fn path(conn: &Connection, which: Which) -> Option<PathBuf> {
    // SAFETY: the handle is valid; the returned name is a NUL-terminated string that lives as long
    // as the connection, and `sqlite3_filename_wal` accepts exactly such names. It is copied here.
    let bytes = unsafe {
        let name = ffi::sqlite3_db_filename(conn.handle(), MAIN.as_ptr());
        if name.is_null() {
            return None;
        }
        let name = match which {
            Which::Main => name,
            Which::Wal => ffi::sqlite3_filename_wal(name),
        };
        if name.is_null() {
            return None;
        }
        CStr::from_ptr(name).to_bytes()
    };
    if bytes.is_empty() { None } else { path_from_bytes(bytes) }
}

#[cfg(unix)]
#[expect(clippy::unnecessary_wraps, reason = "fails on other systems")]
fn path_from_bytes(bytes: &[u8]) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    Some(PathBuf::from(std::ffi::OsStr::from_bytes(bytes)))
}

#[cfg(not(unix))]
fn path_from_bytes(bytes: &[u8]) -> Option<PathBuf> {
    std::str::from_utf8(bytes).ok().map(PathBuf::from)
}

/// Whether SQLite was compiled with an option (its name without `SQLITE_`).
pub(crate) fn compiled_with(option: &CStr) -> bool {
    // SAFETY: a NUL-terminated string; the function only compares it.
    unsafe { ffi::sqlite3_compileoption_used(option.as_ptr()) != 0 }
}

//! A limit for the temporary files of a connection: what SQLite sorts, groups and keeps aside.
//!
//! SQLite itself bounds them by nothing but the disk. A connection opened by [`TempFiles::open`] has
//! its temporary files counted: while [`TempFiles::within`] runs, each one that is created belongs to
//! that account, for as long as it is open. A write that would go beyond the limit fails as if the
//! disk were full. The database, its `-wal` and its journals are the system's alone, as ever.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rusqlite::{Connection, OpenFlags};

use crate::ffi::temp_files;

/// The account of one connection's temporary files.
#[derive(Debug, Clone)]
pub struct TempFiles(Arc<Account>);

/// What is counted.
#[derive(Debug)]
pub(crate) struct Account {
    limit: u64,
    used: AtomicU64,
    refused: AtomicBool,
}

impl TempFiles {
    /// An account of so many bytes.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        let (used, refused) = (AtomicU64::new(0), AtomicBool::new(false));
        Self(Arc::new(Account { limit, used, refused }))
    }

    /// Opens a connection whose temporary files can be counted.
    pub fn open(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
        temp_files::open(path, flags)
    }

    /// Runs `act`; temporary files that this thread's connections create belong to this account.
    pub fn within<T>(&self, act: impl FnOnce() -> T) -> T {
        temp_files::within(&self.0, act)
    }

    /// Bytes in use.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Whether a write was refused since the last call.
    pub fn take_refused(&self) -> bool {
        self.0.refused.swap(false, Ordering::Relaxed)
    }
}

impl Account {
    /// Takes bytes from what is left; `false` if there are not so many.
    pub(crate) fn take(&self, bytes: u64) -> bool {
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|used| *used <= self.limit)
        });
        if taken.is_err() {
            self.refused.store(true, Ordering::Relaxed);
        }
        taken.is_ok()
    }

    /// Gives bytes back that were taken.
    pub(crate) fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: &str = "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n LIMIT 20000)";

    fn opened() -> (tempfile::TempDir, Connection) {
        let dir = tempfile::tempdir().unwrap();
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let conn = TempFiles::open(&dir.path().join("db"), flags).unwrap();
        conn.execute_batch("PRAGMA temp_store=1; PRAGMA cache_size=10; PRAGMA temp.cache_size=10")
            .unwrap();
        (dir, conn)
    }

    fn sort(conn: &Connection) -> rusqlite::Result<i64> {
        let sql = format!(
            "{ROWS} SELECT i FROM (SELECT i, randomblob(500) AS r FROM n ORDER BY r) LIMIT 1 OFFSET 19999"
        );
        conn.query_row(&sql, [], |row| row.get(0))
    }

    fn is_full(result: rusqlite::Result<i64>) -> bool {
        let error = result.unwrap_err();
        error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
    }

    #[test]
    fn sorting_beyond_the_limit_fails_and_gives_all_back() {
        let (_dir, conn) = opened();
        let small = TempFiles::new(1 << 20);
        assert!(is_full(small.within(|| sort(&conn))));
        assert!(small.take_refused());
        assert!(!small.take_refused());
        assert_eq!(small.used(), 0);
        let large = TempFiles::new(1 << 30);
        large.within(|| sort(&conn)).unwrap();
        assert!(!large.take_refused());
        assert_eq!(large.used(), 0);
        // Nobody's account.
        sort(&conn).unwrap();
        assert_eq!(large.used(), 0);
    }

    #[test]
    fn distinct_rows_are_counted_as_well() {
        let (_dir, conn) = opened();
        let sql = format!("{ROWS} SELECT count(DISTINCT randomblob(500)) FROM n");
        let distinct = || conn.query_row(&sql, [], |row| row.get(0));
        assert!(is_full(TempFiles::new(1 << 20).within(distinct)));
        assert_eq!(TempFiles::new(1 << 30).within(distinct).unwrap(), 20_000);
    }

    #[test]
    fn a_temporary_table_is_counted_until_the_connection_is_closed() {
        let (_dir, conn) = opened();
        let files = TempFiles::new(20 << 20);
        files
            .within(|| {
                conn.execute_batch(&format!(
                    "CREATE TEMP TABLE t AS {ROWS} SELECT randomblob(500) AS r FROM n"
                ))
            })
            .unwrap();
        assert!(files.used() > 9_000_000, "{}", files.used());
        // It grows on the same account, whoever writes.
        let more = (0..9)
            .try_for_each(|_| conn.execute_batch("INSERT INTO t SELECT r FROM t LIMIT 20000"));
        assert_eq!(more.unwrap_err().sqlite_error_code(), Some(rusqlite::ErrorCode::DiskFull));
        drop(conn);
        assert_eq!(files.used(), 0);
    }

    #[test]
    fn the_database_is_as_without_it() {
        let (dir, conn) = opened();
        conn.execute_batch("PRAGMA journal_mode=wal; CREATE TABLE t(a); INSERT INTO t VALUES(1)")
            .unwrap();
        let files = TempFiles::new(0);
        files.within(|| conn.execute_batch("INSERT INTO t VALUES(2)")).unwrap();
        // A connection of the system's own sees it, and they lock each other out.
        let other = Connection::open(dir.path().join("db")).unwrap();
        other.busy_timeout(std::time::Duration::ZERO).unwrap();
        assert_eq!(other.query_row("SELECT count(*) FROM t", [], |row| row.get(0)), Ok(2_i64));
        conn.execute_batch("BEGIN IMMEDIATE").unwrap();
        assert!(other.execute_batch("BEGIN IMMEDIATE").is_err());
        conn.execute_batch("PRAGMA journal_mode; COMMIT").unwrap();
        other.execute_batch("BEGIN IMMEDIATE; COMMIT").unwrap();
        drop((conn, other));
        assert!(!dir.path().join("db-wal").exists());
    }

    #[test]
    fn accounts_nest() {
        let (_dir, conn) = opened();
        let (outer, inner) = (TempFiles::new(1 << 20), TempFiles::new(1 << 30));
        outer.within(|| {
            inner.within(|| sort(&conn)).unwrap();
            assert!(is_full(sort(&conn)));
        });
    }
}

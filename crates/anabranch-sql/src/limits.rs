//! What SQL from strangers may use.
//!
//! | what | how it is bounded |
//! |---|---|
//! | time | the progress handler, every [`OPS_PER_LOOK`] instructions, also while a text is compiled; one instruction cannot be interrupted, and works on values of [`Limits::value_bytes`] at most |
//! | memory | page cache, values, texts, depth of expressions: below; sorting and intermediate tables go to temporary files |
//! | temporary files | [`Limits::temp_bytes`] for all of a connection together, where the session opened it |
//! | answer | [`Limits::result_bytes`], [`Limits::result_rows`] |
//!
//! Aggregates that build one JSON text keep it in memory until it is complete, whatever the limit of
//! a value says, up to SQLite's own 2 GiB; [`cap_process_memory`] bounds that.

use std::time::Duration;

use rusqlite::Connection;
use rusqlite::limits::Limit;

/// Instructions of SQLite's virtual machine between two looks at the clock: some tens of
/// microseconds.
pub(crate) const OPS_PER_LOOK: i32 = 1_000;

/// Depth of an expression, SQLite's default: what programs generate stays below, and the C stack
/// holds it.
const EXPR_DEPTH: i32 = 1_000;

/// Terms of a compound SELECT, SQLite's default. Rows of VALUES do not count.
const COMPOUND_SELECT: i32 = 500;

/// Instructions of one program: 24 bytes each. An INSERT of as many rows as [`Limits::sql_bytes`] have
/// place for stays below.
const VDBE_OPS: i32 = 2_500_000;

/// Triggers that fire triggers; a frame of each is kept in memory.
const TRIGGER_DEPTH: i32 = 100;

/// Bytes of a pattern for LIKE and GLOB: matching takes the product of both lengths, and cannot be
/// interrupted. With the longest text it takes as long as a statement may run.
const LIKE_PATTERN_BYTES: i32 = 250;

/// Statements that stay compiled. A text longer than [`CACHED_SQL_BYTES`] is not kept.
pub(crate) const CACHED_STATEMENTS: usize = 32;

/// See [`CACHED_STATEMENTS`].
pub(crate) const CACHED_SQL_BYTES: usize = 16 << 10;

/// What one connection may use. The defaults suit a server with many of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Length of one statement. 1 MiB: compiling takes some 50 times as much memory.
    pub sql_bytes: u32,
    /// Highest number of a parameter. 32,766, SQLite's default.
    pub variables: u32,
    /// Length of a string, a blob, or a row. 10 MiB: more would not fit into an answer.
    pub value_bytes: u32,
    /// Rows of one result. 1,000,000.
    pub result_rows: u64,
    /// Length of one result as JSON. 10 MiB.
    pub result_bytes: u64,
    /// How long one statement runs. 30 s.
    pub run_time: Duration,
    /// Page cache. 4 MiB.
    pub cache_bytes: u32,
    /// Temporary files of the connection, all together: sorting, grouping, temporary tables. 1 GiB.
    /// They are in the directory that SQLite chooses (`SQLITE_TMPDIR`, `TMPDIR`, `/var/tmp`, …).
    pub temp_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sql_bytes: 1 << 20,
            variables: 32_766,
            value_bytes: 10 << 20,
            result_rows: 1_000_000,
            result_bytes: 10 << 20,
            run_time: Duration::from_secs(30),
            cache_bytes: 4 << 20,
            temp_bytes: 1 << 30,
        }
    }
}

impl Limits {
    pub(crate) fn apply(&self, conn: &Connection) -> rusqlite::Result<()> {
        let int = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        for (limit, value) in [
            (Limit::SQLITE_LIMIT_SQL_LENGTH, int(self.sql_bytes)),
            (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, int(self.variables)),
            (Limit::SQLITE_LIMIT_LENGTH, int(self.value_bytes)),
            (Limit::SQLITE_LIMIT_ATTACHED, 0),
            (Limit::SQLITE_LIMIT_EXPR_DEPTH, EXPR_DEPTH),
            (Limit::SQLITE_LIMIT_COMPOUND_SELECT, COMPOUND_SELECT),
            (Limit::SQLITE_LIMIT_VDBE_OP, VDBE_OPS),
            (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, TRIGGER_DEPTH),
            (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, LIKE_PATTERN_BYTES),
            (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
        ] {
            conn.set_limit(limit, value)?;
        }
        let cache = -i64::from(self.cache_bytes / 1024).max(1);
        // Sorting takes as much memory as the cache may have, then goes to temporary files.
        conn.execute_batch(&format!(
            "PRAGMA main.cache_size={cache}; PRAGMA temp.cache_size={cache}; PRAGMA temp_store=1"
        ))
    }
}

/// Bounds what SQLite allocates in this whole process, all connections together. A statement that
/// needs more fails with `SQLITE_NOMEM`.
pub fn cap_process_memory(conn: &Connection, bytes: u64) -> rusqlite::Result<()> {
    conn.query_row(&format!("PRAGMA hard_heap_limit={bytes}"), [], |_| Ok(()))
}

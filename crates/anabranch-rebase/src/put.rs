//! Writes rows into the scratch copy, in short transactions: their journal is in memory.

use std::cell::Cell as Counter;

use rusqlite::{Connection, ErrorCode, ToSql, ffi};

use crate::cell::{Cell, RowKey, Tuple};
use crate::error::RebaseError;
use crate::table::Table;
use crate::work::failed;

/// Rows that are written in one transaction.
const ROWS: u32 = 1000;

/// Bytes of values that are written in one transaction, the last row aside.
const BYTES: usize = 8 << 20;

/// What became of a write. But for [`Put::Done`] nothing was written; the text is SQLite's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Put {
    Done,
    /// Another row has equal values in a unique index.
    Unique(String),
    /// The row violates NOT NULL, a check or a type.
    Check(String),
}

/// The scratch copy, as it is written.
pub(crate) struct Writer<'a> {
    conn: &'a Connection,
    rows: Counter<u32>,
    bytes: Counter<usize>,
}

impl<'a> Writer<'a> {
    pub(crate) fn begin(conn: &'a Connection) -> Result<Self, RebaseError> {
        conn.set_prepared_statement_cache_capacity(256);
        let writer = Self { conn, rows: Counter::new(0), bytes: Counter::new(0) };
        writer.batch("BEGIN")?;
        Ok(writer)
    }

    pub(crate) fn commit(self) -> Result<(), RebaseError> {
        self.batch("COMMIT")
    }

    pub(crate) fn conn(&self) -> &'a Connection {
        self.conn
    }

    /// Makes `now`, the row that stands under a key in the scratch copy, into `target`. `added`: an
    /// insert leaves out the columns that the local side lacks, so that they get their defaults.
    pub(crate) fn put(
        &self,
        table: &Table,
        now: Option<&Tuple>,
        target: Option<&Tuple>,
        added: bool,
    ) -> Result<Put, RebaseError> {
        let result = match (now, target) {
            (None, None) => return Ok(Put::Done),
            (Some(now), None) => self.delete(table, now),
            (None, Some(target)) => self.insert(table, target, added),
            (Some(now), Some(target)) => self.update(table, now, target),
        };
        match result {
            Ok(()) => {
                self.written(target)?;
                Ok(Put::Done)
            }
            Err(e) => refused(e).map_err(failed(format!("a row of table {}", table.name()))),
        }
    }

    /// Sets aside what is written until `f` has seen it.
    pub(crate) fn trial<T>(
        &self,
        f: impl FnOnce() -> Result<T, RebaseError>,
    ) -> Result<T, RebaseError> {
        self.batch("SAVEPOINT trial")?;
        let seen = f();
        self.batch("ROLLBACK TO trial; RELEASE trial")?;
        seen
    }

    fn delete(&self, table: &Table, now: &Tuple) -> rusqlite::Result<()> {
        let (clause, key) = wherever(table, now, 1);
        let values: Vec<&dyn ToSql> = key.iter().map(|c| c as &dyn ToSql).collect();
        self.execute(&format!("DELETE FROM main.{} WHERE {clause}", table.result.from), &values)
    }

    fn update(&self, table: &Table, now: &Tuple, target: &Tuple) -> rusqlite::Result<()> {
        let mut set = Vec::new();
        let mut values: Vec<&dyn ToSql> = Vec::new();
        for (at, column) in table.result.columns.iter().enumerate() {
            if let Some(column) = column
                && now.cells[at] != target.cells[at]
            {
                values.push(&target.cells[at]);
                set.push(format!("{column} = ?{}", values.len()));
            }
        }
        if set.is_empty() {
            return Ok(());
        }
        let (clause, key) = wherever(table, now, values.len() + 1);
        values.extend(key.iter().map(|c| c as &dyn ToSql));
        self.execute(
            &format!(
                "UPDATE OR ABORT main.{} SET {} WHERE {clause}",
                table.result.from,
                set.join(", ")
            ),
            &values,
        )
    }

    fn insert(&self, table: &Table, target: &Tuple, added: bool) -> rusqlite::Result<()> {
        self.insert_with("ABORT", table, target, added, true).or_else(|e| match code(&e) {
            // The rowid is not what tells the row from others: it may have another one.
            ffi::SQLITE_CONSTRAINT_ROWID if !table.by_rowid() => {
                self.insert_with("ABORT", table, target, added, false)
            }
            _ => Err(e),
        })
    }

    /// Writes a row whatever is in its way; within a [`trial`](Self::trial) only.
    pub(crate) fn force(&self, table: &Table, target: &Tuple) -> rusqlite::Result<()> {
        self.insert_with("REPLACE", table, target, false, table.by_rowid())
    }

    fn insert_with(
        &self,
        or: &str,
        table: &Table,
        target: &Tuple,
        added: bool,
        rowid: bool,
    ) -> rusqlite::Result<()> {
        let mut columns: Vec<&str> = Vec::new();
        let mut values: Vec<&dyn ToSql> = Vec::new();
        if let (Some(name), Some(rowid), true, None) =
            (&table.result.rowid, &target.rowid, rowid, table.rowid_column())
        {
            columns.push(name);
            values.push(rowid);
        }
        for (at, column) in table.result.columns.iter().enumerate() {
            if let Some(column) = column
                && (!added || table.here(at))
            {
                columns.push(column);
                values.push(&target.cells[at]);
            }
        }
        let marks: Vec<String> = (1..=values.len()).map(|n| format!("?{n}")).collect();
        self.execute(
            &format!(
                "INSERT OR {or} INTO main.{}({}) VALUES ({})",
                table.result.from,
                columns.join(", "),
                marks.join(", ")
            ),
            &values,
        )
    }

    fn execute(&self, sql: &str, values: &[&dyn ToSql]) -> rusqlite::Result<()> {
        self.conn.prepare_cached(sql)?.execute(values).map(|_| ())
    }

    fn written(&self, row: Option<&Tuple>) -> Result<(), RebaseError> {
        let size: usize = row.map_or(0, |row| row.cells.iter().map(size).sum());
        self.rows.set(self.rows.get() + 1);
        self.bytes.set(self.bytes.get().saturating_add(size));
        if self.rows.get() >= ROWS || self.bytes.get() >= BYTES {
            self.rows.set(0);
            self.bytes.set(0);
            self.batch("COMMIT; BEGIN")?;
        }
        Ok(())
    }

    fn batch(&self, sql: &str) -> Result<(), RebaseError> {
        self.conn.execute_batch(sql).map_err(failed("the scratch copy"))
    }
}

fn size(cell: &Cell) -> usize {
    match cell {
        Cell::Text(bytes) | Cell::Blob(bytes) => bytes.len(),
        _ => 8,
    }
}

/// The condition that finds a row of the result, and its values, numbered from `first`.
pub(crate) fn wherever(table: &Table, row: &Tuple, first: usize) -> (String, Vec<Cell>) {
    match table.key_of(row) {
        RowKey::Rowid(rowid) => {
            let name = table.result.rowid.as_deref().unwrap_or("rowid");
            (format!("{name} = ?{first}"), vec![Cell::Integer(rowid)])
        }
        RowKey::Columns(cells) => {
            let terms: Vec<String> = table
                .result
                .key
                .iter()
                .enumerate()
                .map(|(at, column)| format!("{column} = ?{}", first + at))
                .collect();
            (terms.join(" AND "), cells)
        }
    }
}

fn code(error: &rusqlite::Error) -> i32 {
    match error {
        rusqlite::Error::SqliteFailure(e, _) => e.extended_code,
        _ => 0,
    }
}

/// Tells a row that cannot stand from a failure.
fn refused(error: rusqlite::Error) -> rusqlite::Result<Put> {
    let extended = code(&error);
    let rusqlite::Error::SqliteFailure(e, text) = &error else { return Err(error) };
    let text = text.clone().unwrap_or_default();
    match extended {
        ffi::SQLITE_CONSTRAINT_UNIQUE
        | ffi::SQLITE_CONSTRAINT_PRIMARYKEY
        | ffi::SQLITE_CONSTRAINT_ROWID => Ok(Put::Unique(text)),
        // A type that a column does not take (`MISMATCH`: an INTEGER PRIMARY KEY) is one as well.
        _ if e.code == ErrorCode::ConstraintViolation || e.code == ErrorCode::TypeMismatch => {
            Ok(Put::Check(text))
        }
        _ => Err(error),
    }
}

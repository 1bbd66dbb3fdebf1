//! One connection that runs statements of others.
//!
//! A statement is compiled or taken from those kept, checked against the rights, bound, and stepped to
//! its end; rows are handed on as they come, and an error at any place is the outcome of the whole
//! statement. One that returns rows of what it wrote runs within a savepoint, because SQLite takes the
//! end of such a statement before its last row for success.
//!
//! A panic, here or in SQLite's binding (names in a damaged schema that are not UTF-8, an allocation
//! that failed), ends the statement and makes the session unfit for others.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Instant;

use anabranch_hrana::{DescribeCol, DescribeParam, DescribeResult, Error, NamedArg, Value};
use anabranch_sqlite::TempFiles;
use rusqlite::{CachedStatement, Connection, InterruptHandle, OpenFlags, StatementStatus};

use crate::bind::bind;
use crate::clock::Clock;
use crate::error::{self, Cause, code, explain};
use crate::guard::{self, Effect, Guard};
use crate::limits::{CACHED_SQL_BYTES, Limits};
use crate::rows::{Meter, Rows, columns};
use crate::setup::{clean, prepare};
use crate::text::{self, Changes, Class, Count, Mode};

/// What the client of a request may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Reading only.
    Read,
    /// Reading and writing.
    Write,
}

/// What running a statement takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Neither reading nor writing: it begins or ends a transaction, or sets something of the
    /// connection, which may not work inside a transaction.
    Nothing,
    /// A state of the database to read.
    Read,
    /// The write lock.
    Write,
}

/// What a statement came to, besides its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Done {
    /// Rows that an INSERT, REPLACE, UPDATE or DELETE changed; else 0.
    pub affected_row_count: u64,
    /// SQLite's last row id after an INSERT or REPLACE that wrote a row. Where that row got none (an
    /// upsert that updated, a table without row ids), it is that of an earlier row, as everywhere in
    /// SQLite.
    pub last_insert_rowid: Option<i64>,
    /// Rows that full scans went over, and at least those of the result.
    pub rows_read: u64,
    /// Rows that the statement itself wrote; not those of triggers.
    pub rows_written: u64,
}

/// A connection in the hands of others.
#[derive(Debug)]
pub struct Session {
    conn: Connection,
    limits: Limits,
    guard: Guard,
    clock: Clock,
    temp_files: TempFiles,
    rights: Rights,
    /// When what runs now must have ended; `None`: only statements are limited.
    until: Option<Instant>,
    /// A statement about temporary objects was compiled.
    temp: Cell<bool>,
    /// A pragma that changes the connection was compiled.
    pragmas: Cell<bool>,
    /// Something panicked.
    broken: bool,
}

/// Why a statement stopped.
#[derive(Debug)]
pub(crate) enum Stop {
    /// SQLite said so.
    Sqlite(rusqlite::Error),
    /// We did.
    Said(Error),
}

impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Self {
        Stop::Sqlite(error)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Said(error)
    }
}

/// A compiled statement, kept for the next time unless what the guard noted would be lost with that.
struct Compiled<'c> {
    stmt: Option<CachedStatement<'c>>,
    is_kept: bool,
    pragma: Option<Effect>,
}

impl Drop for Compiled<'_> {
    fn drop(&mut self) {
        if let Some(stmt) = self.stmt.take_if(|_| !self.is_kept) {
            stmt.discard();
        }
    }
}

impl Compiled<'_> {
    fn writes(&self) -> bool {
        match (self.pragma, &self.stmt) {
            (Some(effect), _) => effect == Effect::Write,
            // SQLite says of an EXPLAIN what would be true without that word.
            (None, Some(stmt)) => !stmt.readonly() && stmt.is_explain() == 0,
            (None, None) => false,
        }
    }
}

/// Savepoint around a statement that returns rows of what it wrote.
const AROUND: &str = "anabranch_returning";

impl Session {
    /// Opens a connection, and takes it over. Only where it is opened here do temporary files have a
    /// limit.
    pub fn open(path: &Path, flags: OpenFlags, limits: &Limits) -> Result<Self, Error> {
        let conn = TempFiles::open(path, flags).map_err(|error| error::from_sqlite(&error))?;
        Self::new(conn, limits)
    }

    /// Takes over a connection to a database: guard, limits, functions, and the state that clients
    /// expect. Changes nothing in the file. Foreign keys are enforced, as by the official server;
    /// everything else is as in stock SQLite.
    pub fn new(mut conn: Connection, limits: &Limits) -> Result<Self, Error> {
        let (guard, clock) =
            prepare(&mut conn, limits).map_err(|error| error::from_sqlite(&error))?;
        Ok(Self {
            conn,
            limits: *limits,
            guard,
            clock,
            temp_files: TempFiles::new(limits.temp_bytes),
            rights: Rights::Write,
            until: None,
            temp: Cell::new(false),
            pragmas: Cell::new(false),
            broken: false,
        })
    }

    /// The connection, for hooks and for looking at its state. Statements on it are guarded:
    /// see [`unguarded`](Self::unguarded).
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.conn
    }

    /// The same, where a hook is to be set.
    pub fn connection_mut(&mut self) -> &mut Connection {
        &mut self.conn
    }

    /// Lets the program itself work on the connection, without guard and time limit. With
    /// [`Rights::Read`] it still cannot write.
    pub fn unguarded<T>(&self, act: impl FnOnce(&Connection) -> T) -> T {
        struct Closed<'a>(&'a Guard);
        impl Drop for Closed<'_> {
            fn drop(&mut self) {
                self.0.set_open(false);
            }
        }
        self.clock.stop();
        self.guard.set_open(true);
        let _closed = Closed(&self.guard);
        act(&self.conn)
    }

    /// Sets what the following statements may do.
    pub fn set_rights(&mut self, rights: Rights) -> Result<(), Error> {
        if self.rights == rights {
            return Ok(());
        }
        let query_only = rights == Rights::Read;
        self.unguarded(|conn| conn.execute_batch(&format!("PRAGMA query_only={query_only}")))
            .map_err(|error| error::from_sqlite(&error))?;
        self.rights = rights;
        Ok(())
    }

    /// What follows must have ended at `until`, whatever the limit of one statement says.
    pub fn start_clock(&mut self, until: Instant) {
        self.until = Some(until);
    }

    /// From now on only the limit of one statement counts.
    pub fn stop_clock(&mut self) {
        self.until = None;
    }

    /// Stops what runs, from another thread.
    #[must_use]
    pub fn interrupt_handle(&self) -> InterruptHandle {
        self.conn.get_interrupt_handle()
    }

    /// Whether no transaction is open.
    #[must_use]
    pub fn is_autocommit(&self) -> bool {
        self.conn.is_autocommit()
    }

    /// Whether the connection has, or may have, state that must not go over to another client:
    /// temporary objects, changed pragmas, a fault.
    #[must_use]
    pub fn is_tainted(&self) -> bool {
        self.broken || self.temp.get() || self.pragmas.get()
    }

    /// Brings the connection back to how it began: rolls back, sets pragmas back, allows writing.
    /// Statements stay compiled. `false`: it cannot be brought back and must be closed.
    ///
    /// `last_insert_rowid()`, `changes()` and `total_changes()` keep what they were.
    pub fn recycle(&mut self) -> bool {
        self.stop_clock();
        if self.broken || self.set_rights(Rights::Write).is_err() {
            return false;
        }
        let (temp, pragmas) = (self.temp.get(), self.pragmas.get());
        let clean = self.unguarded(|conn| clean(conn, temp, pragmas)).unwrap_or(false);
        if clean {
            self.temp.set(false);
            self.pragmas.set(false);
        }
        clean
    }

    /// What running one statement takes. Only a pragma is compiled for it, since others may need what
    /// waiting for the lock brings.
    pub fn need(&mut self, sql: &str) -> Result<Need, Error> {
        match text::class(sql) {
            Class::Write | Class::Begin(Mode::Immediate | Mode::Exclusive) => Ok(Need::Write),
            Class::Read => Ok(Need::Read),
            Class::Unknown => {
                let place = one_statement(sql)?;
                self.caught(|session| {
                    let compiled = session.compile(&sql[place.clone()], place.start)?;
                    Ok(match compiled.pragma {
                        Some(Effect::Connection) => Need::Nothing,
                        _ if compiled.writes() => Need::Write,
                        _ => Need::Read,
                    })
                })
            }
            _ => Ok(Need::Nothing),
        }
    }

    /// Sets how long the results of what follows may be: in bytes as JSON, and in rows.
    pub fn limit_results(&mut self, bytes: u64, rows: u64) {
        (self.limits.result_bytes, self.limits.result_rows) = (bytes, rows);
    }

    /// Runs one statement to its end; its rows go to `rows`. Whatever the outcome, the statement is
    /// over afterwards.
    pub fn execute(
        &mut self,
        sql: &str,
        args: &[Value],
        named: &[NamedArg],
        rows: &mut dyn Rows,
    ) -> Result<Done, Error> {
        let place = one_statement(sql)?;
        self.caught(|session| session.run(sql, place, args, named, rows))
    }

    /// Tells what the first statement of a text would do, without running it.
    pub fn describe(&mut self, sql: &str) -> Result<DescribeResult, Error> {
        let (place, _) = text::split_at(sql);
        if place.is_empty() {
            return Err(error::no_statement());
        }
        self.caught(|session| {
            let sql = text::plain(&sql[place.clone()]);
            let compiled = session.compile(&sql, place.start)?;
            compiled.stmt.as_deref().map(description).ok_or_else(error::no_statement)
        })
    }

    /// Runs `act`; a panic becomes an error.
    fn caught<T>(&mut self, act: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        let temp_files = self.temp_files.clone();
        temp_files.take_refused();
        let result = temp_files.within(|| catch_unwind(AssertUnwindSafe(|| act(self))));
        self.clock.stop();
        result.unwrap_or_else(|panic| {
            self.broken = true;
            let what = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            tracing::error!(panic = what, "a statement panicked");
            Err(Error::new(
                code::INTERNAL,
                "the statement could not be run: the schema has names that are not valid UTF-8, or \
                 memory ran out",
            ))
        })
    }

    /// Compiles one statement, as it is to be given to SQLite.
    fn compile(&self, sql: &str, offset: usize) -> Result<Compiled<'_>, Error> {
        if sql.contains('\0') {
            return Err(Error::new(code::PARSE, "SQL string could not be parsed: it has a NUL"));
        }
        if text::begins_with(sql, "VACUUM") {
            return Err(Error::new(code::PARSE, guard::refuse_vacuum()));
        }
        self.start_statement();
        self.guard.take();
        let compiled = self.conn.prepare_cached(sql);
        let seen = self.guard.take();
        self.temp.set(self.temp.get() | seen.temp);
        self.pragmas.set(self.pragmas.get() | (seen.pragma == Some(Effect::Connection)));
        let stmt = compiled.map_err(|error| {
            explain(
                &error,
                Cause { refused: seen.refused, offset, compiled: Some(sql), ..self.cause() },
            )
        })?;
        let is_kept = sql.len() <= CACHED_SQL_BYTES && seen.pragma.is_none() && !seen.temp;
        Ok(Compiled { stmt: Some(stmt), is_kept, pragma: seen.pragma })
    }

    /// Starts the time of a statement, or what is left of that of the request.
    fn start_statement(&self) {
        let own = Instant::now() + self.limits.run_time;
        self.clock.start(self.until.map_or(own, |until| until.min(own)));
    }

    fn cause(&self) -> Cause<'static> {
        Cause {
            timed_out: self.clock.was_reached().then_some(self.limits.run_time),
            temp_full: self.temp_files.take_refused().then_some(self.limits.temp_bytes),
            ..Cause::default()
        }
    }

    fn run(
        &self,
        sql: &str,
        place: std::ops::Range<usize>,
        args: &[Value],
        named: &[NamedArg],
        rows: &mut dyn Rows,
    ) -> Result<Done, Error> {
        let received = &sql[place.clone()];
        let class = text::class(received);
        let plain = match class {
            // Who may not write takes no lock either.
            Class::Begin(Mode::Immediate | Mode::Exclusive) if self.rights == Rights::Read => {
                "BEGIN".into()
            }
            _ => text::plain(received),
        };
        let mut compiled = self.compile(&plain, place.start)?;
        let is_begin = matches!(class, Class::Begin(_));
        if self.rights == Rights::Read && !is_begin && compiled.writes() {
            return Err(Error::new(
                code::READONLY,
                "SQLite error: attempt to write a readonly database: the token of this request \
                 allows reading only",
            ));
        }
        let Some(stmt) = compiled.stmt.as_mut() else { return Err(error::no_statement()) };
        let changes = text::changes(received);
        self.run_compiled(stmt, changes, args, named, rows).map_err(|stop| match stop {
            Stop::Said(error) => error,
            Stop::Sqlite(error) => {
                let refused = self.guard.take().refused;
                explain(&error, Cause { refused, offset: place.start, ..self.cause() })
            }
        })
    }

    fn run_compiled(
        &self,
        stmt: &mut CachedStatement<'_>,
        changes: Changes,
        args: &[Value],
        named: &[NamedArg],
        rows: &mut dyn Rows,
    ) -> Result<Done, Stop> {
        bind(stmt, args, named)?;
        let is_returning = changes != Changes::None && stmt.column_count() > 0;
        let count = if is_returning {
            self.within_savepoint(|| step(stmt, &self.limits, rows))?
        } else {
            step(stmt, &self.limits, rows)?
        };
        let scanned = stmt.reset_status(StatementStatus::FullscanStep);
        let affected = if changes == Changes::None { 0 } else { self.conn.changes() };
        Ok(Done {
            affected_row_count: affected,
            last_insert_rowid: (changes == Changes::Insert && affected > 0)
                .then(|| self.conn.last_insert_rowid()),
            rows_read: count.max(u64::try_from(scanned).unwrap_or(0)),
            rows_written: affected,
        })
    }

    /// Undoes what `act` wrote if it fails.
    fn within_savepoint<T>(&self, act: impl FnOnce() -> Result<T, Stop>) -> Result<T, Stop> {
        let own = |sql: &str| self.conn.prepare_cached(sql)?.raw_execute().map(drop);
        let was_autocommit = self.conn.is_autocommit();
        own(&format!("SAVEPOINT {AROUND}"))?;
        let result = act().and_then(|done| Ok(own(&format!("RELEASE {AROUND}")).map(|()| done)?));
        if result.is_err() && !self.conn.is_autocommit() {
            // An error may have rolled back everything already; then there is nothing to undo.
            let undone = if was_autocommit {
                own("ROLLBACK")
            } else {
                own(&format!("ROLLBACK TO {AROUND}"))
                    .and_then(|()| own(&format!("RELEASE {AROUND}")))
            };
            if let Err(error) = undone {
                tracing::warn!(%error, "a statement that failed could not be undone");
            }
        }
        result
    }
}

/// Steps a statement to its end; answers the number of rows.
fn step(stmt: &mut CachedStatement<'_>, limits: &Limits, rows: &mut dyn Rows) -> Result<u64, Stop> {
    let mut meter = Meter::new(limits);
    let mut width = None;
    // Columns are asked for after the first step: it compiles again if the schema has changed.
    let mut cursor = stmt.raw_query();
    while let Some(row) = cursor.next()? {
        let width = match width {
            Some(width) => width,
            None => {
                let cols = columns(row.as_ref());
                meter.columns(&cols)?;
                let known = *width.insert(cols.len());
                rows.cols(cols)?;
                known
            }
        };
        rows.row(meter.row(row, width)?)?;
    }
    drop(cursor);
    if width.is_none() {
        rows.cols(columns(stmt))?;
    }
    Ok(meter.rows())
}

fn description(stmt: &rusqlite::Statement<'_>) -> DescribeResult {
    DescribeResult {
        params: (1..=stmt.parameter_count())
            .map(|index| DescribeParam { name: stmt.parameter_name(index).map(ToOwned::to_owned) })
            .collect(),
        cols: columns(stmt)
            .into_iter()
            .map(|col| DescribeCol { name: col.name.unwrap_or_default(), decltype: col.decltype })
            .collect(),
        is_explain: stmt.is_explain() != 0,
        is_readonly: stmt.readonly(),
    }
}

fn one_statement(sql: &str) -> Result<std::ops::Range<usize>, Error> {
    text::single(sql).map_err(|count| match count {
        Count::None => error::no_statement(),
        Count::Many => error::many_statements(),
    })
}

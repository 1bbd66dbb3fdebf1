//! A file here: a connection like that of any other program, so a replica needs nothing special.
//!
//! Rows are handed on as SQLite steps to them; nothing is collected.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anabranch_hrana::{Stmt, Value};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, Statement};

use super::backend::{Backend, Done, Interrupt, Sink};
use super::clean::one_line;
use super::error::ShellError;

/// How long programs that hold the database locked are waited for, unless told otherwise.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A SQLite file, or a database in memory.
pub(super) struct Local {
    conn: Option<Connection>,
    interrupt: Arc<Interrupt>,
}

impl Local {
    /// Opens `path`, which must be there unless it is to be created.
    pub(super) fn open(
        path: &Path,
        create: bool,
        busy_timeout: Option<Duration>,
        interrupt: Arc<Interrupt>,
    ) -> rusqlite::Result<Self> {
        let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        flags.set(OpenFlags::SQLITE_OPEN_CREATE, create);
        let conn = if path == Path::new(super::IN_MEMORY) {
            Connection::open_in_memory()?
        } else {
            Connection::open_with_flags(path, flags)?
        };
        // As servers have them.
        anabranch_sql::vector::register(&conn)?;
        conn.busy_timeout(busy_timeout.unwrap_or(BUSY_TIMEOUT))?;
        // Tells at once if it is no database.
        conn.query_row("PRAGMA schema_version", [], |_| Ok(()))?;
        interrupt.reach(conn.get_interrupt_handle());
        Ok(Local { conn: Some(conn), interrupt })
    }

    fn conn(&self) -> Result<&Connection, ShellError> {
        self.conn.as_ref().ok_or_else(|| ShellError::Usage("the database is closed".to_owned()))
    }
}

/// A value on its way to a parameter.
pub(super) struct Arg<'a>(pub(super) &'a Value);

impl rusqlite::ToSql for Arg<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Value::Null => ValueRef::Null,
            Value::Integer(n) => ValueRef::Integer(*n),
            Value::Float(x) => ValueRef::Real(*x),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// Text that is not UTF-8 is shown with replacement characters; a dump reads it as bytes.
fn value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(n) => Value::Integer(n),
        ValueRef::Real(x) => Value::Float(x),
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec().into()),
    }
}

fn bind(statement: &mut Statement<'_>, args: &[Value]) -> rusqlite::Result<()> {
    for (i, arg) in args.iter().enumerate() {
        statement.raw_bind_parameter(i + 1, Arg(arg))?;
    }
    Ok(())
}

impl Backend for Local {
    fn run(&mut self, sql: &str, args: &[Value], sink: &mut dyn Sink) -> Result<Done, ShellError> {
        let interrupt = Arc::clone(&self.interrupt);
        let conn = self.conn()?;
        let before = conn.total_changes();
        let mut statement = conn.prepare(sql).map_err(told)?;
        bind(&mut statement, args).map_err(told)?;
        let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
        if !columns.is_empty() {
            sink.begin(&columns)?;
        }
        let mut rows = statement.raw_query();
        loop {
            if interrupt.is_raised() {
                return Err(ShellError::Interrupted);
            }
            let Some(row) = rows.next().map_err(told)? else { break };
            let values = (0..columns.len()).map(|i| row.get_ref(i).map(value));
            sink.row(values.collect::<rusqlite::Result<_>>().map_err(told)?)?;
        }
        drop(rows);
        drop(statement);
        let wrote = conn.total_changes() > before;
        Ok(Done {
            changes: if wrote { conn.changes() } else { 0 },
            last_rowid: Some(conn.last_insert_rowid()).filter(|_| wrote),
            server_ms: None,
        })
    }

    fn run_all(&mut self, statements: Vec<Stmt>) -> Result<(), (usize, ShellError)> {
        let interrupt = Arc::clone(&self.interrupt);
        let conn = self.conn().map_err(|e| (0, e))?;
        for (i, statement) in statements.iter().enumerate() {
            if interrupt.is_raised() {
                return Err((i, ShellError::Interrupted));
            }
            let prepared = conn.prepare_cached(statement.sql.as_deref().unwrap_or_default());
            let ran = prepared.and_then(|mut prepared| {
                bind(&mut prepared, &statement.args)?;
                prepared.raw_execute()
            });
            ran.map_err(|e| (i, told(e)))?;
        }
        Ok(())
    }

    fn is_far(&self) -> bool {
        false
    }

    fn undo(&mut self, sql: &str) -> Result<(), ShellError> {
        self.conn()?.execute_batch(sql).map_err(told)
    }

    fn in_transaction(&self) -> bool {
        self.conn.as_ref().is_some_and(|conn| !conn.is_autocommit())
    }

    fn close(&mut self) {
        // Whoever closes a database last checkpoints it, which may fail; nothing is lost then.
        drop(self.conn.take());
    }
}

/// What SQLite says, for people.
fn told(error: rusqlite::Error) -> ShellError {
    let (failure, message, offset) = match error {
        rusqlite::Error::SqlInputError { error, msg, offset, .. } => {
            (error, Some(msg), usize::try_from(offset).ok())
        }
        rusqlite::Error::SqliteFailure(error, message) => (error, message, None),
        other => {
            let code = "SQLITE_MISUSE".to_owned();
            return ShellError::Sql { code, message: one_line(&other.to_string()), offset: None };
        }
    };
    if failure.code == ErrorCode::OperationInterrupted {
        return ShellError::Interrupted;
    }
    let message = message.unwrap_or_else(|| failure.to_string());
    let code = code_name(failure.code).to_owned();
    ShellError::Sql { code, message: one_line(&message), offset }
}

/// SQLite's name for the kind of an error.
fn code_name(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::PermissionDenied => "SQLITE_PERM",
        ErrorCode::OperationAborted => "SQLITE_ABORT",
        ErrorCode::DatabaseBusy => "SQLITE_BUSY",
        ErrorCode::DatabaseLocked => "SQLITE_LOCKED",
        ErrorCode::OutOfMemory => "SQLITE_NOMEM",
        ErrorCode::ReadOnly => "SQLITE_READONLY",
        ErrorCode::SystemIoFailure => "SQLITE_IOERR",
        ErrorCode::DatabaseCorrupt => "SQLITE_CORRUPT",
        ErrorCode::NotFound => "SQLITE_NOTFOUND",
        ErrorCode::DiskFull => "SQLITE_FULL",
        ErrorCode::CannotOpen => "SQLITE_CANTOPEN",
        ErrorCode::FileLockingProtocolFailed => "SQLITE_PROTOCOL",
        ErrorCode::SchemaChanged => "SQLITE_SCHEMA",
        ErrorCode::TooBig => "SQLITE_TOOBIG",
        ErrorCode::ConstraintViolation => "SQLITE_CONSTRAINT",
        ErrorCode::TypeMismatch => "SQLITE_MISMATCH",
        ErrorCode::ApiMisuse => "SQLITE_MISUSE",
        ErrorCode::AuthorizationForStatementDenied => "SQLITE_AUTH",
        ErrorCode::ParameterOutOfRange => "SQLITE_RANGE",
        ErrorCode::NotADatabase => "SQLITE_NOTADB",
        _ => "SQLITE_ERROR",
    }
}

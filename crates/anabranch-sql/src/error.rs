//! Errors as the clients know them: one function for all that SQLite says.

use std::time::Duration;

use anabranch_hrana::Error;
use rusqlite::ffi;

/// Codes of errors that are not SQLite's.
pub mod code {
    /// Not SQL, or a statement that is not allowed here.
    pub const PARSE: &str = "SQL_PARSE_ERROR";
    /// SQL that does not fit the schema.
    pub const INPUT: &str = "SQL_INPUT_ERROR";
    /// The text has no statement.
    pub const NO_STATEMENT: &str = "SQL_NO_STATEMENT";
    /// The text has more than one statement.
    pub const MANY_STATEMENTS: &str = "SQL_MANY_STATEMENTS";
    /// Arguments and parameters do not fit.
    pub const ARGS_INVALID: &str = "ARGS_INVALID";
    /// Arguments both by position and by name.
    pub const ARGS_BOTH: &str = "ARGS_BOTH_POSITIONAL_AND_NAMED";
    /// The result is larger than allowed.
    pub const TOO_LARGE: &str = "RESPONSE_TOO_LARGE";
    /// A write without the right to.
    pub const READONLY: &str = "SQLITE_READONLY";
    /// Stopped: time limit, or from outside.
    pub const INTERRUPT: &str = "SQLITE_INTERRUPT";
    /// A value that the protocol has no form for.
    pub const MISMATCH: &str = "SQLITE_MISMATCH";
    /// A fault of this program.
    pub const INTERNAL: &str = "SQLITE_INTERNAL";
}

/// What the session knows about a failure besides SQLite's word.
#[derive(Debug, Default)]
pub(crate) struct Cause<'a> {
    /// The guard refused something, and said this.
    pub(crate) refused: Option<String>,
    /// The time limit that was reached.
    pub(crate) timed_out: Option<Duration>,
    /// The limit of temporary files that was reached.
    pub(crate) temp_full: Option<u64>,
    /// Where in the text as received the compiled part begins.
    pub(crate) offset: usize,
    /// The text that could not be compiled.
    pub(crate) compiled: Option<&'a str>,
}

/// The error of `rusqlite`, in the form and with the code that clients know.
pub fn from_sqlite(error: &rusqlite::Error) -> Error {
    explain(error, Cause::default())
}

pub(crate) fn explain(error: &rusqlite::Error, cause: Cause<'_>) -> Error {
    if let Some(refused) = cause.refused {
        return Error::new(code::PARSE, refused);
    }
    if cause.timed_out.is_some() && cause.compiled.is_some() {
        // The guard has stopped the compiler, which names whatever it was about to ask for.
        return failed(&ffi::Error::new(ffi::SQLITE_INTERRUPT), "interrupted", &cause);
    }
    match error {
        rusqlite::Error::SqlInputError { msg, offset, .. } => {
            let at = cause.offset.saturating_add(usize::try_from(*offset).unwrap_or(0));
            if is_syntax(msg) { syntax(msg, Some(at)) } else { input(msg, at) }
        }
        rusqlite::Error::SqliteFailure(failure, message) => {
            let message = message.clone().unwrap_or_else(|| failure.to_string());
            failed(failure, &message, &cause)
        }
        rusqlite::Error::MultipleStatement => many_statements(),
        other => Error::new("SQLITE_UNKNOWN", format!("SQLite error: {other}")),
    }
}

fn failed(failure: &ffi::Error, message: &str, cause: &Cause<'_>) -> Error {
    let primary = failure.extended_code & 0xff;
    if primary == ffi::SQLITE_ERROR && is_syntax(message) {
        return syntax(message, None);
    }
    if let (ffi::SQLITE_ERROR, Some(at)) =
        (primary, cause.compiled.and_then(|sql| find(message, sql)))
    {
        return input(message, cause.offset + at);
    }
    let more = match (primary, cause.timed_out, cause.temp_full) {
        (ffi::SQLITE_INTERRUPT, Some(limit), _) => format!(
            ": the time limit was reached after {} s; split the work into smaller statements",
            limit.as_secs_f64()
        ),
        (ffi::SQLITE_FULL, _, Some(limit)) => format!(
            ": the statement needs more than the {limit} bytes of temporary files that a connection \
             may have; sort or group less"
        ),
        _ => String::new(),
    };
    Error::new(name(primary), format!("SQLite error: {message}{more}"))
}

/// SQLite says in words only that a text is no SQL at all.
fn is_syntax(message: &str) -> bool {
    message.ends_with("syntax error")
        || message == "incomplete input"
        || message.starts_with("unrecognized token")
}

/// Where a text has what `message` says does not exist: SQLite gives no place for tables.
fn find(message: &str, sql: &str) -> Option<usize> {
    let (_, name) = message.strip_prefix("no such ")?.split_once(": ")?;
    sql.find(name.rsplit('.').next()?)
}

fn syntax(message: &str, at: Option<usize>) -> Error {
    let place = at.map(|at| format!(" (at offset {at})")).unwrap_or_default();
    Error::new(code::PARSE, format!("SQL string could not be parsed: {message}{place}"))
}

fn input(message: &str, at: usize) -> Error {
    if let Some(name) = ["vector_top_k"].iter().find(|name| message.ends_with(*name)) {
        return Error::new(code::PARSE, crate::guard::no_vector_index(name));
    }
    Error::new(code::INPUT, format!("SQL input error: {message} (at offset {at})"))
}

pub(crate) fn many_statements() -> Error {
    Error::new(
        code::MANY_STATEMENTS,
        "SQL string contains more than one statement; send them one by one, in a batch, or as a \
         sequence",
    )
}

pub(crate) fn no_statement() -> Error {
    Error::new(code::NO_STATEMENT, "SQL string does not contain any statement")
}

/// Name of a primary result code.
fn name(primary: i32) -> &'static str {
    match primary {
        ffi::SQLITE_INTERNAL => "SQLITE_INTERNAL",
        ffi::SQLITE_PERM => "SQLITE_PERM",
        ffi::SQLITE_ABORT => "SQLITE_ABORT",
        ffi::SQLITE_BUSY => "SQLITE_BUSY",
        ffi::SQLITE_LOCKED => "SQLITE_LOCKED",
        ffi::SQLITE_NOMEM => "SQLITE_NOMEM",
        ffi::SQLITE_READONLY => code::READONLY,
        ffi::SQLITE_INTERRUPT => code::INTERRUPT,
        ffi::SQLITE_IOERR => "SQLITE_IOERR",
        ffi::SQLITE_CORRUPT => "SQLITE_CORRUPT",
        ffi::SQLITE_NOTFOUND => "SQLITE_NOTFOUND",
        ffi::SQLITE_FULL => "SQLITE_FULL",
        ffi::SQLITE_CANTOPEN => "SQLITE_CANTOPEN",
        ffi::SQLITE_PROTOCOL => "SQLITE_PROTOCOL",
        ffi::SQLITE_SCHEMA => "SQLITE_SCHEMA",
        ffi::SQLITE_TOOBIG => "SQLITE_TOOBIG",
        ffi::SQLITE_CONSTRAINT => "SQLITE_CONSTRAINT",
        ffi::SQLITE_MISMATCH => code::MISMATCH,
        ffi::SQLITE_MISUSE => "SQLITE_MISUSE",
        ffi::SQLITE_AUTH => "SQLITE_AUTH",
        ffi::SQLITE_RANGE => "SQLITE_RANGE",
        ffi::SQLITE_NOTADB => "SQLITE_NOTADB",
        _ => "SQLITE_UNKNOWN",
    }
}

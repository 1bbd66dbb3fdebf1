//! Arguments to parameters.
//!
//! By position: the first to parameter 1, whatever its name, as SQLite numbers them. By name: the whole
//! name, else the name without the character that leads it. Every parameter needs a value, unlike in
//! SQLite, except in an EXPLAIN.

use anabranch_hrana::{Error, NamedArg, Value};
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{CachedStatement, Result as SqliteResult};

use crate::error::code;
use crate::session::Stop;

struct Arg<'a>(&'a Value);

impl ToSql for Arg<'_> {
    fn to_sql(&self) -> SqliteResult<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Value::Null => ValueRef::Null,
            Value::Integer(n) => ValueRef::Integer(*n),
            Value::Float(n) => ValueRef::Real(*n),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// Binds all arguments of a statement.
pub(crate) fn bind(
    stmt: &mut CachedStatement<'_>,
    args: &[Value],
    named: &[NamedArg],
) -> Result<(), Stop> {
    if !args.is_empty() && !named.is_empty() {
        return Err(Stop::Said(Error::new(
            code::ARGS_BOTH,
            "Specifying both positional and named arguments is not supported",
        )));
    }
    let wanted = stmt.parameter_count();
    let given = args.len().max(named.len());
    if given > wanted {
        return Err(invalid(format!("the statement has {wanted} parameters, but got {given}")));
    }
    let needs_all = stmt.is_explain() == 0;
    for index in 1..=wanted {
        let value = if named.is_empty() {
            args.get(index - 1)
        } else {
            stmt.parameter_name(index).and_then(|name| find(name, named))
        };
        match value {
            Some(value) => stmt.raw_bind_parameter(index, Arg(value))?,
            None if needs_all => return Err(missing(stmt.parameter_name(index), index)),
            None => {}
        }
    }
    Ok(())
}

fn find<'a>(name: &str, named: &'a [NamedArg]) -> Option<&'a Value> {
    let bare = name.strip_prefix([':', '@', '$']);
    let whole = named.iter().find(|arg| arg.name == name);
    whole.or_else(|| named.iter().find(|arg| Some(arg.name.as_str()) == bare)).map(|arg| &arg.value)
}

fn missing(name: Option<&str>, index: usize) -> Stop {
    invalid(match name {
        Some(name) => format!("value for parameter {name} not found"),
        None => format!("value for parameter {index} not found"),
    })
}

fn invalid(message: String) -> Stop {
    Stop::Said(Error::new(
        code::ARGS_INVALID,
        format!("Arguments do not match SQL parameters: {message}"),
    ))
}

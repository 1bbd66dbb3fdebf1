//! Values as they pass from one statement to another.

use rusqlite::ToSql;
use rusqlite::types::{ToSqlOutput, Value, ValueRef};

use crate::cell::Cell;

/// A value of a row that is being read, to be bound as it is: text need not be UTF-8.
pub(crate) struct Raw<'a>(pub(crate) ValueRef<'a>);

impl ToSql for Raw<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(self.0))
    }
}

/// A value for people.
pub(crate) fn shown(value: ValueRef<'_>) -> Value {
    Cell::from(value).to_value()
}

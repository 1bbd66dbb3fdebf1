//! Rows of a result: from SQLite's values to those of the wire, measured on the way.

use anabranch_hrana::{Col, Error, Value};
use bytes::Bytes;
use rusqlite::Statement;
use rusqlite::types::ValueRef;

use crate::error::code;
use crate::limits::Limits;

/// Takes the result of a statement as it comes. An error stops the statement and is its outcome.
pub trait Rows {
    /// The columns: once, before the first row, also if there is no row.
    fn cols(&mut self, cols: Vec<Col>) -> Result<(), Error>;
    /// A row.
    fn row(&mut self, row: Vec<Value>) -> Result<(), Error>;
}

/// A result kept in memory.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Collected {
    /// The columns.
    pub cols: Vec<Col>,
    /// The rows.
    pub rows: Vec<Vec<Value>>,
}

impl Rows for Collected {
    fn cols(&mut self, cols: Vec<Col>) -> Result<(), Error> {
        self.cols = cols;
        Ok(())
    }

    fn row(&mut self, row: Vec<Value>) -> Result<(), Error> {
        self.rows.push(row);
        Ok(())
    }
}

/// The columns of a statement, named as in its text.
pub(crate) fn columns(stmt: &Statement<'_>) -> Vec<Col> {
    stmt.columns()
        .map(|column| Col {
            name: Some(column.name().to_owned()),
            decltype: column.decl_type().map(ToOwned::to_owned),
        })
        .collect()
}

/// Counts how long a result becomes as JSON.
#[derive(Debug)]
pub(crate) struct Meter {
    bytes: u64,
    rows: u64,
    bytes_max: u64,
    rows_max: u64,
}

/// What a value takes as JSON besides its content: `{"type":"float","value":…},` and a number.
const VALUE_BYTES: u64 = 48;

impl Meter {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self { bytes: 0, rows: 0, bytes_max: limits.result_bytes, rows_max: limits.result_rows }
    }

    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    fn add(&mut self, bytes: u64) -> Result<(), Error> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes <= self.bytes_max {
            return Ok(());
        }
        Err(Error::new(
            code::TOO_LARGE,
            format!(
                "Response is too large: the result is longer than {} bytes; select fewer rows or \
                 columns, or page through them with LIMIT",
                self.bytes_max
            ),
        ))
    }

    pub(crate) fn columns(&mut self, cols: &[Col]) -> Result<(), Error> {
        for col in cols {
            let text = |text: &Option<String>| text.as_deref().map_or(0, escaped_len);
            self.add(VALUE_BYTES + text(&col.name) + text(&col.decltype))?;
        }
        Ok(())
    }

    /// One row, made of SQLite's values.
    pub(crate) fn row(
        &mut self,
        row: &rusqlite::Row<'_>,
        columns: usize,
    ) -> Result<Vec<Value>, crate::session::Stop> {
        if self.rows == self.rows_max {
            return Err(Error::new(
                code::TOO_LARGE,
                format!(
                    "Response is too large: the result has more than {} rows; page through them \
                     with LIMIT",
                    self.rows_max
                ),
            )
            .into());
        }
        self.rows += 1;
        let mut values = Vec::with_capacity(columns);
        for at in 0..columns {
            values.push(self.value(row.get_ref(at)?, at)?);
        }
        Ok(values)
    }

    fn value(&mut self, value: ValueRef<'_>, at: usize) -> Result<Value, Error> {
        self.add(VALUE_BYTES)?;
        Ok(match value {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(n) => Value::Integer(n),
            ValueRef::Real(n) if n.is_finite() => Value::Float(n),
            ValueRef::Real(n) => {
                return Err(no_form(at, &format!("is {n}"), "CAST(… AS TEXT)"));
            }
            ValueRef::Text(bytes) => {
                let Ok(text) = std::str::from_utf8(bytes) else {
                    return Err(no_form(at, "is TEXT that is not valid UTF-8", "CAST(… AS BLOB)"));
                };
                self.add(escaped_len(text))?;
                Value::Text(text.to_owned())
            }
            ValueRef::Blob(bytes) => {
                self.add(len(bytes).div_ceil(3) * 4)?;
                Value::Blob(Bytes::copy_from_slice(bytes))
            }
        })
    }
}

fn no_form(at: usize, what: &str, instead: &str) -> Error {
    Error::new(
        code::MISMATCH,
        format!(
            "SQLite error: column {} of a row {what}, which the protocol has no form for; select \
             {instead} instead",
            at + 1
        ),
    )
}

fn len(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// Length of a text within a JSON string: quotes and backslashes take two bytes, control characters
/// up to six.
fn escaped_len(text: &str) -> u64 {
    let more = |byte: &u8| match byte {
        0..=0x1f => 5,
        b'"' | b'\\' => 1,
        _ => 0,
    };
    len(text.as_bytes()) + text.as_bytes().iter().map(more).sum::<u64>()
}

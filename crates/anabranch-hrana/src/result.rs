//! What statements, batches and descriptions come to.

use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Serialize, Serializer};

use crate::wire::{decimal, null_default};
use crate::{Error, Value};

/// A column of a result.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Col {
    /// Its name.
    pub name: Option<String>,
    /// The type that its table declares, if it is a column of a table.
    pub decltype: Option<String>,
}

/// What a statement came to.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct StmtResult {
    /// The columns, also if there is no row.
    #[serde(default, deserialize_with = "null_default")]
    pub cols: Vec<Col>,
    /// The rows, each with a value for each column.
    #[serde(default, deserialize_with = "null_default")]
    pub rows: Vec<Vec<Value>>,
    /// Rows that an INSERT, UPDATE or DELETE wrote; else 0.
    #[serde(default, deserialize_with = "null_default")]
    pub affected_row_count: u64,
    /// The row id that an INSERT gave; a decimal string on the wire, and always written: a client
    /// breaks without it.
    #[serde(default, deserialize_with = "decimal::deserialize")]
    pub last_insert_rowid: Option<i64>,
    /// Rows that were looked at.
    #[serde(default, deserialize_with = "null_default")]
    pub rows_read: u64,
    /// Rows that were written.
    #[serde(default, deserialize_with = "null_default")]
    pub rows_written: u64,
    /// How long it took, in milliseconds.
    #[serde(default, deserialize_with = "null_default")]
    pub query_duration_ms: f64,
}

impl Serialize for StmtResult {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("StmtResult", 8)?;
        object.serialize_field("cols", &self.cols)?;
        object.serialize_field("rows", &self.rows)?;
        object.serialize_field("affected_row_count", &self.affected_row_count)?;
        object.serialize_field("last_insert_rowid", &Decimal(self.last_insert_rowid))?;
        object.serialize_field("replication_index", &())?;
        object.serialize_field("rows_read", &self.rows_read)?;
        object.serialize_field("rows_written", &self.rows_written)?;
        object.serialize_field("query_duration_ms", &self.query_duration_ms)?;
        object.end()
    }
}

struct Decimal(Option<i64>);

impl Serialize for Decimal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        decimal::serialize(&self.0, serializer)
    }
}

/// What a batch came to: both lists have an entry for each step, both `None` for a skipped one.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct BatchResult {
    /// Of the steps that succeeded.
    #[serde(default, deserialize_with = "null_default")]
    pub step_results: Vec<Option<StmtResult>>,
    /// Of the steps that failed.
    #[serde(default, deserialize_with = "null_default")]
    pub step_errors: Vec<Option<Error>>,
}

impl Serialize for BatchResult {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("BatchResult", 3)?;
        object.serialize_field("step_results", &self.step_results)?;
        object.serialize_field("step_errors", &self.step_errors)?;
        object.serialize_field("replication_index", &())?;
        object.end()
    }
}

/// What a statement would do, without running it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DescribeResult {
    /// One for each number of a parameter, up to the highest.
    #[serde(default, deserialize_with = "null_default")]
    pub params: Vec<DescribeParam>,
    /// The columns that it would answer.
    #[serde(default, deserialize_with = "null_default")]
    pub cols: Vec<DescribeCol>,
    /// It is an EXPLAIN.
    pub is_explain: bool,
    /// It changes nothing of the database.
    pub is_readonly: bool,
}

/// A parameter of a statement.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DescribeParam {
    /// Its name with the character that leads it; `None` for a bare `?`.
    pub name: Option<String>,
}

/// A column that a statement would answer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DescribeCol {
    /// Its name.
    pub name: String,
    /// The type that its table declares, if it is a column of a table.
    pub decltype: Option<String>,
}

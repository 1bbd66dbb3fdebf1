//! Conflicts, as they are decided and kept in a journal.

use std::sync::Arc;

pub use rusqlite::types::Value;
use serde::{Deserialize, Serialize};

/// A row: its values by the names of the columns.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Names of the columns that hold values (generated ones do not), in the table's order. A rowid
    /// that is no column comes first, as `rowid`.
    pub columns: Arc<[String]>,
    /// One value for each.
    pub values: Vec<Value>,
}

/// What the two sides did to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConflictKind {
    /// Both changed it.
    UpdateUpdate,
    /// Changed here, deleted at the remote.
    UpdateDelete,
    /// Deleted here, changed at the remote.
    DeleteUpdate,
    /// Both inserted a row under one key.
    InsertInsert,
    /// Two rows, one of each side, with equal values in a unique index.
    Unique,
    /// A row refers to one that the other side deleted.
    ForeignKey,
    /// The row violates a check, NOT NULL or type that the other side brought.
    Check,
    /// The other side dropped the table or column that the row stood in.
    Dropped,
}

/// What was done about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// The local version stands; the remote's is only in the journal.
    Local,
    /// The remote's version stands; the local one is only in the journal.
    Remote,
    /// A mixture of both stands, or what the program decided.
    Merged,
    /// No row stands: both versions are only in the journal.
    Neither,
    /// Both stand: the local row under this rowid.
    Renumbered(i64),
}

/// One row that did not end as it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Conflict {
    /// The table, as the result names it.
    pub table: String,
    /// Names and values of the key: the primary key, or `rowid`.
    pub key: Row,
    /// What happened.
    pub kind: ConflictKind,
    /// The row that both sides started from, if there was one.
    pub base: Option<Row>,
    /// The local row, if it is there.
    pub local: Option<Row>,
    /// The remote's row, if it is there.
    pub remote: Option<Row>,
    /// What was done. While a [`Resolve`](crate::Resolve) is asked: what would be.
    pub decision: Decision,
    /// More, in words: the constraint that is violated, the row that stands in the way.
    pub detail: Option<String>,
}

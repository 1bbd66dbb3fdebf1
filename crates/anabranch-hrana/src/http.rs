//! Bodies of requests and answers over HTTP.

use serde::{Deserialize, Serialize};

use crate::wire::{decimal, need, null_default};
use crate::{Batch, BatchResult, Col, DescribeResult, Error, Stmt, StmtResult, Value};

/// The body of `POST v2/pipeline` and `POST v3/pipeline`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PipelineRequest {
    /// Which stream goes on; `None`: a new one.
    pub baton: Option<String>,
    /// What is asked, in this order.
    #[serde(default, deserialize_with = "null_default")]
    pub requests: Vec<StreamRequest>,
}

/// The answer to it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PipelineResponse {
    /// For the next request of the stream; `None`: it is closed.
    pub baton: Option<String>,
    /// Where that request goes; `None`: where this one went.
    pub base_url: Option<String>,
    /// One for each request.
    pub results: Vec<StreamResult>,
}

/// A request of a pipeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", try_from = "RawRequest")]
pub enum StreamRequest {
    /// Close the stream and roll back.
    Close,
    /// Run one statement.
    Execute {
        /// The statement.
        stmt: Stmt,
    },
    /// Run several.
    Batch {
        /// The statements.
        batch: Batch,
    },
    /// Run all statements of a text, without rows.
    Sequence {
        /// The text.
        #[serde(skip_serializing_if = "Option::is_none")]
        sql: Option<String>,
        /// Or the number of a stored one.
        #[serde(skip_serializing_if = "Option::is_none")]
        sql_id: Option<i32>,
    },
    /// Tell what a statement would do.
    Describe {
        /// The text.
        #[serde(skip_serializing_if = "Option::is_none")]
        sql: Option<String>,
        /// Or the number of a stored one.
        #[serde(skip_serializing_if = "Option::is_none")]
        sql_id: Option<i32>,
    },
    /// Keep a text under a number.
    StoreSql {
        /// The number.
        sql_id: i32,
        /// The text.
        sql: String,
    },
    /// Forget the text under a number.
    CloseSql {
        /// The number.
        sql_id: i32,
    },
    /// Whether no transaction is open. Since version 3.
    GetAutocommit,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum RequestKind {
    Close,
    Execute,
    Batch,
    Sequence,
    Describe,
    StoreSql,
    CloseSql,
    GetAutocommit,
}

/// The members of all requests together: read at once, whatever order they come in.
#[derive(Deserialize)]
struct RawRequest {
    #[serde(rename = "type")]
    kind: RequestKind,
    stmt: Option<Stmt>,
    batch: Option<Batch>,
    sql: Option<String>,
    sql_id: Option<i32>,
}

impl TryFrom<RawRequest> for StreamRequest {
    type Error = String;

    fn try_from(raw: RawRequest) -> Result<Self, String> {
        let (sql, sql_id) = (raw.sql, raw.sql_id);
        Ok(match raw.kind {
            RequestKind::Close => Self::Close,
            RequestKind::Execute => Self::Execute { stmt: need(raw.stmt, "stmt", "execute")? },
            RequestKind::Batch => Self::Batch { batch: need(raw.batch, "batch", "batch")? },
            RequestKind::Sequence => Self::Sequence { sql, sql_id },
            RequestKind::Describe => Self::Describe { sql, sql_id },
            RequestKind::StoreSql => Self::StoreSql {
                sql_id: need(sql_id, "sql_id", "store_sql")?,
                sql: need(sql, "sql", "store_sql")?,
            },
            RequestKind::CloseSql => {
                Self::CloseSql { sql_id: need(sql_id, "sql_id", "close_sql")? }
            }
            RequestKind::GetAutocommit => Self::GetAutocommit,
        })
    }
}

/// What one request of a pipeline came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StreamResult {
    /// It succeeded.
    Ok {
        /// The answer, of the request's own type.
        response: StreamResponse,
    },
    /// It failed.
    Error {
        /// Why.
        error: Error,
    },
}

/// The answer to a request of a pipeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StreamResponse {
    /// The stream is closed.
    Close,
    /// The statement ran.
    Execute {
        /// What it came to.
        result: StmtResult,
    },
    /// The batch ran, whatever its steps came to.
    Batch {
        /// What they came to.
        result: BatchResult,
    },
    /// All statements ran.
    Sequence,
    /// What the statement would do.
    Describe {
        /// That.
        result: DescribeResult,
    },
    /// The text is kept.
    StoreSql,
    /// The text is forgotten.
    CloseSql,
    /// Whether no transaction is open.
    GetAutocommit {
        /// That.
        is_autocommit: bool,
    },
}

/// The body of `POST v3/cursor`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct CursorRequest {
    /// Which stream goes on; `None`: a new one.
    pub baton: Option<String>,
    /// The statements.
    pub batch: Batch,
}

/// The first line of the answer to it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CursorHead {
    /// For the next request of the stream; `None`: it is closed.
    pub baton: Option<String>,
    /// Where that request goes; `None`: where this one went.
    pub base_url: Option<String>,
}

/// A further line of it, or an entry of `fetch_cursor`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum CursorEntry {
    /// A step begins.
    StepBegin {
        /// Which, from 0.
        step: u32,
        /// Its columns.
        #[serde(default, deserialize_with = "null_default")]
        cols: Vec<Col>,
    },
    /// A row of it.
    Row {
        /// The values.
        row: Vec<Value>,
    },
    /// It succeeded.
    StepEnd {
        /// Rows that an INSERT, UPDATE or DELETE wrote; else 0.
        affected_row_count: u64,
        /// The row id that an INSERT gave; a decimal string on the wire.
        #[serde(default, with = "decimal")]
        last_insert_rowid: Option<i64>,
    },
    /// It failed, before or after it began.
    StepError {
        /// Which, from 0.
        step: u32,
        /// Why.
        error: Error,
    },
    /// The whole failed; nothing follows.
    Error {
        /// Why.
        error: Error,
    },
    /// Other servers end a cursor with it. Means nothing here, and is never sent.
    ReplicationIndex,
}

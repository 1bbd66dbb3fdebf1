//! Messages over WebSocket.

use serde::{Deserialize, Serialize};

use crate::wire::need;
use crate::{Batch, BatchResult, CursorEntry, DescribeResult, Error, Stmt, StmtResult};

/// What a client sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", try_from = "RawClientMsg")]
pub enum ClientMsg {
    /// Who it is. Comes first; a later one replaces the token.
    Hello {
        /// The token.
        #[serde(skip_serializing_if = "Option::is_none")]
        jwt: Option<String>,
    },
    /// It asks something.
    Request {
        /// The client's number for the answer.
        request_id: i32,
        /// What.
        request: Request,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum MsgKind {
    Hello,
    Request,
}

#[derive(Deserialize)]
struct RawClientMsg {
    #[serde(rename = "type")]
    kind: MsgKind,
    jwt: Option<String>,
    request_id: Option<i32>,
    request: Option<Request>,
}

impl TryFrom<RawClientMsg> for ClientMsg {
    type Error = String;

    fn try_from(raw: RawClientMsg) -> Result<Self, String> {
        Ok(match raw.kind {
            MsgKind::Hello => Self::Hello { jwt: raw.jwt },
            MsgKind::Request => Self::Request {
                request_id: need(raw.request_id, "request_id", "request")?,
                request: need(raw.request, "request", "request")?,
            },
        })
    }
}

/// What a server sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerMsg {
    /// The token is good.
    HelloOk,
    /// It is not.
    HelloError {
        /// Why.
        error: Error,
    },
    /// A request succeeded.
    ResponseOk {
        /// The client's number.
        request_id: i32,
        /// The answer, of the request's own type.
        response: Response,
    },
    /// A request failed.
    ResponseError {
        /// The client's number.
        request_id: i32,
        /// Why.
        error: Error,
    },
}

/// What is asked over WebSocket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", try_from = "RawRequest")]
pub enum Request {
    /// Begin a stream, under the client's number.
    OpenStream {
        /// The number.
        stream_id: i32,
    },
    /// End it and roll back.
    CloseStream {
        /// Its number.
        stream_id: i32,
    },
    /// Run one statement.
    Execute {
        /// On which stream.
        stream_id: i32,
        /// The statement.
        stmt: Stmt,
    },
    /// Run several.
    Batch {
        /// On which stream.
        stream_id: i32,
        /// The statements.
        batch: Batch,
    },
    /// Run a batch and keep its results for `fetch_cursor`. Since version 3.
    OpenCursor {
        /// On which stream.
        stream_id: i32,
        /// The client's number for the results.
        cursor_id: i32,
        /// The statements.
        batch: Batch,
    },
    /// Forget the results.
    CloseCursor {
        /// Their number.
        cursor_id: i32,
    },
    /// The next results.
    FetchCursor {
        /// Their number.
        cursor_id: i32,
        /// So many entries at most.
        max_count: u32,
    },
    /// Run all statements of a text, without rows. Since version 2.
    Sequence {
        /// On which stream.
        stream_id: i32,
        /// The text.
        #[serde(skip_serializing_if = "Option::is_none")]
        sql: Option<String>,
        /// Or the number of a stored one.
        #[serde(skip_serializing_if = "Option::is_none")]
        sql_id: Option<i32>,
    },
    /// Tell what a statement would do. Since version 2.
    Describe {
        /// On which stream.
        stream_id: i32,
        /// The text.
        #[serde(skip_serializing_if = "Option::is_none")]
        sql: Option<String>,
        /// Or the number of a stored one.
        #[serde(skip_serializing_if = "Option::is_none")]
        sql_id: Option<i32>,
    },
    /// Keep a text under a number, for all streams of the connection. Since version 2.
    StoreSql {
        /// The number.
        sql_id: i32,
        /// The text.
        sql: String,
    },
    /// Forget the text under a number. Since version 2.
    CloseSql {
        /// The number.
        sql_id: i32,
    },
    /// Whether no transaction is open. Since version 3.
    GetAutocommit {
        /// On which stream.
        stream_id: i32,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum RequestKind {
    OpenStream,
    CloseStream,
    Execute,
    Batch,
    OpenCursor,
    CloseCursor,
    FetchCursor,
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
    stream_id: Option<i32>,
    cursor_id: Option<i32>,
    max_count: Option<u32>,
    stmt: Option<Stmt>,
    batch: Option<Batch>,
    sql: Option<String>,
    sql_id: Option<i32>,
}

impl TryFrom<RawRequest> for Request {
    type Error = String;

    fn try_from(raw: RawRequest) -> Result<Self, String> {
        let stream = |kind| need(raw.stream_id, "stream_id", kind);
        let cursor = |kind| need(raw.cursor_id, "cursor_id", kind);
        let number = |kind| need(raw.sql_id, "sql_id", kind);
        let (sql, sql_id) = (raw.sql, raw.sql_id);
        Ok(match raw.kind {
            RequestKind::OpenStream => Self::OpenStream { stream_id: stream("open_stream")? },
            RequestKind::CloseStream => Self::CloseStream { stream_id: stream("close_stream")? },
            RequestKind::Execute => Self::Execute {
                stream_id: stream("execute")?,
                stmt: need(raw.stmt, "stmt", "execute")?,
            },
            RequestKind::Batch => Self::Batch {
                stream_id: stream("batch")?,
                batch: need(raw.batch, "batch", "batch")?,
            },
            RequestKind::OpenCursor => Self::OpenCursor {
                stream_id: stream("open_cursor")?,
                cursor_id: cursor("open_cursor")?,
                batch: need(raw.batch, "batch", "open_cursor")?,
            },
            RequestKind::CloseCursor => Self::CloseCursor { cursor_id: cursor("close_cursor")? },
            RequestKind::FetchCursor => Self::FetchCursor {
                cursor_id: cursor("fetch_cursor")?,
                max_count: need(raw.max_count, "max_count", "fetch_cursor")?,
            },
            RequestKind::Sequence => Self::Sequence { stream_id: stream("sequence")?, sql, sql_id },
            RequestKind::Describe => Self::Describe { stream_id: stream("describe")?, sql, sql_id },
            RequestKind::StoreSql => {
                Self::StoreSql { sql_id: number("store_sql")?, sql: need(sql, "sql", "store_sql")? }
            }
            RequestKind::CloseSql => Self::CloseSql { sql_id: number("close_sql")? },
            RequestKind::GetAutocommit => {
                Self::GetAutocommit { stream_id: stream("get_autocommit")? }
            }
        })
    }
}

/// What is answered over WebSocket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Response {
    /// The stream began.
    OpenStream,
    /// It ended.
    CloseStream,
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
    /// The batch ran; its results are kept.
    OpenCursor,
    /// They are forgotten.
    CloseCursor,
    /// Some results.
    FetchCursor {
        /// In their order.
        entries: Vec<CursorEntry>,
        /// These were the last.
        done: bool,
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

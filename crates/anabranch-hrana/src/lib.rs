//! Wire types of SQL over HTTP and WebSocket, as the official libSQL clients speak it ("Hrana",
//! versions 1 to 3, JSON).
//!
//! Plain values in, JSON out, and back: both for a server and for a client. Nothing here knows
//! sockets or SQLite, and nothing decides what a request means.
//!
//! | module | what it has |
//! |---|---|
//! | [`Value`] | one SQL value |
//! | [`Stmt`], [`Batch`], [`BatchCond`] | what is asked of a stream |
//! | [`StmtResult`], [`BatchResult`], [`DescribeResult`], [`Error`] | what comes of it |
//! | [`PipelineRequest`], [`PipelineResponse`], [`CursorRequest`], [`CursorHead`], [`CursorEntry`] | bodies over HTTP |
//! | [`ws`] | messages over WebSocket |
//!
//! On reading, unknown members are passed over and a missing member is the same as `null`; what the
//! clients insist on is always written. Requests are read without keeping any JSON besides the values
//! themselves, so what a body needs in memory is bounded by a small multiple of its length. Nesting is
//! bounded by [`BatchCond::DEPTH_MAX`] and by `serde_json`'s own limit.

mod batch;
mod error;
mod http;
mod result;
mod stmt;
mod value;
mod wire;
pub mod ws;

pub use batch::{Batch, BatchCond, BatchStep, CondError, StepOutcome};
pub use error::Error;
pub use http::{
    CursorEntry, CursorHead, CursorRequest, PipelineRequest, PipelineResponse, StreamRequest,
    StreamResponse, StreamResult,
};
pub use result::{BatchResult, Col, DescribeCol, DescribeParam, DescribeResult, StmtResult};
pub use stmt::{NamedArg, Stmt};
pub use value::Value;

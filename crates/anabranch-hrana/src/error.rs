//! What became of a statement that failed.

use serde::{Deserialize, Serialize};

use crate::wire::null_default;

/// Why a statement, a request, or a whole stream failed. Programs go by `code`, and by parts of
/// `message`, which holds SQLite's own words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// For people.
    pub message: String,
    /// For programs, such as `SQLITE_CONSTRAINT`. Always written: a client breaks without it.
    #[serde(default, deserialize_with = "null_default")]
    pub code: String,
}

impl Error {
    /// An error with this code and message.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Error { message: message.into(), code: code.into() }
    }
}

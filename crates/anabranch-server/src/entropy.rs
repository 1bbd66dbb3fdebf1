//! Where fresh ids and the time come from.

pub(crate) use anabranch_store::fresh::{database_id, now, push_id, writer_id};

/// A fresh id of a run of this server, or of a push session: nobody can guess it.
pub(crate) fn session_id() -> String {
    anabranch_store::fresh::digits(16)
}

/// A fresh id of a request.
pub(crate) fn request_id() -> String {
    anabranch_store::fresh::digits(12)
}

/// A fresh id of a stream of SQL: nobody can guess it.
pub(crate) fn stream_id() -> u64 {
    u64::from_str_radix(&anabranch_store::fresh::digits(15), 16).unwrap_or_default()
}

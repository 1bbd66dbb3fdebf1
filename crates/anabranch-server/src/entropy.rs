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

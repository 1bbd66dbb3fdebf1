//! Where fresh ids and the time come from.

use std::time::{SystemTime, UNIX_EPOCH};

use anabranch_format::{DatabaseId, Micros, PushId, WriterId};

fn hex(digits: usize) -> String {
    let mut text = uuid::Uuid::new_v4().simple().to_string();
    // The last digits of a version 4 UUID are all random.
    text.split_off(text.len() - digits.min(text.len()))
}

/// A fresh id of a push.
pub(crate) fn push_id() -> PushId {
    hex(12).parse().expect("hex digits are an id")
}

/// A fresh id of whoever appends.
pub(crate) fn writer_id() -> WriterId {
    hex(15).parse().expect("hex digits are an id")
}

/// A fresh id of a database.
pub(crate) fn database_id() -> DatabaseId {
    hex(20).parse().expect("hex digits are an id")
}

/// A fresh id of a run of this server, or of a push session: nobody can guess it.
pub(crate) fn session_id() -> String {
    hex(16)
}

/// A fresh id of a request.
pub(crate) fn request_id() -> String {
    hex(12)
}

/// Now.
pub(crate) fn now() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

//! Pages put into a database as they are.
//!
//! In the transaction that is open, by a connection that is used for nothing else afterwards: it answers
//! wrongly once it has written pages.

use anabranch_format::Pgno;
use rusqlite::Connection;

/// Writes a page of the connection's open transaction.
pub(crate) fn write_page(conn: &Connection, pgno: Pgno, page: &[u8]) -> rusqlite::Result<()> {
    conn.prepare_cached("INSERT INTO sqlite_dbpage(pgno, data) VALUES (?1, ?2)")?
        .execute((pgno.get(), page))
        .map(|_| ())
}

/// Cuts off the pages above `size_after`, and only then gives the file its new schema cookie: see
/// the steps of an apply.
pub(crate) fn cut_off(
    conn: &Connection,
    size_after: u32,
    cookie: Option<u32>,
) -> rusqlite::Result<()> {
    conn.execute("INSERT INTO sqlite_dbpage(pgno, data) VALUES (?1, NULL)", [size_after + 1])?;
    match cookie {
        // The pragma takes what it writes for a signed number.
        Some(cookie) => conn.pragma_update(None, "schema_version", cookie.cast_signed()),
        None => Ok(()),
    }
}

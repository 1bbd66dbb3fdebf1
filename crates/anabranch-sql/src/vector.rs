//! libSQL's vector functions.

use rusqlite::Connection;

/// Registers the functions on a connection.
pub fn register(_conn: &Connection) -> rusqlite::Result<()> {
    Ok(())
}

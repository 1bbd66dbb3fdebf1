//! What `AUTOINCREMENT` has given, in `sqlite_sequence`.

use rusqlite::Connection;

/// The highest rowid that a table was given.
pub(crate) fn last(conn: &Connection, table: &str) -> rusqlite::Result<Option<i64>> {
    let there: bool = conn.query_row(
        "SELECT EXISTS(SELECT 1 FROM main.sqlite_schema WHERE name = 'sqlite_sequence')",
        [],
        |row| row.get(0),
    )?;
    if !there {
        return Ok(None);
    }
    // Anybody may have written anything there.
    conn.query_row(
        "SELECT max(seq) FROM main.sqlite_sequence WHERE name = ?1 AND typeof(seq) = 'integer'",
        [table],
        |row| row.get(0),
    )
}

/// Sees to it that no rowid up to `to` is given again.
pub(crate) fn raise(conn: &Connection, table: &str, to: i64) -> rusqlite::Result<()> {
    if last(conn, table)?.is_some_and(|at| at >= to) {
        return Ok(());
    }
    let known =
        conn.execute("UPDATE main.sqlite_sequence SET seq = ?2 WHERE name = ?1", (table, to))?;
    if known == 0 {
        conn.execute("INSERT INTO main.sqlite_sequence(name, seq) VALUES (?1, ?2)", (table, to))?;
    }
    Ok(())
}

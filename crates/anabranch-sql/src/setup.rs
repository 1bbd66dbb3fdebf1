//! How a connection begins, and how it is brought back to that.

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use crate::clock::Clock;
use crate::guard::{Guard, OF_CONNECTION};
use crate::limits::{CACHED_STATEMENTS, Limits};
use crate::{linear, vector};

/// Makes a connection ready; the guard comes last, as it would refuse some of this.
pub(crate) fn prepare(conn: &mut Connection, limits: &Limits) -> rusqlite::Result<(Guard, Clock)> {
    for (config, on) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, true),
    ] {
        conn.set_db_config(config, on)?;
    }
    conn.execute_batch("PRAGMA cell_size_check=1")?;
    set_pragmas(conn)?;
    limits.apply(conn)?;
    vector::register(conn)?;
    linear::register(conn, limits.value_bytes)?;
    conn.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
    let clock = Clock::install(conn)?;
    Ok((Guard::install(conn, clock.clone())?, clock))
}

/// Sets the pragmas of the connection to how it begins.
fn set_pragmas(conn: &Connection) -> rusqlite::Result<()> {
    for (name, value) in OF_CONNECTION {
        conn.execute_batch(&format!("PRAGMA {name}={value}"))?;
    }
    Ok(())
}

/// Ends what is open and sets back what was set; `false` if something of a client would stay.
pub(crate) fn clean(conn: &Connection, temp: bool, pragmas: bool) -> rusqlite::Result<bool> {
    if !conn.is_autocommit() {
        conn.execute_batch("ROLLBACK")?;
    }
    if temp {
        let objects: i64 =
            conn.query_row("SELECT count(*) FROM temp.sqlite_schema", [], |row| row.get(0))?;
        if objects > 0 {
            return Ok(false);
        }
    }
    if pragmas {
        set_pragmas(conn)?;
    }
    Ok(true)
}

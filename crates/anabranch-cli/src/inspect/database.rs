//! SQLite databases, and the sidecars of replicas, which are databases too.
//!
//! Opened read-only, through SQLite alone, and left without a checkpoint, so that looking changes
//! nothing. One at rest, without a `-wal` or journal, is read as a file that cannot change: opened
//! otherwise, a database in WAL mode would get a `-wal` and `-shm`, which a reader cannot remove. If
//! somebody began to use it meanwhile it is read again, through these files. The database checksum is the one that the log states: two files with the same one are
//! equal page by page, the fields of page 1 that belong to one copy aside.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anabranch_format::{DbChecksum, PageChecksum, PageOne, PageSize, Pgno};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use super::findings::Findings;
use crate::context::with_suffix;
use crate::failure::Failure;

/// "anab": SQLite's application id of a sidecar.
const SIDECAR_APPLICATION_ID: i64 = 0x616e_6162;

/// How many lines of `integrity_check` are looked at; the first one is shown.
const FINDINGS_MAX: u32 = 100;

/// Explains the database at `path`.
pub(super) fn explain(path: &Path, findings: &mut Findings) -> Result<(), Failure> {
    if let Some(before) = at_rest(path) {
        let explained = explain_as(path, How::AtRest, findings);
        if at_rest(path) == Some(before) {
            return explained;
        }
        *findings = findings.anew();
    }
    explain_as(path, How::InUse, findings)
}

/// How a database is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// Nobody uses it: only the file itself is looked at.
    AtRest,
    /// With SQLite's locks, and the files beside it.
    InUse,
}

/// The time and length of a file that nobody uses, as far as files tell.
fn at_rest(path: &Path) -> Option<(SystemTime, u64)> {
    let path = path.canonicalize().ok().filter(|_| cfg!(unix))?;
    let has = |suffix| with_suffix(&path, suffix).symlink_metadata().is_ok();
    if has("-wal") || has("-journal") {
        return None;
    }
    let metadata = path.metadata().ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn explain_as(path: &Path, how: How, findings: &mut Findings) -> Result<(), Failure> {
    findings.kind = "SQLite database";
    let opened = open(path, how).map_err(|source| Failure::Sqlite {
        what: "opening",
        path: path.to_owned(),
        source,
    })?;
    if let Err(e) = explain_open(&opened, findings) {
        match e.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
                findings.damage(e.to_string());
            }
            _ => {
                let path = path.to_owned();
                return Err(Failure::Sqlite { what: "reading", path, source: e });
            }
        }
    }
    Ok(())
}

fn open(path: &Path, how: How) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = match how {
        How::InUse => Connection::open_with_flags(path, flags)?,
        How::AtRest => {
            let uri = format!("file:{}?immutable=1", escaped(path));
            Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_URI)?
        }
    };
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    conn.busy_timeout(Duration::from_secs(5))?;
    Ok(conn)
}

/// A path as part of a URI.
fn escaped(path: &Path) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for &byte in path.as_os_str().as_encoded_bytes() {
        // Writing to a string cannot fail.
        let _ = match byte {
            b'/' | b'.' | b'-' | b'_' => write!(text, "{}", char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => write!(text, "{}", char::from(byte)),
            byte => write!(text, "%{byte:02X}"),
        };
    }
    text
}

fn pragma<T: rusqlite::types::FromSql>(conn: &Connection, name: &str) -> rusqlite::Result<T> {
    conn.pragma_query_value(None, name, |row| row.get(0))
}

fn explain_open(conn: &Connection, findings: &mut Findings) -> rusqlite::Result<()> {
    // One read transaction: everything that follows is of one state.
    conn.execute_batch("BEGIN; SELECT 1 FROM sqlite_schema LIMIT 1")?;
    let page_size: u32 = pragma(conn, "page_size")?;
    let pages: u32 = pragma(conn, "page_count")?;
    findings.fact_as("page_size", page_size, page_size.to_string());
    findings.fact("pages", pages);
    findings.fact("journal_mode", journal_mode(conn)?);
    findings.fact("encoding", pragma::<String>(conn, "encoding")?);
    findings.fact_as(
        "user_version",
        pragma::<i64>(conn, "user_version")?,
        pragma::<i64>(conn, "user_version")?.to_string(),
    );
    let application: i64 = pragma(conn, "application_id")?;
    if application != 0 {
        findings.fact_as("application_id", application, format!("{application:#010x}"));
    }
    findings.fact("free_pages", pragma::<u32>(conn, "freelist_count")?);
    schema_facts(conn, findings)?;
    check(conn, findings)?;
    if let Ok(size) = PageSize::new(page_size) {
        checksum(conn, size, findings)?;
    }
    if application == SIDECAR_APPLICATION_ID {
        explain_sidecar(conn, findings)?;
    }
    conn.execute_batch("COMMIT")
}

/// As the file itself says: SQLite answers otherwise for one that is taken to be at rest.
fn journal_mode(conn: &Connection) -> rusqlite::Result<String> {
    let sql = "SELECT hex(substr(data, 19, 1)) FROM sqlite_dbpage WHERE pgno = 1";
    let write_version: String = conn.query_row(sql, [], |row| row.get(0))?;
    if write_version == "02" { Ok("wal".to_owned()) } else { pragma(conn, "journal_mode") }
}

fn schema_facts(conn: &Connection, findings: &mut Findings) -> rusqlite::Result<()> {
    let sql =
        "SELECT count(*) FILTER (WHERE type = 'table'), count(*) FILTER (WHERE type = 'index')
               FROM sqlite_schema";
    let (tables, indices) =
        conn.query_row(sql, [], |row| Ok((row.get::<_, u32>(0)?, row.get::<_, u32>(1)?)))?;
    findings.fact("tables", tables);
    findings.fact("indices", indices);
    Ok(())
}

/// SQLite's own check; pages of a plain SQLite database carry no checksums.
fn check(conn: &Connection, findings: &mut Findings) -> rusqlite::Result<()> {
    let mut statement = conn.prepare(&format!("PRAGMA integrity_check({FINDINGS_MAX})"))?;
    let lines = statement.query_map([], |row| row.get::<_, String>(0))?;
    let lines = lines.collect::<rusqlite::Result<Vec<_>>>()?;
    match lines.as_slice() {
        [ok] if ok == "ok" => findings.fact("integrity_check", "ok"),
        lines => {
            let first = lines.first().map_or("no answer", |line| line.trim());
            findings.fact("integrity_check", format!("{} findings", lines.len()));
            findings.damage(format!("integrity_check: {first}"));
        }
    }
    Ok(())
}

/// Reads every page as SQLite sees it, and adds up the checksums.
pub(crate) fn database_checksum(
    conn: &Connection,
    page_size: PageSize,
) -> rusqlite::Result<(DbChecksum, Option<PageOne>)> {
    let mut sum = DbChecksum::EMPTY;
    let mut page_one = None;
    let mut statement = conn.prepare("SELECT pgno, data FROM sqlite_dbpage ORDER BY pgno")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let Some(pgno) = Pgno::new(row.get(0)?) else { continue };
        if pgno == page_size.lock_page() {
            continue;
        }
        let page = row.get_ref(1)?.as_blob().unwrap_or_default();
        if pgno == Pgno::ONE {
            page_one = PageOne::read(page).ok();
        }
        sum.toggle(PageChecksum::of(pgno, page));
    }
    Ok((sum, page_one))
}

fn checksum(conn: &Connection, size: PageSize, findings: &mut Findings) -> rusqlite::Result<()> {
    let (sum, page_one) = database_checksum(conn, size)?;
    if let Some(one) = page_one {
        findings.fact("reserved_bytes", one.reserved);
        findings.fact("change_counter", one.change_counter);
        findings.fact("schema_cookie", one.schema_cookie);
    }
    findings.fact("checksum", sum);
    Ok(())
}

/// What a sidecar says about its replica.
fn explain_sidecar(conn: &Connection, findings: &mut Findings) -> rusqlite::Result<()> {
    findings.kind = "sidecar of a replica";
    let stored = conn.query_row("SELECT json, hash FROM state WHERE id = 1", [], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))
    });
    let (json, hash) = match stored {
        Ok(stored) => stored,
        Err(rusqlite::Error::QueryReturnedNoRows) => {
            findings.damage("it holds no state");
            return Ok(());
        }
        Err(e) => return Err(e),
    };
    if anabranch_format::content_hash(json.as_bytes()).cast_signed() != hash {
        findings.damage("the checksum of its state is wrong");
    }
    // Only these: the seed of its keyed checksums is worth something as long as nobody knows it.
    if let Ok(state) = serde_json::from_str::<Value>(&json) {
        let text = |name: &str| state[name].as_str().unwrap_or("?").to_owned();
        findings.fact("replica", text("replica"));
        findings.fact("of_database", text("database"));
        findings.fact("remote", text("remote"));
        let shown = serde_json::to_string(&state["base"]).unwrap_or_default();
        findings.fact_as("base", state["base"].clone(), shown);
    }
    for (name, table) in [("unfinished", "intent"), ("remembered_positions", "history")] {
        let rows = conn
            .query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0))?;
        findings.fact(name, rows);
    }
    Ok(())
}

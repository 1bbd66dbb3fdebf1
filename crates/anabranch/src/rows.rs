//! Which rows differ between a replica and its base, table by table.
//!
//! Plain SQL over the live database and an image of the base attached to it. For people who want to
//! know what they are about to push; nothing is decided by it.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::report::TableChanges;

/// Tables with their changes, and those that could not be compared, with the reason.
pub(crate) type Counted = (Vec<TableChanges>, Vec<(String, String)>);

struct Table {
    name: String,
    without_rowid: bool,
}

/// A name in quotes, so that it can be nothing else.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Compares the database at `live` with the one at `base`.
pub(crate) fn count(live: &Path, base: &Path, busy: Duration) -> rusqlite::Result<Counted> {
    // A connection that may not write would leave its `-wal` and `-shm` behind.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(live, flags)?;
    conn.execute_batch("PRAGMA query_only = ON")?;
    conn.busy_timeout(busy)?;
    conn.execute("ATTACH ?1 AS anabranch_base", [path_text(base)?])?;
    conn.execute_batch("BEGIN")?;
    let here = tables(&conn, "main")?;
    let there = tables(&conn, "anabranch_base")?;
    let (mut counted, mut skipped) = (Vec::new(), Vec::new());
    for table in &here {
        let before = there.iter().find(|t| t.name == table.name);
        match before {
            None => counted.push(only(&conn, "main", table, |rows| (rows, 0))?),
            Some(before) => match compare(&conn, table, before)? {
                Ok(changes) => counted.push(changes),
                Err(reason) => skipped.push((table.name.clone(), reason)),
            },
        }
    }
    for table in there.iter().filter(|t| here.iter().all(|h| h.name != t.name)) {
        counted.push(only(&conn, "anabranch_base", table, |rows| (0, rows))?);
    }
    counted.retain(|t| t.inserted + t.updated + t.deleted > 0);
    skipped.extend(virtual_tables(&conn)?);
    Ok((counted, skipped))
}

fn path_text(path: &Path) -> rusqlite::Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| rusqlite::Error::InvalidPath(path.to_owned()))
}

fn tables(conn: &Connection, schema: &str) -> rusqlite::Result<Vec<Table>> {
    let mut statement = conn.prepare(
        "SELECT name, wr FROM pragma_table_list WHERE schema = ?1 AND type = 'table'
           AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name",
    )?;
    let rows = statement
        .query_map([schema], |row| Ok(Table { name: row.get(0)?, without_rowid: row.get(1)? }))?;
    rows.collect()
}

fn virtual_tables(conn: &Connection) -> rusqlite::Result<Vec<(String, String)>> {
    let mut statement = conn
        .prepare("SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'virtual'")?;
    let rows = statement.query_map([], |row| {
        Ok((row.get(0)?, "a virtual table: its pages are synced, its rows not counted".to_owned()))
    })?;
    rows.collect()
}

fn only(
    conn: &Connection,
    schema: &str,
    table: &Table,
    place: fn(u64) -> (u64, u64),
) -> rusqlite::Result<TableChanges> {
    let rows = number(conn, &format!("SELECT count(*) FROM {schema}.{}", quoted(&table.name)))?;
    let (inserted, deleted) = place(rows);
    Ok(TableChanges { table: table.name.clone(), inserted, updated: 0, deleted })
}

fn number(conn: &Connection, sql: &str) -> rusqlite::Result<u64> {
    conn.query_row(sql, [], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs)
}

struct Columns {
    all: Vec<String>,
    key: Vec<String>,
}

fn columns(conn: &Connection, schema: &str, table: &Table) -> rusqlite::Result<Columns> {
    // Hidden is 0 for ordinary columns; generated ones follow from the others.
    let mut statement = conn
        .prepare("SELECT name, pk FROM pragma_table_xinfo(?1, ?2) WHERE hidden = 0 ORDER BY cid")?;
    let rows = statement.query_map([&table.name, schema], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))
    })?;
    let rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    let all: Vec<String> = rows.iter().map(|(name, _)| name.clone()).collect();
    let key = if table.without_rowid {
        rows.iter().filter(|(_, pk)| *pk > 0).map(|(name, _)| quoted(name)).collect()
    } else {
        let free = |alias: &&str| all.iter().all(|name| !name.eq_ignore_ascii_case(alias));
        ["rowid", "_rowid_", "oid"]
            .iter()
            .find(|a| free(a))
            .map(|a| (*a).to_owned())
            .into_iter()
            .collect()
    };
    Ok(Columns { all, key })
}

fn compare(
    conn: &Connection,
    here: &Table,
    there: &Table,
) -> rusqlite::Result<Result<TableChanges, String>> {
    let (now, before) = (columns(conn, "main", here)?, columns(conn, "anabranch_base", there)?);
    if now.all != before.all || now.key != before.key {
        return Ok(Err("its columns or its key changed".to_owned()));
    }
    if now.key.is_empty() {
        return Ok(Err("it hides its rowid behind columns of that name".to_owned()));
    }
    let table = quoted(&here.name);
    let same_key =
        now.key.iter().map(|k| format!("a.{k} = b.{k}")).collect::<Vec<_>>().join(" AND ");
    let values = |alias: &str| {
        let listed: Vec<_> =
            now.all.iter().map(|c| format!("{alias}.{} COLLATE BINARY", quoted(c))).collect();
        listed.join(", ")
    };
    let missing = |a: &str, b: &str| {
        format!(
            "SELECT count(*) FROM {a}.{table} a
             WHERE NOT EXISTS (SELECT 1 FROM {b}.{table} b WHERE {same_key})"
        )
    };
    let updated = format!(
        "SELECT count(*) FROM main.{table} a JOIN anabranch_base.{table} b ON {same_key}
         WHERE ({}) IS NOT ({})",
        values("a"),
        values("b")
    );
    Ok(Ok(TableChanges {
        table: here.name.clone(),
        inserted: number(conn, &missing("main", "anabranch_base"))?,
        updated: number(conn, &updated)?,
        deleted: number(conn, &missing("anabranch_base", "main"))?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(base: &str, live: &str) -> Counted {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("base.db"), folder.path().join("live.db"));
        Connection::open(&a).unwrap().execute_batch(base).unwrap();
        Connection::open(&b).unwrap().execute_batch(&format!("{base};{live}")).unwrap();
        count(&b, &a, Duration::ZERO).unwrap()
    }

    #[test]
    fn inserted_updated_and_deleted_rows_are_counted_by_key() {
        let (counted, skipped) = changes(
            "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b TEXT COLLATE NOCASE);
             CREATE TABLE k(x, y, v, PRIMARY KEY(x, y)) WITHOUT ROWID;
             CREATE TABLE gone(a);
             CREATE TABLE \"odd \"\" name\"(rowid, v);
             INSERT INTO t VALUES (1, NULL, 'x'), (2, 2, 'y'), (3, 3, 'z');
             INSERT INTO k VALUES (1, 1, 'a'), (1, 2, 'b');
             INSERT INTO gone VALUES (1), (2);
             INSERT INTO \"odd \"\" name\" VALUES (7, 1)",
            "UPDATE t SET b = 'X' WHERE id = 1; DELETE FROM t WHERE id = 2;
             INSERT INTO t VALUES (9, 9, 'n');
             UPDATE k SET v = NULL WHERE y = 2; DROP TABLE gone;
             UPDATE \"odd \"\" name\" SET v = 2; CREATE TABLE new(a); INSERT INTO new VALUES (1)",
        );
        let of = |table: &str| {
            let found = counted.iter().find(|t| t.table == table).unwrap();
            (found.inserted, found.updated, found.deleted)
        };
        assert_eq!(of("t"), (1, 1, 1));
        assert_eq!(of("k"), (0, 1, 0));
        assert_eq!(of("gone"), (0, 0, 2));
        assert_eq!(of("new"), (1, 0, 0));
        assert_eq!(of("odd \" name"), (0, 1, 0));
        assert!(skipped.is_empty());
    }

    #[test]
    fn tables_that_cannot_be_compared_are_named() {
        let (counted, skipped) = changes(
            "CREATE TABLE t(a); CREATE TABLE u(rowid, _rowid_, oid)",
            "ALTER TABLE t ADD COLUMN b",
        );
        assert!(counted.is_empty());
        let names: Vec<_> = skipped.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["t", "u"]);
    }
}

//! Three copies of one database, changed by SQL, and what the schema of the result is.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anabranch_format::{PageSet, PageSize, Pgno};
use anabranch_sqlite::PageRead;
use rusqlite::config::DbConfig;
use rusqlite::types::Value;

use super::*;

mod both;
mod outside;
mod plans;
mod random;
mod refused;
mod tables;
mod virtuals;

/// Three files: the base, and two that started from it.
struct World {
    dir: tempfile::TempDir,
    /// Whether the pages that differ are told.
    by_pages: bool,
}

impl World {
    fn new(base: &str, local: &str, remote: &str) -> Self {
        let world = Self { dir: tempfile::tempdir().unwrap(), by_pages: true };
        world.run("base", base);
        for (name, sql) in [("local", local), ("remote", remote)] {
            std::fs::copy(world.path("base"), world.path(name)).unwrap();
            world.run(name, sql);
        }
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What an application does: triggers fire, foreign keys are not enforced.
    fn run(&self, name: &str, sql: &str) {
        let conn = Connection::open(self.path(name)).unwrap();
        conn.pragma_update(None, "foreign_keys", false).unwrap();
        conn.pragma_update(None, "synchronous", false).unwrap();
        conn.execute_batch(
            "CREATE TABLE IF NOT EXISTS anabranch_test(x); DROP TABLE anabranch_test",
        )
        .unwrap();
        conn.execute_batch(sql).unwrap();
    }

    /// Connections as a rebase has them: base, local, remote.
    fn open(&self) -> (Connection, Connection, Connection) {
        let open = |name| {
            let conn = Connection::open(self.path(name)).unwrap();
            conn.execute_batch("PRAGMA query_only = ON").unwrap();
            crate::prepare(&conn).unwrap();
            conn
        };
        (open("base"), open("local"), open("remote"))
    }

    /// The pages in which base and local file differ.
    fn changed(&self) -> Changed {
        let [before, after] = ["base", "local"].map(|name| {
            let bytes = std::fs::read(self.path(name)).unwrap();
            let size = usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
            Bytes { bytes, size }
        });
        let mut pages = PageSet::new(before.size().max(after.size()));
        for pgno in (1..=before.size().max(after.size())).filter_map(Pgno::new) {
            if before.page(pgno) != after.page(pgno) {
                pages.insert(pgno);
            }
        }
        Changed {
            before: Arc::new(Mutex::new(before)),
            after: Arc::new(Mutex::new(after)),
            pages: Arc::new(pages),
            before_gone: false,
        }
    }

    /// Merges into a copy of the remote's file.
    fn merge(&self, rules: &Rules) -> Result<Merged, RebaseError> {
        let (base, local, remote) = self.open();
        std::fs::copy(self.path("remote"), self.path("onto")).unwrap();
        let onto = Connection::open(self.path("onto")).unwrap();
        onto.execute_batch("PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF").unwrap();
        onto.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false).unwrap();
        let changed = self.by_pages.then(|| self.changed());
        let changed = changed.as_ref();
        let sides =
            crate::Sides { base: &base, local: &local, remote: &remote, onto: &onto, changed };
        let mut conflicts = Vec::new();
        let mut keys = crate::KeyMap::default();
        let summary = crate::rebase(sides, rules, &mut keys, &mut |conflict| {
            conflicts.push(conflict);
            Ok(())
        })?;
        drop(onto);
        let conn = Connection::open(self.path("onto")).unwrap();
        sound(&conn);
        Ok(Merged { conn, conflicts, objects: summary.objects })
    }

    /// Merges without a rule for schemas.
    fn merged(&self) -> Merged {
        self.merge(&Rules::default()).unwrap()
    }

    fn take(&self, side: Side) -> Result<Merged, RebaseError> {
        self.merge(&Rules { take_schema: Some(side), ..Rules::default() })
    }
}

/// The pages of a file.
struct Bytes {
    bytes: Vec<u8>,
    size: usize,
}

impl Bytes {
    fn page(&self, pgno: Pgno) -> Option<&[u8]> {
        self.bytes.chunks(self.size).nth(pgno.get() as usize - 1)
    }
}

impl PageRead for Bytes {
    fn page_size(&self) -> PageSize {
        PageSize::new(u32::try_from(self.size).unwrap()).unwrap()
    }

    fn size(&self) -> u32 {
        u32::try_from(self.bytes.len() / self.size).unwrap()
    }

    fn read(&mut self, pgno: Pgno, buf: &mut [u8]) -> std::io::Result<()> {
        buf.copy_from_slice(self.page(pgno).unwrap());
        Ok(())
    }
}

struct Merged {
    conn: Connection,
    conflicts: Vec<Conflict>,
    objects: usize,
}

impl Merged {
    /// Statements of the schema, by name.
    fn schema(&self) -> BTreeMap<String, String> {
        schema(&self.conn)
    }

    fn rows(&self, sql: &str) -> Vec<Vec<Value>> {
        rows(&self.conn, sql)
    }

    /// Rows as text: values with commas, rows with blanks between them.
    fn text(&self, sql: &str) -> String {
        let row = |row: Vec<Value>| {
            let values: Vec<String> = row.into_iter().map(|v| shown(&v)).collect();
            values.join(",")
        };
        self.rows(sql).into_iter().map(row).collect::<Vec<_>>().join(" ")
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::Integer(i) => i.to_string(),
        Value::Real(r) => r.to_string(),
        Value::Text(t) => t.clone(),
        Value::Blob(b) => format!("{b:02x?}"),
    }
}

fn schema(conn: &Connection) -> BTreeMap<String, String> {
    let sql = "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL";
    let mut statement = conn.prepare(sql).unwrap();
    let found = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    found.collect::<rusqlite::Result<_>>().unwrap()
}

fn rows(conn: &Connection, sql: &str) -> Vec<Vec<Value>> {
    let mut statement = conn.prepare(sql).unwrap();
    let columns = statement.column_count();
    let found =
        statement.query_map([], |row| (0..columns).map(|at| row.get(at)).collect()).unwrap();
    found.collect::<rusqlite::Result<_>>().unwrap()
}

/// What must hold of any result.
fn sound(conn: &Connection) {
    match conn.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)) {
        Ok(said) => assert_eq!(said, "ok"),
        // It cannot be checked without the application.
        Err(error) => assert!(error.to_string().contains("no such collation"), "{error}"),
    }
    let mut left =
        conn.prepare("SELECT name FROM sqlite_schema WHERE name LIKE 'anabranch_aside%'").unwrap();
    assert!(!left.exists([]).unwrap());
    let virtuals = conn
        .prepare("SELECT name, sql FROM sqlite_schema WHERE sql LIKE 'CREATE VIRTUAL TABLE%'")
        .unwrap()
        .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))
        .unwrap()
        .collect::<rusqlite::Result<Vec<_>>>()
        .unwrap();
    for (name, sql) in virtuals {
        let quoted = quoted(&name);
        let check = if sql.contains("fts5(") {
            format!("INSERT INTO {quoted}({quoted}, rank) VALUES ('integrity-check', 1)")
        } else if sql.contains("fts4(") {
            format!("INSERT INTO {quoted}({quoted}) VALUES ('integrity-check')")
        } else if sql.contains("rtree(") {
            format!("SELECT rtreecheck('{name}') WHERE rtreecheck('{name}') <> 'ok'")
        } else {
            continue;
        };
        match conn.prepare(&check) {
            Ok(mut check) if check.column_count() > 0 => assert!(!check.exists([]).unwrap()),
            Ok(mut check) => {
                check.execute([]).unwrap();
            }
            Err(error) => panic!("{name}: {error}"),
        }
    }
}

//! What the tests of this crate share: folders, replicas and stock SQLite.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use anabranch::blocking::Replica;
use anabranch::{ConflictEntry, ConflictFilter, Options, Row, Value};
use rusqlite::Connection;
use tempfile::TempDir;

/// A folder with a remote in it and any number of replicas.
pub struct World {
    folder: TempDir,
}

impl World {
    pub fn new() -> Self {
        World { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn remote(&self) -> OsString {
        self.path("remote").into()
    }

    /// A database made by the stock `sqlite3` program from `sql`, published.
    pub fn published(&self, name: &str, sql: &str) -> (PathBuf, Replica) {
        let db = self.path(name);
        stock(&db, sql);
        let (replica, _) = Replica::init(&db, &self.remote(), options()).unwrap();
        (db, replica)
    }

    pub fn cloned(&self, name: &str) -> (PathBuf, Replica) {
        let db = self.path(name);
        let (replica, _) = Replica::clone_from(&self.remote(), &db, options()).unwrap();
        (db, replica)
    }
}

pub fn options() -> Options {
    Options::default()
}

/// Runs `sql` in the stock `sqlite3` program, another SQLite in another process, and answers its output.
pub fn stock(db: &Path, sql: &str) -> String {
    let out = Command::new("sqlite3").arg("-bail").arg(db).arg(sql).output().unwrap();
    assert!(out.status.success(), "sqlite3: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim_end().to_owned()
}

/// One value from the database.
pub fn value(db: &Path, sql: &str) -> String {
    stock(db, sql)
}

/// An application that holds the database open, so that its `-wal` stays.
pub fn app(db: &Path) -> Connection {
    let conn = Connection::open(db).unwrap();
    conn.pragma_update(None, "foreign_keys", false).unwrap();
    // A first read opens the WAL.
    conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).unwrap();
    conn
}

/// I4: the same logical content, and a sound file.
pub fn assert_same(a: &Path, b: &Path) {
    for db in [a, b] {
        assert_eq!(value(db, "PRAGMA integrity_check"), "ok", "{}", db.display());
    }
    assert_eq!(stock(a, ".dump"), stock(b, ".dump"), "{} and {}", a.display(), b.display());
}

pub fn os(text: &str) -> &OsStr {
    OsStr::new(text)
}

/// The conflicts that a replica has in its journal.
pub fn journal(replica: &Replica) -> Vec<ConflictEntry> {
    let mut found = Vec::new();
    let all = ConflictFilter { resolved: true, ..ConflictFilter::default() };
    replica
        .conflicts(&all, |entry| {
            found.push(entry);
            true
        })
        .unwrap();
    found
}

/// A text in a row.
pub fn text(row: Option<&Row>, column: &str) -> Option<String> {
    let row = row?;
    let at = row.columns.iter().position(|name| name == column)?;
    match &row.values[at] {
        Value::Text(text) => Some(text.clone()),
        other => panic!("{other:?}"),
    }
}

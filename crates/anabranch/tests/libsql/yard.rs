//! Files, replicas and what they must have in common.

use std::path::{Path, PathBuf};

use anabranch::blocking::Replica;
use anabranch::{Error, LibsqlError, Options, StoreError, SyncReport};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::server::Server;

pub const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t(v) VALUES ('a')";

pub struct Yard {
    folder: TempDir,
    pub server: Server,
}

impl Yard {
    pub fn new(server: Server) -> Self {
        Yard { folder: tempfile::tempdir().unwrap(), server }
    }

    /// An empty server to which a database was published.
    pub fn published(sql: &str) -> (Self, PathBuf, Replica) {
        let yard = Yard::new(Server::empty());
        let (db, replica) = yard.publish("a.db", sql).unwrap();
        (yard, db, replica)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn publish(&self, name: &str, sql: &str) -> Result<(PathBuf, Replica), Error> {
        let db = self.path(name);
        run(&db, sql);
        let (replica, _) = Replica::init(&db, self.server.url().as_ref(), options())?;
        Ok((db, replica))
    }

    pub fn try_clone(&self, name: &str) -> Result<(PathBuf, Replica), Error> {
        let db = self.path(name);
        let (replica, _) = Replica::clone_from(self.server.url().as_ref(), &db, options())?;
        Ok((db, replica))
    }

    pub fn cloned(&self, name: &str) -> (PathBuf, Replica) {
        self.try_clone(name).unwrap()
    }
}

pub fn options() -> Options {
    Options { auth_token: Some("secret".into()), ..Options::default() }
}

/// Runs `sql` as an application does that opens and closes the database.
pub fn run(db: &Path, sql: &str) {
    Connection::open(db).unwrap().execute_batch(sql).unwrap();
}

pub fn text(db: &Path, sql: &str) -> String {
    let conn = Connection::open(db).unwrap();
    let value: rusqlite::types::Value = conn.query_row(sql, [], |row| row.get(0)).unwrap();
    match value {
        rusqlite::types::Value::Text(text) => text,
        rusqlite::types::Value::Integer(number) => number.to_string(),
        other => format!("{other:?}"),
    }
}

pub fn rows(db: &Path) -> String {
    text(db, "SELECT group_concat(v, ' ') FROM (SELECT v FROM t ORDER BY id)")
}

/// I4: the same content, and sound files; also what the server would hand out.
pub fn assert_same(yard: &Yard, files: &[&Path]) {
    let image = yard.path("server.db");
    std::fs::write(&image, yard.server.state().generations.last().unwrap().image()).unwrap();
    let mut contents = Vec::new();
    for db in files.iter().copied().chain([&*image]) {
        assert_eq!(text(db, "PRAGMA integrity_check"), "ok", "{}", db.display());
        contents.push(dump(db));
    }
    let lines: Vec<usize> = contents.iter().map(Vec::len).collect();
    assert!(contents.windows(2).all(|pair| pair[0] == pair[1]), "rows differ: {lines:?}");
    std::fs::remove_file(image).unwrap();
}

/// Schema and rows.
pub fn dump(db: &Path) -> Vec<String> {
    let conn = Connection::open(db).unwrap();
    let list = |sql: &str| -> Vec<String> {
        let mut statement = conn.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    };
    let mut all = list("SELECT coalesce(sql, name) FROM sqlite_schema ORDER BY name");
    for table in list("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name") {
        all.extend(list(&format!("SELECT id || ' ' || quote(v) FROM {table} ORDER BY id")));
    }
    all
}

/// What the libSQL dialect said.
pub fn libsql(error: &Error) -> &LibsqlError {
    let mut cause: &dyn std::error::Error = match error {
        Error::Store(StoreError::Other { source, .. }) => &**source,
        other => other,
    };
    loop {
        if let Some(found) = cause.downcast_ref() {
            return found;
        }
        cause = cause.source().unwrap_or_else(|| panic!("no error of the dialect: {error:?}"));
    }
}

pub fn synced(replica: &Replica) -> SyncReport {
    let report = replica.sync().unwrap();
    assert_eq!(report.offline, None);
    report
}

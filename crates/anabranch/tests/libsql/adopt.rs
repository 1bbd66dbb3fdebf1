//! Taking over what an official libSQL client has left: a file, its `-wal`, and its `-info`.

use std::path::{Path, PathBuf};

use anabranch::blocking::Replica;
use anabranch::{AdoptError, AdoptReport, Error};
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use crate::server::{FRAME, Server, database};
use crate::yard::{SCHEMA, Yard, assert_same, options, rows, run, synced, text};

/// What an official client does with its files: never checkpoints, and counts frames.
struct Official {
    db: PathBuf,
    conn: Connection,
    durable: usize,
    generation: usize,
}

impl Official {
    fn new(yard: &Yard, name: &str) -> Self {
        let db = yard.path(name);
        let generation = yard.server.end().0;
        std::fs::write(&db, &yard.server.state().generations[generation - 1].base).unwrap();
        let conn = Connection::open(&db).unwrap();
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
        conn.execute_batch("PRAGMA wal_autocheckpoint = 0").unwrap();
        let official = Official { db, conn, durable: 0, generation };
        official.save();
        official
    }

    fn run(&self, sql: &str) {
        self.conn.execute_batch(sql).unwrap();
    }

    fn frames(&self) -> Vec<Vec<u8>> {
        let wal = std::fs::read(beside(&self.db, "-wal")).unwrap_or_default();
        wal.get(32..).unwrap_or_default().chunks_exact(FRAME).map(<[u8]>::to_vec).collect()
    }

    fn push(&mut self, yard: &Yard) {
        let frames = self.frames();
        let mut state = yard.server.state();
        let there = &mut state.generations[self.generation - 1].frames;
        there.extend_from_slice(&frames[self.durable..]);
        self.durable = frames.len();
        drop(state);
        self.save();
    }

    fn save(&self) {
        save(&self.db, 0, self.durable, self.generation);
    }

    fn end(self) -> PathBuf {
        self.conn.close().unwrap();
        self.db
    }
}

fn beside(db: &Path, suffix: &str) -> PathBuf {
    let mut name = db.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn save(db: &Path, version: u32, durable: usize, generation: usize) {
    let words = [version, u32::try_from(durable).unwrap(), u32::try_from(generation).unwrap()];
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let [version, durable, generation] = words;
    let info = format!(
        r#"{{"hash":{},"version":{version},"durable_frame_num":{durable},"generation":{generation}}}"#,
        crc32fast::hash(&bytes)
    );
    std::fs::write(beside(db, "-info"), info).unwrap();
}

fn adopt(yard: &Yard, db: &Path) -> Result<(Replica, AdoptReport), Error> {
    let quick =
        anabranch::Options { busy_timeout: std::time::Duration::from_millis(50), ..options() };
    Replica::adopt(db, yard.server.url().as_ref(), quick)
}

fn refused(yard: &Yard, db: &Path) -> AdoptError {
    // SQLite makes an empty -wal where there is none.
    let files = || ["", "-wal"].map(|s| std::fs::read(beside(db, s)).unwrap_or_default());
    let before = files();
    let error = adopt(yard, db).map(|_| ()).unwrap_err();
    assert!(files() == before, "{error:?}");
    assert!(!beside(db, "-anabranch").exists());
    match error {
        Error::Adopt { source, .. } => *source,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_was_never_pushed_becomes_local_changes_and_nothing_is_lost_or_doubled() {
    let yard = Yard::new(Server::empty());
    let mut official = Official::new(&yard, "app.db");
    official.run(SCHEMA);
    official.push(&yard);
    official.run("INSERT INTO t(v) VALUES ('unpushed'); CREATE TABLE u(id INTEGER PRIMARY KEY, v)");
    let db = official.end();
    let (replica, report) = adopt(&yard, &db).unwrap();
    assert!(report.local_pages > 0);
    assert_eq!(report.position.get() >> 32, 1);
    let backup = report.backup.unwrap();
    assert!(backup.exists() && !beside(&db, "-info").exists());
    assert!(synced(&replica).pushed.is_some());
    let (other, second) = yard.cloned("other.db");
    assert_same(&yard, &[&db, &other]);
    run(&other, "INSERT INTO u(v) VALUES ('back')");
    synced(&second);
    synced(&replica);
    assert_same(&yard, &[&db, &other]);
    let again = adopt(&yard, &db).map(|_| ()).unwrap_err();
    assert!(matches!(again, Error::AlreadyAReplica { .. }), "{again:?}");
}

#[test]
fn a_client_that_is_in_step_or_behind_or_never_pushed_is_taken_over() {
    let yard = Yard::new(Server::with(database(SCHEMA)));
    let fresh = Official::new(&yard, "fresh.db").end();
    let mut first = Official::new(&yard, "first.db");
    first.run("INSERT INTO t(v) VALUES ('b')");
    first.push(&yard);
    let behind = first.db.clone();
    let copies = ["-wal", "-info", ""].map(|suffix| {
        (yard.path(&format!("behind.db{suffix}")), std::fs::read(beside(&behind, suffix)).unwrap())
    });
    first.run("INSERT INTO t(v) VALUES ('c')");
    first.push(&yard);
    let first = first.end();
    for (path, bytes) in copies {
        std::fs::write(path, bytes).unwrap();
    }
    let behind = yard.path("behind.db");
    for (db, ahead) in [(&first, false), (&behind, true), (&fresh, true)] {
        let (replica, report) = adopt(&yard, db).unwrap();
        assert_eq!(report.local_pages, 0, "{}", db.display());
        assert_eq!(synced(&replica).pulled.is_some(), ahead, "{}", db.display());
        assert_eq!(rows(db), "a b c");
    }
    assert_same(&yard, &[&first, &behind, &fresh]);
}

#[test]
fn a_generation_that_is_over_is_left_behind() {
    let yard = Yard::new(Server::empty());
    let mut official = Official::new(&yard, "app.db");
    official.run(SCHEMA);
    official.push(&yard);
    official.run("INSERT INTO t(v) VALUES ('unpushed')");
    let db = official.end();
    yard.server.roll();
    let (replica, _) = adopt(&yard, &db).unwrap();
    synced(&replica);
    assert_eq!(yard.server.end(), (2, 1));
    assert_same(&yard, &[&db]);
}

#[test]
fn frames_that_another_sqlite_copied_into_the_file_are_pushed_all_the_same() {
    let yard = Yard::new(Server::with(database(SCHEMA)));
    let mut official = Official::new(&yard, "app.db");
    official.run("INSERT INTO t(v) VALUES ('b')");
    official.push(&yard);
    official.run("CREATE TABLE u(id INTEGER PRIMARY KEY, v); INSERT INTO u(v) VALUES (1)");
    // Copies everything, but does not begin the -wal anew.
    let copied: i64 =
        official.conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(2)).unwrap();
    assert!(copied > 0);
    let db = official.end();
    let (replica, _) = adopt(&yard, &db).unwrap();
    synced(&replica);
    assert_same(&yard, &[&db]);
    let (other, _) = yard.cloned("other.db");
    assert_eq!(text(&other, "SELECT v FROM u"), "1");
}

#[test]
fn what_cannot_be_taken_over_is_told_and_left_as_it_was() {
    let yard = Yard::new(Server::empty());
    let mut official = Official::new(&yard, "app.db");
    official.run(SCHEMA);
    official.push(&yard);
    official.run("INSERT INTO t(v) VALUES ('unpushed')");
    assert!(matches!(refused(&yard, &official.db), AdoptError::InUse(_)));
    let db = official.end();
    let info = beside(&db, "-info");
    let good = std::fs::read(&info).unwrap();
    std::fs::remove_file(&info).unwrap();
    assert!(matches!(refused(&yard, &db), AdoptError::NoInfo { .. }));
    std::fs::write(&info, b"{}").unwrap();
    assert!(matches!(refused(&yard, &db), AdoptError::Malformed(_)));
    std::fs::write(&info, String::from_utf8(good.clone()).unwrap().replace(":1}", ":2}")).unwrap();
    assert!(matches!(refused(&yard, &db), AdoptError::Hash { .. }));
    save(&db, 3, 2, 1);
    assert!(matches!(refused(&yard, &db), AdoptError::Version(3)));
    save(&db, 0, 2, 0);
    assert!(matches!(refused(&yard, &db), AdoptError::NoGeneration));
    save(&db, 0, 1000, 1);
    assert!(matches!(refused(&yard, &db), AdoptError::ShortWal { need: 1000, .. }));
    save(&db, 0, 1, 1);
    assert!(matches!(refused(&yard, &db), AdoptError::InsideTransaction(1)));
    let frames = yard.server.state().generations[0].frames.clone();
    std::fs::write(&info, &good).unwrap();
    yard.server.state().generations[0].frames.last_mut().unwrap()[2000] ^= 1;
    assert!(matches!(refused(&yard, &db), AdoptError::OtherFrame { .. }));
    yard.server.state().generations[0].frames.pop();
    assert!(matches!(refused(&yard, &db), AdoptError::NoSuchPosition { .. }));
    yard.server.state().generations[0].frames = frames;
    // A stock SQLite opened and closed it.
    let copy = yard.path("copy.db");
    for suffix in ["", "-wal", "-info"] {
        std::fs::copy(beside(&db, suffix), beside(&copy, suffix)).unwrap();
    }
    text(&copy, "SELECT count(*) FROM t");
    assert!(matches!(refused(&yard, &copy), AdoptError::ShortWal { have: 0, .. }));
    adopt(&yard, &db).unwrap();
}

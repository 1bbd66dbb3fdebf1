//! SQL on an overlay makes the very pages that it makes in a file.

use std::path::Path;

use anabranch_format::PageSize;
use anabranch_sqlite::{Scratch, SharedPages};
use proptest::prelude::*;
use proptest::sample::select;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, params};

use crate::support::{image_of, image_of_file, integrity, layer_on, pinned};

/// One thing that is done to both.
#[derive(Debug, Clone)]
enum Op {
    Insert { rows: u16, bytes: u32 },
    Update { from: u16, rows: u16, bytes: u32 },
    Delete { from: u16, rows: u16 },
    Word { from: u16, rows: u16 },
    Sql(&'static str),
}

const STATEMENTS: &[&str] = &[
    "CREATE INDEX IF NOT EXISTS by_v ON t(v)",
    "DROP INDEX IF EXISTS by_v",
    "CREATE TABLE IF NOT EXISTS w(a, b, PRIMARY KEY(a, b)) WITHOUT ROWID",
    "INSERT OR IGNORE INTO w SELECT k, v FROM t WHERE length(v) < 300",
    "DELETE FROM w WHERE rowid_of > 3",
    "DROP TABLE IF EXISTS w",
    "VACUUM",
    "PRAGMA incremental_vacuum(3)",
    "INSERT INTO f(f) VALUES ('rebuild')",
    "INSERT INTO f(f) VALUES ('optimize')",
    "DELETE FROM t",
    "ANALYZE",
    "REINDEX",
    "INSERT INTO u SELECT k, 'same' FROM t",
    "INSERT OR REPLACE INTO u SELECT k, k % 7 FROM t",
    "BEGIN; DELETE FROM t WHERE k % 3 = 0; UPDATE t SET v = zeroblob(3000); ROLLBACK",
    "BEGIN; INSERT INTO t(v) SELECT zeroblob(2000) FROM t LIMIT 200; SAVEPOINT s;
     DELETE FROM t; ROLLBACK TO s; COMMIT",
    "PRAGMA user_version = 7",
    "CREATE VIEW IF NOT EXISTS three AS SELECT * FROM t LIMIT 3",
];

fn op() -> impl Strategy<Value = Op> {
    let bytes = prop_oneof![0u32..200, 0u32..9000, Just(150_000u32)];
    prop_oneof![
        3 => (1u16..60, bytes.clone()).prop_map(|(rows, bytes)| Op::Insert { rows, bytes }),
        3 => (0u16..400, 1u16..40, bytes)
            .prop_map(|(from, rows, bytes)| Op::Update { from, rows, bytes }),
        2 => (0u16..400, 1u16..200).prop_map(|(from, rows)| Op::Delete { from, rows }),
        2 => (0u16..400, 1u16..40).prop_map(|(from, rows)| Op::Word { from, rows }),
        6 => select(STATEMENTS).prop_map(Op::Sql),
    ]
}

/// Answers whether it worked: it must fail on both or on none.
fn run(conn: &Connection, op: &Op) -> bool {
    let each = |from: u16, rows: u16, sql: &str, bytes: u32| {
        conn.execute_batch("BEGIN").unwrap();
        for k in from..from + rows {
            let value = vec![k.to_le_bytes()[0]; bytes as usize];
            conn.execute(sql, params![i64::from(k), value]).unwrap();
        }
        conn.execute_batch("COMMIT").unwrap();
        true
    };
    match op {
        Op::Insert { rows, bytes } => {
            each(0, *rows, "INSERT INTO t(v) SELECT ?2 WHERE ?1 >= 0", *bytes)
        }
        Op::Update { from, rows, bytes } => {
            each(*from, *rows, "UPDATE t SET v = ?2 WHERE k = ?1", *bytes)
        }
        Op::Delete { from, rows } => {
            each(*from, *rows, "DELETE FROM t WHERE k = ?1 AND ?2 >= ''", 0)
        }
        Op::Word { from, rows } => each(
            *from,
            *rows,
            "INSERT INTO f(words) SELECT 'word' || ?1 || ' some more text ' || length(?2)",
            9,
        ),
        Op::Sql(sql) => {
            let done = conn.execute_batch(sql).is_ok();
            if !conn.is_autocommit() {
                conn.execute_batch("ROLLBACK").unwrap();
            }
            done
        }
    }
}

/// The database that both start from.
fn build(path: &Path, page_size: PageSize, auto_vacuum: &str, wal: bool) {
    let conn = Connection::open(path).unwrap();
    conn.execute_batch(&format!(
        "PRAGMA page_size = {page_size}; PRAGMA auto_vacuum = {auto_vacuum};
         CREATE TABLE t(k INTEGER PRIMARY KEY, v); CREATE VIRTUAL TABLE f USING fts5(words);
         CREATE TABLE u(a, b UNIQUE);
         INSERT INTO t(v) SELECT zeroblob(value * 7 % 900)
         FROM (WITH RECURSIVE n(value) AS (VALUES (1) UNION ALL SELECT value + 1 FROM n LIMIT 300)
               SELECT value FROM n);
         DELETE FROM t WHERE k BETWEEN 40 AND 90;"
    ))
    .unwrap();
    if wal {
        conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
        conn.execute_batch("UPDATE t SET v = 'in the wal' WHERE k < 5").unwrap();
    }
}

/// A file, set up as a connection on an overlay is.
fn open_file(path: &Path) -> Connection {
    let conn = Connection::open(path).unwrap();
    for (option, on) in [
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false),
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false),
    ] {
        conn.set_db_config(option, on).unwrap();
    }
    conn.execute_batch("PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = OFF").unwrap();
    conn.query_row("PRAGMA journal_mode = TRUNCATE", [], |_| Ok(())).unwrap();
    conn
}

fn compare(page_size: u32, auto_vacuum: &str, wal: bool, cache: i32, ops: &[Op]) {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let page_size = PageSize::new(page_size).unwrap();
    let (live, copy) = (folder.path().join("live.db"), folder.path().join("copy.db"));
    build(&live, page_size, auto_vacuum, wal);
    std::fs::copy(&live, &copy).unwrap();
    let before = std::fs::read(&live).unwrap();

    let bottom = pinned(&live);
    let layer = layer_on(bottom.clone(), folder.path());
    let (scratch, file) = (Scratch::writable(&layer).unwrap(), open_file(&copy));
    for conn in [&*scratch, &file] {
        conn.pragma_update(None, "cache_size", cache).unwrap();
    }
    for op in ops {
        assert_eq!(run(&scratch, op), run(&file, op), "{op:?}: {:?}", scratch.take_failure());
    }
    assert_eq!((integrity(&scratch), integrity(&file)), ("ok".to_owned(), "ok".to_owned()));
    drop((scratch, file));

    let top: SharedPages = layer.clone();
    let (found, wanted) = (image_of(&top), image_of_file(&copy, page_size));
    assert_eq!(found.len(), wanted.len(), "sizes");
    for (n, (found, wanted)) in (1..).zip(found.iter().zip(&wanted)) {
        assert!(found == wanted, "page {n}");
    }
    // The layer is the difference, and alone makes a file of the old one.
    let old = image_of(&bottom);
    let layer = layer.lock().unwrap();
    for (n, wanted) in (1u32..).zip(&wanted) {
        let same = old.get(n as usize - 1) == Some(wanted);
        assert!(same || layer.contains(crate::support::p(n)), "page {n} is in no layer");
    }
    assert_eq!(std::fs::read(&live).unwrap(), before, "the live file");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn random_sql_writes_the_same_pages(
        page_size in select(&[512u32, 1024, 4096, 8192, 65536][..]),
        auto_vacuum in select(&["none", "full", "incremental"][..]),
        wal in any::<bool>(),
        cache in select(&[5, 40, -2000][..]),
        ops in prop::collection::vec(op(), 1..14),
    ) {
        compare(page_size, auto_vacuum, wal, cache, &ops);
    }
}

#[test]
fn each_statement_writes_the_same_pages_for_each_page_size() {
    for (shift, auto_vacuum) in (9..=16).zip(["none", "full", "incremental"].iter().cycle()) {
        let mut ops = vec![Op::Insert { rows: 30, bytes: 4000 }];
        for sql in STATEMENTS {
            ops.extend([Op::Sql(sql), Op::Word { from: 7, rows: 4 }]);
            ops.push(Op::Insert { rows: 20, bytes: 700 });
        }
        compare(1 << shift, auto_vacuum, shift % 2 == 0, 40, &ops);
    }
}

#[test]
fn an_index_that_is_larger_than_the_memory_is_built() {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let path = folder.path().join("app.db");
    build(&path, PageSize::DEFAULT, "none", true);
    let layer = layer_on(pinned(&path), folder.path());
    let scratch = Scratch::writable(&layer).unwrap();
    scratch
        .execute_batch(
            "INSERT INTO t(v) WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n
             LIMIT 20000) SELECT printf('%.600c', 'x') || (i * 7919 % 20011) FROM n;
             PRAGMA cache_size = 100; CREATE UNIQUE INDEX by_v ON t(v, k); VACUUM;
             SELECT count(*) FROM t INDEXED BY by_v",
        )
        .unwrap();
    assert_eq!(integrity(&scratch), "ok");
    drop(scratch);
    let reader = Scratch::read_only(layer).unwrap();
    assert_eq!(integrity(&reader), "ok");
}

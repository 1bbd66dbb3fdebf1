#![allow(clippy::cast_possible_truncation)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anabranch_format::PageSize;
use proptest::prelude::*;
use proptest::sample::select;
use rusqlite::params;

use super::*;

/// The pages of a file that nobody writes.
struct Bytes {
    bytes: Vec<u8>,
    page_size: PageSize,
    reads: Arc<AtomicU64>,
}

impl PageRead for Bytes {
    fn page_size(&self) -> PageSize {
        self.page_size
    }

    fn size(&self) -> u32 {
        (self.bytes.len() / self.page_size.bytes()) as u32
    }

    fn read(&mut self, pgno: Pgno, buf: &mut [u8]) -> io::Result<()> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let at = (pgno.get() as usize - 1) * buf.len();
        buf.copy_from_slice(&self.bytes[at..at + buf.len()]);
        Ok(())
    }
}

/// Two states of a database.
struct Pair {
    folder: tempfile::TempDir,
    reads: Arc<AtomicU64>,
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

impl Pair {
    /// `before` makes the base; `after` goes on from there.
    fn new(before: impl FnOnce(&Connection), after: impl FnOnce(&Connection)) -> Self {
        let pair = Pair { folder: folder(), reads: Arc::new(AtomicU64::new(0)) };
        let conn = Connection::open(pair.path("before")).unwrap();
        before(&conn);
        drop(conn);
        std::fs::copy(pair.path("before"), pair.path("after")).unwrap();
        let conn = Connection::open(pair.path("after")).unwrap();
        after(&conn);
        pair
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn pages(&self, path: &Path) -> (SharedPages, Vec<u8>) {
        let bytes = std::fs::read(path).unwrap();
        let page_size = PageOne::read(&bytes).unwrap().page_size;
        let pages = Bytes { bytes: bytes.clone(), page_size, reads: self.reads.clone() };
        (Arc::new(Mutex::new(pages)), bytes)
    }

    fn changed(&self) -> Changed {
        let (before, old) = self.pages(&self.path("before"));
        let (after, new) = self.pages(&self.path("after"));
        let bytes = before.lock().unwrap().page_size().bytes();
        let mut pages = PageSet::new(u32::MAX >> 8);
        let old = old.chunks(bytes).map(Some).chain(std::iter::repeat(None));
        for (n, (old, new)) in (1..).zip(old.zip(new.chunks(bytes))) {
            if old != Some(new) {
                pages.insert(Pgno::new(n).unwrap());
            }
        }
        Changed { before, after, pages: Arc::new(pages), before_gone: false }
    }

    fn conns(&self) -> (Connection, Connection) {
        let open = |name| Connection::open(self.path(name)).unwrap();
        (open("before"), open("after"))
    }

    fn finder(&self) -> Finder {
        let (before, after) = self.conns();
        Finder::new(&self.changed(), &before, &after).unwrap()
    }

    fn trees(&self, table: &str, key_columns: Option<usize>) -> Trees {
        let root = |conn: &Connection| -> u32 {
            let sql = "SELECT rootpage FROM sqlite_schema WHERE name = ?1";
            conn.query_row(sql, [table], |row| row.get(0)).unwrap()
        };
        let (before, after) = self.conns();
        Trees { before: root(&before), after: root(&after), key_columns }
    }

    /// The rowids of `table`, or all.
    fn rowids(&self, table: &str) -> Option<Vec<i64>> {
        match self.finder().candidates(self.trees(table, None)).unwrap() {
            Candidates::All => None,
            Candidates::Rowids(rowids) => Some(rowids),
            Candidates::Keys(keys) => panic!("{keys:?}"),
        }
    }

    fn keys(&self, table: &str, columns: usize) -> Option<Vec<Vec<Cell>>> {
        match self.finder().candidates(self.trees(table, Some(columns))).unwrap() {
            Candidates::All => None,
            Candidates::Keys(keys) => Some(keys),
            Candidates::Rowids(rowids) => panic!("{rowids:?}"),
        }
    }

    /// The rows of the later state on pages that differ, where the earlier one is gone; `None`: all.
    fn on_changed_pages(
        &self,
        table: &str,
        key_columns: Option<usize>,
    ) -> Option<BTreeSet<String>> {
        let (_, after) = self.conns();
        let mut finder = Finder::of_one(&self.changed(), &after).unwrap();
        match finder.on_changed_pages(self.trees(table, key_columns)).unwrap() {
            Candidates::All => None,
            Candidates::Rowids(rowids) => Some(rowids.iter().map(i64::to_string).collect()),
            Candidates::Keys(keys) => Some(keys.iter().map(|key| key_text(key)).collect()),
        }
    }

    /// Whether all rows that are new or were changed are found without the state before.
    fn check_without_before(&self) {
        for (table, key, columns) in [
            ("t", "CAST(rowid AS TEXT)", None),
            ("s", "CAST(rowid AS TEXT)", None),
            ("w", "a || '/' || b", Some(2)),
        ] {
            let Some(found) = self.on_changed_pages(table, columns) else { continue };
            let (_, after) = self.conns();
            let there: BTreeSet<String> = rows(&after, key, table).into_keys().collect();
            assert!(found.is_subset(&there), "{table}: {found:?}");
            let wanted = self.differing(key, table);
            let missing: Vec<_> =
                wanted.intersection(&there).filter(|key| !found.contains(*key)).collect();
            assert!(missing.is_empty(), "{table}: {missing:?} of {wanted:?}");
        }
    }

    /// The keys of the rows that differ, found by SQL alone.
    fn differing(&self, key: &str, table: &str) -> BTreeSet<String> {
        let (before, after) = self.conns();
        let (before, after) = (rows(&before, key, table), rows(&after, key, table));
        let keys = before.keys().chain(after.keys());
        keys.filter(|key| before.get(*key) != after.get(*key)).cloned().collect()
    }

    /// Whether all rows that differ are among the candidates; how many tables were not answered with
    /// "all".
    fn check(&self) -> usize {
        let mut answered = 0;
        for table in ["t", "s", "f_content", "f_data"] {
            if let Some(found) = self.rowids(table) {
                assert!(found.is_sorted_by(|a, b| a < b), "{found:?}");
                let found: BTreeSet<String> = found.iter().map(i64::to_string).collect();
                let wanted = self.differing("CAST(rowid AS TEXT)", table);
                let missing: Vec<_> = wanted.difference(&found).collect();
                assert!(missing.is_empty(), "{table}: {missing:?} of {wanted:?}");
                answered += 1;
            }
        }
        if let Some(found) = self.keys("w", 2) {
            let found: BTreeSet<String> = found.iter().map(|key| key_text(key)).collect();
            let wanted = self.differing("a || '/' || b", "w");
            let missing: Vec<_> = wanted.difference(&found).collect();
            assert!(missing.is_empty(), "w: {missing:?} of {wanted:?}");
            answered += 1;
        }
        answered
    }
}

/// What tells each row of a table, and what else is in it.
fn rows(conn: &Connection, key: &str, table: &str) -> BTreeMap<String, Vec<u8>> {
    let mut statement = conn.prepare(&format!("SELECT {key}, * FROM {table}")).unwrap();
    let mut rows = statement.query([]).unwrap();
    let mut found = BTreeMap::new();
    while let Some(row) = rows.next().unwrap() {
        let columns = row.as_ref().column_count();
        let text: Vec<String> =
            (1..columns).map(|at| format!("{:?}", row.get_ref(at).unwrap())).collect();
        found.insert(row.get(0).unwrap(), text.concat().into_bytes());
    }
    found
}

/// A key of the table w.
fn key_text(key: &[Cell]) -> String {
    let text = |cell: &Cell| match cell {
        Cell::Text(text) => String::from_utf8(text.clone()).unwrap(),
        Cell::Integer(n) => n.to_string(),
        other => panic!("{other:?}"),
    };
    format!("{}/{}", text(&key[0]), text(&key[1]))
}

const SCHEMA: &str = "CREATE TABLE t(k INTEGER PRIMARY KEY, v);
    CREATE TABLE s(name TEXT PRIMARY KEY, v); CREATE INDEX by_v ON s(v);
    CREATE TABLE w(a TEXT, b INTEGER, v, PRIMARY KEY(a, b)) WITHOUT ROWID;
    CREATE VIRTUAL TABLE f USING fts5(x);";

#[derive(Debug, Clone)]
enum Op {
    /// New rows with values of so many bytes.
    Insert {
        rows: i64,
        bytes: i64,
    },
    /// Other values of any length.
    Update {
        from: i64,
        rows: i64,
        bytes: i64,
    },
    /// Values that differ in one byte only, `at` thousandths from their start.
    InPlace {
        from: i64,
        rows: i64,
        at: i64,
    },
    /// The same through an open blob.
    Blob {
        k: i64,
        at: i64,
    },
    Delete {
        from: i64,
        rows: i64,
    },
    Sql(&'static str),
}

const STATEMENTS: &[&str] = &[
    "VACUUM",
    "PRAGMA incremental_vacuum(5)",
    "DELETE FROM s WHERE rowid % 5 = 2",
    "UPDATE w SET b = b + 1000 WHERE b % 3 = 0",
    "INSERT INTO f SELECT name || ' word' FROM s LIMIT 20",
    "INSERT INTO f(f) VALUES ('rebuild')",
    "DROP INDEX IF EXISTS by_v",
    "CREATE INDEX IF NOT EXISTS by_v ON s(v)",
    "CREATE TABLE IF NOT EXISTS more(x); INSERT INTO more SELECT v FROM t LIMIT 30",
    "DROP TABLE IF EXISTS more",
    "BEGIN; DELETE FROM t WHERE k % 2 = 0; ROLLBACK",
    "UPDATE t SET k = k + 5000 WHERE k BETWEEN 20 AND 25",
];

fn op() -> impl Strategy<Value = Op> {
    let bytes = prop_oneof![0i64..80, 0i64..3000, Just(30_000i64)];
    prop_oneof![
        2 => (1i64..30, bytes.clone()).prop_map(|(rows, bytes)| Op::Insert { rows, bytes }),
        3 => (0i64..300, 1i64..6, bytes)
            .prop_map(|(from, rows, bytes)| Op::Update { from, rows, bytes }),
        3 => (0i64..300, 1i64..6, 0i64..1000)
            .prop_map(|(from, rows, at)| Op::InPlace { from, rows, at }),
        2 => (0i64..300, 0i64..1000).prop_map(|(k, at)| Op::Blob { k, at }),
        2 => (0i64..300, 1i64..40).prop_map(|(from, rows)| Op::Delete { from, rows }),
        3 => select(STATEMENTS).prop_map(Op::Sql),
    ]
}

fn fill(conn: &Connection, rows: i64, bytes: i64) {
    conn.execute_batch("BEGIN").unwrap();
    for n in 0..rows {
        let start: i64 =
            conn.query_row("SELECT coalesce(max(k), 0) FROM t", [], |row| row.get(0)).unwrap();
        let value = format!("{start:08}").repeat((bytes * (1 + n % 3) / 8) as usize);
        conn.execute("INSERT INTO t(v) VALUES (CAST(?1 AS BLOB))", [&value]).unwrap();
        conn.execute("INSERT OR IGNORE INTO s VALUES ('n' || ?1, ?2)", params![start, value])
            .unwrap();
        let key = format!("{}{start}", "key".repeat((bytes % 300) as usize));
        conn.execute("INSERT OR IGNORE INTO w VALUES (?1, ?2, ?3)", params![key, start % 7, value])
            .unwrap();
    }
    conn.execute_batch("COMMIT").unwrap();
}

fn run(conn: &Connection, op: &Op) {
    let flip = "CAST(substr(v, 1, length(v) * ?1 / 1000) || 'x'
        || substr(v, length(v) * ?1 / 1000 + 2) AS BLOB)";
    match op {
        Op::Insert { rows, bytes } => fill(conn, *rows, *bytes),
        Op::Update { from, rows, bytes } => {
            for (table, key) in [("t", "k"), ("s", "rowid"), ("w", "b")] {
                let sql = format!(
                    "UPDATE {table} SET v = zeroblob(?3) WHERE {key} BETWEEN ?1 AND ?1 + ?2"
                );
                conn.execute(&sql, params![from, rows, bytes]).unwrap();
            }
        }
        Op::InPlace { from, rows, at } => {
            for (table, key) in [("t", "k"), ("s", "rowid"), ("w", "b")] {
                let sql =
                    format!("UPDATE {table} SET v = {flip} WHERE {key} BETWEEN ?2 AND ?2 + ?3");
                conn.execute(&sql, params![at, from, rows]).unwrap();
            }
        }
        Op::Blob { k, at } => {
            let blob = conn.blob_open(rusqlite::MAIN_DB, "t", "v", *k, false);
            if let Ok(mut blob) = blob {
                let at = blob.len() as i64 * at / 1000;
                if (at as usize) < blob.len() {
                    blob.write_at(b"y", at as usize).unwrap();
                }
            }
        }
        Op::Delete { from, rows } => {
            let sql = "DELETE FROM t WHERE k BETWEEN ?1 AND ?1 + ?2";
            conn.execute(sql, params![from, rows]).unwrap();
        }
        Op::Sql(sql) => conn.execute_batch(sql).unwrap(),
    }
}

fn base(conn: &Connection, page_size: u32, auto_vacuum: &str, value_bytes: i64) {
    conn.execute_batch(&format!(
        "PRAGMA page_size = {page_size}; PRAGMA auto_vacuum = {auto_vacuum}; {SCHEMA}"
    ))
    .unwrap();
    fill(conn, 150, value_bytes);
    fill(conn, 20, 6000);
    fill(conn, 100, 40);
    conn.execute_batch("DELETE FROM t WHERE k BETWEEN 30 AND 60; DELETE FROM w WHERE b = 4")
        .unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn every_row_that_differs_is_a_candidate(
        page_size in select(&[512u32, 1024, 4096][..]),
        auto_vacuum in select(&["none", "full", "incremental"][..]),
        value_bytes in select(&[10i64, 400][..]),
        ops in prop::collection::vec(op(), 1..8),
    ) {
        let pair = Pair::new(
            |conn| base(conn, page_size, auto_vacuum, value_bytes),
            |conn| ops.iter().for_each(|op| run(conn, op)),
        );
        pair.check();
        pair.check_without_before();
    }

    #[test]
    fn damaged_pages_lead_to_no_panic(
        flips in prop::collection::vec((any::<u32>(), any::<u8>()), 1..20),
        shift in 0usize..2,
    ) {
        let pair = Pair::new(
            |conn| base(conn, 512, ["none", "full"][shift], 10),
            |conn| run(conn, &Op::InPlace { from: 3, rows: 9, at: 900 }),
        );
        let (before, after) = pair.conns();
        let trees = [("t", None), ("s", None), ("w", Some(2))].map(|(t, k)| pair.trees(t, k));
        let path = pair.path("after");
        let mut bytes = std::fs::read(&path).unwrap();
        let roots: Vec<usize> = trees.iter().map(|t| (t.after as usize - 1) * 512).collect();
        for (n, (at, byte)) in flips.iter().enumerate() {
            // Half of the damage where it hurts most.
            let at = match n % 2 {
                0 => *at as usize % bytes.len(),
                _ => roots[n % roots.len()] + *at as usize % 60,
            };
            bytes[at] = *byte;
        }
        bytes[..100].copy_from_slice(&std::fs::read(pair.path("before")).unwrap()[..100]);
        std::fs::write(pair.path("damaged"), &bytes).unwrap();
        let mut changed = pair.changed();
        changed.after = pair.pages(&pair.path("damaged")).0;
        let mut finder = Finder::new(&changed, &before, &after).unwrap();
        for trees in trees {
            finder.candidates(trees).unwrap();
        }
    }
}

#[test]
fn a_thousand_changes_among_a_million_rows_are_found_alone() {
    let pair = Pair::new(
        |conn| {
            conn.execute_batch(
                "CREATE TABLE t(k INTEGER PRIMARY KEY, v); INSERT INTO t(v)
                 WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n LIMIT 1000000)
                 SELECT 'value ' || i FROM n",
            )
            .unwrap();
        },
        |conn| {
            conn.execute_batch(
                "UPDATE t SET v = v || '!' WHERE k % 1000 = 0 AND k <= 500000;
                 DELETE FROM t WHERE k % 1000 = 0 AND k > 500000 AND k <= 900000;
                 INSERT INTO t(v) SELECT 'new' FROM t LIMIT 100",
            )
            .unwrap();
        },
    );
    let (changed, (before, after)) = (pair.changed(), pair.conns());
    let pages = changed.after.lock().unwrap().size();
    let mut finder = Finder::new(&changed, &before, &after).unwrap();
    let found = finder.candidates(pair.trees("t", None)).unwrap();
    let Candidates::Rowids(found) = found else { panic!("all") };
    assert_eq!(found.len(), 1000);
    let reads = pair.reads.load(Ordering::Relaxed);
    assert!(reads < u64::from(pages) * 3 / 4, "{reads} reads of {pages} pages");
}

#[test]
fn what_is_the_same_is_no_candidate() {
    let nothing = Pair::new(|conn| base(conn, 1024, "none", 100), |_| ());
    assert_eq!(nothing.rowids("t"), Some(Vec::new()));
    assert_eq!(nothing.keys("w", 2), Some(Vec::new()));

    // The neighbours of a changed row, and rows that moved to other pages, are none.
    let pair = Pair::new(
        |conn| base(conn, 1024, "none", 10),
        |conn| {
            conn.execute_batch("UPDATE t SET v = zeroblob(500) WHERE k = 101").unwrap();
            conn.execute_batch("UPDATE w SET v = zeroblob(700) WHERE a = (SELECT max(a) FROM w)")
                .unwrap();
        },
    );
    assert_eq!(pair.rowids("t"), Some(vec![101]));
    assert_eq!(pair.rowids("s"), Some(Vec::new()));
    assert_eq!(pair.keys("w", 2).unwrap().len(), 2, "as it was and as it is");
}

#[test]
fn a_byte_far_down_a_long_value_is_found_though_its_leaf_is_as_it_was() {
    for auto_vacuum in ["none", "full"] {
        let pair = Pair::new(
            |conn| {
                base(conn, 1024, auto_vacuum, 10);
                conn.execute_batch("UPDATE t SET v = zeroblob(40000) WHERE k = 70").unwrap();
                conn.execute_batch("UPDATE w SET v = zeroblob(40000) WHERE b = 3").unwrap();
            },
            |conn| {
                run(conn, &Op::Blob { k: 70, at: 900 });
                let changed = conn.execute(
                    "UPDATE w SET v = CAST(zeroblob(39000) || 'x' || zeroblob(999) AS BLOB)
                     WHERE a = (SELECT max(a) FROM w WHERE b = 3) AND b = 3",
                    [],
                );
                assert_eq!(changed.unwrap(), 1);
            },
        );
        assert!(pair.finder().has_suspects());
        assert_eq!(pair.rowids("t"), Some(vec![70]));
        assert_eq!(pair.rowids("s"), Some(Vec::new()));
        let keys = pair.keys("w", 2).unwrap();
        assert!(keys.iter().all(|key| key[1] == Cell::Integer(3)) && !keys.is_empty());
        assert_eq!(pair.check(), 5);
    }
}

#[test]
fn where_most_has_changed_the_answer_is_all() {
    let pair = Pair::new(
        |conn| base(conn, 512, "none", 200),
        |conn| conn.execute_batch("UPDATE t SET v = v || 'x'").unwrap(),
    );
    assert!(pair.rowids("t").is_none());
    assert_eq!(pair.rowids("s"), Some(Vec::new()));
}

#[test]
fn keys_are_read_as_they_are_stored() {
    let pair = Pair::new(
        |conn| {
            conn.execute_batch(
                "CREATE TABLE k(a, b, c, PRIMARY KEY(c, a)) WITHOUT ROWID;
                 INSERT INTO k VALUES (NULL, 1, 2)",
            )
            .unwrap_err();
        },
        |conn| {
            conn.execute_batch(
                "INSERT INTO k VALUES (-1, 'b', 1.5), (0, 'b', x'00ff'), (1, 'b', 'text'),
                 (9007199254740993, 'b', -70000), (200, 'b', 70000000000),
                 (-40000000000000000, 0, printf('%.3000c', 'y'))",
            )
            .unwrap();
        },
    );
    let mut keys = pair.keys("k", 2).unwrap();
    keys.sort_by_key(|key| format!("{key:?}"));
    let mut wanted = vec![
        vec![Cell::Real(1.5), Cell::Integer(-1)],
        vec![Cell::Blob(vec![0, 255]), Cell::Integer(0)],
        vec![Cell::Text(b"text".to_vec()), Cell::Integer(1)],
        vec![Cell::Integer(-70_000), Cell::Integer(9_007_199_254_740_993)],
        vec![Cell::Integer(70_000_000_000), Cell::Integer(200)],
        vec![Cell::Text(vec![b'y'; 3000]), Cell::Integer(-40_000_000_000_000_000)],
    ];
    wanted.sort_by_key(|key| format!("{key:?}"));
    assert_eq!(keys, wanted);
}

#[test]
fn rows_on_pages_that_did_not_change_are_left_alone_without_the_state_before() {
    let pair = Pair::new(
        |conn| base(conn, 1024, "none", 400),
        |conn| {
            conn.execute_batch(
                "UPDATE t SET v = 1 WHERE k = 5; UPDATE w SET v = 1 WHERE b = 5 AND a LIKE '%40'",
            )
            .unwrap()
        },
    );
    for (table, columns) in [("t", None), ("w", Some(2))] {
        let found = pair.on_changed_pages(table, columns).unwrap();
        let (_, after) = pair.conns();
        let key = if columns.is_some() { "a || '/' || b" } else { "CAST(rowid AS TEXT)" };
        let all = rows(&after, key, table).len();
        assert!(!found.is_empty() && found.len() * 4 < all, "{table}: {} of {all}", found.len());
    }
    pair.check_without_before();
}

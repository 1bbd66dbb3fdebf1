//! Somebody writes to the file while a rebase compares rows: that goes on top of what it came to.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and says with which seed"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anabranch::blocking::Replica;
use anabranch::{Conflict, ConflictKind, Decision, Options, Policy, Resolve, Row, Rules};
use common::{World, assert_same, journal, options, stock, text};
use rusqlite::Connection;

const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT, w TEXT);
    INSERT INTO t(v, w) VALUES ('one', '1'), ('two', '2'), ('three', '3')";

/// A program that writes to the file whenever a conflict is decided on, and leaves the decision to the
/// rules.
struct Meanwhile {
    db: PathBuf,
    /// What it writes, one after the other.
    sql: Mutex<VecDeque<String>>,
}

impl Meanwhile {
    fn opened(
        db: &Path,
        sql: impl IntoIterator<Item = String>,
        rules: Rules,
    ) -> (Arc<Self>, Replica) {
        let sql = Mutex::new(sql.into_iter().collect());
        let meanwhile = Arc::new(Meanwhile { db: db.to_owned(), sql });
        let resolve: Arc<dyn Resolve> = meanwhile.clone();
        let options = Options { resolve: Some(resolve), rules: Some(rules), ..options() };
        let replica = Replica::open(db, options).unwrap();
        (meanwhile, replica)
    }

    fn left(&self) -> usize {
        self.sql.lock().unwrap().len()
    }
}

impl Resolve for Meanwhile {
    fn resolve(&self, _: &Conflict) -> Option<Option<Row>> {
        let mut sql = self.sql.lock().unwrap();
        if let Some(next) = sql.front() {
            let conn = Connection::open(&self.db).unwrap();
            conn.busy_timeout(Duration::ZERO).unwrap();
            // Locked out in the last rounds.
            if conn.execute_batch(next).is_ok() {
                sql.pop_front();
            }
        }
        None
    }
}

#[test]
fn what_is_written_while_rows_are_compared_goes_on_top_of_what_was_found_out() {
    let world = World::new();
    let (a, first) = world.published("a.db", &format!("{SCHEMA}; CREATE TABLE bare(x)"));
    let (b, _) = world.cloned("b.db");
    stock(
        &a,
        "UPDATE t SET v = 'a' WHERE id IN (1, 2); INSERT INTO t(v) VALUES ('a4'), ('a5');
         INSERT INTO bare VALUES ('a')",
    );
    stock(
        &b,
        "UPDATE t SET v = 'b' WHERE id IN (1, 2); INSERT INTO t(v) VALUES ('b4'), ('b5'), ('b6');
         INSERT INTO bare VALUES ('b')",
    );
    first.sync().unwrap();
    let meanwhile = [
        // Of rows that have other keys at the remote by now, one is changed and one deleted; a row that
        // won once is changed again, and one more is inserted.
        "UPDATE t SET v = 'b4 again' WHERE v = 'b4'; DELETE FROM t WHERE v = 'b5';
         UPDATE t SET w = 'later' WHERE id = 1; INSERT INTO t(v) VALUES ('b7'); INSERT INTO bare VALUES ('c')",
        "UPDATE t SET w = 'still later' WHERE id = 2; DELETE FROM bare WHERE x = 'b'",
    ];
    let (program, second) = Meanwhile::opened(&b, meanwhile.map(str::to_owned), Rules::default());
    let report = second.sync().unwrap();
    assert_eq!(program.left(), 0);
    first.sync().unwrap();
    assert_same(&a, &b);
    assert_eq!(
        stock(&a, "SELECT v || ' ' || coalesce(w, '') FROM t ORDER BY v"),
        "a4 \na5 \nb later\nb still later\nb4 again \nb6 \nb7 \nthree 3"
    );
    assert_eq!(stock(&a, "SELECT x FROM bare ORDER BY x"), "a\nc");
    // Each of the remote's versions lost once.
    let told: Vec<_> =
        journal(&second).into_iter().filter(|e| e.conflict.decision == Decision::Local).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    let rebased = report.rebased.unwrap();
    assert_eq!(rebased.tables.iter().map(|t| t.conflicts).sum::<u64>(), 2);
}

#[test]
fn the_remotes_version_stands_also_over_what_is_written_meanwhile_and_all_that_lost_is_told() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    let (b, _) = world.cloned("b.db");
    stock(&a, "UPDATE t SET v = 'a' WHERE id = 1; DELETE FROM t WHERE id = 2");
    stock(&b, "UPDATE t SET v = 'b' WHERE id IN (1, 2)");
    first.sync().unwrap();
    let rules = Rules { policy: Policy::Remote, ..Rules::default() };
    let sql = ["UPDATE t SET v = 'b again' WHERE id IN (1, 2); UPDATE t SET v = 'b' WHERE id = 3"];
    let (program, second) = Meanwhile::opened(&b, sql.map(str::to_owned), rules);
    second.sync().unwrap();
    assert_eq!(program.left(), 0);
    first.sync().unwrap();
    assert_same(&a, &b);
    assert_eq!(stock(&a, "SELECT id || ' ' || v FROM t ORDER BY id"), "1 a\n3 b");
    let lost: Vec<_> = journal(&second)
        .iter()
        .map(|e| (e.conflict.kind, text(e.conflict.local.as_ref(), "v").unwrap()))
        .collect();
    for expected in [
        (ConflictKind::UpdateUpdate, "b".to_owned()),
        (ConflictKind::UpdateDelete, "b".to_owned()),
        (ConflictKind::UpdateUpdate, "b again".to_owned()),
        (ConflictKind::UpdateDelete, "b again".to_owned()),
    ] {
        assert!(lost.contains(&expected), "{expected:?} in {lost:?}");
    }
    assert_eq!(lost.len(), 4);
}

#[test]
fn a_schema_changed_meanwhile_begins_anew_and_tells_nothing_twice() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    let (b, _) = world.cloned("b.db");
    stock(&a, "UPDATE t SET v = 'a' WHERE id = 1; INSERT INTO t(v) VALUES ('a4')");
    stock(&b, "UPDATE t SET v = 'b' WHERE id = 1; INSERT INTO t(v) VALUES ('b4')");
    first.sync().unwrap();
    let sql = ["ALTER TABLE t RENAME COLUMN w TO wide; INSERT INTO t(v) VALUES ('b5')"];
    let (program, second) = Meanwhile::opened(&b, sql.map(str::to_owned), Rules::default());
    second.sync().unwrap();
    assert_eq!(program.left(), 0);
    first.sync().unwrap();
    assert_same(&a, &b);
    assert_eq!(stock(&a, "SELECT v FROM t WHERE wide IS NULL ORDER BY v"), "a4\nb4\nb5");
    let told: Vec<_> = journal(&second).iter().map(|e| e.conflict.kind).collect();
    assert_eq!(
        told.iter().filter(|kind| **kind == ConflictKind::UpdateUpdate).count(),
        1,
        "{told:?}"
    );
}

/// Numbers that look random, the same for the same seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % n
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }
}

const TABLES: &[&str] = &["t", "child", "bare", "word"];

/// Some statements, with tokens `{n}.` from `token` on. Which rows they meet follows from what is there.
fn statements(numbers: &mut Numbers, token: &mut u64, count: usize) -> Vec<String> {
    let mut all = Vec::new();
    for _ in 0..count {
        let table = numbers.pick(TABLES);
        *token += 1;
        let salt = numbers.below(1000);
        let some = format!(
            "rowid = (SELECT rowid FROM {table} ORDER BY (rowid * 7919 + {salt}) % 101 LIMIT 1)"
        );
        let parent = format!("(SELECT id FROM t ORDER BY (id * 31 + {salt}) % 37 LIMIT 1)");
        let word = numbers.pick(&["k", "l", "m", "n", "o"]);
        all.push(match (numbers.below(5), table) {
            (0 | 1, "child") => format!("INSERT INTO child(p, tok) VALUES ({parent}, '{token}.')"),
            (0 | 1, "word") => format!("INSERT OR IGNORE INTO word VALUES ('{word}', '{token}.')"),
            (0 | 1, _) => format!("INSERT INTO {table}(tok) VALUES ('{token}.')"),
            (2 | 3, _) => format!("UPDATE {table} SET tok = '{token}.' WHERE {some}"),
            _ => format!("DELETE FROM {table} WHERE {some}"),
        });
    }
    all
}

fn tokens(conn: &Connection) -> BTreeMap<String, u32> {
    let mut found = BTreeMap::new();
    for table in TABLES {
        let mut rows = conn.prepare(&format!("SELECT tok FROM {table}")).unwrap();
        let mut rows = rows.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            *found.entry(row.get(0).unwrap()).or_default() += 1;
        }
    }
    found
}

/// What was committed, and what of it was written over by who had seen it.
#[derive(Default)]
struct Ledger {
    committed: BTreeSet<String>,
    gone: BTreeSet<String>,
}

impl Ledger {
    /// Runs the statements in one transaction, unless the file is locked.
    fn write(&mut self, db: &Path, sql: &[String]) -> bool {
        let conn = Connection::open(db).unwrap();
        conn.busy_timeout(Duration::ZERO).unwrap();
        conn.pragma_update(None, "foreign_keys", true).unwrap();
        if conn.execute_batch("BEGIN IMMEDIATE").is_err() {
            return false;
        }
        let before: BTreeSet<String> = tokens(&conn).into_keys().collect();
        for sql in sql {
            conn.execute_batch(sql).unwrap();
        }
        let after: BTreeSet<String> = tokens(&conn).into_keys().collect();
        conn.execute_batch("COMMIT").unwrap();
        self.committed.extend(after.difference(&before).cloned());
        self.gone.extend(before.difference(&after).cloned());
        true
    }
}

/// Writes at random whenever a conflict is decided on.
struct Busy {
    db: PathBuf,
    inner: Mutex<(Ledger, VecDeque<Vec<String>>)>,
}

impl Resolve for Busy {
    fn resolve(&self, _: &Conflict) -> Option<Option<Row>> {
        let (ledger, left) = &mut *self.inner.lock().unwrap();
        if let Some(sql) = left.front()
            && ledger.write(&self.db, sql)
        {
            left.pop_front();
        }
        None
    }
}

/// I2: what was written before, by others, and while rows were compared is there once or in the journal.
fn random_course(seed: u64) -> usize {
    let mut numbers = Numbers(seed);
    let (mut token, mut ledger) = (0, Ledger::default());
    let world = World::new();
    let delete = numbers.pick(&["CASCADE", "SET NULL", "RESTRICT"]);
    let schema = format!(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, tok TEXT);
         CREATE TABLE child(id INTEGER PRIMARY KEY, p REFERENCES t(id) ON DELETE {delete}, tok TEXT);
         CREATE TABLE bare(tok TEXT); CREATE TABLE word(k TEXT PRIMARY KEY, tok TEXT);
         INSERT INTO word VALUES ('always', 'base')"
    );
    let (a, first) = world.published("a.db", &schema);
    let start = statements(&mut numbers, &mut token, 12);
    let without_deletes: Vec<_> =
        start.into_iter().filter(|sql| !sql.starts_with("DELETE")).collect();
    assert!(ledger.write(&a, &without_deletes));
    first.sync().unwrap();
    let (b, _) = world.cloned("b.db");
    let conflict = |who: &str| format!("UPDATE word SET tok = '{who}' WHERE k = 'always'");
    let restrict = delete == "RESTRICT";
    let batch = |numbers: &mut Numbers, token: &mut u64| -> Vec<String> {
        let count = 1 + numbers.below(8);
        let all = statements(numbers, token, count).into_iter();
        all.filter(|sql| !(restrict && sql.starts_with("DELETE FROM t "))).collect()
    };
    let mut there = batch(&mut numbers, &mut token);
    there.push(conflict("there"));
    let mut here = batch(&mut numbers, &mut token);
    here.push(conflict("here"));
    assert!(ledger.write(&a, &there) && ledger.write(&b, &here));
    first.sync().unwrap();
    let meanwhile = (0..numbers.below(4)).map(|_| batch(&mut numbers, &mut token)).collect();
    let policy = [Policy::Local, Policy::Remote, Policy::Merge][numbers.below(3)];
    let busy = Arc::new(Busy { db: b.clone(), inner: Mutex::new((ledger, meanwhile)) });
    let resolve: Arc<dyn Resolve> = busy.clone();
    let rules = Rules { policy, ..Rules::default() };
    let options = Options { resolve: Some(resolve), rules: Some(rules), ..options() };
    let second = Replica::open(&b, options).unwrap();
    let rounds = busy.inner.lock().unwrap().1.len();
    second.sync().unwrap();
    let (ledger, left) = &mut *busy.inner.lock().unwrap();
    let written = rounds - left.len();
    left.clear();
    second.sync().unwrap();
    first.sync().unwrap();
    assert_same(&a, &b);
    assert_eq!(stock(&a, "PRAGMA foreign_key_check"), "");

    let present = tokens(&Connection::open(&a).unwrap());
    let mut lost = BTreeSet::new();
    for entry in journal(&second) {
        let sides = [&entry.conflict.local, &entry.conflict.remote, &entry.conflict.base];
        lost.extend(sides.into_iter().filter_map(|side| text(side.as_ref(), "tok")));
    }
    for (token, times) in &present {
        assert_eq!(*times, 1, "{token} is there {times} times");
        assert!(token == "base" || ledger.committed.contains(token), "{token}");
    }
    for token in ledger.committed.difference(&ledger.gone) {
        assert!(present.contains_key(token) || lost.contains(token), "{token} is lost");
    }
    written
}

#[test]
fn i2_whatever_is_written_before_and_meanwhile_is_there_once_or_in_the_journal() {
    let first = std::env::var("MEANWHILE_SEED").map_or(1, |seed| seed.parse().unwrap());
    let courses = std::env::var("MEANWHILE_COURSES").map_or(24, |count| count.parse().unwrap());
    let mut written = 0;
    for seed in first..first + courses {
        println!("MEANWHILE_SEED={seed}");
        written += random_course(seed);
    }
    assert!(written * 2 > usize::try_from(courses).unwrap(), "{written} writes met a rebase");
}

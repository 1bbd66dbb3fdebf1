//! Both sides wrote while they could not see each other, and sync.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anabranch::blocking::Replica;
use anabranch::{
    Conflict, ConflictKind, Decision, Error, InsertRule, Options, Policy, Resolve, Row, Rules,
    Side, TableRules, Value,
};
use common::{World, app, assert_same, journal, options, stock, text, value};

const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT, w TEXT);
    INSERT INTO t(v, w) VALUES ('one', '1'), ('two', '2'), ('three', '3')";

/// The replica at `db` with these rules.
fn with(db: &std::path::Path, rules: Rules) -> Replica {
    Replica::open(db, Options { rules: Some(rules), ..options() }).unwrap()
}

/// Syncs all until nothing is left to do.
fn settle(replicas: &[&Replica]) {
    for _ in 0..3 {
        for replica in replicas {
            replica.sync().unwrap();
        }
    }
}

#[test]
fn different_rows_of_both_sides_are_all_there_and_nobody_is_asked() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    let (b, second) = world.cloned("b.db");
    stock(&a, "UPDATE t SET v = 'a' WHERE id = 1; INSERT INTO t VALUES (10, 'ten', NULL)");
    stock(&b, "UPDATE t SET v = 'b' WHERE id = 2; DELETE FROM t WHERE id = 3");
    first.sync().unwrap();
    let report = second.sync().unwrap();
    assert!(report.pulled.is_some() && report.pushed.is_some());
    let rebased = report.rebased.unwrap();
    assert_eq!(rebased.conflicts, 0);
    let table = &rebased.tables[0];
    assert_eq!(
        (table.table.as_str(), table.inserted, table.updated, table.deleted, table.conflicts),
        ("t", 0, 1, 1, 0)
    );
    first.sync().unwrap();
    assert_same(&a, &b);
    assert_eq!(stock(&a, "SELECT id || v FROM t"), "1a\n2b\n10ten");
    assert!(journal(&second).is_empty() && journal(&first).is_empty());
    for replica in [&first, &second] {
        let report = replica.sync().unwrap();
        assert!(report.pulled.is_none() && report.pushed.is_none(), "{report:?}");
        assert!(replica.verify().unwrap().damaged.is_empty());
    }
}

#[test]
fn the_last_to_sync_wins_row_by_row_and_what_lost_is_in_its_journal() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    let (b, second) = world.cloned("b.db");
    stock(&a, "UPDATE t SET v = 'of a' WHERE id = 1");
    stock(&b, "UPDATE t SET v = 'of b' WHERE id = 1");
    first.sync().unwrap();
    assert_eq!(second.sync().unwrap().rebased.unwrap().conflicts, 1);
    first.sync().unwrap();
    assert_same(&a, &b);
    assert_eq!(value(&a, "SELECT v FROM t WHERE id = 1"), "of b");
    let entries = journal(&second);
    assert_eq!(entries.len(), 1);
    let entry = &entries[0];
    let conflict = &entry.conflict;
    assert_eq!(
        (conflict.table.as_str(), conflict.kind, &conflict.decision),
        ("t", ConflictKind::UpdateUpdate, &Decision::Local)
    );
    assert_eq!(conflict.key.values, [Value::Integer(1)]);
    let versions = [&conflict.base, &conflict.local, &conflict.remote];
    assert_eq!(
        versions.map(|row| text(row.as_ref(), "v").unwrap()),
        ["one", "of b", "of a"].map(str::to_owned)
    );
    assert!(entry.base < entry.remote_lsn && entry.resolved.is_none());
    assert!(journal(&first).is_empty());
}

#[test]
fn each_policy_decides_as_it_says() {
    let policies = [(Policy::Local, "x|2"), (Policy::Remote, "one|r"), (Policy::Merge, "x|r")];
    for (policy, expected) in policies {
        let world = World::new();
        let (a, first) = world.published("a.db", SCHEMA);
        let (b, _) = world.cloned("b.db");
        stock(&a, "UPDATE t SET w = 'r' WHERE id = 1");
        stock(&b, "UPDATE t SET v = 'x', w = w WHERE id = 1; UPDATE t SET v = v WHERE id = 1");
        first.sync().unwrap();
        let second = with(&b, Rules { policy, ..Rules::default() });
        second.sync().unwrap();
        first.sync().unwrap();
        assert_same(&a, &b);
        let expected = if policy == Policy::Local { "x|1" } else { expected };
        assert_eq!(value(&b, "SELECT v || '|' || w FROM t WHERE id = 1"), expected, "{policy:?}");
        assert_eq!(journal(&second).len(), 1, "{policy:?}");
    }
}

#[test]
fn a_table_that_wants_to_be_asked_stops_the_sync_and_nothing_is_touched() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    let (b, second) = world.cloned("b.db");
    second.set("conflict.T", Some("abort")).unwrap();
    stock(&a, "UPDATE t SET v = 'of a' WHERE id = 1");
    stock(&b, "UPDATE t SET v = 'of b' WHERE id = 1; INSERT INTO t(v) VALUES ('kept')");
    first.sync().unwrap();
    let before = stock(&b, ".dump");
    for _ in 0..2 {
        match second.sync() {
            Err(Error::Aborted { table, .. }) => assert_eq!(table, "t"),
            other => panic!("{other:?}"),
        }
        assert_eq!(stock(&b, ".dump"), before);
        assert!(journal(&second).is_empty());
    }
    second.set("conflict.t", Some("remote")).unwrap();
    second.sync().unwrap();
    assert_eq!(value(&b, "SELECT v FROM t WHERE id = 1"), "of a");
    first.sync().unwrap();
    assert_same(&a, &b);
    assert_eq!(value(&a, "SELECT count(*) FROM t WHERE v = 'kept'"), "1");
}

/// Decides for the longer text.
struct Longer(AtomicBool);

impl Resolve for Longer {
    fn resolve(&self, conflict: &Conflict) -> Option<Option<Row>> {
        self.0.store(true, Ordering::Relaxed);
        let length = |row: &Option<Row>| text(row.as_ref(), "v").map_or(0, |text| text.len());
        Some(if length(&conflict.local) > length(&conflict.remote) {
            conflict.local.clone()
        } else {
            conflict.remote.clone()
        })
    }
}

#[test]
fn a_program_may_decide_itself() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    let (b, _) = world.cloned("b.db");
    stock(&a, "UPDATE t SET v = 'long of a' WHERE id = 1; UPDATE t SET v = 'a' WHERE id = 2");
    stock(&b, "UPDATE t SET v = 'b' WHERE id = 1; UPDATE t SET v = 'long of b' WHERE id = 2");
    first.sync().unwrap();
    let resolve = Arc::new(Longer(AtomicBool::new(false)));
    let second =
        Replica::open(&b, Options { resolve: Some(resolve.clone()), ..options() }).unwrap();
    second.sync().unwrap();
    assert!(resolve.0.load(Ordering::Relaxed));
    first.sync().unwrap();
    assert_same(&a, &b);
    assert_eq!(stock(&a, "SELECT v FROM t WHERE id < 3"), "long of a\nlong of b");
}

#[test]
fn rows_inserted_under_a_key_that_sqlite_chose_are_two_rows() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    let (b, second) = world.cloned("b.db");
    stock(&a, "INSERT INTO t(v) VALUES ('new of a')");
    stock(&b, "INSERT INTO t(v) VALUES ('new of b')");
    first.sync().unwrap();
    let rebased = second.sync().unwrap().rebased.unwrap();
    assert_eq!(rebased.tables[0].renumbered, 1);
    settle(&[&first, &second]);
    assert_same(&a, &b);
    assert_eq!(stock(&a, "SELECT id || v FROM t WHERE id > 3"), "4new of a\n5new of b");
    let entries = journal(&second);
    assert!(matches!(entries[0].conflict.decision, Decision::Renumbered(5)), "{entries:?}");
}

#[test]
fn the_rule_for_inserted_rows_can_be_another() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    let (b, _) = world.cloned("b.db");
    stock(&a, "INSERT INTO t(v) VALUES ('new of a')");
    stock(&b, "INSERT INTO t(v) VALUES ('new of b')");
    first.sync().unwrap();
    let rules = TableRules { insert: Some(InsertRule::Remote), ..TableRules::default() };
    let tables = [("t".to_owned(), rules)].into();
    let second = with(&b, Rules { tables, ..Rules::default() });
    second.sync().unwrap();
    settle(&[&first, &second]);
    assert_same(&a, &b);
    assert_eq!(stock(&a, "SELECT id || v FROM t WHERE id > 3"), "4new of a");
    assert_eq!(journal(&second).len(), 1);
}

#[test]
fn taking_the_other_side_of_a_conflict_is_an_ordinary_change() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    let (b, second) = world.cloned("b.db");
    stock(&a, "UPDATE t SET v = 'of a' WHERE id = 1; DELETE FROM t WHERE id = 2");
    stock(&b, "UPDATE t SET v = 'of b'");
    first.sync().unwrap();
    second.sync().unwrap();
    let entries = journal(&second);
    assert_eq!(entries.len(), 2);
    assert_eq!(value(&b, "SELECT count(*) FROM t WHERE v = 'of b'"), "3");
    for entry in &entries {
        let done = second.resolve_conflict(entry.id, Side::Remote).unwrap();
        assert_eq!(text(done.replaced.as_ref(), "v").as_deref(), Some("of b"));
        assert_eq!(done.now.is_some(), entry.conflict.kind == ConflictKind::UpdateUpdate);
    }
    assert!(second.sync().unwrap().pushed.is_some());
    first.sync().unwrap();
    assert_same(&a, &b);
    assert_eq!(stock(&a, "SELECT id || v FROM t"), "1of a\n3of b");
    assert!(journal(&second).iter().all(|e| matches!(e.resolved, Some((Side::Remote, _)))));
    assert!(matches!(second.resolve_conflict(99, Side::Local), Err(Error::NoConflict { .. })));
}

#[test]
fn taking_a_row_that_was_renumbered_twice_leaves_alone_what_got_its_first_number() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    let (b, second) = world.cloned("b.db");
    stock(&b, "INSERT INTO t(v) VALUES ('new of b')");
    for v in ["one of a", "two of a"] {
        stock(&a, &format!("INSERT INTO t(v) VALUES ('{v}')"));
        first.sync().unwrap();
        second.pull().unwrap();
    }
    let rows = "SELECT id || v FROM t WHERE id > 3 ORDER BY id";
    assert_eq!(stock(&b, rows), "4one of a\n5two of a\n6new of b");
    second.resolve_conflict(journal(&second)[0].id, Side::Local).unwrap();
    assert_eq!(stock(&b, rows), "5two of a\n6new of b");
    second.sync().unwrap();
    first.sync().unwrap();
    assert_same(&a, &b);
}

#[test]
fn taking_the_other_side_lets_triggers_keep_a_full_text_index() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    stock(
        &a,
        "CREATE VIRTUAL TABLE words USING fts5(v, content='t', content_rowid='id');
         CREATE TRIGGER changed AFTER UPDATE ON t BEGIN
             INSERT INTO words(words, rowid, v) VALUES ('delete', old.id, old.v);
             INSERT INTO words(rowid, v) VALUES (new.id, new.v);
         END;
         INSERT INTO words(words) VALUES ('rebuild')",
    );
    first.sync().unwrap();
    let (b, second) = world.cloned("b.db");
    stock(&a, "UPDATE t SET v = 'apple' WHERE id = 1");
    stock(&b, "UPDATE t SET v = 'pear' WHERE id = 1");
    first.sync().unwrap();
    second.sync().unwrap();
    second.resolve_conflict(journal(&second)[0].id, Side::Remote).unwrap();
    let found = "SELECT rowid FROM words WHERE words MATCH";
    assert_eq!(stock(&b, &format!("{found} 'apple'; {found} 'pear'")), "1");
    stock(&b, "INSERT INTO words(words, rank) VALUES ('integrity-check', 1)");
}

#[test]
fn schema_and_rows_of_different_sides_come_together() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    let (b, second) = world.cloned("b.db");
    let reader = app(&b);
    stock(&a, "ALTER TABLE t ADD COLUMN x DEFAULT 7; CREATE INDEX i ON t(v)");
    stock(&b, "INSERT INTO t VALUES (9, 'nine', NULL); UPDATE t SET v = 'b' WHERE id = 1");
    first.sync().unwrap();
    second.sync().unwrap();
    let x: i64 = reader.query_row("SELECT x FROM t WHERE id = 9", [], |r| r.get(0)).unwrap();
    assert_eq!(x, 7, "a connection that was open sees the new schema");
    settle(&[&first, &second]);
    drop(reader);
    assert_same(&a, &b);
    assert_eq!(value(&a, "SELECT v FROM t WHERE id = 1"), "b");
}

#[test]
fn a_pull_rebases_and_leaves_the_push_to_who_asks_for_it() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    let (b, second) = world.cloned("b.db");
    stock(&a, "UPDATE t SET v = 'a' WHERE id = 1");
    stock(&b, "UPDATE t SET v = 'b' WHERE id = 2");
    first.sync().unwrap();
    assert!(matches!(second.push(), Err(Error::Behind { .. })));
    let report = second.pull().unwrap();
    assert!(report.rebased.is_some());
    assert_eq!(stock(&b, "SELECT v FROM t WHERE id < 3"), "a\nb");
    assert!(second.pull().unwrap().pulled.is_none());
    assert!(second.status(false, true).unwrap().local_pages > 0);
    assert!(second.push().unwrap().pushed.is_some());
    first.pull().unwrap();
    assert_same(&a, &b);
}

#[test]
fn a_rebase_while_the_file_is_held_open_keeps_the_fast_way() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    let (b, second) = world.cloned("b.db");
    let there = app(&b);
    let held = second.hold().unwrap();
    for n in 0..4 {
        stock(&a, &format!("UPDATE t SET v = 'a{n}' WHERE id = 1"));
        there.execute("UPDATE t SET w = ?1 WHERE id = 2", [format!("b{n}")]).unwrap();
        first.sync().unwrap();
        let report = if n % 2 == 0 { held.sync().unwrap() } else { second.sync().unwrap() };
        assert!(report.rebased.is_some() && report.pushed.is_some(), "{n}: {report:?}");
        first.sync().unwrap();
        assert_same(&a, &b);
    }
    assert!(held.sync().unwrap().pushed.is_none());
}

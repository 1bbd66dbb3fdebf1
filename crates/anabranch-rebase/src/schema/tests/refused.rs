//! Rows of the remote's that a table made anew here does not take.

use super::*;
use crate::{ConflictKind, Decision, Policy};

/// `t` made anew here with more constraints, by a copy of what fits.
const ANEW: &str =
    "CREATE TABLE new_t(n TEXT NOT NULL, p INT UNIQUE, tok TEXT, id INTEGER PRIMARY KEY);
     INSERT OR IGNORE INTO new_t(id, n, p, tok) SELECT id, n, p, tok FROM t;
     DROP TABLE t; ALTER TABLE new_t RENAME TO t;";
const BASE: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, n TEXT, p INT, tok TEXT);
     INSERT INTO t VALUES (1, NULL, 1, 'one'), (2, 'b', 2, 'two'), (3, 'c', 3, 'three');";

fn told(merged: &Merged) -> Vec<(Value, ConflictKind, Decision)> {
    merged.conflicts.iter().map(|c| (c.key.values[0].clone(), c.kind, c.decision.clone())).collect()
}

fn policy(policy: Policy) -> Rules {
    Rules { policy, ..Rules::default() }
}

#[test]
fn a_row_that_did_not_come_along_here_and_was_written_there_is_told_once() {
    let world = World::new(BASE, ANEW, "UPDATE t SET tok = 'there' WHERE id = 1");
    for rule in [Policy::Local, Policy::Merge, Policy::Remote] {
        let merged = world.merge(&policy(rule)).unwrap();
        assert_eq!(merged.text("SELECT id, tok FROM t ORDER BY id"), "2,two 3,three");
        let expected = (Value::Integer(1), ConflictKind::DeleteUpdate, Decision::Local);
        assert_eq!(told(&merged), [expected], "{rule:?}");
    }
}

#[test]
fn a_row_written_on_both_sides_and_refused_is_told_once() {
    let world = World::new(
        BASE,
        &format!("{ANEW} UPDATE t SET p = 20 WHERE id = 2"),
        "UPDATE t SET n = NULL, tok = 'there' WHERE id = 2",
    );
    for rule in [Policy::Local, Policy::Merge, Policy::Remote] {
        let merged = world.merge(&policy(rule)).unwrap();
        assert_eq!(
            merged.text("SELECT id, n, p, tok FROM t ORDER BY id"),
            "2,b,20,two 3,c,3,three"
        );
        let expected = (Value::Integer(2), ConflictKind::UpdateUpdate, Decision::Local);
        assert_eq!(told(&merged), [expected], "{rule:?}");
    }
}

#[test]
fn a_row_written_there_alone_and_refused_is_as_it_is_here() {
    let world = World::new(
        BASE,
        ANEW,
        "UPDATE t SET n = NULL, tok = 'there' WHERE id = 2; UPDATE t SET p = 3 WHERE id = 1",
    );
    let merged = world.merged();
    assert_eq!(merged.text("SELECT id, n, p, tok FROM t ORDER BY id"), "2,b,2,two 3,c,3,three");
    let (one, two) = (Value::Integer(1), Value::Integer(2));
    let expected = [
        (one, ConflictKind::DeleteUpdate, Decision::Local),
        (two, ConflictKind::Check, Decision::Local),
    ];
    assert_eq!(told(&merged), expected);
}

#[test]
fn what_the_remote_wrote_comes_in_if_what_refused_it_goes() {
    let world = World::new(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, n TEXT, p INT, tok TEXT);
         INSERT INTO t VALUES (1, 'a', 1, 'one'), (2, 'b', 2, 'two');",
        &format!("{ANEW} DELETE FROM t WHERE id = 1; UPDATE t SET tok = 'here' WHERE id = 2"),
        "UPDATE t SET p = 1, tok = 'there' WHERE id = 2",
    );
    let merged = world.merge(&policy(Policy::Remote)).unwrap();
    assert_eq!(merged.text("SELECT id, n, p, tok FROM t ORDER BY id"), "2,b,1,there");
    let expected = (Value::Integer(2), ConflictKind::UpdateUpdate, Decision::Remote);
    assert_eq!(told(&merged), [expected]);
}

#[test]
fn a_row_without_a_key_that_is_refused_is_told_once() {
    let world = World::new(
        "CREATE TABLE t(k PRIMARY KEY, tok TEXT); INSERT INTO t VALUES (NULL, 'none'), (1, 'one');",
        "CREATE TABLE new_t(k PRIMARY KEY, tok TEXT) WITHOUT ROWID;
         INSERT OR IGNORE INTO new_t SELECT k, tok FROM t;
         DROP TABLE t; ALTER TABLE new_t RENAME TO t;",
        "UPDATE t SET tok = 'there' WHERE k IS NULL; INSERT INTO t VALUES (NULL, 'new');",
    );
    let merged = world.merged();
    assert_eq!(merged.text("SELECT k, tok FROM t"), "1,one");
    let mut kinds: Vec<_> = merged.conflicts.iter().map(|c| c.kind as i64).collect();
    kinds.sort_unstable();
    let mut expected = [ConflictKind::DeleteUpdate as i64, ConflictKind::Check as i64];
    expected.sort_unstable();
    assert_eq!(kinds, expected);
}

#[test]
fn a_rowid_that_another_row_has_here_tells_each_version_once() {
    let world = World::new(
        "CREATE TABLE t(p INT, tok TEXT); INSERT INTO t VALUES (1, 'one'), (1, 'two');",
        "CREATE TABLE new_t(p INT UNIQUE, tok TEXT);
         INSERT OR IGNORE INTO new_t SELECT p, tok FROM t;
         DROP TABLE t; ALTER TABLE new_t RENAME TO t; INSERT INTO t VALUES (5, 'here');",
        "UPDATE t SET tok = 'there' WHERE rowid = 2;",
    );
    let merged = world.merged();
    assert_eq!(merged.text("SELECT p, tok FROM t ORDER BY p"), "1,one 5,here");
    let lost = |c: &&Conflict| {
        c.remote.as_ref().is_some_and(|row| row.values.contains(&Value::Text("there".into())))
    };
    assert_eq!(merged.conflicts.iter().filter(lost).count(), 1, "{:?}", merged.conflicts);
}

use std::sync::Arc;

use super::*;
use crate::rules::Resolve;

const T: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b);
    INSERT INTO t VALUES (1, 'a1', 'b1'), (2, 'a2', 'b2'), (3, 'a3', 'b3');";

fn all(done: &Done) -> Vec<String> {
    done.rows("SELECT * FROM t ORDER BY id")
}

#[test]
fn changes_of_different_rows_all_come_through() {
    let done = Case::new(
        T,
        "UPDATE t SET a = 'here' WHERE id = 1; DELETE FROM t WHERE id = 3;
         INSERT INTO t VALUES (50, 'new', 'here');",
        "UPDATE t SET a = 'there' WHERE id = 2; INSERT INTO t VALUES (60, 'new', 'there');",
    )
    .run();
    assert_eq!(all(&done), ["1|here|b1", "2|there|b2", "50|new|here", "60|new|there"]);
    assert_eq!(done.told(), []);
    let t = done.summary.tables["t"];
    assert_eq!((t.inserted, t.updated, t.deleted, t.conflicts), (1, 1, 1, 0));
}

#[test]
fn the_policy_decides_on_a_row_that_both_changed() {
    let sides = ("UPDATE t SET a = 'here' WHERE id = 1", "UPDATE t SET b = 'there' WHERE id = 1");
    for (policy, row, decision) in [
        (Policy::Local, "1|here|b1", Decision::Local),
        (Policy::Remote, "1|a1|there", Decision::Remote),
        (Policy::Merge, "1|here|there", Decision::Merged),
    ] {
        let done = Case::new(T, sides.0, sides.1).policy(policy).run();
        assert_eq!(all(&done)[0], row);
        assert_eq!(done.told(), [(ConflictKind::UpdateUpdate, decision)]);
        let told = &done.journal[0];
        assert_eq!(told.key.values, [Value::Integer(1)]);
        assert_eq!(told.base.as_ref().unwrap().values[1], Value::Text("a1".into()));
        assert_eq!(told.local.as_ref().unwrap().values[1], Value::Text("here".into()));
        assert_eq!(told.remote.as_ref().unwrap().values[2], Value::Text("there".into()));
    }
    let aborted = Case::new(T, sides.0, sides.1).policy(Policy::Abort).try_run();
    assert!(matches!(aborted, Err(RebaseError::Aborted { .. })));
}

#[test]
fn a_column_that_both_changed_becomes_the_local_one() {
    let done = Case::new(
        T,
        "UPDATE t SET a = 'here' WHERE id = 1",
        "UPDATE t SET a = 'there', b = 'there' WHERE id = 1",
    )
    .policy(Policy::Merge)
    .run();
    assert_eq!(all(&done)[0], "1|here|there");
}

#[test]
fn equal_changes_are_no_conflict() {
    let both = "UPDATE t SET a = 'x' WHERE id = 1; DELETE FROM t WHERE id = 2;";
    let done = Case::new(T, both, both).policy(Policy::Abort).run();
    assert_eq!(all(&done), ["1|x|b1", "3|a3|b3"]);
    assert_eq!(done.told(), []);
}

#[test]
fn deleting_and_changing_one_row_is_a_conflict() {
    let (update, delete) = ("UPDATE t SET a = 'x' WHERE id = 1", "DELETE FROM t WHERE id = 1");
    for (policy, here, there, stands, kind) in [
        (Policy::Local, update, delete, true, ConflictKind::UpdateDelete),
        (Policy::Merge, update, delete, true, ConflictKind::UpdateDelete),
        (Policy::Remote, update, delete, false, ConflictKind::UpdateDelete),
        (Policy::Local, delete, update, false, ConflictKind::DeleteUpdate),
        (Policy::Merge, delete, update, false, ConflictKind::DeleteUpdate),
        (Policy::Remote, delete, update, true, ConflictKind::DeleteUpdate),
    ] {
        let done = Case::new(T, here, there).policy(policy).run();
        assert_eq!(all(&done).contains(&"1|x|b1".to_owned()), stands, "{policy:?} {kind:?}");
        assert_eq!(all(&done).len(), if stands { 3 } else { 2 });
        assert_eq!(done.told().len(), 1);
        assert_eq!(done.told()[0].0, kind);
    }
}

#[test]
fn types_tell_values_apart() {
    let done = Case::new(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b); INSERT INTO t VALUES (1, 1, x'00')",
        "UPDATE t SET a = 1.0",
        "UPDATE t SET b = char(0)",
    )
    .policy(Policy::Merge)
    .run();
    assert_eq!(done.rows("SELECT typeof(a), typeof(b) FROM t"), ["real|text"]);
    assert_eq!(done.told().len(), 1);
}

#[test]
fn text_that_is_no_utf8_arrives_byte_by_byte() {
    let done = Case::new(
        T,
        "UPDATE t SET a = CAST(x'ff00fe' AS TEXT) WHERE id = 1",
        "UPDATE t SET a = 'x' WHERE id = 2",
    )
    .run();
    assert_eq!(done.rows("SELECT typeof(a), hex(a) FROM t WHERE id = 1"), ["text|FF00FE"]);
}

#[test]
fn a_check_that_only_the_remote_has_keeps_its_version() {
    let done = Case::new(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b, CHECK (a + b < 10));
         INSERT INTO t VALUES (1, 1, 1)",
        "UPDATE t SET a = 8",
        "UPDATE t SET b = 8",
    )
    .policy(Policy::Merge)
    .run();
    assert_eq!(all(&done), ["1|1|8"]);
    assert_eq!(done.told(), [(ConflictKind::Check, Decision::Remote)]);
}

#[test]
fn triggers_do_not_fire() {
    let done = Case::new(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a); CREATE TABLE log(what);
         CREATE TRIGGER tr AFTER INSERT ON t BEGIN INSERT INTO log VALUES (new.a); END;",
        "INSERT INTO t VALUES (1, 'x')",
        "CREATE INDEX i ON t(a)",
    )
    .run();
    assert_eq!(done.rows("SELECT * FROM log"), ["x"]);
}

/// Takes the longer text.
struct Longer;

impl Resolve for Longer {
    fn resolve(&self, conflict: &Conflict) -> Option<Option<Row>> {
        let (local, remote) = (conflict.local.clone()?, conflict.remote.clone()?);
        let text = |row: &Row| match &row.values[1] {
            Value::Text(text) => text.len(),
            _ => 0,
        };
        match text(&local) {
            0 => None,
            n if n == text(&remote) => Some(None),
            n if n > text(&remote) => Some(Some(local)),
            _ => {
                let mut row = remote;
                row.values[2] = Value::Text("decided".into());
                Some(Some(row))
            }
        }
    }
}

#[test]
fn a_program_decides_before_the_policy() {
    let mut case = Case::new(
        T,
        "UPDATE t SET a = 'longer'; UPDATE t SET a = 'x' WHERE id = 2;
         UPDATE t SET a = 5 WHERE id = 3;",
        "UPDATE t SET a = 'short'; UPDATE t SET a = 'middle' WHERE id = 2;",
    );
    case.rules.resolve = Some(Arc::new(Longer));
    let done = case.run();
    assert_eq!(all(&done), ["1|longer|b1", "2|middle|decided", "3|5|b3"]);
    assert_eq!(
        done.told().into_iter().map(|(_, d)| d).collect::<Vec<_>>(),
        [Decision::Local, Decision::Merged, Decision::Local]
    );
}

/// Gives a row another key.
struct Wrong;

impl Resolve for Wrong {
    fn resolve(&self, conflict: &Conflict) -> Option<Option<Row>> {
        let mut row = conflict.local.clone()?;
        row.values[0] = Value::Integer(77);
        Some(Some(row))
    }
}

#[test]
fn a_program_may_not_change_the_key() {
    let mut case = Case::new(T, "UPDATE t SET a = 'x'", "UPDATE t SET a = 'y'");
    case.rules.resolve = Some(Arc::new(Wrong));
    assert!(matches!(case.try_run(), Err(RebaseError::Resolved { .. })));
}

#[test]
fn rows_that_differ_are_listed() {
    let case = Case::new(
        &format!("{T} CREATE TABLE u(x); INSERT INTO u VALUES (1), (2);"),
        "UPDATE t SET a = 'here' WHERE id = 1; DELETE FROM t WHERE id = 2;
         INSERT INTO t VALUES (9, 1, 2);
         DELETE FROM u; INSERT INTO u(rowid, x) VALUES (7, 2), (8, 3)",
        "",
    );
    let mut found = Vec::new();
    changed_rows(&case.base, &case.local, None, &mut |row| {
        found.push((row.table, row.before.map(|r| r.values), row.after.map(|r| r.values)));
        Ok(())
    })
    .unwrap();
    let text = |s: &str| Value::Text(s.into());
    let int = Value::Integer;
    assert_eq!(
        found,
        [
            (
                "t".into(),
                Some(vec![int(1), text("a1"), text("b1")]),
                Some(vec![int(1), text("here"), text("b1")])
            ),
            ("t".into(), Some(vec![int(2), text("a2"), text("b2")]), None),
            ("t".into(), None, Some(vec![int(9), int(1), int(2)])),
            ("u".into(), Some(vec![int(1), int(1)]), None),
            ("u".into(), None, Some(vec![int(8), int(3)])),
        ]
    );
}

/// Decides what only both changes together violate.
struct Knows;

impl Resolve for Knows {
    fn resolve(&self, conflict: &Conflict) -> Option<Option<Row>> {
        let mut row = conflict.local.clone().or_else(|| conflict.remote.clone())?;
        let to = match conflict.kind {
            ConflictKind::Check => Value::Integer(0),
            ConflictKind::Unique => Value::Text("another".into()),
            ConflictKind::ForeignKey => Value::Integer(2),
            _ => return None,
        };
        row.values[1] = to;
        Some(Some(row))
    }
}

#[test]
fn a_program_decides_on_what_only_both_violate() {
    let base = "CREATE TABLE u(id INTEGER PRIMARY KEY, u UNIQUE);
        CREATE TABLE v(id INTEGER PRIMARY KEY, a, b, CHECK (a + b < 10));
        CREATE TABLE p(id INTEGER PRIMARY KEY); CREATE TABLE c(id INTEGER PRIMARY KEY, p REFERENCES p);
        INSERT INTO v VALUES (1, 1, 1); INSERT INTO p VALUES (1), (2);";
    let mut case = Case::new(
        base,
        "INSERT INTO u VALUES (500, 'x'); UPDATE v SET a = 8; DELETE FROM p WHERE id = 1",
        "INSERT INTO u VALUES (900, 'x'); UPDATE v SET b = 8; INSERT INTO c VALUES (1, 1)",
    )
    .policy(Policy::Merge);
    case.rules.resolve = Some(Arc::new(Knows));
    let done = case.run();
    assert_eq!(done.rows("SELECT * FROM u"), ["500|another", "900|x"]);
    assert_eq!(done.rows("SELECT * FROM v"), ["1|0|1"]);
    assert_eq!(done.rows("SELECT * FROM c"), ["1|2"]);
    assert_eq!(done.rows("SELECT * FROM p"), ["2"]);
    assert!(done.told().iter().all(|(_, decision)| *decision == Decision::Merged));
    assert_eq!(done.told().len(), 3);
}

use anabranch_sql::{Limits, Rights, Session};
use rusqlite::Connection;

use super::support::{all, fails, int, run, session, value};

#[test]
fn a_session_that_only_ran_statements_is_clean() {
    let mut session = session();
    all(&mut session, &["CREATE TABLE t(a)", "INSERT INTO t VALUES(1)", "PRAGMA user_version=2"]);
    all(&mut session, &["PRAGMA foreign_keys", "SELECT * FROM t", "BEGIN"]);
    assert!(!session.is_tainted());
    assert!(session.recycle());
    assert!(session.is_autocommit());
}

#[test]
fn pragmas_are_set_back() {
    let mut session = session();
    for (pragma, before) in [
        ("foreign_keys", 1),
        ("recursive_triggers", 0),
        ("legacy_alter_table", 0),
        ("reverse_unordered_selects", 0),
        ("analysis_limit", 0),
    ] {
        // Twice: a statement that is kept would not be noticed the second time.
        for _ in 0..2 {
            let read = format!("PRAGMA {pragma}");
            assert_eq!(value(&mut session, &read), int(before), "{pragma}");
            run(&mut session, &format!("PRAGMA {pragma}={}", 1 - before), &[]).unwrap();
            assert_eq!(value(&mut session, &read), int(1 - before));
            assert!(session.is_tainted());
            assert!(session.recycle());
            assert!(!session.is_tainted());
        }
    }
    assert_eq!(value(&mut session, "SELECT 'a' LIKE 'A'"), int(1));
    all(&mut session, &["PRAGMA case_sensitive_like=1"]);
    assert_eq!(value(&mut session, "SELECT 'a' LIKE 'A'"), int(0));
    assert!(session.recycle());
    assert_eq!(value(&mut session, "SELECT 'a' LIKE 'A'"), int(1));
}

#[test]
fn temporary_objects_stay_with_their_client() {
    let mut session = session();
    all(&mut session, &["CREATE TEMP TABLE x(a)"]);
    assert!(session.is_tainted());
    assert!(!session.recycle());
    all(&mut session, &["DROP TABLE x"]);
    assert!(session.recycle());
    all(&mut session, &["BEGIN", "CREATE TEMP VIEW v AS SELECT 1"]);
    // Rolled back with the transaction.
    assert!(session.recycle());
    assert!(!session.is_tainted());
}

#[test]
fn rights_and_transactions_do_not_go_over() {
    let mut session = session();
    all(&mut session, &["CREATE TABLE t(a)", "BEGIN", "INSERT INTO t VALUES(1)"]);
    session.set_rights(Rights::Read).unwrap();
    assert!(session.recycle());
    assert_eq!(value(&mut session, "SELECT count(*) FROM t"), int(0));
    all(&mut session, &["INSERT INTO t VALUES(1)"]);
}

#[test]
fn names_that_are_not_utf8_end_the_statement_and_the_session() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let made = Connection::open(&path).unwrap();
    made.execute_batch("CREATE TABLE t(a XYZ); INSERT INTO t VALUES(1)").unwrap();
    made.execute_batch("PRAGMA writable_schema=1").unwrap();
    made.execute(
        "UPDATE sqlite_schema SET sql=CAST(x'435245415445205441424c45207428612058ff5a29' AS TEXT)",
        [],
    )
    .unwrap();
    drop(made);
    let mut session = Session::new(Connection::open(&path).unwrap(), &Limits::default()).unwrap();
    assert_eq!(fails(&mut session, "SELECT a FROM t").code, "SQLITE_INTERNAL");
    assert!(session.is_tainted());
    assert!(!session.recycle());
    assert_eq!(value(&mut session, "SELECT 1"), int(1));
}

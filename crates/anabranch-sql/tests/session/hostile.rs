//! Statements that want to take everything end in an error, within the limits.

use std::time::{Duration, Instant};

use anabranch_hrana::Error;
use anabranch_sql::{Limits, Session};
use rusqlite::OpenFlags;

use super::support::{all, fails, int, limited, rows, session, value};

const ENDLESS: &str = "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n)";

/// A session whose statements run for a moment only.
fn short() -> Session {
    limited(&Limits { run_time: Duration::from_millis(50), ..Limits::default() })
}

fn timed_out(error: &Error) {
    assert_eq!(error.code, "SQLITE_INTERRUPT", "{error}");
    assert!(error.message.contains("time limit was reached after 0.05 s"), "{error}");
}

#[test]
fn endless_statements_reach_the_time_limit() {
    let mut session = short();
    all(&mut session, &["CREATE TABLE t(a)"]);
    for sql in [
        "SELECT count(*) FROM n",
        "SELECT i FROM n WHERE i<0",
        "INSERT INTO t SELECT i FROM n",
        "SELECT max(i) FROM n GROUP BY i%7",
        "SELECT sum(i) OVER (ORDER BY i) FROM n",
        "SELECT group_concat('') FROM n",
    ] {
        timed_out(&fails(&mut session, &format!("{ENDLESS} {sql}")));
        assert!(session.is_autocommit());
    }
    assert_eq!(value(&mut session, "SELECT count(*) FROM t"), int(0));
    // A trigger that goes on for ever is stopped by its depth.
    all(&mut session, &["PRAGMA recursive_triggers=1"]);
    all(
        &mut session,
        &["CREATE TRIGGER g AFTER INSERT ON t BEGIN INSERT INTO t VALUES(new.a+1); END"],
    );
    let error = fails(&mut session, "INSERT INTO t VALUES(1)");
    assert!(error.message.contains("triggers nested too deep"), "{error}");
}

#[test]
fn compiling_takes_no_longer_than_running_may() {
    let mut session = short();
    all(&mut session, &["CREATE VIEW v0 AS VALUES(1)"]);
    for level in 0..15 {
        let sql = format!("CREATE VIEW v{} AS SELECT 1 FROM v{level} x, v{level} y", level + 1);
        all(&mut session, &[&sql]);
    }
    timed_out(&fails(&mut session, "SELECT count(*) FROM v15"));
}

#[test]
fn the_clock_of_a_request_counts_too() {
    let mut session = session();
    session.start_clock(Instant::now() + Duration::from_millis(20));
    let error = fails(&mut session, &format!("{ENDLESS} SELECT count(*) FROM n"));
    assert_eq!(error.code, "SQLITE_INTERRUPT");
    session.stop_clock();
    assert_eq!(rows(&mut session, "SELECT 1").len(), 1);
}

#[test]
fn a_statement_is_stopped_from_outside() {
    let mut session = session();
    let handle = session.interrupt_handle();
    let (said, heard) = std::sync::mpsc::channel::<()>();
    let stopper = std::thread::spawn(move || {
        // An interrupt before the statement runs has no effect: until it is over.
        while heard.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            handle.interrupt();
        }
    });
    let error = fails(&mut session, &format!("{ENDLESS} SELECT count(*) FROM n"));
    drop(said);
    stopper.join().unwrap();
    assert_eq!(error, Error::new("SQLITE_INTERRUPT", "SQLite error: interrupted"));
}

#[test]
fn large_values_are_refused() {
    let mut session = short();
    for sql in [
        "SELECT zeroblob(1000000000)",
        "SELECT length(zeroblob(11000000))",
        "SELECT randomblob(1000000000)",
        "SELECT printf('%.*c', 1000000000, 'x')",
        "SELECT printf('%1000000000d', 1)",
        "SELECT replace(printf('%.*c', 10000000, 'x'), 'x', 'yy')",
        "SELECT replace(printf('%.*c', 10000, 'x'), 'x', printf('%.*c', 10000, 'y'))",
        "SELECT hex(zeroblob(10000000))",
        "SELECT quote(zeroblob(10000000))",
        "SELECT zeroblob(10000000) || zeroblob(10000000)",
        "WITH RECURSIVE d(s) AS (VALUES('x') UNION ALL SELECT s||s FROM d) SELECT max(length(s)) FROM d",
    ] {
        let error = fails(&mut session, sql);
        assert!(
            ["SQLITE_TOOBIG", "SQLITE_INTERRUPT"].contains(&error.code.as_str()),
            "{sql}: {error}"
        );
    }
    // An aggregate goes on to the end of its rows before it says so.
    let many = ENDLESS.replace("FROM n)", "FROM n LIMIT 1000)");
    let sql = format!("{many} SELECT group_concat(printf('%.*c', 100000, 'x')) FROM n");
    assert_eq!(fails(&mut super::support::session(), &sql).code, "SQLITE_TOOBIG");
}

#[test]
fn deep_and_long_texts_are_refused() {
    let mut session = session();
    let deep = |n: usize| format!("SELECT {}1{}", "(".repeat(n), ")".repeat(n));
    for sql in [
        deep(100_000),
        format!("SELECT {}1", "-".repeat(1_001).replace('-', "- ")),
        format!("SELECT 1{}", "+1".repeat(5_000)),
        format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(600)),
        format!("SELECT {}1", "1,".repeat(3_000)),
        "SELECT ?32767".to_owned(),
        format!("SELECT '{}'", "x".repeat(1 << 20)),
        format!("SELECT 'x' LIKE '{}'", "%a".repeat(501)),
        format!("SELECT {}x", "NOT EXISTS (SELECT 1 WHERE ".repeat(2_000)),
    ] {
        let error = fails(&mut session, &sql);
        assert!(!error.message.is_empty() && error.message.len() < 200, "{}", error.message);
    }
    assert_eq!(
        fails(&mut session, &format!("SELECT '{}'", "x".repeat(1 << 20))).code,
        "SQLITE_TOOBIG"
    );
    // What programs generate is not.
    let many = "(1),".repeat(100_000);
    all(&mut session, &["CREATE TABLE t(a)"]);
    all(&mut session, &[&format!("INSERT INTO t VALUES {}", many.trim_end_matches(','))]);
    assert_eq!(value(&mut session, "SELECT count(*) FROM t"), int(100_000));
    let list = "1,".repeat(50_000);
    all(&mut session, &[&format!("SELECT a FROM t WHERE a IN ({}0) LIMIT 1", list)]);
}

#[test]
fn long_results_are_refused_and_leave_nothing_open() {
    let dir = tempfile::tempdir().unwrap();
    let open = |limits: &Limits| {
        let conn = rusqlite::Connection::open(dir.path().join("db")).unwrap();
        conn.pragma_update(None, "journal_mode", "wal").unwrap();
        Session::new(conn, limits).unwrap()
    };
    let limits = Limits { result_bytes: 10_000, result_rows: 100, ..Limits::default() };
    let (mut reader, mut writer) = (open(&limits), open(&Limits::default()));
    all(&mut writer, &["CREATE TABLE t(a)", "INSERT INTO t VALUES(1)"]);
    for sql in [
        format!("{ENDLESS} SELECT i FROM n"),
        format!("{ENDLESS} SELECT i, t.a FROM t, n"),
        "SELECT zeroblob(8000)".to_owned(),
        "SELECT printf('%.*c', 3000, char(1))".to_owned(),
        format!("SELECT {}", vec!["1 AS a_rather_long_name_of_a_column"; 200].join(",")),
        "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n LIMIT 1000) INSERT INTO t SELECT i FROM n RETURNING a".to_owned(),
    ] {
        let error = fails(&mut reader, &sql);
        assert_eq!(error.code, "RESPONSE_TOO_LARGE", "{sql}: {error}");
    }
    assert_eq!(value(&mut reader, "SELECT count(*) FROM t"), int(1));
    // A read transaction that stayed open would keep the checkpoint from being complete.
    all(&mut writer, &["INSERT INTO t VALUES(2)"]);
    let (busy, log, done): (i64, i64, i64) = writer.unguarded(|conn| {
        conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .unwrap()
    });
    assert_eq!((busy, log, done), (0, 0, 0));
    assert_eq!(rows(&mut reader, "SELECT a FROM t").len(), 2);
}

#[test]
fn temporary_files_have_a_limit() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { temp_bytes: 8 << 20, cache_bytes: 64 << 10, ..Limits::default() };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let mut session = Session::open(&dir.path().join("db"), flags, &limits).unwrap();
    for sql in [
        "SELECT i FROM n ORDER BY randomblob(1000)",
        "SELECT DISTINCT randomblob(1000) FROM n",
        "SELECT count(*) FROM n GROUP BY randomblob(1000)",
        "SELECT count(DISTINCT randomblob(1000)) FROM n",
        "SELECT row_number() OVER (ORDER BY randomblob(1000)) FROM n",
        "SELECT randomblob(1000) FROM n EXCEPT SELECT 1",
        ", m AS MATERIALIZED (SELECT randomblob(1000) FROM n) SELECT count(*) FROM m",
    ] {
        let error = fails(&mut session, &format!("{ENDLESS} {sql}"));
        assert_eq!(error.code, "SQLITE_FULL", "{sql}: {error}");
        assert!(error.message.contains("8388608 bytes of temporary files"), "{error}");
    }
    let sql = "WITH RECURSIVE n(i) AS (VALUES(x'') UNION SELECT randomblob(1000) FROM n) SELECT max(i) FROM n";
    assert_eq!(fails(&mut session, sql).code, "SQLITE_FULL");
    all(&mut session, &["CREATE TEMP TABLE t(a)"]);
    let sql = format!("{ENDLESS} INSERT INTO t SELECT randomblob(1000) FROM n");
    assert_eq!(fails(&mut session, &sql).code, "SQLITE_FULL");
    // What is within the limit goes on.
    all(
        &mut session,
        &["DROP TABLE t", "CREATE TEMP TABLE t(a)", "INSERT INTO t VALUES(zeroblob(4000000))"],
    );
    assert!(session.is_autocommit());
}

use anabranch_hrana::{Col, Error, Value};
use anabranch_sql::{Need, Rights, Rows, Session};

use super::support::{all, blob, fails, int, rows, run, run_named, session, text, value};

fn with_table() -> Session {
    let mut session = session();
    all(&mut session, &["CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT UNIQUE)"]);
    session
}

#[test]
fn values_go_in_and_come_out_as_they_are() {
    let mut session = session();
    let args = [Value::Null, int(i64::MIN), Value::Float(1.5), text("é\"\\\u{1}"), blob(&[0, 255])];
    let (result, _) = run(&mut session, "SELECT ?, ?, ?, ?, ?", &args).unwrap();
    assert_eq!(result.rows, [args.to_vec()]);
}

#[test]
fn floats_are_bound_as_real() {
    let mut session = session();
    let (result, _) = run(&mut session, "SELECT typeof(?)", &[Value::Float(7.0)]).unwrap();
    assert_eq!(result.rows, [[text("real")]]);
    all(&mut session, &["CREATE TABLE n(i INTEGER)"]);
    run(&mut session, "INSERT INTO n VALUES(?)", &[Value::Float(7.0)]).unwrap();
    assert_eq!(value(&mut session, "SELECT i FROM n"), int(7));
}

#[test]
fn columns_are_named_as_in_the_text_and_typed_as_declared() {
    let mut session = with_table();
    let (result, _) =
        run(&mut session, "-- x\nSELECT id, a AS b, count (*), 1+ 1 FROM t", &[]).unwrap();
    let names: Vec<_> =
        result.cols.iter().map(|col| (col.name.as_deref(), col.decltype.as_deref())).collect();
    assert_eq!(
        names,
        [
            (Some("id"), Some("INTEGER")),
            (Some("b"), Some("TEXT")),
            (Some("count (*)"), None),
            (Some("1+ 1"), None)
        ]
    );
}

#[test]
fn columns_come_without_rows_too_and_follow_a_changed_schema() {
    let mut session = with_table();
    let (result, _) = run(&mut session, "SELECT * FROM t", &[]).unwrap();
    assert_eq!((result.cols.len(), result.rows.len()), (2, 0));
    all(&mut session, &["ALTER TABLE t ADD COLUMN c"]);
    let (result, _) = run(&mut session, "SELECT * FROM t", &[]).unwrap();
    assert_eq!(result.cols.len(), 3);
    let (result, _) = run(&mut session, "DELETE FROM t", &[]).unwrap();
    assert_eq!(result.cols, []);
}

#[test]
fn named_arguments_with_and_without_the_leading_character() {
    let mut session = session();
    let args = [(":a", int(1)), ("b", int(2)), ("c", int(3))];
    let result = run_named(&mut session, "SELECT :a, @b, $c, :a", &args).unwrap();
    assert_eq!(result, [[int(1), int(2), int(3), int(1)]]);
    // The whole name comes first.
    let result =
        run_named(&mut session, "SELECT :a, $a", &[("a", int(1)), ("$a", int(2))]).unwrap();
    assert_eq!(result, [[int(1), int(2)]]);
    assert_eq!(run_named(&mut session, "SELECT ?1", &[("?1", int(4))]).unwrap(), [[int(4)]]);
}

#[test]
fn positional_arguments_follow_the_numbers_of_parameters() {
    let mut session = session();
    let args = [int(1), int(2)];
    assert_eq!(run(&mut session, "SELECT ?2, ?1", &args).unwrap().0.rows, [[int(2), int(1)]]);
    assert_eq!(run(&mut session, "SELECT :x, @y", &args).unwrap().0.rows, [[int(1), int(2)]]);
}

#[test]
fn arguments_that_do_not_fit_are_refused() {
    let mut session = session();
    let code = |result: Result<_, Error>| result.map(drop).unwrap_err().code;
    assert_eq!(code(run(&mut session, "SELECT ?", &[])), "ARGS_INVALID");
    assert_eq!(code(run(&mut session, "SELECT ?", &[int(1), int(2)])), "ARGS_INVALID");
    let error = run_named(&mut session, "SELECT :a", &[("b", int(1))]).unwrap_err();
    assert_eq!(error.code, "ARGS_INVALID");
    assert!(error.message.contains(":a"), "{error}");
    let named = [anabranch_hrana::NamedArg { name: "a".into(), value: int(1) }];
    let both = session.execute(
        "SELECT ?, :a",
        &[int(1)],
        &named,
        &mut anabranch_sql::Collected::default(),
    );
    assert_eq!(both.unwrap_err().code, "ARGS_BOTH_POSITIONAL_AND_NAMED");
    assert!(run(&mut session, "EXPLAIN SELECT ?", &[]).is_ok());
}

#[test]
fn an_earlier_value_is_not_left_bound() {
    let mut session = session();
    run(&mut session, "EXPLAIN SELECT ?", &[int(1)]).unwrap();
    run(&mut session, "SELECT ?", &[int(1)]).unwrap();
    assert_eq!(run(&mut session, "SELECT ?", &[]).unwrap_err().code, "ARGS_INVALID");
}

#[test]
fn exactly_one_statement() {
    let mut session = session();
    assert_eq!(fails(&mut session, " -- nothing\n;").code, "SQL_NO_STATEMENT");
    assert_eq!(fails(&mut session, "SELECT 1; SELECT 2").code, "SQL_MANY_STATEMENTS");
    assert_eq!(value(&mut session, "/* a */ SELECT 1 ; -- b\n ;"), int(1));
}

#[test]
fn counts_and_row_ids() {
    let mut session = with_table();
    let mut done = |sql: &str| {
        let (_, done) = run(&mut session, sql, &[]).unwrap();
        (done.affected_row_count, done.last_insert_rowid)
    };
    assert_eq!(done("INSERT INTO t VALUES(5,'x')"), (1, Some(5)));
    assert_eq!(done("SELECT 1"), (0, None));
    assert_eq!(done("CREATE TABLE u(a)"), (0, None));
    assert_eq!(done("INSERT OR IGNORE INTO t VALUES(5,'x')"), (0, None));
    assert_eq!(done("WITH v(i) AS (VALUES(6),(7)) INSERT INTO t SELECT i,i FROM v"), (2, Some(7)));
    assert_eq!(done("INSERT INTO t VALUES(8,'8') RETURNING id"), (1, Some(8)));
    assert_eq!(done("REPLACE INTO t VALUES(8,'9')"), (1, Some(8)));
    assert_eq!(done("UPDATE t SET a=a||'!' WHERE id<8"), (3, None));
    assert_eq!(done("DELETE FROM t WHERE id=99"), (0, None));
    assert_eq!(done("WITH v AS (SELECT 5) DELETE FROM t WHERE id IN v"), (1, None));
    assert_eq!(done("DELETE FROM t"), (3, None));
    assert_eq!(done("EXPLAIN DELETE FROM t"), (0, None));
    assert_eq!(done("BEGIN"), (0, None));
}

#[test]
fn errors_have_the_codes_of_the_official_server() {
    let mut session = with_table();
    all(&mut session, &["INSERT INTO t VALUES(1,'x')"]);
    for (sql, code, message) in [
        (
            "INSERT INTO t VALUES(2,'x')",
            "SQLITE_CONSTRAINT",
            "SQLite error: UNIQUE constraint failed: t.a",
        ),
        (
            "/* c */ SELECT * FROM nowhere",
            "SQL_INPUT_ERROR",
            "SQL input error: no such table: nowhere (at offset 22)",
        ),
        (
            "SELEC 1",
            "SQL_PARSE_ERROR",
            "SQL string could not be parsed: near \"SELEC\": syntax error (at offset 0)",
        ),
        ("SELECT (1", "SQL_PARSE_ERROR", "SQL string could not be parsed: incomplete input"),
        ("SELECT abs(-9223372036854775808)", "SQLITE_UNKNOWN", "SQLite error: integer overflow"),
        ("INSERT INTO t VALUES('x','y')", "SQLITE_MISMATCH", "SQLite error: datatype mismatch"),
        ("COMMIT", "SQLITE_UNKNOWN", "SQLite error: cannot commit - no transaction is active"),
        ("SELECT 1\0, 2", "SQL_PARSE_ERROR", "SQL string could not be parsed: it has a NUL"),
    ] {
        assert_eq!(fails(&mut session, sql), Error::new(code, message), "{sql}");
    }
}

#[test]
fn values_without_a_form_fail_the_statement() {
    let mut session = session();
    for sql in ["SELECT 1, 9e999", "SELECT 1, -9e999", "SELECT 1, CAST(x'ff' AS TEXT)"] {
        let error = fails(&mut session, sql);
        assert_eq!(error.code, "SQLITE_MISMATCH", "{sql}");
        assert!(error.message.contains("column 2"), "{error}");
    }
    assert!(!session.is_tainted());
}

#[test]
fn an_error_between_rows_is_the_outcome_and_undoes_what_was_written() {
    let mut session = with_table();
    let sql = "INSERT INTO t(id, a) VALUES(1,'x'),(2,x'ff') RETURNING CAST(a AS TEXT)";
    assert_eq!(fails(&mut session, sql).code, "SQLITE_MISMATCH");
    assert_eq!(value(&mut session, "SELECT count(*) FROM t"), int(0));
    assert!(session.is_autocommit());
    // Within a transaction, what came before stays.
    all(&mut session, &["BEGIN", "INSERT INTO t VALUES(9,'y')"]);
    fails(&mut session, sql);
    assert!(!session.is_autocommit());
    all(&mut session, &["COMMIT"]);
    assert_eq!(rows(&mut session, "SELECT id FROM t"), [[int(9)]]);
    // A deferred constraint that fails at the end of such a statement leaves nothing open.
    all(&mut session, &["CREATE TABLE c(p REFERENCES t DEFERRABLE INITIALLY DEFERRED)"]);
    assert_eq!(
        fails(&mut session, "INSERT INTO c VALUES(77) RETURNING p").code,
        "SQLITE_CONSTRAINT"
    );
    assert!(session.is_autocommit());
    assert_eq!(value(&mut session, "SELECT count(*) FROM c"), int(0));
}

#[test]
fn what_takes_the_rows_may_stop_the_statement() {
    struct Full;
    impl Rows for Full {
        fn cols(&mut self, _: Vec<Col>) -> Result<(), Error> {
            Ok(())
        }
        fn row(&mut self, _: Vec<Value>) -> Result<(), Error> {
            Err(Error::new("FULL", "no more"))
        }
    }
    let mut session = with_table();
    let error = session
        .execute("INSERT INTO t VALUES(1,'x') RETURNING id", &[], &[], &mut Full)
        .unwrap_err();
    assert_eq!(error.code, "FULL");
    assert_eq!(value(&mut session, "SELECT count(*) FROM t"), int(0));
}

#[test]
fn begin_readonly_is_understood() {
    let mut session = with_table();
    for begin in ["BEGIN READONLY", "begin readonly transaction;", "BEGIN TRANSACTION READONLY"] {
        assert!(session.describe(begin).unwrap().is_readonly, "{begin}");
        all(&mut session, &[begin]);
        assert!(!session.is_autocommit());
        all(&mut session, &["ROLLBACK"]);
    }
}

#[test]
fn describe() {
    let mut session = with_table();
    let told = session.describe("SELECT id, a||? AS x, ?4 FROM t WHERE a=:n").unwrap();
    let params: Vec<_> = told.params.iter().map(|param| param.name.as_deref()).collect();
    assert_eq!(params, [None, None, None, Some("?4"), Some(":n")]);
    let cols: Vec<_> =
        told.cols.iter().map(|col| (col.name.as_str(), col.decltype.as_deref())).collect();
    assert_eq!(cols, [("id", Some("INTEGER")), ("x", None), ("?4", None)]);
    assert!(told.is_readonly && !told.is_explain);

    let told = session.describe("INSERT INTO t VALUES(1,'x'); nonsense").unwrap();
    assert!(!told.is_readonly && told.cols.is_empty());
    assert_eq!(value(&mut session, "SELECT count(*) FROM t"), int(0));
    assert!(session.describe("EXPLAIN QUERY PLAN DELETE FROM t").unwrap().is_explain);
    assert!(!session.describe("BEGIN IMMEDIATE").unwrap().is_readonly);
    assert!(session.is_autocommit());
    assert_eq!(session.describe("DELETE FROM t RETURNING a").unwrap().cols.len(), 1);
    assert_eq!(session.describe(" ;").unwrap_err().code, "SQL_NO_STATEMENT");
    assert_eq!(session.describe("SELECT * FROM x").unwrap_err().code, "SQL_INPUT_ERROR");
    assert_eq!(session.describe("VACUUM").unwrap_err().code, "SQL_PARSE_ERROR");
}

#[test]
fn what_needs_the_write_lock() {
    let mut session = with_table();
    for (sql, expected) in [
        ("SELECT 1", Need::Read),
        ("INSERT INTO t VALUES(1,1)", Need::Write),
        ("INSERT INTO not_there_yet VALUES(1)", Need::Write),
        ("WITH a AS (SELECT 1) SELECT * FROM a", Need::Read),
        ("PRAGMA user_version", Need::Read),
        ("PRAGMA journal_mode", Need::Read),
        ("PRAGMA user_version=1", Need::Write),
        ("PRAGMA optimize", Need::Write),
        ("PRAGMA foreign_keys=off", Need::Nothing),
        ("BEGIN IMMEDIATE", Need::Write),
        ("ROLLBACK TO a", Need::Nothing),
    ] {
        assert_eq!(session.need(sql).unwrap(), expected, "{sql}");
    }
    assert_eq!(session.need("PRAGMA locking_mode=exclusive").unwrap_err().code, "SQL_PARSE_ERROR");
    assert_eq!(value(&mut session, "PRAGMA user_version"), int(0));
    assert_eq!(session.need("FOO").unwrap_err().code, "SQL_PARSE_ERROR");
}

#[test]
fn reading_only() {
    let mut session = with_table();
    all(&mut session, &["INSERT INTO t VALUES(1,'x')"]);
    session.set_rights(Rights::Read).unwrap();
    for sql in [
        "INSERT INTO t VALUES(2,'y')",
        "INSERT INTO t VALUES(2,'y') RETURNING id",
        "WITH a AS (SELECT 1) DELETE FROM t",
        "CREATE TABLE u(a)",
        "CREATE TEMP TABLE u(a)",
        "PRAGMA user_version=3",
        "PRAGMA optimize",
        "ANALYZE",
        "REINDEX",
    ] {
        assert_eq!(fails(&mut session, sql).code, "SQLITE_READONLY", "{sql}");
    }
    for sql in ["PRAGMA table_info(t)", "PRAGMA journal_mode", "EXPLAIN DELETE FROM t"] {
        run(&mut session, sql, &[]).unwrap();
    }
    assert!(!session.describe("INSERT INTO t VALUES(2,'y')").unwrap().is_readonly);
    all(&mut session, &["SAVEPOINT a", "RELEASE a"]);
    // The rights of the next request may be others, on the same statements.
    session.set_rights(Rights::Write).unwrap();
    all(&mut session, &["INSERT INTO t VALUES(2,'y')"]);
    session.set_rights(Rights::Read).unwrap();
    assert_eq!(fails(&mut session, "DELETE FROM t").code, "SQLITE_READONLY");
    assert_eq!(value(&mut session, "SELECT count(*) FROM t"), int(2));
}

#[test]
fn who_may_only_read_takes_no_lock() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let open = || {
        let conn = rusqlite::Connection::open(&path).unwrap();
        conn.pragma_update(None, "journal_mode", "wal").unwrap();
        conn.busy_timeout(std::time::Duration::ZERO).unwrap();
        Session::new(conn, &anabranch_sql::Limits::default()).unwrap()
    };
    let (mut reader, mut writer) = (open(), open());
    reader.set_rights(Rights::Read).unwrap();
    for begin in ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE TRANSACTION"] {
        all(&mut reader, &[begin]);
        assert!(!reader.is_autocommit());
        all(&mut writer, &["BEGIN IMMEDIATE", "COMMIT"]);
        all(&mut reader, &["COMMIT"]);
    }
    reader.set_rights(Rights::Write).unwrap();
    all(&mut reader, &["BEGIN IMMEDIATE"]);
    assert_eq!(fails(&mut writer, "BEGIN IMMEDIATE").code, "SQLITE_BUSY");
}

#[test]
fn foreign_keys_are_enforced_until_switched_off() {
    let mut session = with_table();
    all(&mut session, &["CREATE TABLE c(p REFERENCES t)"]);
    assert_eq!(fails(&mut session, "INSERT INTO c VALUES(9)").code, "SQLITE_CONSTRAINT");
    all(&mut session, &["PRAGMA foreign_keys=off", "INSERT INTO c VALUES(9)"]);
    all(&mut session, &["PRAGMA foreign_keys=on"]);
    assert_eq!(fails(&mut session, "INSERT INTO c VALUES(9)").code, "SQLITE_CONSTRAINT");
}

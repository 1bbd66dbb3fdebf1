use proptest::prelude::*;

use super::*;

#[test]
fn classes() {
    let cases = [
        ("SELECT 1", Class::Read),
        (" -- c\n /* x; */ ; select 1", Class::Read),
        ("VALUES(1)", Class::Read),
        ("explain query plan delete from t", Class::Read),
        ("BEGIN", Class::Begin(Mode::Deferred)),
        ("begin transaction", Class::Begin(Mode::Deferred)),
        ("BEGIN DEFERRED TRANSACTION", Class::Begin(Mode::Deferred)),
        ("BEGIN/**/IMMEDIATE", Class::Begin(Mode::Immediate)),
        ("BEGIN EXCLUSIVE;", Class::Begin(Mode::Exclusive)),
        ("BEGIN READONLY TRANSACTION", Class::Begin(Mode::ReadOnly)),
        ("BEGIN TRANSACTION READONLY", Class::Begin(Mode::ReadOnly)),
        ("COMMIT", Class::Commit),
        ("end transaction", Class::Commit),
        ("ROLLBACK", Class::Rollback),
        ("ROLLBACK TRANSACTION;", Class::Rollback),
        ("ROLLBACK; SELECT 1 TO", Class::Rollback),
        ("ROLLBACK TRANSACTION TO SAVEPOINT a", Class::RollbackTo),
        ("SAVEPOINT a", Class::Savepoint),
        ("RELEASE a", Class::Release),
        ("REPLACE INTO t VALUES(1)", Class::Write),
        ("CREATE TABLE t(a)", Class::Write),
        ("VACUUM", Class::Write),
        ("WITH a AS (SELECT 1) SELECT * FROM a", Class::Read),
        ("WITH RECURSIVE a(x) AS (VALUES(1)), b AS MATERIALIZED (SELECT 2) VALUES(3)", Class::Read),
        ("WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a", Class::Write),
        ("WITH replace AS (SELECT 1) SELECT * FROM replace", Class::Read),
        ("WITH a AS (DELETE", Class::Unknown),
        ("PRAGMA user_version", Class::Unknown),
        ("", Class::Unknown),
        ("\"SELECT\" 1", Class::Unknown),
        ("SELECTED", Class::Unknown),
        ("\u{feff}SELECT 1", Class::Read),
    ];
    for (sql, expected) in cases {
        assert_eq!(class(sql), expected, "{sql}");
    }
}

#[test]
fn what_statements_do_to_rows() {
    for (sql, expected) in [
        ("INSERT INTO t VALUES(1)", Changes::Insert),
        ("replace into t values(1)", Changes::Insert),
        ("WITH a AS (SELECT 1) REPLACE INTO t SELECT * FROM a", Changes::Insert),
        ("WITH a AS (SELECT 1) DELETE FROM t", Changes::Other),
        ("UPDATE t SET a=1", Changes::Other),
        ("SELECT 1", Changes::None),
        ("EXPLAIN INSERT INTO t VALUES(1)", Changes::None),
        ("CREATE TABLE t AS SELECT 1", Changes::None),
    ] {
        assert_eq!(changes(sql), expected, "{sql}");
    }
}

#[test]
fn statements_end_at_semicolons_outside_of_quotes_comments_and_triggers() {
    for (sql, first, rest) in [
        ("SELECT 1", "SELECT 1", ""),
        (" ; SELECT 1 ; SELECT 2", "SELECT 1", " SELECT 2"),
        ("SELECT ';''' ; x", "SELECT ';'''", " x"),
        ("SELECT \";\", `;`, [;] ; x", "SELECT \";\", `;`, [;]", " x"),
        ("SELECT 1 -- ;\n+1; x", "SELECT 1 -- ;\n+1", " x"),
        ("SELECT 1 /* ; */ -- end", "SELECT 1", ""),
        ("/* open", "", ""),
        ("SELECT 'open;", "SELECT 'open;", ""),
        (
            "CREATE TEMP TRIGGER x AFTER INSERT ON t BEGIN SELECT CASE WHEN 1 THEN 2 END; DELETE FROM t; END; x",
            "CREATE TEMP TRIGGER x AFTER INSERT ON t BEGIN SELECT CASE WHEN 1 THEN 2 END; DELETE FROM t; END",
            " x",
        ),
        ("CREATE TABLE trigger_log(a); x", "CREATE TABLE trigger_log(a)", " x"),
        ("", "", ""),
        (";;", "", ""),
    ] {
        assert_eq!(split(sql), (first, rest), "{sql}");
    }
}

#[test]
fn exactly_one_statement() {
    assert!(single("SELECT 1; -- done").is_ok());
    assert!(single("; SELECT 1;;").is_ok());
    assert_eq!(single("SELECT 1; SELECT 2"), Err(Count::Many));
    assert_eq!(single("  ; -- nothing"), Err(Count::None));
}

#[test]
fn only_begin_readonly_is_rewritten() {
    for (sql, expected) in [
        ("BEGIN READONLY", "BEGIN DEFERRED"),
        ("/*a*/ begin  readonly transaction;", "/*a*/ begin  DEFERRED transaction;"),
        ("BEGIN TRANSACTION READONLY", "BEGIN TRANSACTION READONLY"),
        ("SELECT  count (*)", "SELECT  count (*)"),
        ("BEGIN \"READONLY\"", "BEGIN \"READONLY\""),
    ] {
        assert_eq!(plain(sql), expected);
    }
}

#[test]
fn blank() {
    assert!(is_blank(" \n-- x\n/* y */;;"));
    assert!(!is_blank("-- x\n a"));
}

proptest! {
    #[test]
    fn any_text_is_cut_into_statements_that_cover_it(
        sql in "([;'\"`\\[\\]()/*a é-]|BEGIN|END|CREATE|TRIGGER|WITH|\n| ){0,40}"
    ) {
        let _ = (class(&sql), changes(&sql), plain(&sql));
        let mut rest = sql.as_str();
        let mut rounds = 0;
        while !is_blank(rest) {
            let (first, next) = split(rest);
            prop_assert!(!first.is_empty());
            prop_assert!(next.len() < rest.len());
            // What is cut out is one statement for the next look as well.
            prop_assert_eq!(split(first).0, first);
            rest = next;
            rounds += 1;
            prop_assert!(rounds <= sql.len());
        }
    }
}

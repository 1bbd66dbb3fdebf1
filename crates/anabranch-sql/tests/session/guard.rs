use super::support::{all, fails, int, rows, run, session, value};

#[test]
fn refused_with_the_name_of_what_was_refused() {
    let mut session = session();
    all(&mut session, &["CREATE TABLE t(a, e)"]);
    for (sql, named) in [
        ("ATTACH 'x' AS y", "ATTACH"),
        ("ATTACH ? AS y", "ATTACH"),
        ("ATTACH 'a'||'b' AS y", "ATTACH"),
        ("DETACH main", "DETACH"),
        ("DETACH ?", "DETACH"),
        ("VACUUM", "VACUUM"),
        ("/**/ vacuum main INTO 'x'", "VACUUM"),
        ("PRAGMA journal_mode=delete", "journal_mode"),
        ("pragma main.Journal_Mode(off)", "Journal_Mode"),
        ("PRAGMA wal_checkpoint", "wal_checkpoint"),
        ("PRAGMA wal_checkpoint(TRUNCATE)", "wal_checkpoint"),
        ("PRAGMA page_size=512", "page_size"),
        ("PRAGMA writable_schema=1", "writable_schema"),
        ("PRAGMA writable_schema", "writable_schema"),
        ("PRAGMA locking_mode=exclusive", "locking_mode"),
        ("PRAGMA temp_store_directory='x'", "temp_store_directory"),
        ("PRAGMA data_store_directory='x'", "data_store_directory"),
        ("PRAGMA temp_store=2", "temp_store"),
        ("PRAGMA wal_autocheckpoint=0", "wal_autocheckpoint"),
        ("PRAGMA mmap_size=1000000", "mmap_size"),
        ("PRAGMA cache_size=-1000000000", "cache_size"),
        ("PRAGMA cache_spill=0", "cache_spill"),
        ("PRAGMA synchronous=0", "synchronous"),
        ("PRAGMA query_only=0", "query_only"),
        ("PRAGMA trusted_schema=1", "trusted_schema"),
        ("PRAGMA schema_version=1", "schema_version"),
        ("PRAGMA max_page_count=1", "max_page_count"),
        ("PRAGMA hard_heap_limit=1", "hard_heap_limit"),
        ("PRAGMA soft_heap_limit=1", "soft_heap_limit"),
        ("PRAGMA busy_timeout=1000000", "busy_timeout"),
        ("PRAGMA threads=8", "threads"),
        ("PRAGMA auto_vacuum=1", "auto_vacuum"),
        ("PRAGMA encoding='UTF-16'", "encoding"),
        ("PRAGMA database_list", "database_list"),
        ("SELECT * FROM pragma_database_list", "database_list"),
        ("SELECT * FROM pragma_wal_checkpoint", "pragma_wal_checkpoint"),
        ("PRAGMA nonsense", "nonsense"),
        ("SELECT load_extension('x')", "load_extension"),
        ("SELECT load_extension('x', 'y')", "load_extension"),
        ("SELECT fts3_tokenizer('simple')", "fts3_tokenizer"),
        ("SELECT data FROM sqlite_dbpage", "sqlite_dbpage"),
        ("SELECT count(*) FROM SQLite_DBPage", "SQLite_DBPage"),
        ("SELECT 1 FROM main.sqlite_dbpage", "sqlite_dbpage"),
        ("UPDATE sqlite_dbpage SET data=zeroblob(4096)", "sqlite_dbpage"),
        ("INSERT INTO sqlite_dbpage VALUES(1, NULL)", "sqlite_dbpage"),
        ("SELECT * FROM dbstat", "dbstat"),
        ("CREATE VIRTUAL TABLE v USING sqlite_dbpage", "sqlite_dbpage"),
        ("CREATE VIRTUAL TABLE temp.v USING dbstat", "dbstat"),
        ("CREATE VIRTUAL TABLE v USING csv(filename='/etc/passwd')", "csv"),
        ("CREATE INDEX i ON t(libsql_vector_idx(e))", "libsql_vector_idx"),
        ("SELECT * FROM vector_top_k('i', '[1]', 1)", "vector_top_k"),
        ("CREATE TABLE u AS SELECT data FROM sqlite_dbpage", "sqlite_dbpage"),
        ("EXPLAIN SELECT data FROM sqlite_dbpage", "sqlite_dbpage"),
        ("INSERT INTO t SELECT load_extension('x'), 1", "load_extension"),
    ] {
        let error = fails(&mut session, sql);
        if sql.contains("pragma_wal_checkpoint") {
            // SQLite itself has no such table.
            assert_eq!(error.code, "SQL_INPUT_ERROR");
        } else {
            assert_eq!(error.code, "SQL_PARSE_ERROR", "{sql}: {error}");
            assert!(
                error.message.starts_with("unsupported statement: this server "),
                "{sql}: {error}"
            );
        }
        assert!(error.message.contains(named), "{sql}: {error}");
    }
    assert_eq!(value(&mut session, "SELECT count(*) FROM t"), int(0));
    assert_eq!(value(&mut session, "SELECT 1"), int(1));
}

#[test]
fn the_schema_is_not_written_to() {
    let mut session = session();
    all(&mut session, &["CREATE TABLE t(a)", "CREATE VIRTUAL TABLE f USING fts5(a)"]);
    for sql in [
        "INSERT INTO sqlite_schema VALUES('table','x','x',2,'CREATE TABLE x(a)')",
        "UPDATE sqlite_master SET sql='CREATE TABLE t(b)'",
        "DELETE FROM sqlite_schema",
        "UPDATE f_content SET c0='x'",
        "DROP TABLE f_data",
    ] {
        let error = fails(&mut session, sql);
        assert!(
            error.message.contains("may not be modified")
                || error.message.contains("may not be dropped"),
            "{sql}: {error}"
        );
    }
}

#[test]
fn what_programs_need_is_allowed() {
    let mut session = session();
    all(
        &mut session,
        &[
            "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, a)",
            "CREATE TABLE c(t REFERENCES t)",
            "CREATE INDEX i ON t(a)",
            "PRAGMA table_info(t)",
            "PRAGMA main.table_xinfo('t')",
            "SELECT * FROM pragma_table_info('t')",
            "PRAGMA table_list",
            "PRAGMA index_list(t)",
            "PRAGMA index_info(i)",
            "PRAGMA foreign_key_list(c)",
            "PRAGMA foreign_key_check",
            "PRAGMA integrity_check",
            "PRAGMA quick_check(1)",
            "PRAGMA encoding",
            "PRAGMA schema_version",
            "PRAGMA page_count",
            "PRAGMA freelist_count",
            "PRAGMA page_size",
            "PRAGMA journal_mode",
            "PRAGMA synchronous",
            "PRAGMA auto_vacuum",
            "PRAGMA compile_options",
            "PRAGMA function_list",
            "PRAGMA foreign_keys=OFF",
            "PRAGMA foreign_keys=ON",
            "PRAGMA defer_foreign_keys=ON",
            "PRAGMA recursive_triggers=ON",
            "PRAGMA case_sensitive_like=ON",
            "PRAGMA legacy_alter_table=ON",
            "PRAGMA user_version=7",
            "PRAGMA application_id=8",
            "PRAGMA optimize",
            "PRAGMA incremental_vacuum(1)",
            "ANALYZE",
            "REINDEX t",
            "INSERT INTO t(a) VALUES(1)",
            "UPDATE sqlite_sequence SET seq=10",
            "DELETE FROM sqlite_sequence",
            "ALTER TABLE t RENAME TO u",
            "ALTER TABLE u RENAME COLUMN a TO b",
            "ALTER TABLE u ADD COLUMN d DEFAULT 5",
            "ALTER TABLE u DROP COLUMN d",
            "CREATE VIEW v AS SELECT * FROM u",
            "CREATE TRIGGER g AFTER INSERT ON u BEGIN UPDATE u SET b=b+1; SELECT 1; END",
            "INSERT INTO u(b) VALUES(1)",
            "SELECT * FROM v",
            "CREATE TEMP TABLE x(a)",
            "INSERT INTO x VALUES(1)",
            "DROP TABLE x",
            "SELECT * FROM json_each('[1,2]')",
            "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<3) SELECT * FROM n",
            "DROP TRIGGER g",
            "DROP VIEW v",
            "DROP INDEX i",
            "DROP TABLE c",
        ],
    );
    assert_eq!(value(&mut session, "PRAGMA user_version"), int(7));
}

#[test]
fn full_text_search_and_trees_work_with_either_right() {
    let mut session = session();
    all(
        &mut session,
        &[
            "CREATE TABLE d(id INTEGER PRIMARY KEY, body)",
            "CREATE VIRTUAL TABLE f USING fts5(body, content=d, content_rowid=id)",
            "CREATE TRIGGER d_ai AFTER INSERT ON d BEGIN INSERT INTO f(rowid, body) VALUES(new.id, new.body); END",
            "INSERT INTO d(body) VALUES('one two'),('two three')",
            "CREATE VIRTUAL TABLE f4 USING fts4(body)",
            "INSERT INTO f4 VALUES('one two')",
            "CREATE VIRTUAL TABLE r USING rtree(id, x0, x1)",
            "INSERT INTO r VALUES(1, 0.0, 1.0)",
            "CREATE VIRTUAL TABLE fv USING fts5vocab(f, row)",
        ],
    );
    for rights in [anabranch_sql::Rights::Write, anabranch_sql::Rights::Read] {
        session.set_rights(rights).unwrap();
        assert_eq!(value(&mut session, "SELECT count(*) FROM f WHERE f MATCH 'two'"), int(2));
        assert_eq!(value(&mut session, "SELECT count(*) FROM f4 WHERE f4 MATCH 'one'"), int(1));
        assert_eq!(value(&mut session, "SELECT id FROM r WHERE x0<0.5 AND x1>0.5"), int(1));
        assert_eq!(rows(&mut session, "SELECT term FROM fv").len(), 3);
    }
}

#[test]
fn a_refusal_is_not_remembered_for_the_next_statement() {
    let mut session = session();
    fails(&mut session, "PRAGMA wal_checkpoint");
    let error = fails(&mut session, "SELECT abs(-9223372036854775808)");
    assert!(error.message.contains("integer overflow"), "{error}");
}

#[test]
fn the_program_itself_is_not_guarded() {
    let mut session = session();
    fails(&mut session, "PRAGMA busy_timeout=7");
    session
        .unguarded(|conn| conn.execute_batch("PRAGMA wal_checkpoint; PRAGMA synchronous=0"))
        .unwrap();
    fails(&mut session, "PRAGMA synchronous=1");
    // Also after a panic of its own.
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        session.unguarded(|_| panic!("on purpose"));
    }));
    assert!(panicked.is_err());
    fails(&mut session, "PRAGMA synchronous=1");
}

#[test]
fn a_trigger_of_the_file_may_do_no_more_than_a_statement() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let made = rusqlite::Connection::open(&path).unwrap();
    made.execute_batch(
        "CREATE TABLE t(a); CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT load_extension('x'); END;
         CREATE VIEW w AS SELECT data FROM sqlite_dbpage;",
    )
    .unwrap();
    drop(made);
    let conn = rusqlite::Connection::open(&path).unwrap();
    let mut session = anabranch_sql::Session::new(conn, &anabranch_sql::Limits::default()).unwrap();
    assert!(fails(&mut session, "INSERT INTO t VALUES(1)").message.contains("load_extension"));
    assert!(run(&mut session, "SELECT * FROM w", &[]).is_err());
    assert_eq!(value(&mut session, "SELECT count(*) FROM t"), int(0));
}

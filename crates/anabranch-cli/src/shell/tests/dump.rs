//! Dumps read back as what they were made of.

use rusqlite::Connection;

use super::stand_in::How;
use super::{Shell, USUAL};

/// Whatever is hard to dump.
const HARD: &str = r#"
    CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, v, "a ""b" TEXT, r REAL,
        g AS (id * 2), s TEXT GENERATED ALWAYS AS ('x' || id) STORED);
    INSERT INTO t(v, "a ""b", r) VALUES(NULL, 'it''s', 0.1), (x'00ff', '', 9e999), (x'', 'x', -9e999),
        ('a' || char(10) || 'b' || char(13) || 'c' || char(0) || 'd\r', 'ä漢', 1e22),
        (-9223372036854775808, '+', 3.0), (9223372036854775807, '-', 1.7976931348623157e308),
        (CAST(x'ff61' AS TEXT), 'AB', 5e-324), (0.30000000000000004, '1.5', 2.5);
    DELETE FROM t WHERE id = 3;
    CREATE TABLE w(a TEXT COLLATE NOCASE, b INT, c, PRIMARY KEY(b DESC, a COLLATE BINARY)) WITHOUT ROWID;
    INSERT INTO w SELECT char(97 + i % 3), i / 3, i FROM
        (WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 700) SELECT i FROM n);
    INSERT OR IGNORE INTO w SELECT upper(a), b, c FROM w;
    CREATE TABLE many(v);
    INSERT INTO many SELECT i || 'x' FROM
        (WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 1234) SELECT i FROM n);
    INSERT INTO many(rowid, v) VALUES(-9223372036854775808, 'first');
    CREATE TABLE hidden(rowid, oid, _rowid_ TEXT);
    INSERT INTO hidden SELECT v, 2, 3 FROM many;
    CREATE TABLE "odd;name"(a);
    INSERT INTO "odd;name" VALUES(1);
    CREATE VIRTUAL TABLE f USING fts5(body);
    INSERT INTO f VALUES('the quick brown fox'), ('jumps');
    CREATE INDEX i ON t(v);
    CREATE VIEW vw AS SELECT a, b FROM w;
    CREATE TRIGGER tr AFTER INSERT ON many BEGIN
        DELETE FROM "odd;name" WHERE a = CASE new.v WHEN 'x;' THEN 1 ELSE 2 END;
    END;
    CREATE TRIGGER vt INSTEAD OF INSERT ON vw BEGIN SELECT 1; END;
    ANALYZE;
"#;

/// All that a database holds.
fn contents(conn: &Connection) -> Vec<String> {
    let strings = |sql: &str| -> Vec<String> {
        let mut statement = conn.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    };
    let tables = strings(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT IN ('f', 'sqlite_stat4')",
    );
    let mut all = strings(
        "SELECT type || ' ' || name || ' ' || tbl_name || ' ' || \
         replace(replace(coalesce(sql, '-'), 'IF NOT EXISTS ', ''), '\"', '''') FROM sqlite_master \
         WHERE name <> 'sqlite_stat4' ORDER BY 1",
    );
    for table in tables {
        let columns = strings(&format!("SELECT name FROM pragma_table_xinfo('{table}')"));
        let values: Vec<String> = columns
            .iter()
            .map(|column| {
                let column = format!("\"{}\"", column.replace('"', "\"\""));
                format!("typeof({column}) || ' ' || coalesce(hex({column}) || printf('%!.20e', {column}), '')")
            })
            .collect();
        let mut rows = strings(&format!(
            "SELECT '{table}: ' || {} FROM \"{table}\"",
            values.join(" || ', ' || ")
        ));
        rows.sort();
        all.extend(rows);
    }
    all
}

#[test]
fn a_dump_reads_back_as_the_same_database() {
    let dumps = Shell::both().map(|mut shell| {
        let conn = Connection::open(&shell.file).unwrap();
        conn.execute_batch(HARD).unwrap();
        let dump = shell.ok(".dump");
        assert!(!shell.session.backend.in_transaction());

        let again = Connection::open_in_memory().unwrap();
        again.execute_batch(&dump).unwrap();
        assert_eq!(contents(&again), contents(&conn));
        let check: String =
            again.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");

        // The program that everybody has.
        let restored = shell.path("restored.db");
        std::fs::write(shell.path("dump.sql"), &dump).unwrap();
        let input = std::fs::File::open(shell.path("dump.sql")).unwrap();
        let mut sqlite3 = std::process::Command::new("sqlite3");
        let ended = sqlite3.arg("-bail").arg(&restored).stdin(input).output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        assert_eq!(contents(&Connection::open(&restored).unwrap()), contents(&conn));
        dump
    });
    assert_eq!(dumps[0], dumps[1]);
    assert!(dumps[0].contains("INSERT INTO \"sqlite_sequence\" VALUES('t',8);"));
}

#[test]
fn the_shell_itself_reads_a_dump() {
    let mut source = Shell::local();
    source.ok(HARD);
    let dump = source.path("dump.sql");
    assert_eq!(
        source.ok(&format!(".output {}\n.dump\n.output {}x", dump.display(), dump.display())),
        ""
    );
    let mut target = Shell::local();
    target.ok(&format!(".read {}", dump.display()));
    let [a, b] = [&source, &target].map(|shell| contents(&Connection::open(&shell.file).unwrap()));
    assert_eq!(a, b);
}

#[test]
fn a_dump_of_utf_16_holds_the_same_text() {
    let sql = "PRAGMA encoding = 'UTF-16le'; CREATE TABLE t(a); \
               INSERT INTO t VALUES('ä漢😀'), (x'61');";
    for server in [None, Some(USUAL)] {
        let mut shell = Shell::on(sql, server);
        let dump = shell.ok(".dump");
        assert!(dump.contains("VALUES('ä漢😀');\n") && dump.contains("VALUES(X'61');"), "{dump}");
    }
}

#[test]
fn tables_are_dumped_alone_and_with_what_belongs_to_them() {
    let mut shell = Shell::local();
    shell.ok(HARD);
    let dump = shell.ok(".dump f odd%");
    assert!(dump.contains("'f_data'") && dump.contains("\"odd;name\""), "{dump}");
    assert!(!dump.contains("many(") && !dump.contains("VIEW"), "{dump}");
    assert!(shell.ok(".dump t").contains("CREATE INDEX i ON t(v);"));
}

#[test]
fn what_does_not_fit_into_one_answer_is_asked_for_in_parts() {
    let mut shell = Shell::with(Some(How { bytes_max: 20_000, ..USUAL }));
    let conn = Connection::open(&shell.file).unwrap();
    conn.execute_batch(
        "CREATE TABLE t(a); INSERT INTO t SELECT randomblob(1000) FROM (WITH RECURSIVE n(i) AS \
         (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200) SELECT i FROM n);",
    )
    .unwrap();
    let again = Connection::open_in_memory().unwrap();
    again.execute_batch(&shell.ok(".dump")).unwrap();
    assert_eq!(contents(&again), contents(&conn));
    // More than any answer may have.
    conn.execute_batch("UPDATE t SET a = zeroblob(30000) WHERE rowid = 100").unwrap();
    assert!(shell.fails(".dump").error.has_code("RESPONSE_TOO_LARGE"));
    assert!(!shell.wrote().contains("COMMIT"));
}

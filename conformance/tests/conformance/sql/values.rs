//! Values, parameters and columns of the official library without a file.

use anabranch_conformance::{block_on, rows};
use libsql::{Value as Cell, named_params, params};

use super::{collect, lines, remote_at};
use crate::support::Yard;

const VALUES: &str = "CREATE TABLE v(id INTEGER PRIMARY KEY, x)";

#[test]
fn values_come_back_as_they_went() {
    let yard = Yard::new();
    let text_with_zero = "before\0after".to_owned();
    let values = [
        Cell::Null,
        Cell::Integer(0),
        Cell::Integer(i64::MAX),
        Cell::Integer(i64::MIN),
        Cell::Integer((1 << 53) + 1),
        Cell::Real(0.1 + 0.2),
        Cell::Real(f64::MAX),
        Cell::Real(5e-324),
        Cell::Real(-2.0),
        Cell::Text(String::new()),
        Cell::Text("Ærøskøbing / 日本 \u{1f980} \"quoted\" \\ \u{1}".to_owned()),
        Cell::Text(text_with_zero),
        Cell::Blob(Vec::new()),
        Cell::Blob((0..=255).collect()),
        Cell::Blob(vec![0xff; 1_000_001]),
    ];
    block_on(async {
        let conn = remote_at(&yard).await;
        conn.execute(VALUES, ()).await.unwrap();
        for value in &values {
            let sql = "INSERT INTO v(x) VALUES (?1)";
            assert_eq!(conn.execute(sql, [value.clone()]).await.unwrap(), 1);
        }
        let mut seen = conn.query("SELECT x FROM v ORDER BY id", ()).await.unwrap();
        for value in &values {
            let row = seen.next().await.unwrap().expect("a row");
            assert!(row.get_value(0).unwrap() == *value, "{value:?}");
        }
        assert!(seen.next().await.unwrap().is_none());
        // Not only the same to the eye: SQLite has each with its type.
        let types = "SELECT group_concat(typeof(x)) FROM (SELECT x FROM v ORDER BY id)";
        let expected = "null,integer,integer,integer,integer,real,real,real,real,text,text,text,blob,\
                        blob,blob";
        assert_eq!(lines(&conn, types).await, [expected]);
        let edges = "SELECT count(*) FROM v WHERE x = 9223372036854775807 OR \
                     x = -9223372036854775807 - 1";
        assert_eq!(lines(&conn, edges).await, ["2"]);
    });
    let blobs = "SELECT count(*), sum(length(x)) FROM v WHERE typeof(x) = 'blob'";
    yard.settle(&mut [], blobs, &["3|1000257".to_owned()]);
}

#[test]
fn what_json_has_no_form_for_fails_in_words_and_the_connection_lives() {
    let yard = Yard::new();
    block_on(async {
        let conn = remote_at(&yard).await;
        let infinite = match conn.query("SELECT 9e999", ()).await {
            Ok(rows) => collect(rows).await,
            Err(error) => Err(error),
        };
        let error = infinite.unwrap_err().to_string();
        assert!(!error.contains("json error"), "{error}");
        assert_eq!(lines(&conn, "SELECT 1").await, ["1"]);
    });
}

#[test]
fn parameters_are_bound_by_place_and_by_name() {
    let yard = Yard::new();
    block_on(async {
        let conn = remote_at(&yard).await;
        conn.execute("CREATE TABLE p(a, b, c)", ()).await.unwrap();
        let sql = "INSERT INTO p VALUES (?, ?, ?)";
        conn.execute(sql, params![1, "two", 3.5]).await.unwrap();
        let sql = "INSERT INTO p VALUES (?3, ?1, ?2)";
        conn.execute(sql, params!["b", Cell::Null, "a"]).await.unwrap();
        let sql = "INSERT INTO p VALUES (:a, @b, $c)";
        let named = named_params! { ":a": 7, "@b": "eight", "$c": vec![9_u8] };
        conn.execute(sql, named).await.unwrap();
        // One name, bound once, used twice.
        let sql = "INSERT INTO p VALUES (:x, :x, NULL)";
        conn.execute(sql, named_params! { ":x": "twice" }).await.unwrap();
        assert_eq!(
            lines(&conn, "SELECT a, b, c FROM p ORDER BY rowid").await,
            ["1|two|3.5", "a|b|", "7|eight|09", "twice|twice|"]
        );
        let rows = conn.query("SELECT a FROM p WHERE b = :b", [(":b", "eight")]).await.unwrap();
        assert_eq!(collect(rows).await.unwrap(), ["7"]);
    });
}

#[test]
fn a_prepared_statement_knows_its_columns_and_can_be_run_again() {
    let yard = Yard::new();
    block_on(async {
        let conn = remote_at(&yard).await;
        conn.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, body TEXT)", ()).await.unwrap();
        let insert = conn.prepare("INSERT INTO t(body) VALUES (?1)").await.unwrap();
        assert_eq!(insert.column_count(), 0);
        for body in ["a", "b", "c"] {
            insert.reset();
            assert_eq!(insert.execute([body]).await.unwrap(), 1);
        }
        let select = conn.prepare("SELECT id, body AS words, count(*) FROM t WHERE id = ?1").await;
        let mut select = select.unwrap();
        let names: Vec<String> = select.columns().iter().map(|c| c.name().to_owned()).collect();
        assert_eq!(names, ["id", "words", "count(*)"]);
        for (id, body) in [(1, "a"), (3, "c")] {
            let row = select.query_row([id]).await.unwrap();
            assert_eq!(row.get::<String>(1).unwrap(), body);
            select.reset();
        }
        let rows = conn.query("SELECT id, body FROM t WHERE 0", ()).await.unwrap();
        assert_eq!((rows.column_count(), rows.column_name(1)), (2, Some("body")));
        // Each kind of statement can be prepared: bindings do it with all of them.
        for sql in ["BEGIN IMMEDIATE", "BEGIN READONLY", "PRAGMA user_version", "CREATE TABLE u(x)"]
        {
            conn.prepare(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        }
    });
}

#[test]
fn rows_changed_and_row_ids_are_told() {
    let yard = Yard::new();
    block_on(async {
        let conn = remote_at(&yard).await;
        conn.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, body TEXT)", ()).await.unwrap();
        let sql = "INSERT INTO t(body) VALUES ('a'), ('b'), ('c')";
        assert_eq!(conn.execute(sql, ()).await.unwrap(), 3);
        assert_eq!((conn.changes(), conn.last_insert_rowid()), (3, 3));
        assert_eq!(conn.execute("UPDATE t SET body = 'd' WHERE id > 1", ()).await.unwrap(), 2);
        assert_eq!(conn.execute("DELETE FROM t WHERE id > 9", ()).await.unwrap(), 0);
        assert_eq!(conn.execute("CREATE INDEX i ON t(body)", ()).await.unwrap(), 0);
        assert_eq!(conn.execute("INSERT INTO t VALUES (70, 'e')", ()).await.unwrap(), 1);
        assert_eq!(conn.last_insert_rowid(), 70);
        let upsert =
            "INSERT INTO t VALUES (70, 'f') ON CONFLICT DO UPDATE SET body = excluded.body";
        assert_eq!(conn.execute(upsert, ()).await.unwrap(), 1);
        let returned = "INSERT INTO t(body) VALUES ('g'), ('h') RETURNING id, upper(body)";
        assert_eq!(lines(&conn, returned).await, ["71|G", "72|H"]);
        let returned = "DELETE FROM t WHERE id < 4 RETURNING id";
        assert_eq!(lines(&conn, returned).await, ["1", "2", "3"]);
    });
    let left = ["70|f", "71|g", "72|h"].map(str::to_owned);
    yard.settle(&mut [], "SELECT id, body FROM t ORDER BY id", &left);
}

#[test]
fn a_large_answer_arrives_whole_and_rows_may_be_left_unread() {
    let yard = Yard::new();
    block_on(async {
        let conn = remote_at(&yard).await;
        let many = "CREATE TABLE t AS WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n \
                    WHERE i < 20000) SELECT i AS id, 'row ' || i || ' ' || hex(zeroblob(60)) AS body FROM n";
        conn.execute(many, ()).await.unwrap();
        let all = lines(&conn, "SELECT id FROM t ORDER BY id").await;
        assert_eq!(all.len(), 20_000);
        assert!(all.iter().zip(1..).all(|(line, id)| *line == id.to_string()));
        // The statement goes out while the answer to the query is still on its way.
        let mut rows =
            conn.query("SELECT id, body FROM t WHERE id <= 5000 ORDER BY id", ()).await.unwrap();
        for _ in 0..3 {
            let id: i64 = rows.next().await.unwrap().unwrap().get(0).unwrap();
            conn.execute("UPDATE t SET body = 'changed' WHERE id = ?1", [id]).await.unwrap();
        }
        drop(rows);
        let changed = "SELECT count(*) FROM t WHERE body = 'changed'";
        assert_eq!(lines(&conn, changed).await, ["3"]);
    });
}

#[test]
fn a_database_of_the_server_is_one_that_stock_sqlite_can_read() {
    let yard = Yard::new();
    block_on(async {
        let conn = remote_at(&yard).await;
        let script = "CREATE TABLE parent(id INTEGER PRIMARY KEY);
            CREATE TABLE child(parent REFERENCES parent ON DELETE CASCADE, body TEXT NOT NULL);
            CREATE TABLE log(what TEXT);
            CREATE TRIGGER noted AFTER INSERT ON child BEGIN INSERT INTO log VALUES ('new ' || new.body); END;
            CREATE VIEW both AS SELECT parent.id, child.body FROM parent JOIN child ON parent = id;
            CREATE VIRTUAL TABLE words USING fts5(body);
            INSERT INTO parent VALUES (1), (2);
            INSERT INTO child VALUES (1, 'x'), (2, 'y');
            INSERT INTO words VALUES ('the quick brown fox'), ('a lazy dog');";
        conn.execute_batch(script).await.unwrap();
        let found = "SELECT rowid FROM words WHERE words MATCH 'lazy'";
        assert_eq!(lines(&conn, found).await, ["2"]);
        assert_eq!(lines(&conn, "SELECT what FROM log").await, ["new x", "new y"]);
        let json = "SELECT json_extract('{\"a\": [1, 2]}', '$.a[1]')";
        assert_eq!(lines(&conn, json).await, ["2"]);
    });
    yard.settle(
        &mut [],
        "SELECT id, body FROM both ORDER BY id",
        &["1|x", "2|y"].map(str::to_owned),
    );
    let ours = yard.db("stock");
    yard.ours().unwrap().clone_to(&ours);
    assert_eq!(rows(&ours, "SELECT count(*) FROM words WHERE words MATCH 'quick'"), ["1"]);
}

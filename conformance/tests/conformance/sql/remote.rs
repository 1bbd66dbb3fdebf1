//! Scripts, transactions, failures and outages of the official library without a file.

use std::time::Instant;

use anabranch_conformance::{PATIENCE, block_on};
use libsql::TransactionBehavior;

use super::{collect, error, lines, remote, remote_at};
use crate::support::{ALL, TABLE, Yard, insert, numbered};

#[test]
fn a_script_runs_up_to_the_statement_that_fails() {
    let yard = Yard::new();
    block_on(async {
        let conn = remote_at(&yard).await;
        let script =
            format!("-- A remark.\n{TABLE}; {}; /* and */ SELECT body FROM t;", insert("a"));
        let mut results = conn.execute_batch(&script).await.unwrap();
        let (mut seen, mut ran) = (Vec::new(), 0);
        while let Some(rows) = results.next_stmt_row() {
            ran += 1;
            if let Some(rows) = rows {
                seen.extend(collect(rows).await.unwrap());
            }
        }
        assert_eq!((ran, seen), (3, vec!["a".to_owned()]), "rows come even if none are wanted");
        let script = format!("{}; INSERT INTO nowhere VALUES (1); {}", insert("b"), insert("c"));
        let text = error(conn.execute_batch(&script).await);
        assert!(text.contains("no such table: nowhere"), "{text}");
        assert_eq!(lines(&conn, ALL).await, numbered(&["a", "b"]));
        let script = format!("BEGIN; {}; {}; COMMIT;", insert("c"), insert("d"));
        conn.execute_batch(&script).await.unwrap();
        assert!(conn.is_autocommit());
    });
    yard.settle(&mut [], ALL, &numbered(&["a", "b", "c", "d"]));
}

#[test]
fn a_transactional_batch_is_done_whole_or_not_at_all() {
    let yard = Yard::new();
    block_on(async {
        let conn = remote_at(&yard).await;
        conn.execute(TABLE, ()).await.unwrap();
        let script = format!("{}; {};", insert("a"), insert("b"));
        conn.execute_transactional_batch(&script).await.unwrap();
        let script = format!("{}; INSERT INTO t VALUES (1, 'taken'); {}", insert("c"), insert("d"));
        let text = error(conn.execute_transactional_batch(&script).await);
        assert!(text.contains("UNIQUE constraint failed: t.id"), "{text}");
        assert_eq!(lines(&conn, ALL).await, numbered(&["a", "b"]));
        conn.execute(&insert("c"), ()).await.unwrap();
    });
    yard.settle(&mut [], ALL, &numbered(&["a", "b", "c"]));
}

#[test]
fn transactions_commit_roll_back_and_are_undone_when_dropped() {
    let yard = Yard::new();
    block_on(async {
        let conn = remote_at(&yard).await;
        let other = remote_at(&yard).await;
        conn.execute(TABLE, ()).await.unwrap();
        // The library's type can neither be copied nor cloned.
        let behaviors: [fn() -> TransactionBehavior; 3] = [
            || TransactionBehavior::Deferred,
            || TransactionBehavior::Immediate,
            || TransactionBehavior::Exclusive,
        ];
        for behavior in behaviors {
            let tx = conn.transaction_with_behavior(behavior()).await.unwrap();
            assert_eq!(tx.execute(&insert("kept"), ()).await.unwrap(), 1);
            let mine = lines(&tx, ALL).await;
            assert_eq!(mine.last().map(|line| line.ends_with("kept")), Some(true), "its own row");
            assert_eq!(lines(&other, ALL).await.len(), mine.len() - 1, "nobody else sees it");
            tx.commit().await.unwrap();
            assert_eq!(lines(&other, ALL).await, mine);

            let tx = conn.transaction_with_behavior(behavior()).await.unwrap();
            tx.execute("DELETE FROM t", ()).await.unwrap();
            assert!(lines(&tx, ALL).await.is_empty());
            tx.rollback().await.unwrap();
            assert_eq!(lines(&conn, ALL).await, mine);

            let tx = conn.transaction_with_behavior(behavior()).await.unwrap();
            tx.execute(&insert("dropped"), ()).await.unwrap();
            drop(tx);
            // Waits for its turn until the library's rollback has come through.
            other.execute("UPDATE t SET body = 'kept' WHERE id = 1", ()).await.unwrap();
        }
        let tx = conn.transaction_with_behavior(TransactionBehavior::ReadOnly).await.unwrap();
        assert_eq!(lines(&tx, ALL).await.len(), 3);
        tx.commit().await.unwrap();
    });
    yard.settle(&mut [], ALL, &numbered(&["kept"; 3]));
}

#[test]
fn a_transaction_by_statements_is_one_too() {
    let yard = Yard::new();
    block_on(async {
        let conn = remote_at(&yard).await;
        conn.execute(TABLE, ()).await.unwrap();
        conn.execute("BEGIN", ()).await.unwrap();
        assert!(!conn.is_autocommit());
        conn.execute(&insert("a"), ()).await.unwrap();
        conn.execute("SAVEPOINT s", ()).await.unwrap();
        conn.execute(&insert("b"), ()).await.unwrap();
        conn.execute("ROLLBACK TO s", ()).await.unwrap();
        assert_eq!(lines(&conn, ALL).await, numbered(&["a"]));
        conn.execute("RELEASE s", ()).await.unwrap();
        conn.execute("COMMIT", ()).await.unwrap();
        assert!(conn.is_autocommit());
        conn.execute("BEGIN IMMEDIATE", ()).await.unwrap();
        conn.execute(&insert("c"), ()).await.unwrap();
        conn.execute("ROLLBACK", ()).await.unwrap();
    });
    yard.settle(&mut [], ALL, &numbered(&["a"]));
}

#[test]
fn a_snapshot_stays_as_it_was_while_others_write() {
    let yard = Yard::new();
    block_on(async {
        let (reader, writer) = (remote_at(&yard).await, remote_at(&yard).await);
        writer.execute(TABLE, ()).await.unwrap();
        writer.execute(&insert("a"), ()).await.unwrap();
        let tx = reader.transaction().await.unwrap();
        assert_eq!(lines(&tx, ALL).await, numbered(&["a"]));
        writer.execute(&insert("b"), ()).await.unwrap();
        assert_eq!(lines(&tx, ALL).await, numbered(&["a"]));
        // It saw what is no longer so: a write on top of that cannot be let through.
        let text = error(tx.execute(&insert("c"), ()).await);
        assert!(text.contains("SQLITE_BUSY"), "{text}");
        tx.rollback().await.unwrap();
        assert_eq!(lines(&reader, ALL).await, numbered(&["a", "b"]));
    });
}

#[test]
fn failures_name_what_is_wrong_and_leave_connection_and_transaction_usable() {
    let yard = Yard::new();
    block_on(async {
        let conn = remote_at(&yard).await;
        let script = format!(
            "{TABLE}; CREATE TABLE strict_one(a INTEGER NOT NULL CHECK (a > 0)) STRICT;
            CREATE TABLE child(id REFERENCES t)"
        );
        conn.execute_batch(&script).await.unwrap();
        conn.execute(&insert("a"), ()).await.unwrap();
        let cases = [
            ("INSERT INTO t VALUES (1, 'again')", "UNIQUE constraint failed: t.id"),
            ("INSERT INTO strict_one VALUES (NULL)", "NOT NULL constraint failed"),
            ("INSERT INTO strict_one VALUES (0)", "CHECK constraint failed"),
            ("INSERT INTO strict_one VALUES ('x')", "cannot store TEXT value"),
            ("INSERT INTO t(absent) VALUES (1)", "no column named absent"),
            ("UPDATE missing SET a = 1", "no such table: missing"),
            ("SELECT abs(-9223372036854775808)", "integer overflow"),
        ];
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).await.unwrap();
        for (sql, words) in cases {
            let outcome = match tx.query(sql, ()).await {
                Ok(rows) => collect(rows).await.map(drop),
                Err(error) => Err(error),
            };
            let text = error(outcome);
            assert!(text.contains(words), "{sql}: {text}");
        }
        tx.execute(&insert("b"), ()).await.unwrap();
        tx.commit().await.unwrap();
        for (sql, words) in cases {
            let text = error(conn.execute(sql, ()).await);
            assert!(text.contains(words), "{sql}: {text}");
        }
        assert_eq!(lines(&conn, ALL).await, numbered(&["a", "b"]));
    });
    yard.settle(&mut [], ALL, &numbered(&["a", "b"]));
}

#[test]
fn what_must_not_be_done_is_refused_and_what_programs_ask_is_answered() {
    let yard = Yard::new();
    block_on(async {
        let conn = remote_at(&yard).await;
        conn.execute(TABLE, ()).await.unwrap();
        for sql in [
            "ATTACH '/etc/passwd' AS other",
            "SELECT load_extension('/tmp/evil')",
            "SELECT readfile('/etc/passwd')",
            "PRAGMA writable_schema = 1",
            "VACUUM INTO '/tmp/copy.db'",
        ] {
            let outcome = match conn.query(sql, ()).await {
                Ok(rows) => collect(rows).await.map(drop),
                Err(error) => Err(error),
            };
            let text = error(outcome);
            assert!(
                !text.contains("status="),
                "an answer to the statement, not to the request: {text}"
            );
        }
        assert_eq!(lines(&conn, "PRAGMA table_info(t)").await.len(), 2);
        assert_eq!(lines(&conn, "PRAGMA integrity_check").await, ["ok"]);
        assert_eq!(
            lines(&conn, "SELECT name FROM pragma_table_list WHERE name = 't'").await,
            ["t"]
        );
        assert_eq!(lines(&conn, "EXPLAIN QUERY PLAN SELECT * FROM t").await.len(), 1);
        conn.execute("PRAGMA foreign_keys = ON", ()).await.unwrap();
        conn.execute("PRAGMA user_version = 7", ()).await.unwrap();
        assert_eq!(lines(&conn, "PRAGMA user_version").await, ["7"]);
    });
}

#[test]
fn writers_that_contend_wait_for_each_other() {
    const TURNS: usize = 8;
    let yard = Yard::new();
    block_on(async {
        let conn = remote_at(&yard).await;
        conn.execute_batch("CREATE TABLE n(n); INSERT INTO n VALUES (0)").await.unwrap();
        let (url, token) = (yard.url(), yard.token());
        let writers: Vec<_> = (0..4)
            .map(|number| {
                let (url, token) = (url.clone(), token.clone());
                tokio::spawn(async move {
                    let conn = remote(&url, &token).await;
                    for _ in 0..TURNS {
                        if number % 2 == 0 {
                            conn.execute("UPDATE n SET n = n + 1", ()).await.unwrap();
                            continue;
                        }
                        let immediate = TransactionBehavior::Immediate;
                        let tx = conn.transaction_with_behavior(immediate).await.unwrap();
                        let mut rows = tx.query("SELECT n FROM n", ()).await.unwrap();
                        let n: i64 = rows.next().await.unwrap().unwrap().get(0).unwrap();
                        tx.execute("UPDATE n SET n = ?1", [n + 1]).await.unwrap();
                        tx.commit().await.unwrap();
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
    });
    yard.settle(&mut [], "SELECT n FROM n", &[(4 * TURNS).to_string()]);
}

#[test]
fn a_connection_outlives_the_server() {
    let mut yard = Yard::new();
    let conn = block_on(remote_at(&yard));
    block_on(async {
        conn.execute(TABLE, ()).await.unwrap();
        conn.execute(&insert("a"), ()).await.unwrap();
        // Leaves a stream open, as each query does.
        assert_eq!(lines(&conn, ALL).await, numbered(&["a"]));
    });
    yard.server().unwrap().restart();
    block_on(async {
        assert_eq!(lines(&conn, ALL).await, numbered(&["a"]));
        conn.execute(&insert("b"), ()).await.unwrap();
        conn.execute("BEGIN", ()).await.unwrap();
        conn.execute(&insert("lost"), ()).await.unwrap();
    });
    yard.server().unwrap().restart();
    block_on(async {
        // The transaction is gone, which must be told, and once only.
        error(conn.execute(&insert("lost as well"), ()).await);
        assert_eq!(lines(&conn, ALL).await, numbered(&["a", "b"]));
        // What the library believes of the transaction is mended by the next answer.
        let _ = conn.execute("ROLLBACK", ()).await;
        conn.execute(&insert("c"), ()).await.unwrap();
    });
    drop(conn);
    yard.settle(&mut [], ALL, &numbered(&["a", "b", "c"]));
}

#[test]
fn a_connection_outlives_its_stream() {
    let yard = Yard::with(&["--sql-streams-each", "1", "--sql-stream-idle", "1s"]);
    let conn = block_on(remote_at(&yard));
    block_on(async {
        conn.execute(TABLE, ()).await.unwrap();
        conn.execute(&insert("a"), ()).await.unwrap();
    });
    for _ in 0..2 {
        // Leaves a stream open, as each query does.
        assert_eq!(block_on(lines(&conn, ALL)), numbered(&["a"]));
        let mut other = yard.sql();
        let deadline = Instant::now() + PATIENCE;
        // There is room for one, so the other is gone once this one opens.
        while other.once("SELECT 1").is_err() {
            assert!(Instant::now() < deadline, "it never expires");
        }
    }
    assert_eq!(block_on(lines(&conn, ALL)), numbered(&["a"]));
    block_on(conn.execute(&insert("b"), ())).unwrap();
    yard.settle(&mut [], ALL, &numbered(&["a", "b"]));
}

#[test]
fn an_url_may_end_in_a_slash_or_carry_a_query() {
    let yard = Yard::new();
    block_on(async {
        let conn = remote_at(&yard).await;
        conn.execute(TABLE, ()).await.unwrap();
        conn.execute(&insert("a"), ()).await.unwrap();
        for tail in ["/", "?x=1", "/?x=1"] {
            let conn = remote(&format!("{}{tail}", yard.url()), "").await;
            assert_eq!(lines(&conn, ALL).await, numbered(&["a"]), "{tail}");
        }
    });
}

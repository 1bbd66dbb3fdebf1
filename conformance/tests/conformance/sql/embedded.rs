//! Embedded replicas that write at the server: what is written is read back from the file at once.

use std::path::{Path, PathBuf};

use anabranch_conformance::{block_on, sqlite};
use libsql::{Builder, Connection, Database, TransactionBehavior};

use super::{collect, error, lines, remote_at};
use crate::support::{ALL, TABLE, Yard, insert, numbered};

/// The two ways to open the same thing.
#[derive(Debug, Clone, Copy)]
enum Way {
    RemoteReplica,
    SyncedDatabase,
}

const WAYS: [Way; 2] = [Way::RemoteReplica, Way::SyncedDatabase];

struct Replica {
    path: PathBuf,
    database: Database,
    conn: Connection,
}

impl Replica {
    async fn open(path: &Path, url: &str, way: Way) -> Self {
        let http = hyper::client::HttpConnector::new();
        let (url, token) = (url.to_owned(), String::new());
        let database = match way {
            Way::RemoteReplica => {
                Builder::new_remote_replica(path, url, token).connector(http).build().await
            }
            Way::SyncedDatabase => {
                let builder = Builder::new_synced_database(path, url, token);
                builder.remote_writes(true).connector(http).build().await
            }
        };
        let database = database.unwrap_or_else(|e| panic!("{way:?}: {e}"));
        let conn = database.connect().unwrap();
        Replica { path: path.to_owned(), database, conn }
    }

    /// Brings it up to date.
    async fn pull(&self) {
        self.database.sync().await.unwrap();
    }
}

#[test]
fn what_was_written_is_read_from_the_file() {
    for way in WAYS {
        let yard = Yard::new();
        let replica = block_on(async {
            let replica = Replica::open(&yard.db("a"), &yard.url(), way).await;
            let conn = &replica.conn;
            conn.execute(TABLE, ()).await.unwrap();
            assert_eq!(conn.execute(&insert("a"), ()).await.unwrap(), 1);
            assert_eq!(lines(conn, ALL).await, numbered(&["a"]), "{way:?}");
            let returned = "INSERT INTO t(body) VALUES ('b'), ('c') RETURNING id, body";
            assert_eq!(lines(conn, returned).await, ["2|b", "3|c"]);
            assert_eq!(lines(conn, ALL).await, numbered(&["a", "b", "c"]));
            let sql = "INSERT INTO t(body) VALUES (?1)";
            let statement = conn.prepare(sql).await.unwrap();
            for body in ["d", "e"] {
                statement.reset();
                statement.execute([body]).await.unwrap();
            }
            let script = format!("{}; {}", insert("f"), insert("g"));
            conn.execute_batch(&script).await.unwrap();
            replica
        });
        let expected = numbered(&["a", "b", "c", "d", "e", "f", "g"]);
        assert_eq!(block_on(lines(&replica.conn, ALL)), expected);
        yard.judge(vec![replica.path], ALL, &expected);
    }
}

#[test]
fn a_transaction_reads_at_the_server_and_ends_in_the_file() {
    for way in WAYS {
        let yard = Yard::new();
        let replica = block_on(async {
            let replica = Replica::open(&yard.db("a"), &yard.url(), way).await;
            let conn = &replica.conn;
            conn.execute(TABLE, ()).await.unwrap();
            for behavior in [TransactionBehavior::Deferred, TransactionBehavior::Immediate] {
                let tx = conn.transaction_with_behavior(behavior).await.unwrap();
                tx.execute(&insert("kept"), ()).await.unwrap();
                let seen = lines(&tx, ALL).await;
                tx.execute(&insert(&format!("after {}", seen.len())), ()).await.unwrap();
                tx.commit().await.unwrap();
            }
            let kept = numbered(&["kept", "after 1", "kept", "after 3"]);
            assert_eq!(lines(conn, ALL).await, kept);

            let immediate = TransactionBehavior::Immediate;
            let tx = conn.transaction_with_behavior(immediate).await.unwrap();
            tx.execute("DELETE FROM t", ()).await.unwrap();
            assert!(lines(&tx, ALL).await.is_empty());
            tx.rollback().await.unwrap();
            assert_eq!(lines(conn, ALL).await, kept);

            // Read only, it stays at home.
            let tx = conn.transaction_with_behavior(TransactionBehavior::ReadOnly).await.unwrap();
            assert_eq!(lines(&tx, ALL).await, kept);
            tx.commit().await.unwrap();
            replica
        });
        let expected = numbered(&["kept", "after 1", "kept", "after 3"]);
        yard.judge(vec![replica.path], ALL, &expected);
    }
}

#[test]
fn a_statement_that_fails_changes_nothing_and_leaves_all_usable() {
    for way in WAYS {
        let yard = Yard::new();
        let replica = block_on(async {
            let replica = Replica::open(&yard.db("a"), &yard.url(), way).await;
            let conn = &replica.conn;
            conn.execute(TABLE, ()).await.unwrap();
            conn.execute(&insert("a"), ()).await.unwrap();
            let text = error(conn.execute("INSERT INTO t VALUES (1, 'again')", ()).await);
            assert!(text.contains("UNIQUE constraint failed: t.id"), "{text}");
            let text = error(conn.execute("INSERT INTO nowhere VALUES (1)", ()).await);
            assert!(text.contains("no such table: nowhere"), "{text}");
            let tx = conn.transaction().await.unwrap();
            tx.execute(&insert("b"), ()).await.unwrap();
            error(tx.execute("INSERT INTO t VALUES (1, 'again')", ()).await);
            tx.execute(&insert("c"), ()).await.unwrap();
            tx.commit().await.unwrap();
            assert_eq!(lines(conn, ALL).await, numbered(&["a", "b", "c"]));
            replica
        });
        yard.judge(vec![replica.path], ALL, &numbered(&["a", "b", "c"]));
    }
}

#[test]
fn replicas_that_write_at_once_wait_for_each_other() {
    const TURNS: usize = 6;
    let yard = Yard::new();
    let replicas = block_on(async {
        let conn = remote_at(&yard).await;
        conn.execute_batch("CREATE TABLE n(n); INSERT INTO n VALUES (0)").await.unwrap();
        let writers: Vec<_> = [("a", WAYS[0]), ("b", WAYS[1]), ("c", WAYS[0])]
            .into_iter()
            .map(|(name, way)| {
                let (path, url) = (yard.db(name), yard.url());
                tokio::spawn(async move {
                    let replica = Replica::open(&path, &url, way).await;
                    for turn in 0..TURNS {
                        if turn % 3 == 2 {
                            let sql = "UPDATE n SET n = n + 1";
                            replica.conn.execute(sql, ()).await.unwrap();
                            continue;
                        }
                        let immediate = TransactionBehavior::Immediate;
                        let tx = replica.conn.transaction_with_behavior(immediate).await.unwrap();
                        let rows = tx.query("SELECT n FROM n", ()).await.unwrap();
                        let n: i64 = collect(rows).await.unwrap()[0].parse().unwrap();
                        tx.execute("UPDATE n SET n = ?1", [n + 1]).await.unwrap();
                        tx.commit().await.unwrap();
                    }
                    replica
                })
            })
            .collect();
        let mut replicas = Vec::new();
        for writer in writers {
            replicas.push(writer.await.unwrap());
        }
        for replica in &replicas {
            replica.pull().await;
        }
        replicas
    });
    let paths = replicas.iter().map(|replica| replica.path.clone()).collect();
    yard.judge(paths, "SELECT n FROM n", &[(3 * TURNS).to_string()]);
}

#[test]
fn a_replica_outlives_the_server() {
    let mut yard = Yard::new();
    let replica = block_on(async {
        let replica = Replica::open(&yard.db("a"), &yard.url(), WAYS[0]).await;
        replica.conn.execute(TABLE, ()).await.unwrap();
        // A query that the server answers leaves a stream open.
        let returned = format!("{} RETURNING id", insert("a"));
        assert_eq!(lines(&replica.conn, &returned).await, ["1"]);
        replica
    });
    yard.server().unwrap().restart();
    block_on(async {
        let returned = format!("{} RETURNING id", insert("b"));
        assert_eq!(lines(&replica.conn, &returned).await, ["2"]);
        replica.conn.execute(&insert("c"), ()).await.unwrap();
        assert_eq!(lines(&replica.conn, ALL).await, numbered(&["a", "b", "c"]));
    });
    yard.judge(vec![replica.path], ALL, &numbered(&["a", "b", "c"]));
}

/// Every kind of party at one database.
#[test]
fn all_kinds_of_clients_see_each_others_rows() {
    let yard = Yard::new();
    let ours = yard.ours().unwrap();
    let (mine, sql) = (yard.db("mine"), |who: &str, round: usize| {
        format!("INSERT INTO who VALUES ('{who}', {round})")
    });
    let table =
        "CREATE TABLE who(name TEXT, round INTEGER, PRIMARY KEY (name, round)) WITHOUT ROWID";
    let mut offline = yard.client("offline");
    offline.execute(table);
    offline.sync();
    ours.clone_to(&mine);
    let (a, b, conn) = block_on(async {
        let a = Replica::open(&yard.db("a"), &yard.url(), WAYS[0]).await;
        let b = Replica::open(&yard.db("b"), &yard.url(), WAYS[1]).await;
        (a, b, remote_at(&yard).await)
    });
    let all = "SELECT name, round FROM who ORDER BY round, name";
    let mut expected = Vec::new();
    for round in 0..6 {
        for who in ["a", "b", "mine", "offline", "remote"] {
            expected.push(format!("{who}|{round}"));
        }
        // Two write without having seen the others' news.
        offline.execute(&sql("offline", round));
        sqlite(&mine, &sql("mine", round));
        block_on(async {
            a.conn.execute(&sql("a", round), ()).await.unwrap();
            conn.execute(&sql("remote", round), ()).await.unwrap();
            let tx = b.conn.transaction().await.unwrap();
            tx.execute(&sql("b", round), ()).await.unwrap();
            assert_eq!(lines(&tx, all).await.len(), expected.len() - 2);
            tx.commit().await.unwrap();
        });
        ours.sync(&mine);
        for _ in 0..2 {
            offline.sync();
        }
        assert_eq!(block_on(lines(&conn, all)), expected);
        assert_eq!(offline.rows(all), expected);
        if round == 3 {
            yard.roll_over();
        }
        ours.sync(&mine);
        block_on(async {
            for replica in [&a, &b] {
                replica.pull().await;
                assert_eq!(lines(&replica.conn, all).await, expected);
            }
        });
        assert_eq!(sqlite(&mine, all).lines().collect::<Vec<_>>(), expected);
    }
    offline.sync();
    block_on(async {
        a.pull().await;
        b.pull().await;
    });
    yard.judge(vec![a.path, b.path, mine, offline.db().to_owned()], all, &expected);
}

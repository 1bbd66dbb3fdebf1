//! Streams on one store, of one server and of two.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering as Order};
use std::time::Duration;

use anabranch_format::Lsn;
use anabranch_hrana::{Batch, BatchCond, BatchStep, Error, Stmt, StmtResult, Value};
use anabranch_sql::Rights;
use anabranch_store::{Location, Progress, Root, StoreOptions};
use futures::{FutureExt, TryStreamExt};

use crate::config::Config;
use crate::database::Database;
use crate::server::App;
use crate::sql::stream::{Stream, Told};

const TOLD: Told = Told { rights: Rights::Write, short: false };
const SHORT: Told = Told { rights: Rights::Write, short: true };

/// Servers on one store.
struct World {
    dir: tempfile::TempDir,
    root: Root,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::memory(&StoreOptions::new(dir.path()));
        World { dir, root }
    }

    fn server(&self) -> Server {
        self.server_with(|_| {})
    }

    fn server_with(&self, set: impl FnOnce(&mut Config)) -> Server {
        let data = Location::folder(self.dir.path().join("data"));
        let mut config = Config::new(data, self.dir.path());
        set(&mut config);
        Server(App::new(config, self.root.clone()))
    }
}

struct Server(Arc<App>);

impl Server {
    async fn database(&self) -> Arc<Database> {
        let slot = self.0.databases.slot(&"d".parse().unwrap());
        let id = crate::entropy::database_id();
        self.0.databases.create(&slot, &id).await.unwrap().0
    }

    async fn stream(&self) -> Stream {
        Stream::open(&self.database().await).await.unwrap()
    }
}

impl Stream {
    async fn run_as(&mut self, sql: &str, told: Told) -> Result<StmtResult, Error> {
        self.execute(Stmt::new(sql), told).await
    }

    async fn ok(&mut self, sql: &str) -> StmtResult {
        self.run_as(sql, TOLD).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"))
    }

    async fn code(&mut self, sql: &str) -> String {
        self.run_as(sql, TOLD).await.expect_err(sql).code
    }

    async fn count(&mut self) -> i64 {
        match self.ok("SELECT count(*) FROM t").await.rows[0][0] {
            Value::Integer(n) => n,
            ref other => panic!("{other:?}"),
        }
    }
}

/// Frames and segments of the log, and the rows of `t` in what it says.
async fn log(db: &Arc<Database>) -> (u64, usize) {
    let head = db.head().await.unwrap();
    let segments: Vec<_> =
        db.log().segments(Lsn::ZERO, head.lsn(), &Progress::none()).try_collect().await.unwrap();
    (head.lsn().get(), segments.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_is_in_the_log_and_seen_by_all() {
    let world = World::new();
    let server = world.server();
    let (mut a, mut b) = (server.stream().await, server.stream().await);
    a.ok("CREATE TABLE t(id INTEGER PRIMARY KEY, v)").await;
    let done = a.ok("INSERT INTO t(v) VALUES ('x') RETURNING id").await;
    assert_eq!(done.rows, [[Value::Integer(1)]]);
    assert_eq!((done.affected_row_count, done.last_insert_rowid), (1, Some(1)));
    assert_eq!(b.count().await, 1);
    assert_eq!(log(&server.database().await).await.1, 2, "two appends");
    assert_eq!(b.code("INSERT INTO t(id, v) VALUES (1, 'y')").await, "SQLITE_CONSTRAINT");
    assert_eq!(log(&server.database().await).await.1, 2, "nothing was committed");
    // Another server knows nothing but the log.
    let other = world.server();
    assert_eq!(other.stream().await.count().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_seen_once_it_is_committed() {
    let world = World::new();
    let server = world.server();
    let (mut a, mut b) = (server.stream().await, server.stream().await);
    a.ok("CREATE TABLE t(v)").await;
    a.ok("BEGIN IMMEDIATE").await;
    assert!(a.in_transaction() && !a.get_autocommit().await);
    a.ok("INSERT INTO t VALUES (1)").await;
    assert_eq!((a.count().await, b.count().await), (1, 0));
    a.ok("COMMIT").await;
    assert!(!a.in_transaction() && a.get_autocommit().await);
    assert_eq!(b.count().await, 1);
    b.ok("BEGIN").await;
    assert_eq!(b.count().await, 1);
    a.ok("INSERT INTO t VALUES (2)").await;
    assert_eq!(b.count().await, 1, "it reads the state that it began on");
    assert_eq!(b.code("INSERT INTO t VALUES (3)").await, "SQLITE_BUSY");
    b.ok("ROLLBACK").await;
    assert_eq!(b.count().await, 2);
    b.ok("BEGIN").await;
    b.ok("INSERT INTO t VALUES (3)").await;
    b.ok("ROLLBACK").await;
    assert_eq!(a.count().await, 2);
    // What is dropped in mid transaction holds nobody up.
    b.ok("BEGIN IMMEDIATE").await;
    drop(b);
    a.ok("INSERT INTO t VALUES (4)").await;
    assert_eq!(a.count().await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_of_a_batch_run_by_their_conditions() {
    let world = World::new();
    let server = world.server();
    let mut a = server.stream().await;
    a.ok("CREATE TABLE t(v UNIQUE)").await;
    let step = |condition, sql: &str| BatchStep { condition, stmt: Stmt::new(sql) };
    let after = |step| Some(BatchCond::Ok { step });
    let batch = |second: &str| Batch {
        steps: vec![
            step(None, "BEGIN"),
            step(after(0), "INSERT INTO t VALUES (1)"),
            step(after(1), second),
            step(after(2), "COMMIT"),
            step(Some(BatchCond::Not { cond: Box::new(BatchCond::Ok { step: 3 }) }), "ROLLBACK"),
        ],
    };
    for told in [TOLD, SHORT] {
        let result = a.batch(batch("INSERT INTO t VALUES (1)"), told).await.unwrap();
        let errors: Vec<_> = result.step_errors.iter().map(Option::is_some).collect();
        assert_eq!(errors, [false, false, true, false, false]);
        assert!(result.step_results[3].is_none() && result.step_results[4].is_some());
        assert_eq!(a.count().await, 0);
    }
    let result = a.batch(batch("INSERT INTO t VALUES (2)"), SHORT).await.unwrap();
    assert!(result.step_errors.iter().all(Option::is_none), "{result:?}");
    assert_eq!(a.count().await, 2);
    a.sequence(
        "CREATE TABLE u(x); INSERT INTO u VALUES (1); -- more\n INSERT INTO u SELECT 2;".into(),
        TOLD,
    )
    .await
    .unwrap();
    assert_eq!(a.ok("SELECT sum(x) FROM u").await.rows, [[Value::Integer(3)]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_that_wait_share_an_append() {
    const CLIENTS: usize = 24;
    const EACH: usize = 10;
    let world = World::new();
    let server = world.server();
    server.stream().await.ok("CREATE TABLE t(v)").await;
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        let mut stream = server.stream().await;
        clients.push(tokio::spawn(async move {
            for i in 0..EACH {
                stream.ok(&format!("INSERT INTO t VALUES ({})", n * EACH + i)).await;
            }
        }));
    }
    for client in clients {
        client.await.unwrap();
    }
    let mut reader = server.stream().await;
    assert_eq!(reader.ok("SELECT count(DISTINCT v) FROM t").await.rows[0][0], Value::Integer(240));
    let (_, segments) = log(&server.database().await).await;
    assert!(segments < CLIENTS * EACH / 2, "{segments} appends");
    assert_eq!(world.server().stream().await.count().await, 240);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_take_turns_and_nothing_is_lost() {
    const EACH: usize = 20;
    let world = World::new();
    world.server().stream().await.ok("CREATE TABLE t(v)").await;
    let lost = Arc::new(AtomicUsize::new(0));
    let mut clients = Vec::new();
    for number in 0..2 {
        let server = world.server();
        for client in 0..3 {
            let mut stream = server.stream().await;
            let lost = Arc::clone(&lost);
            clients.push(tokio::spawn(async move {
                for i in 0..EACH {
                    let v = (number * 3 + client) * EACH + i;
                    if client > 0 {
                        stream.ok(&format!("INSERT INTO t VALUES ({v})")).await;
                        continue;
                    }
                    // A transaction over several requests may lose, and then nothing of it is there.
                    loop {
                        stream.ok("BEGIN IMMEDIATE").await;
                        let insert = format!("INSERT INTO t VALUES ({v})");
                        let ran = stream.run_as(&insert, TOLD).await;
                        let ended = if ran.is_ok() { "COMMIT" } else { "ROLLBACK" };
                        match stream.run_as(ended, TOLD).await {
                            Ok(_) if ran.is_ok() => break,
                            Ok(_) => {}
                            Err(e) => assert_eq!(e.code, "SQLITE_BUSY"),
                        }
                        assert!(stream.get_autocommit().await);
                        lost.fetch_add(1, Order::SeqCst);
                    }
                }
            }));
        }
        // The servers of the loop share nothing but the store.
        drop(server);
    }
    for client in clients {
        client.await.unwrap();
    }
    let mut reader = world.server().stream().await;
    let all = i64::try_from(2 * 3 * EACH).unwrap();
    assert_eq!(reader.count().await, all);
    assert_eq!(reader.ok("SELECT count(DISTINCT v) FROM t").await.rows[0][0], Value::Integer(all));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_loses_is_run_again_and_an_open_transaction_hears_of_it() {
    let world = World::new();
    let (one, two) = (world.server(), world.server());
    let (mut a, mut b) = (one.stream().await, two.stream().await);
    a.ok("CREATE TABLE t(v)").await;
    // The other server does not know of the table yet, and finds it after having lost.
    b.ok("CREATE TABLE u(v)").await;
    assert_eq!(b.count().await, 0);
    a.ok("BEGIN IMMEDIATE").await;
    a.ok("INSERT INTO t VALUES (1)").await;
    b.ok("INSERT INTO t VALUES (2)").await;
    let error = a.run_as("COMMIT", TOLD).await.unwrap_err();
    assert_eq!(error.code, "SQLITE_BUSY");
    assert!(a.get_autocommit().await);
    assert_eq!(a.count().await, 1);
    a.ok("INSERT INTO t VALUES (3)").await;
    assert_eq!(a.ok("SELECT sum(v) FROM t").await.rows[0][0], Value::Integer(5));
    // A schema that was taken back is not used with one that has the same number.
    a.ok("BEGIN IMMEDIATE").await;
    a.ok("CREATE TABLE x(only, ours)").await;
    b.ok("CREATE TABLE x(theirs)").await;
    assert_eq!(a.code("COMMIT").await, "SQLITE_BUSY");
    a.ok("INSERT INTO x(theirs) VALUES (7)").await;
    assert_eq!(a.ok("SELECT * FROM x").await.rows, [[Value::Integer(7)]]);
    assert_eq!(world.server().stream().await.ok("PRAGMA integrity_check").await.rows.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_stays_open_is_rolled_back() {
    let world = World::new();
    let server = world.server_with(|config| {
        config.sql.transaction_idle = Duration::from_millis(500);
    });
    let (mut a, mut b) = (server.stream().await, server.stream().await);
    a.ok("CREATE TABLE t(v)").await;
    a.ok("BEGIN IMMEDIATE").await;
    a.ok("INSERT INTO t VALUES (1)").await;
    // Waits until the other one's time is over.
    b.ok("INSERT INTO t VALUES (2)").await;
    assert!(a.in_transaction(), "the client does not know");
    assert_eq!(a.code("INSERT INTO t VALUES (3)").await, "TRANSACTION_TIMEOUT");
    assert_eq!(a.code("SELECT 1").await, "TRANSACTION_TIMEOUT");
    assert_eq!(a.code("COMMIT").await, "TRANSACTION_TIMEOUT");
    assert_eq!(a.count().await, 1);
    a.ok("BEGIN IMMEDIATE").await;
    b.ok("INSERT INTO t VALUES (4)").await;
    a.ok("ROLLBACK").await;
    assert!(!a.in_transaction());
    assert_eq!(a.count().await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_goes_before_an_open_transaction() {
    let world = World::new();
    let server = world.server();
    let db = server.database().await;
    let (mut a, mut b) = (server.stream().await, world.server().stream().await);
    a.ok("CREATE TABLE t(v)").await;
    a.ok("BEGIN IMMEDIATE").await;
    a.ok("INSERT INTO t VALUES (1)").await;
    // As another dialect of this server would: wait for a moment, then append.
    drop(db.turn().await);
    b.ok("INSERT INTO t VALUES (2)").await;
    db.head().await.unwrap();
    let mut c = server.stream().await;
    assert_eq!(c.count().await, 1, "it is not held up by the transaction, which has lost");
    assert_eq!(a.code("COMMIT").await, "SQLITE_BUSY");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_wal_is_emptied_and_nobody_notices() {
    let world = World::new();
    let server = world.server();
    let (mut a, mut b) = (server.stream().await, server.stream().await);
    a.ok("CREATE TABLE t(v)").await;
    b.ok("BEGIN").await;
    assert_eq!(b.count().await, 0);
    for _ in 0..3 {
        a.ok("INSERT INTO t SELECT zeroblob(3000000) FROM (VALUES (1), (2), (3), (4), (5), (6))")
            .await;
    }
    assert_eq!((a.count().await, b.count().await), (18, 0));
    b.ok("COMMIT").await;
    a.ok("DELETE FROM t").await;
    a.ok("INSERT INTO t VALUES (1)").await;
    assert_eq!(b.count().await, 1);
    assert_eq!(world.server().stream().await.count().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_that_has_lost_goes_first_when_it_comes_again() {
    let world = World::new();
    let server = world.server();
    let db = server.database().await;
    let (mut a, mut b) = (server.stream().await, server.stream().await);
    a.ok("CREATE TABLE t(v)").await;
    db.push_has_lost();
    let insert = tokio::spawn(async move { a.ok("INSERT INTO t VALUES (1)").await });
    // The push has come again, and reads go on meanwhile.
    let turn = db.turn().await;
    assert_eq!(b.count().await, 0);
    assert!(!insert.is_finished());
    db.push_has_won();
    drop(turn);
    insert.await.unwrap();
    // One that does not come holds nobody up for long.
    db.push_has_lost();
    b.ok("INSERT INTO t VALUES (2)").await;
    assert_eq!(b.count().await, 2);
    db.push_has_lost();
    assert!(db.give_way().now_or_never().is_some(), "not twice in a row");
}

//! The program on a bucket: the same commands as on a folder, against an S3 service that the test
//! starts, over a real socket.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../../anabranch-store/tests/common/s3_server.rs"]
mod s3_server;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use s3_server::{KEY, SECRET, Server, Trouble};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const URL: &str = "s3://bucket/app";

struct World {
    folder: TempDir,
    endpoint: String,
    server: Server,
    // Dropped last: the service runs in it.
    _runtime: Runtime,
}

impl World {
    fn new(ignores_conditions: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        let objects = folder.path().join("objects");
        let (server, endpoint) = runtime.block_on(Server::start(&objects, ignores_conditions));
        World { folder, endpoint, server, _runtime: runtime }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_anabranch"))
            .current_dir(self.folder.path())
            .args(args)
            .args(["--endpoint", &self.endpoint])
            .env("AWS_ACCESS_KEY_ID", KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .env("AWS_REGION", "us-east-1")
            .output()
            .unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let out = self.run(args);
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{args:?}: {said}");
        String::from_utf8(out.stdout).unwrap()
    }
}

fn sqlite(db: &Path, sql: &str) -> String {
    let out = Command::new("sqlite3").arg("-bail").arg(db).arg(sql).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn i4_replicas_stay_in_step_through_a_bucket() {
    let world = World::new(false);
    let (a, b) = (world.path("a.db"), world.path("b.db"));
    sqlite(&a, "CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t(v) VALUES (1), (2)");
    world.ok(&["init", "a.db", "--remote", URL]);
    world.ok(&["clone", URL, "b.db"]);
    for (db, other) in [("a.db", "b.db"), ("b.db", "a.db")] {
        sqlite(
            &world.path(db),
            "INSERT INTO t(v) VALUES (random()); UPDATE t SET v = 7 WHERE id = 1",
        );
        world.ok(&["sync", db]);
        world.ok(&["sync", other]);
    }
    assert_eq!(sqlite(&a, ".dump"), sqlite(&b, ".dump"));
    world.ok(&["verify", "a.db"]);
    world.ok(&["compact", URL]);
    world.ok(&["clone", URL, "c.db"]);
    assert_eq!(sqlite(&a, ".dump"), sqlite(&world.path("c.db"), ".dump"));
    let log = world.ok(&["log", URL, "--json"]);
    assert!(log.contains("lsn"), "{log}");
    world.ok(&["restore", URL, "old.db", "--at", "2"]);
    assert_eq!(sqlite(&world.path("old.db"), "SELECT count(*) FROM t").trim(), "2");
}

#[test]
fn i1_lost_answers_and_busy_services_lose_and_double_nothing() {
    let world = World::new(false);
    let a = world.path("a.db");
    sqlite(&a, "CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    world.ok(&["init", "a.db", "--remote", URL]);
    use Trouble::{Busy, Conflict, DoneButBusy, LostAnswer};
    for (n, trouble) in [Busy, LostAnswer, DoneButBusy, Conflict].into_iter().enumerate() {
        sqlite(&a, &format!("INSERT INTO t(v) VALUES ({n})"));
        world.server.trouble.lock().unwrap().push_back(trouble);
        // Whether the answer was found out at once or not, the next sync settles it.
        world.run(&["sync", "a.db"]);
        world.ok(&["sync", "a.db"]);
    }
    world.ok(&["clone", URL, "b.db"]);
    assert_eq!(sqlite(&world.path("b.db"), "SELECT group_concat(v) FROM t").trim(), "0,1,2,3");
    world.ok(&["verify", "a.db"]);
}

#[test]
fn a_large_push_goes_through_a_bucket_in_parts() {
    let world = World::new(false);
    let a = world.path("a.db");
    sqlite(
        &a,
        "CREATE TABLE t(v); INSERT INTO t VALUES (randomblob(12000000)), (randomblob(9000))",
    );
    world.ok(&["init", "a.db", "--remote", URL]);
    world.ok(&["clone", URL, "b.db"]);
    assert_eq!(sqlite(&a, ".dump"), sqlite(&world.path("b.db"), ".dump"));
    sqlite(&a, "UPDATE t SET v = randomblob(11000000) WHERE rowid = 1");
    world.ok(&["sync", "a.db"]);
    world.ok(&["sync", "b.db"]);
    assert_eq!(sqlite(&a, ".dump"), sqlite(&world.path("b.db"), ".dump"));
}

#[test]
fn an_endpoint_that_ignores_the_condition_is_refused() {
    let world = World::new(true);
    sqlite(&world.path("a.db"), "CREATE TABLE t(v)");
    let out = world.run(&["init", "a.db", "--remote", URL]);
    assert_eq!(out.status.code(), Some(1));
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.contains("If-None-Match"), "{said}");
}

#[test]
fn an_endpoint_that_is_not_there_is_offline() {
    let mut world = World::new(false);
    let a = world.path("a.db");
    sqlite(&a, "CREATE TABLE t(v)");
    world.ok(&["init", "a.db", "--remote", URL]);
    sqlite(&a, "INSERT INTO t VALUES (1)");
    // A port that was free a moment ago: nobody listens there.
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    world.endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let out = world.run(&["sync", "a.db"]);
    assert_eq!(out.status.code(), Some(4), "{}", String::from_utf8_lossy(&out.stderr));
}

//! Many writers at one remote, and several operations at once on one replica.

use std::collections::BTreeMap;
use std::sync::Barrier;

use anabranch::Options;
use anabranch::blocking::RemoteLog;
use rusqlite::Connection;

use crate::oracle::{assert_identical, assert_in_step, assert_verified, published};
use crate::world::{Ended, World, rounds, stock};

const WRITERS: u64 = 8;
/// Acknowledged pushes of each writer.
const PUSHES: u64 = 3;

/// Writes the row `id` as the given attempt, and counts.
fn attempt(world: &World, db: &str, id: u64, attempt: u64) {
    let sql = format!(
        "BEGIN IMMEDIATE; INSERT INTO race VALUES ({id}, {attempt});
         UPDATE total SET rows = rows + 1; COMMIT;"
    );
    let conn = Connection::open(world.path(db)).unwrap();
    conn.execute_batch(&sql).unwrap();
}

/// One writer: writes, pushes; whenever others won, takes their state and writes again. Answers which
/// attempt of each row was acknowledged.
fn compete(world: &World, me: u64, start: &Barrier) -> BTreeMap<u64, u64> {
    let db = format!("w{me}.db");
    world.ok(["clone", "remote", &db]);
    start.wait();
    let mut acknowledged = BTreeMap::new();
    for id in (0..PUSHES).map(|n| me * 100 + n) {
        for n in 0.. {
            attempt(world, &db, id, n);
            let ended = world.run(["push", &db]);
            if ended.code == Some(0) {
                acknowledged.insert(id, n);
                break;
            }
            assert_eq!(ended.code, Some(3), "{ended:?}");
            world.ok(["repair", &db, "--take-remote"]);
        }
    }
    acknowledged
}

#[test]
fn of_eight_writers_each_acknowledged_push_is_in_the_log_once() {
    for round in 0..rounds(1) {
        println!("round {round}");
        let world = World::new();
        world.stock(
            "a.db",
            "CREATE TABLE race(id INTEGER PRIMARY KEY, attempt INTEGER);
             CREATE TABLE total(rows INTEGER); INSERT INTO total VALUES (0);",
        );
        world.ok(["init", "a.db", "--remote", "remote"]);
        let start = Barrier::new(usize::try_from(WRITERS).unwrap());
        let acknowledged: BTreeMap<u64, u64> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..WRITERS)
                .map(|me| {
                    let (world, start) = (&world, &start);
                    scope.spawn(move || compete(world, me, start))
                })
                .collect();
            all.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
        });
        assert_race(&world, &acknowledged);
    }
}

/// I1: the log holds what was acknowledged, the losers' attempts nowhere, and everyone gets the same.
fn assert_race(world: &World, acknowledged: &BTreeMap<u64, u64>) {
    let remote = world.path("remote");
    let log = RemoteLog::open(remote.as_os_str(), Options::default()).unwrap();
    let history = log.history(10_000).unwrap();
    assert_eq!(history.len(), acknowledged.len() + 1, "I1: one segment for each push");
    let expected: Vec<String> = acknowledged.iter().map(|(id, n)| format!("{id}|{n}")).collect();
    world.ok(["sync", "a.db"]);
    assert_verified(world, "a.db");
    for me in 0..WRITERS {
        let db = format!("w{me}.db");
        world.ok(["sync", &db]);
        assert_eq!(world.stock(&db, "SELECT * FROM race ORDER BY id"), expected.join("\n"), "I1");
        assert_eq!(world.stock(&db, "SELECT rows FROM total"), expected.len().to_string());
        assert_identical(&world.path("a.db"), &world.path(&db));
    }
}

#[test]
fn operations_at_once_on_one_replica_do_the_work_once() {
    let (world, mut ledger) = published("");
    for round in 0..rounds(4) {
        println!("round {round}");
        let writer = if round % 2 == 0 { "a.db" } else { "b.db" };
        world.stock(writer, &ledger.adding(30));
        for replica in ["a.db", "b.db"] {
            let lines =
                [["sync", replica], ["push", replica], ["pull", replica], ["sync", replica]];
            // The writer first: the other has nothing to push, and then something to pull.
            let replica_is_writer = replica == writer;
            if !replica_is_writer {
                world.ok(["sync", writer]);
            }
            let children: Vec<_> = lines.iter().map(|line| world.spawn("", line)).collect();
            for child in children {
                let ended = Ended::of(child.wait_with_output().unwrap());
                // A push may come when the remote is ahead; then there is nothing to push.
                assert_eq!(ended.code, Some(0), "{ended:?}");
            }
        }
        world.ok(["sync", "a.db"]);
        world.ok(["sync", "b.db"]);
        ledger.acknowledge();
    }
    assert_in_step(&world, &["a.db", "b.db"], &ledger);
}

/// Waits until the sidecar of `db` holds an intent: the operation is in the middle of its work.
fn wait_for_intent(world: &World, db: &str) {
    let sidecar = world.path(format!("{db}-anabranch"));
    while stock(&sidecar, "SELECT count(*) FROM intent") == "0" {
        std::thread::yield_now();
    }
}

#[test]
fn a_second_operation_is_told_that_another_works_on_the_replica() {
    let (world, mut ledger) = published("");
    for point in ["push::after-intent", "push::after-append"] {
        world.stock("a.db", &ledger.adding(1));
        let mut first = world.spawn(&format!("{point}=pause"), &["sync", "a.db"]);
        wait_for_intent(&world, "a.db");
        for command in ["sync", "push", "pull"] {
            let ended = world.run([command, "a.db", "--busy-timeout", "100ms"]);
            assert_eq!((ended.code, &*ended.error()), (Some(1), "locked"), "{ended:?}");
        }
        // Looking needs no lock.
        world.ok(["status", "a.db"]);
        first.kill().unwrap();
        first.wait().unwrap();
        world.ok(["sync", "a.db"]);
        ledger.acknowledge();
    }
    world.ok(["sync", "b.db"]);
    assert_in_step(&world, &["a.db", "b.db"], &ledger);
}

//! The main job: replicas in step through a folder, written by stock SQLite.

mod common;

use anabranch::blocking::Replica;
use anabranch::{Error, RemoteStatus};
use common::{World, app, assert_same, options, stock, value};

const SCHEMA: &str =
    "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT); INSERT INTO t(v) VALUES ('a'), ('b')";

#[test]
fn what_one_replica_writes_the_other_reads() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    let (b, second) = world.cloned("b.db");
    assert_same(&a, &b);

    stock(&a, "INSERT INTO t(v) VALUES ('from a')");
    let report = first.sync().unwrap();
    assert!(report.pushed.is_some() && report.pulled.is_none());
    let report = second.sync().unwrap();
    assert!(report.pulled.is_some() && report.pushed.is_none());
    assert_eq!(value(&b, "SELECT v FROM t WHERE id = 3"), "from a");

    stock(&b, "UPDATE t SET v = 'from b' WHERE id = 1; DELETE FROM t WHERE id = 2");
    assert!(second.push().unwrap().pushed.is_some());
    assert!(first.pull().unwrap().pulled.is_some());
    assert_same(&a, &b);
    assert!(first.verify().unwrap().damaged.is_empty());
    assert!(first.sync().unwrap().pushed.is_none());
}

#[test]
fn a_sync_with_nothing_to_do_does_nothing() {
    let world = World::new();
    let (_, first) = world.published("a.db", SCHEMA);
    let before = first.status(false, true).unwrap();
    assert_eq!(before.remote_status, RemoteStatus::UpToDate);
    for _ in 0..3 {
        let report = first.sync().unwrap();
        assert!(report.pushed.is_none() && report.pulled.is_none() && report.offline.is_none());
        assert_eq!(report.position, before.position);
    }
}

#[test]
fn a_large_file_that_was_read_from_end_to_end_in_vain_is_not_read_again() {
    let world = World::new();
    // 1,100 pages and more, one row each.
    let rows = "INSERT INTO t(v) SELECT hex(zeroblob(1900)) FROM generate_series(1, 1100)";
    let (a, first) = world.published("a.db", &format!("{SCHEMA}; {rows}"));
    let there = app(&a);
    there.execute("UPDATE t SET v = 'x' WHERE id = 2", []).unwrap();
    there.execute("UPDATE t SET v = 'b' WHERE id = 2", []).unwrap();
    let found_by = || first.status(false, false).unwrap().found_by;
    assert!(!found_by().contains("frames"), "no mark is known: {}", found_by());
    assert!(first.sync().unwrap().pushed.is_none());
    assert!(found_by().contains("frames"), "{}", found_by());
    let sidecar = [world.path("a.db-anabranch"), world.path("a.db-anabranch-wal")];
    let written = || sidecar.each_ref().map(|file| std::fs::read(file).unwrap());
    let before = written();
    assert!(first.sync().unwrap().pushed.is_none());
    assert!(written() == before, "a sync with nothing to do writes nothing");
    there.execute("UPDATE t SET v = 'x' WHERE id = 2", []).unwrap();
    assert_eq!(first.sync().unwrap().pushed.unwrap().pages, 1);
}

#[test]
fn a_replica_that_was_made_anew_after_it_was_opened_is_the_new_one() {
    let world = World::new();
    let (a, _) = world.published("a.db", SCHEMA);
    let (b, _) = world.cloned("b.db");
    let opened = Replica::open(&b, options()).unwrap();
    for suffix in ["", "-anabranch", "-anabranch-wal"] {
        std::fs::remove_file(format!("{}{suffix}", b.display())).unwrap();
    }
    stock(&a, "INSERT INTO t(v) VALUES ('c')");
    Replica::open(&a, options()).unwrap().sync().unwrap();
    world.cloned("b.db");
    assert!(opened.sync().unwrap().pulled.is_none(), "the new one has all that there is");
    assert_same(&a, &b);
    // The first operation has taken over what was open; the next one opens it anew.
    stock(&b, "DELETE FROM t WHERE id = 1");
    assert!(opened.sync().unwrap().pushed.is_some());
}

#[test]
fn changes_on_both_sides_are_told_beforehand_and_nothing_is_touched() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    let (b, second) = world.cloned("b.db");
    stock(&a, "INSERT INTO t(v) VALUES ('a3')");
    stock(&b, "INSERT INTO t(v) VALUES ('b3')");
    first.sync().unwrap();
    let dump = stock(&b, ".dump");
    for _ in 0..2 {
        let preview = second.preview().unwrap();
        assert_eq!((preview.push[0].inserted, preview.pull[0].inserted), (1, 1));
        assert_eq!(preview.rebased.unwrap().tables[0].renumbered, 1);
        assert_eq!(preview.conflicts.len(), 1);
        assert!(matches!(second.push(), Err(Error::Behind { .. })));
    }
    assert_eq!(stock(&b, ".dump"), dump);
    let status = second.status(true, true).unwrap();
    assert_eq!(status.local_pages, 1);
    assert_eq!(status.tables.unwrap()[0].inserted, 1);
    assert!(matches!(status.remote_status, RemoteStatus::Ahead { .. }));
}

#[test]
fn a_remote_that_is_moved_away_is_offline_until_it_is_back() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    std::fs::rename(world.path("remote"), world.path("elsewhere")).unwrap();
    stock(&a, "INSERT INTO t(v) VALUES ('offline')");
    let report = first.sync().unwrap();
    assert_eq!(report.offline.unwrap().pages_to_push, 1);
    assert!(!world.path("remote").exists(), "a missing remote is never made anew");
    // An empty folder in its place, as an unmounted disk leaves it, is no remote either.
    std::fs::create_dir(world.path("remote")).unwrap();
    assert!(first.sync().unwrap().offline.is_some());
    std::fs::remove_dir(world.path("remote")).unwrap();

    std::fs::rename(world.path("elsewhere"), world.path("remote")).unwrap();
    assert!(first.sync().unwrap().pushed.is_some());
    let (b, _) = world.cloned("b.db");
    assert_same(&a, &b);
}

#[test]
fn an_application_keeps_its_connection_through_pulls_and_pushes() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    let (b, second) = world.cloned("b.db");
    let (here, there) = (app(&a), app(&b));
    for n in 0..5 {
        here.execute("INSERT INTO t(v) VALUES (?1)", [n]).unwrap();
        first.sync().unwrap();
        second.sync().unwrap();
        there.execute("UPDATE t SET v = v || '!' WHERE id = 1", []).unwrap();
        second.sync().unwrap();
        first.sync().unwrap();
    }
    let count: i64 = there.query_row("SELECT count(*) FROM t", [], |r| r.get(0)).unwrap();
    assert_eq!(count, 7);
    assert_eq!(value(&a, "SELECT v FROM t WHERE id = 1"), "a!!!!!");
    assert!(first.status(false, false).unwrap().found_by.contains("frames"), "the fast way");
    assert_same(&a, &b);
}

#[test]
fn schema_changes_reach_connections_that_are_open() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    let (b, second) = world.cloned("b.db");
    let there = app(&b);
    stock(
        &a,
        "ALTER TABLE t ADD COLUMN w DEFAULT 5; CREATE TABLE u(x); CREATE INDEX i ON t(v);
         CREATE TRIGGER g AFTER INSERT ON t BEGIN INSERT INTO u VALUES (new.id); END;
         INSERT INTO t(v) VALUES ('new')",
    );
    first.sync().unwrap();
    second.sync().unwrap();
    let w: i64 = there.query_row("SELECT w FROM t WHERE v = 'new'", [], |r| r.get(0)).unwrap();
    let x: i64 = there.query_row("SELECT count(*) FROM u", [], |r| r.get(0)).unwrap();
    assert_eq!((w, x), (5, 1), "and the trigger fired once, where the row was written");
    there.execute("DROP TRIGGER g", []).unwrap();
    second.sync().unwrap();
    first.sync().unwrap();
    assert_same(&a, &b);
}

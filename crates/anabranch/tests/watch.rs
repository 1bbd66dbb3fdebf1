//! Replicas that are kept in step while stock SQLite writes them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anabranch::{Error, Replica, WatchEvent, WatchOptions, WatchReport, WatchState};
use common::{World, app, assert_same, options, stock, value};
use rusqlite::Connection;
use tokio::sync::oneshot;

const SCHEMA: &str = "PRAGMA journal_mode = WAL;
    CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT); INSERT INTO t(v) VALUES ('a'), ('b')";

/// What takes longer does not happen.
const DEADLINE: Duration = Duration::from_secs(120);

/// A watch in a thread of its own.
struct Watch {
    events: Receiver<WatchEvent>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Result<WatchReport, Error>>,
}

impl Watch {
    fn start(db: &Path) -> Watch {
        let (db, (tell, events), (stop, stopped)) =
            (db.to_owned(), channel(), oneshot::channel::<()>());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            let replica = runtime.block_on(Replica::open(&db, options()))?;
            let stopped = async { stopped.await.unwrap_or(()) };
            // Whoever started it may look no longer.
            let tell = |event| tell.send(event).unwrap_or(());
            let watch_options = WatchOptions::default();
            runtime.block_on(replica.watch(&watch_options, stopped, tell))
        });
        Watch { events, stop, thread }
    }

    /// As `start`, and waits until it is in step.
    fn in_step(db: &Path) -> Watch {
        let watch = Watch::start(db);
        watch.until("in step", |event| matches!(event, WatchEvent::Watching { .. }));
        watch
    }

    /// Waits for an event.
    fn until(&self, what: &str, wanted: impl Fn(&WatchEvent) -> bool) -> WatchEvent {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let event = self.events.recv_timeout(left).unwrap_or_else(|e| panic!("{what}: {e}"));
            if wanted(&event) {
                return event;
            }
        }
    }

    fn stop(self) -> WatchReport {
        self.stop.send(()).unwrap();
        self.thread.join().unwrap().unwrap()
    }

    /// The error that it ends with by itself.
    fn error(self) -> Error {
        self.thread.join().unwrap().unwrap_err()
    }
}

fn wait(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !ready() {
        assert!(Instant::now() < deadline, "{what} does not happen");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn rows(conn: &Connection) -> i64 {
    conn.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
}

/// A state that says that all is in step, and no page was ever looked for in vain.
fn assert_clean(report: &WatchReport) {
    assert_eq!(report, &WatchReport { state: WatchState::InStep, breaks: 0 });
}

/// I1, I2, I4: what is committed on one side appears on the other, both being watched.
#[test]
fn two_watched_replicas_follow_each_other() {
    let world = World::new();
    let (a, _) = world.published("a.db", SCHEMA);
    let (b, _) = world.cloned("b.db");
    let (first, second) = (Watch::in_step(&a), Watch::in_step(&b));
    let (here, there) = (app(&a), app(&b));
    for n in 0..30 {
        // Only one side writes at a time: the other has what was written before.
        let (from, to) = if n % 2 == 0 { (&here, &there) } else { (&there, &here) };
        if n == 20 {
            from.execute_batch("CREATE TABLE u(x); DELETE FROM t WHERE id < 10").unwrap();
        }
        for _ in 0..=n % 3 {
            from.execute("INSERT INTO t(v) VALUES (hex(randomblob(100)))", []).unwrap();
        }
        let expected = rows(from);
        wait("the change", || rows(to) == expected);
        let state = |conn: &Connection| -> String {
            let sql = "SELECT group_concat(id || v) FROM t";
            conn.query_row(sql, [], |row| row.get(0)).unwrap()
        };
        assert_eq!(state(from), state(to));
    }
    for watch in [first, second] {
        assert_clean(&watch.stop());
    }
    drop((here, there));
    assert_same(&a, &b);
}

/// I4b: what was committed before it was told to stop is at the remote.
#[test]
fn the_last_commit_before_the_end_goes_out() {
    let world = World::new();
    let (a, _) = world.published("a.db", SCHEMA);
    let (b, second) = world.cloned("b.db");
    for n in 0..5 {
        let watch = Watch::in_step(&a);
        stock(&a, &format!("INSERT INTO t(v) VALUES ('last {n}')"));
        assert_eq!(watch.stop().state, WatchState::InStep);
        second.sync().unwrap();
        assert_same(&a, &b);
    }
}

/// The salts of the run that the `-wal` is in.
fn salts(db: &Path) -> Vec<u8> {
    let mut wal = db.as_os_str().to_owned();
    wal.push("-wal");
    let bytes = std::fs::read(PathBuf::from(wal)).unwrap_or_default();
    bytes.get(16..24).map(<[u8]>::to_vec).unwrap_or_default()
}

#[test]
fn a_remote_that_is_away_holds_no_wal_and_everything_goes_out_when_it_is_back() {
    let world = World::new();
    let (a, _) = world.published("a.db", SCHEMA);
    let (b, second) = world.cloned("b.db");
    let watch = Watch::in_step(&a);
    let here = app(&a);
    // Nothing but the watcher checkpoints.
    here.execute_batch("PRAGMA wal_autocheckpoint = 0; PRAGMA synchronous = OFF").unwrap();
    std::fs::rename(world.path("remote"), world.path("elsewhere")).unwrap();
    here.execute("INSERT INTO t(v) VALUES ('offline')", []).unwrap();
    let event = watch.until("offline", |event| matches!(event, WatchEvent::Offline { .. }));
    assert!(matches!(event, WatchEvent::Offline { pages_to_push: 0..=1, .. }), "{event:?}");
    let (mut runs, mut last) = (0, salts(&a));
    wait("two restarts of the -wal", || {
        for _ in 0..50 {
            here.execute("UPDATE t SET v = hex(randomblob(30)) WHERE id = 1", []).unwrap();
        }
        let now = salts(&a);
        runs += usize::from(std::mem::replace(&mut last, now.clone()) != now);
        runs == 2
    });
    here.execute("INSERT INTO t(v) VALUES ('still offline')", []).unwrap();
    std::fs::rename(world.path("elsewhere"), world.path("remote")).unwrap();
    watch.until("online", |event| matches!(event, WatchEvent::Online { .. }));
    assert_clean(&watch.stop());
    second.sync().unwrap();
    assert_eq!(value(&b, "SELECT count(*) FROM t"), "4");
    drop(here);
    assert_same(&a, &b);
}

#[test]
fn where_both_sides_changed_rows_of_both_are_kept() {
    let world = World::new();
    let (a, _) = world.published("a.db", SCHEMA);
    let (b, second) = world.cloned("b.db");
    let watch = Watch::in_step(&a);
    let here = app(&a);
    for n in 0..5 {
        stock(&b, &format!("INSERT INTO t(v) VALUES ('there {n}')"));
        here.execute("INSERT INTO t(v) VALUES (?1)", [format!("here {n}")]).unwrap();
        second.sync().unwrap();
    }
    drop(here);
    assert_eq!(watch.stop().state, WatchState::InStep);
    second.sync().unwrap();
    assert_same(&a, &b);
    assert_eq!(value(&a, "SELECT count(*) FROM t WHERE v LIKE '%here _'"), "10");
}

#[test]
fn where_somebody_must_decide_it_says_so_once_and_goes_on_when_that_is_done() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    let (b, second) = world.cloned("b.db");
    stock(&a, "UPDATE t SET v = 'here'");
    stock(&b, "UPDATE t SET v = 'there'");
    first.set("conflict.t", Some("abort")).unwrap();
    second.sync().unwrap();
    let watch = Watch::start(&a);
    watch.until("diverged", |event| matches!(event, WatchEvent::Diverged { .. }));
    // What changes here is looked at, and leads to nothing new.
    stock(&a, "INSERT INTO t(v) VALUES ('here, too')");
    first.set("conflict.t", Some("remote")).unwrap();
    stock(&a, "INSERT INTO t(v) VALUES ('here, again')");
    let next = watch.until("anything", |_| true);
    assert!(matches!(next, WatchEvent::Synced { rebased: Some(_), .. }), "{next:?}");
    assert_eq!(watch.stop().state, WatchState::InStep);
    second.sync().unwrap();
    assert_same(&a, &b);
    assert_eq!(value(&a, "SELECT count(*) FROM t WHERE v = 'there'"), "2");
}

#[test]
fn other_operations_on_the_replica_go_on_beside_it() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    let (b, second) = world.cloned("b.db");
    let watch = Watch::in_step(&a);
    for n in 0..10 {
        stock(&a, &format!("INSERT INTO t(v) VALUES ('{n}')"));
        // It pushes, or the watch has.
        assert!(first.sync().unwrap().offline.is_none());
        assert_eq!(first.status(false, false).unwrap().local_pages, 0);
        second.sync().unwrap();
        assert_same(&a, &b);
        stock(&b, &format!("UPDATE t SET v = '{n}' WHERE id = 1"));
        second.sync().unwrap();
        wait("the pull", || value(&a, "SELECT v FROM t WHERE id = 1") == n.to_string());
    }
    assert_clean(&watch.stop());
    assert!(first.verify().unwrap().damaged.is_empty());
}

#[test]
fn another_file_in_its_place_ends_it_and_nothing_is_pushed() {
    let world = World::new();
    let (a, _) = world.published("a.db", SCHEMA);
    let (b, second) = world.cloned("b.db");
    let watch = Watch::in_step(&a);
    stock(&world.path("other.db"), "PRAGMA journal_mode = WAL; CREATE TABLE other(x)");
    std::fs::rename(world.path("other.db"), &a).unwrap();
    let error = watch.error();
    assert!(matches!(error, Error::NotTheSameFile { .. }), "{error:?}");
    assert!(second.sync().unwrap().pulled.is_none());
    assert_eq!(value(&b, "SELECT count(*) FROM t"), "2");
}

#[test]
fn what_is_no_replica_is_not_watched() {
    let world = World::new();
    let db = world.path("plain.db");
    stock(&db, "CREATE TABLE t(x)");
    let error = Watch::start(&db).error();
    assert!(matches!(error, Error::NotAReplica { .. }), "{error:?}");
}

/// I4b, I5: a replica that is held open misses nothing, whoever writes file, sidecar or log meanwhile.
#[test]
fn a_replica_that_is_held_open_syncs_like_any_other() {
    let world = World::new();
    let (a, plain) = world.published("a.db", SCHEMA);
    let (b, second) = world.cloned("b.db");
    let held = plain.hold().unwrap();
    let nothing = |report: anabranch::SyncReport| {
        assert!(report.pulled.is_none() && report.pushed.is_none(), "{report:?}");
        report.position
    };
    let first = nothing(held.sync().unwrap());
    assert_eq!(nothing(held.sync().unwrap()), first);
    for n in 0..20 {
        let insert = format!("INSERT INTO t(v) VALUES ('{n}')");
        match n % 4 {
            // By another program, which leaves no -wal; and with the database open.
            0 => drop(stock(&a, &insert)),
            1 => assert_eq!(app(&a).execute(&insert, []).unwrap(), 1),
            // By another replica.
            2 => {
                stock(&b, &insert);
                second.sync().unwrap();
            }
            // Pushed by another operation on the same replica.
            _ => {
                stock(&a, &insert);
                assert!(plain.sync().unwrap().pushed.is_some());
            }
        }
        let report = held.sync().unwrap();
        let (pulled, pushed) = (report.pulled.is_some(), report.pushed.is_some());
        assert_eq!((pulled, pushed), (n % 4 == 2, n % 4 < 2), "{n}: {report:?}");
        nothing(held.sync().unwrap());
        second.sync().unwrap();
        assert_same(&a, &b);
    }
    // Offline is told, also where nothing was written.
    std::fs::rename(world.path("remote"), world.path("elsewhere")).unwrap();
    assert!(held.sync().unwrap().offline.is_some());
    std::fs::rename(world.path("elsewhere"), world.path("remote")).unwrap();
    nothing(held.sync().unwrap());
    // The remote that the sidecar names now is asked, not the one that was kept.
    std::fs::rename(world.path("remote"), world.path("moved")).unwrap();
    let mut other = plain.clone();
    other.set_remote(world.path("moved").as_os_str(), true).unwrap();
    nothing(held.sync().unwrap());
}

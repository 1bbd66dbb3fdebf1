//! Applications use both files while both replicas sync in a loop.
//!
//! One side writes: stock `sqlite3` and Python, everything that SQLite can do to a file. The other
//! side reads: Python processes that check, in each read transaction, what is true of every state
//! that was ever committed. No error is allowed but BUSY after the busy timeout, which is so long
//! that it does not happen; every sync must succeed.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::oracle::{assert_identical, assert_verified};
use crate::world::{App, World, stock};

/// An application in Python, told by a file when to stop. Prints what went wrong, or how often it
/// looked.
const READER: &str = r#"
import os, sqlite3, sys
db, stop, keep = sys.argv[1:]
def connect():
    return sqlite3.connect(db, timeout=60, isolation_level=None)
def one(c, sql):
    return c.execute(sql).fetchone()[0]
seen, last, conn = 0, -1, connect()
while not (os.path.exists(stop) and seen >= 3):
    conn.execute("BEGIN")
    total = one(conn, "SELECT sum(amount) FROM debit") + one(conn, "SELECT sum(amount) FROM credit")
    step = one(conn, "SELECT n FROM step")
    rows = one(conn, "SELECT count(*) FROM note")
    counted = one(conn, "SELECT n FROM notes_counted_by_trigger")
    indexed = one(conn, "SELECT count(*) FROM note INDEXED BY note_kind WHERE kind >= 0")
    found = one(conn, "SELECT count(*) FROM search WHERE search MATCH 'anabranch'")
    conn.execute("COMMIT")
    assert total == 0, f"debit and credit differ by {total} at step {step}"
    assert rows == counted == indexed == found, f"{rows} {counted} {indexed} {found} at step {step}"
    assert step >= last, f"step {step} after {last}"
    last, seen = step, seen + 1
    if keep == "brief":
        # The last connection that closes takes the WAL away.
        conn.close()
        conn = connect()
conn.close()
print(seen)
"#;

/// A writer in Python, which is another SQLite than ours: one large transaction after the other.
const WRITER: &str = r#"
import sqlite3, sys
conn = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
for turn in range(int(sys.argv[2])):
    conn.execute("BEGIN IMMEDIATE")
    conn.execute("UPDATE debit SET amount = amount - ? WHERE id % 7 = ?", (turn, turn % 7))
    changed = conn.execute("SELECT changes()").fetchone()[0]
    conn.execute("UPDATE credit SET amount = amount + ? WHERE id = 1", (turn * changed,))
    conn.execute("INSERT INTO blob VALUES (?, randomblob(20000))", (f"python {turn}",))
    conn.execute("UPDATE step SET n = n + 1")
    conn.execute("COMMIT")
conn.close()
"#;

const SCHEMA: &str = "
    CREATE TABLE debit(id INTEGER PRIMARY KEY, amount INTEGER);
    CREATE TABLE credit(id INTEGER PRIMARY KEY, amount INTEGER);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
      INSERT INTO debit SELECT i, -i FROM n;
    INSERT INTO credit SELECT id, id FROM debit;
    CREATE TABLE step(n); INSERT INTO step VALUES (0);
    CREATE TABLE note(id INTEGER PRIMARY KEY, kind INTEGER, text TEXT);
    CREATE INDEX note_kind ON note(kind);
    CREATE TABLE notes_counted_by_trigger(n); INSERT INTO notes_counted_by_trigger VALUES (0);
    CREATE VIRTUAL TABLE search USING fts5(text);
    CREATE TRIGGER note_in AFTER INSERT ON note BEGIN
      UPDATE notes_counted_by_trigger SET n = n + 1;
      INSERT INTO search(rowid, text) VALUES (new.id, new.text);
    END;
    CREATE TRIGGER note_out AFTER DELETE ON note BEGIN
      UPDATE notes_counted_by_trigger SET n = n - 1;
      DELETE FROM search WHERE rowid = old.id;
    END;
    CREATE TABLE blob(name TEXT PRIMARY KEY, content BLOB) WITHOUT ROWID;";

const NOTES: &str = "
    BEGIN IMMEDIATE;
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
      INSERT INTO note(kind, text) SELECT i % 5, 'anabranch ' || hex(randomblob(i % 90)) FROM n;
    UPDATE step SET n = n + 1; COMMIT;";

/// What is done to the file, in this order.
const STEPS: &[&str] = &[
    NOTES,
    "PRAGMA wal_checkpoint(TRUNCATE);",
    "BEGIN IMMEDIATE; UPDATE debit SET amount = amount - 5; UPDATE credit SET amount = amount + 5;
     UPDATE step SET n = n + 1; COMMIT;",
    "INSERT INTO blob VALUES ('ten megabytes', randomblob(10000000));",
    "BEGIN IMMEDIATE; DELETE FROM note WHERE kind = 3; UPDATE step SET n = n + 1; COMMIT;",
    "VACUUM;",
    "ALTER TABLE note ADD COLUMN extra DEFAULT 'as before'; CREATE TABLE passing(x, y);
     INSERT INTO passing SELECT id, amount FROM debit;",
    "PRAGMA wal_autocheckpoint = 3;",
    NOTES,
    "UPDATE blob SET content = randomblob(10000000) WHERE name = 'ten megabytes';",
    "DROP TABLE passing; CREATE INDEX by_extra ON note(extra);",
    "DELETE FROM blob WHERE name = 'ten megabytes'; PRAGMA incremental_vacuum(700);",
    "INSERT INTO search(search) VALUES ('optimize');",
    "PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(RESTART);",
    "ALTER TABLE note RENAME COLUMN extra TO more; REINDEX; ANALYZE;",
    "BEGIN IMMEDIATE; DELETE FROM note WHERE id % 2; UPDATE step SET n = n + 1; COMMIT; VACUUM;",
    NOTES,
];

fn python(script: &str, args: &[&str]) -> Child {
    let mut command = Command::new("python3");
    command.arg("-c").arg(script).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits for an application, which must not have failed; answers what it printed.
fn end(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "I3: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Syncs again and again until told to stop; answers how often it moved something.
fn keep_in_step(world: &World, replica: &str, stop: &AtomicBool) -> u64 {
    let mut moved = 0;
    while !stop.load(Ordering::Relaxed) {
        let report = world.ok(["sync", replica, "--busy-timeout", "60s"]);
        moved += u64::from(!report["pushed"].is_null() || !report["pulled"].is_null());
    }
    moved
}

fn write_everything(world: &World) {
    let db = world.path("a.db");
    let writer = python(WRITER, &[db.to_str().unwrap(), "40"]);
    // By turns through a connection that stays and through one for each step.
    let mut app = Some(App::open(&db));
    for (n, step) in STEPS.iter().enumerate() {
        match app.as_mut().filter(|_| n % 3 != 2) {
            Some(app) => drop(app.run(step)),
            None => drop(stock(&db, step)),
        }
        if n == STEPS.len() / 2 {
            app = None;
        }
    }
    drop(app);
    end(writer);
}

fn live_use(page_size: u32, auto_vacuum: &str) {
    let world = World::new();
    let first = format!("PRAGMA page_size={page_size}; PRAGMA auto_vacuum={auto_vacuum};");
    world.stock("a.db", &format!("{first} {SCHEMA} {NOTES}"));
    world.ok(["init", "a.db", "--remote", "remote"]);
    world.ok(["clone", "remote", "b.db"]);
    let (b, told) = (world.path("b.db"), world.path("stop"));
    let reader = |how| python(READER, &[b.to_str().unwrap(), told.to_str().unwrap(), how]);
    let readers = [reader("keep"), reader("brief")];
    let stop = AtomicBool::new(false);
    let (pushes, pulls) = std::thread::scope(|scope| {
        let pushing = scope.spawn(|| keep_in_step(&world, "a.db", &stop));
        let pulling = scope.spawn(|| keep_in_step(&world, "b.db", &stop));
        let written = std::panic::catch_unwind(|| write_everything(&world));
        stop.store(true, Ordering::Relaxed);
        let moved = (pushing.join().unwrap(), pulling.join().unwrap());
        written.unwrap();
        moved
    });
    std::fs::File::create(&told).unwrap().write_all(b"stop").unwrap();
    for reader in readers {
        let looks: u64 = end(reader).trim().parse().unwrap();
        assert!(looks >= 3, "a reader that looked {looks} times proves nothing");
    }
    assert!(pushes > 1 && pulls > 0, "{pushes} pushes, {pulls} pulls: nothing was live");
    for replica in ["a.db", "b.db"] {
        world.ok(["sync", replica]);
    }
    for replica in ["a.db", "b.db"] {
        assert_eq!(world.stock(replica, "PRAGMA integrity_check"), "ok", "I3");
        assert_verified(&world, replica);
    }
    assert_eq!(world.stock("a.db", ".dump"), world.stock("b.db", ".dump"));
    let check = "INSERT INTO search(search) VALUES ('integrity-check'); SELECT 'sound';";
    assert_eq!(world.stock("b.db", check), "sound");
    assert_identical(&world.path("a.db"), &world.path("b.db"));
}

#[test]
fn applications_read_and_write_through_syncs_with_small_pages() {
    live_use(512, "full");
}

#[test]
fn applications_read_and_write_through_syncs() {
    live_use(4096, "incremental");
}

#[test]
fn applications_read_and_write_through_syncs_with_large_pages() {
    live_use(65536, "none");
}

/// SQLite never uses the page at 2^30 bytes; the pages beside it are like all others.
#[test]
fn a_database_beyond_the_lock_page_is_kept_in_step() {
    let world = World::on_disk();
    world.stock(
        "a.db",
        "PRAGMA page_size=65536; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;
         CREATE TABLE big(id INTEGER PRIMARY KEY, content BLOB); BEGIN;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1100)
           INSERT INTO big SELECT i, zeroblob(1000000) FROM n; COMMIT;",
    );
    let lock_page = (1 << 30) / 65536 + 1;
    let around = |n: i64| lock_page + n;
    let pages: i64 = world.stock("a.db", "PRAGMA page_count").parse().unwrap();
    assert!(pages > around(100), "{pages} pages");
    world.ok(["init", "a.db", "--remote", "remote"]);
    world.ok(["clone", "remote", "b.db"]);
    // The rows lie one after the other.
    let beside = lock_page * 1100 / pages;
    world.stock(
        "a.db",
        &format!("UPDATE big SET content = randomblob(1000000) WHERE abs(id - {beside}) <= 4;"),
    );
    let report = world.ok(["verify", "a.db"]);
    let local: Vec<i64> =
        report["local"].as_array().unwrap().iter().map(|n| n.as_i64().unwrap()).collect();
    assert!(local.contains(&around(-1)) && local.contains(&around(1)), "{local:?}");
    assert!(!local.contains(&around(0)), "the lock page belongs to nobody");
    for replica in ["a.db", "b.db"] {
        world.ok(["sync", replica]);
    }
    assert_verified(&world, "b.db");
    assert_eq!(world.stock("b.db", "PRAGMA quick_check"), "ok");
}

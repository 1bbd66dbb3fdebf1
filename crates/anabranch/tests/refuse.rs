//! What must be refused: each with a clear error, and nothing changed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::collections::HashSet;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use anabranch::blocking::{RemoteLog, Replica};
use anabranch::{Error, FileError, Options, Repair};
use common::{World, app, assert_same, options, os, stock, value};

const SCHEMA: &str =
    "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT); INSERT INTO t(v) VALUES ('a'), ('b')";

fn history(world: &World) -> usize {
    RemoteLog::open(&world.remote(), options()).unwrap().history(1000).unwrap().len()
}

/// Puts `content` into the file at `path` as `cp` does: same inode, other bytes.
fn overwrite(path: &Path, content: &[u8]) {
    let mut file = fs::OpenOptions::new().write(true).truncate(true).open(path).unwrap();
    file.write_all(content).unwrap();
}

/// Puts another database into the place of the one at `path`, as `mv` does: another inode.
fn replace_by_another(world: &World, path: &Path) {
    let other = world.path("other.db");
    stock(
        &other,
        "PRAGMA journal_mode = WAL; CREATE TABLE secret(x); INSERT INTO secret VALUES (1)",
    );
    fs::rename(&other, path).unwrap();
}

fn objects(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => objects(&entry.path(), found),
            false => found.push(entry.path()),
        }
    }
}

fn segments(world: &World) -> Vec<PathBuf> {
    let mut found = Vec::new();
    objects(&world.path("remote"), &mut found);
    found.retain(|p| p.to_str().unwrap().ends_with(".wal.zst"));
    found.sort();
    found
}

#[test]
fn an_older_copy_of_the_file_is_never_pushed() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    let old = fs::read(&a).unwrap();
    stock(&a, "INSERT INTO t(v) VALUES ('c')");
    first.sync().unwrap();
    let before = history(&world);
    overwrite(&a, &old);
    assert!(matches!(first.sync(), Err(Error::FileIsOlder { .. })));
    assert!(matches!(first.push(), Err(Error::FileIsOlder { .. })));
    assert!(matches!(first.pull(), Err(Error::FileIsOlder { .. })));
    assert!(matches!(first.status(false, false), Err(Error::FileIsOlder { .. })));
    assert_eq!(history(&world), before, "nothing was pushed");

    // Either way out loses nothing: here the copy is kept and the remote's state comes back.
    let report = Replica::repair(&a, Repair::TakeRemote, options()).unwrap();
    assert_eq!(value(&report.kept.unwrap(), "SELECT count(*) FROM t"), "2");
    assert_eq!(value(&a, "SELECT count(*) FROM t"), "3");
    assert!(first.sync().unwrap().pushed.is_none());
}

#[test]
fn an_older_copy_that_was_written_since_is_recognised_too() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    stock(&a, "CREATE TABLE other(x)");
    first.sync().unwrap();
    let old = fs::read(&a).unwrap();
    stock(&a, "INSERT INTO t(v) VALUES ('c')");
    first.sync().unwrap();
    overwrite(&a, &old);
    stock(&a, "INSERT INTO other VALUES (1)");
    assert!(matches!(first.sync(), Err(Error::FileIsOlder { .. })));
}

#[test]
fn an_older_copy_is_recognised_however_many_syncs_it_is_behind() {
    let world = World::new();
    let rows = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 199)
                INSERT INTO w SELECT i, printf('%0300d', i) FROM n";
    let (a, first) =
        world.published("a.db", &format!("CREATE TABLE w(i INTEGER PRIMARY KEY, v); {rows}"));
    let (b, second) = world.cloned("b.db");
    let old = fs::read(&a).unwrap();
    for row in [0, 20, 40, 60, 80] {
        stock(&a, &format!("UPDATE w SET v = printf('%0300d', -1) WHERE i = {row}"));
        first.sync().unwrap();
    }
    overwrite(&a, &old);
    stock(&a, "UPDATE w SET v = printf('%0300d', -2) WHERE i = 80");
    let before = history(&world);
    assert!(matches!(first.sync(), Err(Error::FileIsOlder { lsn: None, .. })));
    assert!(matches!(
        Replica::repair(&a, Repair::Adopt, options()),
        Err(Error::FileIsOlder { .. })
    ));
    assert_eq!(history(&world), before);
    Replica::repair(&a, Repair::TakeRemote, options()).unwrap();
    second.sync().unwrap();
    assert_same(&a, &b);
}

#[test]
fn undoing_one_of_many_changes_is_an_ordinary_change() {
    let world = World::new();
    let rows = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 199)
                INSERT INTO w SELECT i, printf('%0300d', i) FROM n";
    let (a, first) =
        world.published("a.db", &format!("CREATE TABLE w(i INTEGER PRIMARY KEY, v); {rows}"));
    for row in [0, 60] {
        stock(&a, &format!("UPDATE w SET v = printf('%0300d', -1) WHERE i = {row}"));
        first.sync().unwrap();
    }
    stock(&a, "UPDATE w SET v = printf('%0300d', 0) WHERE i = 0");
    assert!(first.sync().unwrap().pushed.is_some());
}

#[test]
fn earlier_values_that_are_meant_are_pushed_once_told_so() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    let (b, second) = world.cloned("b.db");
    for v in ["z", "a"] {
        stock(&a, &format!("UPDATE t SET v = '{v}' WHERE id = 1"));
        if v == "z" {
            first.sync().unwrap();
        }
    }
    let error = first.sync().unwrap_err();
    assert!(matches!(error, Error::FileIsOlder { lsn: Some(_), .. }), "{error:?}");
    assert!(error.to_string().contains("repair --keep"), "the way out is named: {error}");
    let report = Replica::repair(&a, Repair::Keep, options()).unwrap();
    assert!(report.local_pages > 0);
    assert!(first.sync().unwrap().pushed.is_some());
    second.sync().unwrap();
    assert_eq!(value(&b, "SELECT v FROM t WHERE id = 1"), "a");
}

#[test]
fn an_adopted_older_copy_follows_the_log_again() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    let old = fs::read(&a).unwrap();
    stock(&a, "INSERT INTO t(v) VALUES ('c')");
    first.sync().unwrap();
    overwrite(&a, &old);
    assert!(first.sync().is_err());
    Replica::repair(&a, Repair::Adopt, options()).unwrap();
    assert!(first.sync().unwrap().pulled.is_some());
    assert_eq!(value(&a, "SELECT count(*) FROM t"), "3");
    stock(&a, "INSERT INTO t(v) VALUES ('d')");
    first.sync().unwrap();
    assert_same(&a, &world.cloned("b.db").0);
}

#[test]
fn a_file_put_in_place_of_the_replica_is_not_the_same_file() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    let before = history(&world);
    replace_by_another(&world, &a);
    assert!(matches!(first.sync(), Err(Error::NotTheSameFile { .. })));
    assert_eq!(history(&world), before, "a foreign database is not pushed");
}

/// Some twenty pages of one table.
const TWENTY_PAGES: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
    INSERT INTO t SELECT i, printf('%0380d', i) FROM n";

fn foreign(world: &World) -> Vec<u8> {
    let other = world.path("other.db");
    stock(
        &other,
        "PRAGMA journal_mode = WAL; CREATE TABLE secret(x);
         WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 999)
         INSERT INTO secret SELECT i FROM n",
    );
    // So that the change counter does not give it away.
    for _ in 0..50 {
        stock(&other, "PRAGMA user_version = 1; PRAGMA user_version = 2");
    }
    fs::read(&other).unwrap()
}

#[test]
fn another_database_copied_over_the_replica_is_not_pushed() {
    let world = World::new();
    let (a, first) = world.published("a.db", TWENTY_PAGES);
    let (b, second) = world.cloned("b.db");
    let before = history(&world);
    let foreign = foreign(&world);
    for (file, replica) in [(&a, &first), (&b, &second)] {
        overwrite(file, &foreign);
        assert!(matches!(replica.sync(), Err(Error::NotTheSameFile { .. })));
        let report = Replica::repair(file, Repair::TakeRemote, options()).unwrap();
        assert_eq!(value(&report.kept.unwrap(), "SELECT count(*) FROM secret"), "1000");
        assert_eq!(value(file, "SELECT count(*) FROM t"), "200");
    }
    assert_eq!(history(&world), before);
}

#[test]
fn another_database_that_is_meant_is_pushed_once_told_so() {
    let world = World::new();
    let (a, first) = world.published("a.db", TWENTY_PAGES);
    let foreign = foreign(&world);
    overwrite(&a, &foreign);
    for how in [Repair::Keep, Repair::Adopt] {
        assert!(Replica::repair(&a, how, options()).unwrap().local_pages > 0);
        assert!(first.status(false, false).unwrap().local_pages > 0);
    }
    assert!(first.sync().unwrap().pushed.is_some());
    assert_same(&a, &world.cloned("b.db").0);
}

#[test]
fn a_database_that_is_renamed_or_rebuilt_from_end_to_end_stays_the_same() {
    let world = World::new();
    let (a, first) = world.published("a.db", TWENTY_PAGES);
    let (b, second) = world.cloned("b.db");
    for sql in [
        "ALTER TABLE t RENAME TO u; UPDATE u SET v = printf('%0380d', -id)",
        "CREATE INDEX iv ON u(v); UPDATE u SET v = printf('%0381d', id)",
        "CREATE TABLE first(x); INSERT INTO first SELECT v FROM u; DELETE FROM u WHERE id < 5; VACUUM",
        "DROP TABLE u; DROP TABLE first; VACUUM",
        "CREATE TABLE anew(x); INSERT INTO anew VALUES (1)",
        "DROP TABLE anew",
        "CREATE TABLE once_more(y, z); INSERT INTO once_more VALUES (1, 2)",
    ] {
        stock(&a, sql);
        assert!(first.sync().unwrap().pushed.is_some(), "{sql}");
        assert!(second.sync().unwrap().pulled.is_some(), "{sql}");
        // What was pulled is what the other side is known by from now on.
        stock(&b, "CREATE TABLE IF NOT EXISTS here(x); INSERT INTO here VALUES (1)");
        assert!(second.sync().unwrap().pushed.is_some(), "{sql}");
        first.sync().unwrap();
        assert_same(&a, &b);
    }
}

#[test]
fn a_name_too_long_for_a_copy_is_an_error_and_no_endless_search() {
    let world = World::new();
    let (a, _) = world.published(&format!("{}.db", "n".repeat(232)), SCHEMA);
    let before = stock(&a, ".dump");
    let refused = Replica::repair(&a, Repair::TakeRemote, options());
    assert!(matches!(refused, Err(Error::Io { .. })), "{refused:?}");
    assert_eq!(stock(&a, ".dump"), before);
}

#[test]
fn a_new_database_is_not_made_for_a_remote_that_is_taken() {
    let world = World::new();
    world.published("a.db", SCHEMA);
    let new = world.path("new.db");
    let refused = Replica::init_new(&new, &world.remote(), options());
    assert!(matches!(refused, Err(Error::RemoteNotEmpty { .. })), "{refused:?}");
    assert!(!new.exists());
    stock(&new, "CREATE TABLE precious(x)");
    let refused = Replica::init_new(&new, &world.path("elsewhere").into_os_string(), options());
    assert!(refused.is_err());
    assert_eq!(value(&new, "SELECT count(*) FROM precious"), "0");
}

/// I7: also where the whole database has to come, only what differs is written.
#[test]
fn a_pull_by_snapshot_writes_only_what_differs() {
    let world = World::new();
    let (a, first) = world.published("a.db", TWENTY_PAGES);
    let (b, second) = world.cloned("b.db");
    for n in 0..3 {
        stock(&a, &format!("UPDATE t SET v = printf('%0380d', {n}) WHERE id = 100"));
        first.sync().unwrap();
    }
    let log = RemoteLog::open(&world.remote(), options()).unwrap();
    let report = log.compact(Duration::ZERO).unwrap();
    let report = if report.floor == anabranch::Lsn::ZERO {
        // Retention wants two snapshots.
        stock(&a, "UPDATE t SET v = printf('%0380d', 9) WHERE id = 100");
        first.sync().unwrap();
        log.compact(Duration::ZERO).unwrap()
    } else {
        report
    };
    let base = second.status(false, false).unwrap().position;
    let pulled = second.sync().unwrap().pulled.unwrap();
    if report.floor > base {
        assert!(pulled.pages <= 2, "{pulled:?}");
    }
    assert_same(&a, &b);
}

/// A power failure took back what an application had not synced, after it was pushed.
#[cfg(unix)]
#[test]
fn a_file_that_lost_the_end_of_its_wal_is_never_pushed() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    let script = "import sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute('PRAGMA synchronous = NORMAL')
for i in range(50):
    c.execute('INSERT INTO t(v) VALUES (hex(randomblob(400)))')
print('written', flush=True)
sys.stdin.read()";
    let mut app = std::process::Command::new("python3")
        .args(["-c", script])
        .arg(&a)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(app.stdout.as_mut().unwrap()),
        &mut line,
    )
    .unwrap();
    assert!(first.sync().unwrap().pushed.is_some());
    let before = history(&world);
    app.kill().unwrap();
    app.wait().unwrap();
    let wal = world.path("a.db-wal");
    let length = fs::metadata(&wal).unwrap().len();
    fs::OpenOptions::new().write(true).open(&wal).unwrap().set_len(length / 2).unwrap();
    let _ = fs::remove_file(world.path("a.db-shm"));
    let refused = first.sync();
    assert!(matches!(refused, Err(Error::FileIsOlder { .. })), "{refused:?}");
    assert_eq!(history(&world), before, "the loss is not pushed");
    Replica::repair(&a, Repair::TakeRemote, options()).unwrap();
    assert_eq!(value(&a, "SELECT count(*) FROM t"), "52");
}

/// What an application meets after a pull, as the README says.
#[test]
fn a_deferred_transaction_that_has_read_is_told_at_once_that_it_is_out_of_date() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    let (b, second) = world.cloned("b.db");
    let app = app(&b);
    app.busy_timeout(Duration::from_secs(60)).unwrap();
    app.execute_batch("BEGIN").unwrap();
    let rows = |app: &rusqlite::Connection| -> i64 {
        app.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
    };
    assert_eq!(rows(&app), 2);
    stock(&a, "INSERT INTO t(v) VALUES ('c')");
    first.sync().unwrap();
    second.sync().unwrap();
    assert_eq!(rows(&app), 2, "a reader goes on with the state it began with");
    let refused = app.execute("INSERT INTO t(v) VALUES ('d')", []).unwrap_err();
    assert_eq!(
        refused.sqlite_error().map(|e| e.extended_code),
        Some(rusqlite::ffi::SQLITE_BUSY_SNAPSHOT)
    );
    app.execute_batch("ROLLBACK; BEGIN IMMEDIATE; INSERT INTO t(v) VALUES ('d'); COMMIT").unwrap();
    assert_eq!(rows(&app), 4);
    assert!(second.sync().unwrap().pushed.is_some());
}

#[cfg(unix)]
#[test]
fn a_file_made_anew_under_the_same_inode_is_not_the_same_file() {
    use std::os::unix::fs::MetadataExt;
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    let (inode, content) = (fs::metadata(&a).unwrap().ino(), fs::read(&a).unwrap());
    // Most file systems give the number of a removed file to the next one.
    for _ in 0..50 {
        fs::remove_file(&a).unwrap();
        fs::write(&a, &content).unwrap();
        if fs::metadata(&a).unwrap().ino() == inode {
            break;
        }
    }
    stock(&a, "INSERT INTO t(v) VALUES ('c')");
    assert!(matches!(first.sync(), Err(Error::NotTheSameFile { .. })));
}

#[test]
fn a_repair_that_fails_leaves_a_strange_file_as_strange_as_it_was() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    let before = history(&world);
    replace_by_another(&world, &a);
    let app = rusqlite::Connection::open(&a).unwrap();
    app.execute_batch("BEGIN IMMEDIATE").unwrap();
    let hurried = Options { busy_timeout: Duration::from_millis(50), ..options() };
    assert!(Replica::repair(&a, Repair::TakeRemote, hurried).is_err());
    drop(app);
    assert!(matches!(first.sync(), Err(Error::NotTheSameFile { .. })));
    let away = world.path("away");
    fs::rename(world.path("remote"), &away).unwrap();
    assert!(Replica::repair(&a, Repair::Adopt, options()).is_err(), "the remote is gone");
    fs::rename(&away, world.path("remote")).unwrap();
    assert!(matches!(first.sync(), Err(Error::NotTheSameFile { .. })));
    assert_eq!(history(&world), before, "a foreign database is not pushed");
    let report = Replica::repair(&a, Repair::TakeRemote, options()).unwrap();
    assert_eq!(value(&report.kept.unwrap(), "SELECT x FROM secret"), "1");
    assert_eq!(value(&a, "SELECT count(*) FROM t"), "2");
}

/// Invariant I2, while the file is replaced: each row that was committed is in the copy or the file.
#[test]
fn what_is_committed_during_a_repair_is_kept() {
    let world = World::new();
    let filler = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
                  INSERT INTO t(v) SELECT hex(randomblob(500)) FROM n";
    let (a, _) = world.published("a.db", &format!("{SCHEMA}; CREATE TABLE live(i); {filler}"));
    let (stop, writing) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let writer = {
        let (a, stop, writing) = (a.clone(), stop.clone(), writing.clone());
        std::thread::spawn(move || {
            let app = rusqlite::Connection::open(&a).unwrap();
            app.busy_timeout(Duration::from_secs(30)).unwrap();
            let mut committed = Vec::new();
            while !stop.load(Ordering::SeqCst) {
                let i = writing.fetch_add(1, Ordering::SeqCst);
                match app.execute("INSERT INTO live VALUES (?1)", [i]) {
                    Ok(_) => committed.push(i),
                    Err(e) => {
                        assert_eq!(e.sqlite_error_code(), Some(rusqlite::ErrorCode::DatabaseBusy))
                    }
                }
            }
            committed
        })
    };
    while writing.load(Ordering::SeqCst) < 3 {
        std::thread::yield_now();
    }
    let report = Replica::repair(&a, Repair::TakeRemote, options()).unwrap();
    stop.store(true, Ordering::SeqCst);
    let committed = writer.join().unwrap();
    let kept = report.kept.unwrap();
    let rows = |db: &Path| stock(db, "SELECT i FROM live");
    let there: HashSet<String> = [rows(&kept), rows(&a)]
        .iter()
        .flat_map(|s| s.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    for i in &committed {
        assert!(there.contains(&i.to_string()), "row {i} of {}", committed.len());
    }
    assert_eq!(value(&kept, "PRAGMA integrity_check"), "ok");
    assert_eq!(value(&a, "PRAGMA integrity_check"), "ok");
}

#[test]
fn a_log_left_by_an_earlier_database_is_not_played_into_a_new_one() {
    let world = World::new();
    let (_, first) = world.published("a.db", SCHEMA);
    let (b, _) = (world.path("b.db"), ());
    for suffix in ["-wal", "-journal"] {
        let left = world.path(&format!("b.db{suffix}"));
        fs::write(&left, b"what a program that died has left").unwrap();
        let refused = Replica::clone_from(&world.remote(), &b, options());
        assert!(matches!(refused, Err(Error::LeftBehind { .. })), "{refused:?}");
        let log = RemoteLog::open(&world.remote(), options()).unwrap();
        let refused = log.restore(&b, anabranch::At::Head);
        assert!(matches!(refused, Err(Error::LeftBehind { .. })), "{refused:?}");
        assert!(!b.exists() && !world.path("b.db-anabranch").exists());
        fs::write(&left, b"").unwrap();
    }
    Replica::clone_from(&world.remote(), &b, options()).unwrap();
    first.sync().unwrap();
}

#[test]
fn a_push_that_was_given_up_by_a_repair_is_never_settled() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    let old = fs::read(&a).unwrap();
    stock(&a, "INSERT INTO t(v) VALUES ('c')");
    first.sync().unwrap();
    // As if the push had not been heard of: the sidecar is the one from before, with its intent.
    overwrite(&a, &old);
    assert!(first.sync().is_err());
    Replica::repair(&a, Repair::Keep, options()).unwrap();
    assert!(first.sync().unwrap().pushed.is_some(), "the reversal is pushed, as asked");
    let (b, _) = world.cloned("b.db");
    assert_same(&a, &b);
}

#[cfg(unix)]
#[test]
fn a_name_that_looks_like_an_address_is_a_name() {
    let world = World::new();
    let (odd, plain) = (world.path("file:x.db"), world.path("x.db"));
    stock(&plain, "CREATE TABLE plain(x)");
    fs::copy(&plain, &odd).unwrap();
    let before = fs::read(&plain).unwrap();
    std::env::set_current_dir(world.path("")).unwrap();
    Replica::init(Path::new("file:x.db"), &world.remote(), options()).unwrap();
    assert!(world.path("file:x.db-anabranch").exists());
    assert!(!world.path("x.db-anabranch").exists() && fs::read(&plain).unwrap() == before);
}

#[test]
fn a_replica_copied_with_its_sidecar_is_a_second_one_only_if_told_so() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    let copy = world.path("copy.db");
    for suffix in ["", "-anabranch", "-anabranch-wal"] {
        let from = PathBuf::from(format!("{}{suffix}", a.display()));
        if from.exists() {
            fs::copy(&from, format!("{}{suffix}", copy.display())).unwrap();
        }
    }
    let second = Replica::open(&copy, options()).unwrap();
    assert!(matches!(second.sync(), Err(Error::NotTheSameFile { .. })));
    Replica::repair(&copy, Repair::Adopt, options()).unwrap();
    stock(&copy, "INSERT INTO t(v) VALUES ('from the copy')");
    assert!(second.sync().unwrap().pushed.is_some());
    assert!(first.sync().unwrap().pulled.is_some());
    assert_same(&a, &copy);
    let writers: Vec<_> =
        [&first, &second].iter().map(|r| r.status(false, false).unwrap().replica).collect();
    assert_ne!(writers[0], writers[1], "each has an identity of its own");
}

#[test]
fn a_renamed_replica_goes_on_under_its_new_name() {
    let world = World::new();
    let (a, _) = world.published("a.db", SCHEMA);
    let moved = world.path("with a space.db");
    for suffix in ["", "-anabranch", "-anabranch-wal", "-anabranch-shm"] {
        let from = format!("{}{suffix}", a.display());
        if Path::new(&from).exists() {
            fs::rename(&from, format!("{}{suffix}", moved.display())).unwrap();
        }
    }
    assert!(matches!(Replica::open(&a, options()), Err(Error::File(FileError::Missing { .. }))));
    let replica = Replica::open(&moved, options()).unwrap();
    stock(&moved, "INSERT INTO t(v) VALUES ('c')");
    assert!(replica.sync().unwrap().pushed.is_some());
}

#[cfg(unix)]
#[test]
fn a_symbolic_link_means_the_file_it_leads_to() {
    let world = World::new();
    let (a, _) = world.published("a.db", SCHEMA);
    let link = world.path("link.db");
    std::os::unix::fs::symlink(&a, &link).unwrap();
    let replica = Replica::open(&link, options()).unwrap();
    stock(&link, "INSERT INTO t(v) VALUES ('c')");
    assert!(replica.sync().unwrap().pushed.is_some());
    assert!(!world.path("link.db-anabranch").exists(), "one file has one sidecar");
}

#[cfg(unix)]
#[test]
fn names_of_databases_need_not_be_unicode() {
    use std::os::unix::ffi::OsStrExt;
    let world = World::new();
    let folder = world.path("x").with_file_name(std::ffi::OsStr::from_bytes(b"caf\xe9 \xff"));
    fs::create_dir(&folder).unwrap();
    let (db, copy) = (folder.join("a.db"), folder.join("b.db"));
    stock(&world.path("plain.db"), SCHEMA);
    fs::rename(world.path("plain.db"), &db).unwrap();
    let refused = Replica::init(&db, folder.join("remote").as_os_str(), options());
    assert!(matches!(refused, Err(Error::Usage(_))), "a remote's path does: {refused:?}");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing was made");
    Replica::init(&db, &world.remote(), options()).unwrap();
    Replica::clone_from(&world.remote(), &copy, options()).unwrap();
    let replica = Replica::open(&copy, options()).unwrap();
    assert!(replica.sync().unwrap().offline.is_none());
}

#[test]
fn a_damaged_sidecar_is_an_error_wherever_the_damage_is() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    stock(&a, "INSERT INTO t(v) VALUES ('c')");
    first.sync().unwrap();
    let sidecar = world.path("a.db-anabranch");
    // Everything into one file, so that every byte of it is in use.
    stock(&sidecar, "PRAGMA wal_checkpoint(TRUNCATE)");
    for extra in ["-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{extra}", sidecar.display()));
    }
    let good = fs::read(&sidecar).unwrap();
    let before = (history(&world), stock(&a, ".dump"));
    stock(&a, "UPDATE t SET v = 'changed' WHERE id = 1");
    let changed = stock(&a, ".dump");
    for at in (0..good.len()).step_by(97) {
        for extra in ["-wal", "-shm"] {
            let _ = fs::remove_file(format!("{}{extra}", sidecar.display()));
        }
        let mut bad = good.clone();
        bad[at] ^= 0x5a;
        overwrite(&sidecar, &bad);
        // Much of the file is free space, where a flipped bit means nothing; but no lie is pushed.
        let status = Replica::open(&a, options()).and_then(|r| r.status(false, false));
        if let Ok(status) = status {
            assert_eq!(status.local_pages, 1, "byte {at}");
        }
    }
    overwrite(&sidecar, &good[..good.len() / 2]);
    assert!(Replica::open(&a, options()).and_then(|r| r.sync()).is_err());
    assert_eq!(history(&world), before.0);
    assert_eq!(stock(&a, ".dump"), changed);
}

#[test]
fn a_sidecar_that_never_held_anything_is_none() {
    let world = World::new();
    let db = world.path("a.db");
    stock(&db, SCHEMA);
    for sql in ["", "PRAGMA journal_mode = WAL"] {
        fs::write(world.path("a.db-anabranch"), b"").unwrap();
        stock(&world.path("a.db-anabranch"), sql);
        let refused = Replica::open(&db, options());
        assert!(matches!(refused, Err(Error::NotAReplica { .. })), "{refused:?}");
    }
    let (replica, _) = Replica::init(&db, &world.remote(), options()).unwrap();
    assert!(replica.sync().unwrap().pushed.is_none());
}

#[test]
fn a_lost_sidecar_is_made_anew_from_the_log() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    let (_, second) = world.cloned("b.db");
    stock(&a, "INSERT INTO t(v) VALUES ('c')");
    first.sync().unwrap();
    for extra in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}-anabranch{extra}", a.display()));
    }
    assert!(matches!(first.sync(), Err(Error::NotAReplica { .. })));
    second.sync().unwrap();
    stock(&world.path("b.db"), "INSERT INTO t(v) VALUES ('d')");
    second.sync().unwrap();
    let relink = Repair::Relink { remote: world.remote() };
    Replica::repair(&a, relink.clone(), options()).unwrap();
    assert!(first.sync().unwrap().pulled.is_some());
    assert_same(&a, &world.path("b.db"));
    let stranger = world.path("stranger.db");
    stock(&stranger, "CREATE TABLE s(x)");
    let refused = Replica::repair(&stranger, relink, options());
    assert!(matches!(refused, Err(Error::UnknownState { .. })), "{refused:?}");
}

#[test]
fn a_damaged_object_is_named_and_changes_nothing() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    let (b, second) = world.cloned("b.db");
    stock(&a, "INSERT INTO t(v) VALUES ('c')");
    first.sync().unwrap();
    let segment = segments(&world).pop().unwrap();
    let good = fs::read(&segment).unwrap();
    let dump = stock(&b, ".dump");
    for (at, byte) in good.iter().enumerate() {
        let mut file = fs::OpenOptions::new().write(true).open(&segment).unwrap();
        file.seek(SeekFrom::Start(at as u64)).unwrap();
        file.write_all(&[byte ^ 0x10]).unwrap();
        match second.pull() {
            Err(e) => {
                let text = format!("{e:?}");
                assert!(!text.contains("Panicked"), "byte {at}: {text}");
            }
            // A flipped bit in a field that nobody relies on, such as a clock, is no damage.
            Ok(_) => {
                Replica::repair(&b, Repair::TakeRemote, options()).ok();
                assert_same(&a, &b);
                return;
            }
        }
        assert_eq!(stock(&b, ".dump"), dump, "byte {at}");
        file.seek(SeekFrom::Start(at as u64)).unwrap();
        file.write_all(&[*byte]).unwrap();
    }
    for len in [0, 1, 7, 8, 100, good.len() - 1] {
        overwrite(&segment, &good[..len]);
        let error = second.pull().unwrap_err();
        assert!(format!("{error}").contains(".wal.zst"), "names the object: {error}");
    }
    overwrite(&segment, &good);
    second.pull().unwrap();
    assert_same(&a, &b);
}

#[test]
fn the_remote_of_another_database_is_refused() {
    let world = World::new();
    let (_, first) = world.published("a.db", SCHEMA);
    let (other, elsewhere) = (world.path("o.db"), world.path("elsewhere"));
    stock(&other, SCHEMA);
    Replica::init(&other, elsewhere.as_os_str(), options()).unwrap();
    let refused = Replica::init(&world.path("x.db"), &world.remote(), options());
    assert!(matches!(refused, Err(Error::File(FileError::Missing { .. }))));
    let third = world.path("third.db");
    stock(&third, SCHEMA);
    let refused = Replica::init(&third, &world.remote(), options());
    assert!(matches!(refused, Err(Error::RemoteNotEmpty { .. })), "{refused:?}");
    assert!(!world.path("third.db-anabranch").exists(), "the file is as it was");
    let mut first = first;
    let refused = first.set_remote(elsewhere.as_os_str(), true);
    assert!(matches!(refused, Err(Error::OtherDatabase { .. })), "{refused:?}");
    fs::remove_dir_all(world.path("remote")).unwrap();
    fs::rename(&elsewhere, world.path("remote")).unwrap();
    assert!(matches!(first.sync(), Err(Error::OtherDatabase { .. })));
}

#[test]
fn an_older_copy_of_the_remote_is_refused() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    stock(&a, "INSERT INTO t(v) VALUES ('c')");
    first.sync().unwrap();
    let newest = segments(&world).pop().unwrap();
    fs::remove_file(newest).unwrap();
    stock(&a, "INSERT INTO t(v) VALUES ('d')");
    let refused = first.sync();
    assert!(refused.is_err(), "a push would leave a gap that nobody can cross: {refused:?}");
}

#[test]
fn a_changed_page_size_is_refused() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    stock(&a, "PRAGMA journal_mode = DELETE; PRAGMA page_size = 8192; VACUUM");
    assert!(matches!(first.sync(), Err(Error::PageSizeChanged { .. })));
}

#[test]
fn a_database_taken_out_of_wal_mode_is_put_back_with_a_word() {
    let world = World::new();
    let (a, first) = world.published("a.db", SCHEMA);
    stock(&a, "PRAGMA journal_mode = DELETE; INSERT INTO t(v) VALUES ('c')");
    let report = first.sync().unwrap();
    assert!(report.pushed.is_some() && !report.notes.is_empty());
    assert_eq!(value(&a, "PRAGMA journal_mode"), "wal");
}

#[test]
fn nonsense_is_refused_before_anything_is_made() {
    let world = World::new();
    let text = world.path("text");
    fs::write(&text, "not a database, but long enough to be one ".repeat(200)).unwrap();
    for (file, name) in [(text, "text"), (world.path(""), "a folder"), (world.path("no"), "no")] {
        let refused = Replica::init(&file, &world.remote(), options());
        assert!(refused.is_err(), "{name}");
        assert!(!world.path("remote").exists(), "{name} left a remote behind");
    }
    let clone = |remote: &str, file: &str| {
        Replica::clone_from(os(remote), &world.path(file), options()).map(|_| ())
    };
    assert!(clone("ftp://host/path", "x.db").is_err());
    assert!(clone("/does/not/exist", "x.db").is_err());
    assert!(!world.path("x.db").exists());
    let (_, _) = world.published("a.db", SCHEMA);
    let remote = world.remote();
    let remote = remote.to_str().unwrap();
    assert!(matches!(clone(remote, "a.db"), Err(Error::TargetExists { .. })));
    assert!(clone(remote, "no/such/folder.db").is_err());
    let again = Replica::init(&world.path("a.db"), &world.remote(), options());
    assert!(matches!(again, Err(Error::AlreadyAReplica { .. })));
}

#[test]
fn nothing_is_restored_over_an_existing_file() {
    let world = World::new();
    let (a, _) = world.published("a.db", SCHEMA);
    let log = RemoteLog::open(&world.remote(), options()).unwrap();
    let dump = stock(&a, ".dump");
    assert!(matches!(log.restore(&a, anabranch::At::Head), Err(Error::TargetExists { .. })));
    assert_eq!(stock(&a, ".dump"), dump);
    log.restore(&world.path("r.db"), anabranch::At::Head).unwrap();
    assert_same(&a, &world.path("r.db"));
}

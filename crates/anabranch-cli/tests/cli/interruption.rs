//! Ctrl-C, SIGTERM, and readers that go away.
#![cfg(unix)]

use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::yard::{PROGRAM, Yard};

/// Waits until `ready`, which must happen.
fn wait(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !ready() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How many operations the sidecar of `file` remembers as begun and not settled.
fn intents(yard: &Yard, file: &str) -> i64 {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let sidecar = yard.path(format!("{file}-anabranch"));
    let Ok(conn) = Connection::open_with_flags(sidecar, flags) else { return 0 };
    conn.query_row("SELECT count(*) FROM intent", [], |row| row.get(0)).unwrap_or(0)
}

fn spawn(yard: &Yard, args: &[&str], fail_points: &str) -> Child {
    Command::new(PROGRAM)
        .args(args)
        .current_dir(yard.path("."))
        .env("FAILPOINTS", fail_points)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

fn end(mut child: Child) -> (Option<i32>, String) {
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (child.wait().unwrap().code(), said)
}

#[test]
fn an_interrupted_sync_says_that_nothing_is_to_be_done_and_the_next_goes_on() {
    if !fail::has_failpoints() {
        return;
    }
    for (name, code) in [("-INT", 130), ("-TERM", 143)] {
        let yard = Yard::published();
        yard.sql("a.db", "DELETE FROM note WHERE id = 1");
        // Longer than the test may take: only the signal ends it.
        let child = spawn(&yard, &["sync", "a.db"], "push::after-intent=sleep(600000)");
        wait("the intent", || intents(&yard, "a.db") > 0);
        signal(&child, name);
        let (ended, said) = end(child);
        assert_eq!(ended, Some(code), "{said}");
        assert_eq!(said, "interrupted; nothing to do: the next sync goes on from here\n");

        let report = yard.json(["sync", "a.db"]);
        assert!(report["pushed"]["pages"].as_u64().unwrap() > 0, "{report}");
        yard.ok(["sync", "b.db"]);
        assert_eq!(yard.number("b.db", "SELECT count(*) FROM note"), 99);
        assert_eq!(intents(&yard, "a.db"), 0);
    }
}

/// Whether somebody holds the write lock of a database just now.
fn is_locked(yard: &Yard, file: &str) -> bool {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
    let Ok(conn) = Connection::open_with_flags(yard.path(file), flags) else { return false };
    let asked =
        conn.busy_timeout(Duration::ZERO).and_then(|()| conn.execute_batch("BEGIN IMMEDIATE"));
    asked.is_err_and(|e| e.sqlite_error_code() == Some(ErrorCode::DatabaseBusy))
}

/// How one can tell that a rebase has come to a crash point.
#[derive(Clone, Copy)]
enum Seen {
    /// The sidecar's transaction is open.
    Staging,
    /// Nobody else can write.
    Locked,
    /// The intent is there.
    Intent,
    /// So is the result.
    Applied,
}

#[test]
fn an_interrupted_rebase_has_changed_nothing_or_is_complete_and_the_next_sync_goes_on() {
    if !fail::has_failpoints() {
        return;
    }
    for (point, seen) in [
        ("rebase::after-base-pages", Seen::Staging),
        ("rebase::computed", Seen::Staging),
        ("apply::under-lock", Seen::Locked),
        ("rebase::under-lock", Seen::Intent),
        ("apply::before-commit", Seen::Intent),
        ("apply::after-commit", Seen::Applied),
        ("rebase::after-commit", Seen::Applied),
    ] {
        let yard = Yard::published();
        yard.sql(
            "a.db",
            "UPDATE note SET body = 'a' WHERE id <= 2; DELETE FROM note WHERE id = 50",
        );
        yard.ok(["sync", "a.db"]);
        yard.sql("b.db", "UPDATE note SET body = 'b' WHERE id BETWEEN 2 AND 3");
        yard.sql("b.db", "INSERT INTO note(body) VALUES ('b')");
        let theirs = "SELECT count(*) FROM note WHERE body = 'a'";
        let mine = "SELECT count(*) FROM note WHERE body = 'b'";

        let child = spawn(&yard, &["sync", "b.db"], &format!("{point}=sleep(600000)"));
        wait(point, || match seen {
            Seen::Staging => is_locked(&yard, "b.db-anabranch"),
            Seen::Locked => is_locked(&yard, "b.db"),
            Seen::Intent => intents(&yard, "b.db") > 0,
            Seen::Applied => yard.number("b.db", theirs) > 0,
        });
        signal(&child, "-INT");
        let (ended, said) = end(child);
        assert_eq!(ended, Some(130), "{point}: {said}");
        assert_eq!(
            said, "interrupted; nothing to do: the next sync goes on from here\n",
            "{point}"
        );

        let merged = matches!(seen, Seen::Applied);
        let rows = "SELECT count(*) FROM note";
        let found = [rows, theirs, mine].map(|sql| yard.number("b.db", sql));
        assert_eq!(found, if merged { [100, 1, 3] } else { [101, 0, 3] }, "{point}");
        for file in ["b.db", "a.db", "b.db"] {
            yard.ok(["sync", file]);
        }
        for file in ["a.db", "b.db"] {
            let found = [rows, theirs, mine].map(|sql| yard.number(file, sql));
            assert_eq!(found, [100, 1, 3], "{point}: {file}");
        }
        let conflicts = yard.json(["conflicts", "b.db", "--all"]);
        assert_eq!(conflicts["conflicts"].as_array().unwrap().len(), 1, "{point}: {conflicts}");
        assert_eq!(intents(&yard, "b.db"), 0, "{point}");
    }
}

#[test]
fn an_interrupted_clone_can_be_given_again() {
    if !fail::has_failpoints() {
        return;
    }
    let yard = Yard::published();
    let point = "clone::after-sidecar=sleep(600000)";
    let child = spawn(&yard, &["clone", "river", "c.db", "--json"], point);
    wait("the sidecar", || yard.path("c.db-anabranch").exists());
    signal(&child, "-INT");
    let (ended, said) = end(child);
    assert_eq!(ended, Some(130), "{said}");
    assert!(said.contains("\"code\":\"interrupted\""), "{said}");
    yard.ok(["clone", "river", "c.db"]);
    assert_eq!(yard.number("c.db", "SELECT count(*) FROM note"), 100);
    yard.ok(["sync", "c.db"]);
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    let yard = Yard::published();
    for args in [&["log", "river"][..], &["status", "a.db"], &["--help"], &["completions", "bash"]]
    {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Command::new(PROGRAM)
            .args(args)
            .current_dir(yard.path("."))
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*said), (Some(0), ""), "{args:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn output_that_cannot_be_written_is_an_error() {
    let yard = Yard::published();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = Command::new(PROGRAM)
        .args(["log", "river"])
        .current_dir(yard.path("."))
        .stdout(full)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("writing the output failed"), "{said}");
}

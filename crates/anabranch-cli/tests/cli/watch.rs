//! `watch`: what it prints, how it ends, and what it leaves behind when it is killed.
#![cfg(unix)]

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rusqlite::Connection;
use serde_json::Value;

use crate::yard::{PROGRAM, Yard};

/// What takes longer does not happen.
const DEADLINE: Duration = Duration::from_secs(120);

/// A watch that runs.
struct Watch {
    child: Child,
    lines: Receiver<String>,
}

impl Watch {
    fn start(yard: &Yard, args: &[&str], fail_points: &str) -> Watch {
        let mut child = Command::new(PROGRAM)
            .arg("watch")
            .args(args)
            .current_dir(yard.path("."))
            .env("FAILPOINTS", fail_points)
            .env_remove("ANABRANCH_LOG")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (tell, lines) = channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in out.lines() {
                if tell.send(line.unwrap()).is_err() {
                    return;
                }
            }
        });
        Watch { child, lines }
    }

    /// The next line of this event, as JSON.
    fn event(&mut self, name: &str) -> Value {
        loop {
            let line = self.lines.recv_timeout(DEADLINE).unwrap_or_else(|e| {
                let mut said = String::new();
                self.child.kill().unwrap();
                self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
                panic!("no '{name}': {e}: {said}")
            });
            let value: Value =
                serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
            if value["event"] == name {
                return value;
            }
        }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(DEADLINE).unwrap()
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }

    /// Its exit code, and what it said on standard error.
    fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Whatever the test found out; if it has ended already there is nobody to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_watch_tells_of_each_sync_and_ends_cleanly_when_it_is_told_to() {
    for signal in ["-INT", "-TERM"] {
        let yard = Yard::published();
        let mut watch = Watch::start(&yard, &["a.db", "--json"], "");
        assert_eq!(watch.event("watching")["file"], "a.db");
        yard.sql("a.db", "DELETE FROM note WHERE id = 1");
        let synced = watch.event("synced");
        assert!(synced["pushed"]["pages"].as_u64().unwrap() > 0, "{synced}");
        assert!(synced["position"].is_u64() && synced["ms"].is_u64(), "{synced}");
        yard.ok(["sync", "b.db"]);
        yard.sql("b.db", "DELETE FROM note WHERE id = 2");
        yard.ok(["sync", "b.db"]);
        assert!(watch.event("synced")["pulled"]["pages"].as_u64().unwrap() > 0);
        yard.sql("a.db", "DELETE FROM note WHERE id = 3");
        watch.signal(signal);
        assert_eq!(watch.event("stopped")["state"], "in-step");
        assert_eq!(watch.end(), (Some(0), String::new()));
        // I4b: what was committed before the signal is out.
        yard.ok(["sync", "b.db"]);
        assert_eq!(yard.number("b.db", "SELECT count(*) FROM note"), 97);
    }
}

#[test]
fn people_get_a_line_for_each_event_and_quiet_ones_none() {
    let yard = Yard::published();
    let watch = Watch::start(&yard, &["a.db", "b.db"], "");
    let mut begun = [watch.line(), watch.line()];
    begun.sort();
    assert!(begun[0].starts_with("a.db: in step at position "), "{begun:?}");
    assert!(begun[1].starts_with("b.db: in step at position "), "{begun:?}");
    yard.sql("a.db", "DELETE FROM note WHERE id = 1");
    let mut moved = [watch.line(), watch.line()];
    moved.sort();
    assert!(moved[0].starts_with("a.db: pushed ") && moved[0].ends_with(" ms"), "{moved:?}");
    assert!(moved[1].starts_with("b.db: pulled ") && moved[1].ends_with(" ms"), "{moved:?}");
    watch.signal("-INT");
    assert!(watch.line().ends_with(": stopped: in step"));
    assert_eq!(watch.end(), (Some(0), String::new()));

    let quiet = Watch::start(&yard, &["a.db", "--quiet"], "");
    yard.sql("a.db", "DELETE FROM note WHERE id = 5");
    let conn = Connection::open(yard.path("b.db")).unwrap();
    let begun = std::time::Instant::now();
    while conn.query_row("SELECT count(*) FROM note", [], |r| r.get::<_, i64>(0)).unwrap() != 98 {
        assert!(begun.elapsed() < DEADLINE);
        yard.ok(["sync", "b.db"]);
    }
    quiet.signal("-TERM");
    assert!(quiet.lines.recv_timeout(DEADLINE).is_err(), "not a word");
    assert_eq!(quiet.end(), (Some(0), String::new()));
}

#[test]
fn the_exit_code_tells_what_is_not_in_step_at_the_end() {
    let yard = Yard::published();
    std::fs::rename(yard.path("river"), yard.path("elsewhere")).unwrap();
    yard.sql("a.db", "DELETE FROM note WHERE id = 1");
    let mut watch = Watch::start(&yard, &["a.db", "--json"], "");
    assert_eq!(watch.event("offline")["pages_to_push"], 1);
    watch.signal("-INT");
    assert_eq!(watch.event("stopped")["state"], "offline");
    assert_eq!(watch.end().0, Some(4));
    std::fs::rename(yard.path("elsewhere"), yard.path("river")).unwrap();

    yard.sql("b.db", "UPDATE note SET body = 'b' WHERE id = 2");
    yard.ok(["sync", "b.db"]);
    yard.sql("a.db", "UPDATE note SET body = 'a' WHERE id = 2");
    yard.ok(["config", "a.db", "conflict = abort"]);
    let mut watch = Watch::start(&yard, &["a.db", "--json", "--interval", "0"], "");
    let reason = watch.event("diverged")["reason"].to_string();
    assert!(reason.contains("table note"), "{reason}");
    watch.signal("-INT");
    assert_eq!(watch.event("stopped")["state"], "diverged");
    assert_eq!(watch.end().0, Some(3));

    let watch = Watch::start(&yard, &["none.db", "--json"], "");
    let (code, said) = watch.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("\"error\""), "{said}");
}

/// I5: killed anywhere, the next watch recovers and goes on.
#[test]
fn a_watch_that_is_killed_anywhere_is_taken_up_by_the_next() {
    if !fail::has_failpoints() {
        return;
    }
    let push = [
        "push::after-intent",
        "append::before-put",
        "append::after-put",
        "push::after-append",
        "settle::before-commit",
        "settle::after-commit",
    ];
    let pull = [
        "pull::after-fetch",
        "apply::under-lock",
        "pull::under-lock",
        "apply::before-commit",
        "apply::after-commit",
        "pull::after-commit",
        "settle::before-commit",
    ];
    let all =
        push.iter().map(|p| (p, "a.db", "b.db")).chain(pull.iter().map(|p| (p, "b.db", "a.db")));
    let yard = Yard::published();
    let mut rows = 100;
    for (point, watched, other) in all {
        let mut watch = Watch::start(&yard, &[watched, "--json"], &format!("{point}=return"));
        watch.event("watching");
        // What `a.db` gets is pushed from there, by the watch or for it.
        yard.sql("a.db", "INSERT INTO note(body) VALUES (hex(randomblob(100)))");
        rows += 1;
        if watched == "b.db" {
            yard.ok(["sync", other]);
        }
        let (code, said) = watch.end();
        assert_eq!(code, None, "{point} is not reached: {said}");
        yard.sql("a.db", "INSERT INTO note(body) VALUES (hex(randomblob(100)))");
        rows += 1;
        let mut watch = Watch::start(&yard, &[watched, "--json"], "");
        watch.event("watching");
        if watched == "b.db" {
            yard.ok(["sync", other]);
        }
        watch.signal("-INT");
        let (code, said) = watch.end();
        assert_eq!(code, Some(0), "{point}: {said}");
        for file in ["a.db", "b.db"] {
            yard.ok(["sync", file]);
            assert_eq!(yard.number(file, "SELECT count(*) FROM note"), rows, "{point} {file}");
        }
    }
    for file in ["a.db", "b.db"] {
        let verified = yard.json(["verify", file]);
        assert_eq!(verified["damaged"], serde_json::json!([]), "{verified}");
    }
}

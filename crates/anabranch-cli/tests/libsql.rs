//! The program against a server that speaks only the libSQL dialect: killed at each of the crash
//! points that this dialect adds, it goes on where it was.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(dead_code, unreachable_pub, reason = "the server is another crate's test's")]

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use rusqlite::Connection;
use rusqlite::config::DbConfig;

#[path = "../../anabranch/tests/libsql/server.rs"]
mod server;

use server::{FRAME, Server};

const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t(v) VALUES ('a')";

fn anabranch(point: Option<&str>, args: &[&Path]) -> std::process::Output {
    let mut command = Command::cargo_bin("anabranch").unwrap();
    command.env_remove("FAILPOINTS").args(args);
    if let Some(point) = point {
        command.env("FAILPOINTS", format!("{point}=return"));
    }
    command.output().unwrap()
}

fn done(args: &[&Path]) -> String {
    let out = anabranch(None, args);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{args:?}: {said}");
    String::from_utf8(out.stdout).unwrap()
}

fn killed(point: &str, args: &[&Path]) {
    let out = anabranch(Some(point), args);
    assert_eq!(out.status.code(), None, "{point}: {}", String::from_utf8_lossy(&out.stderr));
}

fn p(text: &str) -> &Path {
    Path::new(text)
}

fn run(db: &Path, sql: &str) {
    Connection::open(db).unwrap().execute_batch(sql).unwrap();
}

fn count(db: &Path) -> i64 {
    let conn = Connection::open(db).unwrap();
    conn.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
}

fn beside(db: &Path, suffix: &str) -> PathBuf {
    let mut name = db.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A file as an official client leaves it: one transaction pushed, one not.
fn official(server: &Server, db: &Path) {
    let base = server.state().generations[0].base.clone();
    official_with(&base, db, |frames| server.state().generations[0].frames = frames);
}

/// The same, where `push` takes the frames of the first transaction.
fn official_with(base: &[u8], db: &Path, push: impl FnOnce(Vec<Vec<u8>>)) {
    std::fs::write(db, base).unwrap();
    let conn = Connection::open(db).unwrap();
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    conn.execute_batch("PRAGMA wal_autocheckpoint = 0; BEGIN;").unwrap();
    conn.execute_batch(SCHEMA).unwrap();
    conn.execute_batch("COMMIT").unwrap();
    let wal = std::fs::read(beside(db, "-wal")).unwrap();
    let frames: Vec<Vec<u8>> = wal[32..].chunks_exact(FRAME).map(<[u8]>::to_vec).collect();
    let durable = frames.len();
    push(frames);
    conn.execute_batch("INSERT INTO t(v) VALUES ('unpushed')").unwrap();
    conn.close().unwrap();
    assert_eq!(durable, 2);
    // CRC-32 of version 0, frame 2, generation 1.
    let info = r#"{"hash":HASH,"version":0,"durable_frame_num":2,"generation":1}"#;
    std::fs::write(beside(db, "-info"), info.replace("HASH", &crc32(&[0, 2, 1]).to_string()))
        .unwrap();
}

fn crc32(words: &[u32]) -> u32 {
    let mut crc = !0u32;
    for byte in words.iter().flat_map(|word| word.to_le_bytes()) {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

#[test]
fn an_adoption_that_was_killed_is_gone_on_with_by_the_next_adoption_or_sync() {
    for point in ["adopt::after-sidecar", "adopt::after-info"] {
        for next in ["adopt", "sync"] {
            let (folder, server) = (tempfile::tempdir().unwrap(), Server::empty());
            let (db, url) = (folder.path().join("app.db"), server.url());
            official(&server, &db);
            killed(point, &[p("adopt"), &db, p("--remote"), p(&url)]);
            if next == "adopt" {
                done(&[p("adopt"), &db, p("--remote"), p(&url)]);
            }
            done(&[p("sync"), &db]);
            assert!(!beside(&db, "-info").exists());
            assert!(beside(&db, "-info.adopted-1").exists(), "{point} {next}");
            let other = folder.path().join("other.db");
            done(&[p("clone"), p(&url), &other]);
            assert_eq!((count(&db), count(&other)), (2, 2), "{point} {next}");
        }
    }
}

#[test]
fn a_client_that_went_on_after_an_adoption_was_killed_keeps_its_file() {
    let (folder, server) = (tempfile::tempdir().unwrap(), Server::empty());
    let (db, url) = (folder.path().join("app.db"), server.url());
    official(&server, &db);
    killed("adopt::after-sidecar", &[p("adopt"), &db, p("--remote"), p(&url)]);
    // The client pushed what it had.
    let wal = std::fs::read(beside(&db, "-wal")).unwrap();
    let frames: Vec<Vec<u8>> = wal[32..].chunks_exact(FRAME).map(<[u8]>::to_vec).collect();
    let info = r#"{"hash":HASH,"version":0,"durable_frame_num":3,"generation":1}"#;
    let hash = crc32(&[0, 3, 1]).to_string();
    std::fs::write(beside(&db, "-info"), info.replace("HASH", &hash)).unwrap();
    server.state().generations[0].frames = frames;
    let out = anabranch(None, &[p("sync"), &db, p("--json")]);
    assert!(String::from_utf8_lossy(&out.stderr).contains("adoption-unfinished"));
    let said = done(&[p("adopt"), &db, p("--remote"), p(&url)]);
    assert!(said.contains("nothing to push"), "{said}");
    done(&[p("sync"), &db]);
    assert_eq!(server.end(), (1, 3));
}

#[test]
fn a_push_that_was_killed_arrives_once() {
    let many = "INSERT INTO t(v) SELECT randomblob(3000) FROM (WITH RECURSIVE c(n) AS \
                (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 200) SELECT n FROM c)";
    for point in ["libsql::mid-push", "libsql::before-commit", "push::after-append"] {
        let (folder, server) = (tempfile::tempdir().unwrap(), Server::empty());
        let (db, other) = (folder.path().join("a.db"), folder.path().join("b.db"));
        let url = server.url();
        run(&db, SCHEMA);
        done(&[p("init"), &db, p("--remote"), p(&url)]);
        done(&[p("clone"), p(&url), &other]);
        run(&db, many);
        killed(point, &[p("sync"), &db]);
        done(&[p("sync"), &db]);
        done(&[p("sync"), &other]);
        assert_eq!((count(&db), count(&other)), (201, 201), "{point}");
    }
}

/// The program as a server, ended with the test.
struct Serving(std::process::Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One request over a connection of its own; status and body of the answer.
fn request(address: &str, method: &str, path: &str, body: &[u8]) -> Option<(u16, Vec<u8>)> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let split = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let status = std::str::from_utf8(&answer[9..12]).ok()?.parse().ok()?;
    Some((status, answer.split_off(split + 4)))
}

#[test]
fn a_file_of_an_official_client_goes_on_in_our_dialect_where_the_server_speaks_it() {
    let folder = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let program = assert_cmd::cargo::cargo_bin("anabranch");
    let serving = std::process::Command::new(program)
        .args(["serve", "--listen", &address, "--data"])
        .arg(folder.path().join("data"))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut serving = Serving(serving);
    while request(&address, "GET", "/livez", b"").is_none() {
        assert!(serving.0.try_wait().unwrap().is_none(), "the server ended");
        std::thread::yield_now();
    }
    let (db, other) = (folder.path().join("app.db"), folder.path().join("other.db"));
    official_with(&server::empty_database(), &db, |frames| {
        let body = frames.concat();
        let pushed = request(&address, "POST", "/app/sync/1/1/3", &body).unwrap();
        assert_eq!(pushed.0, 200, "{}", String::from_utf8_lossy(&pushed.1));
        assert!(String::from_utf8_lossy(&pushed.1).contains("\"ok\""));
    });
    let url = format!("http://{address}/app");
    let said = done(&[p("adopt"), &db, p("--remote"), p(&url)]);
    assert!(said.contains("to push"), "{said}");
    assert!(done(&[p("status"), &db, p("--json")]).contains("\"anabranch\""));
    done(&[p("sync"), &db]);
    done(&[p("clone"), p(&url), &other]);
    assert_eq!((count(&db), count(&other)), (2, 2));
    assert!(done(&[p("verify"), &db]).len() > 1);
}

//! The shell and `anabranch serve`, both as the real program.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use crate::yard::{Ended, PROGRAM, Yard};

/// A server with a token for all and one for reading.
struct Served {
    child: Child,
    url: String,
}

impl Served {
    fn start(yard: &Yard) -> Self {
        std::fs::write(
            yard.path("tokens"),
            "all-tokens-are-long-enough-1\nread all-tokens-are-long-enough-2\n",
        )
        .unwrap();
        let mut child = Command::new(PROGRAM)
            .args(["serve", "--listen", "127.0.0.1:0", "--data", "data"])
            .args(["--auth-token-file", "tokens"])
            .current_dir(yard.path("."))
            .env_remove("FAILPOINTS")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let url = loop {
            let mut line = String::new();
            assert!(said.read_line(&mut line).unwrap() > 0, "the server did not start");
            if let Some((_, address)) = line.split_once("listening  ") {
                break address.trim().to_owned();
            }
        };
        // What it logs goes on being taken.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Served { child, url }
    }

    fn of(&self, name: &str) -> String {
        format!("{}/{name}", self.url)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const ALL: &str = "all-tokens-are-long-enough-1";
const READ: &str = "all-tokens-are-long-enough-2";

fn with(token: &str, yard: &Yard, args: &[&str], input: &str) -> Ended {
    let mut command = yard.command(args);
    let output = command.env("ANABRANCH_AUTH_TOKEN", token).write_stdin(input).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ended {
        code: output.status.code().unwrap(),
        out: text(&output.stdout),
        err: text(&output.stderr),
    }
}

fn ok(yard: &Yard, args: &[&str], input: &str) -> String {
    let ended = with(ALL, yard, args, input);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{args:?}");
    ended.out
}

#[test]
fn replica_and_server_are_one_database_to_the_shell() {
    let yard = Yard::new();
    let server = Served::start(&yard);
    let url = server.of("notes");
    yard.sql(
        "a.db",
        "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, v, r REAL);
         INSERT INTO t(v, r) VALUES('it''s', 0.1), (x'00ff', 1e300), ('a' || char(13, 10, 0), 9e999);
         CREATE TABLE w(a TEXT, b, PRIMARY KEY(b, a)) WITHOUT ROWID;
         INSERT INTO w SELECT hex(i), i / 2 FROM (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT
           i + 1 FROM n WHERE i < 300) SELECT i FROM n);
         CREATE VIEW x AS SELECT v FROM t; CREATE INDEX i ON t(v);",
    );
    ok(&yard, &["init", "a.db", "--remote", &url], "");
    assert_eq!(ok(&yard, &["shell", &url, ".dump"], ""), yard.ok(["shell", "a.db", ".dump"]));

    let input = "BEGIN;\nINSERT INTO t(v) VALUES('by shell');\nSELECT count(*) FROM t;\nCOMMIT;\n\
                 .tables\n.changes on\nUPDATE t SET r = 2 WHERE v = 'by shell';\n";
    let said = ok(&yard, &["shell", &url], input);
    assert_eq!(said, "4\nt\nw\nx\n1 row written\n");
    ok(&yard, &["sync", "a.db"], "");
    assert_eq!(yard.ok(["shell", "a.db", "SELECT r FROM t WHERE v = 'by shell'"]), "2.0\n");
    assert_eq!(ok(&yard, &["shell", &url, ".dump"], ""), yard.ok(["shell", "a.db", ".dump"]));
}

#[test]
fn rows_go_to_a_server_and_errors_come_back() {
    let yard = Yard::new();
    let server = Served::start(&yard);
    let url = server.of("fresh");
    yard.sql(
        "small.db",
        "CREATE TABLE other(id INTEGER PRIMARY KEY AUTOINCREMENT, v); INSERT INTO other(v) VALUES(0.1);
         DELETE FROM other; INSERT INTO other(v) VALUES('a' || char(13, 10, 0) || x'ff');",
    );
    // The first statement makes the database.
    let dump = yard.ok(["shell", "small.db", ".dump"]);
    ok(&yard, &["shell", &url], &dump);
    assert_eq!(ok(&yard, &["shell", &url, ".dump"], ""), dump);
    let rows: String = (0..1500).map(|i| format!("{i},\"row {i}\"\n")).collect();
    std::fs::write(yard.path("rows.csv"), format!("id,v\n{rows}")).unwrap();
    ok(&yard, &["shell", &url, ".import rows.csv t"], "");
    assert_eq!(ok(&yard, &["shell", &url, "SELECT count(*), max(v) FROM t"], ""), "1500|row 999\n");

    assert_eq!(ok(&yard, &["shell", &url, ".tables"], ""), "other\nt\n");

    let ended = with(ALL, &yard, &["shell", &url], "SELECT 1;\nSELECT nowhere FROM t;");
    assert_eq!((ended.code, ended.out.as_str()), (1, "1\n"));
    assert!(
        ended.err.contains("line 2: ") && ended.err.contains("no such column: nowhere"),
        "{ended:?}"
    );
    assert!(ended.err.contains("  SELECT nowhere FROM t;\n         ^"), "{ended:?}");
    let ended = with(ALL, &yard, &["shell", &url, "BEGIN; DELETE FROM t"], "");
    assert!(ended.err.contains("COMMIT was missing"), "{ended:?}");
    assert_eq!(ok(&yard, &["shell", &url, "SELECT count(*) FROM t"], ""), "1500\n");
}

#[test]
fn tokens_say_who_may_what() {
    let yard = Yard::new();
    let server = Served::start(&yard);
    let url = server.of("notes");
    yard.make_notes("a.db", 3);
    ok(&yard, &["init", "a.db", "--remote", &url], "");
    let ended = with(READ, &yard, &["shell", &url, "SELECT count(*) FROM note", ".dump"], "");
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.out.starts_with("3\nPRAGMA") && ended.out.ends_with("COMMIT;\n"), "{ended:?}");
    let ended = with(READ, &yard, &["shell", "--json", &url, "DELETE FROM note"], "");
    assert_eq!(ended.code, 1);
    assert_eq!(ended.json_error()["code"], "SQLITE_READONLY", "{ended:?}");
    let ended = with("nobody-knows-this-token-at-all", &yard, &["shell", &url, "SELECT 1"], "");
    assert_eq!(ended.code, 1);
    assert!(ended.err.contains("wants another token"), "{ended:?}");
}

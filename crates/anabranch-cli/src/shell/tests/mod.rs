//! The shell against files and against a server, which must not differ.

mod stand_in;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anabranch::ServerUrl;
use rusqlite::Connection;
use stand_in::{How, StandIn, Trick};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::backend::{Backend, Interrupt};
use super::error::{Refused, ShellError};
use super::http::Http;
use super::local::Local;
use super::output::Output;
use super::remote::Remote;
use super::render::{Mode, Settings};
use super::session::{Next, Session};

/// What was written.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A shell, and all that it needs.
struct Shell {
    session: Session,
    written: Written,
    interrupt: Arc<Interrupt>,
    server: Option<StandIn>,
    file: PathBuf,
    folder: TempDir,
    // Last, for the session uses it.
    _runtime: Runtime,
}

const USUAL: How = How { file: PathBuf::new(), version: 3, bytes_max: 10 << 20 };

impl Shell {
    fn with(server: Option<How>) -> Self {
        Self::on("", server)
    }

    /// With a database that was made by `sql`.
    fn on(sql: &str, server: Option<How>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.db");
        if !sql.is_empty() {
            Connection::open(&file).unwrap().execute_batch(sql).unwrap();
        }
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        let interrupt = Arc::new(Interrupt::default());
        let server = server.map(|how| StandIn::start(How { file: file.clone(), ..how }));
        let backend: Box<dyn Backend> = match &server {
            None => Box::new(Local::open(&file, true, None, Arc::clone(&interrupt)).unwrap()),
            Some(server) => {
                let url = format!("http://{}/db", server.address);
                let url = ServerUrl::parse(url.as_ref()).unwrap().unwrap();
                let http = Http::new(url, Some("token"), None).unwrap();
                let runtime = runtime.handle().clone();
                Box::new(Remote::new(http, runtime, Arc::clone(&interrupt)))
            }
        };
        let written = Written::default();
        let mut session = Session::new(
            backend,
            Arc::clone(&interrupt),
            Settings::new(Mode::List),
            Output::to(written.clone()),
        );
        session.tells_lines = true;
        Shell { session, written, interrupt, server, file, folder, _runtime: runtime }
    }

    fn local() -> Self {
        Self::with(None)
    }

    fn remote() -> Self {
        Self::with(Some(USUAL))
    }

    fn both() -> [Self; 2] {
        [Self::local(), Self::remote()]
    }

    fn server(&self) -> &StandIn {
        self.server.as_ref().unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a text that must succeed; answers what it wrote.
    fn ok(&mut self, text: &str) -> String {
        self.session.text(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        self.wrote()
    }

    fn fails(&mut self, text: &str) -> Refused {
        self.session.text(text).unwrap_err()
    }

    fn wrote(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.written.0.lock().unwrap())).unwrap()
    }
}

/// Whatever is hard to dump.
const HARD: &str = r#"
    CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, v, "a ""b" TEXT, r REAL,
        g AS (id * 2), s TEXT GENERATED ALWAYS AS ('x' || id) STORED);
    INSERT INTO t(v, "a ""b", r) VALUES(NULL, 'it''s', 0.1), (x'00ff', '', 9e999), (x'', 'x', -9e999),
        ('a' || char(10) || 'b' || char(13) || 'c' || char(0) || 'd\r', 'ä漢', 1e22),
        (-9223372036854775808, '+', 3.0), (9223372036854775807, '-', 1.7976931348623157e308),
        (CAST(x'ff61' AS TEXT), 'AB', 5e-324), (0.30000000000000004, '1.5', 2.5);
    DELETE FROM t WHERE id = 3;
    CREATE TABLE w(a TEXT COLLATE NOCASE, b INT, c, PRIMARY KEY(b DESC, a COLLATE BINARY)) WITHOUT ROWID;
    INSERT INTO w SELECT char(97 + i % 3), i / 3, i FROM
        (WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 700) SELECT i FROM n);
    INSERT OR IGNORE INTO w SELECT upper(a), b, c FROM w;
    CREATE TABLE many(v);
    INSERT INTO many SELECT i || 'x' FROM
        (WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 1234) SELECT i FROM n);
    INSERT INTO many(rowid, v) VALUES(-9223372036854775808, 'first');
    CREATE TABLE hidden(rowid, oid, _rowid_ TEXT);
    INSERT INTO hidden SELECT v, 2, 3 FROM many;
    CREATE TABLE "odd;name"(a);
    INSERT INTO "odd;name" VALUES(1);
    CREATE VIRTUAL TABLE f USING fts5(body);
    INSERT INTO f VALUES('the quick brown fox'), ('jumps');
    CREATE INDEX i ON t(v);
    CREATE VIEW vw AS SELECT a, b FROM w;
    CREATE TRIGGER tr AFTER INSERT ON many BEGIN
        DELETE FROM "odd;name" WHERE a = CASE new.v WHEN 'x;' THEN 1 ELSE 2 END;
    END;
    CREATE TRIGGER vt INSTEAD OF INSERT ON vw BEGIN SELECT 1; END;
    ANALYZE;
"#;

/// All that a database holds.
fn contents(conn: &Connection) -> Vec<String> {
    let strings = |sql: &str| -> Vec<String> {
        let mut statement = conn.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    };
    let tables = strings(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT IN ('f', 'sqlite_stat4')",
    );
    let mut all = strings(
        "SELECT type || ' ' || name || ' ' || tbl_name || ' ' || \
         replace(replace(coalesce(sql, '-'), 'IF NOT EXISTS ', ''), '\"', '''') FROM sqlite_master \
         WHERE name <> 'sqlite_stat4' ORDER BY 1",
    );
    for table in tables {
        let columns = strings(&format!("SELECT name FROM pragma_table_xinfo('{table}')"));
        let values: Vec<String> = columns
            .iter()
            .map(|column| {
                let column = format!("\"{}\"", column.replace('"', "\"\""));
                format!("typeof({column}) || ' ' || coalesce(hex({column}) || printf('%!.20e', {column}), '')")
            })
            .collect();
        let mut rows = strings(&format!(
            "SELECT '{table}: ' || {} FROM \"{table}\"",
            values.join(" || ', ' || ")
        ));
        rows.sort();
        all.extend(rows);
    }
    all
}

#[test]
fn a_dump_reads_back_as_the_same_database() {
    let dumps = Shell::both().map(|mut shell| {
        let conn = Connection::open(&shell.file).unwrap();
        conn.execute_batch(HARD).unwrap();
        let dump = shell.ok(".dump");
        assert!(!shell.session.backend.in_transaction());

        let again = Connection::open_in_memory().unwrap();
        again.execute_batch(&dump).unwrap();
        assert_eq!(contents(&again), contents(&conn));
        let check: String =
            again.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");

        // The program that everybody has.
        let restored = shell.path("restored.db");
        std::fs::write(shell.path("dump.sql"), &dump).unwrap();
        let input = std::fs::File::open(shell.path("dump.sql")).unwrap();
        let mut sqlite3 = std::process::Command::new("sqlite3");
        let ended = sqlite3.arg("-bail").arg(&restored).stdin(input).output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        assert_eq!(contents(&Connection::open(&restored).unwrap()), contents(&conn));
        dump
    });
    assert_eq!(dumps[0], dumps[1]);
    assert!(dumps[0].contains("INSERT INTO \"sqlite_sequence\" VALUES('t',8);"));
}

#[test]
fn the_shell_itself_reads_a_dump() {
    let mut source = Shell::local();
    source.ok(HARD);
    let dump = source.path("dump.sql");
    assert_eq!(
        source.ok(&format!(".output {}\n.dump\n.output {}x", dump.display(), dump.display())),
        ""
    );
    let mut target = Shell::local();
    target.ok(&format!(".read {}", dump.display()));
    let [a, b] = [&source, &target].map(|shell| contents(&Connection::open(&shell.file).unwrap()));
    assert_eq!(a, b);
}

#[test]
fn a_dump_of_utf_16_holds_the_same_text() {
    let sql = "PRAGMA encoding = 'UTF-16le'; CREATE TABLE t(a); \
               INSERT INTO t VALUES('ä漢😀'), (x'61');";
    for server in [None, Some(USUAL)] {
        let mut shell = Shell::on(sql, server);
        let dump = shell.ok(".dump");
        assert!(dump.contains("VALUES('ä漢😀');\n") && dump.contains("VALUES(X'61');"), "{dump}");
    }
}

#[test]
fn tables_are_dumped_alone_and_with_what_belongs_to_them() {
    let mut shell = Shell::local();
    shell.ok(HARD);
    let dump = shell.ok(".dump f odd%");
    assert!(dump.contains("'f_data'") && dump.contains("\"odd;name\""), "{dump}");
    assert!(!dump.contains("many(") && !dump.contains("VIEW"), "{dump}");
    assert!(shell.ok(".dump t").contains("CREATE INDEX i ON t(v);"));
}

#[test]
fn what_does_not_fit_into_one_answer_is_asked_for_in_parts() {
    let mut shell = Shell::with(Some(How { bytes_max: 20_000, ..USUAL }));
    let conn = Connection::open(&shell.file).unwrap();
    conn.execute_batch(
        "CREATE TABLE t(a); INSERT INTO t SELECT randomblob(1000) FROM (WITH RECURSIVE n(i) AS \
         (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200) SELECT i FROM n);",
    )
    .unwrap();
    let again = Connection::open_in_memory().unwrap();
    again.execute_batch(&shell.ok(".dump")).unwrap();
    assert_eq!(contents(&again), contents(&conn));
    // More than any answer may have.
    conn.execute_batch("UPDATE t SET a = zeroblob(30000) WHERE rowid = 100").unwrap();
    assert!(shell.fails(".dump").error.has_code("RESPONSE_TOO_LARGE"));
    assert!(!shell.wrote().contains("COMMIT"));
}

#[test]
fn files_and_servers_answer_alike() {
    let said = Shell::both().map(|mut shell| {
        shell.ok(
            "CREATE TABLE note(id INTEGER PRIMARY KEY, body TEXT);\nCREATE VIEW v AS SELECT 1;",
        );
        shell.ok(".changes on");
        let mut said = shell.ok("INSERT INTO note(body) VALUES('a'), ('b;'); SELECT * FROM note");
        said += &shell
            .ok(".changes off\n.mode csv\n.headers on\nSELECT id, body FROM note WHERE id > 1;");
        said += &shell
            .ok(".mode insert n\nSELECT * FROM note;\n.tables\n.tables n%\n.schema note\n.mode");
        said += &shell.ok(".print 'x  y' z\nCREATE INDEX i ON note(body);\n.indexes\n.indexes v");
        said += &shell.ok("PRAGMA foreign_keys; CREATE TEMP TABLE x(a); INSERT INTO x VALUES(7);");
        // The same connection.
        said += &shell.ok("SELECT * FROM x; SELECT changes();");
        said
    });
    assert_eq!(said[0], said[1]);
    assert!(said[0].starts_with("2 rows written, last row id 2\n1|a\n2|b;\n"), "{}", said[0]);
    assert!(said[0].contains("id,body\n2,b;\n"), "{}", said[0]);
    assert!(said[0].contains("INSERT INTO \"n\"(\"id\",\"body\") VALUES(1,'a');"), "{}", said[0]);
    assert!(said[0].contains("note\nv\nnote\nCREATE TABLE note"), "{}", said[0]);
}

#[test]
fn errors_name_their_place_and_end_a_script() {
    for mut shell in Shell::both() {
        let refused = shell.fails("SELECT 1;\n\nSELECT\n  x FROM (SELECT 1);\nSELECT 2;");
        assert_eq!(shell.wrote(), "1\n");
        assert!(refused.to_string().starts_with("line 3: "), "{refused}");
        assert!(refused.to_string().contains("no such column: x"), "{refused}");
        assert_eq!(refused.details(), "    x FROM (SELECT 1);\n    ^\n");

        let file = shell.path("x.sql");
        std::fs::write(&file, "SELECT 1;\n.tabels\n").unwrap();
        let refused = shell.fails(&format!(".read {}", file.display()));
        assert!(refused.to_string().contains("x.sql, line 2: "), "{refused}");
        assert!(refused.to_string().contains("do you mean .tables?"), "{refused}");

        shell.wrote();
        shell.session.bail = false;
        assert_eq!(shell.ok("SELECT nothing;\nSELECT 2;\n.nonsense\nSELECT 3"), "2\n3\n");
        assert!(shell.session.failed);
        assert_eq!(shell.session.text("SELECT 4;\n.quit\nSELECT 5;").unwrap(), Next::Quit);
        assert_eq!(shell.wrote(), "4\n");
    }
}

#[test]
fn rows_are_imported_all_or_none() {
    for mut shell in Shell::both() {
        let file = shell.path("a b.csv");
        std::fs::write(&file, "\u{feff}id,name,name\r\n1,\"x, \"\"y\"\"\nz\",\r\n2\r\n3,4,5,6\r\n")
            .unwrap();
        shell.ok(&format!(".import '{}' t", file.display()));
        assert_eq!(
            shell.ok(".mode quote\n.headers on\nSELECT * FROM t;\n.headers off"),
            "'id','name','name:1'\n'1','x, \"y\"\nz',''\n'2',NULL,NULL\n'3','4','5'\n"
        );
        // There is a table now: the first record is one like others, unless it is skipped.
        shell.ok("CREATE TABLE k(id INTEGER PRIMARY KEY, v);");
        std::fs::write(&file, "id,v\n1,a\n2,b\n2,c\n").unwrap();
        let import = format!(".import --skip 1 '{}' k", file.display());
        let refused = shell.fails(&import);
        assert!(refused.to_string().contains("record 4"), "{refused}");
        assert!(refused.to_string().contains("UNIQUE constraint failed"), "{refused}");
        assert_eq!(shell.ok("SELECT count(*) FROM k"), "0\n");
        assert!(!shell.session.backend.in_transaction());

        // In the user's own transaction only the import is taken back.
        shell.ok("BEGIN; INSERT INTO k VALUES(9, 'mine');");
        shell.fails(&import);
        assert!(shell.session.backend.in_transaction());
        assert_eq!(shell.ok("COMMIT; SELECT * FROM k"), "9,'mine'\n");

        let rows: String = (10..2000).map(|i| format!("{i}\tv{i}\n")).collect();
        std::fs::write(&file, rows).unwrap();
        shell.ok(&format!(".import --tabs '{}' k", file.display()));
        assert_eq!(shell.ok("SELECT count(*), max(typeof(id)) FROM k"), "1991,'integer'\n");

        std::fs::write(&file, b"1,\xff\n").unwrap();
        let refused = shell.fails(&format!(".import '{}' k", file.display()));
        assert!(format!("{:?}", refused.error).contains("record 1 is not UTF-8"), "{refused:?}");
    }
}

#[test]
fn what_a_file_inserts_goes_to_a_server_many_statements_at_a_time() {
    let mut shell = Shell::remote();
    shell.ok("CREATE TABLE t(a UNIQUE);");
    let asked = shell.server().asked().len();
    let file = shell.path("many.sql");
    let inserts: String = (0..1000).map(|i| format!("INSERT INTO t VALUES({i});\n")).collect();
    let ends = "SELECT count(*) FROM t;\nDELETE FROM t WHERE a > 5 RETURNING a = 999;\n";
    std::fs::write(&file, format!("BEGIN;\n{inserts}{ends}COMMIT;")).unwrap();
    let wrote = shell.ok(&format!(".read {}", file.display()));
    assert!(wrote.starts_with("1000\n0\n") && wrote.ends_with("1\n"), "{wrote}");
    let asked = shell.server().asked().len() - asked;
    assert!(asked < 30, "{asked} requests");

    // What comes before an error has happened, what comes after has not.
    let inserts = "INSERT INTO t VALUES(10);\nINSERT INTO t VALUES(11);\nINSERT INTO t\n VALUES(10);\n\
                   INSERT INTO t VALUES(12);\n";
    std::fs::write(&file, inserts).unwrap();
    let refused = shell.fails(&format!(".read {}", file.display()));
    assert!(refused.to_string().contains("many.sql, line 3: "), "{refused}");
    assert!(refused.to_string().contains("UNIQUE constraint failed"), "{refused}");
    assert_eq!(shell.ok("SELECT group_concat(a) FROM t WHERE a > 5"), "10,11\n");
}

#[test]
fn transactions_last_over_lines() {
    for mut shell in Shell::both() {
        shell.ok("CREATE TABLE t(a UNIQUE); BEGIN; INSERT INTO t VALUES(1);");
        assert!(shell.session.backend.in_transaction());
        shell.fails("INSERT INTO t VALUES(1);");
        assert!(shell.session.backend.in_transaction());
        shell.ok("INSERT INTO t VALUES(2); COMMIT;");
        assert!(!shell.session.backend.in_transaction());
        shell.ok("SAVEPOINT a; DELETE FROM t; ROLLBACK TO a;");
        assert!(shell.session.backend.in_transaction());
        shell.ok("RELEASE a;");
        assert_eq!(shell.ok("SELECT count(*) FROM t"), "2\n");
        shell.ok("BEGIN; DELETE FROM t;");
        shell.session.backend.close();
        let conn = Connection::open(&shell.file).unwrap();
        let count: i64 = conn.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(count, 2);
    }
}

#[test]
fn a_stream_that_expired_is_replaced_but_not_its_transaction() {
    for trick in [|| Trick::Expire, || Trick::ExpireInAnswer] {
        let mut shell = Shell::remote();
        shell.ok("CREATE TABLE t(a);");
        shell.server().trick(trick());
        shell.ok("INSERT INTO t VALUES(1);");
        assert_eq!(shell.ok("SELECT count(*) FROM t"), "1\n");

        shell.ok("BEGIN; INSERT INTO t VALUES(2);");
        shell.server().trick(trick());
        let refused = shell.fails("INSERT INTO t VALUES(3);");
        assert!(refused.error.has_code("STREAM_EXPIRED"), "{refused:?}");
        assert!(refused.is_rolled_back && refused.error.advice().unwrap().contains("begin anew"));
        assert!(!shell.session.backend.in_transaction());
        assert_eq!(shell.ok("SELECT count(*) FROM t"), "1\n");
    }
    // A server that was started anew knows no baton.
    let mut shell = Shell::remote();
    shell.ok("SELECT 1;");
    shell.server().trick(Trick::Say(
        "HTTP/1.1 400 Bad Request\r\nContent-Length: 25\r\n\r\nReceived an invalid baton"
            .to_owned(),
    ));
    assert_eq!(shell.ok("SELECT 2;"), "1\n2\n"[2..].to_owned());
}

#[test]
fn a_server_of_version_2_is_served_as_well() {
    let mut shell = Shell::with(Some(How { version: 2, ..USUAL }));
    shell.ok("CREATE TABLE t(a); BEGIN; INSERT INTO t VALUES(1);");
    assert!(shell.session.backend.in_transaction());
    assert_eq!(shell.ok("COMMIT; SELECT * FROM t;"), "1\n");
    assert!(!shell.session.backend.in_transaction());
    assert_eq!(shell.server().asked()[..2], ["/db/v3/pipeline", "/db/v2/pipeline"]);
    assert!(shell.server().asked()[2..].iter().all(|path| path == "/db/v2/pipeline"));

    let mut shell = Shell::with(Some(How { version: 1, ..USUAL }));
    let refused = shell.fails("SELECT 1");
    assert!(matches!(*refused.error, ShellError::NoSql { .. }), "{refused:?}");
    assert!(refused.to_string().ends_with(": no such path"), "{refused}");
}

#[test]
fn a_statement_whose_answer_is_lost_is_not_repeated() {
    let mut shell = Shell::remote();
    shell.ok("CREATE TABLE t(a); BEGIN;");
    let asked = shell.server().asked().len();
    shell.server().trick(Trick::GoAway);
    let refused = shell.fails("INSERT INTO t VALUES(1);");
    assert!(matches!(*refused.error, ShellError::Lost { .. }), "{refused:?}");
    assert!(refused.to_string().contains("not known whether"), "{refused}");
    assert_eq!(shell.server().asked().len(), asked + 1);
    assert!(!shell.session.backend.in_transaction());
    shell.ok("SELECT 1");
}

#[test]
fn a_server_that_cannot_be_reached_is_offline() {
    let mut shell = Shell::remote();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = ServerUrl::parse(format!("http://{free}/db").as_ref()).unwrap().unwrap();
    let http = Http::new(url, None, None).unwrap();
    let runtime = shell._runtime.handle().clone();
    shell.session.backend = Box::new(Remote::new(http, runtime, Arc::clone(&shell.interrupt)));
    let refused = shell.fails("SELECT 1");
    assert!(matches!(*refused.error, ShellError::Offline { .. }), "{refused:?}");
    let failure = crate::failure::Failure::Shell(Box::new(refused));
    assert_eq!(failure.exit().code(), 4);
    assert_eq!(failure.json()["error"]["code"], "offline");
}

#[test]
fn refusals_and_nonsense_are_told_as_such() {
    let mut shell = Shell::remote();
    let say = |status: &str, more: &str, body: &str| {
        Trick::Say(format!(
            "HTTP/1.1 {status}\r\n{more}Content-Length: {}\r\n\r\n{body}",
            body.len()
        ))
    };
    let mut told = |trick| {
        shell.server().trick(trick);
        shell.fails("SELECT 1").to_string()
    };
    let said = told(say("401 Unauthorized", "", r#"{"message":"no\u001bway"}"#));
    assert!(said.contains("wants another token") && said.contains("no^[way"), "{said}");
    let said = told(say("500 Oops", "", "boom"));
    assert!(said.contains("status 500: boom"), "{said}");
    for body in ["", "{", "[]", "{\"results\":[]}", "{\"results\":[{\"type\":\"ok\"}]}"] {
        let said = told(say("200 OK", "", body));
        assert!(said.contains("makes no sense"), "{body}: {said}");
    }
    let swapped = r#"{"results":[{"type":"ok","response":{"type":"close"}},{"type":"ok","response":{"type":"get_autocommit","is_autocommit":true}}]}"#;
    assert!(told(say("200 OK", "", swapped)).contains("makes no sense"));
    let ragged = r#"{"results":[{"type":"ok","response":{"type":"execute","result":{"cols":[{"name":"a"}],"rows":[[]]}}},{"type":"ok","response":{"type":"get_autocommit","is_autocommit":true}}]}"#;
    assert!(told(say("200 OK", "", ragged)).contains("0 values for 1 columns"));
    let said = told(say("307 There", "Location: http://elsewhere.example/db\r\n", ""));
    assert!(said.contains("to another server, elsewhere.example"), "{said}");
    let said = told(say("307 There", "Location: file:///etc/passwd\r\n", ""));
    assert!(said.contains("no address"), "{said}");
}

#[test]
fn control_c_stops_a_statement_of_a_server_and_the_shell_goes_on() {
    let mut shell = Shell::remote();
    shell.session.is_interactive = true;
    shell.session.bail = false;
    shell.ok("CREATE TABLE t(a); BEGIN; INSERT INTO t VALUES(1);");
    let (told, wait) = std::sync::mpsc::channel();
    shell.server().trick(Trick::Wait(wait));
    let (asked, interrupt) = (shell.server().asked().len(), Arc::clone(&shell.interrupt));
    std::thread::scope(|scope| {
        let server = shell.server.as_ref().unwrap();
        let session = &mut shell.session;
        scope.spawn(move || {
            while server.asked().len() == asked {
                std::thread::yield_now();
            }
            interrupt.raise();
        });
        session.text("SELECT 1;").unwrap();
    });
    drop(told);
    assert!(shell.session.failed && !shell.session.backend.in_transaction());
    shell.session.bail = true;
    assert_eq!(shell.ok("SELECT 7"), "7\n");
}

#[test]
fn control_c_stops_a_statement_here() {
    let mut shell = Shell::local();
    let interrupt = Arc::clone(&shell.interrupt);
    let written = shell.written.clone();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while written.0.lock().unwrap().is_empty() {
                std::thread::yield_now();
            }
            interrupt.raise();
        });
        let endless = "SELECT 1; WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
                       SELECT i FROM n WHERE i > 1;";
        let refused = shell.fails(endless);
        assert!(matches!(*refused.error, ShellError::Interrupted), "{refused:?}");
    });
}

#[test]
fn an_import_that_is_stopped_leaves_nothing() {
    let mut shell = Shell::local();
    shell.ok("CREATE TABLE t(a);");
    let file = shell.path("a.csv");
    std::fs::write(&file, "1\n2\n").unwrap();
    shell.interrupt.raise();
    let refused = shell.fails(&format!(".import '{}' t", file.display()));
    assert!(matches!(*refused.error, ShellError::Interrupted), "{refused:?}");
    assert!(!shell.session.backend.in_transaction());
    shell.interrupt.clear();
    assert_eq!(shell.ok("SELECT count(*) FROM t"), "0\n");
}

#[test]
fn files_that_read_themselves_come_to_an_end() {
    let mut shell = Shell::local();
    let file = shell.path("loop.sql");
    std::fs::write(&file, format!(".read {}", file.display())).unwrap();
    let refused = shell.fails(&format!(".read {}", file.display()));
    assert!(refused.to_string().contains("deep"), "{refused}");
    let refused = shell.fails(".read missing.sql");
    assert!(matches!(*refused.error, ShellError::File { .. }), "{refused:?}");
}

#[test]
fn output_goes_to_a_file() {
    let mut shell = Shell::local();
    let file = shell.path("out.txt");
    let other = shell.path("other.txt");
    shell.ok(&format!(".output '{}'\nSELECT 5;\n.output '{}'", file.display(), other.display()));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "5\n");
    let nowhere = Path::new("/nowhere/x");
    assert!(matches!(
        *shell.fails(&format!(".output {}", nowhere.display())).error,
        ShellError::File { .. }
    ));
}

//! The shell against files and against a server, which must not differ.

mod dump;
mod server;
mod stand_in;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anabranch::ServerUrl;
use rusqlite::Connection;
use stand_in::{How, StandIn};
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
    assert_eq!(shell.ok("\u{feff}SELECT count(*) FROM t"), "0\n");
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

//! A folder of its own for each test, and short ways to run the program in it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use assert_cmd::Command;
use rusqlite::Connection;
use serde_json::Value;

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_anabranch");

/// A run that takes longer hangs.
const TIMEOUT: Duration = Duration::from_secs(120);

/// What a run ended with.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    /// Standard output as the one JSON document that it must be.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Standard error as the one JSON document that it must be.
    pub(crate) fn json_error(&self) -> Value {
        let value: Value =
            serde_json::from_str(&self.err).unwrap_or_else(|e| panic!("{e}: {self:?}"));
        value["error"].clone()
    }
}

/// A temporary folder in which the program runs.
pub(crate) struct Yard {
    dir: tempfile::TempDir,
}

impl Yard {
    pub(crate) fn new() -> Self {
        Yard { dir: tempfile::tempdir().unwrap() }
    }

    /// With `a.db` (100 notes) published in the folder `river`, and `b.db` cloned from it.
    pub(crate) fn published() -> Self {
        let yard = Yard::new();
        yard.make_notes("a.db", 100);
        yard.ok(["init", "a.db", "--remote", "river"]);
        yard.ok(["clone", "river", "b.db"]);
        yard
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The program, ready to run here with a predictable environment.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(PROGRAM);
        command.current_dir(self.dir.path()).env("TZ", "UTC").timeout(TIMEOUT);
        for variable in ["FAILPOINTS", "ANABRANCH_LOG", "NO_COLOR", "RUST_BACKTRACE"] {
            command.env_remove(variable);
        }
        command.args(args);
        command
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ended {
        let output = self.command(args).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let ended = Ended {
            code: output.status.code().unwrap_or(-1),
            out: text(&output.stdout),
            err: text(&output.stderr),
        };
        assert!(!ended.err.contains("panicked"), "{ended:?}");
        ended
    }

    /// Runs the program, which must succeed without a word on standard error; answers what it said.
    pub(crate) fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let ended = self.run(args);
        assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{ended:?}");
        ended.out
    }

    /// Runs the program with `--json`, which must succeed; answers the document.
    pub(crate) fn json<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Value {
        let args: Vec<S> = args.into_iter().collect();
        let all = args.iter().map(AsRef::as_ref).chain([OsStr::new("--json")]);
        let ended = self.run(all);
        assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{ended:?}");
        ended.json()
    }

    /// Runs the program, which must end with `code` and say nothing on standard output; answers what
    /// it said on standard error.
    pub(crate) fn fails<S: AsRef<OsStr>>(
        &self,
        code: i32,
        args: impl IntoIterator<Item = S>,
    ) -> String {
        let ended = self.run(args);
        assert_eq!((ended.code, ended.out.as_str()), (code, ""), "{ended:?}");
        assert!(ended.err.starts_with("error: "), "{ended:?}");
        ended.err
    }

    /// A database of `rows` notes.
    pub(crate) fn make_notes(&self, name: impl AsRef<Path>, rows: u32) {
        self.sql(
            name,
            &format!(
                "CREATE TABLE note(id INTEGER PRIMARY KEY, body TEXT);
                 INSERT INTO note(body)
                   WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
                   SELECT 'note ' || i || ' ' || hex(randomblob(100)) FROM n;"
            ),
        );
    }

    /// Runs SQL as an application would: open, run, close.
    pub(crate) fn sql(&self, name: impl AsRef<Path>, sql: &str) {
        let conn = Connection::open(self.path(name)).unwrap();
        conn.busy_timeout(Duration::from_secs(10)).unwrap();
        conn.execute_batch(sql).unwrap();
    }

    /// Asks SQL for one number.
    pub(crate) fn number(&self, name: impl AsRef<Path>, sql: &str) -> i64 {
        let conn = Connection::open(self.path(name)).unwrap();
        conn.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// The only file under `dir` whose name ends with `suffix`.
    pub(crate) fn only(&self, dir: &str, suffix: &str) -> PathBuf {
        let mut found = Vec::new();
        let mut dirs = vec![self.path(dir)];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    dirs.push(path);
                } else if path.to_string_lossy().ends_with(suffix) {
                    found.push(path);
                }
            }
        }
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }
}

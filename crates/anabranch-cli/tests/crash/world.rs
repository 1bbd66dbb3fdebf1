//! A folder with a remote and replicas, the program, and applications that use the replicas.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_anabranch");

/// Used unless `CRASH_SEED` says otherwise.
const SEED_DEFAULT: u64 = 20_261_123;

fn number_from(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")),
        Err(_) => default,
    }
}

/// The seed of this run.
pub(crate) fn seed() -> u64 {
    number_from("CRASH_SEED", SEED_DEFAULT)
}

/// How many rounds of what by default has `default`.
pub(crate) fn rounds(default: u64) -> u64 {
    number_from("CRASH_ROUNDS", 1) * default
}

/// Splitmix64: what a seed chooses is the same everywhere and for ever.
#[derive(Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64, scenario: &str) -> Self {
        let mix = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        Rng(scenario.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, mix))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn chance(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }
}

/// How a run of the program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The exit code; `None` if it was killed.
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    pub(crate) fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let ended = Ended {
            code: output.status.code(),
            signal: output.status.signal(),
            out: text(output.stdout),
            err: text(output.stderr),
        };
        assert!(!ended.err.contains("panicked"), "{ended:?}");
        ended
    }

    /// Standard output as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The error's name.
    pub(crate) fn error(&self) -> String {
        let value: Value =
            serde_json::from_str(&self.err).unwrap_or_else(|e| panic!("{e}: {self:?}"));
        value["error"]["code"].as_str().unwrap().to_owned()
    }

    pub(crate) fn died(&self) -> bool {
        self.signal.is_some()
    }
}

/// A temporary folder in which everything lies.
pub(crate) struct World {
    dir: TempDir,
}

impl World {
    /// In memory where that is possible: kills, unlike power failures, leave what was written.
    pub(crate) fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
        World { dir: dir.unwrap() }
    }

    /// On a disk: for what is large.
    pub(crate) fn on_disk() -> Self {
        World { dir: TempDir::new().unwrap() }
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Removes a database and what lies beside it.
    pub(crate) fn forget(&self, name: &str) {
        for entry in std::fs::read_dir(self.dir.path()).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name().to_string_lossy().starts_with(name) {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
    }

    fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(PROGRAM);
        command.current_dir(self.dir.path()).args(args).arg("--json");
        for variable in ["FAILPOINTS", "ANABRANCH_LOG"] {
            command.env_remove(variable);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs the program.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ended {
        Ended::of(self.command(args).output().unwrap())
    }

    /// Runs the program with `FAILPOINTS`.
    pub(crate) fn run_with(&self, fail_points: &str, args: &[&str]) -> Ended {
        Ended::of(self.command(args).env("FAILPOINTS", fail_points).output().unwrap())
    }

    /// Runs the program, which must succeed.
    pub(crate) fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Value {
        let ended = self.run(args);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended.json()
    }

    /// Starts the program.
    pub(crate) fn spawn(&self, fail_points: &str, args: &[&str]) -> Child {
        self.command(args).env("FAILPOINTS", fail_points).spawn().unwrap()
    }

    /// Runs SQL in a `sqlite3` process of its own: open, run, close. Answers its output.
    pub(crate) fn stock(&self, db: &str, sql: &str) -> String {
        stock(&self.path(db), sql)
    }
}

/// Runs SQL in a `sqlite3` process of its own.
pub(crate) fn stock(db: &Path, sql: &str) -> String {
    let mut command = Command::new("sqlite3");
    command.args(["-batch", "-bail", "-cmd", ".timeout 20000"]).arg(db);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // What it says is small, except after it has read everything.
    child.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.is_empty(), "sqlite3 {}: {said}", db.display());
    String::from_utf8(out.stdout).unwrap().trim_end().to_owned()
}

/// A `sqlite3` process that keeps the database open.
pub(crate) struct App {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    asked: u64,
}

impl App {
    pub(crate) fn open(db: &Path) -> Self {
        let mut command = Command::new("sqlite3");
        command.args(["-batch", "-bail", "-cmd", ".timeout 20000"]).arg(db);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let mut app = App { child, input, output, asked: 0 };
        // The first read opens the WAL.
        app.run("SELECT count(*) FROM sqlite_schema;");
        app
    }

    /// Runs SQL, which must succeed, and answers its output.
    pub(crate) fn run(&mut self, sql: &str) -> String {
        self.asked += 1;
        let mark = format!("done-{}", self.asked);
        let input = self.input.as_mut().unwrap();
        input.write_all(format!("{sql}\n.print {mark}\n").as_bytes()).unwrap();
        input.flush().unwrap();
        let mut said = String::new();
        loop {
            let mut line = String::new();
            let read = self.output.read_line(&mut line).unwrap();
            assert!(read > 0, "sqlite3 ended at {sql:.300}");
            if line.trim_end() == mark {
                return said.trim_end().to_owned();
            }
            write!(said, "{line}").unwrap();
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        // Its input ends, and so does it, closing the database.
        self.input = None;
        let _ = self.child.wait();
    }
}

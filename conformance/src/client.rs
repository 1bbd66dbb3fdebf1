//! The official client in a process of its own, told what to do over its standard input.

use std::fmt;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use crate::{PATIENCE, Position, read_position};

/// Why the client did not do what it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The library answered with an error of this text.
    Error(String),
    /// The process is gone; its last words.
    Died(String),
}

impl Failure {
    /// The text of the error.
    ///
    /// # Panics
    ///
    /// If the process died instead.
    #[must_use]
    #[track_caller]
    pub fn error(self) -> String {
        match self {
            Failure::Error(text) => text,
            Failure::Died(words) => panic!("the client died: {words}"),
        }
    }

    /// Whether the process is gone.
    #[must_use]
    pub fn is_death(&self) -> bool {
        matches!(self, Failure::Died(_))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Error(text) => write!(f, "the client reports: {text}"),
            Failure::Died(words) => write!(f, "the client died: {words}"),
        }
    }
}

/// How a database is opened.
#[derive(Debug, Clone, Default)]
pub struct Opening {
    /// The token; none is sent as an empty one, as the library does.
    pub token: String,
    /// A key that the server would decrypt with, base64.
    pub key: Option<String>,
    /// Writes go to the server first (an embedded replica), instead of waiting for `sync`.
    pub remote_writes: bool,
    /// Frames in one push; the library's own default if none.
    pub batch: Option<u32>,
}

/// Kills a client from wherever it is called: the proxy's thread, at a given request.
#[derive(Debug, Clone)]
pub struct Killer(Arc<Mutex<Child>>);

impl Killer {
    /// Kills the process (SIGKILL) and waits until it is gone.
    pub fn kill(&self) {
        let mut child = self.0.lock().expect("no holder panics");
        // Either may fail only because the process is gone already.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// A running `libsql-client`.
#[derive(Debug)]
pub struct Client {
    child: Killer,
    input: ChildStdin,
    output: Receiver<String>,
    last_words: Arc<Mutex<String>>,
    db: PathBuf,
}

impl Client {
    /// Starts `program` for the replica at `db`; nothing is opened yet.
    ///
    /// # Panics
    ///
    /// If the program cannot be started.
    #[must_use]
    pub fn start(program: &Path, db: &Path) -> Self {
        let mut child = Command::new(program)
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", program.display()));
        let input = child.stdin.take().expect("a pipe");
        let said = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut complaints = child.stderr.take().expect("a pipe");
        let (sender, output) = channel();
        thread::spawn(move || {
            for line in said.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let last_words = Arc::new(Mutex::new(String::new()));
        let kept = Arc::clone(&last_words);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = complaints.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
                kept.lock().expect("no holder panics").push_str(&text);
            }
        });
        let child = Killer(Arc::new(Mutex::new(child)));
        Client { child, input, output, last_words, db: db.to_owned() }
    }

    /// Tells the client to do something, and awaits its answer.
    ///
    /// # Errors
    ///
    /// The library reported an error, or the process is gone.
    ///
    /// # Panics
    ///
    /// If nothing is answered within [`PATIENCE`], or something that is no answer.
    pub fn call(&mut self, command: &Value) -> Result<Value, Failure> {
        if writeln!(self.input, "{command}").and_then(|()| self.input.flush()).is_err() {
            return Err(self.died());
        }
        let line = match self.output.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => return Err(self.died()),
            Err(RecvTimeoutError::Timeout) => panic!("the client hangs at {command}"),
        };
        let answer: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
        match answer.get("error") {
            Some(error) => Err(Failure::Error(error.as_str().unwrap_or_default().to_owned())),
            None => Ok(answer["ok"].clone()),
        }
    }

    fn died(&self) -> Failure {
        // So that the reader of its last words has come to the end.
        self.child.kill();
        Failure::Died(self.last_words.lock().expect("no holder panics").clone())
    }

    /// Opens the replica against `url`: the first connection bootstraps it.
    ///
    /// # Errors
    ///
    /// As for [`Client::call`].
    pub fn open(&mut self, url: &str, opening: &Opening) -> Result<Value, Failure> {
        self.call(&json!({
            "do": "open",
            "path": self.db,
            "url": url,
            "token": opening.token,
            "key": opening.key,
            "remote_writes": opening.remote_writes,
            "batch": opening.batch,
        }))
    }

    /// Runs one statement; answers the number of rows it changed.
    ///
    /// # Errors
    ///
    /// As for [`Client::call`].
    pub fn try_execute(&mut self, sql: &str) -> Result<u64, Failure> {
        let answer = self.call(&json!({ "do": "execute", "sql": sql }))?;
        Ok(answer["changed"].as_u64().unwrap_or_default())
    }

    /// Runs one statement.
    ///
    /// # Panics
    ///
    /// If it fails.
    #[track_caller]
    pub fn execute(&mut self, sql: &str) -> u64 {
        self.try_execute(sql).unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    /// Runs several statements.
    ///
    /// # Panics
    ///
    /// If one fails.
    #[track_caller]
    pub fn batch(&mut self, sql: &str) {
        let done = self.call(&json!({ "do": "batch", "sql": sql }));
        done.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    /// Runs one statement again and again, each time in a transaction of its own, with the number of
    /// the turn, from 1, as its parameter.
    ///
    /// # Panics
    ///
    /// If it fails.
    #[track_caller]
    pub fn repeat(&mut self, times: usize, sql: &str) {
        let done = self.call(&json!({ "do": "repeat", "sql": sql, "times": times }));
        done.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    /// Rows of a query, their columns joined by `|` as the `sqlite3` program does.
    ///
    /// # Errors
    ///
    /// As for [`Client::call`].
    pub fn try_rows(&mut self, sql: &str) -> Result<Vec<String>, Failure> {
        let answer = self.call(&json!({ "do": "query", "sql": sql }))?;
        let rows = answer["rows"].as_array().cloned().unwrap_or_default();
        Ok(rows.iter().filter_map(Value::as_str).map(str::to_owned).collect())
    }

    /// Rows of a query.
    ///
    /// # Panics
    ///
    /// If it fails.
    #[track_caller]
    pub fn rows(&mut self, sql: &str) -> Vec<String> {
        self.try_rows(sql).unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    /// One call of the library's `sync`, which either pushes or pulls; answers the number of frames
    /// that it reports (1 for any pull, 0 if no connection could be made).
    ///
    /// # Errors
    ///
    /// As for [`Client::call`].
    pub fn try_sync(&mut self) -> Result<u64, Failure> {
        let answer = self.call(&json!({ "do": "sync" }))?;
        Ok(answer["frames_synced"].as_u64().unwrap_or_default())
    }

    /// Pushes what there is, then pulls what there is: two calls of `sync`.
    ///
    /// # Panics
    ///
    /// If one fails.
    #[track_caller]
    pub fn sync(&mut self) {
        for _ in 0..2 {
            self.try_sync().unwrap_or_else(|e| panic!("{}: {e}", self.db.display()));
        }
    }

    /// Closes the connection and the database; the process stays.
    ///
    /// # Panics
    ///
    /// If the process is gone.
    #[track_caller]
    pub fn close(&mut self) {
        self.call(&json!({ "do": "close" })).unwrap_or_else(|e| panic!("close: {e}"));
    }

    /// Requests, bytes sent and bytes received since the program started.
    ///
    /// # Panics
    ///
    /// If the process is gone.
    pub fn traffic(&mut self) -> (u64, u64, u64) {
        let answer = self.call(&json!({ "do": "traffic" })).unwrap_or_else(|e| panic!("{e}"));
        let number = |name: &str| answer[name].as_u64().unwrap_or_default();
        (number("requests"), number("sent"), number("received"))
    }

    /// Where the client stands, as its file says.
    ///
    /// # Panics
    ///
    /// If the file is not there, or not the client's.
    #[must_use]
    #[track_caller]
    pub fn position(&self) -> Position {
        read_position(&self.db).expect("an info file").expect("there is one")
    }

    /// The replica.
    #[must_use]
    pub fn db(&self) -> &Path {
        &self.db
    }

    /// A handle that kills this client.
    #[must_use]
    pub fn killer(&self) -> Killer {
        self.child.clone()
    }

    /// Kills the process: nothing is closed.
    pub fn kill(self) {
        self.child.kill();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.child.kill();
    }
}

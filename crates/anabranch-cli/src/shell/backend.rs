//! What a shell talks to: a file here or a database on a server, alike.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use anabranch_hrana::{Stmt, Value};
use rusqlite::InterruptHandle;
use tokio::sync::Notify;

use super::error::ShellError;

/// Takes what a statement answers, row by row.
pub(super) trait Sink {
    /// The statement has these columns. Called once before the rows, also if there are none.
    fn begin(&mut self, columns: &[String]) -> io::Result<()>;
    /// The next row.
    fn row(&mut self, row: Vec<Value>) -> io::Result<()>;
}

/// What a statement did.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Done {
    /// Rows that it wrote.
    pub(super) changes: u64,
    /// The row id that the last INSERT gave, if it is known.
    pub(super) last_rowid: Option<i64>,
    /// How long the server took for it, in milliseconds.
    pub(super) server_ms: Option<f64>,
}

/// One connection to a database.
pub(super) trait Backend {
    /// Runs one statement.
    fn run(&mut self, sql: &str, args: &[Value], sink: &mut dyn Sink) -> Result<Done, ShellError>;

    /// Runs statements whose rows do not matter, and that neither begin nor end a transaction; ends at
    /// the first that fails, and tells which that is.
    fn run_all(&mut self, statements: Vec<Stmt>) -> Result<(), (usize, ShellError)>;

    /// Whether that is faster than one by one.
    fn is_far(&self) -> bool;

    /// Runs a statement that undoes what was begun, also after Ctrl-C.
    fn undo(&mut self, sql: &str) -> Result<(), ShellError>;

    /// Whether a transaction is open.
    fn in_transaction(&self) -> bool;

    /// Ends the connection; what is not committed is rolled back.
    fn close(&mut self);

    /// Runs one statement and keeps what it answers, which must be little.
    fn rows(&mut self, sql: &str, args: &[Value]) -> Result<Vec<Vec<Value>>, ShellError> {
        let mut kept = Kept(Vec::new());
        self.run(sql, args, &mut kept)?;
        Ok(kept.0)
    }

    /// Runs one statement whose rows do not matter.
    fn just_run(&mut self, sql: &str) -> Result<Done, ShellError> {
        self.run(sql, &[], &mut Nothing)
    }
}

struct Kept(Vec<Vec<Value>>);

impl Sink for Kept {
    fn begin(&mut self, _: &[String]) -> io::Result<()> {
        Ok(())
    }

    fn row(&mut self, row: Vec<Value>) -> io::Result<()> {
        self.0.push(row);
        Ok(())
    }
}

struct Nothing;

impl Sink for Nothing {
    fn begin(&mut self, _: &[String]) -> io::Result<()> {
        Ok(())
    }

    fn row(&mut self, _: Vec<Value>) -> io::Result<()> {
        Ok(())
    }
}

/// The text in a value; nothing of another type.
pub(super) fn text_of(value: Option<&Value>) -> &str {
    match value {
        Some(Value::Text(text)) => text,
        _ => "",
    }
}

/// Ctrl-C, on its way to the statement under way.
#[derive(Default)]
pub(super) struct Interrupt {
    raised: AtomicBool,
    news: Notify,
    sqlite: Mutex<Option<InterruptHandle>>,
}

impl Interrupt {
    /// Stops the statement under way, if there is one.
    pub(super) fn raise(&self) {
        self.raised.store(true, Ordering::SeqCst);
        self.news.notify_waiters();
        if let Some(sqlite) = &*self.sqlite.lock().unwrap_or_else(PoisonError::into_inner) {
            sqlite.interrupt();
        }
    }

    /// From now on only what is raised later counts.
    pub(super) fn clear(&self) {
        self.raised.store(false, Ordering::SeqCst);
    }

    pub(super) fn is_raised(&self) -> bool {
        self.raised.load(Ordering::SeqCst)
    }

    /// Resolves once it is raised.
    pub(super) async fn raised(&self) {
        loop {
            let mut news = std::pin::pin!(self.news.notified());
            // What is raised from here on wakes it.
            news.as_mut().enable();
            if self.is_raised() {
                return;
            }
            news.await;
        }
    }

    /// Reaches this connection from now on.
    pub(super) fn reach(&self, sqlite: InterruptHandle) {
        *self.sqlite.lock().unwrap_or_else(PoisonError::into_inner) = Some(sqlite);
    }
}

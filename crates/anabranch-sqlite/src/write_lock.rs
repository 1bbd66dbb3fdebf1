//! The write lock of a live file: who holds it keeps everybody else from committing.
//!
//! SQLite gives it to a transaction only if that has seen the newest state, and waits for nobody on
//! behalf of one that has begun to read: waiting cannot help if the state is no longer the newest.
//! So it is asked for again here, within the busy timeout.
//!
//! A program that commits all the time has committed once more before a reader can ask.
//! [`View::lock_newest`] therefore has a second connection take the lock first, which waits as any
//! writer does; under it the view begins again, and takes the lock over. SQLite has no way to hand it
//! over, so somebody may come in between, and then all of it is repeated; but who has waited for the
//! lock is asleep most of the time, and the lock is free for a moment only.

use std::time::{Duration, Instant};

use rusqlite::ffi::{SQLITE_BUSY, SQLITE_BUSY_SNAPSHOT};

use crate::error::FileError;
use crate::live::LiveFile;
use crate::view::View;

/// How long to wait before asking for the write lock again: first and longest. Long waits would leave
/// the lock to those who come back sooner.
const RETRY: (Duration, Duration) = (Duration::from_micros(500), Duration::from_millis(10));

/// Answers of SQLite to who asks for the write lock.
enum Asked {
    Held,
    /// Somebody committed since the transaction began.
    Moved,
    /// Somebody else holds it.
    Busy,
}

fn answer(live: &LiveFile, asked: rusqlite::Result<()>) -> Result<Asked, FileError> {
    let Err(error) = asked else { return Ok(Asked::Held) };
    match error.sqlite_error().map(|e| e.extended_code) {
        Some(SQLITE_BUSY_SNAPSHOT) => Ok(Asked::Moved),
        Some(SQLITE_BUSY) => Ok(Asked::Busy),
        _ => Err(live.error("taking the write lock of", error)),
    }
}

/// Asks until somebody else does not hold the lock any more, or the busy timeout is over.
fn wait(
    live: &LiveFile,
    mut ask: impl FnMut() -> Result<Asked, FileError>,
) -> Result<bool, FileError> {
    let began = Instant::now();
    let mut pause = RETRY.0;
    loop {
        match ask()? {
            Asked::Held => return Ok(true),
            Asked::Moved => return Ok(false),
            Asked::Busy if began.elapsed() < live.busy => {}
            Asked::Busy => {
                let (path, waited) = (live.path.clone(), live.busy);
                return Err(FileError::Busy { path, what: "taking the write lock of", waited });
            }
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(RETRY.1);
    }
}

impl View<'_> {
    /// Takes the write lock: nobody else can commit from here to the end of the view. `false` if
    /// somebody has committed since the view began. What others hold is waited for within the busy
    /// timeout.
    pub(crate) fn lock(&self) -> Result<bool, FileError> {
        wait(self.live, || self.ask())
    }

    fn ask(&self) -> Result<Asked, FileError> {
        // An insert of no rows takes the lock and writes nothing.
        let asked = self
            .live
            .conn
            .prepare_cached("INSERT INTO sqlite_dbpage(pgno, data) SELECT 1, NULL WHERE 0")
            .and_then(|mut s| s.execute([]));
        answer(self.live, asked.map(drop))
    }

    /// The newest state, which stays the newest: nobody else can commit from here to the end of the
    /// view. What others hold is waited for, twice the busy timeout at most; see the module.
    pub fn lock_newest(mut self) -> Result<Self, FileError> {
        let began = Instant::now();
        let mut second: Option<LiveFile> = None;
        loop {
            if self.lock()? {
                return Ok(self);
            }
            if second.is_some() && began.elapsed() >= self.live.busy {
                let (path, waited) = (self.live.path.clone(), self.live.busy);
                return Err(FileError::Busy { path, what: "taking the write lock of", waited });
            }
            let others = match second.take() {
                Some(second) => second,
                None => self.live.connect_again()?,
            };
            others.take_write_lock()?;
            self.begin_again()?;
            others.rollback();
            // It stays open: closing it would take time, in which others could commit.
            second = Some(others);
        }
    }
}

impl LiveFile {
    /// Begins a transaction that writes, on a connection that has none.
    fn take_write_lock(&self) -> Result<(), FileError> {
        let patience = |busy| {
            self.conn.busy_timeout(busy).map_err(|e| self.error("taking the write lock of", e))
        };
        patience(Duration::ZERO)?;
        let taken = wait(self, || answer(self, self.conn.execute_batch("BEGIN IMMEDIATE")));
        patience(self.busy)?;
        // It begins to read when it is asked for, so the state is the newest unless somebody was faster.
        taken.map(drop)
    }
}

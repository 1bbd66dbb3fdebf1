//! A served file: a database that this process keeps at a position of a log while connections of its
//! own read and write it.
//!
//! It is a cache of the log, made from it ([`NewServedFile`]) and thrown away in any doubt: nothing
//! here waits for the disk. It is always in WAL mode, and has at any moment two states:
//!
//! - the *published* one, which the log has. A connection of the file itself holds it in a read
//!   transaction, so that others can begin theirs on it ([`Published::begin`]) whatever was committed
//!   since, and so that the `-wal` is not restarted under it;
//! - the *tip*, what was committed since by connections that write ([`ServedFile::tip`]). Its frames
//!   are read ([`ServedFile::frames`]) and brought into the log; then it is the published state
//!   ([`ServedFile::publish`]), or else it is taken back ([`ServedFile::undo`]).
//!
//! Who uses it sees to it that one connection writes at a time, and none while the file is moved,
//! taken back or checkpointed.
//!
//! Pages are put in as they are in the log, the schema cookie too: what is committed on top goes into
//! the log with the cookie that SQLite counted up from there. Only journal mode and change counter
//! are the file's own. After [`ServedFile::undo`] a cookie can come again with another schema: no
//! connection from before may be used after it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anabranch_format::{PageOne, PageSet, PageSize, Pgno, Salts};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::error::FileError;
use crate::ffi::{self, SNAPSHOT_BYTES};
use crate::live::{connect, sqlite_error};
use crate::mark::Snapshot;
use crate::raw_pages::{cut_off, write_page};
use crate::wal::WalFile;

mod new;

pub use new::NewServedFile;

/// Nobody waits for locks here but for the moment in which another connection recovers or looks.
const BUSY: Duration = Duration::from_secs(2);

/// A state of a served file that connections can begin on.
#[derive(Debug, Clone)]
pub struct Published {
    header: [u8; SNAPSHOT_BYTES],
    snapshot: Snapshot,
}

impl Published {
    /// Begins a read transaction of `conn` on this state, or moves the one that is open, and has not
    /// read yet, there. `false` if the state cannot be shown any more; a transaction is open then all
    /// the same.
    pub fn begin(&self, conn: &Connection) -> rusqlite::Result<bool> {
        if conn.is_autocommit() {
            conn.prepare_cached("BEGIN")?.execute([])?;
        }
        ffi::open_snapshot(conn, &self.header)
    }

    /// Number of frames in the `-wal` up to here.
    #[must_use]
    pub fn wal_frames(&self) -> u32 {
        self.snapshot.mark.frame
    }

    /// Size of the database in pages.
    #[must_use]
    pub fn pages(&self) -> u32 {
        self.snapshot.db_size
    }
}

/// What connections have committed since the published state.
#[derive(Debug)]
pub struct Tip(Published);

impl Tip {
    /// Size of the database in pages.
    #[must_use]
    pub fn pages(&self) -> u32 {
        self.0.pages()
    }

    /// The salts that the frames up to here carry.
    #[must_use]
    pub fn salts(&self) -> Salts {
        self.0.snapshot.mark.salts
    }
}

/// The file: see the module.
pub struct ServedFile {
    path: PathBuf,
    wal_path: PathBuf,
    page_size: PageSize,
    /// Holds the published state.
    holder: Connection,
    /// Holds the tip, while somebody works with it.
    spare: Connection,
    published: Published,
}

impl std::fmt::Debug for ServedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServedFile")
            .field("path", &self.path)
            .field("published", &self.published)
            .finish_non_exhaustive()
    }
}

impl ServedFile {
    /// Opens the file at `path`, which nobody else has open. What it holds is published.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let mut writer = connect_lazily(path)?;
        let fail = |e| sqlite_error(path, "opening", BUSY, e);
        let page_size: u32 =
            writer.query_row("PRAGMA page_size", [], |r| r.get(0)).map_err(fail)?;
        let no_database = || FileError::NotADatabase { path: path.into() };
        let page_size = PageSize::new(page_size).map_err(|_| no_database())?;
        let wal_path = ffi::path(&writer, ffi::Which::Wal).ok_or_else(no_database)?;
        begin_anew(&mut writer).map_err(fail)?;
        let holder = connect_lazily(path)?;
        let published = hold(&holder, path, page_size)?;
        Ok(ServedFile {
            path: path.into(),
            wal_path,
            page_size,
            holder,
            spare: connect_lazily(path)?,
            published,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The state that the log has.
    #[must_use]
    pub fn published(&self) -> &Published {
        &self.published
    }

    /// Removes a served file, and what belongs to it. Connections that have it open keep what they have.
    pub fn remove(path: &Path) -> io::Result<()> {
        let mut removed = Ok(());
        for suffix in ["", "-wal", "-shm"] {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            match std::fs::remove_file(&name) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => removed = removed.and(Err(e)),
                _ => {}
            }
        }
        removed
    }

    /// How others open a connection to work with, which they then [set up](Self::set_up).
    #[must_use]
    pub fn flags() -> OpenFlags {
        OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_PRIVATE_CACHE
    }

    /// Sets up a connection for others to work with: it never checkpoints and never waits for the disk.
    pub fn set_up(conn: &Connection) -> rusqlite::Result<()> {
        conn.busy_timeout(BUSY)?;
        // The last one to close would do it for nothing: the file is thrown away.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        conn.execute_batch("PRAGMA synchronous = OFF; PRAGMA wal_autocheckpoint = 0")?;
        // Before it can begin on a published state it must have seen the `-wal` once.
        conn.query_row("PRAGMA schema_version", [], |_| Ok(()))
    }

    /// What was committed since the published state; `None` if nothing was.
    pub fn tip(&mut self) -> Result<Option<Tip>, FileError> {
        rollback(&self.spare);
        let tip = hold(&self.spare, &self.path, self.page_size)?;
        if tip.snapshot.mark == self.published.snapshot.mark {
            rollback(&self.spare);
            return Ok(None);
        }
        Ok(Some(Tip(tip)))
    }

    /// The frames between the published state and `tip`, whole transactions in their order: the page,
    /// the size of the database in pages where a transaction ends (else 0), the content.
    pub fn frames<E: From<FileError>>(
        &self,
        tip: &Tip,
        mut each: impl FnMut(Pgno, u32, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let (from, to) = (&self.published.snapshot.mark, &tip.0.snapshot.mark);
        let broken = || FileError::Io {
            path: self.wal_path.clone(),
            what: "reading",
            source: std::io::Error::other("its frames are not those that were committed"),
        };
        if !from.same_run(to) {
            return Err(broken().into());
        }
        let wal = WalFile::open(&self.wal_path, self.page_size, to).map_err(|_| broken())?;
        let mut outcome = Ok(());
        let read = wal.frames(from.frame + 1, to.frame, &mut |header, page| {
            if outcome.is_ok() {
                outcome = each(header.pgno, header.commit_size, page);
            }
        });
        outcome?;
        read.and_then(|()| wal.check_mark(to)).map_err(|_| broken().into())
    }

    /// The log has `tip` now.
    pub fn publish(&mut self, tip: Tip) -> &Published {
        std::mem::swap(&mut self.holder, &mut self.spare);
        rollback(&self.spare);
        self.published = tip.0;
        &self.published
    }

    /// Takes back what was committed since the published state.
    pub fn undo(&mut self, tip: &Tip) -> Result<&Published, FileError> {
        let size = self.published.pages();
        let mut changed = PageSet::new(size);
        self.frames(tip, |pgno, _, _| {
            if pgno.get() <= size {
                changed.insert(pgno);
            }
            Ok::<(), FileError>(())
        })?;
        let fail = |e| sqlite_error(&self.path, "reading", BUSY, e);
        let mut replacing = self.replace(size)?;
        for pgno in changed.iter() {
            self.published_page(pgno, |page| replacing.page(pgno, page)).map_err(fail)??;
        }
        replacing.commit()?;
        self.publish_tip()
    }

    /// Goes on with what was committed, which the log has.
    pub fn publish_tip(&mut self) -> Result<&Published, FileError> {
        if let Some(tip) = self.tip()? {
            self.publish(tip);
        }
        Ok(&self.published)
    }

    fn published_page<T>(&self, pgno: Pgno, f: impl FnOnce(&[u8]) -> T) -> rusqlite::Result<T> {
        self.holder
            .prepare_cached("SELECT data FROM sqlite_dbpage WHERE pgno = ?1")?
            .query_row([pgno.get()], |row| Ok(f(row.get_ref(0)?.as_blob()?)))
    }

    /// Starts to write pages as the log has them; the database has `size_after` pages afterwards.
    pub fn replace(&self, size_after: u32) -> Result<Replacing, FileError> {
        // A connection of its own each time: after it has written pages it answers wrongly.
        let conn = connect_lazily(&self.path)?;
        let begun = conn.execute_batch("BEGIN IMMEDIATE");
        begun.map_err(|e| sqlite_error(&self.path, "taking the write lock of", BUSY, e))?;
        Ok(Replacing { conn, path: self.path.clone(), size_after, page_one: None })
    }

    /// Moves what is in the `-wal` into the database, as far as nobody reads older states, and starts
    /// a new run of it where possible. Nobody may begin on the published state meanwhile.
    pub fn checkpoint(&mut self) -> Result<&Published, FileError> {
        let fail = |e| sqlite_error(&self.path, "checkpointing", BUSY, e);
        rollback(&self.spare);
        rollback(&self.holder);
        let mut writer = connect_lazily(&self.path)?;
        writer.busy_timeout(Duration::ZERO).map_err(fail)?;
        let done = writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |r| r.get::<_, i64>(0));
        match done {
            Ok(_) => {}
            // Somebody reads; the next time, then.
            Err(e) if e.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => {}
            Err(e) => return Err(fail(e)),
        }
        begin_anew(&mut writer).map_err(fail)?;
        self.published = hold(&self.holder, &self.path, self.page_size)?;
        Ok(&self.published)
    }
}

/// Pages of the log on their way into the file. Dropped, it has changed nothing.
#[derive(Debug)]
pub struct Replacing {
    conn: Connection,
    path: PathBuf,
    size_after: u32,
    /// Written last: see the steps of an apply.
    page_one: Option<Vec<u8>>,
}

impl Replacing {
    /// Writes a page; one that comes again replaces what came before.
    pub fn page(&mut self, pgno: Pgno, page: &[u8]) -> Result<(), FileError> {
        if pgno.get() > self.size_after {
            return Ok(());
        }
        if pgno == Pgno::ONE {
            let kept = self.page_one.get_or_insert_default();
            kept.clear();
            kept.extend_from_slice(page);
            return Ok(());
        }
        self.write(pgno, page)
    }

    fn write(&self, pgno: Pgno, page: &[u8]) -> Result<(), FileError> {
        write_page(&self.conn, pgno, page).map_err(|e| self.error("writing", e))
    }

    /// Commits what was written.
    pub fn commit(mut self) -> Result<(), FileError> {
        let fail = |e| sqlite_error(&self.path, "writing", BUSY, e);
        let size: u32 = self.conn.query_row("PRAGMA page_count", [], |r| r.get(0)).map_err(fail)?;
        let cut = self.size_after < size;
        if self.page_one.is_none() && cut {
            return Err(FileError::Io {
                path: self.path.clone(),
                what: "writing",
                source: std::io::Error::other(
                    "the database shrinks, but its first page is missing",
                ),
            });
        }
        if let Some(mut page) = self.page_one.take() {
            let own = self.own_page_one()?;
            let new = PageOne::read(&page)
                .map_err(|source| FileError::PageOne { path: self.path.clone(), source })?;
            own.keep_in(&mut page);
            if cut {
                // Cutting off takes a statement: until then the cookie stays as it was.
                page[40..44].copy_from_slice(&own.schema_cookie.to_be_bytes());
            }
            self.write(Pgno::ONE, &page)?;
            if cut {
                let cookie = (new.schema_cookie != own.schema_cookie).then_some(new.schema_cookie);
                cut_off(&self.conn, self.size_after, cookie).map_err(fail)?;
            }
        }
        self.conn.execute_batch("COMMIT").map_err(fail)
    }

    fn own_page_one(&self) -> Result<Own, FileError> {
        let fail = |e| sqlite_error(&self.path, "reading", BUSY, e);
        let read = self
            .conn
            .query_row("SELECT data FROM sqlite_dbpage WHERE pgno = 1", [], |row| {
                Ok(PageOne::read(row.get_ref(0)?.as_blob()?))
            })
            .map_err(fail)?;
        let one = read.map_err(|source| FileError::PageOne { path: self.path.clone(), source })?;
        Ok(Own(one))
    }

    fn error(&self, what: &'static str, e: rusqlite::Error) -> FileError {
        sqlite_error(&self.path, what, BUSY, e)
    }
}

/// The first page of the file, whose own fields stay.
struct Own(PageOne);

impl std::ops::Deref for Own {
    type Target = PageOne;

    fn deref(&self) -> &PageOne {
        &self.0
    }
}

impl Own {
    fn keep_in(&self, page: &mut [u8]) {
        page[18] = self.write_version;
        page[19] = self.read_version;
        page[24..28].copy_from_slice(&self.change_counter.to_be_bytes());
        page[92..96].copy_from_slice(&self.version_valid_for.to_be_bytes());
    }
}

/// A connection of the file's own, for raw pages.
fn connect_lazily(path: &Path) -> Result<Connection, FileError> {
    let conn = connect(path, BUSY)?;
    ServedFile::set_up(&conn).map_err(|e| sqlite_error(path, "opening", BUSY, e))?;
    Ok(conn)
}

/// Commits the first page as it is: a state can be held only if the `-wal` has a frame, and is not
/// restarted only if it has one that the database does not have yet.
fn begin_anew(conn: &mut Connection) -> rusqlite::Result<()> {
    conn.busy_timeout(BUSY)?;
    let transaction = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    transaction.execute(
        "INSERT INTO sqlite_dbpage(pgno, data) SELECT 1, data FROM sqlite_dbpage WHERE pgno = 1",
        [],
    )?;
    transaction.commit()
}

/// Begins a read transaction on the newest state.
fn hold(conn: &Connection, path: &Path, page_size: PageSize) -> Result<Published, FileError> {
    let fail = |e| sqlite_error(path, "reading", BUSY, e);
    let mut begin = conn.prepare_cached("BEGIN").map_err(fail)?;
    begin.execute([]).map_err(fail)?;
    let mut read = conn.prepare_cached("PRAGMA schema_version").map_err(fail)?;
    read.query_row([], |_| Ok(())).map_err(fail)?;
    let header = ffi::snapshot(conn).map_err(fail)?;
    let held = header.and_then(|header| {
        Some(Published { header, snapshot: Snapshot::decode(&header, page_size)? })
    });
    held.ok_or_else(|| FileError::NoWalMode { path: path.into(), mode: "empty -wal".into() })
}

fn rollback(conn: &Connection) {
    if !conn.is_autocommit()
        && let Err(error) = conn.execute_batch("ROLLBACK")
    {
        tracing::warn!(%error, "ending a read transaction failed");
    }
}

#[cfg(test)]
mod tests;

//! The sidecar: a replica's memory, a SQLite database beside the user's.
//!
//! Decides how state is kept durable, not what it means. Holds the settled [`State`], the
//! [`Intent`]s, the base map with its staged entries, the history of own checksums, the page checksums
//! that the newest settled deltas replaced, the conflict journal and the settings (both in modules of
//! their own).
//!
//! Invariants:
//! 1. An intent is durable before its act begins ([`Sidecar::commit_durably`]).
//! 2. Settling is one transaction: base map, state, history and the end of the intents move
//!    together. It need not be durable at once: if power fails, the intent is still there, and what
//!    happened is decided anew.
//! 3. What is read back is checked: state and intents carry a checksum, so does each base map row.
//!
//! The sidecar is in WAL mode and is not checkpointed at close: that would cost two more waits for
//! the disk at each sync. Its `-wal` therefore stays beside it and belongs to it.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anabranch_format::{DbChecksum, Lsn};
use anabranch_sqlite::{BaseMap, FileIdentity};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::state::{Intent, State};
use crate::{journal, settings};

/// "anab": marks the sidecar as ours.
const APPLICATION_ID: i32 = 0x616e_6162;
/// Version of the sidecar's layout. Those of version 1 have neither journal nor settings, and are given
/// them when they are opened; a program that knows only version 1 must not touch what a later one
/// wrote, as it would not see that the file was ahead of the base at its mark.
const VERSION: u32 = 2;

/// How many own positions are remembered with their checksums.
const HISTORY_MAX: i64 = 4096;
/// How many settled deltas are remembered with the checksums they replaced.
const REPLACED_DELTAS_MAX: i64 = 8;
/// Larger deltas are not remembered page by page.
pub(crate) const REPLACED_PAGES_MAX: usize = 16_384;

/// Bytes of one entry of a replaced delta: page number and keyed checksum.
const REPLACED_ENTRY_BYTES: usize = 12;

/// `db` with `suffix` behind its name.
pub(crate) fn beside(db: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(db.as_os_str());
    name.push(suffix);
    PathBuf::from(name)
}

/// Where the sidecar of the database at `db` (resolved) lies.
pub(crate) fn path_for(db: &Path) -> PathBuf {
    beside(db, "-anabranch")
}

/// Where the lock file of the database at `db` (resolved) lies.
pub(crate) fn lock_path_for(db: &Path) -> PathBuf {
    beside(db, "-anabranch-lock")
}

/// An open sidecar.
pub(crate) struct Sidecar {
    path: PathBuf,
    conn: Connection,
    /// Which file it was just before it was opened; `None` if there was none.
    file: Option<FileIdentity>,
}

/// A sidecar that stays open from one operation to the next. Nobody else having it open, SQLite
/// would read its `-wal` from end to end each time: longer than a sync with nothing to do takes.
#[derive(Clone, Default)]
pub(crate) struct HandedOn(Arc<Mutex<Option<Sidecar>>>);

impl HandedOn {
    pub(crate) fn new(sidecar: Sidecar) -> Self {
        HandedOn(Arc::new(Mutex::new(Some(sidecar))))
    }

    /// What is still there, for the one who comes first.
    pub(crate) fn take(&self) -> Option<Sidecar> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl fmt::Debug for HandedOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HandedOn")
    }
}

/// A checksum that was replaced by a settled delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Replaced {
    pub(crate) pgno: u32,
    pub(crate) keyed: u64,
}

impl Sidecar {
    /// Makes the sidecar of the database at `db`, in place of one that is there.
    pub(crate) fn create(db: &Path, state: &State) -> Result<Self, Error> {
        let path = path_for(db);
        remove(&path)?;
        let sidecar = Self::connect(path, OpenFlags::SQLITE_OPEN_CREATE)?;
        sidecar.begin()?;
        sidecar.run(|conn| {
            conn.execute_batch(&format!(
                "PRAGMA application_id = {APPLICATION_ID};
                 PRAGMA user_version = {VERSION};
                 CREATE TABLE state(id INTEGER PRIMARY KEY CHECK (id = 1), json TEXT NOT NULL,
                                    hash INTEGER NOT NULL);
                 CREATE TABLE intent(id INTEGER PRIMARY KEY AUTOINCREMENT, json TEXT NOT NULL,
                                     hash INTEGER NOT NULL);
                 CREATE TABLE history(lsn INTEGER PRIMARY KEY, sum INTEGER NOT NULL);
                 CREATE TABLE replaced(lsn INTEGER PRIMARY KEY, entries BLOB NOT NULL,
                                       hash INTEGER NOT NULL);"
            ))?;
            conn.execute_batch(journal::SCHEMA)?;
            conn.execute_batch(settings::SCHEMA)
        })?;
        BaseMap::create_tables(&sidecar.conn)?;
        sidecar.save_state(state)?;
        sidecar.remember(state.base.lsn(), state.base.sum)?;
        sidecar.commit_durably()?;
        Ok(sidecar)
    }

    /// Opens the sidecar of the database at `db` and reads its state.
    pub(crate) fn open(db: &Path) -> Result<(Self, State), Error> {
        let path = path_for(db);
        if !path.exists() {
            return Err(Error::NotAReplica { path: db.to_owned(), sidecar: path });
        }
        let sidecar = Self::connect(path, OpenFlags::empty())?;
        let (application, version): (i32, u32) = sidecar.run(|conn| {
            Ok((
                conn.pragma_query_value(None, "application_id", |row| row.get(0))?,
                conn.pragma_query_value(None, "user_version", |row| row.get(0))?,
            ))
        })?;
        if application != APPLICATION_ID {
            let objects: i64 = sidecar.run(|conn| {
                conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
            })?;
            if (application, version, objects) == (0, 0, 0) {
                // Whoever made it died before it held anything: it was never one.
                return Err(Error::NotAReplica { path: db.to_owned(), sidecar: sidecar.path });
            }
            return Err(sidecar.damaged("it is not a sidecar"));
        }
        match version {
            VERSION => {}
            1 => sidecar.bring_up_to_date()?,
            found => {
                let path = sidecar.path;
                return Err(Error::SidecarVersion { path, found, known: VERSION });
            }
        }
        let state = sidecar.state()?;
        Ok((sidecar, state))
    }

    /// As [`Sidecar::open`], with `opened` if that is still what lies there.
    pub(crate) fn reopen(db: &Path, opened: Option<Sidecar>) -> Result<(Self, State), Error> {
        match opened.filter(|sidecar| sidecar.is_at(&path_for(db))) {
            Some(sidecar) => {
                let state = sidecar.state()?;
                Ok((sidecar, state))
            }
            None => Self::open(db),
        }
    }

    /// Whether this is the file at `path`.
    fn is_at(&self, path: &Path) -> bool {
        self.path == path && self.file.as_ref().is_some_and(|file| file.is_at(path))
    }

    fn state(&self) -> Result<State, Error> {
        let row = self.run(|conn| {
            conn.query_row("SELECT json, hash FROM state WHERE id = 1", [], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))
            })
            .optional()
        })?;
        let (json, hash) = row.ok_or_else(|| self.damaged("it has no state"))?;
        self.decode(&json, hash, "state")
    }

    /// Gives a sidecar of version 1 what it lacks; harmless if somebody else was faster.
    fn bring_up_to_date(&self) -> Result<(), Error> {
        self.begin()?;
        self.run(|conn| {
            conn.execute_batch(journal::SCHEMA)?;
            conn.execute_batch(settings::SCHEMA)?;
            conn.pragma_update(None, "user_version", VERSION)
        })?;
        self.commit_durably()
    }

    fn connect(path: PathBuf, create: OpenFlags) -> Result<Self, Error> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | create;
        let file = FileIdentity::of(&path).ok();
        let conn = match Connection::open_with_flags(&path, flags) {
            Ok(conn) => conn,
            Err(source) => return Err(Error::Sidecar { path, source }),
        };
        let sidecar = Sidecar { path, conn, file };
        sidecar.run(|conn| {
            conn.busy_timeout(Duration::from_secs(5))?;
            conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
            conn.pragma_update(None, "journal_mode", "wal")?;
            // A bounded cache: a first publication stages one entry for each page.
            conn.pragma_update(None, "cache_size", -4096)
        })?;
        Ok(sidecar)
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The connection, for the base map.
    pub(crate) fn conn(&self) -> &Connection {
        &self.conn
    }

    /// Does something with the connection; its errors become typed ones.
    pub(crate) fn run<T>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, Error> {
        work(&self.conn).map_err(|e| self.failed(e))
    }

    /// The typed error for what SQLite says of the sidecar.
    pub(crate) fn failed(&self, source: rusqlite::Error) -> Error {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        match source.sqlite_error_code() {
            Some(DatabaseCorrupt | NotADatabase) => self.damaged(&source.to_string()),
            _ => Error::Sidecar { path: self.path.clone(), source },
        }
    }

    /// The sidecar cannot be trusted.
    pub(crate) fn damaged(&self, what: &str) -> Error {
        Error::SidecarDamaged { path: self.path.clone(), what: what.to_owned() }
    }

    /// Begins a transaction that takes the write lock; ended by one of the two commits, or by
    /// [`Sidecar::rollback`].
    pub(crate) fn begin(&self) -> Result<(), Error> {
        // One that settled may have failed before it asked for durability again.
        self.run(|conn| conn.execute_batch("PRAGMA synchronous = FULL; BEGIN IMMEDIATE"))
    }

    /// Whether a transaction is open.
    pub(crate) fn is_within_transaction(&self) -> bool {
        !self.conn.is_autocommit()
    }

    /// Gives up the transaction, if there is one.
    pub(crate) fn rollback(&self) -> Result<(), Error> {
        if self.conn.is_autocommit() {
            return Ok(());
        }
        self.run(|conn| conn.execute_batch("ROLLBACK"))
    }

    /// Marks a place in the transaction.
    pub(crate) fn mark(&self) -> Result<(), Error> {
        self.run(|conn| conn.execute_batch("SAVEPOINT here"))
    }

    /// Takes back what was done in the transaction since [`Sidecar::mark`].
    pub(crate) fn back_to_mark(&self) -> Result<(), Error> {
        self.run(|conn| conn.execute_batch("ROLLBACK TO here; RELEASE here"))
    }

    /// Ends the transaction; it is on disk when this returns.
    pub(crate) fn commit_durably(&self) -> Result<(), Error> {
        self.run(|conn| conn.execute_batch("COMMIT"))
    }

    /// Ends a transaction that settles: see invariant 2.
    pub(crate) fn commit_settled(&self) -> Result<(), Error> {
        // `synchronous` cannot be changed inside a transaction, so the file is asked not to wait
        // before the transaction begins: see `begin_settling`.
        self.run(|conn| conn.execute_batch("COMMIT; PRAGMA synchronous = FULL"))
    }

    /// Begins a transaction that will end with [`Sidecar::commit_settled`].
    pub(crate) fn begin_settling(&self) -> Result<(), Error> {
        self.run(|conn| conn.execute_batch("PRAGMA synchronous = NORMAL; BEGIN IMMEDIATE"))
    }

    fn encode(value: &impl Serialize) -> (String, i64) {
        let json = serde_json::to_string(value).expect("plain data is always JSON");
        let hash = hash(json.as_bytes());
        (json, hash)
    }

    fn decode<T: DeserializeOwned>(&self, json: &str, stored: i64, what: &str) -> Result<T, Error> {
        if hash(json.as_bytes()) != stored {
            return Err(self.damaged(&format!("the checksum of its {what} is wrong")));
        }
        serde_json::from_str(json).map_err(|e| self.damaged(&format!("its {what}: {e}")))
    }

    /// Puts `state` in place of the one that is stored.
    pub(crate) fn save_state(&self, state: &State) -> Result<(), Error> {
        let (json, hash) = Self::encode(state);
        self.run(|conn| {
            conn.execute(
                "REPLACE INTO state(id, json, hash) VALUES (1, ?1, ?2)",
                params![json, hash],
            )
        })?;
        Ok(())
    }

    /// Lists the intents, oldest first, with their ids.
    pub(crate) fn intents(&self) -> Result<Vec<(i64, Intent)>, Error> {
        let rows = self.run(|conn| {
            let mut statement = conn.prepare("SELECT id, json, hash FROM intent ORDER BY id")?;
            let rows = statement.query_map([], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?))
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        let decode = |(id, json, hash): (i64, String, i64)| {
            Ok((id, self.decode(&json, hash, "list of intents")?))
        };
        rows.into_iter().map(decode).collect()
    }

    /// Reserves an id for an intent: staged entries refer to it.
    pub(crate) fn next_intent_id(&self) -> Result<i64, Error> {
        self.run(|conn| {
            conn.query_row(
                "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'intent'), 0) + 1",
                [],
                |row| row.get(0),
            )
        })
    }

    /// Writes an intent.
    pub(crate) fn put_intent(&self, id: i64, intent: &Intent) -> Result<(), Error> {
        let (json, hash) = Self::encode(intent);
        self.run(|conn| {
            conn.execute(
                "INSERT INTO intent(id, json, hash) VALUES (?1, ?2, ?3)",
                params![id, json, hash],
            )
        })?;
        Ok(())
    }

    /// Forgets an intent (its staged entries are the base map's business).
    pub(crate) fn delete_intent(&self, id: i64) -> Result<(), Error> {
        self.run(|conn| conn.execute("DELETE FROM intent WHERE id = ?1", [id]))?;
        Ok(())
    }

    /// Remembers that this replica had checksum `sum` at `lsn`.
    pub(crate) fn remember(&self, lsn: Lsn, sum: DbChecksum) -> Result<(), Error> {
        self.run(|conn| {
            conn.execute(
                "REPLACE INTO history(lsn, sum) VALUES (?1, ?2)",
                params![lsn.get().cast_signed(), sum.0.cast_signed()],
            )?;
            conn.execute(
                "DELETE FROM history WHERE lsn <=
                   (SELECT lsn FROM history ORDER BY lsn DESC LIMIT 1 OFFSET ?1)",
                [HISTORY_MAX],
            )
        })?;
        Ok(())
    }

    /// The newest remembered position before `before` that had checksum `sum`.
    pub(crate) fn position_of(&self, sum: DbChecksum, before: Lsn) -> Result<Option<Lsn>, Error> {
        let found = self.run(|conn| {
            conn.query_row(
                "SELECT max(lsn) FROM history WHERE sum = ?1 AND lsn < ?2",
                params![sum.0.cast_signed(), before.get().cast_signed()],
                |row| row.get::<_, Option<i64>>(0),
            )
        })?;
        Ok(found.map(|lsn| Lsn::new(lsn.cast_unsigned())))
    }

    /// Remembers the page checksums that the delta up to `lsn` replaced.
    pub(crate) fn remember_replaced(&self, lsn: Lsn, pages: &[Replaced]) -> Result<(), Error> {
        let mut entries = Vec::with_capacity(pages.len() * REPLACED_ENTRY_BYTES);
        for page in pages {
            entries.extend_from_slice(&page.pgno.to_le_bytes());
            entries.extend_from_slice(&page.keyed.to_le_bytes());
        }
        let hash = hash(&entries);
        self.run(|conn| {
            conn.execute(
                "REPLACE INTO replaced(lsn, entries, hash) VALUES (?1, ?2, ?3)",
                params![lsn.get().cast_signed(), entries, hash],
            )?;
            conn.execute(
                "DELETE FROM replaced WHERE lsn <=
                   (SELECT lsn FROM replaced ORDER BY lsn DESC LIMIT 1 OFFSET ?1)",
                [REPLACED_DELTAS_MAX],
            )
        })?;
        Ok(())
    }

    /// Forgets every earlier position: the file is taken as it is.
    pub(crate) fn forget_history(&self) -> Result<(), Error> {
        self.run(|conn| conn.execute_batch("DELETE FROM history; DELETE FROM replaced"))
    }

    /// What the newest settled deltas replaced, newest delta first.
    pub(crate) fn replaced(&self) -> Result<Vec<Vec<Replaced>>, Error> {
        let rows = self.run(|conn| {
            let mut statement =
                conn.prepare("SELECT entries, hash FROM replaced ORDER BY lsn DESC")?;
            let rows = statement
                .query_map([], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, i64>(1)?)))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        let decode = |(entries, stored): (Vec<u8>, i64)| {
            if hash(&entries) != stored {
                return Err(self.damaged("the checksum of a replaced delta is wrong"));
            }
            let (entries, _) = entries.as_chunks::<REPLACED_ENTRY_BYTES>();
            Ok(entries
                .iter()
                .map(|&[a, b, c, d, ref keyed @ ..]| Replaced {
                    pgno: u32::from_le_bytes([a, b, c, d]),
                    keyed: u64::from_le_bytes(*keyed),
                })
                .collect())
        };
        rows.into_iter().map(decode).collect()
    }
}

fn hash(bytes: &[u8]) -> i64 {
    anabranch_format::content_hash(bytes).cast_signed()
}

/// Deletes a sidecar with its companions.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    // The sidecar first: without it the others mean nothing, it without them is an older sidecar.
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let file = beside(path, suffix);
        match std::fs::remove_file(&file) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::Io { what: "removing", path: file, source }),
        }
    }
    Ok(())
}

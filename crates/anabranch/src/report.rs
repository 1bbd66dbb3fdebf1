//! What operations answer: plain data, serialisable, with the field's terms as names.

use std::path::PathBuf;

use anabranch_format::{Lsn, Micros, WriterId};
use serde::Serialize;

/// A push that reached the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pushed {
    /// Position before.
    pub from: Lsn,
    /// Position after.
    pub to: Lsn,
    /// Changed pages that were sent.
    pub pages: u64,
    /// Bytes of the object that was stored; 0 where an earlier attempt turned out to have landed.
    pub bytes: u64,
}

/// A pull that was applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pulled {
    /// Position before.
    pub from: Lsn,
    /// Position after.
    pub to: Lsn,
    /// Pages written to the file.
    pub pages: u64,
    /// Bytes that were fetched (read, for a folder).
    pub bytes: u64,
}

/// Local changes that were put on top of what was fetched, row by row.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Rebased {
    /// What became of the local changes of each table.
    pub tables: Vec<TableRebased>,
    /// How many objects of the schema (tables, indices, views, triggers) were changed here and carried
    /// over.
    pub schema: u64,
    /// Entries in the conflict journal, all tables taken together.
    pub conflicts: u64,
}

/// What became of the local changes of one table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TableRebased {
    /// The table.
    pub table: String,
    /// Rows that were inserted here, and are there now.
    pub inserted: u64,
    /// Rows that were changed here, and are changed there now.
    pub updated: u64,
    /// Rows that were deleted here, and are deleted there now.
    pub deleted: u64,
    /// Rows that did not end as they were written, those that were renumbered aside.
    pub conflicts: u64,
    /// Rows that were inserted here and got another key, since others had inserted a row under it.
    pub renumbered: u64,
}

impl Rebased {
    /// Two rebases, one after the other, as one.
    pub(crate) fn joined(earlier: Option<Self>, now: Option<Self>) -> Option<Self> {
        let (mut all, more) = match (earlier, now) {
            (Some(all), Some(more)) => (all, more),
            (one, None) | (None, one) => return one,
        };
        for table in more.tables {
            match all.tables.iter_mut().find(|known| known.table == table.table) {
                Some(known) => {
                    known.inserted += table.inserted;
                    known.updated += table.updated;
                    known.deleted += table.deleted;
                    known.conflicts += table.conflicts;
                    known.renumbered += table.renumbered;
                }
                None => all.tables.push(table),
            }
        }
        all.schema += more.schema;
        all.conflicts += more.conflicts;
        Some(all)
    }
}

/// Something the user should know although the operation went on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "note")]
#[non_exhaustive]
pub enum Note {
    /// The database was in rollback-journal mode and is in WAL mode now.
    SwitchedToWal,
    /// An operation that was interrupted earlier has been completed.
    Recovered {
        /// What it was and how it ended.
        what: String,
    },
    /// Anything else worth a line.
    Other {
        /// The line.
        text: String,
    },
}

/// What `push` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PushReport {
    /// The push; `None` if there was nothing to push.
    pub pushed: Option<Pushed>,
    /// Position now.
    pub position: Lsn,
    /// What else happened.
    pub notes: Vec<Note>,
}

/// What `pull` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PullReport {
    /// The pull; `None` if the replica was at the head.
    pub pulled: Option<Pulled>,
    /// What became of local changes, if there were any as well.
    pub rebased: Option<Rebased>,
    /// Position now.
    pub position: Lsn,
    /// What else happened.
    pub notes: Vec<Note>,
}

/// The remote could not be reached; the replica is as good as before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Offline {
    /// Why.
    pub reason: String,
    /// Local changes that wait to be pushed, in pages.
    pub pages_to_push: u64,
}

/// What `sync` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SyncReport {
    /// The remote could not be reached: nothing was sent or fetched.
    pub offline: Option<Offline>,
    /// What was fetched.
    pub pulled: Option<Pulled>,
    /// What became of local changes, if both sides had changed.
    pub rebased: Option<Rebased>,
    /// What was sent.
    pub pushed: Option<Pushed>,
    /// Position now.
    pub position: Lsn,
    /// What else happened.
    pub notes: Vec<Note>,
}

/// What `init` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InitReport {
    /// The database's id.
    pub database: String,
    /// The first push; `None` if the database is empty so far.
    pub published: Option<Pushed>,
    /// Position now.
    pub position: Lsn,
    /// What else happened.
    pub notes: Vec<Note>,
}

/// What `clone` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CloneReport {
    /// The database's id.
    pub database: String,
    /// Position of the new replica.
    pub position: Lsn,
    /// Pages of the database.
    pub pages: u64,
    /// Bytes that were fetched (read, for a folder).
    pub bytes: u64,
}

/// What `adopt` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AdoptReport {
    /// The database's id.
    pub database: String,
    /// Position at which the file was in step.
    pub position: Lsn,
    /// Pages that the file's client had not pushed: local changes now.
    pub local_pages: u64,
    /// Where the client's info file was put; `None` if an earlier attempt had done it.
    pub backup: Option<PathBuf>,
    /// What else happened.
    pub notes: Vec<Note>,
}

/// Rows of one table that changed locally.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableChanges {
    /// The table.
    pub table: String,
    /// Rows that the base has not.
    pub inserted: u64,
    /// Rows that both have, with other content.
    pub updated: u64,
    /// Rows that only the base has.
    pub deleted: u64,
}

/// How far the remote is ahead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum RemoteStatus {
    /// The replica has everything.
    UpToDate,
    /// There is more to pull.
    Ahead {
        /// Where the log ends.
        head: Lsn,
        /// How many frames lie between.
        frames: u64,
    },
    /// The remote could not be reached.
    Offline {
        /// Why.
        reason: String,
    },
    /// The remote was reached, but what is there stops every sync.
    Trouble {
        /// Why, and what can be done.
        reason: String,
    },
    /// The remote was not asked.
    NotAsked,
}

/// What `status` found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The database file, resolved.
    pub file: PathBuf,
    /// The remote, credentials left out.
    pub remote: String,
    /// How the remote is spoken to.
    pub dialect: &'static str,
    /// The database's id.
    pub database: String,
    /// This replica's id.
    pub replica: WriterId,
    /// Position: what the replica last had in common with its remote.
    pub position: Lsn,
    /// When that was settled.
    pub last_sync: Option<Micros>,
    /// Size of the database in pages, and of a page in bytes.
    pub pages: u32,
    /// Bytes of a page.
    pub page_size: u32,
    /// Local changes, in pages.
    pub local_pages: u64,
    /// Whether they were found along the WAL (fast) or by a scan of the whole file, and why.
    pub found_by: String,
    /// Changed rows of each table, if asked for.
    pub tables: Option<Vec<TableChanges>>,
    /// Tables whose rows could not be compared, and why.
    pub tables_skipped: Vec<(String, String)>,
    /// How far the remote is ahead.
    pub remote_status: RemoteStatus,
    /// An interrupted operation waits for the next sync.
    pub unfinished: Option<String>,
    /// What else is worth knowing.
    pub notes: Vec<Note>,
}

/// What `verify` found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// The position that was compared.
    pub position: Lsn,
    /// Pages that were compared.
    pub pages: u64,
    /// Pages that differ although nothing says that they were changed here: damage.
    pub damaged: Vec<u32>,
    /// Pages that differ because they were changed here and wait to be pushed.
    pub local: Vec<u32>,
    /// Whether the remote's own checksums fit its contents.
    pub remote_consistent: bool,
}

/// One entry of the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HistoryEntry {
    /// First position of the segment.
    pub first: Lsn,
    /// Position after it.
    pub lsn: Lsn,
    /// The log's time of the append, microseconds since 1970.
    pub time: Micros,
    /// Pages that the segment carries.
    pub pages: u64,
    /// Bytes of the object.
    pub bytes: u64,
    /// Size of the database after, in pages.
    pub db_pages: u32,
    /// Who wrote it.
    pub writer: WriterId,
    /// Generation.
    pub generation: u32,
}

/// What `restore` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RestoreReport {
    /// The position that was restored.
    pub position: Lsn,
    /// When that position was written.
    pub time: Option<Micros>,
    /// Pages of the database.
    pub pages: u64,
    /// Bytes that were fetched (read, for a folder).
    pub bytes: u64,
    /// What is worth knowing, for example clocks that disagree.
    pub notes: Vec<Note>,
}

/// What `repair` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RepairReport {
    /// Position now.
    pub position: Lsn,
    /// Local changes now, in pages.
    pub local_pages: u64,
    /// Where the file as it was has been kept.
    pub kept: Option<PathBuf>,
    /// What was done, in a sentence.
    pub what: String,
}

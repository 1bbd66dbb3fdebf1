//! Errors of the client library: each says what happened, to which file or position, and what the
//! user can do.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anabranch_format::{DeltaError, Lsn, PageSize};
use anabranch_rebase::{Conflict, RebaseError, Side, Value};
use anabranch_sqlite::{ApplyError, BaseError, CaptureError, FileError, ScratchError};
use anabranch_store::{AppendError, LocationError, StoreError};

use crate::adopt::AdoptError;
use crate::remote::{self, ServerError, ServerUrlError};

/// What a caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Both sides changed and somebody must decide, or the remote is ahead: pull, or decide.
    Diverged,
    /// The remote cannot be reached: try again later.
    Offline,
    /// Another program holds what is needed: try again.
    Busy,
    /// The request does not make sense as it stands: correct it.
    Usage,
    /// Anything else; the message says what to do.
    Failed,
}

/// Why an operation on a replica or a remote failed. Unless the text says otherwise, nothing changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another replica has published something where this one is still being published.
    #[error(
        "diverged: {changed} changed here since position {base}, and the remote went on to \
         {remote_lsn}; nothing was changed",
        changed = pages(*local_pages)
    )]
    Diverged {
        /// Local changes, in pages.
        local_pages: u64,
        /// What both sides last had in common.
        base: Lsn,
        /// Where the remote's log ends now (or what is known of it).
        remote_lsn: Lsn,
    },
    /// Both sides changed one object of the schema, differently.
    #[error(
        "both sides changed the {kind} {name}: here it is {local}, at the remote {remote}. Nothing \
         was changed. `anabranch sync {path} --take local` goes on with what it is here, `--take \
         remote` with what it is there; the rows of both are merged in either case",
        path = path.display(), local = statement(local), remote = statement(remote)
    )]
    SchemaConflict {
        /// The database.
        path: PathBuf,
        /// `table`, `index`, `view` or `trigger`.
        kind: String,
        /// Its name in the common state, or the name that both gave it.
        name: String,
        /// The local statement; empty if it was dropped here.
        local: String,
        /// The remote's statement; empty if it was dropped there.
        remote: String,
    },
    /// What both sides changed cannot be one schema: an object of one side needs what the other side
    /// dropped or changed.
    #[error(
        "the {kind} {name} of {} does not work in the schema of both: {why}. Nothing was changed. {}",
        match of { Side::Local => "this side", Side::Remote => "the remote" },
        ways_on(path, kind, name, *of, *taken)
    )]
    SchemaBroken {
        /// The database.
        path: PathBuf,
        /// `table`, `index`, `view` or `trigger`.
        kind: String,
        /// Its name.
        name: String,
        /// Whose object it is.
        of: Side,
        /// What SQLite says.
        why: String,
        /// Whose schema was taken already.
        taken: Option<Side>,
    },
    /// An object of the schema uses what only the application has.
    #[error(
        "{object} uses the {kind} {name}, which only the application that made it knows: what both \
         sides changed of it cannot be merged here. Nothing was changed. `anabranch repair {path} \
         --take-remote` goes on from the remote's state and keeps the file as it is beside it",
        path = path.display()
    )]
    OnlyTheApplicationKnows {
        /// The database.
        path: PathBuf,
        /// What uses it.
        object: String,
        /// `function`, `collation`, `module` or `tokenizer`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// Both sides changed a table whose content cannot be merged row by row.
    #[error(
        "both sides changed table {table}, which cannot be merged: {why}. Nothing was changed. \
         `anabranch sync {path} --take local` goes on with what it holds here, `--take remote` with \
         what it holds there",
        path = path.display()
    )]
    Unmergeable {
        /// The database.
        path: PathBuf,
        /// The table.
        table: String,
        /// Why not.
        why: String,
    },
    /// Both sides changed a row of a table for which somebody wants to be asked.
    #[error(
        "both sides changed a row of table {table} ({key}), and its policy is `abort`. Nothing was \
         changed. `anabranch sync {path} --dry-run` shows what is in conflict; `anabranch config \
         {path} conflict.{table} = local` (or remote, or merge) decides it, then sync again",
        path = path.display(), key = key_of(conflict)
    )]
    Aborted {
        /// The database.
        path: PathBuf,
        /// The table.
        table: String,
        /// The row, with its versions.
        conflict: Box<Conflict>,
    },
    /// What a program's [`Resolve`](crate::Resolve) decided on cannot stand.
    #[error(
        "the row that the program decided on cannot stand in table {table}: {why}. Nothing was \
         changed"
    )]
    Resolved {
        /// The table.
        table: String,
        /// Why not.
        why: String,
    },
    /// Putting local changes on top of the remote's failed.
    #[error(
        "putting what changed in {path} on top of what the remote has failed; nothing was changed",
        path = path.display()
    )]
    Rebase {
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<RebaseError>,
    },
    /// One of the states that a rebase works with cannot be read or written.
    #[error(
        "putting what changed in {path} on top of what the remote has needs its earlier pages, which \
         cannot be read or kept; nothing was changed",
        path = path.display()
    )]
    Layers {
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<ScratchError>,
    },
    /// What the remote says of the common state is not what it was.
    #[error(
        "page {page} of position {lsn}, as the remote has it, is not what this replica once had: the \
         remote, or the sidecar, is damaged. Nothing was changed; `anabranch verify` tells more"
    )]
    BasePage {
        /// The position.
        lsn: Lsn,
        /// The page.
        page: u32,
    },
    /// The journal has no such conflict.
    #[error(
        "there is no conflict {id} in the journal of {path}: `anabranch conflicts {path} --all` \
         lists them",
        path = path.display()
    )]
    NoConflict {
        /// The database.
        path: PathBuf,
        /// The number.
        id: i64,
    },
    /// A version of a row cannot be written back.
    #[error(
        "conflict {id} cannot be resolved that way: the row cannot be written to table {table}. \
         Nothing was changed"
    )]
    Resolving {
        /// The conflict.
        id: i64,
        /// The table.
        table: String,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// A push found that the remote is ahead.
    #[error("the remote went on from {base} to {remote_lsn}: pull first, then push again")]
    Behind {
        /// The replica's position.
        base: Lsn,
        /// Where the remote's log ends now.
        remote_lsn: Lsn,
    },
    /// The remote cannot be reached.
    #[error("offline: {remote} cannot be reached")]
    Offline {
        /// The remote.
        remote: String,
        /// Why.
        #[source]
        source: Box<StoreError>,
    },
    /// Too many pushes were sent without an answer whether they arrived.
    #[error(
        "{undecided} pushes of {path} were sent and not one was confirmed by {remote}: what stands \
         there cannot be told. Local changes are safe in the file; see that the remote can be \
         written, then sync again",
        path = path.display()
    )]
    Undecided {
        /// The database.
        path: PathBuf,
        /// The remote.
        remote: String,
        /// How many.
        undecided: usize,
    },
    /// A push was sent but nobody answered whether it arrived.
    #[error(
        "the remote {remote} did not confirm the push; it is kept, and the next sync finds out \
         whether it arrived"
    )]
    Unconfirmed {
        /// The remote.
        remote: String,
        /// Why.
        #[source]
        source: Box<StoreError>,
    },
    /// The file has no sidecar.
    #[error(
        "{path} is not a replica: there is no {sidecar}; use `anabranch init` to publish it or \
         `anabranch clone` to get a copy",
        path = path.display(), sidecar = sidecar.display()
    )]
    NotAReplica {
        /// The database.
        path: PathBuf,
        /// Where the sidecar would be.
        sidecar: PathBuf,
    },
    /// `init` on a file that is a replica already.
    #[error("{path} is a replica of {remote} already", path = path.display())]
    AlreadyAReplica {
        /// The database.
        path: PathBuf,
        /// Its remote.
        remote: String,
    },
    /// Another operation on this replica is running.
    #[error(
        "another anabranch works on {path} at this moment: wait for it, or try again",
        path = path.display()
    )]
    Locked {
        /// The database.
        path: PathBuf,
    },
    /// The file holds an older state than the replica had.
    #[error(
        "{path} looks older than this replica, which had reached position {base}: {why}. Either an \
         old copy was put in its place, or somebody wrote the earlier values again, byte for byte. \
         Nothing was pushed. If it is an old copy, `anabranch repair {path}` brings it to the \
         remote's state and keeps what it is now beside it; if the values are meant, \
         `anabranch repair --keep {path}` lets them be pushed",
        path = path.display(), why = age(*lsn)
    )]
    FileIsOlder {
        /// The database.
        path: PathBuf,
        /// The position whose state the file holds exactly; `None` if it was written since, or goes
        /// back further than this replica remembers.
        lsn: Option<Lsn>,
        /// The replica's position.
        base: Lsn,
    },
    /// The file is not the one that the sidecar belongs to.
    #[error(
        "{path} is not the file that its sidecar belongs to: {what}. Nothing was pushed. If it is a \
         copy of this database, `anabranch repair --adopt {path}` takes it as a replica of its own, \
         and what it holds is pushed; if it is another database, `anabranch repair {path}` brings \
         the right one back and keeps this one beside it",
        path = path.display()
    )]
    NotTheSameFile {
        /// The database.
        path: PathBuf,
        /// What gave it away.
        what: String,
    },
    /// The page size of the database is another than the log's.
    #[error(
        "{path} has pages of {found} bytes now, but its log has {expected}: set `PRAGMA page_size` \
         back and VACUUM (outside WAL mode), or clone anew",
        path = path.display()
    )]
    PageSizeChanged {
        /// The database.
        path: PathBuf,
        /// As the file is.
        found: PageSize,
        /// As the log is.
        expected: PageSize,
    },
    /// The remote takes one page size only, and the database has another.
    #[error(
        "{path} has pages of {found} bytes, but the remote's protocol knows pages of {only} only: \
         set `PRAGMA page_size = {only}` and VACUUM (outside WAL mode), then try again",
        path = path.display()
    )]
    OnlyPageSize {
        /// The database.
        path: PathBuf,
        /// As the file is.
        found: PageSize,
        /// What the remote takes.
        only: PageSize,
    },
    /// A file of an official libSQL client cannot be taken over.
    #[error("{path} cannot be adopted", path = path.display())]
    Adopt {
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<AdoptError>,
    },
    /// `init` on a remote that holds a database already.
    #[error("{remote} holds a database already: use `anabranch clone {remote} FILE` to get it")]
    RemoteNotEmpty {
        /// The remote.
        remote: String,
    },
    /// The place is there, but nothing of this replica's database is.
    #[error(
        "nothing of this database is at {remote}: is the disk mounted, was the folder moved or \
         emptied? Nothing was sent; if it moved, `anabranch remote FILE --set URL` names its place"
    )]
    RemoteGone {
        /// The remote.
        remote: String,
    },
    /// The log ends before a position that this replica has seen in it.
    #[error(
        "the log at {remote} ends at {found}, before position {base} that this replica has seen in \
         it: an older copy of the remote was put in its place. Nothing was changed"
    )]
    RemoteWentBack {
        /// The remote.
        remote: String,
        /// The replica's position.
        base: Lsn,
        /// Where the log ends now.
        found: Lsn,
    },
    /// The remote refused a push.
    #[error("the push to {remote} was refused")]
    Append {
        /// The remote.
        remote: String,
        /// Why.
        #[source]
        source: Box<AppendError>,
    },
    /// The database at the remote has no content yet.
    #[error("{remote} holds a database to which nothing was published yet: sync its first replica")]
    NothingPublished {
        /// The remote.
        remote: String,
    },
    /// Nothing is as old as what was asked for.
    #[error("{remote} holds nothing that old: `anabranch log {remote}` shows what there is")]
    BeforeHistory {
        /// The remote.
        remote: String,
    },
    /// Writing what was pulled failed.
    #[error("applying what was fetched to {path} failed", path = path.display())]
    Apply {
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<ApplyError<std::convert::Infallible>>,
    },
    /// Keeping a copy of the file failed, so it was not touched.
    #[error("keeping a copy of {path} failed, so nothing was changed", path = path.display())]
    Copying {
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Comparing rows with the base failed.
    #[error("comparing the rows of {path} with their base failed", path = path.display())]
    Comparing {
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// A delta or snapshot cannot be used.
    #[error("what was fetched is damaged")]
    Pages(#[source] DeltaError),
    /// The file's state is none that the log remembers.
    #[error(
        "{path} holds no state that the log at {remote} remembers: clone the database anew, and \
         bring over by hand what only this file has",
        path = path.display()
    )]
    UnknownState {
        /// The database.
        path: PathBuf,
        /// The remote.
        remote: String,
    },
    /// There is no database at the remote.
    #[error("{remote} holds no database: publish one with `anabranch init FILE --remote {remote}`")]
    RemoteEmpty {
        /// The remote.
        remote: String,
    },
    /// The remote holds another database than the replica's.
    #[error(
        "{remote} holds another database ({found}) than this replica ({expected}); if it moved, \
         name its place with `anabranch remote FILE --set URL`"
    )]
    OtherDatabase {
        /// The remote.
        remote: String,
        /// The id found there.
        found: String,
        /// The replica's.
        expected: String,
    },
    /// The database was deleted at the remote.
    #[error("the database {database} was deleted at {remote}; the file here is untouched")]
    Deleted {
        /// The remote.
        remote: String,
        /// The replica's database.
        database: String,
    },
    /// The target of a clone or restore exists.
    #[error("{path} exists already; it is never overwritten: name another file", path = path.display())]
    TargetExists {
        /// The target.
        path: PathBuf,
    },
    /// Where a database shall be made, an earlier one has left its log.
    #[error(
        "{beside} is left of a database that was at {path} before, and may hold commits that are \
         nowhere else: SQLite would play it into the new one. Open it with its database, or move it \
         away",
        path = path.display(), beside = beside.display()
    )]
    LeftBehind {
        /// The target.
        path: PathBuf,
        /// What was left.
        beside: PathBuf,
    },
    /// The file and the log differ although they should not.
    #[error(
        "the state at position {lsn} has checksum {found}, but the log states {expected}: the \
         replica or the remote is damaged. `anabranch verify` names the pages; `anabranch repair` \
         brings the file to the remote's state, keeping a copy"
    )]
    Mismatch {
        /// Position.
        lsn: Lsn,
        /// Checksum found.
        found: String,
        /// Checksum in the log.
        expected: String,
    },
    /// The base of the replica is older than what the remote keeps, and there are local changes.
    #[error(
        "the remote keeps nothing as old as position {base} any more, and {changed} changed here \
         since: what others changed cannot be told from what was changed here. Nothing was changed. \
         `anabranch sync FILE --take remote` goes on from the remote's state and keeps the file as it \
         is beside it; `--take local` pushes the file's state, as a whole, on top of the remote's; \
         `--take union` adds the rows that were written here to the remote's state, whose version \
         stands where both have a row",
        changed = pages(*local_pages)
    )]
    BaseGone {
        /// The replica's position.
        base: Lsn,
        /// Local changes, in pages.
        local_pages: u64,
    },
    /// A state that is needed is not kept any more.
    #[error(
        "{remote} does not keep the state at position {lsn} any more: `anabranch repair` brings the \
         file to the newest one, keeping a copy"
    )]
    PositionGone {
        /// The remote.
        remote: String,
        /// The position.
        lsn: Lsn,
    },
    /// The file kept changing while it was being brought up to date.
    #[error("{path} was written again and again meanwhile: try again", path = path.display())]
    KeepsMoving {
        /// The database.
        path: PathBuf,
    },
    /// Other programs would have been kept from writing for too long.
    #[error(
        "{path} is written all the time, and putting its changes on top of what the remote has took \
         longer than other programs should have to wait ({waited:?}); nothing was changed. Sync again \
         when less is written, or with a longer busy timeout",
        path = path.display()
    )]
    TooLong {
        /// The database.
        path: PathBuf,
        /// How long they had to.
        waited: Duration,
    },
    /// Others appended to the log whenever this replica was about to.
    #[error(
        "others were faster at {remote} again and again: what changed here is safe in the file, and \
         goes out with the next sync"
    )]
    Races {
        /// The remote.
        remote: String,
    },
    /// The sidecar cannot be read, or contradicts itself.
    #[error(
        "the sidecar {path} is damaged: {what}. The database itself is untouched; `anabranch \
         repair --relink --remote URL FILE` builds a new sidecar",
        path = path.display()
    )]
    SidecarDamaged {
        /// The sidecar.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The sidecar was written by a later version.
    #[error("the sidecar {path} has version {found}; this program knows up to {known}: update it", path = path.display())]
    SidecarVersion {
        /// The sidecar.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest that is known here.
        known: u32,
    },
    /// The base map in the sidecar.
    #[error(
        "the sidecar's base map cannot be used; the database itself is untouched, and `anabranch \
         repair --relink --remote URL FILE` builds a new sidecar"
    )]
    BaseMap(#[source] BaseError),
    /// SQLite failed on the sidecar.
    #[error("working on the sidecar {path} failed", path = path.display())]
    Sidecar {
        /// The sidecar.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// An operation on a file failed.
    #[error("{what} {path} failed", path = path.display())]
    Io {
        /// What was tried ("writing", "creating").
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The local database.
    #[error(transparent)]
    File(#[from] FileError),
    /// The remote.
    #[error(transparent)]
    Store(StoreError),
    /// The text does not name a remote.
    #[error(transparent)]
    Location(#[from] LocationError),
    /// The text does not name a server.
    #[error(transparent)]
    ServerUrl(#[from] ServerUrlError),
    /// The server refuses, or what it answers cannot be used.
    #[error("the server at {remote} did not do what was asked")]
    Server {
        /// The remote.
        remote: String,
        /// Why.
        #[source]
        source: Box<ServerError>,
    },
    /// The server speaks neither our dialect nor that of libSQL.
    #[error(
        "the server at {remote} answers, but neither as `anabranch serve` does nor as a libSQL \
         server: is the URL right?"
    )]
    NoDialect {
        /// The remote.
        remote: String,
    },
    /// The request cannot be carried out as it stands.
    #[error("{0}")]
    Usage(String),
    /// A part of this library panicked; the operation was given up.
    #[error("an internal error: {0}; please report it. The next sync recovers")]
    Panicked(String),
}

/// A statement of the schema, as it is told.
fn statement(sql: &str) -> String {
    /// More is cut off: it is told what it is about, not shown in full.
    const CHARS_MAX: usize = 300;
    match sql.char_indices().nth(CHARS_MAX) {
        _ if sql.is_empty() => "dropped".to_owned(),
        Some((end, _)) => format!("`{}...`", &sql[..end]),
        None => format!("`{sql}`"),
    }
}

/// What can be done about an object `of` a side that does not work in the schema of both, if the
/// schema of one was `taken` or not.
fn ways_on(path: &Path, kind: &str, name: &str, of: Side, taken: Option<Side>) -> String {
    let path = path.display();
    match (taken, of) {
        (None, _) => format!(
            "`anabranch sync {path} --take local` goes on with the schema of this side, `--take \
             remote` with that of the others"
        ),
        (Some(_), Side::Local) if kind == "table" => format!(
            "Rename the {kind} {name} here or change it so that both fit together, then sync again"
        ),
        (Some(_), Side::Local) => format!(
            "Drop the {kind} {name} here or change it so that it fits, then sync again; or \
             `anabranch sync {path} --take remote` leaves it out"
        ),
        (Some(_), Side::Remote) => format!(
            "Make again here what it needs, then sync again; or `anabranch sync {path} --take local` \
             leaves it out"
        ),
    }
}

/// The key of a row in conflict, as it is told.
fn key_of(conflict: &Conflict) -> String {
    const CHARS_MAX: usize = 60;
    let shown = |value: &Value| match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(n) => n.to_string(),
        Value::Real(x) => x.to_string(),
        Value::Text(text) => format!("'{}'", text.chars().take(CHARS_MAX).collect::<String>()),
        Value::Blob(bytes) => format!("a blob of {} bytes", bytes.len()),
    };
    let key = &conflict.key;
    let parts = key.columns.iter().zip(&key.values);
    parts.map(|(name, value)| format!("{name} {}", shown(value))).collect::<Vec<_>>().join(", ")
}

/// That many pages.
fn pages(count: u64) -> String {
    if count == 1 { "1 page".to_owned() } else { format!("{count} pages") }
}

/// What shows that a file is older.
fn age(lsn: Option<Lsn>) -> String {
    match lsn {
        Some(lsn) => format!("it is exactly as it was at position {lsn}"),
        None => "what the last syncs changed is gone from it".to_owned(),
    }
}

impl From<BaseError> for Error {
    fn from(e: BaseError) -> Self {
        Error::BaseMap(e)
    }
}

impl From<CaptureError<Error>> for Error {
    fn from(e: CaptureError<Error>) -> Self {
        match e {
            CaptureError::File(e) => Error::File(e),
            CaptureError::Base(e) => Error::BaseMap(e),
            CaptureError::Callback(e) => e,
            other => Error::Panicked(other.to_string()),
        }
    }
}

impl From<CaptureError<std::convert::Infallible>> for Error {
    fn from(e: CaptureError<std::convert::Infallible>) -> Self {
        match e {
            CaptureError::File(e) => Error::File(e),
            CaptureError::Base(e) => Error::BaseMap(e),
            CaptureError::Callback(never) => match never {},
            other => Error::Panicked(other.to_string()),
        }
    }
}

impl Error {
    /// The typed error for a rebase of the database at `path` that failed.
    /// `taken`: whose schema was taken.
    pub(crate) fn from_rebase(path: &Path, taken: Option<Side>, e: RebaseError) -> Self {
        let path = path.to_owned();
        match e {
            RebaseError::SchemaConflict { kind, name, local, remote } => {
                Error::SchemaConflict { path, kind, name, local, remote }
            }
            RebaseError::SchemaBroken { kind, name, of, why } => {
                Error::SchemaBroken { path, kind, name, of, why, taken }
            }
            RebaseError::Unknown { object, kind, name } => {
                Error::OnlyTheApplicationKnows { path, object, kind, name }
            }
            RebaseError::Unmergeable { table, why } => Error::Unmergeable { path, table, why },
            RebaseError::Aborted { table, conflict, .. } => {
                Error::Aborted { path, table, conflict }
            }
            RebaseError::Resolved { table, why } => Error::Resolved { table, why },
            RebaseError::Journal(e) => match e.downcast::<Error>() {
                Ok(e) => *e,
                Err(e) => Error::Rebase { path, source: Box::new(RebaseError::Journal(e)) },
            },
            e => Error::Rebase { path, source: Box::new(e) },
        }
    }

    /// The typed error for pages that could not be read: the store's, if it is one.
    pub(crate) fn from_pages(e: DeltaError) -> Self {
        match StoreError::from_pages(e) {
            Ok(store) => remote::of_store_itself(store),
            Err(e) => Error::Pages(e),
        }
    }

    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Diverged { .. }
            | Error::Behind { .. }
            | Error::BaseGone { .. }
            | Error::SchemaConflict { .. }
            | Error::SchemaBroken { .. }
            | Error::OnlyTheApplicationKnows { .. }
            | Error::Unmergeable { .. }
            | Error::Aborted { .. } => ErrorKind::Diverged,
            Error::Offline { .. }
            | Error::Unconfirmed { .. }
            | Error::Undecided { .. }
            | Error::RemoteGone { .. } => ErrorKind::Offline,
            Error::Locked { .. }
            | Error::KeepsMoving { .. }
            | Error::TooLong { .. }
            | Error::Races { .. } => ErrorKind::Busy,
            Error::Location(_)
            | Error::ServerUrl(_)
            | Error::Usage(_)
            | Error::NoConflict { .. } => ErrorKind::Usage,
            Error::Server { source, .. } if matches!(**source, ServerError::InvalidName { .. }) => {
                ErrorKind::Usage
            }
            _ => ErrorKind::Failed,
        }
    }

    /// Whether the remote could not be reached, so that trying again later is all there is to do.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        self.kind() == ErrorKind::Offline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_side_settles_is_named_with_a_way_on() {
        let said = |kind: &str, of, taken| {
            let (name, why) = ("v".to_owned(), "no such table: t".to_owned());
            let e = RebaseError::SchemaBroken { kind: kind.to_owned(), name, of, why };
            Error::from_rebase(Path::new("a.db"), taken, e).to_string()
        };
        let undecided = said("view", Side::Local, None);
        assert!(undecided.contains("`anabranch sync a.db --take local` goes on"), "{undecided}");
        // What was tried is not what is advised.
        let local = said("view", Side::Local, Some(Side::Local));
        assert!(
            local.contains("Drop the view v here") && !local.contains("--take local"),
            "{local}"
        );
        let remote = said("view", Side::Remote, Some(Side::Remote));
        assert!(remote.contains("--take local") && !remote.contains("--take remote"), "{remote}");
        let table = said("table", Side::Local, Some(Side::Remote));
        assert!(table.contains("Rename the table v here"), "{table}");
    }
}

//! Adopt: a replica that an official libSQL client made becomes one of ours.
//!
//! 1. the file is locked against everybody, its `FILE-info` and its `-wal` are read: position, base,
//!    and what was never pushed;
//! 2. the remote is asked whether it has that position, and the very frame that ends there: a `-wal`
//!    that was begun anew (another SQLite had checkpointed it) shows there;
//! 3. the sidecar is written, the base map filled, all of it durable, naming the position of the info
//!    file;
//! 4. the info file is put aside, so that its client does not take the file for its own any more;
//! 5. the sidecar forgets the info file.
//!
//! Until 4 the file belongs to its client and is as it was; killed before that, adopting starts over.
//! Killed after 3, the next operation of any kind goes on with 4, unless the info file says something
//! else by then: its client was there meanwhile, and adopting starts over. The database and its
//! `-wal` are only read.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use anabranch_format::{DatabaseId, DbChecksum, Lsn, PageSize};
use anabranch_sqlite::{FileError, Frozen};
use anabranch_store::Anchor;

use crate::crash::crash_point;
use crate::entropy;
use crate::error::Error;
use crate::image::folder_of;
use crate::lock::ReplicaLock;
use crate::remote::{self, Dialect, Opening, Spot};
use crate::replica::{Options, blocking};
use crate::report::AdoptReport;
use crate::session::{Session, identity_of, resolve};
use crate::sidecar::{self, Sidecar};
use crate::state::{self, Phase, RemoteText, State};
use crate::transaction_hash::TransactionHash;

#[cfg(feature = "fuzzing")]
pub(crate) use info_file::fuzz as fuzz_info_file;

mod info_file;
mod ledger;

use ledger::Ledger;

/// Why a file cannot be taken over from an official libSQL client. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdoptError {
    /// No info file.
    #[error(
        "there is no {info}: it is no replica of an official libSQL client (a plain database is \
         published with `anabranch init`)",
        info = info.display()
    )]
    NoInfo {
        /// Where it would be.
        info: PathBuf,
    },
    /// Not the JSON that is expected.
    #[error("its -info file cannot be read: {0}")]
    Malformed(String),
    /// The hash in it does not fit.
    #[error("its -info file is damaged: the hash is {found}, not {stated} as it says")]
    Hash {
        /// As the file says.
        stated: u32,
        /// As computed.
        found: u32,
    },
    /// Written by a later client.
    #[error("its -info file has version {0}; this program knows version 0")]
    Version(u32),
    /// Generation 0.
    #[error("its -info file names generation 0, but they are counted from 1: it was never in step")]
    NoGeneration,
    /// Only one page size can be.
    #[error("it has pages of {0} bytes, but the protocol knows pages of 4096 only")]
    PageSize(PageSize),
    /// The `-wal` was checkpointed.
    #[error(
        "its -wal holds {have} frames, but it was in step at frame {need}: another SQLite has \
         checkpointed it, so that what was never pushed cannot be told from the rest. Clone the \
         database anew, and bring over by hand what only this file has"
    )]
    ShortWal {
        /// Committed frames in it.
        have: u32,
        /// As the info file says.
        need: u32,
    },
    /// The position ends no transaction.
    #[error("it was in step at frame {0}, but no transaction ends there")]
    InsideTransaction(u32),
    /// Somebody has the file open.
    #[error("another program has it open: end the libSQL client that uses it, and adopt it then")]
    InUse(#[source] FileError),
    /// The server has something else there.
    #[error(
        "the server has another {at} than this file: either its -wal was begun anew by another SQLite, \
         or the database at the server is another. Clone the database anew, and bring over by hand \
         what only this file has"
    )]
    OtherFrame {
        /// The position.
        at: Spot,
    },
    /// The server's log does not have it.
    #[error("the server has no {at}, at which this file was in step: it holds another database")]
    NoSuchPosition {
        /// The position.
        at: Spot,
    },
    /// The position lies inside what the server keeps as one piece.
    #[error(
        "it was in step at {at}, in the midst of what another client pushed at once: let its libSQL \
         client fetch the rest, end it, and adopt the file then"
    )]
    InsideSegment {
        /// The position.
        at: Spot,
    },
    /// The base differs from what the server states.
    #[error(
        "the state of this file at {at} is not the one that the server's log has there (checksum \
         {found} instead of {expected}). Clone the database anew, and bring over by hand what only \
         this file has"
    )]
    OtherState {
        /// The position.
        at: Spot,
        /// The file's.
        found: String,
        /// The log's.
        expected: String,
    },
    /// Adopting was interrupted before anything counted.
    #[error(
        "adopting it was interrupted, and its libSQL client may have used it since: run `anabranch \
         adopt` again"
    )]
    Interrupted,
    /// The remote cannot tell.
    #[error("the remote does not count in generations, as libSQL clients do: {0}")]
    NoGenerations(String),
}

impl AdoptError {
    fn of(self, path: &Path) -> Error {
        Error::Adopt { path: path.to_owned(), source: Box::new(self) }
    }
}

/// What a remote says of the position of an official client.
#[derive(Debug)]
pub(crate) struct Adoptable {
    pub(crate) database: DatabaseId,
    pub(crate) dialect: Option<Dialect>,
    /// The position as the remote counts.
    pub(crate) anchor: Anchor,
    /// Size and checksum there, if it states them.
    pub(crate) stated: Option<(u32, DbChecksum)>,
}

/// The end of the transaction up to which an official client was in step: its last frame, and the
/// size after it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LastFrame {
    pub(crate) hash: TransactionHash,
    pub(crate) size: u32,
}

/// Takes over the file at `file`; see the module.
pub(crate) async fn adopt(
    file: &Path,
    remote: &OsStr,
    options: &Options,
) -> Result<(Session, AdoptReport), Error> {
    let text = remote::absolute(remote)?;
    let (path, named, settings) = (file.to_owned(), text.clone(), options.clone());
    let begun = blocking(move || begin(&path, &named, &settings)).await?;
    // Locked until its client would not take it for its own any more.
    let (session, frozen) = match begun {
        Begun::Unfinished(session) => (*session, None),
        Begun::Fresh(fresh) => {
            let how = Opening::new(folder_of(&fresh.db), options);
            let place = remote::place(&text, &how).await?;
            let last = fresh.last_frame();
            let found = place.libsql_position(fresh.ledger.at, last).await?;
            let found = found.map_err(|e| e.of(&fresh.db))?;
            let settings = options.clone();
            blocking(move || settle(*fresh, &text, found, &settings)).await?
        }
    };
    blocking(move || {
        let mut session = session;
        let backup = finish(&mut session)?;
        drop(frozen);
        session.state.known = session.read_tables()?;
        session.sidecar.begin()?;
        session.sidecar.save_state(&session.state)?;
        session.sidecar.commit_durably()?;
        let report = AdoptReport {
            database: session.state.database.to_string(),
            position: session.state.base.lsn(),
            local_pages: session.local_changes()?.pages,
            backup,
            notes: session.notes.clone(),
        };
        Ok((session, report))
    })
    .await
}

/// A file that is locked and read.
struct Fresh {
    db: PathBuf,
    lock: ReplicaLock,
    frozen: Frozen,
    ledger: Ledger,
}

impl Fresh {
    fn last_frame(&self) -> Option<LastFrame> {
        let last = self.ledger.last.as_ref()?;
        Some(LastFrame { hash: last.all, size: last.size })
    }
}

enum Begun {
    Fresh(Box<Fresh>),
    /// Everything is decided but the info file.
    Unfinished(Box<Session>),
}

fn begin(file: &Path, remote: &OsString, options: &Options) -> Result<Begun, Error> {
    let db = resolve(file)?;
    let lock = ReplicaLock::take(&db, options.busy_timeout)?;
    if sidecar::path_for(&db).exists() {
        match Sidecar::open(&db) {
            Ok((sidecar, state)) => {
                let session = Session::new(db.clone(), lock, sidecar, state, options);
                return resume(session, remote, options);
            }
            Err(Error::NotAReplica { .. }) => {}
            Err(e) => return Err(e),
        }
    }
    read(db, lock, options)
}

/// A sidecar is there: of an adoption that was cut off, or of a replica.
fn resume(session: Session, remote: &OsString, options: &Options) -> Result<Begun, Error> {
    let Some(adopting) = session.state.adopting else {
        let remote = session.remote_name();
        return Err(Error::AlreadyAReplica { path: session.db.clone(), remote });
    };
    let settled = session.state.base.lsn() > Lsn::ZERO;
    let same = session.state.remote == RemoteText::new(remote);
    let untouched = info_file::read(&session.db)?.is_none_or(|at| at == adopting);
    if settled && same && untouched {
        return Ok(Begun::Unfinished(Box::new(session)));
    }
    let (db, lock) = session.into_lock();
    read(db, lock, options)
}

fn read(db: PathBuf, lock: ReplicaLock, options: &Options) -> Result<Begun, Error> {
    let at = info_file::read(&db)?
        .ok_or_else(|| AdoptError::NoInfo { info: info_file::path_for(&db) }.of(&db))?;
    let mut frozen = Frozen::open(&db, options.busy_timeout).map_err(|e| match e {
        e @ FileError::Busy { .. } => AdoptError::InUse(e).of(&db),
        e => Error::File(e),
    })?;
    // Its client may have been at it until it was locked.
    if info_file::read(&db)? != Some(at) {
        return Err(Error::KeepsMoving { path: db });
    }
    let ledger = Ledger::read(&mut frozen, at)?;
    Ok(Begun::Fresh(Box::new(Fresh { db, lock, frozen, ledger })))
}

/// Writes the sidecar; see step 3 of the module.
fn settle(
    fresh: Fresh,
    remote: &OsString,
    found: Adoptable,
    options: &Options,
) -> Result<(Session, Option<Frozen>), Error> {
    let Fresh { db, lock, mut frozen, ledger } = fresh;
    let Adoptable { database, dialect, anchor, stated } = found;
    let page_size = frozen.page_size();
    let text = RemoteText::new(remote);
    let mut state = State::fresh(Phase::Ready, text, &options.name, database, page_size);
    state.dialect = dialect;
    state.identity = identity_of(&db)?;
    state.adopting = Some(ledger.at);
    let sidecar = Sidecar::create(&db, &state)?;
    let mut session = Session::new(db, lock, sidecar, state, options);
    match fill(&mut session, &mut frozen, &ledger, anchor, stated) {
        Ok(()) => Ok((session, Some(frozen))),
        Err(e) => {
            // Without a base it is of no use; the next adoption would replace it.
            let _ = sidecar::remove(session.sidecar.path());
            Err(e)
        }
    }
}

fn fill(
    session: &mut Session,
    frozen: &mut Frozen,
    ledger: &Ledger,
    anchor: Anchor,
    stated: Option<(u32, DbChecksum)>,
) -> Result<(), Error> {
    session.sidecar.begin()?;
    let id = session.sidecar.next_intent_id()?;
    let base = {
        let map = session.base_map();
        let base = ledger.stage(frozen, &map, id)?;
        map.settle(id, base.size)?;
        base
    };
    if let Some((size, sum)) = stated.filter(|stated| *stated != (base.size, base.sum)) {
        let state = |size: u32, sum: DbChecksum| format!("{sum} of {size} pages");
        let (found, expected) = (state(base.size, base.sum), state(size, sum));
        session.sidecar.rollback()?;
        return Err(AdoptError::OtherState { at: ledger.at, found, expected }.of(&session.db));
    }
    session.state.base = state::Base {
        anchor,
        size: base.size,
        sum: base.sum,
        log_cookie: base.cookie,
        file_cookie: base.cookie,
    };
    session.state.change_counter = base.change_counter;
    session.state.settled_at = Some(entropy::now());
    session.sidecar.remember(session.state.base.lsn(), base.sum)?;
    session.sidecar.save_state(&session.state)?;
    session.sidecar.commit_durably()?;
    crash_point!("adopt::after-sidecar");
    Ok(())
}

/// A sidecar whose base was never filled in belongs to nothing yet.
pub(crate) fn refuse_unfinished(db: &Path, state: &State) -> Result<(), Error> {
    match state.adopting {
        Some(_) if state.base.lsn() == Lsn::ZERO => Err(AdoptError::Interrupted.of(db)),
        _ => Ok(()),
    }
}

/// Puts the info file of an adopted file aside, if that is still to be done, and remembers that it was.
/// Answers where it is.
pub(crate) fn finish(session: &mut Session) -> Result<Option<PathBuf>, Error> {
    let Some(adopting) = session.state.adopting else { return Ok(None) };
    let untouched = info_file::read(&session.db)?.is_none_or(|at| at == adopting);
    if !untouched {
        return Err(AdoptError::Interrupted.of(&session.db));
    }
    let backup = info_file::put_aside(&session.db)?;
    crash_point!("adopt::after-info");
    session.state.adopting = None;
    session.sidecar.begin()?;
    session.sidecar.save_state(&session.state)?;
    session.sidecar.commit_durably()?;
    Ok(backup)
}

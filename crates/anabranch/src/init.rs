//! Init: an existing database becomes the first replica of itself.
//!
//! 1. the file is brought into WAL mode, and refused if it cannot be kept in step;
//! 2. the sidecar is written, phase *publishing*, with a fresh database id and an empty base;
//! 3. the name at the remote is claimed for that id: an object created only if it is absent;
//! 4. phase *ready*; the whole database goes out as the first push.
//!
//! Killed after step 2, the next operation of any kind claims the name and goes on. If somebody else
//! claimed it meanwhile, the sidecar says so and the file is as it was.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use anabranch_format::{DatabaseId, Lsn, PageSize};
use anabranch_sqlite::LiveFile;
use anabranch_store::{Head, Named};

use crate::crash::crash_point;
use crate::error::Error;
use crate::exchange::joined;
use crate::image::{folder_of, refuse_existing};
use crate::lock::ReplicaLock;
use crate::push::{self, Outcome};
use crate::remote::{self, Dialect, Opening, Place, Remote, of_store};
use crate::replica::{Options, ROUNDS_MAX, blocking};
use crate::report::{InitReport, Note, Pushed};
use crate::session::{Session, identity_of};
use crate::sidecar::{self, Sidecar};
use crate::state::{Phase, RemoteText, State};

/// Whether a database could be published to `remote`, as far as can be told beforehand.
pub(crate) async fn ask(file: &Path, remote: &OsStr, options: &Options) -> Result<(), Error> {
    refuse_existing(file)?;
    let text = remote::absolute(remote)?;
    let how = Opening::new(folder_of(file), options).creating();
    let place = remote::place(&text, &how).await?;
    match find(&*place).await? {
        Some(_) => Err(Error::RemoteNotEmpty { remote: place.location().to_owned() }),
        None => Ok(()),
    }
}

async fn find(place: &dyn Place) -> Result<Option<DatabaseId>, Error> {
    place.find().await.map_err(|e| of_store(place.location(), e))
}

/// Publishes the database at `file`; see the module.
pub(crate) async fn init(
    file: &Path,
    remote: &OsStr,
    options: &Options,
) -> Result<(Session, InitReport), Error> {
    let text = remote::absolute(remote)?;
    let (path, settings, named) = (file.to_owned(), options.clone(), text.clone());
    let found = blocking(move || look(&path, &named, &settings)).await?;
    // Asked before anything is written: a remote that is taken or cannot be reached changes nothing.
    let place = {
        let how = Opening::new(folder_of(found.db()), options).creating();
        remote::place(&text, &how).await?
    };
    let claimed_by = find(&*place).await?;
    if claimed_by.is_some_and(|id| found.database() != Some(&id)) {
        if let Found::Interrupted(session) = &found {
            withdraw(session)?;
        }
        return Err(Error::RemoteNotEmpty { remote: place.location().to_owned() });
    }
    let (settings, named, kind) = (options.clone(), text.clone(), Kind::of(&*place));
    let session = blocking(move || begin(found, &named, kind, &settings)).await?;
    crash_point!("init::after-sidecar");
    let remote = claim_at(&*place, &session).await?;
    let session = claimed(session).await?;
    let (published, session) = publish(session, &*remote, options).await?;
    let report = InitReport {
        database: session.state.database.to_string(),
        published,
        position: session.state.base.lsn(),
        notes: session.notes.clone(),
    };
    Ok((session, report))
}

/// Sends the whole database; or what is missing, if an interrupted `init` had sent it before.
async fn publish(
    mut session: Session,
    remote: &dyn Remote,
    options: &Options,
) -> Result<(Option<Pushed>, Session), Error> {
    let mut published = None;
    let mut head = Head::empty();
    let mut rounds = 0..ROUNDS_MAX;
    loop {
        rounds.next().ok_or_else(|| Error::KeepsMoving { path: session.db.clone() })?;
        let base = session.state.base.lsn();
        let (outcome, next) = push::push(session, remote, &head, &options.progress).await?;
        session = next;
        match outcome {
            Outcome::Nothing => return Ok((published, session)),
            Outcome::Done(pushed) => return Ok((Some(joined(published, pushed)), session)),
            Outcome::DoneEarlier(pushed) => published = Some(joined(published, pushed)),
            Outcome::Lost { remote_lsn, local_pages } => {
                return Err(Error::Diverged { local_pages, base, remote_lsn });
            }
        }
        let found = remote.head(&session.state.base.anchor).await;
        head = found.map_err(|e| of_store(&session.remote_name(), e))?;
    }
}

/// What the place makes of a database that is published there.
struct Kind {
    dialect: Option<Dialect>,
    database: DatabaseId,
    /// The id is the place's choice.
    gives_id: bool,
    page_size: Option<PageSize>,
}

impl Kind {
    fn of(place: &dyn Place) -> Self {
        let (dialect, database) = (place.dialect(), place.new_database());
        Kind { dialect, database, gives_id: place.gives_id(), page_size: place.page_size() }
    }

    fn refuse_other_page_size(&self, path: &Path, found: PageSize) -> Result<(), Error> {
        match self.page_size {
            Some(only) if only != found => {
                Err(Error::OnlyPageSize { path: path.to_owned(), found, only })
            }
            _ => Ok(()),
        }
    }
}

/// What `init` finds at the file.
enum Found {
    /// No replica.
    Plain(PathBuf, ReplicaLock),
    /// What an interrupted `init` to the same remote left.
    Interrupted(Box<Session>),
}

impl Found {
    fn db(&self) -> &Path {
        match self {
            Found::Plain(db, _) => db,
            Found::Interrupted(session) => &session.db,
        }
    }

    fn database(&self) -> Option<&DatabaseId> {
        match self {
            Found::Plain(..) => None,
            Found::Interrupted(session) => Some(&session.state.database),
        }
    }
}

/// Locks the file and looks whether it is a replica already. Changes nothing.
fn look(file: &Path, remote: &OsString, options: &Options) -> Result<Found, Error> {
    let db = LiveFile::open(file, options.busy_timeout)?.path().to_owned();
    let lock = ReplicaLock::take(&db, options.busy_timeout)?;
    if !sidecar::path_for(&db).exists() {
        return Ok(Found::Plain(db, lock));
    }
    let (sidecar, state) = match Sidecar::open(&db) {
        Err(Error::NotAReplica { .. }) => return Ok(Found::Plain(db, lock)),
        opened => opened?,
    };
    let session = Session::new(db, lock, sidecar, state, options);
    let same = session.state.remote == RemoteText::new(remote);
    let unpublished = session.state.base.lsn() == Lsn::ZERO
        && matches!(session.state.phase, Phase::Publishing | Phase::Ready);
    if unpublished && same {
        return Ok(Found::Interrupted(Box::new(session)));
    }
    // What an interrupted clone left beside a file that is not its own does not count.
    let stray = session.state.phase == Phase::Cloning
        && !session.identity()?.same_file(&session.state.identity);
    if session.state.phase != Phase::Publishing && !stray {
        let remote = session.remote_name();
        return Err(Error::AlreadyAReplica { path: session.db.clone(), remote });
    }
    // Nor does an interrupted init to another place, where nothing was published.
    let (db, lock) = session.into_lock();
    Ok(Found::Plain(db, lock))
}

/// Prepares the file and writes the sidecar; or takes up the one that is there.
fn begin(found: Found, remote: &OsString, kind: Kind, options: &Options) -> Result<Session, Error> {
    let mut session = match found {
        Found::Plain(db, lock) => return create(db, lock, remote, kind, options),
        Found::Interrupted(session) => *session,
    };
    if session.sidecar.intents()?.is_empty() {
        // Nothing was sent yet, so the file may have become another since.
        if kind.gives_id {
            session.state.database.clone_from(&kind.database);
        }
        let mut live = LiveFile::open(&session.db, options.busy_timeout)?;
        kind.refuse_other_page_size(&session.db, live.page_size())?;
        live.prepare()?;
        session.state.page_size = live.page_size();
        session.state.base.file_cookie = live.begin()?.page_one().schema_cookie;
        session.state.identity = session.identity()?;
        session.sidecar.begin()?;
        session.sidecar.save_state(&session.state)?;
        session.sidecar.commit_durably()?;
    }
    Ok(session)
}

fn create(
    db: PathBuf,
    lock: ReplicaLock,
    remote: &OsString,
    kind: Kind,
    options: &Options,
) -> Result<Session, Error> {
    let mut live = LiveFile::open(&db, options.busy_timeout)?;
    kind.refuse_other_page_size(&db, live.page_size())?;
    let prepared = live.prepare()?;
    let page_size = live.page_size();
    let page_one = *live.begin()?.page_one();
    let shared = live.shared_filesystem();
    drop(live);
    let mut state = State::fresh(
        Phase::Publishing,
        RemoteText::new(remote),
        &options.name,
        kind.database,
        page_size,
    );
    state.base.file_cookie = page_one.schema_cookie;
    state.identity = identity_of(&db)?;
    state.dialect = kind.dialect;
    let sidecar = Sidecar::create(&db, &state)?;
    let mut session = Session::new(db, lock, sidecar, state, options);
    if prepared.switched_to_wal {
        session.notes.push(Note::SwitchedToWal);
    }
    session.notes.extend(shared.map(|kind| Note::Other {
        text: format!(
            "the database lies on a {kind} file system, which other machines may write too: WAL mode \
             does not work across machines, so only programs on this one may open it"
        ),
    }));
    Ok(session)
}

/// Goes on with a publication that was interrupted; see [`claim_at`].
pub(crate) async fn claim(
    session: &Session,
    text: &OsStr,
    scratch: &Path,
    options: &Options,
) -> Result<Box<dyn Remote>, Error> {
    let options = Options { name: session.state.name.clone(), ..options.clone() };
    let how = Opening::new(scratch, &options).creating().speaking(session.state.dialect);
    let place = remote::place(text, &how).await?;
    claim_at(&*place, session).await
}

/// Claims the name at the remote for the session's database, and hands out its log. The place must
/// keep two writers apart: tried once, before anything is written.
async fn claim_at(place: &dyn Place, session: &Session) -> Result<Box<dyn Remote>, Error> {
    let remote = place.location().to_owned();
    let failed = |e| of_store(&remote, e);
    place.verify().await.map_err(failed)?;
    let database = &session.state.database;
    match place.claim(database).await.map_err(failed)? {
        Named::Created => {}
        Named::Taken(id) if id == *database => {}
        Named::Taken(_) => {
            withdraw(session)?;
            return Err(Error::RemoteNotEmpty { remote });
        }
    }
    crash_point!("init::after-name");
    Ok(place.log(database))
}

/// The name is ours: no need to ask again.
pub(crate) async fn claimed(session: Session) -> Result<Session, Error> {
    if session.state.phase != Phase::Publishing {
        return Ok(session);
    }
    blocking(move || {
        let mut session = session;
        session.state.phase = Phase::Ready;
        session.sidecar.begin()?;
        session.sidecar.save_state(&session.state)?;
        session.sidecar.commit_durably()?;
        Ok(session)
    })
    .await
}

/// Another database is there: the file is no replica after all.
fn withdraw(session: &Session) -> Result<(), Error> {
    sidecar::remove(session.sidecar.path())
}

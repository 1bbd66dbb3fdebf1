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

use anabranch_format::Lsn;
use anabranch_sqlite::LiveFile;
use anabranch_store::{Head, Location, Named};

use crate::crash::crash_point;
use crate::entropy;
use crate::error::Error;
use crate::image::folder_of;
use crate::lock::ReplicaLock;
use crate::push::{self, Outcome};
use crate::remote::{self, Remote, of_store};
use crate::replica::{Options, ROUNDS_MAX, blocking, joined};
use crate::report::{InitReport, Note, Pushed};
use crate::session::{Session, identity_of, resolve};
use crate::sidecar::{self, Sidecar};
use crate::state::{Phase, RemoteText, State};

/// Publishes the database at `file`; see the module.
pub(crate) async fn init(
    file: &Path,
    remote: &OsStr,
    options: &Options,
) -> Result<(Session, InitReport), Error> {
    let location = Location::parse(remote)?;
    let text = remote::absolute(&location, remote)?;
    let (path, settings) = (file.to_owned(), options.clone());
    let (db, lock) = blocking(move || {
        let db = resolve(&path, settings.busy_timeout)?;
        let lock = ReplicaLock::take(&db, settings.busy_timeout)?;
        Ok((db, lock))
    })
    .await?;
    // Asked before anything is written: a remote that is taken or cannot be reached changes nothing.
    let place = remote::place(&text, folder_of(&db), options, true).await?;
    let claimed_by =
        place.root.find(&place.name).await.map_err(|e| of_store(&place.location.to_string(), e))?;
    let (path, settings, named) = (db.clone(), options.clone(), text.clone());
    let session = blocking(move || begin(path, lock, &named, &settings)).await?;
    if claimed_by.is_some_and(|id| id != session.state.database) {
        withdraw(&session)?;
        return Err(Error::RemoteNotEmpty { remote: place.location.to_string() });
    }
    crash_point!("init::after-sidecar");
    let remote = claim(&session, &text, folder_of(&db), options).await?;
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

/// Prepares the file and writes the sidecar; takes up one that an interrupted `init` left.
fn begin(
    db: PathBuf,
    lock: ReplicaLock,
    remote: &OsString,
    options: &Options,
) -> Result<Session, Error> {
    if sidecar::path_for(&db).exists() {
        let (sidecar, state) = Sidecar::open(&db)?;
        let session = Session::new(db, lock, sidecar, state, options);
        let same = session.state.remote == RemoteText::new(remote);
        let unpublished = session.state.base.lsn() == Lsn::ZERO
            && matches!(session.state.phase, Phase::Publishing | Phase::Ready);
        if unpublished && same {
            return Ok(session);
        }
        // What an interrupted clone left beside a file that is not its own does not count.
        let stray = session.state.phase == Phase::Cloning
            && session.identity()?.inode != session.state.identity.inode;
        if session.state.phase != Phase::Publishing && !stray {
            let remote = session.remote_name();
            return Err(Error::AlreadyAReplica { path: session.db.clone(), remote });
        }
        // Nor does an interrupted init to another place, where nothing was published.
        let (db, lock) = session.into_lock();
        return create(db, lock, remote, options);
    }
    create(db, lock, remote, options)
}

fn create(
    db: PathBuf,
    lock: ReplicaLock,
    remote: &OsString,
    options: &Options,
) -> Result<Session, Error> {
    let mut live = LiveFile::open(&db, options.busy_timeout)?;
    let prepared = live.prepare()?;
    let page_size = live.page_size();
    let page_one = *live.begin()?.page_one();
    let shared = live.shared_filesystem();
    drop(live);
    let mut state = State::fresh(
        Phase::Publishing,
        RemoteText::new(remote),
        &options.name,
        entropy::database_id(),
        page_size,
    );
    state.base.file_cookie = page_one.schema_cookie;
    state.identity = identity_of(&db)?;
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

/// Claims the name at the remote for the session's database, and hands out its log. The store must
/// honour "create only if absent": tried once, before anything is written.
pub(crate) async fn claim(
    session: &Session,
    text: &OsStr,
    scratch: &Path,
    options: &Options,
) -> Result<Box<dyn Remote>, Error> {
    let options = Options { name: session.state.name.clone(), ..options.clone() };
    let place = remote::place(text, scratch, &options, true).await?;
    let remote = place.location.to_string();
    let failed = |e| of_store(&remote, e);
    place.root.verify_conditional_put().await.map_err(failed)?;
    let database = &session.state.database;
    match place.root.name(&place.name, database).await.map_err(failed)? {
        Named::Created => {}
        Named::Taken(id) if id == *database => {}
        Named::Taken(_) => {
            withdraw(session)?;
            return Err(Error::RemoteNotEmpty { remote });
        }
    }
    crash_point!("init::after-name");
    Ok(Box::new(place.root.log(&place.name, database)))
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

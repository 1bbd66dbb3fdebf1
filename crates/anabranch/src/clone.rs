//! Clone: a new file that holds what the remote has.
//!
//! The database is written under a temporary name while the sidecar, phase *cloning*, takes up the
//! base map; the sidecar becomes durable, naming the file by its inode, and then the file is put
//! into its place. Killed before that, the next clone starts over; killed after it, the file and its
//! sidecar know each other and nothing is left to do.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anabranch_format::Lsn;
use anabranch_store::{Anchor, Fetched, Progress};

use crate::crash::crash_point;
use crate::entropy;
use crate::error::Error;
use crate::image::{Image, folder_of, refuse_existing};
use crate::lock::ReplicaLock;
use crate::remote::{self, Dialect, Opening, of_store};
use crate::replica::{Options, blocking};
use crate::report::CloneReport;
use crate::session::{Session, identity_of};
use crate::sidecar::{self, Sidecar};
use crate::state::{Base, Phase, RemoteText, State};

/// What is known of the database before its pages come.
struct Origin {
    remote: RemoteText,
    dialect: Option<Dialect>,
    database: anabranch_format::DatabaseId,
    anchor: Anchor,
}

/// Clones the database at `remote` into `file`.
pub(crate) async fn clone(
    remote: &OsStr,
    file: &Path,
    options: &Options,
) -> Result<(Session, CloneReport), Error> {
    let text = remote::absolute(remote)?;
    let (target, busy) = (resolve_new(file)?, options.busy_timeout);
    let taken = target.clone();
    let lock = blocking(move || {
        let lock = ReplicaLock::take(&taken, busy)?;
        refuse_existing(&taken)?;
        Ok(lock)
    })
    .await?;
    let place = remote::place(&text, &Opening::new(folder_of(&target), options)).await?;
    let name = place.location().to_owned();
    let failed = |e| of_store(&name, e);
    let database = place.find().await.map_err(failed)?;
    let database = database.ok_or_else(|| Error::RemoteEmpty { remote: name.clone() })?;
    let log = place.log(&database);
    let head = log.head(&Anchor::start()).await.map_err(failed)?;
    if head.anchor.last == Lsn::ZERO {
        return Err(Error::NothingPublished { remote: name });
    }
    let fetched = log.fetch(Lsn::ZERO, &head, &options.progress).await.map_err(failed)?;
    let (remote, dialect, anchor) = (RemoteText::new(&text), log.dialect(), head.anchor);
    let origin = Origin { remote, dialect, database, anchor };
    let settings = options.clone();
    blocking(move || fill(target, lock, origin, fetched, &settings)).await
}

/// `file` with its folder resolved: the name SQLite will give it.
fn resolve_new(file: &Path) -> Result<PathBuf, Error> {
    let folder = folder_of(file);
    let resolved = folder.canonicalize().map_err(|source| Error::Io {
        what: "resolving",
        path: folder.to_owned(),
        source,
    })?;
    let name = file
        .file_name()
        .ok_or_else(|| Error::Usage(format!("{} does not name a file", file.display())))?;
    Ok(resolved.join(name))
}

fn fill(
    target: PathBuf,
    lock: ReplicaLock,
    origin: Origin,
    fetched: Fetched,
    options: &Options,
) -> Result<(Session, CloneReport), Error> {
    let bytes = fetched.bytes;
    let mut state = State::fresh(
        Phase::Cloning,
        origin.remote,
        &options.name,
        origin.database,
        fetched.page_size,
    );
    state.dialect = origin.dialect;
    // One that an interrupted clone left, its database never put into place, is replaced.
    let sidecar = Sidecar::create(&target, &state)?;
    let mut session = Session::new(target, lock, sidecar, state, options);
    match write(&mut session, origin.anchor, fetched, &options.progress) {
        Ok(pages) => {
            let report = CloneReport {
                database: session.state.database.to_string(),
                position: session.state.base.lsn(),
                pages,
                bytes,
            };
            Ok((session, report))
        }
        Err(e) => {
            if std::fs::symlink_metadata(&session.db).is_err() {
                // The first error is the one to report; the next clone would replace the sidecar.
                let _ = sidecar::remove(session.sidecar.path());
            }
            Err(e)
        }
    }
}

fn write(
    session: &mut Session,
    anchor: Anchor,
    fetched: Fetched,
    progress: &Progress,
) -> Result<u64, Error> {
    session.sidecar.begin()?;
    let image = {
        let map = session.base_map();
        let intent = session.sidecar.next_intent_id()?;
        let mut staging = map.stage(intent);
        let image =
            Image::write(fetched, &session.db, map.hasher(), progress, &mut |pgno, entry| {
                staging.push(pgno, entry).map_err(Error::from)
            })?;
        staging.finish()?;
        map.settle(intent, image.pages)?;
        image
    };
    let (pages, cookie) = (image.pages, image.cookie);
    session.state.base =
        Base { anchor, size: pages, sum: image.sum, log_cookie: cookie, file_cookie: cookie };
    session.state.identity = identity_of(image.path())?;
    session.state.change_counter = image.change_counter;
    session.state.settled_at = Some(entropy::now());
    session.sidecar.remember(session.state.base.lsn(), session.state.base.sum)?;
    session.sidecar.save_state(&session.state)?;
    session.sidecar.commit_durably()?;
    crash_point!("clone::after-sidecar");
    image.place()?;
    crash_point!("clone::after-place");
    session.state.phase = Phase::Ready;
    session.state.known = session.read_tables()?;
    session.sidecar.begin_settling()?;
    session.sidecar.save_state(&session.state)?;
    session.sidecar.commit_settled()?;
    Ok(u64::from(pages))
}

//! Repair: the way on for a replica that cannot go on by itself.
//!
//! Nothing is thrown away: before the file is changed, a copy of it as it was is made beside it, and
//! the ways that keep the file only write the sidecar.

use std::ffi::OsStr;
use std::path::Path;

use anabranch_format::{DbChecksum, Lsn, PageChecksum, PageSource, Pgno};
use anabranch_sqlite::{BaseMap, LiveFile, View};
use anabranch_store::{Anchor, At};

use crate::entropy;
use crate::error::Error;
use crate::image::{cookie_of, folder_of};
use crate::init;
use crate::lock::ReplicaLock;
use crate::pull::{self, Mine};
use crate::read_ahead::ReadAhead;
use crate::remote::{self, Opening, Remote, of_store};
use crate::replica::{Options, Repair, blocking};
use crate::report::RepairReport;
use crate::session::{Session, identity_of, known_of};
use crate::sidecar::{self, Sidecar};
use crate::state::{Base, Phase, RemoteText, State};

/// How far back the log is searched for a file's state.
const HISTORY_SEARCHED: usize = 100_000;

/// Repairs the replica at `file`; see [`Repair`].
pub(crate) async fn repair(
    file: &Path,
    how: Repair,
    options: &Options,
) -> Result<RepairReport, Error> {
    match how {
        Repair::TakeRemote => take_remote(file, options).await,
        Repair::Adopt => adopt(file, options).await,
        Repair::Keep => keep(file, options).await,
        Repair::Relink { remote } => relink(file, &remote, options).await,
    }
}

async fn unchecked(file: &Path, options: &Options) -> Result<Session, Error> {
    let (file, options) = (file.to_owned(), options.clone());
    blocking(move || Session::open_unchecked(&file, &options)).await
}

async fn connect(session: &Session, options: &Options) -> Result<Box<dyn Remote>, Error> {
    let text = session.state.remote.to_os_string();
    let options = Options { name: session.state.name.clone(), ..options.clone() };
    let how = Opening::new(folder_of(&session.db), &options).speaking(session.state.dialect);
    remote::connect(&text, &session.state.database, &how).await
}

/// The file becomes what the remote has.
async fn take_remote(file: &Path, options: &Options) -> Result<RepairReport, Error> {
    let session = unchecked(file, options).await?;
    let remote = connect(&session, options).await?;
    let location = session.remote_name();
    let failed = |e| of_store(&location, e);
    let position = remote.position_at(At::Head).await.map_err(failed)?;
    if position.lsn == Lsn::ZERO {
        return Err(Error::NothingPublished { remote: location });
    }
    let (first, last) = (position.lsn, position.lsn);
    let anchor = match &position.metadata {
        Some(metadata) => Anchor::of(metadata),
        None => Anchor { first, last, push: None },
    };
    let fetched = remote.fetch_whole(&position, &options.progress).await.map_err(failed)?;
    let session = init::claimed(session).await?;
    let progress = options.progress.clone();
    blocking(move || {
        let mut session = session;
        session.take_up()?;
        let kept = pull::take(&mut session, fetched, anchor, Mine::Replace, &progress)?.kept;
        Ok(RepairReport {
            position: session.state.base.lsn(),
            local_pages: 0,
            what: format!("{} is what the remote has", session.db.display()),
            kept,
        })
    })
    .await
}

/// The file stays as it is, as a replica of its own. If it is exactly as this replica was at an older
/// position, that becomes its base again; if it seems to be older without being exactly that, only
/// the user can tell what is meant; else what differs from the base counts as local changes.
async fn adopt(file: &Path, options: &Options) -> Result<RepairReport, Error> {
    let session = unchecked(file, options).await?;
    let remote = connect(&session, options).await?;
    let (session, older) = blocking(move || {
        let mut session = session;
        pull::recover(&mut session)?;
        session.take_up()?;
        let older = {
            let mut live = session.live()?;
            let view = live.begin()?;
            let sum = session.difference(&view, &mut |_, _, _| Ok(()))?.sum;
            let older = session.sidecar.position_of(sum, session.state.base.lsn())?;
            if older.is_none() && session.newest_deltas_are_undone(&view)? {
                return Err(session.older(None));
            }
            older
        };
        Ok((session, older))
    })
    .await?;
    let Some(lsn) = older else {
        return blocking(move || keep_base(session)).await;
    };
    let location = session.remote_name();
    let found = base_at(&*remote, &location, lsn, options).await?;
    blocking(move || rebase_sidecar(session, found)).await
}

/// The file stays as it is, and is meant to be so: what differs from the base will be pushed.
async fn keep(file: &Path, options: &Options) -> Result<RepairReport, Error> {
    let (file, options) = (file.to_owned(), options.clone());
    blocking(move || {
        let mut session = Session::open_unchecked(&file, &options)?;
        pull::recover(&mut session)?;
        session.take_up()?;
        keep_base(session)
    })
    .await
}

fn keep_base(mut session: Session) -> Result<RepairReport, Error> {
    let changes = {
        let mut live = session.live()?;
        let view = live.begin()?;
        session.state.known = known_of(&view);
        session.difference(&view, &mut |_, _, _| Ok(()))?
    };
    session.state.change_counter = changes.change_counter;
    session.sidecar.begin()?;
    // What was captured before is not what the file holds now. Should one of those pushes have
    // arrived, it counts as another replica's.
    drop_intents(&session)?;
    session.sidecar.forget_history()?;
    session.sidecar.remember(session.state.base.lsn(), session.state.base.sum)?;
    session.sidecar.save_state(&session.state)?;
    session.sidecar.commit_durably()?;
    Ok(RepairReport {
        position: session.state.base.lsn(),
        local_pages: changes.pages,
        kept: None,
        what: format!(
            "{} is taken as it is; what differs from position {} waits to be pushed",
            session.db.display(),
            session.state.base.lsn()
        ),
    })
}

fn drop_intents(session: &Session) -> Result<(), Error> {
    for (id, _) in session.sidecar.intents()? {
        session.drop_intent(id, None)?;
    }
    Ok(())
}

/// What the log says of a position that a file is at.
struct Found {
    anchor: Anchor,
    size: u32,
    sum: DbChecksum,
    log_cookie: u32,
}

/// Looks up `lsn` in the log; its schema cookie stands on page 1 there. What the remote does not
/// state is added up from the pages.
async fn base_at(
    remote: &dyn Remote,
    location: &str,
    lsn: Lsn,
    options: &Options,
) -> Result<Found, Error> {
    let failed = |e| of_store(location, e);
    let position = remote.position_at(At::Lsn(lsn)).await.map_err(failed)?;
    if position.lsn != lsn {
        return Err(Error::PositionGone { remote: location.to_owned(), lsn });
    }
    let anchor = match &position.metadata {
        Some(metadata) => Anchor::of(metadata),
        None => Anchor { first: lsn, last: lsn, push: None },
    };
    let fetched = remote.fetch_whole(&position, &options.progress).await.map_err(failed)?;
    blocking(move || {
        let (size, stated) = (fetched.pages.1, fetched.stated_sum());
        let mut page = vec![0; fetched.page_size.bytes()];
        let mut source = ReadAhead::start(fetched)?;
        let first = source.next_page(&mut page).map_err(Error::from_pages)?;
        let log_cookie = cookie_of(&page);
        let sum = match stated {
            Some(sum) => sum,
            None => add_up(&mut source, first, &mut page)?,
        };
        Ok(Found { anchor, size, sum, log_cookie })
    })
    .await
}

/// The checksum of `page`, which is page `at`, and all that follow in `source`.
fn add_up(
    source: &mut ReadAhead,
    mut at: Option<Pgno>,
    page: &mut [u8],
) -> Result<DbChecksum, Error> {
    let mut sum = DbChecksum::EMPTY;
    while let Some(pgno) = at {
        sum.toggle(PageChecksum::of(pgno, page));
        at = source.next_page(page).map_err(Error::from_pages)?;
    }
    Ok(sum)
}

/// Makes `found` the base, its entries those of the file as it is now.
fn rebase_sidecar(mut session: Session, found: Found) -> Result<RepairReport, Error> {
    let mut live = session.live()?;
    let view = live.begin()?;
    session.sidecar.begin()?;
    let id = session.sidecar.next_intent_id()?;
    let sum = stage_all(&session.base_map(), id, &view)?;
    if (view.db_size(), sum) != (found.size, found.sum) {
        session.sidecar.rollback()?;
        return Err(Error::KeepsMoving { path: session.db.clone() });
    }
    session.base_map().settle(id, found.size)?;
    drop_intents(&session)?;
    session.state.base = Base {
        anchor: found.anchor,
        size: found.size,
        sum,
        log_cookie: found.log_cookie,
        file_cookie: view.page_one().schema_cookie,
    };
    session.state.change_counter = view.page_one().change_counter;
    session.state.mark = view.mark().copied();
    if let Some(ahead) = session.state.ahead.take() {
        session.base_map().drop_staged(ahead)?;
    }
    session.state.known = known_of(&view);
    session.state.phase = Phase::Ready;
    session.sidecar.forget_history()?;
    session.sidecar.remember(session.state.base.lsn(), sum)?;
    session.sidecar.save_state(&session.state)?;
    session.sidecar.commit_durably()?;
    Ok(RepairReport {
        position: session.state.base.lsn(),
        local_pages: 0,
        kept: None,
        what: format!(
            "{} is at position {}; a sync brings it forward",
            session.db.display(),
            session.state.base.lsn()
        ),
    })
}

/// Stages every page of `view` and adds up their checksums.
fn stage_all(map: &BaseMap<'_>, id: i64, view: &View<'_>) -> Result<DbChecksum, Error> {
    let mut staging = map.stage(id);
    let mut sum = DbChecksum::EMPTY;
    each_page(view, |pgno, page| {
        sum.toggle(PageChecksum::of(pgno, page));
        Ok(staging.push(pgno, map.entry(pgno, page))?)
    })?;
    staging.finish()?;
    Ok(sum)
}

fn each_page(
    view: &View<'_>,
    mut each: impl FnMut(Pgno, &[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let page_size = view.page_one().page_size;
    let mut page = vec![0; page_size.bytes()];
    for pgno in (1..=view.db_size()).filter_map(Pgno::new) {
        if pgno != page_size.lock_page() {
            view.page(pgno, &mut page)?;
            each(pgno, &page)?;
        }
    }
    Ok(())
}

/// A new sidecar for a file whose state the log remembers.
async fn relink(file: &Path, remote: &OsStr, options: &Options) -> Result<RepairReport, Error> {
    let text = remote::absolute(remote)?;
    let (path, settings) = (file.to_owned(), options.clone());
    let (db, lock, sum, page_size) = blocking(move || {
        let mut live = LiveFile::open(&path, settings.busy_timeout)?;
        let db = live.path().to_owned();
        let lock = ReplicaLock::take(&db, settings.busy_timeout)?;
        live.prepare()?;
        let page_size = live.page_size();
        let view = live.begin()?;
        let mut sum = DbChecksum::EMPTY;
        each_page(&view, |pgno, page| {
            sum.toggle(PageChecksum::of(pgno, page));
            Ok(())
        })?;
        drop(view);
        Ok((db, lock, sum, page_size))
    })
    .await?;
    let place = remote::place(&text, &Opening::new(folder_of(&db), options)).await?;
    let name = place.location().to_owned();
    let failed = |e| of_store(&name, e);
    let database = place.find().await.map_err(failed)?;
    let database = database.ok_or_else(|| Error::RemoteEmpty { remote: name.clone() })?;
    let log = place.log(&database);
    let history = log.history(HISTORY_SEARCHED).await.map_err(failed)?;
    let entry = history.iter().find(|entry| entry.metadata.sum.1 == sum);
    let lsn = entry
        .map(|entry| entry.metadata.lsn.1)
        .ok_or_else(|| Error::UnknownState { path: db.clone(), remote: name.clone() })?;
    let found = base_at(&*log, &name, lsn, options).await?;
    let (settings, dialect) = (options.clone(), log.dialect());
    blocking(move || {
        let remote = RemoteText::new(&text);
        let mut state = State::fresh(Phase::Cloning, remote, &settings.name, database, page_size);
        state.identity = identity_of(&db)?;
        state.settled_at = Some(entropy::now());
        state.dialect = dialect;
        let sidecar = Sidecar::create(&db, &state)?;
        let session = Session::new(db, lock, sidecar, state, &settings);
        let path = session.sidecar.path().to_owned();
        rebase_sidecar(session, found).inspect_err(|_| {
            // Without a base it is of no use.
            let _ = sidecar::remove(&path);
        })
    })
    .await
}

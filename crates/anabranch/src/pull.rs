//! Pull: what the log has beyond the base becomes one transaction of the file.
//!
//! 1. fetch: the delta, as few objects as cover it.
//! 2. check: a large delta is unpacked and checked completely against the log's checksums, its pages
//!    kept in an anonymous temporary file. Nobody is locked out so far.
//! 3. compare: a read transaction sees whether the file changed since the base. If it did, both
//!    sides changed: see [`rebase`](crate::rebase).
//! 4. apply: the same transaction turns into a writing one, which SQLite refuses if anybody
//!    committed in between (then: compare again). Under the write lock the pages are written, the
//!    intent with their checksums is made durable in the sidecar, then they are committed.
//! 5. settle: the base moves on, from the staged checksums.
//!
//! A small delta whose bytes lie in memory is not kept between 2 and 4: one core unpacks and hashes
//! while the other writes, and the checksum is compared before the intent; if it is wrong the
//! transaction is rolled back. The write lock is held no longer for that, since unpacking is the
//! faster of the two; where it is not (one core), by the length of unpacking
//! what is checked while it is written at most.
//!
//! Killed between 4 and 5, the next operation decides from the file whether the commit happened:
//! along the WAL, else by the pages (all are at their old image or all at their new one, but for
//! those written since), else by the schema cookie, where the apply gave the file a new one.

use std::path::PathBuf;
use std::sync::Arc;

use anabranch_format::{Lsn, Pgno};
use anabranch_sqlite::{
    Applied, ApplyDelta, ApplyError, ApplyIntent, CookieRule, Mark, PageSet, UnderLock, View,
};
use anabranch_store::{Anchor, Fetched, Head, Progress};

use crate::crash::crash_point;
use crate::entropy;
use crate::error::Error;
use crate::image::cookie_of;
use crate::kept::Kept;
use crate::layers::{Local, spooling};
use crate::rebase::{self, With};
use crate::remote::{Remote, of_store};
use crate::replica::{Options, blocking};
use crate::report::{Pulled, Rebased};
use crate::session::{LocalChanges, Session};
use crate::state::{Intent, PullIntent, Stage};

mod change;
mod recover;
mod stand;

pub(crate) use change::Change;
use change::{mismatch, of_pages};
pub(crate) use recover::recover;
pub(crate) use stand::stand;

/// How often an apply starts over because somebody committed in between.
const ROUNDS_MAX: usize = 20;

/// After this many rounds a replacement takes the write lock before it copies what it replaces.
const ROUNDS_WITHOUT_LOCK: usize = 2;

/// Brings the file from its base to `head`.
pub(crate) async fn pull(
    session: Session,
    remote: &Arc<dyn Remote>,
    head: &Head,
    options: &Options,
) -> Result<(Taken, Session), Error> {
    let (with, progress) = (With::new(Arc::clone(remote), options), options.progress.clone());
    let location = session.remote_name();
    let from = session.state.base.lsn();
    let fetched = remote.fetch(from, head, &progress).await.map_err(|e| of_store(&location, e))?;
    crash_point!("pull::after-fetch");
    let anchor = head.anchor.clone();
    blocking(move || {
        let mut session = session;
        let taken = take(&mut session, fetched, anchor, Mine::Rebase(&with), &progress)?;
        Ok((taken, session))
    })
    .await
}

/// What becomes of local changes.
#[derive(Clone, Copy)]
pub(crate) enum Mine<'a> {
    /// They are put on top of the remote's state.
    Rebase(&'a With),
    /// The remote's state takes the file's place, of which a copy is kept.
    Replace,
}

/// What a pull did.
pub(crate) struct Taken {
    pub(crate) pulled: Pulled,
    /// What became of local changes, if there were any.
    pub(crate) rebased: Option<Rebased>,
    /// Where the file as it was is kept.
    pub(crate) kept: Option<PathBuf>,
    /// The file may be ahead of the base now.
    pub(crate) ahead: bool,
}

/// Checks and applies what was fetched.
pub(crate) fn take(
    session: &mut Session,
    fetched: Fetched,
    anchor: Anchor,
    mine: Mine<'_>,
    progress: &Progress,
) -> Result<Taken, Error> {
    let (from, bytes) = (session.state.base.lsn(), fetched.bytes);
    let mut change = Change::new(session, fetched, anchor, mine, progress)?;
    let (pages, kept, rebased) = apply(session, &mut change, mine)?;
    let ahead = rebased.is_some();
    let pulled = Pulled { from, to: change.anchor.last, pages, bytes };
    Ok(Taken { pulled, rebased, kept, ahead })
}

/// Applies and settles the change. Answers the number of pages, where a copy is kept, and what became
/// of local changes.
fn apply(
    session: &mut Session,
    change: &mut Change,
    mine: Mine<'_>,
) -> Result<(u64, Option<PathBuf>, Option<Rebased>), Error> {
    for round in 0..ROUNDS_MAX {
        let attempt = try_apply(session, change, mine, round);
        if !matches!(attempt, Ok(Attempt::Done(_) | Attempt::Both { .. })) {
            session.sidecar.rollback()?;
        }
        let done = match (attempt?, mine) {
            (Attempt::Done(done), _) => *done,
            (Attempt::Both { id, local }, Mine::Rebase(with)) => {
                let local = local.map(|local| *local);
                let (pages, rebased) = rebase::rebase(session, change, local, id, with)?;
                return Ok((pages, None, Some(rebased)));
            }
            _ => continue,
        };
        let Done { id, intent, mark, change_counter, kept } = done;
        let now = entropy::now();
        if intent.apply.cookie_after.is_some() {
            session.forget_tables();
        }
        session.settle(id, intent.base_after(), mark, change_counter, now)?;
        return Ok((intent.apply.pages, kept, None));
    }
    Err(Error::KeepsMoving { path: session.db.clone() })
}

enum Attempt {
    /// Somebody committed in between.
    Moved,
    Done(Box<Done>),
    /// Both sides changed. How the file did is staged for the intent `id`, in the sidecar's transaction
    /// that is open; `None`: it was written since.
    Both {
        id: i64,
        local: Option<Box<Local>>,
    },
}

/// The file is as the remote; what is left is to settle.
struct Done {
    id: i64,
    intent: PullIntent,
    mark: Option<Mark>,
    change_counter: u32,
    kept: Option<PathBuf>,
}

/// What stands in the way of writing the change over the file as it is in `view`.
enum Compared {
    Nothing,
    /// The file is what the change leads to.
    Equal(Box<LocalChanges>),
    Changed(Box<LocalChanges>, PageSet),
}

/// Compares the file with the base, and stages how it differs for the intent `id`.
fn compare(
    session: &Session,
    change: &Change,
    view: &View<'_>,
    id: i64,
) -> Result<Compared, Error> {
    let map = session.base_map();
    let mut staging = map.stage(Stage::Before.of(id));
    let mut changed = PageSet::new(view.db_size());
    let changes = session.capture(view, &mut |pgno, _, entry| {
        changed.insert(pgno);
        Ok(staging.push(pgno, entry)?)
    })?;
    staging.finish()?;
    Ok(if (changes.sum, changes.size) == change.expect.after {
        Compared::Equal(Box::new(changes))
    } else if changes.is_empty() {
        Compared::Nothing
    } else {
        Compared::Changed(Box::new(changes), changed)
    })
}

fn try_apply(
    session: &mut Session,
    change: &mut Change,
    mine: Mine<'_>,
    round: usize,
) -> Result<Attempt, Error> {
    let mut live = session.live_prepared()?;
    let mut view = live.begin_apply()?;
    let base = session.state.base.clone();
    let id = session.sidecar.next_intent_id()?;
    let mut copy = None;
    // What is staged and the intent become durable together, under the write lock.
    session.sidecar.begin()?;
    match mine {
        Mine::Rebase(_) => match compare(session, change, &view, id)? {
            Compared::Nothing => {}
            Compared::Equal(changes) => {
                session.base_map().drop_staged(Stage::Before.of(id))?;
                return equal(session, change, id, &view, &changes);
            }
            Compared::Changed(changes, _) if base.size == 0 => {
                return Err(Error::Diverged {
                    local_pages: changes.pages,
                    base: base.lsn(),
                    remote_lsn: change.anchor.last,
                });
            }
            Compared::Changed(changes, pages) => {
                let pinned = Local::pin(session.live()?, view.mark(), pages, *changes)?;
                return Ok(Attempt::Both { id, local: pinned.map(Box::new) });
            }
        },
        Mine::Replace => {
            session.check_still_the_same()?;
            if round >= ROUNDS_WITHOUT_LOCK {
                view = view.lock_newest()?;
            }
            copy = Some(Kept::copy(&view, &session.db)?);
        }
    }
    let random = entropy::cookie();
    let schema_cookie = if change.expect.replace {
        CookieRule::Replace { random }
    } else {
        CookieRule::ByLog { log_cookie: base.log_cookie, random }
    };
    let map = session.base_map();
    let mut pages = change
        .pages
        .read(&change.expect, &map, Some(&change.progress))
        .map_err(|e| spooling(session, e))?;
    let delta = ApplyDelta {
        page_size: session.state.page_size,
        size_after: change.expect.after.1,
        pages: &mut *pages,
        schema_cookie,
        base: &map,
        intent: id,
        before: None,
    };
    let mut written = None;
    let outcome = view.apply::<Error>(delta, &mut |lock: &UnderLock| {
        let kept = copy.take().map(Kept::keep).transpose()?;
        let intent = PullIntent {
            target: change.anchor.clone(),
            sum_after: change.expect.after.0,
            log_cookie: lock.log_cookie.unwrap_or(base.log_cookie),
            apply: lock.intent.clone(),
        };
        session.sidecar.put_intent(id, &Intent::Pull(intent.clone()))?;
        session.sidecar.commit_durably()?;
        written = Some((intent, kept));
        crash_point!("pull::under-lock");
        Ok(())
    });
    drop(pages);
    match outcome {
        Ok(applied) => {
            // Only now is it certain that a power failure cannot take it back.
            live.close()?;
            crash_point!("pull::after-commit");
            let (intent, kept) = written.expect("an apply that succeeds has called back");
            let Applied { mark, change_counter, .. } = applied;
            Ok(Attempt::Done(Box::new(Done { id, intent, mark, change_counter, kept })))
        }
        Err(e) => {
            session.sidecar.rollback()?;
            if written.is_some() && !e.may_be_committed() {
                session.forget(&[id])?;
            }
            match e {
                ApplyError::Moved => Ok(Attempt::Moved),
                e => Err(of_apply(session, change.anchor.last, e)),
            }
        }
    }
}

pub(crate) fn of_apply(session: &Session, lsn: Lsn, e: ApplyError<Error>) -> Error {
    let source = match e {
        ApplyError::Callback(e) => return e,
        ApplyError::File(e) => return Error::File(e),
        ApplyError::Base(e) => return Error::BaseMap(e),
        ApplyError::Pages(e) => return Error::from_pages(e),
        ApplyError::Checksum { found, expected } => return mismatch(lsn, found, expected),
        ApplyError::Moved => ApplyError::Moved,
        ApplyError::NotWal => ApplyError::NotWal,
        ApplyError::PageSize { file, delta } => ApplyError::PageSize { file, delta },
        ApplyError::PageOne(what) => ApplyError::PageOne(what),
        ApplyError::Commit(e) => ApplyError::Commit(e),
        ApplyError::AfterCommit(e) => ApplyError::AfterCommit(e),
        ApplyError::Verify(mismatch) => ApplyError::Verify(mismatch),
        _ => return Error::Panicked("an unknown way for an apply to fail".to_owned()),
    };
    Error::Apply { path: session.db.clone(), source: Box::new(source) }
}

/// Only the base was behind, the file already is what the remote has: stages that as if it had been
/// written, so that settling moves the base.
fn equal(
    session: &Session,
    change: &mut Change,
    id: i64,
    view: &View<'_>,
    changes: &LocalChanges,
) -> Result<Attempt, Error> {
    // The base must never be ahead of what a power failure leaves of the file.
    view.sync_wal()?;
    let map = session.base_map();
    let (expect, to) = (change.expect, change.anchor.last);
    let mut pages = change.pages.read(&expect, &map, None).map_err(|e| spooling(session, e))?;
    let mut staging = map.stage(id);
    let mut log_cookie = session.state.base.log_cookie;
    while let Some(new) = pages.next_new().map_err(|e| of_pages(to, e))? {
        if new.pgno == Pgno::ONE {
            log_cookie = cookie_of(new.page);
        }
        staging.push(new.pgno, new.entry)?;
    }
    drop(pages);
    let pages = staging.finish()?;
    let intent = PullIntent {
        target: change.anchor.clone(),
        sum_after: expect.after.0,
        log_cookie,
        apply: ApplyIntent {
            id,
            mark_before: None,
            size_before: session.state.base.size,
            size_after: expect.after.1,
            pages,
            cookie_before: view.page_one().schema_cookie,
            cookie_after: None,
            replaces: false,
            before: None,
        },
    };
    session.sidecar.put_intent(id, &Intent::Pull(intent.clone()))?;
    session.sidecar.commit_durably()?;
    let (mark, change_counter) = (changes.mark, changes.change_counter);
    Ok(Attempt::Done(Box::new(Done { id, intent, mark, change_counter, kept: None })))
}

//! Pull: what the log has beyond the base becomes one transaction of the file.
//!
//! 1. fetch: the delta, as few objects as cover it.
//! 2. check: it is unpacked and checked completely against the log's checksums, its pages kept in
//!    memory or an anonymous temporary file. Nobody is locked out so far.
//! 3. compare: a read transaction sees whether the file changed since the base. If it did, both
//!    sides changed: the caller is told, nothing is written.
//! 4. apply: the same transaction turns into a writing one, which SQLite refuses if anybody
//!    committed in between (then: compare again). Under the write lock the pages are written, the
//!    intent with their checksums is made durable in the sidecar, then they are committed.
//! 5. settle: the base moves on, from the staged checksums.
//!
//! Killed between 4 and 5, the next operation decides from the file whether the commit happened:
//! along the WAL, else by the pages (all are at their old image or all at their new one, but for
//! those written since), else by the change counter, which every apply moves on.

use anabranch_format::{DbChecksum, Lsn, PageSource, Pgno};
use anabranch_sqlite::{
    Applied, ApplyDelta, ApplyError, ApplyIntent, CookieRule, UnderLock, Verdict, View,
};
use anabranch_store::{Anchor, Fetched, Head, Progress};

use crate::crash::crash_point;
use crate::entropy;
use crate::error::Error;
use crate::image::{cookie_of, folder_of};
use crate::page_spool::PageSpool;
use crate::read_ahead::ReadAhead;
use crate::remote::{Remote, of_store};
use crate::replica::blocking;
use crate::report::Pulled;
use crate::session::{LocalChanges, Session};
use crate::state::{Intent, PullIntent};

/// How often an apply starts over because somebody committed in between.
const ROUNDS_MAX: usize = 20;

/// Brings the file from its base to `head`.
pub(crate) async fn pull(
    session: Session,
    remote: &dyn Remote,
    head: &Head,
    progress: &Progress,
) -> Result<(Pulled, Session), Error> {
    let location = session.remote_name();
    let from = session.state.base.lsn();
    let fetched = remote.fetch(from, head, progress).await.map_err(|e| of_store(&location, e))?;
    crash_point!("pull::after-fetch");
    let (anchor, progress) = (head.anchor.clone(), progress.clone());
    blocking(move || {
        let mut session = session;
        let pulled = take(&mut session, fetched, anchor, Local::Keep, &progress)?;
        Ok((pulled, session))
    })
    .await
}

/// What becomes of local changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Local {
    /// They stop the pull.
    Keep,
    /// The remote's state takes their place; the caller has kept a copy.
    Overwrite,
}

/// Checks and applies what was fetched.
pub(crate) fn take(
    session: &mut Session,
    fetched: Fetched,
    anchor: Anchor,
    local: Local,
    progress: &Progress,
) -> Result<Pulled, Error> {
    let (from, bytes) = (session.state.base.lsn(), fetched.bytes);
    let checked = Checked::new(session, fetched, anchor, local)?;
    let (pages, to) = (checked.spool.pages(), checked.anchor.last);
    apply(session, checked, progress)?;
    Ok(Pulled { from, to, pages, bytes })
}

/// A change that is checked and ready to be written.
struct Checked {
    anchor: Anchor,
    spool: PageSpool,
    size_after: u32,
    sum_after: DbChecksum,
    /// The whole database came, not a change from the base.
    replace: bool,
    local: Local,
}

impl Checked {
    fn new(
        session: &Session,
        fetched: Fetched,
        anchor: Anchor,
        local: Local,
    ) -> Result<Self, Error> {
        let base = &session.state.base;
        let replace = fetched.from.is_none();
        let (size_after, expected) = (fetched.pages.1, fetched.sum.1);
        if fetched.page_size != session.state.page_size {
            return Err(Error::PageSizeChanged {
                path: session.db.clone(),
                found: session.state.page_size,
                expected: fetched.page_size,
            });
        }
        if !replace && (fetched.pages.0, fetched.sum.0) != (base.size, base.sum) {
            return Err(mismatch(base.lsn(), base.sum, fetched.sum.0));
        }
        let map = session.base_map();
        let mut spool = PageSpool::new(session.state.page_size, folder_of(&session.db));
        let mut sum = if replace { DbChecksum::EMPTY } else { base.sum };
        let mut page = vec![0; session.state.page_size.bytes()];
        let mut source = ReadAhead::start(fetched)?;
        while let Some(pgno) = source.next_page(&mut page).map_err(Error::from_pages)? {
            let new = map.entry(pgno, &page);
            let old = map.get(pgno)?.filter(|_| pgno.get() <= base.size);
            if let Some(old) = old.filter(|_| !replace) {
                sum.toggle(old.shared);
            }
            sum.toggle(new.shared);
            let needless = old == Some(new) && pgno != Pgno::ONE && local == Local::Keep;
            if !needless {
                spool.push(pgno, &page).map_err(|e| spooling(session, e))?;
            }
        }
        if !replace {
            for pgno in (size_after.saturating_add(1)..=base.size).filter_map(Pgno::new) {
                if let Some(old) = map.get(pgno)? {
                    sum.toggle(old.shared);
                }
            }
        }
        if sum != expected {
            return Err(mismatch(anchor.last, sum, expected));
        }
        Ok(Checked { anchor, spool, size_after, sum_after: sum, replace, local })
    }
}

fn spooling(session: &Session, source: std::io::Error) -> Error {
    Error::Io { what: "using a temporary file beside", path: session.db.clone(), source }
}

fn mismatch(lsn: Lsn, found: DbChecksum, expected: DbChecksum) -> Error {
    Error::Mismatch { lsn, found: found.to_string(), expected: expected.to_string() }
}

fn apply(session: &mut Session, mut checked: Checked, progress: &Progress) -> Result<(), Error> {
    for _ in 0..ROUNDS_MAX {
        let (id, intent, mark, change_counter) = match try_apply(session, &mut checked, progress)? {
            Attempt::Moved => continue,
            Attempt::Equal { id, intent, changes } => {
                (id, intent, changes.mark, changes.change_counter)
            }
            Attempt::Applied { id, intent, applied } => {
                crash_point!("pull::after-commit");
                (id, intent, applied.mark, applied.change_counter)
            }
        };
        return session.settle(id, intent.base_after(), mark, change_counter, entropy::now());
    }
    Err(Error::KeepsMoving { path: session.db.clone() })
}

enum Attempt {
    /// Somebody committed in between.
    Moved,
    /// The file already is what the remote has; only the base was behind.
    Equal {
        id: i64,
        intent: PullIntent,
        changes: LocalChanges,
    },
    Applied {
        id: i64,
        intent: PullIntent,
        applied: Applied,
    },
}

fn try_apply(
    session: &mut Session,
    checked: &mut Checked,
    progress: &Progress,
) -> Result<Attempt, Error> {
    let mut live = session.live_prepared()?;
    let view = live.begin_apply()?;
    let base = session.state.base.clone();
    let id = session.sidecar.next_intent_id()?;
    if checked.local == Local::Keep {
        let changes = session.capture(&view, &mut |_, _, _| Ok(()))?;
        if (changes.size, changes.sum) == (checked.size_after, checked.sum_after) {
            let intent = equal(session, checked, id, &view)?;
            return Ok(Attempt::Equal { id, intent, changes });
        }
        if !changes.is_empty() {
            return Err(Error::Diverged {
                local_pages: changes.pages,
                base: base.lsn(),
                remote_lsn: checked.anchor.last,
            });
        }
    }
    let random = entropy::cookie();
    let schema_cookie = if checked.replace {
        CookieRule::Replace { random }
    } else {
        CookieRule::ByLog { log_cookie: base.log_cookie, random }
    };
    let map = session.base_map();
    let mut pages = checked.spool.source(Some(progress)).map_err(|e| spooling(session, e))?;
    let delta = ApplyDelta {
        page_size: session.state.page_size,
        size_after: checked.size_after,
        pages: &mut pages,
        schema_cookie,
        base: &map,
        intent: id,
    };
    let mut written = None;
    // The staged entries and the intent become durable together, under the write lock.
    session.sidecar.begin()?;
    let outcome = view.apply::<Error>(delta, &mut |lock: &UnderLock| {
        let intent = PullIntent {
            target: checked.anchor.clone(),
            sum_after: checked.sum_after,
            log_cookie: lock.log_cookie.unwrap_or(base.log_cookie),
            apply: lock.intent.clone(),
        };
        session.sidecar.put_intent(id, &Intent::Pull(intent.clone()))?;
        session.sidecar.commit_durably()?;
        written = Some(intent);
        crash_point!("pull::under-lock");
        Ok(())
    });
    match outcome {
        Ok(applied) => {
            // Only now is it certain that a power failure cannot take it back.
            live.close()?;
            let intent = written.expect("an apply that succeeds has called back");
            Ok(Attempt::Applied { id, intent, applied })
        }
        Err(e) => {
            session.sidecar.rollback()?;
            if written.is_some() && !e.may_be_committed() {
                session.forget(&[id])?;
            }
            match e {
                ApplyError::Moved => Ok(Attempt::Moved),
                ApplyError::Callback(e) => Err(e),
                e => Err(of_apply(session, e)),
            }
        }
    }
}

fn of_apply(session: &Session, e: ApplyError<Error>) -> Error {
    let source = match e {
        ApplyError::Callback(e) => return e,
        ApplyError::File(e) => return Error::File(e),
        ApplyError::Base(e) => return Error::BaseMap(e),
        ApplyError::Pages(e) => return Error::from_pages(e),
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

/// Stages what the file holds already, as if it had been written: settling then only moves the base.
fn equal(
    session: &Session,
    checked: &mut Checked,
    id: i64,
    view: &View<'_>,
) -> Result<PullIntent, Error> {
    let map = session.base_map();
    let mut pages = checked.spool.source(None).map_err(|e| spooling(session, e))?;
    let mut page = vec![0; session.state.page_size.bytes()];
    session.sidecar.begin()?;
    let mut staging = map.stage(id);
    let mut log_cookie = session.state.base.log_cookie;
    let mut count = 0;
    while let Some(pgno) = pages.next_page(&mut page).map_err(Error::from_pages)? {
        if pgno == Pgno::ONE {
            log_cookie = cookie_of(&page);
        }
        staging.push(pgno, map.entry(pgno, &page))?;
        count += 1;
    }
    staging.finish()?;
    let cookie = view.page_one().schema_cookie;
    let intent = PullIntent {
        target: checked.anchor.clone(),
        sum_after: checked.sum_after,
        log_cookie,
        apply: ApplyIntent {
            id,
            mark_before: None,
            size_before: session.state.base.size,
            size_after: checked.size_after,
            pages: count,
            cookie_before: cookie,
            cookie_after: None,
        },
    };
    session.sidecar.put_intent(id, &Intent::Pull(intent.clone()))?;
    session.sidecar.commit_durably()?;
    Ok(intent)
}

/// Decides a pull that an earlier operation left undecided, from the file. Answers a line about it.
pub(crate) fn recover(session: &mut Session) -> Result<Option<String>, Error> {
    let found = session.sidecar.intents()?.into_iter().find_map(|(id, intent)| match intent {
        Intent::Pull(intent) => Some((id, intent)),
        Intent::Push(_) => None,
    });
    let Some((id, intent)) = found else { return Ok(None) };
    let to = intent.target.last;
    let (applied, counter) = was_applied(session, &intent)?;
    if applied {
        session.settle(id, intent.base_after(), None, counter, entropy::now())?;
        Ok(Some(format!("an interrupted pull had been applied, up to position {to}")))
    } else {
        session.forget(&[id])?;
        Ok(Some("an interrupted pull had not been applied; it starts over".to_owned()))
    }
}

/// Whether the pull is in the file; and the file's change counter.
fn was_applied(session: &Session, intent: &PullIntent) -> Result<(bool, u32), Error> {
    let mut question = intent.apply.clone();
    if !session.same_boot()? {
        question.mark_before = None;
    }
    let mut live = session.live()?;
    let view = live.begin()?;
    // Undecided counts as not applied: then the rows in question are local changes, which stops the
    // next pull; the other way round they might be taken back at the remote.
    let verdict = view.was_applied(&question, &session.base_map())?;
    Ok((verdict == Verdict::Applied, view.page_one().change_counter))
}

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
//! [`STREAMED_BYTES_MAX`] at most.
//!
//! Killed between 4 and 5, the next operation decides from the file whether the commit happened:
//! along the WAL, else by the pages (all are at their old image or all at their new one, but for
//! those written since), else by the schema cookie, where the apply gave the file a new one.

use std::path::PathBuf;
use std::sync::Arc;

use anabranch_format::{DbChecksum, DeltaError, Lsn, PageSize, Pgno};
use anabranch_sqlite::{
    Applied, ApplyDelta, ApplyError, ApplyIntent, BaseError, BaseMap, CookieRule, Hashed, Mark,
    NewPage, NewPages, NewPagesError, PageEntry, PageSet, UnderLock, Verdict, View,
};
use anabranch_store::{Anchor, Fetched, Head, Progress, Step};

use crate::crash::crash_point;
use crate::entropy;
use crate::error::Error;
use crate::image::{cookie_of, folder_of};
use crate::kept::Kept;
use crate::layers::{Local, spooling};
use crate::page_count::Pages;
use crate::page_spool::PageSpool;
use crate::read_ahead::ReadAhead;
use crate::rebase::{self, With};
use crate::remote::{Remote, of_store};
use crate::replica::{Options, blocking};
use crate::report::{Pulled, Rebased};
use crate::session::{Act, LocalChanges, Session};
use crate::state::{Base, Intent, PullIntent, Stage};

/// How often an apply starts over because somebody committed in between.
const ROUNDS_MAX: usize = 20;

/// After this many rounds a replacement takes the write lock before it copies what it replaces.
const ROUNDS_WITHOUT_LOCK: usize = 2;

/// Up to this much content is unpacked while it is written.
const STREAMED_BYTES_MAX: u64 = 64 << 20;

/// Content of a large delta that is unpacked ahead.
const BYTES_AHEAD: u64 = 2 << 20;

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
    Ok(Taken { pulled: Pulled { from, to: change.anchor.last, pages, bytes }, rebased, kept })
}

/// What a change must lead to, and from where.
#[derive(Debug, Clone, Copy)]
struct Expect {
    /// Database checksum before; that of nothing if the whole database came.
    sum_before: DbChecksum,
    /// Size of the base: pages above it are in no base map that counts.
    base_size: u32,
    /// Database checksum and size after. Where the remote states no checksum it is what was found
    /// when the pages were kept.
    after: (DbChecksum, u32),
    /// The checksum after is to be found out.
    unstated: bool,
    /// The whole database came, not a change from the base.
    replace: bool,
    /// Pages that are as in the base need not be written.
    skip_equal: bool,
    pages_max: u64,
    page_size: PageSize,
}

/// A change that is ready to be written.
pub(crate) struct Change {
    anchor: Anchor,
    expect: Expect,
    pages: Source,
    progress: Progress,
}

/// Where the pages come from.
enum Source {
    /// Unpacked and checked while they are read, once.
    Ahead(ReadAhead),
    /// Checked, and kept.
    Spool(PageSpool),
}

impl Change {
    pub(crate) fn new(
        session: &Session,
        fetched: Fetched,
        anchor: Anchor,
        mine: Mine<'_>,
        progress: &Progress,
    ) -> Result<Self, Error> {
        let base = &session.state.base;
        let page_size = fetched.page_size;
        if page_size != session.state.page_size {
            return Err(Error::PageSizeChanged {
                path: session.db.clone(),
                found: session.state.page_size,
                expected: page_size,
            });
        }
        let replace = fetched.from.is_none();
        if let Some(before) = fetched.stated_before().filter(|_| !replace)
            && before != (base.size, base.sum)
        {
            return Err(mismatch(base.lsn(), base.sum, before.1));
        }
        refuse_impossible_size(&fetched, if replace { 0 } else { base.size })?;
        let mut expect = Expect {
            sum_before: if replace { DbChecksum::EMPTY } else { base.sum },
            base_size: base.size,
            after: (fetched.stated_sum().unwrap_or(DbChecksum::EMPTY), fetched.pages.1),
            unstated: fetched.stated_sum().is_none(),
            replace,
            skip_equal: matches!(mine, Mine::Rebase(_)),
            pages_max: fetched.pages_max,
            page_size,
        };
        let bytes_max = expect.pages_max.saturating_mul(u64::from(page_size.get()));
        // Only who knows the checksum beforehand may write first and check last.
        let stated = !expect.unstated;
        let streamed = bytes_max <= STREAMED_BYTES_MAX && fetched.in_memory && stated;
        let ahead = if streamed { STREAMED_BYTES_MAX } else { BYTES_AHEAD };
        let map = session.base_map();
        let ahead = ReadAhead::hashed(fetched, map.hasher(), ahead)?;
        let pages = if streamed {
            Source::Ahead(ahead)
        } else {
            let (spool, sum) = check_and_keep(session, &expect, ahead, anchor.last)?;
            expect.after.0 = sum;
            Source::Spool(spool)
        };
        Ok(Change { anchor, expect, pages, progress: progress.clone() })
    }

    /// The position that it leads to.
    pub(crate) fn to(&self) -> Lsn {
        self.anchor.last
    }

    /// The segment that ends there.
    pub(crate) fn anchor(&self) -> &Anchor {
        &self.anchor
    }

    /// Database checksum and size there.
    pub(crate) fn after(&self) -> (DbChecksum, u32) {
        self.expect.after
    }

    /// Tells `each` of every page that is not as in the base (and of page 1 if it came), ascending; all
    /// are checked once it has returned. Pages that are read ahead come once.
    pub(crate) fn each_page(
        &mut self,
        session: &Session,
        map: &BaseMap<'_>,
        each: &mut dyn FnMut(Pgno, PageEntry, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let to = self.to();
        let mut pages =
            self.pages.read(&self.expect, map, None).map_err(|e| spooling(session, e))?;
        while let Some(new) = pages.next_new().map_err(|e| of_pages(to, e))? {
            each(new.pgno, new.entry, new.page)?;
        }
        Ok(())
    }
}

/// More pages than came, on top of those that are here, can be in no database. Told before anything
/// is made room for.
fn refuse_impossible_size(fetched: &Fetched, size_before: u32) -> Result<(), Error> {
    let lock_page = u64::from(fetched.page_size.lock_page().get());
    let most = u64::from(size_before).saturating_add(fetched.pages_max);
    let most = if most >= lock_page { most.saturating_add(1) } else { most };
    if u64::from(fetched.pages.1) <= most {
        return Ok(());
    }
    let first = size_before.checked_add(1).and_then(Pgno::new).unwrap_or(Pgno::ONE);
    Err(Error::Pages(DeltaError::Growth { page: first }))
}

/// Reads all pages, checks them and keeps those that count. Answers the checksum after, too.
fn check_and_keep(
    session: &Session,
    expect: &Expect,
    ahead: ReadAhead,
    to: Lsn,
) -> Result<(PageSpool, DbChecksum), Error> {
    let mut spool = PageSpool::new(session.state.page_size, folder_of(&session.db));
    let (map, mut ahead) = (session.base_map(), ahead);
    let mut pages = Checking::new(&mut ahead, &map, expect, None);
    while let Some(new) = pages.next_new().map_err(|e| of_pages(to, e))? {
        spool.push(new.pgno, new.page).map_err(|e| spooling(session, e))?;
    }
    let sum = pages.sum;
    Ok((spool, sum))
}

impl Source {
    /// The pages, from the first on; those that are read ahead come once.
    fn read<'a>(
        &'a mut self,
        expect: &Expect,
        map: &'a BaseMap<'a>,
        progress: Option<&Progress>,
    ) -> std::io::Result<Box<dyn NewPages + 'a>> {
        Ok(match self {
            Source::Ahead(source) => {
                let total = expect.pages_max.saturating_mul(u64::from(expect.page_size.get()));
                let counted =
                    progress.map(|p| Pages::of(p, Step::Applying, total, expect.page_size));
                Box::new(Checking::new(source, map, expect, counted))
            }
            Source::Spool(spool) => {
                Box::new(Hashed::new(spool.source(progress)?, map.hasher(), expect.page_size))
            }
        })
    }
}

/// Checks pages as they pass: they must lead from the base to the state that the log states.
struct Checking<'a> {
    source: &'a mut ReadAhead,
    map: &'a BaseMap<'a>,
    expect: Expect,
    sum: DbChecksum,
    counted: Option<Pages>,
}

impl<'a> Checking<'a> {
    fn new(
        source: &'a mut ReadAhead,
        map: &'a BaseMap<'a>,
        expect: &Expect,
        counted: Option<Pages>,
    ) -> Self {
        Checking { source, map, expect: *expect, sum: expect.sum_before, counted }
    }

    /// What the page is in the base.
    fn in_base(&self, pgno: Pgno) -> Result<Option<PageEntry>, BaseError> {
        if pgno.get() > self.expect.base_size {
            return Ok(None);
        }
        self.map.get(pgno)
    }

    /// Takes a page of the state before out of the sum: of nothing, if the whole database came.
    fn take_out(&mut self, page: Option<PageEntry>) {
        if let Some(page) = page.filter(|_| !self.expect.replace) {
            self.sum.toggle(page.shared);
        }
    }

    fn end(&mut self) -> Result<(), NewPagesError> {
        let (sum, size) = self.expect.after;
        for pgno in (size.saturating_add(1)..=self.expect.base_size).filter_map(Pgno::new) {
            let gone = self.in_base(pgno)?;
            self.take_out(gone);
        }
        if self.sum == sum || self.expect.unstated {
            Ok(())
        } else {
            Err(NewPagesError::Checksum { found: self.sum, expected: sum })
        }
    }
}

impl NewPages for Checking<'_> {
    fn next_new(&mut self) -> Result<Option<NewPage<'_>>, NewPagesError> {
        loop {
            let Some(pgno) = self.source.advance()? else {
                self.end()?;
                return Ok(None);
            };
            if let Some(counted) = &mut self.counted {
                counted.one();
            }
            let entry = self.source.entry();
            let old = self.in_base(pgno)?;
            self.take_out(old);
            self.sum.toggle(entry.shared);
            let needless = self.expect.skip_equal && old == Some(entry) && pgno != Pgno::ONE;
            if !needless {
                return Ok(Some(NewPage { pgno, entry, page: self.source.page() }));
            }
        }
    }
}

fn mismatch(lsn: Lsn, found: DbChecksum, expected: DbChecksum) -> Error {
    Error::Mismatch { lsn, found: found.to_string(), expected: expected.to_string() }
}

/// Why the pages of the change to `lsn` do not come.
fn of_pages(lsn: Lsn, e: NewPagesError) -> Error {
    match e {
        NewPagesError::Pages(e) => Error::from_pages(e),
        NewPagesError::Base(e) => Error::BaseMap(e),
        NewPagesError::Checksum { found, expected } => mismatch(lsn, found, expected),
        other => Error::Panicked(other.to_string()),
    }
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
                let (pages, rebased) = rebase::rebase(session, change, *local, id, with)?;
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
    /// that is open.
    Both {
        id: i64,
        local: Box<Local>,
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
    let view = live.begin_apply()?;
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
                return Ok(match pinned {
                    Some(local) => Attempt::Both { id, local: Box::new(local) },
                    None => Attempt::Moved,
                });
            }
        },
        Mine::Replace => {
            session.check_still_the_same()?;
            if round >= ROUNDS_WITHOUT_LOCK {
                match view.lock::<Error>() {
                    Ok(()) => {}
                    Err(ApplyError::Moved) => return Ok(Attempt::Moved),
                    Err(e) => return Err(of_apply(session, change.anchor.last, e)),
                }
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

/// Takes the whole database `fetched` for the base, and leaves the file as it is: whatever differs from
/// it is a local change from now on. One transaction of the sidecar.
pub(crate) fn stand(
    session: &mut Session,
    fetched: Fetched,
    anchor: Anchor,
) -> Result<Taken, Error> {
    let (from, to, bytes) = (session.state.base.lsn(), anchor.last, fetched.bytes);
    let (size, stated) = (fetched.pages.1, fetched.stated_sum());
    let (cookie, counter) = {
        let mut live = session.live_prepared()?;
        let view = live.begin()?;
        session.check_still_the_same()?;
        (view.page_one().schema_cookie, view.page_one().change_counter)
    };
    session.sidecar.begin()?;
    let id = session.sidecar.next_intent_id()?;
    let (mut sum, mut log_cookie) = (DbChecksum::EMPTY, 0);
    {
        let map = session.base_map();
        let mut pages = ReadAhead::hashed(fetched, map.hasher(), BYTES_AHEAD)?;
        let mut staging = map.stage(id);
        while let Some(pgno) = pages.advance().map_err(Error::from_pages)? {
            if pgno == Pgno::ONE {
                log_cookie = cookie_of(pages.page());
            }
            sum.toggle(pages.entry().shared);
            staging.push(pgno, pages.entry())?;
        }
        staging.finish()?;
    }
    if let Some(expected) = stated.filter(|expected| *expected != sum) {
        session.sidecar.rollback()?;
        return Err(mismatch(to, sum, expected));
    }
    // Another cookie than the file's: the push that follows tells that the schema changed.
    let base = Base { anchor, size, sum, log_cookie, file_cookie: !cookie };
    // What this replica was at earlier positions must not make the file look older than it is.
    session.sidecar.forget_history()?;
    session.settle_standing(id, base, counter, entropy::now())?;
    Ok(Taken { pulled: Pulled { from, to, pages: 0, bytes }, rebased: None, kept: None })
}

/// Decides a pull that an earlier operation left undecided, from the file. Answers a line about it.
pub(crate) fn recover(session: &mut Session) -> Result<Option<String>, Error> {
    let found = session.sidecar.intents()?.into_iter().find_map(|(id, intent)| {
        Some((
            id,
            match intent {
                Intent::Pull(pull) => {
                    Undecided { base: pull.base_after(), apply: pull.apply, act: Act::Plain(id) }
                }
                Intent::Rebase(rebase) => Undecided {
                    base: rebase.base_after(),
                    apply: rebase.apply,
                    act: Act::Rebase(id),
                },
                Intent::Push(_) => return None,
            },
        ))
    });
    let Some((id, pull)) = found else { return Ok(None) };
    let to = pull.base.lsn();
    let (verdict, counter) = verdict_on(session, &pull.apply)?;
    match verdict {
        Verdict::Applied => {
            session.forget_tables();
            session.settle_earlier_act(pull.act, pull.base, None, counter, entropy::now())?;
            Ok(Some(format!("an interrupted pull had been applied, up to position {to}")))
        }
        Verdict::NotApplied => {
            session.forget(&[id])?;
            Ok(Some("an interrupted pull had not been applied; it starts over".to_owned()))
        }
        Verdict::Undecided => {
            session.forget_undecided(id)?;
            Ok(Some(
                "whether an interrupted pull had been applied cannot be told; it starts over, and \
                 rows that are as the remote has them count as the remote's"
                    .to_owned(),
            ))
        }
    }
}

/// A pull that may or may not be in the file.
struct Undecided {
    act: Act,
    /// The base, if it is.
    base: Base,
    apply: ApplyIntent,
}

/// Whether the pull is in the file; and the file's change counter.
fn verdict_on(session: &Session, apply: &ApplyIntent) -> Result<(Verdict, u32), Error> {
    let mut question = apply.clone();
    if !session.same_boot()? {
        question.mark_before = None;
    }
    let mut live = session.live()?;
    let view = live.begin()?;
    let verdict = view.was_applied(&question, &session.base_map())?;
    if verdict == Verdict::Applied {
        // It may have been cut short before the disk had it.
        view.sync_wal()?;
    }
    Ok((verdict, view.page_one().change_counter))
}

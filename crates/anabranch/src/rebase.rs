//! Rebase: both sides changed, and what was changed here is put on top of what the remote has.
//!
//! 1. the file is pinned, what differs from the base is known ([`Local`]); the images that these pages
//!    had in the base are fetched and checked;
//! 2. base, remote and result are laid on the pinned file ([`Layers`]); the changed rows of the file
//!    are replayed on the remote's state, under the rules; conflicts go to the journal, under the
//!    number of the intent;
//! 3. what turns the file into the result is applied as a pull is, if the file still is what was
//!    pinned: else what was written to it meanwhile is replayed on the result, in the same way: base is the
//!    file as it was pinned, the remote's state is the result ([`go_on`]). The intent says what the
//!    base becomes (the remote's state) apart from what the file becomes (the result);
//! 4. settle: the base moves on, the conflicts count. What the file is ahead of the base goes out
//!    with the push that follows.
//!
//! Nobody is locked out while rows are compared, so a program that writes all the time could make
//! every round vain: after [`ROUNDS_WITHOUT_LOCK`] of them the write lock is taken first. Little is left
//! to be done by then, however much was changed before; others are kept waiting no longer than this
//! program itself would wait for them, then the work is given up.
//!
//! If the remote keeps nothing as old as the base any more, 1 and 2 are done without it, but only where
//! the user says so ([`Take::Union`](crate::Take)): see [`Rules::without_base`](anabranch_rebase::Rules::without_base).
//!
//! Killed before COMMIT, nothing has happened; after it, the next operation decides as after any pull.
//! Memory: a bounded part of each layer, see [`Overlay`](anabranch_sqlite::Overlay), and what
//! `anabranch-rebase` states.

use std::time::Instant;

use anabranch_format::{PageSource, Pgno};
use anabranch_rebase::{KeyMap, Summary};
use anabranch_sqlite::{
    Applied, ApplyDelta, ApplyError, CookieRule, Difference, Hashed, PageRead, PageSet,
    SharedOverlay, UnderLock, View,
};

use crate::crash::crash_point;
use crate::entropy;
use crate::error::Error;
use crate::image::cookie_of;
use crate::journal::Origin;
use crate::layers::{Layers, Local, cookie_in, locked, page_in, reading, spooling};
use crate::pull::{Change, of_apply};
use crate::report::Rebased;
use crate::session::Session;
use crate::state::{Base, Intent, RebaseIntent, Stage};

mod overtaken;
mod replay;
mod with;

use overtaken::go_on;

pub(crate) use replay::{Replay, of_scratch, report};
pub(crate) use with::With;

/// How often all of it is tried.
const ROUNDS_MAX: u32 = 5;

/// After so many rounds the write lock is taken before the rows are compared.
const ROUNDS_WITHOUT_LOCK: u32 = 2;

/// The remote's state, as pages to lay on the base.
pub(crate) struct RemoteState {
    /// Lies on nothing that is read: its own pages alone count.
    pub(crate) pages: SharedOverlay,
    /// Schema cookie of the log there.
    pub(crate) log_cookie: u32,
}

impl RemoteState {
    /// Whether it is the base's state: nothing but the position is new.
    fn is_base(&self, session: &Session, change: &Change) -> bool {
        let base = &session.state.base;
        (base.sum, base.size) == change.after() && self.log_cookie == base.log_cookie
    }

    /// Takes the pages of `change`, checked, onto `lower`.
    pub(crate) fn keep(
        session: &Session,
        change: &mut Change,
        layers: &Layers,
    ) -> Result<Self, Error> {
        let base = &session.state.base;
        let pages = layers.remote(session, None)?;
        let mut log_cookie = base.log_cookie;
        {
            let mut layer = locked(session, &pages)?;
            layer.resize(change.after().1).map_err(|e| spooling(session, e))?;
            let map = session.base_map();
            change.each_page(session, &map, &mut |pgno, entry, page| {
                if pgno == Pgno::ONE {
                    log_cookie = cookie_of(page);
                    let same = map.get(pgno)? == Some(entry) && log_cookie == base.log_cookie;
                    if same && !layers.base_gone {
                        return Ok(());
                    }
                }
                layer.put(pgno, page).map_err(|e| spooling(session, e))
            })?;
        }
        Ok(RemoteState { pages, log_cookie })
    }
}

/// All states, and what was found out about them.
struct Merged {
    local: Local,
    /// What lies between file and remote's state.
    under: Vec<SharedOverlay>,
    remote: SharedOverlay,
    log_cookie: u32,
    result: SharedOverlay,
    /// Rows that the file has under other keys than the result.
    keys: KeyMap,
    summary: Summary,
    /// The schema of the result is not the remote's.
    carried: bool,
    /// The schema of the result may differ from the file's.
    new_schema: bool,
}

/// Brings the file, in which `local` changed, to the state that `change` leads to, with the local
/// changes on top. The sidecar's transaction in which `local` was staged for the intent `id` is open.
/// Without `local` the file is looked at first.
pub(crate) fn rebase(
    session: &mut Session,
    change: &mut Change,
    local: Option<Local>,
    id: i64,
    with: &With,
) -> Result<(u64, Rebased), Error> {
    let mut work = Work { change, with, id, remote: None, base: None, overtaken: None };
    let done = work.rounds(session, local);
    if done.is_err() {
        // The first error is the one to report.
        let _ = session.sidecar.rollback();
    }
    done
}

struct Work<'a> {
    change: &'a mut Change,
    with: &'a With,
    id: i64,
    /// What earlier rounds fetched.
    remote: Option<RemoteState>,
    base: Option<SharedOverlay>,
    /// What the last round came to, before it turned out that somebody had written to the file. Its
    /// journal is in the sidecar's open transaction.
    overtaken: Option<Merged>,
}

impl Work<'_> {
    fn rounds(
        &mut self,
        session: &mut Session,
        mut first: Option<Local>,
    ) -> Result<(u64, Rebased), Error> {
        for round in 0..ROUNDS_MAX {
            let locked = round >= ROUNDS_WITHOUT_LOCK;
            let mut live = session.live_prepared()?;
            // While one connection stays the `-wal` does, and with it what tells how far the file was
            // looked at: the push that follows need not read every page.
            session.hold()?;
            let mut view = live.begin_apply()?;
            if locked {
                view = view.lock_newest()?;
            }
            let local = match first.take() {
                Some(local) => local,
                None => self.look_again(session)?,
            };
            if local.mark.as_ref() != view.mark() {
                continue;
            }
            let deadline = locked.then(|| Instant::now() + session.patience());
            let merged = match self.overtaken.take() {
                Some(overtaken) => Some(go_on(session, self, overtaken, local, deadline)?),
                None => self.merge(session, local, deadline)?,
            };
            let Some(merged) = merged else {
                drop(view);
                return self.only_move_on(session);
            };
            // Who wrote while rows were compared is seen when the write lock is taken.
            let Some((intent, applied)) = self.apply(session, view, &merged)? else {
                self.overtaken = Some(merged);
                continue;
            };
            let rebased = report(&merged.summary);
            drop(merged);
            (self.base, self.remote) = (None, None);
            // Only now is it certain that a power failure cannot take it back.
            live.close()?;
            crash_point!("rebase::after-commit");
            let Applied { mark, change_counter, .. } = applied;
            session.forget_tables();
            let now = entropy::now();
            session.settle_rebase(self.id, intent.base_after(), mark, change_counter, now)?;
            return Ok((intent.apply.pages, rebased));
        }
        Err(Error::KeepsMoving { path: session.db.clone() })
    }

    /// Pins the file as it is by now. What the last round wrote to the sidecar goes, unless this one goes
    /// on from there.
    fn look_again(&mut self, session: &Session) -> Result<Local, Error> {
        let before = Stage::Before.of(self.id);
        if self.overtaken.is_some() {
            session.base_map().drop_staged(before)?;
            let local = Local::capture(session, Some(before))?;
            if self.overtaken.as_ref().is_some_and(|overtaken| overtaken.has_schema_of(&local)) {
                return Ok(local);
            }
            // Names of tables and columns are what all that was found out hangs on.
            self.overtaken = None;
        }
        session.sidecar.rollback()?;
        session.sidecar.begin()?;
        Local::capture(session, Some(before))
    }

    fn origin(&self, session: &Session) -> Origin {
        Origin {
            intent: self.id,
            at: entropy::now(),
            base: session.state.base.lsn(),
            onto: self.change.to(),
        }
    }

    /// Replays the local changes; `None` if the remote's state is the base, so that there is nothing to
    /// replay them on.
    fn merge(
        &mut self,
        session: &Session,
        local: Local,
        deadline: Option<Instant>,
    ) -> Result<Option<Merged>, Error> {
        let with = self.with;
        let layers = if with.base_gone {
            Layers::without_base(session, local)?
        } else {
            let mut fetch = |pages: &PageSet| with.fetch_base(session, pages);
            Layers::lay(session, local, self.base.as_ref(), &mut fetch)?
        };
        self.base = Some(layers.base.clone());
        let remote = match self.remote.take() {
            None => RemoteState::keep(session, self.change, &layers)?,
            Some(known) => RemoteState {
                pages: layers.remote(session, Some(&known.pages))?,
                log_cookie: known.log_cookie,
            },
        };
        if remote.is_base(session, self.change) {
            return Ok(None);
        }
        let origin = self.origin(session);
        let result = Layers::on(session, remote.pages.clone(), None)?;
        let rules = with.rules(session)?;
        let replay = Replay {
            changed: layers.changed(),
            remote: remote.pages.clone(),
            result: &result,
            rules: &rules,
            deadline,
        };
        let mut keys = KeyMap::default();
        let mut journal = |conflict| session.sidecar.put_conflict(&origin, conflict);
        let summary = replay.run(session, &mut keys, &mut journal)?;
        crash_point!("rebase::computed");
        let carried = cookie_in(session, &result)? != cookie_in(session, &remote.pages)?;
        let (pages, log_cookie) = (remote.pages.clone(), remote.log_cookie);
        self.remote = Some(remote);
        let merged = Merged {
            local: layers.local,
            under: vec![layers.base],
            remote: pages,
            log_cookie,
            result,
            keys,
            summary,
            carried,
            new_schema: false,
        };
        merged.shown(session).map(Some)
    }

    /// Applies what leads from the file to the result; `None` if somebody wrote to the file meanwhile.
    fn apply(
        &self,
        session: &Session,
        view: View<'_>,
        merged: &Merged,
    ) -> Result<Option<(RebaseIntent, Applied)>, Error> {
        let map = session.base_map();
        session.sidecar.mark()?;
        stage(session, Stage::Base.of(self.id), &merged.remote)?;
        stage(session, Stage::Ahead.of(self.id), &merged.result)?;
        let size_after = locked(session, &merged.result)?.size();
        let difference = Difference::new(merged.local.shared(), merged.all());
        let page_size = session.state.page_size;
        let mut pages = Hashed::new(difference, map.hasher(), page_size);
        let schema_cookie = match merged.new_schema {
            true => CookieRule::Replace { random: entropy::cookie() },
            false => CookieRule::Keep,
        };
        let delta = ApplyDelta {
            page_size,
            size_after,
            pages: &mut pages,
            schema_cookie,
            base: &map,
            intent: self.id,
            before: Some(Stage::Before.of(self.id)),
        };
        let mut written = None;
        let outcome = view.apply::<Error>(delta, &mut |lock: &UnderLock| {
            let (sum_after, size) = self.change.after();
            let intent = RebaseIntent {
                target: self.change.anchor().clone(),
                size,
                sum_after,
                log_cookie: merged.log_cookie,
                carried: merged.carried,
                apply: lock.intent.clone(),
            };
            session.sidecar.put_intent(self.id, &Intent::Rebase(intent.clone()))?;
            session.sidecar.commit_durably()?;
            written = Some(intent);
            crash_point!("rebase::under-lock");
            Ok(())
        });
        match outcome {
            Ok(applied) => {
                let intent = written.expect("an apply that succeeds has called back");
                Ok(Some((intent, applied)))
            }
            // Seen before anything is written: the journal of this round still counts.
            Err(ApplyError::Moved) if written.is_none() => {
                session.sidecar.back_to_mark()?;
                Ok(None)
            }
            Err(e) => {
                session.sidecar.rollback()?;
                if written.is_some() && !e.may_be_committed() {
                    session.forget(&[self.id])?;
                }
                Err(of_apply(session, self.change.to(), e))
            }
        }
    }

    /// The remote's state is the base, only its position is new: the file stays as it is, and ahead of
    /// the base where it was.
    fn only_move_on(&mut self, session: &mut Session) -> Result<(u64, Rebased), Error> {
        let local = self.look_again(session)?;
        {
            let map = session.base_map();
            let mut ahead = map.stage(Stage::Ahead.of(self.id));
            for staged in map.staged(Stage::Before.of(self.id)) {
                let (pgno, entry) = staged?;
                ahead.push(pgno, entry)?;
            }
            ahead.finish()?;
            map.drop_staged(Stage::Before.of(self.id))?;
        }
        let base = Base { anchor: self.change.anchor().clone(), ..session.state.base.clone() };
        let (mark, counter) = (local.mark, local.changes.change_counter);
        drop(local);
        session.settle_rebase(self.id, base, mark, counter, entropy::now())?;
        Ok((0, Rebased::default()))
    }
}

impl Merged {
    /// All that lies on the file, lowest first.
    fn all(&self) -> Vec<SharedOverlay> {
        let mut layers = self.under.clone();
        layers.extend([self.remote.clone(), self.result.clone()]);
        layers
    }

    /// Whether the file has the same schema in another state.
    fn has_schema_of(&self, other: &Local) -> bool {
        self.local.page_one.schema_cookie == other.page_one.schema_cookie
    }

    /// With a schema cookie that shows whether the file gets another schema.
    fn shown(mut self, session: &Session) -> Result<Self, Error> {
        let (base, file_cookie) = (&session.state.base, self.local.page_one.schema_cookie);
        let same_schema = file_cookie == base.file_cookie && self.log_cookie == base.log_cookie;
        self.new_schema = self.carried || !same_schema;
        if self.new_schema {
            show_new_schema(session, &self.result, file_cookie)?;
        }
        Ok(self)
    }
}

/// Sees to it that page 1 of the result is part of the change, and has another cookie than the file:
/// programs that have the file open must not go on with the schema they know.
fn show_new_schema(
    session: &Session,
    result: &SharedOverlay,
    file_cookie: u32,
) -> Result<(), Error> {
    let mut page = page_in(session, result, Pgno::ONE)?;
    if cookie_of(&page) == file_cookie {
        page[40..44].copy_from_slice(&file_cookie.wrapping_add(1).to_be_bytes());
    }
    let mut layer = locked(session, result)?;
    layer.put(Pgno::ONE, &page).map_err(|e| spooling(session, e))
}

/// Stages the pages of a layer.
fn stage(session: &Session, number: i64, layer: &SharedOverlay) -> Result<(), Error> {
    let map = session.base_map();
    let mut staging = map.stage(number);
    let mut layer = locked(session, layer)?;
    let mut pages = layer.pages();
    let mut page = vec![0; session.state.page_size.bytes()];
    while let Some(pgno) = pages.next_page(&mut page).map_err(|e| reading(session, e))? {
        staging.push(pgno, map.entry(pgno, &page))?;
    }
    staging.finish()?;
    Ok(())
}

//! The exchange with the remote: the order of steps of `push`, `pull` and `sync`.
//!
//! A sync that meets changes on both sides puts those made here on top of the others' and pushes the
//! result; if others win the race to the next place in the log, once more, after a pause.

use std::sync::Arc;
use std::time::Duration;

use anabranch_store::{At, Head, causes};

use crate::error::Error;
use crate::pull::{self, Mine, Taken};
use crate::push::{self, Outcome};
use crate::rebase::With;
use crate::remote::{Remote, of_store};
use crate::replica::{ROUNDS_MAX, Replica, Take, blocking, count, head, recover_locally};
use crate::report::{Note, Offline, PullReport, Pulled, PushReport, Pushed, Rebased, SyncReport};
use crate::session::Session;
use crate::state::Intent;
use crate::waiting::Probing;

/// How often a sync starts over because others were faster.
const RACES_MAX: usize = 50;

/// How long it waits before that: first and longest. Not long: each race is lost to somebody who got
/// further, and who waits leaves the next one to others, too.
const RACE_PAUSES: Probing =
    Probing { first: Duration::from_millis(1), max: Duration::from_millis(50) };

/// What a sync has done so far.
#[derive(Debug, Default)]
struct Progressed {
    pulled: Option<Pulled>,
    rebased: Option<Rebased>,
    pushed: Option<Pushed>,
}

impl Progressed {
    fn took(&mut self, taken: Taken) {
        self.pulled = Some(match self.pulled.take() {
            None => taken.pulled,
            Some(earlier) => Pulled {
                from: earlier.from,
                to: taken.pulled.to,
                pages: earlier.pages + taken.pulled.pages,
                bytes: earlier.bytes + taken.pulled.bytes,
            },
        });
        self.rebased = Rebased::joined(self.rebased.take(), taken.rebased);
    }

    fn sent(&mut self, pushed: Pushed) {
        self.pushed = Some(joined(self.pushed.take(), pushed));
    }

    fn report(self, session: Session, offline: Option<Offline>) -> SyncReport {
        let Progressed { pulled, rebased, pushed } = self;
        let (position, notes) = (session.state.base.lsn(), session.notes);
        SyncReport { offline, pulled, rebased, pushed, position, notes }
    }
}

impl Replica {
    /// Pushes to the end of the log as it was, without a look at it first, where that saves a
    /// request; `None` if it was not tried.
    async fn push_blindly(
        &self,
        session: Session,
        remote: &dyn Remote,
    ) -> Result<(Option<Outcome>, Session), Error> {
        if !(remote.appends_blindly() && session.looks_written()) {
            return Ok((None, session));
        }
        let head = Head { anchor: session.state.base.anchor.clone(), ..Head::empty() };
        let pushed = push::push(session, remote, &head, &self.options().progress).await?;
        Ok((Some(pushed.0), pushed.1))
    }

    /// Sends what changed here. [`Error::Behind`] if the remote went on meanwhile.
    pub async fn push(&self) -> Result<PushReport, Error> {
        match self.push_once().await {
            Err(Error::NoDialect { .. }) if self.forget_dialect().await? => self.push_once().await,
            done => done,
        }
    }

    async fn push_once(&self) -> Result<PushReport, Error> {
        let (session, remote) = self.ready().await?;
        let (tried, mut session) = self.push_blindly(session, &*remote).await?;
        let compared = matches!(tried, Some(Outcome::Nothing));
        let mut all: Option<Pushed> = None;
        match tried {
            Some(Outcome::Done(pushed)) => {
                let position = session.state.base.lsn();
                return Ok(PushReport { pushed: Some(pushed), position, notes: session.notes });
            }
            Some(Outcome::DoneEarlier(pushed)) => all = Some(pushed),
            // Whoever was faster, and whether there is anything, is seen at the end of the log.
            Some(Outcome::Nothing | Outcome::Lost { .. }) | None => {}
        }
        let mut rounds = 0..ROUNDS_MAX;
        loop {
            rounds.next().ok_or_else(|| Error::KeepsMoving { path: session.db.clone() })?;
            let base = session.state.base.lsn();
            let head = head(&session, &*remote).await?;
            if head.anchor.last > base {
                return self.behind(session, all, &head).await;
            }
            if compared {
                break;
            }
            let (outcome, next) =
                push::push(session, &*remote, &head, &self.options().progress).await?;
            session = next;
            match outcome {
                Outcome::Nothing => break,
                Outcome::Done(pushed) => {
                    all = Some(joined(all, pushed));
                    break;
                }
                // What changed since that attempt still waits.
                Outcome::DoneEarlier(pushed) => all = Some(joined(all, pushed)),
                Outcome::Lost { remote_lsn, .. } => {
                    return Err(Error::Behind { base, remote_lsn });
                }
            }
        }
        Ok(PushReport { pushed: all, position: session.state.base.lsn(), notes: session.notes })
    }

    /// The remote is ahead: no matter if there is nothing to push.
    async fn behind(
        &self,
        session: Session,
        pushed: Option<Pushed>,
        head: &Head,
    ) -> Result<PushReport, Error> {
        let base = session.state.base.lsn();
        let remote_lsn = head.anchor.last;
        let (session, changes) = count(session).await?;
        if changes > 0 {
            return Err(Error::Behind { base, remote_lsn });
        }
        Ok(PushReport { pushed, position: base, notes: session.notes })
    }

    /// Fetches what others changed. What changed here is put on top of it, row by row, and waits to be
    /// pushed.
    pub async fn pull(&self) -> Result<PullReport, Error> {
        match self.pull_once().await {
            Err(Error::NoDialect { .. }) if self.forget_dialect().await? => self.pull_once().await,
            done => done,
        }
    }

    async fn pull_once(&self) -> Result<PullReport, Error> {
        let (session, remote) = self.ready().await?;
        let head = head(&session, &*remote).await?;
        let (taken, mut session) = self.follow(session, &remote, &head).await?;
        if taken.is_none() {
            // "Up to date" must be true of the file, too: it may have gone back.
            (session, _) = count(session).await?;
        }
        let mut done = Progressed::default();
        if let Some(taken) = taken {
            done.took(taken);
        }
        let (position, notes) = (session.state.base.lsn(), session.notes);
        Ok(PullReport { pulled: done.pulled, rebased: done.rebased, position, notes })
    }

    /// Brings the file to `head`, if that lies beyond its base.
    async fn follow(
        &self,
        session: Session,
        remote: &Arc<dyn Remote>,
        head: &Head,
    ) -> Result<(Option<Taken>, Session), Error> {
        if head.anchor.last <= session.state.base.lsn() {
            return Ok((None, session));
        }
        let session = decide_pushes(session, &**remote).await?;
        if head.anchor.last <= session.state.base.lsn() {
            return Ok((None, session));
        }
        match pull::pull(session, remote, head, self.options()).await {
            Ok((taken, session)) => Ok((Some(taken), session)),
            Err(Error::BaseGone { base, local_pages }) => match self.options().take {
                Some(take) => self.take_whole(remote, head, take).await,
                None => Err(Error::BaseGone { base, local_pages }),
            },
            Err(e) => Err(e),
        }
    }

    /// The state that both sides started from is gone, and the user has said whose state counts, as a
    /// whole: the remote's takes the file's place, of which a copy is kept; or the file stays as it is,
    /// and all that differs from the remote's state is a local change; or what was written here is
    /// put on top of the remote's state, as new rows.
    async fn take_whole(
        &self,
        remote: &Arc<dyn Remote>,
        head: &Head,
        take: Take,
    ) -> Result<(Option<Taken>, Session), Error> {
        let session = self.session_for(recover_locally).await?;
        let location = session.remote_name();
        let failed = |e| of_store(&location, e);
        let position = remote.position_at(At::Lsn(head.anchor.last)).await.map_err(failed)?;
        if position.lsn != head.anchor.last {
            return Err(Error::PositionGone { remote: location, lsn: head.anchor.last });
        }
        let progress = self.options().progress.clone();
        let with = With::new(Arc::clone(remote), self.options()).without_base();
        let fetched = remote.fetch_whole(&position, &progress).await.map_err(failed)?;
        let anchor = head.anchor.clone();
        blocking(move || {
            let mut session = session;
            let taken = match take {
                Take::Remote => {
                    pull::take(&mut session, fetched, anchor, Mine::Replace, &progress)?
                }
                Take::Local => pull::stand(&mut session, fetched, anchor)?,
                Take::Union => {
                    pull::take(&mut session, fetched, anchor, Mine::Rebase(&with), &progress)?
                }
            };
            session.notes.extend(taken.kept.as_ref().map(|kept| Note::Other {
                text: format!("the file as it was is kept as {}", kept.display()),
            }));
            Ok((Some(taken), session))
        })
        .await
    }

    /// Fetches what others changed and sends what changed here, in one call. A remote that cannot be
    /// reached is no error: the report says so, with the pages that wait. Where both sides changed, what
    /// changed here is put on top of what others changed, row by row: see [`Options`](crate::Options)
    /// and [`Replica::conflicts`].
    pub async fn sync(&self) -> Result<SyncReport, Error> {
        if let Some(report) = self.still_in_step().await? {
            return Ok(report);
        }
        match self.sync_once().await {
            Err(Error::NoDialect { .. }) if self.forget_dialect().await? => self.sync_once().await,
            done => done,
        }
    }

    /// The report of a sync with nothing to do, where what is kept open tells so and the remote
    /// agrees; `None` if that must be found out.
    async fn still_in_step(&self) -> Result<Option<SyncReport>, Error> {
        let Some(keep) = self.keep().cloned() else { return Ok(None) };
        let Some((remote, base)) = blocking(move || Ok(keep.unwritten())).await? else {
            return Ok(None);
        };
        let unmoved =
            remote.head(&base).await.is_ok_and(|h| h.anchor == base && h.floor <= base.last);
        Ok(unmoved.then(|| SyncReport {
            offline: None,
            pulled: None,
            rebased: None,
            pushed: None,
            position: base.last,
            notes: Vec::new(),
        }))
    }

    async fn sync_once(&self) -> Result<SyncReport, Error> {
        let session = self.session_for(recover_locally).await?;
        let mut done = Progressed::default();
        let offline = match self.connect(session).await {
            Ok((session, remote)) => match self.exchange(session, &remote, &mut done).await {
                Err(e) if e.is_offline() => e,
                Err(e) => return Err(e),
                Ok(session) => {
                    self.note_synced(&session);
                    return Ok(done.report(session, None));
                }
            },
            Err(e) if e.is_offline() => e,
            Err(e) => return Err(e),
        };
        let reason = causes(&offline);
        let (session, pages_to_push) = count(self.session().await?).await?;
        Ok(done.report(session, Some(Offline { reason, pages_to_push })))
    }

    async fn exchange(
        &self,
        session: Session,
        remote: &Arc<dyn Remote>,
        done: &mut Progressed,
    ) -> Result<Session, Error> {
        let (tried, mut session) = self.push_blindly(session, &**remote).await?;
        // What the file held when this sync began was compared with the base.
        let mut compared = matches!(tried, Some(Outcome::Nothing));
        match tried {
            Some(Outcome::Done(pushed)) => {
                done.sent(pushed);
                return Ok(session);
            }
            Some(Outcome::DoneEarlier(pushed)) => done.sent(pushed),
            Some(Outcome::Nothing | Outcome::Lost { .. }) | None => {}
        }
        let mut pauses = RACE_PAUSES.pauses();
        for _ in 0..RACES_MAX {
            let head = head(&session, &**remote).await?;
            let (taken, next) = self.follow(session, remote, &head).await?;
            session = next;
            if let Some(taken) = taken {
                // Either the pull compared the file with the base, and nothing had been committed before
                // this sync began that is not at the remote; what came later is the next sync's. Or the
                // file is ahead now.
                compared = !taken.ahead;
                done.took(taken);
            }
            if compared {
                return Ok(session);
            }
            let (outcome, next) =
                push::push(session, &**remote, &head, &self.options().progress).await?;
            session = next;
            match outcome {
                Outcome::Nothing => return Ok(session),
                Outcome::Done(pushed) => {
                    done.sent(pushed);
                    return Ok(session);
                }
                Outcome::DoneEarlier(pushed) => done.sent(pushed),
                Outcome::Lost { .. } => tokio::time::sleep(pauses.next()).await,
            }
        }
        Err(Error::Races { remote: session.remote_name() })
    }

    fn note_synced(&self, session: &Session) {
        if let Some(keep) = self.keep() {
            keep.synced(session.sidecar.path());
        }
    }
}

/// The log went on after the base, so that a push of ours that is undecided can be decided: by whoever
/// stands in its place. If it is ours, what it sent must not be taken for the remote's.
async fn decide_pushes(session: Session, remote: &dyn Remote) -> Result<Session, Error> {
    let intents = session.sidecar.intents()?;
    if !intents.iter().any(|(_, intent)| matches!(intent, Intent::Push(_))) {
        return Ok(session);
    }
    let (line, mut session) = push::recover(session, remote).await?;
    session.notes.extend(line.map(|what| Note::Recovered { what }));
    Ok(session)
}

/// Two pushes, one after the other, as one.
pub(crate) fn joined(earlier: Option<Pushed>, now: Pushed) -> Pushed {
    match earlier {
        None => now,
        Some(earlier) => Pushed {
            from: earlier.from,
            to: now.to,
            pages: earlier.pages + now.pages,
            bytes: earlier.bytes + now.bytes,
        },
    }
}

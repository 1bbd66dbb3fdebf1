//! Frames that have no place in the log: whose lineage they extend, or where one begins.

use super::{
    Answer, ApiError, Arc, Conflict, Core, Frames, Generation, Head, Kept, NotStored, PAGE_SIZE,
    READ_FRAMES, Rollover, Session, Step, Transaction, Turn, blocking, each_part, entropy, guard,
    malformed, scratch,
};
use crate::libsql::frame::FrameFile;
use crate::libsql::generation::Span;
use crate::libsql::heal::{self, Lie, Origin, Outcome, Own};

use std::time::Duration;

use anabranch_format::{ChecksumOrder, Salts, WalChecksum};

/// A client that has sent a part of a transaction within this time is about to send the next: its
/// generation is not ended meanwhile.
const ACTIVE: Duration = Duration::from_secs(5);

/// Whole transactions that are to be merged.
pub(super) struct PendingAside {
    /// Says what they come after, and keeps the frames that came before this request.
    session: Session,
    /// Index in the request of the first new frame, and of the one after the last commit frame.
    from: usize,
    to: usize,
}

/// How a merge ended.
pub(super) enum Merged {
    Answer(Answer),
    /// Somebody else has appended.
    Again,
    Conflict(Conflict),
}

/// Where the frames of a request lie.
pub(super) enum Place {
    /// All are there, in the generation with this number.
    Within(u32),
    /// The client is to go back to this frame.
    Lower(u32),
    /// New ones, from this index on.
    New {
        origin: Origin,
        from: usize,
        order: ChecksumOrder,
        /// Frames of the same transaction that the client shares with the log.
        shared: Option<Frames>,
    },
    Nowhere(Conflict),
}

impl Turn<'_> {
    pub(super) fn heals(&self) -> bool {
        self.db.libsql().heal
    }

    pub(super) fn salts(&self) -> Salts {
        self.push.frames.get(0).header.salts
    }

    /// A request that continues what is kept aside and has no place at the end of the log any more.
    pub(super) async fn continue_aside(
        &self,
        core: &mut Core,
        current: &Arc<Generation>,
        head: &Head,
        session: Session,
    ) -> Result<Step, ApiError> {
        let push = self.push;
        if self.is_stored(core, current, head, &session).await? {
            // Another server has appended them: the request is looked at by itself.
            return Ok(Step::Again);
        }
        if push.start > session.next() {
            let mut answer = Answer::ok(push.generation, session.next() - 1);
            answer.baton = Some(self.baton(&session));
            core.sessions.put(session);
            return Ok(Step::Lower(answer));
        }
        let (origin, start) = (session.origin.clone(), push.start);
        let repeated = (session.next() - start) as usize;
        let repeated = repeated.min(push.frames.len());
        let Some(session) = self.repeats(session, start, 0, repeated).await? else {
            return Ok(Step::Lower(Answer::ok(push.generation, origin.next() - 1)));
        };
        if !self.still_comes_next(core, &session, repeated).await? {
            // What the session kept is merged already: the request is looked at by itself.
            return Ok(Step::Again);
        }
        self.take_aside(core, session, repeated).await
    }

    /// Whether the log holds the frames that `session` keeps.
    async fn is_stored(
        &self,
        core: &mut Core,
        current: &Arc<Generation>,
        head: &Head,
        session: &Session,
    ) -> Result<bool, ApiError> {
        let Origin::Fork(fork) = &session.origin else { return Ok(false) };
        let stored = if fork.generation == current.span.number {
            Some(Arc::clone(current))
        } else {
            self.older(core, current, head, fork.generation).await?
        };
        let Some(stored) = stored.filter(|stored| session.start > stored.frames.skipped()) else {
            return Ok(false);
        };
        let count = session.kept.frames().min(stored.frames.last() + 1 - session.start);
        let mut from = 0;
        while from < count {
            let to = count.min(from + READ_FRAMES);
            let kept = session.kept.read(from, to).map_err(|e| scratch(&e))?;
            let (generation, first, last) =
                (Arc::clone(&stored), session.start + from, session.start + to - 1);
            let ours = blocking(move || generation.frames.read(first, last)).await?;
            let ours = ours.map_err(|e| scratch(&e))?;
            let same = ours.iter().zip(kept.iter()).enumerate().all(|(index, (ours, kept))| {
                let lsn = stored.span.lsn(first + u32::try_from(index).unwrap_or(u32::MAX));
                let pulled = || self.db.engine().may_be_pulled(lsn);
                ours.says(&kept) && (ours.header.salts == kept.header.salts || pulled())
            });
            if !same {
                return Ok(false);
            }
            from = to;
        }
        Ok(count > 0)
    }

    /// Whether what `session` keeps still comes next in its lineage. Asked after the end of the log
    /// was: another server may have merged it, and who appends to this end must know.
    async fn still_comes_next(
        &self,
        core: &mut Core,
        session: &Session,
        from: usize,
    ) -> Result<bool, ApiError> {
        let first = match session.kept.frames() {
            0 if from < self.push.frames.len() => self.push.frames.get(from).header.checksum,
            0 => return Ok(true),
            _ => {
                let kept = session.kept.read(0, 1).map_err(|e| scratch(&e))?;
                kept.get(0).header.checksum
            }
        };
        let found = heal::find(self.db, core, self.salts()).await?;
        Ok(match &session.origin {
            Origin::Fork(_) => {
                let id = heal::Lineage::name(session.salts, first);
                !found.iter().any(|lineage| lineage.id == id)
            }
            Origin::Lineage(known, _) => {
                found.iter().any(|lineage| lineage.id == known.id && lineage.end == known.end)
            }
        })
    }

    /// Frames that differ from those of the log, or come after the end of an older generation.
    pub(super) async fn aside(
        &self,
        core: &mut Core,
        current: &Arc<Generation>,
        head: &Head,
        why: NotStored,
    ) -> Result<Step, ApiError> {
        if !self.heals() {
            return Ok(Step::Conflict(why.conflict));
        }
        let push = self.push;
        match self.place(core, current, head, why).await? {
            Place::Within(number) => Ok(Step::Done(Answer::ok(number, push.last()))),
            Place::Lower(frame) => Ok(Step::Lower(Answer::ok(push.generation, frame))),
            Place::Nowhere(conflict) => Ok(Step::Conflict(conflict)),
            Place::New { origin, from, order, shared } => {
                let number = origin.next();
                if let Some(session) = core.sessions.take_at(self.salts(), number) {
                    let index = from + session.kept.frames() as usize;
                    let repeated = index.min(push.frames.len()) - from;
                    let start = push.start + u32::try_from(from).unwrap_or(u32::MAX);
                    if shared.is_none()
                        && let Some(session) = self.repeats(session, start, from, repeated).await?
                    {
                        return self.take_aside(core, session, from + repeated).await;
                    }
                }
                let session = self.begun(origin, order, shared).await?;
                self.take_aside(core, session, from).await
            }
        }
    }

    async fn begun(
        &self,
        origin: Origin,
        order: ChecksumOrder,
        shared: Option<Frames>,
    ) -> Result<Session, ApiError> {
        let mut session = self.session(origin, self.salts(), order);
        if let Some(shared) = shared {
            let dir = self.db.libsql().scratch.clone();
            for frame in shared.iter() {
                session.rules.frame(frame.pgno(), 0).map_err(|e| malformed(&e))?;
            }
            session.checksum = shared.get(shared.len() - 1).header.checksum;
            let kept = blocking(move || session.kept.add(&shared, &dir).map(|()| session));
            session = kept.await?.map_err(|e| scratch(&e))?;
        }
        Ok(session)
    }

    /// New frames from index `from` on, which follow those of `session`.
    async fn take_aside(
        &self,
        core: &mut Core,
        mut session: Session,
        from: usize,
    ) -> Result<Step, ApiError> {
        let frames = &self.push.frames;
        session.used = self.now;
        if from == frames.len() {
            let mut answer = Answer::ok(self.push.generation, self.push.last());
            answer.baton = Some(self.baton(&session));
            core.sessions.put(session);
            return Ok(Step::Done(answer));
        }
        let broken = session.kept.frames() > 0
            && !guard::continues(session.order, session.checksum, &frames.get(from));
        if broken {
            let what = "it does not continue the checksum of the part of the transaction that came \
                        before";
            return Ok(Step::Conflict(Conflict { reason: "chain", what: what.to_owned() }));
        }
        let commit = (from..frames.len()).rev().find(|i| frames.get(*i).header.is_commit());
        if let Some(commit) = commit {
            return Ok(Step::Aside(Box::new(PendingAside { session, from, to: commit + 1 })));
        }
        let mut answer = Answer::ok(self.push.generation, self.push.last());
        answer.baton = Some(self.baton(&session));
        let session = self.keep(core, session, from).await?;
        core.sessions.put(session);
        Ok(Step::Done(answer))
    }

    async fn place(
        &self,
        core: &mut Core,
        current: &Arc<Generation>,
        head: &Head,
        why: NotStored,
    ) -> Result<Place, ApiError> {
        let mut beyond = None;
        for lineage in heal::find(self.db, core, self.salts()).await? {
            let (frames, start) = (self.push.frames.clone(), self.push.start);
            let of = Arc::clone(&lineage);
            let lie = blocking(move || of.lie(start, &frames)).await?.map_err(|e| scratch(&e))?;
            match lie {
                Lie::Apart => {}
                Lie::Within => return Ok(Place::Within(lineage.number)),
                Lie::Beyond(last) => beyond = beyond.max(Some(last)),
                Lie::From(from, after) => {
                    let order = lineage.order;
                    let origin = Origin::Lineage(lineage, after);
                    return Ok(Place::New { origin, from, order, shared: None });
                }
            }
        }
        if let Some(last) = beyond {
            return Ok(Place::Lower(last));
        }
        match why.stored.clone() {
            Some(generation) => self.fork(core, current, generation, why, head).await,
            None => self.fork_between(core, current, head, why).await,
        }
    }

    /// Merges, and appends what comes of it.
    pub(super) async fn merge_aside(
        &self,
        core: &mut Core,
        head: &Head,
        pending: PendingAside,
    ) -> Result<Merged, ApiError> {
        let PendingAside { session, from, to } = pending;
        let current = Span::current(head);
        if matches!(session.origin, Origin::Fork(_))
            && core.sessions.is_pushed_to(current.number, self.now, ACTIVE)
        {
            core.sessions.put(session);
            return Err(ApiError::busy("another client is in the middle of a push"));
        }
        let (session, own) = self.own(session, from, to).await?;
        let own = own?;
        let done = to == self.push.frames.len();
        let rollover =
            if done && core.sessions.is_empty() { Rollover::WhenDue } else { Rollover::Never };
        let lineage = match heal::heal(self.db, core, head, &own, rollover).await {
            Ok(Outcome::Healed(lineage)) => lineage,
            Ok(Outcome::Lost) => {
                core.sessions.put(session);
                return Ok(Merged::Again);
            }
            Ok(Outcome::Refused(reason, what)) => {
                core.sessions.put(session);
                return Ok(Merged::Conflict(Conflict { reason, what }));
            }
            Err(e) => {
                core.sessions.put(session);
                return Err(e);
            }
        };
        let mut answer = Answer::ok(lineage.number, self.push.last());
        if !done {
            let end = lineage.end;
            let session = self.session(Origin::Lineage(lineage, end), self.salts(), session.order);
            answer.baton = Some(self.baton(&session));
            let session = self.keep(core, session, to).await?;
            core.sessions.put(session);
        }
        Ok(Merged::Answer(answer))
    }

    /// The frames of `session` and those of the request from `from` to `to`, in one file.
    async fn own(
        &self,
        session: Session,
        from: usize,
        to: usize,
    ) -> Result<(Session, Result<Own, ApiError>), ApiError> {
        let frames = self.push.frames.part(from, to);
        let dir = self.db.libsql().scratch.clone();
        blocking(move || {
            let own = gathered(&session, &frames, &dir);
            (session, own)
        })
        .await
    }

    pub(super) fn session(&self, origin: Origin, salts: Salts, order: ChecksumOrder) -> Session {
        Session {
            id: entropy::session_id(),
            salts,
            order,
            start: origin.next(),
            kept: Kept::new(),
            rules: Transaction::new(PAGE_SIZE, origin.pages()),
            checksum: WalChecksum::default(),
            used: self.now,
            noted: false,
            origin,
        }
    }
}

fn gathered(session: &Session, frames: &Frames, dir: &std::path::Path) -> Result<Own, ApiError> {
    let failed = |e: std::io::Error| scratch(&e);
    let file = FrameFile::new(dir, session.start - 1).map_err(failed)?;
    let mut number = session.start;
    let mut first = None;
    each_part(&session.kept, |part| {
        file.write(number, part.bytes())?;
        first.get_or_insert(part.get(0).header.checksum);
        number += u32::try_from(part.len()).map_err(std::io::Error::other)?;
        Ok::<(), std::io::Error>(())
    })
    .map_err(failed)?;
    let mut rules = session.rules.clone();
    for frame in frames.iter() {
        rules.frame(frame.pgno(), frame.header.commit_size).map_err(|e| malformed(&e))?;
    }
    file.write(number, frames.bytes()).map_err(failed)?;
    let count = u32::try_from(frames.len()).unwrap_or(u32::MAX);
    file.publish(number + count - 1);
    let last = frames.get(frames.len() - 1).header.checksum;
    Ok(Own {
        origin: session.origin.clone(),
        salts: session.salts,
        order: session.order,
        frames: Arc::new(file),
        checksums: (first.unwrap_or(frames.get(0).header.checksum), last),
        pages: rules.size(),
    })
}

//! Pushes: what becomes of frames that a client sends.
//!
//! In this order, under the lock:
//! 1. The request must be frames in a row of one WAL.
//! 2. Frames at numbers that the log holds already are compared. Equal ones are a repeat after a lost
//!    answer or a crash and count as stored; the first that differs is a conflict. Equal frames under
//!    foreign salts are a repeat only if the client may have pulled them: two clients that made the
//!    same change on their own must not pass for one.
//! 3. What comes after must continue what the log holds ([`guard`](super::guard)) or what is kept
//!    aside of the same transaction ([`session`](super::session)). A gap is no conflict: the answer
//!    names the last frame that is there, and the client goes on from it.
//! 4. All whole transactions are appended as one segment, by one put. The rest is kept aside.
//! 5. If somebody else appended first, the request is compared anew with what is there now.
//! 6. Frames that have no place, because the client wrote on a state that the log has left, are
//!    merged into it ([`heal`](super::heal)), unless that is switched off: then they are a conflict.
//!
//! Nothing rests on this server being alone, or on what it remembers: a bad answer is given only after
//! a look at the end of the log that began after the request came.
//!
//! The answer names the generation in which the frames are numbered, also if it ended with them.

use std::sync::Arc;
use std::time::Instant;

use anabranch_format::{
    ChecksumOrder, DbChecksum, Pgno, Salts, SegmentEncoder, SegmentError, Transaction,
    TransactionError,
};
use anabranch_store::{
    AppendError, Appended, Head, NewSegment, Rollover, Spool, causes, crash_point,
};
use hyper::StatusCode;
use serde_json::{Value, json};

use super::engine::{Core, SchemaSeen, blocking, scratch, unavailable};
use super::frame::{Frame, Frames, Kept, PAGE_SIZE, READ_FRAMES};
use super::generation::Generation;
use super::guard::{self, Broken, Proof};
use super::heal::{self, Fork, Origin};
use super::session::{Baton, KEPT_BYTES_MAX, Session};
use crate::database::Database;
use crate::entropy;
use crate::error::ApiError;
use crate::page_map::{Change, PageMap};

/// How often a push is decided anew because somebody else appended meanwhile.
const ROUNDS_MAX: u32 = 16;
/// So many frames are looked through where the request is, in 0.1 ms: handing them to another thread
/// takes as long. Clients send 128.
const FRAMES_IN_PLACE: usize = 128;

/// A push request.
#[derive(Debug, Clone)]
pub(crate) struct Push {
    pub(crate) generation: u32,
    /// Number of the first frame.
    pub(crate) start: u32,
    pub(crate) frames: Frames,
    /// The session of this server that the client says it continues.
    pub(crate) session: Option<String>,
    /// Salts of a WAL, and the frame up to which a server has proven it, as the baton says.
    pub(crate) proven: Option<(Salts, u32)>,
}

impl Push {
    fn last(&self) -> u32 {
        // Checked when the request was read.
        self.start + self.frames_count() - 1
    }

    fn frames_count(&self) -> u32 {
        u32::try_from(self.frames.len()).unwrap_or(u32::MAX)
    }
}

/// What the client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) conflict: bool,
    pub(crate) generation: u32,
    pub(crate) max_frame_no: u32,
    pub(crate) baton: Option<String>,
}

impl Answer {
    fn ok(generation: u32, max_frame_no: u32) -> Self {
        Answer { conflict: false, generation, max_frame_no, baton: None }
    }

    pub(crate) fn to_json(&self) -> Value {
        let status = if self.conflict { "conflict" } else { "ok" };
        let mut json = json!({
            "status": status,
            "generation": self.generation,
            "max_frame_no": self.max_frame_no,
        });
        if let Some(baton) = &self.baton {
            json["baton"] = baton.as_str().into();
        }
        json
    }
}

/// Why a client's frames have no place in the log: a word for the metric, and what happened.
#[derive(Debug)]
struct Conflict {
    reason: &'static str,
    what: String,
}

/// What the unpushed rows of a client that is refused need.
const RECOVER: &str = "its unpushed rows are in its file: copy them out, delete the file, its -wal, \
    -shm and -info, and sync anew";

/// What was decided in one round.
enum Step {
    /// Accepted as it is.
    Done(Answer),
    /// Not all was accepted; said only after a fresh look at the log.
    Lower(Answer),
    Conflict(Conflict),
    /// To be appended.
    Append(Box<Pending>),
    /// To be merged, and appended then.
    Aside(Box<PendingAside>),
    /// To be decided anew.
    Again,
}

/// Frames that are not those of the log.
struct NotStored {
    /// The generation that the client names, if it is one; and how many frames of the request equal
    /// those in it.
    stored: Option<Arc<Generation>>,
    equal: usize,
    /// What is told if nothing can be done.
    conflict: Conflict,
}

/// Whole transactions on their way into the log.
struct Pending {
    /// The session whose frames come first.
    session: Option<Session>,
    /// Index in the request of the first new frame, and of the one after the last commit frame.
    from: usize,
    to: usize,
    order: ChecksumOrder,
}

/// Answers a push. Works on when the client goes away.
pub(crate) async fn push(db: &Arc<Database>, push: Push, now: Instant) -> Result<Answer, ApiError> {
    let db = Arc::clone(db);
    let task = tokio::spawn(async move {
        let order = check_row(&push).await?;
        let mut core = db.engine().core().await;
        Turn { db: &db, push: &push, row: order, now }.decide(&mut core).await
    });
    task.await.map_err(|_| ApiError::busy("the server is stopping, or met a bug"))?
}

async fn check_row(push: &Push) -> Result<Option<ChecksumOrder>, ApiError> {
    let frames = push.frames.clone();
    let row = if frames.len() <= FRAMES_IN_PLACE {
        guard::check_row(&frames)
    } else {
        blocking(move || guard::check_row(&frames)).await?
    };
    row.map_err(|broken| {
        let (what, index) = match broken {
            Broken::Salts(index) => ("has other salts than", index),
            Broken::Checksum(index) => ("does not continue the checksum of", index),
        };
        let number = u64::from(push.start) + index as u64;
        ApiError::bad_request(format!(
            "frame {number} {what} the frame before it: not a row of one WAL"
        ))
    })
}

/// One request at work.
struct Turn<'a> {
    db: &'a Arc<Database>,
    push: &'a Push,
    row: Option<ChecksumOrder>,
    now: Instant,
}

impl Turn<'_> {
    async fn decide(&self, core: &mut Core) -> Result<Answer, ApiError> {
        let mut known = self.db.known_head();
        for _ in 0..ROUNDS_MAX {
            // Among the pushes of all dialects to this server.
            let _turn = self.db.turn().await;
            let (head, fresh) = match known.take() {
                Some(head) => (head, false),
                None => (self.db.head().await.map_err(|e| unavailable(&e))?, true),
            };
            let current = self.db.engine().follow(self.db, core, &head, self.now).await?;
            match self.step(core, &current, &head).await? {
                Step::Done(answer) => return Ok(answer),
                Step::Lower(answer) if fresh => return Ok(answer),
                Step::Conflict(conflict) if fresh => return Ok(self.refuse(&current, &conflict)),
                Step::Lower(_) | Step::Conflict(_) | Step::Again => {}
                Step::Aside(pending) => match self.merge_aside(core, &head, *pending).await? {
                    Merged::Answer(answer) => return Ok(answer),
                    Merged::Conflict(conflict) if fresh => {
                        return Ok(self.refuse(&current, &conflict));
                    }
                    Merged::Conflict(_) | Merged::Again => {}
                },
                Step::Append(pending) => {
                    if let Some(answer) = self.append(core, &current, &head, *pending).await? {
                        return Ok(answer);
                    }
                }
            }
        }
        Err(ApiError::busy("others append to this database all the time"))
    }

    fn refuse(&self, current: &Generation, conflict: &Conflict) -> Answer {
        crate::metrics::libsql_refused(conflict.reason);
        tracing::warn!(
            database = %self.db.name(),
            generation = self.push.generation,
            first = self.push.start,
            last = self.push.last(),
            reason = conflict.reason,
            "a push was refused: {}; {RECOVER}",
            conflict.what
        );
        Answer {
            conflict: true,
            generation: current.span.number,
            max_frame_no: current.frames.last(),
            baton: None,
        }
    }

    async fn step(
        &self,
        core: &mut Core,
        current: &Arc<Generation>,
        head: &Head,
    ) -> Result<Step, ApiError> {
        let push = self.push;
        let last = current.frames.last();
        core.sessions.expire_idle(self.now, self.db.libsql().session_idle);
        if !self.heals() {
            core.sessions.expire_displaced(current.span.number, last);
        }
        let (salts, place) = (push.frames.get(0).header.salts, (current.span.number, last));
        let displaced =
            core.sessions.take_displaced(push.session.as_deref(), salts, push.start, place);
        if let Some(session) = displaced {
            return self.continue_aside(core, current, head, session).await;
        }
        if push.generation != current.span.number {
            return self.other_generation(core, current, head).await;
        }
        let held = self.held(last);
        if let Some((equal, conflict)) = self.compare(current, held).await? {
            let stored = Some(Arc::clone(current));
            return self.aside(core, current, head, NotStored { stored, equal, conflict }).await;
        }
        if held == push.frames.len() {
            return Ok(Step::Done(Answer::ok(push.generation, push.last())));
        }
        self.beyond(core, current, head, held).await
    }

    /// How many of the frames stand at numbers that exist up to `last`.
    fn held(&self, last: u32) -> usize {
        let held = u64::from(last).saturating_add(1).saturating_sub(u64::from(self.push.start));
        usize::try_from(held).unwrap_or(usize::MAX).min(self.push.frames.len())
    }

    /// Frames beyond those in the log: they follow what is kept aside, or the log.
    async fn beyond(
        &self,
        core: &mut Core,
        current: &Arc<Generation>,
        head: &Head,
        held: usize,
    ) -> Result<Step, ApiError> {
        let push = self.push;
        let salts = push.frames.get(0).header.salts;
        let last = current.frames.last();
        let start = push.start.max(last.saturating_add(1));
        let mut session = core.sessions.take(push.session.as_deref(), salts, start);
        if let Some(found) = session.take() {
            let repeated = found.next().saturating_sub(start) as usize;
            let repeated = repeated.min(push.frames.len() - held);
            if start > found.next() {
                let mut answer = Answer::ok(push.generation, found.next() - 1);
                answer.baton = Some(self.baton(&found));
                core.sessions.put(found);
                return Ok(Step::Lower(answer));
            }
            let Some(mut found) = self.repeats(found, start, held, repeated).await? else {
                // It kept something else: the client starts its transaction over.
                return Ok(Step::Lower(Answer::ok(push.generation, last)));
            };
            found.used = self.now;
            let from = held + repeated;
            if from == push.frames.len() {
                let mut answer = Answer::ok(push.generation, push.last());
                answer.baton = Some(self.baton(&found));
                core.sessions.put(found);
                return Ok(Step::Done(answer));
            }
            let order = found.order;
            if !guard::continues(order, found.checksum, &push.frames.get(from)) {
                let what = "it does not continue the checksum of the part of the transaction that came \
                            before";
                return Ok(Step::Conflict(Conflict { reason: "chain", what: what.to_owned() }));
            }
            return self.take(core, current, Some(found), from, order).await;
        }
        if start > last.saturating_add(1) {
            return Ok(Step::Lower(Answer::ok(push.generation, last)));
        }
        match self.prove(core, current, held).await? {
            Proven::Yes(order) => self.take(core, current, None, held, order).await,
            Proven::UpTo(frame) => Ok(Step::Lower(Answer::ok(push.generation, frame))),
            Proven::No => {
                let (stored, conflict) = (Some(Arc::clone(current)), not_ours(start));
                let why = NotStored { stored, equal: held, conflict };
                self.aside(core, current, head, why).await
            }
        }
    }

    /// Whether the first `repeated` new frames are those that `session` keeps at their place; gives
    /// the session back if so.
    async fn repeats(
        &self,
        session: Session,
        start: u32,
        held: usize,
        repeated: usize,
    ) -> Result<Option<Session>, ApiError> {
        if repeated == 0 {
            return Ok(Some(session));
        }
        let frames = self.push.frames.part(held, held + repeated);
        let compared = blocking(move || {
            let from = start - session.start;
            let to = from + u32::try_from(frames.len()).map_err(std::io::Error::other)?;
            let kept = session.kept.read(from, to)?;
            let same = kept.iter().zip(frames.iter()).all(|(kept, frame)| {
                kept.says(&frame) && kept.header.checksum == frame.header.checksum
            });
            Ok(same.then_some(session))
        });
        compared.await?.map_err(|e: std::io::Error| scratch(&e))
    }

    /// Whether the frame with index `held`, the first that the log does not have, continues it.
    async fn prove(
        &self,
        core: &Core,
        current: &Arc<Generation>,
        held: usize,
    ) -> Result<Proven, ApiError> {
        let first = self.push.frames.get(held).header;
        let number = current.frames.last().saturating_add(1);
        let known = core.proofs.get(first.salts);
        let (frames, row, generation) = (self.push.frames.clone(), self.row, Arc::clone(current));
        if current.frames.skipped() > 0 && known.is_none() {
            // The frames to run back through are gone.
            return Ok(Proven::No);
        }
        if let Some(proof) = known.filter(|proof| proof.frame == number - 1)
            && guard::continues(proof.order, proof.checksum, &frames.get(held))
        {
            return Ok(Proven::Yes(proof.order));
        }
        let proven = blocking(move || {
            let frame = frames.get(held);
            let Some(proof) = known else {
                let order = guard::prove(row, &frame, number, &generation.frames)?;
                return Ok(order.map_or(Proven::No, Proven::Yes));
            };
            if guard::continue_from(proof, &frame, number, &generation.frames)? {
                return Ok(Proven::Yes(proof.order));
            }
            // This WAL held our frames once: others stand where its next ones stood.
            let behind = proof.frame < number - 1;
            Ok(if behind { Proven::UpTo(proof.frame) } else { Proven::No })
        });
        proven.await?.map_err(|e: std::io::Error| scratch(&e))
    }

    /// New frames from index `from` on, which have their place: what to do with them.
    async fn take(
        &self,
        core: &mut Core,
        current: &Arc<Generation>,
        session: Option<Session>,
        from: usize,
        order: ChecksumOrder,
    ) -> Result<Step, ApiError> {
        let frames = &self.push.frames;
        let commit = (from..frames.len()).rev().find(|i| frames.get(*i).header.is_commit());
        if let Some(commit) = commit {
            return Ok(Step::Append(Box::new(Pending { session, from, to: commit + 1, order })));
        }
        let session = match session {
            Some(session) => session,
            None => self.new_session(current, from, order, core.size),
        };
        let mut answer = Answer::ok(self.push.generation, self.push.last());
        answer.baton = Some(self.baton(&session));
        let session = self.keep(core, session, from).await?;
        core.sessions.put(session);
        Ok(Step::Done(answer))
    }

    fn new_session(
        &self,
        current: &Generation,
        from: usize,
        order: ChecksumOrder,
        size: u32,
    ) -> Session {
        let before = self.push.start + u32::try_from(from).unwrap_or(u32::MAX) - 1;
        let fork = Fork {
            generation: current.span.number,
            frame: before,
            lsn: current.span.lsn(before),
            pages: size,
        };
        self.session(Origin::Fork(fork), self.push.frames.get(from).header.salts, order)
    }

    /// Keeps the frames from index `from` on aside.
    async fn keep(
        &self,
        core: &Core,
        mut session: Session,
        from: usize,
    ) -> Result<Session, ApiError> {
        let frames = self.push.frames.part(from, self.push.frames.len());
        let kept = core.sessions.bytes() + session.kept.bytes() + frames.bytes().len() as u64;
        if kept > KEPT_BYTES_MAX {
            return Err(too_long());
        }
        for frame in frames.iter() {
            session.rules.frame(frame.pgno(), 0).map_err(|e| malformed(&e))?;
        }
        self.note_proof(core, &mut session, &frames).await?;
        session.checksum = frames.get(frames.len() - 1).header.checksum;
        let scratch_dir = self.db.libsql().scratch.clone();
        let kept = blocking(move || session.kept.add(&frames, &scratch_dir).map(|()| session));
        let kept = kept.await?.map_err(|e| scratch(&e))?;
        crash_point!("frames::kept-aside");
        Ok(kept)
    }

    /// Tells the store where the WAL of `session` left the log, unless frames in the log tell. Before
    /// `frames`, the next of it, are acknowledged.
    async fn note_proof(
        &self,
        core: &Core,
        session: &mut Session,
        frames: &Frames,
    ) -> Result<(), ApiError> {
        let Origin::Fork(fork) = &session.origin else { return Ok(()) };
        let known = core.proofs.get(session.salts).filter(|proof| proof.frame == fork.frame);
        let current = core.current.as_ref().filter(|_| self.heals());
        let Some(current) = current.filter(|_| !session.noted && known.is_none()) else {
            return Ok(());
        };
        let first = match session.kept.frames() {
            0 => frames.get(0).header.checksum,
            _ => {
                let kept = session.kept.read(0, 1).map_err(|e| scratch(&e))?;
                kept.get(0).header.checksum
            }
        };
        heal::note(self.db, (session.salts, first), fork, current.at()).await?;
        session.noted = true;
        Ok(())
    }

    fn baton(&self, session: &Session) -> String {
        let settings = self.db.libsql();
        Baton::encode(&settings.server, session, settings.advertise.as_deref())
    }
}

/// What running back, or on, from a frame has shown.
enum Proven {
    Yes(ChecksumOrder),
    /// The WAL held our frames once, up to this one; what comes after are not ours.
    UpTo(u32),
    No,
}

fn not_ours(number: u32) -> Conflict {
    let what = format!(
        "frame {number} does not continue the frames of this database. Most likely a stock SQLite (a \
         shell, a backup tool, another driver) opened and closed the client's file, which empties its \
         WAL; or the file belongs to another database"
    );
    Conflict { reason: "chain", what }
}

fn malformed(e: &TransactionError) -> ApiError {
    crate::metrics::libsql_refused("malformed");
    ApiError::bad_request(format!("not a transaction of SQLite: {e}"))
}

fn too_long() -> ApiError {
    let text = format!("transactions of more than {KEPT_BYTES_MAX} bytes in all are under way");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", text)
}

mod appending;
mod aside;
mod fork;
mod stored;

use appending::each_part;
use aside::{Merged, PendingAside};

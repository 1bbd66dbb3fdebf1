//! The part of a push that goes into the log.

use super::{
    Answer, ApiError, AppendError, Appended, Arc, Change, Core, DbChecksum, Frame, Frames,
    Generation, Head, Kept, NewSegment, PAGE_SIZE, PageMap, Pending, Pgno, Proof, READ_FRAMES,
    Rollover, SchemaSeen, SegmentEncoder, SegmentError, Session, Spool, StatusCode, Transaction,
    Turn, blocking, causes, crash_point, entropy, malformed, scratch,
};

/// Whole transactions, packed.
struct Packed {
    map: PageMap,
    session: Option<Session>,
    outcome: Result<Content, SegmentError>,
    /// Number of the last of their frames, if all lie in the generation's file, unpublished.
    laid: std::io::Result<u32>,
}

/// Lays frames down where nobody looks before they are published.
struct Laying<'a> {
    generation: &'a Generation,
    /// Number of the last frame that was laid down.
    last: std::io::Result<u32>,
}

impl<'a> Laying<'a> {
    fn after_published(generation: &'a Generation) -> Self {
        Laying { generation, last: Ok(generation.frames.last()) }
    }

    /// The next frames. After an error nothing more is laid down.
    fn add(&mut self, frames: &Frames) {
        if let Ok(last) = self.last {
            let count = u32::try_from(frames.len()).map_err(std::io::Error::other);
            let write = |count| {
                self.generation.frames.write(last + 1, frames.bytes()).map(|()| last + count)
            };
            self.last = count.and_then(write);
        }
    }
}

struct Content {
    body: Spool,
    frames: u64,
    transactions: u64,
    size_after: u32,
    sum_before: DbChecksum,
    sum_after: DbChecksum,
    change: Change,
    /// The pages of the part of a transaction that follows.
    rest: Transaction,
    schema: SchemaSeen,
    /// The tables changed under a cookie that did not rise.
    stale_cookie: bool,
}

impl Turn<'_> {
    /// Appends the whole transactions of `pending`. `None`: somebody else was first.
    pub(super) async fn append(
        &self,
        core: &mut Core,
        current: &Arc<Generation>,
        head: &Head,
        pending: Pending,
    ) -> Result<Option<Answer>, ApiError> {
        let Pending { session, from, to, order } = pending;
        let engine = self.db.engine();
        let map = engine.take_map(self.db, head).await?;
        let packed = self.pack(map, session, (from, to), head, (current, core.schema)).await?;
        let Packed { map, session, outcome, laid } = packed;
        let content = match outcome {
            Ok(content) => content,
            Err(e) => {
                engine.put_map(self.db, map);
                return Err(match e {
                    SegmentError::Transaction(e) => malformed(&e),
                    SegmentError::Io(e) => scratch(&e),
                    e => ApiError::busy(causes(&e)),
                });
            }
        };
        let done = to == self.push.frames.len();
        let rollover =
            if done && core.sessions.is_empty() { Rollover::WhenDue } else { Rollover::Never };
        let Content { body, change, rest, schema, stale_cookie, .. } = content;
        let new = NewSegment {
            push: entropy::push_id(),
            writer: self.db.libsql().writer.clone(),
            now: entropy::now(),
            page_size: PAGE_SIZE,
            pages: (head.newest.as_ref().map_or(0, |newest| newest.pages.1), content.size_after),
            sum: (content.sum_before, content.sum_after),
            frames: content.frames,
            transactions: Some(content.transactions),
            rollover,
            body,
        };
        crash_point!("frames::before-append");
        let won = match self.db.append(head, new, "libsql").await {
            Ok(Appended::Won(metadata)) => metadata,
            Ok(Appended::Lost(_))
            | Err(AppendError::NotAtHead { .. } | AppendError::BelowFloor { .. }) => {
                engine.put_map(self.db, map);
                if let Some(session) = session.filter(|_| self.heals()) {
                    core.sessions.put(session);
                }
                return Ok(None);
            }
            Err(e) => {
                engine.put_map(self.db, map);
                if let Some(session) = session {
                    core.sessions.put(session);
                }
                return Err(not_appended(&e));
            }
        };
        crash_point!("frames::after-append");
        let mut map = map;
        map.apply(won.lsn.1, &change);
        engine.put_map(self.db, map);
        core.size = content.size_after;
        core.schema = schema;
        if stale_cookie {
            tracing::warn!(
                database = %self.db.name(), lsn = %won.lsn.1,
                "a push changed the schema without raising the schema cookie: connections of other \
                 clients may go on with the schema they know"
            );
        }
        let last = self.push.frames.get(to - 1).header;
        let frame = self.push.start + u32::try_from(to - 1).unwrap_or(u32::MAX);
        core.proofs.insert(last.salts, Proof { order, frame, checksum: last.checksum });
        self.publish(core, current, laid);
        let mut answer = Answer::ok(self.push.generation, self.push.last());
        if !done {
            let mut session = self.new_session(current, to, order, content.size_after);
            session.rules = rest;
            answer.baton = Some(self.baton(&session));
            let session = self.keep_checked(core, session, to).await?;
            core.sessions.put(session);
        }
        Ok(Some(answer))
    }

    async fn pack(
        &self,
        map: PageMap,
        session: Option<Session>,
        (from, to): (usize, usize),
        head: &Head,
        (current, schema): (&Arc<Generation>, SchemaSeen),
    ) -> Result<Packed, ApiError> {
        let frames = self.push.frames.part(from, to);
        let rest = self.push.frames.part(to, self.push.frames.len());
        let size = head.newest.as_ref().map_or(0, |newest| newest.pages.1);
        let spool = Spool::new(&self.db.libsql().scratch);
        let generation = Arc::clone(current);
        blocking(move || {
            let kept = session.as_ref().map(|session| &session.kept);
            let mut laying = Laying::after_published(&generation);
            let new = Whole { kept, frames: &frames, rest: &rest };
            let outcome = pack(&map, &new, size, spool, schema, &mut laying);
            Packed { map, session, outcome, laid: laying.last }
        })
        .await
    }

    /// Makes the frames that were appended servable. If that fails they are read from the log again.
    fn publish(&self, core: &mut Core, current: &Generation, laid: std::io::Result<u32>) {
        match laid {
            Ok(last) => current.frames.publish(last),
            Err(error) => {
                tracing::warn!(database = %self.db.name(), %error, "laying frames down failed; the log has them");
                core.current = None;
            }
        }
    }

    /// Keeps frames aside whose place in their transaction was checked.
    async fn keep_checked(
        &self,
        core: &Core,
        mut session: Session,
        from: usize,
    ) -> Result<Session, ApiError> {
        let rules = std::mem::replace(&mut session.rules, Transaction::new(PAGE_SIZE, 0));
        let mut session = self.keep(core, session, from).await?;
        session.rules = rules;
        Ok(session)
    }
}

/// What a client is told when it is not certain that its frames are in the log, or certain that they
/// are not: it repeats them, and what is there then decides.
fn not_appended(e: &AppendError) -> ApiError {
    let message = causes(e);
    tracing::warn!(error = %message, "an append failed");
    match e {
        AppendError::Invalid(_) => ApiError::new(StatusCode::BAD_REQUEST, "bad-request", message),
        _ => ApiError::busy(message),
    }
}

pub(super) fn each_part<E: From<std::io::Error>>(
    kept: &Kept,
    mut part: impl FnMut(&Frames) -> Result<(), E>,
) -> Result<(), E> {
    let mut from = 0;
    while from < kept.frames() {
        let to = kept.frames().min(from + READ_FRAMES);
        part(&kept.read(from, to)?)?;
        from = to;
    }
    Ok(())
}

/// Whole transactions, and the start of the one that follows.
struct Whole<'a> {
    /// Frames that came in earlier requests.
    kept: Option<&'a Kept>,
    frames: &'a Frames,
    rest: &'a Frames,
}

fn pack(
    map: &PageMap,
    new: &Whole<'_>,
    size: u32,
    spool: Spool,
    mut schema: SchemaSeen,
    laying: &mut Laying<'_>,
) -> Result<Content, SegmentError> {
    let salts = new.frames.get(0).header.salts;
    let mut encoder = SegmentEncoder::new(spool, PAGE_SIZE, size, salts)?;
    let mut change = Change::default();
    let mut stale_cookie = false;
    let mut add = |frame: &Frame<'_>| {
        let commit_size = frame.header.commit_size;
        encoder.frame(frame.pgno(), commit_size, frame.page())?;
        change.frame(frame.pgno(), commit_size, frame.page());
        if frame.pgno() == Pgno::ONE {
            stale_cookie |= schema.page_one(frame.page());
        }
        Ok::<(), SegmentError>(())
    };
    if let Some(kept) = new.kept {
        each_part(kept, |part| {
            laying.add(part);
            part.iter().try_for_each(|frame| add(&frame))
        })?;
    }
    laying.add(new.frames);
    new.frames.iter().try_for_each(|frame| add(&frame))?;
    let encoded = encoder.finish()?;
    let mut rules = Transaction::new(PAGE_SIZE, encoded.size_after);
    new.rest.iter().try_for_each(|frame| rules.frame(frame.pgno(), 0))?;
    Ok(Content {
        body: encoded.sink,
        frames: encoded.frames,
        transactions: encoded.transactions,
        size_after: encoded.size_after,
        sum_before: map.sum(),
        sum_after: map.sum_after(&change),
        change,
        rest: rules,
        schema,
        stale_cookie,
    })
}

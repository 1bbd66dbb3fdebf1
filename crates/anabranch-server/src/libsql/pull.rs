//! Pulls: frames by number, the end of a generation, and the way on for who is too far behind.
//!
//! What is told:
//! 1. Frames that are at hand are served; they never change.
//! 2. That a generation ends, or has no more frames yet, is told only after a look at the end of the
//!    log that began after the request came.
//! 3. A client at a position that the log does not keep any more is told the current generation and
//!    walks there, number by number, without frames. The number right before the oldest generation
//!    that is kept whole was never used: there it finds a bridge.
//! 4. Whoever walks arrives before frame 1 of a generation, with whatever state it had. So frame 1 is
//!    served only of generations that are kept whole, to which every way leads over the bridge, and
//!    only after a look at what is kept.
//! 5. In a number that is a generation of one client alone, whose frames were merged, that client gets
//!    its own frames and the way on; nobody else stands at a frame there.
//! 6. In the middle of a transaction a client gets its frames, or 503, but never the end of a
//!    generation, which its library does not survive.

use std::sync::Arc;
use std::time::Instant;

use anabranch_format::{Healed, Lsn};
use anabranch_store::Head;
use bytes::Bytes;

use super::engine::{Core, blocking, check_page_size, scratch, unavailable};
use super::export::Export;
use super::frame::FrameFile;
use super::generation::{FIRST, Generation, Span};
use super::heal::{self, Gap};
use super::rollover;
use crate::database::Database;
use crate::error::ApiError;

/// No answer has more frames: 4 MiB. Clients ask for 128.
const FRAMES_PER_ANSWER_MAX: u32 = 1024;

/// A pull request: frames from `start`, without `end`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) generation: u32,
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Wanted {
    /// The last frame of an answer if there are frames up to `last`; `None` if there are none.
    fn last(&self, last: u32) -> Option<u32> {
        let wanted =
            self.end.saturating_sub(1).min(self.start.saturating_add(FRAMES_PER_ANSWER_MAX - 1));
        (self.start <= last).then(|| wanted.min(last))
    }
}

/// What the client is told.
#[derive(Debug, Clone)]
pub(crate) enum Pulled {
    Frames(Bytes),
    /// There is no frame at `start`.
    End {
        generation: u32,
        max_frame_no: u32,
    },
}

/// Answers a pull.
pub(crate) async fn pull(
    db: &Arc<Database>,
    wanted: Wanted,
    now: Instant,
) -> Result<Pulled, ApiError> {
    if wanted.start > 1
        && let Some(shown) = db.engine().shown().filter(|g| g.span.number == wanted.generation)
        && let Some(frames) = serve(db, &shown, wanted, now).await?
    {
        return Ok(Pulled::Frames(frames));
    }
    let looking = Arc::clone(db);
    let found = tokio::spawn(async move { find(&looking, wanted, now).await });
    match found.await.map_err(|_| ApiError::busy("the server is stopping, or met a bug"))?? {
        Found::End { generation, max_frame_no } => Ok(Pulled::End { generation, max_frame_no }),
        Found::Generation { generation, current } => {
            match serve(db, &generation, wanted, now).await? {
                Some(frames) => Ok(Pulled::Frames(frames)),
                None => Ok(current),
            }
        }
        Found::Bridge { export, current } => bridge(&export, wanted, current).await,
        Found::Ready(frames) => Ok(Pulled::Frames(frames)),
        Found::Own { frames, current } => own(frames, wanted, current).await,
    }
}

async fn own(frames: Arc<FrameFile>, wanted: Wanted, current: Pulled) -> Result<Pulled, ApiError> {
    let Some(last) = wanted.last(frames.last()).filter(|_| wanted.start > frames.skipped()) else {
        return Ok(current);
    };
    let read = blocking(move || frames.read(wanted.start, last)).await?;
    Ok(Pulled::Frames(read.map_err(|e| scratch(&e))?.bytes().clone()))
}

/// Where the frames are, if there are any; and what to say if there are none.
enum Found {
    Generation {
        generation: Arc<Generation>,
        current: Pulled,
    },
    Bridge {
        export: Arc<Export>,
        current: Pulled,
    },
    Ready(Bytes),
    /// Frames of a client that was merged, for itself.
    Own {
        frames: Arc<FrameFile>,
        current: Pulled,
    },
    End {
        generation: u32,
        max_frame_no: u32,
    },
}

/// The frames of `generation` that are wanted; `None` if it does not have (them any more).
async fn serve(
    db: &Arc<Database>,
    generation: &Arc<Generation>,
    wanted: Wanted,
    now: Instant,
) -> Result<Option<Bytes>, ApiError> {
    let frames = &generation.frames;
    let Some(last) = wanted.last(frames.last()).filter(|_| wanted.start > frames.skipped()) else {
        return Ok(None);
    };
    db.engine().serving(db, generation.span.lsn(last), now).await?;
    let generation = Arc::clone(generation);
    let read = blocking(move || generation.frames.read(wanted.start, last)).await?;
    Ok(Some(read.map_err(|e| scratch(&e))?.bytes().clone()))
}

async fn bridge(export: &Export, wanted: Wanted, current: Pulled) -> Result<Pulled, ApiError> {
    match wanted.last(export.bridge_frames()) {
        Some(last) => {
            let frames = export.bridge(wanted.start, last).await;
            Ok(Pulled::Frames(frames.map_err(|e| scratch(&e))?))
        }
        None => Ok(current),
    }
}

async fn find(db: &Arc<Database>, wanted: Wanted, now: Instant) -> Result<Found, ApiError> {
    let head = db.head().await.map_err(|e| unavailable(&e))?;
    let mut core = db.engine().core().await;
    // Others may have moved on while this one waited.
    let mut head = newest(db, head);
    let mut current = db.engine().follow(db, &mut core, &head, now).await?;
    let number = wanted.generation;
    if number > current.span.number {
        let (generation, max_frame_no) = (current.span.number, current.frames.last());
        return Ok(Found::End { generation, max_frame_no });
    }
    if number < current.span.number || wanted.start == 1 {
        head = with_floor(db, &head).await?;
        core.floor.seen(head.floor, now);
    }
    let serves = |span: Span, floor: Lsn| {
        let at = if wanted.start == 1 { span.base() } else { span.lsn(wanted.start - 1) };
        at >= floor
    };
    let at_hand = match core.older_at_hand(number) {
        None if number == current.span.number => Some(Arc::clone(&current)),
        older => older,
    };
    if let Some(generation) = at_hand
        && wanted.start > generation.frames.skipped()
        && (wanted.start > 1 || serves(generation.span, head.floor))
    {
        return Ok(Found::Generation { generation, current: end(&current) });
    }
    if head.floor > current.span.base() {
        // The base of the current generation is gone: whoever is behind would find no way.
        if core.sessions.is_pushed_to(current.span.number, now, db.libsql().session_idle) {
            return Err(ApiError::busy("a push is under way that a new generation would strand"));
        }
        head = rollover::append(db, &mut core, &head, now).await?;
        current = db.engine().follow(db, &mut core, &head, now).await?;
    }
    if wanted.start > 1 && number < current.span.number {
        let gap = core.gap(db.log(), current.span, head.floor, number).await;
        if let Some(gap) = gap.map_err(|e| unavailable(&e))?
            && let Some(owner) = &gap.owner
        {
            return owned(db, &mut core, &current, &gap, owner, wanted).await;
        }
    }
    let found = core.past.find(db.log(), current.span, head.floor, number).await;
    if let Some((span, last)) = found.map_err(|e| unavailable(&e))?
        && serves(span, head.floor)
    {
        let generation = db.engine().older(db, &mut core, (span, last), head.floor).await?;
        return Ok(Found::Generation { generation, current: end(&current) });
    }
    if let Some(lineage) = core.healing.of_number(number) {
        // Its owner need not go over the passage any more: it will meet the bridge.
        let passage = lineage.passage.as_ref();
        if let Some(passage) = passage.filter(|p| (lineage.end + 1..=p.end).contains(&wanted.start))
        {
            let frames = Arc::clone(&passage.frames);
            return Ok(Found::Own { frames, current: end(&current) });
        }
        if wanted.start == lineage.end + 1 || passage.is_some_and(|p| wanted.start == p.end + 1) {
            let (generation, max_frame_no) = (current.span.number, current.frames.last());
            return Ok(Found::End { generation, max_frame_no });
        }
    }
    expired(db, &mut core, &current, &head, wanted, now).await
}

/// The generation is that of one client alone, who asks.
async fn owned(
    db: &Arc<Database>,
    core: &mut Core,
    current: &Generation,
    gap: &Gap,
    owner: &Healed,
    wanted: Wanted,
) -> Result<Found, ApiError> {
    let told = end(current);
    if let Some(lineage) = heal::of_number(db, core, &owner.lineage).await? {
        return Ok(match heal::pull(db, core, lineage, wanted.start).await? {
            Some(frames) => Found::Own { frames, current: told },
            None => {
                let (generation, max_frame_no) = (current.span.number, current.frames.last());
                Found::End { generation, max_frame_no }
            }
        });
    }
    // Nothing is kept of the client any more: it is led on from whatever state it has.
    let last = heal::last_merged(db, owner, gap.next.base(), current.at()).await?;
    let export = db.engine().exports().get(db.log(), gap.next, &db.libsql().scratch).await?;
    let image = wanted.start.checked_sub(last).filter(|start| *start > 0);
    let Some(start) = image else {
        return Err(ApiError::busy("these frames were dropped by the administrator"));
    };
    let wanted = Wanted { start, end: wanted.end.saturating_sub(last), ..wanted };
    match bridge(&export, wanted, told).await? {
        Pulled::Frames(frames) => Ok(Found::Ready(frames)),
        Pulled::End { generation, max_frame_no } => Ok(Found::End { generation, max_frame_no }),
    }
}

/// `head` with the floor as it is now.
async fn with_floor(db: &Database, head: &Head) -> Result<Arc<Head>, ApiError> {
    let floor = db.log().floor().await.map_err(|e| unavailable(&e))?;
    Ok(Arc::new(Head { floor: floor.max(head.floor), ..head.clone() }))
}

/// The position is not kept any more.
async fn expired(
    db: &Arc<Database>,
    core: &mut Core,
    current: &Generation,
    head: &Head,
    wanted: Wanted,
    now: Instant,
) -> Result<Found, ApiError> {
    let log = db.log();
    let oldest = core.past.oldest_kept(log, current.span, head.floor).await;
    let oldest = oldest.map_err(|e| unavailable(&e))?;
    let behind = wanted.generation.checked_add(1);
    if behind == Some(oldest.number) && oldest.number > FIRST {
        let scratch_dir = &db.libsql().scratch;
        let export = db.engine().exports().get(log, oldest, scratch_dir).await?;
        return Ok(Found::Bridge { export, current: end(current) });
    }
    // A bridge that is one no more, still being crossed.
    if wanted.start > 1
        && let Some(number) = behind
        && let Some((span, export)) = db.engine().exports().at_hand(number).await
        && span.number == number
    {
        return Ok(Found::Bridge { export, current: end(current) });
    }
    if wanted.start > 1 && core.floor.is_fresh(now, db.libsql().session_idle) {
        return Err(ApiError::busy(
            "these frames went away just now; if you are in the middle of a transaction, pull again",
        ));
    }
    let (generation, max_frame_no) = (current.span.number, current.frames.last());
    Ok(Found::End { generation, max_frame_no })
}

fn end(current: &Generation) -> Pulled {
    Pulled::End { generation: current.span.number, max_frame_no: current.frames.last() }
}

fn newest(db: &Database, head: Arc<Head>) -> Arc<Head> {
    db.known_head().filter(|known| known.lsn() > head.lsn()).unwrap_or(head)
}

/// The number of the current generation.
pub(crate) async fn current(db: &Arc<Database>, now: Instant) -> Result<u32, ApiError> {
    let head = db.head().await.map_err(|e| unavailable(&e))?;
    check_page_size(&head)?;
    let head = with_floor(db, &head).await?;
    let span = Span::current(&head);
    if head.floor <= span.base() {
        return Ok(span.number);
    }
    // Its base is gone, so nobody could begin with it.
    let db = Arc::clone(db);
    let task = tokio::spawn(async move {
        let mut core = db.engine().core().await;
        let head = newest(&db, head);
        let head = rollover::append(&db, &mut core, &head, now).await?;
        Ok(Span::current(&head).number)
    });
    task.await.map_err(|_| ApiError::busy("the server is stopping, or met a bug"))?
}

/// The base of a generation; `None`: that of the empty database.
pub(crate) async fn base(db: &Arc<Database>, number: u32) -> Result<Option<Arc<Export>>, ApiError> {
    let head = db.head().await.map_err(|e| unavailable(&e))?;
    check_page_size(&head)?;
    let head = with_floor(db, &head).await?;
    let mut span = Span::current(&head);
    if number != span.number {
        let mut core = db.engine().core().await;
        let found = core.past.find(db.log(), span, head.floor, number).await;
        let found = found.map_err(|e| unavailable(&e))?;
        span = found.map(|(span, _)| span).ok_or_else(|| no_base(number))?;
    }
    if span.base() == Lsn::ZERO {
        return Ok(None);
    }
    if span.base() < head.floor {
        return Err(no_base(number));
    }
    db.engine().exports().get(db.log(), span, &db.libsql().scratch).await.map(Some)
}

fn no_base(number: u32) -> ApiError {
    ApiError::new(
        hyper::StatusCode::NOT_FOUND,
        "no-generation",
        format!("the log keeps no generation {number}; ask for the current one again"),
    )
}

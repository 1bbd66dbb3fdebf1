//! Walking along a server's frames to their end, through all generations.
//!
//! The base of generation g + 1 is the state at the end of generation g, so crossing from one to the
//! next changes nothing. A server that does not keep a generation any more leads over it in some way
//! of its own; its answers are followed as they come. Requests go out one after another: the server
//! may send fewer frames than were asked for, and only it knows where they end.

use std::path::Path;
use std::sync::Arc;

use anabranch_store::Counter;

use super::error::LibsqlError;
use super::inbox::Inbox;
use super::pages::Export;
use super::spot::Spot;
use super::wire::{Pulled, Wire, off_thread};
use super::{BATCH_FRAMES, FRAME_BYTES};

/// A server that always names a newer generation must not keep us for ever.
const GENERATIONS_MAX: u32 = 10_000;

/// What lies between two states.
#[derive(Debug)]
pub(super) struct Walk {
    /// Where it began.
    pub(super) from: Spot,
    /// The image there, if it begins with a whole database.
    pub(super) base: Option<Export>,
    /// What came.
    pub(super) inbox: Inbox,
    /// The same state as [`Walk::to`], in the server's newest generation: the next frame goes after it.
    pub(super) end: Spot,
    /// The server's newest frame, where it said so at the end.
    pub(super) newest: Option<u32>,
    /// Requests that brought something, and their bytes.
    pub(super) requests: u64,
    pub(super) bytes: u64,
    /// The server still had the frame at `from`, as it is known here.
    pub(super) past_checked: bool,
}

impl Walk {
    /// Where it leads: the end of the last whole transaction.
    pub(super) fn to(&self) -> Spot {
        self.inbox.newest().map_or(self.from, |newest| newest.last)
    }

    /// Whether it begins with nothing and leads to nothing.
    pub(super) fn is_empty_database(&self) -> bool {
        self.inbox.newest().is_none() && self.base.as_ref().is_some_and(|base| base.is_empty)
    }
}

/// Where to walk, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Route<'a> {
    pub(super) from: Spot,
    /// Stop there, which must be the end of a transaction; without it at the end.
    pub(super) until: Option<Spot>,
    /// Temporary files go here.
    pub(super) folder: &'a Path,
}

/// Walks along `route`, on top of `base` if that is given.
pub(super) async fn walk(
    wire: &Arc<Wire>,
    route: &Route<'_>,
    base: Option<Export>,
    counter: &Counter,
) -> Result<Walk, LibsqlError> {
    let size = base.as_ref().map(|base| base.pages);
    let mut inbox = Inbox::new(route.folder, size);
    let mut reached = route.from;
    let (mut requests, mut bytes, mut newest, mut generations) = (0, 0, None, 0);
    while route.until != Some(reached) || inbox.open_frames() > 0 {
        let first = reached.after(1).ok_or(LibsqlError::Exhausted(reached))?;
        match wire.pull(first, count(reached, route.until)?).await? {
            Pulled::Frames(frames) => {
                requests += 1;
                bytes += frames.len() as u64;
                counter.add(frames.len() as u64);
                reached = after(reached, frames.len())?;
                inbox = off_thread(move || {
                    inbox.take(first, &frames)?;
                    Ok(inbox)
                })
                .await?;
            }
            Pulled::End { generation, newest: stated } => {
                newest = stated;
                match next_generation(reached, generation, inbox.open_frames())? {
                    Some(next) => reached = next,
                    None => break,
                }
                generations += 1;
                if generations > GENERATIONS_MAX {
                    return Err(LibsqlError::TooManyGenerations(generations));
                }
            }
        }
    }
    // What nobody finished does not count; the next frame would go where it begins.
    let open = u32::try_from(inbox.open_frames()).unwrap_or(u32::MAX);
    let end = Spot { frame: reached.frame.saturating_sub(open), ..reached };
    let walk =
        Walk { from: route.from, base, inbox, end, newest, requests, bytes, past_checked: false };
    match route.until {
        Some(until) if walk.to() != until => Err(LibsqlError::NoState(until)),
        _ => Ok(walk),
    }
}

/// The end of `bytes` of frames after `reached`.
pub(super) fn after(reached: Spot, bytes: usize) -> Result<Spot, LibsqlError> {
    let count = u32::try_from(bytes / FRAME_BYTES).ok();
    count.and_then(|count| reached.after(count)).ok_or(LibsqlError::Exhausted(reached))
}

/// How many frames to ask for after `reached`: none beyond `until`.
fn count(reached: Spot, until: Option<Spot>) -> Result<u32, LibsqlError> {
    let Some(until) = until else { return Ok(BATCH_FRAMES) };
    if reached >= until {
        return Err(LibsqlError::NoState(until));
    }
    if reached.generation < until.generation {
        return Ok(BATCH_FRAMES);
    }
    Ok((until.frame - reached.frame).min(BATCH_FRAMES))
}

/// Where frames go on, if the server, at `generation`, has none after `reached`; `None` if they do
/// not.
pub(super) fn next_generation(
    reached: Spot,
    generation: u32,
    open_frames: u64,
) -> Result<Option<Spot>, LibsqlError> {
    let Spot { generation: known, frame } = reached;
    if generation < known {
        return Err(LibsqlError::OlderGeneration { known, found: generation });
    }
    if generation == known {
        return Ok(None);
    }
    if open_frames > 0 {
        return Err(LibsqlError::CutTransaction { generation: known, frame });
    }
    Ok(known.checked_add(1).map(Spot::base))
}

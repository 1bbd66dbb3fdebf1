//! Sending a push, and finding out what stands in its place where the answer alone does not tell.
//!
//! Killed at any point, the server has nothing of it, a part that it keeps aside (or, if it is careless,
//! shows), or all of it: what stands there tells, by content, now or at the next sync.

use std::sync::Arc;

use anabranch_format::FRAME_HEADER_BYTES;
use anabranch_store::Counter;

use super::error::LibsqlError;
use super::outbox::Outbox;
use super::push::{Part, PushSession, Step};
use super::spot::Spot;
use super::walk::{after, next_generation};
use super::wire::{Batch, Pulled, PushAnswer, Wire, off_thread};
use super::{BATCH_FRAMES, FRAME_BYTES};
use crate::crash::crash_point;

/// How often one push finds that the server's generation moved on, and begins anew there.
const MOVES_MAX: u32 = 4;
/// How often one push looks at what stands in its place.
const LOOKS_MAX: u32 = 4;

/// A push on its way.
pub(super) struct Sender {
    wire: Arc<Wire>,
    /// After this its frames go.
    place: Spot,
    outbox: Option<Outbox>,
    frames: u32,
    counter: Counter,
    /// The server may have got all of it.
    arrived: bool,
}

/// What stands where frames of ours were meant to.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    /// Nothing; the next frame goes after this spot.
    Nothing(Spot),
    /// The first frames of ours, so many.
    Part(u32),
    /// All frames of ours, the last of them here.
    Ours(Spot),
    /// Something else.
    Other,
}

/// How to go on after a look.
enum Verdict {
    Won(Spot),
    Lost,
    /// Send on from the frame with this index.
    From(u32),
    /// Begin anew in another generation.
    Moved,
}

impl Sender {
    pub(super) fn new(wire: Arc<Wire>, place: Spot, outbox: Outbox, counter: Counter) -> Self {
        let frames = outbox.frames();
        Sender { wire, place, outbox: Some(outbox), frames, counter, arrived: false }
    }

    /// After which spot the push goes, as far as is known by now.
    pub(super) fn place(&self) -> Spot {
        self.place
    }

    /// Whether an attempt may have reached its end although nobody said so.
    pub(super) fn arrived(&self) -> bool {
        self.arrived
    }

    /// Sends everything. The last frame's spot; `None` if other frames stand in the place.
    pub(super) async fn send(&mut self) -> Result<Option<Spot>, LibsqlError> {
        let mut moves = 0;
        loop {
            match self.session().await? {
                Verdict::Won(last) => return Ok(Some(last)),
                Verdict::Lost => return Ok(None),
                Verdict::From(_) | Verdict::Moved if moves == MOVES_MAX => {
                    return Err(LibsqlError::Conflict { after: self.place });
                }
                Verdict::From(_) | Verdict::Moved => moves += 1,
            }
        }
    }

    /// One push session, in one generation.
    async fn session(&mut self) -> Result<Verdict, LibsqlError> {
        let mut session = PushSession::new(self.place, self.frames)?;
        let mut looks = 0;
        loop {
            let part = session.next();
            let answer = self.send_part(&part).await?;
            let step = session.answered(&answer).inspect_err(|_| self.arrived |= part.is_last)?;
            let doubt = match step {
                Step::More => continue,
                Step::Done(last) => return Ok(Verdict::Won(self.confirmed(last).await?)),
                Step::Lower { expected, found } => LibsqlError::LowerFrame { expected, found },
                Step::Higher { expected, found } => LibsqlError::HigherFrame { expected, found },
                Step::Conflict => LibsqlError::Conflict { after: self.place },
            };
            looks += 1;
            let first = match self.look(&doubt).await? {
                Verdict::From(first) if looks < LOOKS_MAX => first,
                Verdict::From(_) => return Err(doubt),
                verdict => return Ok(verdict),
            };
            if !session.repeat_from(first) {
                return Err(doubt);
            }
        }
    }

    /// Sends one part.
    async fn send_part(&mut self, part: &Part) -> Result<PushAnswer, LibsqlError> {
        let generation = self.place.generation;
        let body = self.part(part.first, part.count).await?;
        let bytes = body.len() as u64;
        let (frames, baton) = (part.numbers, part.baton.clone());
        let batch = Batch { generation, frames, baton, body };
        if part.is_last {
            crash_point!("libsql::before-commit");
        } else {
            crash_point!("libsql::mid-push");
        }
        match self.wire.push(batch).await {
            Ok((answer, arrived)) => {
                self.arrived |= arrived && part.is_last;
                self.counter.add(bytes);
                Ok(answer)
            }
            Err(failed) => {
                self.arrived |= failed.arrived && part.is_last;
                Err(failed.error)
            }
        }
    }

    /// Looks at what stands in the place, and decides.
    async fn look(&mut self, doubt: &LibsqlError) -> Result<Verdict, LibsqlError> {
        let standing = self.standing().await?;
        Ok(match (standing, doubt) {
            (Standing::Ours(last), _) => Verdict::Won(last),
            (Standing::Other, _) => Verdict::Lost,
            (Standing::Nothing(place), _) if place != self.place => {
                self.place = place;
                Verdict::Moved
            }
            // Frames beyond ours, but none of ours: no way to go on.
            (_, LibsqlError::HigherFrame { expected, found }) => {
                let (expected, found) = (*expected, *found);
                return Err(LibsqlError::HigherFrame { expected, found });
            }
            (Standing::Part(frames), _) => Verdict::From(frames),
            (Standing::Nothing(_), LibsqlError::Conflict { after }) => {
                return Err(LibsqlError::Conflict { after: *after });
            }
            (Standing::Nothing(_), _) => Verdict::From(0),
        })
    }

    /// Compares what stands in the place with what was to be there, frame by frame.
    async fn standing(&mut self) -> Result<Standing, LibsqlError> {
        let (mut reached, mut same) = (self.place, 0);
        loop {
            let start = reached.after(1).ok_or(LibsqlError::Exhausted(reached))?;
            let frames = match self.wire.pull(start, BATCH_FRAMES).await? {
                Pulled::Frames(frames) => frames,
                Pulled::End { generation, .. } => {
                    match next_generation(reached, generation, u64::from(same))? {
                        Some(next) => reached = next,
                        None if same > 0 => return Ok(Standing::Part(same)),
                        None => return Ok(Standing::Nothing(reached)),
                    }
                    continue;
                }
            };
            let count = u32::try_from(frames.len() / FRAME_BYTES).unwrap_or(BATCH_FRAMES);
            let ours = self.part(same, count).await?;
            if ours.len() > frames.len() || !equal(&frames[..ours.len()], &ours) {
                return Ok(Standing::Other);
            }
            let ours = u32::try_from(ours.len() / FRAME_BYTES).unwrap_or(BATCH_FRAMES);
            same += ours;
            reached = after(reached, ours as usize * FRAME_BYTES)?;
            if same == self.frames {
                return Ok(Standing::Ours(reached));
            }
        }
    }

    /// A server may name the generation it is in instead of the one that it put the frames in. The
    /// last frame is in one of them.
    async fn confirmed(&mut self, last: Spot) -> Result<Spot, LibsqlError> {
        // The server has it all, whatever comes of the look.
        self.arrived = true;
        let meant = Spot { generation: self.place.generation, ..last };
        if last == meant {
            return Ok(last);
        }
        let ours = self.part(self.frames - 1, 1).await?;
        for spot in [last, meant] {
            if spot.generation < meant.generation {
                continue;
            }
            match self.wire.pull(spot, 1).await {
                Ok(Pulled::Frames(frame)) if equal(&frame, &ours) => return Ok(spot),
                Ok(_) | Err(LibsqlError::GenerationGone { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        let (known, found) = (meant.generation, last.generation);
        Err(LibsqlError::OtherGeneration { known, found })
    }

    async fn part(&mut self, first: u32, count: u32) -> Result<bytes::Bytes, LibsqlError> {
        let mut outbox = self.outbox.take().ok_or(LibsqlError::Interrupted)?;
        let (outbox, part) = off_thread(move || {
            let part = outbox.part(first, count)?;
            Ok((outbox, part))
        })
        .await?;
        self.outbox = Some(outbox);
        Ok(part)
    }
}

/// Whether frames are the same to the protocol: page number, size and page; salts and checksums are
/// each client's own.
fn equal(a: &[u8], b: &[u8]) -> bool {
    let meant = |frame: &[u8]| -> Option<[u8; 8]> { frame.first_chunk().copied() };
    a.len() == b.len()
        && a.chunks_exact(FRAME_BYTES).zip(b.chunks_exact(FRAME_BYTES)).all(|(a, b)| {
            meant(a) == meant(b) && a[FRAME_HEADER_BYTES..] == b[FRAME_HEADER_BYTES..]
        })
}

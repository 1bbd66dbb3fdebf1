//! Reading the frames of the log as they were appended.
//!
//! Clients that count frames need each of them, in place, where everybody else is content with the
//! last image of each page. So here nothing is merged: segments are opened one after the other, a few
//! ahead of the reader, and their frames handed on one by one. Constant memory.
//!
//! Which segment holds a position is found by a listing of the keys before it; the segment's own
//! metadata then proves it, so nothing rests on the order or completeness of the listing.

use std::io::BufReader;

use anabranch_format::{FrameHeader, Lsn, Metadata, SegmentReader};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};

use crate::error::{Damage, StoreError};
use crate::history::Position;
use crate::keys::{Keys, Target};
use crate::log::Log;
use crate::objects::{Objects, is_vanished};
use crate::progress::{Counter, Progress, Step};
use crate::runs::OpenPiece;

/// Segments on their way at the same time, once it is known where they are.
const SEGMENTS_AT_ONCE: usize = 16;
/// Segments up to this length are held in memory; longer ones lie in a temporary file, or are read
/// in place.
const MEMORY_BYTES_MAX: u64 = 256 * 1024;
/// Segments that are found one by one, from the end of one to the next, before a listing is made.
const STEPS_BEFORE_LISTING: u32 = 8;
/// How far before a position its segment is looked for first; most have fewer frames.
const LOOK_BACK: [u64; 3] = [256, 1 << 14, 1 << 20];
const BUFFER_BYTES: usize = 64 * 1024;

/// The frames of one segment, or the part of them that was asked for. All bytes are at hand.
pub struct SegmentFrames {
    /// What the segment says of itself.
    pub metadata: Metadata,
    piece: OpenPiece,
    from: Lsn,
    to: Lsn,
    objects: Objects,
}

impl std::fmt::Debug for SegmentFrames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentFrames").field("lsn", &self.metadata.lsn).finish_non_exhaustive()
    }
}

impl SegmentFrames {
    /// Tells `frame` of each frame, with its position. Blocking; what was told of before an error
    /// may be part of a damaged segment.
    pub fn for_each<E: From<StoreError>>(
        self,
        mut frame: impl FnMut(Lsn, FrameHeader, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let OpenPiece { key, metadata, body } = self.piece;
        let damaged = |e| self.objects.corrupt(&key, Damage::Pages(e));
        let body = BufReader::with_capacity(BUFFER_BYTES, body);
        let mut reader = SegmentReader::new(body, &metadata).map_err(damaged)?;
        let mut page = vec![0; metadata.page_size.bytes()];
        let mut at = metadata.from();
        while let Some(header) = reader.next_frame(&mut page).map_err(damaged)? {
            // The reader counts no more frames than the metadata states.
            at = at.next().unwrap_or(Lsn::MAX);
            if at > self.from && at <= self.to {
                frame(at, header, &page)?;
            }
        }
        Ok(())
    }
}

/// Segments on their way, oldest first.
struct Walk {
    log: Log,
    /// The position up to which segments were handed out, and what the last of them says.
    at: Lsn,
    last: Option<Metadata>,
    from: Lsn,
    to: Lsn,
    steps: u32,
    ahead: Option<BoxStream<'static, Result<OpenPiece, StoreError>>>,
    counter: Counter,
}

impl Log {
    /// The frames after `from`, up to and including `to`, segment by segment. Fails with
    /// [`StoreError::BelowFloor`] if the log does not keep them any more.
    pub fn segments(
        &self,
        from: Lsn,
        to: Lsn,
        progress: &Progress,
    ) -> BoxStream<'static, Result<SegmentFrames, StoreError>> {
        let counter = progress.step(Step::Downloading, None);
        let log = self.clone();
        let walk = Walk { log, at: from, last: None, from, to, steps: 0, ahead: None, counter };
        futures::stream::try_unfold(walk, |mut walk| async move {
            if walk.at >= walk.to {
                return Ok(None);
            }
            match walk.next().await {
                Ok(segment) => Ok(Some((segment, walk))),
                Err(e) if is_vanished(&e) => Err(walk.log.vanished(walk.at, e).await),
                Err(e) => Err(e),
            }
        })
        .boxed()
    }

    /// Why something after `at` is missing: the floor has passed it, or it is lost.
    async fn vanished(&self, at: Lsn, e: StoreError) -> StoreError {
        match self.floor().await {
            Ok(floor) if floor > at => self.below_floor(at, floor),
            Ok(_) => e,
            Err(e) => e,
        }
    }

    /// The segment that holds the frame `lsn`, as the position at its end. Fails with
    /// [`StoreError::BelowFloor`] if the log does not keep it any more, and with
    /// [`StoreError::BeyondHead`] if there is no such frame yet.
    pub async fn segment_at(&self, lsn: Lsn) -> Result<Position, StoreError> {
        for back in LOOK_BACK {
            let after = Lsn::new(lsn.get().saturating_sub(back));
            if let Some(found) = self.segment_listed(after, lsn).await? {
                return Ok(found);
            }
        }
        // A segment of more frames than that, or a listing in no order.
        if let Some((first, _)) = self.segments_between(Lsn::ZERO, lsn).await?.last()
            && let Some(found) = self.holding(*first, lsn).await?
        {
            return Ok(found);
        }
        let floor = self.floor().await?;
        if floor > lsn {
            return Err(self.below_floor(lsn, floor));
        }
        let head = self.head(&crate::head::Anchor::start()).await?.lsn();
        if lsn > head {
            return Err(StoreError::BeyondHead {
                location: self.location().to_owned(),
                at: lsn,
                head,
            });
        }
        Err(self.vanished(lsn, self.objects.missing(&self.keys.segment(lsn))).await)
    }

    /// The last segment that a listing of the keys after `after` shows to begin at `lsn` or before,
    /// if that frame is in it.
    async fn segment_listed(&self, after: Lsn, lsn: Lsn) -> Result<Option<Position>, StoreError> {
        let mut newest = None;
        for start in shards(after, lsn) {
            let offset = self.keys.segment(start.max(after));
            let beyond = |key: &str| Keys::parse_segment(key).is_some_and(|first| first > lsn);
            let listed = self.objects.list_until(&self.keys.shard(start), &offset, beyond).await?;
            let firsts = listed.iter().filter_map(|key| Keys::parse_segment(key));
            newest = firsts.filter(|first| *first <= lsn).max().or(newest);
        }
        match newest {
            Some(first) => self.holding(first, lsn).await,
            None => Ok(None),
        }
    }

    /// The segment that begins at `first`, if the frame `lsn` is in it.
    async fn holding(&self, first: Lsn, lsn: Lsn) -> Result<Option<Position>, StoreError> {
        let Some(seen) = self.segment(first).await? else { return Ok(None) };
        Ok((seen.metadata.lsn.1 >= lsn).then(|| Position::of(seen)))
    }
}

/// The first positions of the directories that hold segments which begin after `after` and not
/// after `to`: at most the last two, where all of a long log would be too many.
fn shards(after: Lsn, to: Lsn) -> Vec<Lsn> {
    let last = Keys::shard_start(to);
    let before = last.get().checked_sub(1).map(|n| Keys::shard_start(Lsn::new(n)));
    before.filter(|_| after < last).into_iter().chain([last]).collect()
}

impl Walk {
    async fn next(&mut self) -> Result<SegmentFrames, StoreError> {
        let piece = match &mut self.ahead {
            Some(ahead) => ahead.try_next().await?,
            None => Some(self.step().await?),
        };
        let next = self.at.next().unwrap_or(Lsn::MAX);
        let piece = piece.ok_or_else(|| self.log.objects.missing(&self.log.keys.segment(next)))?;
        let metadata = piece.metadata.clone();
        if let Some(last) = &self.last {
            if metadata.lsn.0 != next {
                return Err(self.log.objects.missing(&self.log.keys.segment(next)));
            }
            self.log.check_follows(&piece.key, Some(last), &metadata)?;
        }
        self.at = metadata.lsn.1;
        self.last = Some(metadata.clone());
        self.steps += 1;
        if self.steps == STEPS_BEFORE_LISTING && self.at < self.to {
            self.look_ahead().await?;
        }
        let objects = self.log.objects.clone();
        Ok(SegmentFrames { metadata, piece, from: self.from, to: self.to, objects })
    }

    /// Opens the segment after the last one; the first may have begun before `from`.
    async fn step(&mut self) -> Result<OpenPiece, StoreError> {
        let first = self.at.next().unwrap_or(Lsn::MAX);
        let open =
            |first| self.log.open_piece(Target::Segment(first), MEMORY_BYTES_MAX, &self.counter);
        match open(first).await {
            Err(e) if is_vanished(&e) && self.last.is_none() => {
                let found = self.log.segment_at(first).await?;
                open(found.metadata.map_or(first, |m| m.lsn.0)).await
            }
            opened => opened,
        }
    }

    async fn look_ahead(&mut self) -> Result<(), StoreError> {
        let listed = self.log.segments_between(self.at, self.to).await?;
        let firsts: Vec<Lsn> = listed.into_iter().map(|(first, _)| first).collect();
        let (log, counter) = (self.log.clone(), self.counter.clone());
        let ahead =
            futures::stream::iter(firsts)
                .map(move |first| {
                    let (log, counter) = (log.clone(), counter.clone());
                    async move {
                        log.open_piece(Target::Segment(first), MEMORY_BYTES_MAX, &counter).await
                    }
                })
                .buffered(SEGMENTS_AT_ONCE);
        self.ahead = Some(ahead.boxed());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directories_before_a_position_are_named_without_a_listing() {
        let shard = 1u64 << 20;
        let starts = |after, to| -> Vec<u64> {
            shards(Lsn::new(after), Lsn::new(to)).iter().map(|s| s.get()).collect()
        };
        assert_eq!(starts(0, 5), [0]);
        assert_eq!(starts(shard + 1, shard + 5), [shard]);
        assert_eq!(starts(shard - 7, shard + 5), [0, shard]);
        assert_eq!(starts(0, 5 * shard), [4 * shard, 5 * shard]);
        assert_eq!(starts(5 * shard, 5 * shard), [5 * shard]);
    }
}

//! Looking back: what was appended when, and which state belongs to a position or a time.
//!
//! A segment has two times: the log's own (the writer's clock, made never to decrease) and the
//! moment at which the store received it. A search by time trusts the store's, which all writers
//! share; where the two differ by more than [`CLOCK_TOLERANCE`] the answer says so.

use anabranch_format::{Lsn, Metadata, Micros};
use futures::{StreamExt, TryStreamExt};

use crate::error::StoreError;
use crate::head::{Anchor, Head};
use crate::keys::Keys;
use crate::log::Log;
use crate::objects::{Listed, Seen};

/// Clocks that differ by no more than this (5 minutes) are taken to agree.
pub const CLOCK_TOLERANCE: Micros = Micros(5 * 60 * 1_000_000);

/// Segments whose metadata is read at the same time.
const READS_AT_ONCE: usize = 16;

/// One segment of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What the segment says of itself.
    pub metadata: Metadata,
    /// When the store received it.
    pub modified: Micros,
    /// Bytes of its object (and of its body, if that lies apart).
    pub bytes: u64,
    /// Set if the time in the segment and the time at which the store received it disagree.
    pub clock_gap: Option<ClockGap>,
}

/// A time in the log and a time of the store that disagree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockGap {
    /// The time in the log.
    pub logged: Micros,
    /// When the store received the object.
    pub received: Micros,
}

impl ClockGap {
    fn between(logged: Micros, received: Micros) -> Option<Self> {
        let gap = logged.0.abs_diff(received.0);
        (gap > CLOCK_TOLERANCE.0.unsigned_abs()).then_some(ClockGap { logged, received })
    }
}

/// What to look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The newest state.
    Head,
    /// The newest state at or before this position.
    Lsn(Lsn),
    /// The newest state at or before this time.
    Time(Micros),
}

/// A state of the database in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The position, the end of a segment (0: the empty database).
    pub lsn: Lsn,
    /// The segment that ends there; `None` at 0.
    pub metadata: Option<Metadata>,
    /// When the store received that segment.
    pub modified: Option<Micros>,
    /// Set if the time in the log and the time of the store disagree there.
    pub clock_gap: Option<ClockGap>,
}

impl Entry {
    /// The entry of a segment that was received at `modified`.
    #[must_use]
    pub fn with(metadata: Metadata, modified: Micros, bytes: u64) -> Self {
        let clock_gap = ClockGap::between(metadata.time, modified);
        Entry { metadata, modified, bytes, clock_gap }
    }
}

impl Position {
    /// The end of the segment that `metadata` describes (the empty database if there is none), which
    /// was received at `modified`.
    #[must_use]
    pub fn with(metadata: Option<Metadata>, modified: Option<Micros>) -> Self {
        let times = metadata.as_ref().map(|m| m.time).zip(modified);
        Position {
            lsn: metadata.as_ref().map_or(Lsn::ZERO, |m| m.lsn.1),
            clock_gap: times.and_then(|(logged, received)| ClockGap::between(logged, received)),
            metadata,
            modified,
        }
    }

    fn start() -> Self {
        Position { lsn: Lsn::ZERO, metadata: None, modified: None, clock_gap: None }
    }

    pub(crate) fn of(seen: Seen) -> Self {
        Position {
            lsn: seen.metadata.lsn.1,
            clock_gap: ClockGap::between(seen.metadata.time, seen.modified),
            modified: Some(seen.modified),
            metadata: Some(seen.metadata),
        }
    }
}

impl Head {
    /// The head as a position to fetch.
    #[must_use]
    pub fn position(&self) -> Position {
        let newest = self.newest.as_ref();
        Position {
            lsn: self.anchor.last,
            metadata: self.newest.clone(),
            modified: self.modified,
            clock_gap: newest
                .zip(self.modified)
                .and_then(|(newest, received)| ClockGap::between(newest.time, received)),
        }
    }

    /// The head once `won` was appended right after this one.
    #[must_use]
    pub fn after(&self, won: Metadata) -> Head {
        let anchor = Anchor::of(&won);
        Head { anchor, newest: Some(won), modified: None, floor: self.floor }
    }
}

impl Log {
    /// The newest `limit` segments, newest first.
    pub async fn history(&self, limit: usize) -> Result<Vec<Entry>, StoreError> {
        self.history_before(Lsn::MAX, limit).await
    }

    /// The newest `limit` of the segments that begin before `before`, newest first.
    pub async fn history_before(
        &self,
        before: Lsn,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let floor = self.floor().await?;
        let mut shards = self.objects.directories(&self.keys.log()).await?;
        let mut newest: Vec<(Lsn, Listed)> = Vec::new();
        while newest.len() < limit
            && let Some(shard) = shards.pop()
        {
            if Keys::parse_shard(&shard).is_none_or(|(start, _)| start >= before) {
                continue;
            }
            let listed = self.objects.list(&shard).await?;
            let firsts = listed.into_iter().filter_map(|o| Some((Keys::parse_segment(&o.key)?, o)));
            newest.extend(firsts.filter(|(first, _)| *first < before));
        }
        newest.sort_unstable_by_key(|(first, _)| std::cmp::Reverse(*first));
        newest.truncate(limit);
        let entries: Vec<Option<Entry>> = futures::stream::iter(newest)
            .map(|(first, _)| self.entry(first))
            .buffered(READS_AT_ONCE)
            .try_collect()
            .await?;
        // Below the floor an object may still lie about; it is no history any more.
        Ok(entries.into_iter().flatten().filter(|e| e.metadata.lsn.1 >= floor).collect())
    }

    async fn entry(&self, first: Lsn) -> Result<Option<Entry>, StoreError> {
        let Some(seen) = self.segment(first).await? else { return Ok(None) };
        let Seen { metadata, modified, mut bytes } = seen;
        if let Some(body) = metadata.body.as_deref().and_then(|b| self.keys.resolve_body(b)) {
            bytes += self.objects.size(&body).await?.unwrap_or(0);
        }
        Ok(Some(Entry::with(metadata, modified, bytes)))
    }

    /// The state that `at` means: always that after a whole segment, so that its checksum is known.
    pub async fn position_at(&self, at: At) -> Result<Position, StoreError> {
        let head = self.head(&Anchor::start()).await?;
        let candidates = |to| self.segments_between(Lsn::ZERO, to);
        match at {
            At::Head => Ok(head.position()),
            At::Lsn(lsn) if lsn > head.lsn() => Err(StoreError::BeyondHead {
                location: self.location().to_owned(),
                at: lsn,
                head: head.lsn(),
            }),
            At::Lsn(lsn) if lsn == head.lsn() => Ok(head.position()),
            At::Lsn(lsn) if lsn < head.floor => Err(self.below_floor(lsn, head.floor)),
            At::Lsn(lsn) => {
                let segments = candidates(lsn).await?;
                self.last_whole(&segments, lsn, head.floor).await
            }
            At::Time(time) => {
                let mut segments = candidates(head.lsn()).await?;
                segments.retain(|(_, listed)| listed.modified <= time);
                self.last_whole(&segments, head.lsn(), head.floor).await
            }
        }
    }

    /// The end of the last of `segments` (ascending) that ends at `to` or before.
    async fn last_whole(
        &self,
        segments: &[(Lsn, Listed)],
        to: Lsn,
        floor: Lsn,
    ) -> Result<Position, StoreError> {
        for (first, _) in segments.iter().rev() {
            let Some(seen) = self.segment(*first).await? else { continue };
            if seen.metadata.lsn.1 <= to && seen.metadata.lsn.1 >= floor {
                return Ok(Position::of(seen));
            }
        }
        if floor == Lsn::ZERO {
            return Ok(Position::start());
        }
        Err(StoreError::BeforeHistory { location: self.location().to_owned(), oldest: floor })
    }
}

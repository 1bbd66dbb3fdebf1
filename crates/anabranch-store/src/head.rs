//! Where the log ends, and how that is proven.
//!
//! The head is the end of the last segment: the key right after it is absent. Absence alone proves
//! nothing. A key below the floor is absent too; so the floor is read after each probe that found
//! nothing, and the walk begins anew if it has moved past. And an object may be missing from the
//! middle of a log, lost or not yet copied: then what follows it is there. So a listing after the
//! absent key must show no segment either, before the end counts as the head and before anything
//! is appended there: what stands behind a hole would be read by nobody. Otherwise listings are used
//! to jump ahead to a segment that exists, never to conclude that one does not.
//!
//! Only the end of a segment *that was read* is a place to append at: positions end transactions,
//! keys begin segments, and a key in the middle of a segment is absent too. [`Anchor`] keeps that.

use anabranch_format::{Lsn, Metadata, Micros, PushId};
use serde::{Deserialize, Serialize};

use crate::blocking::at_once;
use crate::error::StoreError;
use crate::keys::Keys;
use crate::log::Log;
use crate::objects::Seen;

/// Segments that are walked one by one before a listing is used to jump ahead.
const STEPS_BEFORE_JUMP: u32 = 8;

/// The walk begins anew at most this often because the floor has passed it.
const ROUNDS_MAX: u32 = 16;

/// The end of a segment that was read: the only kind of place where an append is allowed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Anchor {
    /// First position of the segment; its key.
    pub first: Lsn,
    /// Last position of the segment.
    pub last: Lsn,
    /// The push that made the segment.
    pub push: Option<PushId>,
}

impl Anchor {
    /// The start of every log, before its first segment.
    #[must_use]
    pub fn start() -> Self {
        Anchor { first: Lsn::ZERO, last: Lsn::ZERO, push: None }
    }

    /// The end of the segment that `metadata` describes.
    #[must_use]
    pub fn of(metadata: &Metadata) -> Self {
        Anchor { first: metadata.lsn.0, last: metadata.lsn.1, push: metadata.push.clone() }
    }
}

/// The end of the log, as proven at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The last segment's end.
    pub anchor: Anchor,
    /// The last segment; `None` if the log is empty.
    pub newest: Option<Metadata>,
    /// When the store received the last segment.
    pub modified: Option<Micros>,
    /// The oldest position that is kept. Whoever stands below it starts over from a snapshot.
    pub floor: Lsn,
}

impl Head {
    /// The head of a log of which nothing is known but that it is empty.
    #[must_use]
    pub fn empty() -> Self {
        Head { anchor: Anchor::start(), newest: None, modified: None, floor: Lsn::ZERO }
    }

    /// The position at which the log ends.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.anchor.last
    }
}

/// An end of a segment on the way to the head.
struct End {
    anchor: Anchor,
    seen: Option<Seen>,
}

impl End {
    fn start() -> Self {
        End { anchor: Anchor::start(), seen: None }
    }

    fn of(seen: Seen) -> Self {
        End { anchor: Anchor::of(&seen.metadata), seen: Some(seen) }
    }

    fn metadata(&self) -> Option<&Metadata> {
        self.seen.as_ref().map(|s| &s.metadata)
    }
}

/// What a listing that shows segments beyond an absent key turned out to mean.
pub(crate) enum Beyond {
    /// The key is taken by now.
    Filled(Seen),
    /// The key is below the floor by now: it may well be absent.
    BelowFloor(Lsn),
    /// The segment is not there, although the log goes on after it.
    Hole(StoreError),
}

impl Log {
    /// Finds where the log ends, starting from what the caller knows ([`Anchor::start`] if nothing).
    /// If `known` lies below the floor the answer's `floor` tells so. Fails with
    /// [`StoreError::Rewound`] if the log does not hold the segment that the caller knows, and with
    /// [`StoreError::Incomplete`] if a segment is missing before others.
    pub async fn head(&self, known: &Anchor) -> Result<Head, StoreError> {
        let (log, known) = (self.clone(), known.clone());
        at_once(self.objects.kind(), move || async move { log.find_head(&known).await }).await?
    }

    async fn find_head(&self, known: &Anchor) -> Result<Head, StoreError> {
        for _ in 0..ROUNDS_MAX {
            let floor = self.floor().await?;
            let Some(start) = self.walk_start(known, floor).await? else { continue };
            if let Some(head) = self.head_from(start).await? {
                return Ok(head);
            }
        }
        Err(self.never_settled().await?)
    }

    /// Why no head was found, round after round: retention never rests, or the floor stands there
    /// without the log that it is the floor of.
    async fn never_settled(&self) -> Result<StoreError, StoreError> {
        let floor = self.floor().await?;
        let newest = self.newest_listed(Lsn::ZERO).await?;
        let reaches = newest.is_some_and(|seen| seen.metadata.lsn.1 >= floor);
        if reaches || self.floor().await? > floor {
            return Ok(self.objects.unsettled());
        }
        let key = format!("the segment in {} that reaches position {floor}", self.keys.log());
        Ok(self.objects.incomplete(key, self.keys.floor(floor)))
    }

    /// Walks from `end` to the head; `None` if the floor has passed the walk.
    async fn head_from(&self, mut end: End) -> Result<Option<Head>, StoreError> {
        loop {
            end = self.walk(end).await?;
            let at = end.anchor.last;
            // Only now is the absence of the next key worth something.
            let (floor, beyond) = tokio::try_join!(self.floor(), self.listed_beyond(at))?;
            if floor > at {
                return Ok(None);
            }
            let Some(beyond) = beyond else {
                let (newest, modified) = end.seen.map(|s| (s.metadata, s.modified)).unzip();
                return Ok(Some(Head { anchor: end.anchor, newest, modified, floor }));
            };
            match self.look_again(at, beyond).await? {
                Beyond::Filled(next) => end = self.step(&end, next)?,
                Beyond::BelowFloor(_) => return Ok(None),
                Beyond::Hole(e) => return Err(e),
            }
        }
    }

    /// The key of a segment that begins later than the one which would follow `at`, if a listing
    /// shows one. One request on a bucket, unless there are a thousand keys of other programs.
    pub(crate) async fn listed_beyond(&self, at: Lsn) -> Result<Option<String>, StoreError> {
        let Some(next) = at.next() else { return Ok(None) };
        let is_beyond = |key: &str| {
            Keys::parse_segment(key).is_some_and(|f| f > next && self.keys.segment(f) == key)
        };
        self.objects.any_after(&self.keys.log(), &self.keys.segment(next), is_beyond).await
    }

    /// `beyond` was listed, but the key after `at` had been absent before: somebody may have
    /// appended both since, or the floor may have risen.
    pub(crate) async fn look_again(&self, at: Lsn, beyond: String) -> Result<Beyond, StoreError> {
        if let Some(found) = self.segment_after(at).await? {
            return Ok(Beyond::Filled(found));
        }
        let floor = self.floor().await?;
        if floor > at {
            return Ok(Beyond::BelowFloor(floor));
        }
        let key = self.keys.segment(at.next().unwrap_or(Lsn::MAX));
        Ok(Beyond::Hole(self.objects.incomplete(key, beyond)))
    }

    /// What stands right after `at`; `None` if the log ends there. One probe, and a look at the
    /// floor after it, and if it found nothing, one at what is beyond. Fails with
    /// [`StoreError::BelowFloor`] if nothing can be said any more, and with
    /// [`StoreError::Incomplete`] if the segment is missing.
    pub async fn next(&self, at: &Anchor) -> Result<Option<Metadata>, StoreError> {
        let (log, at) = (self.clone(), at.last);
        at_once(self.objects.kind(), move || async move { log.find_next(at).await }).await?
    }

    async fn find_next(&self, at: Lsn) -> Result<Option<Metadata>, StoreError> {
        let found = self.segment_after(at).await?;
        let beyond =
            async { if found.is_some() { Ok(None) } else { self.listed_beyond(at).await } };
        let (floor, beyond) = tokio::try_join!(self.floor(), beyond)?;
        if floor > at {
            return Err(self.below_floor(at, floor));
        }
        let Some(beyond) = beyond else { return Ok(found.map(|seen| seen.metadata)) };
        match self.look_again(at, beyond).await? {
            Beyond::Filled(seen) => Ok(Some(seen.metadata)),
            Beyond::BelowFloor(floor) => Err(self.below_floor(at, floor)),
            Beyond::Hole(e) => Err(e),
        }
    }

    /// Whether something may stand after `known`: for those who wait. One request. `true` is worth a
    /// [`Log::head`]; `false` proves nothing, as an absent key never does, but that a folder is there.
    pub async fn may_have_moved(&self, known: &Anchor) -> Result<bool, StoreError> {
        let Some(first) = known.last.next() else { return Ok(false) };
        let (log, key) = (self.clone(), self.keys.segment(first));
        let look = move || async move {
            if log.objects.size(&key).await?.is_some() {
                return Ok(true);
            }
            log.objects.check_root().await?;
            Ok(false)
        };
        at_once(self.objects.kind(), look).await?
    }

    /// Who stands at the key that follows `after`, durably: decides what became of an append whose
    /// outcome is unknown. `None`: nobody yet, which decides nothing. Below the floor
    /// ([`StoreError::BelowFloor`]) [`Log::last_push`] decides.
    pub async fn at_key_after(&self, after: Lsn) -> Result<Option<Metadata>, StoreError> {
        let log = self.clone();
        at_once(self.objects.kind(), move || async move { log.find_after(after).await }).await?
    }

    async fn find_after(&self, after: Lsn) -> Result<Option<Metadata>, StoreError> {
        let found = self.segment_after(after).await?;
        let floor = self.floor().await?;
        if floor > after {
            return Err(self.below_floor(after, floor));
        }
        let Some(seen) = found else { return Ok(None) };
        self.objects.settle(&self.keys.segment(seen.metadata.lsn.0)).await?;
        Ok(Some(seen.metadata))
    }

    pub(crate) async fn segment_after(&self, after: Lsn) -> Result<Option<Seen>, StoreError> {
        match after.next() {
            Some(first) => self.segment(first).await,
            None => Ok(None),
        }
    }

    /// The segment that the caller knows, or one that a listing offers, or the start of the log.
    /// `None`: the floor moved meanwhile, look again.
    async fn walk_start(&self, known: &Anchor, floor: Lsn) -> Result<Option<End>, StoreError> {
        if known.last > Lsn::ZERO && known.last >= floor {
            return self.known_end(known).await;
        }
        match self.newest_listed(Lsn::ZERO).await? {
            Some(seen) => Ok(Some(End::of(seen))),
            None if floor == Lsn::ZERO => Ok(Some(End::start())),
            None => Ok(None),
        }
    }

    /// Fails with [`StoreError::Rewound`] if the log, which ends at `head`, does not hold the segment
    /// that somebody knows. No request where it is the last one.
    pub async fn confirm(&self, known: &Anchor, head: &Head) -> Result<(), StoreError> {
        if known.last == Lsn::ZERO || known.last < head.floor || *known == head.anchor {
            return Ok(());
        }
        self.known_end(known).await.map(|_| ())
    }

    async fn known_end(&self, known: &Anchor) -> Result<Option<End>, StoreError> {
        match self.segment(known.first).await? {
            Some(seen) if Anchor::of(&seen.metadata) == *known => Ok(Some(End::of(seen))),
            _ if self.floor().await? > known.last => Ok(None),
            _ => Err(self.rewound(known).await?),
        }
    }

    async fn rewound(&self, known: &Anchor) -> Result<StoreError, StoreError> {
        let newest = self.newest_listed(Lsn::ZERO).await?;
        Ok(StoreError::Rewound {
            location: self.location().to_owned(),
            key: self.keys.segment(known.first),
            at: known.last,
            found: newest.map_or(Lsn::ZERO, |seen| seen.metadata.lsn.1),
        })
    }

    async fn walk(&self, mut end: End) -> Result<End, StoreError> {
        let mut steps = 0;
        while let Some(next) = self.segment_after(end.anchor.last).await? {
            end = self.step(&end, next)?;
            steps += 1;
            if steps == STEPS_BEFORE_JUMP
                && let Some(seen) = self.newest_listed(end.anchor.last).await?
            {
                end = End::of(seen);
            }
        }
        Ok(end)
    }

    fn step(&self, end: &End, next: Seen) -> Result<End, StoreError> {
        let key = self.keys.segment(next.metadata.lsn.0);
        self.check_follows(&key, end.metadata(), &next.metadata)?;
        Ok(End::of(next))
    }

    /// The segment with the greatest key in a listing, if it begins after `after`. It exists, so the
    /// log reaches that far at least.
    async fn newest_listed(&self, after: Lsn) -> Result<Option<Seen>, StoreError> {
        let mut shards = self.objects.directories(&self.keys.log()).await?;
        while let Some(shard) = shards.pop() {
            let listed = self.objects.list_after(&shard, &self.keys.segment(after)).await?;
            if let Some(first) = listed.iter().filter_map(|o| Keys::parse_segment(&o.key)).max() {
                return if first > after { self.segment(first).await } else { Ok(None) };
            }
        }
        Ok(None)
    }
}

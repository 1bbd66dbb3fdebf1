//! Appending to the log: one object, created only if it is absent.
//!
//! The algorithm, and why each step is there:
//! 1. Read the floor: it proves that the database is here. (It cannot prove that the key may be
//!    written: time passes before the put.) List what is beyond the key: if segments are there
//!    although it is absent, the log has a hole, and what is put into it would be read by nobody
//!    who has the true segment.
//! 2. Create the object at the key that follows the head. Whoever creates it has committed.
//! 3. "Exists already" may mean our own earlier try, another's segment, or a conflict between
//!    conditional writes of which none was done: read back. Our push id: won. Another: lost.
//!    Nothing there: the same bytes again, a bounded number of times.
//! 4. Any other error says nothing about the outcome: read back, once; nothing there means
//!    [`AppendError::Unknown`], for the write may still be on its way.
//! 5. Before it is acknowledged the floor is read again: a key that was created below it joins no
//!    log and is deleted.
//!
//! On a folder all of it is done at once on one thread, unless the body is large.
//!
//! Invariant I1 rests on these steps: an acknowledged push is in the log for ever.

use anabranch_format::{
    DbChecksum, FORMAT_VERSION, Healed, Kind, Lsn, Metadata, Micros, PageSize, PushId, WriterId,
};

use crate::blocking::at_once;
use crate::error::StoreError;
use crate::fault::crash_point;
use crate::head::{Beyond, Head};
use crate::history::CLOCK_TOLERANCE;
use crate::keys::Target;
use crate::log::Log;
use crate::objects::{Backoff, io_kind, is_already_exists};
use crate::progress::{Progress, Step};
use crate::root::StoreKind;
use crate::spool::{SMALL_BYTES_MAX, Spool, SpoolReader};
use crate::upload::Prepared;

/// A generation ends once it has more frames than this, and more than twice the database's pages.
const GENERATION_FRAMES_MIN: u64 = 65_536;
/// A generation ends here at the latest: clients count its frames in 32 bits.
const GENERATION_FRAMES_MAX: u64 = 1 << 31;
/// Each ordinary rollover skips one number.
const GENERATION_STEP: u32 = 2;
/// No generation has a higher number: clients hold it in 32 bits, some of them signed.
pub const GENERATION_MAX: u32 = (1 << 31) - 1;
/// A replica's first push of so many pages ends the first generation at once: clients that count
/// frames then begin with the whole database as one image instead of as many frames.
const FIRST_IMAGE_PAGES_MIN: u32 = 256;

/// Whether the segment is the last of its generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rollover {
    /// If the generation has grown enough.
    #[default]
    WhenDue,
    /// Not if it can be put off: somebody is in the middle of sending frames of this generation.
    Never,
    /// Yes.
    Now,
    /// Yes, and the next generation has this number: those before it are used otherwise, or skipped.
    To(u32),
}

/// What is to be appended: whole transactions.
#[derive(Debug)]
pub struct NewSegment {
    /// Names this attempt: a repeat with the same id is recognised, and must carry the same pages.
    pub push: PushId,
    /// The replica.
    pub writer: WriterId,
    /// The writer's clock.
    pub now: Micros,
    /// Page size of the database.
    pub page_size: PageSize,
    /// Database size in pages before and after.
    pub pages: (u32, u32),
    /// Database checksum before and after.
    pub sum: (DbChecksum, DbChecksum),
    /// How many frames the body has.
    pub frames: u64,
    /// How many transactions, if a [`anabranch_format::SegmentEncoder`] wrote the body; `None` for
    /// the one with pages ascending of a [`anabranch_format::DeltaEncoder`].
    pub transactions: Option<u64>,
    /// Whether the generation ends with it.
    pub rollover: Rollover,
    /// What the encoder wrote.
    pub body: Spool,
}

/// How an append ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Appended {
    /// The segment is in the log, durably.
    Won(Metadata),
    /// This segment stands in its place: the log moved on.
    Lost(Metadata),
}

/// Why an append did not end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// It may or may not have happened. Only an object at the key decides, never its absence:
    /// repeat with the same push id and pages, or ask [`Log::at_key_after`].
    #[error("the store did not confirm the append after {after}")]
    Unknown {
        /// The position after which it was tried.
        after: Lsn,
        /// Why.
        #[source]
        source: Box<StoreError>,
    },
    /// The position was cleaned up meanwhile. [`Log::last_push`] tells whether the push had been
    /// taken before that.
    #[error("position {after} is older than what the log keeps (from {floor} on)")]
    BelowFloor {
        /// The position after which it was tried.
        after: Lsn,
        /// The oldest position that is kept.
        floor: Lsn,
    },
    /// The segment was made for another state than the head's. Nothing happened.
    #[error("the segment does not start from the state at {head}: {what}")]
    NotAtHead {
        /// The position of the head that was given.
        head: Lsn,
        /// What differs.
        what: String,
    },
    /// The segment cannot be appended to any log. Nothing happened.
    #[error("not a segment: {0}")]
    Invalid(String),
    /// The store failed before anything could happen. Nothing happened.
    #[error(transparent)]
    Store(StoreError),
}

impl AppendError {
    /// Whether it is certain that this call appended nothing.
    #[must_use]
    pub fn is_definite(&self) -> bool {
        match self {
            AppendError::Store(_) | AppendError::NotAtHead { .. } | AppendError::Invalid(_) => true,
            AppendError::Unknown { .. } | AppendError::BelowFloor { .. } => false,
        }
    }

    /// Whether the remote is out of reach for now. The outcome may still be unknown.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        match self {
            AppendError::Unknown { source, .. } => source.is_offline(),
            AppendError::Store(e) => e.is_offline(),
            _ => false,
        }
    }
}

impl Log {
    /// Appends `new` right after `head`. On return with [`Appended::Won`] it is durable and will be
    /// read by everyone. May be repeated with the same push id and pages until it answers.
    pub async fn append(
        &self,
        head: &Head,
        new: NewSegment,
        progress: &Progress,
    ) -> Result<Appended, AppendError> {
        self.append_healed(head, new, None, progress).await
    }

    /// As [`Log::append`], of a segment that was merged from the frames that `healed` names. The
    /// caller has read every segment up to `head`, and none of them names these frames: so they are
    /// merged once, whoever else tries.
    pub async fn append_healed(
        &self,
        head: &Head,
        new: NewSegment,
        healed: Option<Healed>,
        progress: &Progress,
    ) -> Result<Appended, AppendError> {
        let metadata = self.segment_metadata(head, &new, healed)?;
        let (body, after) = (new.body.finish(), head.anchor.last);
        if body.len() > SMALL_BYTES_MAX {
            return self.append_body(metadata, body, progress).await;
        }
        let (log, progress) = (self.clone(), progress.clone());
        let work = move || async move { log.append_body(metadata, body, &progress).await };
        let done = at_once(self.objects.kind(), work).await;
        done.unwrap_or_else(|e| Err(AppendError::Unknown { after, source: Box::new(e) }))
    }

    async fn append_body(
        &self,
        metadata: Metadata,
        body: SpoolReader,
        progress: &Progress,
    ) -> Result<Appended, AppendError> {
        let after = metadata.from();
        self.check_place(after).await?;
        let target = Target::Segment(metadata.lsn.0);
        let counter = progress.step(Step::Uploading, Some(body.len()));
        let prepared = match self.prepare(&target, &metadata, &body, false, &counter).await {
            Ok(prepared) => prepared,
            Err(e) => return self.not_prepared(&metadata, e).await,
        };
        crash_point!("append::before-put");
        let put = self.put(&target, &metadata, &prepared).await;
        crash_point!("append::after-put");
        if !matches!(put, Err(AppendError::Unknown { .. })) {
            // Whatever stands at the key now, nobody will name these bytes any more, except the
            // object that was created with them.
            let won = matches!(put, Ok(Appended::Won(_)));
            self.discard(&prepared, won).await;
        }
        self.acknowledge(after, put?).await
    }

    /// Nothing was put. A stage is swept once the key is taken, so that may be why.
    async fn not_prepared(
        &self,
        metadata: &Metadata,
        e: StoreError,
    ) -> Result<Appended, AppendError> {
        if !e.is_offline()
            && let Ok(Some(found)) = self.read_back(metadata).await
        {
            return self.acknowledge(metadata.from(), found).await;
        }
        Err(AppendError::Store(e))
    }

    /// Nothing may be put after `after` if that is below the floor, or in a hole of the log.
    async fn check_place(&self, after: Lsn) -> Result<(), AppendError> {
        let looks = async { tokio::try_join!(self.floor(), self.listed_beyond(after)) };
        let (floor, beyond) = looks.await.map_err(AppendError::Store)?;
        if floor > after {
            return Err(AppendError::BelowFloor { after, floor });
        }
        let Some(beyond) = beyond else { return Ok(()) };
        match self.look_again(after, beyond).await.map_err(AppendError::Store)? {
            // Reading back tells whose it is.
            Beyond::Filled(_) => Ok(()),
            Beyond::BelowFloor(floor) => Err(AppendError::BelowFloor { after, floor }),
            Beyond::Hole(e) => Err(AppendError::Store(e)),
        }
    }

    /// The floor decides whether what stands at the key counts.
    async fn acknowledge(&self, after: Lsn, put: Appended) -> Result<Appended, AppendError> {
        let unknown = |e| AppendError::Unknown { after, source: Box::new(e) };
        let floor = self.floor().await.map_err(unknown)?;
        if floor <= after {
            return Ok(put);
        }
        if let Appended::Won(metadata) = &put {
            // Best effort: below the floor nobody reads it, and retention takes it otherwise.
            let _ = self.objects.delete(&self.keys.segment(metadata.lsn.0)).await;
        }
        Err(AppendError::BelowFloor { after, floor })
    }

    async fn put(
        &self,
        target: &Target,
        metadata: &Metadata,
        prepared: &Prepared,
    ) -> Result<Appended, AppendError> {
        let key = self.keys.target_key(target);
        let after = metadata.from();
        let mut backoff = Backoff::new();
        loop {
            let e = match self.commit(&key, prepared).await {
                Ok(()) => return Ok(Appended::Won(metadata.clone())),
                Err(e) => e,
            };
            if let Some(found) = self.read_back(metadata).await? {
                return Ok(found);
            }
            let again = is_already_exists(&e);
            let definite = self.did_not_happen(&e);
            let failed = self.objects.failed(&key, e);
            if definite {
                return Err(AppendError::Store(failed));
            }
            if !again || !backoff.again().await {
                return Err(AppendError::Unknown { after, source: Box::new(failed) });
            }
        }
    }

    /// Who stands at the key of `metadata`; ours is made durable before it counts.
    async fn read_back(&self, metadata: &Metadata) -> Result<Option<Appended>, AppendError> {
        let (first, after) = (metadata.lsn.0, metadata.from());
        let unknown = |e| AppendError::Unknown { after, source: Box::new(e) };
        let Some(seen) = self.segment(first).await.map_err(unknown)? else { return Ok(None) };
        if seen.metadata.push != metadata.push {
            return Ok(Some(Appended::Lost(seen.metadata)));
        }
        self.objects.settle(&self.keys.segment(first)).await.map_err(unknown)?;
        Ok(Some(Appended::Won(seen.metadata)))
    }

    /// Errors of a local file system that come before the object can have been linked, and refusals.
    /// "Not found" is none of them: the folder may have been moved right after the link.
    fn did_not_happen(&self, e: &object_store::Error) -> bool {
        use std::io::ErrorKind as Io;
        if matches!(
            e,
            object_store::Error::PermissionDenied { .. }
                | object_store::Error::Unauthenticated { .. }
                | object_store::Error::NotImplemented { .. }
                | object_store::Error::NotSupported { .. }
        ) {
            return true;
        }
        let before_the_link = [
            Io::PermissionDenied,
            Io::ReadOnlyFilesystem,
            Io::StorageFull,
            Io::QuotaExceeded,
            Io::FileTooLarge,
            Io::Unsupported,
        ];
        matches!(self.objects.kind(), StoreKind::Folder(_))
            && io_kind(e).is_some_and(|kind| before_the_link.contains(&kind))
    }

    fn segment_metadata(
        &self,
        head: &Head,
        new: &NewSegment,
        healed: Option<Healed>,
    ) -> Result<Metadata, AppendError> {
        check_start(head, new)?;
        let out_of_range = || AppendError::Invalid("the log is full".to_owned());
        let first = head.anchor.last.next().ok_or_else(out_of_range)?;
        let last = head.anchor.last.checked_add(new.frames).ok_or_else(out_of_range)?;
        if new.frames == 0 || new.pages.1 == 0 {
            return Err(AppendError::Invalid("it has no frames or leaves no pages".to_owned()));
        }
        let generation = match &head.newest {
            None => (1, first),
            Some(m) => m.next_generation.map_or(m.generation, |next| (next, first)),
        };
        if let Rollover::To(next) = new.rollover
            && !(generation.0 + 1..=GENERATION_MAX).contains(&next)
        {
            return Err(AppendError::Invalid(format!("generation {next} after {}", generation.0)));
        }
        let time = log_time(head, new.now);
        Ok(Metadata {
            version: FORMAT_VERSION,
            kind: Kind::Segment,
            database: self.database().clone(),
            lsn: (first, last),
            generation,
            next_generation: next_generation(generation, last, new),
            push: Some(new.push.clone()),
            writer: new.writer.clone(),
            time,
            clock: (time != new.now).then_some(new.now),
            page_size: new.page_size,
            pages: new.pages,
            sum: new.sum,
            frames: None,
            transactions: new.transactions,
            healed,
            chunk: None,
            body: None,
        })
    }
}

/// The segment must start from the very state that the head describes.
fn check_start(head: &Head, new: &NewSegment) -> Result<(), AppendError> {
    let at = head.anchor.last;
    let refuse = |what: String| Err(AppendError::NotAtHead { head: at, what });
    let Some(newest) = &head.newest else {
        if at != Lsn::ZERO {
            return refuse("the segment at the head was not read".to_owned());
        }
        if new.pages.0 != 0 || new.sum.0 != DbChecksum::EMPTY {
            return refuse("the log is empty, and it does not start from nothing".to_owned());
        }
        return Ok(());
    };
    if newest.lsn.1 != at {
        return refuse("the head contradicts itself".to_owned());
    }
    if newest.page_size != new.page_size {
        let (old, new) = (newest.page_size, new.page_size);
        return refuse(format!("pages of {new} bytes, but the log has pages of {old}"));
    }
    if (newest.pages.1, newest.sum.1) != (new.pages.0, new.sum.0) {
        return refuse(format!(
            "it starts from {} pages with sum {}, but the log has {} pages with sum {}",
            new.pages.0, new.sum.0, newest.pages.1, newest.sum.1
        ));
    }
    Ok(())
}

/// The generation that the next segment begins, if this one, which ends at `last`, is the last of
/// its own.
fn next_generation(generation: (u32, Lsn), last: Lsn, new: &NewSegment) -> Option<u32> {
    let pages = new.pages.1;
    let frames = last.get().saturating_sub(generation.1.get()).saturating_add(1);
    let grown = frames > GENERATION_FRAMES_MIN && frames > 2 * u64::from(pages);
    let first_image = generation.1.get() == 1
        && new.pages.0 == 0
        && new.transactions.is_none()
        && pages >= FIRST_IMAGE_PAGES_MIN;
    let ends = match new.rollover {
        Rollover::To(next) => return Some(next),
        Rollover::Now => true,
        Rollover::WhenDue => grown || first_image,
        Rollover::Never => false,
    };
    let next = || generation.0.checked_add(GENERATION_STEP).filter(|next| *next <= GENERATION_MAX);
    if ends || frames >= GENERATION_FRAMES_MAX { next() } else { None }
}

/// The log's time never decreases, so that a search by time has one answer. One writer whose clock
/// is far ahead must not drag everybody else along: a predecessor that claims a time well after the
/// moment at which the store received it is not followed.
fn log_time(head: &Head, now: Micros) -> Micros {
    let Some(newest) = &head.newest else { return now };
    let previous = match head.modified {
        Some(received) if newest.time.0.saturating_sub(received.0) > CLOCK_TOLERANCE.0 => received,
        _ => newest.time,
    };
    Micros(now.0.max(previous.0.saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(pages: (u32, u32), rollover: Rollover, transactions: Option<u64>) -> NewSegment {
        NewSegment {
            push: "p".parse().unwrap(),
            writer: "w".parse().unwrap(),
            now: Micros(0),
            page_size: PageSize::DEFAULT,
            pages,
            sum: (DbChecksum::EMPTY, DbChecksum(1)),
            frames: 1,
            transactions,
            rollover,
            body: Spool::from_bytes(Vec::new()),
        }
    }

    #[test]
    fn a_generation_ends_when_its_frames_outgrow_the_limit_and_the_database() {
        let at = |rollover, frames: u64, pages| {
            let new = segment((pages, pages), rollover, None);
            next_generation((1, Lsn::new(11)), Lsn::new(10 + frames), &new)
        };
        let due = |frames, pages| at(Rollover::WhenDue, frames, pages);
        assert_eq!(due(65_536, 10), None);
        assert_eq!(due(65_537, 10), Some(3), "one number is skipped");
        assert_eq!(due(65_537, 32_769), None, "fewer than twice the pages");
        assert_eq!(due(1 << 31, u32::MAX), Some(3));
        assert_eq!(at(Rollover::Never, 65_537, 10), None);
        assert_eq!(at(Rollover::Never, 1 << 31, 10), Some(3), "there is no putting it off");
        assert_eq!(at(Rollover::Now, 1, 10), Some(3));
        assert_eq!(at(Rollover::To(9), 1, 10), Some(9));
        let last = next_generation(
            (GENERATION_MAX - 1, Lsn::new(1)),
            Lsn::new(1 << 32),
            &segment((1, 1), Rollover::Now, None),
        );
        assert_eq!(last, None, "numbers end");
    }

    #[test]
    fn a_replicas_first_push_of_many_pages_is_a_generation() {
        let first = |pages, rollover, transactions| {
            let new = segment((0, pages), rollover, transactions);
            next_generation((1, Lsn::new(1)), Lsn::new(u64::from(pages)), &new)
        };
        assert_eq!(first(255, Rollover::WhenDue, None), None);
        assert_eq!(first(256, Rollover::WhenDue, None), Some(3));
        assert_eq!(first(256, Rollover::WhenDue, Some(1)), None, "the client is in it already");
        assert_eq!(first(256, Rollover::Never, None), None);
    }
}

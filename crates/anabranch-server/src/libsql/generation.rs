//! Generations: which there are, and their frames at hand.
//!
//! The log says in each segment to which generation it belongs and where that begins, and in the
//! last one of a generation which comes next. So the current one follows from the head, and older
//! ones are found by walking back: the segment before a generation's first frame is the last of the
//! one before. What was found is remembered; it never changes.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anabranch_format::{Lsn, Metadata};
use anabranch_store::{Head, Log, StoreError};

use super::frame::FrameFile;

/// The first generation.
pub(crate) const FIRST: u32 = 1;

/// Where a generation lies in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) number: u32,
    /// Position of its frame 1.
    pub(crate) first: Lsn,
}

impl Span {
    /// The generation that a frame appended after `head` belongs to.
    pub(crate) fn current(head: &Head) -> Self {
        match &head.newest {
            None => Span { number: FIRST, first: Lsn::new(1) },
            Some(newest) => Self::after(newest),
        }
    }

    fn after(newest: &Metadata) -> Self {
        let (number, first) = newest.generation;
        match (newest.next_generation, newest.lsn.1.next()) {
            (Some(next), Some(first)) => Span { number: next, first },
            _ => Span { number, first },
        }
    }

    /// The position of its base: the state before frame 1.
    pub(crate) fn base(&self) -> Lsn {
        Lsn::new(self.first.get().saturating_sub(1))
    }

    /// The position of frame `number`.
    pub(crate) fn lsn(&self, number: u32) -> Lsn {
        Lsn::new(self.base().get().saturating_add(u64::from(number)))
    }

    /// The number of the frame at `lsn`. A generation ends before numbers would.
    pub(crate) fn frame(&self, lsn: Lsn) -> u32 {
        u32::try_from(lsn.get().saturating_sub(self.base().get())).unwrap_or(u32::MAX)
    }
}

/// A generation whose frames are at hand.
#[derive(Debug)]
pub(crate) struct Generation {
    pub(crate) span: Span,
    pub(crate) frames: FrameFile,
}

impl Generation {
    /// Without frames yet; those up to `from`, at or after the base, will stay away.
    pub(crate) fn new(span: Span, from: Lsn, scratch: &Path) -> std::io::Result<Self> {
        Ok(Generation { span, frames: FrameFile::new(scratch, span.frame(from))? })
    }

    /// The position up to which frames can be read.
    pub(crate) fn at(&self) -> Lsn {
        self.span.lsn(self.frames.last())
    }
}

/// Generations before the current one.
#[derive(Debug, Default)]
pub(crate) struct Past {
    /// By number, each with the position of its last frame. Without gaps from the newest down.
    found: BTreeMap<u32, (Span, Lsn)>,
}

impl Past {
    /// Walks back from `current` until `done`, the start of the log or the floor. Answers the
    /// generation at which it was done.
    async fn walk(
        &mut self,
        log: &Log,
        current: Span,
        floor: Lsn,
        done: impl Fn(Span) -> bool,
    ) -> Result<Option<(Span, Lsn)>, StoreError> {
        let mut next = current;
        while next.base() > Lsn::ZERO && next.base() >= floor {
            let last = next.base();
            let known = self.found.values().find(|(_, end)| *end == last).copied();
            let (span, end) = match known {
                Some(known) => known,
                None => {
                    let position = match log.segment_at(last).await {
                        Err(StoreError::BelowFloor { .. }) => return Ok(None),
                        found => found?,
                    };
                    let Some(metadata) = position.metadata else { return Ok(None) };
                    let (number, first) = metadata.generation;
                    let span = Span { number, first };
                    self.found.insert(number, (span, last));
                    (span, last)
                }
            };
            if span.number >= next.number || span.first >= next.first {
                return Ok(None);
            }
            if done(span) {
                return Ok(Some((span, end)));
            }
            next = span;
        }
        Ok(None)
    }

    /// Where the generation `number` lies, and its last frame, if the log still keeps any frame of it.
    pub(crate) async fn find(
        &mut self,
        log: &Log,
        current: Span,
        floor: Lsn,
        number: u32,
    ) -> Result<Option<(Span, Lsn)>, StoreError> {
        let found = self.walk(log, current, floor, |span| span.number <= number).await?;
        Ok(found.filter(|(span, end)| span.number == number && *end > floor))
    }

    /// The last position of the newest generation below `number`, if that is no generation itself, but
    /// lies between two of which the second is kept whole.
    pub(crate) async fn end_before(
        &mut self,
        log: &Log,
        current: Span,
        floor: Lsn,
        number: u32,
    ) -> Result<Option<Lsn>, StoreError> {
        if number >= current.number {
            return Ok(None);
        }
        let found = self.walk(log, current, floor, |span| span.number <= number).await?;
        Ok(found.filter(|(span, _)| span.number < number).map(|(_, end)| end))
    }

    /// The oldest generation whose base and frames are all kept.
    pub(crate) async fn oldest_kept(
        &mut self,
        log: &Log,
        current: Span,
        floor: Lsn,
    ) -> Result<Span, StoreError> {
        if current.base() <= floor {
            return Ok(current);
        }
        let kept = |span: Span| span.base() >= floor;
        let first_gone = self.walk(log, current, floor, |span| !kept(span)).await?;
        let gone = first_gone.map_or(0, |(span, _)| span.number);
        let older = self.found.values().map(|(span, _)| *span);
        let oldest =
            older.filter(|span| span.number > gone && kept(*span)).min_by_key(|s| s.number);
        Ok(oldest.unwrap_or(current))
    }
}

/// The floor, and since when it is known to stand where it does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FloorSeen {
    /// `None`: not looked at yet.
    floor: Option<Lsn>,
    since: Instant,
}

impl FloorSeen {
    /// For a server that started at `started`: where the floor stands when it is first looked at, it
    /// may have risen right before that.
    pub(crate) fn new(started: Instant) -> Self {
        FloorSeen { floor: None, since: started }
    }

    /// It stands at `floor` now.
    pub(crate) fn seen(&mut self, floor: Lsn, now: Instant) {
        match self.floor {
            None => self.floor = Some(floor),
            Some(before) if floor > before => *self = FloorSeen { floor: Some(floor), since: now },
            Some(_) => {}
        }
    }

    /// Whether a client may be in the middle of what went away when the floor rose: it asks for one
    /// part right after the other, at the latest within `idle`. If it does not, it begins the
    /// transaction anew.
    pub(crate) fn is_fresh(&self, now: Instant, idle: Duration) -> bool {
        self.floor.is_some_and(|floor| floor > Lsn::ZERO)
            && now.saturating_duration_since(self.since) < idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_counted_from_the_base() {
        let span = Span { number: 3, first: Lsn::new(301) };
        assert_eq!(span.base(), Lsn::new(300));
        assert_eq!(span.lsn(1), Lsn::new(301));
        assert_eq!((span.frame(Lsn::new(300)), span.frame(Lsn::new(310))), (0, 10));
    }

    #[test]
    fn a_client_may_be_in_mid_pull_only_right_after_the_floor_rose() {
        let start = Instant::now();
        let idle = Duration::from_secs(60);
        let mut seen = FloorSeen::new(start);
        seen.seen(Lsn::ZERO, start);
        assert!(!seen.is_fresh(start, idle), "nothing ever went away");
        let later = start + Duration::from_secs(1000);
        seen.seen(Lsn::new(5), later);
        assert!(seen.is_fresh(later + Duration::from_secs(59), idle));
        seen.seen(Lsn::new(5), later + Duration::from_secs(60));
        assert!(!seen.is_fresh(later + Duration::from_secs(61), idle));
        let mut opened = FloorSeen::new(start);
        opened.seen(Lsn::new(5), later);
        assert!(
            !opened.is_fresh(later, idle),
            "a database that was opened again, not a floor that rose"
        );
    }
}
